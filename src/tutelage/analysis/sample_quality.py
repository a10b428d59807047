"""How good pseudo data sets are, held against real images in the feature space of one classifier, from a number of images of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tutelage.analysis.analysis_request import Outcome, Request
from tutelage.analysis.drawing import literal
from tutelage.analysis.opening import BLOCK, opened, whole
from tutelage.data import pseudo
from tutelage.data.base import SplitBatches
from tutelage.engine.pseudo_data import FOLDER
from tutelage.engine.shared_work import shared
from tutelage.errors import UserError
from tutelage.generators.quality import frechet_distance, precision_recall
from tutelage.models.frozen import FrozenNetwork
from tutelage.models.heads import HeadInput
from tutelage.objectives.unlabelled import byte_affine
from tutelage.reporting.palette import canvas, save

AT_ONCE = 64
SHOWN = 32  # images of each set in the figure


@dataclass(frozen=True)
class Quality:
    """One set of images against the reference.

    accuracy: share of images whose label the classifier gives them. frechet_distance, precision, recall: see `generators.quality`.
    """

    images: str
    count: int
    accuracy: float
    frechet_distance: float
    precision: float
    recall: float


class Judge:
    """A classifier that holds sets of images against a reference set of its own data.

    classifier: its inputs are normalised as `reference`. reference: (n, C, H, W) images and (n,) labels that it was not trained on.
    Features are what its last layer is given, or its outputs where it does not end in one layer.
    """

    def __init__(self, classifier: FrozenNetwork, reference: tuple[Tensor, Tensor]) -> None:
        self.classifier, self._head = classifier, HeadInput(classifier.network, classifier.head(reference[0]))
        self.features, _ = self.read(reference[0])

    def judge(self, name: str, images: Tensor, labels: Tensor) -> Quality:
        """Compare images (n, C, H, W), normalised as the reference, and their labels (n,); as many as the reference has.

        The distance between samples of one distribution falls with n, so that only equal n compare.
        """
        if len(images) != len(self.features):
            raise UserError(f"{name}: {len(images)} images against a reference of {len(self.features)}")
        features, answers = self.read(images)
        precision, recall = precision_recall(self.features, features)
        accuracy = float((answers == labels.to(answers.device)).double().mean())
        return Quality(
            name, len(images), accuracy, frechet_distance(self.features, features), precision, recall
        )

    def read(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (n, d) and the most probable classes (n,)."""

        def seen(part: Tensor) -> tuple[Tensor, Tensor]:
            output = self.classifier(part)
            taken = self._head.take()
            return (output if taken is None else taken).flatten(1).float(), output.argmax(dim=1)

        features, answers = zip(*shared(images.split(AT_ONCE), seen, images.device), strict=True)
        return torch.cat(features), torch.cat(answers)


def drawn(total: int, count: int) -> np.ndarray:
    """Return `count` of the first `total` numbers, drawn once for all and sorted.

    Neither the first nor evenly spaced ones: image sets lie in the order of their classes, pseudo sets take their classes in turn.
    """
    return np.sort(np.random.default_rng(0).permutation(total)[:count])


def gather(batches: Iterable) -> tuple[Tensor, Tensor]:
    """Return the images and labels of all batches."""
    parts = [(batch.inputs, batch.targets) for batch in batches]
    images, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    return images, labels


def draw(sets: Mapping[str, tuple[Tensor, Sequence[str]]], table: Sequence[Quality], path: Path) -> None:
    """Draw some images (n, C, H, W) in [0, 1] of each set, each with the name of its class, with the set's figures above."""
    columns = SHOWN // 2
    figure = canvas(0.62 * columns, 1.9 * len(sets))
    parts: Any = figure.subfigures(len(sets), 1, squeeze=False)
    for part, (name, (images, classes)), found in zip(parts[:, 0], sets.items(), table, strict=True):
        part.suptitle(
            f"{literal(name)}: Fréchet distance {found.frechet_distance:.3g} (lower is better), precision {found.precision:.2f}, "
            f"recall {found.recall:.2f}",
            fontsize=8,
        )
        grid = part.subplots(2, columns, squeeze=False).ravel()
        for axes, image, label in zip(grid, images[:SHOWN].cpu(), classes, strict=False):
            shown = image.permute(1, 2, 0).clamp(0, 1).numpy()
            axes.imshow(shown.repeat(3, axis=2) if shown.shape[2] == 1 else shown, interpolation="nearest")
            size = min(6.0, 60 / len(label))  # a long name in smaller letters, "automobile" at 6
            axes.set_title(literal(label if len(label) <= 15 else f"{label[:14]}…"), fontsize=size, pad=1.5)
        for axes in grid:
            axes.axis("off")
    save(figure, path)


def outcome(request: Request) -> Outcome:
    """Pseudo data sets against real images, in the features of a classifier: one run among those named is no pseudo data set."""
    import torch

    judges = [s for s in request.subjects if "pseudo" not in (s.run.result or {})]
    made = [s for s in request.subjects if s not in judges]
    if len(judges) != 1 or not made:
        raise UserError(
            "quality needs one classifier's run and at least one run of `tutelage synthesize`, got "
            f"{len(judges)} and {len(made)}: {', '.join(s.label for s in request.subjects)}"
        )
    classifier, data, _ = opened(judges[0], request)
    found = {s.label: pseudo.read(s.run.path / FOLDER) for s in made}
    split, device = request.options["split"], torch.device(request.options["device"])
    parts = {name: data.splits[name] for name in dict.fromkeys((split, "train"))}
    sizes = [*map(len, parts.values()), *(len(one.images) for one in found.values())]
    count = min(whole("samples", request.options), *sizes)
    store = data.store.to(device)
    real = {
        name: gather(SplitBatches(store, index[drawn(len(index), count)], batch_size=BLOCK))
        for name, index in parts.items()
    }
    reference = real.pop(split)
    scale, shift = byte_affine(data.normalization, reference[0].shape[1])
    sets = {
        f"{name}ing images": one for name, one in real.items()
    }  # none where the training images are the reference
    for name, one in found.items():
        if one.images.shape[1:] != reference[0].shape[1:]:
            raise UserError(
                f"{name} holds images {tuple(one.images.shape[1:])}, {judges[0].label} takes {tuple(reference[0].shape[1:])}"
            )
        chosen = drawn(len(one.images), count)
        images = (one.images[chosen].float() * scale + shift).to(device)
        sets[name] = images, one.labels[chosen]
    classes = list(data.facts.get("classes") or ())

    def class_of(label: Any) -> str:
        return str(classes[int(label)]) if int(label) < len(classes) else str(int(label))

    judge = Judge(classifier, reference)
    table = [judge.judge(name, *one) for name, one in sets.items()]
    lines = [f"against {count} {split} images, in the features of {judges[0].label}:"]
    lines += [
        f"{q.images}: source accuracy {q.accuracy:.3f}, Frechet distance {q.frechet_distance:.4g}, "
        f"precision {q.precision:.3f}, recall {q.recall:.3f}"
        for q in table
    ]
    rows = [asdict(q) for q in table]
    shown = {
        name: (
            (one[0].cpu() - shift) / (255 * scale),
            [class_of(label) for label in one[1][:SHOWN]],
        )
        for name, one in sets.items()
    }
    return lines, {"reference": split, "count": count}, rows, lambda path: draw(shown, table, path)
