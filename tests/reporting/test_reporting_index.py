"""The index is a cache alone: with it, reports see what a plain walk sees, whatever happened to the files in between."""

import json
import os
import shutil
import time
from multiprocessing import get_context

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tutelage.reporting import collect as collect_module
from tutelage.reporting.collect import Known, collect, group, row_of
from tutelage.reporting.index import Index, _signature
from tutelage.runs.store import Store


@pytest.fixture
def eager(monkeypatch):
    """Keep every run at once, however young its files are and however few there are."""
    monkeypatch.setattr(collect_module, "Index", lambda root: Index(root, fresh_s=0.0, worthwhile=1))


def plainly(store, under=""):
    return [row_of(run, store) for run in store.runs(under)]


def text_of(store):
    return (store.root / ".index" / "facts.txt").read_text("ascii")


def read_anew(store, monkeypatch):
    """Return how many runs a collection reads."""
    met = []
    read = Index.read
    monkeypatch.setattr(Index, "read", lambda self, run, state: (met.append(run), read(self, run, state))[1])
    collect(store)
    monkeypatch.setattr(Index, "read", read)
    return len(met)


def test_a_second_look_reads_no_run(store, make, eager, monkeypatch):
    runs = [make("demo/plain", seed, 0.5) for seed in range(3)] + [make("demo/other", 0, failed="ValueError")]
    assert read_anew(store, monkeypatch) == 4
    assert read_anew(store, monkeypatch) == 0
    assert collect(store) == plainly(store)
    shutil.rmtree(runs[0].path)
    make("demo/plain", 9, 0.5)
    assert read_anew(store, monkeypatch) == 1
    assert runs[0].key not in text_of(store) and len(collect(store)) == 4


def test_few_and_young_runs_are_not_kept(store, make):
    make("demo/plain", 0, 0.5)
    collect(store)
    assert not (store.root / ".index").exists()


def test_files_that_were_just_written_are_read_again(store, make):
    run = make("demo/plain", 0, 0.5)
    index = Index(store.root, fresh_s=5.0, worthwhile=1)
    row_of(run, store, Known(index))
    index.save("", {run.key})
    assert not index.path.exists()


STEPS = (
    "add",
    "fail",
    "begin",
    "need",
    "remove",
    "archive",
    "truncate",
    "edit",
    "touch",
    "config",
    "lose",
    "garble",
    "link",
    "name",
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 99)), min_size=1, max_size=12))
def test_whatever_happens_to_the_files_the_answers_are_those_of_a_plain_walk(
    make_at, eager, tmp_path_factory, steps
):
    store, make = make_at(tmp_path_factory.mktemp("runs"))
    for kind, number in steps:
        runs = list(store.runs())
        run = runs[number % len(runs)] if runs else make("demo/first", 0, 0.5)
        change(kind, number, run, store, make)
        for under in ("", "demo"):
            kept = collect(store, under)
            assert kept == plainly(store, under)
            assert group(kept) == group(plainly(store, under))


def change(kind, number, run, store, make):
    if kind == "add":
        make("demo/plain", number, number / 100, lr=number % 3)
    elif kind == "fail":
        make("demo/plain", number, failed="ValueError")
    elif kind == "begin":
        make("other/plain", number)
    elif kind == "need":
        make("demo/taught", number, 0.5, needs__teacher={"command": ["x"], "run": run.key})
    elif kind == "remove":
        run.remove()
    elif kind == "archive":
        run.archive()
    elif kind in ("truncate", "edit", "touch"):
        files = sorted(path for path in run.path.glob("*.*") if path.is_file())
        path = files[number % len(files)]
        if kind == "truncate":
            path.write_bytes(path.read_bytes()[: number % 50])
        elif kind == "edit":
            path.write_bytes(path.read_bytes().replace(b"0", b"1"))
        else:
            os.utime(path, (number, number))
    elif kind == "config":
        (run.path / "config.yaml").write_text(
            ["name: [", "a: 2020-01-01\nname: x\nneeds: {a: {run: 2020-01-01}}", "[]", ""][number % 4]
        )
    elif kind == "lose":
        shutil.rmtree(store.root / ".index", ignore_errors=True)
    elif kind == "garble" and (path := store.root / ".index" / "facts.txt").exists():
        data = bytearray(path.read_bytes())
        lines = path.read_bytes().split(b"\n")
        [
            lambda: path.write_bytes(data[: len(data) * number // 100]),
            lambda: path.write_bytes(
                b"\n".join(
                    line[: len(line) // 2] if place % 3 == 1 else line for place, line in enumerate(lines)
                )
            ),
            lambda: path.write_bytes(lines[0] + b"\n" + b"\n".join(lines[number % len(lines) + 1 :])),
            lambda: path.write_bytes(bytes([255]) * 100),
        ][number % 4]()
    elif kind == "link":
        link = store.root / "linked" / run.identity
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(run.path)
    elif kind == "name":
        (store.root / "moved").mkdir(exist_ok=True)
        shutil.move(run.path, store.root / "moved" / run.identity)


@pytest.mark.parametrize("kind", ["folder", "pipe", "link", "values"])
def test_an_index_of_anything_else_changes_nothing(store, make, eager, kind):
    make("demo/plain", 0, 0.5)
    collect(store)
    path = store.root / ".index" / "facts.txt"
    head, *lines = text_of(store).splitlines()
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("/dev/zero")
    else:
        runs = [line.rsplit("\t", 1)[0] for line in lines if not line.startswith("\t")]
        values = ["1", "[]", "null", '{"a": 1}', json.dumps([0] * 15), "[" * 100]
        for value in values:
            path.write_text("\n".join([head, *(f"{run}\t{value}" for run in runs), ""]))
            assert collect(store) == plainly(store)
        return
    assert collect(store) == plainly(store)


def test_a_run_of_another_kind_of_record_is_not_kept_and_hides_no_other(store, make, eager):
    good = make("demo/plain", 0, 0.5)
    large = make("demo/plain", 1, 0.5, notes="", more={f"key{i}": "x" * 50 for i in range(2_000)})
    result = make("demo/plain", 2, 0.5)
    value = json.loads((result.path / "result.json").read_text())
    (result.path / "result.json").write_text(
        json.dumps(value | {"best": {"step": 1, "test": {f"m{i}": 0.1 for i in range(9_000)}}})
    )
    pipe = make("demo/plain", 3, 0.5)
    (pipe.path / "setup.json").unlink(missing_ok=True)
    os.mkfifo(pipe.path / "setup.json")
    for _ in range(2):
        assert collect(store) == plainly(store)
    assert good.key in text_of(store)
    assert not any(run.key in text_of(store) for run in (large, result, pipe))
    assert len(text_of(store)) < 20_000


def test_several_writers_at_once_leave_a_whole_index_even_if_they_are_killed(store, make, eager):
    for seed in range(12):
        make("demo/plain", seed, 0.5)
    expected = plainly(store)
    context = get_context("fork")  # which has the eager index

    def write_for_ever():
        while True:
            shutil.rmtree(store.root / ".index", ignore_errors=True)
            collect(store)

    writers = [context.Process(target=write_for_ever) for _ in range(3)]
    for writer in writers:
        writer.start()
    for _ in range(10):
        assert collect(store) == expected
    for writer in writers:
        writer.kill()
        writer.join()
        assert collect(store) == expected
    assert text_of(store).count("demo/plain/") == 12


def test_what_killed_writers_left_is_cleared(store, make, eager):
    make("demo/plain", 0, 0.5)
    folder = store.root / ".index"
    folder.mkdir()
    (folder / ".facts.txt.1.tmp").write_text("x")
    (folder / ".facts.txt.2.tmp").write_text("y")
    os.utime(folder / ".facts.txt.1.tmp", (time.time() - 9_999,) * 2)
    collect(store)
    assert sorted(path.name for path in folder.iterdir()) == [".facts.txt.2.tmp", "facts.txt"]


def test_a_folder_that_cannot_be_written_is_read(store, make, eager, monkeypatch):
    make("demo/plain", 0, 0.5)
    (store.root / ".index").write_text("in its place")
    assert collect(store) == plainly(store)


def test_a_copy_of_a_store_is_read_anew(store, make, eager, tmp_path, monkeypatch):
    make("demo/plain", 0, 0.5)
    collect(store)
    shutil.copytree(store.root, tmp_path / "copy")
    copied = Store(tmp_path / "copy")
    assert read_anew(copied, monkeypatch) == 1


def test_a_signature_tells_a_change_that_keeps_size_and_time(store, make):
    run = make("demo/plain", 0, 0.5)
    path = run.path / "result.json"
    before, status = _signature(run.path, ("result.json",)), path.stat()
    time.sleep(0.02)
    path.write_bytes(path.read_bytes().replace(b"5", b"6"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size and _signature(run.path, ("result.json",)) != before
