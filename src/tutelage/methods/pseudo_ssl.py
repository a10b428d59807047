"""P-SSL: labelled target data, and pseudo images of a generator as the unlabelled data of a semi-supervised loss."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor

from tutelage.alignment.gather import world_size
from tutelage.errors import UserError, choices
from tutelage.losses.consistency import CONSISTENCY, ramp_up
from tutelage.methods.average import AveragedMethod
from tutelage.methods.base import step_seed
from tutelage.methods.unlabelled import Augment, Normalization, PseudoStream, batch_norm_apart
from tutelage.tasks import Batch, Classification


class PseudoSemiSupervised(AveragedMethod):
    """The task's loss on target data and a consistency loss on pseudo images (Yamaguchi et al. 2022, arXiv 2204.12833).

    pseudo: folder of the pseudo data set; its labels are not read here: they conditioned the generator. fingerprint: of the set's
    manifest, for the run's identity. batch_size: labelled images per step over all ranks. ratio: pseudo images per labelled one.
    normalization: the target data's, as numbers.
    algorithm: uda | fixmatch | pseudo_label | mean_teacher, see `losses.consistency`; mean_teacher's target is the average, so it needs
    `ema_decay` above 0. temperature, threshold: of those that have them, else null.
    weak, strong: augmentations by name; uda and fixmatch compare a weak with a strong view, mean_teacher two weak ones.
    ramp_steps: steps over which the weight of the consistency rises from about 0 (`ramp_up`).
    batch_norm: "joint": labelled and pseudo images are normalised together, and both move the running statistics. "labelled": each part
    by its own statistics, and the labelled alone move the running ones. Either way one forward sees all; where the weight is 0 no
    pseudo image is seen, and the run is the supervised one.
    """

    terms = ("task", "consistency")

    def __init__(
        self,
        *,
        pseudo: str,
        fingerprint: str | None = None,
        batch_size: int,
        example: Batch,
        normalization: Normalization,
        algorithm: str = "uda",
        temperature: float | None = None,
        threshold: float | None = None,
        ratio: float = 1.0,
        weak: Augment | None = None,
        strong: Augment | None = None,
        ramp_steps: int = 0,
        batch_norm: Literal["joint", "labelled"] = "joint",
        **common: Any,
    ) -> None:
        super().__init__(**common)
        for name, value, known in (
            ("algorithm", algorithm, CONSISTENCY),
            ("batch_norm", batch_norm, ("joint", "labelled")),
        ):
            if value not in known:
                raise UserError(f"method.{name}={value!r} is not known; {choices(value, known)}")
        if not isinstance(self.task, Classification) or example.inputs.ndim != 4:
            raise UserError(f"P-SSL needs images with classes, got a task of {self.task.name}")
        self.consistency, self.batch_norm, self.ramp_steps = CONSISTENCY[algorithm], batch_norm, ramp_steps
        if self.consistency.target == "average" and self.average is None:
            raise UserError(
                f"method.algorithm={algorithm} learns from the average: set method.ema_decay above 0"
            )
        wanted = {"temperature": temperature, "threshold": threshold}
        self.options = {name: value for name, value in wanted.items() if value is not None}
        views = {
            "weak": (weak or {}, strong or {}),
            "average": (weak or {}, weak or {}),
            "self": (weak or {},),
        }
        self.pseudo = PseudoStream(
            pseudo,
            image_shape=example.inputs.shape[1:],
            normalization=normalization,
            count=max(1, round(ratio * batch_size)),
            views=views[self.consistency.target],
        )
        self._draw = 0

    def on_fit_start(self) -> None:
        """Bring the pseudo images to the device; every rank takes its share of each step's."""
        super().on_fit_start()
        share: Any = {"rank": self.global_rank, "world_size": world_size(), "device": self.device}
        self.pseudo.start(seed=step_seed(self.seed, 0, 2), **share)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """See `Method.training_step`; the pseudo images are a function of the seed and the step, too."""
        self._draw = self.step * self.accumulate + batch_idx % self.accumulate
        return super().training_step(batch, batch_idx)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """See `Method.losses`."""
        if self.weights["consistency"] == 0:
            return {"task": self.task.loss(self.predict(batch), batch)}
        views = self.pseudo.views(self._draw)
        target = None
        if self.average is not None and self.consistency.target == "average":
            with torch.no_grad():
                target = self.run(
                    self.average.network, views.pop(), None
                )  # the second view is the teacher's alone
        parts = [batch.inputs, *views]
        apart = self.batch_norm == "labelled"
        with batch_norm_apart(self.network, len(batch.inputs)) if apart else nullcontext():
            outputs = self(torch.cat(parts)).split([len(part) for part in parts])
        self._last_output = outputs[0].detach()
        target = outputs[1] if target is None else target
        consistency = self.consistency.function(target, outputs[-1], **self.options)
        return {"task": self.task.loss(outputs[0], batch), "consistency": consistency}

    def term_weights(self) -> Mapping[str, float | Tensor]:
        """See `Method.term_weights`: the consistency's rises over `ramp_steps`."""
        return self.weights | {
            "consistency": self.weights["consistency"] * ramp_up(self.step, self.ramp_steps)
        }

    def describe(self) -> dict[str, Any]:
        """See `Method.describe`: which pseudo data were read, too."""
        return super().describe() | {"pseudo": self.pseudo.facts}
