"""The sections of a configuration that are settings rather than objects: their types, ranges and choices, once.

No torch here: a mistake in a command is found before anything heavy is imported.
"""

from __future__ import annotations

import dataclasses
import functools
import marshal
import math
import typing
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from tutelage.errors import UserError
from tutelage.typed import Count, Positive, Range, read


@dataclass(frozen=True)
class Fit:
    """How long to train, and how often to look. Exactly one of max_steps (updates) and epochs is given."""

    max_steps: Count | None
    epochs: Positive | None
    validate_every_steps: Count | None
    log_every_steps: Count
    checkpoint_every_s: Annotated[float, Range(0)]
    keep_checkpoints: bool
    protocol: Literal["best_on_test"] | None
    stop_below: list[tuple[int, float]]
    accumulate: Count
    gradient_clip: Positive | None
    metrics: list[str]
    monitor: str | None
    patience: Count | None
    watch_layers: bool = False

    def __post_init__(self) -> None:
        if (self.max_steps is None) == (self.epochs is None):
            raise UserError(
                "give either `max_steps` or `epochs` (the other null), "
                f"got max_steps={self.max_steps}, epochs={self.epochs}"
            )


@dataclass(frozen=True)
class Hardware:
    """What Lightning's Trainer is to know of the machine."""

    accelerator: Literal["cpu", "gpu", "mps", "auto"]
    devices: int | str | list[int]
    num_nodes: Count
    strategy: str
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true"]
    matmul_precision: Literal["highest", "high", "medium"]
    threads: Count | None
    compile: bool
    channels_last: bool
    fold_norms: bool
    recompute: bool
    deterministic: bool | None

    def __post_init__(self) -> None:
        if self.accelerator == "cpu" and self.precision == "16-mixed":
            raise UserError(
                "`precision`=16-mixed needs a GPU: on a CPU torch would compute in bfloat16 under that name; say bf16-mixed"
            )


@dataclass(frozen=True)
class Logger:
    """Which mirrors of the record are kept."""

    kind: (
        Literal["wandb", "tensorboard", "mlflow", "csv", "none"]
        | list[Literal["wandb", "tensorboard", "mlflow", "csv"]]
    )
    project: str
    mode: Literal["offline", "online", "disabled"]


@dataclass(frozen=True)
class Command:
    """What every command that makes runs is given, of whatever kind they are."""

    seed: Annotated[int, Range(0, 2**32 - 1)]
    runs_dir: str
    rerun: bool
    retry: Annotated[int, Range(0)]
    on_failure: Literal["continue", "stop"]

    def __post_init__(self) -> None:
        if not self.runs_dir.strip():
            raise UserError("`runs_dir` must name a folder, such as runs_dir=runs; got an empty text")


@dataclass(frozen=True)
class Configuration(Command):
    """The whole of a run that trains: one section per group of `conf/`, and the run's own keys."""

    name: str
    fit: dict[str, Any]
    hardware: dict[str, Any]
    logger: dict[str, Any]
    optimizer: dict[str, Any]
    data: dict[str, Any]
    model: dict[str, Any]
    guide: dict[str, Any] | None
    teacher: dict[str, Any] | None
    source: dict[str, Any] | None
    frozen: dict[str, Any]
    method: dict[str, Any]
    setting: Literal["source", "source_free", "oracle"] | None
    needs: dict[str, Any]


SECTIONS: dict[str, type] = {"fit": Fit, "hardware": Hardware, "logger": Logger}


def check(config: dict[str, Any]) -> None:
    """Raise UserError for what no setting is: see `read`. Whole numbers written as 1e3 become such, in place."""
    above = {key: {} if _is_section(value) else value for key, value in config.items()}
    try:
        above = marshal.loads(_above(marshal.dumps(above, 2)))
    except ValueError:  # what is no plain value is no setting either
        _update(above, read(Configuration, above))
    for key, value in config.items():
        if not _is_section(value):
            config[key] = above[key]
        _numbers(key, marshal.dumps(config[key], 2))
    for name in SECTIONS:
        config[name] = marshal.loads(_section(name, marshal.dumps(config[name], 2)))
    root = config["data"].get("root")
    if isinstance(root, str) and not root.strip():  # also where nothing asked for its fingerprint
        raise UserError("data.root must name existing data; got an empty text")


def _is_section(value: Any) -> bool:
    return type(value) is dict and {*map(type, value)} <= {str}


@functools.lru_cache(2**12)
def _above(content: bytes) -> bytes:
    """Read the settings that stand in no section; in place of sections there are empty ones."""
    above = marshal.loads(content)
    _update(above, read(Configuration, above))
    return marshal.dumps(above, 2)


@functools.lru_cache(2**8)
def _section(name: str, content: bytes) -> bytes:
    """Read the settings of a section: of a sweep's commands, which share most of them, once. Both sides are plain values as bytes."""
    section = marshal.loads(content)
    _update(section, read(SECTIONS[name], section, name))
    return marshal.dumps(section, 2)


@functools.lru_cache(2**12)
def _numbers(key: str, content: bytes) -> None:
    _check_numbers(key, marshal.loads(content))


def check_command(config: dict[str, Any]) -> None:
    """As `check`, of a configuration that has other sections than a run that trains: its command's own keys, and the hardware."""
    own = {key: config[key] for key in typing.get_type_hints(Command) if key in config}
    config |= dataclasses.asdict(read(Command, own))
    _check_numbers("", config)
    _update(config["hardware"], read(Hardware, config["hardware"], "hardware"))


def _update(section: dict[str, Any], settings: Any) -> None:
    for key in section:
        section[key] = getattr(settings, key)


def _check_numbers(key: str, value: Any) -> None:
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, item in items:
            _check_numbers(f"{key}.{name}" if key else str(name), item)
    elif isinstance(value, float) and math.isnan(value):
        raise UserError(f"{key} must be a number, got nan")
    elif (
        isinstance(value, str)
        and not value.isascii()
        and value.encode(errors="surrogateescape") != value.encode(errors="replace")
    ):
        shown = value.encode(errors="surrogateescape").decode(errors="backslashreplace")
        raise UserError(
            f"{key}={shown} is not UTF-8, and a run records its settings as text: rename it, or name a link to it that has another name"
        )
    elif isinstance(value, int) and abs(value) >= 2**63:
        raise UserError(f"{key} must be below 2^63, got a number of {len(str(abs(value)))} digits")
