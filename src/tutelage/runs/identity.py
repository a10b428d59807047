"""The identity of a run: a hash of everything in its configuration that can change a number."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import marshal
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tutelage.errors import UserError

LENGTH = 12
"""Hexadecimal digits of an identity: 48 bits, so that a million runs collide with probability 0.002."""

EXCLUDED: dict[str, str] = {
    "name": "what people call it: one configuration under two names is one run",
    "runs_dir": "where a run is stored",
    "logger": "mirrors of the record",
    "display": "what the screen shows",
    "verbose": "what the screen shows",
    "rerun": "an order to this command, not a property of the run",
    "retry": "what happens after a failure",
    "on_failure": "what happens to the rest of a sweep after a failure",
    "launcher": "where and beside what a job runs",
    "tags": "labels for people",
    "notes": "labels for people",
    "fit.checkpoint_every_s": "a resumed run equals an undisturbed one",
    "fit.stop_below": "a run that was stopped has no result; one that was not is the same",
    "fit.keep_checkpoints": "what a complete run leaves on the disk",
    "hardware.threads": "a matter of speed",
    "hardware.recompute": "a matter of memory: the numbers are the same",
    "hardware.num_workers": "batches are a function of the seed and the step, whoever loads them",
    "data.root": "content counts, not its place; folders of a user carry `data.fingerprint`",
    "method.objectives.*.pseudo": "content counts, not its place; `fingerprint` beside it carries it",
    "method.unlabelled.root": "as data.root",
    "method.unlabelled.num_workers": "as data.num_workers",
    "method.unlabelled.check_files": "as data.check_files",
    "method.unlabelled.download": "as data.download",
    "data.absent": "images that went missing while a run stood still; its provenance says so",
    "data.cache*": "a matter of speed",
    "data.check_files": "when a damaged file is found",
    "data.num_workers": "batches are a function of the seed and the step, whoever loads them",
    "data.prefetch*": "a matter of speed",
    "data.pin_memory": "a matter of speed",
    "data.download": "how the files came here",
    "needs.*.command": "how a needed run is made; which run it is stays in (`needs.*.run`)",
}
"""Dotted patterns of the keys outside the identity (each with all that is below it), with the reason."""

WEIGHTS_DIGEST = "weights_digest"
"""Beside the `weights` of a network that are a file: the sha256 of its bytes, which counts in place of the path."""

CONTENT_DIGEST = "content_digest"
"""Beside the `name` of a network whose folder it names: of the files there, which count in place of the path."""

ABSENT_WHEN: dict[str, Any] = {
    "setting": None,
    "data.date_format": None,
    "data.step": None,
    "data.decimal": None,
    "frozen": {},
    "method.cache": [],
    "optimizer.power": 1.0,
    "optimizer.decay_share": 0.2,
    "optimizer.patience": 5,
    "optimizer.decay_norms_and_biases": True,
    "optimizer.layer_decay": None,
    "optimizer.lr_factors": [],
    "optimizer.frozen": [],
    "optimizer.fused": None,
    "method.balance": None,
    "method.select_by": "task",
    "method.ema_decay": None,
    "method.objectives.*.standardise": False,
    "method.objectives.*.distribution_alignment": None,
    "method.objectives.*.momentum": 0.999,
    "method.objectives.*.weak_gradient": True,
    "method.objectives.*.class_weight": None,
    "method.objectives.*.patches": 2,
    "method.objectives.*.similarity.block": None,
    "hardware.channels_last": False,
    "hardware.fold_norms": False,
    "fit.metrics": [],
    "fit.monitor": None,
    "fit.patience": None,
    "fit.watch_layers": False,
    "data.sampling": None,
}
"""Dotted patterns of keys that came later, with the value that says nothing: runs made before keep their identity."""


def identify(config: Mapping[str, Any]) -> str:
    """Return the identity of a resolved configuration: 12 hexadecimal digits.

    The order of keys, tuple or list, and 1 or 1.0 make no difference; True and 1 differ; NaN equals NaN.

    Raises:
        UserError: a value is not plain data (mapping, list, text, number, bool, None); the message names its
            key.
    """
    if all(isinstance(key, str) for key in config):
        parts = {key: _part(key, value) for key, value in _counting(config, "")}
        text = f"{{{','.join(f'{_text(key)}:{parts[key]}' for key in sorted(parts))}}}"
    else:
        text = _text(canonical(without_excluded(config)))
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:LENGTH]


def _part(key: str, value: Any) -> str:
    """Return the text of a value of the whole: of a section once, since the configurations of a sweep differ in one or two."""
    if isinstance(value, dict):
        with contextlib.suppress(ValueError):  # not of plain data alone: `canonical` says what
            return _section(
                key, marshal.dumps(value, 2)
            )  # this version tells 1, 1.0 and True apart and holds no references
    return _text(canonical(_inner(key, value), key))


@functools.lru_cache(2**12)
def _section(key: str, content: bytes) -> str:
    return _text(canonical(_inner(key, marshal.loads(content)), key))


def _inner(key: str, value: Any) -> Any:
    return without_excluded(value, f"{key}.") if isinstance(value, Mapping) else value


_text: Callable[[Any], str] = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def is_excluded(key: str) -> bool:
    """Say whether a dotted key lies outside the identity."""
    return _EXCLUDED.match(key) is not None


def is_need(value: Any) -> bool:
    """Say whether a value names a needed run, `need:<name>`."""
    return isinstance(value, str) and value.startswith("need:")


def without_excluded(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Copy the nested mapping without the keys that lie outside the identity."""
    return {
        key: without_excluded(value, f"{prefix}{key}.") if isinstance(value, Mapping) else value
        for key, value in _counting(config, prefix)
    }


def _counting(config: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield the keys of a mapping that lie in the identity, with their values."""
    for key, value in config.items():
        dotted = f"{prefix}{key}"
        excluded, silent, is_run = _counts(dotted)
        if (
            excluded
            and not is_need(value)
            and not (dotted in ("data.root", "method.unlabelled.root") and _unknown(config))
        ):
            continue  # which need it is does count
        if silent and value in silent:
            continue
        if dotted == "data.tokenizer" and value is not None:
            continue  # its content counts, in `data.tokenizer_digest` or `data.fingerprint`
        if key == "weights" and config.get(WEIGHTS_DIGEST):
            continue
        if key in ("name", "revision") and config.get(CONTENT_DIGEST):
            continue
        # a needed run is the same under another name
        yield key, identity_of(value) if is_run and isinstance(value, str) else value


@functools.lru_cache(2**14)
def _counts(key: str) -> tuple[bool, tuple[Any, ...], bool]:
    """Return whether a dotted key lies outside the identity, the values with which it says nothing, and whether it names a needed run."""
    silent = tuple(silent for pattern, silent in ABSENT_WHEN.items() if _covering(pattern).match(key))
    return is_excluded(key), silent, _NEEDED_RUN.match(key) is not None


def identity_of(key: str) -> str:
    """Return the identity in a run's key `<name>/<identity>`."""
    return key.rpartition("/")[2]


def _unknown(data: Mapping[str, Any]) -> bool:
    """Say whether nothing tells what a data node's root holds: no fingerprint, and no published set."""
    return data.get("fingerprint") is None and data.get("_reads_") != "published"


_TOO_LONG = 10**4000


def canonical(value: Any, key: str = "") -> Any:
    """Bring plain data into the one form that is hashed; `key` is the dotted place, for messages."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, float):
        # repr of a float subclass (numpy's) is not a number, hence the conversion; inf has no integer value.
        return int(value) if value.is_integer() else float(value)
    if isinstance(value, int):
        if abs(value) >= _TOO_LONG:
            raise UserError(f"'{key}' is an integer of more than 4,000 digits")
        return int(value)
    if isinstance(value, list | tuple):
        return [canonical(item, f"{key}[{place}]") for place, item in enumerate(value)]
    if isinstance(value, dict | Mapping):
        return _canonical_mapping(value, key)
    raise UserError(
        f"'{key or 'the configuration'}' must be plain data (mapping, list, text, number, bool, null), "
        f"got {type(value).__name__}: {value!r:.80}"
    )


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) for every leaf; lists and empty mappings are leaves."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _canonical_mapping(value: Mapping[Any, Any], key: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, item in value.items():
        # JSON has text keys only: 1 and "1" name the same entry, and a mapping with both has no one meaning.
        text = name if isinstance(name, str) else json.dumps(canonical(name, f"{key} (a key)"))
        if text in result:
            raise UserError(
                f"'{key or 'the configuration'}' has the key {text} twice (as text and as number)"
            )
        result[text] = canonical(item, f"{key}.{text}" if key else text)
    return result


def _covering(*patterns: str) -> re.Pattern[str]:
    """Return the expression that a dotted key matches if one of the patterns, in which * is any text without a dot, is it or above it."""
    parts = (re.escape(pattern).replace(r"\*", "[^.]*") for pattern in patterns)
    return re.compile(rf"(?:{'|'.join(parts)})(?:\.|\Z)")


_EXCLUDED = _covering(*EXCLUDED)
_NEEDED_RUN = _covering("needs.*.run")
