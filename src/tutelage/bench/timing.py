"""How things are timed: in turn with their reference, in one process, so that a drifting machine cancels; medians are quoted."""

from __future__ import annotations

import math
import os
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One measured ratio. low, high: the smallest and largest of its `n` pairs. target: in words; met: None where there is none."""

    name: str
    ratio: float
    low: float
    high: float
    n: int
    target: str = ""
    met: bool | None = None
    note: str = ""


def rows_of(name: str) -> list[Row]:
    """Return a bench's rows, from a process prepared as every command prepares its own."""
    from importlib import import_module

    from tutelage.engine.cpu import prepare_cpu, set_openmp_wait

    set_openmp_wait()
    prepare_cpu(None)
    return list(import_module(f"tutelage.bench.{name}").rows())


def now() -> float:
    """Return the time in seconds: the clock's, or with TUTELAGE_BENCH_CLOCK=processor that of this process and of those that it waited for.

    The latter is for machines with other work on them, and for one thread: threads that wait for each other count twice.
    """
    return processor_s() if os.environ.get("TUTELAGE_BENCH_CLOCK") == "processor" else time.perf_counter()


def processor_s() -> float:
    """Return the processor's time of this process and of those that it waited for, in seconds."""
    waited = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + waited.ru_utime + waited.ru_stime


def seconds(action: Callable[[], object]) -> float:
    """Return how long one call takes."""
    start = now()
    action()
    return now() - start


def in_turn(
    ours: Callable[[], object], theirs: Callable[[], object], *, pairs: int, warmup: int = 1
) -> list[tuple[float, float]]:
    """Time two actions in turn and return (seconds of ours, seconds of theirs) for each pair."""
    for _ in range(warmup):
        theirs()
        ours()
    return [(seconds(ours), seconds(theirs)) for _ in range(pairs)]


def until_decided(
    measure: Callable[[int], list[float]], target: float | None, *, pairs: int, most: int = 5
) -> list[float]:
    """Return ratios of `pairs` pairs, and of as many again while the target lies within the 95 % interval of their median.

    measure: returns the ratios of so many pairs. target: None asks for no more. most: how often at most.
    """
    ratios = measure(pairs)
    while target is not None and len(ratios) < most * pairs:
        low, high = median_interval(ratios)
        if not low <= target <= high:
            break
        ratios += measure(pairs)
    return ratios


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the order statistics that hold the median with at least 95 %, whatever the distribution; all values where they are few."""
    n, ordered, below, outside = len(values), sorted(values), 0.0, 0
    for count in range(n // 2):
        below += math.comb(n, count) / 2**n
        if below > 0.025:
            break
        outside = count + 1
    outside = max(outside, 1)
    return ordered[outside - 1], ordered[n - outside]


def row(
    name: str,
    ratios: Sequence[float],
    *,
    at_most: float | None = None,
    at_least: float | None = None,
    note: str = "",
) -> Row:
    """Return the row of a list of ratios, one per pair; the median is quoted and held against the target."""
    middle = statistics.median(ratios)
    target, met = "", None
    if at_most is not None:
        target, met = f"at most {at_most}", middle <= at_most
    if at_least is not None:
        target, met = f"at least {at_least}", middle >= at_least
    return Row(name, middle, min(ratios), max(ratios), len(ratios), target, met, note)
