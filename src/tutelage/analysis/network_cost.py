"""What a network costs to run: parameters, size, operations, peak memory of its tensors, and latency on the machine at hand."""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tutelage.analysis.analysis_request import Outcome, Request, Subject
from tutelage.analysis.drawing import direction, literal
from tutelage.analysis.opening import monitored, opened
from tutelage.errors import counted
from tutelage.models.counts import operations, parameters
from tutelage.models.frozen import FrozenNetwork
from tutelage.reporting.costs import MEASURED
from tutelage.reporting.palette import canvas, save, style
from tutelage.reporting.quantities import clipped
from tutelage.reporting.statistics import summarize
from tutelage.runs.declared import makes
from tutelage.runs.frozen_networks import ROLES
from tutelage.runs.provenance import cpu_model
from tutelage.runs.run import Run
from tutelage.tasks import Batch

WARM, TIMED = 5, 30
BATCHES = (1, 64)


@dataclass(frozen=True)
class Latency:
    """Seconds that one forward of a batch takes: median and quartiles over repetitions.

    batch: samples. threads: of the CPU; 0 on an accelerator.
    peak_mb: the most that its tensors took at once beyond weights and inputs, in MiB.
    """

    batch: int
    threads: int
    median_s: float
    low_s: float
    high_s: float
    peak_mb: float


@dataclass(frozen=True)
class Cost:
    """What one network costs.

    parameters: numbers that training could change, shared ones once; nonzero: those that are not 0.
    size_mb: of weights and buffers in memory, MiB.
    operations: of one sample's forward, a multiplication and an addition counted as two; matrix products, convolutions and
        attention alone, as torch's counter counts them.
    """

    parameters: int
    nonzero: int
    size_mb: float
    operations: int
    latencies: tuple[Latency, ...]

    @property
    def columns(self) -> dict[str, float]:
        """Return the cost as one flat row."""
        row: dict[str, float] = {
            "parameters": self.parameters,
            "nonzero": self.nonzero,
            "size_mb": round(self.size_mb, 3),
            "operations": self.operations,
        }
        for one in self.latencies:
            where = f"batch_{one.batch}" + (f"_threads_{one.threads}" if one.threads else "")
            row |= {
                f"latency_ms_{where}": round(1e3 * one.median_s, 4),
                f"peak_mb_{where}": round(one.peak_mb, 3),
            }
        return row


def network_cost(network: FrozenNetwork, example: Batch, *, threads: Sequence[int] = (1,)) -> Cost:
    """Measure a network on the device that it and the example lie on.

    Args:
        network: at rest; its input conversion counts, as it would in use.
        example: samples to repeat up to each batch of BATCHES.
        threads: numbers of CPU threads to measure with; on an accelerator they mean nothing.

    Returns:
        the cost; the latency is a median of TIMED forwards after WARM, in turn over the numbers of threads.
    """
    one = _repeated(example, 1)
    held = [*parameters(network.network), *network.network.buffers()]
    on_cpu = one.inputs.device.type == "cpu"
    latencies = tuple(
        _latency(network, _repeated(example, size), count)
        for size in BATCHES
        for count in (dict.fromkeys(threads) if on_cpu else (0,))
    )
    return Cost(
        sum(p.numel() for p in parameters(network.network)),
        sum(int(p.count_nonzero()) for p in parameters(network.network)),
        sum(x.numel() * x.element_size() for x in held) / 2**20,
        operations(network, one.inputs, one.mask),
        latencies,
    )


def _repeated(example: Batch, size: int) -> Batch:
    index = torch.arange(size, device=example.inputs.device) % len(example.inputs)
    return Batch(*(None if part is None else part[index.to(part.device)] for part in example))  # type: ignore[arg-type]


def _latency(network: FrozenNetwork, batch: Batch, threads: int) -> Latency:
    before = torch.get_num_threads()
    # one thread's own time: what else the machine does is not counted
    seconds, clock = [], time.thread_time if threads == 1 else time.perf_counter
    try:
        if threads:
            torch.set_num_threads(threads)
        with torch.inference_mode():
            peak = peak_bytes(network, batch)
            for number in range(WARM + TIMED):
                started = clock()
                network(batch.inputs, batch.mask)
                _wait(batch.inputs.device)
                if number >= WARM:
                    seconds.append(clock() - started)
    finally:
        torch.set_num_threads(before)
    low, median, high = statistics.quantiles(seconds, n=4)
    return Latency(len(batch.inputs), threads, median, low, high, peak / 2**20)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_bytes(network: nn.Module, batch: Batch) -> int:
    """Return the most bytes that the tensors made in one forward took at once; what a kernel needs inside is not seen."""
    with _Watch(network, batch) as watch:
        network(batch.inputs, batch.mask)
    return watch.peak


class _Watch(TorchDispatchMode):
    """Counts the storages that operations make while they live."""

    def __init__(self, network: nn.Module, batch: Batch) -> None:
        super().__init__()
        inner = network.network if isinstance(network, FrozenNetwork) else network
        known = [*inner.parameters(), *inner.buffers(), *(x for x in batch if isinstance(x, Tensor))]
        self._known = {x.untyped_storage().data_ptr() for x in known}
        self._live: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self._count(leaf)
        return made

    def _count(self, made: Tensor) -> None:
        storage = made.untyped_storage()
        place = storage.data_ptr()
        if place in self._known or place in self._live:
            return
        self._live[place] = storage.nbytes()
        self.peak = max(self.peak, sum(self._live.values()))
        weakref.finalize(storage, self._live.pop, place, None)


def draw(
    points: Sequence[tuple[str, float, Sequence[float]]], path: Path, *, metric: str, better: str = ""
) -> None:
    """Write the figure of the metric against operations.

    points: for each arm its name, operations per sample, and the test values of its runs: mean, and its 95 % interval.
    better: which values are better, in words.
    """
    figure = canvas(7.2, 4.2)
    axes = figure.subplots()
    for number, (name, computed, values) in enumerate(points):
        colour, found = style(number)[0], summarize(values)
        marker = "os^Dv<>P"[number % 8]
        ends = [clipped(end, f"test/{metric}") for end in (found.low, found.high)]
        axes.plot([computed] * 2, ends, "-", color=colour, linewidth=1.5)
        axes.plot(
            computed,
            found.mean,
            marker,
            color=colour,
            label=literal(f"{name} (n = {found.n})"),
            linestyle="",
        )
    axes.set_xscale("log")
    axes.set(
        xlabel="operations per sample (forward)", ylabel=f"test {metric}{f' ({better})' if better else ''}"
    )
    axes.set_title("Mean over runs with its 95 % interval, against what a forward pass costs", fontsize=9)
    axes.margins(x=0.15)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save(figure, path)


def latency_ms(run: Run, runs_dir: str | Path) -> float:
    """Return the median milliseconds in which a run's network answers one sample on one thread."""
    network, _, batches = _opened(run, runs_dir, "")
    return 1e3 * _latency(network, _repeated(next(iter(batches)), 1), 1).median_s


def _opened(run: Run, runs_dir: str | Path, role: str) -> Any:
    """Return a network of a run, the data module and batches, on the CPU."""
    request = Request([], {"device": "cpu", "runs_dir": str(runs_dir), "code": "", "split": "validation"}, {})
    return opened(Subject(run, run.name, role=role), request, samples=max(BATCHES))


def of_run(run: Run, runs_dir: str | Path) -> dict[str, str]:
    """Return columns of latency and memory, in words, of a run's network and of its guide and teacher in brackets."""
    if makes(run.config) == "generator":  # its forward takes noise, labels or time, not samples
        return dict.fromkeys(MEASURED, "- (a generator)")
    threads = thread_counts("cpu")
    found = {}
    for role in ("", *(role for role in ROLES if run.config.get(role))):
        network, _, batches = _opened(run, runs_dir, role)
        found[role] = network_cost(network, next(iter(batches)), threads=threads)
    columns: dict[str, str] = {}
    for place, one in enumerate(found[""].latencies):
        said = f", {counted(one.threads, 'thread')}" if len(threads) > 1 else ""
        for name, value in (
            (
                f"latency of {one.batch}{said}",
                lambda cost, at=place: f"{1e3 * cost.latencies[at].median_s:.3g} ms",
            ),
            (f"memory of {one.batch}", lambda cost, at=place: f"{cost.latencies[at].peak_mb:.3g} MiB"),
        ):
            columns[name] = value(found[""]) + "".join(
                f" ({role} {value(cost)})" for role, cost in found.items() if role
            )
    return columns


def thread_counts(device: str) -> list[int]:
    """Return the numbers of threads to measure with: one, and all."""
    return sorted({1, max(1, torch.get_num_threads() if device == "cpu" else 1)})


def machine_said() -> str:
    """Return the machine that latency is measured on, in words."""
    return f"{cpu_model()}, {' and '.join(map(str, thread_counts('cpu')))} threads, torch {torch.__version__}"


def outcome(request: Request) -> Outcome:
    """Parameters, operations, size, latency and memory of every network, beside its metric on the test split."""
    threads = thread_counts(request.options["device"])
    rows, lines, points = [], [], dict[str, tuple[float, list[float]]]()
    for subject in request.subjects:
        network, _, batches = opened(subject, request, samples=max(BATCHES))
        found = network_cost(network, next(iter(batches)), threads=threads)
        monitor, metrics = monitored(subject)
        rows.append(
            {"network": subject.label, "arm": subject.arm, "seed": subject.seed, **metrics, **found.columns}
        )
        first = found.latencies[0]
        lines.append(
            f"{subject.label}: {found.parameters:,} parameters, {found.operations:,} operations, {found.size_mb:.2f} MiB, "
            f"one sample {1e3 * first.median_s:.2f} ms ({1e3 * first.low_s:.2f} to {1e3 * first.high_s:.2f})"
        )
        if monitor:
            points.setdefault(subject.arm, (found.operations, []))[1].append(metrics[f"test_{monitor}"])
    name = next((key for key in rows[0] if key.startswith("test_")), "test_metric").removeprefix("test_")
    machine = {
        "device": request.options["device"],
        "cpu": cpu_model(),
        "threads": threads,
        "torch": torch.__version__,
    }
    if request.options["device"].startswith("cuda"):
        machine["device"] = torch.cuda.get_device_name(torch.device(request.options["device"]))
    shown = [(arm, operations, values) for arm, (operations, values) in points.items()]
    modes = {(s.run.result or {}).get("selection", {}).get("mode") for s in request.subjects if not s.role}
    return (
        lines,
        {"machine": machine},
        rows,
        lambda path: draw(shown, path, metric=name, better=direction(modes)),
    )
