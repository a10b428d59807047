"""What every set of rows with named columns shares: target, task, splits, and being judged as another set was trained."""

from __future__ import annotations

import logging
import os
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tutelage.data import cache, moments, row_splits, row_targets
from tutelage.data import splits as splitting
from tutelage.data.base import DataModule
from tutelage.data.column_cells import is_text
from tutelage.data.csv_cells import Decimal
from tutelage.data.fingerprint import check_same
from tutelage.data.fingerprint import fingerprint as fingerprint_of
from tutelage.data.frame import Frame, column
from tutelage.data.frame import read as read_frame
from tutelage.data.streams import Store
from tutelage.errors import ONCE, UserError
from tutelage.runs.declared import USUAL_FOLDS
from tutelage.tasks import Binary, Classification, MultiLabel, Regression
from tutelage.typed import Count

log = logging.getLogger("tutelage")


class Rows(DataModule):
    """Rows of a table with a target column; a subclass says what of them a network sees.

    root: a CSV, Parquet or JSON lines file, or a folder of them called train, validation, test.
    target: the column to predict; or several, for labels of 0 and 1 or for several values.
    task: "classification", "binary" (one output), "multi_label" or "regression"; None: by what the target holds, said aloud.
    classes: names of the classes to keep, in this order.
    validation, test: fractions or numbers of rows, where no file holds them: held out class by class, else at random.
    group: a column (patient, author): rows of a group lie in one split. time: a column of numbers or dates: the latest rows are the test.
    date_format: of `time`, see `moments.read`.
    fold: of `folds`, the one that is the test.
    train_size: training rows to keep, class by class.
    sampling: "balanced" draws every class as often, with replacement.
    empty: what else stands for an empty cell. decimal: "point" or "comma", where a file leaves it open.
    """

    def __init__(
        self,
        *,
        target: str | Sequence[str] | None,
        root: str | os.PathLike[str] | None = None,
        task: row_targets.TaskKind | None = None,
        classes: Sequence[Any] | None = None,
        validation: float = 0.1,
        test: float = 0.2,
        train_size: Count | None = None,
        group: str | None = None,
        time: str | None = None,
        date_format: str | None = None,
        fold: int | None = None,
        folds: int = USUAL_FOLDS,
        empty: Sequence[str] = (),
        decimal: Decimal | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.root = None if root is None else Path(root).expanduser()
        self.target = [target] if isinstance(target, str) else list(target or ())
        self.wanted_task, self.classes = task, classes
        self.sizes = {"validation": validation, "test": test}
        self.train_size, self.group, self.time, self.fold, self.folds = train_size, group, time, fold, folds
        self.date_format, self.empty, self.decimal = date_format, list(empty), decimal
        self.reader: Callable[[], Frame] | None = None
        """What reads the rows, where they are in no file of a table."""
        self.trained: Any = None  # the set that a network was trained on, where this one is there to judge it

    kind_of_task: str
    training: np.ndarray
    """The rows that `train_size` chooses from."""

    @abstractmethod
    def encode(self, frame: Frame, train: np.ndarray, targets: Tensor) -> Store:
        """Return the store of all rows, and set `input_shape` and what goes with it; learn from the rows `train` alone.

        Where `trained` is set, take what that set learnt.
        """

    def texts(self) -> Sequence[str]:
        """Return the columns of running text."""
        return ()

    @property
    def named(self) -> str:
        """What the set is called in messages."""
        return str(self.root)

    def judged_as(self, trained: DataModule) -> None:
        """See `DataModule.judged_as`: scaling, categories, vocabulary and classes are those of the other set."""
        if isinstance(trained, type(self)):
            self.trained = trained
            if self.fingerprint is None or self.fingerprint != trained.fingerprint:
                self.only_test = True

    def prepare(self) -> None:
        """Read the file. Raises UserError where it is missing or no table."""
        self.frame()

    def frame(self) -> Frame:
        """Return the rows, read once in this process."""
        if self.root is None:
            raise UserError("`root` must name a CSV, Parquet or JSON lines file")
        if self.reader is not None:
            return self.reader()
        root = self.root
        self.fingerprint = self.fingerprint or fingerprint_of(root)
        reading: dict[str, Any] = {
            "texts": tuple(self.texts()),
            "empty": tuple(self.empty),
            "decimal": self.decimal,
        }
        key = ("rows", self.fingerprint, str(root), repr(sorted(reading.items())))

        def read() -> Frame:
            check_same(self.fingerprint, fingerprint_of(root), root, "rows")
            return read_frame(root, **reading)

        return cache.remember(key, read)

    def load(self) -> None:
        """See `DataModule`."""
        frame = self.frame()
        for note in frame.notes:
            log.info("%s: %s", self.named, note, extra=ONCE)
        trained = self.trained
        targets = row_targets.read(
            frame,
            self.target,
            root=self.named,
            task=self.wanted_task if trained is None else trained.kind_of_task,
            classes=self.classes,
            known=None if trained is None else trained.facts.get("classes"),
        )
        log.info("%s: %s", self.named, targets.note, extra=ONCE)
        self.kind_of_task = targets.task
        one_of = targets.values.ndim == 1
        rows = np.flatnonzero(targets.values >= 0) if one_of else np.arange(len(targets.values))
        self._check_size(rows)
        if self.only_test:
            nothing = np.empty(0, dtype=np.int64)
            self.splits = {"train": nothing, "validation": nothing, "test": rows}
        else:
            self.splits = row_splits.split(
                rows, frame.official, targets.values if one_of else None, self._how(frame)
            )
        train = self.training = self.splits["train"]
        if self.train_size is not None and not self.only_test:
            labels = targets.values if one_of else None
            train = self.splits["train"] = splitting.limit(
                train, self.train_size, seed=self.split_seed, labels=labels
            )
        self.facts |= {"target": self.target, "task": targets.task}
        self.store = self.encode(frame, train, self._task(targets, train))

    def _check_size(self, rows: np.ndarray) -> None:
        if len(rows) < 3 and not self.only_test:
            raise UserError(
                f"{self.named} has {len(rows)} rows, where training, validation and test need one each"
            )

    def _task(self, targets: row_targets.Targets, train: np.ndarray) -> Tensor:
        """Set the task, and return the targets as its losses read them."""
        if targets.classes is not None:
            self.facts["classes"] = targets.classes
        if targets.task in ("classification", "binary"):
            assert targets.classes is not None
            counts = np.bincount(targets.values[train], minlength=len(targets.classes))
            self.facts["train_class_counts"] = counts.tolist()
            if not self.only_test and (absent := [targets.classes[i] for i in np.flatnonzero(counts == 0)]):
                log.warning("%s: no training row of the classes %s", self.named, ", ".join(absent[:8]))
            self.task = Binary() if targets.task == "binary" else Classification(len(targets.classes))
            return torch.from_numpy(targets.values)
        if targets.task == "multi_label":
            self.task = MultiLabel(targets.values.shape[1])
            return torch.from_numpy(targets.values).float()
        mean, deviation = (
            self._scale(targets.values[train]) if self.trained is None else self.trained.facts["target_scale"]
        )
        self.facts["target_scale"] = [list(mean), list(deviation)]
        self.task = Regression(len(deviation), scale=deviation)
        return torch.from_numpy((targets.values - np.asarray(mean)) / np.asarray(deviation)).float()

    def _scale(self, train: np.ndarray) -> tuple[list[float], list[float]]:
        deviation = train.std(axis=0)
        if (deviation == 0).any():
            raise UserError(
                f"{self.named}: the target '{self.target[int(deviation.argmin())]}' is the same in all training rows"
            )
        return train.mean(axis=0).tolist(), deviation.tolist()

    def _how(self, frame: Frame) -> row_splits.How:
        groups = times = None
        if self.group is not None:
            groups = row_targets.as_names(self._filled(frame, self.group, "group")).astype(str)
        if self.time is None and self.date_format is not None:
            raise UserError("`date_format` says how the dates of `time` are written: name that column")
        if self.time is not None:
            times = self._times(self._filled(frame, self.time, "time"))
        return row_splits.How(
            **self.sizes, seed=self.split_seed, groups=groups, times=times, fold=self.fold, folds=self.folds
        )

    def _filled(self, frame: Frame, name: str, what: str) -> Any:
        cells = column(frame, name, what, self.named)
        if empty := int(cells.isna().sum()):
            raise UserError(f"{self.named}: the column '{name}' (`{what}`) is empty in {empty} rows")
        return cells

    def _times(self, cells: Any) -> np.ndarray:
        import pandas as pd

        if is_text(cells):
            lines = np.arange(len(cells)) + 2  # behind a header
            where = f"{self.named}: the column '{self.time}' (`time`)"
            texts = cells.astype(str).tolist()
            return moments.read(texts, lines=lines, where=where, date_format=self.date_format).instants
        if self.date_format is not None:
            raise UserError(
                f"{self.named}: the column '{self.time}' (`time`) holds numbers, which are in their own order: leave `date_format` out, or "
                "write dates as texts"
            )
        return cells.astype("int64" if not pd.api.types.is_float_dtype(cells) else "float64").to_numpy()

    def labels(self) -> Tensor | None:
        """See `DataModule.labels`."""
        return (
            getattr(self.store, "targets", None)
            if self.kind_of_task in ("classification", "binary")
            else None
        )

    @property
    def spoken_for(self) -> set[str]:
        """The columns that are no inputs: targets, group and time."""
        return {*self.target, *(name for name in (self.group, self.time) if name)}
