"""Distillation of a teacher's outputs: soft targets, logit matching, decoupled; also across label spaces."""

from __future__ import annotations

from typing import Any

import torch

from tutelage.arguments import one_of
from tutelage.errors import UserError
from tutelage.methods.base import Method
from tutelage.objectives.compared_outputs import ComparedOutputs
from tutelage.tasks import Batch
from tutelage.tasks.means import Mean


class Distillation(Method):
    """The task's objective and one on a frozen teacher's output on the same batch, see `objectives.compared_outputs`.

    select_by: "task": the task's metric selects, by the data's targets. "agreement": the share of validation samples for which the network
    gives its teacher's most probable class does, for data whose labels mean nothing, as those of a generator that knew none. It is measured
    on test, too. Raises UserError where no objective compares classes with a teacher's.
    """

    def __init__(self, *, select_by: str = "task", **common: Any) -> None:
        super().__init__(**common)
        one_of("Distillation", ("task", "agreement"), select_by=select_by)
        self.agreement: dict[str, Mean] = {}
        if select_by == "task":
            return
        found = [o for o in self.objectives if isinstance(o, ComparedOutputs) and o.compares_classes]
        if not found or self.task.kind != "classes":
            raise UserError(
                "`select_by`=agreement compares the network's class with its teacher's, for which there must be classes and an objective "
                "that compares outputs with label_space=same: choose select_by=task"
            )
        if self.task.asked:
            raise UserError(
                f"`select_by`=agreement is in place of fit.monitor and fit.metrics, got {list(self.task.asked)}: leave them empty"
            )
        self.taught = found[0]
        self.task.monitor, self.task.mode = "agreement", "max"
        self.agreement = {split: Mean() for split in self.metrics_of}

    def _start(self, split: str) -> None:
        super()._start(split)
        if self.agreement:
            self.agreement[split] = self.agreement[split].to(self.device)
            self.agreement[split].reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """See `Method.validation_step`: adds the agreement."""
        self._judge("validation", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """See `Method.test_step`: adds the agreement."""
        self._judge("test", batch)

    def _judge(self, split: str, batch: Batch) -> None:
        output = self(batch.inputs, batch.mask)
        self.metrics_of[split].update(output, batch)
        if self.agreement:
            theirs = [self.frozen[name](batch.inputs, batch.mask) for name in self.taught.networks]
            taught = torch.stack(theirs).mean(dim=0).argmax(dim=1)
            self.agreement[split].update(output.argmax(dim=1) == taught)

    def measured(self, split: str) -> dict[str, float]:
        """See `Method.measured`: the agreement."""
        return {"agreement": float(self.agreement[split].compute())} if self.agreement else {}
