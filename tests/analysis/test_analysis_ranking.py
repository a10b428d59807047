"""Rank agreement of two sets of runs: tau against scipy and by hand, its interval, and the command with its errors."""

import json

import numpy as np
import pytest
import scipy.stats

from small_runs import SMALL
from tutelage.analysis.ranking import kendall_tau, tau_interval
from tutelage.cli.main import main


@pytest.mark.parametrize("seed", range(5))
def test_tau_is_that_of_scipy_with_ties_and_without(seed):
    generator = np.random.default_rng(seed)
    for a, b in (generator.normal(size=(2, 15)), generator.integers(0, 4, size=(2, 15))):
        assert kendall_tau(a, b) == pytest.approx(scipy.stats.kendalltau(a, b).statistic)
        assert kendall_tau(a, b) == pytest.approx(kendall_tau(b, a))
        assert kendall_tau(np.exp(a), 3 * b - 1) == pytest.approx(kendall_tau(a, b))  # orders alone count
        assert kendall_tau(-a, b) == pytest.approx(-kendall_tau(a, b))


def test_tau_by_hand():
    assert kendall_tau([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx((5 - 1) / 6)
    assert kendall_tau([1, 2, 3], [3, 2, 1]) == -1
    assert np.isnan(kendall_tau([1, 1, 1], [1, 2, 3]))


def test_the_interval_holds_what_agrees_and_is_wide_for_few():
    values = list(range(20))
    assert tau_interval(values, values) == (1, 1)
    generator = np.random.default_rng(0)
    noisy = [x + generator.normal(scale=6) for x in values]
    low, high = tau_interval(values, noisy)
    assert low < kendall_tau(values, noisy) < high < 1
    few_low, few_high = tau_interval(values[:6], noisy[:6])
    assert few_high - few_low > high - low


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("ranking")
    words = [*SMALL, f"runs_dir={root}"]
    widths = "model.width=2,4,8,16"
    assert main(["train", "-m", *words, "name=cheap", "fit.max_steps=2", widths]) == 0
    assert main(["train", "-m", *words, "name=whole", "fit.max_steps=6", widths]) == 0
    assert main(["train", "-m", *words, "name=few", "fit.max_steps=4", "model.width=2,4"]) == 0
    return root


def test_two_names_of_runs_are_compared_network_by_network(runs, tmp_path, capsys):
    assert main(["analyse", "ranking", "cheap", "whole", f"runs_dir={runs}", f"out={tmp_path}"]) == 0
    said = capsys.readouterr().out
    record = json.loads((tmp_path / "ranking.json").read_text())
    assert (
        record["n"] == 4 and -1 <= record["tau"] <= 1 and f"tau {record['tau']:.2f}" in " ".join(said.split())
    )
    assert (tmp_path / "ranking.png").is_file()
    lines = (tmp_path / "ranking.csv").read_text().splitlines()
    assert lines[0] == "networks,cheap,whole,seeds" and sum("width=8" in line for line in lines) == 1


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["cheap"], "compares two names of runs"),
        (["cheap", "few"], "share 2 networks"),
        (["cheap", "whole", "few"], "cheap, whole, few"),
    ],
)
def test_what_cannot_be_ranked_is_one_message(runs, capsys, names, says):
    assert main(["analyse", "ranking", *names, f"runs_dir={runs}"]) == 2
    assert says in " ".join(capsys.readouterr().err.split())
