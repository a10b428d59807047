"""The sections of a configuration that are settings rather than objects: which keys there are and of which type.

No torch here: a mistake in a command is found before anything heavy is imported.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypedDict

from tutelage.config.values import describe, fits, whole
from tutelage.errors import UserError, choices


class Fit(TypedDict):
    """How long to train, and how often to look. Exactly one of max_steps (updates) and epochs is given."""

    max_steps: int | None
    epochs: float | None
    validate_every_steps: int | None
    log_every_steps: int
    checkpoint_every_s: float
    keep_checkpoints: bool
    protocol: Literal["best_on_test"] | None
    stop_below: list[list[float]]
    accumulate: int
    gradient_clip: float | None


class Hardware(TypedDict):
    """What Lightning's Trainer is told about the machine."""

    accelerator: Literal["cpu", "gpu", "mps", "auto"]
    devices: int | str | list[int]
    num_nodes: int
    strategy: str
    precision: str
    matmul_precision: Literal["highest", "high", "medium"]
    threads: int | None
    compile: bool
    deterministic: bool | None


class Logger(TypedDict):
    """Which mirror of the record is kept."""

    kind: Literal["wandb", "tensorboard", "csv", "none"]
    project: str
    mode: Literal["offline", "online", "disabled"]


class Configuration(TypedDict):
    """The whole: one section per group of `conf/`, and the run's own keys."""

    name: str
    seed: int
    runs_dir: str
    rerun: bool
    retry: int
    on_failure: Literal["continue", "stop"]
    fit: dict[str, Any]
    hardware: dict[str, Any]
    logger: dict[str, Any]
    optimizer: dict[str, Any]
    data: dict[str, Any]
    model: dict[str, Any]
    guide: dict[str, Any] | None
    teacher: dict[str, Any] | None
    source: dict[str, Any] | None
    method: dict[str, Any]
    setting: Literal["source", "source_free", "oracle"] | None
    source_root: str | None
    needs: dict[str, Any]


SECTIONS: dict[str, Any] = {"fit": Fit, "hardware": Hardware, "logger": Logger}
_LEAST = {"fit.max_steps": 1, "fit.validate_every_steps": 1, "fit.log_every_steps": 1, "fit.accumulate": 1, "fit.checkpoint_every_s": 0,
          "fit.epochs": 0, "fit.gradient_clip": 0, "seed": 0, "retry": 0, "hardware.threads": 1, "hardware.num_nodes": 1}  # fmt: skip
_MOST = {"seed": 2**32 - 1}


def check(config: dict[str, Any]) -> None:
    """Raise UserError for an unknown key, a value of another type or out of range in the sections that are settings.

    Whole numbers written as 1e3 become such, in place.
    """
    _check_section("", config, Configuration)
    _check_numbers("", config)
    for name, schema in SECTIONS.items():
        _check_section(f"{name}.", config[name], schema)
    for pair in config["fit"]["stop_below"]:
        if len(pair) != 2:
            raise UserError(f"fit.stop_below must be a list of [step, value], got {pair!r} in it")
    hardware = config["hardware"]
    if hardware["accelerator"] == "cpu" and hardware["precision"] == "16-mixed":
        raise UserError(
            "hardware.precision=16-mixed needs a GPU: on a CPU torch would compute in bfloat16 under that name; say bf16-mixed"
        )
    if not str(config["runs_dir"]).strip():
        raise UserError("runs_dir must name a folder, such as runs_dir=runs; got an empty text")
    steps, epochs = config["fit"]["max_steps"], config["fit"]["epochs"]
    if epochs == 0:
        raise UserError("fit.epochs must be above 0, got 0")
    if (steps is None) == (epochs is None):
        raise UserError(
            f"give either fit.max_steps or fit.epochs (the other null), got max_steps={steps}, epochs={epochs}"
        )


def _check_numbers(key: str, value: Any) -> None:
    if isinstance(value, Mapping | list):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for name, item in items:
            _check_numbers(f"{key}.{name}" if key else str(name), item)
    elif isinstance(value, float) and math.isnan(value):
        raise UserError(f"{key} must be a number, got nan")
    elif isinstance(value, int) and abs(value) >= 2**63:
        raise UserError(f"{key} must be below 2^63, got a number of {len(str(abs(value)))} digits")


def _check_section(prefix: str, section: dict[str, Any], schema: Any) -> None:
    hints = typing.get_type_hints(schema)
    for key in section:
        name = f"{prefix}{key}"
        if key not in hints:
            raise UserError(f"there is no setting '{name}'; {choices(str(key), hints)}")
        value = section[key] = whole(section[key], hints[key])
        if not fits(value, hints[key]):
            raise UserError(f"{name} must be {describe(hints[key])}, got {value!r} ({type(value).__name__})")
        in_range = not isinstance(value, int | float) or _LEAST.get(name, value) <= value <= _MOST.get(
            name, value
        )
        if not in_range:
            raise UserError(
                f"{name} must be at least {_LEAST[name]}{f' and at most {_MOST[name]}' if name in _MOST else ''}, got {value!r}"
            )
    for key in hints:
        if key not in section:
            raise UserError(f"the setting '{prefix}{key}' is missing")
