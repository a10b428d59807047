"""Label noise and missing values: rates, determinism, what stays untouched."""

import typing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.data import corruption
from tutelage.data.synthetic import Synthetic
from tutelage.errors import UserError

LABELS = np.tile(np.arange(5), 200)
TRAIN = np.arange(0, 1000, 2)


@settings(deadline=None, max_examples=30)
@given(
    rate=st.floats(0, 0.95),
    seed=st.integers(0, 1000),
    kind=st.sampled_from(typing.get_args(corruption.LabelNoise)),
)
def test_the_realised_rate_is_the_rate(rate: float, seed: int, kind: str) -> None:
    noisy, realised = corruption.flip_labels(LABELS, TRAIN, rate=rate, classes=5, seed=seed, kind=kind)
    wrong = noisy != LABELS
    assert realised == wrong[TRAIN].mean()
    # The nearest whole number of samples; of half a sample, floats know only 15 digits.
    assert abs(wrong[TRAIN].sum() - rate * len(TRAIN)) <= 0.5 + 1e-9
    assert not wrong[1::2].any() and set(noisy) <= set(range(5))
    if kind == "asymmetric":
        assert np.array_equal(noisy[wrong], (LABELS[wrong] + 1) % 5)


def test_symmetric_noise_reaches_every_other_class_alike() -> None:
    labels = np.zeros(8000, dtype=np.int64)
    noisy, _ = corruption.flip_labels(labels, np.arange(8000), rate=0.8, classes=5, seed=0)
    counts = np.bincount(noisy, minlength=5)
    assert counts[0] == 1600 and counts[1:].min() > 1450 and counts[1:].max() < 1750


def test_less_noise_is_part_of_more_noise() -> None:
    little, much = (corruption.flip_labels(LABELS, TRAIN, rate=r, classes=5, seed=3)[0] for r in (0.2, 0.4))
    wrong = little != LABELS
    assert np.array_equal(little[wrong], much[wrong])


def test_a_map_names_the_classes_that_change() -> None:
    noisy, realised = corruption.flip_labels(
        LABELS, TRAIN, rate=0.5, classes=5, seed=0, kind="asymmetric", mapping={3: 1}
    )
    wrong = noisy != LABELS
    assert set(LABELS[wrong]) == {3} and set(noisy[wrong]) == {1}
    assert realised == 0.1


@settings(deadline=None, max_examples=30)
@given(first=st.integers(0, 50), count=st.integers(1, 20), values=st.integers(1, 30), seed=st.integers(0, 99))
def test_missing_values_of_a_sample_do_not_depend_on_the_block(
    first: int, count: int, values: int, seed: int
) -> None:
    whole = corruption.missing_values(0, 70, values, rate=0.3, seed=seed)
    part = corruption.missing_values(first, count, values, rate=0.3, seed=seed)
    assert np.array_equal(whole[first : first + count], part)


def test_missing_rate() -> None:
    assert abs(corruption.missing_values(0, 1000, 64, rate=0.3, seed=0).mean() - 0.3) < 0.01
    assert not corruption.missing_values(0, 10, 64, rate=0.0, seed=0).any()


@pytest.mark.parametrize("where", ["train", "all"])
def test_missing_pixels_touch_what_they_should(where: str) -> None:
    clean, corrupted = (
        Synthetic(shape=(3, 8, 8), batch_size=8, missing=rate, missing_in=where, normalization=None)
        for rate in (0.0, 0.4)
    )
    for module in (clean, corrupted):
        module.setup()
    for split in ("train", "validation"):
        before, after = (next(iter(m.batches(split, device="cpu"))).inputs for m in (clean, corrupted))
        gone = after != before
        if split == "validation" and where == "train":
            assert not gone.any()
        else:
            assert 0.3 < gone.float().mean() < 0.5 and (after[gone] == 0).all()
            assert (gone.all(1) == gone.any(1)).all()  # a pixel goes with all its channels
    assert abs(corrupted.summary()["missing_values"] - 0.4) < 0.02
    again = Synthetic(shape=(3, 8, 8), batch_size=8, missing=0.4, missing_in=where, normalization=None)
    again.setup()
    assert again.summary() == corrupted.summary()


def test_label_noise_stays_in_the_training_split() -> None:
    clean, noisy = (Synthetic(batch_size=8, label_noise=rate) for rate in (0.0, 0.4))
    for module in (clean, noisy):
        module.setup()
        module.open_test()
    assert abs(noisy.summary()["wrong_train_labels"] - 0.4) < 0.01
    for split, share in (("train", 0.4), ("validation", 0.0), ("test", 0.0)):
        pairs = zip(clean.batches(split, device="cpu"), noisy.batches(split, device="cpu"), strict=True)
        wrong = np.concatenate([(a.targets != b.targets).numpy() for a, b in pairs])
        assert abs(wrong.mean() - share) < 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_noise": 1.0}, "label_noise"),
        ({"missing": -0.1}, "missing"),
        ({"missing_in": "tain"}, "did you mean 'train'"),
        ({"label_noise": 0.1, "label_noise_kind": "asymmetrical"}, "did you mean 'asymmetric'"),
        ({"label_noise": 0.1, "label_noise_kind": "asymmetric", "label_noise_map": {9: 1}}, "0 to 3"),
        ({"label_noise": 0.1, "label_noise_map": {1: 2}}, "label_noise_kind=asymmetric"),
        ({"label_noise_kind": ""}, "one of symmetric, asymmetric, got ''"),
    ],
)
def test_wrong_options_are_explained(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Synthetic(batch_size=8, **options).setup()
