"""Losses at their bounds: further axes, ties, samples that coincide, means far above the spread."""

import math

import pytest
import torch

import tutelage.losses
from tutelage.errors import UserError
from tutelage.losses.consistency import fixmatch, uda
from tutelage.losses.contrast import noise_contrast
from tutelage.losses.dimension import intrinsic_dimension
from tutelage.losses.distillation import logit_matching, soft_target
from tutelage.losses.feature import (
    _of_ordinary_size,
    attention_transfer,
    hint,
    probabilistic_transfer,
    relational,
    similarity_preserving,
)
from tutelage.losses.logit_variants import standardised


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_what_is_of_each_row_takes_further_axes_before_the_classes():
    mine, theirs = random(2, 3, 4), random(2, 3, 4, seed=1)
    for loss in (lambda *x: soft_target(*x, temperature=2.0), logit_matching, lambda x, _: standardised(x)):
        rows = torch.stack([loss(a, b) for a, b in zip(mine, theirs, strict=True)])
        torch.testing.assert_close(loss(mine, theirs), rows)


def test_a_confidence_that_is_the_threshold_counts():
    even, output = torch.zeros(2, 2), random(2, 2).float()
    wanted = torch.nn.functional.cross_entropy(output, torch.zeros(2, dtype=torch.long))
    torch.testing.assert_close(fixmatch(even, output, threshold=0.5), wanted)
    assert float(fixmatch(even, output, threshold=0.501)) == 0
    assert float(uda(even, output, threshold=0.5)) > 0 == float(uda(even, output, threshold=0.501))


def test_a_pair_is_told_from_noise_by_its_density():
    positive, negative, normaliser = random(3), random(3, 4, seed=1), torch.tensor(0.7, dtype=torch.float64)
    for row, found in enumerate(noise_contrast(positive, negative, normaliser, samples=10).tolist()):
        noise, total = 4 / 10, 0.0
        for score, true in ((positive[row], True), *((score, False) for score in negative[row])):
            density = math.exp(float(score)) / math.exp(0.7)
            total -= math.log((density if true else noise) / (density + noise))
        assert found == pytest.approx(total)


@pytest.mark.parametrize(("n", "neighbours"), [(5, 1), (5, 5), (3, 3)])
def test_how_many_neighbours_there_can_be(n, neighbours):
    says = f"of {n} samples cannot be told from {neighbours} neighbours: 2 to {n - 1} are possible"
    with pytest.raises(UserError, match=says):
        intrinsic_dimension(random(n, 2), neighbours=neighbours)
    intrinsic_dimension(random(n, 2), neighbours=2)
    intrinsic_dimension(random(n, 2), neighbours=n - 1)


def test_a_sample_that_coincides_with_some_of_its_neighbours_counts_and_with_all_does_not():
    rows = torch.cat([torch.zeros(3, 2, dtype=torch.float64), random(4, 2) + 3])
    spread = (rows - rows.mean(0)).square().sum(1).mean()
    logs, counted = 0.0, 0
    for k in range(7):
        apart = sorted(
            max(float((rows[k] - rows[j]).square().sum() / spread), 1e-12) for j in range(7) if j != k
        )[:3]
        if apart[2] > 1e-12:
            counted += 1
            logs += sum(math.log(apart[2] / d) / 2 for d in apart[:2]) / 2
    assert counted == 7  # of three neighbours two coincide
    assert float(intrinsic_dimension(rows, neighbours=3)) == pytest.approx(counted / logs)
    rows[3] = 0
    assert float(intrinsic_dimension(rows, neighbours=3)) != pytest.approx(counted / logs)


def test_relations_of_samples_that_coincide_are_none_and_a_large_mean_costs_nothing():
    same, other = torch.ones(4, 3, dtype=torch.float64), random(4, 3)
    distances = [[float((a - b).norm()) for b in other] for a in other]
    mean = sum(map(sum, distances)) / 12
    gaps = [d / mean for row in distances for d in row if d]
    slow = sum(0.5 * g * g if g < 1 else g - 0.5 for g in gaps) / 12
    assert float(relational(same, other, distance=1.0, angle=0.0)) == pytest.approx(slow)
    assert float(relational(same, same)) == 0
    fine = (random(6, 3) * 2**9).round() / 2**9
    near, far = fine.float(), (fine + 2**14).float()  # both exact: the last bit of the far ones is 2^-9
    assert torch.equal(far.double() - 2**14, fine)
    wanted = relational(near, random(6, 4, seed=1).float())
    torch.testing.assert_close(relational(far, random(6, 4, seed=1).float()), wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("loss", "fewest"), [(relational, 3), (similarity_preserving, 2), (probabilistic_transfer, 3)]
)
def test_relations_need_their_fewest_samples(loss, fewest):
    loss(random(fewest, 4), random(fewest, 3, seed=1))
    for mine, theirs in ((fewest - 1, fewest - 1), (fewest, fewest + 1)):
        with pytest.raises(UserError, match=f"at least {fewest}; got {mine} and {theirs}"):
            loss(random(mine, 4), random(theirs, 3))


def test_features_of_unlike_kinds_have_no_attention_to_compare():
    attention_transfer(random(2, 3, 4), random(2, 3, 5, seed=1))
    for mine, theirs in (((2, 3), (2, 3)), ((2, 3, 4), (2, 3, 4, 4)), ((2, 3, 4, 4, 4), (2, 3, 4, 4, 4))):
        with pytest.raises(UserError, match="attention transfer needs two images"):
            attention_transfer(random(*mine), random(*theirs))
    with pytest.raises(UserError, match="attention transfer needs features of one shape"):
        attention_transfer(random(2, 3, 4), random(2, 5, 4))
    with pytest.raises(UserError, match="hint needs features of one shape"):
        hint(random(2, 3), random(2, 4))


@pytest.mark.parametrize(
    ("largest", "divides"),
    [
        (1e-4, False),
        (9.9e-5, True),
        (1e4, False),
        (1.01e4, True),
        (0.0, False),
        (math.inf, False),
        (math.nan, False),
    ],
)
def test_features_are_divided_by_their_largest_only_beyond_ordinary_sizes(largest, divides):
    x = random(2, 3)
    found = _of_ordinary_size(x, torch.tensor([[largest], [1.0]], dtype=torch.float64), 1e-4, 1e4)
    if not divides:
        assert found is x
        return
    torch.testing.assert_close(found, torch.stack([x[0] / largest, x[1]]))


def test_a_row_of_nearly_no_deviation_is_not_blown_up():
    found = standardised(torch.tensor([[0.0, 2e-7]], dtype=torch.float64))
    deviation = math.sqrt(2) * 1e-7
    assert found[0].tolist() == pytest.approx([-1e-7 / (deviation + 1e-7), 1e-7 / (deviation + 1e-7)])


def test_the_package_gives_its_modules_by_name():
    assert tutelage.losses.feature.hint is hint
    with pytest.raises(AttributeError, match="has no attribute 'hnt'"):
        tutelage.losses.hnt
