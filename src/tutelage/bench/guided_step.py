"""The guided step over its floor: the guide's forward and a plain training step of the same networks, measured in turn."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tutelage.bench.measure import Row, in_turn, row

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
        steps = build(name)
        ratios = [ours / theirs for ours, theirs in in_turn(steps.guided, steps.floor, pairs=pairs, warmup=2)]
        result.append(
            row(
                f"guided step over floor: {name}",
                ratios,
                at_most=TARGETS[name],
                note=f"{steps.pairs} layer pairs",
            )
        )
        result.append(memory(name))
    return result + growth()


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
) -> Steps:
    """ResNet-18, frozen, guiding an FCN; k: only the guide's first k layers, None: all 21."""
    import torch
    import torchvision

    from tutelage.alignment.pairing import Pairing
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
) -> Steps:
    import torch
    from torch.nn.functional import cross_entropy

    from tutelage.alignment.objective import Alignment
    from tutelage.alignment.similarity import similarity
    from tutelage.tasks import Batch

    torch.manual_seed(1)
    guide = guide.eval().requires_grad_(False).to(device)
    data = Batch(inputs.to(device), targets.to(device), torch.arange(len(inputs)))
    networks = [make().to(device) for _ in range(2)]  # the floor's has no taps
    optimizers = [torch.optim.Adam(network.parameters(), 1e-4) for network in networks]
    example = Batch(data.inputs[:4], data.targets[:4], data.index[:4])
    alignment = Alignment(
        networks[1], (example.inputs,), guide, example, pairing=pairing, similarity=similarity("cka", per_token=per_token),
        per_token=per_token, tokens_per_step=1024 if per_token else None,
    )  # fmt: skip

    def task_loss(output: Any) -> Any:
        return cross_entropy(output.flatten(0, -2), data.targets.flatten())

    def finish(loss: Any, optimizer: Any) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if device != "cpu":
            torch.cuda.synchronize()

    def floor() -> None:
        with torch.no_grad():
            guide(data.inputs)
        finish(task_loss(networks[0](data.inputs)), optimizers[0])

    def guided() -> None:
        alignment.guide(lambda seen, mask: guide(seen), data)
        with alignment.recording():
            output = networks[1](data.inputs)
        finish(task_loss(output) + alignment.loss()[0], optimizers[1])

    return Steps(floor, guided, len(alignment.pairs))


def memory(name: str, **sizes: Any) -> Row:
    """Measure the peak resident memory of fresh processes that take guided steps, over ones that take the floor's."""
    guided, floor = (peak_mib(name, which, **sizes) for which in ("guided", "floor"))
    base = peak_mib(name, "neither", **sizes)
    note = f"{guided:.0f} over {floor:.0f} MiB, of which {base:.0f} before the first step"
    return row(f"peak memory, guided over floor: {name}", [guided / floor], note=note)


def peak_mib(name: str, which: str, **sizes: Any) -> float:
    """Return the peak resident memory of a fresh process that takes three steps of a kind."""
    code = f"from tutelage.bench.guided_step import steps_alone; steps_alone({name!r}, {which!r}, {sizes!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def steps_alone(name: str, which: str, sizes: dict[str, Any]) -> None:
    """Take three steps of one kind and print the process's peak memory in MiB; for `peak_mib`."""
    steps = build(name, **sizes)
    for _ in range(3 if which != "neither" else 0):
        (steps.guided if which == "guided" else steps.floor)()
    unit = 2**20 if sys.platform == "darwin" else 2**10
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)


def growth(pairs: int = 3) -> list[Row]:
    """Measure how the guided step over its floor, and CKA alone, grow with the pairs, the batch and the features."""
    result = []
    varied: list[tuple[str, dict[str, Any]]] = [(f"{k} pairs", {"k": k}) for k in (1, 5, 21)]
    varied += [(f"batch {n}", {"batch": n}) for n in (64, 512)]
    varied += [(f"{size} pixels", {"pixels": size}) for size in (32, 96)]
    for what, sizes in varied:
        steps = conv_to_fcn(**sizes)
        ratios = [ours / theirs for ours, theirs in in_turn(steps.guided, steps.floor, pairs=pairs)]
        result.append(
            row(
                f"guided step over floor: conv to FCN, {what}",
                ratios,
                note="beside 21 pairs, batch 256, 64 pixels",
            )
        )
    return result + [
        _similarity_cost(n, d, pairs) for n, d in ((64, 4096), (256, 4096), (1024, 4096), (256, 65536))
    ]


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
