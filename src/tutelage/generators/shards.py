"""Pseudo data sets as assets: shards of generated images with a manifest, restartable, the same bytes however they are made.

A folder holds `recipe.json` (what the set is), `shard-00000.safetensors`, ... each with a small `.json` beside it (its hash), and last
`manifest.json`, which names every shard: a set without it is not complete. Image k is a function of the recipe and k alone; the number
of shards or ranks, restarts and batch sizes change no byte of it. `tutelage.data.pseudo` reads these folders.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tutelage.errors import UserError
from tutelage.generators.conditioning import Conditioning
from tutelage.generators.protocol import Generator, image_seeds, to_bytes
from tutelage.runs.bounded import load_json

log = logging.getLogger("tutelage")
FORMAT = 1
ARRAYS = ("images", "labels", "soft_labels", "seeds")


def recipe(
    generator: Generator,
    conditioning: Conditioning,
    *,
    count: int,
    seed: int,
    origin: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what determines a pseudo data set, as plain data.

    count: images. seed: of the set; each image's own follows from it. origin: what to record of the generator and the classifier
    beside their weights, such as the runs they come from. Raises UserError for a count below 1.
    """
    if count < 1:
        raise UserError(f"a pseudo data set needs a count of at least 1 image, got {count}")
    predictions = conditioning.predictions
    return {
        "format": FORMAT,
        "generator": generator.describe() | {"sha256": _state_digest(generator)},
        "classes": generator.classes,
        "image_shape": list(generator.image_shape),
        "labelling": conditioning.labelling,
        "label_seed": conditioning.seed,
        "predictions_sha256": None
        if predictions is None
        else hashlib.sha256(predictions.numpy().tobytes()).hexdigest(),
        "targets": None if predictions is None else len(predictions),
        "count": count,
        "seed": seed,
        "origin": dict(origin or {}),
    }


def write(
    folder: str | Path,
    generator: Generator,
    conditioning: Conditioning,
    wanted: Mapping[str, Any],
    *,
    shard_size: int = 4096,
    rank: int = 0,
    world_size: int = 1,
) -> dict[str, Any] | None:
    """Make the shards that are missing or damaged, and return the manifest once every shard is there (else None: other ranks still work).

    wanted: the `recipe`. shard_size: images per file, rounded up to whole micro-batches of the generator. Rank r of w makes shards r,
    r + w, ... Killed at any moment, the same call goes on. Cost of a shard that is there: reading it, for its hash and the set's.
    Raises UserError where the folder holds a set of another recipe or shard size.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shard_size = -(-shard_size // generator.micro_batch) * generator.micro_batch
    claim = {**wanted, "shard_size": shard_size}
    _claim(folder, claim)
    for path, span in _places(folder, claim)[rank::world_size]:
        known = _known(path, span)
        if known is not None and known["sha256"] == _file_digest(path):
            continue
        if path.exists():
            log.warning("%s is damaged: it is made again", path)
            (folder / "manifest.json").unlink(missing_ok=True)  # another rank may have hashed what was there
        _write_shard(path, span, generator, conditioning, wanted["seed"])
    return _finish(folder, claim, checked=world_size == 1)


def _claim(folder: Path, wanted: dict[str, Any]) -> None:
    path = folder / "recipe.json"
    if not path.exists():
        _write_json(path, wanted)
        return
    try:
        found = dict(load_json(path))
    except (UserError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} is damaged ({error}), so nobody knows what the shards beside it are: remove {folder}"
        ) from error
    different = [key for key in {**wanted, **found} if wanted.get(key, ...) != found.get(key, ...)]
    if different:
        shown = "; ".join(
            f"{key} is {found.get(key)!r} there, {wanted.get(key)!r} wanted" for key in different[:3]
        )
        raise UserError(
            f"{folder} holds another pseudo data set ({shown}): choose another folder, or remove this one"
        )


def _write_shard(
    path: Path, span: tuple[int, int], generator: Generator, conditioning: Conditioning, set_seed: int
) -> None:
    labels = conditioning.labels(*span)
    seeds = torch.from_numpy(image_seeds(set_seed, np.arange(*span)))
    arrays = {"images": to_bytes(generator.sample(labels, seeds)).cpu(), "seeds": seeds}
    if labels.ndim == 2:
        arrays["soft_labels"] = labels.float()
    arrays["labels"] = labels.argmax(dim=1) if labels.ndim == 2 else labels
    part = path.with_suffix(f".{os.getpid()}.part")
    save_file({name: array.contiguous() for name, array in arrays.items()}, part)
    facts = {"file": path.name, "start": span[0], "count": span[1] - span[0], "sha256": _file_digest(part)}
    path.with_suffix(".json").unlink(missing_ok=True)
    part.replace(path)
    _write_json(path.with_suffix(".json"), facts)


def _places(folder: Path, claim: Mapping[str, Any]) -> list[tuple[Path, tuple[int, int]]]:
    """Return every shard's file and the span (first, behind the last) of its images."""
    starts = range(0, claim["count"], claim["shard_size"])
    return [
        (folder / f"shard-{number:05d}.safetensors", (start, min(start + starts.step, claim["count"])))
        for number, start in enumerate(starts)
    ]


def _known(path: Path, span: tuple[int, int]) -> dict[str, Any] | None:
    """Return what is recorded of a shard that exists, or None; a record that says something else is none."""
    if not path.exists():
        return None
    try:
        facts = dict(load_json(path.with_suffix(".json")))
    except (OSError, UserError, ValueError, TypeError):
        return None
    expected = {"file": path.name, "start": span[0], "count": span[1] - span[0]}
    return facts if facts == {**expected, "sha256": facts.get("sha256")} else None


def _finish(folder: Path, claim: Mapping[str, Any], *, checked: bool) -> dict[str, Any] | None:
    """Write the manifest if all shards are there. checked: their hashes were seen to be right, so what a manifest says of them can be."""
    found = [_known(*place) for place in _places(folder, claim)]
    if any(facts is None for facts in found):
        return None
    manifest = {**claim, "shards": found}
    path = folder / "manifest.json"
    old = _manifest(path)
    content = old.pop("content_sha256", None)
    if old != manifest or checked or content is None:
        content = content_digest(folder, manifest)
    manifest["content_sha256"] = content
    if _manifest(path) != manifest:
        _write_json(path, manifest)
    return manifest


def _manifest(path: Path) -> dict[str, Any]:
    """Return what the manifest says; nothing if it is not there or damaged."""
    try:
        return dict(load_json(path))
    except (OSError, UserError, ValueError, TypeError):
        return {}


def finish(folder: str | Path) -> dict[str, Any] | None:
    """Write the manifest of a set whose shards are all there and return it; None where some are missing."""
    return _finish(Path(folder), load_json(Path(folder) / "recipe.json"), checked=False)


def damaged(folder: str | Path, manifest: Mapping[str, Any]) -> list[str]:
    """Return the names of shards that are missing or differ from their hashes; where none does, of a manifest that is not theirs.

    Cost: reading the set, twice.
    """
    folder = Path(folder)
    files = {shard["file"]: shard["sha256"] for shard in manifest["shards"]}
    wrong = [n for n, sha in files.items() if not (folder / n).is_file() or _file_digest(folder / n) != sha]
    if not wrong and content_digest(folder, manifest) != manifest["content_sha256"]:
        return ["manifest.json"]
    return wrong


def content_digest(folder: Path, manifest: Mapping[str, Any]) -> str:
    """Return the sha256 of all images, labels and seeds in order: the same for any shard size."""
    totals = {name: hashlib.sha256() for name in ARRAYS}
    for shard in manifest["shards"]:
        for name, array in load_file(folder / shard["file"]).items():
            totals[name].update(array.numpy().tobytes())
    return hashlib.sha256("".join(totals[name].hexdigest() for name in ARRAYS).encode()).hexdigest()


def _state_digest(generator: Generator) -> str:
    total = hashlib.sha256()
    for name, tensor in sorted(generator.state_dict().items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(_bytes(tensor))
    return total.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
    part.replace(path)
