"""Verdicts on synthetic results whose exponents, collapse and counts are known; seeds put together; tables and figures."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from tutelage.errors import UserError
from tutelage.scaling import summary, verdicts
from tutelage.scaling.critical_samples import Estimate, critical_samples


def synthetic(experiment, sizes, critical, *, draws=8, seed=0, **extra):
    rng = np.random.default_rng(seed)
    grid = np.unique(np.round(critical * np.geomspace(0.3, 4, 8)))
    clean = 1 / (1 + (critical / grid) ** 2)
    return {
        "experiment": experiment,
        "name": "-".join(map(str, sizes.values())),
        "sizes": sizes,
        "samples": grid.tolist(),
        "alignment": (clean[:, None] + 0.03 * rng.normal(size=(len(grid), draws))).tolist(),
        "drift": np.zeros((len(grid), draws)).tolist(),
        "settings": {"draws": draws, "steps": 1, "step_size": 0.01, "seed": seed},
        "seconds": 1.0,
        "device": "cpu",
        **extra,
    }


def test_verdicts_on_synthetic_results():
    results = [synthetic("two_layer", {"d": d, "N": d}, 8 * d, seed=d) for d in (8, 16, 32, 64)]
    results += [synthetic("convolution", {"d": d, "C": 1}, 8 * d**1.4, seed=d) for d in (16, 36, 64, 100)]
    results += [
        synthetic("attention", {"d": d, "L": context}, 2 * (context * d**3) ** 0.5, seed=d + context)
        for d in (8, 16, 32)
        for context in (2, 4, 8)
    ]
    results += [synthetic("guided", {"d": 16, "N": 32, "strength": s}, 300 / (1 + s), seed=s) for s in (0, 1)]
    found = {(v.experiment, v.quantity): v for v in summary.verdicts(results)}
    assert found["two_layer", "exponent of P* in d"].verdict == "agrees"
    assert found["two_layer", "collapse against P / d^1"].verdict == "agrees"
    assert found["convolution", "exponent of P* in d"].predicted == 0.75
    assert found["convolution", "exponent of P* in d"].verdict == "disagrees"
    assert found["convolution", "collapse against P / d^0.75"].verdict == "disagrees"
    for name, power in (("d", 1.5), ("L", 0.5)):
        verdict = found["attention", f"exponent of P* in {name}"]
        assert (verdict.predicted, verdict.verdict) == (power, "agrees")
    guided = found["guided", "P* guided (1 nats a point) over unguided"]
    assert guided.measured.value == pytest.approx(0.5, abs=0.06)
    assert guided.verdict == "disagrees"  # with the prediction that guidance changes nothing


def test_specialised_neurons_get_an_exponent_in_the_width():
    rng = np.random.default_rng(0)
    results = []
    for width, count in ((64, 2), (256, 4), (1024, 8)):
        overlaps = rng.normal(0, 0.08, (40, width))
        overlaps[:, :count] = rng.normal(1.0, 0.05, (40, count))
        own = {"overlaps": {"weight": overlaps.ravel().tolist()}, "overlap_networks": 40}
        results.append(synthetic("two_layer_width", {"d": 32, "N": width}, 300.0, **own))
    rows = verdicts.specialisation(results, "two_layer_width", width="N", predicted=0.5)
    assert [round(row.measured.value) for row in rows[:3]] == [2, 4, 8]
    assert rows[3].measured.value == pytest.approx(0.5, abs=0.02)
    assert rows[3].verdict == "agrees"
    assert "thresholds 0.7 to 1.3" in rows[0].note
    *_, few = verdicts.specialisation(results[:2], "two_layer_width", width="N", predicted=0.5)
    assert (few.measured, few.verdict, few.note) == (None, "undecided", "too few widths")
    results[0]["overlaps"]["weight"] = rng.normal(0, 0.08, 40 * 64).tolist()
    *_, few = verdicts.specialisation(results, "two_layer_width", width="N", predicted=0.5)
    assert (few.verdict, few.note) == ("undecided", "a single mode at N/d = 2")


def test_wide_intervals_are_undecided():
    wide = Estimate.of(1.0, np.linspace(0.2, 1.8, 100))
    assert verdicts.judge(1.0, wide) == "undecided"
    narrow = Estimate.of(1.0, np.linspace(0.95, 1.05, 100))
    assert [verdicts.judge(p, narrow) for p in (1.0, 1.12, 1.3)] == ["agrees", "agrees", "disagrees"]


def test_seeds_of_a_point_are_draws_of_one_point():
    own = {
        "overlaps": {"weight": list(range(12))},
        "overlap_networks": 4,
    }  # 2 snapshots of 2 draws of 3 neurons
    first, second = (synthetic("two_layer", {"d": 8, "N": 3}, 60, draws=2, seed=s, **own) for s in (0, 1))
    second = {**second, "samples": first["samples"]}
    (joined,) = summary.merged([first, second])
    assert np.asarray(joined["alignment"]).shape == (len(first["samples"]), 4)
    assert joined["settings"]["draws"] == 4
    assert joined["overlap_networks"] == 8
    snapshots = np.asarray(joined["overlaps"]["weight"]).reshape(2, 4, 3)
    assert snapshots[0].tolist() == [[0, 1, 2], [3, 4, 5], [0, 1, 2], [3, 4, 5]]
    assert len(first["alignment"][0]) == 2
    other = {**second, "settings": {**second["settings"], "steps": 2}}
    with pytest.raises(
        UserError, match="two points of two_layer at d = 8, N = 3 differ in more than their seed"
    ):
        summary.merged([first, other])


def test_a_collapse_of_noise_is_undecided():
    rng = np.random.default_rng(0)
    results = [synthetic("two_layer", {"d": d, "N": d}, 8 * d) for d in (8, 16)]
    for result in results:
        result["alignment"] = (0.1 * rng.normal(size=(len(result["samples"]), 3))).tolist()
    (row,) = verdicts.collapse(results, "two_layer", scale=lambda sizes: sizes["d"], quantity="collapse")
    assert row.verdict == "undecided"


def test_another_experiment_is_held_against_the_exponent_it_was_planned_with(tmp_path):
    results = [synthetic("described", {"d": d, "N": d}, 5 * d**1.5, seed=d) for d in (8, 16, 32)]
    (row,) = verdicts.power_law(results, "described", size="d", predicted=None, quantity="exponent")
    assert row.verdict == ""
    for result in results:
        result["settings"]["predicted"] = 1.5
    found = {v.quantity: v.verdict for v in summary.verdicts(results)}
    assert found == {"exponent of P* in d": "agrees", "collapse against P / d^1.5": "agrees"}
    tables = summary.analyse(results, tmp_path / "report")
    assert [row["sizes"] for row in tables["critical_samples"]] == [
        "d = 8, N = 8",
        "d = 16, N = 16",
        "d = 32, N = 32",
    ]
    assert "| described | exponent of P* in d | 1.5 |" in (tmp_path / "report" / "verdicts.md").read_text()
    before = {path.name: path.read_bytes() for path in (tmp_path / "report").iterdir()}
    summary.analyse(json.loads(json.dumps(results)), tmp_path / "report")
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "report").iterdir()}
    with pytest.raises(UserError, match="no results"):
        summary.analyse([], tmp_path)


def test_one_draw_has_no_interval_and_decides_nothing():
    one = critical_samples([10, 20, 40], np.array([[0.1], [0.4], [0.9]]))
    assert 20 < one.value < 40 and np.isnan([one.low, one.high]).all()
    results = [synthetic("two_layer", {"d": d, "N": d}, 8 * d, draws=1, seed=d) for d in (8, 16, 32, 64)]
    found = {v.quantity: v.verdict for v in summary.verdicts(results)}
    assert found["exponent of P* in d"] == "undecided"
    assert found["collapse against P / d^1"] == "undecided"


def test_grids_that_do_not_overlap_leave_one_row_undecided_and_the_others_as_they_are():
    results = [
        synthetic("two_layer", {"d": d, "N": d}, p, seed=d)
        for d, p in ((8, 1e2), (16, 1e5), (32, 1e8), (64, 1e11))
    ]
    found = {v.quantity: v for v in summary.verdicts(results)}
    assert found["collapse against P / d^1"].verdict == "undecided"
    assert "do not overlap" in found["collapse against P / d^1"].note
    assert found["exponent of P* in d"].verdict == "disagrees"


def test_the_committed_verdicts_follow_from_the_committed_results_and_the_cases():
    folder = Path(__file__).parents[2] / "experiments" / "scaling"
    rows = [row.row() for row in summary.verdicts(json.loads((folder / "results.json").read_text()))]
    with (folder / "verdicts.csv").open(newline="", encoding="utf-8") as file:
        committed = list(csv.DictReader(file))
    assert sorted(map(str, rows)) == sorted(map(str, committed))


def test_a_case_of_ones_own_has_claims_of_its_own(tmp_path, monkeypatch):
    """Predictions by the rules, a number, and a pattern; another arm of the same case, and another experiment."""
    (tmp_path / "conf" / "scale").mkdir(parents=True)
    shipped = Path(__file__).parents[2] / "conf" / "scale" / "two_layer.yaml"
    text = (
        shipped.read_text().partition("\nverdicts:")[0].replace("experiment: two_layer", "experiment: mine")
    )
    claims = """
verdicts:
  - {kind: exponent, size: d, predicted: 3/2}
  - {kind: exponent, size: N, each: d, predicted: {patterns: [Sp], scales: {N: 1.5}}}
  - {kind: collapse, label: P / d}
  - {kind: ratio, to: two_layer, quantity: over two_layer, predicted: 2}
"""
    (tmp_path / "conf" / "scale" / "mine.yaml").write_text(text + claims)
    monkeypatch.chdir(tmp_path)
    results = [synthetic("mine", {"d": d, "N": d}, 16 * d, seed=d) for d in (8, 16, 32)]
    results += [synthetic("two_layer", {"d": d, "N": d}, 8 * d, seed=d + 1) for d in (8, 16, 32)]
    rows = [row for row in summary.verdicts(results) if row.experiment == "mine"]
    found = {row.quantity: row for row in rows}
    assert (found["exponent of P* in d"].predicted, found["exponent of P* in d"].verdict) == (
        1.5,
        "disagrees",
    )
    assert found["exponent of P* in N at d = 8"].predicted == 0.5
    assert found["collapse against P / d^1"].verdict == "agrees"
    assert found["over two_layer"].measured.value == pytest.approx(2, rel=0.05)
    for wrong, says in (
        ("{kind: exponnt}", "there is no kind of claim 'exponnt'; did you mean 'exponent'"),
        ("{kind: exponent, siz: d}", "exponent takes no 'siz'; did you mean 'size'"),
        ("{kind: arms, size: d}", "arms needs base, quantity, predicted"),
        ("{kind: exponent, size: 3}", r"verdicts\[0\].size must be text, got 3"),
        ("exponent", "there is no kind of claim 'exponent'"),
    ):
        (tmp_path / "conf" / "scale" / "mine.yaml").write_text(f"{text}\nverdicts:\n  - {wrong}\n")
        with pytest.raises(UserError, match=says):
            summary.verdicts(results)


def test_without_sympy_the_extra_is_named(monkeypatch):
    import importlib

    import tutelage.scaling as package

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'tutelage\[scale\]'"):
        importlib.reload(package)
