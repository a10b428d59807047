"""A longer run goes on from a shorter one, or says what stands in the way: each rule and each refusal as it stands."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from made_plans import stored
from tutelage.jobs import longer
from tutelage.runs.records import write_yaml
from tutelage.runs.store import Store


def config(**more):
    found = {
        "name": "x",
        "seed": 0,
        "method": {"_target_": "tutelage.methods.supervised.Supervised"},
        "optimizer": {"lr": 0.1, "schedule": "constant"},
        "fit": {"max_steps": 24, "validate_every_steps": 4},
        "data": {"fingerprint": "f"},
    }
    for key, value in more.items():
        found[key] = found[key] | value if isinstance(value, dict) else value
    return found


@pytest.fixture
def other(tmp_path):
    """Give a run of 12 updates whose state was kept."""
    run = Store(tmp_path).for_config(config(fit={"max_steps": 12}))
    run.path.mkdir(parents=True)
    write_yaml(run.path / "config.yaml", config(fit={"max_steps": 12}))
    (run.path / "checkpoints").mkdir()
    run.checkpoint("last").write_text("the state")
    (run.path / "checkpoints" / "best.ckpt").write_text("the best")
    (run.path / "metrics.jsonl").write_text("rows")
    stored(run.path)
    return run


SPREADS = "spreads over all updates, so a longer run differs from the first one on"
ENDED = "it ended at an update at which a longer one does not validate: fit.validate_every_steps="


@pytest.mark.parametrize(("more", "begun", "why"), [
    ({}, 12, ""), ({}, 4, ""), ({}, 6, f"{ENDED}4 would have to divide 6"),
    ({"fit": {"validate_every_steps": None}}, 12, f"{ENDED}None would have to divide 12"),
    ({"fit": {"validate_every_steps": 12}}, 12, ""), ({"fit": {"validate_every_steps": 24}}, 12, f"{ENDED}24 would have to divide 12"),
    ({"data": {"absent": ["a.png"]}}, 12, "images of its set went missing while it stood still, so its splits are its own"),
    ({"method": {"_target_": "mine.Method"}}, 12,
     "whether the steps of a method of your own depend on how many there will be is not known"),
    ({"method": {"_target_": "nottutelage.Method"}}, 12,
     "whether the steps of a method of your own depend on how many there will be is not known"),
    *(({"optimizer": {"schedule": value}}, 12, "") for value in (None, "", "constant", "none", "always")),
    ({"optimizer": {"schedule": "cosine"}}, 12, f"optimizer.schedule=cosine {SPREADS}"),
    ({"method": {"objectives": {"hint": {"weight_schedule": "linear"}}}}, 12, f"method.objectives.hint.weight_schedule=linear {SPREADS}"),
    ({"method": {"schedule": {"kind": "linear"}}}, 12, f"method.schedule.kind=linear {SPREADS}"),
    ({"method": {"schedule": {"steps": 3}}}, 12, ""),  # a number of updates is no share of them
    ({"method": {"rescheduled": "cosine", "schedules": "cosine"}}, 12, ""),
])  # fmt: skip
def test_what_stands_in_the_way_of_a_longer_run(other, more, begun, why):
    assert longer._why_not(config(**more), begun, other) == why
    other.checkpoint("last").unlink()
    lost = "its state was not kept: with fit.keep_checkpoints=true it could be continued"
    assert longer._why_not(config(**more), begun, other) == (why or lost)


def test_a_longer_run_takes_all_that_was_kept_and_says_so(tmp_path, other, lines):
    store = Store(tmp_path)
    run = store.for_config(config())
    assert longer.begin_from_shorter(config(), run, store) == {"continues": {"run": other.key, "step": 12}}
    kept = {
        path.relative_to(run.path).as_posix(): path.read_text()
        for path in run.path.rglob("*")
        if path.is_file()
    }
    assert kept == {
        "checkpoints/last.ckpt": "the state",
        "checkpoints/best.ckpt": "the best",
        "metrics.jsonl": "rows",
    }
    assert lines() == [f"{run.key} goes on from step 12, where {other.key} ended"]
    assert longer.begin_from_shorter(config(), run, store) == {}  # it exists


def test_a_run_that_cannot_go_on_says_why(tmp_path, other, lines):
    store, longer_one = Store(tmp_path), config(fit={"max_steps": 24})
    other.checkpoint("last").unlink()
    assert longer.begin_from_shorter(longer_one, store.for_config(longer_one), store) == {}
    assert lines() == [
        f"{other.key} is complete with fit.max_steps=12, but this run begins anew: "
        "its state was not kept: with fit.keep_checkpoints=true it could be continued"
    ]


@pytest.mark.parametrize(("more", "steps"), [
    ({}, 12), ({"fit": {"max_steps": 13}}, 12), ({"fit": {"max_steps": 12}}, None), ({"fit": {"max_steps": 11}}, None),
    ({"seed": 1}, None), ({"name": "y"}, None), ({"fit": {"max_steps": None}}, None),
])  # fmt: skip
def test_a_run_goes_on_from_one_that_is_shorter_and_else_the_same(tmp_path, other, more, steps):
    store, one = Store(tmp_path), config(**more)
    run = SimpleNamespace(path=tmp_path / "new", key="new")
    found = longer.begin_from_shorter(one, run, store)
    assert found == ({} if steps is None else {"continues": {"run": other.key, "step": steps}})


def test_of_several_the_longest_complete_one_is_gone_on_from(tmp_path, other):
    store = Store(tmp_path)
    for steps, complete in ((16, True), (8, True), (20, False)):
        run = store.for_config(config(fit={"max_steps": steps}))
        run.path.mkdir(parents=True)
        write_yaml(run.path / "config.yaml", config(fit={"max_steps": steps}))
        if complete:
            stored(run.path)
    (store.for_config(config(fit={"max_steps": 18})).path).mkdir()  # damaged: it has no configuration
    steps, run = longer._shorter(config(), 24, store)
    assert steps == 16 and run.config["fit"]["max_steps"] == 16
    with run.lock():
        (run.path / "checkpoints").mkdir()
        run.checkpoint("last").touch()
        again = Store(tmp_path)
        assert longer.begin_from_shorter(config(), again.for_config(config()), again) == {}  # it is busy


def test_the_least_updates_of_a_file(tmp_path):
    for number, (text, least) in enumerate({
        "fit:\n  max_steps: 40\n": 40, "a:\n  max_steps: 7\nfit:\n  max_steps: 40\n": 7, "fit:\n  max_steps: null\n": 0,
        "max_steps: 40\n": 0, "  max_steps: 4x\n": 0,
    }.items()):  # fmt: skip
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "config.yaml").write_text(text)
        assert longer._least(str(folder)) == least
    assert longer._least(str(tmp_path / "none")) == 0


def test_forked_jobs_find_what_was_looked_at_before(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        longer, "_shorter", lambda config, steps, store: asked.append((config["name"], steps))
    )
    ones = [
        config(),
        config(seed=1),
        config(name="y"),
        config(name="z", fit={"max_steps": None}),
        {"name": "w", "fit": None},
    ]
    longer.look_around(ones, Store(tmp_path))
    assert asked == [("x", 24), ("y", 24)]
