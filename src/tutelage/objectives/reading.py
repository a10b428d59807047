"""A frozen network, run once a step for all objectives that read it, up to the last layer that one of them wants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tutelage.alignment.guides import FeatureGuide, guide_input_like
from tutelage.alignment.taps import Taps
from tutelage.errors import UserError
from tutelage.models.frozen import FrozenNetwork
from tutelage.objectives.base import OWN_INPUT, Objective, Reading
from tutelage.objectives.frozen_cache import Keep, Memory, TrainingSamples
from tutelage.tasks import Batch

OUTPUT = ""  # the name of a network's output beside its layers' names


class Reader:
    """Runs one frozen network on one kind of input for the objectives that ask for it in a step.

    kind: batch | gaussian | released_noise, see `guide_input_like`; OWN_INPUT: it is given what to show. An objective that consumes
    activations gets each as it appears; for the others they are held until the step is over.
    """

    def __init__(self, name: str, frozen: FrozenNetwork, kind: str, objectives: Sequence[Objective]) -> None:
        self.name, self.frozen, self.kind = name, frozen, kind
        self.objectives = list(objectives)
        self.memory: Memory | None = None
        self._asked: Sequence[Objective] = ()
        self._taps: dict[tuple[str, ...], Taps] = {}

    def __call__(self, batch: Batch, asked: Sequence[Objective]) -> tuple[Batch, Reading]:
        """Run the network for the objectives asked for, and return what it saw and gave."""
        seen = batch
        if self.kind not in ("batch", OWN_INPUT):
            seen = batch._replace(inputs=guide_input_like(batch.inputs, self.kind))
        for objective in asked:
            objective.begin(seen)
        self._asked = asked
        given: Mapping[str, Tensor] | None = None
        if self.memory is not None:
            given = self.memory(batch)
        elif isinstance(self.frozen.network, FeatureGuide):
            given = self.frozen.network(seen)
        if given is not None:
            return seen, Reading(given.get(OUTPUT), self._distribute(given))
        wants_output = any(objective.wants_output for objective in asked)
        taps = self._taps_of(asked, stop=not wants_output)
        output = None
        with torch.no_grad(), taps.recording():
            output = self.frozen(seen.inputs, seen.mask)
        return seen, Reading(output, taps.collect())

    def _taps_of(self, asked: Sequence[Objective], *, stop: bool) -> Taps:
        key = tuple(objective.name for objective in asked)
        if key not in self._taps:
            held = [name for o in asked if not o.consumes for name in o.frozen_layers]
            names = [name for o in asked for name in o.frozen_layers]
            self._taps[key] = Taps(
                self.frozen.network, names, consume=self._pass_on, hold=dict.fromkeys(held), stop=stop
            )
        return self._taps[key]

    def _pass_on(self, name: str, activation: Tensor) -> None:
        for objective in self._asked:
            if objective.consumes and name in objective.frozen_layers:
                objective.consume(name, activation)

    def _distribute(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        held = {}
        for name in dict.fromkeys(name for o in self._asked for name in o.frozen_layers):
            if name not in given:
                raise UserError(
                    f"the frozen network '{self.name}' returned no feature '{name}', only {', '.join(given) or 'none'}"
                )
            self._pass_on(name, given[name])
            held[name] = given[name]
        return held

    def remember(self, samples: TrainingSamples | None) -> None:
        """Run the network once for each training sample from now on. Raises UserError where that would change what is computed."""
        if self.kind == OWN_INPUT:
            raise UserError(
                f"method.cache: the objective '{self.objectives[0].name}' shows '{self.name}' what it makes anew in each step, so that "
                "nothing can be kept: set method.cache=[]"
            )
        if self.kind != "batch" or isinstance(self.frozen.network, FeatureGuide):
            raise UserError(
                f"method.cache: '{self.name}' must be a network that sees the batch (input=batch): noise is drawn anew each step, and a "
                "rule is computed as fast as it is looked up"
            )
        self.memory = Memory(self._look, samples, self.frozen, name=self.name)

    def _look(self, batch: Batch, keep: Keep) -> None:
        names = dict.fromkeys(name for o in self.objectives for name in o.frozen_layers)
        wants_output = any(objective.wants_output for objective in self.objectives)
        with (
            Taps(self.frozen.network, names, consume=keep, stop=not wants_output) as taps,
            taps.recording(),
            torch.no_grad(),
        ):
            output = self.frozen(batch.inputs, batch.mask)
            keep(OUTPUT, output)
