"""`tutelage predict`: what a run's network, or an exported one, answers for files or data, as a CSV."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.cli.reader import Given
from tutelage.errors import UserError, counted
from tutelage.reporting.console import say

if TYPE_CHECKING:
    from torch import Tensor

Rows = Iterator[tuple[list[dict[str, Any]], "Tensor", "Tensor | None"]]
"""Batches: what stands first in each row, inputs, and a mask."""
BATCH = 64
_IMAGES = "this network takes images: give image files, or folders of them"


def run(given: Given) -> int:
    """Run the command; return its exit code."""
    say(predict(given.names[0], given.names[1:], given.settings, **given.options))
    return 0


def predict(
    name: str, files: list[str], words: list[str], *, split: str, out: str, runs_dir: str, code: str
) -> str:
    """Write the CSV and return the line to print. Nothing of the run is changed."""
    if files and words:
        raise UserError("predict takes files, or data=... with split=..., not both")
    is_export = Path(name, "export.json").is_file()
    if is_export and not files:
        raise UserError(
            "an exported network has no data: name image files, a folder of them, or a CSV of its inputs"
        )
    target = Path(out).expanduser()
    if not target.parent.is_dir() or target.is_dir():
        raise UserError(f"out must be a file in a folder that exists, got {out}")
    network, answer, rows = (
        _exported(name, files, code) if is_export else _of_run(name, files, words, split, runs_dir, code)
    )
    from tutelage.engine.predictions import answers
    from tutelage.reporting.render import csv_text
    from tutelage.runs.records import write_text

    table = []
    for first, inputs, mask in rows:
        found = answers(network(inputs, mask), answer)
        table += [start | row for start, row in zip(first, found, strict=True)]
    write_text(target, csv_text(list(table[0]), (row.values() for row in table)))
    return f"{counted(len(table), 'prediction')} written: {target}"


def _exported(name: str, files: list[str], code: str) -> tuple[Callable[..., Tensor], dict[str, Any], Rows]:
    import torch

    from tutelage.engine import trust
    from tutelage.engine.encoding import TOKENISER
    from tutelage.engine.exported import load_exported

    network = load_exported(name, code=trust.modules(code))
    facts = network.facts
    shape = tuple(facts["input_shape"])
    if facts.get("encoding"):
        return network, facts["answer"], _rows(files, facts["encoding"], Path(name) / TOKENISER)
    if len(shape) == 3:
        mean, std = (torch.tensor(part).view(-1, 1, 1) for part in facts["normalization"] or ([0.0], [1.0]))
        inside = facts["normalise"]
        return (
            network,
            facts["answer"],
            _images(files, shape, None, lambda x: x if inside else (x - mean) / std),
        )
    if len(shape) == 1 and facts["inputs"] == "float32":
        return network, facts["answer"], _numbers(files, shape[0])
    raise UserError(
        f"{name} takes inputs {shape}, which no image file and no row of a CSV is: predict with its run and data=..."
    )


def _of_run(
    name: str, files: list[str], words: list[str], split: str, runs_dir: str, code: str
) -> tuple[Callable[..., Tensor], dict[str, Any], Rows]:
    import torch

    from tutelage.cli.evaluate import opened
    from tutelage.engine.encoding import encoding_of
    from tutelage.engine.predictions import answer_of
    from tutelage.models.frozen import FrozenNetwork

    run, loaded, data, network = opened(name, words, runs_dir=runs_dir, code=code)
    if not files:
        data.open_test()
        return network, answer_of(loaded.data), _split(data, split)
    network = FrozenNetwork(loaded.network)
    if len(data.input_shape) == 3:
        mean, std = (torch.tensor(part).view(-1, 1, 1) for part in data.normalization or ([0.0], [1.0]))
        form = getattr(getattr(data, "_files", None), "form", None) or getattr(data, "form", None)
        return (
            network,
            answer_of(data),
            _images(files, tuple(data.input_shape), form, lambda x: (x - mean) / std),
        )
    if (encoding := encoding_of(data)) is not None:
        tokenizer = data.tokenizer_file() if encoding.get("level") == "tokenizer" else None
        return network, answer_of(data), _rows(files, encoding, tokenizer)
    raise UserError(
        f"{run.key} was trained on {type(data).__name__}: predict reads image files, tables and texts; for its own kind of data give "
        "data=... or data.root=... with split=..."
    )


def _split(data: Any, split: str) -> Rows:
    for batch in data.batches(split, device="cpu"):
        yield [{"sample": int(one)} for one in batch.index], batch.inputs, batch.mask


def _images(files: list[str], shape: tuple[int, ...], form: Any, prepare: Callable[[Tensor], Tensor]) -> Rows:
    """Read image files, in the form that the training images had."""
    import numpy as np
    import torch
    from PIL import UnidentifiedImageError

    from tutelage.data.image_kinds import is_image, known_endings
    from tutelage.data.image_pixels import Form, read
    from tutelage.data.walk import printable

    paths: list[Path] = []
    for word in files:
        path = Path(word).expanduser()
        if not path.exists():
            raise UserError(f"there is no file or folder {word}")
        inside = [one for one in sorted(path.rglob("*")) if is_image(one.name)] if path.is_dir() else [path]
        if not inside:
            raise UserError(f"{_IMAGES}, got the folder {word}, which holds none ({known_endings()})")
        paths += inside
    channels, height, width = shape
    form = form or Form(height if height == width else None, channels)
    for start in range(0, len(paths), BATCH):
        part, images = paths[start : start + BATCH], []
        for path in part:
            try:
                with path.open("rb") as file:
                    pixels, _ = read(file, form)
            except UnidentifiedImageError as error:
                size = path.stat().st_size
                found = "which is no image that Pillow reads" if size else "which is empty"
                raise UserError(f"{_IMAGES}, got {printable(path)}, {found}") from error
            except Exception as error:  # what Pillow raises for what a file may hold is of every kind
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise UserError(f"cannot read the image {printable(path)}: {reason}") from error
            if pixels.shape != shape:
                raise UserError(
                    f"{printable(path)} is {pixels.shape[2]} x {pixels.shape[1]} pixels, the network takes {width} x {height}"
                )
            images.append(pixels.astype(np.float32) / (255 if pixels.dtype == np.uint8 else 1))
        yield [{"file": printable(path)} for path in part], prepare(torch.from_numpy(np.stack(images))), None


def _frame(files: list[str], **reading: Any) -> Any:
    from tutelage.data.frame import ENDINGS, read

    path = Path(files[0]).expanduser()
    if len(files) != 1 or not path.is_file() or path.suffix.lower() not in ENDINGS:
        missing = "" if path.exists() else ", which is not there"
        raise UserError(
            f"this network takes rows of a table: give one file ({', '.join(ENDINGS)}), got {' '.join(files)}{missing}"
        )
    return read(path, **reading).columns


def _rows(files: list[str], encoding: dict[str, Any], tokenizer: Path | None) -> Rows:
    """Rows of a file, encoded as the training rows were."""
    from tutelage.engine.encoding import encode

    if encoding["kind"] == "text":
        frame = _frame(files, texts=(encoding["column"],))
    else:
        frame = _frame(files, empty=tuple(encoding["empty"]), decimal=encoding["decimal"])
    yield from _features(*encode(encoding, frame, files[0], tokenizer))


def _numbers(files: list[str], width: int) -> Rows:
    """Rows that are the network's inputs as they are."""
    import numpy as np
    import torch

    frame = _frame(files)
    if (
        frame.shape[1] != width
        or any(kind.kind not in "iufb" for kind in frame.dtypes)
        or frame.isna().any(axis=None)
    ):
        raise UserError(
            f"{files[0]}: an exported network takes its {width} inputs as they are, in numbers, no cell empty; got {frame.shape[1]} "
            f"columns, {int(frame.isna().to_numpy().sum())} cells empty. Its run reads the table that it was trained on"
        )
    yield from _features(torch.from_numpy(frame.to_numpy(dtype=np.float32)))


def _features(values: Tensor, mask: Tensor | None = None) -> Rows:
    for start in range(0, len(values), BATCH):
        rows = slice(start, start + BATCH)
        numbers = [{"sample": start + place} for place in range(len(values[rows]))]
        yield numbers, values[rows], None if mask is None else mask[rows]
