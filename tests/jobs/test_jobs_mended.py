"""A run that stopped at images goes on where they were mended, and no other does."""

from __future__ import annotations

import pytest

from made_plans import plan
from tutelage.jobs import mended
from tutelage.runs.records import write_json, write_yaml
from tutelage.runs.store import Store


@pytest.fixture
def images(tmp_path):
    """Give a folder of three images and a note beside them."""
    folder = tmp_path / "set" / "a"
    folder.mkdir(parents=True)
    for name in ("1.png", "2.png", "3.png"):
        (folder / name).write_bytes(name.encode())
    (folder / "note.txt").touch()
    return folder.parent


@pytest.fixture
def stopped(tmp_path, images):
    """Give a function that makes the run which stopped at damaged images, and its plan as the data are now."""

    def make(damaged, seed=1, trained=True, **more):
        from tutelage.data.fingerprint import fingerprint

        data = {"root": str(images), "fingerprint": "before"}
        one = plan(tmp_path / "runs", seed, data=data | more)
        run = Store(tmp_path / "runs").at(one.key)
        run.path.mkdir(parents=True)
        write_yaml(run.path / "config.yaml", one.config)
        rest = fingerprint(images, "images", without=set(damaged))
        write_json(
            run.path / "failed.json", {"error": "UserError", "message": "", "damaged": damaged, "rest": rest}
        )
        if trained:
            (run.path / "checkpoints").mkdir()
            run.checkpoint("previous").touch()
        now = plan(tmp_path / "runs", 99, data=data | {"fingerprint": "now"})
        now.config["seed"] = seed
        return run, now, Store(tmp_path / "runs").at(now.key)

    return make


@pytest.mark.parametrize(("trained", "before", "absent"), [
    (True, {}, ["a/2.png"]), (False, {}, None), (True, {"absent": ["a/0.png"]}, ["a/0.png", "a/2.png"]),
])  # fmt: skip
def test_a_run_that_stopped_at_images_goes_on_without_those_that_are_gone(
    tmp_path, images, stopped, lines, trained, before, absent
):
    old, one, run = stopped(["a/1.png", "a/2.png"], trained=trained, **before)
    (images / "a" / "2.png").unlink()
    one.config["data"] |= before
    assert mended.take_over(one, run, Store(tmp_path / "runs")) == {
        "continues": {
            "run": old.key, "fingerprints": ["before", "now"], "replaced_images": ["a/1.png"], "removed_images": ["a/2.png"],
        }
    }  # fmt: skip
    assert run.path.is_dir() and not old.path.exists()
    assert one.config["data"].get("absent") == (absent if trained else None)
    assert lines() == [
        f"{run.key} goes on where {old.key} stopped at images that it could not read: 1 were replaced, 1 removed since"
    ]


def nothing(*_):
    """Change nothing."""


def other_image(old, one, images):
    """Change an image that the run could read."""
    (images / "a" / "3.png").write_bytes(b"another")


def no_failure(old, one, images):
    """Make the run one that was interrupted."""
    (old.path / "failed.json").unlink()


def another_failure(old, one, images):
    """Make the run fail with something else."""
    write_json(old.path / "failed.json", {"error": "OSError", "message": ""})


def another_setting(old, one, images):
    """Ask for another run."""
    one.config["seed"] = 7


def same_data(old, one, images):
    """Say that the data are what they were."""
    one.config["data"]["fingerprint"] = "before"


def no_root(old, one, images):
    """Have data without a folder."""
    one.config["data"]["root"] = None


def no_mark(old, one, images):
    """Have data without a fingerprint."""
    one.config["data"]["fingerprint"] = None


def another_name(old, one, images):
    """Lie deeper than the plan's own name."""
    (old.path.parent / "deeper").mkdir()
    old.path.rename(old.path.parent / "deeper" / old.identity)


@pytest.mark.parametrize("change", [nothing, other_image, no_failure, another_failure, another_setting, same_data, no_root, no_mark,
                                    another_name])  # fmt: skip
def test_only_the_run_that_stopped_there_is_gone_on_with(tmp_path, images, stopped, change):
    old, one, run = stopped(["a/1.png"])
    change(old, one, images)
    taken = mended.take_over(one, run, Store(tmp_path / "runs"))
    assert bool(taken) == run.path.exists() == (change is nothing)


def test_a_run_that_exists_is_taken_over_from_no_other_nor_is_a_busy_one(tmp_path, stopped):
    old, one, run = stopped(["a/1.png"])
    run.path.mkdir()
    assert mended.take_over(one, run, Store(tmp_path / "runs")) == {} and old.path.is_dir()
    run.path.rmdir()
    with old.lock():
        assert mended.take_over(one, run, Store(tmp_path / "runs")) == {}


@pytest.mark.parametrize(("mark", "own", "need", "absent"), [
    ("f", ["a"], None, ["a"]), ("f", None, ["b"], ["b"]), ("f", ["a"], ["b"], ["a"]), ("f", None, None, None), (None, ["a"], ["b"], None),
    ("g", None, ["b"], None),  # a need with other data knows nothing of these
])  # fmt: skip
def test_absent_images_come_from_the_runs_own_past_or_its_needs(tmp_path, mark, own, need, absent):
    store = Store(tmp_path)
    below = plan(tmp_path, 2, data={"fingerprint": "f" if mark else None})
    one = plan(tmp_path, 1, [below], data={"fingerprint": mark})
    for of, known in ((one, own), (below, need)):
        path = store.at(of.key).path
        path.mkdir(parents=True)
        write_yaml(path / "config.yaml", {"data": {"absent": known} if known else {}})
    mended.carry_absent(one, store.at(one.key), store)
    assert one.config["data"].get("absent") == absent
    mended.carry_absent(plan(tmp_path, 5, data={"fingerprint": "f"}), store.at("x/000000000005"), store)
