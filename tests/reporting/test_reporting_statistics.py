"""Statistics against slow references and numbers worked out elsewhere."""

import itertools
import math
import statistics as reference

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.reporting.statistics import (
    UNBOUNDED,
    bounds_of,
    holm,
    paired_differences,
    seeds_to_decide,
    sign_flip_p,
    smallest_p,
    summarize,
    t_quantile,
)

quick = settings(max_examples=40, deadline=None)
numbers = st.floats(-100, 100, allow_nan=False).map(lambda x: round(x, 3))


@quick
@given(st.lists(numbers, min_size=2, max_size=12))
def test_mean_and_spread(values):
    summary = summarize(values)
    assert summary.n == len(values)
    assert summary.mean == pytest.approx(reference.mean(values), abs=1e-9)
    assert summary.std == pytest.approx(reference.stdev(values), abs=1e-9)
    assert summary.low <= summary.mean <= summary.high


def test_t_interval_against_scipy_stats():
    from scipy import stats

    values = [0.81, 0.84, 0.79, 0.88, 0.83]
    low, high = stats.t.interval(0.95, 4, loc=reference.mean(values), scale=stats.sem(values))
    assert summarize(values)[3:] == pytest.approx((low, high))
    assert t_quantile(4, 0.975) == pytest.approx(2.7764451)  # any printed table of t


@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.nan], [1.0, math.inf], [math.inf, -math.inf]])
def test_what_is_not_defined_is_nan(values):
    summary = summarize(values)
    assert summary.n == len(values) and math.isnan(summary.std) and math.isnan(summary.low)
    mean = {0: math.nan, 1: 1.0}.get(len(values), sum(values))
    assert summary.mean == mean or (math.isnan(summary.mean) and math.isnan(mean))


@quick
@given(st.lists(numbers, min_size=1, max_size=8))
def test_sign_flip_equals_the_loop_over_all_patterns(differences):
    observed = abs(sum(differences))
    hits = total = 0
    for signs in itertools.product((-1, 1), repeat=len(differences)):
        total += 1
        hits += abs(sum(s * d for s, d in zip(signs, differences, strict=True))) >= observed - 1e-7
    assert sign_flip_p(differences) == pytest.approx(hits / total)


def test_sign_flip_floor():
    assert sign_flip_p([1, 2, 3, 4, 5]) == 2 / 32
    assert sign_flip_p([1, 2, 3, 4, 5, 6]) == 2 / 64 < 0.05
    assert sign_flip_p([0.1 + 0.2, 0.3, -0.3]) == pytest.approx(1.0)  # ties in all but the last digit
    assert sign_flip_p([0.0, 0.0]) == 1.0
    assert math.isnan(sign_flip_p([])) and math.isnan(sign_flip_p([1.0, math.nan]))


def test_sign_flip_drawn_agrees_with_exact():
    differences = [0.3, -0.1, 0.4, 0.2, -0.2, 0.5, 0.1, 0.2, -0.3, 0.1] * 2
    exact = sign_flip_p(differences)
    drawn = sign_flip_p([*differences, 0.0])  # a pair without difference flips nothing, but passes the limit
    assert drawn == pytest.approx(exact, abs=0.005)
    assert drawn == sign_flip_p([*differences, 0.0])


def test_sign_flip_against_scipy():
    from scipy import stats

    differences = (1.1, -0.4, 2.0, 0.7, 0.9, -0.2)
    theirs = stats.permutation_test(
        (differences,), lambda x, axis: x.sum(axis), permutation_type="samples", vectorized=True
    )
    assert sign_flip_p(differences) == pytest.approx(theirs.pvalue)


def test_holm_against_the_worked_example():
    # Four tests: 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1 raised to the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
    with_gap = holm([0.01, math.nan, 0.02])
    assert with_gap[0] == 0.02 and math.isnan(with_gap[1]) and with_gap[2] == 0.02


@quick
@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_keeps_the_order(p_values):
    adjusted = holm(p_values)
    assert all(p <= a <= 1 for p, a in zip(p_values, adjusted, strict=True))
    for one, other in itertools.combinations(range(len(p_values)), 2):
        if p_values[one] < p_values[other]:
            assert adjusted[one] <= adjusted[other]


def test_pairs_are_common_seeds_only():
    assert paired_differences({2: 5.0, 0: 1.0, 3: 9.0}, {0: 0.5, 2: 1.0, 7: 3.0}) == {0: 0.5, 2: 4.0}


def test_seeds_to_decide():
    n = seeds_to_decide(1.0, 2.0)

    def half(k):
        return t_quantile(k - 1, 0.975) * 2.0 / math.sqrt(k)

    assert half(n) < 1.0 <= half(n - 1)
    assert seeds_to_decide(10.0, 0.1) == 6
    assert seeds_to_decide(0.0, 1.0) is None and seeds_to_decide(1e-6, 1.0) is None
    assert seeds_to_decide(1.0, math.nan) is None


@quick
@given(st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_the_interval_of_a_share_lies_within_its_bounds_and_is_the_t_interval_elsewhere(values):
    free, bounded = summarize(values), summarize(values, bounds=bounds_of("test/accuracy"))
    assert bounded[:3] == free[:3]
    assert (bounded.low, bounded.high) == (max(free.low, 0.0), min(free.high, 1.0))
    assert bounded.low <= bounded.mean <= bounded.high or bounded.mean == pytest.approx(bounded.low)


@pytest.mark.parametrize(
    ("metric", "bounds"),
    [
        ("test/accuracy", (0, 1)),
        ("validation/top5_accuracy", (0, 1)),
        ("kappa", (-1, 1)),
        ("test/mse", (0, math.inf)),
        ("test/perplexity", (1, math.inf)),
        ("test/loss", (0, math.inf)),
        ("test/r2", (-math.inf, 1)),
        ("test/f1_micro", (0, 1)),
        ("train/similarity", (-1, 1)),
        ("frechet_distance", (0, math.inf)),
        ("loss_rate", UNBOUNDED),
        ("test/inaccuracy_cost", UNBOUNDED),
    ],
)
def test_bounds_follow_from_the_last_word_of_a_metric(metric, bounds):
    assert bounds_of(metric) == bounds
    assert bounds_of(metric, 100.0) == (100 * bounds[0], 100 * bounds[1])


def test_values_beyond_the_bounds_say_that_the_metric_is_another():
    assert summarize([55.0, 99.0], bounds=(0, 1)) == summarize([55.0, 99.0])


@pytest.mark.parametrize("pairs", range(1, 9))
def test_smallest_p_is_that_of_differences_of_one_sign(pairs):
    assert smallest_p(pairs) == sign_flip_p([1.0] * pairs)


def test_seeds_to_decide_against_the_printed_distribution():
    from scipy import stats

    def slow(mean, std, level, most):
        known = (
            n
            for n in range(6, most + 1)
            if stats.t.ppf((1 + level) / 2, n - 1) * std / math.sqrt(n) < abs(mean)
        )
        return next(known, None)

    for step in range(12, 60):
        for mean, level, most in ((1.0, 0.95, 1000), (-0.7, 0.9, 1000), (0.5, 0.99, 40)):
            assert seeds_to_decide(mean, step / 20, level=level, most=most) == slow(
                mean, step / 20, level, most
            )
    touching = (
        t_quantile(5, 0.975) * 1.0 / math.sqrt(6)
    )  # an interval of six seeds that ends at zero excludes it not
    assert seeds_to_decide(touching, 1.0) == 7
    assert seeds_to_decide(1.0, 0.0, most=6) == 6 and seeds_to_decide(1.0, 0.0, most=5) is None
    assert seeds_to_decide(math.inf, 1.0) is seeds_to_decide(1.0, math.inf) is None


def test_patterns_are_counted_up_to_twenty_pairs_and_drawn_beyond():
    import numpy as np

    differences = [0.3, -0.1, 0.4, 0.25, -0.2, 0.5, 0.1] * 3
    observed, generator = abs(sum(differences)), np.random.default_rng(5)
    signs = [generator.choice((-1.0, 1.0), size=(1000, 21)) for _ in range(3)]
    hits = sum(abs(float(row @ np.array(differences))) >= observed - 1e-9 for block in signs for row in block)
    assert sign_flip_p(differences, draws=3999, seed=5) == (hits + 1) / 3001
    assert sign_flip_p([0.0] * 21, draws=1000) == 1.0  # every pattern is as far from zero as the observed one
    exact = sign_flip_p(differences[:20], draws=1000)
    assert exact * 2**20 == round(exact * 2**20)


def test_the_level_of_an_interval_is_how_often_it_holds_the_mean():
    from scipy import stats

    values = [0.2, 0.5, 0.6, 0.75]
    for level in (0.5, 0.9, 0.99):
        expected = stats.t.interval(level, 3, loc=reference.mean(values), scale=stats.sem(values))
        assert summarize(values, level=level)[3:] == pytest.approx(expected)
    assert summarize([0.0, 1.0], bounds=(0.0, 1.0))[3:] == (0.0, 1.0)  # values on the bounds lie within them
    assert (
        summarize([0.0, 1.0], bounds=(0.1, 1.0))
        == summarize([0.0, 1.0], bounds=(0.0, 0.9))
        == summarize([0.0, 1.0])
    )
