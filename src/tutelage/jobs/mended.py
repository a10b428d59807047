"""A run that stopped at images it could not read goes on when they were replaced or removed, though its data have another fingerprint now.

Its folder moves to the identity that the command has with the data as they are. Where it had trained, images that are gone keep their
places (`data.absent`), so that no other changes its split.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tutelage.data.fingerprint import fingerprint
from tutelage.errors import UserError
from tutelage.runs.identity import identify
from tutelage.runs.needs import Plan
from tutelage.runs.run import Run, RunBusy, State
from tutelage.runs.store import Store

log = logging.getLogger("tutelage")


def carry_absent(plan: Plan, run: Run, store: Store) -> None:
    """Give a plan the images that an earlier attempt of its run, or a run it needs with the same data, knew and are gone.

    Both train and judge on one split then. Call it before the run's configuration is written.

    plan: changed in place.
    """
    mark = (plan.config.get("data") or {}).get("fingerprint")
    needed = [
        store.at(need.key) for need in plan.prerequisites() if need.config["data"].get("fingerprint") == mark
    ]
    for one in (run, *needed) if mark is not None else ():
        if (one.path / "config.yaml").is_file() and (absent := one.config["data"].get("absent")):
            plan.config["data"]["absent"] = list(absent)
            return


def take_over(plan: Plan, run: Run, store: Store) -> dict[str, Any]:
    """Move the run that stopped at unreadable images to where `plan` belongs, if there is one; return what the provenance is to say.

    Such a run has the plan's configuration but for the fingerprint of its data, and all its other images are the same. Call it under
    the lock of `run`.

    plan: the images that were removed are noted in it.
    run: the plan's run; where it exists, nothing is moved.
    store: where the plan's runs are.
    """
    data = plan.config.get("data") or {}
    mark, root = data.get("fingerprint"), data.get("root")
    if mark is None or root is None or run.path.exists():
        return {}
    for path in map(Path, store.folders(plan.name)):
        if path.parent != store.root / plan.name or not (path / "failed.json").is_file():
            continue
        if (other := store.at_path(path)).state is not State.FAILED:
            continue
        with contextlib.suppress(UserError, RunBusy, OSError):  # damaged, or busy: it is no run to go on with
            facts, config = other.failure or {}, other.config
            damaged, before = facts.get("damaged"), config["data"].get("fingerprint")
            if not damaged or before == mark or _but_for_the_data(config) != _but_for_the_data(plan.config):
                continue
            folder = Path(str(root)).expanduser()
            if fingerprint(folder, "images", without=set(damaged)) != facts.get("rest"):
                continue
            removed = [name for name in damaged if not (folder / name).is_file()]
            began = any(other.checkpoint(which).is_file() for which in ("last", "previous"))
            with other.lock(wait=False):
                other.path.rename(run.path)
            absent = sorted({*config["data"].get("absent", ()), *removed})
            if absent and began:
                plan.config["data"]["absent"] = absent
            replaced = [name for name in damaged if name not in removed]
            log.info(
                "%s goes on where %s stopped at images that it could not read: %d were replaced, %d removed since",
                run.key, other.key, len(replaced), len(removed),
            )  # fmt: skip
            return {
                "continues": {
                    "run": other.key, "fingerprints": [before, mark], "replaced_images": replaced, "removed_images": removed,
                }
            }  # fmt: skip
    return {}


def _but_for_the_data(config: Mapping[str, Any]) -> str:
    return identify({**config, "data": {**config["data"], "fingerprint": "any"}})
