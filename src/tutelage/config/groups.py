"""The groups of the configuration and the files that they offer, the user's own first. Reads files only; loads no Hydra."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tutelage.errors import UserError
from tutelage.runs.bounded import YAML_BYTES, load_yaml, read_bytes

PRIMARY = "train"
VARIANTS = "variants"
"""The file of `conf/` whose entries are choices of groups, see there."""

SETS_OTHERS = ("chain", "experiment", "scale", "sweep")
"""Groups whose files set values of other groups."""


def config_folder() -> Path:
    """Return the folder of the shipped configuration: `conf/` of a checkout, or the copy inside an installed wheel."""
    package = Path(__file__).parents[1]
    checkout = package.parent.parent / "conf"
    return checkout if (checkout / f"{PRIMARY}.yaml").is_file() else package / "conf"


def user_folder() -> Path | None:
    """Return `conf/` of the working folder, where users keep their own groups, unless that is the shipped one."""
    own = Path.cwd() / "conf"
    return own if own.is_dir() and not own.samefile(config_folder()) else None


def folders() -> list[Path]:
    """Return the configuration folders, the user's own first."""
    return [folder for folder in (user_folder(), config_folder()) if folder is not None]


def group_options(group: str) -> list[str]:
    """Return the names that a group offers, at any depth (`demo/plain`)."""
    group = group.split("@")[0]
    return sorted(
        {
            str(p.relative_to(f / group).with_suffix(""))
            for f in folders()
            for p in (f / group).rglob("*.yaml")
        }
        | _variants_of(group).keys()
    )


def groups() -> list[str]:
    """Return the groups of the configuration."""
    return sorted(
        {p.name for f in folders() for p in f.iterdir() if p.is_dir() and not p.name.startswith(("_", "."))}
    )


def is_group(key: str) -> bool:
    """Say whether a word's key is a choice of a group, not a setting: model@guide, objective@method.objectives.hint, hydra/launcher."""
    return key.startswith("hydra/") or key.partition("@")[0] in groups()


def options(group: str) -> list[tuple[str, Path]]:
    """Return (name, file) of everything a group offers; the user's own folder hides a shipped file of the same name."""
    found: dict[str, Path] = {}
    for folder in folders():
        for path in sorted((folder / group).rglob("*.yaml")):
            found.setdefault(str(path.relative_to(folder / group).with_suffix("")), path)
    return sorted(found.items())


@functools.cache
def variant_entries() -> dict[str, Mapping[str, Any]]:
    """Return the entries of the file of variants by their paths, such as model/lstm, as they stand there."""
    content = load_yaml(config_folder() / f"{VARIANTS}.yaml")
    return {f"{group}/{name}": entry for group, entries in content.items() for name, entry in entries.items()}


def _variants_of(group: str) -> dict[str, Mapping[str, Any]]:
    return {
        path.partition("/")[2]: one for path, one in variant_entries().items() if path.startswith(f"{group}/")
    }


def settings_of(group: str, name: str) -> dict[str, Any]:
    """Return the settings that a choice has of its own; none of a choice that does not exist."""
    file = dict(options(group)).get(name)
    return dict(load_yaml(file) or {}) if file else dict(_variants_of(group).get(name, {}).get("set", {}))


def abouts(group: str) -> dict[str, str]:
    """Return what each choice of a group says of itself, in a sentence."""
    files = {name: summary(path) for name, path in options(group)}
    varied = {name: _sentence(str(one.get("about"))) for name, one in _variants_of(group).items()}
    return dict(sorted((varied | files).items()))


def check_files(folder: Path) -> None:
    """Raise UserError for a configuration file that Hydra, which reads whatever is there, would hang on or die of."""
    for path in sorted(folder.rglob("*.yaml")):
        status = path.stat() if path.exists() else path.lstat()
        _check_file(path, status.st_mtime_ns, status.st_size)


@functools.cache
def _check_file(path: Path, _changed: int, _size: int) -> None:
    try:
        load_yaml(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def summary(path: Path) -> str:
    """Return the first comment of a configuration file: the sentence that says what it is."""
    words = []
    for line in read_bytes(path, YAML_BYTES).decode("utf-8", errors="replace").splitlines():
        if line.startswith("# @package"):
            continue
        if not line.startswith("#"):
            break
        words.append(line.lstrip("# ").strip())
    return _sentence(" ".join(words))


def _sentence(text: str) -> str:
    return re.split(r"(?<! al)\. (?=[A-Z])", text)[0].rstrip(".")  # "et al. 2015" ends no sentence
