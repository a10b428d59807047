"""Forecasting windows of a small table: borders, scaling, gaps, calendar."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.data import cache
from tutelage.data.series import CALENDAR, Series
from tutelage.errors import UserError

ROWS = 200


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(3, 2, (ROWS, 3)).cumsum(axis=0), columns=["a", "b", "OT"])
    frame.insert(0, "date", pd.date_range("2016-07-01", periods=ROWS, freq="h"))
    path = tmp_path_factory.mktemp("series") / "table.csv"
    frame.to_csv(path, index=False)
    return path


def ready(path: Path, **options: object) -> Series:
    cache.forget()
    module = Series(
        root=path, **({"batch_size": 8, "length": 6, "horizon": 4, "split": [120, 40, 40]} | options)
    )  # type: ignore[arg-type]
    module.prepare()
    module.setup()
    module.open_test()
    return module


@settings(deadline=None, max_examples=10)
@given(length=st.integers(1, 20), horizon=st.integers(1, 12))
def test_windows_by_hand(table: Path, length: int, horizon: int) -> None:
    module = ready(table, length=length, horizon=horizon)
    raw = pd.read_csv(table)[["a", "b", "OT"]].to_numpy()
    scaled = (raw - raw[:120].mean(0)) / raw[:120].std(0)
    borders = {"train": (0, 120), "validation": (120 - length, 160), "test": (160 - length, 200)}
    assert module.input_shape == (length, 3) and module.task.output_size == 3 * horizon
    for split, (first, last) in borders.items():
        batches = list(module.batches(split, device="cpu"))
        starts = range(first, last - length - horizon + 1)
        assert torch.cat([b.index for b in batches]).tolist() == list(starts)
        inputs, targets = (torch.cat([b[k] for b in batches]) for k in (0, 1))
        assert np.allclose(inputs, np.stack([scaled[s : s + length] for s in starts]), atol=1e-5)
        assert np.allclose(
            targets, np.stack([scaled[s + length : s + length + horizon] for s in starts]), atol=1e-5
        )


def test_no_target_row_lies_in_two_splits(table: Path) -> None:
    module = ready(table)
    rows = {
        name: {row for start in starts for row in range(start + 6, start + 10)}
        for name, starts in module.splits.items()
    }
    assert not (rows["train"] & rows["validation"]) and not (rows["validation"] & rows["test"])


def test_fractions_and_columns(table: Path) -> None:
    module = ready(table, split=[0.7, 0.1, 0.2], columns=["OT"])
    assert module.facts["rows"] == [140, 160, 200] and module.input_shape == (6, 1)
    assert module.normalization is not None and len(module.normalization[0]) == 1


@pytest.mark.parametrize("where", ["train", "all"])
def test_gaps_hide_inputs_alone(table: Path, where: str) -> None:
    clean, gappy = ready(table), ready(table, missing=0.3, missing_in=where)
    for split in ("train", "validation", "test"):
        for a, b in zip(clean.batches(split, device="cpu"), gappy.batches(split, device="cpu"), strict=True):
            hidden = a.inputs != b.inputs
            assert torch.equal(a.targets, b.targets) and (b.inputs[hidden] == 0).all()
            if split == "train" or where == "all":
                assert 0.1 < hidden.float().mean() < 0.5
            else:
                assert not hidden.any()
    assert abs(gappy.summary()["missing_values"] - 0.3) < 0.05
    first, second = (next(iter(gappy.batches("train", device="cpu"))).inputs[k] for k in (0, 1))
    assert torch.equal(first[1:], second[:-1])  # a hidden value is hidden in every window


def test_empty_cells_do_not_count(table: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(table)
    frame.loc[[10, 130], "a"] = np.nan
    frame.to_csv(tmp_path / "holes.csv", index=False)
    module = ready(tmp_path / "holes.csv")
    assert module.summary()["empty_cells"] == 2
    batch = next(iter(module.batches("train", device="cpu")))
    assert batch.target_mask is not None and torch.isfinite(batch.inputs).all()
    places = [(n, t) for n, t in (~batch.target_mask[..., 0]).nonzero().tolist()]
    assert places == [(s, 10 - 6 - s) for s in range(1, 5)]
    assert batch.target_mask[..., 1:].all()
    assert module.task.loss(batch.targets, batch) == 0


@pytest.mark.parametrize("level", ["last", "mean"])
@pytest.mark.parametrize("missing", [0.0, 0.4])
@pytest.mark.parametrize("holes", [False, True])
def test_a_level_is_that_of_the_values_that_are_there(
    table: Path, tmp_path: Path, level: str, missing: float, holes: bool
) -> None:
    path = table
    if holes:
        frame = pd.read_csv(table)
        frame.loc[[10, 11, 12, 13, 14, 15, 16, 130], "a"] = np.nan  # one whole window of six among them
        frame.to_csv(path := tmp_path / "holes.csv", index=False)
    plain, levelled = ready(path, missing=missing), ready(path, missing=missing, level=level)
    everything = ready(path)
    for split in ("train", "validation", "test"):
        batches = zip(*(m.batches(split, device="cpu") for m in (everything, plain, levelled)), strict=True)
        for whole, a, b in batches:
            assert (a.target_mask is None) == (b.target_mask is None) == (not holes)
            for sample in range(len(a.index)):
                for column in range(3):
                    # Hidden values and empty cells are 0 in `plain`; a true value of exactly 0 does not occur.
                    window = a.inputs[sample, :, column]
                    there = window[window != 0]
                    base = 0.0 if len(there) == 0 else float(there[-1] if level == "last" else there.mean())
                    expected = torch.where(window != 0, window - base, 0.0)
                    assert torch.allclose(b.inputs[sample, :, column], expected, atol=1e-5)
                    targets = whole.targets[sample, :, column] - base
                    assert torch.allclose(b.targets[sample, :, column], targets, atol=1e-5)


def test_nothing_forecast_from_a_level_is_that_level(table: Path) -> None:
    """An error from a level is the error of the values: forecasting 0 is forecasting the last value."""
    plain = next(iter(ready(table).batches("test", device="cpu")))
    levelled = next(iter(ready(table, level="last").batches("test", device="cpu")))
    copied = plain.inputs[:, -1:].expand_as(plain.targets)
    assert torch.allclose((plain.targets - copied).square(), levelled.targets.square(), atol=1e-4)


def test_the_calendar_of_a_window_is_found_by_its_index(table: Path) -> None:
    module = ready(table)
    batch = next(iter(module.batches("validation", device="cpu")))
    rows = module.tables["calendar"][batch.index]
    moments = pd.date_range("2016-07-01", periods=ROWS, freq="h")[batch.index.numpy()]
    hours = torch.atan2(rows[:, 0], rows[:, 1]) * 24 / (2 * torch.pi) % 24
    assert len(CALENDAR) == rows.shape[1] == 4
    assert torch.allclose(hours, torch.tensor(moments.hour.to_numpy(), dtype=torch.float32), atol=1e-3)
    days = torch.atan2(rows[:, 2], rows[:, 3]) * 7 / (2 * torch.pi) % 7
    expected = torch.tensor((moments.dayofweek + moments.hour / 24).to_numpy(), dtype=torch.float32)
    assert torch.allclose(days, expected, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": [120, 40, 60]}, "asks for 220 rows"),
        ({"split": [1, 2]}, "three positive"),
        ({"split": [0.7, 0.7, 0.2]}, "these are neither"),
        ({"split": [120.5, 40, 20]}, "these are neither"),
        ({"columns": ["OTT"]}, "did you mean 'OT'"),
        ({"date": "day"}, "no column 'day'"),
        ({"horizon": 41}, "validation rows are too few"),
        ({"length": 130}, "train rows are too few"),
        ({"missing": 2}, "missing"),
        ({"level": "lats"}, "`level` 'lats' does not exist: did you mean 'last'"),
    ],
)
def test_wrong_options_are_explained(table: Path, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ready(table, **options)


def test_broken_files_are_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no"):
        ready(tmp_path / "nothing.csv")
    path = tmp_path / "broken.csv"
    path.write_text("date,a\nnot a date,1\n")
    with pytest.raises(UserError, match="no CSV file with dates"):
        ready(path)
    path.write_text("date,a\n2020-01-02,1\n2020-01-01,2\n")
    with pytest.raises(UserError, match="not in the order of time"):
        ready(path)
    path.write_text("date,a\n2020-01-01,word\n2020-01-02,word\n")
    with pytest.raises(UserError, match="not numbers: a"):
        ready(path)
    # 0.1 and 21.7: numpy's deviation of so many equal values is a rounding error above 0
    for values in ([1.0] * 50, [0.1] * 50, [21.7] * 30 + [22.7] * 20):
        pd.DataFrame({"date": pd.date_range("2020-01-01", periods=50), "a": values}).to_csv(path, index=False)
        with pytest.raises(UserError, match="without variation"):
            ready(path, split=[30, 10, 10], length=2, horizon=2)
    for text, message in (
        ("date,a\n", "a header and no rows"),
        ("date;a\n2020-01-01;1\n", "separated by ';'"),
        ("date,a\n2020-01-01,1\n2020-01-02,inf\n", "not finite, in row 3 of the column 'a'"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            ready(path)
    path.write_text("date,a\n1467331200,1\n1467334800,2\n")
    with pytest.raises(UserError, match=r"'date' holds numbers, \[1467331200\]"):
        ready(path)
