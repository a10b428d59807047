"""Every method on this machine's accelerator: samples per second and peak memory at each precision, accumulated, clipped, compiled.

`python -m tutelage.bench hardware`; not among what `make bench` measures. A ratio is a setting's throughput over that of 32-true.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from tutelage.bench.timing import Row, row
from tutelage.errors import UserError

CLASSES = 10
COMMON = ["data=synthetic", "data.samples=4000", f"data.num_classes={CLASSES}", "logger=none", "fit.validate_every_steps=null"]  # fmt: skip
IN_RANGE = "data.normalization=[[0.0,0.0,0.0],[20.0,20.0,20.0]]"  # brings the synthetic inputs into [-1, 1], where generators work
GENERATE = [IN_RANGE, "model@source=residual_convnet", "method.quality_samples=16"]
METHODS = {
    "supervised": ["model=resnet18"],
    "guidance": ["model=fcn", "model.depth=48", "model.width=512", "model@guide=resnet18"],
    "guidance, CKA from bfloat16": [
        "model=fcn",
        "model.depth=48",
        "model.width=512",
        "model@guide=resnet18",
        "similarity@method.objectives.alignment.similarity=cka_bfloat16",
    ],
    "distillation": ["model=resnet18", "model@teacher=resnet18"],
    "feature_distillation": ["model=resnet18", "model@teacher=resnet18"],
    "fitnets": ["model=resnet18", "model@teacher=resnet18", "method.hint_steps=2"],
    "intrinsic_dimension": ["model=fcn", "model.depth=48", "model.width=512"],
    "pseudo_ssl/uda": [IN_RANGE, "model=resnet18", "method.objectives.consistency.pseudo={pseudo}"],
    "gan": ["model=generator/gan", *GENERATE],
    "inversion": [
        "model=generator/inversion",
        *GENERATE[1:],
        "data.normalization=[[0.5,0.5,0.5],[0.5,0.5,0.5]]",
    ],
    "diffusion": ["model=generator/diffusion", *GENERATE],
}
"""A network of the size that each method is used with; P-SSL's images come from a small pseudo data set."""
SETTINGS = {
    "32-true": [],
    "bf16-mixed": ["hardware.precision=bf16-mixed"],
    "16-mixed": ["hardware.precision=16-mixed"],
    "32-true, accumulated and clipped": ["fit.accumulate=2", "fit.gradient_clip=1.0"],
    "32-true, compiled": ["hardware.compile=true"],
}
_ON_A_GPU = ("16-mixed", "32-true, compiled")


def method_of(title: str) -> str:
    """Return the method of a key of `METHODS`, which says more after a comma."""
    return title.partition(",")[0]


def rows(pairs: int = 3) -> list[Row]:
    """Measure every method under every setting that this machine can run."""
    import torch

    gpu = torch.cuda.is_available()
    sizes = (
        ["data.shape=[3,64,64]", "data.batch_size=256"]
        if gpu
        else ["data.shape=[3,32,32]", "data.batch_size=32"]
    )
    words = [*COMMON, *sizes, f"hardware={'gpu' if gpu else 'cpu'}", f"fit.max_steps={60 if gpu else 4}"]
    settings = {name: more for name, more in SETTINGS.items() if gpu or name not in _ON_A_GPU}
    with tempfile.TemporaryDirectory() as folder:
        pseudo = _pseudo(Path(folder) / "pseudo", 64 if gpu else 32)
        seeds = itertools.count()
        made: list[Row] = []
        for method, own in METHODS.items():
            command = [
                *words,
                f"method={method_of(method)}",
                *(word.format(pseudo=pseudo) for word in own),
                f"runs_dir={folder}/runs",
            ]
            made += _method(method, command, settings, seeds, pairs)
    return made


def _method(
    method: str, words: list[str], settings: dict[str, list[str]], seeds: Any, pairs: int
) -> list[Row]:
    taken: dict[str, list[dict[str, Any]]] = {name: [] for name in settings}
    refused: set[str] = set()
    for _ in range(pairs):
        for name, more in settings.items():  # in turn, so that a drifting machine cancels
            if not refused & {name, "32-true"}:
                try:
                    taken[name].append(_cost([*words, *more, f"seed={next(seeds)}"]))
                except UserError as error:
                    refused.add(name)
                    print(f"{method}, {name}: not possible: {str(error).splitlines()[0]}", file=sys.stderr)
    reference = [cost["samples_per_s"] for cost in taken["32-true"]]
    made = []
    for name, costs in taken.items():
        if name in refused:
            continue
        title = f"throughput over 32-true: {method}, {name}"
        ratios = [cost["samples_per_s"] / theirs for cost, theirs in zip(costs, reference, strict=True)]
        speed = statistics.median(cost["samples_per_s"] for cost in costs)
        memory, of = costs[-1]["peak_memory_mb"], costs[-1]["peak_memory_of"]
        made.append(row(title, ratios, note=f"{speed:.0f} samples/s, {memory:.0f} MiB at the {of}'s peak"))
    return made


def _cost(words: list[str]) -> dict[str, Any]:
    import torch

    from tutelage.config.planner import plan_of
    from tutelage.jobs.launch import run_plan

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    result = run_plan(plan_of(words), say=lambda _: None)
    return dict(result["cost"])


def _pseudo(folder: Path, pixels: int) -> Path:
    from tutelage.generators.noise import NoiseDomain
    from tutelage.generators.synthesis import synthesize

    synthesize(
        folder, NoiseDomain((3, pixels, pixels), CLASSES), labelling="uniform", count=1024, shard_size=256
    )
    return folder
