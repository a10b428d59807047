"""Making and writing a report: from the runs below a name, with what a reader must know of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from tutelage.errors import UserError, choices, counted, nearest
from tutelage.reporting import curves, folds, page, quantities, render
from tutelage.reporting.collect import Group, collect, group, prerequisites
from tutelage.reporting.differences import notes_on_differences, same_test_data
from tutelage.reporting.index import Index
from tutelage.reporting.report_model import Line, Report
from tutelage.reporting.row import Row
from tutelage.reporting.table_paths import tables
from tutelage.reporting.verdict import Comparison, compare, correct
from tutelage.runs.identity import identity_of
from tutelage.runs.run import State
from tutelage.runs.store import Store

BASELINES = ("plain", "base", "baseline", "supervised")
"""Arms that a report without a table file compares the others with, each with that of its other words; without one, the first arm."""


def free_report(store: Store, under: str = "", index: Index | None = None) -> Report:
    """Report all runs at or below a name, without a table file. index: see `collect`.

    Arms are the groups of runs that differ in their seed only; the metric is the one each arm was selected
    by, on the test split. Runs that others needed are named apart. Every arm is compared with the baseline.

    Raises:
        UserError: there are no runs at or below the name.
    """
    rows = collect(store, under, index)
    if not rows:
        below = f" below '{under}'" if under else ""
        levels, name = store.levels(), store.name_in(under)
        table = None if nearest(name, levels) else nearest(name, tables())
        meant = f" (or did you mean the table '{table}'?)" if table else ""
        raise UserError(f"no runs{below} in {store.root}{meant}; {choices(name, levels)}")
    needed = prerequisites(rows)
    rows = folds.together(rows)
    groups = group(rows)
    arms = [g for g in groups if any(identity_of(row.key) not in needed for row in g.rows)] or groups
    shown = {row.key for arm in arms for row in arm.rows}
    seeds = sorted({row.seed for arm in arms for row in arm.rows})
    usual = _usual_monitor(arms)
    lines = tuple(_line(arm, seeds, usual) for arm in arms)
    others = tuple(row for row in rows if identity_of(row.key) in needed and row.key not in shown)
    unreadable = [f"{row.key}: {row.reason}" for row in rows if not row.inputs]
    return Report(
        title=under.strip("/") or "all runs",
        lines=lines,
        comparisons=tuple(_against_baseline(lines)),
        notes=(*notes_on(lines, beside={"that others need": others}), *unreadable),
        needed=others,
    )


def sweep_report(title: str, arms: Mapping[str, Sequence[Row]], seeds: Sequence[int]) -> Report:
    """Report the runs of a sweep by the labels of its arms, each on the metric it was selected by, on the test split."""
    arms = folds.of_sweep(arms)
    groups = [Group(label, tuple(sorted(rows, key=lambda row: row.seed))) for label, rows in arms.items()]
    usual = _usual_monitor(groups)
    lines = tuple(_line(arm, seeds, usual) for arm in groups)
    return Report(
        title=title, lines=lines, comparisons=tuple(_against_baseline(lines)), notes=tuple(notes_on(lines))
    )


FILES = {
    "page": "table.md",
    "table": "table.csv",
    "cells": "cells.csv",
    "figure": "curves.png",
    "html": "report.html",
}


def write_report(
    store: Store, under: str = "", *, finish: Callable[[Report], Report] = lambda report: report
) -> Report:
    """Write what `FILES` names beside the runs, or into the one that is meant; return the report. finish: adds to it first."""
    report = finish(free_report(store, under))
    write(report, store, store.folder_of(under), FILES)
    return report


def write(report: Report, store: Store, folder: Path, names: Mapping[str, str]) -> None:
    """Write a report's files: page (Markdown), table and cells (CSV), figure (PNG), html; each as it is named.

    The same runs give the same files, byte for byte; a file whose content has not changed is left as it is.

    Raises:
        UserError: the folder cannot be written.
    """
    drawn = "figure" in names and curves.draw(report, store, folder / names["figure"])
    texts = {
        "page": lambda: render.markdown(report, figures=[names["figure"]] if drawn else []),
        "table": lambda: render.table_csv(report),
        "cells": lambda: render.cells_csv(report),
        "html": lambda: page.html(report, store, folder),
    }
    write_files(folder, {names[kind]: text() for kind, text in texts.items() if kind in names})


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write the texts that differ from what is there.

    Raises:
        UserError: the folder cannot be written.
    """
    from tutelage.runs.records import write_text

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            path = folder / name
            if not path.is_file() or path.read_bytes() != text.encode():
                write_text(path, text)
    except OSError as error:
        raise UserError(f"cannot write the report into {folder}: {error.strerror}") from error


def notes_on(
    lines: Sequence[Line], swept: Collection[str] = (), beside: Mapping[str, Sequence[Row]] | None = None
) -> list[str]:
    """Say what a reader must know: gaps, values that are not finite, differences, mixed code, cost and machine.

    swept: keys that are known to differ. beside: runs that the lines do not show and that cost, by what they were made for.
    """
    notes = []
    for line in lines:
        by_reason: dict[str, list[str]] = {}
        for seed, reason in line.gaps.items():
            by_reason.setdefault(reason, []).append(str(seed))
        notes += [f"{line.label}, seed {', '.join(seeds)}: {reason}" for reason, seeds in by_reason.items()]
        odd = [str(seed) for seed, value in sorted(line.values.items()) if value - value != 0]
        if odd:
            notes.append(f"{line.label}: not a finite number at seed {', '.join(odd)}, hence no finite mean")
    done = {row.key: (line.label, row) for line in lines for row in line.rows if row.state is State.COMPLETE}
    notes += [said for line in lines if (said := folds.note(line.label, line.rows, line.metric))]
    notes += notes_on_differences(lines, swept)
    return [
        *notes,
        *_mixed_code(list(done.values())),
        *_cost([row for _, row in done.values()], beside or {}),
    ]


def _mixed_code(cells: list[tuple[str, Row]]) -> list[str]:
    by_code: dict[str, list[str]] = {}
    for label, row in cells:
        by_code.setdefault(" then ".join(row.commits) or "unknown", []).append(f"{label} seed {row.seed}")
    if len(by_code) < 2:
        return []
    ordered = sorted(by_code.items(), key=lambda item: (-len(item[1]), item[0]))
    said = [
        f"{code} ({counted(len(who), 'run')}: {', '.join(who[:6])}{', ...' if len(who) > 6 else ''})"
        for code, who in ordered
    ]
    return [f"The runs come from different code: {'; '.join(said)}"]


def _cost(shown: list[Row], beside: Mapping[str, Sequence[Row]]) -> list[str]:
    paid = {row.key: row for row in shown}
    made_for = []
    for purpose, rows in beside.items():
        more = {row.key: row for row in rows if row.state is State.COMPLETE and row.key not in paid}
        paid |= more
        made_for += [f"{len(more)} {purpose}"] if more else []
    total_s = sum(row.train_s or 0.0 for row in paid.values())
    machines = sorted({row.machine for row in paid.values() if row.machine})
    if not total_s or not machines:
        return []
    days = sorted({row.finished[:10] for row in paid.values() if row.finished})
    when = " to ".join(dict.fromkeys((*days[:1], *days[-1:])))
    runs = counted(len(paid), "run") + (f" (of these {' and '.join(made_for)})" if made_for else "")
    known = {need for row in paid.values() for need in row.needs} <= paid.keys()
    spent = f"{total_s / 60:.1f} minutes" if total_s >= 60 else f"{total_s:.0f} seconds"
    spent += " of training" + ("" if known else ", without that of the runs they need")
    return [f"{runs}, {spent}, on: {'; '.join(machines)}{f'; {when} (UTC)' if when else ''}"]


def _usual_monitor(arms: Sequence[Group]) -> str:
    # For arms without a finished run, which cannot say what they are selected by.
    return quantities.most_frequent(row.monitor for arm in arms for row in arm.rows if row.monitor) or "?"


def _line(arm: Group, seeds: Sequence[int], usual: str) -> Line:
    metric = f"test/{next((row.monitor for row in arm.rows if row.monitor), usual)}"
    return Line(arm.label, metric, arm.values(metric), arm.gaps(metric, seeds), arm.rows)


def _baselines(lines: Sequence[Line]) -> dict[str, Line]:
    """Return what each arm is compared with: the baseline with most of its words (depth=30, say), or else the first.

    A baseline with which another arm is compared is itself compared with none.
    """
    words = {line.label: {word for word in re.split(r", | \(|\)$", line.label) if word} for line in lines}
    named = {
        line.label: (line, words[line.label] - {word})
        for line in lines
        for word in words[line.label]
        if re.split("[=/]", word)[-1] in BASELINES
    }
    first = next((line for line in lines if line.label in named), lines[0])
    found = {}
    for line in lines:
        beside = [(base, rest) for base, rest in named.values() if rest <= words[line.label]]
        best = max(beside, key=lambda pair: len(pair[1]), default=(first, set()))[0]
        found[line.label] = first if line.label in named else best
    serving = {base.label for label, base in found.items() if label not in named}
    return {label: base for label, base in found.items() if label not in serving and label != base.label}


def _against_baseline(lines: Sequence[Line]) -> list[Comparison]:
    bases = _baselines(lines) if lines else {}
    pairs = [(line, bases[line.label]) for line in lines if line.label in bases]
    return correct(
        [
            compare(
                (line.label, line.values, None),
                (base.label, base.values, None),
                same_setting=False,
                same_test_data=same_test_data(line, base),
                bounds=line.bounds,
            )
            for line, base in pairs
            if line.metric == base.metric and len(line.values.keys() & base.values.keys()) > 1
        ]
    )
