"""What a sweep's words, and its file of `conf/sweep`, come to: the jobs that Hydra's own sweeper would list, or a search's space."""

from __future__ import annotations

import re

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tutelage.cli.main import main
from tutelage.config.planner import Planner
from tutelage.config.sweeps import expand, space_of, sweeper_of
from tutelage.errors import UserError
from tutelage.jobs.sweep import at_a_time, launcher_of
from tutelage.runs.store import Store

WORDS = ["seed=0,1,2", "seed=range(3)", "seed=range(0,10,3)", "fit.max_steps=1", "model=fcn,convnet", "model.width=glob(*)",
         "optimizer.lr=1e-3,0.1", "name='a, b'", "tags=[a,b],[c]", "+model.new={a:1},{b:2}", "seed=choice(1,2)", "seed=shuffle(1,2)",
         "model.depth=sort(3,1,2)", "model@guide=fcn,convnet", "~fit", "seed=${fit.accumulate},3", "notes=\"x=1,2\""]  # fmt: skip
FILE = """# @package _global_
# Depths and widths on digits.
defaults:
  - override /model: fcn
  - override /hydra/launcher: local
name: study/mine
fit: {max_steps: 7}
hydra:
  launcher: {processes: 2}
  sweeper:
    params:
      model.depth: 1,2
      model.width: range(4,10,2)
      seed: 3
"""


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from([word for word in WORDS if "shuffle" not in word and "glob" not in word]), max_size=4
    )
)
@example(["seed=0,1", "fit.max_steps=1", "model=fcn,convnet"])
def test_the_jobs_are_those_of_hydras_own_sweeper(words):
    parser = OverridesParser.create()
    (expected,) = BasicSweeper.split_arguments(parser.parse_overrides(words), max_batch_size=None)

    def meaning(commands):
        return [
            [(one.key_or_group, repr(one.value()), one.type) for one in parser.parse_overrides(list(words))]
            for words in commands
        ]

    found = [command.words for command in expand(words)] if words else [()]
    assert meaning(found) == meaning(expected or [()])


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "sweep").mkdir(parents=True)
    (tmp_path / "conf" / "sweep" / "mine.yaml").write_text(FILE)


def test_a_file_of_the_users_gives_values_and_a_launcher_and_the_command_goes_before_it(mine):
    search, words = sweeper_of(["sweep=mine", "model.width=16", "logger=none"])
    assert search is None
    assert words == ["model.depth=1,2", "seed=3", "sweep=mine", "model.width=16", "logger=none"]
    plans = [Planner()(command.words).config for command in expand(words)]
    assert [(p["name"], p["model"]["depth"], p["model"]["width"], p["seed"], p["fit"]["max_steps"]) for p in plans] == [
        ("study/mine", depth, 16, 3, 7) for depth in (1, 2)
    ]  # fmt: skip
    launch, rest = launcher_of(words, 1)
    assert (launch.keywords["processes"], rest) == (2, words)
    launch, rest = launcher_of([*words, "hydra.launcher.processes=3"], 1)
    assert (launch.keywords["processes"], rest) == (3, words)
    assert [at_a_time(launch, jobs) for jobs in (0, 1, 2, 9)] == ["", "", ", 2 at a time", ", 3 at a time"]


def test_a_sweep_by_a_file_is_done_and_found_again(mine, capsys):
    words = ["train", "sweep=mine", "model.width=4",
             "model.depth=1", "seed=0,1", "fit.max_steps=1", "logger=none", "runs_dir=here"]  # fmt: skip
    assert main([*words, "processes=1"]) == 0
    capsys.readouterr()
    assert len(list(Store("here").runs("study/mine"))) == 2
    assert main(words) == 0
    assert "2 runs, 2 stored" in capsys.readouterr().err


def test_the_space_of_a_search_is_the_files_and_the_commands(capsys):
    search, words = sweeper_of(["sweep=search_digits", "hydra.sweeper.trials=3", "model.width=32"])
    assert (search["trials"], search["random_trials"]) == (3, 8)
    fixed, space = space_of(words)
    assert fixed == ["sweep=search_digits", "model.width=32"]
    assert space["model.depth"] == {"low": 5, "high": 40, "step": 5, "log": False, "whole": True}
    assert space["optimizer.lr"] == {"low": 3e-4, "high": 1e-2, "step": None, "log": True, "whole": False}
    assert space["guide.residual"] == {"choices": ["True", "False"]}
    with pytest.raises(UserError, match="an interval is for a search"):
        expand(words)


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("seed=range(", ""),
        ("seed=[1,", ""),
        ("seed=choice(", ""),
        ("seed=range(a,b)", r" \(range\(a,b\): mismatch type argument start.*\)"),
    ],
)
def test_a_word_that_cannot_be_read_is_named_with_what_may_stand_there(word, why):
    with pytest.raises(
        UserError, match=rf"cannot read '{re.escape(word)}' as a setting{why}: expected .*range\(0,10\)"
    ):
        expand(["model=fcn", word])
