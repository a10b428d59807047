"""Analyses that two ranks share: the numbers of one process, said and written by the first alone."""

import json
import os
import socket

import pytest
import torch

from forked_command import Forked
from tutelage.analysis import attack_suite
from tutelage.analysis.analyses import ANALYSES, outcome
from tutelage.cli import analyse, in_ranks
from tutelage.cli.main import main
from tutelage.config.planner import plan_of
from tutelage.engine import shared_work
from tutelage.engine.shared_work import agreed, is_first, ranks_together, shared
from tutelage.errors import UserError
from tutelage.jobs import ranks as ranks_module
from tutelage.jobs.launch import run_plan

QUIET = ["logger=none", "hardware.threads=1"]
SMALL = [
    *QUIET,
    "fit.max_steps=8",
    "fit.validate_every_steps=4",
    "data.batch_size=32",
    "model=fcn",
    "model.depth=2",
    "model.width=16",
]
GUIDE = ["method=guidance", "model@guide=residual_convnet", "guide.width=4", "guide.blocks=1"]
NOISE = [
    "method=synthesis",
    "model=generator/noise",
    "+model.num_classes=10",
    "method.count=200",
    "name=small/set",
]
ASKED = {
    "errors": ["small/plain"],
    "similarity": ["small/guided", "small/guided:guide", "samples=300"],
    "gap": ["small/plain", "data.eval_batch_size=64"],
    "probe": ["small/guided"],
    "calibration": ["small/plain"],
    "explain": ["small/guided", "samples=6", "explainers=saliency,integrated_gradients,occlusion"],
    "robustness": ["small/plain", "samples=100", "corruptions=fog", "attacks=fgsm,strong", "steps=2", "queries=5"],
    "phases": ["small/plain", "x=model.width", "y=model.depth"],
    "quality": ["small/guided", "small/set", "samples=70"],
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Give the folder of some runs."""
    root = tmp_path_factory.mktemp("runs")
    commands = (
        *(
            [*SMALL, "name=small/plain", f"seed={seed}", f"model.width={width}"]
            for seed, width in ((0, 16), (1, 8))
        ),
        [*SMALL, "name=small/guided", *GUIDE],
        [*QUIET, *NOISE],
    )
    for words in commands:
        run_plan(plan_of([f"runs_dir={root}", *words]))
    return root


@pytest.fixture
def two(tmp_path):
    """Give a function that does something in two ranks, as torchrun starts them, and returns the exit codes and what each said."""

    def do(*words, command=None):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        started = []
        for rank in range(2):
            there = {"TORCHELASTIC_RUN_ID": "x", "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
                     "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}  # fmt: skip

            def prepare(there=there):
                os.environ.update(there)
                if command:
                    command()

            started.append(Forked(list(words), tmp_path / f"rank-{rank}.txt", prepare))
        try:
            return [one.wait() for one in started], [one.text() for one in started]
        finally:
            for one in started:
                one.kill()

    return do


def test_every_analysis_that_shares_is_tried():
    assert set(ASKED) == {name for name, one in ANALYSES.items() if one.shares}


@pytest.mark.parametrize("name", ASKED)
def test_two_ranks_give_the_numbers_of_one_process(name, root, tmp_path, two, capsys, monkeypatch):
    monkeypatch.setattr(attack_suite, "_BLOCK", 9)
    monkeypatch.setattr(analyse, "outcome", lambda *given: (*outcome(*given)[:3], lambda path: None))
    words = ["analyse", name, *ASKED[name], f"runs_dir={root}"]
    assert main([*words, f"out={tmp_path / 'one'}"]) == 0
    alone = capsys.readouterr().out
    for kept in root.glob("analysis/networks/*"):
        kept.unlink()  # measured again, not remembered
    codes, (first, second) = two(*words, f"out={tmp_path / 'two'}")
    assert codes == [0, 0], first + second
    assert second == ""
    assert first.replace("/two/", "/one/") == alone
    for ending in ("csv", "json"):
        files = [(tmp_path / folder / f"{name}.{ending}").read_text() for folder in ("one", "two")]
        assert files[0].replace("/one", "/two") == files[1]


def test_a_measure_of_every_two_layers_is_that_of_one_process(root, tmp_path, two):
    words = ["similarity", "small/guided", "small/guided:guide", "measure=procrustes", "samples=130"]
    words = ["analyse", *words, f"runs_dir={root}"]
    assert main([*words, f"out={tmp_path / 'one'}"]) == 0
    assert two(*words, f"out={tmp_path / 'two'}")[0] == [0, 0]
    for ending in ("csv", "json"):
        one, both = (
            (tmp_path / folder / f"similarity.{ending}").read_text().replace(f"/{folder}", "")
            for folder in ("one", "two")
        )
        assert one == both


def test_an_evaluation_is_shared_and_recorded_once(root, two):
    (run,) = root.glob("small/guided/*/config.yaml")
    words = ["evaluate", str(run.parent), "data.eval_batch_size=50", f"runs_dir={root}"]
    assert main(words) == 0
    codes, (_, second) = two(*words)
    assert codes == [0, 0] and second == ""
    rows = [json.loads(line) for line in (run.parent / "evaluations.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and rows[0]["metrics"] == rows[1]["metrics"]


def test_what_cannot_be_shared_is_done_by_the_first_and_said(root, tmp_path, two):
    words = ["analyse", "alignment", "small/guided", f"runs_dir={root}"]
    codes, (first, second) = two(*words, f"out={tmp_path / 'two'}")
    assert codes == [0, 0] and second == ""
    assert "analyse alignment is done in one process" in first and "mean over pairs" in first


def test_a_mistake_is_said_once(root, two):
    codes, (first, second) = two("analyse", "errors", "small/guided", f"runs_dir={root}")
    assert codes == [2, 0] and second == ""
    assert first == "tutelage: error consistency compares at least two runs, got 1\n"
    codes, (first, second) = two("analyse", "gap", "small/plain", "hardware.devices=1", f"runs_dir={root}")
    assert codes == [2, 2] and "2 processes were started as ranks here" in first


@pytest.mark.parametrize("where", ["in its share", "beside it"])
def test_what_another_rank_raises_the_first_raises(where, two):
    def fails():
        with ranks_together():
            assert shared_work._sharing
            if where == "beside it" and not is_first():
                raise ValueError("of the second")
            found = list(shared(range(5), lambda item: (item, 1 // (3 - item), torch.ones(2) * item)))
            raise AssertionError(found)
        print("ended without a word")

    codes, (first, second) = two("--version", command=fails)
    assert codes == [70, 0], first + second
    assert ("ZeroDivisionError" if where == "in its share" else "of the second") in first
    assert second.startswith("ended without a word\n")


def test_all_get_all_in_order(two):
    def shares():
        with ranks_together():
            found = list(shared(range(5), lambda item: {"item": (item, [torch.full((2,), item)])}))
            assert [one["item"][0] for one in found] == list(range(5))
            assert [float(one["item"][1][0].sum()) for one in found] == [0, 2, 4, 6, 8]
            assert list(shared([], str)) == []
            assert agreed(is_first()) is True
        assert agreed("alone") == "alone" and is_first()

    codes, said = two("--version", command=shares)
    assert codes == [0, 0], said


def test_ranks_are_started_with_the_words_of_the_command(root, monkeypatch, capsys):
    started = []

    def launched(command, ranks, threads, name, logs=None):
        started.append((command, ranks))
        return {1: -9}, "torch's words"

    monkeypatch.setattr(ranks_module, "launched", launched)
    words = ["gap", "small/plain", "data.eval_batch_size=50", "device=cpu", f"runs_dir={root}"]
    assert main(["analyse", *words, "hardware.devices=2"]) == 2
    (command, ranks), kept = started[0], started[:]
    assert command[:3] == ["-m", "tutelage", "analyse"] and set(command[3:]) == set(words) and ranks == 2
    assert "rank 1 of analyse was killed by signal 9" in capsys.readouterr().err
    assert main(["analyse", "gap", "nowhere", "hardware.devices=2", f"runs_dir={root}"]) == 2
    assert main(["analyse", "gap", "small/plain", "hardware.devices=no", f"runs_dir={root}"]) == 2
    assert "hardware.devices must be" in capsys.readouterr().err
    assert main(["analyse", "alignment", "small/guided", "hardware.devices=2", f"runs_dir={root}"]) == 0
    assert started == kept
    assert in_ranks.KEY == "hardware.devices"
    with pytest.raises(UserError, match="whole number"):
        ranks_module.ranks_of(
            {"hardware": {"devices": "no", "num_nodes": 1, "accelerator": "cpu", "strategy": "ddp"}}
        )


@pytest.mark.slow
def test_a_command_starts_its_ranks(root, tmp_path, forked):
    words = ["analyse", "probe", "small/plain", f"runs_dir={root}"]
    assert main([*words, f"out={tmp_path / 'one'}"]) == 0
    done = forked(*words, f"out={tmp_path / 'two'}", "hardware.devices=2")
    assert done.wait() == 0, done.text()
    one, both = ((tmp_path / folder / "probe.csv").read_text() for folder in ("one", "two"))
    assert one == both
