"""Networks and weights as people bring them, through the command: heads, outputs, arguments, checkpoints, resolutions."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tutelage.cli.main import main
from tutelage.runs.store import Store

NETWORKS = """
import torch
from torch import nn

class Mine(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.fc = nn.Linear(16, num_classes)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU())

    def forward(self, x):
        return self.fc(self.body(x))

class Named(Mine):
    def forward(self, x):
        features = self.body(x)
        return {"features": features, "logits": self.fc(features)}

class Keyword(Mine):
    def forward(self, *, image, temperature=1.0):
        return (super().forward(image) / temperature, {"temperature": temperature})

class Fixed(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 7))

class Lazy(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.LazyLinear(16), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(10))

class HeadOf(Mine):
    def __init__(self, head, num_classes):
        super().__init__(num_classes)
        assert head == "linear"
"""
WORDS = ["train", "logger=none", "hardware.threads=1", "fit.max_steps=2", "fit.validate_every_steps=2", "data=digits",
         "data.batch_size=32"]  # fmt: skip
OWN = ["model=own", "model._target_=nets.Mine"]
SMALL = ["model=fcn", "model.depth=1", "model.width=8"]


@pytest.fixture
def do(tmp_path, monkeypatch, capsys):
    (tmp_path / "nets.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "nets", raising=False)

    def command(*words, code=0):
        assert main([*WORDS, f"runs_dir={tmp_path}/runs", *words]) == code, capsys.readouterr()
        return " ".join(capsys.readouterr().err.split())

    return command


def teacher(name, *words):
    return [*SMALL, "method=distillation", "model@teacher=own", f"teacher._target_=nets.{name}", *words]


def run_of(name):
    (run,) = Store("runs").runs(name)
    return run


def weights_of(name):
    return load_file(run_of(name).path / "network.safetensors")


def test_a_head_that_is_declared_first_starts_afresh_and_the_body_stays(do):
    do(*OWN, "name=first")
    do(*OWN, "name=still", "model.weights=first", "optimizer.lr=1e-30", "seed=1")
    said = do(
        *OWN, "name=second", "model.weights=first", "model.new_head=true", "optimizer.lr=1e-30", "seed=1"
    )  # by its short name
    assert "the layer 'fc' starts afresh" in said
    first, still, second = map(weights_of, ("first", "still", "second"))
    assert all(torch.equal(first[name], still[name]) for name in first)
    assert {name for name in first if not torch.equal(first[name], second[name])} == {"fc.weight", "fc.bias"}
    assert json.loads((run_of("second").path / "setup.json").read_text())["heads"] == {"model": "fc"}


def test_the_head_is_what_is_named(do):
    do(*OWN, "name=first")
    do(
        *OWN,
        "name=second",
        "model.weights=first",
        "model.new_head=true",
        "model.head=body.1",
        "optimizer.lr=1e-30",
    )
    first, second = weights_of("first"), weights_of("second")
    assert {name for name in first if not torch.equal(first[name], second[name])} == {"body.1.weight", "body.1.bias"}  # fmt: skip
    said = do(*OWN, "model.head=fcc", code=2)
    assert "model.head=fcc: Mine has no such layer with weights; did you mean 'fc'? Known: body.1, fc" in said


def test_a_teacher_of_other_classes_is_met_at_what_the_final_layer_is_given(do):
    do(
        *OWN,
        "method=distillation",
        "method.objectives.soft.label_space=other",
        "model@teacher=own",
        "teacher._target_=nets.Fixed",
    )


def test_weights_of_other_classes_are_refused_with_what_to_write(do):
    torch.save({"model_state_dict": {k: torch.randn(s) for k, s in SHAPES.items()}}, "seven.pth.tar")
    said = do(*OWN, "model.weights=seven.pth.tar", code=2)
    assert "Only the final layer 'fc' differs: model.new_head=true starts it afresh" in said
    do(*OWN, "model.weights=seven.pth.tar", "model.new_head=true")
    said = do(*teacher("Mine", "teacher.weights=seven.pth.tar"), code=2)
    assert "teacher: the weights of seven.pth.tar are not of this Mine" in said
    assert said.endswith("a frozen network keeps the classes that it knows: teacher.num_classes=7")
    words = teacher("Mine", "teacher.weights=seven.pth.tar", said.split()[-1])
    said = do(*words, code=2)
    assert "they know different classes" in said
    do(*words, said.split()[-1])  # method.objectives.soft.label_space=other
    said = do(*OWN, "model.weights=seven.pth.tar", "model.head=body.1", code=2)
    assert "Only the layer 'fc' differs; the final layer is 'body.1'" in said
    assert "model.head=fc model.new_head=true starts it afresh" in said


SHAPES = {"fc.weight": (7, 16), "fc.bias": (7,), "body.1.weight": (16, 64), "body.1.bias": (16,)}


@pytest.mark.parametrize("name", ["Named", "Keyword"])
@pytest.mark.parametrize(
    "words",
    [
        ["method=distillation", "model@teacher=own", "teacher._target_=nets.{}"],
        ["method=feature_distillation", "model@teacher=own", "teacher._target_=nets.{}"],
        ["method=fitnets", "method.hint_steps=1", "model@teacher=own", "teacher._target_=nets.{}"],
        ["method=guidance", "model@guide=own", "guide._target_=nets.{}"],
    ],
)
def test_outputs_and_arguments_of_any_kind_train_and_teach(do, name, words):
    do("model=own", f"model._target_=nets.{name}", "name=it", *(word.format(name) for word in words))
    assert main(["evaluate", "it", "runs_dir=runs", "split=validation"]) == 0


def test_a_teacher_of_broken_weights_is_named(do):
    torch.save({name: torch.full(shape, float("nan")) for name, shape in SHAPES.items()}, "nan.bin")
    said = do(*teacher("Mine", "teacher.weights=nan.bin", "+teacher.num_classes=7"), code=2)
    assert "teacher.weights=nan.bin: 4 of 4 tensors hold values that are no finite numbers" in said


def test_two_states_in_one_file_are_told_apart_and_one_can_be_chosen(do):
    plain, average = (
        {name: torch.full(shape, value) for name, shape in SHAPES.items()} for value in (1.0, 2.0)
    )
    torch.save({"state_dict": plain, "state_dict_ema": average}, "two.pth")
    words = [
        *OWN,
        "+model.num_classes=10",
        "model.new_head=true",
        "model.weights=two.pth",
        "optimizer.lr=1e-30",
    ]
    said = do(*words, "name=ema")
    assert "model.weights=two.pth: taken are those under 'state_dict_ema', not state_dict" in said
    do(*words, "name=plain", "model.entry=state_dict")
    assert weights_of("ema")["body.1.bias"][0] == 2 and weights_of("plain")["body.1.bias"][0] == 1
    said = do(*words, "model.entry=stat_dict", code=2)
    assert "model.entry=stat_dict: two.pth holds no such state or network; did you mean 'state_dict'" in said


def test_a_frozen_network_sees_images_at_its_own_size(do):
    big = ["data.augment=null", *SMALL, "method=guidance", "model@guide=residual_convnet", "guide.width=4"]
    do(*big, "name=own", "guide.input_size=16")
    pairs = json.loads((run_of("own").path / "setup.json").read_text())["method"]["objectives"]["alignment"][
        "pairs"
    ]
    assert pairs[0]["guide_shape"] == [4, 16, 16]
    assert run_of("own").config["guide"]["input_size"] == 16
    assert run_of("own").identity != _identity_without_size(do, big)
    said = do(*SMALL, "model.input_size=16", code=2)
    assert "FCN takes no 'input_size'" in said
    said = do(*big, "guide.input_size=[16]", code=2)
    assert "guide: input_size must be one number of pixels, or height and width, got [16]" in said


def test_a_sweep_over_such_a_setting_is_labelled_as_it_was_given(do, tmp_path, capsys):
    words = [*WORDS[1:], *SMALL, "method=guidance", "model@guide=convnet", "guide.width=4", "name=sizes"]
    assert main(["train", "-m", *words, f"runs_dir={tmp_path}/runs", "guide.input_size=8,16"]) == 0
    said = capsys.readouterr().out
    assert "guide.input_size=8 " in said and "guide.input_size=16" in said and "+guide" not in said


def _identity_without_size(do, words):
    do(*words, "name=plain")
    return run_of("plain").identity


def test_weights_of_images_of_another_size_say_so(do, tmp_path):
    for number in range(24):
        folder = tmp_path / "images" / ("dark", "light")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (16, 16), 40 + 150 * (number % 2) + number).save(folder / f"{number}.png")
    data = ["data=image_folder", f"data.root={tmp_path}/images", "data.batch_size=8", "data.augment=null"]
    do(*data, *SMALL, "data.image_size=8", "name=small")
    words = [
        *data,
        *SMALL,
        "data.image_size=16",
        "method=distillation",
        "model@teacher=fcn",
        "teacher.depth=1",
    ]
    words += ["teacher.width=8", "teacher.weights=small"]
    said = do(*words, code=2)
    assert (
        "It was trained on images of 8 x 8, these are 16 x 16: teacher.input_size=8 has it see them at its own size"
        in said
    )
    do(*words, "teacher.input_size=8")


def test_a_class_s_own_argument_of_a_reserved_name_is_its_own(do):
    do("model=own", "model._target_=nets.HeadOf", "model.head=linear")


def test_lazy_layers_take_their_widths_from_the_data(do):
    do("model=own", "model._target_=nets.Lazy", "name=it", "seed=3")
    do("model=own", "model._target_=nets.Lazy", "model.weights=it", "model.new_head=true")
    setup = json.loads((run_of("it").path / "setup.json").read_text())
    assert setup["heads"] == {"model": "4"}


def test_a_rule_has_no_size_of_its_own(do):
    words = [*SMALL, "method=guidance", "model@guide=rule/oriented_gradients", "guide.input_size=16"]
    assert "guide.input_size: " in do(*words, code=2)
