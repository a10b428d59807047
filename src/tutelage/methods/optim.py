"""Optimiser and learning-rate schedule: built once from plain arguments, for whatever parameters a method trains."""

from __future__ import annotations

import functools
import inspect
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from tutelage.errors import ONCE, UserError, choices
from tutelage.methods.parameter_groups import grouped
from tutelage.methods.rates import SCHEDULES, Plateau, learning_rate_factor

log = logging.getLogger("tutelage")
OPTIMIZERS = {
    name: getattr(torch.optim, kind)
    for name, kind in {
        "adam": "Adam", "adamw": "AdamW", "sgd": "SGD", "nadam": "NAdam", "radam": "RAdam", "adamax": "Adamax", "adagrad": "Adagrad",
        "adadelta": "Adadelta", "rmsprop": "RMSprop", "rprop": "Rprop", "asgd": "ASGD", "adafactor": "Adafactor",
    }.items()
}  # fmt: skip
"""PyTorch's own by name; timm has others, such as muon, lamb and lion."""
SWITCHES = ("fused", "foreach", "amsgrad", "nesterov", "maximize", "capturable", "differentiable")
NUMBERS = ("weight_decay", "momentum", "dampening", "eps")


_NOT_HERE = {
    "lbfgs": " here: it evaluates the loss several times a step, on batches that would have to stay the same",
    "adahessian": " here: it needs gradients of gradients, which a step does not keep",
    "sparseadam": " here: it takes sparse gradients alone",
}


def optimizer_class(name: str) -> Callable[..., torch.optim.Optimizer]:
    """Return what makes an optimiser: of PyTorch, else of timm, as timm's factory gives it. Raises UserError for an unknown name."""
    if name in OPTIMIZERS:
        return OPTIMIZERS[name]
    from timm.optim import get_optimizer_class, get_optimizer_info, list_optimizers

    # AdaHessian asks for gradients of gradients, which a step does not keep; the others are no optimisers of their own here.
    left_out = ("fused", "bnb", "lookahead", "adahessian")
    known = [str(n) for n in list_optimizers() if not str(n).startswith(left_out)]
    if name not in known:
        more = _NOT_HERE.get(name.lower(), "")
        known = [*OPTIMIZERS, *known]
        raise UserError(
            f"no optimizer is named {name!r}{more}; {choices(name, known, limit=100 if not more else 12)}"
        )
    found: Callable[..., torch.optim.Optimizer] = get_optimizer_class(name)
    if get_optimizer_info(name).has_momentum and not _default(found, "momentum"):
        return functools.partial(found, momentum=0.9)  # the factory's; the class alone has none
    return found


class OptimizerSpec:
    """Which optimiser and schedule to build; `build` makes them for given parameters.

    name: of PyTorch or timm, see `optimizer_class`. lr: base learning rate. options: the optimiser's own arguments (betas, weight_decay,
    momentum, ...). schedule and its arguments: see `learning_rate_factor`; "plateau" falls by gamma after `patience` validations
    without a better metric, see `Plateau`.
    decay_norms_and_biases, layer_decay, lr_factors: see `parameter_groups.grouped`. frozen: patterns of parameters that are not trained.
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
        power: float = 1.0,
        decay_share: float = 0.2,
        patience: int = 5,
        decay_norms_and_biases: bool = True,
        layer_decay: float | None = None,
        lr_factors: Sequence[Any] = (),
        frozen: Sequence[str] = (),
        **options: Any,
    ) -> None:
        self._class = optimizer_class(name)
        if schedule not in SCHEDULES:
            raise UserError(f"no schedule is named {schedule!r}; {choices(schedule, SCHEDULES)}")
        if not 0 < decay_share <= 1:
            raise UserError(
                f"optimizer.decay_share is a share of the updates, above 0 and at most 1, got {decay_share}"
            )
        if layer_decay is not None and not 0 < layer_decay <= 1:
            raise UserError(f"optimizer.layer_decay must be above 0 and at most 1, got {layer_decay}")
        for pair in lr_factors:
            if (
                not isinstance(pair, Sequence)
                or len(pair) != 2
                or not isinstance(pair[0], str)
                or isinstance(pair[1], bool)
                or not isinstance(pair[1], int | float)
                or not 0 < pair[1] < math.inf
            ):
                raise UserError(
                    "optimizer.lr_factors is a list of pairs, a pattern of names and a number above 0, such as "
                    f"[['*',0.1],['head.*',1]]; got {pair!r}. What is not to be trained is named in optimizer.frozen"
                )
        if not 0 < lr < math.inf:
            raise UserError(f"optimizer.lr must be a positive number, got {lr}")
        for key, value in (
            ("warmup_steps", warmup_steps),
            ("gamma", gamma),
            ("final_factor", final_factor),
            ("power", power),
            ("patience", patience),
        ):
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
            if key == "momentum" and isinstance(value, int | float) and value >= 1:
                raise UserError(f"optimizer.momentum must be a number from 0 to below 1, got {value}")
            if key in NUMBERS and (
                isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf
            ):
                raise UserError(f"optimizer.{key} must be a number from 0 on, got {value!r}")
        if (
            options.get("weight_decay") == 0
            and "weight_decay" not in inspect.signature(self._class).parameters
        ):
            options = {key: value for key, value in options.items() if key != "weight_decay"}  # Rprop
        self.name, self.lr, self.options = name, lr, options
        of_the_schedule: dict[str, tuple[Any, tuple[str, ...]]] = {
            "gamma": (gamma, ("step", "plateau")),
            "final_factor": (final_factor, ("cosine", "linear", "polynomial", "stable_decay")),
            "power": (power, ("polynomial",)),
            "decay_share": (decay_share, ("stable_decay",)),
            "patience": (patience, ("plateau",)),
        }
        defaults = inspect.signature(OptimizerSpec).parameters
        idle = {
            key: (value, those)
            for key, (value, those) in of_the_schedule.items()
            if value != defaults[key].default and schedule not in those
        }
        if milestones and schedule == "constant" and name != "sgd":  # whose file has some
            idle["milestones"] = (list(milestones), ("step",))
        for key, (value, those) in idle.items():
            log.warning(
                "optimizer.%s=%s has no effect under optimizer.schedule=%s: it is for %s",
                key, value, schedule, ", ".join(those), extra=ONCE,
            )  # fmt: skip
        self.schedule: dict[str, Any] = {
            "schedule": schedule,
            "warmup_steps": warmup_steps,
            "milestones": tuple(milestones),
            "gamma": gamma,
            "final_factor": final_factor,
            "power": power,
            "decay_share": decay_share,
        }
        self.patience, self.frozen, self.lr_factors = (
            patience,
            tuple(frozen),
            {str(pattern): float(factor) for pattern, factor in lr_factors},
        )
        self.layer_decay, self.decay_all = layer_decay, decay_norms_and_biases

    def build(
        self,
        parameters: Iterable[nn.Parameter] | Iterable[tuple[str, nn.Parameter]],
        max_steps: int,
        *,
        network: nn.Module | None = None,
        maximise: bool = True,
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler | None]:
        """Return the optimiser over `parameters` and its per-step scheduler (None when the rate is constant).

        parameters: with their names where rates or decay depend on those. network: whose names they are. maximise: whether a larger
        validation metric is a better one, for a plateau.
        """
        named: list[tuple[str, nn.Parameter]] = [
            one if isinstance(one, tuple) else ("", one) for one in parameters
        ]
        if not named:
            raise UserError("the network has no parameters to train")
        groups: Any = [parameter for _, parameter in named]
        decay = self.options.get("weight_decay", _default(self._class, "weight_decay"))
        if not self.decay_all and not decay:
            log.warning("optimizer.decay_norms_and_biases=false has no effect: optimizer.weight_decay is 0")
        if self.lr_factors or self.layer_decay is not None or not self.decay_all:
            groups = grouped(
                named,
                lr=self.lr,
                weight_decay=decay,
                decay_all=self.decay_all,
                layer_decay=self.layer_decay,
                lr_factors=self.lr_factors,
                network=network,
            )
        try:
            optimizer = self._class(groups, lr=self.lr, **self.options)
        except (TypeError, ValueError) as error:
            if unknown := [
                key for key in self.options if key not in inspect.signature(self._class).parameters
            ]:
                known = set(inspect.signature(self._class).parameters) - {"params", "lr"}
                raise UserError(
                    f"optimizer {self.name} takes no '{unknown[0]}'; {choices(unknown[0], known)}. optimizer=any begins without the "
                    "settings of another"
                ) from error
            advice = ". Say optimizer.nesterov=false" if "Nesterov" in str(error) else ""
            raise UserError(f"optimizer {self.name} does not take {self.options}: {error}{advice}") from error
        if all(parameter.device.type == "cpu" for _, parameter in named):
            # It asks the driver for a GPU at every step; no graph of one can be captured here.
            optimizer._accelerator_graph_capture_health_check = _nothing  # type: ignore[method-assign]
        if self.schedule["schedule"] == "constant" and not self.schedule["warmup_steps"]:
            return optimizer, None
        if self.schedule["warmup_steps"] >= max_steps:
            log.warning(
                "optimizer.warmup_steps=%d of fit.max_steps=%d: the learning rate never reaches optimizer.lr",
                self.schedule["warmup_steps"],
                max_steps,
            )
        factor: Callable[[int], float] = (
            Plateau(
                gamma=self.schedule["gamma"],
                patience=self.patience,
                warmup_steps=self.schedule["warmup_steps"],
                maximise=maximise,
            )
            if self.schedule["schedule"] == "plateau"
            else lambda step: learning_rate_factor(step, max_steps=max_steps, **self.schedule)
        )
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _default(kind: Callable[..., torch.optim.Optimizer], argument: str) -> float:
    """Return what an optimiser takes where an argument is not named (AdamW's weight decay is 0.01), 0 where it has none."""
    found = inspect.signature(kind).parameters.get(argument)
    return 0.0 if found is None or found.default is found.empty else float(found.default or 0.0)


def _nothing() -> None:
    """Check nothing."""
