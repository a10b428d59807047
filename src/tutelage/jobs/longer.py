"""A run of more updates goes on from the kept state of a complete one of fewer, where that gives exactly what it would have come to anew.

It does where nothing before the shorter run's last update knew how many there would be: a constant learning rate, constant schedules, a
method of ours, and a last update at which the longer run validates too. Otherwise it is said what stood in the way.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tutelage.errors import UserError
from tutelage.runs.bounded import YAML_BYTES, read_bytes
from tutelage.runs.folders import make_folder
from tutelage.runs.identity import flatten, identify
from tutelage.runs.records import read_yaml
from tutelage.runs.run import Run, RunBusy
from tutelage.runs.store import Store

log = logging.getLogger("tutelage")
_MAX_STEPS = re.compile(rb"^ +max_steps: (\d+)$", re.MULTILINE)
_CONSTANT = (None, "", "constant", "none", "always")


def begin_from_shorter(config: Mapping[str, Any], run: Run, store: Store) -> dict[str, Any]:
    """Copy the state of the longest complete run that `run` can go on from; return what the provenance is to say.

    Call it under the lock of `run`.

    Args:
        config: the run's configuration.
        run: where it exists already, nothing is done.
        store: where to look, among the runs of the same name.
    """
    steps = (config.get("fit") or {}).get("max_steps")
    if run.path.exists() or not isinstance(steps, int):
        return {}
    found = _shorter(config, steps, store)
    if found is None:
        return {}
    begun, other = found
    if why := _why_not(config, begun, other):
        log.info("%s is complete with fit.max_steps=%d, but this run begins anew: %s", other.key, begun, why)
        return {}
    try:
        with other.lock(wait=False):
            make_folder(run.path / "checkpoints")
            kept = sorted((other.path / "checkpoints").iterdir(), key=lambda path: path.name == "last.ckpt")
            for path in kept:  # the state last: it stands for all that it needs
                shutil.copyfile(path, run.path / "checkpoints" / path.name)
            shutil.copyfile(other.path / "metrics.jsonl", run.path / "metrics.jsonl")
    except RunBusy:
        return {}
    log.info("%s goes on from step %d, where %s ended", run.key, begun, other.key)
    return {"continues": {"run": other.key, "step": begun}}


def look_around(configs: Iterable[Mapping[str, Any]], store: Store) -> None:
    """Look once at the runs beside those of configurations, for the processes that this one is going to fork."""
    for name, config in {str(config["name"]): config for config in configs}.items():
        if isinstance(steps := (config.get("fit") or {}).get("max_steps"), int):
            _shorter({**config, "name": name}, steps, store)


def _shorter(config: Mapping[str, Any], steps: int, store: Store) -> tuple[int, Run] | None:
    """Return the longest complete run of fewer updates that is else the same, and how many it has."""
    own, found = None, []
    for folder in store.folders(str(config["name"])):
        if _least(folder) >= steps:
            continue
        with contextlib.suppress(
            UserError, OSError, AttributeError, KeyError, TypeError
        ):  # damaged: no run to go on with
            theirs, family = _length(folder)
            own = own or _but_for_the_length(config)
            if theirs < steps and family == own and (other := store.at_path(Path(folder))).is_complete:
                found.append((theirs, other))
    return max(found, key=lambda pair: pair[0], default=None)


@functools.cache
def _least(folder: str) -> int:
    """Return the fewest updates that a run's file can mean: of ten thousand runs beside, few are worth parsing. 0: it cannot be said."""
    try:
        found = _MAX_STEPS.findall(read_bytes(Path(folder, "config.yaml"), YAML_BYTES))
    except (OSError, UserError):
        return 0
    return min(map(int, found), default=0)


@functools.cache
def _length(folder: str) -> tuple[int, str]:
    """Return how many updates a run has, and what it is but for them: both part of its identity, which names its folder."""
    config = read_yaml(Path(folder, "config.yaml"))
    return int(config["fit"]["max_steps"]), _but_for_the_length(config)


def _but_for_the_length(config: Mapping[str, Any]) -> str:
    return identify({**config, "fit": {**config["fit"], "max_steps": 1}})


def _why_not(config: Mapping[str, Any], begun: int, other: Run) -> str:
    """Return why a run cannot be continued with exactly the numbers of a longer one; empty where it can."""
    method, fit = config["method"], config["fit"]
    if other.config["data"].get("absent") != config["data"].get("absent"):
        return "images of its set went missing while it stood still, so its splits are its own"
    if not str(method.get("_target_")).startswith("tutelage."):
        return "whether the steps of a method of your own depend on how many there will be is not known"
    for section in ("optimizer", "method"):
        for key, value in flatten(config[section]):
            if any(part == "schedule" or part.endswith("_schedule") for part in key.split(".")) and (
                isinstance(value, str | None) and value not in _CONSTANT
            ):
                return f"{section}.{key}={value} spreads over all updates, so a longer run differs from the first one on"
    every = fit["validate_every_steps"]
    if every is None or begun % every:
        return (
            f"it ended at an update at which a longer one does not validate: fit.validate_every_steps={every} would have to divide "
            f"{begun}"
        )
    if not other.checkpoint("last").is_file():
        return "its state was not kept: with fit.keep_checkpoints=true it could be continued"
    return ""
