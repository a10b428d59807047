"""The similarity map against sums over index tuples, for any batch split, and where there is nothing to compare."""

from itertools import permutations

import numpy as np
import pytest
import torch
from torch import nn

from tutelage.alignment.comparisons import MEASURES, Centred, chance
from tutelage.alignment.feature_rows import per_sample
from tutelage.alignment.taps import activations
from tutelage.analysis.similarity_map import describe, draw, rows, similarity_map
from tutelage.errors import UserError
from tutelage.models.convnet import ConvNet
from tutelage.models.fcn import FCN
from tutelage.models.frozen import FrozenNetwork
from tutelage.models.recurrent import Recurrent
from tutelage.tasks import Batch

SAMPLES = 6


def hsic(k, l):  # noqa: E741
    """The unbiased estimator as it is defined: a mean over all tuples of four different samples."""
    n = len(k)
    tuples = list(permutations(range(n), 4))
    return sum(k[i, j] * l[i, j] + k[i, j] * l[q, r] - 2 * k[i, j] * l[i, q] for i, j, q, r in tuples) / len(
        tuples
    )


def reference(x, y):
    k, l = (z.double() @ z.double().T for z in (x, y))  # noqa: E741
    return float(hsic(k, l) / (hsic(k, k) * hsic(l, l)) ** 0.5)


def batches_of(inputs, sizes, mask=None):
    index = torch.arange(len(inputs))
    masks = [None] * len(sizes) if mask is None else mask.split(sizes)
    return [
        Batch(x, torch.zeros(len(x), dtype=torch.long), i, m)
        for x, i, m in zip(inputs.split(sizes), index.split(sizes), masks, strict=True)
    ]


def networks():
    torch.manual_seed(0)
    return FrozenNetwork(FCN((2, 8, 8), 3, depth=2, width=16)), FrozenNetwork(
        ConvNet((2, 8, 8), 3, width=4, stages=2)
    )


@pytest.mark.parametrize("sizes", [[6], [2, 4], [1, 1, 1, 1, 1, 1], [5, 1]])
def test_every_cell_is_unbiased_cka_of_all_samples_however_they_are_batched(sizes):
    first, second = networks()
    inputs = torch.randn(SAMPLES, 2, 8, 8)
    found = similarity_map(first, second, batches_of(inputs, sizes))
    ours, theirs = (activations(net.network, [x.name for x in layers], inputs)
                    for net, layers in ((first, found.first), (second, found.second)))  # fmt: skip
    expected = [[reference(per_sample(x), per_sample(y)) for y in theirs.values()] for x in ours.values()]
    assert [layer.name for layer in found.first] == ["layers.0.linear", "layers.1.linear", "head"]
    np.testing.assert_allclose(found.values, expected, atol=2e-5)
    assert found.samples == SAMPLES and len(rows(found)) == found.values.size


def test_a_network_with_itself_and_a_mean_far_above_the_spread():
    first, _ = networks()
    inputs = torch.randn(64, 2, 8, 8)
    with torch.no_grad():
        first.network.layers[0].linear.bias += 1000.0
        first.network.layers[0].norm.running_mean += 1000.0
    found = similarity_map(first, first, batches_of(inputs, [10, 54]))
    np.testing.assert_allclose(np.diag(found.values), 1, atol=1e-5)
    np.testing.assert_allclose(found.values, found.values.T, atol=1e-6)
    x = activations(first.network, ["layers.0.linear", "head"], inputs)
    plain = x["layers.0.linear"].double() - 1000
    exact = _fast(plain, x["head"].double())
    assert found.values[0, 2] == pytest.approx(exact, abs=1e-4)


def _fast(x, y):
    def unit(z):
        k = (z @ z.T).fill_diagonal_(0)
        n = len(k)
        row = k.sum(1, keepdim=True) / (n - 2)
        k = (k - row - row.T + row.sum() / (n - 1)).fill_diagonal_(0)
        return k / k.norm()

    return float((unit(x) * unit(y)).sum())


def test_unrelated_features_are_near_zero_although_they_outnumber_the_samples():
    torch.manual_seed(1)
    wide = [FrozenNetwork(nn.Sequential(nn.Flatten(), nn.Linear(4096, 8))) for _ in range(2)]
    inputs = torch.randn(64, 4096)
    half = [FrozenNetwork(nn.Sequential(Half(i), *net.network)) for i, net in enumerate(wide)]
    found = similarity_map(*half, batches_of(inputs, [32, 32]), layers="0")
    assert abs(found.values[0, 0]) < 0.1


class Half(nn.Module):
    """One half of the inputs, the other set to zero."""

    def __init__(self, which: int) -> None:
        super().__init__()
        self.which = which

    def forward(self, inputs):
        keep = torch.zeros_like(inputs)
        part = slice(0, 2048) if self.which == 0 else slice(2048, 4096)
        keep[:, part] = inputs[:, part]
        return keep


def test_padded_sequences_compare_their_real_positions_alone():
    torch.manual_seed(2)
    network = FrozenNetwork(Recurrent((7,), 3, vocab_size=5, depth=2, width=6, per_position=True))
    tokens = torch.randint(5, (SAMPLES, 7))
    mask = torch.arange(7) < torch.tensor([7, 3, 5, 4, 4, 2]).unsqueeze(1)
    whole = similarity_map(network, network, batches_of(tokens, [3, 3], mask))
    short = [Batch(b.inputs[:, :n], b.targets, b.index, b.mask[:, :n]) for b, n in
             zip(batches_of(tokens, [3, 3], mask), (7, 4), strict=True)]  # fmt: skip
    np.testing.assert_allclose(similarity_map(network, network, short).values, whole.values, atol=1e-5)
    other = torch.where(mask, tokens, (tokens + 1) % 5)
    np.testing.assert_allclose(
        similarity_map(network, network, batches_of(other, [6], mask)).values, whole.values, atol=1e-5
    )


def test_what_does_not_vary_is_a_gap_and_mistakes_are_named(tmp_path):
    first, second = networks()
    with torch.no_grad():
        first.network.layers[0].linear.weight.zero_()
    inputs = torch.randn(20, 2, 8, 8)
    found = similarity_map(first, second, batches_of(inputs, [20]))
    assert np.isnan(found.values[0]).all() and np.isnan(found.values[1]).all()
    draw(found, tmp_path / "map.png", first="a", second="b")
    assert (tmp_path / "map.png").stat().st_size > 1000
    with pytest.raises(UserError, match="at least 4 samples, got 3"):
        similarity_map(first, second, batches_of(inputs[:3], [3]))
    with pytest.raises(UserError, match=r"no layer 'layers\.0\.linea'; did you mean 'layers\.0\.linear'"):
        similarity_map(first, first, batches_of(inputs, [20]), layers="layers.0.linea")
    many = Batch(inputs[:1].expand(30_000, -1, -1, -1), torch.zeros(30_000), torch.arange(30_000))
    with pytest.raises(UserError, match=r"30000 samples needs .* GiB.*fewer samples"):
        similarity_map(first, first, [many])
    everything = similarity_map(second, second, batches_of(inputs, [20]), layers="all")
    assert {"stem.norm", "stem.activation", "head"} <= {layer.name for layer in everything.first}


@pytest.mark.parametrize("measure", MEASURES)
def test_other_measures_are_those_of_all_samples_however_they_are_batched_with_their_chance_level(measure):
    first, second = networks()
    inputs = torch.randn(24, 2, 8, 8)
    found = similarity_map(first, second, batches_of(inputs, [10, 14]), measure=measure)
    ours, theirs = (activations(net.network, [x.name for x in layers], inputs)
                    for net, layers in ((first, found.first), (second, found.second)))  # fmt: skip
    expected = [
        [
            MEASURES[measure](*map(Centred.of_features, (per_sample(x), per_sample(y))))
            for y in theirs.values()
        ]
        for x in ours.values()
    ]
    # Correlations of exactly 1, of which few samples have several, leave PWCCA's directions open.
    near = {"atol": 5e-3 if measure == "pwcca" else 1e-6}
    np.testing.assert_allclose(found.values, expected, **near)
    by_chance = [
        [chance(MEASURES[measure], *map(Centred.of_features, (per_sample(x), per_sample(y))), permutations=1, seed=place)[0]
         for place, y in enumerate(theirs.values(), i * len(theirs))]
        for i, x in enumerate(ours.values())
    ]  # fmt: skip
    np.testing.assert_allclose(found.chance, by_chance, **near)
    assert rows(found)[1][measure] == found.values[0, 1] and rows(found)[1]["by_chance"] == found.chance[0, 1]
    said = describe(found)["chance"]
    assert said == {"mean": found.chance.mean(), "min": found.chance.min(), "max": found.chance.max()}
    same = similarity_map(first, first, batches_of(inputs, [24]), measure=measure)
    np.testing.assert_allclose(np.diag(same.values), 1, atol=1e-5)


def test_an_unknown_measure_is_answered_with_the_nearest_one():
    first, _ = networks()
    with pytest.raises(UserError, match="did you mean 'procrustes'"):
        similarity_map(first, first, batches_of(torch.randn(8, 2, 8, 8), [8]), measure="procustes")
