"""Fine-grained sets as published: DTD, FGVC-Aircraft, Flowers 102, Oxford-IIIT Pets and CUB-200-2011, read from their own lists.

Caltech-256 and Stanford Cars are image folders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tutelage.data import cache
from tutelage.data.image_folder import ImageFolder
from tutelage.data.image_layout import Layout
from tutelage.data.splits import SPLITS, one_after_another
from tutelage.errors import UserError, choices

Listed = Mapping[str, list[tuple[str, str]]]
"""For each official split: (path of an image relative to the set's folder, class)."""


def _read_dtd(folder: Path) -> Listed:
    def part(name: str) -> list[tuple[str, str]]:
        # Fold 1 of the ten published ones, the usual choice (Cimpoi et al. 2014).
        return [(f"images/{line}", line.split("/")[0]) for line in _lines(folder / "labels" / f"{name}1.txt")]

    return {"train": part("train"), "validation": part("val"), "test": part("test")}


def _read_aircraft(folder: Path) -> Listed:
    def part(name: str) -> list[tuple[str, str]]:
        rows = (line.split(" ", 1) for line in _lines(folder / "data" / f"images_variant_{name}.txt"))
        return [(f"data/images/{image}.jpg", variant) for image, variant in rows]

    return {"train": part("train"), "validation": part("val"), "test": part("test")}


def _read_flowers(folder: Path) -> Listed:
    from scipy.io import loadmat

    try:
        labels = loadmat(folder / "imagelabels.mat")["labels"].ravel()
        ids = loadmat(folder / "setid.mat")
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder} lacks Flowers 102's imagelabels.mat and setid.mat: {error}") from error
    keys = {"train": "trnid", "validation": "valid", "test": "tstid"}
    return {
        part: [
            (f"jpg/image_{number:05d}.jpg", f"{labels[number - 1]:03d}")
            for number in ids[key].ravel().tolist()
        ]
        for part, key in keys.items()
    }


def _read_pets(folder: Path) -> Listed:
    def part(name: str) -> list[tuple[str, str]]:
        images = (line.split()[0] for line in _lines(folder / "annotations" / f"{name}.txt"))
        return [(f"images/{image}.jpg", image.rsplit("_", 1)[0]) for image in images]

    return {"train": part("trainval"), "test": part("test")}


def _read_cub(folder: Path) -> Listed:
    def table(name: str) -> dict[str, str]:
        return dict(line.split(" ", 1) for line in _lines(folder / f"{name}.txt"))

    paths, labels, classes = table("images"), table("image_class_labels"), table("classes")
    parts: dict[str, list[tuple[str, str]]] = {"train": [], "test": []}
    for image, training in table("train_test_split").items():
        parts["train" if training == "1" else "test"].append(
            (f"images/{paths[image]}", classes[labels[image]])
        )
    return parts


def _lines(path: Path) -> Iterable[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"the list {path} cannot be read: {error.strerror}") from error


class _Set(NamedTuple):
    folder: str
    read: Callable[[Path], Listed]
    torchvision: str | None


SETS = {
    "dtd": _Set("dtd/dtd", _read_dtd, "DTD"),
    "aircraft": _Set("fgvc-aircraft-2013b", _read_aircraft, "FGVCAircraft"),
    "flowers102": _Set("flowers-102", _read_flowers, "Flowers102"),
    "pets": _Set("oxford-iiit-pet", _read_pets, "OxfordIIITPet"),
    "cub200": _Set("CUB_200_2011", _read_cub, None),
}
"""Where each set lies in torchvision's folder, how its lists are read, and the torchvision class that downloads it."""


class FineGrained(ImageFolder):
    """A fine-grained set with its published splits.

    dataset: dtd, aircraft, flowers102, pets or cub200.
    root: torchvision's folder, by default `downloads` in the cache folder; cub200 has to be unpacked there as CUB_200_2011.
    published_validation: keep the published validation part; else it joins the training images and `validation` is held out of both.
    download: fetch what is missing.
    Other arguments: see `ImageFolder`.
    """

    def __init__(
        self,
        *,
        dataset: str,
        root: str | None = None,
        published_validation: bool = True,
        download: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(root=cache.download_folder(root), **options)
        if dataset not in SETS:
            raise UserError(f"there is no fine-grained set '{dataset}'; {choices(dataset, SETS)}")
        self.dataset, self.published_validation, self.download = dataset, published_validation, download

    def prepare(self) -> None:
        """Download what is missing, then as `ImageFolder`. Raises UserError where that fails."""
        kind, folder = SETS[self.dataset].torchvision, self.root / SETS[self.dataset].folder
        if not folder.is_dir():
            reason = "it is not downloaded automatically"
            if kind is not None and self.download:
                from torchvision import datasets

                try:
                    getattr(datasets, kind)(self.root, download=True)
                    reason = ""
                except (RuntimeError, OSError) as error:
                    reason = str(error).strip().split("\n")[0]
            if reason:
                raise UserError(
                    f"there is no folder {folder} ({reason}). Unpack the published archive there, or set `root`"
                )
        super().prepare()

    def content(self) -> tuple[Any, ...]:
        """See `ImageFolder`: a published set is named, not hashed."""
        return (self.dataset, str(self.published_validation))

    def layout(self) -> Layout:
        """See `ImageFolder`."""
        folder = self.root / SETS[self.dataset].folder
        listed = dict(SETS[self.dataset].read(folder))
        if "validation" in listed and not self.published_validation:
            listed["train"] = listed["train"] + listed.pop("validation")
        rows = [row for part in SPLITS for row in listed.get(part, [])]
        names = sorted({name for _, name in rows})
        number = {name: label for label, name in enumerate(names)}
        official = one_after_another({part: len(listed[part]) for part in SPLITS if part in listed})
        labels = np.asarray([number[name] for _, name in rows], dtype=np.int64)
        return Layout(folder, [path for path, _ in rows], labels, names, official)
