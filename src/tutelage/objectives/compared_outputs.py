"""What objectives on a frozen network's outputs share: shapes, label spaces, an extra head. No objective itself."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tutelage.alignment.gather import gather
from tutelage.errors import UserError, choices
from tutelage.losses.logit_variants import standardised
from tutelage.models.frozen import FrozenNetwork
from tutelage.models.heads import HeadInput, head_of
from tutelage.objectives.base import Objective, Setup, Step
from tutelage.tasks import Binary, mean_of_counted


class ComparedOutputs(Objective):
    """What losses of the network's output against a frozen network's on the same batch share; a subclass says over what they are taken.

    label_space: "same": the outputs meet class by class. "other": the frozen network knows other classes, so an extra linear head on the
    input of the network's final layer meets it; the head is trained along and left out of the network that is kept.
    network: of several names, the mean of their logits is the teacher's.
    standardise: bring each row of logits, of both networks, to mean 0 and deviation 1 first (arXiv 2403.01427), whatever the loss; a
    temperature then acts on those.
    """

    reads_frozen = reads_several = True
    expects_trained = True
    spaces: tuple[str, ...] = ("same", "other")

    def __init__(
        self, *, label_space: Literal["same", "other"] = "same", standardise: bool = False, **common: Any
    ) -> None:
        super().__init__(**common)
        if not isinstance(standardise, bool):
            raise UserError(f"`standardise` must be true or false, got {standardise!r}")
        if label_space not in ("same", "other"):
            raise UserError(
                f"`label_space`={label_space!r} is not known; {choices(label_space, ('same', 'other'))}"
            )
        if label_space not in self.spaces:
            raise UserError(
                f"{type(self).__name__} singles out the true class among the teacher's, which label_space=other has not: choose "
                "soft_targets or logits"
            )
        self.label_space, self.standardise, self.wants_output = label_space, standardise, True
        self.compares_classes = label_space == "same"

    def prepare(self, setup: Setup) -> None:
        """See `Objective.prepare`."""
        every = self.all_frozen_in(setup)
        self.task = setup.task
        kind = self.task.kind if self.task is not None else ""
        if self.task is not None and kind in ("values", "labels") and not self.fits_any_task:
            it = {"forecasting": "a forecast"}.get(self.task.name, f"a task of {self.task.name}")
            other = "mean squared distance" if kind == "values" else "divergence, label by label,"
            raise UserError(
                f"{type(self).__name__} with label_space={self.label_space} compares classes, which {it} has not: choose soft_targets, "
                f"the {other} of the two networks' answers, with label_space=same and standardise=false"
            )
        if isinstance(self.task, Binary) and self.standardise:
            raise UserError(
                "`standardise` brings a row of logits to deviation 1: of one logit nothing would be left"
            )
        self.extra_head: ExtraHead | None = None
        if self.label_space == "same":
            for frozen in every:
                check_outputs(setup, frozen)
            return
        self.extra_head = ExtraHead(setup, every[0])
        example = setup.example
        shapes = [tuple(frozen(example.inputs, example.mask).shape[1:]) for frozen in every]
        if len(set(shapes)) > 1:
            raise UserError(
                f"the teachers {', '.join(self.networks)} give {shapes} per sample, which have no mean"
            )

    def taught(self, step: Step) -> Tensor:
        """Return the frozen network's output; of several, the mean."""
        outputs = [output for name in self.networks if (output := step.frozen[name].output) is not None]
        return outputs[0] if len(outputs) == 1 else torch.stack(outputs).mean(dim=0)

    @property
    def fits_any_task(self) -> bool:
        """Whether it means something for values or labels too, rather than for the classes of one choice alone."""
        return False

    def seen(self, mine: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
        """Return both networks' logits as the loss sees them: standardised, or as they are."""
        return (standardised(mine), standardised(theirs)) if self.standardise else (mine, theirs)


class OutputObjective(ComparedOutputs):
    """A loss of outputs that is a mean over rows; a subclass writes `rows`."""

    @abstractmethod
    def rows(self, mine: Tensor, theirs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each row of logits (n, classes), (n,)."""

    def loss(self, step: Step) -> Tensor:
        """See `Objective.loss`: the mean over what counts."""
        theirs = self.taught(step)
        if self.extra_head is not None:
            mine = self.extra_head()[: len(step.batch.inputs)]  # an objective may have added inputs
            targets = step.batch.targets
        elif self.task is None:
            mine, targets = step.output, step.batch.targets
        else:
            mine, targets = self.task.select(step.output, step.batch)
            theirs, _ = self.task.select(theirs, step.batch)
        return mean_of_counted(self.rows(*self.seen(mine, theirs), targets), step.batch)


class BatchOutputObjective(ComparedOutputs):
    """A loss of outputs that relates the samples of the batch to each other; a subclass writes `whole`.

    On several ranks it is taken over the global batch, as on one.
    """

    @abstractmethod
    def whole(self, mine: Tensor, theirs: Tensor) -> Tensor:
        """Return the loss of all rows of logits (n, classes), n at least 1, one number."""

    def loss(self, step: Step) -> Tensor:
        """See `Objective.loss`: over all that counts; 0 where nothing does."""
        theirs = self.taught(step)
        mine = step.output
        if self.extra_head is not None:
            mine = self.extra_head()[: len(step.batch.inputs)]
        mine, theirs = gather(mine), gather(theirs)
        if self.extra_head is None and self.task is not None:
            batch = step.batch
            masks = {
                name: gather(part)
                for name in ("mask", "target_mask")
                if (part := getattr(batch, name)) is not None
            }
            batch = batch._replace(targets=gather(batch.targets), **masks)
            mine, theirs = (self.task.select(x, batch)[0] for x in (mine, theirs))
        return self.whole(*self.seen(mine, theirs)) if len(mine) else mine.sum()


class ExtraHead(nn.Module):
    """A linear layer of the frozen network's classes, on what the network's final layer was given in its latest forward."""

    def __init__(self, setup: Setup, frozen: FrozenNetwork) -> None:
        super().__init__()
        example = setup.example
        head = head_of(setup.network, example.inputs, example.mask)
        self.features = HeadInput(setup.network, head)
        setup.output()
        with torch.no_grad():
            classes = frozen(example.inputs, example.mask).shape[1:]
        seen = self.features.take()
        width = () if seen is None else tuple(seen.shape[1:])
        if len(width) != 1 or len(classes) != 1:
            raise UserError(
                "`label_space`=other needs networks that end in one linear layer and give (n, classes): the final layer "
                f"'{head}' of {type(setup.network).__name__} takes {width} per sample, the teacher gives {tuple(classes)}. Another layer "
                "can be named: model.head=<layer>"
            )
        self.linear = nn.Linear(width[0], classes[0])

    def forward(self) -> Tensor:
        """Return logits (n, the frozen network's classes) of the network's latest forward."""
        return self.linear(self.features.take())


def check_outputs(setup: Setup, frozen: FrozenNetwork) -> None:
    """Raise UserError where network and frozen network give outputs of different shapes: they know different classes."""
    mine, theirs = setup.output(), frozen(setup.example.inputs, setup.example.mask)
    if mine.shape != theirs.shape:
        raise UserError(
            f"the teacher gives {tuple(theirs.shape[1:])} per sample, {type(setup.network).__name__} {tuple(mine.shape[1:])}: "
            "they know different classes. Choose data or a teacher with the same classes, or `label_space`=other"
        )
