"""The layout of an image folder: which images it holds, of which classes, in which splits (no torch)."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tutelage.data.image_kinds import is_image, known_endings, other_files
from tutelage.data.walk import NOT_DATA, Found, composed, in_order, printable, shown, walk
from tutelage.errors import UserError, choices

PART_FOLDERS = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}
SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
FORMS = "root/<class>/<images> or root/{train,test}/<class>/<images>"


@dataclasses.dataclass(frozen=True)
class Layout:
    """The image files of a set.

    root: the folder that the paths start from.
    paths: relative paths (N).
    labels: (N,) int64.
    class_names: the classes, in the order of their numbers; none of a set without classes, whose labels are all 0.
    official: the splits that the set states itself.
    absent: places of paths that were in the set when a run began, and are gone since: never read, so that all others keep their places.
    notes: a sentence for each kind of thing that is in the folder and not in the set, to be said and recorded.
    listed: the image files that are there, in order, where a folder was listed.
    """

    root: Path
    paths: Sequence[str]
    labels: np.ndarray
    class_names: Sequence[str]
    official: dict[str, np.ndarray]
    absent: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    notes: Sequence[str] = ()
    listed: Sequence[Found] = ()


def read_layout(root: Path, absent: Sequence[str] = ()) -> Layout:
    """List the images of root/<class>/... or of root/train/<class>/... with test/ and val/ beside it; or, without classes, those in `root`,
    or in train/ and the others, themselves.

    A val/ without a test/ is the test split (ImageNet's layout, where test labels are unpublished);
    validation then comes from train. Classes are the sorted folder names of the training part, accents composed. What is left out
    (files that are no images, images in no class folder, empty classes) is counted in `Layout.notes`. Raises UserError where the folder has
    neither form.

    root: the folder.
    absent: paths of images that were there when a run began, see `Layout.absent`.
    """
    if not root.is_dir():
        raise UserError(f"there is no image folder {printable(root)}: `root` must hold {FORMS}")
    listed = in_order(walk(root))
    images: list[Found] = []
    others: list[Found] = []
    for one in listed:
        (images if is_image(one.name) else others).append(one)
    gone = set(absent) - {one.name for one in images} if absent else set()
    found = [
        one.name for one in (in_order([*images, *(Found(name, 0, 0) for name in gone)]) if gone else images)
    ]
    parts = _part_prefixes(found)
    notes: list[str] = []
    paths, labels, class_names, official = _sorted_out(root, found, parts, notes)
    if split_like := [name for name in class_names if not official and _is_split(name, found)]:
        raise UserError(
            f"{printable(root)} has the folders {shown(class_names)}, of which {', '.join(split_like)} hold folders of images and would "
            f"be taken for classes: expected {FORMS}; rename them to train, test and, if there is one, val"
        )
    notes += _left_out(root, [one.name for one in others], found, paths, class_names, stated=bool(official))
    if not paths:
        raise UserError(
            f"{printable(root)} holds no images: expected {FORMS}; images end in {known_endings()}"
        )
    if len(class_names) < 2:
        where = f"in one class folder, {shown(class_names)}" if class_names else "in no class folder"
        notes.insert(
            0,
            f"{printable(root)}: {len(paths):,} images {where}: taken as images without classes ({FORMS} has some)",
        )
        class_names = []
    places = np.asarray([place for place, path in enumerate(paths) if path in gone], dtype=np.int64)
    return Layout(
        root, paths, np.asarray(labels, dtype=np.int64), class_names, official, places, notes, images
    )


def _sorted_out(
    root: Path, found: Sequence[str], parts: dict[str, str], notes: list[str]
) -> tuple[list[str], list[int], list[str], dict[str, np.ndarray]]:
    """Return the paths in class folders, their labels, the class names and the stated splits."""
    paths: list[str] = []
    labels: list[int] = []
    class_names: list[str] = []
    official: dict[str, np.ndarray] = {}
    of_class = {
        part: [name for name in found if name.startswith(prefix) and "/" in name[len(prefix) :]]
        for part, prefix in parts.items()
    }
    if not any(of_class.values()):  # images without classes
        for part, prefix in parts.items():
            inside = [name for name in found if name.startswith(prefix)]
            if part != "all":
                official[part] = np.arange(len(paths), len(paths) + len(inside))
            paths += inside
        return paths, [0] * len(paths), [], official
    for part, inside in of_class.items():
        prefix = parts[part]
        folders = [name[len(prefix) :].split("/", 1)[0] for name in inside]
        called = {folder: class_name(folder) for folder in set(folders)}
        class_names = class_names or sorted(set(called.values()))
        notes += _alike(root / prefix, called)
        if unknown := sorted(set(called.values()) - set(class_names)):
            raise UserError(
                f"{printable(root / prefix)} has classes that train/ lacks: {shown(unknown)}; {choices(unknown[0], class_names)}"
            )
        number = {name: label for label, name in enumerate(class_names)}
        if part != "all":
            official[part] = np.arange(len(paths), len(paths) + len(inside))
        paths += inside
        labels += [number[called[folder]] for folder in folders]
    return paths, labels, class_names, official


def class_name(folder: str) -> str:
    """Return the name of a class: that of its folder, accents composed, bytes that are no UTF-8 as \\x.."""
    return composed(printable(folder))


def _alike(where: Path, called: dict[str, str]) -> Iterator[str]:
    """Yield what is to be said of folders that are one class, and of classes that differ in nothing but upper and lower case."""
    same, alike = defaultdict(list), defaultdict(set)
    for folder, name in called.items():
        same[name].append(folder)
        alike[name.casefold()].add(name)
    if double := sorted(name for name, folders in same.items() if len(folders) > 1):
        yield (
            f"{printable(where)}: two folders each, whose names differ in how accents are stored, are taken for one class: {shown(double)}"
        )
    if twins := sorted(" and ".join(sorted(names)) for names in alike.values() if len(names) > 1):
        yield f"{printable(where)}: classes that differ in upper and lower case alone: {shown(twins)}"


def _left_out(
    root: Path,
    others: Sequence[str],
    found: Sequence[str],
    paths: Sequence[str],
    class_names: Sequence[str],
    *,
    stated: bool,
) -> Iterator[str]:
    """Yield what is to be said of what is in the folder and not in the set."""
    if others:
        yield other_files(root, others)
    if len(paths) < len(found):
        outside = set(found) - set(paths)
        places = Counter(name.rpartition("/")[0] or "the folder itself" for name in outside)
        yield (
            f"{printable(root)}: {len(outside):,} images lie outside the class folders{' of train, val and test' if stated else ''} "
            f"and are left out: {shown(f'{count:,} in {place}' for place, count in sorted(places.items()))}"
        )
    folder = root / "train" if stated else root
    entries = [entry for entry in os.scandir(folder) if entry.is_dir()]
    names = {class_name(e.name) for e in entries if e.name[0] != "." and e.name.lower() not in NOT_DATA}
    empty = sorted(names - set(class_names))
    if empty and class_names:
        yield f"{printable(folder)}: no image in {shown(empty)}, which are left out of the classes"


def _is_split(name: str, found: Sequence[str]) -> bool:
    """Whether a class folder is called as a part of a data set, and holds folders alone."""
    called = name.lower() in SPLIT_NAMES
    return called and all(path.count("/") >= 2 for path in found if path.startswith(f"{name}/"))


def _part_prefixes(found: Sequence[str]) -> dict[str, str]:
    folders = {name.split("/", 1)[0] for name in found if name.count("/") >= 2}
    if not folders and all(name.partition("/")[0].lower() in SPLIT_NAMES and "/" in name for name in found):
        folders = {name.split("/", 1)[0] for name in found}  # parts of images without classes
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
