"""Where tables lie: files below `experiments/` of the folder in which a command is given. Reads names only."""

from __future__ import annotations

from pathlib import Path

from tutelage.errors import UserError, choices

TABLES = Path("experiments")


def table_path(what: str) -> Path | None:
    """Return the table file that a word names, or None where it names runs."""
    for path in (Path(what), TABLES / f"{what}.yaml"):
        if path.suffix == ".yaml" and path.is_file():
            return path
    if what.endswith(".yaml"):
        raise UserError(f"there is no table {what}; {choices(what, map(str, tables().values()))}")
    return None


def tables() -> dict[str, Path]:
    """Return the table files below the working folder by the names that commands take."""
    return {
        path.relative_to(TABLES).with_suffix("").as_posix(): path for path in sorted(TABLES.rglob("*.yaml"))
    }
