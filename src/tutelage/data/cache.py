"""Decoded data kept for the next job: in this process (a few sets), and on disk as memory-mapped arrays."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from filelock import FileLock

from tutelage.errors import UserError

log = logging.getLogger("tutelage")

T = TypeVar("T")

KEPT_BYTES = 4 * 2**30
"""Size of the arrays kept in the process; the value unused for longest goes first."""

_kept: OrderedDict[Hashable, Any] = OrderedDict()


def remember(key: Hashable, make: Callable[[], T]) -> T:
    """Return the value made earlier in this process under the key, or make it. The key must name all that
    determines the value.
    """
    if key not in _kept:
        _kept[key] = make()
        while len(_kept) > 1 and sum(map(_array_bytes, _kept.values())) > KEPT_BYTES:
            _kept.popitem(last=False)
    _kept.move_to_end(key)
    return _kept[key]


def _array_bytes(value: Any) -> int:
    if isinstance(value, np.ndarray | torch.Tensor):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(map(_array_bytes, value.values()))
    if isinstance(value, tuple | list):
        return sum(map(_array_bytes, value))
    return sum(map(_array_bytes, vars(value).values())) if dataclasses.is_dataclass(value) else 0


def forget() -> None:
    """Drop every value kept in this process."""
    _kept.clear()


def cache_folder() -> Path:
    """Return the folder for decoded and downloaded data: TUTELAGE_CACHE, by default ~/.cache/tutelage."""
    return Path(os.environ.get("TUTELAGE_CACHE") or "~/.cache/tutelage").expanduser()


def download_folder(root: str | None) -> Path:
    """Return where downloaded sets lie: a folder of the user's, which must exist, or `downloads` in the cache folder.

    Raises UserError for a folder that does not exist: a misspelt path is not to become a copy of the set.
    """
    if root is None:
        return cache_folder() / "downloads"
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise UserError(
            f"there is no folder {folder}: `root` must name an existing one, which holds the set or will; without it the set "
            f"lies in {cache_folder() / 'downloads'}"
        )
    return folder


def entry_name(*key: object) -> str:
    """Return the name of a cache entry, for a key that names all that determines what is kept."""
    return hashlib.sha256(repr(key).encode()).hexdigest()[:24]


def stored(
    name: str, write: Callable[[Path], dict[str, Any]]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and facts of the cache entry `name`, made on first use.

    write: fills a folder with .npy files and returns JSON facts. The entry appears atomically and once, also
    when several processes ask for it. Where the cache cannot be written, the entry lives in a temporary
    folder of this process.
    """
    entry = cache_folder() / "decoded" / name
    try:
        return _read_entry(_kept_entry(entry, write))
    except OSError as error:
        log.warning(
            f"decoded data cannot be kept in {entry.parent} ({error}); set TUTELAGE_CACHE to a folder with room"
        )
    try:
        with tempfile.TemporaryDirectory(prefix="tutelage-") as temporary:
            _write_entry(Path(temporary) / name, write)
            return _read_entry(Path(temporary) / name)  # the mapping outlives the file's name
    except OSError as error:
        raise UserError(
            f"decoded data fit neither into {entry.parent} nor into the temporary folder: {error}"
        ) from error


def _kept_entry(entry: Path, write: Callable[[Path], dict[str, Any]]) -> Path:
    if not (entry / "facts.json").is_file():
        entry.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{entry}.lock"):
            if not (entry / "facts.json").is_file():
                _write_entry(entry, write)
    return entry


def _write_entry(entry: Path, write: Callable[[Path], dict[str, Any]]) -> None:
    shutil.rmtree(entry, ignore_errors=True)
    entry.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=entry.parent, prefix=f".{entry.name}-") as temporary:
        made = Path(temporary) / "entry"
        made.mkdir()
        facts = write(made)
        (made / "facts.json").write_text(json.dumps(facts))
        made.rename(entry)


def _read_entry(entry: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    # Copy-on-write mappings: torch wants writable memory, and nothing may reach the file.
    arrays = {
        path.stem: np.load(path, mmap_mode="c", allow_pickle=False) for path in sorted(entry.glob("*.npy"))
    }
    return arrays, json.loads((entry / "facts.json").read_text())
