"""Optimiser and learning-rate schedule: built once from plain arguments, for whatever parameters a method trains."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch

from tutelage.errors import UserError, choices

log = logging.getLogger("tutelage")
OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
SWITCHES = ("fused", "foreach", "amsgrad", "nesterov", "maximize", "capturable", "differentiable")
NUMBERS = ("weight_decay", "momentum", "dampening", "eps")
Schedule = Literal["constant", "cosine", "linear", "step"]


def learning_rate_factor(
    step: int,
    *,
    schedule: Schedule,
    max_steps: int,
    warmup_steps: int = 0,
    milestones: Sequence[float] = (),
    gamma: float = 0.1,
    final_factor: float = 0.0,
) -> float:
    """Return the factor on the base rate for the update numbered `step` (from 0).

    warmup_steps: linear rise from 1/warmup_steps to 1. cosine, linear: from 1 to `final_factor`, reached at the last update exactly.
    step: times `gamma` after each milestone, a fraction of max_steps.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    if schedule == "step":
        return gamma ** sum(step >= milestone * max_steps for milestone in milestones)
    progress = min(1.0, (step - warmup_steps) / max(1, max_steps - 1 - warmup_steps))
    shape = 0.5 * (1 + math.cos(math.pi * progress)) if schedule == "cosine" else 1 - progress
    return final_factor + (1 - final_factor) * shape


class OptimizerSpec:
    """Which optimiser and schedule to build; `build` makes them for given parameters.

    name: adam | adamw | sgd. lr: base learning rate. options: the optimiser's own arguments (betas, weight_decay, momentum, ...).
    schedule and its arguments: see `learning_rate_factor`.
    Raises UserError for an unknown optimiser, schedule or argument.
    """

    def __init__(
        self,
        *,
        name: str,
        lr: float,
        schedule: str = "constant",
        warmup_steps: int = 0,
        milestones: Sequence[float] = (),
        gamma: float = 0.1,
        final_factor: float = 0.0,
        **options: Any,
    ) -> None:
        if name not in OPTIMIZERS:
            raise UserError(f"no optimizer is named {name!r}; {choices(name, OPTIMIZERS)}")
        if schedule not in ("constant", "cosine", "linear", "step"):
            raise UserError(
                f"no schedule is named {schedule!r}; {choices(schedule, ('constant', 'cosine', 'linear', 'step'))}"
            )
        if not 0 < lr < math.inf:
            raise UserError(f"optimizer.lr must be a positive number, got {lr}")
        for key, value in (("warmup_steps", warmup_steps), ("gamma", gamma), ("final_factor", final_factor)):
            if not 0 <= value < math.inf:
                raise UserError(f"optimizer.{key} must not be negative, got {value}")
        if not all(isinstance(part, int | float) and 0 <= part <= 1 for part in milestones):
            raise UserError(
                f"optimizer.milestones are fractions of the updates, from 0 to 1; got {list(milestones)}"
            )
        if schedule == "step" and not milestones:
            raise UserError(
                "optimizer.schedule=step needs optimizer.milestones, fractions of the updates such as [0.5,0.75]"
            )
        if (betas := options.get("betas")) is not None and not (
            isinstance(betas, Sequence)
            and len(betas) == 2
            and all(
                isinstance(beta, int | float) and not isinstance(beta, bool) and 0 <= beta < 1
                for beta in betas
            )
        ):
            raise UserError(
                f"optimizer.betas are two numbers from 0 to below 1, such as [0.9,0.999]; got {betas!r}"
            )
        for key, value in options.items():  # torch takes any value for some of its switches
            if key in SWITCHES and not (
                isinstance(value, bool) or (value is None and key in ("fused", "foreach"))
            ):
                raise UserError(f"optimizer.{key} must be true or false, got {value!r}")
            if key in NUMBERS and (
                isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf
            ):
                raise UserError(f"optimizer.{key} must be a number from 0 on, got {value!r}")
        self.name, self.lr, self.options = name, lr, options
        self.schedule: dict[str, Any] = {
            "schedule": schedule,
            "warmup_steps": warmup_steps,
            "milestones": tuple(milestones),
            "gamma": gamma,
            "final_factor": final_factor,
        }

    def build(
        self, parameters: Iterable[torch.nn.Parameter], max_steps: int
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler | None]:
        """Return the optimiser over `parameters` and its per-step scheduler (None when the rate is constant)."""
        parameters = list(parameters)
        if not parameters:
            raise UserError("the network has no parameters to train")
        try:
            optimizer = OPTIMIZERS[self.name](parameters, lr=self.lr, **self.options)
        except (TypeError, ValueError) as error:
            raise UserError(f"optimizer {self.name} does not take {self.options}: {error}") from error
        if self.schedule["schedule"] == "constant" and not self.schedule["warmup_steps"]:
            return optimizer, None
        if self.schedule["warmup_steps"] >= max_steps:
            log.warning(
                "optimizer.warmup_steps=%d of fit.max_steps=%d: the learning rate never reaches optimizer.lr",
                self.schedule["warmup_steps"],
                max_steps,
            )
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, max_steps=max_steps, **self.schedule)
        )
        return optimizer, scheduler
