"""The terms of the steps since the last record: kept on the device, read together."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tutelage.alignment.gather import world_size
from tutelage.errors import RunFailed


class NonFiniteLoss(RunFailed):
    """A loss term became NaN or infinite: the run stops and is shown as failed, its last good checkpoint stays."""

    facts: ClassVar[dict[str, bool]] = {"began": True}


class History:
    """What each step's loss was made of, until it is asked for: adding waits for no device, reading does so once.

    names: how many different terms there can be.
    """

    def __init__(self, names: int) -> None:
        self.names = names
        self.rows: list[tuple[int, tuple[str, ...], Tensor]] = []

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, step: int, total: Tensor, terms: dict[str, Tensor]) -> None:
        """Keep a step's weighted sum and its unweighted terms, all of one number."""
        values = torch.stack([value.detach() for value in (total, *terms.values())])
        self.rows.append((step, tuple(terms), values))

    def means(self) -> dict[str, float]:
        """Return the mean of the sum, `loss`, and of each term since the last call, over all ranks, and forget them.

        Raises NonFiniteLoss naming the first step and term that is not finite.
        """
        sums: dict[str, list[float]] = {}
        stacked = self._over_ranks() if self.rows else ()
        rows, self.rows = self.rows, []
        for (step, names, _), values in zip(rows, stacked, strict=True):
            terms = dict(zip(names, values[1:].tolist(), strict=False))
            for name, value in {"loss": float(values[0]), **terms}.items():
                sums.setdefault(name, []).append(value)
            if not np.isfinite([values[0], *terms.values()]).all():
                bad = [name for name, value in terms.items() if not np.isfinite(value)]
                raise NonFiniteLoss(
                    f"the loss is not finite at step {step}: {', '.join(bad or ['the weighted sum'])} (terms: {terms}). "
                    + (
                        "Lower optimizer.lr or clip gradients (fit.gradient_clip); what was saved before is kept"
                        if step
                        else "No update came before: look at the data and at the network's outputs at its initialisation"
                    )
                )
        return {name: float(np.mean(values)) for name, values in sums.items()}

    def _over_ranks(self) -> np.ndarray:
        rows = [
            nn.functional.pad(values.float(), (0, 1 + self.names - len(values))) for *_, values in self.rows
        ]
        stacked = torch.stack(rows)
        if world_size() > 1:
            # Gloo has no mean.
            dist.all_reduce(stacked, op=dist.ReduceOp.AVG if stacked.is_cuda else dist.ReduceOp.SUM)
            if not stacked.is_cuda:
                stacked /= world_size()
        return stacked.double().cpu().numpy()
