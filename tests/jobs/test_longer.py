"""More updates than a complete run has: continued from its kept state where that gives exactly the longer run, or said why not."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from small_runs import GUIDE, SMALL, TEACHER
from tutelage.cli.main import main
from tutelage.jobs.longer import _why_not, begin_from_shorter
from tutelage.runs.records import read_json
from tutelage.runs.store import Store

KEPT = "fit.keep_checkpoints=true"
WORDS = ["train", *SMALL, "data=digits", "fit.log_every_steps=4"]
ARMS = {
    "supervised": ["model.dropout=0.2"],
    "recorded at other updates": ["fit.log_every_steps=5"],
    "recorded seldom": ["fit.log_every_steps=50"],
    "guidance": ["method=guidance", *GUIDE],
    "distillation": ["method=distillation", *TEACHER, "model.dropout=0.2"],
}


def the_run(root, steps):
    return next(run for run in Store(root).runs() if run.config["fit"]["max_steps"] == steps)


def record(run):
    rows = [{key: value for key, value in row.items() if not key.endswith("_s")} for row in run.metrics.rows]
    return rows, {part: run.result[part] for part in ("best", "last", "metrics", "selection")}


@pytest.mark.parametrize("arm", ARMS)
def test_a_longer_run_goes_on_from_a_kept_state_with_the_numbers_of_one_begun_anew(tmp_path, arm, capsys):
    words = [*WORDS, *ARMS[arm]]
    assert main([*words, "fit.max_steps=24", f"runs_dir={tmp_path}/anew"]) == 0
    assert main([*words, "fit.max_steps=12", KEPT, f"runs_dir={tmp_path}/longer"]) == 0
    assert main([*words, "fit.max_steps=24", f"runs_dir={tmp_path}/longer"]) == 0
    assert "goes on from step 12" in capsys.readouterr().err
    anew, longer = the_run(tmp_path / "anew", 24), the_run(tmp_path / "longer", 24)
    assert longer.result["cost"]["resumed_at_step"] == 12
    assert record(longer) == record(anew)
    first, second = (load_file(run.path / "network.safetensors") for run in (anew, longer))
    assert all(torch.equal(first[name], second[name]) for name in first)
    shorter = the_run(tmp_path / "longer", 12)
    assert shorter.is_complete and shorter.checkpoint("last").is_file()
    attempts = read_json(longer.path / "provenance.json")["attempts"]
    assert attempts[0]["continues"] == {"run": shorter.key, "step": 12}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "with fit.keep_checkpoints=true it could be continued"),
        ([KEPT, "optimizer.schedule=cosine"], "optimizer.schedule=cosine spreads over all updates"),
        ([KEPT, "fit.validate_every_steps=5"], "would have to divide 12"),
    ],
)
def test_what_stands_in_the_way_of_going_on_is_said(tmp_path, words, says, capsys):
    command = [*WORDS, *words, f"runs_dir={tmp_path}"]
    assert main([*command, "fit.max_steps=12"]) == 0
    assert main([*command, "fit.max_steps=24"]) == 0
    assert says in capsys.readouterr().err
    assert the_run(tmp_path, 24).result["cost"]["resumed_at_step"] == 0


def test_a_mistake_that_is_seen_before_the_first_step_leaves_no_run(tmp_path, capsys):
    words = [*WORDS, f"runs_dir={tmp_path}"]
    assert main([*words, "model.weights=/nowhere.safetensors"]) == 2
    assert main([*words, "model.width=10000000000"]) == 2
    assert not list(Store(tmp_path).runs())
    assert main(["list", "runs", f"runs_dir={tmp_path}"]) == 0
    assert "0 runs" in capsys.readouterr().out


def test_commands_take_the_names_that_list_runs_prints(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where there are no tables, all of which `remove` would read
    words = [*WORDS, f"runs_dir={tmp_path}", "name=one/arm"]
    for seed in (0, 1):
        assert main([*words, f"seed={seed}"]) == 0
    keys = [run.key for run in Store(tmp_path).runs()]
    capsys.readouterr()
    assert main(["list", "runs", f"runs_dir={tmp_path}"]) == 0
    shown = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("one/arm/")]
    assert [key.startswith(name) for key, name in zip(keys, shown, strict=True)] == [True, True]
    for name in (shown[0], keys[0], keys[0][:-6], f"{tmp_path}/{keys[0]}"):
        assert main(["list", "runs", name, f"runs_dir={tmp_path}"]) == 0
        out = capsys.readouterr().out
        assert shown[0] in out and shown[1] not in out
        assert main(["analyse", "gap", name, f"runs_dir={tmp_path}"]) == 0
        assert main(["report", name, f"runs_dir={tmp_path}"]) == 0
        assert f"{keys[0]}/report.html, table.md" in capsys.readouterr().out
    assert main(["remove", keys[0], "--yes", f"runs_dir={tmp_path}"]) == 0
    assert [run.key for run in Store(tmp_path).runs()] == keys[1:]


def test_a_run_whose_images_went_missing_is_not_continued() -> None:
    config = {"method": {}, "fit": {}, "data": {}}
    other = SimpleNamespace(config=config | {"data": {"absent": ["a/1.png"]}})
    assert "images of its set went missing" in _why_not(config, 4, other)


def test_a_run_that_exists_or_has_no_number_of_updates_is_begun_from_no_other(tmp_path) -> None:
    assert main([*WORDS, KEPT, "fit.max_steps=12", f"runs_dir={tmp_path}"]) == 0
    store = Store(tmp_path)
    config = {**the_run(tmp_path, 12).config, "fit": {**the_run(tmp_path, 12).config["fit"], "max_steps": 24}}
    longer = store.for_config(config)
    without = {**config, "fit": {**config["fit"], "max_steps": None}}
    assert begin_from_shorter(without, store.for_config(without), store) == {}
    assert begin_from_shorter(config, longer, store)["continues"]["step"] == 12
    state = longer.checkpoint("last")
    state.unlink()
    assert begin_from_shorter(config, longer, store) == {} and not state.exists()


def test_a_complete_run_is_used_and_done_anew_only_where_that_is_asked_for(command) -> None:
    lines: list[str] = []
    first = command("name=once", say=lines.append)
    attempt = read_json(first.path / "provenance.json")["attempts"][0]["started"]
    assert command("name=once", say=lines.append).path == first.path
    assert [line for line in lines if "is complete: its stored result is used" in line]
    assert read_json(first.path / "provenance.json")["attempts"][0]["started"] == attempt
    (first.path / "mark").touch()
    lines.clear()
    again = command("name=once", rerun=True, say=lines.append)
    assert again.is_complete and not (again.path / "mark").exists() and "stored result" not in "".join(lines)
