"""A named mapping of objectives as one loss: every network runs once a step, terms are weighed, scheduled, balanced and summed here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.alignment.taps import Taps, weight_layers
from tutelage.errors import ONCE, UserError, choices
from tutelage.models.forward_calls import Call
from tutelage.models.frozen import FrozenNetwork, Normalization
from tutelage.objectives.balance import balance_named
from tutelage.objectives.base import OWN_INPUT, NotPrepared, Objective, Reading, Setup, Start, Step
from tutelage.objectives.frozen_cache import TrainingSamples
from tutelage.objectives.opposition import opposition_of
from tutelage.objectives.plain import as_batch, as_frozen, as_task
from tutelage.objectives.reading import Reader
from tutelage.objectives.unlabelled import Unlabelled, UnlabelledTokens, batch_norm_apart
from tutelage.tasks import Batch

log = logging.getLogger("tutelage")
Run = Callable[[Tensor, Tensor | None], Tensor]


class Objectives(nn.Module):
    """The sum of weighted objectives of one network.

        terms = {"task": Task(), "hint": Hint(network="teacher", weight=100.0)}
        total = Objectives(network, terms, frozen={"teacher": teacher}, task=F.cross_entropy, example=x)
        optimizer = torch.optim.Adam([*network.parameters(), *total.parameters()])
        for x, y in batches:
            loss = total(x, y)

    network: the one being trained; it stays outside this module's parameters, which are the objectives' own trained parts.
    objectives: terms by name. frozen: the networks that they read, by name: a FrozenNetwork, or any module, which becomes one.
    task: a `tasks.Task`, or a function of (outputs, targets); objectives that need a task say so.
    example: inputs of a few samples, (inputs, mask), or a batch. batch_size: global, if known, to find early what does not fit.
    index: (samples,) the positions of all training samples in their data set, for objectives that remember each sample.
    class_counts: (classes,) how many training samples each class has, for objectives that align predictions with them.
    mixed_targets: whether batches have probabilities (n, classes) for targets; objectives that single out a class refuse them.
    unlabelled: images or texts without labels, for objectives that look at some beside the batch.
    normalization: means and deviations that images were normalised with, for objectives that change pixels; None: they were not.
    balance: "uncertainty" (arXiv 1705.07115) or "gradient_norm" (arXiv 1711.02257): weights that are learned, on top of the given ones.
    cache: names of frozen networks that are run once for each training sample, see `Memory`; samples: those, None where augmented.
    Raises UserError for what does not fit: a frozen network that is missing, layers, shapes, schedules.
    """

    def __init__(
        self,
        network: nn.Module,
        objectives: Mapping[str, Objective],
        *,
        frozen: Mapping[str, nn.Module] | None = None,
        task: Any = None,
        example: Any,
        batch_size: int | None = None,
        index: Tensor | None = None,
        class_counts: Sequence[int] | None = None,
        unlabelled: Unlabelled | UnlabelledTokens | None = None,
        mixed_targets: bool = False,
        normalization: Normalization | None = None,
        balance: str | None = None,
        cache: Sequence[str] = (),
        samples: TrainingSamples | None = None,
    ) -> None:
        super().__init__()
        if not objectives:
            raise UserError("there is no objective: a method needs at least one")
        self.names = tuple(objectives)
        self.terms = nn.ModuleDict()
        for name, objective in objectives.items():
            _check(name, objective)
            if objective.weight < 0 and not objective.signed:
                log.warning(
                    "the weight of the objective '%s' is %g: the network is trained to make this loss large",
                    name,
                    objective.weight,
                    extra=ONCE,
                )
            objective.name = name
            self.terms[name] = objective
        # In plain containers: these are no children of this module.
        self._network = (network,)
        self.frozen: dict[str, FrozenNetwork] = {n: as_frozen(n, m) for n, m in (frozen or {}).items()}
        self._call = Call.of(network)
        self._average: tuple[nn.Module | None] = (None,)
        self.mixed_targets = mixed_targets
        self.step = self.max_steps = 0  # for use without a Method, which counts its own
        setup = Setup(
            network,
            task=as_task(task),
            frozen=self.frozen,
            example=as_batch(example),
            batch_size=batch_size,
            index=index,
            class_counts=class_counts,
            unlabelled=unlabelled,
            mixed_targets=mixed_targets,
            normalization=normalization,
        )
        for objective in self:
            try:
                if mixed_targets and objective.singles_out_class:
                    raise UserError(
                        f"the objective '{objective.name}' ({type(objective).__name__}) singles out the true class of an image, which one "
                        "mixed of two has not: leave mixup and cutmix out of data.augment, or choose soft_targets or a loss of features"
                    )
                if objective.reads_frozen:
                    objective.frozen_in(setup)
                objective.prepare(setup)
            except UserError as error:
                raise NotPrepared(objective.name, str(error)) from error
        self._taps = Taps(network, [name for objective in self for name in objective.network_layers])
        self._readers = list(self._make_readers(cache, samples))
        self.balance = None if balance is None else balance_named(balance, len(self.names))
        self.opposition = opposition_of(list(self))
        needs_shared = self.opposition is not None or (self.balance is not None and self.balance.needs_shared)
        self._shared = (self._shared_parameter(setup) if needs_shared else None,)
        if self.balance is not None:
            self._check_balance()

    def _make_readers(self, cache: Sequence[str], samples: TrainingSamples | None) -> Iterator[Reader]:
        groups: dict[tuple[str, str, str], list[Objective]] = {}
        for objective in self:
            if objective.reads_frozen:
                owner = objective.name if objective.input == OWN_INPUT else ""
                for name in objective.networks:
                    groups.setdefault((name, objective.input, owner), []).append(objective)
        for name in cache:
            if name not in {network for network, *_ in groups}:
                raise UserError(
                    f"method.cache: no objective reads a frozen network '{name}'; {choices(name, self.frozen)}"
                )
        for (network, kind, _), objectives in groups.items():
            reader = Reader(network, self.frozen[network], kind, objectives)
            if network in cache:
                reader.remember(samples)
            yield reader

    def _check_balance(self) -> None:
        for objective in self:
            if not objective.weight or not objective.schedule.never_off:
                raise UserError(
                    f"method.balance learns the balance of all objectives: '{objective.name}' must have a weight above 0 and count at "
                    f"every step, got weight {objective.weight} and schedule {objective.schedule.name}"
                )

    def _shared_parameter(self, setup: Setup) -> nn.Parameter:
        """The latest weight that every objective reaches: where gradient norms are cheap to compare."""
        layers = [layer.name for layer in weight_layers(setup.layers())]
        reached = [name for objective in self if (name := objective.shared_layer()) is not None]
        last = min(
            reached,
            key=lambda name: layers.index(name) if name in layers else len(layers),
            default=layers[-1] if layers else "",  # a network that is one layer
        )
        parameters = list(setup.network.get_submodule(last).parameters())
        if not parameters:
            raise UserError(f"the network's layer '{last}' has no parameters to balance gradients on")
        return parameters[0]

    def __iter__(self) -> Iterator[Objective]:
        return iter(self.terms._modules.values())  # type: ignore[arg-type]  # ten times a step: at once

    def __getitem__(self, name: str) -> Objective:
        return self.terms[name]  # type: ignore[return-value]

    @property
    def reaches_all(self) -> bool:
        """Whether every step gives every trained parameter a gradient, if only of zeros."""
        on = [objective for objective in self if objective.weight and objective.schedule.never_off]
        parts = all(o in on or not any(p.requires_grad for p in o.parameters()) for o in self)
        never_alone = not any(o.schedule.name == "alone_first" for o in self)
        return parts and never_alone and any(objective.reaches_output for objective in on)

    # --- a step

    def factors(self, step: int, max_steps: int) -> dict[str, float]:
        """Return weight times schedule of each objective at an update, from 0."""
        off = {name for name, ended in self.opposition.ended.items() if ended} if self.opposition else set()
        if alone := {o.name for o in self if o.schedule.keeps_others_off(step)}:
            off |= {*self.names} - alone
        return {o.name: 0.0 if o.name in off else o.schedule.factor(step, max_steps) * o.weight for o in self}

    def weights(self, step: int, max_steps: int) -> dict[str, float | Tensor]:
        """Return what multiplies each objective's number at an update."""
        factors: dict[str, float | Tensor] = dict(self.factors(step, max_steps))
        if self.balance is not None:
            learned = self.balance.weights().unbind()
            factors = {n: learned[i] * factors[n] for i, n in enumerate(self.names)}
        return factors

    def computed(self, step: int, max_steps: int) -> list[Objective]:
        """Return the objectives that are computed at an update: those that count, and those that are watched."""
        return self._computed(self.factors(step, max_steps), step)

    def _computed(self, factors: Mapping[str, float], step: int) -> list[Objective]:
        if not any(factors.values()):
            raise UserError(
                f"no objective counts at step {step}: their weights are 0, or their schedules off"
            )
        return [o for o in self if factors[o.name] or (o.schedule.watched and o.weight)]

    def take(self, batch: Batch, run: Run, *, step: int = 0, max_steps: int = 0, draw: int = 0) -> Step:
        """Run every network that is needed at this update, once, and return what came of it.

        run: the network on (inputs, mask). draw: counts batches, where an update takes several.
        """
        computed = self.computed(step, max_steps)
        shown = {o.name: o.shows(batch, draw) for o in computed if o.input == OWN_INPUT}
        frozen: dict[str, Reading] = {}
        otherwise: dict[str, dict[str, Reading]] = {}
        seen = batch
        for reader in self._readers:
            asked = [o for o in computed if any(o is one for one in reader.objectives)]
            if asked:
                saw, gave = reader(shown.get(asked[0].name, batch), asked)
                seen = saw if any(o.shares_input for o in asked) else seen
                if reader.kind == "batch":
                    frozen[reader.name] = gave
                for objective in asked if reader.kind != "batch" else ():
                    otherwise.setdefault(objective.name, {})[reader.name] = gave
        extra = {o.name: found for o in computed if (found := o.extra_inputs(batch, draw, self._average[0]))}
        if shown and len(computed) == 1:
            (seen,) = shown.values()
        else:
            extra |= {name: [saw.inputs] for name, saw in shown.items() if saw is not batch}
        others: dict[str, list[Tensor]] = {}
        tapped = any(o.network_layers for o in computed)
        with self._taps.recording() if tapped else nullcontext():
            if not extra:
                output = run(seen.inputs, seen.mask)
            else:
                output, others = self._run_with(extra, seen, run)
        activations = self._taps.collect() if tapped else {}
        if extra:
            activations = {name: x[: len(batch.inputs)] for name, x in activations.items()}
        return Step(seen, output, activations, frozen, others, otherwise=otherwise)

    def _run_with(
        self, extra: Mapping[str, Sequence[Tensor]], batch: Batch, run: Run
    ) -> tuple[Tensor, dict[str, list[Tensor]]]:
        parts = [batch.inputs, *(part for found in extra.values() for part in found)]
        apart = any(getattr(self[name], "norms_apart", False) for name in extra)
        mask = (
            None if batch.mask is None else batch.mask.repeat(len(parts), 1)
        )  # masked samples are added whole batches at a time
        with batch_norm_apart(self._network[0], len(batch.inputs)) if apart else nullcontext():
            output, *rest = run(torch.cat(parts), mask).split([len(part) for part in parts])
        outputs: dict[str, list[Tensor]] = {}
        for name, found in extra.items():
            outputs[name], rest = rest[: len(found)], rest[len(found) :]
        return output, outputs

    def losses(self, taken: Step, *, step: int = 0, max_steps: int = 0) -> dict[str, Tensor]:
        """Return the unweighted terms of a step by name; those that are only watched carry no gradient."""
        factors = self.factors(step, max_steps)
        found = {
            o.name: o.loss(taken.of(o.name)) if factors[o.name] else o.loss(taken.of(o.name)).detach()
            for o in self._computed(factors, step)
        }
        if self.opposition is not None:
            self.opposition.see(found, factors, self._shared[0], step)  # type: ignore[arg-type]
        if self.balance is None:
            return found
        values = self.balance.see(torch.stack(list(found.values())), self._shared[0])
        return dict(zip(found, values.unbind(), strict=True))

    def forward(self, inputs: Any, targets: Tensor | None = None, *, mask: Tensor | None = None) -> Tensor:
        """Return the weighted sum of a batch, of plain tensors or a Batch, and count an update: for a training loop of one's own."""
        batch = as_batch(inputs, targets, mask)
        (network,) = self._network
        at = {"step": self.step, "max_steps": self.max_steps}
        taken = self.take(batch, partial(self._call, network), draw=self.step, **at)
        found, weights = self.losses(taken, **at), self.weights(**at)
        self.step += 1
        if self.opposition is not None:
            self.opposition.updated(self.step)
        return weighted_sum(found, weights)

    # --- around the steps

    def use_average(self, average: nn.Module | None) -> None:
        """Let the objectives know the moving average of the network, or that there is none.

        Raises UserError where one needs it.
        """
        self._average = (average,)
        for objective in self:
            if objective.needs_average and average is None:
                raise UserError(
                    f"the objective '{objective.name}' learns from the average of the network: set method.ema_decay above 0"
                )

    def start(self, start: Start) -> None:
        """Get every objective ready for training. Raises UserError for one whose others, or which itself, would never begin."""
        lasting = any(o.schedule.name not in ("from", "until") and o.weight for o in self)
        for objective in self:
            objective.schedule.check_length(
                start.max_steps, objective.name, lasting=lasting, quiet=start.rank > 0
            )
            objective.start(start)

    def updated(self, count: int) -> None:
        """Let the objectives see the network after its update of this number, from 1."""
        for objective in self:
            objective.updated(count)
        if self.opposition is not None:
            self.opposition.updated(count)

    def record(self) -> dict[str, float]:
        """Return what the objectives record beside their numbers, and the weights that are learned."""
        found = {key: value for objective in self for key, value in objective.record().items()}
        if self.opposition is not None:
            found |= self.opposition.record()
        if self.balance is not None:
            learned = self.balance.weights().tolist()
            found |= {f"weight/{name}": value for name, value in zip(self.names, learned, strict=True)}
        return found

    def describe(self) -> dict[str, Any]:
        """Return what the objectives say of themselves, by name; those that say nothing are left out."""
        return {o.name: described for o in self if (described := o.describe())}

    def release(self) -> None:
        """Give caches back."""
        for reader in self._readers:
            if reader.memory is not None:
                reader.memory.forget()


def weighted_sum(terms: Mapping[str, Tensor], weights: Mapping[str, float | Tensor]) -> Tensor:
    """Return the sum of terms, each one number, times their weights."""
    weighted = [weights[name] * value for name, value in terms.items()]
    return torch.stack(weighted).sum() if len(weighted) > 1 else weighted[0]


def _check(name: str, objective: Any) -> None:
    if not isinstance(objective, Objective):
        raise UserError(
            f"the objective '{name}' must be a tutelage.objectives.base.Objective, got {type(objective).__name__}"
        )
    if not name.isidentifier() or hasattr(nn.ModuleDict(), name) or name == "loss":
        raise UserError(
            f"an objective cannot be named '{name}': choose another word of letters, digits and _"
        )
