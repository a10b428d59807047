"""`growth` with 10,000 runs: a quarter of an hour, so by name alone."""

from __future__ import annotations

from tutelage.bench import growth
from tutelage.bench.timing import Row


def rows() -> list[Row]:
    """Measure as `growth` does."""
    return growth.rows((*growth.SIZES, 10_000), repeats=1)
