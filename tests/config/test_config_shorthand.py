"""An objective's setting by its own name is that of the long form, everywhere."""

from __future__ import annotations

import pytest

from tutelage.config.compose import compose, readable
from tutelage.config.planner import Planner, plan_of
from tutelage.errors import UserError

GUIDED = ["method=guidance", "model@guide=residual_convnet"]
LONG = [
    "method.objectives.alignment.pairing.k=5",
    "+method.objectives.alignment.new=1",
    "similarity@method.objectives.alignment.similarity=ridge",
    "~method.objectives.alignment.weight",
    "method.objectives.task.label_smoothing=0.1,0.2",
    "++method.objectives.soft={weight:2}",
]
KEPT = [
    "alignment=3", "model.width=8", "+model.x=1", "hydra.job.name=x", "guide.width=4", "frozen.two.weights=a.b", "name=task.one", "x.y=1",
    "needs.alignment=[seed=1]", "chain.task=1", "objective@method.objectives.crd=crd",
]  # fmt: skip


def short(word):
    return word.replace("method.objectives.", "")


def test_words_are_written_out_and_others_kept():
    assert readable([short(word) for word in LONG[:5]]) == LONG[:5]
    assert readable(LONG) == LONG
    assert readable(KEPT) == KEPT
    assert readable(["task.weight=2"], "scale") == ["task.weight=2"]


def test_the_identity_is_that_of_the_long_form():
    command = [*GUIDED, LONG[0], LONG[2]]
    brief = [*GUIDED, *map(short, (LONG[0], LONG[2]))]
    assert plan_of(brief) == plan_of(command) == Planner()(brief)
    assert plan_of(brief) != plan_of(GUIDED)


def test_an_objective_that_the_command_adds_or_a_file_of_the_user_names(tmp_path, monkeypatch):
    added = ["+objective@method.objectives.second=logits", "model@teacher=fcn", "second.weight=0.25"]
    assert compose(added)["method"]["objectives"]["second"]["weight"] == 0.25
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - /objective@method.objectives.third: logits\n  - override /model@teacher: fcn\n"
    )
    assert compose(["experiment=mine", "third.weight=0.5"])["method"]["objectives"]["third"]["weight"] == 0.5


def test_an_objective_that_the_method_lacks_is_named_with_its_place():
    with pytest.raises(UserError, match=r"method\.objectives\.alignment"):
        compose(["method=supervised", "alignment.pairing.k=5"])


def test_a_name_of_an_objective_and_of_a_group_is_refused():
    with pytest.raises(
        UserError, match=r"is an objective and a group; say method\.objectives\.similarity\.weight=1"
    ):
        compose(
            ["+objective@method.objectives.similarity=logits", "model@teacher=fcn", "similarity.weight=1"]
        )
