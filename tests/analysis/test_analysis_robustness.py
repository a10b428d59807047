"""`tutelage analyse robustness`: accuracies, checks and files of runs that it does not change."""

import csv
import json

import numpy as np
import pytest
import torch

from tutelage.analysis.attack_suite import Budget, Suite, budget_of, chosen
from tutelage.analysis.robustness import wilson
from tutelage.cli.analyse import run
from tutelage.cli.commands import COMMANDS
from tutelage.cli.reader import read
from tutelage.config.planner import plan_of
from tutelage.errors import UserError
from tutelage.jobs.launch import run_plan

SMALL = ["logger=none", "hardware.threads=1", "model.depth=1", "model.width=16"]
CHEAP = ["attacks=all", "steps=4", "queries=30", "epsilon=0.1", "samples=80", "corruptions=fog,contrast"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        steps = ["fit.max_steps=60", "fit.validate_every_steps=60", "optimizer.lr=3e-3"]
        run_plan(plan_of([*SMALL, *steps, f"runs_dir={folder}", "name=r/plain", f"seed={seed}", "model=fcn"]))
    return folder


def analyse(*words):
    return run(read("analyse", COMMANDS["analyse"], ["robustness", *words]))


def table(folder):
    with (folder / "robustness.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_command_measures_writes_and_measures_nothing_twice(runs, tmp_path, capsys, monkeypatch):
    def files():
        return {path: path.read_bytes() for path in sorted((runs / "r").rglob("*")) if path.is_file()}

    before = files()
    words = ["r/plain", f"runs_dir={runs}", *CHEAP]
    assert analyse(*words, f"out={tmp_path / 'one'}") == 0
    said = capsys.readouterr().out
    for part in (
        "more steps never help",
        "black box never beats",
        "without a bound nothing is left",
        "over 2 runs",
    ):
        assert part in said
    assert files() == before
    rows = table(tmp_path / "one")
    first = [row for row in rows if row["network"] == rows[0]["network"]]
    names = [row["condition"] for row in first]
    assert names[:2] == ["clean", "fog_1"] and {
        "corruptions",
        "fgsm",
        "pgd",
        "apgd",
        "square",
        "strong",
    } <= set(names)
    of = {row["condition"]: float(row["accuracy"]) for row in first if row["accuracy"]}
    mean = np.mean([of[f"{kind}_{severity}"] for kind in ("fog", "contrast") for severity in range(1, 6)])
    assert of["corruptions"] == pytest.approx(mean)
    assert of["strong"] <= min(of["apgd"], of["square"]) <= of["clean"]
    assert all(
        float(row["low"]) <= float(row["accuracy"]) <= float(row["high"]) for row in first if row["low"]
    )
    assert (tmp_path / "one" / "robustness.png").stat().st_size > 5000
    assert json.loads((tmp_path / "one" / "robustness.json").read_text())["options"]["steps"] == "4"

    def refuse(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr("tutelage.analysis.robustness.measure", refuse)
    assert analyse(*words, f"out={tmp_path / 'two'}") == 0
    assert table(tmp_path / "two") == rows
    with pytest.raises(AssertionError, match="measured again"):
        analyse(*words[:-1], "corruptions=fog", f"out={tmp_path / 'three'}")


def test_a_network_that_hides_its_gradient_is_found_out():
    """Rounded inputs have no gradient: white-box attacks reach nothing there, and the black box does."""
    torch.manual_seed(0)
    weights = torch.randn(64, 4)
    pixels = torch.rand(60, 1, 8, 8)

    def masked(images):
        return (images * 16).round().flatten(1) @ weights / 16

    suite = Suite(
        masked, pixels, masked(pixels).argmax(1), torch.arange(60), Budget(0.2, steps=5, queries=200)
    )
    found = suite.run(("fgsm", "pgd", "strong"))
    checks = {check.name: check.holds for check in suite.checks(found)}
    assert not checks["a black box never beats a white box"]
    assert not checks["without a bound nothing is left"]

    def plain(images):
        return images.flatten(1) @ weights

    honest = Suite(
        plain, pixels, plain(pixels).argmax(1), torch.arange(60), Budget(0.02, steps=5, queries=200)
    )
    assert all(check.holds for check in honest.checks(honest.run(("fgsm", "pgd", "strong"))))


def test_the_wilson_interval_is_where_the_normal_test_decides():
    for share, n in ((0.9, 50), (0.0, 10), (1.0, 30), (0.5, 400)):
        low, high = wilson(share, n)
        assert 0 <= low <= share <= high <= 1
        for end in (low, high):  # the shares at which the observed one is just 1.96 deviations away
            if 0 < end < 1:
                assert abs(share - end) == pytest.approx(1.959964 * (end * (1 - end) / n) ** 0.5, rel=1e-6)


def test_words_that_mean_nothing_are_one_message():
    options = {"epsilon": "8/255", "norm": "l2", "steps": "3", "restarts": "2", "queries": "9"}
    assert budget_of(options) == Budget(8 / 255, "l2", 3, 2, 9)
    for value in ("much", "8/0"):
        with pytest.raises(UserError, match="epsilon must be a number"):
            budget_of(options | {"epsilon": value})
    with pytest.raises(UserError, match="there is no 'pdg'; did you mean 'pgd'"):
        chosen("attacks", {"attacks": "pdg"}, ("fgsm", "pgd"))
    assert chosen("attacks", {"attacks": "none"}, ("fgsm",)) == ()


@pytest.fixture
def texts(tmp_path):
    words = ["good", "fine", "bad", "poor"]
    lines = [
        "text,label",
        *(f"{words[k % 4]} film number {k % 7},{'yes' if k % 4 < 2 else 'no'}" for k in range(120)),
    ]
    (tmp_path / "texts.csv").write_text("\n".join(lines))
    return tmp_path / "texts.csv"


def test_typos_missing_values_and_what_has_no_attack(texts, tmp_path, capsys):
    steps = [
        "logger=none",
        "hardware.threads=1",
        "fit.max_steps=4",
        "fit.validate_every_steps=4",
        f"runs_dir={tmp_path}",
    ]
    run_plan(
        plan_of(
            [
                *steps,
                "name=t",
                "data=text_classification",
                f"data.root={texts}",
                "data.batch_size=16",
                "model=rnn",
                "model.width=8",
                "model.depth=1",
            ]
        )
    )
    assert analyse("t", f"runs_dir={tmp_path}") == 0
    assert "corruptions: accuracy" in capsys.readouterr().out
    with pytest.raises(
        UserError,
        match=r"attacks=pgd change pixels of images.* tokens, of which no small change exists: say attacks=none",
    ):
        analyse("t", f"runs_dir={tmp_path}", "attacks=pgd")
    run_plan(plan_of([*steps, *SMALL[2:], "name=d", "data=table", "data.dataset=diabetes", "model=fcn"]))
    assert analyse("d", f"runs_dir={tmp_path}", f"out={tmp_path / 'd'}") == 0
    rows = table(tmp_path / "d")
    assert [row["condition"] for row in rows][1] == "missing_values_1" and float(
        rows[-1]["rmse" if "rmse" in rows[-1] else "mse"]
    ) > 0
    with pytest.raises(UserError, match="a task of regression has no wrong class"):
        analyse("d", f"runs_dir={tmp_path}", "attacks=all")
