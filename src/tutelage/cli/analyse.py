"""`tutelage analyse`: what finished runs show beyond their metrics, as figures and tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tutelage.analysis.analysis_request import Request, read
from tutelage.errors import UserError, choices
from tutelage.reporting.console import say

HELP = """usage: tutelage analyse errors <runs> <runs> ...        do they err on the same test samples? (kappa with intervals)
       tutelage analyse similarity <run> <run>         layer by layer; <run>:guide is the guide of that run
       tutelage analyse gap <runs> ...                 training against validation and test: the overfitting gap
       tutelage analyse alignment <runs> ...           similarity to the guide over training
       tutelage analyse quality <run> <runs> ...       pseudo data sets against real images, in a classifier's features

<runs>: a folder, a name with the first digits of an identity, a name (all its finished runs), or a table file such as
guidance/digits (the runs behind each of its arms).
  out=runs/analysis/...   where the figure (PNG), the table (CSV) and the record (JSON) go
  split=test              train | validation | test; for errors, similarity and quality
  samples=1000            similarity: how many samples of the split, evenly spaced; quality: how many images of each set
  layers=weights          similarity: weights (those a pairing counts), all, or names separated by commas
  measure=unbiased_cka    similarity: or procrustes, svcca, pwcca, rbf_cka, mutual_neighbours, regression, beside what chance gives
  device=cpu  runs_dir=runs  data.root=...
  code=my_networks        modules that a run's configuration may import, where it names your own code and is not a run of yours
"""
NAMES = ("errors", "similarity", "gap", "alignment", "quality")


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    words = list(arguments)
    if not words or any(word in ("-h", "--help") for word in words):
        print(HELP)
        return 0 if words else 2
    if words[0] not in NAMES:
        raise UserError(f"there is no analysis '{words[0]}'; {choices(words[0], NAMES)}")
    from tutelage.analysis.analyses import ANALYSES

    request = read(words[1:])
    try:
        lines, record, table, figure = ANALYSES[words[0]](request)
    except RuntimeError as error:
        raise UserError(f"cannot analyse on device={request.options['device']!r}: {error}") from error
    say("\n".join(lines))
    write(request, words[0], record, table, figure)
    return 0


def write(
    request: Request,
    name: str,
    record: dict[str, Any],
    rows: list[dict[str, Any]],
    draw: Callable[[Path], None],
) -> None:
    """Write `<name>.png`, `<name>.csv` and `<name>.json` into the request's folder and say where."""
    import csv
    import io

    from tutelage.runs.folders import make_folder
    from tutelage.runs.records import spreadsheet_safe, write_json, write_text

    folder = request.folder
    make_folder(folder)
    text = io.StringIO()
    writer = csv.DictWriter(
        text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows({key: spreadsheet_safe(value) for key, value in row.items()} for row in rows)
    write_text(folder / f"{name}.csv", text.getvalue())
    subjects = [
        {"label": s.label, "run": s.run.key, "role": s.role, "seed": s.seed} for s in request.subjects
    ]
    write_json(
        folder / f"{name}.json",
        {"analysis": name, "subjects": subjects, "options": request.options, **record},
    )
    draw(folder / f"{name}.png")
    print(f"written: {folder}/{name}.png, {name}.csv, {name}.json")
