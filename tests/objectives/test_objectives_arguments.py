"""Every number that an objective is made with, at its bounds: what is just inside is taken, what is just outside is one message."""

from __future__ import annotations

from math import inf, nan

import pytest

from tutelage.errors import UserError
from tutelage.objectives.adamatch import AdaMatch
from tutelage.objectives.adversarial import Adversarial
from tutelage.objectives.alignment import Alignment
from tutelage.objectives.crd import CRD
from tutelage.objectives.decoupled import Decoupled
from tutelage.objectives.dist import DIST
from tutelage.objectives.gkd import GKD
from tutelage.objectives.hint import Hint
from tutelage.objectives.logits import Logits
from tutelage.objectives.masked import MaskedImages, MaskedTokens
from tutelage.objectives.mean_teacher import MeanTeacher
from tutelage.objectives.mlkd import MLKD
from tutelage.objectives.nkd import NKD
from tutelage.objectives.ofa import OFA
from tutelage.objectives.repa import REPA
from tutelage.objectives.review import ReviewKD
from tutelage.objectives.schedule import Schedule
from tutelage.objectives.simkd import SimKD
from tutelage.objectives.soft_targets import SoftTargets
from tutelage.objectives.softmatch import SoftMatch
from tutelage.objectives.srd import SRD
from tutelage.objectives.task import Task
from tutelage.objectives.uskd import USKD
from tutelage.objectives.vid import VID
from tutelage.objectives.views import TwoViews

T = {"network": "teacher"}
ABOVE_0 = ([1e-9, 7.5], [0, -1e-9, nan])
NOT_NEGATIVE = ([0, 3.5], [-1e-9, inf, nan])
SHARE = ([0, 0.999], [1, -1e-9])
WHOLE = ([1, 3], [0, -1])


@pytest.mark.parametrize(
    ("made", "common", "option", "taken", "refused"),
    [
        (Adversarial, {}, "steps", [1, 3], [0, True, 1.0]),
        (Adversarial, {}, "step", [None, 1e-9], [0, -0.1, nan]),
        (Adversarial, {}, "temperature", *ABOVE_0),
        (Adversarial, {}, "epsilon", [0, 1], [-1e-9, nan]),
        (Adversarial, {}, "norm", ["linf", "l2"], ["l1"]),
        (Adversarial, {}, "target", ["labels", "outputs"], ["label"]),
        (Alignment, T, "compare", ["samples", "tokens", "patches"], ["sample"]),
        (Alignment, T, "input", ["batch", "gaussian", "released_noise"], ["noise"]),
        (Alignment, T, "noise_to", ["guide"], ["guides"]),
        (Alignment, T, "patches", *WHOLE),
        (CRD, T, "dimensions", [1], [0, 1.5]),
        (CRD, T, "negatives", [1], [0, 2.0]),
        (CRD, T, "temperature", [1e-9, 2], [0, inf, nan]),
        (CRD, T, "momentum", *SHARE),
        (Decoupled, T, "temperature", *ABOVE_0),
        (Decoupled, T, "target_weight", *NOT_NEGATIVE),
        (Decoupled, T, "other_weight", *NOT_NEGATIVE),
        (DIST, T, "temperature", *ABOVE_0),
        (DIST, T, "between_classes", *NOT_NEGATIVE),
        (DIST, T, "between_samples", *NOT_NEGATIVE),
        (GKD, T, "beta", [0, 1], [-1e-9, 1.001]),
        (GKD, T, "on_policy", [0, 1], [-1e-9, 1.001]),
        (GKD, T, "prompt", [1, 2], [0, True, 1.0]),
        (Logits, T, "standardise", [True, False], [1, "true"]),
        (Logits, T, "label_space", ["same", "other"], ["others"]),
        (MaskedImages, {}, "ratio", [0.001, 0.999], [0, 1]),
        (MaskedImages, {}, "patch", *WHOLE),
        (MaskedTokens, {}, "ratio", [0.001, 0.999], [0, 1]),
        (MeanTeacher, {}, "momentum", *SHARE),
        (MeanTeacher, {}, "batch_norm", ["joint", "labelled"], ["apart"]),
        (MeanTeacher, {}, "distribution_alignment", [None, "uniform", "labels", "predictions"], ["label"]),
        (MLKD, T, "temperatures", [[1e-9], (2, 3.0)], [[], "23", 2.0, [1.0, 0], [2, None]]),
        (MLKD, T, "single", *NOT_NEGATIVE),
        (MLKD, T, "samples", *NOT_NEGATIVE),
        (MLKD, T, "classes", *NOT_NEGATIVE),
        (NKD, T, "temperature", *ABOVE_0),
        (NKD, T, "other_weight", *NOT_NEGATIVE),
        (OFA, T, "temperature", *ABOVE_0),
        (OFA, T, "emphasis", [1, 1.5], [0.999, inf, nan]),
        (OFA, T, "branches", *WHOLE),
        (REPA, T, "width", *WHOLE),
        (ReviewKD, T, "width", *WHOLE),
        (SoftMatch, {}, "sigmas", *ABOVE_0),
        (SoftTargets, T, "temperature", *ABOVE_0),
        (SRD, T, "power", [1, 4], [0.999, nan]),
        (Task, {}, "label_smoothing", [None, *SHARE[0]], SHARE[1]),
        (Task, {}, "class_weight", [None, "balanced", [1, 2]], ["balance"]),
        (USKD, {}, "other_weight", *NOT_NEGATIVE),
        (USKD, {}, "weak_weight", *NOT_NEGATIVE),
        (VID, T, "variance", [1.1e-5, 5], [1e-5, 0, inf]),
        (VID, T, "floor", [1e-9, 4.9], [0, 5.0, -1]),
        (TwoViews, {}, "loss", ["simclr", "vicreg", "barlow_twins", "byol"], ["simclear"]),
        (TwoViews, {}, "projector", [[1], [3, 2]], [[], [0], [3, 0]]),
        (TwoViews, {}, "options", [{}, None, {"temperature": 0}], [{"temperature": -1e-9}, {"temperature": True}, {"temperature": "1"},
                                                                 {"decay": 0.5}]),
        (TwoViews, {"loss": "byol"}, "options", [{"decay": 0}, {"decay": 0.999}], [{"decay": 1}, {"decay": -0.1}]),
    ],
)  # fmt: skip
def test_a_number_at_its_bounds(made, common, option, taken, refused):
    for value in taken:
        made(**common, **{option: value})
    for value in refused:
        with pytest.raises(UserError, match=option):
            made(**common, **{option: value})


def test_what_goes_with_nothing_is_refused():
    with pytest.raises(UserError, match="`target`=labels does not"):
        Adversarial(network="teacher")
    Adversarial(network="teacher", target="outputs", random_start=False)
    Adversarial(target="labels", random_start=False)
    with pytest.raises(UserError, match="no slope there"):
        Adversarial(target="outputs", random_start=False)
    first = {"schedule": Schedule(name="alone_first", steps=3)}
    Alignment(network="guide", noise_to="both", input="gaussian", **first)
    for words in ({"input": "gaussian"}, {"input": "batch", **first}):
        with pytest.raises(UserError, match=r"needs `schedule\.name`=alone_first and noise"):
            Alignment(network="guide", noise_to="both", **words)
    AdaMatch(weak_gradient=False)
    with pytest.raises(UserError, match="MeanTeacher has no strong view"):
        MeanTeacher(weak_gradient=False)
    for one in (Decoupled, NKD, OFA, GKD):
        with pytest.raises(UserError, match="singles out the true class among the teacher's"):
            one(network="teacher", label_space="other")
    with pytest.raises(UserError, match="it takes no `pairing`"):
        SimKD(network="teacher", pairing=None)


def test_a_width_is_called_by_its_place():
    with pytest.raises(UserError, match="projector: width 2 must be a whole number of at least 1, got 0"):
        TwoViews(projector=[3, 0, 4])


def test_the_networks_that_are_read_are_names():
    assert (Task().networks, Task().network) == ((), None)
    assert (Hint(network="a").networks, Hint(network="a").network) == (("a",), "a")
    assert (
        SoftTargets(network=["b", "a"]).networks == ("b", "a")
        and SoftTargets(network=["b", "a"]).network == "b"
    )
    for network in (None, "", []):
        with pytest.raises(UserError, match="Hint reads a frozen network: set `network`"):
            Hint(network=network)
    with pytest.raises(UserError, match=r"Hint reads one frozen network, got `network`=\['a', 'b'\]"):
        Hint(network=["a", "b"])
    for several in (["a", "a"], ["a", 3]):
        with pytest.raises(UserError, match="must be a name, or a list of different names"):
            SoftTargets(network=several)


def test_what_an_adversary_says_of_its_own_passes():
    assert Adversarial(steps=3).own_passes == 3
    assert Adversarial(steps=3, target="outputs").own_passes == 4  # and the answers on the images as they are
    assert Adversarial(steps=3, target="outputs", network="teacher").own_passes == 3


@pytest.mark.parametrize("name", ["until", "from", "warm_up", "ramp_up", "linear", "cosine", "alone_first"])
def test_the_steps_of_a_schedule_are_at_least_one_or_of_from_none(name):
    least = 0 if name == "from" else 1
    assert Schedule(name=name, steps=least).steps == least
    with pytest.raises(UserError, match="`steps` must be at least"):
        Schedule(name=name, steps=least - 1)
    if name in ("linear", "cosine"):
        assert [Schedule(name=name).factor(step, 0) for step in (0, 1)] == [1, 0]
    else:
        with pytest.raises(UserError, match="needs `steps`"):
            Schedule(name=name)
