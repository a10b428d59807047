"""Where tables lie: files below `experiments/` of the folder in which a command is given, and those that come with the package."""

from __future__ import annotations

from pathlib import Path

from tutelage.errors import UserError, choices

TABLES = Path("experiments")
PROGRAMMES = "programmes"
"""The folder below it that holds no tables, but what `programme_file` reads."""


def table_path(what: str) -> Path | None:
    """Return the table file that a word names (`guidance/digits`, or a file), or None where it names runs."""
    path = Path(what)
    if path.suffix == ".yaml" and path.is_file():
        return path
    if what.endswith(".yaml"):
        raise UserError(f"there is no table {what}; {choices(what, map(str, tables().values()))}")
    return tables().get(what.strip("/"))


def table_path_unless_runs(what: str, runs_dir: str) -> Path | None:
    """Return the table file that a word names, unless it is one word and runs of that name lie in the runs folder.

    So `demo` is what the sweep of that name has just made; its table is named by its file.
    """
    runs = Path(runs_dir).expanduser() / what
    return None if "/" not in what and not what.endswith(".yaml") and runs.is_dir() else table_path(what)


def tables() -> dict[str, Path]:
    """Return the table files by the names that commands take; one of the working folder hides a shipped one of the same name."""
    found: dict[str, Path] = {}
    for folder in (TABLES, shipped()):
        for path in sorted(folder.rglob("*.yaml")):
            if path.parent.name != PROGRAMMES:
                found.setdefault(name_of(path), path)
    return dict(sorted(found.items()))


def shipped() -> Path:
    """Return the folder of the tables that come with the package: of a checkout, or the copy inside an installed wheel."""
    package = Path(__file__).parents[1]
    checkout = package.parent.parent
    return (checkout if (checkout / "conf" / "train.yaml").is_file() else package) / TABLES


def name_of(path: Path) -> str:
    """Return what commands call a table file: its place below `experiments`, and of a file called as its folder, the folder."""
    parts = path.with_suffix("").parts
    above = [place for place, part in enumerate(parts[:-1]) if part == TABLES.name]
    below = parts[above[-1] + 1 :] if above else parts[-1:]
    if len(below) > 1 and below[-1] == below[-2]:
        below = below[:-1]
    return "/".join(below)
