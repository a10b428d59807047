"""How long runs take on this machine: a few updates of each kind of run, in a folder that goes away."""

from __future__ import annotations

import copy
import json
import math
import tempfile
from collections.abc import Mapping
from typing import Any

from tutelage.jobs.plain_log import quietly
from tutelage.runs.identity import flatten, identify, is_need
from tutelage.runs.needs import Plan
from tutelage.runs.weights import Weights, networks

UPDATES = 12
"""Updates that are timed; the first ones, in which a device warms up, among them."""
_NO_MATTER = (
    "seed",
    "name",
    "lr",
    "pairing",
    "schedule",
    "weight",
    "init_seed",
    "weights",
    "root",
    "fingerprint",
)
"""Keys that hardly change what an update takes."""
_EVALUATION = 1 / 3
"""What a sample costs in evaluation, of what it costs in training: a forward of a forward and its backward of twice that."""


class Speed:
    """Seconds that runs take here; each kind of run is measured once, and corrected by runs that came to their end."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, float, dict[str, Any]]] = {}

    def seconds(self, plan: Plan) -> float:
        """Return about how long a run alone takes, without those it needs; NaN where its data are one of these.

        Raises UserError where it cannot run.
        """
        if is_need(plan.config["data"].get("root")):
            return math.nan
        kind = _kind(plan.config)
        if kind not in self._known:
            self._known[kind] = _measured(plan.config)
        per_sample, fixed, sizes = self._known[kind]
        fit, batch = plan.config["fit"], sizes["batch_size"] * plan.config["fit"]["accumulate"]
        steps = fit["max_steps"] or max(
            1, round((fit["epochs"] or 0) * sizes["steps_per_epoch"] / fit["accumulate"])
        )
        every = min(fit["validate_every_steps"] or sizes["steps_per_epoch"], steps)
        evaluated = math.ceil(steps / max(1, every)) * sizes["sizes"]["validation"] + sizes["sizes"]["test"]
        return fixed + per_sample * (steps * batch + _EVALUATION * evaluated)

    def learn(self, plan: Plan, seconds: float) -> None:
        """Correct the speed of a kind of run by one that took so long from its beginning to its end."""
        kind = _kind(plan.config)
        if kind in self._known and seconds > 0:
            per_sample, fixed, sizes = self._known[kind]
            factor = seconds / max(self.seconds(plan), 1e-9)
            self._known[kind] = per_sample * factor, fixed * factor, sizes


def _kind(config: Mapping[str, Any]) -> str:
    parts = {
        key: config[key]
        for key in ("data", "model", "guide", "teacher", "source", "frozen", "method", "hardware")
    }
    told = {key: value for key, value in flatten(parts) if not set(key.split(".")) & set(_NO_MATTER)}
    return json.dumps(told, sort_keys=True, default=str)


def alone(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a configuration that needs no other run: networks whose weights are one's begin at random."""
    found = copy.deepcopy(dict(config))
    for where, node in networks(found):
        if Weights.of(found, where).need:
            node["weights"] = "scratch"
    return found | {"needs": {}}


def _measured(config: Mapping[str, Any]) -> tuple[float, float, dict[str, Any]]:
    """Return (seconds per training sample, seconds that a run takes beside, what is known of the data)."""
    from tutelage.jobs.launch import run_plan
    from tutelage.runs.records import read_json
    from tutelage.runs.store import Store

    with tempfile.TemporaryDirectory(prefix="tutelage-speed-") as folder, quietly():
        short = alone(config) | {"runs_dir": folder, "name": "speed", "retry": 0}
        short["logger"] = {**config["logger"], "kind": "none"}
        short["fit"] = {
            **config["fit"],
            "epochs": None,
            "max_steps": UPDATES,
            "validate_every_steps": UPDATES,
            "log_every_steps": UPDATES,
        }
        plan = Plan(config=short, name="speed", identity=identify(short))
        cost = run_plan(plan, say=lambda _: None)["cost"]
        sizes = read_json(Store(folder).run(plan.name, plan.identity).path / "setup.json")["data"]
    per_sample = 1 / cost["samples_per_s"]
    evaluated = sizes["sizes"]["validation"] + sizes["sizes"]["test"]
    fixed = cost["total_s"] - cost["train_s"] - per_sample * _EVALUATION * evaluated
    return per_sample, max(0.0, fixed), sizes
