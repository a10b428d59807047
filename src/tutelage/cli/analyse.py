"""`tutelage analyse`: what finished runs show beyond their metrics, as figures and tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tutelage.analysis.analyses import ANALYSES, outcome
from tutelage.analysis.analysis_request import Request, read
from tutelage.cli.in_ranks import run_in_ranks
from tutelage.cli.reader import Given
from tutelage.errors import UserError
from tutelage.reporting.console import say
from tutelage.reporting.measured import remember


def run(given: Given) -> int:
    """Run the command; return its exit code."""
    shares = ANALYSES[given.verb].shares
    name = "analyse" if shares else f"analyse {given.verb}"
    try:
        return run_in_ranks(name, given, _analyse, check=_request, shares=shares)
    except RuntimeError as error:
        raise UserError(f"cannot analyse on device={given.options['device']!r}: {error}") from error


def _request(given: Given) -> Request:
    return read(given.names, given.options, given.settings, given.spoken)


def _analyse(given: Given) -> int:
    from tutelage.engine.shared_work import is_first

    request = _request(given)
    lines, record, table, figure = outcome(given.verb, request)
    if is_first():
        say("\n".join(lines))
        _keep(request, given.verb, table)
        write(request, given.verb, record, table, figure)
    return 0


def _keep(request: Request, name: str, rows: list[dict[str, Any]]) -> None:
    """Keep what was found of each run's own network, for tables."""
    for subject in request.subjects:
        own = [row for row in rows if row.get("network") == subject.label] if not subject.role else []
        if own:
            remember(Path(request.options["runs_dir"]), subject.run, name, request.asked, own)


def write(
    request: Request,
    name: str,
    record: dict[str, Any],
    rows: list[dict[str, Any]],
    draw: Callable[[Path], Any],
) -> None:
    """Write `<name>.png`, `<name>.csv` and `<name>.json` (and what `draw` writes beside) into the request's folder and say where."""
    from tutelage.reporting.render import csv_text
    from tutelage.runs.folders import make_folder
    from tutelage.runs.records import write_json, write_text

    folder = request.folder
    make_folder(folder)
    header = list(dict.fromkeys(key for row in rows for key in row))
    write_text(
        folder / f"{name}.csv", csv_text(header, ([row.get(key, "") for key in header] for row in rows))
    )
    subjects = [
        {"label": s.label, "run": s.run.key, "role": s.role, "seed": s.seed} for s in request.subjects
    ]
    write_json(
        folder / f"{name}.json",
        {"analysis": name, "subjects": subjects, "options": request.options, **record},
    )
    draw(folder / f"{name}.png")
    made = [f"{name}.{ending}" for ending in ("png", "webp", "csv", "json")]
    say(f"written: {folder}/{', '.join(file for file in made if (folder / file).is_file())}")
