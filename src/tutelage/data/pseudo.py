"""Pseudo data sets: folders of generated images with a manifest, as `tutelage.generators.shards` writes them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tutelage.data import cache
from tutelage.data.fingerprint import pseudo_manifest
from tutelage.data.image_set import ImageData
from tutelage.data.image_store import ImageSource
from tutelage.errors import UserError
from tutelage.runs.bounded import load_json


@dataclasses.dataclass(frozen=True)
class PseudoSet:
    """A complete pseudo data set.

    images: (N, C, H, W) uint8.
    labels: (N,) int64, of a soft label its most probable class.
    soft_labels: (N, classes) float32, or None.
    seeds: (N,) int64.
    manifest: the recipe, and the hashes of what was read.
    """

    images: Tensor
    labels: Tensor
    soft_labels: Tensor | None
    seeds: Tensor
    manifest: dict[str, Any]


def read(root: str | Path) -> PseudoSet:
    """Return a pseudo data set, every shard checked against its hash; read once per process.

    Raises UserError where the set is not there or not complete, or a shard is missing or damaged.
    """
    manifest = read_manifest(root)
    folder = pseudo_manifest(root).parent
    return cache.remember(
        ("pseudo", manifest["content_sha256"], str(folder.resolve())), lambda: _load(folder, manifest)
    )


def read_manifest(root: str | Path) -> dict[str, Any]:
    """Return the manifest alone, checked for the format and against the recipe. Raises UserError as `read` does."""
    path = pseudo_manifest(root)
    folder = path.parent
    if not path.is_file():
        if (folder / "recipe.json").is_file():
            raise UserError(f"the pseudo data set in {folder} is not complete: {_again(folder)}")
        raise UserError(f"there is no pseudo data set in {folder}")
    try:
        manifest, claim = (dict(load_json(file)) for file in (path, path.with_name("recipe.json")))
    except (OSError, UserError, ValueError, TypeError) as error:
        raise UserError(f"{path} or the recipe beside it is damaged ({error}): {_again(folder)}") from error
    try:
        if manifest.get("format") != 1:
            raise UserError(f"{path} has the format {manifest.get('format')!r}, expected 1")
        agree = manifest == {
            **claim,
            "shards": _shards(manifest, claim),
            "content_sha256": manifest["content_sha256"],
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} or the recipe beside it is damaged ({error}): {_again(folder)}") from error
    if not agree:
        raise UserError(f"{path} is not of the recipe beside it, one of them is damaged: {_again(folder)}")
    return manifest


def _shards(manifest: dict[str, Any], claim: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what a manifest must say of its shards: only their hashes are its own, names and places follow from the recipe."""
    starts = range(0, claim["count"], claim["shard_size"])
    return [
        {
            "file": f"shard-{number:05d}.safetensors",
            "start": start,
            "count": min(starts.step, claim["count"] - start),
            "sha256": shard["sha256"],
        }
        for (number, start), shard in zip(enumerate(starts), manifest["shards"], strict=True)
    ]


def _again(folder: Path) -> str:
    run = folder.parent if folder.name == "shards" else folder
    return f"`tutelage synthesize {run}` makes anew what is missing or damaged"


def _load(folder: Path, manifest: dict[str, Any]) -> PseudoSet:
    count, shape = manifest["count"], manifest["image_shape"]
    arrays = {
        "images": torch.empty(count, *shape, dtype=torch.uint8),
        "labels": torch.empty(count, dtype=torch.int64),
        "seeds": torch.empty(count, dtype=torch.int64),
    }
    if manifest["labelling"] == "soft":
        arrays["soft_labels"] = torch.empty(count, manifest["classes"])
    for shard in manifest["shards"]:
        path = folder / shard["file"]
        if not path.is_file():
            raise UserError(f"the shard {path} is missing: {_again(folder)}")
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != shard["sha256"]:
                raise UserError(f"the shard {path} is damaged: {_again(folder)}")
        place = slice(shard["start"], shard["start"] + shard["count"])
        try:
            with safe_open(path, framework="pt") as stored:
                for name, array in arrays.items():
                    found = stored.get_tensor(name)
                    if found.shape != array[place].shape:  # it would be repeated to fill the place
                        raise ValueError(f"{name} has the shape {tuple(found.shape)}")
                    array[place] = found
        except (SafetensorError, RuntimeError, ValueError) as error:
            raise UserError(f"the shard {path} does not hold what its manifest says: {error}") from error
    if _content(arrays) != manifest["content_sha256"]:
        raise UserError(f"{folder}/manifest.json is damaged, its shards are not: {_again(folder)}")
    return PseudoSet(manifest=manifest, soft_labels=arrays.pop("soft_labels", None), **arrays)


def _content(arrays: dict[str, Tensor]) -> str:
    """Return the hash that names the content, see `tutelage.generators.shards.content_digest`."""
    parts = [arrays.get(name, torch.empty(0)) for name in ("images", "labels", "soft_labels", "seeds")]
    digests = [hashlib.sha256(part.numpy().data).hexdigest() for part in parts]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


class PseudoImages(ImageData):
    """Labelled pseudo images, for pseudo pre-training and for distillation on generated samples.

    root: the folder of the set, or of the run that made it. All labels are those the generator was given; validation and test are parts
    of the set itself. Other arguments: see `ImageData`.
    """

    declares: ClassVar[Mapping[str, str]] = {"_reads_": "pseudo"}

    def __init__(self, *, root: str, **options: Any) -> None:
        super().__init__(**options)
        self.root = Path(root)

    def source(self) -> ImageSource:
        """See `ImageData`."""
        found = read(self.root)
        manifest = found.manifest
        facts = ("generator", "labelling", "count", "seed", "origin", "content_sha256")
        self.facts["pseudo"] = {name: manifest[name] for name in facts}
        names = [str(number) for number in range(manifest["classes"])]
        key = ("pseudo", manifest["content_sha256"])
        return ImageSource(found.images, found.labels.numpy(), names, {}, 255.0, key)
