"""The guided step over its floor: the guide's forward and a plain training step of the same networks, measured in turn.

The floor's guide is laid out as ours is, and stops after the last layer that is aligned, as ours does.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import gc
import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tutelage.bench.timing import Row, in_turn, row, until_decided

CASES = ("conv to FCN", "Transformer to RNN", "Transformer to RNN, per token")
TARGETS = {"conv to FCN": 1.25, "Transformer to RNN": 1.25, "Transformer to RNN, per token": 1.5}


@dataclass
class Steps:
    """Two training steps on the same data and networks of the same kind; pairs: how many layer pairs the guided one has."""

    floor: Callable[[], None]
    guided: Callable[[], None]
    pairs: int


def rows(pairs: int = 7) -> list[Row]:
    """Measure time and peak memory of every case, and how both grow with pairs, batch and features."""
    result = []
    for name in CASES:
        result += _measured(name, build(name), pairs, at_most=TARGETS[name])
    varied: list[tuple[str, dict[str, Any], float | None]] = [(f"{k} pairs", {"k": k}, None) for k in (1, 5)]
    varied += [(f"batch {n}", {"batch": n}, {512: 1.15}.get(n)) for n in (64, 512)]
    varied += [(f"{size} pixels", {"pixels": size}, {32: 1.15}.get(size)) for size in (32, 96)]
    low: dict[str, Any] = {"precision": "bfloat16"}
    varied += [
        (f"{what}, CKA from bfloat16", low | sizes, 1.15)
        for what, sizes in (("batch 512", {"batch": 512}), ("32 pixels", {"pixels": 32}))
    ]
    varied += [
        (f"{what}, {block} samples at a time", {"block": block} | sizes, 1.15)
        for what, block, sizes in (("batch 512", 64, {"batch": 512}), ("32 pixels", 32, {"pixels": 32}))
    ]
    varied += [  # the floor looks at the guide in each step
        (f"{what}, guide remembered", {"remembered": True} | sizes, 1.15)
        for what, sizes in (("64 pixels", {}), ("batch 512", {"batch": 512}), ("32 pixels", {"pixels": 32}))
    ]
    for what, sizes, at_most in varied:
        result += _measured(
            f"conv to FCN, {what}", conv_to_fcn(**sizes), 7 if at_most else 3, at_most=at_most
        )
    return result + [
        _similarity_cost(n, d, 5) for n, d in ((64, 4096), (256, 4096), (1024, 4096), (256, 65536))
    ]


def _measured(name: str, steps: Steps, pairs: int, at_most: float | None = None) -> list[Row]:
    times: list[tuple[float, float]] = []

    def measured(pairs: int) -> list[float]:
        times.extend(in_turn(steps.guided, steps.floor, pairs=pairs, warmup=2))
        return [ours / theirs for ours, theirs in times[-pairs:]]

    ratios = until_decided(measured, at_most, pairs=pairs)
    floor_s = statistics.median(theirs for _, theirs in times)
    note = f"{steps.pairs} layer pairs, floor {floor_s:.2f} s"
    result = [row(f"guided step over floor: {name}", ratios, at_most=at_most, note=note)]
    guided, floor = (peak_mib(step) for step in (steps.guided, steps.floor))
    if guided and floor:
        note = f"{guided:.0f} over {floor:.0f} MiB that a step takes beyond what rests between steps"
        result.append(row(f"peak memory over floor: {name}", [guided / floor], note=note))
    return result


def build(name: str, *, device: str = "cpu", **sizes: Any) -> Steps:
    """Return the two steps of a case of `CASES`. sizes: see `conv_to_fcn` and `transformer_to_rnn`."""
    if name == "conv to FCN":
        return conv_to_fcn(device=device, **sizes)
    return transformer_to_rnn(device=device, per_token=name.endswith("per token"), **sizes)


def conv_to_fcn(
    *,
    device: str = "cpu",
    batch: int = 256,
    pixels: int = 64,
    depth: int = 48,
    width: int = 512,
    k: int | None = None,
    precision: Literal["float32", "bfloat16"] = "float32",
    block: int | None = None,
    remembered: bool = False,
) -> Steps:
    """ResNet-18, frozen, guiding an FCN.

    k: only the guide's first k layers, None: all 21. precision, block: CKA's. remembered: the guide ran once for each sample
    (`method.cache=[guide]`), of which there are as many as in a batch.
    """
    import torch
    import torchvision

    from tutelage.alignment.pairing import Pairing
    from tutelage.alignment.similarity import CKA
    from tutelage.models.fcn import FCN

    torch.manual_seed(0)
    guide = torchvision.models.resnet18(num_classes=10)
    inputs, targets = torch.randn(batch, 3, pixels, pixels), torch.randint(10, (batch,))
    pairing = Pairing() if k is None else Pairing(strategy="first", k=k)
    return _steps(
        lambda: FCN((3, pixels, pixels), 10, depth=depth, width=width),
        guide,
        inputs,
        targets,
        device,
        pairing=pairing,
        similarity=CKA(precision=precision, block=block),
        remembered=remembered,
    )


def transformer_to_rnn(
    *,
    device: str = "cpu",
    per_token: bool = False,
    batch: int = 64,
    length: int = 128,
    width: int = 256,
    depth: int = 4,
) -> Steps:
    """A Transformer decoder, frozen, guiding an RNN of as many layers and the same width, as in the paper's small language model.

    per_token: 1024 of the batch's 8192 tokens, the default of the method.
    """
    import torch

    from tutelage.alignment.pairing import Pairing
    from tutelage.models.recurrent import Recurrent
    from tutelage.models.transformer import Transformer

    torch.manual_seed(0)
    vocabulary = 1000
    guide = Transformer(
        (length,), vocabulary, vocab_size=vocabulary, depth=depth, width=width, heads=16, causal=True
    )
    inputs, targets = torch.randint(vocabulary, (2, batch, length))
    return _steps(
        lambda: Recurrent((length,), vocabulary, vocab_size=vocabulary, depth=depth, width=width),
        guide, inputs, targets, device, pairing=Pairing(exclude_output=True), per_token=per_token,
    )  # fmt: skip


def _steps(
    make: Callable[[], Any],
    guide: Any,
    inputs: Any,
    targets: Any,
    device: str,
    *,
    pairing: Any,
    per_token: bool = False,
    similarity: Any = None,
    remembered: bool = False,
) -> Steps:
    import torch
    from torch.nn.functional import cross_entropy

    from tutelage.alignment.taps import probe
    from tutelage.models.frozen import FrozenNetwork, channels_last
    from tutelage.objectives.alignment import Alignment
    from tutelage.objectives.task import Task
    from tutelage.objectives.total import Objectives
    from tutelage.tasks import Batch

    torch.manual_seed(1)
    guide = guide.eval().requires_grad_(False).to(device)
    data = Batch(inputs.to(device), targets.to(device), torch.arange(len(inputs)))
    networks = [make().to(device) for _ in range(2)]  # the floor's has no taps
    optimizers = [torch.optim.Adam(network.parameters(), 1e-4) for network in networks]
    example = Batch(data.inputs[:4], data.targets[:4], data.index[:4])
    frozen = FrozenNetwork(copy.deepcopy(guide))
    if device == "cpu":
        frozen.prefer_channels_last(example.inputs)
        channels_last(guide, lambda: guide(example.inputs))

    def task_loss(output: Any, wanted: Any) -> Any:
        return cross_entropy(output.flatten(0, -2), wanted.flatten())

    alignment = Alignment(
        network="guide",
        pairing=pairing,
        compare="tokens" if per_token else "samples",
        similarity=similarity,
    )
    total = Objectives(
        networks[1],
        {"task": Task(), "alignment": alignment},
        frozen={"guide": frozen},
        task=task_loss,
        example=example,
        cache=["guide"] if remembered else [],
        samples=_OneBatch(data),
    )

    def finish(loss: Any, optimizer: Any) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if device != "cpu":
            torch.cuda.synchronize()

    aligned = {pair.guide.name for pair in alignment.comparison.pairs}
    last = [layer.name for layer in probe(guide, example.inputs) if layer.name in aligned][-1]

    def stop(*_: object) -> None:
        raise _Enough

    guide.get_submodule(last).register_forward_hook(stop)

    def floor() -> None:
        with torch.no_grad(), contextlib.suppress(_Enough):
            guide(data.inputs)
        finish(task_loss(networks[0](data.inputs), data.targets), optimizers[0])

    def guided() -> None:
        finish(total(data), optimizers[1])

    return Steps(floor, guided, len(alignment.comparison.pairs))


class _OneBatch:
    """Training samples that are all in one batch."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch

    def on(self, _device: Any) -> list[Any]:
        return [self.batch]

    def __len__(self) -> int:
        return len(self.batch.index)


class _Enough(Exception):
    """The floor's guide has run as far as anyone wants."""


def peak_mib(step: Callable[[], None]) -> float | None:
    """Return how far one step's resident memory rises above the state before it; None where the system cannot tell (not Linux)."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not status.exists() or not os.access(reset, os.W_OK):
        return None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # or memory that an earlier step freed would hide this one's

    def mib(field: str) -> float:
        line = next(line for line in status.read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) / 1024

    reset.write_text("5")  # starts the high-water mark afresh
    resting = mib("VmRSS")
    step()
    return mib("VmHWM") - resting


def _similarity_cost(n: int, d: int, pairs: int) -> Row:
    import torch

    from tutelage.alignment.similarity import cka

    guide, network = torch.randn(n, d), torch.randn(n, d, requires_grad=True)
    product = torch.randn(n, d)

    def ours() -> None:
        cka(network, guide).backward()

    times = in_turn(ours, lambda: product @ product.T, pairs=pairs)
    milliseconds = 1000 * statistics.median(ours for ours, _ in times)
    note = f"encode, score and gradient in {milliseconds:.1f} ms; three products are the least"
    return row(
        f"CKA over one product X X^T: n = {n}, d = {d}", [ours / theirs for ours, theirs in times], note=note
    )
