"""Scale analysis at its bounds: the sizes of cases, curves and crossings, intervals, histograms, what a point may be."""

from __future__ import annotations

import json
import math
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from tutelage.errors import UserError
from tutelage.reporting.console import plain_table
from tutelage.scaling import cases, grid, measure_command, predict_command, stored, verdicts
from tutelage.scaling.claims import Case, unit_of
from tutelage.scaling.critical_samples import (
    Estimate,
    best_collapse,
    collapse_score,
    critical_samples,
    crossing,
    exponent,
    exponents,
    isotonic,
)
from tutelage.scaling.ensembles import AttentionHead, PatchConvolution, ThreeLayer, TwoLayer
from tutelage.scaling.grid import Point, planted
from tutelage.scaling.guided import Guide, centred, cka
from tutelage.scaling.layers import ACTIVATIONS, Attention, Convolution, Dense, check_stack, has_power, scale
from tutelage.scaling.measure import Posterior, kernel_spectrum, specialised_neurons
from tutelage.scaling.measure_command import hardware_of
from tutelage.scaling.scale_request import Request, layer_node
from tutelage.scaling.targets import AttentionTarget, HermiteTarget, PatchTarget, hermite

SETTINGS = {
    "draws": 2,
    "steps": 40,
    "measurements": 4,
    "test_points": 100,
    "temperature": 0.1,
    "step_size": 0.01,
    "friction": 0.5,
}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- cases


def test_samples_are_factors_of_a_scale_two_at_least_and_each_once():
    assert cases.samples_at([0.01, 0.5, 0.52, 1.5, 3], 10) == [2, 5, 15, 30]


@pytest.mark.parametrize(
    ("given", "values"),
    [(3, [3]), (0.5, [0.5]), ([8, 16], [8, 16]), ([(8, 4), [3, 2]], [(8, 4), [3, 2]]), (0, None), (-1, None), ([8, 0], None),
     ([[8, -1]], None),
     (True, None), ("8", None), ([], None), (None, None), (["a"], None)],
)  # fmt: skip
def test_sizes_are_positive_numbers_or_lists_of_them(given, values):
    if values is not None:
        assert cases.each(given, "inputs") == values
        return
    with pytest.raises(UserError, match="inputs must be a positive number or a list of them"):
        cases.each(given, "inputs")


def test_the_points_of_every_case():
    (two,) = cases.two_layer(inputs=8, ratios=2.5, factors=[1.5], **SETTINGS)
    assert (two.name, two.sizes, two.network, list(two.samples)) == (
        "d8_N20", {"d": 8, "N": 20}, TwoLayer(inputs=8, width=20), [round(1.5 * 8 * math.sqrt(2.5))],
    )  # fmt: skip
    (narrow,) = cases.two_layer(inputs=8, ratios=0.05, factors=[2], **SETTINGS)
    assert (narrow.sizes["N"], list(narrow.samples)) == (1, [16])  # never below d
    (three,) = cases.three_layer(inputs=8, ratios=2.5, factors=[2], **SETTINGS)
    assert (three.name, three.sizes, list(three.samples)) == (
        "d8_N120_N28",
        {"d": 8, "N1": 20, "N2": 8},
        [16],
    )
    assert three.network == ThreeLayer(inputs=8, width1=20, width2=8)
    plain, wide = cases.convolution(sides=3, channels=[3, 8], factors=[2], **SETTINGS)
    assert (
        cases.convolution(sides=3, factors=[2], **SETTINGS)[0].sizes
        == plain.sizes
        == {"d": 9, "S": 3, "n": 3, "C": 3}
    )
    assert (wide.name, wide.network, list(wide.samples)) == (
        "d9_C8", PatchConvolution(patch_dim=3, patches=3, channels=8), [round(2 * math.sqrt(8) * 3)],
    )  # fmt: skip
    assert wide.target == PatchTarget(inputs=3, patches=3, mixture={3: 1.0})
    (head,) = cases.attention(pairs=[[9, 4]], factors=[0.5], **SETTINGS)
    assert (head.name, head.network, head.target, list(head.samples)) == (
        "d9_L4", AttentionHead(inputs=9), AttentionTarget(inputs=9, context=4), [27],
    )  # fmt: skip
    (guided,) = cases.guided(sides=3, strengths=2.5, patches=4, channels=5, factors=[2], **SETTINGS)
    assert (guided.name, guided.sizes, list(guided.samples)) == (
        "d12_g2.5",
        {"d": 12, "N": 24, "strength": 2.5},
        [24],
    )
    assert guided.network == TwoLayer(inputs=12, width=24) and guided.guide_strength == 2.5
    assert guided.guide == PatchConvolution(patch_dim=3, patches=4, channels=5, weight_variance=4.0)
    assert guided.target == PatchTarget(inputs=3, patches=4, mixture={3: 1.0}, flat=True)
    assert guided.members == 2
    for pairs in ([[8, 4, 2]], [8, 4]):
        with pytest.raises(UserError, match="pairs must be a list of pairs"):
            cases.attention(pairs=pairs, factors=[1], **SETTINGS)


def test_described_networks_have_the_sizes_of_their_powers():
    (patches,) = cases.described(
        layers=[Convolution("C", "S", 3)], scales={"C": 1.5, "S": "1/2"}, inputs=7, factors=[1], **SETTINGS
    )
    assert patches.sizes == {"d": 9, "C": 19, "S": 3} and patches.network == PatchConvolution(
        patch_dim=3, patches=3, channels=19
    )
    (head,) = cases.described(layers=[Attention(1)], scales={}, inputs=4, factors=[1], **SETTINGS)
    assert head.target.context == 2 and head.predicted == 1.5
    for layers, degree in (
        ([Attention("L")], 5),
        ([Attention("L", 2)], 3),
        ([Dense("L")] * 3, 3),
        ([Convolution(2, 2, 2), Dense(2)], 3),
    ):
        with pytest.raises(UserError, match="can be predicted but not sampled"):
            cases.described(
                layers=layers, scales={"L": 0.5}, inputs=4, factors=[1], degree=degree, **SETTINGS
            )
    with pytest.raises(UserError, match="networks are sampled with activation erf, got 'relu'"):
        cases.described(
            layers=[Dense("N")],
            scales={"N": 1},
            inputs=4,
            factors=[1],
            activation="relu",
            degree=2,
            **SETTINGS,
        )


# --- points


def point(**changes):
    given = {"experiment": "x", "name": "y", "network": TwoLayer(inputs=4, width=6), "target": HermiteTarget(inputs=4, mixture={3: 1.0}),
             "samples": [6, 12], "sizes": {"d": 4}, **SETTINGS}  # fmt: skip
    return Point(**{**given, **changes})


@pytest.mark.parametrize(
    ("key", "taken", "refused"),
    [
        ("draws", [1], [0]),
        ("temperature", [1e-9], [0, math.nan]),
        ("step_size", [1e-9], [0]),
        ("test_points", [1], [0]),
        ("batch_size", [1], [0]),
        ("measurements", [4, 40], [3, 41]),
        ("samples", [[1], [1, 2]], [[], [0, 1], [2, 2], [3, 1]]),
        ("start", ["prior", "planted"], ["cold"]),
        ("record", [(), ("overlaps", "spectrum")], [("overlap",)]),
        ("method", ["langevin", "sgd", "adam"], ["sgdm"]),
    ],
)
def test_the_settings_of_a_point_at_their_bounds(key, taken, refused):
    for value in taken:
        point(**{key: value})
    for value in refused:
        with pytest.raises(UserError, match=key):
            point(**{key: value})


def test_a_guide_is_for_two_layers_sampled():
    guide = PatchConvolution(patch_dim=2, patches=2, channels=3)
    point(guide=guide)
    for changes in ({"method": "adam"}, {"network": AttentionHead(inputs=4)}):
        with pytest.raises(UserError, match="a guide needs a two-layer network and method 'langevin'"):
            point(guide=guide, **changes)


def test_data_dynamics_and_guide_draw_from_three_seeds(monkeypatch):
    drawn = {}
    for name in ("Guide", "Langevin", "Training"):
        monkeypatch.setattr(grid, name, lambda *_, name=name, seed, **__: drawn.__setitem__(name, seed))
    guide = PatchConvolution(patch_dim=2, patches=2, channels=3)
    grid.build(point(seed=7, guide=guide, guide_strength=1.0))
    assert drawn == {"Langevin": 8, "Guide": 9}
    grid.build(point(seed=7, method="adam"))
    assert drawn["Training"] == 8


def test_planted_members_begin_with_neurons_on_the_hidden_direction():
    network = TwoLayer(inputs=3, width=6)
    flat = network.draw(2, torch.Generator().manual_seed(0))
    own, before = network.unpack(planted(network, flat, units=4)), network.unpack(flat)
    assert own["weight"][:, 0, :4].tolist() == [pytest.approx([0.7, 1.5, 0.7, 1.5])] * 2
    assert torch.equal(own["weight"][:, 0, 4:], before["weight"][:, 0, 4:]) and torch.equal(
        own["weight"][:, 1:], before["weight"][:, 1:]
    )
    head = AttentionHead(inputs=3)
    flat = head.draw(2, torch.Generator().manual_seed(0))
    own, before = head.unpack(planted(head, flat, units=4)), head.unpack(flat)
    assert own["attention"][:, 0, 0].tolist() == [2, 2] and torch.equal(
        own["attention"][:, 1:], before["attention"][:, 1:]
    )


# --- layers and words


def test_the_powers_that_an_activation_makes():
    found = {name: [power for power in range(1, 7) if has_power(name, power)] for name in ACTIVATIONS}
    assert found == {"linear": [1], "erf": [1, 3, 5], "relu": [1, 2, 4, 6], "generic": [1, 2, 3, 4, 5, 6]}
    assert str(scale("N1")) == "N1" and scale(3) == 3
    for wrong in ("N-1", "3", 0, -2):
        with pytest.raises(UserError, match="scale"):
            scale(wrong)
    check_stack([Convolution("C", "S", "n"), Dense("N")])
    for layers, says in (
        ([], "at least one hidden layer"),
        ([Dense("N"), Attention("L")], "Attention is layer 2, but it reads raw inputs"),
    ):
        with pytest.raises(UserError, match=says):
            check_stack(layers)


@pytest.mark.parametrize(
    ("word", "arguments"),
    [("dense:N", {"width": "N"}), ("dense:12", {"width": "12"}), ("conv:C,S,n", {"channels": "C", "patch_dim": "S", "patches": "n"}),
     ("attention:L", {"context": "L"}), ("attention:L,2", {"context": "L", "heads": "2"}), ("dense:", None), ("dense:N,M", None),
     ("convolution:C,S", None), ("attention:L,2,3", None), ("dense:0", None), ("dense:-1", None), ("dense:N-1", None), ("dens:N", None)],
)  # fmt: skip
def test_a_layer_in_words(word, arguments):
    if arguments is not None:
        node = layer_node(word)
        assert node.pop("_target_").startswith("tutelage.scaling.layers.") and node == arguments
        return
    with pytest.raises(UserError):
        layer_node(word)


# --- targets


def test_hermite_polynomials_and_targets_are_those_written_by_hand():
    z = torch.tensor([-1.5, 0.3, 2.0], dtype=torch.float64)
    by_hand = [0 * z + 1, z, z**2 - 1, z**3 - 3 * z, z**4 - 6 * z**2 + 3]
    for degree, values in enumerate(by_hand):
        torch.testing.assert_close(hermite(degree, z), values / math.sqrt(math.factorial(degree)))
    with pytest.raises(UserError, match="a Hermite polynomial's degree is at least 0, got -1"):
        hermite(-1, z)
    x = random(4, 6)
    mixed = HermiteTarget(inputs=6, mixture={1: 3.0, 3: -4.0})
    torch.testing.assert_close(mixed.values(x), 0.6 * x[:, 0] - 0.8 * hermite(3, x[:, 0]))
    torch.testing.assert_close(
        HermiteTarget(inputs=6, mixture={3: 2.0}, classify=True).labels(x), hermite(3, x[:, 0]).sign()
    )
    slow = sum(hermite(3, x[:, 2 * k]) for k in range(3)) / math.sqrt(3)
    flat, cut = (PatchTarget(inputs=2, patches=3, mixture={3: 1.0}, flat=flat) for flat in (True, False))
    torch.testing.assert_close(flat.values(x), slow)
    torch.testing.assert_close(cut.values(x.view(4, 3, 2)), slow)
    assert (flat.input_shape, cut.input_shape, AttentionTarget(inputs=4, context=3).input_shape) == (
        (6,),
        (3, 2),
        (4, 4),
    )
    tokens = random(5, 4, 3)
    mean = tokens[:, 1:, 1].mean(1)
    slow = tokens[:, 0, 0] * sum(tokens[:, b, 0] * (tokens[:, b, 1] - mean) for b in (1, 2, 3)) / math.sqrt(2)
    torch.testing.assert_close(AttentionTarget(inputs=3, context=3).values(tokens), slow)
    HermiteTarget(inputs=1, mixture={0: 1.0})
    AttentionTarget(inputs=2, context=2)
    for made in (lambda: HermiteTarget(inputs=0, mixture={1: 1.0}), lambda: HermiteTarget(inputs=1, mixture={}),
                 lambda: HermiteTarget(inputs=1, mixture={1: 0.0}), lambda: HermiteTarget(inputs=1, mixture={-1: 1.0}),
                 lambda: AttentionTarget(inputs=1, context=2), lambda: AttentionTarget(inputs=2, context=1)):  # fmt: skip
        with pytest.raises(UserError, match="needs inputs >= "):
            made()


# --- the guide


def test_the_alignment_with_a_guide_and_its_slope_are_those_of_loops():
    network, guide = TwoLayer(inputs=6, width=4), PatchConvolution(patch_dim=2, patches=3, channels=5)
    flat = network.draw(3, torch.Generator().manual_seed(0))
    inputs = random(3, 7, 6)
    present = torch.tensor([[1.0] * 7, [1.0] * 5 + [0] * 2, [1.0] * 3 + [0] * 4])
    made = Guide(network, guide, inputs, strength=2.0, temperature=0.3, seed=5, present=present)
    assert made.weight.tolist() == pytest.approx([4.2, 3.0, 1.8])
    weights = guide.draw(3, torch.Generator().manual_seed(5))
    theirs = guide.forward(weights, inputs.view(3, 7, 3, 2))[1][0]
    mine = network.forward(flat, inputs)[1][0]
    for k, count in enumerate((7, 5, 3)):
        x, y = (z[k, :count] - z[k, :count].mean(0) for z in (mine, theirs))
        slow = (x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())
        assert float(made.alignment(flat, inputs)[k]) == pytest.approx(float(slow), rel=1e-4)
    whole = Guide(network, guide, inputs, strength=2.0, temperature=0.3, seed=5)
    assert whole.weight.tolist() == pytest.approx([4.2] * 3)
    x = random(2, 5, 3)
    torch.testing.assert_close(centred(x), x - x.mean(1, keepdim=True))
    torch.testing.assert_close(cka(centred(x), centred(x)), torch.ones(2))
    with pytest.raises(
        UserError, match="reads 3 patches of 3, 9 inputs in all, but the guided network has 6"
    ):
        Guide(
            network,
            PatchConvolution(patch_dim=3, patches=3, channels=2),
            inputs,
            strength=1.0,
            temperature=1.0,
            seed=0,
        )


# --- curves


def test_the_nearest_curve_that_rises_is_the_best_of_all_means_of_stretches():
    for values in (
        [0.1, 0.5, 0.2, 0.3, 0.9, 0.7],
        [3.0, 2.0, 1.0],
        [1.0, 1.0, 2.0],
        [2.0, 1.0, 1.5, 1.2, 4.0],
    ):
        n = len(values)
        slow = [
            max(min(np.mean(values[a : b + 1]) for b in range(k, n)) for a in range(k + 1)) for k in range(n)
        ]
        assert isotonic(np.array(values)).tolist() == pytest.approx(slow)


@pytest.mark.parametrize(
    ("curve", "wanted"),
    [([0.1, 0.3, 0.7], 20 * 2**0.5), ([0.1, 0.5, 0.9], 20), ([0.5, 0.6, 0.7], -math.inf), ([0.1, 0.2, 0.49], math.inf),
     ([0.1, 0.2, 0.5], 40),
     ([0.2, 0.4, 0.9], 20 * 2**0.2)],
)  # fmt: skip
def test_a_curve_crosses_where_the_line_through_its_neighbours_does(curve, wanted):
    assert crossing(np.array([10.0, 20.0, 40.0]), np.array(curve)) == pytest.approx(wanted)


def test_p_star_has_the_interval_of_resampled_draws():
    grid, draws = np.array([10.0, 20.0, 40.0]), np.array([[0.1, 0.2, 0.0], [0.4, 0.5, 0.3], [0.8, 0.9, 0.95]])
    found = critical_samples(grid, draws, resamples=50, seed=3)
    rng = np.random.default_rng(3)
    slow = []
    for _ in range(50):
        picks = rng.integers(3, size=(3, 3))
        slow.append(crossing(grid, np.array([[draws[i, j] for j in picks[i]] for i in range(3)]).mean(1)))
    assert found.resamples.tolist() == pytest.approx(np.clip(slow, 10, 40).tolist())
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(slow, [2.5, 97.5])))
    for wrong in (
        ([10, 20], draws),
        ([10, 10, 20], draws),
        ([20, 10, 40], draws),
        ([10], draws[:1]),
        (grid, draws[:, 0]),
    ):
        with pytest.raises(UserError, match="expected an increasing P grid of at least 2 values"):
            critical_samples(*wrong)
    critical_samples([10, 40], draws[[0, 2]])


def estimates(values, seed=0):
    rng = np.random.default_rng(seed)
    return [Estimate.of(v, v * np.exp(0.05 * rng.normal(size=40))) for v in values]


def test_exponents_are_least_squares_in_logarithms():
    sizes, values = [8, 16, 32, 64], [10.0, 23.0, 41.0, 95.0]
    slope = np.polyfit(np.log(sizes), np.log(values), 1)[0]
    found = exponent(sizes, estimates(values))
    assert found.value == pytest.approx(slope)
    rng = np.random.default_rng(0)
    shuffled = np.stack([rng.permutation(e.resamples) for e in estimates(values)])
    slow = [np.polyfit(np.log(sizes), np.log(row), 1)[0] for row in shuffled.T]
    assert found.resamples.tolist() == pytest.approx(slow)
    d, length = [8, 8, 16, 16, 32], [2, 4, 2, 8, 4]
    values = [3 * a**1.5 * b**0.5 for a, b in zip(d, length, strict=True)]
    both = exponents({"d": d, "L": length}, estimates(values))
    assert (both["d"].value, both["L"].value) == pytest.approx((1.5, 0.5))
    for given, count in (({"d": [8, 8]}, 2), ({"d": [8, 16], "L": [2, 4]}, 2), ({"d": [8, 16, 32]}, 2)):
        with pytest.raises(UserError, match="two values or more of each"):
            exponents(given, estimates([1.0] * count))


def test_the_score_of_a_collapse_is_the_variance_between_curves_over_all():
    curves = {
        2.0: (np.array([1.0, 10.0, 100.0]), np.array([0.0, 0.4, 1.0])),
        4.0: (np.array([3.0, 30.0, 300.0]), np.array([0.1, 0.7, 0.9])),
    }
    unit = {2.0: 2.0, 4.0: 5.0}
    low, high = math.log(3 / 5), math.log(100 / 2)
    common = [low + (high - low) * k / 9 for k in range(10)]
    stacked = np.array(
        [np.interp(common, np.log(grid / unit[size]), curve) for size, (grid, curve) in curves.items()]
    )
    slow = np.mean([np.var(column) for column in stacked.T]) / np.var(stacked)
    assert collapse_score(curves, unit, points=10) == pytest.approx(slow)
    flat = {size: (grid, 0 * curve) for size, (grid, curve) in curves.items()}
    assert collapse_score(flat, unit) == 0
    touching = {
        1.0: (np.array([1.0, 2.0]), np.array([0.0, 1.0])),
        2.0: (np.array([2.0, 4.0]), np.array([0.0, 1.0])),
    }
    with pytest.raises(UserError, match="do not overlap"):
        collapse_score(touching, {1.0: 1.0, 2.0: 1.0})


def test_exponents_that_leave_a_sliver_of_common_range_are_passed_over():
    curves = {
        size: (size**1.5 * np.array([1.0, 3.0, 9.0]), np.array([0.1, 0.5, 0.9])) for size in (4.0, 16.0)
    }
    assert best_collapse(curves, [1.0, 1.5, 2.0]) == (1.5, pytest.approx(0, abs=1e-12))
    # of log 9 a third is left where the grids are log 9 x 2 / 3 apart: by 4^(2 ln 9 / 3 / ln 4)
    edge = 2 / 3 * math.log(9) / math.log(4)
    assert best_collapse(curves, [1.5 - edge + 1e-3])[0] == pytest.approx(1.5 - edge + 1e-3)
    with pytest.raises(UserError, match="no exponent leaves a common range"):
        best_collapse(curves, [1.5 - edge - 1e-3])


# --- verdicts


@pytest.mark.parametrize(
    ("low", "high", "predicted", "wanted"),
    [(0.9, 1.1, None, ""), (0.9, 1.1, 0.8, "agrees"), (0.9, 1.1, 0.79, "disagrees"), (0.9, 1.1, 1.2, "agrees"),
     (0.9, 1.1, 1.21, "disagrees"),
     (0.0, 0.6, 1.0, "disagrees"), (0.0, 0.61, 0.3, "undecided"), (math.nan, math.nan, 1.0, "undecided")],
)  # fmt: skip
def test_a_prediction_is_held_against_an_interval_widened_by_the_tolerance(low, high, predicted, wanted):
    assert verdicts.judge(predicted, Estimate(1.0, low, high, np.zeros(1)), tolerance=0.1 + 1e-12) == wanted


def result(experiment, d, alignment, samples=(10, 20, 40), **sizes):
    return {
        "experiment": experiment,
        "sizes": {"d": d, **sizes},
        "samples": list(samples),
        "alignment": alignment,
    }


def steep(critical, draws=3, spread=0.02):
    off = (np.arange(draws) - 1) * spread
    return [[0.1 + o for o in off], [0.5 + o for o in off], [0.9 + o for o in off]], [
        critical / 2,
        critical,
        critical * 2,
    ]


def test_a_power_law_needs_three_sizes_and_shows_the_larger_half_of_five():
    own = [result("x", d, *steep(3.0 * d)) for d in (8, 16, 32, 64, 128)]
    for count, quantities in ((2, ["q"]), (3, ["q"]), (4, ["q"]), (5, ["q", "q, larger half"])):
        rows = verdicts.power_law(own[:count], "x", size="d", predicted=1.0, quantity="q")
        assert [row.quantity for row in rows] == quantities
        assert [(row.sizes, row.verdict, row.note) for row in rows][:1] == (
            [("", "undecided", "fewer than three sizes")]
            if count < 3
            else [(f"d 8 to {own[count - 1]['sizes']['d']}", "agrees", "")]
        )
    assert rows[1].sizes == "d 32 to 128" and rows[1].measured.value == pytest.approx(1)


def test_two_arms_are_compared_size_by_size_in_logarithms():
    own = [
        result("x", d, *steep(factor * d), arm=arm) for arm, factor in ((0, 4.0), (1, 6.0)) for d in (8, 16)
    ]
    own.append(result("x", 32, *steep(100.0), arm=1))  # without a base of its size
    arms = {"base": lambda r: r["sizes"]["arm"] == 0, "other": lambda r: r["sizes"]["arm"] == 1}
    for predicted, wanted in ((None, ""), (1.5, "agrees"), (3.0, "disagrees"), (0.5, "disagrees")):
        (row,) = verdicts.ratio(own, "x", **arms, quantity="q", predicted=predicted)
        assert (row.measured.value, row.sizes, row.verdict) == (pytest.approx(1.5), "d 8 to 16", wanted)
    assert verdicts.ratio(own[-1:], "x", **arms, quantity="q") == []
    exact = [result("x", 8, *steep(factor * 8, spread=0.0), arm=arm) for arm, factor in ((0, 4.0), (1, 8.0))]
    assert [verdicts.ratio(exact, "x", **arms, quantity="q", predicted=p)[0].verdict for p in (1.0, 3.0)] == [
        "disagrees"
    ] * 2


@pytest.mark.parametrize(("spread", "seen"), [(0.02, "agrees"), (0.9, "undecided")])
def test_a_collapse_agrees_below_its_noise_and_is_undecided_where_noise_is_all(spread, seen):
    own = [result("x", d, *steep(3.0 * d, spread=spread)) for d in (8, 16)]
    (row,) = verdicts.collapse(own, "x", scale=lambda sizes: sizes["d"], quantity="q")
    assert row.verdict == seen
    values = [np.asarray(r["alignment"]) for r in own]
    error = np.mean([v.var(1, ddof=1).mean() / 3 for v in values])
    floor = error / np.concatenate([v.mean(1) for v in values]).var()
    assert f"standard errors alone: {floor:.3f}; against P itself: " in row.note
    assert verdicts.collapse(own[:1], "x", scale=lambda sizes: 1.0, quantity="q") == []


def test_what_a_case_predicts_of_a_size():
    case = Case(
        "x", (Dense("N"),), {"degree": 3, "activation": "erf", "scales": {"N": 1}, "patterns": None}, ()
    )
    assert case.along_d() == 1 and case.in_size("N") == 0.5
    assert [case.predicted(*given) for given in (("d", None), ("N", None), ("N", "3/2"), ("d", 2))] == [
        1,
        0.5,
        1.5,
        2,
    ]
    assert case.predicted("N", {"patterns": ["Sp"], "scales": {"N": 1.5}}) == 0.5
    assert unit_of(case, None)({"d": 9, "N": 4}) == 9 and unit_of(case, ["N", "d"])(
        {"d": 9, "N": 4}
    ) == pytest.approx(6)
    planned = Case("x", None, {"planned": 1.5}, ())
    assert (
        planned.predicted("d", None) == planned.predicted("N", None) == 1.5
        and unit_of(planned, None)({"d": 4}) == 8
    )
    assert unit_of(Case("x", None, {"planned": None}, ()), None) is None


# --- histograms and averages


def slow_count(overlaps, networks, bins=60):
    """The outer mode, bin by bin."""
    found = [abs(v) for v in overlaps]
    width = (max(found) * 1.02 + 1e-12) / bins
    counts = [sum(1 for v in found if k * width <= v < (k + 1) * width) for k in range(bins)]
    window = [math.exp(-0.5 * (j / 1.5) ** 2) for j in range(-5, 6)]
    smooth = []
    for k in range(bins):
        total = 0.0
        for j, weight in zip(range(-5, 6), window, strict=True):
            place = k + j
            total += weight * (counts[-1 - place] if place < 0 else counts[place] if place < bins else 0)
        smooth.append(total / sum(window))
    bulk = max(range(bins // 2), key=lambda k: smooth[k])
    best = None
    for mode in range(bulk + 2, bins - 1):
        if smooth[mode] < smooth[mode - 1] or smooth[mode] < smooth[mode + 1]:
            continue
        low = min(range(bulk + 1, mode + 1), key=lambda k: smooth[k])
        stands = smooth[mode] - smooth[low] > 3 * math.sqrt((smooth[mode] + smooth[low]) / 5.3)
        if stands and smooth[low] <= smooth[mode] / 2 and (best is None or smooth[mode] > best[1]):
            best = (low, smooth[mode])
    if best is None:
        return None
    threshold = (best[0] + 0.5) * width
    return threshold, {
        f: sum(v > f * threshold for v in found) / networks for f in (0.7, 0.85, 1.0, 1.15, 1.3)
    }


@pytest.mark.parametrize(
    ("outer", "spread", "middle"),
    [(40, 0.1, 1.0), (200, 0.2, 0.8), (15, 0.05, 0.5), (6, 0.3, 0.4), (90, 0.25, 0.6), (4, 0.02, 1.2)],
)
def test_specialised_neurons_are_those_of_the_slow_count(outer, spread, middle):
    rng = np.random.default_rng(outer)
    overlaps = np.concatenate(
        [rng.normal(0, 0.15, 500), rng.normal(middle, spread, outer), rng.normal(-middle / 2, 0.03, 25)]
    )
    found, slow = specialised_neurons(overlaps, networks=7), slow_count(overlaps.tolist(), 7)
    if slow is None:
        assert found.count == 0 and math.isnan(found.threshold)
        return
    assert found.threshold == pytest.approx(slow[0]) and found.sensitivity == pytest.approx(slow[1])
    assert found.count == pytest.approx(slow[1][1.0])


def test_the_spectrum_of_a_kernel_is_that_of_its_features_second_moments():
    network, target = TwoLayer(inputs=3, width=4), HermiteTarget(inputs=3, mixture={1: 0.6, 3: 0.8})
    flat = random(2, network.size)
    found = kernel_spectrum(network, flat, target, points=50, generator=torch.Generator().manual_seed(5))
    inputs, values = target.draw(1, 50, torch.Generator().manual_seed(5))
    for k in range(2):
        features = network.forward(flat, inputs.expand(2, -1, -1))[1][0][k].double() / math.sqrt(4)
        eigenvalues, vectors = torch.linalg.eigh(features.T @ features / 50)
        functions = features @ vectors  # each of mean square its eigenvalue
        y = values[0].double()
        shares = [
            float((functions[:, j] @ y / 50) ** 2 / eigenvalues[j] / y.square().mean()) for j in range(4)
        ]
        assert found["eigenvalues"][k].tolist() == pytest.approx(eigenvalues.flip(0).tolist(), rel=1e-4)
        assert found["target_share"][k].tolist() == pytest.approx(shares[::-1], rel=1e-3)


def test_the_priors_of_every_network():
    assert PatchConvolution(patch_dim=2, patches=3, channels=5).variances == {
        "weight": 0.25,
        "readout": 32 / 15,
    }
    assert TwoLayer(inputs=4, width=8).variances == {"weight": 0.125, "readout": 4.0}
    assert ThreeLayer(inputs=4, width1=5, width2=8).variances == {
        "weight": 0.125,
        "middle": 0.1,
        "readout": 4.0,
    }
    assert AttentionHead(inputs=4).variances == {"attention": 0.5 / 16, "value": 8.0}
    for wrong in ({"weight_variance": 0}, {"readout_variance": -1}, {"width": 0}):
        with pytest.raises(UserError, match=f"TwoLayer: {next(iter(wrong))} must be positive"):
            TwoLayer(**{"inputs": 4, "width": 8, **wrong})


def test_drift_is_the_second_half_of_the_late_samples_less_the_first():
    trajectory = random(9, 2)
    found = Posterior(trajectory[0], trajectory[0], trajectory[0], trajectory, list(range(9)))
    torch.testing.assert_close(found.drift, trajectory[6:].mean(0) - trajectory[4:6].mean(0))


# --- commands


@pytest.mark.parametrize(
    ("changes", "gpu", "kept"),
    [
        ({}, False, "cpu"),
        ({"accelerator": "auto"}, False, "cpu"),
        ({"accelerator": "auto"}, True, "gpu"),
        ({"accelerator": "gpu"}, True, "gpu"),
        ({"accelerator": "gpu"}, False, "this machine has no CUDA device"),
        ({"accelerator": "mps"}, True, "cpu, gpu or auto, got mps"),
        ({"devices": 2}, False, "hardware.devices must be 1, got 2"),
        ({"precision": "bf16-mixed"}, False, "hardware.precision must be 32-true"),
        ({"compile": True}, False, "hardware.compile must be False, got True"),
    ],
)
def test_sampling_is_one_process_in_single_precision(monkeypatch, changes, gpu, kept):
    threads = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr("tutelage.engine.cpu.prepare_cpu", threads.append)
    given = {"accelerator": "cpu", "matmul_precision": "highest", "threads": 3, "devices": 1, "num_nodes": 1, "precision": "32-true",
             "compile": False, "channels_last": False, **changes}  # fmt: skip
    if kept in ("cpu", "gpu"):
        found = hardware_of(given)
        assert found == {key: given[key] for key in given if key != "channels_last"} | {
            "accelerator": kept
        } and threads == [3]
        return
    with pytest.raises(UserError, match=kept):
        hardware_of(given)


def test_what_a_prediction_is_drawn_along():
    scales = {"d": 1, "N1": 1, "N2": 2, "N3": 3}
    for options, wanted in (
        ({}, ["N1", "N2"]), ({"x": "N3"}, ["N3"]), ({"y": "N3"}, ["N3", "N1"]), ({"x": "N2", "y": "N1"}, ["N2", "N1"]),
        ({"x": "N2", "y": "N2"}, ["N2", "N1"]),
    ):  # fmt: skip
        assert predict_command.axes_of(scales, options) == wanted
    assert (
        predict_command.axes_of({"d": 1, "N": 1}, {}) == ["N"] and predict_command.axes_of({"d": 1}, {}) == []
    )
    for wrong in ("d", "M"):
        with pytest.raises(UserError, match=f"there is no size '{wrong}' to draw along"):
            predict_command.axes_of(scales, {"x": wrong})
    assert [predict_command.power_of_d(Fraction(*p)) for p in ((0, 1), (1, 1), (2, 1), (3, 2))] == [
        "constant",
        "d",
        "d^2",
        "d^(3/2)",
    ]
    for given, wanted in (
        (0, 0),
        ("3/2", Fraction(3, 2)),
        (0.3333333, Fraction(1, 3)),
        ("-1e-3", None),
        ("fast", None),
        ("1/0", None),
        (-1, None),
    ):
        if wanted is not None:
            assert predict_command._fraction("N", given) == wanted
            continue
        with pytest.raises(UserError, match=f"N={given}: "):
            predict_command._fraction("N", given)


def test_the_folder_of_a_prediction_is_told_by_its_words():
    def folder(**more):
        return predict_command._folder(
            Request("predict", ["two_layer"], **{"overrides": [], **more}), {"runs_dir": "r"}
        )

    plain, other, same = folder(), folder(overrides=["b", "a"]), folder(overrides=["a", "b"])
    assert plain == Path("r/scale/predict/two_layer") and other == same != plain
    assert re.fullmatch(r"two_layer-[0-9a-f]{6}", other.name) and folder(
        overrides=["a", "b"], options={"x": "N"}
    ) not in (plain, other)
    assert folder(options={"out": "here"}) == Path("here")
    assert Request("predict", [], [], layers=["dense:N1", "conv:C,S,n"]).label == "dense_N1-conv_C_S_n"


# --- what is stored


def stored_result(alignment, **more):
    return {
        "samples": [10, 20, 40],
        "alignment": alignment,
        "seconds": 12.6,
        "settings": {"steps": 70},
        **more,
    }


def test_a_result_in_a_line_and_its_headline():
    crossing_ = stored_result([[0.1, 0.1], [0.5, 0.5], [0.9, 0.9]])
    one, none = stored_result([[0.1], [0.5], [0.9]]), stored_result([[0.1], [0.2], [0.3]])
    assert stored.line(crossing_) == "P* = 20 (20 to 20), 13 s"
    assert stored.line(one) == "P* = 20 (one draw, no interval), 13 s"
    assert stored.line(none).startswith(
        "the P grid 10 to 40 never crosses A_f = 0.5: the alignment stays below it (0.10 to 0.30)"
    )
    cost = {"cost": {"train_s": 12.6, "steps": 70}}
    assert stored._headline(None, none) == cost
    assert stored._headline(None, one) == cost | {
        "best": {"step": 70, "test": {"critical_samples": pytest.approx(20)}},
        "selection": {"monitor": "critical_samples", "mode": "min"},
    }
    kind = stored.kind_of(point(name="d4"))
    assert kind.value({"point": stored_result([[0.1, 0.2], [0.5, 0.6], [0.9, 0.7]])}) == pytest.approx(0.5)
    assert kind.headline({"point": one}) == "d4: P* = 20 (one draw, no interval), 13 s"


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        "[1]",
        '[{"experiment": "x"}]',
        '[{"experiment": 1, "sizes": 1, "samples": 1, "alignment": 1, "settings": 1}, 3]',
    ],
)
def test_what_are_no_results_is_told(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(
        UserError, match="holds no results of points: expected a list of mappings with alignment, experiment"
    ):
        stored.read_results(tmp_path)
    with pytest.raises(UserError, match=r"no results under .*: expected a file results\.json"):
        stored.read_results(tmp_path / "elsewhere")


def test_results_are_read_from_a_folder_or_their_file(tmp_path):
    rows = [dict.fromkeys(("experiment", "sizes", "samples", "alignment", "settings"), k) for k in (1, 2)]
    (tmp_path / "results.json").write_text(measure_command.results_text(rows))
    assert (tmp_path / "results.json").read_text().splitlines()[1:3] == [
        f"{json.dumps(rows[0])},",
        json.dumps(rows[1]),
    ]
    assert stored.read_results(tmp_path) == stored.read_results(tmp_path / "results.json") == rows


def test_where_a_report_goes():
    request = Request("report", ["two_layer"], [])
    one, two = [{"experiment": "a"}] * 2, [{"experiment": "a"}, {"experiment": "b"}]
    assert [measure_command._folder(request, found, "r") for found in (one, two)] == [
        Path("r/scale/a"),
        Path("r/scale"),
    ]
    assert measure_command._folder(Request("report", ["x"], [], options={"out": "here"}), one, "r") == Path(
        "here"
    )
    described = [
        measure_command._folder(Request("measure", ["described"], words, layers=layers), one, "r")
        for layers, words in (
            (["dense:N"], ["N=1"]),
            (["dense:N"], ["N=2"]),
            (["dense:N", "dense:M"], ["N=1"]),
        )
    ]
    assert len({*described}) == 3 and {folder.parent for folder in described} == {Path("r/scale/a")}
    assert re.fullmatch(r"dense_N-dense_M-[0-9a-f]{6}", described[2].name)
    assert measure_command.finish(request, [], "r") == 0
    table = plain_table([{"a": "1", "b": "", "c": ""}, {"a": "2", "b": "x", "c": ""}], "t")
    assert [column.header for column in table.columns] == ["a", "b"] and plain_table([]).columns == []
