"""What analyses found of runs, kept beside the runs and not in them, so that tables can show it like any other metric."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tutelage.errors import UserError
from tutelage.runs.records import read_json, write_json
from tutelage.runs.run import Run

TELLING = ("explainer", "condition")
"""Columns that tell the rows of one network apart: their values begin the names of its metrics."""
_NO_METRIC = ("seed", "n", "severity", "low", "high")


def remember(
    root: Path,
    run: Run,
    analysis: str,
    asked: Mapping[str, str],
    rows: Sequence[Mapping[str, Any]],
) -> None:
    """Keep the rows of a run's own network. asked: the options that can change a number and are not as usual."""
    content = {
        "analysis": analysis,
        "asked": dict(asked),
        "run": run.key,
        "finished": _finished(run),
        "rows": list(rows),
    }
    path = _path(root, run, analysis, asked)
    if not path.is_file() or recall(root, run, analysis, asked) != content["rows"]:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, content)


def recall(root: Path, run: Run, analysis: str, asked: Mapping[str, str]) -> list[dict[str, Any]] | None:
    """Return the rows that are kept; None where there are none, or the run was made anew since."""
    path = _path(root, run, analysis, asked)
    try:
        found = read_json(path)
        fresh = found["finished"] == _finished(run) and found["asked"] == dict(asked)
        return [dict(row) for row in found["rows"]] if fresh else None
    except (FileNotFoundError, UserError, KeyError, TypeError, ValueError):
        return None  # not there, or cut short: it is measured again


def metrics(root: Path, run: Run, split: str, analyses: Mapping[str, Mapping[str, str]]) -> dict[str, float]:
    """Return "<split>/<analysis>.<metric>" to its value, of what is kept of a run."""
    return {
        f"{split}/{analysis}.{name}": value
        for analysis, asked in analyses.items()
        for name, value in named(recall(root, run, analysis, asked) or []).items()
    }


def named(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the numbers of a network's rows by name: the column's, behind what tells its row from the others."""
    found: dict[str, float] = {}
    for row in rows:
        of = "_".join(str(row[key]).replace(" ", "_") for key in TELLING if row.get(key))
        for column, value in row.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and column not in _NO_METRIC:
                found[f"{of}_{column}" if of else column] = float(value)
    return found


def _finished(run: Run) -> str:
    attempts = run.attempts
    return str(attempts[-1].get("finished", "")) if attempts else ""


def _path(root: Path, run: Run, analysis: str, asked: Mapping[str, str]) -> Path:
    digest = hashlib.sha256(json.dumps(dict(asked), sort_keys=True).encode()).hexdigest()[:8]
    # No folder of the identity's name: that would be a run, without a configuration.
    return Path(root) / "analysis" / "networks" / f"{run.identity}-{analysis}-{digest}.json"
