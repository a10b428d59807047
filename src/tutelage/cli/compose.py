"""From overrides to a resolved configuration (plain dictionary), and from Hydra's errors to one clear message."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import tutelage
from tutelage.engine.settings import check
from tutelage.errors import UserError, choices
from tutelage.runs import needs
from tutelage.runs.needs import Plan

PRIMARY = "train"


def config_folder() -> Path:
    """Return the folder of the shipped configuration: `conf/` of a checkout, or the copy inside an installed wheel."""
    package = Path(tutelage.__file__).parent
    checkout = package.parent.parent / "conf"
    return checkout if (checkout / f"{PRIMARY}.yaml").is_file() else package / "conf"


def user_folder() -> Path | None:
    """Return `conf/` of the working folder, where users keep their own groups, unless that is the shipped one."""
    own = Path.cwd() / "conf"
    return own if own.is_dir() and own.resolve() != config_folder().resolve() else None


def search_path() -> list[str]:
    """Return the override that adds the user's own configuration folder."""
    own = user_folder()
    return [f"hydra.searchpath=[file://{own}]"] if own else []


def prepare() -> None:
    """Register the resolvers, and let configurations name the user's own modules. Harmless when repeated."""
    OmegaConf.register_new_resolver("fingerprint", _fingerprint, replace=True, use_cache=True)
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))


def _fingerprint(path: Any) -> str | None:
    from tutelage.data.fingerprint import fingerprint

    return None if path is None else fingerprint(path)


@contextlib.contextmanager
def hydra_ready() -> Iterator[None]:
    """Have Hydra initialised on our folder; inside a sweep's job it is already."""
    prepare()
    if GlobalHydra.instance().is_initialized():
        yield
        return
    with initialize_config_dir(str(config_folder()), version_base="1.3", job_name="tutelage"):
        yield


def compose(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the resolved and checked configuration of a command's overrides."""
    with hydra_ready():
        try:
            node = hydra_compose(PRIMARY, overrides=[*search_path(), *overrides])
        except (HydraException, OmegaConfBaseException) as error:
            raise explain(error, overrides) from error
        return resolve(node)


def resolve(node: DictConfig) -> dict[str, Any]:
    """Return a composed configuration as a plain, complete and checked dictionary."""
    try:
        config: Any = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise explain(error, ()) from error
    config.pop("hydra", None)
    check(config)
    return dict(config)


def plan_of(overrides: Sequence[str]) -> Plan:
    """Return the plan of a command: its run and the runs it needs."""
    with hydra_ready():
        return needs.plan(compose(overrides), lambda words: compose(words))


def explain(error: Exception, overrides: Sequence[str]) -> UserError:
    """Return one message in the user's words for what Hydra or OmegaConf raised."""
    text = str(error).strip()
    cause = error.__cause__
    if isinstance(cause, UserError):
        return cause
    if isinstance(error, OverrideParseException):
        return UserError(
            f"cannot read '{error.override}' as a setting: expected key=value, lists as [a,b], text with spaces in quotes"
        )
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match.group(1)
        return UserError(
            f"there is no setting '{key}' in this command; {choices(key, _known_keys(overrides, key))}"
        )
    if match := re.search(r"Could not find '([^']+)'", text):
        group, _, name = match.group(1).partition("/") if "/" in match.group(1) else ("", "", match.group(1))
        return UserError(
            f"there is no {group or 'configuration'} '{name}'; {choices(name, group_options(group))}"
        )
    if match := re.search(r"Could not override '?([^' ]+)'?\.?\s*No match in the defaults list", text):
        return UserError(f"there is no group '{match.group(1)}'; {choices(match.group(1), groups())}")
    if "Ambiguous value for argument" in text:
        return UserError(f"{text.splitlines()[0]}\nSeveral values make a sweep: add -m")
    if "Missing mandatory value" in text:
        key = getattr(error, "full_key", None) or text.rpartition(" ")[2]
        return UserError(f"the setting '{key}' has no value: give {key}=<value>")
    return UserError(" ".join(text.split()))


def _known_keys(overrides: Sequence[str], culprit: str) -> list[str]:
    # The nearest known key depends on the groups chosen, so compose again without what failed.
    rest = [word for word in overrides if not word.lstrip("+~").startswith(culprit)]
    try:
        with hydra_ready():
            config = OmegaConf.to_container(hydra_compose(PRIMARY, overrides=[*search_path(), *rest]))
    except (HydraException, OmegaConfBaseException):
        return groups()
    return [*flatten(config), *groups()]


def flatten(node: Any, prefix: str = "") -> list[str]:
    """Return the dotted keys of a nested mapping."""
    if not isinstance(node, dict):
        return [prefix]
    return [
        key
        for name, value in node.items()
        for key in flatten(value, f"{prefix}.{name}" if prefix else str(name))
    ]


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
    )


def groups() -> list[str]:
    """Return the groups of the configuration."""
    return sorted(
        {p.name for f in folders() for p in f.iterdir() if p.is_dir() and not p.name.startswith(("_", "."))}
    )
