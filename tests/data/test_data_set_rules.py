"""Streams by a slow version, and sets of files: how parts, classes and published lists are found, each note and message as it stands."""

from __future__ import annotations

import dataclasses
import io
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from expected import refused
from tutelage.data import base, fine_grained, frame, huggingface, image_layout, splits
from tutelage.data.frame import Frame
from tutelage.data.streams import SplitBatches, TrainStream
from tutelage.tasks import Classification, Regression


class Store:
    """Gives what it is asked for."""

    index_device = torch.device("cpu")

    def __init__(self, draws=0):
        self.draws, self.closed = draws, 0

    def reader(self, plan):
        store = self

        class Reader:
            def __iter__(self):
                return iter(plan)

            def close(self):
                store.closed += 1

        return Reader()


def stream_slowly(indices, seed, batch, step, draws, weights=None):
    """Return the indices and noise of one step of all ranks together."""
    per_epoch = len(indices) // batch
    generator = torch.Generator().manual_seed(splits.derive_seed("epoch", seed, step // per_epoch))
    if weights is None:
        order = torch.randperm(len(indices), generator=generator).tolist()
    else:
        ends = np.cumsum(weights)
        drawn = torch.rand(len(indices), dtype=torch.float64, generator=generator).numpy() * ends[-1]
        order = [next((place for place, end in enumerate(ends) if one < end), len(ends) - 1) for one in drawn]
    noise = torch.rand(len(indices), draws, generator=generator)
    chosen = slice((step % per_epoch) * batch, (step % per_epoch + 1) * batch)
    return [indices[place] for place in order[chosen]], noise[chosen]


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("weights", [None, [1.0, 0.0, 2.0, 0.5, 0.0, 1.0, 1.0, 3.0, 0.25, 1.0, 1.0]])
@pytest.mark.parametrize("draws", [0, 3])
def test_the_batches_of_steps_whatever_the_ranks(ranks, weights, draws):
    indices = np.arange(100, 111)
    own = [TrainStream(Store(draws), indices, seed=5, batch_size=4, rank=rank, world_size=ranks,
                       weights=None if weights is None else torch.tensor(weights)) for rank in range(ranks)]  # fmt: skip
    assert all(len(one) == 2 for one in own)
    for start, stop in ((0, 2), (1, 5), (4, 4)):
        for one in own:
            one.seek(start, stop)
            assert len(one) == stop - start
        for step, parts in zip(range(start, stop), zip(*own, strict=True), strict=True):
            together, noise = stream_slowly(indices, 5, 4, step, draws, weights)
            assert [int(place) for part, _ in parts for place in part] == together
            if draws:
                assert torch.equal(torch.cat([part for _, part in parts]), noise)
            else:
                assert all(part is None for _, part in parts)
    if weights is not None:
        assert not {101, 104} & set(together)


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2)])
def test_steps_that_are_none(start, stop):
    with pytest.raises(ValueError, match=rf"^steps must be 0 <= start <= stop, got \[{start}, {stop}\)$"):
        TrainStream(Store(), np.arange(4), seed=0, batch_size=2).seek(start, stop)
    said = "the global batch of 5 cannot be shared by 2 ranks: choose a multiple of 2"
    assert refused(TrainStream, Store(), np.arange(9), seed=0, batch_size=5, world_size=2) == said


def test_every_sample_of_a_split_once():
    store = Store()
    batches = SplitBatches(store, np.arange(10, 17), batch_size=3)
    assert [one.tolist() for one, _ in batches] == [[10, 11, 12], [13, 14, 15], [16]] and len(batches) == 3
    assert [one.tolist() for one, _ in batches.part(1, 2)] == [[13, 14, 15]]
    assert batches.part(1, 2) is batches.part(1, 2)
    batches.close()
    assert store.closed == 2 and len(SplitBatches(store, np.arange(0), batch_size=3)) == 0


# --- the base of all data ---------------------------------------------------------------------------------------


class Made(base.DataModule):
    """Data whose splits are given."""

    def __init__(self, sizes=(6, 2, 2), labels=None, classes=None, **options):
        super().__init__(**{"batch_size": 4, **options})
        self.sizes, self.given, self.classes = sizes, labels, classes

    def load(self):
        ends = np.cumsum(self.sizes)
        self.splits = {
            name: np.arange(end - size, end)
            for name, size, end in zip(splits.SPLITS, self.sizes, ends, strict=True)
        }
        self.task = Classification(len(self.classes)) if self.classes else Regression(1)
        self.input_shape, self.store = (3,), SimpleNamespace(draws=0)
        self.facts = {"classes": self.classes} if self.classes else {}
        if self.given is not None:
            self.store = Labelled(torch.tensor(self.given))


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Labels alone."""

    labels: torch.Tensor
    draws: int = 0


@pytest.mark.parametrize(("sizes", "only_test", "said"), [
    ((6, 2, 2), False, None), ((0, 2, 2), False, "no sample of Made is left to train on: take less for `validation` and `test`"),
    ((6, 0, 2), False, "the validation split of Made is empty: give `validation` or the data more samples"),
    ((6, 2, 0), False, "the test split of Made is empty: give `test` or the data more samples"), ((0, 0, 2), True, None),
    ((0, 0, 0), True, "the test split of Made is empty: give `test` or the data more samples"),
])  # fmt: skip
def test_no_split_is_empty(sizes, only_test, said):
    data = Made(sizes)
    data.only_test = only_test
    if said is None:
        data.setup()
    else:
        assert refused(data.setup) == said


@pytest.mark.parametrize(("samples", "batch", "warns"), [(6, 6, False), (6, 7, True)])
def test_a_batch_is_no_larger_than_the_training_set(samples, batch, warns, caplog):
    data = Made((samples, 2, 2), batch_size=batch)
    data.setup()
    assert data.batch_size == samples and data.eval_batch_size == 2 * batch and data.steps_per_epoch == 1
    said = f"`batch_size`={batch} exceeds the {samples} training samples: using the latter"
    assert [one.getMessage() for one in caplog.records] == ([said] if warns else [])
    data.setup()  # once


@pytest.mark.parametrize(("classes", "labels", "names", "renumbered"), [
    (["b", "a"], [0, 1, -1, 0], ["a", "c", "b"], [2, 0, -1, 2]), (["b", "a"], [0, 1], ["b"], None), (["0", "1"], [0, 1], ["1", "0"], None),
    (None, [0, 1], ["a"], None), (["b", "a"], None, ["a", "b"], None),
])  # fmt: skip
def test_classes_are_numbered_as_another_list_does(classes, labels, names, renumbered):
    data = Made(labels=labels, classes=classes)
    data.setup()
    assert data.renumber(names) == (renumbered is not None)
    if renumbered is not None:
        assert data.store.labels.tolist() == renumbered and data.facts["classes"] == names
        assert data.task.output_size == len(names) and data.task.class_names == names


def test_classes_are_drawn_as_often():
    data = Made((5, 1, 1), labels=[0, 1, 0, 0, 2, 1, 1], classes=["a", "b", "c"], sampling="balanced")
    data.setup()
    assert data._weights().tolist() == pytest.approx([1 / 3, 1, 1 / 3, 1 / 3, 1])
    bare = Made(sampling="balanced")
    bare.setup()
    assert (
        refused(bare._weights)
        == "`sampling`=balanced draws class by class, and a sample of Made has no one class"
    )
    assert Made()._weights() is None


def test_samples_that_lie_in_two_splits_are_told(caplog):
    data = Made((3, 2, 1))  # which warns of its batch
    data.setup()
    data._check_repeats(np.array([0, 1, 2, 2, 3, 3]))
    assert data.facts["repeated_samples"] == {"validation in train": 1, "test in validation": 1}
    data._check_repeats(None)
    data._check_repeats(np.arange(6))
    assert data.facts["repeated_samples"] == {}
    assert [one.getMessage() for one in caplog.records[1:]] == [
        "Made: samples with identical content lie in two splits: 1 validation in train, 1 test in validation"
    ]


def test_batches_of_a_split_that_is_there_and_open():
    data = Made()
    data.setup()
    assert (
        refused(data.batches, "tst", device="cpu")
        == "there is no split 'tst'; did you mean 'test'? Known: test, train, validation"
    )
    with pytest.raises(Exception, match="the test split opens once"):
        data.batches("test", device="cpu")
    data.only_test = True
    assert refused(data.batches, "train", device="cpu") == (
        "all samples of Made are there to judge a network by: they are its test split, not train"
    )


# --- tables and folders of them ---------------------------------------------------------------------------------


def table(folder: Path, **files: str):
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


@pytest.mark.parametrize(("files", "parts"), [
    (["train.csv"], {"train": "train.csv"}), (["a.csv"], {"": "a.csv"}), (["my-train.csv", "my-test.csv"], {"train": "my-train.csv",
                                                                                                           "test": "my-test.csv"}),
    (["train.csv", "val.csv", "note.txt", ".hidden.csv"], {"train": "train.csv", "validation": "val.csv"}),
    (["train-00000-of-00001.parquet", "other.csv"], {"train": "train-00000-of-00001.parquet"}),
    (["b.CSV", "a.md", ".b.csv", "c.csv/"], {"": "b.CSV"}),
])  # fmt: skip
def test_the_parts_of_a_folder(tmp_path, files, parts):
    for name in files:
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).touch()
    assert {part: path.name for part, path in frame._parts(tmp_path).items()} == parts


@pytest.mark.parametrize(("files", "said"), [
    (["train.csv", "a-train.csv"], "holds more than one train file: a-train.csv, train.csv; keep one of them there"),
    (["a.csv", "b.csv"], "its tables are: a.csv, b.csv"), ([], "its tables are: none"), ([f"{n}.csv" for n in "abcdefgh"],
                                                                                      "its tables are: a.csv, b.csv, c.csv, d.csv, e.csv, "
     "f.csv"),
])  # fmt: skip
def test_a_folder_without_a_training_file(tmp_path, files, said):
    for name in files:
        (tmp_path / name).touch()
    message = refused(frame._parts, tmp_path)
    assert message.startswith(f"{tmp_path}") and message.endswith(said)


def test_files_of_parts_are_one_table(tmp_path):
    folder = table(tmp_path, train__csv="a;b\n1,5;x\n2,5;y\n", test__csv="b,a,c\nz,3,9\n")
    found = frame.read(folder)
    assert found.columns.to_dict("list") == {"a": [1.5, 2.5, 3.0], "b": ["x", "y", "z"]}
    assert {part: rows.tolist() for part, rows in found.official.items()} == {"train": [0, 1], "test": [2]}
    assert found.notes == [
        "train.csv: columns are separated by ';'",
        "train.csv: the decimal sign is the comma",
    ]
    table(tmp_path, test__csv="a\n1\n")
    assert refused(frame.read, folder) == f"{folder / 'test.csv'} has no column 'b', which train.csv has"
    assert refused(frame.read, tmp_path / "none") == (
        f"there is no file {tmp_path / 'none'}: `root` must name a CSV, Parquet or JSON lines file, or a folder of them"
    )


@pytest.mark.parametrize(("text", "columns", "notes"), [
    (",a\n0,5\n1,6\n", {"a": [5.0, 6.0]}, ["the first column, which has no name and numbers the rows, is left out"]),
    ("a,b\n1,2,\n3,4,\n", {"a": [1.0, 3.0], "b": [2.0, 4.0]}, []),
    ("a\tb\n1\tx\n", {"a": [1.0], "b": ["x"]}, ["columns are separated by tabs"]),
    ("a\n1\n\n2\n", {"a": [1.0, 2.0]}, []), ("a;b\n1;2\n", {"a": [1.0], "b": [2.0]}, ["columns are separated by ';'"]),
    ("a,b\nyes,1\n?,2\n", {"a": ["yes", None], "b": [1.0, 2.0]}, []),
])  # fmt: skip
def test_a_csv_file(tmp_path, text, columns, notes):
    found = frame.read(table(tmp_path, a__csv=text) / "a.csv")
    assert {
        name: [None if pd.isna(one) else one for one in cells] for name, cells in found.columns.items()
    } == columns
    assert found.notes == notes and found.official == {}


@pytest.mark.parametrize(("text", "said"), [
    ("", "is empty: a header and rows are expected"), ("\n \n", "is empty: a header and rows are expected"),
    ("a,b\n", "has a header and no rows"),
    ("a,a,b,b\n1,2,3,4\n", "has more than one column named 'a', 'b': give each its own name"),
])  # fmt: skip
def test_a_csv_file_that_is_none(tmp_path, text, said):
    path = table(tmp_path, a__csv=text) / "a.csv"
    assert refused(frame.read, path) == f"{path} {said}"


def test_a_column_that_is_not_there():
    assert refused(frame.column, Frame(pd.DataFrame({"ab": [1]}), {}, []), "ac", "target", "f").startswith(
        "f has no column 'ac' (`target`); "
    )


# --- sets of the datasets library, by a stand-in ------------------------------------------------------------------


class ClassLabel:
    """A column of classes."""

    def __init__(self, *names):
        self.names = names


class Part:
    """As much of a set as is read."""

    def __init__(self, features, **columns):
        self.features = {name: features.get(name) for name in columns}
        self.columns = columns

    def to_pandas(self):
        return pd.DataFrame(self.columns)

    def __getitem__(self, name):
        return self.columns[name]

    def select_columns(self, names):
        rows = zip(*(self.columns[name] for name in names), strict=True)
        return Rows(dict(zip(names, row, strict=True)) for row in rows)


class Rows(list):
    """Rows whose images stay bytes."""

    def cast_column(self, *_):
        return self


def test_classes_of_a_set_are_their_names(monkeypatch):
    source = huggingface._Source(None, "n", None, None)
    parts = {
        "train": Part({"y": ClassLabel("a", "b")}, y=[1, 0, None], x=[1, 2, 3]),
        "test": Part({"y": ClassLabel("a", "b")}, x=[4], y=[-1]),
    }
    monkeypatch.setattr(huggingface._Source, "parts", lambda self: parts)
    found = source.frame()
    assert [None if pd.isna(one) else one for one in found.columns["y"]] == ["b", "a", None, None]
    assert found.columns["x"].tolist() == [1, 2, 3, 4]
    assert {part: rows.tolist() for part, rows in found.official.items()} == {"train": [0, 1, 2], "test": [3]}
    monkeypatch.setattr(huggingface._Source, "parts", lambda self: {"": parts["train"]})
    assert source.frame().official == {}


@pytest.mark.parametrize(("opened", "parts", "said"), [
    ({"train": 1, "validation": 2, "test": 3}, {"train": 1, "validation": 2, "test": 3}, []), ({"train": 1}, {"": 1}, []), (5, {"": 5}, []),
    ({"train": 1, "dev": 2, "unsupervised": 4}, {"train": 1, "validation": 2}, ["n: the parts unsupervised are left out"]),
])  # fmt: skip
def test_the_parts_of_a_set(monkeypatch, caplog, opened, parts, said):
    caplog.set_level(logging.INFO, "tutelage")
    source = huggingface._Source(None, "n", None, None)
    monkeypatch.setattr(source, "_opened", lambda datasets: opened)
    assert source._read() == parts and [one.getMessage() for one in caplog.records] == said


def test_a_set_that_cannot_be_read(monkeypatch, tmp_path):
    source, local = (
        huggingface._Source(None, "n", None, None),
        huggingface._Source(str(tmp_path), None, None, None),
    )
    monkeypatch.setattr(source, "_opened", lambda datasets: {"test": 1, "dev": 2})
    assert refused(source._read) == "n has no part called train, but test, dev"

    def failing(text):
        def opened(datasets):
            raise OSError(text)

        return opened

    monkeypatch.setattr(source, "_opened", failing("no network\nat all"))
    assert (
        refused(source._read)
        == "datasets cannot read n: no network; without a network, only sets that were downloaded before are found"
    )
    monkeypatch.setattr(local, "_opened", failing(""))
    assert refused(local._read) == f"datasets cannot read {tmp_path}: OSError"
    gone = huggingface._Source(str(tmp_path / "none"), None, None, None)
    assert (
        refused(gone._opened, None)
        == f"there is no file or folder {tmp_path / 'none'}: `root` must name existing data"
    )
    (tmp_path / "a.zip").touch()
    assert "no file of this kind can be read" in refused(
        huggingface._Source(str(tmp_path / "a.zip"), None, None, None)._opened, None
    )


def opened_by(tmp_path, name):
    asked = []
    library = SimpleNamespace(
        load_from_disk=lambda path: asked.append(("disk", path)),
        load_dataset=lambda *words, **more: asked.append((words, more)),
    )
    huggingface._Source(str(tmp_path), None, "c", None)._opened(library)
    return asked


def test_a_folder_is_read_as_it_was_written(tmp_path):
    assert opened_by(tmp_path, None) == [((str(tmp_path), "c"), {})]
    (tmp_path / "state.json").touch()
    assert opened_by(tmp_path, None) == [("disk", str(tmp_path))]
    (tmp_path / "state.json").rename(tmp_path / "dataset_dict.json")
    assert opened_by(tmp_path, None) == [("disk", str(tmp_path))]


def png(value, size=4):
    file = io.BytesIO()
    Image.new("L", (size, size), value).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def hub(monkeypatch, parts, **more):
    monkeypatch.setattr(huggingface._Source, "parts", lambda self: parts)
    data = huggingface.HubImages(
        source=huggingface._Source(None, "n", None, None),
        image="image",
        target="y",
        batch_size=2,
        channels=1,
        **more,
    )
    return data._decoded(())


def test_images_of_a_set_with_their_classes(monkeypatch, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(7)["bytes"])
    parts = {
        "train": Part({}, image=[png(1), {"bytes": None, "path": str(path)}, png(3)], y=["10", "9", "x"]),
        "test": Part({}, image=[png(4)], y=["9"]),
    }
    room = []
    monkeypatch.setattr(huggingface, "check_fits", lambda count, *words: room.append(count))
    found = hub(monkeypatch, parts)
    one = found.images[0].numel()
    assert room == [3 * one, one]  # before all of a part are decoded
    assert found.images[:, 0, 0, 0].tolist() == [1, 7, 3, 4] and found.labels.tolist() == [1, 0, 2, 0]
    assert list(found.class_names) == ["9", "10", "x"]
    assert {part: rows.tolist() for part, rows in found.official.items()} == {"train": [0, 1, 2], "test": [3]}
    named = hub(monkeypatch, {"": Part({"y": ClassLabel("b", "a")}, image=[png(1), png(2)], y=[1, 0])})
    assert named.labels.tolist() == [1, 0] and list(named.class_names) == ["b", "a"] and named.official == {}


@pytest.mark.parametrize(("parts", "said"), [
    ({"": Part({}, image=[], z=[])}, "n has no column 'y' (`target`); known: image, z"),
    ({"": Part({}, imag=[], y=[])}, "n has no column 'image' (`image`); did you mean 'imag'? Known: imag, y"),
    ({"train": Part({}, image=[png(1)], y=["a"]), "test": Part({}, image=[png(1)],
     y=["b"])}, "n: 1 rows of 'test' have no known class in 'y'"),
    ({"": Part({"y": ClassLabel("a")}, image=[png(1), png(1)], y=[0, -1])}, "n: 1 rows of 'train' have no known class in 'y'"),
    ({"": Part({}, image=[png(1), png(1, 5)], y=["a", "b"])}, "n: images have several sizes: set `image_size` to decode all to one"),
])  # fmt: skip
def test_images_of_a_set_that_do_not_fit(monkeypatch, parts, said):
    assert refused(hub, monkeypatch, parts) == said


@pytest.mark.parametrize(
    ("count", "room", "fits"), [(3, 48, True), (3, 47, False), (1, 16, True), (1, 15, False)]
)
def test_images_of_a_set_are_decoded_where_there_is_room_for_them(monkeypatch, count, room, fits):
    monkeypatch.setattr("tutelage.data.memory.room_bytes", lambda: room)
    parts = {"": Part({}, image=[png(1), png(2), png(3)][:count], y=["a", "b", "a"][:count])}
    if fits:
        assert hub(monkeypatch, parts).peak == 255
    else:
        said = "the images of n, decoded, need 0.0 GB of memory, where 0.0 GB are all there is: take a part of them"
        assert refused(hub, monkeypatch, parts) == said


def test_an_image_that_cannot_be_read_is_named_by_its_row(monkeypatch):
    parts = {"": Part({}, image=[png(1), {"bytes": b"x", "path": None}], y=["a", "b"])}
    assert refused(hub, monkeypatch, parts).startswith("n: the image of row 2 of 'train' cannot be read: ")


# --- folders of images, published lists ---------------------------------------------------------------------------


def images(root: Path, *names: str):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return image_layout.read_layout(root)


def test_classes_and_what_is_left_out_of_a_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    found = images(tmp_path, "b/1.png", "b/deep/2.png", "a/3.png", "4.png", "B/5.png", "a/note.txt")
    assert list(found.paths) == ["B/5.png", "a/3.png", "b/1.png", "b/deep/2.png"] and list(
        found.class_names
    ) == ["B", "a", "b"]
    assert found.labels.tolist() == [0, 1, 2, 2] and found.official == {} and found.absent.tolist() == []
    assert [note for note in found.notes if "note" not in note] == [
        f"{tmp_path}: classes that differ in upper and lower case alone: B and b",
        f"{tmp_path}: 1 images lie outside the class folders and are left out: 1 in the folder itself",
        f"{tmp_path}: no image in empty, which are left out of the classes",
    ]


@pytest.mark.parametrize(("names", "official"), [
    (["train/a/1.png", "train/b/2.png", "test/a/3.png"], {"train": [0, 1], "test": [2]}),
    (["train/a/1.png", "train/b/2.png", "val/a/3.png"], {"train": [0, 1], "test": [2]}),
    (["train/a/1.png", "train/b/2.png", "val/b/4.png", "test/a/3.png"], {"train": [0, 1], "validation": [2], "test": [3]}),
    (["train/1.png", "train/2.png", "test/3.png"], {"train": [0, 1], "test": [2]}),
])  # fmt: skip
def test_parts_that_a_folder_states(tmp_path, names, official):
    found = images(tmp_path, *names)
    assert {part: rows.tolist() for part, rows in found.official.items()} == official
    for part, rows in official.items():
        assert {found.paths[row].split("/")[0] for row in rows} <= {part, "val"}


def test_folders_that_are_no_set(tmp_path):
    assert refused(images, tmp_path / "none").startswith(f"there is no image folder {tmp_path / 'none'}: ")
    (tmp_path / "e").mkdir()
    assert refused(images, tmp_path / "e").startswith(f"{tmp_path / 'e'} holds no images: ")
    said = refused(images, tmp_path / "c", "train/a/1.png", "train/b/1.png", "test/c/1.png")
    assert said == f"{tmp_path / 'c'}/test has classes that train/ lacks: c; known: a, b"
    said = refused(images, tmp_path / "d", "test/a/1.png", "val/b/1.png")
    assert (
        f"{tmp_path / 'd'} has the folders test, val, of which test, val hold folders of images and would be taken for classes"
        in said
    )
    alone = images(tmp_path / "f", "a/1.png", "a/2.png")
    assert list(alone.class_names) == []
    assert (
        f"{tmp_path / 'f'}: 2 images in one class folder, a: taken as images without classes"
        in alone.notes[0]
    )


def test_images_that_are_gone_keep_their_places(tmp_path):
    images(tmp_path, "a/1.png", "b/2.png")
    found = image_layout.read_layout(tmp_path, ["a/0.png", "b/2.png"])
    assert list(found.paths) == ["a/0.png", "a/1.png", "b/2.png"] and found.absent.tolist() == [0]
    assert [one.name for one in found.listed] == ["a/1.png", "b/2.png"]


def write(root: Path, **files: str):
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_txt", ".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_the_lists_of_pets_birds_and_flowers(tmp_path):
    write(
        tmp_path / "oxford-iiit-pet",
        annotations__trainval_txt="great_dane_12 1 2 3\n\n",
        annotations__test_txt="cat_1 1 1 1\n",
    )
    assert fine_grained._read_pets(tmp_path / "oxford-iiit-pet") == {
        "train": [("images/great_dane_12.jpg", "great_dane")], "test": [("images/cat_1.jpg", "cat")],
    }  # fmt: skip
    write(tmp_path / "b", images_txt="1 x/1.jpg\n2 y/2.jpg\n3 x/3.jpg", image_class_labels_txt="1 7\n2 8\n3 7", classes_txt="7 x\n8 y",
          train_test_split_txt="1 1\n2 0\n3 1")  # fmt: skip
    assert fine_grained._read_cub(tmp_path / "b") == {
        "train": [("images/x/1.jpg", "x"), ("images/x/3.jpg", "x")],
        "test": [("images/y/2.jpg", "y")],
    }
    (tmp_path / "f").mkdir()
    savemat(tmp_path / "f" / "imagelabels.mat", {"labels": [[4, 17, 4]]})
    savemat(tmp_path / "f" / "setid.mat", {"trnid": [[3]], "valid": [[1]], "tstid": [[2]]})
    assert fine_grained._read_flowers(tmp_path / "f") == {
        "train": [("jpg/image_00003.jpg", "004")], "validation": [("jpg/image_00001.jpg", "004")], "test": [("jpg/image_00002.jpg", "017")],
    }  # fmt: skip
    assert "lacks Flowers 102's imagelabels.mat and setid.mat" in refused(
        fine_grained._read_flowers, tmp_path / "b"
    )
    assert (
        refused(fine_grained._lines, tmp_path / "none")
        == f"the list {tmp_path / 'none'} cannot be read: No such file or directory"
    )


@pytest.mark.parametrize("published", [True, False])
def test_a_published_set_is_laid_out_by_its_lists(tmp_path, monkeypatch, published):
    listed = {
        "train": [("1.jpg", "b")],
        "validation": [("2.jpg", "a")],
        "test": [("3.jpg", "c"), ("4.jpg", "a")],
    }
    monkeypatch.setitem(fine_grained.SETS, "dtd", fine_grained._Set("x", lambda folder: dict(listed), None))
    data = fine_grained.FineGrained(
        dataset="dtd", root=str(tmp_path), published_validation=published, batch_size=2
    )
    found = data.layout()
    assert (
        found.paths == ["1.jpg", "2.jpg", "3.jpg", "4.jpg"]
        and found.labels.tolist() == [1, 0, 2, 0]
        and found.class_names == ["a", "b", "c"]
    )
    whole = (
        {"train": [0], "validation": [1], "test": [2, 3]} if published else {"train": [0, 1], "test": [2, 3]}
    )
    assert {part: rows.tolist() for part, rows in found.official.items()} == whole
    assert data.content() == ("dtd", str(published))
    said = f"there is no folder {data.root / 'x'} (it is not downloaded automatically). Unpack the published archive there, or set `root`"
    assert refused(data.prepare) == said
