"""Pruning against PyTorch's own and by hand, and as runs: fine-tuned, resumed, loaded, exported."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

import tutelage
from tutelage.config.planner import plan_of
from tutelage.engine.export import export
from tutelage.engine.load import evaluate_network
from tutelage.errors import UserError
from tutelage.jobs.launch import run_plan
from tutelage.models.cifar import cifar
from tutelage.models.pruning import keep_zeros, prunable, prune, take_shapes
from tutelage.models.transformer import Transformer
from tutelage.runs.store import Store


def convnet():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)
    )


IMAGES = torch.randn(2, 1, 6, 6)


def test_the_smallest_weights_go_as_pytorch_has_it():
    ours, theirs = convnet(), convnet()
    prune(ours, 0.7, inputs=IMAGES)
    named = [(theirs[0], "weight"), (theirs[4], "weight")]
    torch_prune.global_unstructured(named, torch_prune.L1Unstructured, amount=0.7)
    for module, name in named:
        torch_prune.remove(module, name)
    assert all(torch.equal(ours.state_dict()[n], v) for n, v in theirs.state_dict().items())
    assert set(prunable(ours)) == {"0.weight", "4.weight"}
    drawn = convnet()
    prune(drawn, 0.7, "random", inputs=IMAGES, seed=3)
    zeros = sum(int((p == 0).sum()) for p in prunable(drawn).values())
    assert zeros == round(0.7 * (72 + 5 * 288)) and not torch.equal(drawn[0].weight, ours[0].weight)


@pytest.mark.parametrize("make", [torch.optim.AdamW, lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9)])
def test_zeros_stay_and_nothing_of_them_reaches_an_optimiser(make):
    network = convnet()
    prune(network, 0.5, inputs=IMAGES)
    masks = {name: p == 0 for name, p in prunable(network).items()}
    optimizer = make(network.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        network(IMAGES).square().sum().backward()
        assert all(float(p.grad[masks[n]].abs().max()) == 0 for n, p in prunable(network).items())
        optimizer.step()
    assert all(float(p[masks[n]].abs().max()) == 0 for n, p in prunable(network).items())
    with torch.no_grad():
        network[0].weight.add_(1)  # an optimiser that moves what has no gradient
    keep_zeros(network)
    assert bool((network[0].weight[masks["0.weight"]] == 0).all()) and bool((network[0].weight != 0).any())


def test_the_channels_of_least_norm_are_gone_and_the_rest_answers_alike():
    network = convnet().eval()
    with torch.no_grad():
        for channel in (1, 6):  # so small that they say nothing
            network[0].weight[channel] = network[0].bias[channel] = 0
            network[4].weight.view(5, 8, 36)[:, channel] = 0
        before = network(IMAGES)
    prune(network, 0.25, "channels", inputs=IMAGES, head=["4"])
    assert network[0].weight.shape == (6, 1, 3, 3) and network[4].weight.shape == (5, 216)
    torch.testing.assert_close(network(IMAGES), before)
    again = convnet().eval()
    take_shapes(again, {n: v.shape for n, v in network.state_dict().items()})
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(IMAGES), network(IMAGES)) and again[4].in_features == 216


def test_residual_networks_shrink_and_their_stored_shapes_are_enough():
    torch.manual_seed(0)
    images = torch.randn(2, 3, 32, 32)
    make = lambda: cifar((3, 32, 32), 4, "resnet8")  # noqa: E731
    network = make().eval()
    count = sum(p.numel() for p in network.parameters())
    head = next(name for name, m in network.named_modules() if isinstance(m, nn.Linear))
    prune(network, 0.5, "channels", inputs=images, head=[head])
    assert sum(p.numel() for p in network.parameters()) < 0.35 * count
    again = make().eval()
    take_shapes(again, {n: v.shape for n, v in network.state_dict().items()})
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(images), network(images))


@pytest.mark.parametrize(
    ("share", "by", "said"),
    [
        (1.0, "weights", "below 1, got 1.0"),
        ("x", "weights", "got 'x'"),
        (0.5, "channel", "did you mean 'channels'"),
    ],
)
def test_mistakes_are_one_message(share, by, said):
    with pytest.raises(UserError, match=said):
        prune(convnet(), share, by, inputs=IMAGES)
    encoder = Transformer((4, 2), 3, depth=1, width=8, heads=2)
    with pytest.raises(UserError, match=r"this one has Attention.*pruned_by=weights"):
        prune(encoder, 0.5, "channels", inputs=torch.randn(2, 4, 2))


def test_without_the_library_one_message_names_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(UserError, match=r"tutelage\[compress\]"):
        prune(convnet(), 0.5, "channels", inputs=IMAGES)


@pytest.mark.parametrize("by", ["weights", "channels"])
def test_a_pruned_run_is_loaded_teaches_and_leaves(tmp_path, by):
    small = ["logger=none", "hardware.threads=1", "fit.validate_every_steps=4", f"runs_dir={tmp_path}"]
    net = ["model=convnet", "model.blocks=1"]
    run_plan(plan_of([*small, *net, "name=whole", "fit.max_steps=4"]))
    (whole,) = Store(tmp_path).runs("whole")
    words = [*net, f"model.weights={whole.path}", "model.pruned=0.6", f"model.pruned_by={by}"]
    teach = [
        "method=distillation",
        "model@teacher=convnet",
        "teacher.blocks=1",
        f"teacher.weights={whole.path}",
    ]
    run_plan(plan_of([*small, *words, *teach, "name=pruned", "fit.max_steps=8"]))
    (run,) = Store(tmp_path).runs("pruned")
    held = run.result["networks"]
    loaded = tutelage.load_run(run.path)
    if by == "weights":
        assert held["model"]["parameters"] == held["teacher"]["parameters"]
        assert held["model"]["nonzero"] < 0.45 * held["teacher"]["nonzero"]
    else:
        assert held["model"]["parameters"] < 0.5 * held["teacher"]["parameters"]
    assert sum(int(p.count_nonzero()) for p in loaded.network.parameters()) == held["model"]["nonzero"]
    batches = loaded.data.batches("validation", device=torch.device("cpu"))
    found = evaluate_network(loaded.network, loaded.data.task, batches, "cpu")
    assert found["accuracy"] == run.result["metrics"]["validation"]["accuracy"]
    # it is a teacher, and starts another run, at its own size
    more = ["model=convnet", "model.blocks=1", f"model.weights={run.path}", "name=again", "fit.max_steps=4"]
    again = [
        "method=distillation",
        "model@teacher=convnet",
        "teacher.blocks=1",
        f"teacher.weights={run.path}",
    ]
    run_plan(plan_of([*small, *more, *again]))
    (last,) = Store(tmp_path).runs("again")
    assert last.result["networks"]["teacher"] == held["model"]
    assert last.result["networks"]["model"]["parameters"] == held["model"]["parameters"]
    facts = export(loaded, tmp_path / "out", "safetensors", key=run.key)
    assert facts["largest_difference"] < 1e-6
