"""Splits: partitions, stratification, determinism over seeds and versions, leakage checks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.data import splits
from tutelage.errors import UserError

labelled = st.lists(st.integers(0, 4), min_size=20, max_size=120).map(lambda x: np.asarray(x, dtype=np.int64))


@settings(deadline=None, max_examples=60)
@given(labels=labelled, seed=st.integers(0, 2**40), size=st.floats(0.1, 0.9))
def test_hold_out_is_a_stratified_partition(labels: np.ndarray, seed: int, size: float) -> None:
    indices = np.arange(len(labels))
    rest, held = splits.hold_out(indices, size, seed=seed, name="validation", labels=labels)
    assert np.array_equal(np.sort(np.concatenate([rest, held])), indices)
    assert len(held) == round(size * len(labels))
    for label in np.unique(labels):
        assert abs((labels[held] == label).sum() - size * (labels == label).sum()) < 2
    again = splits.hold_out(indices, size, seed=seed, name="validation", labels=labels)[1]
    assert np.array_equal(held, again)


def test_seed_and_name_change_a_split() -> None:
    indices = np.arange(1000)
    a, b, c = (
        splits.hold_out(indices, 0.5, seed=seed, name=name)[1]
        for seed, name in ((0, "test"), (1, "test"), (0, "validation"))
    )
    for first, second in ((a, b), (a, c)):
        assert 150 < len(np.intersect1d(first, second)) < 350  # two independent halves share a quarter


def test_the_order_of_a_seed_never_changes() -> None:
    # Recorded splits must mean the same data with every version of Python, NumPy and Tutelage.
    assert splits.shuffled(np.arange(8), 3).tolist() == [0, 4, 7, 1, 5, 6, 3, 2]
    assert splits.derive_seed("epoch", 0, 1) == 2852044839997773059
    digest = splits.digest(np.arange(3))
    assert np.allclose(splits.uniform(2, 0), np.random.default_rng(0).random(2))
    assert digest == "ab25350e3e65efebe24584461683ecda68725576e825e550038b90e7b1479946"


@settings(deadline=None, max_examples=30)
@given(labels=labelled, seed=st.integers(0, 1000))
def test_fewer_labels_are_part_of_more(labels: np.ndarray, seed: int) -> None:
    labels = np.concatenate([labels, np.tile(np.arange(5), 4)])
    indices = np.arange(len(labels))
    two, four = (splits.take_per_class(indices, labels, k, seed=seed) for k in (2, 4))
    assert np.bincount(labels[four]).tolist() == [4] * 5
    assert np.isin(two, four).all() and len(two) == 10


def test_one_is_a_count_and_less_a_fraction() -> None:
    assert [splits.requested_count(size, 10, name="x") for size in (0, 0.1, 1, 9, 3.0, 0.0)] == [
        0,
        1,
        1,
        9,
        3,
        0,
    ]
    for wrong in (1.0, 10, 0.01, True, -1, 2.5, float("nan"), float("inf"), "2"):
        with pytest.raises(UserError, match=r"^x"):
            splits.requested_count(wrong, 10, name="x")


def test_limit_is_stratified() -> None:
    labels = np.repeat([0, 1], [300, 100])
    kept = splits.limit(np.arange(400), 40, seed=0, labels=labels)
    assert np.bincount(labels[kept]).tolist() == [30, 10]


@pytest.mark.parametrize("size", [1.5, -0.1, 20, 400, True, "half", 1e-9])
def test_impossible_sizes_name_the_choices(size: object) -> None:
    with pytest.raises(UserError, match="validation"):
        splits.hold_out(np.arange(20), size, seed=0, name="validation")  # type: ignore[arg-type]


def test_too_few_labels_name_the_class() -> None:
    with pytest.raises(UserError, match="class 1 has 2"):
        splits.take_per_class(np.arange(7), np.repeat([0, 1], [5, 2]), 3, seed=0)


def test_an_index_in_two_splits_is_found() -> None:
    with pytest.raises(UserError, match="1 samples lie in both train and test, the first with index 2"):
        splits.check_disjoint({"train": np.array([1, 2]), "validation": np.array([3]), "test": np.array([2])})
    with pytest.raises(UserError, match="train split holds an index twice"):
        splits.check_disjoint({"train": np.array([1, 1]), "test": np.array([2])})
    splits.check_disjoint({"train": np.array([1, 5]), "test": np.array([2])})


@settings(deadline=None, max_examples=40)
@given(
    rows=st.lists(st.binary(min_size=11, max_size=11), min_size=2, max_size=30),
    cut=st.integers(1, 100),
)
def test_repeated_content_equals_a_set_of_bytes(rows: list[bytes], cut: int) -> None:
    rows = rows + rows[:1]
    cut = min(cut, len(rows) - 1)
    numbers = splits.content_numbers(np.stack([np.frombuffer(row, np.uint8) for row in rows]))
    found = splits.repeated_samples(numbers, {"train": np.arange(cut), "test": np.arange(cut, len(rows))})
    expected = sum(row in set(rows[:cut]) for row in rows[cut:])
    assert found == ({"test in train": expected} if expected else {})
    assert found["test in train"] >= 1
