"""One reader for the words of all commands, and help that comes from the same table."""

from __future__ import annotations

import importlib
import inspect

import pytest

from tutelage.cli.commands import COMMANDS, RENAMED
from tutelage.cli.main import main
from tutelage.cli.reader import Example, Flag, Option, help_of, overview, read
from tutelage.errors import UserError


def given(*words, name="remove"):
    return read(name, COMMANDS[name], words)


@pytest.mark.parametrize("words", [["state=failed"], ["--state", "failed"], ["--state=failed"]])
def test_an_option_is_written_in_any_of_three_ways(words):
    found = given("demo", *words, "--dry")
    assert (found.names, found.flags, found.options["state"]) == (["demo"], {"--dry"}, "failed")
    assert found.spoken == {"state"}
    assert found.options["runs_dir"] == "runs"
    assert (
        given("--runs-dir", "here").options["runs_dir"]
        == given("runs_dir=here").options["runs_dir"]
        == "here"
    )


def test_the_last_of_an_option_counts_and_other_spellings_of_a_flag_are_the_flag():
    assert given("state=failed", "--state", "complete").options["state"] == "complete"
    assert given("--multirun", "seed=0,1", name="train").flags == {"-m"}


@pytest.mark.parametrize("columns", [80, 140])
def test_help_breaks_between_words_and_its_examples_can_be_copied(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    pages = {name: help_of(name, command) for name, command in COMMANDS.items()} | {"": overview(COMMANDS)}
    assert [line for page in pages.values() for line in page.split("\n") if len(line) > columns] == []
    for name, command in COMMANDS.items():
        joined = pages[name].replace(" \\\n    ", " ")
        assert all(f"  tutelage {example}" in joined for example in command.examples)


def test_settings_are_passed_on_as_they_are_where_the_command_has_them():
    words = ["seed=0", "+a.b=1", "~model.depth", "model@guide=fcn", "data.root=a=b", "odd"]
    assert given(*words, name="train").settings == words  # Hydra says what is wrong with the last
    found = given("run", "data=digits", "data.batch_size=3", "+data.x=1", "split=train", name="evaluate")
    assert found.settings == ["data=digits", "data.batch_size=3", "+data.x=1"]
    assert found.as_settings("split", "device") == [*found.settings, "split=train"]
    assert given("similarity", "a", "b:guide", "data.x=1", name="analyse").verb == "similarity"


@pytest.mark.parametrize(
    ("words", "name", "says"),
    [
        (["--fast"], "train", "train has no option '--fast'; known: -m; settings are given as key=value"),
        (["--mulitrun"], "train", "did you mean '--multirun'? Known: -m;"),
        (["--al"], "remove", "did you mean '--all'? Known"),
        (["--state"], "remove", "--state needs a value"),
        (["stat=failed"], "remove", "did you mean 'state'?"),
        (["a", "b"], "remove", "remove takes 1 name, got 'b' too"),
        (["split=tset", "run"], "evaluate", "there is no split 'tset'; did you mean 'test'?"),
        (["split=test"], "evaluate", "evaluate needs a run, such as runs/demo/plain/<identity>, first; got 'split=test'"),
        (
            ["run", "model=fcn"],
            "evaluate",
            "evaluate takes split=, device=, hardware.devices=, runs_dir=, code=, data=, data.<key>=, got 'model=fcn'",
        ),
        (["digits", "sede=3"], "list", "list takes runs_dir=, state="),
        (["gaps", "a"], "analyse", "there is no 'analyse gaps'; did you mean 'gap'?"),
        (["similarity", "a", "b", "attacks=fgsm"], "analyse",
         "analyse similarity takes out=, split=, samples=, layers=, measure=, device=, hardware.devices=, runs_dir=, code=, data.<key>=, "
         "other.<key>=, got 'attacks=fgsm'"),
        (["gap", "a", "--epsilon", "3"], "analyse", "analyse gap has no option '--epsilon'; known: "),
        (["predict", "a", "--dry"], "scale", "scale predict has no option '--dry'"),
    ],
)  # fmt: skip
def test_what_a_command_does_not_take_is_said(words, name, says):
    with pytest.raises(UserError) as said:
        given(*words, name=name)
    assert says in str(said.value)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_file_and_a_help_that_names_all_it_takes(name, capsys, monkeypatch):
    command = COMMANDS[name]
    run = importlib.import_module(f"tutelage.cli.{command.module}").run
    assert list(inspect.signature(run).parameters) == ["given"]
    monkeypatch.setenv("COLUMNS", "80")
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.rstrip() == help_of(name, command)
    for entry in command.entries:
        word = entry.words if isinstance(entry, Example) else entry.name
        assert word in shown
        assert isinstance(entry, Flag | Option | Example) and entry.help
    below = shown[: shown.rfind("\n\n  tutelage")] if command.examples else shown
    assert all(
        len(line) <= 80 for line in below.splitlines() if not line.startswith(("usage", "       tutelage"))
    )
    if command.names[0]:
        assert main([name]) == 2  # nothing said: the help, and a mistake


def test_former_names_are_no_commands_and_name_one():
    assert not set(RENAMED) & set(COMMANDS) and set(RENAMED.values()) <= set(COMMANDS)


def test_several_ranks_are_refused_where_one_process_does_all(monkeypatch, capsys):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    from tutelage.cli.main import main

    assert main(["report", "demo"]) == 2
    assert "report works in one process, and 2 were started here" in capsys.readouterr().err
