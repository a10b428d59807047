"""Every family of networks leaves in each format and answers as it did, for a batch of any size."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

import hugging_face_models
from tutelage.data.base import DataModule
from tutelage.data.streams import ArrayStore
from tutelage.engine import export as engine
from tutelage.engine.exported import load_exported
from tutelage.engine.load import HUGGING_FACE, LoadedRun
from tutelage.engine.networks import build_network, sizes_of
from tutelage.errors import UserError
from tutelage.models.frozen import FrozenNetwork
from tutelage.models.mobile import MOBILE
from tutelage.tasks import Batch, Classification

M = "tutelage.models"
RECURRENT = {"_target_": f"{M}.recurrent.Recurrent", "depth": 1, "width": 8, "per_position": False}
TRANSFORMER = {"_target_": f"{M}.transformer.Transformer", "depth": 1, "width": 8, "heads": 2}
IMAGE, SERIES, TOKENS = (3, 32, 32), (6, 2), (6,)
FAMILIES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "fcn": ({"_target_": f"{M}.fcn.FCN", "depth": 2, "width": 8}, IMAGE),
    "convnet": ({"_target_": f"{M}.convnet.ConvNet", "width": 4, "stages": 2, "blocks": 1, "residual": False}, IMAGE),
    "residual_convnet": ({"_target_": f"{M}.convnet.ConvNet", "width": 4, "stages": 2, "blocks": 1, "residual": True}, IMAGE),
    "cifar": ({"_target_": f"{M}.cifar.cifar", "name": "resnet8"}, IMAGE),
    **{name: ({"_target_": f"{M}.cifar.cifar", "name": name}, IMAGE) for name in ("wrn_16_1", "vgg8", *MOBILE)},
    "simkd": ({"_target_": f"{M}.reused.ReusedClassifier", "width": 64, "student": {"_target_": f"{M}.cifar.cifar", "name": "resnet8"}},
              IMAGE),
    "resnet": ({"_target_": f"{M}.resnet.resnet", "name": "resnet18", "small_images": True, "residual": True}, IMAGE),
    "deep_convnet": ({"_target_": f"{M}.resnet.resnet", "name": "resnet18", "small_images": True, "residual": False}, IMAGE),
    "lstm": (RECURRENT | {"cell": "lstm"}, SERIES),
    "gru": (RECURRENT | {"cell": "gru"}, TOKENS),
    "rnn": (RECURRENT, TOKENS),
    "encoder": (TRANSFORMER | {"per_position": False}, TOKENS),
    "decoder": (TRANSFORMER | {"causal": True, "pooling": "last"}, SERIES),
    "timm_vit": ({"_target_": f"{M}.pretrained.timm_model", "name": "test_vit", "options": {"img_size": 32}}, IMAGE),
    "timm_resnet": ({"_target_": f"{M}.pretrained.timm_model", "name": "test_resnet"}, IMAGE),
    "torchvision": ({"_target_": f"{M}.pretrained.torchvision_model", "name": "squeezenet1_1"}, IMAGE),
}  # fmt: skip
QUICK = ("fcn", "encoder", "timm_vit")
TIMM = [name for name in timm.list_models("test_*") if name not in ("test_vit", "test_resnet")]


@dataclasses.dataclass(frozen=True)
class MaskedStore(ArrayStore):
    def batch(self, index: torch.Tensor, noise: torch.Tensor | None) -> Batch:
        found = super().batch(index, noise)
        lengths = 1 + index % found.inputs.shape[1]
        return found._replace(mask=torch.arange(found.inputs.shape[1]) < lengths[:, None])


class Fixed(DataModule):
    """Inputs that were normalised by mean 0.5 and deviation 0.25, or tokens with a mask."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(batch_size=4)
        self.input_shape = shape

    def load(self) -> None:
        generator = torch.Generator().manual_seed(0)
        store: type[ArrayStore] = ArrayStore
        if len(self.input_shape) == 1:
            inputs, self.vocab_size, store = torch.randint(5, (14, 6), generator=generator), 5, MaskedStore
        else:
            inputs = torch.randn(14, *self.input_shape, generator=generator)
            channels = self.input_shape[0] if len(self.input_shape) == 3 else self.input_shape[-1]
            self.normalization = (0.5,) * channels, (0.25,) * channels
        self.task = Classification(4)
        self.store = store(inputs, torch.arange(14) % 4)
        self.splits = {"train": np.arange(4), "validation": np.arange(4, 13), "test": np.arange(13, 14)}


def loaded(node: dict[str, Any], shape: tuple[int, ...]) -> LoadedRun:
    data = Fixed(shape)
    data.setup()
    config = {"model": node, "seed": 0, "hardware": {"accelerator": "cpu"}}
    network = build_network("model", config, sizes_of(data))
    return LoadedRun(network.eval(), config, {}, data)


def hugging_face_node(folder: Path) -> dict[str, Any]:
    return {"_target_": HUGGING_FACE, "name": str(folder), "revision": None, "options": {}, "lora": None}


def check(family: str, kind: str, folder) -> None:
    check_run(loaded(*FAMILIES[family]), kind, folder)


def check_run(run: LoadedRun, kind: str, folder) -> None:
    facts = engine.export(run, folder, kind, key="some/run")
    assert facts["compared"] == 9 and facts["largest_difference"] < 1e-3
    found = load_exported(folder, code=["torch_export"])
    data = run.data
    batch = next(iter(data.batches("validation", device="cpu")))
    raw = batch.inputs if data.normalization is None else batch.inputs * 0.25 + 0.5
    for size in (1, 2, 7):
        mask = None if batch.mask is None else batch.mask[:size]
        with torch.no_grad():
            own = FrozenNetwork(run.network)(batch.inputs[:size], mask)
        theirs = found(raw[:size].numpy(), mask)
        assert theirs.shape == (size, 4)
        torch.testing.assert_close(theirs, own, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("family", QUICK)
def test_a_family_runs_in_onnxruntime_with_batches_of_any_size(family, tmp_path):
    check(family, "onnx", tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(QUICK)))
def test_every_family_runs_in_onnxruntime(family, tmp_path):
    check(family, "onnx", tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_every_test_network_of_timm_runs_in_onnxruntime(name, tmp_path):
    node = {"_target_": f"{M}.pretrained.timm_model", "name": name}
    check_run(loaded(node, (3, 160, 160)), "onnx", tmp_path / "out")  # the side they are made for


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit", "bert"])
def test_a_hugging_face_model_runs_in_onnxruntime(name, tmp_path):
    make = {
        "vit": lambda folder: hugging_face_models.vit(folder, labels=4, side=32, channels=3),
        "bert": lambda folder: hugging_face_models.bert(folder, vocab_size=5, labels=4),
    }[name]
    made = make(tmp_path / "model")
    node = hugging_face_node(made)
    check_run(loaded(node, IMAGE if name == "vit" else TOKENS), "onnx", tmp_path / "out")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_leaves_as_its_weights(family, tmp_path):
    check(family, "safetensors", tmp_path / "out")


@pytest.mark.parametrize("weights", ["scratch", "pretrained"])
@pytest.mark.parametrize("name", ["vit", "vit of another size", "bert"])
def test_a_hugging_face_model_leaves_without_the_folder_that_it_came_from(name, weights, tmp_path):
    made, away = tmp_path / "model", tmp_path / "away"
    if name == "bert":
        hugging_face_models.bert(made, vocab_size=5, labels=4)
    else:
        hugging_face_models.vit(made, labels=4, side=16 if "another" in name else 32, channels=3)
    node = hugging_face_node(made) | {"weights": weights}
    run = loaded(node, TOKENS if name == "bert" else IMAGE)
    engine.export(run, tmp_path / "out", "safetensors", key="some/run")
    made.rename(away)
    found, batch = load_exported(tmp_path / "out"), next(iter(run.data.batches("validation", device="cpu")))
    raw = batch.inputs if run.data.normalization is None else batch.inputs * 0.25 + 0.5
    with torch.no_grad():
        own = FrozenNetwork(run.network)(batch.inputs, batch.mask)
    torch.testing.assert_close(found(raw, batch.mask), own, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", ["torch_export", "openvino"])
def test_the_other_formats_answer_the_same(kind, tmp_path):
    check("fcn", kind, tmp_path / "out")


def test_the_batch_is_the_one_free_side_of_an_onnx_file_and_is_named(tmp_path):
    import onnx

    engine.export(loaded(*FAMILIES["fcn"]), tmp_path / "out", "onnx", key="k")
    graph = onnx.load(tmp_path / "out" / "network.onnx").graph
    (side, *rest) = graph.input[0].type.tensor_type.shape.dim
    assert (
        graph.input[0].name == "inputs"
        and side.dim_param == "batch"
        and [one.dim_value for one in rest] == [3, 32, 32]
    )


class Odd(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(3 * 32 * 32, num_classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(torch.special.bessel_j0(inputs.flatten(1)))


class Branching(Odd):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(inputs.flatten(1)) if float(inputs.sum()) > 0 else self.head(-inputs.flatten(1))


def odd(network: nn.Module) -> LoadedRun:
    return dataclasses.replace(loaded(*FAMILIES["fcn"]), network=network.eval())


def test_an_operation_that_a_format_has_not_is_named_and_nothing_is_left(tmp_path):
    with pytest.raises(
        UserError, match=r"cannot be exported as onnx: the operation \w+\.bessel_j0"
    ) as caught:
        engine.export(odd(Odd(4)), tmp_path / "out", "onnx", key="k")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_a_network_that_branches_on_values_is_one_message(tmp_path):
    with pytest.raises(UserError, match="cannot be exported as torch_export") as caught:
        engine.export(odd(Branching(4)), tmp_path / "out", "torch_export", key="k")
    assert "\n" not in str(caught.value)


def test_outputs_that_differ_are_refused(tmp_path, monkeypatch):
    run = loaded(*FAMILIES["fcn"])
    true = engine.load_exported
    monkeypatch.setattr(engine, "load_exported", lambda *a, **k: lambda *x: true(*a, **k)(*x) + 0.1)
    with pytest.raises(UserError, match=r"answers otherwise than the network, by up to 0\.1"):
        engine.export(run, tmp_path / "out", "safetensors", key="k")
    assert not (tmp_path / "out").exists()


def test_a_folder_from_a_stranger_executes_nothing(tmp_path):
    engine.export(loaded(*FAMILIES["fcn"]), tmp_path / "out", "safetensors", key="k")
    file = tmp_path / "out" / "export.json"
    facts = json.loads(file.read_text())
    with pytest.raises(UserError, match="takes a batch"):
        load_exported(tmp_path / "out")(torch.zeros(2, 3, 8, 8))
    for target, said in (("os.system", "refused"), ("evil.Network", "code=evil")):
        facts["config"]["model"]["_target_"] = target
        file.write_text(json.dumps(facts))
        with pytest.raises(UserError, match=said):
            load_exported(tmp_path / "out")
    for broken in ({"sizes": []}, {"sizes": {}}, {"config": {}}, {"format": "exe"}):
        file.write_text(json.dumps(facts | broken))
        with pytest.raises(UserError):
            load_exported(tmp_path / "out")
    file.write_text("{")
    with pytest.raises(UserError):
        load_exported(tmp_path / "out")
    file.write_text(json.dumps(facts | {"format": "torch_export"}))
    (tmp_path / "out" / "network.pt2").write_bytes(b"x")
    with pytest.raises(UserError, match="code=torch_export"):
        load_exported(tmp_path / "out")
    with pytest.raises(UserError, match="cannot be read"):
        load_exported(tmp_path / "out", code=["torch_export"])
    with pytest.raises(UserError, match="no folder of `tutelage export`"):
        load_exported(tmp_path)


@pytest.mark.parametrize(("kind", "missing"), [("onnx", "onnxscript"), ("openvino", "openvino")])
def test_a_missing_library_names_its_extra(kind, missing, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=rf"pip install 'tutelage\[{kind}\]'"):
        engine.export(loaded(*FAMILIES["fcn"]), tmp_path / "out", kind, key="k")
