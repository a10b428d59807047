"""What the features before a network's final layer are worth: a linear classifier, and the nearest neighbours, on labelled samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.alignment.taps import Taps, input_of
from tutelage.analysis.analysis_request import Outcome, Request, Subject
from tutelage.analysis.drawing import literal
from tutelage.analysis.opening import SPLITS, beside, opened, over_runs
from tutelage.data.base import DataModule
from tutelage.engine.data_sets import build_data
from tutelage.engine.shared_work import shared
from tutelage.errors import UserError
from tutelage.models.frozen import FrozenNetwork
from tutelage.objectives.pretext import pooled
from tutelage.reporting.palette import canvas, save
from tutelage.reporting.statistics import summarize
from tutelage.tasks import Batch, Classification

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
NEIGHBOURS, TEMPERATURE = 20, 0.07
BLOCK = 1024
Split = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Probe:
    """Accuracies on test samples. penalty: of the linear classifier, chosen on validation samples. features: how many."""

    linear: float
    neighbours: float
    penalty: float
    features: int
    layer: str


def probe(network: FrozenNetwork, task: Any, batches: Mapping[str, Any]) -> Probe:
    """Return what a network's features tell of the classes. batches: of "train", "validation" and "test". UserError for other tasks."""
    if not isinstance(task, Classification):
        raise UserError(f"probe needs data with one class for each sample, got a task of {task.name}")
    layer, splits = "", {}
    for name in ("train", "validation", "test"):
        layer, splits[name] = _features(network, batches[name])
    mean, deviation = splits["train"][0].mean(dim=0), splits["train"][0].std(dim=0).clamp(min=1e-6)
    scaled = {name: ((x - mean) / deviation, y) for name, (x, y) in splits.items()}
    classes = task.output_size
    found = {penalty: linear(scaled["train"], classes=classes, penalty=penalty) for penalty in PENALTIES}
    chosen = max(PENALTIES, key=lambda penalty: accuracy(found[penalty], scaled["validation"]))
    predicted = neighbours(splits["train"], splits["test"][0], classes=classes)
    return Probe(
        linear=accuracy(found[chosen], scaled["test"]),
        neighbours=float((predicted == splits["test"][1]).double().mean()),
        penalty=chosen,
        features=splits["train"][0].shape[1],
        layer=layer,
    )


@torch.no_grad()
def _features(network: FrozenNetwork, batches: Any) -> tuple[str, Split]:
    """Return the final layer, and its pooled inputs (n, width) with their classes (n,), on the CPU."""
    taps: dict[str, Taps] = {}

    def seen(batch: Batch) -> tuple[str, Tensor, Tensor]:
        if not taps:
            head = network.head(batch.inputs, batch.mask)
            if len(head.reads) != 1:
                raise UserError(f"probe reads what one final layer is given, the network's is '{head}'")
            taps[head.reads[0]] = Taps(network.network, [input_of(head.reads[0])])
        ((name, tapped),) = taps.items()
        with tapped.recording():
            network(batch.inputs, batch.mask)
        (found,) = tapped.collect().values()
        return name, pooled(found).float().cpu(), batch.targets.cpu()

    kept = [*shared(batches, seen)]
    for tapped in taps.values():
        tapped.remove()
    if not kept:
        raise UserError("probe needs samples in each of train, validation and test")
    return kept[0][0], (torch.cat([x for _, x, _ in kept]), torch.cat([y for _, _, y in kept]))


def linear(train: Split, *, classes: int, penalty: float) -> Tensor:
    """Return weights (width + 1, classes), the bias last, of logistic regression: mean cross-entropy plus penalty / 2 of squared weights.

    By L-BFGS from zero, so the same on every call; the bias is not penalised.
    """
    inputs, targets = _with_one(train[0]).double(), train[1]
    weights = torch.zeros(inputs.shape[1], classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, tolerance_grad=1e-6, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(inputs @ weights, targets) + penalty / 2 * weights[:-1].square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return weights.detach()


def accuracy(weights: Tensor, split: Split) -> float:
    """Return the share of samples whose class a linear classifier finds."""
    predicted = (_with_one(split[0]).double() @ weights).argmax(dim=1)
    return float((predicted == split[1]).double().mean())


def neighbours(
    train: Split,
    features: Tensor,
    *,
    classes: int,
    count: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> Tensor:
    """Return the class (n,) that the nearest training samples vote for, each with exp(cosine / temperature) (arXiv 1805.01978)."""
    known = F.normalize(train[0], dim=1)
    found = []
    for part in F.normalize(features, dim=1).split(BLOCK):
        cosines, index = (part @ known.T).topk(min(count, len(known)), dim=1)
        votes = torch.zeros(len(part), classes, dtype=torch.float64)
        votes.scatter_add_(1, train[1][index], (cosines.double() / temperature).softmax(dim=1))
        found.append(votes.argmax(dim=1))
    return torch.cat(found)


def _with_one(features: Tensor) -> Tensor:
    return torch.cat([features, features.new_ones(len(features), 1)], dim=1)


def draw(arms: Mapping[str, Sequence[Probe]], path: Path) -> None:
    """Write a figure: for each arm every run's linear probe (filled) and nearest neighbours (open)."""
    figure = canvas(6.5, 1.6 + 0.4 * len(arms))
    axes = figure.subplots()
    for place, found in enumerate(arms.values()):
        for one in found:
            axes.plot(one.linear, place, "o", color="#0072B2", markersize=5)
            axes.plot(one.neighbours, place, "s", color="#D55E00", fillstyle="none", markersize=5)
    axes.plot([], [], "o", color="#0072B2", label="linear probe")
    axes.plot([], [], "s", color="#D55E00", fillstyle="none", label=f"{NEIGHBOURS} nearest neighbours")
    axes.set_yticks(range(len(arms)), [literal(arm) for arm in arms])
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.set_xlabel("accuracy on test")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    save(figure, path)


def _with_labels(subject: Subject, request: Request) -> tuple[FrozenNetwork, DataModule]:
    """Return a network and its data, or those of another `data.root`: their classes need not be the run's, which may have none."""
    if "root" not in request.data:
        network, data, _ = opened(subject, request)
        return network, data
    network, own, _ = opened(subject, replace(request, data={}))
    words = {**subject.run.config["data"], "fingerprint": None, **request.data}
    shown = build_data({"data": words, "runs_dir": request.options["runs_dir"]})
    shown.open_test()
    return beside(network, own, shown, (subject.label, f"data.root={words['root']}")), shown


def outcome(request: Request) -> Outcome:
    """A linear classifier and the nearest neighbours on what the final layer is given, learnt on the runs' labelled training samples."""
    arms: dict[str, list[Probe]] = {}
    rows = []
    for subject in request.subjects:
        network, data = _with_labels(subject, request)
        device = request.options["device"]
        batches = {split: data.batches(split, device=device) for split in SPLITS}
        found = probe(network, data.task, batches)
        arms.setdefault(subject.arm, []).append(found)
        labelled = len(data.splits["train"])
        rows.append(
            {
                "arm": subject.arm,
                "run": subject.run.key,
                "role": subject.role,
                "seed": subject.seed,
                "labelled": labelled,
            }
            | asdict(found)
        )
    lines = []
    for arm, probes in arms.items():
        said = []
        for name, of in (
            ("linear probe", "linear"),
            (f"{NEIGHBOURS} nearest neighbours", "neighbours"),
        ):
            over = summarize([getattr(one, of) for one in probes], bounds=(0.0, 1.0))
            said.append(f"{name} {over.mean:.3f}{over_runs(over)}")
        lines.append(f"{arm}: {', '.join(said)}; accuracy on test")
    return lines, {}, rows, lambda path: draw(arms, path)
