"""Pseudo data sets: folders of generated images with a manifest, as `tutelage.generators.shards` writes them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tutelage.data import cache
from tutelage.data.fingerprint import pseudo_manifest
from tutelage.data.image_set import ImageData, ImageSource
from tutelage.errors import UserError


@dataclasses.dataclass(frozen=True)
class PseudoSet:
    """A complete pseudo data set.

    images: (N, C, H, W) uint8. labels: (N,) int64, of a soft label its most probable class. soft_labels: (N, classes) float32, or None.
    seeds: (N,) int64. manifest: the recipe, and the hashes of what was read.
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
    """Return the manifest alone, checked for the format. Raises UserError as `read` does."""
    path = pseudo_manifest(root)
    folder = path.parent
    if not path.is_file():
        if (folder / "recipe.json").is_file():
            raise UserError(f"the pseudo data set in {folder} is not complete: {_again(folder)}")
        raise UserError(f"there is no pseudo data set in {folder}")
    manifest = json.loads(path.read_text())
    if manifest.get("format") != 1:
        raise UserError(f"{path} has the format {manifest.get('format')!r}, expected 1")
    return manifest


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
                    array[place] = stored.get_tensor(name)
        except (SafetensorError, RuntimeError) as error:
            raise UserError(f"the shard {path} does not hold what its manifest says: {error}") from error
    return PseudoSet(manifest=manifest, soft_labels=arrays.pop("soft_labels", None), **arrays)


class PseudoImages(ImageData):
    """Labelled pseudo images, for pseudo pre-training and for distillation on generated samples.

    root: the folder of the set, or of the run that made it. All labels are those the generator was given; validation and test are parts
    of the set itself.
    """

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
