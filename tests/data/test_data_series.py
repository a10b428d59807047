"""Forecasting windows of a small table: borders, scaling, gaps, calendar."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.data import cache
from tutelage.data.series import Series
from tutelage.data.series_file import CALENDAR
from tutelage.errors import UserError
from tutelage.runs.identity import identify

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
        ({"split": [1, 2]}, "`split` must be a list of 3 values, each a number above 0, got "),
        ({"split": [0.7, 0.7, 0.2]}, "these are neither"),
        ({"split": [120.5, 40, 20]}, "these are neither"),
        ({"columns": ["OTT"]}, "did you mean 'OT'"),
        ({"date": "day"}, "no column 'day'"),
        ({"horizon": 41}, "validation rows are too few"),
        ({"length": 130}, "train rows are too few"),
        ({"missing": 2}, "missing"),
        (
            {"level": "lats"},
            "`level` must be one of last, mean or nothing .null., got 'lats'; did you mean 'last'",
        ),
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
    with pytest.raises(UserError, match="no dates of a form"):
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
        ("date,a\n2020-01-01,1\n2020-01-02,inf\n", "not finite, in row 3 of the column 'a'"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            ready(path)
    path.write_text("date,a\n1467331200,1\n1467334800,2\n")
    with pytest.raises(UserError, match=r"'date' holds numbers, \[1467331200\]"):
        ready(path)


def test_windows_across_missing_rows_are_left_out_and_counted(
    table: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A hole within the training rows, and one over the border of validation and test."""
    frame = pd.read_csv(table)
    holes = [*range(50, 63), 158, 159, 160, 161]
    frame.drop(holes).to_csv(tmp_path / "holed.csv", index=False)
    rows = [row for row in range(ROWS) if row not in holes]
    with caplog.at_level("WARNING", logger="tutelage"):
        module = ready(tmp_path / "holed.csv", split=[107, 38, 38])
    assert module.facts["step"] == "1 hour" and module.facts["missing_rows"] == 17
    raw = frame[["a", "b", "OT"]].to_numpy()
    scaled = (raw - raw[rows[:107]].mean(0)) / raw[rows[:107]].std(0)
    left_out = 0
    for split, (first, last) in {"train": (0, 107), "validation": (101, 145), "test": (139, 183)}.items():
        starts = range(first, last - 9)
        whole = [s for s in starts if rows[s + 9] - rows[s] == 9]
        left_out += len(starts) - len(whole)
        batches = list(module.batches(split, device="cpu"))
        assert torch.cat([b.index for b in batches]).tolist() == whole
        inputs, targets = (torch.cat([b[k] for b in batches]) for k in (0, 1))
        assert np.allclose(inputs, np.stack([scaled[rows[s] : rows[s] + 6] for s in whole]), atol=1e-5)
        assert np.allclose(targets, np.stack([scaled[rows[s] + 6 : rows[s] + 10] for s in whole]), atol=1e-5)
        assert f"{len(starts) - len(whole)} of {len(starts)} in {split}" in caplog.text
    assert left_out == 9 + 6 and "17 rows are missing: 13 after 2016-07-03 01:00:00, 4 after" in caplog.text
    calendar = ready(table).tables["calendar"]
    assert torch.equal(module.tables["calendar"], calendar[torch.tensor(rows)])
    every = ready(tmp_path / "holed.csv", split=[107, 38, 38], step="row")
    assert len(every.splits["train"]) == 98 and every.facts["missing_rows"] == 0


def test_a_split_without_a_whole_window_is_refused(table: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(table)
    frame.drop(range(165, 200, 8)).to_csv(tmp_path / "holed.csv", index=False)
    with pytest.raises(
        UserError, match=r"rows are missing in all \d+ windows of the test split .*`step`=row"
    ):
        ready(tmp_path / "holed.csv", split=[120, 45, 30])


@pytest.mark.parametrize("head", ["", "Unnamed: 0", "No"])
def test_a_column_that_counts_the_rows_is_no_series(
    table: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, head: str
) -> None:
    frame = pd.read_csv(table)
    frame.insert(0, head, np.arange(ROWS) + 1)
    frame.drop(range(20, 30)).to_csv(path := tmp_path / "counted.csv", index=False)
    with caplog.at_level("INFO", logger="tutelage"):
        module = ready(path, split=[110, 40, 40])
    assert module.facts["columns"] == ["a", "b", "OT"]
    assert ("the column 'No' counts the rows" if head == "No" else "a column without a name") in caplog.text
    if head == "No":
        assert ready(path, split=[110, 40, 40], columns=["No", "a"]).facts["columns"] == ["No", "a"]


def test_a_column_without_a_name_that_is_no_count_is_asked_for(table: Path, tmp_path: Path) -> None:
    pd.read_csv(table).rename(columns={"b": ""}).to_csv(path := tmp_path / "nameless.csv", index=False)
    with pytest.raises(UserError, match="a column of numbers has no name"):
        ready(path)
    assert ready(path, columns=["a"]).facts["columns"] == ["a"]


def test_mostly_empty_columns_are_named_and_wholly_empty_ones_refused(
    table: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frame = pd.read_csv(table)
    frame.loc[np.arange(ROWS) % 10 != 3, "b"] = np.nan
    frame.to_csv(path := tmp_path / "thin.csv", index=False)
    with caplog.at_level("WARNING", logger="tutelage"):
        module = ready(path)
    assert "180 of 600 cells are empty (mostly those of b (90%))" in caplog.text
    seen = pd.read_csv(path)["b"][:120]
    assert module.normalization is not None
    assert np.allclose([part[1] for part in module.normalization], [seen.mean(), seen.std(ddof=0)])
    frame.loc[:150, "b"] = np.nan
    frame.to_csv(path, index=False)
    with pytest.raises(UserError, match="empty in the training rows: b"):
        ready(path)


def test_a_value_that_often_stands_for_a_missing_one_is_said(
    table: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frame = pd.read_csv(table)
    frame.loc[[5, 7], "a"] = -9999
    frame.to_csv(path := tmp_path / "sentinel.csv", index=False)
    with caplog.at_level("INFO", logger="tutelage"):
        ready(path)
    assert "2 cells of the column 'a' hold -9999" in caplog.text and "column 'b'" not in caplog.text


def test_what_says_how_a_file_is_read_is_part_of_the_identity_where_it_is_given() -> None:
    """Runs made before these settings keep theirs."""
    old = {"data": {"_target_": "tutelage.data.series.Series", "fingerprint": "x", "date": "date"}}
    plain = {"data": {**old["data"], "date_format": None, "step": None, "decimal": None}}
    assert identify(plain) == identify(old)
    given = [
        {"data": {**plain["data"], key: value}}
        for key, value in (("date_format", "unix"), ("step", "row"), ("decimal", "comma"))
    ]
    assert len({identify(config) for config in (plain, *given)}) == 4


def test_forecasts_of_the_same_rows_may_be_compared_whatever_a_network_looks_back(table: Path) -> None:
    def tested_on(**options: object) -> str:
        return ready(table, **options).summary()["test_sha256"]

    assert tested_on() == tested_on(length=9) == tested_on(level="last") == tested_on(missing=0.2)
    others = [{"horizon": 5}, {"split": [110, 50, 40]}, {"split": [120, 40, 39]}, {"columns": ["a"]}]
    assert len({tested_on(), *(tested_on(**options) for options in others)}) == 5
