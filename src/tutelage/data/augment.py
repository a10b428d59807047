"""Augmentations by name, as a configuration gives them: `{random_crop: {padding: 4}, horizontal_flip: {}}`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tutelage.data.augment_basic import Augmentation, Chain, HorizontalFlip, RandomCrop, RandomResizedCrop
from tutelage.data.augment_strong import Cutout, RandAugment
from tutelage.errors import UserError, choices

AUGMENTATIONS: dict[str, Callable[..., Augmentation]] = {
    "random_crop": RandomCrop,
    "horizontal_flip": HorizontalFlip,
    "random_resized_crop": RandomResizedCrop,
    "rand_augment": RandAugment,
    "cutout": Cutout,
}
"""Augmentations that a configuration may name."""


def build(
    wanted: Mapping[str, Mapping[str, Any] | Augmentation | None],
) -> Chain | None:
    """Return the named augmentations in the order given, each from its arguments; None leaves one out; an object is taken as it is.

    Raises UserError for an unknown name or argument.
    """
    steps: list[Augmentation] = []
    for name, arguments in wanted.items():
        if arguments is None:
            continue
        if callable(arguments):
            steps.append(arguments)
            continue
        if not isinstance(arguments, Mapping):
            raise UserError(
                f"`augment.{name}` must be a mapping of its arguments, or null, got {arguments!r}"
            )
        if name not in AUGMENTATIONS:
            raise UserError(f"there is no augmentation '{name}': {choices(name, AUGMENTATIONS)}")
        try:
            steps.append(AUGMENTATIONS[name](**arguments))
        except TypeError as error:
            raise UserError(
                f"`augment.{name}`: {dict(arguments)} does not fit its arguments ({error})"
            ) from error
    return Chain(steps) if steps else None
