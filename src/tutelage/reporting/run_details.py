"""What a page shows of one run beyond its row: curves, layer pairs, the end of its log, where its numbers come from. Bounded in bytes."""

from __future__ import annotations

import contextlib
import functools
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tutelage.errors import UserError
from tutelage.reporting.facts import cores
from tutelage.reporting.row import Row
from tutelage.runs.bounded import read_end
from tutelage.runs.layer_pairs import LayerPairs, layer_pairs
from tutelage.runs.records import read_json
from tutelage.runs.run import Run, State

PAGE_BYTES = 12 * 2**20
"""What the details of all runs of a page may take."""
MOST_RUNS = 1_000
"""Of so many runs a page has all details: curves, log, where the numbers come from."""
OF_MORE = 200
"""Of so many it has them where there are more: it is an overview then, and each other run's folder, or a report on it, has its own."""
MOST_SERIES = 16
_NUMBER_BYTES = 7
_SPLITS = ("validation/", "train/")


@dataclass(frozen=True)
class Share:
    """What the details of one run may take.

    numbers: of curves and of layer pairs, each. points: of one curve. log_bytes: of the end of its log.
    """

    numbers: int
    points: int
    log_bytes: int

    @classmethod
    def of(cls, runs: int) -> Share:
        """Return the share of each of so many runs."""
        own = min(200 * 2**10, PAGE_BYTES // max(1, min(runs, MOST_RUNS)))
        numbers = own // 3 // _NUMBER_BYTES
        return cls(numbers, max(16, min(400, numbers // 8)), min(16 * 2**10, own // 5))


@dataclass(frozen=True)
class Record:
    """What a run has recorded: its rows, and its layer pairs by alignment."""

    rows: Sequence[Mapping[str, Any]]
    pairs: Mapping[str, LayerPairs]

    @functools.cached_property
    def series(self) -> dict[str, tuple[list[int], list[float]]]:
        """(steps, values) of every quantity that was measured on training or validation data; mean similarities beside."""
        found: dict[str, tuple[list[int], list[float]]] = {}
        for row in self.rows:
            step = row["step"]
            for key, value in row.items():
                if not key.startswith(_SPLITS) or key.startswith("train/similarity"):
                    continue
                if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                    steps, values = found.setdefault(key, ([], []))
                    if not steps or steps[-1] != step:
                        steps.append(int(step))
                        values.append(float(value))
        for name, one in self.pairs.items():
            key = "train/similarity" if len(self.pairs) == 1 else f"train/similarity ({name})"
            found[key] = (list(one.steps), list(one.mean))
        return found


def record_of(run: Run) -> Record:
    """Read what a run has recorded so far. What is damaged or missing is empty: a page shows what there is."""
    rows: Sequence[Mapping[str, Any]] = ()
    with contextlib.suppress(UserError, OSError):
        rows = run.metrics.rows
    pairs: Mapping[str, LayerPairs] = {}
    try:
        pairs = layer_pairs(rows, read_json(run.path / "setup.json")["method"])
    except (UserError, OSError, KeyError, TypeError, AttributeError, IndexError):
        pairs = {}
    return Record(rows, pairs)


def details(run: Run, record: Record, share: Share) -> dict[str, Any]:
    """Return what the page of a run shows, as JSON values; what was left out is said under `left_out`."""
    left_out: list[str] = []
    series = dict(sorted(record.series.items(), key=_first_those_of_interest))
    if len(series) > MOST_SERIES:
        left_out.append(f"{len(series) - MOST_SERIES} of {len(series)} curves")
        series = dict(list(series.items())[:MOST_SERIES])
    points = max(8, min(share.points, share.numbers // max(1, len(series)) // 2))
    longest = max((len(steps) for steps, _ in series.values()), default=0)
    if longest > points:
        left_out.append(f"curves are thinned to {points} of {longest} points")
    pairs, thinned = _pairs(record.pairs, share)
    log, cut = _log(run, share.log_bytes)
    return {
        "series": {
            key: [thin(steps, points), rounded(thin(values, points))]
            for key, (steps, values) in series.items()
        },
        "pairs": pairs,
        "log": log,
        "attempts": _attempts(run),
        "left_out": [*left_out, *thinned, *cut],
    }


def thin(values: Sequence[Any], most: int) -> list[Any]:
    """Return at most so many of the values, evenly spaced, the first and the last among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


def rounded(values: Sequence[float]) -> list[float | None]:
    """Return numbers with five digits, and None for what is no finite number."""
    return [float(f"{value:.5g}") if math.isfinite(value) else None for value in values]


def _first_those_of_interest(item: tuple[str, Any]) -> tuple[int, str]:
    key = item[0]
    last = key.rpartition("/")[2]
    return (0 if key.startswith("validation/") else 1) + (2 if last == "loss" else 0), key


def _pairs(pairs: Mapping[str, LayerPairs], share: Share) -> tuple[dict[str, Any], list[str]]:
    found, said = {}, []
    for name, one in pairs.items():
        columns = min(share.points, share.numbers // max(1, len(one.pairs)) // len(pairs))
        if columns < 4:
            said.append(f"the {len(one.pairs)} layer pairs of {name}")
            continue
        if columns < len(one.steps):
            said.append(f"layer pairs are thinned to {columns} of {len(one.steps)} steps")
        found[name] = {
            "names": one.names,
            "steps": thin(one.steps, columns),
            "values": [
                [None if math.isnan(x) else round(x, 3) for x in thin(row, columns)] for row in one.values
            ],
        }
    return found, said


def _log(run: Run, most: int) -> tuple[str, list[str]]:
    try:
        data, size = read_end(run.log, most)
    except (UserError, OSError):
        return "", []
    text = data.decode("utf-8", errors="replace")
    if size <= most:
        return text, []
    return text.partition("\n")[2], [f"the log's first {size - most:,} bytes"]


def _attempts(run: Run) -> list[dict[str, str]]:
    found = []
    for attempt in run.attempts[-5:]:
        code, machine = _mapping(attempt.get("code")), _mapping(attempt.get("machine"))
        gpus = machine.get("gpus") if isinstance(machine.get("gpus"), list) else []
        command = attempt.get("command")
        packages = _mapping(attempt.get("packages"))
        shown = {
            "started (UTC)": attempt.get("started", ""),
            "finished (UTC)": attempt.get("finished", ""),
            "command": shlex.join(map(str, command)) if isinstance(command, list) else "",
            "commit": f"{code.get('commit') or 'none'}{' with changes' if code.get('changed') else ''}",
            "code": code.get("digest", ""),
            "machine": ", ".join(map(str, [machine.get("cpu", ""), cores(machine), *(gpus or [])[:1]])),
            "packages": ", ".join(
                f"{name} {packages[name]}"
                for name in ("torch", "pytorch-lightning", "numpy")
                if name in packages
            ),
        }
        found.append({key: str(value)[:2000] for key, value in shown.items() if value})
    return found


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def progress(row: Row) -> float | None:
    """Return the share of its updates that a run has made, or None where nothing says it."""
    if row.state is State.COMPLETE:
        return 1.0
    try:
        most = float(row.inputs.get("fit.max_steps", ""))
    except ValueError:
        return None
    return round(min(1.0, (row.step or 0) / most), 3) if most > 0 else None
