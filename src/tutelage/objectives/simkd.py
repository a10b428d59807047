"""SimKD: the teacher's last map through a trained projector, and its own classifier after it."""

from __future__ import annotations

from typing import Any

from tutelage.alignment.pairing import Pairing
from tutelage.errors import UserError
from tutelage.models.reused import ReusedClassifier, last_map
from tutelage.objectives.base import Setup
from tutelage.objectives.hint import Hint


class SimKD(Hint):
    """Mean squared difference of the projected last map from the teacher's; the network takes the teacher's final layer.

    The network must be a `models.reused.ReusedClassifier`. Published with no other objective: the weight of the task is 0. Deviation:
    where the student's map is the larger one, it is averaged down after the projector, not before, so that the network needs no teacher
    to run. Source: Chen et al. 2022, arXiv 2203.14001.
    """

    reaches_output = True

    def __init__(self, **common: Any) -> None:
        if "pairing" in common:
            raise UserError("SimKD pairs the two last maps: it takes no `pairing`")
        super().__init__(**common)

    def prepare(self, setup: Setup) -> None:
        """See `Objective.prepare`: find the teacher's last map, and hand its final layer to the network."""
        network, frozen = setup.network, self.frozen_in(setup)
        if not isinstance(network, ReusedClassifier):
            raise UserError(
                f"SimKD trains a network that ends in its teacher's classifier: model=simkd, with the student as model.student, got "
                f"{type(network).__name__}"
            )
        name, final = last_map(frozen.network, setup.example.inputs, frozen)
        network.take_head(final)
        self.pairing = Pairing(strategy="explicit", k=None, pairs=[[name, "projector"]], exclude_output=False)
        super().prepare(setup)
