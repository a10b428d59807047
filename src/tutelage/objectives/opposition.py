"""The end of an objective whose gradient opposes that of the others: what `schedule.name=until_opposed` looks at and remembers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tutelage.alignment.gather import world_size
from tutelage.errors import UserError
from tutelage.objectives.base import Objective

log = logging.getLogger("tutelage")
EVERY = 10
"""Updates from one look at the gradients to the next, as each look is a backward pass for each objective."""


class Opposition(nn.Module):
    """The cosine between an objective's gradient and the weighted sum of the others', on a weight that all of them reach.

    steps: of each objective that may end, the updates of a window. Looks are at every tenth update (at each, of a shorter window); where a
    window's mean is below 0, the objective ends for good. HASTE (Wang et al. 2025, arXiv 2505.16792) ends its alignment once, by a trigger:
    a fixed step, or gradients that no longer agree; window and weight are ours. Its state is in checkpoints.
    """

    def __init__(self, steps: Mapping[str, int]) -> None:
        super().__init__()
        self.steps = dict(steps)
        self.ended = dict.fromkeys(steps, False)
        self._sums = dict.fromkeys(steps, 0.0)
        self._counts = dict.fromkeys(steps, 0)
        self._latest: dict[str, float] = {}

    def open(self, step: int) -> list[str]:
        """Return the objectives to look at in the update of this number, from 0."""
        return [
            name
            for name, steps in self.steps.items()
            if not self.ended[name] and step % min(EVERY, steps) == 0
        ]

    def see(
        self, losses: Mapping[str, Tensor], factors: Mapping[str, float], shared: nn.Parameter, step: int
    ) -> None:
        """Look at the unweighted losses of an update. factors: what multiplies each; those that are 0 are nothing to oppose."""
        names = [name for name in self.open(step) if factors[name]]
        if not names:
            return
        found = {
            name: factors[name]
            * torch.autograd.grad(loss, shared, retain_graph=True, materialize_grads=True)[0].float()
            for name, loss in losses.items()
            if factors[name]
        }
        gradients = torch.stack(list(found.values())).flatten(1)
        if world_size() > 1:  # those of the global batch, so that it ends on every rank at once
            torch.distributed.all_reduce(gradients)
        total = gradients.sum(dim=0)
        for place, name in enumerate(found):
            if name in names:
                own = gradients[place]
                self._sums[name] += float(torch.cosine_similarity(own, total - own, dim=0))
                self._counts[name] += 1

    def updated(self, count: int) -> None:
        """Judge the windows that end with the update of this number, from 1."""
        for name, steps in self.steps.items():
            if self.ended[name] or count % steps or not self._counts[name]:
                continue
            mean = self._latest[name] = self._sums[name] / self._counts[name]
            self._sums[name], self._counts[name] = 0.0, 0
            if mean < 0:
                self.ended[name] = True
                log.info(
                    "the objective '%s' ends after update %d: over %d updates the mean cosine between its gradient and that of the "
                    "others was %.3f",
                    name,
                    count,
                    steps,
                    mean,
                )

    def record(self) -> dict[str, float]:
        """Return the mean cosine of each latest window."""
        return {f"cosine/{name}": value for name, value in self._latest.items()}

    def get_extra_state(self) -> Tensor:
        """Return what is remembered, (objectives, 4)."""
        return torch.tensor(
            [
                [
                    float(self.ended[n]),
                    self._sums[n],
                    float(self._counts[n]),
                    self._latest.get(n, float("nan")),
                ]
                for n in self.steps
            ],
            dtype=torch.float64,
        )

    def set_extra_state(self, state: Tensor) -> None:
        """Remember what `get_extra_state` returned."""
        for name, (ended, total, count, latest) in zip(self.steps, state.tolist(), strict=True):
            self.ended[name], self._sums[name], self._counts[name] = bool(ended), total, int(count)
            if latest == latest:
                self._latest[name] = latest


def opposition_of(objectives: Sequence[Objective]) -> Opposition | None:
    """Return what watches the objectives that may end so; None where none may. Raises UserError where all may."""
    ending = {o.name: o.schedule.steps or 1 for o in objectives if o.schedule.name == "until_opposed"}
    if ending and not any(o.weight and o.name not in ending for o in objectives):
        raise UserError(
            f"the objective '{next(iter(ending))}' ends where its gradient opposes that of objectives that go on "
            "(schedule.name=until_opposed), of which there is none: add one, or choose another schedule"
        )
    return Opposition(ending) if ending else None
