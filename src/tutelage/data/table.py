"""Tables: rows of numbers and categories with a target column, from a file or scikit-learn."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from tutelage.data import cache, column_features
from tutelage.data.frame import Frame, column
from tutelage.data.rows import Rows
from tutelage.data.splits import content_numbers
from tutelage.data.streams import ArrayStore
from tutelage.errors import ONCE, UserError

log = logging.getLogger("tutelage")
Embedded = Literal["breast_cancer", "diabetes", "iris", "wine", "linnerud", "digits"]
"""Tables that scikit-learn brings along."""


class Table(Rows):
    """Rows of numbers and categories. A network sees (features,): see `column_features.learn`.

    Numbers are brought to mean 0 and deviation 1; where training rows have empty cells, those are the mean and a feature beside says so.
    Words become one feature each, an empty cell is one of them. A word that no training row has is 0 in all of them, and counted.

    dataset: one of scikit-learn's, in place of `root`. columns: the inputs, by default all others than target, group and time. without: the
    ones to leave out. categories: columns whose numbers are names. Other arguments: see `Rows`.
    """

    def __init__(
        self,
        *,
        dataset: Embedded | None = None,
        columns: Sequence[str] | None = None,
        without: Sequence[str] = (),
        categories: Sequence[str] = (),
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if (dataset is None) == (self.root is None):
            raise UserError(
                f"give either `root`, a file, or `dataset`, one of scikit-learn's: {', '.join(get_args(Embedded))}"
            )
        self.dataset, self.columns = dataset, columns
        self.without, self.categories = list(without), list(categories)
        self.encoding: column_features.Encoding | None = None

    @property
    def named(self) -> str:
        """See `Rows.named`."""
        return self.dataset or super().named

    def frame(self) -> Frame:
        """See `Rows.frame`."""
        if self.dataset is None:
            return super().frame()
        name = self.dataset
        frame, targets = cache.remember(("sklearn", name), lambda: embedded(name))
        self.target = self.target or targets
        return frame

    def encode(self, frame: Frame, train: np.ndarray, targets: Tensor) -> ArrayStore:
        """See `Rows.encode`: features (N, width) float32, and targets (N,) int64 or (N, outputs) float32."""
        for where, names in (
            ("columns", self.columns or ()),
            ("without", self.without),
            ("categories", self.categories),
        ):
            for name in names:
                column(frame, name, where, self.named)
        if taken := next((name for name in self.columns or () if name in self.spoken_for), None):
            raise UserError(
                f"{self.named}: `columns` names '{taken}', which is no input: it is the {self._role(taken)}. Leave it out there"
            )
        if self.trained is not None:
            self.encoding = self.trained.encoding
        else:
            names = [
                name
                for name in (self.columns or frame.columns.columns)
                if name not in self.spoken_for and name not in self.without
            ]
            self.encoding, notes = column_features.learn(
                frame.columns, names, train, categories=self.categories, root=self.named
            )
            for note in notes:
                log.info("%s: %s", self.named, note, extra=ONCE)
        assert self.encoding is not None
        values, unknown = self.encoding.apply(frame.columns, self.named)
        self.facts |= {
            "features": self.encoding.names,
            "unknown_categories": self._unknown(unknown, column_features.UNSEEN),
        }
        self._unknown(self.encoding.holes(frame.columns), column_features.HOLES)
        self.input_shape = (values.shape[1],)
        self.tables["features"] = torch.from_numpy(values)
        if self.trained is None:
            self._check_repeats(content_numbers(values))
        return ArrayStore(torch.from_numpy(values), targets)

    def _role(self, name: str) -> str:
        return "target" if name in self.target else "`group`" if name == self.group else "`time`"

    def _unknown(self, unknown: dict[str, np.ndarray], words: str) -> dict[str, dict[str, int]]:
        """Count, and say in these words, the rows of each split that hold what no training row has."""
        counts: dict[str, dict[str, int]] = {}
        for name, rows in unknown.items():
            found = {split: int(rows[part].sum()) for split, part in self.splits.items() if split != "train"}
            if found := {split: count for split, count in found.items() if count}:
                counts[name] = found
                said = ", ".join(f"{count} {split}" for split, count in found.items())
                log.warning(words, self.named, name, said)
        return counts


def embedded(name: str) -> tuple[Frame, list[str]]:
    """Return one of scikit-learn's tables and its target columns: classes by their names."""
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")(as_frame=True)
    frame = bunch.frame.copy()
    targets = ["target"] if "target" in frame else list(bunch.target.columns)
    names = getattr(bunch, "target_names", None)
    if targets == ["target"] and names is not None and len(names) and name != "digits":
        frame["target"] = np.asarray([str(one) for one in names], dtype=object)[frame["target"].to_numpy()]
    for one in frame.columns:
        if frame[one].dtype.kind in "iuf" and not (name == "digits" and one == "target"):
            frame[one] = frame[one].astype("float64")
    return Frame(frame, {}, []), targets
