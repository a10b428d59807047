"""Folds count as one value each seed: they are no independent samples."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from tutelage.reporting.collect import group
from tutelage.reporting.folds import note, of_sweep, together
from tutelage.reporting.quantities import better
from tutelage.reporting.row import Row
from tutelage.runs.run import State


def row(seed: int, fold: int | None, value: float, state: State = State.COMPLETE, **inputs: Any) -> Row:
    key = f"cv/{seed}{fold}{''.join(map(str, inputs.values()))}"
    texts = {
        "data.fold": "null" if fold is None else str(fold),
        "data.folds": "3",
        "model.depth": "2",
        "seed": str(seed),
    }
    return Row(
        key,
        "cv",
        seed,
        state,
        {**texts, **inputs},
        {"test/accuracy": value} if state is State.COMPLETE else {},
        "accuracy",
        "max",
    )


ROWS = [row(seed, fold, 0.1 * seed + 0.01 * fold) for seed in range(2) for fold in range(3)]


def test_which_way_a_metric_is_better_is_known_of_those_that_do_not_select() -> None:
    rows = [replace(one, directions={"accuracy": "max", "brier": "min"}) for one in ROWS]
    for metric, said in (("accuracy", "higher is better"), ("brier", "lower is better"), ("f1", "")):
        line = SimpleNamespace(metric=f"test/{metric}", rows=rows)
        assert better([line]) == said  # type: ignore[list-item]


def test_folds_are_one_value_for_each_seed() -> None:
    (arm,) = group(together([*ROWS[1:], ROWS[0]]))
    assert arm.values("test/accuracy") == pytest.approx({0: 0.01, 1: 0.11})
    said = note("cv", arm.rows, "test/accuracy")
    assert said is not None and "mean over 3 folds, which reach from 0 to 0.12; n counts seeds" in said


def test_arms_keep_apart_and_a_run_without_folds_stays() -> None:
    others = [row(0, fold, 0.5, **{"model.depth": "3"}) for fold in range(3)]
    plain = row(0, None, 0.9, **{"model.depth": "4"})
    found = together([*ROWS, *others, plain])
    assert [len(arm.rows) for arm in group(found)] == [2, 1, 1] and found[-1] is plain
    assert note("plain", [plain], "test/accuracy") is None


def test_a_fold_that_is_missing_leaves_a_gap_with_its_reason() -> None:
    failed = row(0, 2, 0.0, State.FAILED)
    (found,) = together([*ROWS[:2], failed])
    assert (
        found.state is State.FAILED and found.metrics == {} and found.reason == "2 of 3 folds: 2 not complete"
    )
    (found,) = together(ROWS[:2])
    assert found.state is State.MISSING and found.reason == "2 of 3 folds: 2 not complete"


def without_number(rows: list[Row], target: str) -> list[Row]:
    return [
        replace(
            row, inputs={k: v for k, v in row.inputs.items() if k != "data.folds"} | {"data._target_": target}
        )
        for row in rows
    ]


def test_a_fold_is_missed_also_where_the_command_does_not_say_how_many_there_are() -> None:
    five = [row(0, fold, 0.5) for fold in range(5)]
    (found,) = together(without_number(five[:4], '"tutelage.data.huggingface.HuggingFaceTable"'))
    assert found.reason == "4 of 5 folds: 4 not complete" and found.metrics == {}
    (found,) = together(without_number(five, '"tutelage.data.huggingface.HuggingFaceTable"'))
    assert found.state is State.COMPLETE and found.folds == 5
    # Of data of one's own nothing else says how many there are: as many as any arm or seed has.
    own = without_number(
        [*(row(0, fold, 0.5) for fold in range(3)), *(row(1, fold, 0.5) for fold in (0, 2))], '"mine.Rows"'
    )
    whole, part = together(own)
    assert whole.state is State.COMPLETE and part.reason == "2 of 3 folds: 1 not complete"


def test_one_fold_alone_is_a_run_and_says_so() -> None:
    (found,) = together([ROWS[1]])
    assert found is ROWS[1]
    assert (
        note("cv", [found], "test/accuracy")
        == "cv: each value is of one fold (fold 1 of 3) and no mean over folds"
    )
    (own,) = without_number([ROWS[1]], '"mine.Rows"')
    assert "(fold 1)" in str(note("cv", [own], "test/accuracy"))


def test_the_arms_of_a_sweep_over_folds_are_its_others() -> None:
    arms = {
        f"data.fold={fold} model.depth={d}": [row(0, fold, 0.5, **{"model.depth": d})]
        for fold in range(3)
        for d in ("2", "3")
    }
    assert {label: len(rows) for label, rows in of_sweep(arms).items()} == {
        "model.depth=2": 1,
        "model.depth=3": 1,
    }
    alone = {f"data.fold={fold}": [ROWS[fold]] for fold in range(3)}
    assert list(of_sweep(alone)) == ["all folds"] and len(of_sweep(alone)["all folds"]) == 1


def test_a_fold_that_a_plus_has_added_is_one_as_well() -> None:
    added = {f"+data.fold={fold},model.depth=2": [ROWS[fold]] for fold in range(3)}
    found = of_sweep(added)
    assert list(found) == ["model.depth=2"] and found["model.depth=2"][0].folds == 3
