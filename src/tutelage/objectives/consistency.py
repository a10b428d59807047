"""What objectives on unlabelled pseudo images share: their stream, their views, what they do to batch norms. No objective itself."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tutelage.errors import UserError, choices
from tutelage.objectives.base import Objective, Setup, Start, Step
from tutelage.objectives.unlabelled import Augment, Normalization, PseudoStream
from tutelage.tasks import Classification


class Consistency(Objective):
    """A loss between outputs on views of pseudo images (P-SSL: Yamaguchi et al. 2022, arXiv 2204.12833); a subclass writes `compare`.

    pseudo: folder of the pseudo data set; its labels are not read here: they conditioned the generator. fingerprint: of the set's
    manifest, for the run's identity. ratio: pseudo images per labelled one. normalization: the target data's, as numbers.
    weak, strong: augmentations by name, of which a subclass chooses its views.
    batch_norm: "joint": labelled and pseudo images are normalised together, and both move the running statistics. "labelled": each part
    by its own statistics, and the labelled alone move the running ones. Either way one forward sees all; where the weight is 0 no
    pseudo image is seen, and the run is the one without this objective.
    """

    strong_view = False
    """Whether the second view is a strong one."""
    views = 2

    def __init__(
        self,
        *,
        pseudo: str,
        normalization: Normalization,
        fingerprint: str | None = None,
        ratio: float = 1.0,
        weak: Augment | None = None,
        strong: Augment | None = None,
        batch_norm: Literal["joint", "labelled"] = "joint",
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if batch_norm not in ("joint", "labelled"):
            known = choices(batch_norm, ("joint", "labelled"))
            raise UserError(f"`batch_norm`={batch_norm!r} is not known; {known}")
        self.pseudo, self.normalization, self.ratio = pseudo, normalization, ratio
        self.norms_apart = batch_norm == "labelled"
        second = (strong if self.strong_view else weak) or {}
        self._views = ((weak or {}), second)[: self.views]
        self._target: Tensor | None = None

    @abstractmethod
    def compare(self, target: Tensor, output: Tensor) -> Tensor:
        """Return the loss of logits (n, classes) against a target's, one number; no gradient flows into the target."""

    def prepare(self, setup: Setup) -> None:
        """See `Objective.prepare`: open the pseudo images."""
        if not isinstance(setup.task, Classification) or setup.example.inputs.ndim != 4:
            what = setup.task.name if setup.task else "no known kind"
            raise UserError(f"P-SSL needs images with classes, got a task of {what}")
        if setup.batch_size is None:
            raise UserError("P-SSL needs to know the batch size")
        self._call = setup.call
        self.stream = PseudoStream(
            self.pseudo,
            image_shape=setup.example.inputs.shape[1:],
            normalization=self.normalization,
            count=max(1, round(self.ratio * setup.batch_size)),
            views=self._views,
        )

    def start(self, start: Start) -> None:
        """Bring the pseudo images to the device; every rank takes its share of each step's."""
        self.stream.start(seed=start.seed, rank=start.rank, world_size=start.world_size, device=start.device)

    def extra_inputs(self, draw: int, average: nn.Module | None) -> list[Tensor]:
        """Return the views; the second is the average's alone where that gives the target."""
        views = self.stream.views(draw)
        self._target = None
        if self.needs_average:
            assert average is not None
            with torch.no_grad():
                self._target = self._call(average, views.pop())
        return views

    def loss(self, step: Step) -> Tensor:
        """See `Objective.loss`."""
        outputs = step.extra[self.name]
        return self.compare(outputs[0] if self._target is None else self._target, outputs[-1])

    def describe(self) -> dict[str, Any]:
        """See `Objective.describe`: which pseudo data were read."""
        return {"pseudo": self.stream.facts}
