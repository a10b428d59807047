"""`remove`, step by step: which runs stay and why, what is remembered of tables, and folders set aside."""

from __future__ import annotations

import json
import logging
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tutelage.cli.reader import Given
from tutelage.errors import UserError


@pytest.mark.parametrize(
    ("given", "chosen", "every"),
    [
        ({"flags": ["--all"]}, ["a/111111111111", "b/222222222222"], ["met"]),
        ({"names": ["a"]}, ["a/111111111111", "b/222222222222"], ["met", "others"]),
        ({"state": "failed"}, ["a/111111111111", "b/222222222222"], ["met"]),
        ({"flags": ["--all", "--checkpoints"]}, ["a/111111111111/checkpoints"], None),
        ({"names": ["a"], "flags": ["--archive"]}, ["archived a"], None),
    ],
)
@pytest.mark.parametrize("dry", [True, False])
def test_which_folders_are_removed(monkeypatch, tmp_path, given, chosen, every, dry):
    from tutelage.cli import remove
    from tutelage.reporting import collect, runs_table
    from tutelage.reporting.row import Row
    from tutelage.runs.run import State

    asked: list[Any] = []
    rows = [
        Row("a/111111111111", "a", 0, State.COMPLETE, {}, {}),
        Row("b/222222222222", "b", 0, State.FAILED, {}, {}),
    ]
    for folder in ("a/111111111111/checkpoints", "b/222222222222/checkpoints", "archived a"):
        (tmp_path / folder).mkdir(parents=True)
    given = dict(given)
    filters = dict.fromkeys(("state", "method", "data", "since", "before"), "")
    filters["state"] = given.pop("state", "")

    def filtered(store, under, met, **more):
        asked.append((under, more))
        met["m"] = "met"
        return rows

    monkeypatch.setattr(runs_table, "filtered_rows", filtered)
    monkeypatch.setattr(collect, "collect", lambda store, met: [*met.values(), "others"])
    monkeypatch.setattr(remove, "archived", lambda store, name: [tmp_path / f"archived {name}"])
    monkeypatch.setattr(remove, "removable", lambda store, rows, name, every: asked.append(every) or rows)
    monkeypatch.setattr(remove, "finish", lambda store: asked.append("finish"))
    monkeypatch.setattr(remove, "remove", lambda store, folders, runs: asked.append((folders, runs)) or 1)
    flags = [*given.pop("flags", []), *(["--dry"] if dry else ["--yes"])]
    code = remove.run(Given(**given, flags=flags, options=filters | {"runs_dir": str(tmp_path)}))
    of_runs = not {"--archive", "--checkpoints"} & set(flags)
    name = given.get("names", [""])[0]
    expected: list[Any] = [] if dry else ["finish"]
    expected.append((name, {key: value or None for key, value in filters.items()} | {"settings": []}))
    expected += [every] if of_runs else []
    if not dry:
        expected.append(([tmp_path / folder for folder in chosen], of_runs))
    assert asked == expected and code == (0 if dry else 1)


def test_tables_that_need_runs_are_those_of_the_folder_but_programmes(monkeypatch, tmp_path, caplog):
    from tutelage.cli import remove

    caplog.set_level(logging.INFO, "tutelage")
    assert remove.owners_of(tmp_path / "none") == {}
    assert caplog.messages == [
        f"there is no folder {tmp_path}/none here, so no table is known that needs a run"
    ]
    caplog.clear()
    for name in ("p/a", "programmes/b", "p/c", "p/broken"):
        path = tmp_path / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text("[train, name=x/y, name=z]" if name == "p/broken" else "")

    def load(path):
        if path.stem == "broken":
            raise UserError("not read")
        return SimpleNamespace(arms=[SimpleNamespace(command=f"{path.stem}{number}") for number in (1, 2)])

    monkeypatch.setattr("tutelage.reporting.table_file.load", load)
    monkeypatch.setattr("tutelage.config.names.NameFinder", lambda: lambda command: [command, "shared"])
    monkeypatch.setattr("tutelage.config.names.files_remembered", nullcontext)
    found = remove.owners_of(tmp_path)
    has, broken = (
        "a table has runs of this name: {}/p/{}.yaml",
        f"a table cannot be read: {tmp_path}/p/broken.yaml",
    )
    assert found == {
        "a1": has.format(tmp_path, "a"), "a2": has.format(tmp_path, "a"), "shared": has.format(tmp_path, "a"),
        "c1": has.format(tmp_path, "c"), "c2": has.format(tmp_path, "c"),
        f"{remove.name_of(tmp_path / 'p/broken.yaml')}/": broken, "x/y": broken, "z": broken,
    }  # fmt: skip
    assert caplog.messages == [
        "reading the needs of 3 tables", "a table cannot be read, so all its runs stay: not read",
    ]  # fmt: skip


IDS = [f"{number:012x}" for number in range(1, 5)]


@pytest.mark.parametrize(
    ("under", "rows", "owners", "going", "kept"),
    [
        ("b", ["b/other/0"], {}, ["b/other/0"], {}),  # the name goes, its run stays
        ("a", ["a/x/0"], {}, [], {"also called b/other": "a/x/0"}),
        ("a", ["a/x/1"], {}, ["a/x/1"], {}),
        ("", ["a/x/0", "b/other/0"], {}, ["a/x/0", "b/other/0"], {}),
        (
            "",
            ["a/x/0", "b/other/0"],
            {"b/other": "a table"},
            [],
            {"a table": "a/x/0 b/other/0"},
        ),
        ("a/x/0", ["a/x/0"], {}, [], {"also called b/other": "a/x/0"}),  # one run, by its identity
        ("a/x/1", ["a/x/1"], {"a": "not this one"}, ["a/x/1"], {}),
        ("a/x/2", ["a/x/2"], {}, ["a/x/2"], {}),  # its other name lies beside it
    ],
)
def test_of_runs_with_several_names(monkeypatch, caplog, under, rows, owners, going, kept):
    from tutelage.cli import remove
    from tutelage.reporting.row import Row
    from tutelage.runs.run import State

    def full(key):
        return f"{key[:-1]}{IDS[int(key[-1])]}" if key[-1:].isdigit() else key

    caplog.set_level(logging.INFO, "tutelage")
    monkeypatch.setattr(remove, "owners_of", lambda tables, store: owners)
    others = {IDS[0]: ["b/other"], IDS[2]: ["a/x/beside"]}
    store: Any = SimpleNamespace(other_names=lambda: others, name_in=lambda what: full(what))
    given = [Row(full(key), key.rpartition("/")[0], 0, State.COMPLETE, {}, {}) for key in rows]
    found = remove.removable(store, given, under, given)
    assert [row.key for row in found] == [full(key) for key in going]
    assert caplog.messages == [
        f"kept: {', '.join(full(key) for key in keys.split())} ({why})" for why, keys in kept.items()
    ]


def test_of_many_runs_that_stay_for_one_reason_three_are_named(monkeypatch, caplog):
    from tutelage.cli import remove
    from tutelage.reporting.row import Row
    from tutelage.runs.run import State

    caplog.set_level(logging.INFO, "tutelage")
    monkeypatch.setattr(remove, "owners_of", lambda tables, store: {"a": "a table", "b": "another"})
    store: Any = SimpleNamespace(other_names=dict, name_in=lambda what: what)
    rows = [
        Row(f"{name}/{number:012x}", name, 0, state, {}, {})
        for name, count, state in (
            ("b", 3, State.COMPLETE),
            ("a", 5, State.COMPLETE),
            ("c", 1, State.RUNNING),
        )
        for number in range(count)
    ]
    assert remove.removable(store, rows, "", rows) == []
    ids = [f"{number:012x}" for number in range(3)]
    assert caplog.messages == [
        f"kept: {', '.join(f'a/{one}' for one in ids)} and 2 others (a table)",
        f"kept: {', '.join(f'b/{one}' for one in ids)} (another)",
        f"kept: c/{ids[0]} (running)",
    ]


def test_what_a_table_needs_is_remembered_while_nothing_that_it_follows_from_changes(monkeypatch, tmp_path):
    from tutelage.cli import remove
    from tutelage.config import groups
    from tutelage.runs import provenance

    read: list[str] = []
    damaged: set[str] = set()
    code = ["one"]
    conf, tables = tmp_path / "conf", tmp_path / "tables"
    for path in (conf / "a.yaml", tables / "a.yaml", tables / "b.yaml"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("x: 1")

    def names_in(paths):
        read.extend(path.stem for path in paths)
        return {path: [f"of-{path.stem}"] for path in paths}, {path for path in paths if path.stem in damaged}

    monkeypatch.setattr(groups, "folders", lambda: [conf])
    monkeypatch.setattr(provenance, "code_digest", lambda: code[0])
    monkeypatch.setattr(remove, "_names_in", names_in)
    store: Any = SimpleNamespace(root=tmp_path / "runs")
    kept = tmp_path / "runs/.index/owners.json"

    def anew():
        """Ask twice; return what was read for it. The answer is that of reading all."""
        read.clear()
        twice = [remove.owners_of(tables, store) for _ in range(2)]
        found = list(read)
        assert twice == [remove.owners_of(tables)] * 2
        return found

    assert anew() == ["a", "b"] and kept.is_file()
    changes = [
        (lambda: code.__setitem__(0, "two"), ["a", "b"]),
        (lambda: (conf / "a.yaml").write_text("x: 2"), ["a", "b"]),
        (lambda: (tables / "a.yaml").write_text("x: 3"), ["a"]),
        (lambda: (tables / "a.yaml").rename(tables / "c.yaml"), ["c"]),
        (lambda: (tables / "new.yaml").touch(), ["new"]),
        (lambda: (tables / "b.yaml").unlink(), []),
        (lambda: kept.write_text("torn"), ["c", "new"]),
        (lambda: kept.write_text("[1]"), ["c", "new"]),
        (lambda: kept.write_text(json.dumps(dict.fromkeys(json.loads(kept.read_text()), 3))), ["c", "new"]),
        (kept.unlink, ["c", "new"]),
        # What a variable holds no digest knows; a table that cannot be read is to be named each time.
        (lambda: (tables / "c.yaml").write_text("x: ${oc.env:PLACE}"), ["c", "c"]),
        (lambda: (damaged.add("new"), (tables / "new.yaml").write_text("[")), ["c", "new", "c", "new"]),
        (lambda: (conf / "a.yaml").write_text("x: ${oc.env:PLACE}"), ["c", "new", "c", "new"]),
    ]
    for change, expected in changes:
        change()
        assert anew() == expected
    assert len(json.loads(kept.read_text())) == 2  # nothing of b, which is no longer there


@pytest.mark.parametrize("kind", ["runs", "checkpoints", "archive"])
def test_folders_are_set_aside_under_the_lock_of_their_run(monkeypatch, tmp_path, capsys, kind):
    from tutelage.cli import remove

    events: list[Any] = []
    there = {"free", "busy", "begun"}

    class Run:
        def __init__(self, folder, root):
            self.folder, self.identity, self.is_complete = folder, folder.name, folder.name != "begun"

        def lock_now(self):
            if self.folder.name == "busy":
                raise remove.RunBusy("it is busy")
            return nullcontext(events.append(("lock", self.folder.name)))

        def set_aside(self):
            events.append(("aside", self.folder.name))
            return [Path("aside") / self.folder.name]

    def set_aside(folder, root):
        events.append(("aside", str(folder.relative_to(tmp_path))))
        return Path("aside") / folder.parent.name

    monkeypatch.setattr(remove, "Run", Run)
    monkeypatch.setattr(remove, "set_aside", set_aside)
    monkeypatch.setattr(
        remove, "finish", lambda store, aside: events.append(("finish", [str(one) for one in aside]))
    )
    store: Any = SimpleNamespace(root=tmp_path, forget_links=lambda gone: events.append(("forget", gone)))
    end = {"runs": "", "checkpoints": "checkpoints", "archive": ".archive/one"}[kind]
    names = [*sorted(there), "gone"] if kind != "archive" else ["free"]
    for name in there:
        (tmp_path / name / end).mkdir(parents=True)
    folders = [tmp_path / name / end for name in names]
    code = remove.remove(store, folders, runs=kind == "runs")
    if kind == "archive":
        assert events == [("aside", "free/.archive/one"), ("finish", ["aside/.archive"]), ("forget", [])]
        assert code == 0 and capsys.readouterr().out == "removed 1 folder\n"
        return
    assert code == 1 and capsys.readouterr().out == "removed 3 folders\n"
    if kind == "runs":
        locked = [(what, name) for name in ("begun", "free") for what in ("lock", "aside")]
        ends = [("finish", ["aside/begun", "aside/free"]), ("forget", ["begun", "free"])]
    else:  # of a run that is not complete they are what it resumes from
        locked = [("lock", "begun"), ("lock", "free"), ("aside", "free/checkpoints")]
        ends = [("finish", ["aside/free"]), ("forget", [])]
    assert events == [*locked, ("lock", "gone"), *ends]
