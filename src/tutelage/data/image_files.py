"""Image files: the layout of a folder, and decoding to one size (no torch)."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tutelage.data.fingerprint import file_digest, listing
from tutelage.errors import UserError

log = logging.getLogger("tutelage")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
PART_FOLDERS = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}
SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
COMPARED_BYTES = 4 * 2**30
"""So much of streamed files is read to find equal ones, seconds of work; larger sets are not compared."""
MODES = {1: "L", 3: "RGB"}


@dataclasses.dataclass(frozen=True)
class Layout:
    """Image files of a folder: relative paths and labels (N,), class names, and the splits its folders
    state.
    """

    root: Path
    paths: Sequence[str]
    labels: np.ndarray
    class_names: Sequence[str]
    official: dict[str, np.ndarray]


def read_layout(root: Path) -> Layout:
    """List the images of root/<class>/... or of root/train/<class>/... with test/ and val/ beside it.

    A val/ without a test/ is the test split (ImageNet's layout, where test labels are unpublished);
    validation then comes from train. Classes are the sorted folder names of the training part. Raises
    UserError where the folder has neither form.
    """
    forms = "root/<class>/<images> or root/{train,test}/<class>/<images>"
    if not root.is_dir():
        raise UserError(f"there is no image folder {root}: `root` must hold {forms}")
    found = sorted(name for name, _ in listing(root) if name.lower().endswith(EXTENSIONS))
    paths: list[str] = []
    labels: list[int] = []
    class_names: list[str] = []
    official: dict[str, np.ndarray] = {}
    for part, prefix in _part_prefixes(found).items():
        inside = [name for name in found if name.startswith(prefix) and "/" in name[len(prefix) :]]
        classes = [name[len(prefix) :].split("/", 1)[0] for name in inside]
        class_names = class_names or sorted(set(classes))
        if unknown := sorted(set(classes) - set(class_names)):
            raise UserError(f"{root / prefix} has classes that train/ lacks: {', '.join(unknown[:5])}")
        number = {name: label for label, name in enumerate(class_names)}
        if part != "all":
            official[part] = np.arange(len(paths), len(paths) + len(inside))
        paths += inside
        labels += [number[name] for name in classes]
    if split_like := [name for name in class_names if not official and _is_split(name, found)]:
        raise UserError(
            f"{root} has the folders {', '.join(class_names)}, of which {', '.join(split_like)} hold folders of images and would be taken "
            f"for classes: expected {forms}; rename them to train, test and, if there is one, val"
        )
    folder = root / "train" if official else root
    empty = sorted(
        {entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != "."}
        - set(class_names)
    )
    if empty and class_names:
        log.warning("%s: no image in %s, which are left out of the classes", folder, ", ".join(empty))
    if len(class_names) < 2:
        raise UserError(
            f"{root} holds {len(found)} images in {len(class_names)} class folders: expected {forms}, "
            f"two classes or more; images end in {', '.join(EXTENSIONS)}"
        )
    return Layout(root, paths, np.asarray(labels, dtype=np.int64), class_names, official)


def _is_split(name: str, found: Sequence[str]) -> bool:
    """Whether a class folder is called as a part of a data set, and holds folders alone."""
    called = name.lower() in SPLIT_NAMES
    return called and all(path.count("/") >= 2 for path in found if path.startswith(f"{name}/"))


def _part_prefixes(found: Sequence[str]) -> dict[str, str]:
    folders = {name.split("/", 1)[0] for name in found if name.count("/") >= 2}
    prefixes = {
        part: f"{next(name for name in names if name in folders)}/"
        for part, names in PART_FOLDERS.items()
        if folders.intersection(names)
    }
    if "train" not in prefixes:
        return {"all": ""}
    if "test" not in prefixes and "validation" in prefixes:
        prefixes["test"] = prefixes.pop("validation")
    return prefixes


@dataclasses.dataclass(frozen=True)
class Files:
    """Images to be decoded to one form: (channels, size, size) uint8, or their own common size where `size` is None."""

    layout: Layout
    size: int | None
    channels: int

    def __len__(self) -> int:
        return len(self.layout.paths)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width after decoding."""
        return (self.channels, self.size, self.size) if self.size is not None else self.decode(0).shape

    def content_numbers(self) -> np.ndarray | None:
        """Number the files (N,) by their bytes, equal for equal files; None where that would read more than `COMPARED_BYTES`.

        Only a file of the same size as another is read.
        """
        paths = [self.layout.root / path for path in self.layout.paths]
        sizes = np.asarray([path.stat().st_size for path in paths])
        _, group, members = np.unique(sizes, return_inverse=True, return_counts=True)
        shared = members[group] > 1
        if sizes[shared].sum() > COMPARED_BYTES:
            return None
        contents = [
            file_digest(path) if read else f"size {size}"
            for path, size, read in zip(paths, sizes, shared, strict=True)
        ]
        return np.unique(contents, return_inverse=True)[1]

    def decode(self, index: int, box: Callable[[int, int], tuple[float, ...]] | None = None) -> np.ndarray:
        """Return one image as uint8 (channels, height, width), resized with antialiased bilinear interpolation.

        box: from the height and width to the part (top, left, height, width) that is resized to `size`; by default the largest
        centred square. Without a `size` a part is resized to the whole image's, and by default nothing is cut. Raises UserError where
        the file is no whole image.
        """
        path = self.layout.root / self.layout.paths[index]
        try:
            with Image.open(path) as image:
                array = np.asarray(self._resized(_eight_bit(image), box).convert(MODES[self.channels]))
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
            raise UserError(f"cannot read the image {path}: {error}. Replace or remove it") from error
        return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)

    def _resized(
        self, image: Image.Image, box: Callable[[int, int], tuple[float, ...]] | None
    ) -> Image.Image:
        if self.size is None and box is None:
            return image
        width, height = image.size
        top, left, part_height, part_width = (box or _centre)(height, width)
        goal = image.size if self.size is None else (self.size, self.size)
        if part_height == part_width == min(height, width):
            image.draft(MODES[self.channels], goal)  # a JPEG decodes faster at a fraction of its size
        if image.size == goal == (part_width, part_height):
            return image
        by = image.width / width, image.height / height
        right = min((left + part_width) * by[0], image.width)
        bottom = min((top + part_height) * by[1], image.height)
        return image.convert(MODES[self.channels]).resize(
            goal, Image.Resampling.BILINEAR, box=(left * by[0], top * by[1], right, bottom)
        )

    def decode_many(self, indices: Sequence[int]) -> np.ndarray:
        """Return decoded images (n, channels, height, width). Raises UserError where their sizes differ."""
        return self.stack(indices, [self.decode(index) for index in indices])

    def stack(self, indices: Sequence[int], images: Sequence[np.ndarray]) -> np.ndarray:
        """Return the images as one array. Raises UserError, naming the file, where one has another size than
        the first.
        """
        for index, image in zip(indices, images, strict=True):
            if image.shape != images[0].shape:
                (_, height, width), (_, first_height, first_width) = image.shape, images[0].shape
                raise UserError(
                    f"{self.layout.paths[indices[0]]} has {first_width}x{first_height} pixels, {self.layout.paths[index]} has "
                    f"{width}x{height}: set `image_size` to decode all to one size"
                )
        return np.stack(images)


def _eight_bit(image: Image.Image) -> Image.Image:
    """An image of 8 bits a channel: 16 bits are scaled, which Pillow's own conversion would clip at 255."""
    if image.mode.startswith("I;16"):
        return Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(
            f"its pixels are of mode {image.mode}, 32 bits without a known range; save it with 8 or 16 bits"
        )
    return image


def _centre(height: int, width: int) -> tuple[float, ...]:
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side
