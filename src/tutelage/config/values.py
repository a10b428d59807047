"""Whether plain values from a configuration fit type annotations, and how to say what was expected. Standard library only."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Mapping
from typing import Any


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value fits a type annotation; annotations beyond plain data are taken on trust."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is None or hint is type(None):
        return value is None
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, option) for option in inner)
    if origin is typing.Literal:
        return value in inner
    if hint is bool:
        return isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is str:
        return isinstance(value, str)
    if inspect.isclass(origin) and origin is not type:
        if issubclass(origin, Mapping):
            return isinstance(value, Mapping) and (
                not inner or all(fits(key, inner[0]) and fits(item, inner[1]) for key, item in value.items())
            )
        if issubclass(origin, tuple | list) or origin.__module__ == "collections.abc":
            return (
                not isinstance(value, str | Mapping)
                and hasattr(value, "__iter__")
                and _items_fit(value, origin, inner)
            )
    return True


def whole(value: Any, hint: Any) -> Any:
    """Return 1e3, which YAML reads as a fraction, as 1000 where a whole number is expected; all else as it is."""
    if isinstance(value, float) and value.is_integer() and not fits(value, hint) and fits(int(value), hint):
        return int(value)
    return value


def _items_fit(value: Any, origin: Any, inner: tuple[Any, ...]) -> bool:
    if not inner or (origin is tuple and Ellipsis not in inner):
        return True
    return all(fits(item, inner[0]) for item in value)


def describe(hint: Any) -> str:
    """A type annotation in a user's words: "a whole number, or nothing (null)"."""
    words = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        type(None): "nothing (null)",
    }
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint in words:
        return words[hint]
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(describe(option) for option in inner))
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, inner))
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return f"a mapping to {describe(inner[-1])}" if inner and inner[-1] is not Any else "a mapping"
    if origin is not None:
        return f"a list of {describe(inner[0])}" if inner else "a list"
    return str(getattr(hint, "__name__", hint))
