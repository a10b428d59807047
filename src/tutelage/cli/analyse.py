"""`tutelage analyse`: what finished runs show beyond their metrics, as figures and tables."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.errors import UserError, choices

if TYPE_CHECKING:
    from tutelage.runs.run import Run

HELP = """usage: tutelage analyse errors <runs> <runs> ...        do they err on the same test samples? (kappa with intervals)
       tutelage analyse similarity <run> <run>         layer-by-layer unbiased CKA; <run>:guide is the guide of that run
       tutelage analyse gap <runs> ...                 training against validation and test: the overfitting gap
       tutelage analyse alignment <runs> ...           similarity to the guide over training
       tutelage analyse quality <run> <runs> ...       pseudo data sets against real images, in a classifier's features

<runs>: a folder, a name with the first digits of an identity, a name (all its finished runs), or a table file such as
guidance/digits (the runs behind each of its arms).
  out=runs/analysis/...   where the figure (PNG), the table (CSV) and the record (JSON) go
  split=test              train | validation | test; for errors, similarity and quality
  samples=1000            similarity: how many samples of the split, evenly spaced; quality: how many images of each set
  layers=weights          similarity: weights (those a pairing counts), all, or names separated by commas
  device=cpu  runs_dir=runs  data.root=...
"""
OPTIONS = {
    "out": "",
    "split": "test",
    "samples": "1000",
    "layers": "weights",
    "device": "cpu",
    "runs_dir": "runs",
}
ROLES = ("guide", "teacher", "source")
NAMES = ("errors", "similarity", "gap", "alignment", "quality")


@dataclass(frozen=True)
class Subject:
    """One network to analyse: of a finished run, or of a role in it; arm: what its seeds are summarised under."""

    run: Run
    arm: str
    role: str = ""

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.run.config["seed"])

    @property
    def label(self) -> str:
        """What figures and tables call it; told apart by its identity's first digits, never by a seed alone."""
        return f"{self.arm} {self.run.identity[:6]}" + (f":{self.role}" if self.role else "")


@dataclass(frozen=True)
class Request:
    """A command's words, read."""

    subjects: list[Subject]
    options: dict[str, str]
    data: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Where the results go: the same for the same request."""
        if self.options["out"]:
            return Path(self.options["out"]).expanduser()
        words = [s.label for s in self.subjects] + [self.options[k] for k in ("split", "samples", "layers")]
        digest = hashlib.sha256("\n".join(words).encode()).hexdigest()[:6]
        return (
            Path(self.options["runs_dir"])
            / "analysis"
            / f"{self.subjects[0].arm.replace('/', '-').replace(' ', '-')}-{digest}"
        )


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    words = list(arguments)
    if not words or any(word in ("-h", "--help") for word in words):
        print(HELP)
        return 0 if words else 2
    if words[0] not in NAMES:
        raise UserError(f"there is no analysis '{words[0]}'; {choices(words[0], NAMES)}")
    from tutelage.cli.analyses import ANALYSES

    request = read(words[1:])
    try:
        lines, record, table, figure = ANALYSES[words[0]](request)
    except RuntimeError as error:
        raise UserError(f"cannot analyse on device={request.options['device']!r}: {error}") from error
    print("\n".join(lines))
    write(request, words[0], record, table, figure)
    return 0


def read(words: Sequence[str]) -> Request:
    """Read the words behind the analysis's name. Raises UserError for an unknown option or run."""
    import yaml

    options, data, names = dict(OPTIONS), {}, []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            names.append(word)
        elif key in options:
            options[key] = value
        elif key.startswith("data."):
            data[key.removeprefix("data.")] = yaml.safe_load(value)
        else:
            raise UserError(
                f"analyse takes {', '.join(options)} and data settings, got {word!r}; {choices(key, options)}"
            )
    if not names:
        raise UserError("analyse needs the runs to look at, such as demo/plain (`tutelage list runs`)")
    found = [subject for name in names for subject in subjects(name, options["runs_dir"], data)]
    return Request(list({s.label: s for s in found}.values()), options, data)


def subjects(word: str, runs_dir: str, data: dict[str, Any]) -> Iterator[Subject]:
    """Yield the networks that a word means."""
    from tutelage.cli.report import table_path
    from tutelage.runs.store import Store

    name, _, role = word.partition(":")
    if role and role not in ROLES:
        raise UserError(f"'{word}': a run has no network '{role}'; {choices(role, ROLES)}")
    if (path := table_path(name)) is not None:
        yield from _of_table(
            path, role, [f"runs_dir={runs_dir}", *(f"data.{key}={value}" for key, value in data.items())]
        )
        return
    store = Store(runs_dir)
    of_name = (
        [] if Path(name, "config.yaml").is_file() else [r for r in store.runs() if r.name == name.strip("/")]
    )
    done = [run for run in of_name if run.is_complete] or [store.find(name)]
    for run in done:
        if not run.is_complete:
            raise UserError(
                f"{run.key} is {run.state}: only a complete run can be analysed; give its train command again"
            )
        yield Subject(run, run.name, role)


def _of_table(path: Path, role: str, words: list[str]) -> Iterator[Subject]:
    from tutelage.cli.compose import hydra_ready
    from tutelage.cli.report import finder
    from tutelage.reporting.table_file import load
    from tutelage.reporting.tables import choose
    from tutelage.runs.store import Store

    table, find, empty = load(path), finder(words), True
    store = Store(words[0].partition("=")[2])
    with hydra_ready():
        for arm in table.arms:
            for cell in table.cells(arm, choose(table, arm, find).point):
                run = store.at(find(cell).key)
                if run.is_complete:
                    empty = False
                    yield Subject(run, arm.label, role)
    if empty:
        raise UserError(f"no run of {path} is complete yet: give `tutelage reproduce {path}` first")


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

    from tutelage.runs.records import write_json, write_text
    from tutelage.runs.run import make_folder

    folder = request.folder
    make_folder(folder)
    text = io.StringIO()
    writer = csv.DictWriter(
        text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
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
