"""From a `_target_` and its arguments to an object, under a stated policy of what may be built.

Policy: a target is (1) a class or function that Tutelage's models, data, methods, generators, alignment or scaling cases define, (2) a
class derived from torch.nn.Module, LightningDataModule or torch.utils.data.Dataset, or (3) a function that a module in the folder of
the command defines, installed packages excepted: their environment often lies in that folder. Everything else is refused: a
configuration from somebody else can name `os.system`, and must not reach it. What a stored run may name is decided before, without an
import: see `trust`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import inspect
import logging
import sys
import sysconfig
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tutelage.engine.trust import ALLOWED, SHIPPED, SHIPPED_FILES, check_words
from tutelage.errors import UnknownArgument, UserError, choices
from tutelage.runs.declared import DECLARATIONS
from tutelage.typed import checked, in_keys

log = logging.getLogger("tutelage")
BY_NAME = (
    "is no way to choose an optimiser, whose parameters are only known when it is built (_partial_ does not help): those of PyTorch and "
    "timm are chosen by name, optimizer=any optimizer.name=adam optimizer.lr=1e-3, their arguments by +optimizer.<argument>=..."
)


def resolve(target: str, where: str) -> Callable[..., Any]:
    """Return what a dotted path names. `where` is the configuration key, for the message.

    Raises UserError when it cannot be imported or is not of a kind that a configuration may name.
    """
    module_name, attribute = check_words(target, f"{where}._target_"), target.rpartition(".")[2]
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)  # the user's own networks and methods live in the folder of the command
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(
            f"{where}._target_={target}: module {module_name!r} cannot be imported ({error}). Expected an installed package "
            "or a module of the folder in which the command is given"
        ) from error
    if not hasattr(module, attribute):
        names = [n for n, v in vars(module).items() if inspect.isclass(v) or inspect.isfunction(v)]
        raise UserError(
            f"{where}._target_={target}: {module_name} has no {attribute!r}; {choices(attribute, names)}"
        )
    found = getattr(module, attribute)
    if not _allowed(found, module_name):
        if inspect.isclass(found) and "Optimizer" in [base.__name__ for base in found.__mro__[1:]]:
            raise UserError(f"{where}._target_={target} {BY_NAME}")
        raise UserError(f"{where}._target_={target} is refused: {ALLOWED}")
    return found


def _allowed(found: Any, module_name: str) -> bool:
    if module_name.split(".")[0] == "tutelage":
        home = getattr(found, "__module__", "").split(".")
        ours = bool(SHIPPED.intersection(home[1:2])) or tuple(home[1:3]) in SHIPPED_FILES
        return callable(found) and home[0] == "tutelage" and ours
    if inspect.isclass(found):
        bases = {f"{base.__module__}.{base.__name__}" for base in inspect.getmro(found)}
        return bool(
            bases
            & {
                "torch.nn.modules.module.Module",
                "pytorch_lightning.core.datamodule.LightningDataModule",
                "torch.utils.data.dataset.Dataset",
            }
        )
    if inspect.isfunction(found):
        source = getattr(sys.modules.get(found.__module__), "__file__", None)
        return source is not None and _own(Path(source).resolve())
    return False


def _own(source: Path) -> bool:
    """Whether a source file is the user's: in the folder of the command, and of no installed package or the standard library."""
    if not source.is_relative_to(Path.cwd()) or {"site-packages", "dist-packages"}.intersection(source.parts):
        return False
    installed = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return not any(source.is_relative_to(Path(path).resolve()) for path in installed)


@functools.lru_cache(maxsize=1024)
def parameters_of(function: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], dict[str, Any], bool]:
    """Return (parameters, type hints, open-ended) of a callable.

    A class whose constructor passes **keywords on to its base takes the base's arguments too: they are collected along the
    inheritance, so that a subclass need not repeat them and a misspelt one is still an error. What is returned is not to be changed.
    """
    parameters: dict[str, inspect.Parameter] = {}
    hints: dict[str, Any] = {}
    constructors = (
        [c.__dict__["__init__"] for c in inspect.getmro(function) if "__init__" in c.__dict__]
        if inspect.isclass(function)
        else [function]
    )
    open_ended = False
    for constructor in constructors:
        try:
            found = list(inspect.signature(constructor).parameters.values())[inspect.isclass(function) :]
        except (TypeError, ValueError):
            break
        with contextlib.suppress(NameError, TypeError):  # annotations that only a type checker can resolve
            hints = typing.get_type_hints(constructor, include_extras=True) | hints
        for parameter in found:
            if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                parameters.setdefault(parameter.name, parameter)
        open_ended = any(p.kind is p.VAR_KEYWORD for p in found)
        if not open_ended:
            break
    return parameters, hints, open_ended


@contextlib.contextmanager
def worded(where: str, arguments: Collection[str]) -> Iterator[None]:
    """Word what an object says of its arguments, which stand in backticks, as the keys of its node: errors and notes; see `typed.in_keys`.

    where: the node's key.
    arguments: the names of its constructor's arguments.
    """

    def in_words(record: logging.LogRecord) -> bool:
        record.msg, record.args = in_keys(record.getMessage(), where, arguments), ()
        return True

    log.addFilter(in_words)
    try:
        yield
    except UserError as error:
        error.args = (in_keys(str(error), where, arguments), *error.args[1:])
        raise
    finally:
        log.removeFilter(in_words)


def _check_declarations(where: str, function: Callable[..., Any], config: Mapping[str, Any]) -> None:
    """Hold what a node declares of itself against what its class says: plans read the node alone."""
    for key, known in DECLARATIONS.items():
        if key in config and config[key] not in known:
            raise UserError(
                f"{where}.{key}={config[key]} declares nothing; {choices(str(config[key]), known)}"
            )
    for key, value in getattr(function, "declares", {}).items():
        if config.get(key) != value:
            raise UserError(
                f"{where}: a file that names {config['_target_']} must declare `{key}: {value}`, as the shipped one does, "
                f"got {config.get(key)!r}"
            )


def construct(where: str, config: Mapping[str, Any], **context: Any) -> Any:
    """Build the object that a configuration node describes.

    where: the node's key, for messages; what the constructor says of an argument in backticks becomes its key.
    config: `_target_` and plain keyword arguments.
    context: what the engine supplies; only what the signature names is passed.

    Raises:
        UserError: an unknown argument (naming the nearest), a missing one, a value of another type or out of range, or a constructor
            that refuses.
    """
    target = config.get("_target_")
    if target is None:
        raise UserError(
            f"{where} has no _target_: it must name a class, for instance by choosing one of the group's files"
        )
    function = resolve(target, where)
    _check_declarations(where, function, config)
    given = {key: value for key, value in config.items() if key != "_target_" and key not in DECLARATIONS}
    return _build(where, function, target, given, context)


def _nested(where: str, value: Any, hint: Any) -> Any:
    """Return what a nested node describes: an object of its `_target_`, or the settings that a dataclass of the annotation holds."""
    if not isinstance(value, Mapping):
        return value
    if "_target_" in value:
        return construct(where, value)
    kinds = (hint, *typing.get_args(hint))
    settings = [kind for kind in kinds if inspect.isclass(kind) and dataclasses.is_dataclass(kind)]
    return _build(where, settings[0], settings[0].__name__, value, {}) if settings else value


def check_arguments(
    where: str, function: Callable[..., Any], node: Mapping[str, Any], supplied: Collection[str] = ()
) -> None:
    """Hold a node's names and plain values against what a function takes, before anything is built or loaded for it.

    node: with its `_target_`.
    supplied: names that are no settings.

    Raises:
        UserError: see `construct`.
    """
    given = {key: value for key, value in node.items() if key != "_target_" and key not in DECLARATIONS}
    _check_names(where, function, node["_target_"], given, supplied)
    _checked(where, function, {key: x for key, x in given.items() if not isinstance(x, Mapping)})


def _check_names(
    where: str, function: Callable[..., Any], target: str, given: Iterable[str], supplied: Collection[str]
) -> None:
    parameters, _, open_ended = parameters_of(function)
    unknown = [] if open_ended else [key for key in given if key not in parameters]
    if unknown:
        raise UnknownArgument(
            f"{where}: {target} takes no '{unknown[0]}'; {choices(unknown[0], set(parameters) - set(supplied))}",
            [f"{where}.{key}" for key in unknown],
        )


def _checked(where: str, function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    _, hints, _ = parameters_of(function)
    ours = str(getattr(function, "__module__", "")).startswith("tutelage.") or dataclasses.is_dataclass(
        function
    )
    result = dict(given)
    for key in given:
        if key not in hints:
            continue
        value = result[key] = checked(f"{where}.{key}", given[key], hints[key])
        if ours and isinstance(value, int) and value < 0 and key != "weight":
            raise UserError(
                f"{where}.{key} must not be negative, got {value}"
            )  # of ours, nothing counts backwards
    return result


def _build(
    where: str,
    function: Callable[..., Any],
    target: str,
    given: Mapping[str, Any],
    context: Mapping[str, Any],
) -> Any:
    parameters, hints, _ = parameters_of(function)
    _check_names(where, function, target, given, context)
    built = {key: _nested(f"{where}.{key}", value, hints.get(key)) for key, value in given.items()}
    given = _checked(where, function, built)
    arguments = given | {key: value for key, value in context.items() if key in parameters}
    missing = [
        n for n, p in parameters.items() if p.default is inspect.Parameter.empty and n not in arguments
    ]
    if missing:
        raise UserError(f"{where}: {target} needs {', '.join(sorted(missing))}; give it in the configuration")
    try:
        with worded(where, parameters):
            return function(**arguments)
    except UserError as error:
        raise error if str(error).startswith(where) else UserError(f"{where}: {error}") from error
    except (TypeError, ValueError, RuntimeError, OverflowError, MemoryError) as error:
        raise UserError(f"{where}: {target} cannot be built from {given}: {error}") from error
