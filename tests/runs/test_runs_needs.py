"""Needs: identities of needs belong to the run's own, circles are named, nothing is made twice."""

import threading
import time

import pytest

from tutelage.errors import UserError
from tutelage.runs.needs import ensure, plan
from tutelage.runs.run import State
from tutelage.runs.store import Store

EXPERIMENTS = {
    "cnn": {"name": "demo/cnn", "model": "cnn"},
    "source": {"name": "t/source", "model": "resnet"},
    "generator": {"name": "t/generator", "needs": {"source": ["experiment=source"]}},
    "transfer": {
        "name": "t/transfer",
        "needs": {"source": ["experiment=source"], "generator": ["experiment=generator"]},
    },
    "hen": {"name": "c/hen", "needs": {"egg": ["experiment=egg"]}},
    "egg": {"name": "c/egg", "needs": {"hen": ["experiment=hen"]}},
}


def compose(command):
    words = dict(word.split("=", 1) for word in command)
    config = {
        "seed": 0,
        "runs_dir": "runs",
        "logger": "csv",
        "rerun": False,
        "hardware": {"devices": 1, "threads": 1},
        "data": {"name": "digits", "_reads_": "published", "root": "default"},
        **EXPERIMENTS[words.pop("experiment")],
    }
    for key, value in words.items():
        place = config
        *way, last = key.split(".")
        for part in way:
            place = place.setdefault(part, {})
        place[last] = int(value) if value.isdigit() else value
    return config


def test_needs_enter_the_identity():
    def guided(seed):
        return {
            **compose(["experiment=cnn"]),
            "name": "demo/guided",
            "needs": {"teacher": ["experiment=cnn", f"seed={seed}"]},
        }

    config = guided(0)
    one, again, other = plan(config, compose), plan(config, compose), plan(guided(1), compose)
    assert one.identity == again.identity != other.identity
    need = one.needs["teacher"]
    assert one.config["needs"] == {
        "teacher": {"command": ["experiment=cnn", "seed=0"], "run": f"demo/cnn/{need.identity}"}
    }
    assert config["needs"] == {
        "teacher": ["experiment=cnn", "seed=0"]
    }  # the caller's configuration is as it was
    assert plan(one.config, compose).identity == one.identity  # planning what is planned changes nothing


def test_another_way_to_say_the_same_need_is_the_same_run():
    def guided(command):
        return {**compose(["experiment=cnn"]), "name": "demo/guided", "needs": {"teacher": command}}

    assert (
        plan(guided(["experiment=cnn"]), compose).identity
        == plan(guided(["seed=0", "experiment=cnn"]), compose).identity
    )


def test_order_and_sharing():
    tree = plan(compose(["experiment=transfer"]), compose)
    assert [p.name for p in tree.prerequisites()] == ["t/source", "t/generator"]
    assert [line.split("/")[1] for line in tree.lines()] == ["transfer", "source", "generator", "source"]
    assert list(tree.lines())[3].startswith("    source: t/source/")


def test_circle():
    with pytest.raises(UserError, match="c/hen -> c/egg -> c/hen"):
        plan(compose(["experiment=hen"]), compose)
    with pytest.raises(UserError, match="c/egg -> c/hen -> c/egg"):
        plan(compose(["experiment=hen", "seed=7"]), compose)


@pytest.mark.parametrize(
    "needs", ["experiment=cnn", ["experiment=cnn"], {"t": "experiment=cnn"}, {"t": [1]}, {"t": None}]
)
def test_malformed(needs):
    with pytest.raises(UserError, match="list of overrides"):
        plan({"name": "a/b", "needs": needs}, compose)


def test_no_needs():
    for config in ({"name": "a/b"}, {"name": "a/b", "needs": None}, {"name": "a/b", "needs": {}}):
        assert plan(config, compose).prerequisites() == []


def test_what_a_need_inherits():
    parent = {
        "name": "demo/guided",
        "runs_dir": "/big/disk",
        "logger": "wandb",
        "rerun": True,
        "hardware": {"devices": 2, "threads": 4},
        "data": {"name": "digits", "_reads_": "published", "root": "/here", "cache_mb": 5},
    }
    free = plan({**parent, "needs": {"t": ["experiment=cnn"]}}, compose).needs["t"].config
    assert free["runs_dir"] == "/big/disk" and free["logger"] == "wandb" and free["hardware"]["devices"] == 2
    assert free["rerun"] is False
    assert free["data"] == parent["data"]
    own = ["experiment=cnn", "hardware.devices=1", "logger=none", "data.root=/mine"]
    bound = plan({**parent, "needs": {"t": own}}, compose).needs["t"].config
    assert bound["hardware"] == {"devices": 1, "threads": 1} and bound["logger"] == "none"
    assert bound["data"]["root"] == "/mine"
    other = (
        plan({**parent, "needs": {"t": ["experiment=cnn", "data.name=cifar10"]}}, compose).needs["t"].config
    )
    assert other["data"] == {"name": "cifar10", "_reads_": "published", "root": "default"}


def _execute(done, seconds=0.0):
    def execute(planned, run):
        with run.lock():
            run.begin(planned.config, {})
            time.sleep(seconds)
            done.append(planned.name)
            run.complete({})

    return execute


def test_ensure_makes_missing_and_reuses_finished(tmp_path):
    store, done = Store(tmp_path), []
    tree = plan(compose(["experiment=transfer"]), compose)
    ensure(tree, store, _execute(done))
    assert done == ["t/source", "t/generator"]
    ensure(tree, store, _execute(done))
    assert len(done) == 2
    assert store.at(tree.key).state is State.MISSING  # the run itself is the caller's


def test_two_sweeps_make_a_need_once(tmp_path):
    store, done = Store(tmp_path), []
    tree = plan(compose(["experiment=generator"]), compose)
    threads = [threading.Thread(target=ensure, args=(tree, store, _execute(done, 0.4))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == ["t/source"]


def test_a_need_that_does_not_finish(tmp_path):
    tree = plan(compose(["experiment=generator"]), compose)
    with pytest.raises(UserError, match=r"t/generator/\w+ needs t/source/\w+"):
        ensure(tree, Store(tmp_path), lambda planned, run: run.begin(planned.config, {}))
