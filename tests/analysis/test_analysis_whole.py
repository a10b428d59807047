"""What analyses draw, all artists of a figure, and what they compute, by slow versions and at their bounds, from small made-up records."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from torch import nn

from drawn import drawn, figures
from expected import same_as
from tutelage.analysis import (
    attack_suite,
    calibration,
    errors_consistency,
    network_cost,
    overfitting,
    probe,
    robustness,
    similarity_map,
    trainability,
)
from tutelage.analysis.attack_suite import Budget, Check, Suite
from tutelage.analysis.drawing import heat_map, lines, mark_cells
from tutelage.analysis.gram_blocks import GramBlocks
from tutelage.analysis.overfitting import Gap
from tutelage.analysis.similarity_map import SimilarityMap
from tutelage.engine import signal
from tutelage.reporting.palette import save
from tutelage.robustness.attacks import cross_entropy
from tutelage.tasks import Binary


@pytest.fixture
def drawing(monkeypatch):
    """Give a function that returns what is drawn."""
    saved = figures(monkeypatch)

    def do(draw, *given, **more):
        draw(*given, **more)
        do.figure = saved[-1]
        return "\n".join(drawn(saved[-1]))

    return do


# --- figures --------------------------------------------------------------------------------------------------


def test_the_figures_of_robustness_whole(drawing, tmp_path):
    def rows(arm, seed, shift, *conditions):
        found = [{"condition": "clean", "n": 4, "accuracy": 0.9 - shift, "low": 0.1, "high": 1.0}]
        found += [
            {"condition": f"fog_{s}", "severity": s, "n": 4, "accuracy": 0.9 - shift - 0.1 * s}
            for s in (1, 2, 3, 4, 5)
        ]
        found += [{"condition": name, "n": 4, "accuracy": value - shift} for name, value in conditions]
        return [
            {"network": f"{arm} {seed}", "arm": arm, "seed": seed, **row}
            for row in [*found, {"condition": "check: x", "holds": True, "detail": "d"}]
        ]

    table = [
        *rows("p/plain", 0, 0.0, ("corruptions", 0.6), ("pgd", 0.2), ("strong", 0.125)),
        *rows("p/plain", 1, 0.0125, ("corruptions", 0.6), ("pgd", 0.25), ("strong", 0.25)),
        *rows("p/_b$", 0, 0.125, ("corruptions", 0.75)),
    ]
    text = drawing(robustness.draw, table, tmp_path / "a.png")
    few = [
        {"network": "a", "arm": "a", "seed": 0, "condition": "clean", "n": 4, "mse": 2.5},
        {"network": "a", "arm": "a", "seed": 0, "condition": "missing values", "n": 4, "mse": 3.5},
    ]
    assert drawing.figure.legends[0]._ncols == 4
    long = [row | {"arm": "n" * 60} for row in table[:6]]
    drawing(robustness.draw, [*table, *long], tmp_path / "a.png")
    assert drawing.figure.legends[0]._ncols == 1  # of names of so many letters
    same_as("figure-robustness.txt", text + "\n" + drawing(robustness.draw, few, tmp_path / "a.png"))


def test_the_figure_of_calibration_whole(drawing, tmp_path):
    sure = [np.array([0.1, 0.3, 0.3, 0.62, 0.95]), np.array([0.4, 0.62, 0.62, 0.8, 1.0])]
    right = [np.array([0.0, 1, 0, 1, 1]), np.array([1.0, 0, 1, 1, 0])]
    found = {f"arm {k}": [(0.1 * (k + 1), sure[0], right[0])] for k in range(4)}
    found["x/_two$"] = [(0.25, sure[0], right[0]), (0.5, sure[1], right[1])]
    text = drawing(calibration.draw, found, tmp_path / "a.png").replace("-0,", "0,").splitlines()
    same_as(
        "figure-calibration.txt", "\n".join(line[:330] for line in text if "0.1326" not in line)
    )  # no circles
    panels = drawing.figure.axes[:5]
    sizes = [panel.collections[0].get_sizes().tolist() for panel in panels]
    assert sizes[0] == pytest.approx([20, 34, 20, 20])
    assert sizes[4] == pytest.approx([13, 20, 13, 27, 13, 20])


def test_other_figures_whole(drawing, tmp_path):
    points = [("a$", 1500.0, [0.5, 0.75, 1.0]), ("b", 200.0, [0.9])]
    cost = drawing(
        network_cost.draw, points, tmp_path / "a.png", metric="accuracy", better="higher is better"
    )
    bare = drawing(network_cost.draw, points[1:], tmp_path / "a.png", metric="loss")
    probes = {
        "p/one": [probe.Probe(0.75, 0.5, 0.1, 8, "head"), probe.Probe(0.875, 0.625, 0.1, 8, "head")],
        "_two": [probe.Probe(0.25, 0.125, 0.1, 8, "head")],
    }
    both = drawing(probe.draw, probes, tmp_path / "a.png")
    same_as("figures-cost-and-probe.txt", "\n".join([cost, bare, both]))


def test_a_map_of_layers_whole(drawing, tmp_path):
    layers = tuple(SimpleNamespace(name=name) for name in ("a", "_b", "c"))
    values = np.array([[1.0, 0.25, math.nan], [0.125, 0.5, 0.75]])
    found = SimilarityMap(layers[:2], layers, values, 1234)
    text = drawing(similarity_map.draw, found, tmp_path / "a.png", first="x", second="y$", aligned=[(1, 2)])
    assert (
        "'Layer by layer, 1,234 samples; framed: the pairs that were aligned; grey: the layer does not vary'"
        in text
    )
    bars = [line for line in text.splitlines() if "bar" in line]
    assert [line.partition(": ")[2] for line in bars] == ["1.5 0.5 1 1"] * 2
    whole = SimilarityMap(
        layers[:2], layers[:2], values[:, :2], 9, "procrustes", np.array([[0.25, 0.5], [0.3, math.nan]])
    )
    text = drawing(similarity_map.draw, whole, tmp_path / "a.png", first="x", second="y")
    assert "title 'Layer by layer, 9 samples; by chance 0.25 to 0.50'" in text and "bar" not in text
    assert "y 'procrustes'" in text
    nothing = SimilarityMap(layers[:1], layers[2:], values[:1, 2:], 9, "procrustes", np.array([[math.nan]]))
    text = drawing(similarity_map.draw, nothing, tmp_path / "a.png", first="x", second="y")
    assert "title 'Layer by layer, 9 samples; by chance undefined; grey: the layer does not vary'" in text
    assert similarity_map._range(values) == "from 0.125 to 1.000, mean 0.525"
    assert similarity_map._range(values[:1, 2:]) == "undefined: no layer varies over these samples"
    said = similarity_map.describe
    assert [
        said(SimilarityMap((), (), values, 9, *more))
        for more in ((), ("cka", np.array([[0.25, 0.5], [math.nan, 0.75]])), ("cka", np.array([[math.nan]])))
    ] == [
        {"samples": 9, "estimator": "unbiased linear CKA", "first": [], "second": []},
        {
            "samples": 9,
            "estimator": "cka",
            "chance": {"mean": 0.5, "min": 0.25, "max": 0.75},
            "first": [],
            "second": [],
        },
        {"samples": 9, "estimator": "cka", "first": [], "second": []},
    ]


@pytest.mark.parametrize(("count", "bold", "ordered"), [
    (2, "", False), (2, "c0", False), (3, "c0", True), (8, "", False), (9, "", True), (40, "", True), (41, "", True),
])  # fmt: skip
def test_curves_are_shaded_where_they_are_many_or_one_is_bold(count, bold, ordered):
    from tutelage.reporting.palette import style

    curves = {f"c{place}": ([0, 1], [place, place + 1]) for place in range(count - 1)}
    curves[f"c{count - 1}"] = ([3], [2])
    bands = {"c0": ([0, 0.5], [1, 2])}
    _, axes = lines(curves, x="step", y="value", bold=bold, bands=bands, title="t$")
    found = axes.lines
    assert [line.get_xydata().tolist() for line in found[:: count - 1]] == [[[0, 0], [1, 1]], [[3, 2]]]
    assert [line.get_marker() for line in found] == ["None"] * (count - 1) + ["o"]
    plain = [to_hex(line.get_color()) == style(place)[0].lower() for place, line in enumerate(found)]
    assert plain == ["c" + str(place) != bold and not ordered for place in range(count)]
    assert (to_hex(found[0].get_color()), found[0].get_linewidth()) == ("#000000", 2.6) or not bold
    assert len(axes.collections) == 1 and axes.get_title() == "t\\$"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "value")
    legend = axes.get_legend()
    assert (legend is None) == (count > 40)
    if legend:
        assert legend._ncols == 1 + count // 25 and len(legend.get_texts()) == count


def test_frames_stand_around_their_cells_and_a_folder_that_cannot_be_made_is_a_message(tmp_path):
    figure, axes = heat_map(
        np.zeros((2, 3)), rows=["a", "b"], columns=["x", "y", "z"], low=0, high=1, label="l"
    )
    mark_cells(axes, [(0, 2)])
    assert [patch.get_bbox().bounds for patch in axes.patches] == [(1.5, -0.5, 1.0, 1.0)] * 2
    (tmp_path / "file").touch()
    with pytest.raises(Exception, match=r"cannot write the figure .*file/a\.png: "):
        save(figure, tmp_path / "file" / "a.png")


# --- attacks --------------------------------------------------------------------------------------------------


@pytest.fixture
def suite(monkeypatch):
    """Give seven samples of three classes that are answered rightly but one, and what attacks are asked for."""
    asked = []
    monkeypatch.setattr(attack_suite, "_BLOCK", 3)
    monkeypatch.setattr(attack_suite, "TARGETS", 2)

    def classifier(images):
        return torch.nn.functional.one_hot(images[:, 0, 0, 0].round().long() % 4, 4) + torch.tensor(
            [0.0, 0.3, 0.2, 0.1]
        )

    def attack(name):
        def do(net, pixels, targets, *, start=None, loss=None, draws=None, **more):
            assert net is classifier
            asked.append((name, targets.tolist(), start is None if draws is None else draws.purpose, more))
            shown = pixels.clone()
            shown[-1] += 1  # the last of a block is deceived
            return shown

        return do

    def start(pixels, epsilon, norm, draws):
        asked.append(("start", draws.index.tolist(), (epsilon, norm), draws.purpose))
        return pixels

    monkeypatch.setattr(attack_suite.attacks, "pgd", attack("pgd"))
    monkeypatch.setattr(attack_suite.attacks, "apgd", attack("apgd"))
    monkeypatch.setattr(attack_suite.attacks, "random_start", start)
    monkeypatch.setattr(attack_suite, "square", attack("square"))
    classes = torch.tensor([0, 1, 2, 3, 0, 1, 2])
    pixels = classes.float().view(7, 1, 1, 1).expand(7, 1, 2, 3).clone()
    pixels[1] = 0.0
    return Suite(classifier, pixels, classes, torch.arange(10, 17), Budget(0.25, "l2", 6, 2, 50)), asked


def test_an_attack_goes_over_the_samples_that_are_still_right_block_by_block(suite):
    suite, asked = suite
    clean = suite.right(suite.pixels)
    assert clean.tolist() == [True, False, True, True, True, True, True]
    assert suite.right(suite.pixels[1:3], torch.tensor([0, 2])).tolist() == [True, True]
    found = suite.gradient(clean)
    more = {"epsilon": 0.25, "norm": "l2", "steps": 6, "step": None}
    assert asked == [
        ("start", [10, 12, 13], (0.25, "l2"), ("pgd", 0)), ("pgd", [0, 2, 3], False, more),
        ("start", [14, 15, 16], (0.25, "l2"), ("pgd", 0)), ("pgd", [0, 1, 2], False, more),
        ("start", [10, 12, 14], (0.25, "l2"), ("pgd", 1)), ("pgd", [0, 2, 0], False, more),
        ("start", [15], (0.25, "l2"), ("pgd", 1)), ("pgd", [1], False, more),
    ]  # fmt: skip
    assert found.tolist() == [True, False, True, False, False, False, False]
    asked.clear()
    suite.gradient(clean, epsilon=0.5, steps=1, length=0.125)
    more = {"epsilon": 0.5, "norm": "l2", "steps": 1, "step": 0.125}
    assert asked == [("pgd", [0, 2, 3], True, more), ("pgd", [0, 1, 2], True, more)]
    asked.clear()
    assert suite.square(clean).tolist() == [True, False, True, False, True, True, False]
    more = {"epsilon": 0.25, "norm": "l2", "queries": 50}
    assert asked == [("square", [0, 2, 3], ("square",), more), ("square", [0, 1, 2], ("square",), more)]


def test_the_strong_attack_goes_for_the_likeliest_other_classes(suite, monkeypatch):
    suite, asked = suite
    losses = []
    monkeypatch.setattr(
        attack_suite.attacks, "targeted_dlr", lambda goal: asked.append(("goal", goal.tolist()))
    )
    monkeypatch.setattr(
        attack_suite.attacks, "apgd",
        lambda net, pixels, targets, *, loss, start, **more: losses.append((loss, targets.tolist(), more)) or pixels,
    )  # fmt: skip
    clean = torch.tensor([True, False, False, True, False, True, False])
    assert suite.apgd(clean).tolist() == clean.tolist()
    more = {"epsilon": 0.25, "norm": "l2", "steps": 30}
    assert losses == [(cross_entropy, [0, 3, 1], more), (None, [0, 3, 1], more), (None, [0, 3, 1], more)]
    # 0 and 3 are answered as they are, the sample of class 1 too: the others by their constant
    assert [one for one in asked if one[0] == "goal"] == [("goal", [1, 1, 2]), ("goal", [2, 2, 3])]
    assert [one[3] for one in asked if one[0] == "start"] == [("apgd", -1), ("apgd", 0), ("apgd", 1)]


def test_the_attacks_that_were_asked_for_are_run(suite):
    suite, asked = suite
    assert list(suite.run(())) == ["clean"] and not asked
    assert list(suite.run(("fgsm",))) == ["clean", "fgsm"]
    assert asked[0] == ("pgd", [0, 2, 3], True, {"epsilon": 0.25, "norm": "l2", "steps": 1, "step": 0.25})
    assert list(suite.run(("pgd",))) == ["clean", "pgd"]
    found = suite.run(("strong",))
    assert list(found) == ["clean", "apgd", "square", "strong"]
    assert found["strong"].tolist() == (found["apgd"] & found["square"]).tolist()


class Fixed(Suite):
    """A suite whose attacks by gradients leave given shares of a hundred samples."""

    def gradient(self, clean, **changed):
        key = tuple(sorted(changed.items()))
        return torch.arange(100) < self.classifier[key]


def fixed(norm="linf", **shares):
    by_gradient = {
        (("length", 0.1), ("steps", 1)): shares.pop("one", 60), (): shares.pop("usual", 50), (("steps", 40),): shares.pop("more", 40),
        (("epsilon", 0.05),): shares.pop("half", 70), (("epsilon", 0.2),): shares.pop("twice", 30),
        (("epsilon", 1.0 if norm == "linf" else 4.0),): shares.pop("whole", 0),
    }  # fmt: skip
    suite = Fixed(by_gradient, torch.zeros(2, 1, 4, 4), torch.zeros(2), torch.zeros(2), Budget(0.1, norm))
    found = {name: torch.arange(100) < share for name, share in shares.items()}
    return suite.checks({"clean": torch.ones(100), **found})


def test_what_must_hold_of_attacks(monkeypatch):
    steps, epsilon = "more steps never help the defender", "a larger epsilon never helps the defender"
    boxes, strong = "a black box never beats a white box", "the strong attack is no weaker than PGD"
    unbounded = "without a bound nothing is left"
    assert fixed() == [
        Check(steps, True, "1 step 0.600, 20 0.500, 40 0.400"),
        Check(epsilon, True, "half 0.700, epsilon 0.500, twice 0.300"),
        Check(unbounded, True, "accuracy 0.000"),
    ]
    assert fixed("l2", fgsm=65, pgd=55, apgd=45, square=48, strong=44) == [
        Check(steps, True, "1 step 0.650, 20 0.550, 40 0.400"),
        Check(epsilon, True, "half 0.700, epsilon 0.550, twice 0.300"),
        Check(boxes, True, "square (black box) 0.480, apgd (white box) 0.450"),
        Check(strong, True, "pgd 0.550, strong 0.440"),
        Check(unbounded, True, "accuracy 0.000"),
    ]
    weak = fixed(one=50, more=52, twice=52, apgd=45, square=43, strong=52, whole=2)
    assert [check.holds for check in weak] == [False] * 5
    assert [check.holds for check in fixed(usual=50, apgd=45, square=45, strong=50)] == [True] * 5
    monkeypatch.setattr(attack_suite, "SLACK", 0.0)
    level = {"one": 50, "more": 50, "half": 50, "twice": 50, "square": 50, "apgd": 50, "strong": 50}
    assert [check.holds for check in fixed(**level)] == [True] * 5


def test_options_that_list_names():
    known = ("a", "b", "c")
    for said, names in (("all", known), ("none", ()), ("c,a,c", ("c", "a"))):
        assert attack_suite.chosen("k", {"k": said}, known) == names
    options = {"epsilon": "0.5", "norm": "linf", "steps": "", "restarts": "2", "queries": "9"}
    assert attack_suite.budget_of(options) == Budget(0.5, "linf", 1000, 2, 9)


def test_means_over_the_runs_of_an_arm():
    def row(arm, condition, accuracy, **more):
        return {"arm": arm, "condition": condition, "accuracy": accuracy, **more}

    table = [
        row("a", "clean", 0.5), row("b", "clean", 0.25), row("a", "fog_1", 0.5, severity=1), row("a", "clean", 0.75),
        row("a", "fog_1", 0.5, severity=1), row("a", "pgd", 0.5), {"arm": "a", "condition": "check: x", "holds": True},
        {"arm": "a", "condition": "check: x", "holds": True},
    ]  # fmt: skip
    assert robustness.over_arms(table) == ["a: clean accuracy 0.625 (95 % over 2 runs 0.000 to 1.000)"]


# --- calibration and errors -----------------------------------------------------------------------------------


def test_all_numbers_of_a_calibration_by_loops(monkeypatch):
    monkeypatch.setattr(calibration, "DRAWS", 40)
    draw = np.random.default_rng(3)
    logits, targets = draw.normal(size=(37, 3)) * 2, draw.integers(3, size=37)
    held = draw.normal(size=(50, 3)) * 2, draw.integers(3, size=50)
    found = calibration.calibration(held, (logits, targets))

    def softmax(temperature):
        exps = [[math.exp(z / temperature) for z in row] for row in logits]
        return np.array([[one / sum(row) for one in row] for row in exps])

    def ece(p):
        total = 0.0
        for k in range(15):
            inside = [i for i in range(37) if k / 15 < max(p[i]) <= (k + 1) / 15]
            total += abs(sum((p[i].argmax() == targets[i]) - max(p[i]) for i in inside))
        return total / 37

    t = calibration.temperature_of(*held)
    p, q = softmax(1.0), softmax(t)
    order = sorted(range(37), key=lambda i: -max(p[i]))
    wrong = [p[i].argmax() != targets[i] for i in order]
    risk = [sum(wrong[:k]) / k for k in range(1, 38)]
    generator, draws = np.random.default_rng(0), []
    for _ in range(40):
        rows = generator.integers(37, size=37)
        places = [math.ceil(15 * p[i].max()) for i in rows]
        gaps = [
            sum(
                (p[i].argmax() == targets[i]) - p[i].max()
                for i, k in zip(rows, places, strict=True)
                if k == bin_
            )
            for bin_ in range(16)
        ]
        draws.append(sum(map(abs, gaps)) / 37)
    assert found.n == 37 and found.accuracy == pytest.approx(1 - sum(wrong) / 37)
    assert (found.ece, found.after) == (pytest.approx(ece(p)), pytest.approx(ece(q)))
    assert found.nll == pytest.approx(-sum(math.log(p[i, targets[i]]) for i in range(37)) / 37)
    assert found.nll_after == pytest.approx(-sum(math.log(q[i, targets[i]]) for i in range(37)) / 37)
    assert found.temperature == t and found.aurc == pytest.approx(sum(risk) / 37)
    assert found.risk_at_80 == pytest.approx(risk[30 - 1])  # round(29.6) of 37
    low, high = calibration.interval(p.max(1), (p.argmax(1) == targets).astype(float))
    assert (low, high) == (pytest.approx(np.quantile(draws, 0.025)), pytest.approx(np.quantile(draws, 0.975)))
    alone = calibration.calibration(held, (logits[:1], targets[:1]))
    assert alone.risk_at_80 == alone.aurc == 1 - alone.accuracy
    assert calibration.bins_of(np.array([0.0, 1 / 15, 0.0667, 0.5, 14 / 15, 0.94, 1.0])).tolist() == [
        0,
        0,
        1,
        7,
        13,
        14,
        14,
    ]


def test_logits_of_what_lies_outside():
    batches = [
        SimpleNamespace(inputs=torch.tensor([[1.0], [2.0]]), mask=None),
        SimpleNamespace(inputs=torch.tensor([[3.0]]), mask=None),
    ]
    network = lambda inputs, mask: 2 * inputs  # noqa: E731
    assert calibration.outside_logits(network, None, batches).tolist() == [[2.0], [4.0], [6.0]]
    assert calibration.outside_logits(network, Binary(), batches).tolist() == [
        [0.0, 2.0],
        [0.0, 4.0],
        [0.0, 6.0],
    ]


def rights(*counts):
    first, second = (
        np.repeat([True, True, False, False], counts),
        np.repeat([True, False, True, False], counts),
    )
    return first, second


def test_every_number_of_two_networks_errors():
    first, second = rights(7, 3, 2, 4)
    found = errors_consistency.error_consistency(first, second, level=0.9, resamples=300, seed=4)
    assert (found.n, found.accuracies) == (16, (10 / 16, 9 / 16))
    expected = (10 * 9 + 6 * 7) / 256
    assert (found.observed, found.expected) == (11 / 16, pytest.approx(expected))
    kappa = (11 / 16 - expected) / (1 - expected)
    drawn = np.random.default_rng(4).multinomial(16, np.array([7, 3, 2, 4]) / 16, size=300) / 16
    kappas = []
    for a, b, c, d in drawn:
        chance = (a + b) * (a + c) + (c + d) * (b + d)
        if chance < 1:
            kappas.append((a + d - chance) / (1 - chance))
    assert found.kappa == pytest.approx(kappa)
    assert found.bootstrap == pytest.approx((np.quantile(kappas, 0.05), np.quantile(kappas, 0.95)))
    half = 1.6448536 * found.standard_error
    assert found.analytic == pytest.approx((kappa - half, kappa + half))
    sure = errors_consistency.error_consistency(*rights(5, 0, 0, 1))
    assert (
        sure.kappa == pytest.approx(1)
        and sure.analytic[1] == pytest.approx(1)
        and sure.bootstrap[1] == pytest.approx(1)
    )
    opposed = errors_consistency.error_consistency(*rights(0, 2, 2, 1))
    assert opposed.analytic[0] == -1.0 and opposed.analytic[1] < 1
    flat = errors_consistency._flat(found)
    assert (flat["accuracy_first"], flat["accuracy_second"], flat["analytic_low"], flat["bootstrap_high"]) == (
        10 / 16, 9 / 16, found.analytic[0], found.bootstrap[1],
    )  # fmt: skip


@pytest.mark.parametrize(
    "wrong", [(np.ones((2, 2)), np.ones((2, 2))), (np.ones(0), np.ones(0)), (np.ones(2), np.ones(3))]
)
def test_errors_are_two_lists_of_equal_length(wrong):
    with pytest.raises(Exception, match="equal length"):
        errors_consistency.error_consistency(*wrong)


def test_kappas_of_arms_are_of_one_seed_or_of_one_run_against_all(monkeypatch):
    """Two arms of two seeds, in the order of their identities, and a guide of one run."""
    order = [("b", 0), ("a", 1), ("a", 0), ("guide", 7), ("b", 1)]
    subjects = [SimpleNamespace(label=f"{arm}{seed}", arm=arm, seed=seed) for arm, seed in order]
    draw = np.random.default_rng(0)
    given = {
        one.label: errors_consistency.Answers(draw.random(60) < 0.6, np.ones(60, bool), np.arange(60))
        for one in subjects
    }
    monkeypatch.setattr(
        errors_consistency,
        "opened",
        lambda subject, request: (subject.label, SimpleNamespace(task=None), None),
    )
    monkeypatch.setattr(errors_consistency, "answers", lambda label, task, batches: given[label])
    monkeypatch.setattr(errors_consistency, "draw", lambda pairs, path, groups: (list(pairs), groups))
    said, record, rows, paint = errors_consistency.outcome(SimpleNamespace(subjects=subjects))
    kappa = {(row["first"], row["second"]): row["kappa"] for row in rows}
    assert list(kappa) == list(itertools.combinations(("b0", "a1", "a0", "guide7", "b1"), 2))
    over = {(one["first"], one["second"]): (one["mean"], one["n"]) for one in record["arms"]}
    assert over == {
        ("b", "a"): (pytest.approx((kappa["b0", "a0"] + kappa["a1", "b1"]) / 2), 2),
        ("b", "guide"): (pytest.approx((kappa["b0", "guide7"] + kappa["guide7", "b1"]) / 2), 2),
        ("a", "guide"): (pytest.approx((kappa["a1", "guide7"] + kappa["a0", "guide7"]) / 2), 2),
    }
    assert [line.partition(":")[0] for line in said[10:]] == [
        "b | a, runs of one seed", "b | guide, one run against each seed", "a | guide, one run against each seed",
    ]  # fmt: skip
    assert said[0].startswith(f"b0 | a1: kappa {kappa['b0', 'a1']:.3f}, 95 % over samples ")
    assert paint("x") == (list(kappa), {"b": ["b0", "b1"], "a": ["a0", "a1"], "guide": ["guide7"]})


# --- gaps, signal and the rule ----------------------------------------------------------------------------------


def gap(arm, seed, train, test, **more):
    return Gap(arm, f"{arm}/{seed}", seed, "accuracy", "max", train, 0.5, test, **more)


def test_the_direction_of_a_gap_and_its_lines(monkeypatch):
    assert gap("a", 0, 0.75, 0.5).gap == 0.25
    result = {
        "selection": {"monitor": "accuracy", "mode": "max"},
        "best": {"validation": {"accuracy": 0.5}, "test": {"accuracy": 0.25}},
    }
    runs = iter([(0.75, 0.5), (1.0, 0.75), (0.5, 0.5)])
    monkeypatch.setattr(
        overfitting,
        "opened",
        lambda subject, request, split: (SimpleNamespace(network=None), SimpleNamespace(task=None), split),
    )
    monkeypatch.setattr(overfitting, "evaluate_network", lambda *given: {"accuracy": next(runs)[0]})
    monkeypatch.setattr(overfitting, "_elsewhere", lambda *given: {"accuracy": 0.125})
    subjects = [
        SimpleNamespace(
            role="",
            arm=arm,
            seed=seed,
            label=f"{arm}{seed}",
            run=SimpleNamespace(key=f"{arm}/{seed}", result=result),
        )
        for arm, seed in (("a", 0), ("a", 1), ("b", 0))
    ]
    request = SimpleNamespace(subjects=subjects, options={"device": "cpu", "other": "more"})
    said, record, rows, _ = overfitting.outcome(request)
    assert said == [
        "a: accuracy train 0.875, validation 0.500, test 0.250, more 0.125; gap 0.625 (95 % over 2 runs -0.963 to 1.000)",
        "b: accuracy train 0.500, validation 0.500, test 0.250, more 0.125; gap 0.250",
    ]
    assert (record, [row["gap"] for row in rows]) == ({}, [0.5, 0.75, 0.25])


@pytest.mark.parametrize(("ratio", "chance", "said"), [
    (-1.0, 0.0, "does not train alone within a few hundred updates, the rule says (0% that it does); gradients are 1e+30 times smaller"),
    (0.0, 0.0, "does not train alone within a few hundred updates, the rule says (0% that it does); gradients are 1e+30 times smaller"),
    (0.05, None, "whether it trains alone the rule does not know: it was calibrated on gradients that grow towards the first layer; "
     "gradients are 20 times smaller"),
    (0.1, 1.0, "trains alone, the rule says (100%); gradients are 10 times smaller"),
    (1.0, 0.99999, "trains alone, the rule says (100%); gradients are 1 times larger"),
    (20.0, 0.7802, "at the border: it trains alone with 78%, the rule says; gradients are 20 times larger"),
    (50.0, 0.1447, "does not train alone within a few hundred updates, the rule says (14% that it does); gradients are 50 times larger"),
    (1e200, 0.0, "does not train alone within a few hundred updates, the rule says (0% that it does); gradients are 1e+200 times larger"),
])  # fmt: skip
@pytest.mark.parametrize("correlation", [0.999, 0.9991])
def test_the_verdict_of_a_gradient_ratio(ratio, chance, said, correlation):
    found = trainability.verdict(SimpleNamespace(gradient_ratio=ratio, correlation=correlation))
    blind = " Its last layer is given nearly the same for every sample." if correlation > 0.999 else ""
    assert found.probability == (None if chance is None else pytest.approx(chance, abs=2e-4))
    assert found.sentence == f"{said} at the first layer than at the last.{blind}"


def test_a_probability_at_the_ends_of_the_words(monkeypatch):
    for chance, begins in (
        (0.8, "trains alone, "),
        (0.79, "at the border: "),
        (0.21, "at the border: "),
        (0.2, "does not train"),
    ):
        monkeypatch.setattr(trainability, "probability", lambda ratio, chance=chance: chance)
        assert trainability.verdict(SimpleNamespace(gradient_ratio=2.0, correlation=0.0)).sentence.startswith(
            begins
        )


@pytest.mark.parametrize(
    ("ratio", "begins"),
    [(0.09, ""), (0.1, "cost 25 of 27"), (10.0, "cost 25 of 27"), (10.1, "helped 31 of 33")],
)
def test_what_the_diagram_says_of_a_guide(ratio, begins):
    assert trainability.guide_sentence(ratio).partition("guide ")[2].startswith(begins)
    assert bool(trainability.guide_sentence(ratio)) == bool(begins)


def layer(gradient=1.0, agreement=0.0, rank=1.0, dead=0.0, correlation=0.0):
    return signal.LayerSignal("l", "linear", (3,), 1.0, correlation, rank, dead, gradient, agreement)


def test_what_a_signal_says_over_its_layers():
    layers = [layer(6.0, 0.5, 8.0, 1.0), layer(3.0, 0.125, 4.0, 0.25), layer(1.5, 0.25, 2.0, 0.125, 0.75)]
    found = signal.Signal(tuple(layers), 1.0, 16.0)
    assert (found.gradient_ratio, found.agreement, found.rank_left, found.correlation, found.dead) == (
        4.0,
        0.25,
        0.125,
        0.75,
        0.25,
    )
    assert signal.Signal(tuple(layers[:2]), 1.0, 16.0).agreement == 0.3125
    alone = signal.Signal((layer(0.0, 0.5, 3.0, 1.0),), 1.0, 0.0)
    assert (alone.dead, alone.gradient_ratio, alone.agreement) == (0.0, 0.0, 0.5) and alone.rank_left > 1e29


def test_shares_cosines_and_lengths_by_loops():
    rows = torch.tensor([[1.0, 2.0, 0.0, 5.0], [3.0, 2.0, 0.0, 5.0], [0.5, 2.0, 1.0, 5.0]])
    assert signal.dead_share(rows) == 0.5
    vectors = [torch.tensor([3.0, 4.0]), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0])]
    assert signal._agreement(vectors) == pytest.approx((0.6 + 0 + 0) / 3)
    assert signal._rms(torch.tensor([[1.0, 2.0], [2.0, 4.0]])) == 2.5
    one = torch.tensor([[0.0, 0.0], [3.0, 4.0], [4.0, 3.0]])
    assert signal.mean_cosine(one) == pytest.approx((1 + 1 + 0.96) / 3)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    padded = torch.arange(12.0).reshape(2, 3, 2)
    assert signal.rows_of(padded, mask).tolist() == [[0, 1, 2, 3, 0, 0], [6, 7, 0, 0, 0, 0]]
    assert signal.rows_of(padded[:, :2], mask).tolist() == [[0, 1, 2, 3], [6, 7, 8, 9]]
    assert signal.rows_of(padded[:, :, 0], mask).tolist() == [[0, 2, 4], [6, 8, 10]]
    assert signal._few(padded, None).tolist() == padded.flatten(1).tolist()
    many = torch.ones(65, 2)
    assert signal._few(many, None).shape == (64, 2) and signal._few(
        many[:, None].expand(65, 3, 2), torch.ones(65, 3) > 0
    ).shape == (64, 6)


def test_a_rank_is_nothing_where_only_rounding_is_left():
    base = torch.full((4, 2), 8.0)
    base[0, 0] += (
        8 * 0.8e-7 * 4 / 3
    )  # just below a ten millionth of the values, after centring: float32 has steps of 9.5e-7
    assert signal.participation_ratio(base) == 0.0
    base[0, 0] = 8.0 + 9.6e-6
    assert signal.participation_ratio(base) == pytest.approx(1.0)


# --- Gram matrices ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padded", [False, True])
def test_blocks_of_gram_matrices_are_those_of_all_samples_at_once(padded):
    features = 4 + torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    parts = [slice(0, 2), slice(2, 5), slice(5, 7)]
    blocks = GramBlocks(["a"], 7, torch.device("cpu"))
    blocks.mask = torch.ones(2, 3, dtype=torch.bool) if padded else None
    assert not blocks.framed
    for i, rows in enumerate(parts):
        for columns in parts[i:]:
            blocks.rows, blocks.columns = rows, columns
            blocks.take("a", features[columns])
        blocks.put(rows, blocks.filled())
    assert blocks.framed and blocks.widths == {"a": 3}
    shift = 0 if padded else features[:2].mean(0)
    shown = (features - shift) / features[:2].abs().max()
    torch.testing.assert_close(blocks.grams["a"], shown @ shown.T)
    gram = shown.double() @ shown.double().T
    centring = torch.eye(7) - torch.ones(7, 7) / 7
    other = blocks.grams["a"].clone()
    found = blocks.centred("a")
    torch.testing.assert_close(
        found.gram.double(), centring.double() @ gram @ centring.double(), atol=1e-5, rtol=1e-4
    )
    assert not blocks.grams
    blocks.grams["a"] = other
    unit, slow = blocks.unit("a"), torch.zeros(7, 7, dtype=torch.float64)
    for i, j in itertools.product(range(7), range(7)):
        if i != j:
            row = sum(gram[i, k] for k in range(7) if k != i) / 5
            column = sum(gram[k, j] for k in range(7) if k != j) / 5
            total = sum(gram[k, m] for k in range(7) for m in range(7) if k != m) / 30
            slow[i, j] = gram[i, j] - row - column + total
    torch.testing.assert_close(unit.double(), slow / slow.norm(), atol=1e-5, rtol=1e-4)


def test_a_width_is_the_smaller_of_two_paddings_and_a_layer_of_zeros_has_no_shape():
    blocks = GramBlocks(["a"], 4, torch.device("cpu"))
    blocks.mask = torch.ones(2, 3, dtype=torch.bool)
    blocks.rows = blocks.columns = slice(0, 2)
    blocks.take("a", torch.tensor([[2.0, 0.0, 1.0], [1.0, 1.0, 0.0]]))
    blocks.columns = slice(2, 4)
    blocks.take("a", torch.tensor([[4.0, 2.0], [0.0, 2.0]]))
    assert blocks.grams["a"][:2, 2:].tolist() == [[2.0, 0.0], [1.5, 0.5]] and blocks.widths == {"a": 3}
    blocks.put(slice(0, 2), {"a": (torch.arange(8.0).reshape(2, 4), 5)})
    assert blocks.grams["a"][2:, :2].tolist() == [[2, 6], [3, 7]] and blocks.widths == {"a": 5}
    flat = GramBlocks(["a", "b"], 5, torch.device("cpu"))
    flat.rows = flat.columns = slice(0, 5)
    for name in "ab":
        flat.take(name, torch.zeros(5, 2))
    assert flat.centred("a").gram.abs().max() == 0 and flat.unit("b").isnan().all()


def test_a_network_without_a_layer_to_look_at_has_no_signal():
    one = SimpleNamespace(inputs=torch.ones(2, 3), mask=None)
    with pytest.raises(Exception, match="at least two batches of at least two samples"):
        signal.signal(nn.Identity(), None, [one])
    with pytest.raises(
        Exception, match="Identity has no layer to look at: expected modules of the kinds conv, linear"
    ):
        signal.signal(nn.Identity(), None, [one, one])


@pytest.mark.parametrize("diverging", [True, False])
def test_numbers_are_white_on_dark_cells_and_black_on_light_ones(diverging):
    import matplotlib

    from tutelage.reporting.palette import DIVERGING, RAMP

    values = np.linspace(-2.0, 3.0, 14 * 14).reshape(14, 14)
    names = [str(place) for place in range(14)]
    _, axes = heat_map(values, rows=names, columns=names, low=-2.0, high=3.0, label="l", diverging=diverging)
    colours = matplotlib.colormaps[DIVERGING if diverging else RAMP]
    for text in axes.texts:
        column, row = text.get_position()
        red, green, blue, _ = colours((values[row, column] + 2) / 5)
        light = sum(share * part for share, part in ((0.299, red), (0.587, green), (0.114, blue)))
        assert text.get_color() == ("white" if light < 0.5 else "black")
    assert len({text.get_color() for text in axes.texts}) == 2
