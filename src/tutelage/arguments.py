"""Checks of constructor arguments, one message for each kind of mistake."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tutelage.errors import UserError, choices


def positive(owner: str, **values: int) -> None:
    """Raise UserError unless every value is a whole number of at least 1."""
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{owner}: {name} must be a whole number of at least 1, got {value!r}")


def fraction(owner: str, **values: float) -> None:
    """Raise UserError unless every value lies in [0, 1)."""
    for name, value in values.items():
        if not isinstance(value, int | float) or not 0 <= value < 1:
            raise UserError(f"{owner}: {name} must be at least 0 and below 1, got {value!r}")


def one_of(owner: str, known: Iterable[str], **values: str) -> None:
    """Raise UserError unless every value is one of the known names."""
    known = list(known)
    for name, value in values.items():
        if value not in known:
            raise UserError(f"{owner}: unknown {name} {value!r}; {choices(str(value), known)}")


def image_shape(owner: str, input_shape: Sequence[int], *, at_least_px: int = 1) -> tuple[int, int, int]:
    """Return (channels, height, width); UserError when the inputs are no images or too small ones."""
    if len(input_shape) != 3:
        raise UserError(
            f"{owner} takes images (channels, height, width), got inputs of shape {tuple(input_shape)}"
        )
    channels, height, width = input_shape
    positive(owner, channels=channels, height=height, width=width)
    if min(height, width) < at_least_px:
        raise UserError(f"{owner} needs images of at least {at_least_px} px, got {height} x {width}")
    return channels, height, width
