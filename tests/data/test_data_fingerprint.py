"""A folder is walked once while it stays as it is, and what changed in it is never missed."""

from __future__ import annotations

import importlib
import io
import os
import random
import shutil
import tarfile
import time
import types
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tutelage.data import cache
from tutelage.data import fingerprint as module
from tutelage.data.fingerprint import fingerprint
from tutelage.errors import UserError
from tutelage.runs import digests


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what was written just now, too: the tests do not wait."""
    digests._kept.clear()
    monkeypatch.setattr(digests, "FRESH_S", 0.0)


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    walk = module.walk
    monkeypatch.setattr(module, "walk", lambda root, *more: found.append(str(root)) or walk(root, *more))
    return found


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Stand still, but for what a test adds."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def fill(root: Path, files: int, folders: int = 3) -> Path:
    for place in range(files):
        file = root / f"class-{place % folders}" / f"{place:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes([place % 256] * (10 + place)))
    settle()
    return root


def settle() -> None:
    """Let the clock of the file system go on: what has this moment's time is not kept."""
    time.sleep(0.02)


def truth(root: Path, kind: str | None = "images") -> str:
    kept = dict(digests._kept)
    digests._kept.clear()
    try:
        return fingerprint(root, kind)
    finally:
        digests._kept.clear()
        digests._kept.update(kept)


def test_a_folder_is_walked_once_for_many_commands_and_each_kind_and_place_has_its_own(
    tmp_path: Path, walks: list[str], monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    one, other = fill(tmp_path / "one", 100), fill(tmp_path / "other", 30)
    (one / "class-0" / "note.txt").write_text("x")
    settle()
    found = [fingerprint(*of) for of in [(one, "images"), (one,), (other, "images")] * 50]
    assert len(walks) == 3 == len(set(found))
    monkeypatch.chdir(one)
    assert fingerprint(".", "images") == found[0] and len(walks) == 3
    monkeypatch.chdir(other)
    assert fingerprint(".", "images") == found[2] and len(walks) == 3
    link = tmp_path / "link"
    link.symlink_to(one)
    assert fingerprint(link, "images") == found[0]
    link.unlink()
    link.symlink_to(other)
    assert fingerprint(link, "images") == found[2]


def test_what_a_known_folder_costs_does_not_grow_with_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    calls: list[object] = []
    real = os.stat
    counted = types.SimpleNamespace(**{**vars(os), "stat": lambda path: calls.append(path) or real(path)})
    asked = []
    for files in (200, 1_200):
        root = fill(tmp_path / f"{files}", files)
        first = fingerprint(root, "images")
        with monkeypatch.context() as patch:
            patch.setattr(digests, "os", counted)
            calls.clear()
            assert [fingerprint(root, "images") for _ in range(10)] == [first] * 10
        asked.append(len(calls))
    assert asked == [10 * (4 + 64)] * 2  # the root, three classes, and the files whose beginnings count


CHANGES: dict[str, Callable[[Path], object]] = {
    "added": lambda root: (root / "class-1" / "new.png").write_bytes(b"x"),
    "removed": lambda root: (root / "class-1" / "001.png").unlink(),
    "renamed": lambda root: (root / "class-1" / "001.png").rename(root / "class-1" / "a.png"),
    "moved": lambda root: (root / "class-1" / "001.png").rename(root / "class-2" / "001.png"),
    "replaced": lambda root: (tmp := root.parent / "t").write_bytes(b"z") and tmp.rename(root / "class-1" / "001.png"),
    "another folder": lambda root: fill(root / "more", 2),
    "a folder gone": lambda root: shutil.rmtree(root / "class-2"),
    "a folder renamed": lambda root: (root / "class-2").rename(root / "class-9"),
    "all rewritten": lambda root: [file.write_bytes(file.read_bytes()[::-1] + b"-") for file in root.rglob("*.png")],
    "the root replaced": lambda root: (root.rename(root.parent / "old"), fill(root, 33)),
}  # fmt: skip


@pytest.mark.parametrize("files", [12, 200])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen_at_once(tmp_path: Path, files: int, change: str, clock: list[float]) -> None:
    root = fill(tmp_path / "set", files)
    before = fingerprint(root, "images")
    CHANGES[change](root)
    assert fingerprint(root, "images") == truth(root) != before


def test_a_file_that_is_rewritten_in_its_place_is_seen_at_once_among_few_and_within_a_share_of_the_time_among_many(
    tmp_path: Path, walks: list[str], clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    few, many = fill(tmp_path / "few", 16), fill(tmp_path / "many", 200)
    before = fingerprint(few)
    (few / "class-1" / "001.png").write_bytes(b"of another size")
    assert fingerprint(few) == truth(few, None) != before
    of_files, took = module.of_files, 2.0

    def slowly(*given: object) -> str:
        clock[0] += took
        return of_files(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "of_files", slowly)
    for took, bound in ((2.0, 40.0), (50.0, 60.0)):
        before = fingerprint(many)
        known_since = clock[0]
        (many / "class-1" / "001.png").write_bytes(b"of another size" * int(took))
        walks.clear()
        clock[0] = known_since + bound - 0.1
        assert fingerprint(many) == before and not walks
        clock[0] = known_since + bound + 0.1
        assert fingerprint(many) != before and walks
        settle()
        digests._kept.clear()


def test_what_was_written_just_now_is_read_anew_each_time(
    tmp_path: Path, walks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "FRESH_S", 2.0)
    root, file = fill(tmp_path / "set", 30), tmp_path / "table.csv"
    times = root.stat().st_mtime_ns
    fingerprint(root)
    (root / "class-0" / "new.png").write_bytes(b"x")
    os.utime(root / "class-0", ns=(times, times))  # as a clock would that is too coarse
    assert fingerprint(root) == truth(root, None) and len(walks) == 3
    found = set()
    for text in "abc":
        file.write_text(text)
        os.utime(file, ns=(times, times))
        found.add(fingerprint(file))
    assert len(found) == 3


def test_a_file_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "table.csv"
    file.write_text("a,b\n1,2\n")
    settle()
    read: list[object] = []
    of_bytes = digests.hashlib.file_digest
    monkeypatch.setattr(digests.hashlib, "file_digest", lambda *given: read.append(given) or of_bytes(*given))
    assert len({fingerprint(file) for _ in range(20)}) == 1 == len(read)
    before, status = fingerprint(file), file.stat()
    file.write_text("a,b\n1,3\n")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # the same size and time
    assert fingerprint(file) != before
    file.unlink()
    with pytest.raises(UserError, match="there is no file"):
        fingerprint(file)


def test_whatever_happens_to_a_folder_the_answer_is_that_of_a_fresh_walk(tmp_path: Path) -> None:
    """Against a process that knows nothing; files among many are written to whole folders at a time."""
    draw = random.Random(3)
    root = fill(tmp_path / "set", 40)
    for turn in range(150):
        folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
        files = [path for path in root.rglob("*.png") if path.is_file()]
        where = draw.choice(folders)
        match draw.randrange(7):
            case 0:
                (where / f"{turn}.png").write_bytes(b"x" * turn)
            case 1 if files:
                draw.choice(files).unlink()
            case 2 if files:
                draw.choice(files).rename(where / f"moved-{turn}.png")
            case 3:
                (where / f"folder-{turn}").mkdir()
            case 4 if where != root:
                shutil.rmtree(where)
            case 5 if files:
                (where / f"link-{turn}.png").symlink_to(draw.choice(files).resolve())
            case 6:
                for file in files:
                    file.write_bytes(b"y" * turn)
        for kind in ("images", None):
            try:
                expected = truth(root, kind)
            except UserError as error:  # a link to a file that is gone
                with pytest.raises(UserError) as raised:
                    fingerprint(root, kind)
                assert str(raised.value) == str(error)
                for link in root.rglob("link-*"):
                    if not link.exists():
                        link.unlink()
            else:
                assert fingerprint(root, kind) == expected, turn


def test_what_is_kept_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "_MOST", 5)
    for place in range(9):
        (tmp_path / f"{place}.csv").write_text(str(place))
    settle()
    for place in range(9):
        fingerprint(tmp_path / f"{place}.csv")
    assert [Path(key[1]).name for key in digests._kept] == [f"{place}.csv" for place in range(4, 9)]  # type: ignore[index]


def images(root: Path) -> Path:
    for number in range(24):
        file = root / ("dog" if number % 2 else "cat") / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), number, dtype=np.uint8)).save(file)
    return root


def tars(root: Path) -> Path:
    images(root.parent / "plain")
    root.mkdir()
    with tarfile.open(root / "0.tar", "w") as archive:
        for file in sorted((root.parent / "plain").rglob("*.png")):
            archive.add(file, f"{file.stem}.png")
            label = tarfile.TarInfo(f"{file.stem}.cls")
            label.size = 3
            archive.addfile(label, io.BytesIO(file.parent.name.encode()))
    return root


def written(text: str) -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        root.write_text(text)
        return root

    return write


ROWS = "".join(f"{date.fromordinal(730_000 + k)},{k * 2},{k % 2}\n" for k in range(60))
KINDS: dict[str, tuple[Callable[[Path], Path], str, dict[str, Any], str]] = {
    "table.Table": (written("a,y\n" + "1,0\n2,1\n" * 30), "", {"target": "y"}, "rows"),
    "series.Series": (
        written(f"date,b,y\n{ROWS}"),
        "",
        {"length": 4, "horizon": 2, "split": [30, 15, 15]},
        "rows",
    ),
    "text.Text": (written("one two three four five\n" * 40), "", {"length": 4}, "texts"),
    "image_folder.ImageFolder": (images, "cat/0.png", {"storage": "stream", "num_workers": 0}, "images"),
    "webdataset.WebDataset": (tars, "0.tar", {"storage": "stream", "num_workers": 0}, "images"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_changed_since_the_command_was_planned_is_not_read_in_the_name_of_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    make, file, options, what = KINDS[kind]
    module, name = kind.split(".")
    cls = getattr(importlib.import_module(f"tutelage.data.{module}"), name)
    root = make(tmp_path / "set")
    planned = fingerprint(root, "images" if name == "ImageFolder" else None)

    def opened() -> Any:
        data = cls(root=root, batch_size=2, fingerprint=planned, **options)
        data.setup()
        return data

    opened()
    before = opened().summary()["test_sha256"]
    where = root / file if file else root
    content = where.read_bytes()
    where.write_bytes(content + content[-64:])
    if what == "images":  # others of this process hold what they read
        with pytest.raises(UserError, match="are not those of `fingerprint`"):
            opened()
    else:
        assert opened().summary()["test_sha256"] == before
    for folder in (None, "another"):
        cache.forget()
        if folder is not None:
            monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / folder))
        elif what == "texts":  # the tokens are kept on the disk
            assert opened().summary()["test_sha256"] == before
            continue
        with pytest.raises(UserError, match=f"the {what} in .* are not those of `fingerprint`"):
            opened()
    where.write_bytes(content)
    assert opened().summary()["test_sha256"] == before
