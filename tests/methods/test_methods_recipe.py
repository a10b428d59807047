"""Optimisers by name, schedules and parameter groups."""

import math

import pytest
import torch
from torch import nn

from small_runs import METHODS, SMALL
from tutelage.config.compose import compose
from tutelage.engine.build import build
from tutelage.errors import UserError
from tutelage.methods.optim import OptimizerSpec
from tutelage.methods.parameter_groups import depths, freeze, part_of
from tutelage.methods.rates import Plateau, learning_rate_factor


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.GroupNorm(1, 4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 3)
    )


@pytest.mark.parametrize(
    "name", ["sgd", "nadam", "radam", "rmsprop", "adagrad", "adafactor", "muon", "lamb", "lion", "adopt"]
)
def test_an_optimiser_by_name_moves_every_parameter_of_any_dimension(name):
    model = network()
    optimizer, _ = OptimizerSpec(name=name, lr=1e-2).build(model.named_parameters(), 10)
    before = [p.detach().clone() for p in model.parameters()]
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(5, 1, 8, 8)).square().mean().backward()
        optimizer.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_an_unknown_optimiser_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'lamb'"):
        OptimizerSpec(name="lambb", lr=0.1)


def test_an_optimiser_that_is_no_file_is_told_how_it_is_named():
    with pytest.raises(UserError, match=r"optimizer=any optimizer\.name=lamb"):
        compose(["optimizer=lamb"])


def test_schedules_at_their_ends():
    def rate(step, **options):
        return learning_rate_factor(step, max_steps=100, **options)

    assert [rate(s, schedule="stable_decay", decay_share=0.2) for s in (0, 79, 99)] == [1.0, 1.0, 0.0]
    assert rate(89, schedule="stable_decay", decay_share=0.2) == pytest.approx(0.5)
    assert rate(99, schedule="polynomial", power=2.0, final_factor=0.1) == pytest.approx(0.1)
    assert rate(33, schedule="polynomial", power=2.0) == pytest.approx((2 / 3) ** 2)
    assert rate(33, schedule="polynomial") == rate(33, schedule="linear")
    assert rate(100, schedule="short_cosine") == pytest.approx(0.19509, abs=1e-5)
    assert rate(4, schedule="stable_decay", warmup_steps=10) == 0.5


def test_a_plateau_lowers_the_rate_and_its_scheduler_keeps_what_it_remembers():
    spec = OptimizerSpec(name="sgd", lr=1.0, schedule="plateau", gamma=0.5, patience=1)
    parameters = [nn.Parameter(torch.zeros(1))]
    _, scheduler = spec.build(parameters, 10)
    (factor,) = scheduler.lr_lambdas
    for value, expected in (
        (0.5, 1),
        (0.6, 1),
        (0.6, 1),
        (float("nan"), 0.5),
        (0.7, 0.5),
        (0.1, 0.5),
        (0.2, 0.25),
    ):
        factor.see(value)
        assert factor(3) == expected
    _, fresh = spec.build(parameters, 10)
    fresh.load_state_dict(scheduler.state_dict())
    assert vars(fresh.lr_lambdas[0]) == vars(factor)
    low = Plateau(gamma=0.1, patience=0, warmup_steps=0, maximise=False)
    low.see(1.0), low.see(0.5)
    assert low.factor == 1.0


@pytest.mark.parametrize("method", ["supervised", "diffusion", "distillation"])
def test_the_rates_of_a_run_fall_where_its_own_validations_get_no_better(command, method):
    more = ["method.select_by=agreement"] if method == "distillation" else []
    run = command(
        *[
            f"method={method}",
            *METHODS[method],
            *more,
            "optimizer.lr=1e-12",
            "optimizer.schedule=plateau",
            "optimizer.patience=0",
        ],
        *[
            "optimizer.gamma=0.5",
            "optimizer.warmup_steps=0",
            "fit.validate_every_steps=2",
            "fit.max_steps=14",
        ],
    )
    selection = run.result["selection"]
    monitor, sign = selection["monitor"], 1 if selection["mode"] == "max" else -1
    assert (
        monitor
        == {"supervised": "accuracy", "diffusion": "frechet_distance", "distillation": "agreement"}[method]
    )
    rows = [row for row in run.metrics.rows if f"validation/{monitor}" in row]
    best, factor = -math.inf, 1.0
    for row in rows:
        assert row["lr"] == pytest.approx(factor * 1e-12)  # of the update before this validation
        value = sign * row[f"validation/{monitor}"]
        best, factor = (value, factor) if value > best else (best, factor / 2)
    assert len(rows) == 7 and factor < 0.5


def test_norms_and_biases_are_spared_and_rates_follow_names_and_depth():
    model = network()
    spec = OptimizerSpec(
        name="adamw",
        lr=1.0,
        weight_decay=0.1,
        decay_norms_and_biases=False,
        lr_factors=[["*", 0.5], ["4.*", 2.0]],
    )
    optimizer, _ = spec.build(model.named_parameters(), 10, network=model)
    of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        group = of[id(parameter)]
        assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0)
        assert group["lr"] == (2.0 if name.startswith("4.") else 0.5)
    optimizer, _ = OptimizerSpec(name="sgd", lr=1.0, layer_decay=0.5).build(
        model.named_parameters(), 10, network=model
    )
    of = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert [of[id(p)] for p in model.parameters()] == [0.25, 0.25, 0.5, 0.5, 1.0, 1.0]


def test_parts_are_blocks_by_their_numbers_and_timms_own_where_it_knows_them():
    assert [part_of(n) for n in ("blocks.3.attn.qkv.weight", "layer1.0.conv1.weight", "head.bias", "w")] == [
        "blocks.3", "layer1", "head", "w",
    ]  # fmt: skip
    import timm

    found = depths(timm.create_model("vit_tiny_patch16_224", img_size=32, depth=3, num_classes=2))
    assert found["head.weight"] == 0
    assert found["blocks.0.attn.qkv.weight"] == found["blocks.1.attn.qkv.weight"] + 1
    assert found["patch_embed.proj.weight"] == max(found.values())


def test_frozen_parts_rest_and_a_wrong_pattern_lists_the_names(tmp_path):
    model = network()
    resting = freeze(model, ["0.*", "1.*"])
    assert model[1] in resting and model[2] not in resting
    assert [p.requires_grad for p in model.parameters()] == [False] * 4 + [True] * 2
    with pytest.raises(UserError, match=r"matches 'stem\.\*'; the network has 0\.\*, 1\.\*, 4\.\*"):
        freeze(model, ["stem.*"])
    with pytest.raises(UserError, match="leaves no parameter"):
        freeze(model, ["*"])
    words = [
        *SMALL,
        f"runs_dir={tmp_path}",
        "model=residual_convnet",
        "model.width=4",
        "method=guidance",
        *METHODS["guidance"][:2],
    ]
    words = [w for w in words if not w.startswith("model.depth")]
    method = build(compose([*words, "optimizer.frozen=[stem.*]"])).method.train()
    assert not method.network.stem.norm.training and method.network.training
    listed = method.configure_optimizers().param_groups[0]["params"]
    assert {id(p) for p in listed} == {id(p) for p in method.parameters() if p.requires_grad}
    with pytest.raises(UserError, match=r"optimizer\.lr_factors: no parameter's name matches 'haed"):
        build(compose([*words, "optimizer.lr_factors=[['*',0.5],[haed.*,0.1]]"]))


def test_no_driver_is_asked_at_each_step_on_a_cpu(monkeypatch):
    asked = []
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda *_, **__: asked.append(1))
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.ones(2)
    OptimizerSpec(name="adam", lr=0.1, fused=True).build([parameter], 5)[0].step()
    assert not asked
    torch.optim.Adam([parameter], fused=True).step()
    assert asked  # or the test shows nothing
