"""The streamed CKA map: the value over all samples at once, whatever the batch split."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tutelage.alignment.similarity import cka
from tutelage.alignment.streaming import StreamedCKA, cka_map
from tutelage.errors import UserError

SPLITS = ([30], [1] * 30, [4, 26], [7, 7, 7, 9], [29, 1])


def data() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    g = torch.Generator().manual_seed(0)
    one = {"a": torch.randn(30, 5, generator=g) + 50, "b": torch.randn(30, 80, generator=g)}
    other = {"c": torch.randn(30, 6, generator=g) - 3, "d": one["b"] @ torch.randn(80, 3, generator=g) + 200}
    return one, other


def streamed(split: list[int], **settings: object) -> Tensor:
    one, other = data()
    total = StreamedCKA(**settings)  # type: ignore[arg-type]
    start = 0
    for size in split:
        part = slice(start, start + size)
        total.update({k: x[part] for k, x in one.items()}, {k: x[part] for k, x in other.items()})
        start += size
    return total.compute()


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("memory_gib", [1.0, 4e-5], ids=["moments", "features"])
def test_any_batch_split_gives_the_value_of_all_samples_at_once(unbiased: bool, memory_gib: float) -> None:
    one, other = data()
    expected = torch.stack(
        [
            torch.stack([cka(x.double(), y.double(), unbiased=unbiased) for y in other.values()])
            for x in one.values()
        ]
    )
    for split in SPLITS:
        got = streamed(split, unbiased=unbiased, memory_gib=memory_gib)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-10 if memory_gib == 1 else 2e-6)


def test_the_two_memory_limits_take_the_two_roads() -> None:
    one, other = data()
    for limit, kept in ((1.0, False), (4e-5, True)):
        total = StreamedCKA(memory_gib=limit)
        total.update(one, other)
        assert (total._kept is not None) is kept


def test_equal_layers_give_one_for_any_split() -> None:
    x = {"x": torch.randn(20, 7, generator=torch.Generator().manual_seed(1))}
    for size in (1, 3, 20):
        total = StreamedCKA()
        for part in x["x"].split(size):
            total.update({"x": part}, {"x": 3 * part + 1})
        assert float(total.compute()) == pytest.approx(1, abs=1e-12)


def test_constant_layers_give_zero() -> None:
    x = torch.randn(20, 7, generator=torch.Generator().manual_seed(1))
    total = StreamedCKA()
    total.update({"x": x}, {"y": torch.full((20, 3), 0.1)})
    assert float(total.compute()) == 0


def test_a_map_of_two_networks_is_that_of_their_activations() -> None:
    torch.manual_seed(0)
    one = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(48, 4)).eval()
    other = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    x = torch.randn(40, 1, 6, 6)
    rows, columns, values = cka_map(one, other, x.split(9))
    assert (rows, columns) == (["0", "3"], ["1", "3"])
    expected = cka(one[0](x).flatten(1), other[1](x.flatten(1)), unbiased=True)
    assert float(values[0, 0]) == pytest.approx(float(expected.detach()), abs=1e-5)
    named = cka_map(one, other, [x], names=(["3"], None))
    torch.testing.assert_close(named[2], values[1:], rtol=0, atol=1e-6)


def test_too_little_memory_and_too_few_samples_are_told() -> None:
    with pytest.raises(UserError, match="use fewer samples or layers"):
        streamed([30], memory_gib=1e-6)
    with pytest.raises(UserError, match="at least 4 samples, got 3"):
        total = StreamedCKA()
        total.update({"x": torch.ones(3, 2)}, {"y": torch.ones(3, 2)})
        total.compute()
    with pytest.raises(UserError, match="at least one batch"):
        cka_map(nn.Linear(1, 1), nn.Linear(1, 1), [])
