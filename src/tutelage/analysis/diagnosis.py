"""A network before its training: what passes its layers, and what a few steps under each of several guides make of it."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tutelage.alignment.taps import Taps, input_of
from tutelage.data.base import DataModule, SplitBatches
from tutelage.engine.data_sets import build_data
from tutelage.engine.networks import build_network, sizes_of
from tutelage.engine.signal import Signal, rows_of, signal
from tutelage.errors import UserError
from tutelage.jobs.plain_log import quietly
from tutelage.methods.base import step_seed
from tutelage.models.forward_calls import undisturbed
from tutelage.models.frozen import FrozenNetwork
from tutelage.runs.words import joined, key_of
from tutelage.tasks import Batch, Classification, Tokens

BATCHES = 4
"""Batches whose gradients are compared."""
SAMPLES = 512
"""Training samples whose features give the class means, and validation samples that are read by them; evenly spaced over the split."""
_VIT = [
    "model@guide=timm",
    "guide.name=vit_tiny_patch16_224",
    "+guide.options.patch_size=4",
    "+guide.options.embed_dim=96",
    "+guide.options.depth=6",
    "+guide.options.num_heads=3",
]
_ENCODER = ["model@guide=transformer_encoder", "guide.depth=2", "guide.width=64"]
_DECODER = ["model@guide=transformer_decoder", "guide.depth=2", "guide.width=64"]
_LSTM = ["model@guide=lstm", "guide.depth=2", "guide.width=64"]
GUIDES: dict[str, dict[str, list[str]]] = {
    "images": {"residual_convnet": ["model@guide=residual_convnet"], "vit": _VIT, "gradients": ["model@guide=rule/oriented_gradients"]},
    "tokens": {"transformer": _ENCODER, "lstm": _LSTM},
    "tokens ahead": {"transformer": _DECODER, "lstm": _LSTM},
    "series": {"transformer": _ENCODER, "lstm": _LSTM},
}  # fmt: skip
"""Guides that are tried where none are named, by the kind of data: small and untrained."""
_OF_EVERY_METHOD = ("method.objectives.task.", "method.ema_decay")
_AMONG_OTHERS = ("method.objectives.task.weight", "method.objectives.task.schedule")
"""What says how much the task counts beside other objectives, and when; 0 of it alone would be nothing."""
_FROZEN = ("guide.", "teacher.", "frozen.", "model@guide", "model@teacher", "model@frozen.")


@dataclass(frozen=True)
class Subject:
    """A network as its run would begin, its data, and the configuration that says both."""

    config: dict[str, Any]
    data: DataModule
    network: nn.Module

    def signal(self) -> Signal:
        """See `signal`: on the first batches of its training."""
        return _signal(self.network, self.data, self.config)

    def state(self, layers: Sequence[str]) -> State:
        """See `state_of`."""
        return state_of(self.network, self.data, layers)


@dataclass(frozen=True)
class State:
    """What a network does with validation samples, batch norms on the batch.

    loss, metric: the task's. samples: of validation.
    readable: for each layer the share of samples whose class is that of the nearest class mean of what the layer is given, means taken
    over training samples; empty where there are no classes.
    """

    loss: float
    metric: float
    readable: tuple[float, ...]
    samples: int = SAMPLES

    @property
    def depth_read(self) -> float:
        """Mean over layers: how deep the classes can be read; NaN where there are none."""
        return sum(self.readable) / len(self.readable) if self.readable else float("nan")


@dataclass(frozen=True)
class Probe:
    """What a few steps made of a network.

    words: of the training command, without its length.
    """

    label: str
    words: tuple[str, ...]
    steps: int
    seconds: float
    state: State
    signal: Signal


def opened(words: Sequence[str]) -> Subject:
    """Return the network of a training command as it begins. Raises UserError."""
    from tutelage.config.compose import compose

    config = compose(words)
    if "generator" in str(config["method"].get("_makes_", "")) or not config["method"].get("objectives"):
        raise UserError(
            "diagnose looks at a network that learns a task; this method trains or runs a generator: choose method=supervised or guidance"
        )
    data = build_data(config)
    network = build_network("model", config, sizes_of(data))
    return Subject(config, data, network)


def guides_for(data: DataModule) -> dict[str, list[str]]:
    """Return the guides that are tried on such data where none are named."""
    if isinstance(data.task, Tokens) and data.task.next_token:
        return GUIDES["tokens ahead"]
    if data.vocab_size is not None:
        return GUIDES["tokens"]
    return GUIDES.get({3: "images", 2: "series"}.get(len(data.input_shape), ""), {})


def probes(
    words: Sequence[str], guides: Mapping[str, Sequence[str]], *, steps: int, subject: Subject
) -> Iterator[Probe | tuple[str, str]]:
    """Train a few steps alone, then under each guide, as runs `diagnose/<label>`; yield what came, or (label, why it could not be).

    guides: words by label; no words: the guide of the command itself.
    Given again, the stored runs are read.
    """
    alone, _ = apart_from_method(words)
    guide, teacher = ([f"{role}=null"] if subject.config.get(role) else [] for role in ("guide", "teacher"))
    yield _probe("alone", joined(alone, ["method=supervised", *guide, *teacher]), steps, subject)
    for label, given in guides.items():
        try:
            own = [*joined(alone, ["method=guidance", *teacher]), *given] if given else list(words)
            yield _probe(label, own, steps, subject)
        except UserError as error:
            yield label, str(error).splitlines()[0]


def told_apart(probe: Probe, other: Probe) -> bool:
    """Whether one of two probes reads classes deeper by more than two standard errors of a share of the validation samples; where there
    are no classes, whether their losses differ by a hundredth.
    """
    mine, theirs = probe.state, other.state
    if not mine.readable:
        return abs(mine.loss - theirs.loss) > 0.01 * abs(theirs.loss)
    share = (mine.depth_read + theirs.depth_read) / 2
    return abs(mine.depth_read - theirs.depth_read) > 2 * math.sqrt(2 * share * (1 - share) / mine.samples)


def ranked(found: Sequence[Probe]) -> list[Probe]:
    """Return probes, the most promising first: by how deep classes are read, and where there are none by the validation loss."""
    return sorted(found, key=lambda p: -p.state.depth_read if p.state.readable else p.state.loss)


def apart_from_method(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words of a command without its method, frozen networks and name, and those left out that set anything of the method.

    What every method on the task has stays: the task's own settings, but for how much it counts, and the moving average.
    """
    from tutelage.config.shorthand import written_out

    kept: list[str] = []
    left: list[str] = []
    for word in written_out(words):
        key = key_of(word)
        if key.startswith(_OF_EVERY_METHOD) and not key.startswith(_AMONG_OTHERS):
            kept.append(word)
        elif key.startswith("method.") or "@method." in key:
            left.append(word)
        elif key not in ("method", "name", "guide", "teacher") and not key.startswith(_FROZEN):
            kept.append(word)
    return kept, left


def _probe(label: str, words: Sequence[str], steps: int, subject: Subject) -> Probe:
    from tutelage.config.planner import plan_of
    from tutelage.engine.load import load_run
    from tutelage.jobs.launch import run_plan
    from tutelage.runs.store import Store

    short = [f"fit.max_steps={steps}", f"fit.validate_every_steps={steps}", f"fit.log_every_steps={steps}"]
    plan = plan_of(joined(words, [f"name=diagnose/{label}", "logger=none", *short]))
    begun = time.perf_counter()
    with quietly():
        run_plan(plan, say=lambda _: None)
    run = Store(plan.config["runs_dir"]).run(plan.name, plan.identity)
    network = load_run(Path(run.path), runs_dir=plan.config["runs_dir"]).network
    seen = _signal(network, subject.data, subject.config)
    state = state_of(network, subject.data, [layer.name for layer in seen.layers])
    return Probe(label, tuple(words), steps, time.perf_counter() - begun, state, seen)


def _signal(network: nn.Module, data: DataModule, config: Mapping[str, Any]) -> Signal:
    stream = data.train_stream(seed=config["seed"], device="cpu")
    stream.seek(0, BATCHES)
    batches = list(itertools.islice(stream, BATCHES))
    return signal(network, data.task, batches, seed=step_seed(config["seed"], 0))


@torch.no_grad()
def state_of(network: nn.Module, data: DataModule, layers: Sequence[str]) -> State:
    """Return what a network does with validation samples; layers: those that classes are read from."""
    trained = [p for p in network.parameters() if p.requires_grad]
    train, validation = (_samples(data, split) for split in ("train", "validation"))
    metrics = data.task.metrics()
    features: list[dict[str, Tensor]] = []
    with undisturbed(network), Taps(network, [input_of(layer) for layer in layers]) as taps:
        # Running statistics lag behind a network that has just begun to learn: the batch's own are used.
        frozen = FrozenNetwork(network, norm_mode="batch")
        for batch in (train, validation):
            with taps.recording():
                output = frozen(batch.inputs, batch.mask)
            features.append({name: rows_of(tensor, batch.mask) for name, tensor in taps.collect().items()})
    for parameter in trained:
        parameter.requires_grad_(True)
    metrics.update(output, validation)
    values = metrics.compute()
    readable: tuple[float, ...] = ()
    if isinstance(data.task, Classification):
        known, asked = features
        readable = tuple(
            nearest_mean(known[name], train.targets, asked[name], validation.targets) for name in known
        )
    return State(values["loss"], values[data.task.monitor], readable, len(validation.inputs))


def _samples(data: DataModule, split: str) -> Batch:
    index = data.splits[split]  # of an image folder they lie class by class
    chosen = index[np.linspace(0, len(index) - 1, min(SAMPLES, len(index))).round().astype(int)]
    few = SplitBatches(data.store, chosen, batch_size=SAMPLES)
    try:
        return next(iter(few))
    finally:
        few.close()


def nearest_mean(features: Tensor, classes: Tensor, tested: Tensor, theirs: Tensor) -> float:
    """Return the share of tested features (m, d) that lie nearest to the mean of their own class among features (n, d)."""
    known = classes.unique()
    means = torch.stack([features[classes == one].double().mean(dim=0) for one in known])
    guess = known[torch.cdist(tested.double(), means).argmin(dim=1)]
    return float((guess == theirs).double().mean())
