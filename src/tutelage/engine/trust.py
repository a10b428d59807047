"""What the configuration of a stored run may name, decided before anything is imported: the run may be somebody else's.

Importing a module executes it. A command's own words are its user's and may name what `instantiate` allows. The configuration in a
run's folder is a file from anywhere, and may name

1. what Tutelage ships (`models`, `data`, `methods`, ...);
2. classes of the libraries of networks: torch.nn, torchvision, timm, transformers, diffusers;
3. a class or function, the user's own or an installed one, that a command of this user has named before and whose module lies in the
   very same place; each command that trains notes them in `named.txt`, in the user's state folder;
4. a module that this command names: `code=my_networks`, or `load_run(..., code=["my_networks"])`.

So a module inside a run's folder, beside it, in the current folder or in a namespace package is refused unless its user has had it run.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import site
import sys
import sysconfig
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from tutelage.errors import UserError

SHIPPED = frozenset({"models", "data", "methods", "objectives", "generators", "alignment", "losses"})
SHIPPED_FILES = frozenset({("scaling", "cases"), ("scaling", "layers"), ("scaling", "energies")})
LIBRARIES = frozenset(
    {"torch.nn", "torchvision.models", "timm", "timm.models", "transformers", "transformers.models", "diffusers", "diffusers.models"}
)  # fmt: skip
_STANDARD_LIBRARY = frozenset(sys.stdlib_module_names)


def targets(node: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of every `_target_` in a configuration, at any depth."""
    items: Any = (
        node.items()
        if isinstance(node, Mapping)
        else enumerate(node)
        if isinstance(node, list | tuple)
        else ()
    )
    for key, value in items:
        place = f"{where}.{key}" if where else str(key)
        if key == "_target_":
            yield place, value
        else:
            yield from targets(value, place)


def check_words(target: Any, where: str) -> str:
    """Return the module that a target names, without importing it.

    Raises:
        UserError: it is no dotted path of names, of the standard library, a program (`__main__`), or a part of Tutelage that no
            configuration names.
    """
    parts = target.split(".") if isinstance(target, str) else []
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise UserError(f"{where} must be a dotted path such as my_package.MyNetwork, got {target!r:.200}")
    ours = parts[0] != "tutelage" or parts[1] in SHIPPED or tuple(parts[1:3]) in SHIPPED_FILES
    if parts[0] in _STANDARD_LIBRARY or "__main__" in parts or not ours:
        raise UserError(f"{where}={target} is refused: {ALLOWED}")
    return ".".join(parts[:-1])


ALLOWED = (
    "a configuration may name Tutelage's own classes and functions, classes derived from torch.nn.Module, LightningDataModule or "
    "torch.utils.data.Dataset, "
    "and functions defined in a module of your own folder"
)


def check_stored(config: Mapping[str, Any], run: Path, *, code: Collection[str] = ()) -> None:
    """Refuse a stored configuration that names a module which nobody but the configuration itself vouches for; nothing is imported.

    Args:
        config: what lies in the run's folder.
        run: that folder, for messages.
        code: the modules that the user names in this command.

    Raises:
        UserError: it does; the message says what to write where the module is known and trusted.
    """
    vouched = _noted()
    for where, target in targets(config):
        module = check_words(target, where)
        top = module.partition(".")[0]
        if top == "tutelage" or top in code or _of_library(module):
            continue
        place = place_of(top)
        if place is None or (target, place) not in vouched:
            lies = f"which would be imported from {place}" if place else "which is not found here"
            kept = run / "own_code"
            if place is None and any((kept / name).exists() for name in (top, f"{top}.py")):
                lies += (
                    f" ({kept} holds a copy from its training: read it, then give the command in that folder)"
                )
            raise UserError(
                f"the configuration in {run} names {where}={target}, {lies}. Importing it executes it, and no command of yours has named "
                f"it from there before, so it is refused. If you know that code, say so: code={top}"
            )


def modules(text: str) -> list[str]:
    """Return the modules of a word code=a,b or code=[a,b]."""
    return [name.strip() for name in text.strip("[]").split(",") if name.strip()]


def note(config: Mapping[str, Any]) -> None:
    """Note the classes and functions beyond ours that a user's command names, with the places of their modules."""
    named = {target for _, target in targets(config) if isinstance(target, str)}
    theirs = {target for target in named if not target.startswith("tutelage.")}
    found = {(one, place) for one in theirs if (place := place_of(one.partition(".")[0]))} - _noted()
    if not found:
        return
    # Where it cannot be kept, `code=` has to be said again.
    with contextlib.suppress(OSError):
        _notes().parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(_notes(), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "a", encoding="utf-8", errors="surrogateescape") as file:
            file.write("".join(f"{one}\t{place}\n" for one, place in sorted(found) if "\n" not in place))


def place_of(top: str) -> str | None:
    """Return where an `import` of a top-level module would find it, the folder of the command first; nothing is executed."""
    if not top.isidentifier():
        return None
    loaded = sys.modules.get(top)
    spec = getattr(loaded, "__spec__", None)
    if spec is None:
        try:
            with working_folder_first():
                spec = importlib.util.find_spec(top)  # a top-level name: no parent is imported
        except (ImportError, ValueError, AttributeError):
            return None
    if spec is None:
        return None
    if spec.origin and spec.has_location:
        return os.path.realpath(spec.origin)
    return (
        os.pathsep.join(sorted({os.path.realpath(part) for part in spec.submodule_search_locations or ()}))
        or None
    )


@contextlib.contextmanager
def working_folder_first() -> Iterator[None]:
    """Have the folder of the command on the path of modules, where the user's own networks and methods live."""
    here = str(Path.cwd())
    if here in sys.path:
        yield
        return
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(here)


def _of_library(module: str) -> bool:
    """Whether a module is of a library of networks, installed: not a file of that name in the folder of the command."""
    known = module in LIBRARIES or any(module.startswith(f"{name}.") for name in LIBRARIES if "." in name)
    place = place_of(module.partition(".")[0]) if known else None
    return place is not None and any(Path(place).is_relative_to(folder) for folder in _installed())


@functools.cache
def _installed() -> frozenset[Path]:
    """Return the folders of this environment's packages."""
    folders = {sysconfig.get_path(name) for name in ("purelib", "platlib")} | set(site.getsitepackages())
    return frozenset(Path(folder).resolve() for folder in (*folders, site.getusersitepackages()))


def _notes() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "tutelage" / "named.txt"


def _noted() -> set[tuple[str, str]]:
    try:
        text = _notes().read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return set()
    return {(one, place) for one, _, place in (line.partition("\t") for line in text.splitlines()) if place}
