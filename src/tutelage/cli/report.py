"""`tutelage report`: runs in, tables and figures out. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tutelage.errors import UserError
from tutelage.reporting.table_paths import table_path

HELP = """usage: tutelage report <runs> [--html] [runs_dir=runs]
       tutelage report <table> [--replace] [key=value ...]

<runs>: a name below the runs folder, such as demo: every arm with mean, spread, n and interval over its seeds, written to
runs/<name>/ as table.md, table.csv, cells.csv (a row per run) and curves.png.
<table>: a table file such as experiments/guidance/digits.yaml, or guidance/digits: the same with the published numbers beside and a
verdict, written to results/ beside the file. key=value words are added to every command of the table (data.root=...). A table on
the disk that is of more complete runs than are here stays as it is, unless --replace.
"""
FLAGS = {"--html": "runs", "--replace": "a table"}


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    words = [word for word in arguments if word not in FLAGS]
    if not words or any(word in ("-h", "--help") for word in words):
        print(HELP)
        return 0 if words else 2
    what, rest = words[0], words[1:]
    if "=" in what or what.startswith("-"):
        raise UserError(
            f"report needs what to report on first: a name below the runs folder, or a table file; got {what!r}"
        )
    path = table_path(what)
    for flag, of in FLAGS.items():
        if flag in arguments and of != ("runs" if path is None else "a table"):
            raise UserError(
                f"{flag} belongs to a report on {of}; {what} is {'a table' if path else 'a name of runs'}"
            )
    if path is None:
        report_runs(what, rest, html="--html" in arguments)
    else:
        report_table(path, rest, replace="--replace" in arguments)
    return 0


def report_runs(name: str, words: Sequence[str], *, html: bool = False) -> None:
    """Report on the runs at or below a name."""
    from tutelage.reporting.console import console
    from tutelage.reporting.render import terminal
    from tutelage.reporting.runs_report import write_report
    from tutelage.runs.store import Store

    root = "runs"
    for word in words:
        key, equals, value = word.partition("=")
        if key != "runs_dir" or not equals:
            raise UserError(f"a report on runs takes runs_dir=<folder> and --html, got {word!r}")
        root = value
    store = Store(root)
    name = store.name_in(name)
    report = write_report(store, name, html=html)
    console().print(terminal(report))
    written = ["table.md", "table.csv", "cells.csv", "curves.png", *(["report.html"] if html else [])]
    print(
        f"written: {store.root / name}/{', '.join(f for f in written if (store.root / name / f).is_file())}"
    )


def report_table(path: Path, words: Sequence[str], *, replace: bool = False) -> None:
    """Report on a table file, from whatever runs of it exist. replace: also where a table of more runs stands on the disk."""
    from tutelage.config.compose import hydra_ready, plan_of
    from tutelage.reporting.console import console
    from tutelage.reporting.render import terminal
    from tutelage.reporting.table_file import load
    from tutelage.reporting.tables import finder, write_table
    from tutelage.runs.identity import is_excluded
    from tutelage.runs.store import Store

    table = load(path)
    root = next((word.partition("=")[2] for word in words if word.startswith("runs_dir=")), "runs")
    with hydra_ready():
        report, said = write_table(
            table,
            finder(words, plan_of),
            Store(root),
            path.parent / "results",
            path.stem,
            words=[word for word in words if not is_excluded(word.lstrip("+~").partition("=")[0])],
            replace=replace,
        )
    console().print(terminal(report))
    print(said)
