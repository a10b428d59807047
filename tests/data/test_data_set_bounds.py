"""Sets of images and tables at the bounds of their rules: what is kept, drawn, counted and said, by slow versions."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from expected import refused
from tutelage.data import (
    file_stream,
    fingerprint,
    image_check,
    image_store,
    pseudo,
    walk,
)
from tutelage.data.corruption import missing_values
from tutelage.data.image_store import ImageStore
from tutelage.data.synthetic import Synthetic
from tutelage.data.table import Table, embedded


@pytest.mark.parametrize(("shape", "samples", "fine"), [
    ((1, 1, 1), 30, True), ((2, 1, 3), 1, True), ((1, 8), 30, False), ((1, 1, 8, 8), 30, False), ((1, 0, 8), 30, False),
    ((1, 8, -1), 30, False), ((1, 8, 8), 0, False),
])  # fmt: skip
def test_the_shape_of_made_images(shape: tuple[int, ...], samples: int, fine: bool) -> None:
    if fine:
        images = Synthetic(shape=shape, samples=samples, batch_size=2).source().images
        assert tuple(images.shape) == (samples, *shape)
    else:
        said = f"synthetic data need samples >= 1 and a shape [C, H, W], got {samples} and {list(shape)}"
        assert refused(Synthetic, shape=shape, samples=samples, batch_size=2) == said


@pytest.mark.parametrize(("names", "wanted", "found"), [
    (["cat", "dog", "elk"], ["elk", 0], ([1, -1, 0], ["elk", "cat"])), (["cat", "dog"], [1], ([-1, 0], ["dog"])),
    (["1", "10", "2"], [10, "2"], ([-1, 0, 1], ["10", "2"])), (["1", "10", "2"], [1, 2, 10], ([0, 2, 1], ["1", "2", "10"])),
    (["cat", "3"], [1], ([-1, 0], ["3"])), (["cat", "3"], ["3"], ([-1, 0], ["3"])),
    (["cat", "dog"], [2], "`classes`: class 2 does not exist; "), (["cat", "dog"], [-1], "`classes`: class -1 does not exist; "),
    (["1", "10"], [0], "`classes`: class 0 does not exist; "), (["cat", "dog"], ["cat", 0], "`classes`: class 0 occurs twice"),
    (["cat", "dog"], [1, "dog"], "`classes`: class 'dog' occurs twice"), (["cat"], [], "`classes` must name at least one class; "),
])  # fmt: skip
def test_classes_that_are_kept_by_their_name_or_number(
    names: list[str], wanted: list[Any], found: Any
) -> None:
    one: Any = object.__new__(Synthetic)
    one.classes = wanted
    source: Any = SimpleNamespace(class_names=names, labels=np.arange(len(names)))
    if isinstance(found, str):
        assert refused(one._choose_classes, source).startswith(found)
    else:
        labels, kept = one._choose_classes(source)
        assert (labels.tolist(), kept) == found


@pytest.mark.parametrize(("name", "targets", "kind"), [
    ("iris", ["target"], "O"), ("digits", ["target"], "i"), ("diabetes", ["target"], "f"), ("linnerud", ["Weight", "Waist", "Pulse"], "f"),
])  # fmt: skip
def test_tables_of_scikit_learn_hold_numbers_and_names(name: str, targets: list[str], kind: str) -> None:
    found, wanted = embedded(name)
    kinds = {column: cells.dtype.kind for column, cells in found.columns.items()}
    assert wanted == targets and {kinds.pop(target) for target in targets} == {kind}
    assert set(kinds.values()) == {"f"} and not found.notes and not found.official


@pytest.mark.parametrize(("device", "workers"), [("cpu", 0), ("cpu", 1), ("cuda", 0), ("cuda", 2)])
def test_how_files_are_read_beside_the_training(
    monkeypatch: pytest.MonkeyPatch, device: str, workers: int
) -> None:
    """Memory that a GPU copies from; workers that live on."""
    monkeypatch.setattr(file_stream, "DataLoader", lambda *words, **more: more)
    store: Any = SimpleNamespace(files=None, crop=None, num_workers=workers, device=torch.device(device))
    more: Any = file_stream._FileReader(store, [])._start()
    assert more["pin_memory"] == (device == "cuda") and more["persistent_workers"] == (workers > 0)
    assert more["num_workers"] == workers and more["batch_size"] is None


@pytest.mark.parametrize(("only_test", "train", "said"), [
    (False, [0, 1, 2], []), (False, [0, 2], ["f: no training row of the classes b"]),
    (False, [], ["f: no training row of the classes a, b, c"]),
    (True, [0, 2], []), (True, [0, 1, 2], []),
])  # fmt: skip
def test_classes_that_no_training_row_has_are_said(
    only_test: bool, train: list[int], said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    one: Any = object.__new__(Table)
    one.__dict__.update(dataset="f", facts={}, only_test=only_test)
    targets: Any = SimpleNamespace(classes=["a", "b", "c"], task="classification", values=np.arange(3))
    assert one._task(targets, np.array(train, dtype=int)).tolist() == [0, 1, 2]
    assert [record.getMessage() for record in caplog.records] == said
    assert one.facts == {
        "classes": ["a", "b", "c"],
        "train_class_counts": [int(k in train) for k in range(3)],
    }


@pytest.mark.parametrize("many", [False, True])
def test_a_fingerprint_is_of_all_bytes_of_few_files_and_of_sizes_and_beginnings_of_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    """Against a slow version."""
    for name, value in (("FEW_FILES", 4 if many else 5), ("SAMPLED", 3), ("BEGINNING", 2)):
        monkeypatch.setattr(fingerprint, name, value)
    bodies = {f"{k}.png": bytes([k] * (4 + k)) for k in range(5)}
    for name, body in bodies.items():
        (tmp_path / name).write_bytes(body)
    digest = hashlib.sha256()
    for name, body in bodies.items():
        digest.update(f"{name}\0{len(body) if many else hashlib.sha256(body).hexdigest()}\n".encode())
    for place in (0, 1, 3) if many else ():
        digest.update(bodies[f"{place}.png"][:2])
    listed = [walk.Found(name, len(body), 0) for name, body in bodies.items()]
    assert fingerprint.of_files(tmp_path, listed) == digest.hexdigest()


@pytest.mark.parametrize(
    ("names", "shown"), [(9, "c1, c2, c3, c4, c5, c6, c7, c8"), (10, "c1, c2, c3, c4, c5, c6, c7, c8 ...")]
)
def test_classes_without_a_sample_are_said_to_eight(
    names: int, shown: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Few(Synthetic):
        def source(self) -> Any:
            made = super().source()
            return dataclasses.replace(
                made, labels=np.zeros_like(made.labels), class_names=[f"c{k}" for k in range(names)]
            )

    Few(batch_size=4, samples=40).setup()
    assert [one.getMessage() for one in caplog.records] == [
        f"no {split} sample of {names - 1} of {names} classes: {shown}"
        for split in ("train", "validation", "test")
    ]


@pytest.mark.parametrize(("missing", "where", "which", "rows"), [
    (0.0, "train", "train", [1, 2, 5, 7]), (0.0, "train", "all", [1, 2, 5, 7]), (0.0, "train", "rest", [2, 7]),
    (0.5, "all", "rest", [2, 7]),
    (0.5, "train", "rest", "data.missing_in=train hides pixels of labelled images alone: set data.missing_in=all"),
])  # fmt: skip
def test_images_to_be_looked_at_without_their_labels(
    missing: float, where: str, which: Any, rows: Any
) -> None:
    one: Any = object.__new__(Synthetic)
    one.__dict__.update(
        missing=missing,
        missing_in=where,
        _training=np.array([1, 2, 5, 7]),
        splits={"train": np.array([1, 5])},
        input_shape=(1, 1, 3),
    )
    one.__dict__.update(
        _images=torch.arange(24, dtype=torch.uint8).reshape(8, 1, 1, 3),
        _peak=255.0,
        normalization=((0.5,), (0.25,)),
    )
    if isinstance(rows, str):
        assert refused(one.unlabelled, which) == rows
        return
    images, index, scale, shift = one.unlabelled(which)
    assert images is one._images and index.tolist() == rows
    assert (scale.item(), shift.item()) == (pytest.approx(1 / (255 * 0.25)), -2.0)
    one.splits["train"] = one._training
    assert one.unlabelled("all")[1].tolist() == [1, 2, 5, 7]
    for word in ("train", "rest"):
        said = (
            f"method.unlabelled={word}: all 4 training images have their labels. data.per_class=<number> or "
        )
        assert refused(one.unlabelled, word) == f"{said}data.train_size=<number> say how many keep them"


def test_what_is_kept_of_images_is_read_where_it_means_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    files: Any = SimpleNamespace(
        layout=SimpleNamespace(root=tmp_path), form=SimpleNamespace(white=None, size=8)
    )
    table = image_check._Table(files)
    rows = np.zeros(2, dtype=image_check.ROW)
    rows["height"] = 4, 5
    assert len(table.read()) == 0
    table.write(rows)
    assert table.read()["height"].tolist() == [4, 5]
    np.save(table.path, np.zeros(2))  # of another version
    assert len(table.read()) == 0 and table.read().dtype == image_check.ROW
    table.path.write_bytes(b"damaged")
    assert len(table.read()) == 0
    others = [SimpleNamespace(white=white, size=size) for white, size in ((None, 9), (4095, 8), (None, None))]
    paths = [image_check._Table(SimpleNamespace(layout=files.layout, form=form)).path for form in others]  # type: ignore[arg-type]
    assert [path == table.path for path in paths] == [
        True,
        False,
        False,
    ]  # the size counts where it is the images' own


class Taking:
    """Adds to images what it is given of the noise."""

    def __init__(self, draws: int, seen: dict[str, Any], name: str) -> None:
        self.draws, self.seen, self.name = draws, seen, name

    def __call__(self, given: Any, noise: torch.Tensor, *more: Any) -> Any:
        self.seen[self.name] = noise[0].tolist(), more
        return given + 1 if isinstance(given, torch.Tensor) else given


@pytest.mark.parametrize("crop", [0, 2])
@pytest.mark.parametrize("augment", [0, 3])
@pytest.mark.parametrize("mixer", [0, 4])
@pytest.mark.parametrize("drawn", [True, False])
def test_each_part_of_the_noise_goes_to_what_draws_it(
    crop: int, augment: int, mixer: int, drawn: bool
) -> None:
    seen: dict[str, Any] = {}
    draws = [
        Taking(count, seen, name) if count else None
        for count, name in ((augment, "augment"), (mixer, "mixer"))
    ]
    images, labels = torch.arange(24, dtype=torch.uint8).reshape(6, 1, 2, 2), torch.tensor([5, 4, 3, 2, 1, 0])
    numbers = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), -3.0)
    index = torch.tensor([4, 1])
    parts: Any = *numbers, *draws, 9
    files = file_stream.FileStore(None, labels, *numbers, Taking(crop, {}, "") if crop else None, *draws, 9)  # type: ignore[arg-type]
    for store, first in ((ImageStore(images, labels, *parts), 0), (files, crop)):
        seen.clear()
        columns = first + augment + mixer
        assert store.draws == columns
        noise = torch.arange(2.0 * columns).reshape(2, -1) if drawn else None
        decoded = images[index], noise, index
        batch = store.batch(index, noise) if isinstance(store, ImageStore) else store.finish(decoded)
        there = {
            "augment": (list(range(first, first + augment)), ()),
            "mixer": (list(range(first + augment, columns)), (9,)),
        }
        assert seen == {
            name: there[name] for name in there if drawn and {"augment": augment, "mixer": mixer}[name]
        }
        shown = images[index].float() + (1 if drawn and augment else 0)
        assert (
            torch.equal(batch.inputs, shown * 2 - 3)
            and batch.targets.tolist() == [1, 4]
            and batch.index.tolist() == [4, 1]
        )


@pytest.mark.parametrize(("images", "every"), [(99, 1), (100, 1), (101, 2), (250, 3)])
def test_mean_and_deviation_of_evenly_spaced_images(
    images: int, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_store, "MOMENT_IMAGES", 100)
    monkeypatch.setattr(image_store, "MOMENT_FILES", 100)
    pixels = torch.randint(0, 16, (300, 3, 2, 5), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    pixels[:, 2] = 7
    train = np.random.default_rng(0).permutation(300)[:images]
    chosen = pixels[train[::every]].double() / 15
    files = SimpleNamespace(decode_many=lambda places: pixels[places].numpy())
    for source in (pixels, files):
        mean, deviation = image_store.moments(source, train, 15.0)  # type: ignore[arg-type]
        assert mean == pytest.approx(chosen.mean((0, 2, 3)).tolist())
        assert deviation == pytest.approx([*chosen.std((0, 2, 3), correction=0)[:2].tolist(), 1.0])


@pytest.mark.parametrize("where", ["train", "all"])
def test_pixels_are_taken_from_images_by_their_number_whatever_the_block(where: Any) -> None:
    one = Synthetic(
        shape=(2, 1, 3), samples=4100, batch_size=4, missing=0.4, missing_in=where, normalization=None
    )
    one.setup()
    clean = one.source().images
    mask = missing_values(0, 4100, 3, rate=0.4, seed=0)
    if where == "train":
        mask[np.setdiff1d(np.arange(4100), one.splits["train"])] = False
    assert torch.equal(
        one.store.images, torch.as_tensor(clean).masked_fill(torch.from_numpy(mask).view(-1, 1, 1, 3), 0.0)
    )  # type: ignore[attr-defined]
    count = len(one.splits["train"]) if where == "train" else 4100
    assert one.facts["missing_values"] == mask.sum() / (count * 3)


def pseudo_set(
    folder: Path, soft: bool = False, **changed: torch.Tensor
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Write five images in shards of two; changed: what the last shard holds in place of its own."""
    whole = {
        "images": torch.arange(5 * 12, dtype=torch.uint8).reshape(5, 3, 2, 2), "labels": torch.tensor([2, 0, 1, 1, 0]),
        **({"soft_labels": torch.rand(5, 3, generator=torch.Generator().manual_seed(0))} if soft else {}), "seeds": torch.arange(5) + 90,
    }  # fmt: skip
    shards = []
    for number, start in enumerate((0, 2, 4)):
        part = {name: value[start : start + 2].clone() for name, value in whole.items()} | (
            changed if number == 2 else {}
        )
        path = folder / f"shard-{number}.safetensors"
        save_file(part, path)
        shards.append(
            {
                "file": path.name,
                "start": start,
                "count": min(2, 5 - start),
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
        )
    parts = [whole.get(name, torch.empty(0)) for name in ("images", "labels", "soft_labels", "seeds")]
    digests = "".join(hashlib.sha256(value.numpy().tobytes()).hexdigest() for value in parts)
    content = hashlib.sha256(digests.encode()).hexdigest()
    made = {
        "count": 5,
        "image_shape": [3, 2, 2],
        "classes": 3,
        "labelling": "soft" if soft else "hard",
        "shards": shards,
    }
    return {**made, "content_sha256": content}, whole


@pytest.mark.parametrize("soft", [False, True])
def test_a_pseudo_data_set_is_what_its_shards_hold(tmp_path: Path, soft: bool) -> None:
    manifest, whole = pseudo_set(tmp_path, soft)
    found = pseudo._load(tmp_path, manifest)
    assert torch.equal(found.images, whole["images"]) and torch.equal(found.labels, whole["labels"])
    assert torch.equal(found.seeds, whole["seeds"]) and found.manifest is manifest
    assert torch.equal(found.soft_labels, whole["soft_labels"]) if soft else found.soft_labels is None  # type: ignore[arg-type]


def test_shards_that_are_not_what_their_manifest_says(tmp_path: Path) -> None:
    again = f"`tutelage synthesize {tmp_path}` makes anew what is missing or damaged"
    for name, wrong, said in (
        ("labels", torch.tensor([7, 7]), "labels has the shape (2,)"), ("images", torch.zeros(1, 1, 2, 2, dtype=torch.uint8), "images has "
                                                                                                                 "the shape (1, 1, 2, 2)"),
    ):  # fmt: skip
        manifest, _ = pseudo_set(tmp_path, **{name: wrong})
        path = tmp_path / "shard-2.safetensors"
        assert (
            refused(pseudo._load, tmp_path, manifest)
            == f"the shard {path} does not hold what its manifest says: {said}"
        )
    manifest, _ = pseudo_set(tmp_path, labels=torch.tensor([1]))
    assert (
        refused(pseudo._load, tmp_path, manifest)
        == f"{tmp_path}/manifest.json is damaged, its shards are not: {again}"
    )
    path.write_bytes(path.read_bytes()[:-1])
    assert refused(pseudo._load, tmp_path, manifest) == f"the shard {path} is damaged: {again}"
    path.unlink()
    assert refused(pseudo._load, tmp_path, manifest) == f"the shard {path} is missing: {again}"
