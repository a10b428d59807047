"""Forecasting: windows of a table of time series, in the standard protocol of long-horizon forecasting."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tutelage.data import cache, corruption
from tutelage.data.base import DataModule
from tutelage.data.fingerprint import fingerprint as fingerprint_of
from tutelage.data.splits import SPLITS
from tutelage.data.streams import Resident
from tutelage.errors import UserError, choices
from tutelage.tasks import Batch, Forecasting

log = logging.getLogger("tutelage")
LEVELS = ("last", "mean")
"""What a window may be measured from: its last input, or the mean of its inputs."""

CALENDAR = ("hour sine", "hour cosine", "weekday sine", "weekday cosine")
"""Columns of the calendar table: time of day and of week as points on circles."""


@dataclasses.dataclass(frozen=True)
class SeriesStore(Resident):
    """Scaled values (T, channels); the window of index i has its inputs in rows i ... i + length - 1 and its targets behind them.

    gaps: (T, channels) bool, values hidden from the inputs of windows before `gaps_until`. observed: (T, channels) bool, values that the
    file has; the others are 0 and do not count as targets. level: see `Series`.
    """

    values: Tensor
    length: int
    horizon: int
    observed: Tensor | None = None
    gaps: Tensor | None = None
    gaps_until: int = 0
    level: str | None = None

    def batch(self, index: Tensor, noise: Tensor | None) -> Batch:
        """See `Resident`."""
        rows = index[:, None] + torch.arange(self.length + self.horizon, device=index.device)
        inputs, targets = self.values[rows].split([self.length, self.horizon], dim=1)
        seen, counted = None, None
        if self.observed is not None:
            seen, counted = self.observed[rows].split([self.length, self.horizon], dim=1)
        if self.gaps is not None:
            shown = ~(self.gaps[rows[:, : self.length]] & (index < self.gaps_until)[:, None, None])
            seen = shown if seen is None else seen & shown
        if self.level is not None:
            level = _level(inputs, seen, self.level)
            inputs, targets = inputs - level, targets - level
        if seen is not None:
            inputs = inputs.masked_fill(~seen, 0.0)
        return Batch(inputs.contiguous(), targets.contiguous(), index, None, counted)


class Series(DataModule):
    """Forecast `horizon` rows of every column from the `length` rows before, on a CSV file with a date and one column per series.

    Protocol (Zhou et al. 2021, arXiv 2012.07436): the rows are split in time, by `split`; values are z-scored with the training rows'
    mean and standard deviation; windows start at every row; validation and test inputs reach back into the part before, targets do
    not; errors are of the scaled values.

    root: the file. split: training, validation and test rows, as three numbers of rows or three fractions; rows behind them are left
    out. columns: names of the series, by default all but the date. missing: share of input values set to 0 (the mean), in training
    windows ("train") or "all"; targets stay whole. Empty cells of the file are 0 as inputs and do not count as targets.

    level: "last" or "mean" measures inputs and targets of a window, column by column, from its last input that is there (Zeng et al.
    2023, arXiv 2205.13504) or from the mean of those (the shift of Kim et al. 2022, "Reversible instance normalization"; its scale
    would change what an error means and is left out): 0 is then that level, where it is the training rows' mean without. What a network
    forecasts is a change, its errors are those of the values themselves. A guide sees the same windows as the network.

    `tables["calendar"]` (T, 4) holds `CALENDAR` by row: for a window of index i, rows i ... i + length + horizon - 1.
    """

    def __init__(
        self,
        *,
        root: str | os.PathLike[str],
        batch_size: int,
        length: int,
        horizon: int,
        split: Sequence[float],
        columns: Sequence[str] | None = None,
        date: str = "date",
        missing: float = 0.0,
        missing_in: str = "train",
        level: str | None = None,
        eval_batch_size: int | None = None,
        split_seed: int = 0,
        fingerprint: str | None = None,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            split_seed=split_seed,
            fingerprint=fingerprint,
        )
        if missing_in not in ("train", "all"):
            raise UserError(
                f"missing_in '{missing_in}' does not exist: {choices(missing_in, ('train', 'all'))}"
            )
        if level not in (None, *LEVELS):
            raise UserError(f"`level` '{level}' does not exist: {choices(level, LEVELS)}, or null for none")
        if length < 1 or horizon < 1:
            raise UserError(f"`length` and `horizon` must be at least 1, got {length} and {horizon}")
        if len(split) != 3 or min(split) <= 0:
            raise UserError(f"`split` needs three positive numbers, rows or fractions, got {list(split)}")
        self.root = Path(root).expanduser()
        self.length, self.horizon, self.split = length, horizon, tuple(split)
        self.columns, self.date, self.level = columns, date, level
        self.missing, self.missing_in = corruption.check_rate(missing, "missing"), missing_in

    def prepare(self) -> None:
        """Read the file. Raises UserError where it is missing or not such a table."""
        self._table()

    def load(self) -> None:
        """See `DataModule`."""
        raw, calendar, names = self._table()
        ends = np.cumsum(self._rows(len(raw)))
        present = ~np.isnan(raw[: ends[-1]])
        if not present.all():
            log.warning(
                "%s: %d of %d cells are empty; as inputs they are their column's mean, as targets they do not count",
                self.root,
                (~present).sum(),
                present.size,
            )
        train = np.where(present, raw[: ends[-1]], np.nan)[: ends[0]]
        mean, deviation = np.nanmean(train, axis=0), np.nanstd(train, axis=0)
        # the deviation of a constant is seldom 0 but a rounding error
        largest = np.nanmax(np.abs(train), axis=0, initial=0)
        varied = deviation > 1e-12 * largest
        if not varied.all():
            constant = [name for name, varies in zip(names, varied, strict=True) if not varies]
            raise UserError(
                f"{self.root}: columns without variation in the training rows: {', '.join(constant)}; leave them out with `columns`"
            )
        values = np.nan_to_num((raw[: ends[-1]] - mean) / deviation).astype(np.float32)
        starts = {"train": 0, "validation": ends[0] - self.length, "test": ends[1] - self.length}
        self.splits = {}
        for name, end in zip(SPLITS, ends, strict=True):
            count = end - starts[name] - self.length - self.horizon + 1
            if count < 1 or starts[name] < 0:
                raise UserError(
                    f"the {name} rows are too few for one window of length + horizon = {self.length} + {self.horizon}"
                )
            self.splits[name] = np.arange(starts[name], starts[name] + count)
        self.task = Forecasting(self.horizon, len(names))
        self.input_shape = (self.length, len(names))
        # From a level, a value of the file is a difference: no mean is taken off.
        centre = mean if self.level is None else np.zeros_like(mean)
        self.normalization = tuple(centre.tolist()), tuple(deviation.tolist())
        self.tables["calendar"] = torch.from_numpy(calendar)
        self.facts |= {"columns": names, "rows": ends.tolist(), "empty_cells": int((~present).sum())}
        self.store = SeriesStore(
            torch.from_numpy(values),
            self.length,
            self.horizon,
            None if present.all() else torch.from_numpy(present),
            *self._gaps(values.shape),
            level=self.level,
        )

    def _rows(self, available: int) -> list[int]:
        fractions = sum(self.split) <= 1 + 1e-9
        if not fractions and any(part != int(part) for part in self.split):
            raise UserError(
                f"`split`={list(self.split)}: fractions sum to at most 1, numbers of rows are whole; these are neither"
            )
        rows = [int(part * available) if fractions else int(part) for part in self.split]
        if sum(rows) > available:
            raise UserError(
                f"`split`={list(self.split)} asks for {sum(rows)} rows, {self.root} has {available}"
            )
        return rows

    def _gaps(self, shape: tuple[int, ...]) -> tuple[Tensor | None, int]:
        if not self.missing:
            return None, 0
        gaps = corruption.missing_values(0, *shape, rate=self.missing, seed=self.split_seed)
        until = int(self.splits["train"][-1]) + 1 if self.missing_in == "train" else len(gaps)
        self.facts["missing_values"] = float(gaps[: until + self.length - 1].mean())
        return torch.from_numpy(gaps), until

    def _table(self) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Values (T, channels) float64 with NaN for empty cells, the calendar (T, 4) float32, and the columns' names."""
        self.fingerprint = self.fingerprint or fingerprint_of(self.root)
        key = ("series", self.fingerprint, self.date, None if self.columns is None else tuple(self.columns))
        return cache.remember(key, self._read)

    def _read(self) -> tuple[np.ndarray, np.ndarray, list[str]]:
        import pandas as pd

        if not self.root.is_file():
            raise UserError(f"there is no CSV file {self.root}: `root` must name one")
        try:
            table = pd.read_csv(self.root)
            if len(table.columns) == 1 and ";" in table.columns[0]:
                raise UserError(f"{self.root}: its columns are separated by ';', where ',' is expected")
            if not len(table):
                raise UserError(f"{self.root} has a header and no rows")
            if self.date not in table:
                raise UserError(
                    f"{self.root} has no column '{self.date}': {choices(self.date, table.columns)}"
                )
            moments = table.pop(self.date)
            if pd.api.types.is_numeric_dtype(moments):  # pandas would take them for nanoseconds since 1970
                raise UserError(
                    f"{self.root}: the column '{self.date}' holds numbers, {moments.iloc[:1].tolist()} to begin with, where dates such as "
                    "2016-07-01 00:00 are expected: convert them"
                )
            moments = pd.to_datetime(moments)
        except (ValueError, UnicodeDecodeError) as error:
            raise UserError(f"{self.root} is no CSV file with dates: {error}") from error
        if not moments.is_monotonic_increasing:
            raise UserError(
                f"{self.root}: the rows are not in the order of time (column '{self.date}'), so a split in time would train on the "
                "future: sort them, one series a file"
            )
        for name in self.columns or ():
            if name not in table:
                raise UserError(f"{self.root} has no column '{name}': {choices(name, table.columns)}")
        table = table if self.columns is None else table[list(self.columns)]
        if words := [name for name, kind in table.dtypes.items() if not pd.api.types.is_numeric_dtype(kind)]:
            raise UserError(
                f"{self.root}: columns that are not numbers: {', '.join(map(str, words))}; set `columns`"
            )
        day = (moments.dt.hour + moments.dt.minute / 60).to_numpy() / 24
        week = (moments.dt.dayofweek.to_numpy() + day) / 7
        calendar = np.stack([f(2 * np.pi * part) for part in (day, week) for f in (np.sin, np.cos)], axis=1)
        values = table.to_numpy(dtype=np.float64)
        if np.isinf(values).any():
            row, column = np.argwhere(np.isinf(values))[0]
            raise UserError(
                f"{self.root}: a value that is not finite, in row {row + 2} of the column '{table.columns[column]}'"
            )
        return (
            values,
            calendar.astype(np.float32),
            [str(name) for name in table.columns],
        )


def _level(inputs: Tensor, seen: Tensor | None, level: str) -> Tensor:
    """The level (n, 1, channels) of windows (n, length, channels), of the values seen alone; 0 where none is."""
    if level == "mean":
        if seen is None:
            return inputs.mean(dim=1, keepdim=True)
        return inputs.where(seen, 0).sum(dim=1, keepdim=True) / seen.sum(dim=1, keepdim=True).clamp(min=1)
    if seen is None:
        return inputs[:, -1:]
    place = torch.arange(inputs.shape[1], device=inputs.device)[:, None]
    last = place.where(seen, 0).amax(dim=1, keepdim=True)
    return inputs.where(seen, 0).gather(1, last)
