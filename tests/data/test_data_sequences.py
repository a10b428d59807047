"""Generated sequences against slow, obvious references."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.data.sequences import CopyPaste, GeneratedSequences, Parity
from tutelage.errors import UserError
from tutelage.tasks import Batch

SIZES = {"train_size": 60, "validation_size": 12, "test_size": 9}


def whole(module: GeneratedSequences, split: str = "train") -> Batch:
    module.setup()
    module.eval_batch_size = 100_000
    return next(iter(module.batches(split, device="cpu")))


@settings(deadline=None, max_examples=15)
@given(
    seed=st.integers(0, 1000), shortest=st.integers(1, 4), more=st.integers(0, 5), numbers=st.integers(2, 9)
)
def test_copy_paste_by_hand(seed: int, shortest: int, more: int, numbers: int) -> None:
    longest = shortest + more
    module = CopyPaste(
        batch_size=5, min_length=shortest, max_length=longest, numbers=numbers, split_seed=seed, **SIZES
    )
    batch = whole(module)
    assert (
        module.input_shape == (2 * longest,) and module.vocab_size == module.task.output_size == numbers + 2
    )
    for tokens, targets, mask, counted in zip(
        batch.inputs.tolist(),
        batch.targets.tolist(),
        batch.mask.tolist(),
        batch.target_mask.tolist(),
        strict=True,
    ):
        length = tokens.index(numbers + 1)
        string = tokens[:length]
        assert shortest <= length <= longest and all(1 <= token <= numbers for token in string)
        assert tokens == [*string, numbers + 1, *string[:-1], *[0] * (2 * longest - 2 * length)]
        assert [t for t, c in zip(targets, counted, strict=True) if c] == string
        assert sum(mask) == 2 * length and all(mask[: 2 * length])
        assert counted == [length <= place < 2 * length for place in range(2 * longest)]
        assert targets[: 2 * length] == [*string[1:], numbers + 1, *string]


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 1000), longest=st.integers(2, 12), target=st.sampled_from(["whole", "prefix"]))
def test_parity_by_hand(seed: int, longest: int, target: str) -> None:
    module = Parity(batch_size=5, min_length=2, max_length=longest, target=target, split_seed=seed, **SIZES)
    batch = whole(module)
    assert module.vocab_size == 3 and module.task.output_size == 2
    assert batch.mask is not None
    for tokens, found, mask in zip(
        batch.inputs.tolist(), batch.targets.tolist(), batch.mask.tolist(), strict=True
    ):
        length = sum(mask)
        assert 2 <= length <= longest and set(tokens[:length]) <= {0, 1} and set(tokens[length:]) <= {2}
        expected = [sum(tokens[: place + 1]) % 2 for place in range(length)]
        assert (found if target == "whole" else found[:length]) == (
            expected[-1] if target == "whole" else expected
        )
    if target == "whole":
        assert batch.target_mask is None and module.task.name == "classification"
        assert module.task.select(torch.zeros(60, 2), batch)[1].shape == (60,)
    else:
        assert batch.target_mask is not None and torch.equal(batch.target_mask, batch.mask)


def test_draws_are_uniform() -> None:
    module = CopyPaste(batch_size=5, min_length=20, max_length=40, **(SIZES | {"train_size": 4000}))
    batch = whole(module)
    lengths = batch.target_mask.sum(1) if batch.target_mask is not None else torch.zeros(0)
    counts = torch.bincount(lengths)[20:]
    assert len(counts) == 21 and counts.min() > 130 and counts.max() < 260
    tokens = torch.bincount(batch.targets[batch.target_mask], minlength=11)[1:11].float()
    assert (tokens / tokens.sum() - 0.1).abs().max() < 0.005


def test_splits_are_their_own_and_do_not_move_with_another_size() -> None:
    def make(**sizes: int) -> Parity:
        return Parity(batch_size=5, min_length=40, max_length=50, **(SIZES | sizes))

    small, large = make(), make(train_size=100)
    for split in ("validation",):
        assert torch.equal(whole(small, split).inputs, whole(large, split).inputs)
    assert torch.equal(whole(small).inputs, whole(large).inputs[:60])
    assert small.summary()["repeated_samples"] == {}
    strings = [tuple(row) for s in ("train", "validation") for row in whole(small, s).inputs.tolist()]
    assert len(set(strings)) == 72
    other = make()
    other.split_seed = 1
    assert not torch.equal(whole(small).inputs, whole(other).inputs)


def test_short_strings_recur_and_are_counted() -> None:
    module = Parity(batch_size=5, min_length=2, max_length=4, **SIZES)
    batch, held = whole(module), whole(module, "validation")
    seen = {tuple(row) for row in batch.inputs.tolist()}
    expected = sum(tuple(row) in seen for row in held.inputs.tolist())
    assert expected > 0 and module.summary()["repeated_samples"]["validation in train"] == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_length": 5, "max_length": 4}, "min_length"),
        ({"train_size": 0}, "`train_size` must be a whole number of at least 1, got 0"),
        ({"target": "hole"}, "did you mean 'whole'"),
    ],
)
def test_wrong_options_are_explained(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Parity(**({"batch_size": 5, "min_length": 2, "max_length": 4} | SIZES | options))


def test_streams_carry_the_masks() -> None:
    module = Parity(batch_size=6, min_length=2, max_length=9, **SIZES)
    module.setup()
    for batch in module.train_stream(seed=0, device="cpu"):
        assert batch.mask is not None and batch.mask.shape == batch.inputs.shape == (6, 9)
        assert np.isin(batch.index, module.splits["train"]).all()
