"""The driver end to end at toy sizes: results once and whole, retries, time budgets, the table of verdicts."""

import importlib
import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tutelage.errors import UserError
from tutelage.scaling import cases, experiments, summary, verdicts
from tutelage.scaling.grid import Point, build, run_point
from tutelage.scaling.measure import OutOfTime
from tutelage.scaling.networks import AttentionHead, PatchConvolution, TwoLayer
from tutelage.scaling.statistics import Estimate
from tutelage.scaling.targets import HermiteTarget

CONFIGS = Path(__file__).parents[2] / "conf" / "scale"
QUICK = {"draws": 2, "steps": 40, "measurements": 4, "test_points": 100}


def point(**changes):
    arguments = {
        "experiment": "two_layer",
        "name": "d4",
        "network": TwoLayer(inputs=4, width=4),
        "target": HermiteTarget(inputs=4, mixture={3: 1.0}),
        "samples": [6, 12],
        "sizes": {"d": 4, "N": 4},
        **QUICK,
    }
    return Point(**(arguments | changes))


def test_a_suite_runs_once_and_its_verdicts_are_written(tmp_path, capsys):
    command = ["--suite", "smoke", "--out", str(tmp_path), "--device", "cpu"]
    assert experiments.main(command) == 0
    assert "complete" in capsys.readouterr().out.splitlines()[-1]
    names = {path.stem for path in (tmp_path / "points").iterdir()}
    assert len(names) == len(experiments.suite("smoke"))
    assert not list((tmp_path / "points").glob("*.safetensors"))
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "points").iterdir()}
    assert experiments.main(command) == 0
    assert capsys.readouterr().out == "complete\n"
    assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "points").iterdir()}

    joined = json.loads((tmp_path / "results.json").read_text())
    assert {f"{r['experiment']}-{r['name']}" for r in joined} == names
    assert experiments.main(["--analyse", str(tmp_path), "--report", str(tmp_path / "report")]) == 0
    assert "| two_layer | exponent of P* in d | 1 |" in capsys.readouterr().out
    written = {path.name for path in (tmp_path / "report").iterdir()}
    assert {
        "verdicts.md",
        "verdicts.csv",
        "critical_samples.csv",
        "collapse_two_layer.svg",
        "guided.svg",
    } <= written


def test_suites_have_unique_points_whose_grids_bracket_the_prediction():
    for name in experiments.SUITES:
        points = experiments.suite(name)
        paths = [experiments.result_path(experiments.Path(), p) for p in points]
        assert len(set(paths)) == len(paths)
    gpu = {p.experiment for p in experiments.suite("gpu")}
    assert gpu >= {
        "two_layer",
        "three_layer",
        "convolution",
        "attention",
        "guided",
        "two_layer_adam",
        "two_layer_sgd",
    }
    (attention,) = cases.attention(pairs=[(9, 4)])
    assert attention.samples[3] == 108  # 2 sqrt(4 * 9^3)


def test_the_same_point_gives_the_same_numbers_also_after_an_interruption(tmp_path):
    long = point(steps=80, measurements=8)
    whole = run_point(long)
    again = run_point(long)
    assert whole["alignment"] == again["alignment"]
    checkpoint = tmp_path / "state.safetensors"
    with pytest.raises(OutOfTime):
        run_point(long, checkpoint=checkpoint, deadline=time.monotonic() - 1)
    assert checkpoint.exists()
    resumed = run_point(long, checkpoint=checkpoint)
    assert resumed["alignment"] == whole["alignment"]
    assert resumed["trajectory"] == whole["trajectory"]
    assert not checkpoint.exists()
    assert whole["settings"]["network"] == {
        "class": "TwoLayer",
        "weight_variance": 0.5,
        "readout_variance": 32.0,
        "inputs": 4,
        "width": 4,
    }


def test_members_are_padded_to_the_largest_grid_value():
    sampler, points = build(point())
    assert sampler.inputs.shape == (4, 12, 4)
    assert points.tolist() == [6, 6, 12, 12]
    assert sampler.present.sum(1).tolist() == [6, 6, 12, 12]
    planted, _ = build(point(start="planted"))
    assert planted.network.unpack(planted.flat)["weight"][0, 0].tolist() == pytest.approx(
        [0.7, 1.5, 0.7, 1.5]
    )
    assert not torch.equal(planted.flat, sampler.flat)


def test_a_diverging_point_is_tried_at_smaller_steps_and_a_hopeless_one_does_not_stop_the_rest(tmp_path):
    said: list[str] = []
    points = [
        point(name="large", step_size=0.2, samples=[40, 80]),
        point(name="hopeless", step_size=400.0),
        point(name="fine"),
    ]
    assert not experiments.run_suite(points, tmp_path, report=said.append)
    text = "\n".join(said)
    assert "two_layer-large: step size 0.2 diverged, halving it" in text
    assert "two_layer-hopeless: failed: Langevin dynamics diverged" in text
    assert (tmp_path / "points" / "two_layer-fine.json").exists()
    result = json.loads((tmp_path / "points" / "two_layer-large.json").read_text())
    assert result["settings"]["step_size"] < 0.2
    assert result["settings"]["steps"] * result["settings"]["step_size"] == pytest.approx(8)


def test_a_spent_time_budget_leaves_the_rest_for_the_next_command(tmp_path):
    said: list[str] = []
    assert not experiments.run_suite([point()], tmp_path, time_budget_s=0, report=said.append)
    assert "no time left" in said[0]
    assert experiments.run_suite([point()], tmp_path, report=said.append)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "adm"}, "did you mean 'adam'"),
        ({"record": ("overlap",)}, "did you mean 'overlaps'"),
        ({"start": "warm"}, "'prior' or 'planted'"),
        ({"samples": [12, 6]}, "increasing grid"),
        (
            {
                "network": AttentionHead(inputs=4),
                "guide": PatchConvolution(patch_dim=2, patches=2, channels=2),
            },
            "needs a two-layer network",
        ),
    ],
)
def test_points_refuse_what_does_not_fit(changes, message):
    with pytest.raises(UserError, match=message):
        point(**changes)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--suite", "smoke", "--only", "two_layers"], "did you mean 'two_layer'"),
        (["--analyse", "nowhere"], "No results under nowhere"),
        ([], "Give --suite"),
    ],
)
def test_the_command_line_refuses_with_one_message(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert experiments.main(words) == 2
    assert message in capsys.readouterr().err


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
        "settings": {"draws": draws, "steps": 1, "step_size": 0.01},
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


def test_wide_intervals_are_undecided():
    wide = Estimate.of(1.0, np.linspace(0.2, 1.8, 100))
    assert verdicts.judge(1.0, wide) == "undecided"
    narrow = Estimate.of(1.0, np.linspace(0.95, 1.05, 100))
    assert [verdicts.judge(p, narrow) for p in (1.0, 1.12, 1.3)] == ["agrees", "agrees", "disagrees"]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_predicts_and_builds_its_points(path):
    config = yaml.safe_load(path.read_text())

    def made(node):
        if isinstance(node, list):
            return [made(part) for part in node]
        if isinstance(node, dict):
            arguments = {name: made(part) for name, part in node.items() if name != "_target_"}
            if "_target_" not in node:
                return arguments
            module, _, name = node["_target_"].rpartition(".")
            return getattr(importlib.import_module(module), name)(**arguments)
        return node

    expected = {"two_layer": 1, "three_layer": 1, "convolution": 0.75, "attention": 1.75, "guided": 1}
    assert float(made(config["predict"]).exponent) == expected[path.stem]
    assert all(isinstance(made_point, Point) for made_point in made(config["measure"]))


def test_the_notebook_runs(monkeypatch):
    import matplotlib as mpl

    mpl.use("Agg")
    path = Path(__file__).parents[2] / "notebooks" / "scaling.ipynb"
    monkeypatch.chdir(path.parent)
    names: dict[str, object] = {"display": print}
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{path.name}, {cell['id']}", "exec"), names)
    assert len(names["table"]) >= 2
