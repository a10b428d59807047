"""Training by validation intervals: what Lightning takes for an epoch is the stretch of steps between two validations.

Every checkpoint lies at the end of an interval, and the batch of a step is a function of (seed, step), so a resumed run needs no
position inside an epoch: it starts the next interval.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tutelage.data.base import TrainStream
from tutelage.tasks import Batch


class ValidationIntervals:
    """The training stream, cut into intervals of `every` optimiser steps, from the step that `position` gives up to `max_steps`.

    accumulate: batches per optimiser step.
    """

    def __init__(
        self,
        stream: TrainStream,
        position: Callable[[], int],
        *,
        every: int,
        max_steps: int,
        accumulate: int = 1,
    ) -> None:
        self.stream, self.position = stream, position
        self.every, self.max_steps, self.accumulate = every, max_steps, accumulate

    def _range(self) -> tuple[int, int]:
        start = self.position()
        return start, min(start + self.every, self.max_steps)

    def __len__(self) -> int:
        start, stop = self._range()
        return max(1, stop - start) * self.accumulate  # Lightning skips a loader of length 0 with a warning

    def __iter__(self) -> Iterator[Batch]:
        start, stop = self._range()
        self.stream.seek(start * self.accumulate, stop * self.accumulate)
        return iter(self.stream)
