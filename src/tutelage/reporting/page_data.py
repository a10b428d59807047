"""What a page shows, as JSON values: arms with their curves, every run with its settings and, within bounds, its details."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tutelage.errors import counted, visible
from tutelage.reporting import quantities
from tutelage.reporting.arm_labels import is_digest, is_seed, shown
from tutelage.reporting.differences import SUBJECTS
from tutelage.reporting.report_model import Line, Report
from tutelage.reporting.row import Row
from tutelage.reporting.run_details import (
    MOST_RUNS,
    OF_MORE,
    Record,
    Share,
    details,
    progress,
    record_of,
    thin,
)
from tutelage.reporting.settings_by_section import Inputs, section_of
from tutelage.reporting.statistics import bounds_of, summarize, t_quantile
from tutelage.runs.identity import identity_of
from tutelage.runs.run import State
from tutelage.runs.store import Store

MOST_CURVES = 10
"""Quantities whose learning curves the page offers."""
MOST_LINES = 100
"""Arms whose learning curves it draws: the records of others are not read."""
MOST_AXES = 7
MOST_SETTINGS = 400
"""Settings that differ between runs, and are shown with each; fewer where runs and settings would make more than `MOST_VALUES`."""
MOST_VALUES = 400_000
MOST_SHARED = 600

_ESCAPED = re.compile(r"\\[ubfr]")
"""How JSON writes control characters; or behind a backslash of the text, which costs a walk."""

Records = Callable[[Row], Record]


@dataclass(frozen=True)
class Cell:
    """A run on the page: the place of its arm (None: made because others need it), its row, and its value in the report's unit."""

    arm: int | None
    row: Row
    value: float | None

    @property
    def id(self) -> str:
        """What links call it."""
        return identity_of(self.row.key)


def cells(report: Report) -> Iterator[Cell]:
    """Yield every run that has a folder, once, in the order of the arms."""
    met: set[str] = set()
    for place, line in enumerate(report.lines):
        for row in line.rows:
            if row.state is not State.MISSING and row.key not in met:
                met.add(row.key)
                yield Cell(place, row, line.values.get(row.seed))
    for row in report.needed:
        if row.key not in met:
            met.add(row.key)
            yield Cell(None, row, row.metrics.get(f"test/{row.monitor}"))


def overview(
    report: Report, store: Store, records: Records | None = None, *, detailed: bool = True
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return what the page's scripts draw, and the details of each run by its identity.

    records: from a row to what its run recorded; default: read anew. detailed: False leaves the details out, to be asked for one by one.
    """
    shown_cells = list(cells(report))
    share = Share.of(len(shown_cells))
    of = records or (lambda row: record_of(store.at(row.key)))
    arms: list[dict[str, dict[int, list[float]]]] = [{} for _ in report.lines]
    found, left_out = {}, []
    settings = _Settings([cell.row for cell in shown_cells])
    most = MOST_RUNS if len(shown_cells) <= MOST_RUNS else OF_MORE
    drawn = _drawn(shown_cells, most)
    for place, cell in enumerate(shown_cells):
        if cell.arm in drawn or (detailed and place < most):
            record = of(cell.row)
            if cell.arm is not None and cell.arm in drawn:
                _add(arms[cell.arm], record)
            if detailed and place < most:
                found[cell.id] = details(store.at(cell.row.key), record, share)
    if (whole := len({cell.arm for cell in shown_cells} - {None})) > len(drawn):
        left_out.append(f"the curves of {whole - len(drawn)} of {whole} arms")
    if detailed and len(found) < len(shown_cells):
        left_out.append(
            f"the details of {counted(len(shown_cells) - len(found), 'run')} (their folders hold them, and reports on them)"
        )
    keys = _offered(arms, report)
    scales = {key: _scale_of(key, report) for key in keys}
    counts = sorted({len(values) for arm in arms for key in keys for values in arm.get(key, {}).values()})
    data = {
        "unit": report.unit,
        "better": quantities.better(report.lines),
        "metric": _metric(report),
        "scale": report.scale,
        "arms": [_arm(line, report.scale) for line in report.lines],
        "curves": {
            key: [_curve(arm.get(key, {}), scale, min(len(arms), MOST_LINES)) for arm in arms]
            for key, scale in scales.items()
        },
        "bounds": {key: _bounds(key, scale) for key, scale in scales.items()},
        "t": {n: round(t_quantile(n - 1, 0.975), 4) for n in counts if n > 1},
        "runs": [_run(cell, report, own) for cell, own in zip(shown_cells, settings.numbers, strict=True)],
        "settings": {"keys": settings.keys, "values": settings.values, "shared": settings.shared},
        "axes": settings.axes(),
        "left_out": settings.left_out + left_out,
    }  # fmt: skip
    return clean(data), clean(found)


def _drawn(shown: Sequence[Cell], most: int) -> set[int]:
    """Return the places of the arms whose curves are drawn: the first, of each all runs."""
    sizes = Counter(cell.arm for cell in shown if cell.arm is not None)
    found, runs = set[int](), 0
    for arm, size in list(sizes.items())[:MOST_LINES]:
        runs += size
        if runs > most and found:
            break
        found.add(arm)
    return found


def clean(value: Any) -> Any:
    """Return JSON values in which control characters of texts are spelled out and no number is infinite."""
    with contextlib.suppress(ValueError):  # a number that JSON has not
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        # Of nearly all pages nothing is to be changed, and a look at the text takes a fifth of the walk.
        if visible(text) == text and not _ESCAPED.search(text):
            return value
    return _cleaned(value)


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {visible(str(key)): _cleaned(item) for key, item in value.items()}
    return [_cleaned(item) for item in value] if isinstance(value, list | tuple) else value


def _metric(report: Report) -> str:
    return quantities.most_frequent(line.metric for line in report.lines)


def _arm(line: Line, scale: float) -> dict[str, Any]:
    summary = line.summary
    low, high = quantities.interval(line, scale)
    times = [row.train_s for row in line.rows if row.state is State.COMPLETE and row.train_s]
    return {
        "label": line.label,
        "metric": line.metric,
        "n": summary.n,
        **{
            key: end if math.isfinite(end) else None
            for key, end in (("mean", summary.mean), ("low", low), ("high", high))
        },
        "train_s": math.fsum(times) / len(times) if times else None,
    }


def _run(cell: Cell, report: Report, own: list[int]) -> dict[str, Any]:
    row = cell.row
    validation = row.metrics.get(f"validation/{row.monitor}")
    return {
        "id": cell.id,
        "key": row.key,
        "arm": cell.arm,
        "seed": row.seed,
        "state": str(row.state),
        "why": row.reason,
        "done": progress(row),
        "test": cell.value,
        "validation": None if validation is None else report.scale * validation,
        "train_s": row.train_s,
        "started": row.started[:16].replace("T", " "),
        "machine": row.machine,
        "commits": " then ".join(row.commits),
        "needs": [identity_of(key) for key in row.needs],
        "own": own,
    }


# --- curves


def _add(arm: dict[str, dict[int, list[float]]], record: Record) -> None:
    for key, (steps, values) in record.series.items():
        at = arm.setdefault(key, {})
        for step, value in zip(steps, values, strict=True):
            at.setdefault(step, []).append(value)


def _offered(arms: Sequence[Mapping[str, Any]], report: Report) -> list[str]:
    name = quantities.base(_metric(report))
    wanted = [f"validation/{name}", "train/similarity", "validation/loss", f"train/{name}", "train/loss"]
    there = {key for arm in arms for key in arm}
    common = sorted(there, key=lambda key: (-sum(key in arm for arm in arms), key))
    return [key for key in dict.fromkeys((*wanted, *common)) if key in there][:MOST_CURVES]


def _scale_of(key: str, report: Report) -> float:
    return report.scale if quantities.base(key) == quantities.base(_metric(report)) else 1.0


def _curve(at: Mapping[int, Sequence[float]], scale: float, arms: int) -> dict[str, list[Any]]:
    points = max(24, min(240, 60_000 // max(1, arms * MOST_CURVES)))
    steps = thin(sorted(at), points)
    summaries = [summarize([scale * value for value in at[step]]) for step in steps]
    return {
        "steps": steps,
        "mean": [float(f"{one.mean:.5g}") for one in summaries],
        "std": [0.0 if math.isnan(one.std) else float(f"{one.std:.4g}") for one in summaries],
        "n": [one.n for one in summaries],
    }


def _bounds(key: str, scale: float) -> list[float | None]:
    return [end if math.isfinite(end) else None for end in bounds_of(key, scale)]


# --- settings


class _Settings:
    """The settings in which runs differ, by number: `keys`, and for each the different `values`; `shared` are equal in all.

    `numbers` has of each row the number of its value of each key; -1: it has none.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        texts: dict[str, dict[str | None, int]] = {}
        counts: Counter[str] = Counter()
        inputs = [Inputs.of(row.inputs) for row in rows]
        readable = [one for one in inputs if one]
        sections = {id(one): one for own in readable for one in own.sections.values()}
        times = Counter(id(one) for own in readable for one in own.sections.values())
        for number, section in sections.items():  # which runs share
            for key, text in section.items():
                counts[key] += times[number]
                texts.setdefault(key, {}).setdefault(text, len(texts[key]))
        differing = {
            key for key, n in counts.items() if len(texts[key]) > 1 or n < len(readable) or is_seed(key)
        }
        alike = sorted(texts.keys() - differing)
        self.keys = sorted(differing)[: min(MOST_SETTINGS, max(1, MOST_VALUES // max(1, len(rows))))]
        self.shared = {key: shown_value(key, next(iter(texts[key]))) for key in alike[:MOST_SHARED]}
        self.values = [[shown_value(key, text) for text in texts[key]] for key in self.keys]
        self._texts = texts
        found = [(section_of(key), key, texts[key]) for key in self.keys]
        self.numbers = [
            [texts.get(own.sections.get(section, {}).get(key), -1) for section, key, texts in found]
            for own in inputs
        ]
        self._readable = [own for own, one in zip(self.numbers, inputs, strict=True) if one]
        cut = len(differing) + len(alike) - len(self.keys) - len(self.shared)
        self.left_out = [f"{cut} further settings of the runs"] if cut else []

    def axes(self) -> list[dict[str, Any]]:
        """Return the settings to draw runs by: of those that go hand in hand one, the fewest-valued first."""
        groups: dict[tuple[int, ...], str] = {}
        for place, key in enumerate(self.keys):
            column = [own[place] for own in self._readable]
            first: dict[int, int] = {}
            kind = tuple(first.setdefault(number, at) for at, number in enumerate(column))
            if -1 not in column and not is_seed(key):  # else it has several values
                groups[kind] = min((groups.get(kind, key), key), key=self._rank)
        chosen = sorted(groups.values(), key=self._rank)[:MOST_AXES]
        if not any(map(self._swept, chosen)):
            return []  # arms of different methods are no sweep of settings
        return [self._axis(key) for key in sorted(chosen)]

    def _rank(self, key: str) -> tuple[Any, ...]:
        digest = any(is_digest(text) for text in self._texts[key])
        return (
            digest,
            not self._swept(key),
            key.startswith("needs."),
            key.endswith("_target_"),
            key.count("."),
            len(key),
            key,
        )

    def _swept(self, key: str) -> bool:
        """Say whether a key is a setting with values to choose from, rather than what the arms are there to differ in."""
        one_method = len(self._texts.get("method._target_", {})) < 2
        return key.partition(".")[0] not in SUBJECTS or (one_method and not key.endswith("_target_"))

    def _axis(self, key: str) -> dict[str, Any]:
        place = self.keys.index(key)
        numbers = [_number(text) for text in self._texts[key]]
        numeric = all(number is not None for number in numbers)
        return {"key": key, "place": place, "numbers": numbers if numeric else None}


def shown_value(key: str, text: str | None) -> str:
    """Return a setting's JSON text as a page shows it, cut where it is long."""
    found = shown(key, text)
    return found if len(found) <= 200 else found[:199] + "…"


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def states(report: Report) -> Iterator[tuple[str, int]]:
    """Yield how many runs there are in each state, those asked for and not begun among them."""
    counts: dict[str, int] = {}
    for line in report.lines:
        for row in line.rows:
            counts[str(row.state)] = counts.get(str(row.state), 0) + 1
    for state in State:
        if str(state) in counts:
            yield str(state), counts[str(state)]
