"""What objectives on unlabelled images share: their stream, their views, what they do to batch norms. No objective itself."""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tutelage.alignment.gather import gather
from tutelage.errors import UserError, choices
from tutelage.losses.thresholds import aligned
from tutelage.objectives.base import Objective, Setup, Start, Step
from tutelage.objectives.unlabelled import (
    Augment,
    Normalization,
    Unlabelled,
    UnlabelledStream,
    batch_norm_apart,
    has_batch_norm,
    pseudo_images,
)
from tutelage.tasks import Batch, Classification

log = logging.getLogger("tutelage")
ALIGNMENTS = ("uniform", "labels", "predictions")


def confidence_from(threshold: float) -> float:
    """Return a threshold of the confidence. Raises UserError for one that no image can reach."""
    if not 0 <= threshold < 1:
        raise UserError(
            f"`threshold` is a confidence, from 0 (every image counts) to below 1, got {threshold}"
        )
    return threshold


class Consistency(Objective):
    """A loss between outputs on views of unlabelled images; a subclass writes `compare`.

    The images are those of method.unlabelled, or pseudo images (P-SSL: Yamaguchi et al. 2022, arXiv 2204.12833).
    pseudo: folder of the pseudo data set; its labels are not read here: they conditioned the generator. fingerprint: of the set's
    manifest, for the run's identity. ratio: unlabelled images per labelled one. normalization: the target data's, as numbers; of pseudo
    images alone, the others are scaled as the data are.
    weak, strong: augmentations by name, of which a subclass chooses its views.
    batch_norm: "joint": labelled and unlabelled images are normalised together, and both move the running statistics. "labelled": each part
    by its own statistics, and the labelled alone move the running ones. Either way one forward sees all (what published code reaches by
    interleaving the parts over devices); where the weight is 0 no unlabelled image is seen, and the run is the one without this objective.
    weak_gradient: False runs the weak view that gives a strong one its target by itself, without a gradient, which spares a third of the
    step. The loss and its gradient are the same in a network that treats each sample alone; batch norms then know three parts in place of
    two, for which `batch_norm` must be "labelled".
    distribution_alignment: what predictions are brought to on the average before they become targets (arXiv 1911.09785): "uniform", the
    "labels" of the training set, or the network's own "predictions" on labelled images (arXiv 2106.04732); None: as they are.
    momentum: of all moving averages that it keeps. They are buffers, so a checkpoint has them; the first batch sets those that have no
    value of their own to begin with.
    """

    strong_view = False
    """Whether the second view is a strong one."""
    views = 2
    remembers = False
    """Whether the loss depends on what it saw before, which is of the global batch: then the ranks' samples are gathered."""

    mean_prediction: Tensor
    wanted_prediction: Tensor

    def __init__(
        self,
        *,
        pseudo: str | None = None,
        normalization: Normalization = None,
        fingerprint: str | None = None,
        ratio: float = 1.0,
        weak: Augment | None = None,
        strong: Augment | None = None,
        batch_norm: Literal["joint", "labelled"] = "joint",
        weak_gradient: bool = True,
        distribution_alignment: Literal["uniform", "labels", "predictions"] | None = None,
        momentum: float = 0.999,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if batch_norm not in ("joint", "labelled"):
            known = choices(batch_norm, ("joint", "labelled"))
            raise UserError(f"`batch_norm`={batch_norm!r} is not known; {known}")
        if distribution_alignment not in (None, *ALIGNMENTS):
            known = choices(str(distribution_alignment), (*ALIGNMENTS, "null"))
            raise UserError(f"`distribution_alignment`={distribution_alignment!r} is not known; {known}")
        if not weak_gradient and not self.strong_view:
            raise UserError(
                f"`weak_gradient`=false is for a strong view's target, {type(self).__name__} has no strong view"
            )
        if not 0 <= momentum < 1:
            raise UserError(f"`momentum` must be at least 0 and below 1, got {momentum}")
        if not ratio > 0:
            raise UserError(
                f"`ratio`, unlabelled images for each labelled one, must be above 0, got {ratio}; for none, method=supervised"
            )
        self.pseudo, self.normalization, self.ratio = pseudo, normalization, ratio
        self.norms_apart, self.weak_gradient = batch_norm == "labelled", weak_gradient
        self.distribution_alignment, self.momentum = distribution_alignment, momentum
        self.weak = {name: arguments for name, arguments in (weak or {}).items() if arguments is not None}
        self._views = (self.weak, (strong or {}) if self.strong_view else self.weak)[: self.views]
        self._target: Tensor | None = None
        self.labelled: Tensor | None = None
        self._used: list[Tensor] = []

    @abstractmethod
    def compare(self, target: Tensor, output: Tensor) -> Tensor:
        """Return the loss of logits (n, classes) against a target's, one number; no gradient flows into the target.

        `labelled` holds the logits on the labelled batch.
        """

    def prepare(self, setup: Setup) -> None:
        """See `Objective.prepare`: find the unlabelled images."""
        if not isinstance(setup.task, Classification) or setup.example.inputs.ndim != 4:
            what = setup.task.name if setup.task else "no known kind"
            inputs = (
                ""
                if setup.example.inputs.ndim == 4
                else f", of inputs {tuple(setup.example.inputs.shape[1:])}"
            )
            raise UserError(
                f"'{self.name}' compares views of images with classes; texts, tables and series have none: got a task of {what}{inputs}"
            )
        if setup.batch_size is None:
            raise UserError(f"'{self.name}' needs to know the batch size")
        if self.pseudo is None and setup.unlabelled is None:
            raise UserError(
                f"'{self.name}' needs unlabelled images: say method.unlabelled=train (the training set, of which data.per_class or "
                "data.train_size leave some their labels), +data@method.unlabelled=<data> (another set), or `pseudo`=<folder of a pseudo "
                "data set>"
            )
        self._call, self._network = setup.call, (setup.network,)  # in a tuple: no part of this one
        if not (self.weak_gradient or self.norms_apart) and has_batch_norm(setup.network):
            raise UserError(
                f"{type(setup.network).__name__} has batch norms, for which a weak view by itself is a part of its own: "
                "`weak_gradient`=false needs `batch_norm`=labelled"
            )
        channels, *size = setup.example.inputs.shape[1:]
        source = (
            setup.unlabelled
            if self.pseudo is None
            else pseudo_images(self.pseudo, channels=channels, normalization=self.normalization)
        )
        if not isinstance(source, Unlabelled):
            raise UserError(f"'{self.name}' needs unlabelled images, these are texts")
        if source.images.shape[1] != channels:
            raise UserError(
                f"the unlabelled images have {source.images.shape[1]} channels, the labelled ones {channels}"
            )
        count = max(1, round(self.ratio * setup.batch_size))
        if count > 2 * self.ratio * setup.batch_size:
            log.warning(
                "'%s': ratio=%g of a batch of %d is less than half an image; a step takes one",
                self.name,
                self.ratio,
                setup.batch_size,
            )
        self.stream = UnlabelledStream(
            source,
            size=size,
            count=count,
            views=self._views,
            name="unlabelled images" if self.pseudo is None else "pseudo images",
        )
        if self.distribution_alignment is not None:
            self._prepare_alignment(setup, setup.task.output_size)

    def _prepare_alignment(self, setup: Setup, classes: int) -> None:
        wanted = torch.full((classes,), 1 / classes)
        if self.distribution_alignment == "labels":
            if setup.class_counts is None:
                raise UserError(
                    "`distribution_alignment`=labels needs to know how many training images each class has: give Objectives "
                    "`class_counts`, or say uniform"
                )
            wanted = torch.as_tensor(setup.class_counts, dtype=torch.float32)
            wanted = wanted / wanted.sum()
        unknown = torch.full((classes,), math.nan)  # until the first batch
        by_batches = self.distribution_alignment == "predictions"
        self.register_buffer("wanted_prediction", unknown if by_batches else wanted)
        self.register_buffer("mean_prediction", unknown.clone())

    def start(self, start: Start) -> None:
        """Bring the unlabelled images to the device; every rank takes its share of each step's."""
        self.stream.start(seed=start.seed, rank=start.rank, world_size=start.world_size, device=start.device)

    def extra_inputs(self, batch: Batch, draw: int, average: nn.Module | None) -> list[Tensor]:
        """Return the views; the second is the average's alone where that gives the target."""
        views = self.stream.views(draw)
        self._target = None
        if self.needs_average:
            assert average is not None
            with torch.no_grad():
                self._target = self._call(average, views.pop())
        elif self.strong_view and not self.weak_gradient:
            (network,) = self._network
            with torch.no_grad(), batch_norm_apart(network, 0):
                self._target = self._call(network, views.pop(0))
        return views

    def loss(self, step: Step) -> Tensor:
        """See `Objective.loss`; remembers what it saw."""
        outputs = step.extra[self.name]
        target, output = outputs[0] if self._target is None else self._target, outputs[-1]
        self.labelled = step.output.detach()
        if self.remembers:
            target, output, self.labelled = gather(target.detach()), gather(output), gather(self.labelled)
        if self.distribution_alignment is not None:
            target = self.align(target)
        return self.compare(target, output)

    @torch.no_grad()
    def align(self, target: Tensor) -> Tensor:
        """Return logits (n, classes) whose mean prediction is brought to the wanted one, see `thresholds.aligned`."""
        assert self.labelled is not None
        self._move(self.mean_prediction, gather(target.detach()).float().softmax(dim=1).mean(dim=0))
        if self.distribution_alignment == "predictions":
            self._move(self.wanted_prediction, gather(self.labelled).float().softmax(dim=1).mean(dim=0))
        return aligned(target.detach(), self.wanted_prediction, self.mean_prediction)

    def _move(self, average: Tensor, value: Tensor) -> None:
        """Move a buffer towards a batch's value; one that holds none yet takes it."""
        average.copy_(torch.where(average.isnan(), value, torch.lerp(value, average, self.momentum)))

    def note(self, weights: Tensor) -> Tensor:
        """Remember the mean of the samples' weights (n,) for the record, and return them."""
        self._used.append(weights.detach().mean())
        return weights

    def record(self) -> dict[str, float]:
        """See `Objective.record`: the share of unlabelled images that counted, where a subclass notes it."""
        used, self._used = self._used, []
        return {f"{self.name}_used": float(torch.stack(used).mean())} if used else {}

    def describe(self) -> dict[str, Any]:
        """See `Objective.describe`: which images were read."""
        return {"unlabelled" if self.pseudo is None else "pseudo": dict(self.stream.source.facts)}
