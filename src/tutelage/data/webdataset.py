"""Shards of images in tar files (WebDataset's format), read at any place, so that order and resumption are those of every other set."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import logging
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from tutelage.data import cache
from tutelage.data.fingerprint import fingerprint as fingerprint_of
from tutelage.data.frame import PARTS
from tutelage.data.image_files import Files
from tutelage.data.image_folder import ImageFolder
from tutelage.data.image_kinds import endings
from tutelage.data.image_layout import Layout
from tutelage.data.image_pixels import Seen, read
from tutelage.data.walk import printable
from tutelage.errors import UserError, choices

log = logging.getLogger("tutelage")
IMAGES = ("jpg", "jpeg", "png", "webp", "ppm", "bmp", "tif", "tiff", "gif")
"""Endings that are looked for first where a sample has several images; after them all others that `image_kinds` knows."""


@dataclasses.dataclass(frozen=True)
class TarFiles(Files):
    """Images that lie in tar files. shards: their paths. places: (N, 3) int64: shard, first byte and length of each image."""

    shards: tuple[Path, ...] = ()
    places: np.ndarray = dataclasses.field(
        default_factory=lambda: np.zeros((0, 3), dtype=np.int64), compare=False
    )

    def path(self, index: int) -> Path:
        """Return the tar file that an image lies in."""
        return self.shards[int(self.places[index, 0])]

    def bytes_of(self, index: int) -> bytes:
        """See `Files`: one seek and one read."""
        _, start, length = map(int, self.places[index])
        with self.path(index).open("rb") as file:
            file.seek(start)
            return file.read(length)

    def stamp(self, index: int) -> tuple[int, int]:
        """See `Files`: its own length, and when its tar file was changed."""
        shard, _, length = map(int, self.places[index])
        return length, self.changed_ns[shard]

    @functools.cached_property
    def changed_ns(self) -> list[int]:
        """When each tar file was changed."""
        return [shard.stat().st_mtime_ns for shard in self.shards]

    def attempt(
        self, index: int, box: Any = None, *, data: bytes | None = None
    ) -> tuple[np.ndarray | None, Seen, str]:
        """See `Files`."""
        try:
            raw = self.bytes_of(index) if data is None else data
            array, seen = read(io.BytesIO(raw), self.form, box)
        except Exception as error:  # what Pillow raises for what a file may hold is of every kind
            log.debug("%s", printable(self.layout.paths[index]), exc_info=True)
            return None, Seen(), str(error).rstrip(".") or type(error).__name__
        return array, seen, ""


class WebDataset(ImageFolder):
    """Images and their classes in tar files: files of one sample have one name before its first dot, `n01.jpg` and `n01.cls`.

    The tar files are listed once, and the list is kept: every image is then read at its place, so that batches are a function of seed and
    step as for any other set, whatever the shards. Files have to lie on a disk (or a mounted bucket), not behind a pipe.

    root: a folder of .tar files. Their names may say which part they hold (train-0000.tar, test-0000.tar); else parts are made.
    label: the ending of what says the class: "cls" or "txt", a number or a name as text, or "json" with `label_key`; None: no classes.
    Other arguments: see `ImageFolder`.
    """

    def __init__(self, *, label: str | None = "cls", label_key: str = "label", **options: Any) -> None:
        super().__init__(**options)
        self.label, self.label_key = label, label_key

    def content(self) -> tuple[Any, ...]:
        """See `ImageFolder`."""
        self.fingerprint = self.fingerprint or self.now()
        return ("webdataset", self.fingerprint, self.label, self.label_key)

    def now(self) -> str:
        """See `ImageFolder`."""
        return fingerprint_of(self.root)

    def layout(self) -> Layout:
        """See `ImageFolder`."""
        self._check_fingerprint(self.now())
        shards = self._shards()
        name = cache.entry_name("shards 2", PIL.__version__, *self.content(), str(self.root))
        arrays, facts = cache.stored(name, lambda folder: self._list(shards, folder))
        self._index = arrays["places"]
        paths = os.fsdecode(arrays["names"].tobytes()).split("\0")
        official = {part: np.arange(*ends) for part, ends in facts["parts"].items()} if facts["parts"] else {}
        return Layout(
            self.root,
            paths,
            np.asarray(arrays["labels"]),
            facts["classes"],
            official,
            notes=tuple(facts["notes"]),
        )

    def files(self, layout: Layout) -> TarFiles:
        """See `ImageFolder`."""
        return TarFiles(layout, self.form, tuple(path for _, path in self._shards()), self._index)

    def _shards(self) -> list[tuple[str, Path]]:
        """Return the tar files with the part that each holds, part by part."""
        if not self.root.is_dir():
            raise UserError(f"there is no folder {self.root}: `root` must name a folder of .tar files")
        found = sorted(path for path in self.root.rglob("*.tar") if path.is_file())
        if not found:
            raise UserError(f"{self.root} holds no .tar files: `root` must name a folder of them")
        parts = [_part(path.relative_to(self.root)) for path in found]
        if any(parts) and not all(parts):
            odd = found[parts.index("")]
            raise UserError(
                f"{self.root}: some tar files are called after a part (train, validation, test), {odd.name} is not: name all so, or none"
            )
        if any(parts) and "train" not in parts:
            raise UserError(f"{self.root} has no tar file called train")
        order = ("", *PARTS)
        return sorted(zip(parts, found, strict=True), key=lambda one: order.index(one[0]))

    def _list(self, shards: Sequence[tuple[str, Path]], folder: Path) -> dict[str, Any]:
        """Write where each image lies, its name and class; return facts."""
        log.info("listing %d tar files of %s, once", len(shards), self.root)
        places: list[tuple[int, int, int]] = []
        names: list[str] = []
        said: list[str] = []
        parts: dict[str, list[int]] = {}
        without: list[str] = []
        for number, (part, path) in enumerate(shards):
            parts.setdefault(part, [len(names), 0])
            for key, sample in _samples(path).items():
                image = _image_of(sample)
                if image is None or (self.label is not None and self.label not in sample):
                    without.append(printable(f"{path.name}:{key} ({', '.join(sorted(sample))})"))
                    continue
                places.append((number, *image))
                names.append(f"{path.name}:{key}")
                if self.label is not None:
                    said.append(self._class_of(path, key, sample[self.label]))
            parts[part][1] = len(names)
        if not names:
            example = without[0] if without else "no file at all"
            raise UserError(
                f"{self.root}: no sample has an image ({', '.join(IMAGES[:2])}, ...) and a class in a .{self.label} file; there is "
                f"{example}. `label` names that ending; null takes images alone, without classes"
            )
        classes = _order(set(said[slice(*parts["train"])] if "train" in parts else said))
        if unknown := sorted(set(said) - set(classes)):
            raise UserError(
                f"{self.root}: the class '{unknown[0]}' is in no training shard; {choices(unknown[0], classes)}"
            )
        number_of = {name: place for place, name in enumerate(classes)}
        np.save(folder / "places.npy", np.asarray(places, dtype=np.int64))
        labels = np.zeros(len(names), dtype=np.int64)  # without classes, all 0
        labels[: len(said)] = [number_of[name] for name in said]
        np.save(folder / "labels.npy", labels)
        np.save(folder / "names.npy", np.frombuffer(os.fsencode("\0".join(names)), dtype=np.uint8))
        notes = (
            [f"{len(without)} samples without an image or a class are left out, such as {without[0]}"]
            if without
            else []
        )
        return {"classes": classes, "parts": None if "" in parts else parts, "notes": notes}

    def _class_of(self, path: Path, key: str, place: tuple[int, int]) -> str:
        with path.open("rb") as file:
            file.seek(place[0])
            raw = file.read(place[1])
        try:
            text = raw.decode().strip()
            if self.label == "json":
                return str(json.loads(text)[self.label_key])
            return text
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}: the class of '{key}' in its .{self.label} cannot be read: {error!r:.200}"
            ) from error


def _image_of(sample: dict[str, tuple[int, int]]) -> tuple[int, int] | None:
    """Return where a sample's image lies; None where it has none."""
    others = sorted(ending for ending in sample if f".{ending}" in endings())
    return next((sample[ending] for ending in (*IMAGES, *others) if ending in sample), None)


def _part(path: Path) -> str:
    """The part that a tar file's name, or its folder's, says; "" for none."""
    words = "/".join(path.parts).lower().replace("_", "-").replace(".", "-").replace("/", "-").split("-")
    return next((part for part, names in PARTS.items() if any(name in words for name in names)), "")


def _order(names: set[str]) -> list[str]:
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)


def _samples(path: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """Return for each sample of a tar file where its files lie: by ending, first byte and length."""
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                samples.setdefault(key, {})[ending.lower()] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(
            f"{path} is no whole tar file: {error} (compressed ones cannot be read at any place: unpack them)"
        ) from error
    return samples
