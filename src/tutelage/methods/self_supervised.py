"""Self-supervised learning: a start from images alone, for later training on few labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tutelage.errors import UserError
from tutelage.methods.base import Method, step_seed
from tutelage.objectives.alignment import Alignment
from tutelage.objectives.base import Step
from tutelage.objectives.total import Objectives
from tutelage.objectives.views import TwoViews
from tutelage.tasks import Batch
from tutelage.tasks.means import Mean

SELECTS = "views_loss"
_SEED = 0x5E1F5


class SelfSupervised(Method):
    """Trains all of a network but its final layer on two views of each training image, see `objectives.views`; no label is read.

    Alignment with a guide may stand beside: guide and network then see the views. The views' loss on validation images, whose views are the
    same each time, selects the network.
    """

    def __init__(self, *, network: nn.Module, objectives: Objectives, **common: Any) -> None:
        found = [term for term in objectives if isinstance(term, TwoViews)]
        others = [term.name for term in objectives if not isinstance(term, TwoViews | Alignment)]
        if len(found) != 1 or others:
            raise UserError(
                "method=self_supervised takes one objective of two views, and alignment beside it: it reads no labels"
                + (f"; drop '{others[0]}'" if others else "")
            )
        (self_views,) = found
        parameters = dict(network.named_parameters())
        for name in self_views.head.names:
            if name in parameters and name not in self_views.head.shared:
                parameters[name].requires_grad_(False)
        super().__init__(network=network, objectives=objectives, **common)
        if self.task.asked:
            raise UserError(
                f"fit.metrics={list(self.task.asked)}: no label is read, so that {SELECTS} alone is known: leave fit.metrics and "
                "fit.monitor empty (`tutelage analyse probe` measures the features)"
            )
        self.task.monitor, self.task.mode = SELECTS, "min"
        self.metrics_of = {split: _MeanLoss() for split in ("validation", "test", "train")}  # type: ignore[misc]

    @property
    def views(self) -> TwoViews:
        """The objective of the two views."""
        return next(term for term in self.objectives if isinstance(term, TwoViews))

    def take(self, batch: Batch) -> Step:
        """Run the networks on two views of a step's images, in place of the batch."""
        draw = self.step * self.accumulate + self._place
        views, index = self.views.stream.views(draw), self.views.stream.index
        twice = torch.cat([index, index])
        seen = Batch(torch.cat(views), twice, twice)
        return self.objectives.take(seen, self.predict, step=self.step, max_steps=self.max_steps, draw=draw)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add the loss of one validation batch."""
        self._judge("validation", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Add the loss of one test batch."""
        self._judge("test", batch)

    def _judge(self, split: str, batch: Batch) -> None:
        if len(batch.index) < 2:
            return  # of one image alone there is nothing to tell apart
        seed = step_seed(_SEED, int(batch.index[0]))
        views = torch.cat(self.views.stream.fixed(batch.index, seed))
        loss = self.views.judged(
            self.evaluated, lambda network, inputs: self.run(network, inputs, None), views
        )
        self.metrics_of[split].add(loss, len(batch.index))  # type: ignore[operator]


class _MeanLoss(nn.Module):
    """What stands in the place of a task's metrics: the mean over images of the batches' losses."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = Mean()

    def add(self, loss: Tensor, count: int) -> None:
        self.mean.update(loss.detach().expand(count))

    def compute(self) -> dict[str, float]:
        return {SELECTS: float(self.mean.compute())}

    def arrays(self) -> dict[str, Any]:
        return {}

    def reset(self) -> None:
        self.mean.reset()
