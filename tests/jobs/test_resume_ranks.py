"""On two ranks too, N steps equal k + resume + N - k, bit by bit."""

from __future__ import annotations

import functools
import os
import socket
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from forked_command import Forked
from small_runs import METHODS, SMALL
from tutelage.engine.checkpoints import Checkpoints, latest_checkpoint
from tutelage.runs.run import State
from tutelage.runs.store import Store

RANKS = 2
SCHEDULE = ["hardware=ddp_cpu", "optimizer.schedule=cosine", "optimizer.warmup_steps=3"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _become_rank(rank: int, port: int, stop_at: int | None, ranks: int, on_node: int) -> None:
    """Make this process a rank that torchrun would start; at `stop_at` it dies right after a save, without a word."""
    os.environ.update(
        TORCHELASTIC_RUN_ID="test", RANK=str(rank), LOCAL_RANK=str(rank % on_node), GROUP_RANK=str(rank // on_node), WORLD_SIZE=str(ranks),
        LOCAL_WORLD_SIZE=str(on_node), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    if stop_at is None:
        return
    save = Checkpoints.save

    def save_then_die(self, trainer):
        save(self, trainer)
        if trainer.global_step >= stop_at:
            trainer.strategy.barrier()  # the first rank renames the file after the collective save
            os._exit(9)

    Checkpoints.save = save_then_die  # the process is a rank to its end: nothing to undo


def train(
    folder: Path, words: list[str], stop_at: int | None = None, ranks: int = RANKS, on_node: int = RANKS
):
    """Do a run on two ranks, started as by torchrun; return it and what each rank printed."""
    port = _free_port()
    command = ["train", *SMALL, *SCHEDULE, *words, f"runs_dir={folder}"]
    started = [
        Forked(
            command,
            folder / f"rank-{rank}.txt",
            functools.partial(_become_rank, rank, port, stop_at, ranks, on_node),
        )
        for rank in range(ranks)
    ]
    codes = [rank.wait() for rank in started]
    assert codes == [0 if stop_at is None else 9] * ranks, "\n".join(rank.text() for rank in started)
    (run,) = Store(folder).runs()
    return run, [rank.text() for rank in started]


def check_equal(resumed, whole):
    ours, theirs = (load_file(run.path / "network.safetensors") for run in (resumed, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    ours, theirs = (
        [{k: v for k, v in row.items() if k != "train_s"} for row in run.metrics.rows]
        for run in (resumed, whole)
    )
    assert ours == theirs
    for part in ("best", "last", "metrics"):
        assert resumed.result[part] == whole.result[part]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Give a function from a method to its undisturbed run, made once."""
    return functools.cache(lambda method: train(tmp_path_factory.mktemp("whole"), words_of(method))[0])


def words_of(method):
    """The words of a method; batch norm is on, whose running statistics are what ranks do not share."""
    if method == HEADLESS:  # for six steps nothing reaches the last layers
        more = [
            "method.objectives.alignment.schedule.name=alone_first",
            "method.objectives.alignment.schedule.steps=6",
            "method.objectives.alignment.pairing.strategy=first",
            "method.objectives.alignment.pairing.k=1",
        ]
        return ["method=guidance", *METHODS["guidance"], *more]
    return [f"method={method}", *METHODS[method]]


HEADLESS = "guidance, alignment first, the head unpaired"
CASES = [
    ("guidance", 4),
    (HEADLESS, 4),
    *(pytest.param(method, 4, marks=pytest.mark.slow) for method in METHODS if method != "guidance"),
    pytest.param("guidance", 12, marks=pytest.mark.slow),
    pytest.param("pseudo_ssl/uda", 12, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("method", "stop_at"), CASES)
def test_a_run_resumed_on_two_ranks_is_the_undisturbed_run(tmp_path, undisturbed, method, stop_at):
    """Step 4 of 12 is amid the training, step 12 between the last checkpoint and the result."""
    whole = undisturbed(method)
    assert whole.result["cost"]["ranks"] == RANKS
    broken, _ = train(tmp_path, words_of(method), stop_at)
    assert broken.state is State.INTERRUPTED
    assert not (broken.path / "network.safetensors").exists()
    resumed, said = train(tmp_path, words_of(method))
    assert resumed.result["cost"]["resumed_at_step"] == stop_at
    assert len(resumed.attempts) == 2  # the first rank's alone
    check_equal(resumed, whole)
    assert [f"{resumed.key}: " in text for text in said] == [True, False]  # the result is shown once


LONG = ["train", *SMALL, *SCHEDULE, *words_of("guidance"), "fit.max_steps=400", "fit.validate_every_steps=20"]


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("long")
    command = Forked([*LONG, f"runs_dir={folder}"], folder / "output.txt")
    assert command.wait() == 0, command.text()
    (run,) = Store(folder).runs()
    return run


def ranks_below(pid):
    """Return the process ids of the ranks that a command has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [
        int(child) for child in children if b"jobs.rank_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


@pytest.mark.slow
@pytest.mark.parametrize("who", ["the command", "a rank"])
def test_a_command_killed_while_its_ranks_train_ends_with_the_undisturbed_run(tmp_path, long_run, who):
    words = [*LONG, f"runs_dir={tmp_path}/runs"]
    store = Store(tmp_path / "runs")
    command = Forked(words, tmp_path / "killed.txt")
    while not any(latest_checkpoint(run) for run in store.runs()):
        assert command.running, command.text()
        time.sleep(0.01)
    ranks = ranks_below(command.pid)
    assert len(ranks) == RANKS
    os.kill(command.pid if who == "the command" else ranks[1], 9)
    assert command.wait() == (-9 if who == "the command" else 1), command.text()
    assert "Traceback" not in command.text()
    assert who == "the command" or ("rank 1 of " in command.text() and "killed by signal 9" in command.text())
    again = Forked(words, tmp_path / "again.txt")
    assert again.wait() == 0, again.text()
    assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)
    (resumed,) = store.runs()
    assert 0 < resumed.result["cost"]["resumed_at_step"] < 400
    check_equal(resumed, long_run)


def test_what_two_nodes_began_one_goes_on_with(tmp_path):
    """As torchrun does with --nnodes=1:2 when a node dies: the batches are the same, the sums are taken in another order."""
    words = ["hardware.devices=auto", "optimizer=sgd", "model.batch_norm=false"]
    for name in ("whole", "left"):
        (tmp_path / name).mkdir()
    whole, _ = train(tmp_path / "whole", words, on_node=1)
    train(tmp_path / "left", words, stop_at=8, on_node=1)
    left, _ = train(tmp_path / "left", words, ranks=1, on_node=1)
    assert left.identity == whole.identity
    assert [run.result["cost"]["ranks"] for run in (whole, left)] == [2, 1]
    assert left.result["cost"]["resumed_at_step"] == 8
    ours, theirs = (load_file(run.path / "network.safetensors") for run in (left, whole))
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-6)
    losses = [[row["train/loss"] for row in run.metrics.rows if "train/loss" in row] for run in (left, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
