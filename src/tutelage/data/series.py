"""Forecasting: windows of a table of time series, in the standard protocol of long-horizon forecasting."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tutelage.data import cache, corruption, series_file
from tutelage.data.base import DataModule
from tutelage.data.csv_cells import Decimal
from tutelage.data.fingerprint import check_same
from tutelage.data.fingerprint import fingerprint as fingerprint_of
from tutelage.data.splits import SPLITS, digest
from tutelage.data.streams import Resident
from tutelage.errors import ONCE, UserError
from tutelage.tasks import Batch, Forecasting
from tutelage.typed import Count, Positive, Rate

log = logging.getLogger("tutelage")
"""What a window may be measured from: its last input, or the mean of its inputs."""


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
    not; errors are of the scaled values. Windows across missing rows are left out, and counted.

    root: the file. split: training, validation and test rows, as three numbers of rows or three fractions; rows behind them are left
    out. columns: names of the series, by default all but the date and what counts the rows. date: the column of time, or several whose
    texts make it together. date_format, step, decimal: what the file leaves open, see `moments.read`, `timeline.timeline` and
    `csv_table.read`. missing: share of input values set to 0 (the mean), in training windows ("train") or "all"; targets stay whole.
    Empty cells of the file are 0 as inputs and do not count as targets.

    level: "last" or "mean" measures inputs and targets of a window, column by column, from its last input that is there (Zeng et al.
    2023, arXiv 2205.13504) or from the mean of those (the shift of Kim et al. 2022, "Reversible instance normalization"; its scale
    would change what an error means and is left out): 0 is then that level, where it is the training rows' mean without. What a network
    forecasts is a change, its errors are those of the values themselves. A guide sees the same windows as the network.

    `tables["calendar"]` (T, 4) holds `series_file.CALENDAR` by row: for a window of index i, rows i ... i + length + horizon - 1.
    """

    def __init__(
        self,
        *,
        root: str | os.PathLike[str],
        length: Count,
        horizon: Count,
        split: tuple[Positive, Positive, Positive],
        columns: Sequence[str] | None = None,
        date: str | Sequence[str] = "date",
        date_format: str | None = None,
        step: str | None = None,
        decimal: Decimal | None = None,
        missing: Rate = 0.0,
        missing_in: Literal["train", "all"] = "train",
        level: Literal["last", "mean"] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.root = Path(root).expanduser()
        self.length, self.horizon, self.split = length, horizon, tuple(split)
        self.level = level
        self.reading: dict[str, Any] = {
            "date": date if isinstance(date, str) else list(date),
            "columns": None if columns is None else list(columns),
            "date_format": date_format,
            "step": step,
            "decimal": decimal,
        }
        self.missing, self.missing_in = float(missing), missing_in

    def prepare(self) -> None:
        """Read the file. Raises UserError where it is missing or not such a table."""
        self._file()

    def load(self) -> None:
        """See `DataModule`."""
        file = self._file()
        raw, names = file.values, file.names
        for note in file.notes:
            log.info("%s: %s", self.root, note, extra=ONCE)
        ends = np.cumsum(self._rows(len(raw)))
        present = ~np.isnan(raw[: ends[-1]])
        if not present.all():
            empty = f"{(~present).sum()} of {present.size} cells are empty{_emptiest(present, names)}"
            log.warning(
                f"{self.root}: {empty}; as inputs they are their column's mean, as targets they do not count"
            )
        mean, deviation = self._scale(np.where(present, raw[: ends[-1]], np.nan)[: ends[0]], names)
        values = np.nan_to_num((raw[: ends[-1]] - mean) / deviation).astype(np.float32)
        self.splits = self._windows(file, ends)
        self.task = Forecasting(self.horizon, len(names))
        self.input_shape = (self.length, len(names))
        # From a level, a value of the file is a difference: no mean is taken off.
        centre = mean if self.level is None else np.zeros_like(mean)
        self.normalization = tuple(centre.tolist()), tuple(deviation.tolist())
        self.tables["calendar"] = torch.from_numpy(file.calendar)
        self.facts |= {"columns": names, "rows": ends.tolist(), "empty_cells": int((~present).sum())}
        self.store = SeriesStore(
            torch.from_numpy(values),
            self.length,
            self.horizon,
            None if present.all() else torch.from_numpy(present),
            *self._gaps(values.shape, train_starts=int(ends[0]) - self.length - self.horizon + 1),
            level=self.level,
        )

    def test_facts(self) -> tuple[Any, ...]:
        """See `DataModule.test_facts`: forecasts of the same rows, in the same unit; how far networks look back may differ."""
        forecast = self.splits["test"] + self.length
        unit = None if self.normalization is None else self.normalization[1]
        return self.fingerprint, digest(forecast), self.horizon, self.facts["columns"], unit

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

    def _scale(self, train: np.ndarray, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation (columns,) of the training rows (rows, columns)."""
        if (empty := np.isnan(train).all(axis=0)).any():
            raise UserError(
                f"{self.root}: columns that are empty in the training rows: {_at(names, empty)}; leave them out with `columns`"
            )
        mean, deviation = np.nanmean(train, axis=0), np.nanstd(train, axis=0)
        # the deviation of a constant is seldom 0 but a rounding error
        constant = ~(deviation > 1e-12 * np.nanmax(np.abs(train), axis=0, initial=0))
        if constant.any():
            raise UserError(
                f"{self.root}: columns without variation in the training rows: {_at(names, constant)}; leave them out with `columns`"
            )
        return mean, deviation

    def _windows(self, file: series_file.SeriesFile, ends: np.ndarray) -> dict[str, np.ndarray]:
        """The first rows of each split's windows; of those, the ones that no missing row interrupts."""
        line, extent = file.line, self.length + self.horizon
        splits, left_out = {}, {}
        firsts = {"train": 0, "validation": ends[0] - self.length, "test": ends[1] - self.length}
        for name, end in zip(SPLITS, ends, strict=True):
            if end - firsts[name] < extent or firsts[name] < 0:
                raise UserError(
                    f"the {name} rows are too few for one window of length + horizon = {self.length} + {self.horizon}"
                )
            starts = np.arange(firsts[name], end - extent + 1)
            whole = line.positions[starts + extent - 1] - line.positions[starts] == extent - 1
            splits[name], left_out[name] = starts[whole], f"{(~whole).sum()} of {len(whole)} in {name}"
            if not whole.any():
                raise UserError(
                    f"{self.root}: rows are missing in all {len(whole)} windows of the {name} split ({self._holes(file)}): choose a "
                    "shorter `length` and `horizon`, or let each row be a step whatever its time: `step`=row"
                )
        self.facts |= {"step": line.step, "missing_rows": line.missing}
        if line.missing:
            where = ", ".join(left_out.values())
            log.warning(f"{self.root}: {self._holes(file)}; windows across them are left out: {where}")
        return splits

    @staticmethod
    def _holes(file: series_file.SeriesFile) -> str:
        gaps, sizes = file.line.gaps, np.diff(file.line.positions) - 1
        shown = ", ".join(f"{sizes[row]} after {file.texts[row]}" for row in gaps[:3])
        return f"at a step of {file.line.step}, {file.line.missing} rows are missing: {shown}{', ...' if len(gaps) > 3 else ''}"

    def _gaps(self, shape: tuple[int, ...], *, train_starts: int) -> tuple[Tensor | None, int]:
        if not self.missing:
            return None, 0
        gaps = corruption.missing_values(0, *shape, rate=self.missing, seed=self.split_seed)
        until = train_starts if self.missing_in == "train" else len(gaps)
        self.facts["missing_values"] = float(gaps[: until + self.length - 1].mean())
        return torch.from_numpy(gaps), until

    def _file(self) -> series_file.SeriesFile:
        self.fingerprint = self.fingerprint or fingerprint_of(self.root)
        key = ("series", self.fingerprint, str(self.root), repr(sorted(self.reading.items())))

        def read() -> series_file.SeriesFile:
            check_same(self.fingerprint, fingerprint_of(self.root), self.root, "rows")
            return series_file.read(self.root, **self.reading)

        return cache.remember(key, read)


def _at(names: list[str], places: np.ndarray) -> str:
    return ", ".join(name for name, there in zip(names, places, strict=True) if there)


def _emptiest(present: np.ndarray, names: list[str]) -> str:
    """Say which columns are mostly empty."""
    empty = 1 - present.mean(axis=0)
    shown = [
        f"{names[place]} ({empty[place]:.0%})"
        for place in np.argsort(-empty, kind="stable")
        if empty[place] > 0.5
    ]
    return f" (mostly those of {', '.join(shown[:5])})" if shown else ""


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
