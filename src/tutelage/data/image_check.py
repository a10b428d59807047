"""All images of a set looked at once before training: what cannot be read is named at once, what is unusual is counted aloud.

What was found is kept in the cache folder, a row for each file as it was (name, size, time of change): only new and changed files are
looked at again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import PIL

from tutelage.data import cache
from tutelage.data.image_depth import FULL
from tutelage.data.image_files import Files, UnreadableImages
from tutelage.data.image_pixels import Fact
from tutelage.data.walk import printable
from tutelage.errors import UserError, counted

log = logging.getLogger("tutelage")
VERSION = 1
"""Of what a row means; another one looks at all files again."""
ROW = np.dtype(
    [("file", "u8"), ("content", "u8"), ("facts", "u2"), ("largest", "f4"), ("height", "u4"), ("width", "u4")]
)
"""What is kept of a file: hashes of its name, size and time of change, and of its bytes; its `Fact`s; see `Seen`; its upright size."""
PROGRESS_S = 20.0


@dataclasses.dataclass(frozen=True)
class Found:
    """What a set of images was found to be.

    counts: for each `Fact`, by name, the number of images.
    examples: for each of them the path of one.
    largest: of the deep images, the largest value as a share of white.
    contents: a number for each image, equal for equal files; None where they were not compared.
    """

    counts: dict[str, int]
    examples: dict[str, str]
    largest: float
    contents: np.ndarray | None = None


def check(files: Files) -> Found:
    """Look at every image of a set, those already known excepted. Raises UserError naming all that cannot be read."""
    paths, here = files.layout.paths, np.ones(len(files), dtype=bool)
    here[files.layout.absent] = False
    stamps = np.zeros(len(files), dtype=np.uint64)
    reasons: dict[str, str] = {}
    for place in np.flatnonzero(here).tolist():
        try:
            stamps[place] = _stamp(files, place)
        except OSError as error:
            reasons[paths[place]] = str(error.strerror)
    if reasons:
        raise UnreadableImages(files.layout.root, reasons, len(files))
    table = _Table(files)
    rows = table.read()
    fresh = np.flatnonzero(here & ~np.isin(stamps, rows["file"]))
    if len(fresh):
        log.info("looking at %s of %s, once", counted(len(fresh), "image"), printable(files.layout.root))
        added, reasons = _look_at(files, fresh.tolist(), stamps)
        rows = np.unique(np.concatenate([rows, added]))
        table.write(rows)
        if reasons:
            raise UnreadableImages(files.layout.root, reasons, len(files))
    mine = rows[np.searchsorted(rows["file"], stamps[here])]
    if files.form.size is None:
        _check_sizes(files, np.flatnonzero(here), mine)
    contents = np.zeros(len(files), dtype=np.uint64)
    contents[here] = mine["content"]
    found = summary(files, np.flatnonzero(here), mine["facts"], mine["largest"])
    return dataclasses.replace(found, contents=np.unique(contents, return_inverse=True)[1])


def summary(files: Files, places: np.ndarray, facts: np.ndarray, largest: np.ndarray) -> Found:
    """Count the facts (n,) of the images at some places (n,) of a set."""
    counts, examples = {}, {}
    for fact in Fact:
        having = np.flatnonzero(facts & int(fact))
        if len(having) and fact.name:
            counts[fact.name.lower()] = len(having)
            examples[fact.name.lower()] = printable(files.layout.paths[int(places[having[0]])])
    return Found(counts, examples, float(largest.max(initial=0.0)))


def say(found: Found, files: Files) -> None:
    """Count aloud what the images are beyond plain pixels. Raises UserError where scales cannot be compared."""
    count, example, form = found.counts, found.examples, files.form
    for note in files.layout.notes:
        log.warning("%s", note)

    def told(fact: str, text: str, level: int = logging.INFO) -> None:
        if fact in count:
            log.log(
                level,
                "%s of %s images (such as %s) %s",
                f"{count[fact]:,}",
                f"{len(files):,}",
                example[fact],
                text,
            )

    told("turned", "are stored turned or mirrored, with a note that says so: set upright")
    told("transparent", f"are transparent in part: laid on the `background`, {list(form.background)}")
    told("inks", "are of printing inks (CMYK): turned into colours without a colour profile", logging.WARNING)
    told("profile", "have a colour profile other than sRGB, which is not applied", logging.WARNING)
    told("frames", "have several frames or pages, of which the first is read", logging.WARNING)
    told("reduced", "have more than 8 bits a colour, of which Pillow gives 8", logging.WARNING)
    if "deep" not in count:
        return
    shallow = len(files) - len(files.layout.absent) - count["deep"]
    unused = form.white is None and found.largest < 0.5
    value = f"{round(found.largest * FULL):,}"
    advice = f"white is taken to be {FULL:,}. If they hold fewer bits, say so by `white`, 4095 for 12 bits, 1023 for 10, 16383 for 14"
    if unused and shallow:
        raise UserError(
            f"{count['deep']:,} of {len(files):,} images have 16 bits a value, the largest being {value} (such as {example['deep']}), and "
            f"the others have 8: {advice}, so that both can be compared"
        )
    if unused:
        told("deep", f"have 16 bits a value and keep them; the largest is {value}, {advice}", logging.WARNING)
    else:
        white = "as the files say" if form.white is None else f"{form.white:g}"
        told("deep", f"have more than 8 bits a value and keep them, white being {white}")


def in_threads(count: int, work: Callable[[int], Any]) -> Iterator[Any]:
    """Yield what `work` gives for 0 ... count - 1, in order, computed by a thread for each core this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with ThreadPoolExecutor(cores) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, about notes inside files
        yield from pool.map(work, range(count))


def _look_at(files: Files, places: Sequence[int], stamps: np.ndarray) -> tuple[np.ndarray, dict[str, str]]:
    """Return a row for each image that can be read, and why for each that cannot."""
    small = (
        files
        if files.form.size is None
        else dataclasses.replace(files, form=dataclasses.replace(files.form, size=1))
    )
    size, told = 64, time.monotonic()

    def look(number: int) -> list[tuple[int, tuple[Any, ...] | str]]:
        return [
            (place, _row(small, place, stamps[place]))
            for place in places[number * size : (number + 1) * size]
        ]

    rows, reasons = [], {}
    for number, part in enumerate(in_threads(-(-len(places) // size), look)):
        for place, row in part:
            if isinstance(row, str):
                reasons[files.layout.paths[place]] = row
            else:
                rows.append(row)
        if time.monotonic() - told > PROGRESS_S:
            told = time.monotonic()
            done = min((number + 1) * size, len(places))
            log.info("looked at %s of %s images", f"{done:,}", f"{len(places):,}")
    return np.asarray(rows, dtype=ROW), reasons


def _row(files: Files, place: int, stamp: np.uint64) -> tuple[Any, ...] | str:
    try:
        data = files.bytes_of(place)
    except OSError as error:
        return str(error.strerror)
    array, seen, reason = files.attempt(place, data=data)
    if array is None:
        return reason
    content = hashlib.blake2b(data, digest_size=8).digest()
    return (stamp, int.from_bytes(content, "little"), int(seen.facts), seen.largest, *array.shape[1:])


def _stamp(files: Files, place: int) -> int:
    size, changed_ns = files.stamp(place)
    text = os.fsencode(f"{files.layout.paths[place]}\0{size}\0{changed_ns}")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def _check_sizes(files: Files, places: np.ndarray, rows: np.ndarray) -> None:
    other = np.flatnonzero((rows["height"] != rows["height"][0]) | (rows["width"] != rows["width"][0]))
    if len(other):
        two = [int(places[0]), int(places[other[0]])]
        files.stack(
            two, [array for array, _, _ in map(files.attempt, two) if array is not None]
        )  # raises, naming both


class _Table:
    """The rows that are kept of a folder, for one version of what reads it."""

    def __init__(self, files: Files) -> None:
        form, folder = files.form, str(files.layout.root.resolve())
        name = cache.entry_name(VERSION, PIL.__version__, folder, form.white, form.size is None)
        self.path = cache.cache_folder() / "looked_at" / f"{name}.npy"

    def read(self) -> np.ndarray:
        try:
            rows = np.load(self.path, allow_pickle=False)
        except (OSError, ValueError):  # none yet, or damaged: everything is looked at again
            return np.zeros(0, dtype=ROW)
        return rows if rows.dtype == ROW else np.zeros(0, dtype=ROW)

    def write(self, rows: np.ndarray) -> None:
        part = self.path.with_suffix(f".{os.getpid()}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                np.save(file, rows)
            part.replace(self.path)
        except OSError as error:
            kept = self.path.parent
            log.warning(
                f"what was found in the images cannot be kept in {kept} ({error}): they are looked at again next time"
            )
