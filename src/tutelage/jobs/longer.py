"""A run of more updates goes on from the kept state of a complete one of fewer, where that gives exactly what it would have come to anew.

It does where nothing before the shorter run's last update knew how many there would be: a constant learning rate, constant schedules, a
method of ours, and a last update at which the longer run validates too. Otherwise it is said what stood in the way.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Mapping
from typing import Any

from tutelage.errors import UserError
from tutelage.runs.folders import make_folder
from tutelage.runs.identity import flatten, identify
from tutelage.runs.run import Run, RunBusy
from tutelage.runs.store import Store

log = logging.getLogger("tutelage")
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
    found: list[tuple[int, Run]] = []
    for other in store.runs(str(config["name"])):
        with contextlib.suppress(UserError, OSError, AttributeError):  # damaged: no run to go on with
            theirs = (other.config.get("fit") or {}).get("max_steps")
            if not isinstance(theirs, int) or theirs >= steps or not other.is_complete:
                continue
            if _but_for_the_length(other.config) == _but_for_the_length(config):
                found.append((theirs, other))
    if not found:
        return {}
    begun, other = max(found, key=lambda pair: pair[0])
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
