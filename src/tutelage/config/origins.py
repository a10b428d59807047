"""Which file, or word of the command, sets each value of a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from tutelage.config.compose import hydra_ready, readable, search_path, setting_value
from tutelage.config.groups import PRIMARY, SETS_OTHERS, VARIANTS, folders
from tutelage.config.shorthand import written_out
from tutelage.config.variants import variant
from tutelage.runs.bounded import load_yaml
from tutelage.runs.identity import flatten


def origins(overrides: Sequence[str]) -> dict[str, str]:
    """Return {dotted key: the file or the word of the command that set it last}."""
    return origins_and_defaults(overrides)[0]


def origins_and_defaults(overrides: Sequence[str]) -> tuple[dict[str, str], dict[str, Any]]:
    """Return {dotted key: what set it last} and {dotted key: its default}.

    The default is what the chosen models, data, methods, ... and the root say themselves, before an experiment or the command says
    otherwise; a key that these alone know has none.
    """
    found: dict[str, str] = {}
    defaults: dict[str, Any] = {}
    with hydra_ready():
        loader = GlobalHydra.instance().config_loader()
        listed = loader.compute_defaults_list(PRIMARY, [*search_path(), *readable(overrides)], RunMode.RUN)
    for entry in listed.defaults:
        if entry.config_path is None or entry.config_path.startswith("hydra"):
            continue
        path, source = _file(entry.config_path), f"conf/{entry.config_path}.yaml"
        content: dict[str, Any] = (load_yaml(path) or {}) if path else {}
        if path is None and (varied := variant(entry.config_path)):
            content, source = dict(varied.set), f"conf/{VARIANTS}.yaml: {entry.config_path}"
        content.pop("defaults", None)
        content.pop("hydra", None)
        prefix = f"{entry.package}." if entry.package and entry.package != "_global_" else ""
        for key, value in flatten(content):
            found[f"{prefix}{key}"] = source
            if entry.config_path.partition("/")[0] not in SETS_OTHERS:
                defaults[f"{prefix}{key}"] = value
    for word in written_out(overrides):
        key, equals, text = word.lstrip("+~").partition("=")
        if key in found or "." in key:
            found[key] = f"command: {word}"
        if equals and text.startswith("{"):  # a dictionary: each value of it comes from this word
            found |= {f"{key}.{name}": f"command: {word}" for name, _ in flatten(setting_value(word))}
    return found, defaults


def advice(settings: Sequence[str], overrides: Sequence[str]) -> str:
    """Say of settings that something does not take which file brought them along, and how to leave them out; nothing of a command's own.

    An experiment is made for the networks and data it names; beside others, some of what it says has no place.
    """
    if not any(word.startswith(tuple(f"{group}=" for group in SETS_OTHERS)) for word in overrides):
        return ""
    found = origins(overrides)
    others = tuple(f"conf/{group}/" for group in SETS_OTHERS)
    brought = [key for key in settings if found.get(key, "").startswith(others)]
    if not brought:
        return ""
    files, without = dict.fromkeys(found[key] for key in brought), " ".join(f"'~{key}'" for key in brought)
    return f". {' and '.join(brought)} {'comes' if len(brought) == 1 else 'come'} from {' and '.join(files)}: add {without} to go without"


def _file(name: str) -> Path | None:
    candidates = [folder / f"{name}.yaml" for folder in folders()]
    return next((path for path in candidates if path.is_file()), None)
