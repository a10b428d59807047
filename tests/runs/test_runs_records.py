"""Records: whole or old, never half; strict JSON; a metrics file that a kill cannot damage."""

import errno
import json
import math
import os
import random
import subprocess
import sys
import time
import zipfile
from contextlib import nullcontext

import pytest

from tutelage.errors import UserError
from tutelage.runs import json_lines, records
from tutelage.runs.bounded import DEPTH, check_archive, check_yaml
from tutelage.runs.json_lines import MetricsWriter, read_metrics
from tutelage.runs.records import read_json, read_yaml, replacing, write_json, write_yaml


def test_json_is_strict_and_keeps_what_is_not_finite(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"loss": math.nan, "up": [math.inf, -math.inf], "name": "ünï", "n": 3, "pair": (1, 2)})
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    value = read_json(path)
    assert math.isnan(value["loss"]) and value["up"] == [math.inf, -math.inf]
    assert value["name"] == "ünï" and value["n"] == 3 and value["pair"] == [1, 2]


def test_damaged_files_are_named(tmp_path):
    for name, read in (("a.json", read_json), ("a.yaml", read_yaml)):
        path = tmp_path / name
        for text in (
            ("", "{", "[1, 2", "- 1\n- 2", '"just text"') if read is read_yaml else ("", "{", '{"a": 1')
        ):
            path.write_text(text)
            with pytest.raises(UserError, match=name):
                read(path)


def test_yaml_cannot_run_code(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: !!python/object/apply:os.system ['touch hacked']\n")
    with pytest.raises(UserError, match="damaged"):
        read_yaml(path)


def test_yaml_round_trip_exact(tmp_path):
    value = {
        "b": 1e-5,
        "a": 1.0,
        "s": "1e-5",
        "t": "yes",
        "n": None,
        "l": [1, [2.5]],
        "big": 10**20,
        "x": {"y": {}},
    }
    write_yaml(tmp_path / "a.yaml", value)
    back = read_yaml(tmp_path / "a.yaml")
    assert back == value and list(back) == list(value)
    assert [type(v) for v in back.values()] == [type(v) for v in value.values()]


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "last.ckpt"
    path.write_text("old")
    with pytest.raises(OSError), replacing(path) as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_full_disk_at_sync_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_json(path, {"old": True})

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError):
        write_json(path, {"old": False})
    assert read_json(path) == {"old": True}


def test_keep_the_previous(tmp_path):
    last, previous = tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    for content in ("1", "2", "3"):
        with replacing(last, keep=previous) as temporary:
            temporary.write_text(content)
    assert (last.read_text(), previous.read_text()) == ("3", "2")
    assert not last.samefile(previous)


def test_keep_without_links(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    last, previous = tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    for content in ("1", "2"):
        with replacing(last, keep=previous) as temporary:
            temporary.write_text(content)
    assert (last.read_text(), previous.read_text()) == ("2", "1")


def _steps(path):
    return [row["step"] for row in read_metrics(path).rows]


def test_metrics_append_and_flush(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path) as writer:
        writer.write({"step": 1, "train/loss": 2.0})
        assert not path.exists()
        writer.flush()
        writer.write({"step": 2, "train/loss": math.nan})
    with MetricsWriter(path) as writer:
        writer.write({"step": 3, "validation/accuracy": 0.5})
    rows, dropped = read_metrics(path)
    assert [row["step"] for row in rows] == [1, 2, 3] and not dropped
    assert math.isnan(rows[1]["train/loss"])
    with pytest.raises(ValueError, match="step"):
        writer.write({"loss": 1.0})


def test_aliases_of_aliases_count_as_deep_as_they_are():
    def chain(length):
        return "\n".join(["a0: &a0 [1]", *(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, length))])

    check_yaml(chain(DEPTH - 3))
    with pytest.raises(ValueError, match="nested more than"):
        check_yaml(chain(DEPTH + 3))


@pytest.mark.parametrize(("stored", "refused"), [(True, False), (False, True)])
def test_an_archive_that_unpacks_to_far_more_than_it_is_is_refused(tmp_path, stored, refused):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(2 * 2**20))
    with pytest.raises(UserError, match=r"0\.0 MB would unpack to 2 MB") if refused else nullcontext():
        check_archive(path)
    check_archive(path, 2 * 2**20)
    with pytest.raises(UserError, match="would unpack to 2 MB"):
        check_archive(path, 2 * 2**20 - 1)


def test_resume_drops_what_lies_beyond(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = MetricsWriter(path)
    for step in range(1, 8):
        writer.write({"step": step})
    writer.flush()
    writer.write({"step": 99})  # never on the disk: a new process would not have it
    assert writer.truncate_after(4) == 3
    writer.write({"step": 5})
    writer.close()
    assert _steps(path) == [1, 2, 3, 4, 5]
    assert MetricsWriter(tmp_path / "none.jsonl").truncate_after(0) == 0
    before = path.stat()
    assert MetricsWriter(path).truncate_after(5) == 0
    after = path.stat()  # nothing is written where nothing lies beyond
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("cut", range(1, 30))
def test_torn_at_any_byte(tmp_path, cut):
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path) as writer:
        writer.write({"step": 1, "a": 1})
        writer.write({"step": 22, "validation/accuracy": 0.5})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - cut])
    rows, dropped = read_metrics(path)
    whole = cut == 1  # only the newline is gone
    assert [r["step"] for r in rows] == ([1, 22] if whole else [1])
    assert len(dropped) == (0 if whole else 1) and all("line 2" in d for d in dropped)
    with MetricsWriter(path) as writer:
        writer.write({"step": 23})
    assert _steps(path) == ([1, 22, 23] if whole else [1, 23])
    assert not read_metrics(path).dropped


def test_broken_line_in_the_middle_is_named_and_skipped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n\xff\x00garbage\n[1]\n{"step": 2}\n')
    rows, dropped = read_metrics(path)
    assert [r["step"] for r in rows] == [1, 2]
    assert len(dropped) == 2 and "line 2" in dropped[0] and "line 3" in dropped[1]


def test_full_disk_keeps_file_and_rows(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    writer = MetricsWriter(path)
    writer.write({"step": 1})
    writer.flush()
    writer.write({"step": 2})
    real, calls = os.write, []

    def half_then_full(descriptor, data):
        calls.append(1)
        if len(calls) == 1:
            return real(descriptor, bytes(data)[:4])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(json_lines.os, "write", half_then_full)
    with pytest.raises(OSError):
        writer.flush()
    assert _steps(path) == [1]
    monkeypatch.undo()
    writer.flush()
    assert _steps(path) == [1, 2]


def test_append_json_line_mends_what_is_torn(tmp_path):
    path = tmp_path / "evaluations.jsonl"
    path.write_text('{"a": 1}\n{"a": 2')
    json_lines.append_json_line(path, {"a": math.nan})
    assert path.read_text() == '{"a": 1}\n{"a": "NaN"}\n'


def test_leftovers_of_killed_writers_are_cleared(tmp_path):
    (tmp_path / ".last.ckpt.123.tmp").write_text("half")
    (tmp_path / ".folder.9.tmp").mkdir()
    (tmp_path / "last.ckpt").write_text("whole")
    records.remove_temporaries(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


WRITE_FOR_EVER = """
import sys, itertools
from pathlib import Path
from tutelage.runs.json_lines import MetricsWriter
from tutelage.runs.records import replacing, write_json
folder = Path(sys.argv[1])
writer = MetricsWriter(folder / "metrics.jsonl")
print("started", flush=True)
for n in itertools.count():
    write_json(folder / "state.json", {"n": n, "text": "x" * 20000, "end": n})
    with replacing(folder / "last.ckpt", keep=folder / "previous.ckpt") as temporary:
        temporary.write_text(f"{n} " + "y" * 20000 + f" {n}")
    writer.write({"step": n})
    writer.flush()
"""


def test_killed_at_any_moment_everything_is_whole(tmp_path):
    random.seed(0)
    for _ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITE_FOR_EVER, str(tmp_path)], stdout=subprocess.PIPE
        )
        assert process.stdout.readline() == b"started\n"
        time.sleep(0.05 + 0.1 * random.random())
        process.kill()
        process.wait()
        process.stdout.close()
        state = read_json(tmp_path / "state.json")
        assert state["n"] == state["end"]
        for name in ("last.ckpt", "previous.ckpt"):
            first, _, last = (tmp_path / name).read_text().split(" ")
            assert first == last
        assert len(read_metrics(tmp_path / "metrics.jsonl").dropped) <= 1
        records.remove_temporaries(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"state.json", "last.ckpt", "previous.ckpt", "metrics.jsonl"}


def test_lines_that_do_not_name_a_quantity_are_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a/b": 1}\n{"step": 2, "c": 1}\n{"step": 3, "a\\/b": 3}\n{"a/b": \n')
    whole, some = read_metrics(path), read_metrics(path, "a/b")
    assert some.rows == [row for row in whole.rows if "a/b" in row] and some.dropped == whole.dropped
