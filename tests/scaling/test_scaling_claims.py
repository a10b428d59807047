"""What claims ask of results and what verdicts make of numbers: made-up points, every bound on both sides."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from tutelage.errors import UserError
from tutelage.scaling import claims, figures, measure_command, verdicts
from tutelage.scaling.claims import Case
from tutelage.scaling.critical_samples import Estimate
from tutelage.scaling.phase_diagram import PhaseDiagram, plot_phase_diagram
from tutelage.scaling.verdicts import Specialised


def case(**more):
    return Case("mine", None, {"planned": 1.5, "scales": {"N": 2}, **more}, ())


def point(experiment="mine", **sizes):
    return {"experiment": experiment, "sizes": sizes}


def estimate(value, low=None, high=None):
    low, high = value if low is None else low, value if high is None else high
    return Estimate(value, low, high, np.array([low, value, high]))


@pytest.fixture
def asked(monkeypatch):
    """Give what verdicts are asked for, in order: a line for each result that is taken."""
    seen = []

    def note(name):
        def do(results, experiment, **more):
            shown = {
                key: [r["sizes"] for r in results if value(r)] if key in ("base", "other") else value
                for key, value in more.items()
            }
            taken = [] if name == "ratio" else [r["sizes"] for r in results]
            seen.append((name, experiment, taken, shown))
            return [name]

        return do

    for name in ("power_law", "ratio", "specialisation", "collapse"):
        monkeypatch.setattr(verdicts, name, note(name))
    return seen


def test_what_claims_ask_for(asked):
    results = [point(d=8, s=0), point(d=8, s=2), point(d=16, s=0), point("other", d=8, s=2), point(d=16, s=1)]
    own = [one["sizes"] for one in results if one["experiment"] == "mine"]
    by_size = sorted(own, key=lambda sizes: list(sizes.values()))
    assert claims.exponent(case(), results, size="d") == ["power_law"]
    assert asked.pop() == (
        "power_law",
        "mine",
        by_size,
        {"size": "d", "predicted": 1.5, "quantity": "exponent of P* in d"},
    )
    assert claims.exponent(case(), results, size="d", each="s", predicted="3/4") == ["power_law"] * 3
    assert [(taken, more["quantity"], more["predicted"]) for _, _, taken, more in asked] == [
        ([{"d": 8, "s": 0}, {"d": 16, "s": 0}], "exponent of P* in d at s = 0", 0.75),
        ([{"d": 16, "s": 1}], "exponent of P* in d at s = 1", 0.75), ([{"d": 8, "s": 2}], "exponent of P* in d at s = 2", 0.75),
    ]  # fmt: skip
    asked.clear()
    assert claims.arms(case(), results, size="s", base=0, quantity="at {}", predicted=2) == ["ratio"] * 2
    base = [{"d": 8, "s": 0}, {"d": 16, "s": 0}]
    assert [more for _, _, _, more in asked] == [
        {"base": base, "other": [{"d": 16, "s": 1}], "quantity": "at 1", "predicted": 2.0},
        {"base": base, "other": [{"d": 8, "s": 2}], "quantity": "at 2", "predicted": 2.0},
    ]  # fmt: skip
    asked.clear()
    for given, expected in ((None, None), ("1/2", 0.5), (3, 3.0)):
        claims.ratio(case(), results, to="other", quantity="q", predicted=given)
        more = {"base": [{"d": 8, "s": 2}], "other": own, "quantity": "q", "predicted": expected}
        assert asked.pop() == ("ratio", "mine", [], more)
    claims.specialised_neurons(case(), results, width="s", predicted="1/2")
    assert asked.pop()[3] == {"width": "s", "predicted": 0.5}
    claims.specialised_neurons(case(planned=None), results, width="d", predicted=None)
    assert asked.pop()[3] == {"width": "d", "predicted": 0.0}
    assert claims.collapse(case(planned=None), results) == [] and not asked
    claims.collapse(case(), results, label="mine")
    name, _, _, more = asked.pop()
    assert (name, more["quantity"]) == ("collapse", "collapse against P / d^1.5") and more["scale"](
        {"d": 4}
    ) == 8.0


@pytest.mark.parametrize(("predicted", "low", "high", "said"), [
    (None, 0, 9, ""), (1.0, 0.9, 1.5, "agrees"), (1.0, 0.9, 1.51, "undecided"), (1.0, math.nan, math.nan, "undecided"),
    (1.0, 1.1, 1.2, "agrees"), (1.0, 1.11, 1.2, "disagrees"), (1.0, 0.5, 0.9, "agrees"), (1.0, 0.5, 0.89, "disagrees"),
])  # fmt: skip
def test_an_interval_beside_a_prediction(predicted, low, high, said):
    assert verdicts.judge(predicted, estimate(1.0, low, high), widest=0.6 + 1e-9) == said


@pytest.mark.parametrize(("measured", "predicted", "said"), [
    ((2.0, 1.5, 2.5), 2.4, "agrees"), ((2.0, 1.5, 2.5), 2.6, "disagrees"), ((2.0, 1.5, 2.5), 1.4, "disagrees"), ((2.0, 1.5, 2.5), None, ""),
    ((2.0, math.nan, math.nan), 2.0, "undecided"),
])  # fmt: skip
def test_a_ratio_of_two_arms_at_the_sizes_that_both_have(monkeypatch, measured, predicted, said):
    """One arm needs so many times the samples of the other."""
    value, low, high = measured

    def found(results):
        if results[0]["experiment"] == "base":
            return [(point("base", d=d), estimate(float(d))) for d in (4, 8, 16)]
        return [
            (point(d=d), Estimate(value * d, low * d, high * d, np.array([low * d, value * d, high * d])))
            for d in (8, 16, 32)
        ]

    monkeypatch.setattr(verdicts, "critical", found)
    monkeypatch.setattr(
        verdicts.Estimate, "of", classmethod(lambda cls, value, resamples: cls(value, low, high, resamples))
    )
    (row,) = verdicts.ratio(
        [point("base"), point()], "mine", base=lambda r: r["experiment"] == "base", other=lambda r: r["experiment"] == "mine",
        quantity="q", predicted=predicted,
    )  # fmt: skip
    assert (row.measured.value, row.verdict, row.sizes, row.predicted) == (
        pytest.approx(value),
        said,
        "d 8 to 16",
        predicted,
    )
    monkeypatch.setattr(verdicts, "critical", lambda results: [])
    assert verdicts.ratio([point()], "mine", base=lambda r: True, other=lambda r: True, quantity="q") == []


def test_counts_of_specialised_neurons_and_their_exponent(monkeypatch):
    counts = {64: 2.0, 128: 4.0, 256: 8.0, 512: None, 32: 1.0}

    def of(result):
        count = counts[result["sizes"]["N"]]
        return None if count is None else Specialised(estimate(count), 0.5, f"n{count:g}")

    monkeypatch.setattr(verdicts, "specialised", of)
    monkeypatch.setattr(verdicts, "exponent", lambda sizes, found: estimate(len(sizes) / 3, 0.9, 1.1))
    results = [point(d=16, N=n) for n in (64, 128, 256, 512)] + [
        point(d=32, N=32),
        point(d=32, N=64),
        point("other", d=32, N=128),
    ]
    rows = verdicts.specialisation(results, "mine", width="N", predicted=1.0)
    assert [(row.quantity, row.predicted, row.measured and row.measured.value, row.sizes, row.verdict, row.note) for row in rows] == [
        ("specialised neurons", None, 2.0, "d 16, N/d 4", "", "n2"), ("specialised neurons", None, 4.0, "d 16, N/d 8", "", "n4"),
        ("specialised neurons", None, 8.0, "d 16, N/d 16", "", "n8"),
        ("exponent of specialised neurons in N", 1.0, 1.0, "d 16, N 64 to 256", "agrees", "a single mode at N/d = 32"),
        ("specialised neurons", None, 1.0, "d 32, N/d 1", "", "n1"), ("specialised neurons", None, 2.0, "d 32, N/d 2", "", "n2"),
        ("exponent of specialised neurons in N", 1.0, None, "d 32", "undecided", "too few widths"),
    ]  # fmt: skip


@pytest.mark.parametrize("crossing", [2, 3, 4, 5])
def test_a_power_is_of_all_sizes_and_of_the_larger_half_of_five(monkeypatch, crossing):
    monkeypatch.setattr(
        verdicts,
        "critical",
        lambda own: [(one, estimate(float(one["sizes"]["d"]))) for one in own[:crossing]],
    )
    monkeypatch.setattr(verdicts, "exponent", lambda sizes, found: estimate(sum(sizes)))
    results = [point(d=2**k) for k in (6, 5, 4, 3, 2, 1)]
    rows = verdicts.power_law(results, "mine", size="d", predicted=None, quantity="q")
    note = f"{6 - crossing} of 6 sizes never cross 0.5"
    if crossing < 3:
        assert [(row.measured, row.verdict, row.note) for row in rows] == [(None, "undecided", note)]
        return
    whole = [2**k for k in range(1, crossing + 1)]
    expected = [("q", sum(whole), f"d 2 to {whole[-1]}", note)]
    if crossing == 5:
        expected.append(("q, larger half", 8 + 16 + 32, "d 8 to 32", note))
    assert [(row.quantity, row.measured.value, row.sizes, row.note) for row in rows] == expected


def test_neurons_above_the_threshold_by_draws(monkeypatch):
    overlaps = np.array([[0.9, -0.8, 0.1], [0.6, 0.1, 0.1], [0.5, 0.0, 0.2], [0.7, 0.95, -0.99]])
    result = {
        "overlaps": {"weight": overlaps.ravel().tolist()},
        "overlap_networks": 4,
        "settings": {"draws": 2},
    }
    found = SimpleNamespace(threshold=0.55, sensitivity={0.7: 1.25, 1.3: 0.5, 1.0: 1.0})
    monkeypatch.setattr(
        verdicts,
        "specialised_neurons",
        lambda given, networks: found if np.array_equal(given, overlaps) and networks == 4 else None,
    )
    seen = verdicts.specialised(result)
    assert (
        seen.count.value == 1.5
    )  # 2, 1, 0 and 3 of each: the first and third are one draw's, 1; the others 2
    assert (seen.count.low, seen.count.high) == (1.0, 2.0) and seen.threshold == 0.55
    assert seen.note == "threshold 0.55; 0.5 to 1.2 for thresholds 0.7 to 1.3 times it"
    found.threshold = math.inf
    assert (
        verdicts.specialised(result)
        is None
        is verdicts.specialised(result, layer="other")
        is verdicts.specialised({})
    )


# --- the command --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "said", "mistake"),
    [(UserError("wrong"), "wrong", True), (RuntimeError("broken\nmore"), "RuntimeError: broken", False)],
)
def test_a_job_whose_words_are_wrong_is_noted(monkeypatch, error, said, mistake):
    noted = []
    jobs = SimpleNamespace(note=lambda *given, **more: noted.append((given, more)))

    def fails(words):
        raise error

    found = measure_command._job(jobs, SimpleNamespace(compose=fails), ["a=1", "b=2"])
    assert math.isnan(found)
    (((key, outcome, *rest), more),) = noted
    assert (key, str(outcome), rest, more) == (
        "a=1 b=2",
        "failed",
        [said, mistake],
        {"words": ["a=1", "b=2"]},
    )
    monkeypatch.setattr(measure_command, "points_of", lambda config: config)
    monkeypatch.setattr(
        measure_command, "do_points", lambda jobs, points, words: [0.5, 0.25, 0.75] if points == "p" else []
    )
    assert measure_command._job(jobs, SimpleNamespace(compose=lambda words: "p"), []) == 0.5


def test_what_a_report_is_of(monkeypatch, tmp_path):
    finished = []
    monkeypatch.setattr(
        measure_command, "finish", lambda request, results, root: finished.append((results, root)) or 7
    )
    monkeypatch.setattr(measure_command, "case_names", lambda: ["mine"])
    monkeypatch.setattr(
        measure_command, "points_of", lambda config: [("p", {"runs_dir": "r", "case": config})]
    )
    monkeypatch.setattr("tutelage.scaling.stored.read_results", lambda path: [str(path)])
    monkeypatch.setattr(
        "tutelage.scaling.stored.results_of",
        lambda configs: ([one["case"] for one in configs if one["case"] != "none"], []),
    )

    def asking(*cases, overrides=(), layers=(), config=str, settings=()):
        return SimpleNamespace(
            cases=cases, overrides=overrides, layers=layers, config=config, settings=settings
        )

    assert measure_command.report(asking("mine")) == 7 and finished.pop() == (["mine"], "r")
    measure_command.report(asking("mine", str(tmp_path)))
    assert finished.pop() == ([str(tmp_path), "mine"], "r")
    measure_command.report(asking("any", layers=["dense:N"]))
    assert finished.pop() == (["any"], "r")
    measure_command.report(asking(str(tmp_path)))
    assert finished.pop() == ([str(tmp_path)], "runs")
    for request, said in (
        (asking(str(tmp_path), overrides=["d=3"]), f"the results under {tmp_path} are as they are: d=3 cannot change them"),
        (asking("mint"), "there is no case or folder 'mint'; did you mean 'mine'? Known: mine"),
        (asking("mine", config=lambda what: "none"), "nothing of mine is stored in r: run `tutelage scale measure mine` first"),
        (asking("x", layers=["dense:N"], config=lambda what: "none", settings=["N=1"]),
         "nothing of dense:N is stored in r: run `tutelage scale measure dense:N N=1` first"),
    ):  # fmt: skip
        with pytest.raises(UserError) as error:
            measure_command.report(request)
        assert str(error.value) == said


@pytest.mark.parametrize(("exponents", "ties", "hatched", "lines"), [
    ([[1.0, 1.0], [1.0, 1.0]], [[1, 1], [1, 1]], False, 0), ([[1.0, 1.0], [1.0, 2.0]], [[1, 1], [1, 1]], False, 1),
    ([[1.0, 1.0], [1.0, 1.0]], [[1, 1], [1, 2]], True, 0),
])  # fmt: skip
def test_ties_are_hatched_and_contours_drawn_where_exponents_differ(exponents, ties, hatched, lines):
    from matplotlib.figure import Figure

    x = y = np.array([0.0, 1.0])
    diagram = PhaseDiagram(
        "N1", "N2", x, y, ("a", "b", "c"), np.array([[0, 0], [2, 2]]), np.array(ties), np.array(exponents)
    )
    axes, asked = Figure().subplots(), []
    for name in ("contour", "contourf"):
        draw = getattr(axes, name)
        setattr(
            axes,
            name,
            lambda *given, draw=draw, name=name, **more: asked.append(name) or draw(*given, **more),
        )
    plot_phase_diagram(diagram, axes)
    assert asked == ["contourf"] * hatched + ["contour"] * lines
    shown = [text.get_text() for text in axes.get_legend().get_texts()]
    assert shown == ["a", "c"] + ["patterns tie"] * hatched
    assert axes.collections[0].get_array().ravel().tolist() == [0, 0, 1, 1] and axes.collections[
        0
    ].get_clim() == (-0.5, 1.5)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("log N1 / log d", "log N2 / log d")


@pytest.mark.parametrize("place", [0, 2, 9])
def test_critical_samples_stand_beside_each_other_with_their_predicted_power(monkeypatch, place):
    from matplotlib.figure import Figure

    found = [(point(d=4, N=2), estimate(20.0, 18.0, 23.0)), (point(d=16, N=2), estimate(45.0, 44.0, 50.0))]
    monkeypatch.setattr(figures, "critical", lambda results: found if results else [])
    axes = Figure().subplots()
    figures.draw_critical(axes, found, size="d", predicted=0.5, label="measured", place=place)
    measured, power = axes.lines[0], axes.lines[-1]
    assert measured.get_xdata() == pytest.approx(
        [4 * 1.02**place, 16 * 1.02**place]
    ) and measured.get_ydata().tolist() == [20, 45]
    bars = [segment.tolist() for segment in axes.collections[0].get_segments()]
    ends = [[4, 18.0, 23.0], [16, 44.0, 50.0]]
    assert bars == [
        [[pytest.approx(d * 1.02**place), low], [pytest.approx(d * 1.02**place), high]]
        for d, low, high in ends
    ]
    middle = math.sqrt(20 * 45) / (4 * 16) ** 0.25  # in logarithms
    assert power.get_ydata() == pytest.approx([2 * middle, 4 * middle]) and power.get_xdata().tolist() == [
        4,
        16,
    ]
    assert power.get_label() == "predicted: d^0.5" and power.get_color() == figures.PALETTE[place % 8]
    assert measured.get_marker() == figures._MARKERS[place % len(figures._MARKERS)]
    bare = Figure().subplots()
    figures.draw_critical(bare, [], size="d", predicted=0.5)
    assert not bare.lines
    figures.draw_critical(bare, found, size="d", predicted=None)
    assert len(bare.lines) == 1 and bare.get_xlabel() == "size d"


def test_curves_have_the_error_of_their_draws():
    from matplotlib.figure import Figure

    results = [
        {
            "experiment": "mine",
            "sizes": {"d": 4, "N": 2},
            "samples": [8, 16],
            "alignment": [[0.25, 0.75], [0.5, 1.0]],
        },
        {"experiment": "mine", "sizes": {"d": 8, "N": 2}, "samples": [8, 32], "alignment": [[0.25], [0.5]]},
    ]
    axes = Figure().subplots()
    figures.draw_curves(axes, results, unit=lambda sizes: sizes["d"], names=("d", "N"))
    first, second = axes.containers
    assert [one.get_label() for one in axes.containers] == ["d = 4, N = 2", "d = 8, N = 2"]
    assert first[0].get_xydata().tolist() == [[2, 0.5], [4, 0.75]] and second[0].get_xydata().tolist() == [
        [1, 0.25],
        [4, 0.5],
    ]
    error = 0.5 / math.sqrt(2) / math.sqrt(2)
    assert [segment[:, 1].tolist() for segment in first[2][0].get_segments()] == [
        [pytest.approx(m - error), pytest.approx(m + error)] for m in (0.5, 0.75)
    ]
    assert not second[2] and [one[0].get_marker() for one in axes.containers] == list(figures._MARKERS[:2])
