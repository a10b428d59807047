"""What `${name:...}` means in a file of `conf/`: fingerprints of data, words of a needed run, the files of a transfer's chain."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tutelage.config.groups import options
from tutelage.config.hydra_choices import register
from tutelage.errors import UserError, choices
from tutelage.runs.bounded import load_yaml
from tutelage.runs.identity import is_need
from tutelage.runs.model_folders import model_digest
from tutelage.typed import in_keys

_QUOTED = str.maketrans({"'": r"\'"})


def prepare() -> None:
    """Register the resolvers, and what Hydra's own groups offer. Harmless when repeated."""
    if not all(map(OmegaConf.has_resolver, _RESOLVERS)):
        for name, function in _RESOLVERS.items():
            OmegaConf.register_new_resolver(name, function, replace=True)
    register()


Asked = dict[tuple[Callable[..., Any], tuple[Any, ...]], Any]
"""What files said: of each function and its values."""
_noting: list[Asked] = []


@contextlib.contextmanager
def noting(asked: Asked) -> Iterator[None]:
    """Have what files say to the resolvers noted."""
    _noting.append(asked)
    try:
        yield
    finally:
        _noting.pop()


def changed(asked: Asked) -> str | None:
    """Return the place whose files say something else now, or nothing; None: they say what they said."""
    for (function, values), said in asked.items():
        try:
            if function(*values) == said:
                continue
        except (UserError, OSError):
            pass
        return next(str(value) for value in values if value is not None)
    return None


def _once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Call a resolver once in a configuration for the same values. (OmegaConf's own cache goes by the words, `${.root}`, of any node.)"""

    def resolved(*values: Any, _root_: DictConfig, _parent_: DictConfig) -> Any:
        known = OmegaConf.get_cache(_root_)[function.__name__]
        if values not in known:
            try:
                known[values] = function(*values)
            except _Misplaced as error:
                where = _parent_._get_full_key(None) or "data"
                raise UserError(in_keys(str(error), where, {error.setting})) from None
        for asked in _noting if known[values] is not None else ():
            asked[function, values] = known[values]
        return known[values]

    return resolved


def _fingerprint(path: Any, kind: str | None = None) -> str | None:
    from tutelage.data.fingerprint import fingerprint

    return None if path is None else _of_root(lambda root: fingerprint(root, kind), path)


def _text_fingerprint(path: Any, tokenizer: Any) -> str | None:
    """Return the fingerprint of text files and of the tokeniser that numbers them, or of one of them."""
    from tutelage.data.fingerprint import both, fingerprint
    from tutelage.data.vocabulary import tokenizer_file

    of_texts = None if path is None else _of_root(fingerprint, path)
    if tokenizer is None:
        return of_texts
    file = tokenizer_file(tokenizer, None if path is None else Path(path).expanduser())
    of_tokens = _of_root(fingerprint, file, "tokenizer")
    return of_tokens if of_texts is None else both(of_texts, of_tokens)


def _pseudo_fingerprint(path: Any) -> str | None:
    from tutelage.data.fingerprint import pseudo_fingerprint

    # A needed run need not exist yet; its identity stands for its content.
    return None if path is None or is_need(path) else _of_root(pseudo_fingerprint, path)


def _model_digest(name: str, revision: str | None = None) -> str:
    try:
        return model_digest(name, revision)
    except UserError as error:
        raise UserError(str(error).replace("`name`", "a Hugging Face model's name")) from None


class _Misplaced(UserError):
    """What is wrong with a place; setting: the key beside the resolver that names it."""

    def __init__(self, message: str, setting: str) -> None:
        super().__init__(message)
        self.setting = setting


def _of_root(function: Callable[[Any], str], path: Any, setting: str = "root") -> str:
    try:
        return function(path)
    except UserError as error:
        raise _Misplaced(str(error).replace("`root`", f"`{setting}`"), setting) from None


def _word(key: str, under: str | None = None, *, _root_: DictConfig) -> str:
    """Return a setting as a word of a needed run's command, quoted as it must be: `${word:chain.root}`; under: the key it has there."""
    value = OmegaConf.select(_root_, key, throw_on_missing=True)
    value = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    text = f"'{value.translate(_QUOTED)}'" if isinstance(value, str) else json.dumps(value)
    return f"{under or key}={text}"


def _chain_part(chain: str | None, part: str) -> str:
    """Return the file that a transfer's chain names for a part of it: `${chain_part:${chain},network}`, in a list of defaults.

    Groups are chosen before any value is known, so the part is read in the chain's file, or in one of the chains that it is made from.

    Raises:
        UserError: there is no such chain, or it has no such part.
    """
    offered = dict(options("chain"))
    if chain is None:
        raise UserError(f"a transfer experiment needs its chain: add chain={' | '.join(offered)}")
    if chain not in offered:
        raise UserError(f"there is no chain '{chain}'; {choices(chain, offered)}")
    found = _part_in(offered, chain, part)
    if not isinstance(found, str):
        raise UserError(
            f"{offered[chain]}: chain.parts must name its '{part}', a file of conf/data or conf/model"
        )
    return found


def _part_in(offered: Mapping[str, Path], chain: str, part: str) -> Any:
    """Return what a chain's file says of a part, or else the last of those that its list of defaults names."""
    content = load_yaml(offered[chain])
    content = content if isinstance(content, dict) else {}
    of_chain = content.get("chain")
    parts = of_chain.get("parts") if isinstance(of_chain, dict) else None
    if isinstance(parts, dict) and part in parts:
        return parts[part]
    defaults = content.get("defaults")
    bases = [one for one in defaults if isinstance(one, str)] if isinstance(defaults, list) else []
    others = {name: path for name, path in offered.items() if name != chain}
    inherited = (_part_in(others, base, part) for base in reversed(bases) if base in others)
    return next((one for one in inherited if one is not None), None)


_RESOLVERS: dict[str, Callable[..., Any]] = {
    "fingerprint": _once(_fingerprint),
    "text_fingerprint": _once(_text_fingerprint),
    "pseudo_fingerprint": _once(_pseudo_fingerprint),
    "model_digest": _once(_model_digest),
    "word": _word,
    "chain_part": _chain_part,
}
