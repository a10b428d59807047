"""Faults of machine and files: full disk, signals, damaged records, clocks, hostile files, and what many jobs leave behind."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tutelage.cli.main import main
from tutelage.runs import provenance
from tutelage.runs.run import State
from tutelage.runs.store import Store

QUICK = ["logger=none", "hardware.threads=1", "model.depth=2", "model.width=64", "fit.max_steps=40", "fit.validate_every_steps=10",
         "fit.checkpoint_every_s=0"]  # fmt: skip
LONG = [*QUICK, "fit.max_steps=100000"]


def numbers(result):
    return {part: result[part] for part in ("best", "last", "metrics", "selection")}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    root = tmp_path_factory.mktemp("expected")
    assert main(["train", *QUICK, f"runs_dir={root}"]) == 0
    (run,) = Store(root).runs()
    return numbers(run.result)


@pytest.mark.parametrize(("limit", "where"), [(60_000, "checkpoint"), (20_000, "weights"), (1_500, "record")])
def test_a_full_disk_is_one_message_and_the_same_command_goes_on(forked, tmp_path, expected, limit, where):
    words = ["train", *QUICK, f"runs_dir={tmp_path}/runs"]
    full = forked(*words, file_limit=limit)
    assert full.wait() == 1, full.text()
    assert "Traceback" not in full.text()
    assert "the same command continues" in full.text()
    assert where != "checkpoint" or "checkpoint could not be written" in full.text()
    (run,) = Store(tmp_path / "runs").runs()
    assert not run.is_complete
    assert not run.metrics.dropped
    assert not list(run.path.rglob("fresh.tmp"))
    again = forked(*words)
    assert again.wait() == 0, again.text()
    assert numbers(run.result) == expected


@contextlib.contextmanager
def forbidden(path):
    """Take the right to write away, from its owner too."""
    mode = path.stat().st_mode
    path.chmod(mode & 0o555)
    yield
    path.chmod(mode)


def one_message(command, *says):
    assert command.wait() == 2, command.text()
    assert "Traceback" not in command.text() and "Error" not in command.text()
    for part in ("runs_dir=", *says):
        assert part in command.text()


def test_a_runs_folder_that_cannot_be_written_is_one_message_and_what_is_there_can_be_read(
    forked, tmp_path, capsys
):
    runs = tmp_path / "runs"
    assert main(["train", *QUICK, f"runs_dir={runs}", "seed=0"]) == 0
    before = {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()}
    words = ["train", *QUICK, f"runs_dir={runs}"]
    with forbidden(runs), forbidden(next(Store(runs).runs()).path.parent):
        one_message(forked(*words, "name=other", "seed=1"), "Permission denied", str(runs))
        one_message(forked(*words, "-m", "seed=0,1"), "Permission denied", str(runs))
        complete = forked(*words, "seed=0")
        assert complete.wait() == 0, complete.text()
        assert "its stored result is used" in complete.text()
        listed = forked("list", "runs", "--runs-dir", str(runs))
        assert listed.wait() == 0, listed.text()
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("what", [".", "checkpoints", "log.txt", "metrics.jsonl"])
def test_a_record_that_cannot_be_written_is_one_message_and_the_same_command_goes_on(
    forked, tmp_path, expected, what
):
    words = ["train", *QUICK, f"runs_dir={tmp_path}/runs"]
    assert main([*words, "fit.keep_checkpoints=true"]) == 0
    (run,) = Store(tmp_path / "runs").runs()
    (run.path / "result.json").unlink()
    (run.path / "network.safetensors").unlink()
    run.checkpoint("previous").replace(run.checkpoint("last"))
    run.writer().truncate_after(30)
    with forbidden(run.path / what):
        one_message(forked(*words), str(run.path))
        sweep = forked(*words, "-m", "seed=0,1")
        one_message(sweep, "1 of 2 jobs failed")
    assert not run.is_complete
    assert forked(*words).wait() == 0
    assert numbers(run.result) == expected
    assert run.result["cost"]["resumed_at_step"] == 30


@pytest.mark.parametrize(
    ("number", "code", "says"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
@pytest.mark.parametrize("multirun", [[], ["-m", "seed=0,1"]])
def test_a_signal_ends_the_command_in_order(forked, tmp_path, number, code, says, multirun):
    command = forked("train", *LONG, f"runs_dir={tmp_path}/runs", *multirun)
    store = Store(tmp_path / "runs")
    while not any(run.checkpoint("last").exists() for run in store.runs()):
        assert command.running, command.text()
        time.sleep(0.005)
    assert command.kill(number) == code, command.text()
    assert f"{says}; the same command continues" in command.text()
    assert "Traceback" not in command.text()
    (run,) = store.runs()  # the second job of the sweep was not begun
    assert run.state is State.INTERRUPTED
    assert not run.metrics.dropped


def test_an_interrupt_stays_one_where_what_it_ends_was_half_made(tmp_path, monkeypatch, capsys):
    from pytorch_lightning.utilities.combined_loader import CombinedLoader

    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(
        CombinedLoader, "__iter__", interrupted
    )  # the length of such a loader, asked for at the end, is an error
    assert main(["train", *QUICK, f"runs_dir={tmp_path}/runs", "-m", "seed=0,1"]) == 130
    said = capsys.readouterr().err
    (run,) = Store(tmp_path / "runs").runs()
    assert (
        f"interrupted; no state of {run.key} was saved yet" in said
        and "the same command begins it anew" in said
    )
    assert "resumes" not in said and "continues" not in said
    assert "Please call `iter" not in said
    assert run.state is State.INTERRUPTED


DAMAGE = {
    "result truncated": ("result.json", lambda text: text[: len(text) // 2]),
    "result of another kind": ("result.json", lambda text: b"[]"),
    "result not text": ("result.json", lambda text: b"\xff\xfe\x00" + text),
    "config truncated": ("config.yaml", lambda text: text[: len(text) // 3] + b": ["),
    "provenance empty": ("provenance.json", lambda text: b""),
    "metrics torn": ("metrics.jsonl", lambda text: text[:-7]),
    "metrics with rubbish inside": ("metrics.jsonl", lambda text: b"{]\n" + text),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_file_of_an_unfinished_run_is_mended_by_the_same_command(tmp_path, expected, what, capsys):
    words = ["train", *QUICK, "fit.keep_checkpoints=true", f"runs_dir={tmp_path}"]
    assert main(words) == 0
    (run,) = Store(tmp_path).runs()
    name, damage = DAMAGE[what]
    path = run.path / name
    path.write_bytes(damage(path.read_bytes()))
    if name != "result.json":
        (run.path / "result.json").unlink()
    assert main(["list", "runs", "--runs-dir", str(tmp_path)]) == 0
    if name == "result.json":
        assert main(["evaluate", str(run.path)]) == 2
        assert "result.json is damaged" in capsys.readouterr().err
    assert main(words) == 0
    assert numbers(run.result) == expected
    assert run.config["seed"] == 0
    assert "Traceback" not in capsys.readouterr().err


def test_a_clock_that_moved_back_changes_nothing(tmp_path, expected, monkeypatch):
    words = ["train", *QUICK, f"runs_dir={tmp_path}", "fit.keep_checkpoints=true"]
    assert main(words) == 0
    (run,) = Store(tmp_path).runs()
    (run.path / "result.json").unlink()
    monkeypatch.setattr(provenance, "now", lambda: "1999-01-01T00:00:00+00:00")
    monkeypatch.setattr(time, "time", lambda: 0.0)
    for path in run.path.rglob("*"):
        os.utime(path, (2**31, 2**31))
    assert main(words) == 0
    assert numbers(run.result) == expected
    assert main(["list", "runs", "--runs-dir", str(tmp_path), "--since", "1998-01-01"]) == 0


STALE = {
    "the rename of a state": (Path, "replace", lambda path, *_: path.name == "fresh.tmp"),
    "the rename of the result": (Path, "replace", lambda path, *_: path.name.startswith(".result.json")),
    "putting files on the disk": (os, "fsync", lambda *_: True),
    "the folder of states": (Path, "mkdir", lambda path, *_: path.name == "checkpoints"),
}


@pytest.mark.parametrize("what", STALE)
@pytest.mark.parametrize("retry", [0, 1])
def test_a_file_handle_that_the_server_forgot_is_one_message_and_the_run_goes_on(
    tmp_path, expected, monkeypatch, capsys, what, retry
):
    """A network file system (NFS) says ESTALE where a file was replaced on the server or another machine: imitated, once."""
    place, name, meant = STALE[what]
    real, left = getattr(place, name), [1]

    def forgets(*given, **options):
        if left[0] and meant(*given):
            left[0] = 0
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(given[0]))
        return real(*given, **options)

    words = ["train", *QUICK, f"runs_dir={tmp_path}", f"retry={retry}"]
    monkeypatch.setattr(place, name, forgets)
    code = main(words)
    said = capsys.readouterr().err
    assert left == [0] and "Traceback" not in said
    if not retry:
        assert code in (1, 2) and "tale" in said
        assert main(words) == 0
    else:
        assert code == 0
    (run,) = Store(tmp_path).runs()
    assert numbers(run.result) == expected


@pytest.mark.parametrize("ahead_s", [-7200, 7200])
def test_machines_whose_clocks_differ_take_over_each_others_runs(tmp_path, expected, monkeypatch, ahead_s):
    words = ["train", *QUICK, f"runs_dir={tmp_path}"]
    with monkeypatch.context() as here:
        here.setattr(
            "tutelage.engine.fit.evaluate_and_save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        assert main(words) == 130
    real_time, real_clock = time.time, time.monotonic
    monkeypatch.setattr(time, "time", lambda: real_time() + ahead_s)
    monkeypatch.setattr(time, "monotonic", lambda: real_clock() + ahead_s)
    monkeypatch.setattr("socket.gethostname", lambda: "another")
    assert main(words) == 0
    (run,) = Store(tmp_path).runs()
    assert numbers(run.result) == expected and len(run.attempts) == 2
    assert main(["list", "runs", f"runs_dir={tmp_path}"]) == 0


@pytest.mark.parametrize(
    "words", [["model.width=30000000"], ["data=synthetic", "data.samples=9000000000000"]]
)
def test_what_does_not_fit_into_memory_is_one_message(tmp_path, capsys, words):
    limits = resource.getrlimit(resource.RLIMIT_AS)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + 4 * 2**30, limits[1]))
    try:
        assert main(["train", *QUICK, f"runs_dir={tmp_path}", *words]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert "memory" in error or "allocate" in error


class Payload:
    def __reduce__(self):
        return (os.mkdir, (os.environ["PAYLOAD"],))


def test_a_hostile_state_to_resume_from_is_passed_over_and_not_executed(tmp_path, expected, monkeypatch):
    monkeypatch.setenv("PAYLOAD", str(tmp_path / "owned"))
    words = ["train", *QUICK, f"runs_dir={tmp_path}/runs", "fit.keep_checkpoints=true"]
    assert main(words) == 0
    (run,) = Store(tmp_path / "runs").runs()
    (run.path / "result.json").unlink()
    for which in ("last", "previous"):
        run.checkpoint(which).write_bytes(pickle.dumps(Payload()))
    assert main(words) == 0
    assert not (tmp_path / "owned").exists()
    assert numbers(run.result) == expected
    assert "cannot be read" in run.log.read_text()


@pytest.mark.parametrize(
    "hostile",
    ["model: {_target_: os.system, command: touch owned}", "model: !!python/object/apply:os.mkdir [owned]",
     "model: {_target_: tutelage.models.fcn.FCN, weights: ../../../etc/passwd}"],
)  # fmt: skip
def test_a_hostile_configuration_in_a_run_from_elsewhere_is_refused(tmp_path, monkeypatch, capsys, hostile):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *QUICK]) == 0
    (run,) = Store("runs").runs()
    lines = (run.path / "config.yaml").read_text().split("\nmodel:")
    rest = lines[1].split("\n", 1)[1]
    after = rest[rest.index("\n" + next(line for line in rest.splitlines() if not line.startswith(" "))) :]
    (run.path / "config.yaml").write_text(f"{lines[0]}\n{hostile}{after}")
    assert main(["evaluate", str(run.path)]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert not (tmp_path / "owned").exists()


MANY = """
import json, os, resource, sys
from pathlib import Path
from tutelage.cli.main import main
from tutelage.jobs.outcomes import Jobs
original, seen = Jobs.do, []
def measured(*given, **options):
    value = original(*given, **options)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    seen.append((pages * 4096 / 1e6, len(os.listdir("/proc/self/fd")), len(children), len(os.listdir("/proc/self/task"))))
    return value
Jobs.do = measured
code = main(sys.argv[1:])
print(json.dumps(seen))
sys.exit(code)
"""


@pytest.mark.slow
def test_fifty_jobs_in_one_process_leave_no_memory_handles_processes_or_threads(tmp_path):
    words = ["train", "-m", *QUICK, "logger=wandb", "logger.mode=disabled", f"runs_dir={tmp_path}", "fit.max_steps=4",
             "fit.validate_every_steps=2", "seed=range(50)"]  # fmt: skip
    done = subprocess.run([sys.executable, "-c", MANY, *words], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert len(seen) == 50
    tenth, last = seen[9], seen[-1]
    print("MB, handles, children, threads after 10 and 50 jobs:", tenth, last)
    assert last[0] - tenth[0] < 8  # MB; a thousand jobs then stay within 1.3 times the tenth's
    assert last[1:] == tenth[1:]
