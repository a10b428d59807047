"""Rules of data sets that no other test goes through: each at its bounds, each message as it stands."""

from __future__ import annotations

import datetime as dt
import errno
import importlib
import json
import logging
import math
import resource
import stat
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from expected import refused
from tutelage.data import (
    cache,
    csv_table,
    huggingface,
    image_check,
    image_folder,
    memory,
    pseudo,
    row_splits,
    splits,
    text_rows,
    vocabulary,
    walk,
)
from tutelage.data.base import SplitBatches
from tutelage.data.column_features import UNSEEN
from tutelage.data.csv_cells import _unpacked
from tutelage.data.frame import _file
from tutelage.data.image_folder import ImageFolder
from tutelage.data.image_set import ImageData
from tutelage.data.images import _labels
from tutelage.data.sequences import CopyPaste, Parity
from tutelage.data.series_file import _calendar
from tutelage.data.synthetic import Synthetic
from tutelage.data.table import Table
from tutelage.data.text import Text
from tutelage.data.text_rows import TextRows, _entries
from tutelage.data.vocabulary import special_tokens, tokenizer_file
from tutelage.errors import UserError

# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "said"),
    [(["a.csv"], None), (["d/", "d/a.csv"], None), (["a", "b"], "2 files"), (["d/"], "0 files")],
)
def test_an_archive_holds_one_file(tmp_path: Path, names: list[str], said: str | None) -> None:
    with zipfile.ZipFile(tmp_path / "a.ZIP", "w") as archive:
        for name in names:
            archive.writestr(name, "x,y")
    if said is None:
        assert _unpacked(tmp_path / "a.ZIP") == b"x,y"
    else:
        assert (
            refused(_unpacked, tmp_path / "a.ZIP")
            == f"{tmp_path}/a.ZIP holds {said}, where one is expected: unpack it"
        )


@pytest.mark.parametrize(("name", "kind"), [("a.parquet", "Parquet"), ("a.jsonl", "JSON lines")])
def test_a_table_that_is_no_such_file(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / name).write_bytes(b"{nothing")
    assert refused(_file, tmp_path / name, (), (), None).startswith(f"{tmp_path / name} is no {kind} file: ")


@pytest.mark.parametrize(
    ("limit", "pages", "room"),
    [(resource.RLIM_INFINITY, 3, None), (10**9, 3, 10**9 - 3 * 4096), (4096, 9, 0)],
)
def test_what_a_shell_s_limit_leaves(
    monkeypatch: pytest.MonkeyPatch, limit: int, pages: int, room: int | None
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    monkeypatch.setattr(resource, "getpagesize", lambda: 4096)
    texts = {"/proc/meminfo": "MemFree: 1 kB\nMemTotal: 4000000 kB\n", "/proc/self/statm": f"{pages} 1 1"}
    texts |= dict(zip(memory._CGROUPS, ("max", "5000000000"), strict=True))
    monkeypatch.setattr(memory, "Path", lambda path: SimpleNamespace(read_text=lambda: texts[path]))
    assert memory.room_bytes() == (4_096_000_000 if room is None else room)


def test_room_that_just_suffices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "room_bytes", lambda: 3 * 2**29)
    memory.check_fits(3 * 2**29, "they", "less")
    said = "they need 1.5 GB of memory, where 1.5 GB are all there is: less"
    assert refused(memory.check_fits, 3 * 2**29 + 1, "they", "less") == said


def test_links_to_nothing_and_to_themselves(tmp_path: Path) -> None:
    (tmp_path / "gone").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    said = refused(lambda: list(walk.walk(tmp_path)))
    assert (
        said
        == f"{tmp_path} has links that cannot be followed: gone (leads nowhere), loop (leads to itself). Mend or remove them"
    )


def test_a_file_whose_status_cannot_be_read_is_no_broken_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def status() -> Any:
        raise OSError(errno.EACCES, "not allowed")

    entry = SimpleNamespace(name="a", stat=status, is_symlink=lambda: False)
    monkeypatch.setattr(walk.os, "scandir", lambda folder: __import__("contextlib").nullcontext([entry]))
    assert refused(lambda: list(walk.walk(tmp_path))) == f"cannot read the folder {tmp_path}: not allowed"


def test_a_folder_below_two_links_is_followed_and_one_above_is_not(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x").touch()
    (tmp_path / "c").symlink_to("a")
    assert sorted(one.name for one in walk.walk(tmp_path)) == ["a/b/x", "c/b/x"]
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    said = refused(lambda: list(walk.walk(tmp_path / "a")))
    assert "b/up (leads back to a folder it lies in)" in said
    assert (
        walk.shown([f"n{k}" for k in range(3)], limit=2) == "n0, n1 and 1 more"
        and walk.shown(["a", "b"], limit=2) == "a, b"
    )
    assert walk.shown(map(str, range(1003)), limit=1) == "0 and 1,002 more"
    assert stat.S_ISREG((tmp_path / "a" / "b" / "x").stat().st_mode)


def test_how_far_the_looking_at_images_has_come(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(image_check, "PROGRESS_S", -1.0)
    monkeypatch.setattr(image_check, "in_threads", lambda count, work: map(work, range(count)))
    monkeypatch.setattr(
        image_check,
        "_row",
        lambda files, place, stamp: "no image" if place == 7 else (stamp, place, 0, 0.5, 8, 9),
    )
    paths = [f"{k}.png" for k in range(2000)]
    files = SimpleNamespace(form=SimpleNamespace(size=None), layout=SimpleNamespace(paths=paths))
    rows, reasons = image_check._look_at(files, range(3, 133), np.arange(2000, dtype=np.uint64))  # type: ignore[arg-type]
    assert rows["content"].tolist() == [k for k in range(3, 133) if k != 7] and reasons == {
        "7.png": "no image"
    }
    assert [one.getMessage() for one in caplog.records] == [
        f"looked at {k} of 130 images" for k in (64, 128, 130)
    ]
    monkeypatch.setattr(image_check, "PROGRESS_S", 0.0)
    monkeypatch.setattr(image_check, "time", SimpleNamespace(monotonic=lambda: 5.0))  # no more than that
    caplog.clear()
    image_check._look_at(files, range(70), np.arange(2000, dtype=np.uint64))  # type: ignore[arg-type]
    assert not caplog.records


@pytest.mark.parametrize(
    ("sizes", "two"),
    [([(4, 5)] * 3, None), ([(4, 5), (4, 5), (3, 5)], [10, 12]), ([(4, 5), (4, 6), (9, 9)], [10, 11])],
)
def test_images_of_another_size_are_named_with_the_first(
    sizes: list[tuple[int, int]], two: list[int] | None
) -> None:
    rows = np.zeros(3, dtype=image_check.ROW)
    rows["height"], rows["width"] = zip(*sizes, strict=True)
    stacked = []
    files = SimpleNamespace(
        attempt=lambda place: (None if place == 11 else place, None, ""),
        stack=lambda *given: stacked.append(given),
    )
    image_check._check_sizes(files, np.array([10, 11, 12]), rows)  # type: ignore[arg-type]
    assert stacked == ([] if two is None else [(two, [place for place in two if place != 11])])


def test_a_fingerprint_of_images_or_of_all_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_folder, "fingerprint_of", lambda root: "b" * 64)
    one: Any = object.__new__(ImageFolder)
    one.root = tmp_path
    for given, fine in (("a" * 64, True), ("b" * 64, True), ("c" * 64, False), ("short", True), (None, True)):
        one.fingerprint = given
        if fine:
            one._check_fingerprint("a" * 64)
        else:
            said = refused(one._check_fingerprint, "a" * 64)
            assert said.startswith(
                f"the images in {tmp_path} are not those of `fingerprint`=cccccccccccc...: "
            )


@pytest.mark.parametrize(("module", "kind", "call"), [
    ("series", "Series", "_file"), ("webdataset", "WebDataset", "content"), ("text", "Text", "_tokens"), ("table", "Table", "frame"),
    ("image_folder", "ImageFolder", "content"),
])  # fmt: skip
@pytest.mark.parametrize("given", ["mine", None])
def test_a_fingerprint_that_is_given_is_not_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, kind: str, call: str, given: str | None
) -> None:
    home = importlib.import_module(f"tutelage.data.{module}")
    where = importlib.import_module("tutelage.data.rows") if kind == "Table" else home
    monkeypatch.setattr(where, "fingerprint_of", lambda *words: "theirs")
    monkeypatch.setattr(cache, "remember", lambda key, make: key)
    (tmp_path / "t.txt").touch()
    one: Any = object.__new__(getattr(home, kind))
    one.__dict__.update(
        fingerprint=given,
        root=tmp_path / "t.txt",
        label="cls",
        label_key="l",
        reading={},
        reader=None,
        empty=(),
        decimal=None,
    )
    one.__dict__.update(dataset=None, level="word", min_count=1, tokenizer=None, fractions={}, files={})
    key = getattr(one, call)()
    assert one.fingerprint == key[1] == (given or "theirs")


def test_a_folder_of_images_stays_in_memory_up_to_a_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(8):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / name / f"{number}.png")
    size = 16 * 3 * 8 * 8
    for most, storage, streams in (
        (size, "auto", False), (size - 1, "auto", True), (size, "stream", True), (size - 1, "resident", False),
    ):  # fmt: skip
        monkeypatch.setattr(image_folder, "RESIDENT_BYTES", most)
        one = ImageFolder(
            root=tmp_path, batch_size=2, num_workers=0, image_size=8, split_seed=most, storage=storage
        )
        assert isinstance(one._read(one.content())[0].images, torch.Tensor) != streams


# --- images -------------------------------------------------------------------------------------------------------


def test_pixels_and_labels_of_images_without_classes() -> None:
    one: Any = object.__new__(Synthetic)
    for images, peak, expected in (
        (torch.tensor([0, 1, 15], dtype=torch.uint8), 15.0, [0, 17, 255]),
        (torch.tensor([0, 1, 255], dtype=torch.uint8), 255.0, [0, 1, 255]),
    ):  # fmt: skip
        one._images, one._peak = images, peak
        assert ImageData.unlabelled_pixels(one).tolist() == expected
    for other in (torch.zeros(3), None):
        one._images = other
        assert "must lie in memory, with 8 bits a value" in refused(ImageData.unlabelled_pixels, one)
    part = SimpleNamespace(data=np.zeros((3, 1)), labels=None)
    assert _labels(part).tolist() == [-1, -1, -1]
    assert (
        _labels(SimpleNamespace(data=[0, 0], labels=[2, 1])).tolist()
        == [2, 1]
        == _labels(SimpleNamespace(data=[0, 0], targets=[2, 1], labels=None)).tolist()
    )


@pytest.mark.parametrize(("wanted", "said"), [
    ("trained", "'train', null or two lists of 2"), ([[0.5, 0.5]], "two lists of 2"), ([[0.5, 0.5], [0.5]], "two lists of 2"),
    ([[0.5] * 2, [0.5, 0.0]], "must be positive, got [0.5, 0.0]"), ([[0.5] * 2, [0.5, -1]], "must be positive"),
    ([[0.0, 0.5], [0.25, 1]], None), (None, None),
])  # fmt: skip
def test_a_normalisation_that_is_given(wanted: Any, said: str | None) -> None:
    one = Synthetic(shape=(2, 4, 4), batch_size=4, normalization=wanted)
    if said is not None:
        assert said in refused(one.setup)
        return
    one.setup()
    scale, shift = one._affine(255.0)
    means, deviations = wanted or ([0.0, 0.0], [1.0, 1.0])
    pixels = torch.tensor([10.0, 200.0]).view(1, 2, 1, 1)
    slow = [(10 / 255 - means[0]) / deviations[0], (200 / 255 - means[1]) / deviations[1]]
    assert (pixels * scale + shift).flatten().tolist() == pytest.approx(slow, abs=1e-6)


@pytest.mark.parametrize(
    ("given", "root", "kept"), [("mine", "here", "mine"), (None, "here", "theirs"), (None, None, None)]
)
def test_the_fingerprint_of_a_set_is_taken_where_none_is_given(
    monkeypatch: pytest.MonkeyPatch, given: str | None, root: str | None, kept: str | None
) -> None:
    monkeypatch.setattr(huggingface, "fingerprint_of", lambda root: "theirs")
    monkeypatch.setattr(huggingface.cache, "remember", lambda key, make: key)
    one: Any = object.__new__(huggingface.HubImages)
    hub = SimpleNamespace(key=("x", None, None), root=root)
    one.__dict__.update(fingerprint=given, hub=hub, image="i", target="t", form=None)
    one.source()
    assert one.fingerprint == kept
    monkeypatch.setattr(
        huggingface, "TextRows", lambda **given: SimpleNamespace(fingerprint=given.get("fingerprint"))
    )
    for own, name, expected in (("mine", "n", "mine"), (None, "n", "n c None"), (None, None, None)):
        made = huggingface.load(text="t", name=name, root=None if name else "r", config="c", fingerprint=own)
        assert made.fingerprint == expected


def test_batches_of_a_part_are_every_so_many_of_the_plan() -> None:
    one = Synthetic(batch_size=4)
    one.setup()
    index = one.splits["train"][:10]
    batches = SplitBatches(one.store, index, batch_size=3)
    assert len(batches) == 4 and [batch.index.tolist() for batch in batches.part(1, 2)] == [
        index[3:6].tolist(),
        index[9:].tolist(),
    ]
    assert batches.part(1, 2) is batches.part(1, 2) is not batches.part(0, 2)
    assert len(SplitBatches(one.store, index[:0], batch_size=3)) == 0


# --- texts --------------------------------------------------------------------------------------------------------


def encoder(folder: Path, *words: str, special: tuple[str, ...] = (), unknown: str | None = None) -> Path:
    made = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=unknown or "none")
    )
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(list(special))
    made.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


@pytest.mark.parametrize(("words", "found"), [
    (["[PAD]", "[UNK]", "[MASK]"], (0, 1, 2)), (["<pad>", "<unk>", "<mask>"], (0, 1, 2)), (["<|endoftext|>", "a"], (0, None, None)),
    (["a", "[UNK]"], (None, 1, 1)), (["[UNK]", "<unk>", "[PAD]", "<pad>"], (2, 0, 0)), (["a"], (None, None, None)),
])  # fmt: skip
def test_the_tokens_that_are_no_text(words: list[str], found: tuple[int | None, ...]) -> None:
    added = {7: SimpleNamespace(special=True), 8: SimpleNamespace(special=False)}
    one = SimpleNamespace(
        get_vocab=lambda with_added_tokens: {w: k for k, w in enumerate(words)},
        get_added_tokens_decoder=lambda: added,
    )
    assert special_tokens(one) == (*found, [7])


def test_where_a_tokeniser_lies(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "t.json").touch()
    assert tokenizer_file("a", tmp_path) == tmp_path / "a" / "tokenizer.json"
    assert tokenizer_file("t.json", tmp_path) == tmp_path / "t.json" and tokenizer_file("t.json") == Path(
        "t.json"
    )
    assert (
        tokenizer_file("none.json", tmp_path) == Path("none.json")
        and tokenizer_file(tmp_path / "a") == tmp_path / "a" / "tokenizer.json"
    )


def text(tmp_path: Path, words: str = "a b c d e f g h i j k l m n o p q r s t", **options: Any) -> Text:
    (tmp_path / "t.txt").write_text(words)
    return Text(
        root=tmp_path / "t.txt",
        batch_size=2,
        **({"length": 3, "validation_fraction": 0.25, "test_fraction": 0.2} | options),
    )


def test_windows_of_a_text_and_what_of_it_may_be_masked(tmp_path: Path) -> None:
    one = text(tmp_path)
    one.setup()
    sizes = one.facts["tokens"]
    assert sum(sizes.values()) == 21  # with the end of the line
    assert {part: len(rows) for part, rows in one.splits.items()} == {
        part: (size - 1) // 3 for part, size in sizes.items()
    }
    assert one.facts["unused_tokens"] == {
        part: size - 1 - 3 * ((size - 1) // 3) for part, size in sizes.items()
    }
    assert one.unlabelled_tokens("all")[1:] == (0, [0])
    least = min(sizes.values())
    text(tmp_path, length=least - 1).setup()
    part = min(sizes, key=lambda name: sizes[name])
    said = refused(text(tmp_path, length=least).setup)
    assert said == f"the {part} text has {least} tokens: too few for one window of `length`={least}"
    for special, found in ((("[MASK]", "[UNK]"), 4), (("[UNK]",), 3)):
        names = ("a", "b", "c", "[UNK]", "[MASK]")[: 5 if "[MASK]" in special else 4]
        own = text(tmp_path, tokenizer=str(encoder(tmp_path, *names, special=special, unknown="[UNK]")))
        own.setup()
        assert own.unlabelled_tokens("all")[1:] == (found, sorted([names.index(name) for name in special]))
    bare = text(tmp_path, "a b c " * 9, tokenizer=str(encoder(tmp_path, "a", "b", "c")))
    bare.setup()
    assert (
        refused(bare.unlabelled_tokens, "all")
        == f"{tmp_path}/tokenizer.json has a token neither for what is masked nor for what is unknown"
    )


@pytest.mark.parametrize("own", [(), ("validation",), ("test",), ("validation", "test")])
def test_parts_of_a_text_without_a_file_are_cut_from_its_end(own: tuple[str, ...]) -> None:
    pieces = {
        "train": np.arange(20),
        **{part: 100 + np.arange(3) + 10 * place for place, part in enumerate(own)},
    }
    fractions = {"validation": 0.1, "test": 0.25}
    tokens, parts = vocabulary._joined(pieces, fractions)
    sizes = [0 if part in own else round(20 * fractions[part]) for part in ("validation", "test")]
    expected = {"train": list(range(20 - sum(sizes)))}
    expected["validation"] = list(range(20 - sum(sizes), 20 - sizes[1]))
    expected["test"] = list(range(20 - sizes[1], 20))
    expected |= {part: pieces[part].tolist() for part in own}
    assert {part: tokens[first:last].tolist() for part, (first, last) in parts.items()} == expected
    assert len(tokens) == sum(map(len, expected.values()))


def rows(tmp_path: Path, lines: list[str], **options: Any) -> TextRows:
    body = "".join(f"{line},{'ab'[place % 2]}\n" for place, line in enumerate(lines))
    (tmp_path / "r.csv").write_text("text,label\n" + body)
    return TextRows(
        root=tmp_path / "r.csv", batch_size=2, **({"length": 3, "test": 2, "validation": 2} | options)
    )


def test_pieces_of_a_tokeniser_row_by_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_rows, "_BLOCK", 3)
    lines = ["a b", "b a b a", "z a", "b", "a a a", "z z z z", "b b", "a", "b z", "a b a"]
    one = rows(
        tmp_path,
        lines,
        tokenizer=str(
            encoder(tmp_path, "a", "b", "[UNK]", "[PAD]", special=("[PAD]", "[UNK]"), unknown="[UNK]")
        ),
    )
    one.setup()
    number = {"a": 0, "b": 1, "z": 2}
    slow = [[number[word] for word in line.split()][:3] for line in lines]
    batch = one.store.batch(torch.arange(10), None)
    assert batch.inputs.tolist() == [row + [3] * (3 - len(row)) for row in slow]
    assert batch.mask.tolist() == [[k < len(row) for k in range(3)] for row in slow]
    assert one.facts["cut_texts"] == 2 and one.vocab_size == 4
    assert one.facts["unknown_tokens"] == {
        part: sum(row.count(2) for row in (slow[k] for k in index)) for part, index in one.splits.items()
    }
    assert one.unlabelled_tokens("all")[1:] == (2, [2, 3]) and one.unlabelled_tokens("train")[
        0
    ].tolist() == sorted(one.splits["train"].tolist())
    assert "all training rows have their targets" in refused(one.unlabelled_tokens, "rest")
    few = rows(tmp_path, lines, train_size=2)
    few.setup()
    rest = few.unlabelled_tokens("rest")[0]
    assert len(few.splits["train"]) == 2 and sorted([*rest, *few.splits["train"]]) == sorted(
        few.unlabelled_tokens("all")[0].tolist()
    )
    first = rows(
        tmp_path,
        lines,
        tokenizer=str(encoder(tmp_path, "[UNK]", "a", "b", special=("[UNK]",), unknown="[UNK]")),
    )
    first.setup()
    assert (
        first.facts["unknown_tokens"] == one.facts["unknown_tokens"]
    )  # though 0 stands behind the words, too
    bare = rows(tmp_path, ["a b", "b a"] * 5, tokenizer=str(encoder(tmp_path, "a", "b")))
    bare.setup()
    assert set(bare.facts["unknown_tokens"].values()) == {0}
    assert "has a token neither for what is masked" in refused(bare.unlabelled_tokens, "all")
    odd = rows(tmp_path, ["a b", "c"] * 5, tokenizer=str(tmp_path / "tokenizer.json"))
    assert refused(odd.setup).startswith(f"{tmp_path}/tokenizer.json cannot read a text: ")
    made = Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    made.save(str(tmp_path / "tokenizer.json"))
    gone = rows(tmp_path, ["a b", "c", "b a"] * 4, tokenizer=str(tmp_path / "tokenizer.json"))
    assert (
        refused(gone.setup)
        == f"{tmp_path}/r.csv: the tokeniser makes nothing of the text in row 2: remove it"
    )


@pytest.mark.parametrize("known", [("a", "b"), None])
def test_words_that_are_unknown_in_many_places_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, known: tuple[str, ...] | None
) -> None:
    why = "no training text has them, or fewer than 1 times (data.min_count)"
    more: dict[str, Any] = {}
    if known:
        why = "the tokeniser does not know them"
        more = {"tokenizer": str(encoder(tmp_path, *known, "[UNK]", special=("[UNK]",), unknown="[UNK]"))}
    (tmp_path / "set").mkdir()
    train = "".join(f"{'ab'[k % 2]} b,{k % 2}\n" for k in range(12))
    (tmp_path / "set" / "train.csv").write_text("text,label\n" + train)
    for tests, told in ((["a b c c c c", "b b b a"], 4), (["a b c c c", "b b b a b"], 3)):
        body = "".join(f"{line},{place}\n" for place, line in enumerate(tests))
        (tmp_path / "set" / "test.csv").write_text("text,label\n" + body)
        caplog.clear()
        TextRows(root=tmp_path / "set", batch_size=2, length=9, **more).setup()
        said = [one.getMessage() for one in caplog.records if "tokens of" in one.getMessage()]
        assert said == [f"{tmp_path}/set: 4 of the 10 tokens of the test texts are unknown: {why}"] * (
            told == 4
        )


@pytest.mark.parametrize(("least", "words"), [(1, ["b", "c", "a"]), (2, ["b", "c"]), (3, ["b"]), (4, [])])
def test_words_by_falling_count(least: int, words: list[str]) -> None:
    texts = [["b", "<unk>", "c"], ["b", "a", "c"], ["b", "<unk>", "x\0y"], ["<unk>", "x\0y", "x\0y"]]
    assert _entries(texts, least) == ["<pad>", "<unk>", *words]


def test_unknown_words_of_a_table_are_counted_by_part(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one: Any = object.__new__(Table)
    one.dataset, one.splits = (
        "f",
        {"train": np.array([0, 1]), "validation": np.array([2, 3]), "test": np.array([4, 5])},
    )
    found = Table._unknown(
        one,
        {
            "a": np.array([1, 1, 1, 1, 0, 0], bool),
            "b": np.array([1, 1, 0, 0, 0, 0], bool),
            "c": np.array([0, 0, 0, 1, 1, 1], bool),
        },
        UNSEEN,
    )
    assert found == {"a": {"validation": 2}, "c": {"validation": 1, "test": 2}}
    assert [record.getMessage().partition(", in ")[2] for record in caplog.records] == [
        "2 validation rows: taken as none of the known", "1 validation, 2 test rows: taken as none of the known",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("same", "fingerprint", "only"),
    [(True, "x", None), (True, "y", True), (True, None, True), (False, "y", None)],
)
def test_rows_that_are_judged_as_another_set(same: bool, fingerprint: str | None, only: bool | None) -> None:
    one: Any = object.__new__(Table)
    one.__dict__.update(trained=None, fingerprint=fingerprint, only_test=None)
    other: Any = object.__new__(Table if same else Text)
    other.__dict__["fingerprint"] = "x"
    Table.judged_as(one, other)
    assert (one.only_test, one.trained) == (only, other if same else None)


def test_targets_that_are_labels() -> None:
    store = SimpleNamespace(targets=torch.ones(2))
    for kind, there in (("classification", True), ("binary", True), ("regression", False)):
        one: Any = object.__new__(Table)
        one.__dict__.update(kind_of_task=kind, store=store, target=("t",), group="g", time=None)
        assert (one.labels() is store.targets) == there and one.spoken_for == {"t", "g"}


# --- generated sequences and pseudo data --------------------------------------------------------------------------


def test_parities_and_copies_by_loops() -> None:
    sizes = {
        "min_length": 2,
        "max_length": 6,
        "train_size": 8,
        "validation_size": 4,
        "test_size": 4,
        "batch_size": 2,
    }
    for target in ("whole", "prefix"):
        found = Parity(target=target, **sizes).generate(30, 5)  # type: ignore[arg-type]
        assert set(found.lengths.tolist()) == {2, 3, 4, 5, 6}
        for row, answer, length in zip(
            found.tokens.tolist(), found.targets.tolist(), found.lengths.tolist(), strict=True
        ):
            assert row[length:] == [2] * (6 - length) and set(row[:length]) <= {0, 1}
            prefix = [sum(row[: k + 1]) % 2 for k in range(length)]
            assert answer == (prefix[-1] if target == "whole" else prefix + [0] * (6 - length))
    found = CopyPaste(numbers=4, **sizes).generate(30, 5)
    for row, after, real, first in zip(
        found.tokens.tolist(), found.targets.tolist(), found.lengths.tolist(), found[3].tolist(), strict=True
    ):
        numbers = row[:first]
        whole = [*numbers, 5, *numbers]
        assert real == 2 * first and set(numbers) <= {1, 2, 3, 4}
        assert row == whole[:-1] + [0] * (12 - real) and after == whole[1:] + [0] * (12 - real)


def manifest(folder: Path, **changed: Any) -> None:
    claim = {"format": 1, "count": 5, "shard_size": 2, "labelling": "hard"}
    shards = [
        {"file": f"shard-{k:05d}.safetensors", "start": 2 * k, "count": min(2, 5 - 2 * k), "sha256": f"h{k}"}
        for k in range(3)
    ]
    whole = {**claim, "shards": shards, "content_sha256": "c"} | changed
    (folder / "recipe.json").write_text(
        json.dumps(claim | {key: value for key, value in changed.items() if key == "format"})
    )
    (folder / "manifest.json").write_text(json.dumps(whole))


def test_a_manifest_is_that_of_its_recipe(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    assert refused(pseudo.read_manifest, folder) == f"there is no pseudo data set in {folder}"
    again = f"`tutelage synthesize {tmp_path}` makes anew what is missing or damaged"
    assert pseudo._again(folder) == again and pseudo._again(tmp_path).startswith(
        f"`tutelage synthesize {tmp_path}` "
    )
    (folder / "recipe.json").write_text("{}")
    assert (
        refused(pseudo.read_manifest, folder) == f"the pseudo data set in {folder} is not complete: {again}"
    )
    manifest(folder)
    assert [shard["count"] for shard in pseudo.read_manifest(folder)["shards"]] == [2, 2, 1]
    manifest(folder, format=2)
    assert refused(pseudo.read_manifest, folder) == f"{folder}/manifest.json has the format 2, expected 1"
    for wrong in ({"count": 6}, {"labelling": "soft"}):
        manifest(folder, **wrong)
        said = refused(pseudo.read_manifest, folder)
        assert (
            said == f"{folder}/manifest.json is not of the recipe beside it, one of them is damaged: {again}"
        )
    manifest(folder, shards=[])
    assert "or the recipe beside it is damaged" in refused(pseudo.read_manifest, folder)


def test_content_numbers_are_equal_for_equal_rows() -> None:
    rows = np.array([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0]])
    found = splits.content_numbers(rows)
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize(("body", "lines"), [
    ("date,a\n\n1,2\n\n\n2,3\n", [3, 6]), ('date,a\n1,"2"\n2,3\n', [2, 3]), ('\ndate,a\n1,2\n\n2,3\n3,4', [3, 5, 6]),
    ('date,a\n\n"1\n",2\n2,3\n', [2, 3]),  # a row over two lines: which of them, nobody can say
])  # fmt: skip
def test_the_lines_where_rows_stand(tmp_path: Path, body: str, lines: list[int]) -> None:
    (tmp_path / "t.csv").write_text(body)
    assert csv_table.read(tmp_path / "t.csv").lines.tolist() == lines


def test_the_calendar_of_clocks_to_the_minute() -> None:
    texts = ["1970-01-01T00:00", "2024-02-29T18:45", "2021-12-05T06:01"]
    found = _calendar(np.array(texts, dtype="datetime64[us]"))
    for text_of, row in zip(texts, found, strict=True):
        at = dt.datetime.fromisoformat(text_of)
        day = (at.hour + at.minute / 60) / 24
        week = (at.weekday() + day) / 7
        slow = [f(2 * math.pi * part) for part in (day, week) for f in (math.sin, math.cos)]
        assert row.tolist() == pytest.approx(slow, abs=1e-6)


def test_as_many_folds_as_rows() -> None:
    how = row_splits.How(validation=1, test=2, seed=0, fold=3, folds=5)
    assert len(row_splits.split(np.arange(5), {}, None, how)["test"]) == 1
    with pytest.raises(UserError, match="got 6 of 5"):
        row_splits.split(
            np.arange(5), {}, None, row_splits.How(validation=1, test=2, seed=0, fold=3, folds=6)
        )
