"""Learning rates, parameter groups and the settings of optimisers, at every bound, against values written by hand."""

import math

import pytest
import torch
from torch import nn

from tutelage.errors import UserError
from tutelage.methods.optim import OptimizerSpec
from tutelage.methods.parameter_groups import (
    check_patterns,
    depths,
    freeze,
    grouped,
    part_of,
    warn_of_resting,
)
from tutelage.methods.rates import Plateau, learning_rate_factor


def factors(schedule, steps, **more):
    return [learning_rate_factor(step, schedule=schedule, max_steps=10, **more) for step in steps]


@pytest.mark.parametrize(
    ("schedule", "more", "steps", "wanted"),
    [
        ("constant", {"warmup_steps": 4}, [0, 1, 3, 4, 9], [0.25, 0.5, 1, 1, 1]),
        ("plateau", {}, [0, 9], [1, 1]),
        ("step", {"milestones": [0.5, 0.8], "gamma": 0.3}, [4, 5, 7, 8, 9], [1, 0.3, 0.3, 0.09, 0.09]),
        ("short_cosine", {}, [0, 5, 10, 11], [1, *(math.cos(7 * math.pi * t / 16) for t in (0.5, 1, 1))]),
        ("linear", {}, [0, 3, 9, 12], [1, 2 / 3, 0, 0]),
        ("linear", {"warmup_steps": 3, "final_factor": 0.4}, [2, 3, 6, 9], [1, 1, 0.7, 0.4]),
        ("cosine", {"final_factor": 0.2}, [0, 3, 9], [1, 0.2 + 0.8 * 0.75, 0.2]),
        ("polynomial", {"power": 2.0}, [0, 3, 6, 9], [1, 4 / 9, 1 / 9, 0]),
        ("stable_decay", {"decay_share": 0.3, "final_factor": 0.1}, [0, 5, 6, 7, 9], [1, 1, 1, 0.7, 0.1]),
        ("stable_decay", {"decay_share": 1.0, "warmup_steps": 3}, [2, 3, 6, 9], [1, 1, 0.5, 0]),
        ("linear", {"warmup_steps": 10}, [9, 10, 11], [1, 1, 0]),
    ],
)
def test_the_factor_at_each_update(schedule, more, steps, wanted):
    assert factors(schedule, steps, **more) == pytest.approx(wanted)


@pytest.mark.parametrize(("maximise", "sign"), [(True, 1), (False, -1)])
def test_a_plateau_falls_after_its_patience_without_a_better_value(maximise, sign):
    plateau = Plateau(gamma=0.5, patience=2, warmup_steps=2, maximise=maximise)
    seen = []
    for value in (1.0, 1.0, 0.9, 0.8, 1.1, math.nan, 1.1, 1.0, 0.0):
        plateau.see(sign * value)
        seen.append((plateau.best, plateau.waited, plateau(2)))
    best = [sign * b for b in (1.0, 1.0, 1.0, 1.0, 1.1, 1.1, 1.1, 1.1, 1.1)]
    assert seen == list(
        zip(best, (0, 1, 2, 0, 0, 1, 2, 0, 1), (1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25), strict=True)
    )
    assert [plateau(step) for step in (0, 1, 2)] == [0.5, 1.0, 0.25]
    first = Plateau(gamma=0.5, patience=0, warmup_steps=0, maximise=maximise)
    first.see(math.nan)
    assert first.best is None and first.factor == 0.5
    first.see(sign * 3.0)
    assert first.best == sign * 3.0


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 1)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)) for _ in range(2)])
        self.head = nn.Linear(2, 3)

    def no_weight_decay(self):
        return {"stem.weight"}


@pytest.mark.parametrize(
    ("name", "part"),
    [("stem.weight", "stem"), ("blocks.0.1.bias", "blocks.0"), ("layer1.2.conv.weight", "layer1"), ("a.b.c", "a"), ("x", "x"),
     ("body.layer12.0.w", "body.layer12"), ("v2.head.w", "v2")],
)  # fmt: skip
def test_a_part_is_a_name_up_to_its_first_number(name, part):
    assert part_of(name) == part


def test_depths_count_from_the_last_part():
    found = depths(Net())
    assert {part_of(name): depth for name, depth in found.items()} == {
        "stem": 3,
        "blocks.0": 2,
        "blocks.1": 1,
        "head": 0,
    }


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        # Hugging Face's ViT and BERT: a last norm, a pooler after the blocks, under their prefix
        (["vit.embeddings.w", "vit.encoder.layer.0.w", "vit.encoder.layer.1.w", "vit.layernorm.w", "classifier.w"], [4, 3, 2, 1, 0]),
        (["bert.embeddings.word.w", "bert.embeddings.norm.w", "bert.encoder.layer.0.w", "bert.pooler.w", "classifier.w"], [3, 3, 2, 1, 0]),
        # torchvision's ViT: its last norm stands beside the list of blocks
        (["conv_proj.w", "encoder.pos_embedding", "encoder.layers.layer_0.w", "encoder.layers.layer_1.w", "encoder.ln.w", "heads.w"],
         [5, 4, 3, 2, 1, 0]),
        (["wte.w", "h.0.a.w", "h.0.b.w", "h.1.w", "ln.w"], [3, 2, 2, 1, 0]),
    ],
)  # fmt: skip
def test_what_follows_the_blocks_is_no_part_of_what_precedes_them(names, wanted):
    network = nn.Module()
    for name in names:
        *path, last = name.split(".")
        at = network
        for step in path:
            if step not in dict(at.named_children()):
                at.add_module(step, nn.Module())
            at = at.get_submodule(step)
        at.register_parameter(last, nn.Parameter(torch.zeros(1)))
    assert [depths(network)[name] for name in names] == wanted


@pytest.mark.parametrize(
    ("name", "more", "momentum"),
    [("momentum", {}, 0.9), ("lars", {}, 0.9), ("sgdw", {}, 0.9), ("rmsproptf", {}, 0.9), ("momentum", {"momentum": 0.5}, 0.5),
     ("muon", {}, 0.95), ("sgd", {}, 0)],
)  # fmt: skip
def test_timms_optimisers_have_the_momentum_of_timms_factory(name, more, momentum):
    optimizer, _ = OptimizerSpec(name=name, lr=0.1, weight_decay=0.0, **more).build(Net().parameters(), 10)
    assert {group["momentum"] for group in optimizer.param_groups} == {momentum}


def test_no_weight_decay_is_no_argument_for_an_optimiser_without_one():
    assert OptimizerSpec(name="rprop", lr=0.1, weight_decay=0.0).build(Net().parameters(), 10)
    with pytest.raises(UserError, match="optimizer rprop takes no 'weight_decay'; known: "):
        OptimizerSpec(name="rprop", lr=0.1, weight_decay=0.1).build(Net().parameters(), 10)
    for name, said in (
        ("lbfgs", "'lbfgs' here: it evaluates the loss several times"),
        ("xyzzy", "'xyzzy'; known: adabelief, .*, sgdw$"),
    ):
        with pytest.raises(UserError, match=f"no optimizer is named {said}"):
            OptimizerSpec(name=name, lr=0.1)
    spec = OptimizerSpec(name="sgd", lr=0.1, momentum=0.0, nesterov=True)
    with pytest.raises(UserError, match=r"momentum and zero dampening. Say optimizer.nesterov=false$"):
        spec.build(Net().parameters(), 10)
    with pytest.raises(UserError, match="no optimizer is named 'adahessian'"):
        OptimizerSpec(name="adahessian", lr=0.1)


def shown(groups, network):
    names = {id(p): name for name, p in network.named_parameters()}
    return {(round(g["lr"], 6), g["weight_decay"]): [names[id(p)] for p in g["params"]] for g in groups}


def groups_of(network, **more):
    options = {
        "lr": 0.8,
        "weight_decay": 0.1,
        "decay_all": True,
        "layer_decay": None,
        "lr_factors": {},
        "network": network,
    }
    return grouped(list(network.named_parameters()), **{**options, **more})


def test_groups_are_pairs_of_rate_and_decay_in_the_order_of_parameters():
    network = Net()
    names = [name for name, _ in network.named_parameters()]
    assert shown(groups_of(network), network) == {(0.8, 0.1): names}
    spared = shown(groups_of(network, decay_all=False), network)
    decaying = ["blocks.0.0.weight", "blocks.1.0.weight", "head.weight"]
    assert spared == {(0.8, 0.0): [n for n in names if n not in decaying], (0.8, 0.1): decaying}
    by_depth = shown(groups_of(network, layer_decay=0.5), network)
    assert [(rate, {part_of(n) for n in found}) for (rate, _), found in by_depth.items()] == [
        (0.1, {"stem"}), (0.2, {"blocks.0"}), (0.4, {"blocks.1"}), (0.8, {"head"}),
    ]  # fmt: skip
    factored = groups_of(network, lr_factors={"blocks.*": 0.5, "*.bias": 0.25, "blocks.1.*": 2.0})
    assert [(g["lr_factor"], len(g["params"])) for g in factored] == [(1.0, 2), (0.25, 4), (0.5, 2), (2.0, 4)]
    assert shown(factored, network)[(0.2, 0.1)] == [
        "stem.bias",
        "blocks.0.0.bias",
        "blocks.0.1.bias",
        "head.bias",
    ]
    alone = grouped(
        [("w", nn.Parameter(torch.zeros(2)))],
        lr=1.0,
        weight_decay=0.1,
        decay_all=False,
        layer_decay=0.5,
        lr_factors={},
        network=None,
    )
    assert [(g["lr"], g["weight_decay"]) for g in alone] == [(1.0, 0.0)]


@pytest.mark.parametrize(("name", "decay"), [("adamw", 0.01), ("adam", 0.0), ("lamb", 0.01)])
@pytest.mark.parametrize("more", [{"layer_decay": 0.5}, {"lr_factors": [["head.*", 2.0]]}])
def test_groups_keep_the_weight_decay_of_the_optimiser_where_none_is_named(name, decay, more):
    network = Net()
    optimizer, _ = OptimizerSpec(name=name, lr=0.1, **more).build(
        network.named_parameters(), 10, network=network
    )
    assert {group["weight_decay"] for group in optimizer.param_groups} == {decay}


def test_what_rests_is_in_evaluation_and_something_is_left_to_train():
    network = Net()
    resting = freeze(network, ["blocks.0.*", "stem.weight"])
    assert {n for n, p in network.named_parameters() if not p.requires_grad} == {
        "stem.weight", "blocks.0.0.weight", "blocks.0.0.bias", "blocks.0.1.weight", "blocks.0.1.bias",
    }  # fmt: skip
    assert resting == (network.blocks[0], *network.blocks[0]) and not network.blocks[0][1].training
    assert network.stem.training and network.blocks[1][1].training and freeze(Net(), []) == ()
    with pytest.raises(UserError, match="leaves no parameter of the network to train"):
        freeze(Net(), ["*"])
    with pytest.raises(
        UserError,
        match=r"optimizer.frozen: no parameter's name matches 'bloks\.\*'; the network has stem\.\*, blocks\.0\.\*, .*head\.\*$",
    ):
        freeze(Net(), ["bloks.*"])


def test_a_rate_of_what_rests_is_said(caplog):
    network = Net()
    freeze(network, ["head.*", "stem.bias"])
    warn_of_resting(["head.*", "stem.*", "head.bias"], network.named_parameters())
    assert caplog.messages == [
        f"optimizer.lr_factors: '{pattern}' has no effect, for nothing that it matches is trained"
        for pattern in ("head.*", "head.bias")
    ]


@pytest.mark.parametrize(("count", "more"), [(40, ""), (41, r" \.\.\. \(41 parts in all\)")])
def test_of_many_parts_forty_are_shown(count, more):
    with pytest.raises(UserError, match=rf"the network has b0, .*b39{more}$"):
        check_patterns(["x"], [f"b{k}" for k in range(count)], "key")


WRONG_PAIRS = [
    [["a"]],
    [["a", 0]],
    [["a", True]],
    [["a", "b"]],
    [[1, 2]],
    [3],
    [["a", math.inf]],
    [["a", 1, 2]],
]
SPEC = {"name": "sgd", "lr": 0.1}


@pytest.mark.parametrize(
    ("key", "taken", "refused"),
    [
        ("lr", [1e-9, 3], [0, -1, math.inf, math.nan]),
        ("decay_share", [1e-9, 1], [0, 1.001]),
        ("layer_decay", [None, 1e-9, 1], [0, 1.001]),
        ("warmup_steps", [0, 3], [-1]),
        ("gamma", [0, 2], [-1e-9, math.inf]),
        ("final_factor", [0, 1], [-1e-9, math.inf]),
        ("power", [0, 2], [-1e-9, math.inf]),
        ("patience", [0, 3], [-1]),
        ("milestones", [[], [0, 1]], [[-1e-9], [1.001], ["a"]]),
        ("schedule", ["constant", "cosine"], ["cosin", "step"]),
        (
            "lr_factors",
            [[], [["a", 0.5]], [("b", 2)]],
            WRONG_PAIRS,
        ),
        (
            "betas",
            [None, [0, 0.999], (0.5, 0.5)],
            [[0.9], [0.9, 1], [-0.1, 0.9], [True, 0.9], "ab", [0.9, 0.9, 0.9], 0.9, ["a", 0.9]],
        ),
        ("nesterov", [True, False], [None, 1]),
        ("foreach", [True, None], [0]),
        ("weight_decay", [0, 0.1], [-1e-9, True, "a", math.inf]),
        ("momentum", [0, 0.9], [-0.1]),
        ("eps", [0, 1e-8], [-1e-8]),
    ],
)
def test_settings_at_their_bounds(key, taken, refused):
    for value in taken:
        OptimizerSpec(**{**SPEC, key: value})
    for value in refused:
        with pytest.raises(UserError, match=key):
            OptimizerSpec(**{**SPEC, key: value})


def test_an_optimiser_is_of_torch_or_timm_and_gets_what_was_asked_for():
    network = nn.Sequential(nn.Linear(2, 3))
    optimizer, scheduler = OptimizerSpec(name="sgd", lr=0.1, momentum=0.5).build(network.parameters(), 10)
    assert (
        isinstance(optimizer, torch.optim.SGD) and scheduler is None and optimizer.defaults["momentum"] == 0.5
    )
    assert len(optimizer.param_groups) == 1
    for more in ({"warmup_steps": 2}, {"schedule": "cosine"}):
        assert OptimizerSpec(**SPEC, **more).build(network.parameters(), 10)[1] is not None
    named = list(network.named_parameters())
    for more, groups in (
        ({"decay_norms_and_biases": False, "weight_decay": 0.1}, 2),
        ({"layer_decay": 0.5}, 1),
        ({"lr_factors": [["*bias", 0.5]]}, 2),
    ):
        optimizer, _ = OptimizerSpec(**SPEC, **more).build(named, 10, network=network)
        assert len(optimizer.param_groups) == groups
    assert type(OptimizerSpec(name="lion", lr=0.1).build(network.parameters(), 10)[0]).__name__ == "Lion"
    with pytest.raises(UserError, match="no optimizer is named 'adm'; did you mean 'adam'"):
        OptimizerSpec(name="adm", lr=0.1)
    with pytest.raises(UserError, match="the network has no parameters to train"):
        OptimizerSpec(**SPEC).build([], 10)
    with pytest.raises(UserError, match="optimizer sgd takes no 'rho'; known: dampening, "):
        OptimizerSpec(**SPEC, rho=3).build(network.parameters(), 10)
    optimizer, scheduler = OptimizerSpec(**SPEC, schedule="plateau", patience=0, gamma=0.5).build(
        network.parameters(), 10, maximise=False
    )
    (plateau,) = scheduler.lr_lambdas
    plateau.see(1.0)
    plateau.see(2.0)
    assert plateau.factor == 0.5
