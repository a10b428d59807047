"""What every objective is, what it is told of the networks, and what it is given at each step."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from tutelage.alignment.alignment import layers_of_guide
from tutelage.alignment.guides import FeatureGuide
from tutelage.alignment.taps import Layer, probe
from tutelage.errors import UserError, nearest
from tutelage.models.forward_calls import Call
from tutelage.models.frozen import FrozenNetwork, Normalization
from tutelage.objectives.schedule import Schedule
from tutelage.objectives.unlabelled import Unlabelled, UnlabelledTokens
from tutelage.tasks import Batch, Task

OWN_INPUT = "own"
"""The `input` of an objective that makes what its frozen network sees, by `shows`."""


class NotPrepared(UserError):
    """An objective cannot be prepared; `objective` is its name. Arguments of its constructor stand in backticks."""

    def __init__(self, objective: str, said: str) -> None:
        super().__init__(said if f"'{objective}'" in said else f"objective '{objective}': {said}")
        self.objective = objective


class Reading(NamedTuple):
    """What a frozen network gave in a step: its output, where an objective wants it, and the activations that one holds."""

    output: Tensor | None
    activations: Mapping[str, Tensor]


@dataclass(frozen=True)
class Step:
    """One training step, each network run once.

    batch: as loaded. output: the network's on it. activations: of the network's layers that objectives tap, by name. frozen: what each
    frozen network gave on the batch, by name. extra: the network's outputs on what an objective added to its inputs, by the objective's
    name. made: values that a method makes itself, by name. otherwise: what frozen networks gave on something else in place of the batch, by
    the objective's name.
    """

    batch: Batch
    output: Tensor = None  # type: ignore[assignment]  # of a method that runs its network on something else
    activations: Mapping[str, Tensor] = field(default_factory=dict)
    frozen: Mapping[str, Reading] = field(default_factory=dict)
    extra: Mapping[str, Sequence[Tensor]] = field(default_factory=dict)
    made: Mapping[str, Tensor] = field(default_factory=dict)
    otherwise: Mapping[str, Mapping[str, Reading]] = field(default_factory=dict)

    def of(self, objective: str) -> Step:
        """Return the step as an objective sees it."""
        own = self.otherwise.get(objective)
        return self if own is None else replace(self, frozen={**self.frozen, **own})


@dataclass(eq=False)
class Setup:
    """What an objective is prepared with: the networks, and a few samples to find their layers and shapes.

    network: the one being trained. task: what the targets mean. frozen: networks by name. example: a few samples. batch_size: global,
    if known. index: (samples,) int64, the positions of all training samples in their data set, if known. class_counts: (classes,) how
    many labelled training samples each class has, if known. unlabelled: images or texts beside the labelled ones, if there are any.
    mixed_targets: whether the targets of training batches are probabilities of several classes. normalization: means and deviations of
    the channels that images were normalised with; None: they were not.
    """

    network: nn.Module
    _: KW_ONLY
    task: Task | None
    frozen: Mapping[str, FrozenNetwork]
    example: Batch
    batch_size: int | None = None
    index: Tensor | None = None
    class_counts: Sequence[int] | None = None
    unlabelled: Unlabelled | UnlabelledTokens | None = None
    mixed_targets: bool = False
    normalization: Normalization | None = None

    def __post_init__(self) -> None:
        self.call = Call.of(self.network)
        self._found: dict[str, list[Layer]] = {}

    def layers(self) -> list[Layer]:
        """Return the network's layers, see `taps.probe`."""
        if "" not in self._found:
            run = partial(self.call, self.network)
            self._found[""] = probe(self.network, self.example.inputs, self.example.mask, run=run)
        return self._found[""]

    def frozen_layers(self, name: str) -> list[Layer]:
        """Return a frozen network's layers; of a FeatureGuide, its named features."""
        if name not in self._found:
            frozen = self.frozen[name]
            self._found[name] = (
                layers_of_guide(frozen.network, self.example)
                if isinstance(frozen.network, FeatureGuide)
                else probe(frozen.network, self.example.inputs, self.example.mask, run=frozen)
            )
        return self._found[name]

    @torch.no_grad()
    def output(self) -> Tensor:
        """Return the network's output on the example, in eval mode."""
        was_training = self.network.training
        try:
            return self.call(self.network.eval(), self.example.inputs, self.example.mask)
        finally:
            self.network.train(was_training)


class Start(NamedTuple):
    """What is known when training starts: updates in all, batches per update, and this process's place."""

    max_steps: int
    accumulate: int
    rank: int
    world_size: int
    device: torch.device
    seed: int


class Objective(nn.Module):
    """One named term of a loss. A subclass writes `loss`, and `prepare` where it taps layers or trains parts of its own.

    network: name of the frozen network that it reads; of several, a list, where it `reads_several`. weight: what its number is multiplied
    by. schedule: when and how much of that counts. The last two are read by `Objectives` alone: `loss` returns an unweighted number.
    Modules and parameters that it holds are trained along and left out of the network that is kept.
    """

    reads_frozen: ClassVar[bool] = False
    """Whether it needs a frozen network at all."""
    reads_several: ClassVar[bool] = False
    """Whether it can read several frozen networks at once, an ensemble."""
    consumes: ClassVar[bool] = False
    """Whether it takes each activation of the frozen network as it appears, by `consume`, so that it need not be held."""
    singles_out_class: ClassVar[bool] = False
    """Whether it asks which class is the true one, which an image mixed of two has not."""
    reaches_output: ClassVar[bool] = True
    """Whether its gradient reaches all of the network; if not, no layer beyond those it taps."""
    compares_classes: bool = False
    """Whether it compares outputs class by class: network and frozen network must number the same classes."""
    expects_trained: ClassVar[bool] = False
    """Whether an untrained frozen network has nothing to give it."""
    signed: ClassVar[bool] = False
    """Whether a negative weight has a meaning of its own; of others it is a warning."""
    needs_average: ClassVar[bool] = False
    """Whether it needs a method that keeps a moving average of the network."""
    own_passes: int = 0
    """How often it ran the network itself at the latest step, beside the one forward that all objectives share."""

    def __init__(
        self,
        *,
        network: str | Sequence[str] | None = None,
        weight: float = 1.0,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__()
        if self.reads_frozen and not network:
            raise UserError(
                f"{type(self).__name__} reads a frozen network: set `network`, such as guide or teacher"
            )
        self.networks = (network,) if isinstance(network, str) else tuple(network or ())
        if len(self.networks) > 1 and not self.reads_several:
            raise UserError(
                f"{type(self).__name__} reads one frozen network, got `network`={list(self.networks)}: the mean of several "
                "teachers' outputs is for losses of outputs, such as soft_targets; for others, add an objective for each teacher"
            )
        if len(set(self.networks)) < len(self.networks) or not all(isinstance(n, str) for n in self.networks):
            raise UserError(f"`network` must be a name, or a list of different names, got {network}")
        self.network = self.networks[0] if self.networks else None
        self.weight, self.schedule = float(weight), schedule or Schedule()
        self.name = type(self).__name__.lower()  # until it is given its own
        self.network_layers: tuple[str, ...] = ()
        self.frozen_layers: tuple[str, ...] = ()
        self.wants_output = False  # of the frozen network
        self.input = "batch"  # or what the frozen network sees in its place: see `guides.guide_input_like`, and OWN_INPUT
        self.shares_input = False  # whether the network sees that, too

    # --- what a subclass writes

    def prepare(self, setup: Setup) -> None:
        """Find the layers to tap and build parts of its own; raise UserError for what does not fit."""

    @abstractmethod
    def loss(self, step: Step) -> Tensor:
        """Return the unweighted term, one number."""

    def shared_layer(self) -> str | None:
        """Return the network's last layer that its gradient reaches; None: the last of all."""
        return None

    def describe(self) -> dict[str, Any]:
        """Return what the record should say of it beyond its configuration."""
        return {}

    def record(self) -> dict[str, float]:
        """Return further values for the record, by name, as means since the last call."""
        return {}

    def start(self, start: Start) -> None:
        """Get ready for training, on its device."""

    def updated(self, count: int) -> None:
        """See the network after its update of this number, from 1."""

    def consume(self, name: str, activation: Tensor) -> None:
        """Take an activation of the frozen network, if `consumes`."""

    def begin(self, batch: Batch) -> None:
        """See what the frozen network is about to see."""

    def extra_inputs(self, batch: Batch, draw: int, average: nn.Module | None) -> list[Tensor]:
        """Return tensors (n, ...) that the network should see beside the batch, in the same forward. draw: counts batches."""
        return []

    def shows(self, batch: Batch, draw: int) -> Batch:
        """Return what its frozen network and the network see in place of the batch, if `input` is OWN_INPUT. draw: counts batches."""
        return batch

    # --- for use by subclasses

    def frozen_in(self, setup: Setup) -> FrozenNetwork:
        """Return the frozen network that it reads. Raises UserError where there is none of that name."""
        return self.all_frozen_in(setup)[0]

    def all_frozen_in(self, setup: Setup) -> list[FrozenNetwork]:
        """Return the frozen networks that it reads, at least one. Raises UserError where there is none of a name."""
        for name in self.networks:
            if name not in setup.frozen:
                raise UserError(missing(self.name, name, setup.frozen))
        return [setup.frozen[name] for name in self.networks]


def missing(objective: str, network: str, known: Mapping[str, Any]) -> str:
    """Return the message for a frozen network that an objective reads and nobody gave."""
    role = network if network in ("guide", "teacher", "source") else f"frozen.{network}"
    near = nearest(network, known)
    given = f" (given: {', '.join(known)})" if known else ""
    given += f", did you mean '{near}'? Else" if near else ":"
    return (
        f"the objective '{objective}' reads the frozen network '{network}', which is not there{given} add "
        f"model@{role}=<model>, for instance model@{role}=resnet18 (`tutelage list models` shows all)"
    )
