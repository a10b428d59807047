"""Augmentations by name, as a configuration gives them: `{random_crop: {padding: 4}, horizontal_flip: {}}`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tutelage.data.augment_basic import Augmentation, Chain, HorizontalFlip, RandomCrop, RandomResizedCrop
from tutelage.data.augment_colour import ColourJitter, RandomErasing
from tutelage.data.augment_strong import Cutout, RandAugment
from tutelage.data.mixing import CutMix, Mixer, Mixing, Mixup
from tutelage.errors import UserError, choices

AUGMENTATIONS: dict[str, Callable[..., Augmentation | Mixing]] = {
    "random_crop": RandomCrop,
    "horizontal_flip": HorizontalFlip,
    "random_resized_crop": RandomResizedCrop,
    "rand_augment": RandAugment,
    "cutout": Cutout,
    "colour_jitter": ColourJitter,
    "random_erasing": RandomErasing,
    "mixup": Mixup,
    "cutmix": CutMix,
}
"""Augmentations that a configuration may name."""


def build(wanted: Mapping[str, Mapping[str, Any] | Augmentation | None]) -> Chain | None:
    """Return the named augmentations of single images in the order given, see `build_all`. Raises UserError where one mixes images."""
    chain, mixer = build_all(wanted)
    if mixer is not None:
        names = " and ".join(type(way).__name__ for way in mixer.ways)
        raise UserError(
            f"{names} mixes images with their targets, which views without targets have not: leave it out here"
        )
    return chain


def build_all(
    wanted: Mapping[str, Mapping[str, Any] | Augmentation | None],
) -> tuple[Chain | None, Mixer | None]:
    """Return the named augmentations in the order given, each from its arguments; None leaves one out; an object is taken as it is.

    Those of single images come first, then those that mix images of a batch. Raises UserError for an unknown name or argument.
    """
    steps: list[Augmentation] = []
    ways: list[Mixing] = []
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
            raise UserError(f"there is no augmentation '{name}'; {choices(name, AUGMENTATIONS)}")
        try:
            step = AUGMENTATIONS[name](**arguments)
        except TypeError as error:
            raise UserError(
                f"`augment.{name}`: {dict(arguments)} does not fit its arguments ({error})"
            ) from error
        if isinstance(step, Mixing):
            ways.append(step)
        else:
            steps.append(step)
    return Chain(steps) if steps else None, Mixer(ways) if ways else None
