"""A run whose work is a pseudo data set: generator, and for pseudo conditional sampling classifier and target images, to shards."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tutelage.data import pseudo
from tutelage.data.base import DataModule
from tutelage.engine.build import check_frozen
from tutelage.engine.cpu import prepared_cpu
from tutelage.engine.data_sets import build_data
from tutelage.engine.inherited import recorded_data, recorded_sizes
from tutelage.engine.instantiate import construct, parameters_of, resolve
from tutelage.engine.networks import build_frozen, build_network, sizes_of
from tutelage.engine.rank_environment import join_environment
from tutelage.errors import UserError
from tutelage.generators import shards
from tutelage.generators.conditioning import check_labelling
from tutelage.generators.protocol import Generator
from tutelage.generators.sample_grid import GRID_IMAGES, write_grid
from tutelage.models.frozen import FrozenNetwork
from tutelage.objectives.unlabelled import byte_affine
from tutelage.runs.records import write_json
from tutelage.runs.run import Run
from tutelage.runs.setting import reads_of
from tutelage.runs.weights import Weights

FOLDER = "shards"
JUDGED = 1024


def make(config: dict[str, Any], run: Run) -> dict[str, Any]:
    """Write the run's pseudo data set, or what is missing or damaged of it, and return the result.

    Call it under the run's lock, in one process or in every rank of a started group: rank r of w makes shards r, r + w, ...
    Target data are opened only where the labelling conditions on them. Raises UserError for what the user can mend.
    """
    with prepared_cpu(config["hardware"].get("threads")):
        return _make(config, run)


def _make(config: dict[str, Any], run: Run) -> dict[str, Any]:
    started = time.perf_counter()
    reads = reads_of(config)
    rank, ranks = join_environment()
    device = _device(config["hardware"]["accelerator"])
    conditions = check_labelling(config["method"]["labelling"]) != "uniform"
    check_frozen(config, ["source"] if conditions else [])
    sizes = recorded_sizes("model", config)
    opens = conditions or not (sizes or brings_sizes(config["model"]))
    data = build_data(config) if opens else None
    generator = build_generator(config, sizes or (sizes_of(data) if data else {})).to(device)
    source = build_frozen("source", config, _given(data)).to(device) if conditions else None
    made = construct(
        "method",
        config["method"],
        folder=str(run.path / FOLDER),
        generator=generator,
        seed=config["seed"],
        classifier=source,
        targets=_targets(_given(data), device) if conditions else None,
        origin=_origin(config),
        rank=rank,
        world_size=ranks,
    )
    if ranks > 1:
        made = _gathered(run.path / FOLDER, rank)
    if rank == 0:
        facts = {
            key: made[key]
            for key in ("labelling", "count", "classes", "image_shape", "generator", "content_sha256")
        }
        if reads and data is None:
            reads["data"] = None
        record = {"pseudo": facts, "source_digest": _digest(source), "reads": reads}
        if conditions:
            record["data"] = _given(data).summary()
        write_json(run.path / "setup.json", record)
        found = pseudo.read(run.path / FOLDER)
        # The labels are the generator's classes, those of its own run's data; target data have others.
        classes = (recorded_data("model", config) or {}).get("classes")
        write_grid(
            found.images[:GRID_IMAGES] / 255,
            found.labels[:GRID_IMAGES],
            run.path / "samples.png",
            classes=classes,
        )
        seconds = time.perf_counter() - started
        cost = {"total_s": round(seconds, 3), "ranks": ranks}
        scores = (
            {"validation": _recognised(run.path, source, _given(data), device)} if source is not None else {}
        )
        run.complete({"metrics": scores, "pseudo": facts, "reads": reads, "cost": cost})
    if ranks > 1:
        torch.distributed.barrier()  # no rank leaves, or reads the result, before it is written
        torch.distributed.destroy_process_group()
    if data is not None:
        data.teardown()
    return run.result or {}


def damaged(run: Run) -> list[str]:
    """Return the files of a complete run's set that are missing or damaged."""
    try:
        manifest = pseudo.read_manifest(run.path / FOLDER)
    except UserError:
        return ["manifest.json"]
    return shards.damaged(run.path / FOLDER, manifest)


def brings_sizes(node: dict[str, Any]) -> bool:
    """Say whether a generator's configuration states its images and classes, or it knows them from its own files."""
    parameters, _, _ = parameters_of(resolve(node.get("_target_", ""), "model"))
    return all(node.get(name) is not None for name in ("input_shape", "num_classes") if name in parameters)


def build_generator(config: dict[str, Any], sizes: dict[str, Any]) -> Generator:
    """Return the configuration's generator with its weights, frozen and in eval mode."""
    network = build_network("model", config, sizes)
    if not isinstance(network, Generator):
        raise UserError(
            f"synthesis needs a generator, got model {type(network).__name__}; choose one of model=generator/..."
        )
    return network.requires_grad_(False).eval()


def _targets(data: DataModule, device: torch.device) -> Iterator[Tensor]:
    for batch in data.batches("train", device=device):
        yield batch.inputs


def _given(data: DataModule | None) -> DataModule:
    assert data is not None
    return data


def _digest(source: FrozenNetwork | None) -> str | None:
    return None if source is None else source.digest()


@torch.inference_mode()
def _recognised(
    folder: Path, source: FrozenNetwork, data: DataModule, device: torch.device
) -> dict[str, float]:
    """Return the share of images (of the first 1024) whose most probable label the source classifier gives them."""
    found = pseudo.read(folder)
    images, labels = found.images[:JUDGED], found.labels[:JUDGED].to(device)
    scale, shift = byte_affine(data.normalization, images.shape[1])
    answers = [source((part.float() * scale + shift).to(device)).argmax(dim=1) for part in images.split(64)]
    return {"source_accuracy": float((torch.cat(answers) == labels).float().mean())}


def _origin(config: dict[str, Any]) -> dict[str, Any]:
    """Which runs generator and classifier come from."""
    return {
        "generator_run": Weights.of(config, "model").needed,
        "classifier_run": Weights.of(config, "source").needed,
    }


def _gathered(folder: Path, rank: int) -> dict[str, Any]:
    """Meet all ranks in a process group, after which every shard is there; return the manifest in the first rank."""
    torch.distributed.init_process_group("gloo")
    torch.distributed.barrier()
    return (shards.finish(folder) if rank == 0 else None) or {}


def _device(accelerator: str) -> torch.device:
    if accelerator == "cpu":
        return torch.device("cpu")
    if accelerator in ("gpu", "auto") and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    if accelerator in ("mps", "auto") and torch.backends.mps.is_available():
        return torch.device("mps")
    if accelerator == "auto":
        return torch.device("cpu")
    raise UserError(f"hardware.accelerator={accelerator}: this machine has none; choose hardware=cpu")
