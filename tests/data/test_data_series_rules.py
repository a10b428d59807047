"""Series and mixed images: boundaries of splits and windows, levels and mixtures by slow versions, each message as it stands."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from expected import refused
from tutelage.data import mixing, series
from tutelage.data.series import Series
from tutelage.data.timeline import Timeline
from tutelage.tasks import Batch


def made(split=(0.5, 0.25, 0.25), length=3, horizon=2, **more):
    return Series(root="f.csv", length=length, horizon=horizon, split=split, batch_size=2, **more)


@pytest.mark.parametrize(("split", "rows"), [
    ((0.5, 0.25, 0.25), [5, 2, 2]), ((0.6, 0.3, 0.1), [6, 3, 1]),
    ((0.7, 0.2, 0.2), "fractions sum to at most 1, numbers of rows are whole; these "
                                                                                   "are neither"),
    ((5, 2, 3), [5, 2, 3]), ((5, 2, 4), "asks for 11 rows, f.csv has 10"),
    ((5, 2.5, 1), "fractions sum to at most 1, numbers of rows are whole; "
                                                                                         "these are neither"),
    ((0.2, 0.2, 0.2), [2, 2, 2]),
])  # fmt: skip
def test_the_rows_of_parts(split, rows):
    if isinstance(rows, list):
        assert made(split)._rows(10) == rows
    else:
        said = refused(made(split)._rows, 10)
        assert said.startswith(f"`split`={list(split)}") and said.endswith(rows)


def lined(positions, texts=None):
    line = Timeline(np.array(positions), "1 hour")
    return SimpleNamespace(line=line, texts=texts or [f"t{place}" for place in range(len(positions))])


@pytest.mark.parametrize(("ends", "lengths", "outcome"), [
    ((6, 9, 12), (3, 2), {"train": [0, 1], "validation": [3, 4], "test": [6, 7]}),
    ((5, 7, 9), (3, 2), {"train": [0], "validation": [2], "test": [4]}),
    ((4, 7, 9), (3, 2), "the train rows are too few for one window of length + horizon = 3 + 2"),
    ((5, 6, 9), (3, 2), "the validation rows are too few for one window of length + horizon = 3 + 2"),
    ((5, 7, 8), (3, 2), "the test rows are too few for one window of length + horizon = 3 + 2"),
    ((8, 9, 12), (6, 1), {"train": [0, 1], "validation": [2], "test": [3, 4, 5]}),
])  # fmt: skip
def test_the_windows_of_parts(ends, lengths, outcome):
    data = made(length=lengths[0], horizon=lengths[1])
    if isinstance(outcome, str):
        assert refused(data._windows, lined(range(12)), np.array(ends)) == outcome
        return
    found = data._windows(lined(range(12)), np.array(ends))
    assert {part: rows.tolist() for part, rows in found.items()} == outcome
    assert data.facts == {"step": "1 hour", "missing_rows": 0}


def test_forecasts_of_the_same_rows_are_compared_however_far_networks_look_back():
    def facts(start, length, horizon=2, **more):
        data = made(length=length, horizon=horizon)
        data.__dict__.update(
            splits={"test": np.arange(start, start + 5)}, fingerprint="f", normalization=((1.0,), (2.0,))
        )
        data.__dict__.update(more)
        data.facts["columns"] = ["a"]
        return data.test_facts()

    first = facts(10, 3)
    assert (
        first == facts(8, 5) == facts(8, 5, normalization=((9.0,), (2.0,)))
        and first[0] == "f"
        and first[2:] == (2, ["a"], (2.0,))
    )
    assert facts(10, 3, normalization=None)[-1] is None
    assert all(
        other != first
        for other in (
            facts(10, 5),
            facts(8, 3),
            facts(10, 3, 3),
            facts(10, 3, normalization=((1.0,), (3.0,))),
        )
    )


def test_windows_across_missing_rows(caplog):
    data = made(length=2, horizon=1)
    file = lined([0, 1, 2, 5, 6, 7, 9, 10, 11, 12, 13])
    found = data._windows(file, np.array([5, 9, 11]))
    assert {part: rows.tolist() for part, rows in found.items()} == {
        "train": [0],
        "validation": [3, 6],
        "test": [7, 8],
    }
    assert [one.getMessage() for one in caplog.records] == [
        "f.csv: at a step of 1 hour, 3 rows are missing: 2 after t2, 1 after t5; windows across them are left out: 2 of 3 in train, "
        "2 of 4 in validation, 0 of 2 in test"
    ]
    assert data.facts["missing_rows"] == 3
    assert data._holes(lined([0, 2, 4, 6])).endswith("missing: 1 after t0, 1 after t1, 1 after t2")
    holes = "at a step of 1 hour, 3 rows are missing: 2 after t2, 1 after t5"
    assert data._holes(file) == holes and data._holes(lined([0, 2, 4, 6, 8])).endswith(
        "1 after t0, 1 after t1, 1 after t2, ..."
    )  # fmt: skip


def test_a_part_whose_windows_all_lack_a_row():
    data = made(length=2, horizon=1)
    said = refused(data._windows, lined([0, 2, 4, 6, 8, 10, 12, 14]), np.array([4, 6, 8]))
    assert said == (
        "f.csv: rows are missing in all 2 windows of the train split (at a step of 1 hour, 7 rows are missing: 1 after t0, 1 after t1, "
        "1 after "
        "t2, ...): choose a shorter `length` and `horizon`, or let each row be a step whatever its time: `step`=row"
    )


def test_the_scale_of_training_rows():
    data = made()
    mean, deviation = data._scale(np.array([[1.0, 5.0], [3.0, np.nan], [5.0, 7.0]]), ["a", "b"])
    assert mean.tolist() == [3.0, 6.0] and deviation.tolist() == pytest.approx([math.sqrt(8 / 3), 1.0])
    said = "f.csv: columns that are empty in the training rows: b; leave them out with `columns`"
    assert refused(data._scale, np.array([[1.0, np.nan], [2.0, np.nan]]), ["a", "b"]) == said
    for odd in (0.1, 7.0, 0.0):
        said = "f.csv: columns without variation in the training rows: b, c; leave them out with `columns`"
        assert (
            refused(
                data._scale, np.array([[1.0, odd, 2.0], [2.0, odd, 2.0], [3.0, odd, np.nan]]), ["a", "b", "c"]
            )
            == said
        )
    data._scale(np.array([[1.0], [1.0 + 1e-11]]), ["a"])


@pytest.mark.parametrize(("empty", "said"), [
    ([0.5, 0.4], ""), ([0.6, 0.1], " (mostly those of a (60%))"), ([0.6, 0.9], " (mostly those of b (90%), a (60%))"),
    ([0.6, 0.7, 0.8, 0.9, 1.0, 0.65], " (mostly those of e (100%), d (90%), c (80%), b (70%), f (65%))"),
])  # fmt: skip
def test_the_emptiest_columns(empty, said):
    rows = 20
    present = np.array([[row >= round(rows * share) for share in empty] for row in range(rows)])
    assert series._emptiest(present, list("abcdef")[: len(empty)]) == said


@pytest.mark.parametrize("level", ["mean", "last"])
@pytest.mark.parametrize("hidden", [False, True])
def test_the_level_of_a_window_by_a_loop(level, hidden):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(4, 5, 3, generator=generator)
    seen = torch.rand(4, 5, 3, generator=generator) > 0.5 if hidden else None
    if hidden:
        seen[0, :, 0] = False
        seen[1, 1:, 1], seen[1, 0, 1] = False, True
    found = series._level(inputs, seen, level)
    for n in range(4):
        for column in range(3):
            there = [
                inputs[n, row, column].item() for row in range(5) if seen is None or seen[n, row, column]
            ]
            slow = 0.0 if not there else there[-1] if level == "last" else sum(there) / len(there)
            assert found[n, 0, column].item() == pytest.approx(slow, abs=1e-6)


@pytest.mark.parametrize(("rate", "where", "until"), [(0.0, "train", 0), (0.3, "train", 6), (0.3, "all", 20)])
def test_values_that_are_taken_away(rate, where, until):
    data = made(missing=rate, missing_in=where)
    gaps, ends = data._gaps((20, 2), train_starts=6)
    assert ends == until and (gaps is None) == (rate == 0)
    if rate:
        assert data.facts["missing_values"] == pytest.approx(gaps[: until + 2].float().mean().item())


# --- mixed images ---------------------------------------------------------------------------------------------


def mixture(ways, noise, images, labels):
    batch = Batch(images, torch.tensor(labels), torch.arange(len(images)))
    return mixing.Mixer(ways)(batch, torch.tensor(noise), 3)


class Fixed(mixing.Mixup):
    """Mixes by the share that it is given."""

    def share(self, noise):
        return noise


class FixedCut(mixing.CutMix):
    """Cuts by the share that it is given."""

    def share(self, noise):
        return noise


def test_pairs_of_a_batch_are_mixed_in_one_way_each():
    images = torch.arange(1.0, 5.0).reshape(4, 1, 1, 1).expand(4, 1, 4, 6).clone()
    noise = [[0.29, 0.25, 0.5, 0.5], [0.3, 0.75, 0.0, 0.99], [0.79, 0.0, 0.6, 0.4], [0.8, 0.5, 0.5, 0.5]]
    found = mixture([Fixed(probability=0.3), FixedCut(probability=0.5)], noise, images, [0, 1, 2, 0])
    assert torch.allclose(found.inputs[0], torch.full((1, 4, 6), 0.25 * 1 + 0.75 * 2))
    assert found.targets[0].tolist() == pytest.approx([0.25, 0.75, 0.0])
    assert torch.equal(found.inputs[3], images[3]) and found.targets[3].tolist() == [1.0, 0.0, 0.0]
    for place, area, down, across in ((1, 0.25, 0.0, 0.99), (2, 1.0, 0.6, 0.4)):
        half = math.sqrt(area) / 2
        y, x = min(int(down * 4), 3), min(int(across * 6), 5)
        rows, columns = (
            range(max(y - int(half * 4), 0), min(y + int(half * 4), 4)),
            range(max(x - int(half * 6), 0), min(x + int(half * 6), 6)),
        )
        slow = images[place].clone()
        for row in rows:
            for column in columns:
                slow[0, row, column] = images[place ^ 1][0, row, column]
        assert torch.equal(found.inputs[place], slow)
        share = 1 - len(rows) * len(columns) / 24
        own, theirs = [0, 1, 2, 0][place], [0, 1, 2, 0][place ^ 1]
        assert found.targets[place][own].item() == pytest.approx(share) and found.targets[place][
            theirs
        ].item() == pytest.approx(1 - share)


@pytest.mark.parametrize(("shares", "fine"), [((0.5, 0.5), True), ((1.0, 0.0), True), ((0.6, 0.5), False)])
def test_an_image_is_mixed_in_one_way_at_most(shares, fine):
    ways = [Fixed(probability=shares[0]), FixedCut(probability=shares[1])]
    if fine:
        mixing.Mixer(ways)
        return
    assert refused(mixing.Mixer, ways) == (
        "an image is mixed in one way at most: the probabilities of Fixed and FixedCut come to 1.1; give each its share, such as "
        "data.augment.mixup.probability=0.5 data.augment.cutmix.probability=0.5"
    )


def test_an_odd_batch_has_no_pairs():
    said = "mixup and cutmix mix pairs of a batch: data.batch_size must be even (on each rank), got 3 samples"
    assert (
        refused(mixture, [Fixed(probability=1.0)], [[0.0] * 4] * 3, torch.zeros(3, 1, 2, 2), [0, 1, 2])
        == said
    )


@pytest.mark.parametrize(("header", "clock", "columns", "outcome"), [
    (["d", "a", "b"], [0], None, [1, 2]), (["d", "t", "a"], [0, 1], None, [2]), (["d", "a", "b"], [0], ["b", "a"], [2, 1]),
    (["d", "a", "a", "b"], [0], ["b"], [3]), (["d", "", "", "a"], [0], None, [1, 2, 3]),
    (["d", "a", "a"], [0], None, "f has more than one column named 'a': give each its own name"),
    (["d", "a", "a", "b"], [0], ["a"], "f has more than one column named 'a': give each its own name"),
    (["d", "d", "b"], [0], ["b"], "f has more than one column named 'd': give each its own name"),
    (["d", "ab"], [0], ["ac"], "f has no column 'ac'; did you mean 'ab'? Known: ab, d"),
])  # fmt: skip
def test_the_columns_of_a_series(header, clock, columns, outcome):
    from pathlib import Path

    from tutelage.data import csv_table

    if isinstance(outcome, str):
        assert refused(csv_table._places, Path("f"), header, clock, columns) == outcome
    else:
        assert csv_table._places(Path("f"), header, clock, columns) == outcome
