"""Settings that are right each by itself, and not beside one another: said once, before training."""

from __future__ import annotations

import logging

from tutelage.data.base import DataModule
from tutelage.data.image_set import ImageData
from tutelage.objectives.base import Objective
from tutelage.objectives.consistency import Consistency
from tutelage.objectives.pretext import Pretext
from tutelage.objectives.task import Task

log = logging.getLogger("tutelage")


def warn_of_conflicts(data: DataModule, objectives: dict[str, Objective]) -> None:
    """Say which settings of the data do not go together with the objectives."""
    for warn in (_of_plain_labelled, _of_unread, _of_balanced_twice):
        warn(data, objectives)


def _of_plain_labelled(data: DataModule, objectives: dict[str, Objective]) -> None:
    """Say where unlabelled images are augmented and labelled ones are not: with few labels, answers collapsed to one class."""
    if not isinstance(data, ImageData) or data.augment or data.mixer:
        return
    for name, objective in objectives.items():
        if isinstance(objective, Consistency) and objective.weight and objective.weak:
            log.warning(
                "labelled images are seen as they are, unlabelled ones through method.objectives.%s.weak (%s): a network can tell them "
                "apart and learn the few labelled ones by heart; give data.augment the same, such as +data.augment.%s={}",
                name,
                ", ".join(objective.weak),
                next(iter(objective.weak)),
            )


def _of_unread(data: DataModule, objectives: dict[str, Objective]) -> None:
    """Say what of the data's settings has no effect: an objective without labels makes its own samples, each as often."""
    name = next((name for name, objective in objectives.items() if isinstance(objective, Pretext)), None)
    if name is None:
        return
    unread = ["data.sampling"] * bool(data.sampling)
    unread += ["data.augment's mixing"] * (isinstance(data, ImageData) and bool(data.mixer))
    for setting in unread:
        log.warning(
            "%s has no effect: method.objectives.%s makes its own of each sample, each as often, and reads no label",
            setting,
            name,
        )


def _of_balanced_twice(data: DataModule, objectives: dict[str, Objective]) -> None:
    """Say where rare classes are drawn as often as others and count more as well: one of the two is right, both overshoot."""
    weighted = [
        name for name, one in objectives.items() if isinstance(one, Task) and one.class_weight == "balanced"
    ]
    if data.sampling == "balanced" and weighted:
        log.warning(
            "data.sampling=balanced and method.objectives.%s.class_weight=balanced make up for rare classes twice: give one of them",
            weighted[0],
        )
