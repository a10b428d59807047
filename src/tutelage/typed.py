"""Plain values against type annotations: whether they fit, what was expected, and settings as dataclasses. Standard library only."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from tutelage.errors import UserError, choices, nearest


@dataclass(frozen=True)
class Range:
    """The numbers from `least` to `most`, as in `Annotated[int, Range(1)]`; above, below: without `least`, without `most` itself."""

    least: float
    most: float | None = None
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        low = value > self.least if self.above else value >= self.least
        return low and (self.most is None or (value < self.most if self.below else value <= self.most))

    def __str__(self) -> str:
        low = f"above {self.least}" if self.above else f"of at least {self.least}"
        if self.most is None:
            return low
        return f"{low} and {'below' if self.below else 'at most'} {self.most}"


Count = Annotated[int, Range(1)]
"""A whole number of at least 1."""
Positive = Annotated[float, Range(0, above=True)]
"""A number above 0."""
Rate = Annotated[float, Range(0, 1, below=True)]
"""A share that is not all."""

_hints: Any = functools.cache(functools.partial(typing.get_type_hints, include_extras=True))
Settings = typing.TypeVar("Settings")
Returned = typing.TypeVar("Returned")


def read(kind: type[Settings], section: Mapping[str, Any], where: str = "") -> Settings:
    """Return a section of a configuration as its settings.

    kind: the dataclass of the settings; what has a default may be missing.
    section: plain values by their keys.
    where: the section's own key, for messages; empty for the whole.

    Raises:
        UserError: an unknown or missing key, or a value of another type or out of range.
    """
    prefix, hints = f"{where}." if where else "", _hints(kind)
    for key in section:
        if key not in hints:
            raise UserError(f"there is no setting '{prefix}{key}'; {choices(str(key), hints)}")
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        needed = field.default is field.default_factory is dataclasses.MISSING
        if needed and field.name not in section:
            raise UserError(f"the setting '{prefix}{field.name}' is missing")
    values = {key: checked(f"{prefix}{key}", value, hints[key]) for key, value in section.items()}
    try:
        return kind(**values)
    except UserError as error:
        raise UserError(in_keys(str(error), where, hints)) from None


def checking(function: Callable[..., Returned]) -> Callable[..., Returned]:
    """Return a function that first holds the keywords it is given against their annotations.

    Its messages have the argument in backticks, which `in_keys` makes the key of a configuration.
    """

    @functools.wraps(function)
    def checked_first(*positional: Any, **given: Any) -> Returned:
        hints = _hints(function)
        known = {key: checked(f"`{key}`", value, hints[key]) for key, value in given.items() if key in hints}
        return function(*positional, **(given | known))

    return checked_first


def checked(key: str, value: Any, hint: Any) -> Any:
    """Return a value that fits its annotation, 1e3 as 1000 where a whole number is expected.

    Raises:
        UserError: it does not fit. The message names the key, what was expected and what came.
    """
    value = whole(value, hint)
    if fits(value, hint):
        return value
    if isinstance(value, Mapping):
        for item_hint in _items_of_mappings(hint):
            for name, item in value.items():
                checked(f"{key}.{name}", item, item_hint)
    options = [str(option) for option in literals(hint)]
    near = (
        f"; did you mean '{found}'?" if isinstance(value, str) and (found := nearest(value, options)) else ""
    )
    kind = "" if _of_kind(value, hint) else f" ({type(value).__name__})"
    raise UserError(f"{key} must be {describe(hint)}, got {value!r}{kind}{near}")


def in_keys(text: str, where: str, arguments: Collection[str]) -> str:
    """Return a constructor's message in the words of a configuration: an argument in backticks is the key below `where`.

    A constructor says "`length` must be at least 1" and knows no configuration; of a node `data` that becomes "data.length must be ...".
    """
    return re.sub(
        r"`(\w+)((?:\.\w+)*)`",
        lambda found: (
            f"{where}{'.' if where else ''}{found[1]}{found[2]}" if found[1] in arguments else found[0]
        ),
        text,
    )


@functools.lru_cache(2**12)
def _parts(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    return typing.get_origin(hint), typing.get_args(hint)


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value fits a type annotation; annotations beyond plain data are taken on trust."""
    if hint is Any:
        return True
    if hint is None or hint is type(None):
        return value is None
    origin, inner = _parts(hint)
    if origin is Annotated:
        ranges = [extra for extra in inner[1:] if isinstance(extra, Range)]
        return fits(value, inner[0]) and all(value in one for one in ranges)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, option) for option in inner)
    if origin is typing.Literal:
        return any(type(value) is type(option) and value == option for option in inner)
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
                not inner
                or (
                    ({*map(type, value)} <= {inner[0]} or all(fits(key, inner[0]) for key in value))
                    and (inner[1] is Any or all(fits(item, inner[1]) for item in value.values()))
                )
            )
        is_abstract = origin.__module__ == "collections.abc" and issubclass(origin, Iterable)
        if is_abstract or issubclass(origin, tuple | list):
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


def literals(hint: Any) -> list[Any]:
    """Return the values that an annotation's `Literal`s list."""
    if typing.get_origin(hint) is typing.Literal:
        return list(typing.get_args(hint))
    return [value for option in typing.get_args(hint) for value in literals(option)]


def _items_of_mappings(hint: Any) -> list[Any]:
    """Return what the items of a mapping must be, of the one kind of mapping that an annotation names."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return [item for option in inner for item in _items_of_mappings(option)]
    return [inner[1]] if inspect.isclass(origin) and issubclass(origin, Mapping) and inner else []


def _items_fit(value: Any, origin: Any, inner: tuple[Any, ...]) -> bool:
    if not inner:
        return True
    if issubclass(origin, tuple) and Ellipsis not in inner:
        return len(value) == len(inner) and all(map(fits, value, inner))
    return all(fits(item, inner[0]) for item in value)


def _of_kind(value: Any, hint: Any) -> bool:
    """Whether a value that does not fit is at least of the expected type, so that naming its own says nothing."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return fits(value, inner[0])
    if origin is typing.Literal:
        return any(isinstance(value, type(option)) for option in inner)
    return (
        any(_of_kind(value, option) for option in inner)
        if origin in (typing.Union, types.UnionType)
        else False
    )


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
    if origin is Annotated:
        if said := [extra for extra in inner[1:] if isinstance(extra, str)]:
            return said[0]
        return " ".join([describe(inner[0]), *(str(one) for one in inner[1:] if isinstance(one, Range))])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(describe(option) for option in inner))
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, inner))
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return f"a mapping to {describe(inner[1])}" if inner and inner[1] is not Any else "a mapping"
    if inspect.isclass(origin) and issubclass(origin, tuple) and inner and Ellipsis not in inner:
        items = list(dict.fromkeys(map(describe, inner)))
        if len(items) == 1:
            return f"a list of {len(inner)} values, each {items[0]}"
        return f"a list of {len(inner)} values ({', '.join(items)})"
    if origin is not None:
        return (
            f"a list of {describe(inner[0])}".replace("of a list", "of lists")
            if inner and inner[0] is not Any
            else "a list"
        )
    return str(getattr(hint, "__name__", hint))
