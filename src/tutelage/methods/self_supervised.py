"""Self-supervised learning: a start from images or texts alone, for later training on few labels."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from tutelage.errors import UserError
from tutelage.methods.base import Method, step_seed
from tutelage.objectives.alignment import Alignment
from tutelage.objectives.base import Step
from tutelage.objectives.pretext import Pretext
from tutelage.objectives.total import Objectives
from tutelage.tasks import Batch
from tutelage.tasks.means import Mean

_SEED = 0x5E1F5


class SelfSupervised(Method):
    """Trains what leads to a network's features on samples without their labels, see `objectives.views` and `objectives.masked`.

    Alignment with a guide may stand beside: guide and network then see the same. The objective's value on validation samples, which look
    the same each time, selects the network.
    """

    reads_targets = False

    def __init__(self, *, network: nn.Module, objectives: Objectives, **common: Any) -> None:
        found = [term for term in objectives if isinstance(term, Pretext)]
        others = [term.name for term in objectives if not isinstance(term, Pretext | Alignment)]
        if len(found) != 1 or others:
            raise UserError(
                "self-supervised learning takes one objective that reads no labels (two views, masked images or masked tokens), and "
                "alignment beside it" + (f"; drop '{others[0]}'" if others else "")
            )
        (pretext,) = found
        for name in pretext.resting:
            network.get_parameter(name).requires_grad_(False)
        super().__init__(network=network, objectives=objectives, **common)
        if self.task.asked:
            raise UserError(
                f"fit.metrics={list(self.task.asked)}: no label is read, so that {pretext.selects} alone is known: leave fit.metrics and "
                "fit.monitor empty (`tutelage analyse probe` measures the features)"
            )
        self.fewest = pretext.fewest
        self.task.monitor, self.task.mode = pretext.selects, "min"
        self.metrics_of = {split: _MeanLoss(pretext.selects, split) for split in self.metrics_of}  # type: ignore[misc]

    @property
    def pretext(self) -> Pretext:
        """The objective that reads no labels."""
        return next(term for term in self.objectives if isinstance(term, Pretext))

    def take(self, batch: Batch) -> Step:
        """Run the networks on what the objective makes of a step's samples, in place of the batch."""
        return super().take(self.pretext.seen(self._draw))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add one validation batch."""
        self._judge("validation", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Add one test batch."""
        self._judge("test", batch)

    def _judge(self, split: str, batch: Batch) -> None:
        seen = self.pretext.fixed(batch.index, step_seed(_SEED, int(batch.index[0])))
        if count := self.pretext.counted(seen):
            value = self.pretext.judged(self.evaluated, self.run, seen)
            self.metrics_of[split].add(value, count)  # type: ignore[operator]


class _MeanLoss(nn.Module):
    """What stands in the place of a task's metrics: the mean of the batches' values over what each is a mean of."""

    def __init__(self, name: str, split: str) -> None:
        super().__init__()
        self.name, self.split, self.mean = name, split, Mean()

    def add(self, value: Tensor, count: int) -> None:
        self.mean.update(value.detach().expand(count))

    def compute(self) -> dict[str, float]:
        value = self.mean.compute()
        if self.split == "validation" and not int(self.mean.count):
            raise UserError(
                f"{self.name}: the validation samples hold nothing to judge by; give data.validation more of them"
            )
        return {self.name: float(value)}

    def arrays(self) -> dict[str, Any]:
        return {}

    def reset(self) -> None:
        self.mean.reset()
