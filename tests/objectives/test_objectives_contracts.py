"""The contracts that hold for every objective that the configuration offers, alone and beside others."""

from __future__ import annotations

import dataclasses
from math import inf, nan

import pytest
import torch

from small_runs import COPIES, P_SSL, SMALL, WRITING
from tutelage.config.compose import compose
from tutelage.config.groups import group_options
from tutelage.engine.build import build
from tutelage.errors import UserError
from tutelage.methods.history import NonFiniteLoss
from tutelage.objectives.base import NotPrepared, Reading

GUIDE = ["model@guide=residual_convnet", "guide.width=4", "guide.blocks=1"]
TEACHER = ["model@teacher=residual_convnet", "teacher.width=4", "teacher.blocks=1"]
AT = "method.objectives.added"
PSEUDO = [word.replace("method.objectives.consistency", AT) for word in P_SSL if "ema_decay" not in word]

VIT = ["model=timm", "model.name=vit_tiny_patch16_224", "+model.options.img_size=8", "+model.options.patch_size=4",
       "+model.options.embed_dim=12", "+model.options.depth=2", "+model.options.num_heads=3"]  # fmt: skip
OBJECTIVES: dict[str, list[str]] = {
    "task": [f"{AT}.label_smoothing=0.1"],
    **dict.fromkeys(("alignment", "repa"), GUIDE),
    "dimension": [f"{AT}.neighbours=5"],
    **dict.fromkeys(("soft_targets", "logits", "decoupled", "dist", "nkd", "mlkd", "ofa"), TEACHER),
    "uskd": [],
    **dict.fromkeys(("hint", "relational", "similarity_preserving", "pkt", "cross_correlation"), TEACHER),
    **dict.fromkeys(("vid", "crd", "srd", "vkd", "review"), TEACHER),
    "attention_maps": [
        *VIT,
        "model@guide=timm",
        *(word.replace("model.", "guide.").replace("+model", "+guide") for word in VIT[1:]),
        f"{AT}.pairing.pairs=[[blocks.1.attn.qkv,blocks.0.attn.qkv]]",
    ],
    "attention": [*TEACHER, "model=convnet", "model.width=4", "model.blocks=1"],
    **{key: [*PSEUDO, f"{AT}.threshold=0.0"] for key in ("uda", "fixmatch", "pseudo_label")},
    **dict.fromkeys(("flexmatch", "freematch", "softmatch", "adamatch"), PSEUDO),
    "mean_teacher": [*PSEUDO, "method.ema_decay=0.9"],
    "adversarial": [f"{AT}.steps=2"],
    "gkd": [*WRITING, *COPIES, f"{AT}.on_policy=1"],
    "simkd": [
        *TEACHER,
        "model=simkd",
        "model@model.student=convnet",
        "model.student.width=4",
        "model.width=16",
    ],
}
"""Every objective with the words that make it run beside the task."""


def built(tmp_path, *words):
    other = {"model=convnet", "model=simkd", "model=transformer_decoder", "model=timm"} & set(words)
    others = ("model.depth", "model=", *(["model.width"] if "model=timm" in other else []))
    small = [w for w in SMALL if not (w.startswith(others) and other)]
    return build(compose([*small, f"runs_dir={tmp_path}", *words]))


def added(tmp_path, name, *more):
    """A method with an objective of that name beside the task, and a batch."""
    made = built(tmp_path, f"+objective@{AT}={name}", *OBJECTIVES[name], *more)
    made.method.max_steps = 10
    made.method.on_fit_start()
    stream = made.data.train_stream(seed=0, device="cpu")
    stream.seek(0, 1)
    return made.method.train(), next(iter(stream))


def runs(*networks):
    """Count the forwards of networks."""
    counts = [0] * len(networks)
    for place, network in enumerate(networks):

        def count(*_, place=place):
            counts[place] += 1

        network.register_forward_pre_hook(count)
    return counts


def test_every_shipped_objective_is_listed_here():
    assert set(group_options("objective")) == set(OBJECTIVES) | {"made"}  # which a method makes itself


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_is_one_finite_number_that_reaches_the_network_and_its_own_parts_alone(tmp_path, name):
    method, batch = added(tmp_path, name)
    before = {role: frozen.digest() for role, frozen in method.frozen.items()}
    counts = runs(method.network, *(frozen.network for frozen in method.frozen.values()))
    terms = method.losses(batch)
    counts[0] -= method.objectives["added"].own_passes
    assert counts == [1] * len(counts)
    assert set(terms) == {"task", "added"}
    assert terms["added"].ndim == 0 and terms["added"].isfinite()
    terms["added"].backward()
    reached = {n for n, p in method.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any(n.startswith("network.") for n in reached)
    own = {n for n, p in method.objectives["added"].named_parameters() if p.requires_grad}
    assert {f"objectives.terms.added.{n}" for n in own} <= reached
    assert all(n.startswith(("network.", "objectives.terms.added.")) for n in reached)
    assert {role: frozen.digest() for role, frozen in method.frozen.items()} == before
    assert all(p.grad is None for frozen in method.frozen.values() for p in frozen.network.parameters())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_weight_and_schedule_live_outside(tmp_path, name):
    method, batch = added(tmp_path, name, f"{AT}.weight=3", f"{AT}.schedule={{name: until, steps: 5}}")
    assert method.objectives.weights(4, 10)["added"] == 3 and method.objectives.weights(5, 10)["added"] == 0
    unweighted, _ = added(tmp_path, name, f"{AT}.weight=1", f"{AT}.schedule={{name: always, steps: null}}")
    for one in (method, unweighted):
        torch.manual_seed(0)
        one.value = float(one.losses(batch)["added"].detach())
    assert method.value == unweighted.value


@pytest.mark.parametrize("name", [n for n, words in OBJECTIVES.items() if words in (GUIDE, TEACHER)])
def test_a_missing_frozen_network_is_an_error_at_once(tmp_path, name):
    with pytest.raises(
        UserError, match=r"the objective 'added' reads the frozen network '\w+', which is not there"
    ):
        built(tmp_path, f"+objective@{AT}={name}")


SOFT = ["+objective@method.objectives.soft=soft_targets", "method.objectives.soft.network=guide"]
HINT = ["+objective@method.objectives.hint=hint", "method.objectives.hint.network=guide"]
SECOND = ["+model@frozen.second=convnet", "frozen.second.width=4", "frozen.second.blocks=1"]


def test_one_network_guides_and_teaches_in_one_forward_and_stops_after_the_last_layer_that_is_wanted(
    tmp_path,
):
    made = built(tmp_path, "method=guidance", *GUIDE, *SOFT, *HINT)
    method = made.method
    stream = made.data.train_stream(seed=0, device="cpu")
    stream.seek(0, 1)
    batch = next(iter(stream))
    guide = method.frozen["guide"].network
    counts = runs(method.network, guide)
    terms = method.losses(batch)
    assert counts == [1, 1] and set(terms) == {"task", "alignment", "soft", "hint"}
    apart = [
        built(tmp_path, "method=guidance", *GUIDE, *words).method.losses(batch) for words in (SOFT, HINT)
    ]
    for name, other in (("soft", apart[0]), ("hint", apart[1]), ("alignment", apart[0])):
        torch.testing.assert_close(terms[name], other[name])
    first = ["method.objectives.alignment.pairing={strategy: first, k: 1}"]
    early = built(tmp_path, "method=guidance", *GUIDE, *first).method
    counts = runs(early.frozen["guide"].network.head)
    early.losses(batch)
    assert counts == [0]


def test_a_guide_that_sees_noise_teaches_what_it_says_of_the_batch(tmp_path):
    noise = ["method.objectives.alignment.input=gaussian"]
    on_batch, on_noise = (built(tmp_path, "method=guidance", *GUIDE, *SOFT, *words) for words in ([], noise))
    stream = on_batch.data.train_stream(seed=0, device="cpu")
    stream.seek(0, 1)
    batch = next(iter(stream))
    for order in (1, -1):  # whichever reads it first
        on_noise.method.objectives._readers = on_noise.method.objectives._readers[::order]
        wanted, found = (made.method.losses(batch) for made in (on_batch, on_noise))
        torch.testing.assert_close(found["soft"], wanted["soft"])
        assert found["alignment"] != wanted["alignment"]


def test_several_guides_and_teachers_by_name_each_with_its_own_digest_and_pairs(tmp_path):
    second = ["+objective@method.objectives.second=alignment", "method.objectives.second.network=second"]
    teacher = ["+objective@method.objectives.hint=hint", *TEACHER]
    method = built(tmp_path, "method=guidance", *GUIDE, *SECOND, *second, *teacher).method
    assert set(method.frozen) == {"guide", "second", "teacher"}
    described = method.describe()
    assert len({described[f"{name}_digest"] for name in method.frozen}) == 3
    assert {name for name, facts in described["objectives"].items() if facts["pairs"]} == {
        "alignment",
        "second",
        "hint",
    }
    with pytest.raises(UserError, match="nothing in method Guidance reads the frozen network 'second'"):
        built(tmp_path, "method=guidance", *GUIDE, *SECOND)
    with pytest.raises(UserError, match=r"frozen\.guide: this name is taken"):
        built(tmp_path, "method=guidance", *GUIDE, "+model@frozen.guide=convnet")


ENSEMBLE = [*TEACHER, *SECOND, f"{AT}.network=[teacher,second]"]


@pytest.mark.parametrize("name", ["soft_targets", "decoupled", "mlkd", "ofa", "logits"])
def test_several_teachers_teach_the_mean_of_their_logits_each_run_once(tmp_path, name):
    method, batch = added(tmp_path, name, *ENSEMBLE)
    teachers = [method.frozen[role] for role in ("teacher", "second")]
    counts = runs(method.network, *(teacher.network for teacher in teachers))
    taken = method.objectives.take(batch, lambda inputs, mask: method.network(inputs), max_steps=10)
    assert counts == [1, 1, 1]
    objective = method.objectives["added"]
    ours = objective.loss(taken)
    mean = sum(teacher(batch.inputs) for teacher in teachers) / 2
    objective.networks = ("teacher",)
    alone = dataclasses.replace(taken, frozen={"teacher": Reading(mean, {})})
    torch.testing.assert_close(ours, objective.loss(alone))


def test_an_ensemble_is_for_losses_of_outputs_and_of_different_networks_of_one_size(tmp_path):
    with pytest.raises(UserError, match=r"Hint reads one frozen network.*add an objective for each teacher"):
        built(tmp_path, f"+objective@{AT}=hint", *ENSEMBLE)
    soft = f"+objective@{AT}=soft_targets"
    with pytest.raises(UserError, match="a list of different names"):
        built(tmp_path, soft, *TEACHER, f"{AT}.network=[teacher,teacher]")
    with pytest.raises(UserError, match="reads the frozen network 'second', which is not there"):
        built(tmp_path, soft, *TEACHER, f"{AT}.network=[teacher,second]")


def test_what_is_not_prepared_is_said_once_by_the_objectives_name():
    assert str(NotPrepared("dim", "there are no layers")) == "objective 'dim': there are no layers"
    assert str(NotPrepared("dim", "the objective 'dim' reads nothing")) == "the objective 'dim' reads nothing"


@pytest.mark.parametrize(("neighbours", "fits"), [(1, False), (2, True), (31, True), (32, False)])
def test_the_neighbours_of_a_sample_are_two_or_more_of_the_other_samples_of_a_batch(
    tmp_path, neighbours, fits
):
    words = [f"+objective@{AT}=dimension", f"{AT}.neighbours={neighbours}"]
    if fits:
        built(tmp_path, *words)
        return
    with pytest.raises(
        UserError, match=rf"neighbours.* at least 2 and below the batch size 32, got {neighbours}"
    ):
        built(tmp_path, *words)


@pytest.mark.parametrize(
    ("words", "reaches"),
    [
        (["+objective@method.objectives.added=vid", *TEACHER], True),
        (["+objective@method.objectives.added=vid", *TEACHER, f"{AT}.schedule={{name: until, steps: 3}}"], False),
        (["+objective@method.objectives.added=vid", *TEACHER, f"{AT}.schedule={{name: warm_up, steps: 3}}"], True),
        (["+objective@method.objectives.added=vid", *TEACHER, f"{AT}.weight=0"], False),
        (["+objective@method.objectives.added=hint", *TEACHER, f"{AT}.schedule={{name: alone_first, steps: 3}}"], False),
        (["+objective@method.objectives.added=soft_targets", *TEACHER, f"{AT}.schedule={{name: until, steps: 3}}"], True),
        (["+objective@method.objectives.added=soft_targets", *TEACHER, "method.objectives.task.weight=0"], True),
        (["+objective@method.objectives.added=dimension", f"{AT}.neighbours=5", "method.objectives.task.weight=0"], False),
    ],
)  # fmt: skip
def test_it_is_known_whether_every_step_reaches_every_trained_parameter(tmp_path, words, reaches):
    assert built(tmp_path, *words).method.objectives.reaches_all is reaches


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ([[3, 1, 2], [nan, nan, 2]], "step 1: task (terms"),
        ([[nan, 1, inf]], "step 0: soft (terms"),
        ([[nan, nan, inf]], "step 0: task, soft (terms"),
        ([[nan, 1, 2]], "step 0: the weighted sum (terms"),
    ],
)
def test_a_loss_that_is_not_finite_is_named_by_its_first_step_and_its_terms(tmp_path, values, named):
    method = built(tmp_path, *TEACHER, "+objective@method.objectives.soft=soft_targets").method
    history = [
        (step, ("task", "soft"), torch.tensor(row, dtype=torch.float)) for step, row in enumerate(values)
    ]
    method.history.rows = history
    with pytest.raises(NonFiniteLoss) as error:
        method.flush()
    assert named in str(error.value)
