"""The commands beside train, and that those which do not train load no torch."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest

from tutelage.cli.doctor import _plain
from tutelage.cli.main import main

QUICK = [
    "logger=none",
    "hardware.threads=1",
    "fit.max_steps=4",
    "fit.validate_every_steps=2",
    "model.depth=2",
    "model.width=8",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for arm, every in (("plain", 1), ("other", 2)):
        own = [f"name=small/{arm}", f"fit.log_every_steps={every}", "seed=0,1"]
        assert main(["train", "-m", *QUICK, f"runs_dir={folder}", *own]) == 0
    return folder


def test_list_shows_groups_and_runs(runs, capsys):
    for what in ("experiments", "methods", "models", "data", "hardware"):
        assert main(["list", what]) == 0
    shown = capsys.readouterr().out
    for name in ("demo/plain", "guidance", "deep_fcn", "digits", "ddp_cpu"):
        assert name in shown
    assert main(["list", "runs", "small/plain", "--runs-dir", str(runs), "--state", "complete"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("small/plain/") == 2
    assert "small/other" not in shown
    assert main(["list", "runs", str(runs / "small"), f"runs_dir={runs}"]) == 0  # as a shell completes it
    assert "small/plain/" in capsys.readouterr().out
    assert main(["list", "runs", "small/plian", f"runs_dir={runs}"]) == 2
    assert "did you mean 'small/plain'" in capsys.readouterr().err
    assert main(["list", "tables"]) == 0
    assert "guidance/digits  " in capsys.readouterr().out
    assert main(["list", "modles"]) == 2


def test_report_writes_the_table_with_the_promised_columns(runs, capsys):
    assert main(["report", "small", f"runs_dir={runs}"]) == 0
    lines = (runs / "small" / "table.csv").read_text().splitlines()
    assert lines[0] == "arm,metric,mean,std,n"
    assert [line.split(",")[0] for line in lines[1:]] == ["plain", "other"]
    said = capsys.readouterr().out
    for name in ("report.html", "table.md", "cells.csv", "curves.png"):
        assert name in said and (runs / "small" / name).stat().st_size > 0


def test_a_name_of_runs_that_is_a_tables_too_is_reported_from_the_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *QUICK, "name=demo/mine"]) == 0
    assert main(["report", "demo"]) == 0
    assert (tmp_path / "runs/demo/table.csv").is_file() and not (tmp_path / "runs/demo/demo.md").exists()
    assert "missing" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["small", "port=none"], "port must be a whole number from 0 to 65535"),
        (["small", "every=0"], "every must be a whole number from 1 to 3600"),
        (["smal"], "did you mean 'small"),
        (["guidance/digit"], "did you mean the table 'guidance/digits'?"),
        (["small", "model.depth=3"], "a page of runs takes runs_dir=<folder>"),
    ],
)
def test_a_page_that_cannot_be_served_is_a_message(runs, words, message, capsys):
    assert main(["serve", *words, f"runs_dir={runs}"]) == 2
    assert message in capsys.readouterr().err


def test_evaluate_repeats_the_recorded_test_metrics_and_leaves_the_result_alone(runs, capsys):
    (result,) = list(runs.glob("small/plain/*/result.json"))[:1]
    before = result.read_bytes()
    assert main(["evaluate", str(result.parent), f"runs_dir={runs}"]) == 0
    printed = capsys.readouterr().out
    accuracy = json.loads(before)["best"]["test"]["accuracy"]
    assert f"accuracy {accuracy:.4f}" in printed
    assert result.read_bytes() == before
    assert main(["evaluate", str(result.parent), f"runs_dir={runs}", "data=synthetic"]) == 2
    assert "was trained on" in capsys.readouterr().err


def test_doctor_names_values_files_runs_and_layer_pairs(runs, capsys):
    words = [
        "method=guidance",
        "model@guide=residual_convnet",
        "guide.width=4",
        "optimizer.lr=0.01",
        *QUICK,
        f"runs_dir={runs}",
    ]
    assert main(["doctor", "--build", *words]) == 0
    shown = capsys.readouterr().out
    assert "command: optimizer.lr=0.01" in shown
    assert "conf/method/guidance.yaml" in shown
    assert "blocks.0.conv1" in shown
    assert "split_sha256" in shown
    assert main(["doctor", "--build", "data=image_folder", "data.root=/nowhere"]) == 2


def test_watching_runs_ends_quietly_when_it_is_interrupted(runs, capsys, monkeypatch):
    def interrupted(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr("tutelage.cli.listing.time.sleep", interrupted)
    assert main(["list", "runs", "--watch", f"runs_dir={runs}"]) == 0
    assert "interrupted" not in capsys.readouterr().err


@pytest.mark.parametrize("width", [80, 140])
def test_doctor_marks_what_differs_from_the_defaults_and_fits(runs, capsys, monkeypatch, width):
    from tutelage.reporting import console

    class Screen(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(console.sys, "stdout", screen := Screen())
    assert (
        main(["doctor", "--build", "experiment=demo/guided-untrained", "optimizer.lr=0.01", "guide.stages=3"])
        == 0
    )
    lines = screen.getvalue().splitlines()
    words = [line for line in lines if len(line) > width]
    assert not words and "…" not in screen.getvalue()
    marked = {line.split()[1]: line for line in lines if line.startswith("* ")}
    assert (
        "0.01 (default 0.001)" in marked["optimizer.lr"] and "1200 (default 2000)" in marked["fit.max_steps"]
    )
    assert (
        "guide.stages" not in marked and "data.split_seed" not in marked
    )  # the word says what the default is
    assert any(line.split()[-1:] == ["shape"] or "network layer" in line for line in lines)


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["train", "--help"],
        ["list", "experiments"],
        ["list", "runs"],
        ["report", "small"],
        ["doctor"],
    ],
)
def test_commands_that_do_not_train_load_no_torch(runs, words):
    extra = {
        "list": ["--runs-dir", str(runs)],
        "report": [f"runs_dir={runs}"],
        "doctor": [f"runs_dir={runs}"],
    }
    words = words + (extra.get(words[0], []) if words[-1] in ("runs", "small", "doctor") else [])
    program = f"import sys; from tutelage.cli.main import main; code = main({words!r}); sys.exit(code or 3 * ('torch' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_flag_of_another_report_is_no_word_to_pass_over(runs, capsys):
    assert main(["report", "small", "--replace", f"runs_dir={runs}"]) == 2
    assert "belongs to a report on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([3, 32, 32], "3 x 32 x 32"),
        ([28, 28], "28 x 28"),
        ([7], "7"),
        ([1, 2, 3, 4], "1, 2, 3, 4"),
        ([0.5, 2], "0.5, 2"),
        ([[1, 2], [3, 4]], "1 x 2; 3 x 4"),
        ({"a": 1, "b": "c"}, "a 1, b c"),
        ("0" * 64, "000000000000..."),
    ],
)
def test_facts_are_shown_as_a_user_would_write_them(value, words):
    assert _plain(value) == words


def test_doctor_builds_what_needs_a_run_that_is_not_there_yet(tmp_path, capsys):
    teacher = ["model@teacher=fcn", "teacher.depth=1", "teacher.width=8", "teacher.weights=need:t"]
    need = "+needs.t=" + json.dumps([*QUICK, "name=t", "model=fcn"]).replace('"', "'").replace(" ", "")
    assert (
        main(["doctor", "--build", "method=distillation", *teacher, need, *QUICK, f"runs_dir={tmp_path}"])
        == 0
    )
    shown = capsys.readouterr().out
    assert "needed runs are not complete yet, so their weights are shown as scratch: t/" in shown
    assert "frozen parameters" in shown


def test_a_command_that_loaded_torch_ends_with_its_code_all_that_it_printed_and_what_waits_for_the_end():
    program = (
        "import atexit, sys, threading, time, types\n"
        "sys.modules['torch'] = types.ModuleType('torch')\n"
        "from tutelage.cli import main\n"
        "main.main = lambda: print('last word') or 3\n"
        "atexit.register(print, 'exit handler')\n"
        "threading.Thread(target=lambda: (time.sleep(0.1), print('thread'))).start()\n"
        "class Slow:\n"
        "    def __del__(self): print('taken apart')\n"
        "kept = Slow()\n"
        "main.entry()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 3 and done.stdout.split("\n") == ["last word", "thread", "exit handler", ""]
    assert done.stderr == ""
