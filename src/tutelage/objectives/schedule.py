"""When an objective counts, and how much: the factor on its weight over training."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

from tutelage.errors import UserError, choices

log = logging.getLogger("tutelage")
NAMES = ("always", "until", "from", "warm_up", "ramp_up", "linear", "cosine", "alone_first", "until_opposed")
_STEPS = {
    "from": "the step from which it counts",
    "until_opposed": "the number of updates over which its gradient and that of the others are compared",
}
_NEED_STEPS = ("until", "from", "warm_up", "ramp_up", "alone_first", "until_opposed")
_LATE = {
    "until": "never ends",
    "until_opposed": "never ends",
    "warm_up": "never counts whole",
    "ramp_up": "never counts whole",
}
"""What a schedule does not come to that is longer than the training."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The factor on an objective's weight at each update, counted from 0. Where it is 0, the objective is not computed.

    name: "always": 1. "until": 1 before `steps`, then 0 (the early stop of the code of arXiv 2410.20035). "from": 0 before `steps`, then
    1. "warm_up": a linear rise from 1 / steps to 1. "ramp_up": exp(-5 (1 - t)^2) with t = step / steps, then 1 (Laine and Aila 2016, arXiv
    1610.02242). "linear", "cosine": a fall from 1 to 0 over `steps`, staying there. "alone_first": this objective and no other before
    `steps`, then all others and not this one (guidance as initialisation, arXiv 2410.20035). "until_opposed": 1 until its gradient has
    opposed that of the others over `steps` updates, then 0, which `factor` does not know (HASTE's trigger, arXiv 2505.16792; see
    `opposition`).
    steps: updates; None, for linear and cosine, the whole training.
    watched: while it is off, the objective is still computed and recorded, without a gradient.
    Raises UserError for an unknown name, or for steps that are missing, meaningless or not positive.
    """

    name: str = "always"
    steps: int | None = None
    watched: bool = False

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise UserError(f"`name`={self.name!r} is no schedule; {choices(self.name, NAMES)}")
        if self.steps is None and self.name in _NEED_STEPS:
            raise UserError(
                f"`name`={self.name} needs `steps`, {_STEPS.get(self.name, 'the number of steps it lasts')}"
            )
        if self.steps is not None and self.name == "always":
            raise UserError(
                f"`steps`={self.steps} means nothing to `name`=always: drop it, or choose another schedule"
            )
        if self.steps is not None and self.steps < (1 if self.name != "from" else 0):
            raise UserError(f"`steps` must be at least 1, got {self.steps}")

    def factor(self, step: int, max_steps: int) -> float:
        """Return what multiplies the weight at the update numbered `step`, from 0, of `max_steps`."""
        steps = self.steps or 0
        if self.name in ("until", "alone_first"):
            return float(step < steps)
        if self.name == "from":
            return float(step >= steps)
        if self.name == "warm_up":
            return min(1.0, (step + 1) / steps)
        if self.name == "ramp_up":
            return math.exp(-5.0 * max(0.0, 1 - step / steps) ** 2)
        if self.name in ("linear", "cosine"):
            progress = min(1.0, step / max(1, self.steps or max_steps))
            return 1.0 - progress if self.name == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
        return 1.0

    def check_length(self, max_steps: int, objective: str, *, lasting: bool, quiet: bool) -> None:
        """Raise UserError where a training of `max_steps` updates (0: unknown) ends before the objective, or its others, would begin.

        objective: its name. lasting: whether another one goes on to the end. quiet: do not log what a long schedule does not come to.
        """
        if not 0 < max_steps <= (self.steps or 0):
            return
        # It may be there to be watched alone, beside others that go on.
        watched = self.name == "from" and self.watched and lasting
        if self.name in ("from", "alone_first") and not watched:
            raise UserError(
                f"objective '{objective}': schedule.steps={self.steps} with schedule.name={self.name} leaves none of "
                f"fit.max_steps={max_steps} for what follows"
            )
        if self.name in _LATE and not quiet:
            log.warning(
                "objective '%s': schedule.name=%s with schedule.steps=%d %s in a training of %d steps",
                objective,
                self.name,
                self.steps,
                _LATE[self.name],
                max_steps,
            )

    def keeps_others_off(self, step: int) -> bool:
        """Say whether no other objective counts at this update."""
        return self.name == "alone_first" and step < (self.steps or 0)

    @property
    def never_off(self) -> bool:
        """Whether the objective gives a gradient at every update."""
        return self.name in ("always", "warm_up", "ramp_up")
