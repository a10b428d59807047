"""`tutelage list`: what there is to choose from, and the runs with their states. Reads files only; loads no torch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tutelage.errors import UserError, choices

GROUPS = {
    "experiments": "experiment", "methods": "method", "models": "model", "data": "data", "optimizers": "optimizer",
    "hardware": "hardware", "loggers": "logger", "sweeps": "sweep",
}  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="tutelage list", description="List what can be chosen, or the runs and their states."
    )
    parser.add_argument("what", help=", ".join([*GROUPS, "runs"]))
    parser.add_argument(
        "name", nargs="?", default="", help="runs: only those at or below this name, such as demo"
    )
    parser.add_argument("--runs-dir", default="runs")
    parser.add_argument("--state", help="runs: complete | failed | interrupted | running")
    parser.add_argument("--method", help="runs: by method, such as guidance")
    parser.add_argument("--data", help="runs: by data, such as digits")
    parser.add_argument("--since", help="runs: finished on or after this date, 2026-01-31")
    given = parser.parse_args(list(arguments))
    if given.what == "runs":
        return _runs(given)
    if given.what not in GROUPS:
        raise UserError(f"cannot list '{given.what}'; {choices(given.what, [*GROUPS, 'runs'])}")
    from rich.table import Table

    from tutelage.cli.screen import console

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    for name, path in options(GROUPS[given.what]):
        table.add_row(name, summary(path))
    console().print(table)
    return 0


def options(group: str) -> list[tuple[str, Path]]:
    """Return (name, file) of everything a group offers; the user's own folder hides a shipped file of the same name."""
    from tutelage.cli.compose import folders

    found: dict[str, Path] = {}
    for folder in folders():
        for path in sorted((folder / group).rglob("*.yaml")):
            found.setdefault(str(path.relative_to(folder / group).with_suffix("")), path)
    return sorted(found.items())


def summary(path: Path) -> str:
    """Return the first comment of a configuration file: the sentence that says what it is."""
    words = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# @package"):
            continue
        if not line.startswith("#"):
            break
        words.append(line.lstrip("# ").strip())
    text = " ".join(words)
    return text.split(". ")[0].rstrip(".")


def _runs(given: argparse.Namespace) -> int:
    from tutelage.cli.screen import console
    from tutelage.reporting.listing import render_runs_table
    from tutelage.runs.store import Store

    table = render_runs_table(
        Store(given.runs_dir),
        under=given.name,
        state=given.state,
        method=given.method,
        data=given.data,
        since=given.since,
    )
    console().print(table)
    return 0
