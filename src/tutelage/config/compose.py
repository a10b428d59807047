"""From overrides to a resolved configuration (plain dictionary), and from Hydra's errors to one clear message."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tutelage.config.group_lists import files_with_lists, without_lists
from tutelage.config.groups import (
    PRIMARY,
    check_files,
    config_folder,
    groups,
    user_folder,
)
from tutelage.config.hydra_messages import in_words
from tutelage.config.resolvers import prepare
from tutelage.config.settings import check, check_command
from tutelage.config.shorthand import written_out
from tutelage.errors import UserError
from tutelage.runs import needs
from tutelage.runs.identity import WEIGHTS_DIGEST, flatten
from tutelage.runs.weights import NETWORKS, RESERVED, stamp
from tutelage.runs.words import one_length

_OF_EVERY_NETWORK = re.compile(
    rf"\+?({'|'.join(NETWORKS)}|frozen\.[^.=]+)\.({'|'.join({*RESERVED, 'num_classes', 'output_size'} - {'weights', WEIGHTS_DIGEST})})="
)
AIDS = ("chain",)
"""Groups whose values others are composed of, and which are no part of a resolved configuration."""
_SPECIAL = set(",[]{}()'\"\\$")
"""Characters that mean something in the value of a word."""
_USUAL = re.compile(r"[^=]*=[\w./:+\-@%*?| ]*", re.ASCII)
"""A word whose value Hydra takes without quotes, and in which no character means something."""


def search_path() -> list[str]:
    """Return the override that adds the user's own configuration folder."""
    own = user_folder()
    if own:
        check_files(own)
    return [f"hydra.searchpath=[file://{own}]"] if own else []


@contextlib.contextmanager
def hydra_ready() -> Iterator[None]:
    """Have Hydra initialised on our folder; inside a sweep's job it is already."""
    prepare()
    if GlobalHydra.instance().is_initialized():
        yield
        return
    with initialize_config_dir(str(config_folder()), version_base="1.3", job_name="tutelage"):
        yield


def readable(overrides: Sequence[str], primary: str = PRIMARY) -> list[str]:
    """Return the words as Hydra takes them: with quotes around values that its grammar does not take bare, such as a folder named after
    Jürgen, ~/data, or a file that is there and has a comma in its name; and with a plus before settings that every network has and few
    files name, such as `model.head`; and with the names of objectives written out (`shorthand`).

    Of what is no existing path, a value with a comma (a sweep), a bracket or quotes of its own is left as it is.
    """
    for word in overrides:
        if word.lstrip("+~").startswith("chain.parts"):
            raise UserError(
                f"{word}: a chain's parts are chosen by its file. One of your own is made from another, conf/chain/mine.yaml for "
                "chain=mine: the line '# @package _global_', then 'defaults: [digits]' and 'chain: {set: mine, parts: {network: fcn}}'. "
                "For one stage alone say model=... or data=..."
            )
    if primary == PRIMARY:
        overrides = written_out(overrides)
    overrides = [f"++{word.lstrip('+')}" if _OF_EVERY_NETWORK.match(word) else word for word in overrides]
    return [_readable(word) for word in without_lists(overrides)]


def _readable(word: str) -> str:
    if _USUAL.fullmatch(word):
        return word
    key, equals, value = word.partition("=")
    odd = set(value) & _SPECIAL
    if not equals or value == "~" or (odd and not _is_path(value)):
        return word
    escaped = value.replace('"', r"\"")
    return f'{key}{equals}"{escaped}"'


def _is_path(text: str) -> bool:
    try:
        return Path(text).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long for a name, no such user
        return False


def as_given(words: Sequence[str]) -> list[str]:
    """Return the words of a sweep's job without the plus that `readable` gave them."""
    return [
        word.removeprefix("++") if _OF_EVERY_NETWORK.match(word.removeprefix("++")) else word
        for word in words
    ]


def compose(overrides: Sequence[str], primary: str = PRIMARY) -> dict[str, Any]:
    """Return the resolved and checked configuration of a command's overrides; primary: the file of `conf/` to start from."""
    overrides = readable(one_length(overrides), primary)
    with hydra_ready():
        try:
            node = merged(overrides, primary)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise explain(error, overrides, primary) from error
        return _resolved(node, overrides, primary)


def merged(overrides: Sequence[str], primary: str = PRIMARY) -> DictConfig:
    """Return what Hydra makes of words, unresolved and without its own part. It must be ready; what it raises is passed on."""
    node = hydra_compose(primary, overrides=[*search_path(), *overrides], return_hydra_config=True)
    _check_lists(overrides, primary)
    return _without_hydra(node)


def _without_hydra(node: DictConfig) -> DictConfig:
    keys: Any = [key for key in node if key != "hydra"]
    return OmegaConf.masked_copy(node, keys)


def _check_lists(overrides: Sequence[str], primary: str) -> None:
    """Raise UserError where a file that a command chooses gives a group a list. Hydra must be ready."""
    if lists := files_with_lists():
        loader = GlobalHydra.instance().config_loader()
        chosen = loader.compute_defaults_list(primary, [*search_path(), *overrides], RunMode.RUN).defaults
        for entry in chosen:
            if said := lists.get(str(entry.config_path)):
                raise UserError(said)


def _resolved(node: DictConfig, overrides: Sequence[str], primary: str) -> dict[str, Any]:
    try:
        config = plain(node)
    except OmegaConfBaseException as error:
        raise explain(error, overrides, primary) from error
    return checked(config, overrides, primary)


def plain(node: DictConfig) -> dict[str, Any]:
    """Return a node as a plain dictionary, interpolations resolved. What OmegaConf raises is passed on."""
    if OmegaConf.select(node, "data.split_seed", default=0) is None:
        OmegaConf.update(node, "data.split_seed", "${seed}")  # before what needed runs are told of it
    config: Any = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    return dict(config)


def checked(config: dict[str, Any], overrides: Sequence[str], primary: str = PRIMARY) -> dict[str, Any]:
    """Return a plain configuration without what only helped to compose it. Raises UserError for what no setting is."""
    for aid in AIDS:
        config.pop(aid, None)
    if isinstance(config.get("needs"), dict) and config["needs"]:
        _leave_out_unused(config, overrides)
    if primary == PRIMARY:
        check(config)
        stamp(config)
    else:
        check_command(config)
    return config


def _leave_out_unused(config: dict[str, Any], overrides: Sequence[str]) -> None:
    """Drop the needs that a file offers and this configuration does not use.

    Raises:
        UserError: a word of the command gives one that nothing uses.
    """
    used = needs.used(config)
    given = {word.lstrip("+~").partition("=")[0] for word in overrides}
    for role, words in list(config["needs"].items()):
        if words is None or (isinstance(words, list) and role not in used):
            if words is not None and f"needs.{role}" in given:
                raise UserError(
                    f"needs.{role} is given and not used: say need:{role} where it belongs, such as guide.weights=need:{role}"
                )
            del config["needs"][role]


def of_hydra(words: Sequence[str], part: str) -> dict[str, Any]:
    """Return the settings of Hydra's own that words such as `hydra/launcher=slurm hydra.launcher.partition=gpu` choose.

    part: launcher or sweeper.
    """
    with hydra_ready():
        try:
            node = hydra_compose(PRIMARY, overrides=[*search_path(), *words], return_hydra_config=True)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise explain(error, words) from error
        return dict(OmegaConf.to_container(node.hydra[part], resolve=True))  # type: ignore[arg-type]


def setting_value(word: str) -> Any:
    """Return the value in a word key=value, read as in every command. Raises UserError for what cannot be read."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    try:
        return OverridesParser.create().parse_overrides(readable([word]))[0].value()
    except HydraException as error:
        raise explain(error, [word]) from error


def explain(error: Exception, overrides: Sequence[str], primary: str = PRIMARY) -> UserError:
    """Return one message in the user's words for what Hydra or OmegaConf raised."""
    return in_words(error, overrides, lambda culprit: _known_keys(overrides, culprit, primary))


def _known_keys(overrides: Sequence[str], culprit: str, primary: str) -> list[str]:
    # The nearest known key depends on the groups chosen, so compose again without what failed.
    rest = [word for word in overrides if not word.lstrip("+~").startswith(culprit)]
    of_hydra = culprit.startswith("hydra.")
    if of_hydra:
        rest = [word for word in rest if word.startswith("hydra/")]  # the others may be values of a sweep
    try:
        with hydra_ready():
            node = hydra_compose(primary, overrides=[*search_path(), *rest], return_hydra_config=of_hydra)
            config: Any = OmegaConf.to_container(OmegaConf.masked_copy(node, "hydra") if of_hydra else node)
    except (HydraException, OmegaConfBaseException):
        return groups()
    return [key for key, _ in flatten(config) if not key.endswith("_target_")] + groups()
