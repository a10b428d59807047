"""What commands say, exactly: help, tables, advice, cards and messages; and the values at which they say something else."""

from __future__ import annotations

import io
import json
import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from tutelage.analysis.diagnosis import Probe, State
from tutelage.cli import (
    added,
    diagnose,
    doctor,
    evaluate,
    export,
    in_ranks,
    listing,
    predict,
    programme,
    programme_stages,
    reader,
    remove,
    serve,
    speed,
    sweep_words,
)
from tutelage.cli.programme_stages import Work
from tutelage.cli.reader import ANY, Command, Example, Flag, Given, Option
from tutelage.config.sweeps import SweptCommand
from tutelage.engine.signal import LayerSignal, Signal
from tutelage.errors import UserError
from tutelage.reporting.programme_file import Programme, Stage
from tutelage.reporting.render import csv_text
from tutelage.reporting.row import Row
from tutelage.runs.needs import Plan
from tutelage.runs.run import State as RunState
from tutelage.runs.store import Store

# --- reading words and help

COMMAND = Command(
    "module", "does a thing", ("<name> [key=value ...]", "--all"),
    ("More of it, in so many words that a line of forty letters does not hold them.",),
    (Flag("--all", "all of them", ("-a",)), Flag("--one", "of a verb", verbs=("go",)), Option("split", "test", "which", ("test", "train")),
     Option("out", "", "where to", value="file"), Example("data=<choice>", "the data"), Option("a_very_long_option_of_this", "1",
      "its help")),
    names=(1, 2), needs="a run,", settings=("data.", "model="), examples=("do this", "do a long thing with many words=of its own"),
)  # fmt: skip


def test_the_help_of_a_command_word_for_word(monkeypatch):
    monkeypatch.setenv("COLUMNS", "44")
    assert reader.help_of("do", COMMAND).splitlines() == [
        "usage: tutelage do <name> [key=value ...]",
        "       tutelage do --all",
        "",
        "Does a thing.",
        "",
        "More of it, in so many words that a line of",
        "forty letters does not hold them.",
        "",
        "  --all, -a                   all of them",
        "  --one                       of a verb",
        "  split=test                  which",
        "  out=file                    where to",
        "  data=<choice>               the data",
        "  a_very_long_option_of_this=1",
        "                              its help",
        "",
        "  tutelage do this",
        "  tutelage do a long thing with many \\",
        "    words=of its own",
    ]


def test_the_overview_of_commands(monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    shown = reader.overview(
        {"do": COMMAND, "other": COMMAND._replace(summary="x")}, ["more", "most"]
    ).splitlines()
    assert shown[:8] == ["usage: tutelage <command> [...]", "", "  do     does a thing", "  other  x", "",
     "Of installed packages: more, most", "",
                         "`tutelage <command> --help` says more. Examples:"]  # fmt: skip
    assert "Of installed packages" not in reader.overview({"do": COMMAND})


@pytest.mark.parametrize(
    ("said", "width"), [("50", 50), ("1", 1), ("120", 120), ("121", 120), ("0", 100), ("x", 100), ("", 100)]
)
def test_lines_are_as_wide_as_is_said_and_120_at_most(monkeypatch, said, width):
    monkeypatch.setenv("COLUMNS", said)
    monkeypatch.setattr(reader.os, "get_terminal_size", lambda *_: (_ for _ in ()).throw(OSError()))
    assert reader._width() == width
    monkeypatch.setattr(reader.os, "get_terminal_size", lambda *_: SimpleNamespace(columns=77))
    assert reader._width() == (width if said.isdigit() and int(said) else 77)


def test_words_are_read_by_what_a_command_takes():
    given = reader.read(
        "do", COMMAND, ["a", "-a", "--split", "train", "--out=x=y", "data.root=1", "+model=b", "~data.x", "b"]
    )
    assert (given.names, given.flags, given.spoken, given.settings) == (
        ["a", "b"],
        {"--all"},
        {"split", "out"},
        ["data.root=1", "+model=b", "~data.x"],
    )
    assert given.options == {"split": "train", "out": "x=y", "a_very_long_option_of_this": "1"}
    assert given.as_settings("out", "split", "a_very_long_option_of_this") == [
        *given.settings,
        "out=x=y",
        "split=train",
    ]
    assert (
        reader.read("do", COMMAND, ["a", "--a-very-long-option-of-this", "2"]).options[
            "a_very_long_option_of_this"
        ]
        == "2"
    )
    verbs = COMMAND._replace(verbs={"go": "x", "stop": "y"}, names=(2, None))
    assert reader.read("do", verbs, ["go", "--one", "n", "m", "o"]).names == ["n", "m", "o"]
    assert reader.read("do", verbs, ["go", "n"]).names == ["n"]  # the verb is one of two
    any_setting = COMMAND._replace(settings=ANY)
    assert reader.read("do", any_setting, ["a", "b", "c", "x.y=1", "~z"]).settings == ["c", "x.y=1", "~z"]


@pytest.mark.parametrize(
    ("changes", "words", "said"),
    [
        ({}, [], "do needs a run, first"),
        ({}, ["data.x=1"], "do needs a run, first; got 'data.x=1'"),
        ({}, ["a", "b", "c"], "do takes 2 names, got 'c' too"),
        ({"names": (0, 1)}, ["a", "b"], "do takes 1 name, got 'b' too"),
        ({}, ["a", "--one"],
         "do has no option '--one'; known: --all, split=, out=, a_very_long_option_of_this=; settings are given as key=value"),
        ({"settings": ()}, ["a", "--al"],
         "do has no option '--al'; did you mean '--all'? Known: --all, split=, out=, a_very_long_option_of_this="),
        ({"entries": (), "settings": ()}, ["a", "-x"], "do has no option '-x'; known: none"),
        ({}, ["a", "--out"], "do: --out needs a value"),
        ({}, ["a", "split=tset"], "there is no split 'tset'; did you mean 'test'? Known: test, train"),
        ({}, ["a", "optimizer.lr=1"],
         "do takes split=, out=, a_very_long_option_of_this=, data.<key>=, model=, got 'optimizer.lr=1'"),
        ({}, ["a", "modl=x"],
         "do takes split=, out=, a_very_long_option_of_this=, data.<key>=, model=, got 'modl=x'; did you mean 'model'?"),
        ({}, ["a", "dat=x"],
         "do takes split=, out=, a_very_long_option_of_this=, data.<key>=, model=, got 'dat=x'; did you mean 'data'?"),
        ({"entries": (), "settings": ()}, ["a", "x=1"], "do takes no settings, got 'x=1'"),
        ({"verbs": {"go": "x"}}, ["gone"], "there is no 'do gone'; did you mean 'go'? Known: go"),
        ({"verbs": {"go": "x"}, "names": (2, 2)}, ["go"], "do go needs a run, first; got 'go'"),
    ],
)  # fmt: skip
def test_words_that_a_command_does_not_take(changes, words, said):
    with pytest.raises(UserError) as told:
        reader.read("do", COMMAND._replace(**changes), words)
    assert str(told.value) == said


def test_help_is_wanted_where_it_is_asked_or_nothing_is_said():
    optional = COMMAND._replace(names=(0, 1))
    assert [
        reader.wants_help(one, words)
        for one, words in (
            (COMMAND, []),
            (optional, []),
            (optional, ["a", "-h"]),
            (COMMAND, ["--help"]),
            (COMMAND, ["a"]),
        )
    ] == [True, False, True, True, False]


def test_commands_that_packages_add(monkeypatch, tmp_path):
    good = Command("mine", "s", ("",))
    entries = [SimpleNamespace(name=name, value=f"m:{name}", load=load) for name, load in (
        ("train", None), ("mine", lambda: good), ("odd", lambda: 3),
        ("gone", lambda: (_ for _ in ()).throw(ImportError("no m"))))]  # fmt: skip
    monkeypatch.setattr(added, "_entries", lambda: entries)
    assert (
        added.names() == ["gone", "mine", "odd"]
        and added.find("mine") == ("mine", good)
        and added.find("train")[0] == "tutelage.cli.train"
    )
    for name, said in (("odd", "^the command 'odd' is added as m:odd, which must be a Command, got 3$"),
    ("gone", "^the command 'gone' is added as m:gone, which fails: no m$"),
                       ("mien", r"^there is no command 'mien'; did you mean 'mine'\?")):  # fmt: skip
        with pytest.raises(UserError, match=said):
            added.find(name)
    (tmp_path / "a.dist-info").mkdir()
    assert not added._may_add(str(tmp_path)) and not added._may_add(str(tmp_path / "none"))
    (tmp_path / "a.dist-info/entry_points.txt").write_text("[tutelage.commands]\n")
    (tmp_path / "zip").touch()
    assert added._may_add(str(tmp_path)) and added._may_add(str(tmp_path / "zip"))


# --- doctor, list, serve


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, ""), (True, "True"), (0.123456, "0.1235"), (3, "3"), ([3], "3"), ([3, 4], "3 x 4"), ([1, 2, 3], "1 x 2 x 3"),
        ([1, 2, 3, 4], "1, 2, 3, 4"), ([1, 2.0], "1, 2"),
        ([True, 2], "True, 2"), ([[1, 2], [3, 4]], "1 x 2; 3 x 4"), ([{"a": 1}, {"b": 2}], "a 1; b 2"),
        ({"a": [1, 2], "b": None}, "a 1 x 2, b "), ("f" * 64, "ffffffffffff..."),
        ("f" * 63, "f" * 63), ("g" * 64, "g" * 64), ((), ""), (["a", "b"], "a, b"),
    ],
)  # fmt: skip
def test_facts_are_written_as_a_user_would(value, shown):
    assert doctor._plain(value) == shown


def test_facts_stand_in_two_columns_and_empty_ones_nowhere(capsys):
    doctor._facts({"one": 1, "longer": [2, 3], "none": None, "much_longer_and_empty": ()})
    assert capsys.readouterr().out == "  one     1\n  longer  2 x 3\n"
    doctor._facts({"a": None})
    assert capsys.readouterr().out == ""


def test_layer_pairs_are_a_table():
    pair = {
        "guide": "stem",
        "guide_kind": "Conv2d",
        "guide_shape": (8, 4, 4),
        "network": "layers.0",
        "network_kind": "Linear",
        "network_shape": (16,),
    }
    console = Console(width=120, file=io.StringIO())
    console.print(doctor._pair_table([pair] * 10))
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert (
        lines[0].split("  ")
        and " ".join(lines[0].split())
        == "guide layer guide kind guide shape network layer network kind network shape"
    )
    assert (
        " ".join(lines[1].split()) == "01 stem Conv2d 8 x 4 x 4 layers.0 Linear 16"
        and lines[10].split()[0] == "10"
        and len(lines) == 11
    )


@pytest.mark.parametrize("wide", [41 + 5, 40 + 5])
def test_what_is_listed_stands_beside_its_name_where_forty_letters_have_room(monkeypatch, capsys, wide):
    monkeypatch.setattr(
        listing,
        "_options",
        lambda what: iter([("abcd", "one two three four five six seven eight nine ten"), ("b", "")]),
    )
    monkeypatch.setattr(listing, "width", lambda: wide)
    listing.run(Given(names=["data"]))
    shown = capsys.readouterr().out.splitlines()
    if wide == 46:
        assert shown == ["abcd  one two three four five six seven eight", "      nine ten", "b"]
    else:
        assert shown == ["abcd", "    one two three four five six seven eight", "    nine ten", "b"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (Given(names=["dta"]), "cannot list 'dta'; did you mean 'data'? Known: "),
        (Given(names=["data"], flags=["--watch"]), "--watch belongs to `list runs`"),
        (Given(names=["data"], spoken=["last"]), "last belongs to `list runs`"),
        (Given(names=["runs"], options={"last": "0"}), "last must be a whole number of at least 1, got '0'"),
        (Given(names=["runs"], options={"last": "x"}), "last must be a whole number of at least 1, got 'x'"),
    ],
)
def test_what_cannot_be_listed(given, said):
    with pytest.raises(UserError) as told:
        listing.run(given)
    assert str(told.value).startswith(said)


@pytest.mark.parametrize(
    ("port", "fine"), [("0", True), ("65535", True), ("65536", False), ("-1", False), ("x", False)]
)
def test_ports_of_a_server(port, fine):
    given = Given(options={"port": port})
    if fine:
        assert serve._whole("port", given, 0, 65535) == int(port)
    else:
        with pytest.raises(
            UserError, match=rf"^serve: port must be a whole number from 0 to 65535, got '{port}'$"
        ):
            serve._whole("port", given, 0, 65535)


# --- diagnose


def layer(name="fc", **changes):
    known = {
        "kind": "Linear",
        "shape": (8, 16),
        "scale": 0.51234,
        "correlation": 0.98765,
        "rank": 3.456,
        "dead": 0.25,
        "gradient": 0.0123,
        "agreement": -0.5,
    }
    return LayerSignal(**({"name": name} | known | changes))


def test_the_layers_of_a_network_as_a_table():
    def shown(layers, readable=()):
        console = Console(width=200, file=io.StringIO())
        console.print(diagnose._layer_table(Signal(tuple(layers), 2.0, 5.0), State(1.0, 0.5, readable)))
        return [
            " ".join(line.replace("│", " ").split())
            for line in console.file.getvalue().splitlines()
            if "│" in line
        ]

    assert shown([layer(), layer("out", shape=(2,), agreement=1.0)]) == [
        "fc 8 x 16 0.512 0.988 3.5 25% 0.012 -0.500",
        "out 2 0.512 0.988 3.5 25% 0.012 +1.000",
    ]
    assert shown([layer()], (0.875,)) == ["fc 8 x 16 0.512 0.988 3.5 25% 0.012 -0.500 88%"]
    for count, names in (
        (16, range(16)),
        (17, [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16]),
        (31, range(0, 31, 2)),
    ):
        assert [line.split()[0] for line in shown([layer(f"l{i}") for i in range(count)])] == [
            f"l{i}" for i in names
        ]


def test_what_diagnose_finds_in_words():
    layers = (
        layer(gradient=0.5, agreement=0.25),
        layer(gradient=8.0, agreement=0.5, correlation=0.125, rank=2.5),
        layer(gradient=2.0, agreement=0.75, correlation=0.5, rank=1.25),
    )
    lines = ["loss 2.000; gradient of the first layer over the last's: 0.25; gradients of two batches agree by +0.500 in the median layer",
             "at the last layer: two samples correlate by 0.500, effective rank 1.2 of 5.0 at the inputs"]  # fmt: skip
    assert diagnose._findings(Signal(layers, 2.0, 5.0), State(1.0, 0.5, ())) == lines
    assert (
        diagnose._findings(Signal(layers, 2.0, 5.0), State(1.0, 0.5, (0.9, 0.1, 0.25)))[1]
        == f"{lines[1]}, classes read 25% of 90%"
    )
    for dead, count in ((0.5, 2), (0.51, 3)):
        found = diagnose._findings(
            Signal((*layers[:2], replace(layers[2], dead=dead)), 2.0, 5.0), State(1.0, 0.5, ())
        )
        assert len(found) == count
    assert found[2] == "up to 51% of a layer's inputs are dead: the same for every sample"


def probe(label, loss, readable=()):
    return Probe(
        label,
        ("method=x", "data.root=a b"),
        40,
        1.6,
        State(loss, 0.25, readable),
        Signal((layer(),), 1.0, 1.0),
    )


@pytest.mark.parametrize(
    ("apart", "ahead", "said"),
    [
        (True, True, "ahead after these steps: guided; to try, beside the network alone:"),
        (
            False,
            True,
            "no guide of these is told apart from training alone after these steps: more of them (steps=200), or the training, decide:",
        ),
        (True, False, "no guide of these is ahead of training alone; to try first:"),
    ],
)
def test_what_diagnose_advises(monkeypatch, apart, ahead, said):
    from tutelage.analysis import diagnosis

    monkeypatch.setattr(diagnosis, "told_apart", lambda *_: apart)
    monkeypatch.setattr(
        diagnosis, "ranked", lambda found: sorted(found, key=lambda one: (one.label == "alone") is ahead)
    )
    subject = SimpleNamespace(data=SimpleNamespace(task=SimpleNamespace(monitor="accuracy")))
    found = diagnose._advice([probe("alone", 2.0), probe("guided", 1.0, (0.5, 0.75))], [], subject)
    rows = ["  alone: loss 2.000, accuracy 0.250; gradient first over last 1; 2 s",
            "  guided: loss 1.000, accuracy 0.250, classes read 62.5% (mean over layers); gradient first over last 1; 2 s"]  # fmt: skip
    command = "  tutelage train method=x 'data.root=a b'"
    assert found == [
        "after 40 steps, on validation samples:",
        *(rows[::-1] if ahead else rows),
        said,
        *[command] * (1 + ahead),
    ]


@pytest.mark.parametrize(
    ("text", "name", "steps"),
    [
        ("0", "rates", 0),
        ("20", "rates", 20),
        ("19", "rates", None),
        ("1", "rates", None),
        ("1", "steps", 1),
        ("0", "steps", 0),
        ("-1", "steps", None),
        ("x", "steps", None),
    ],
)
def test_how_many_steps_diagnose_takes(text, name, steps):
    if steps is None:
        fewest = " of at least 20" if name == "rates" else ""
        with pytest.raises(
            UserError, match=rf"^{name} must be a whole number{fewest}, or 0 for none, got '{text}'$"
        ):
            diagnose._steps(text, name)
    else:
        assert diagnose._steps(text, name) == steps


def test_what_diagnose_found_is_written(tmp_path, capsys):
    @dataclass
    class Verdict:
        sentence: str = "fine"

    seen, state = Signal((layer(),), 1.0, 1.0), State(1.0, 0.5, ())
    path = tmp_path / "new" / "found.json"
    assert diagnose._file("") is None and diagnose._file(str(path)) == path
    diagnose._write(path, seen, state, Verdict(), [probe("alone", 2.0)], Verdict("rates"))
    record = json.loads(path.read_text())
    assert (
        capsys.readouterr().out == f"written: {path}\n"
        and record["verdict"] == {"sentence": "fine"}
        and record["rates"] == {"sentence": "rates"}
    )
    assert (
        record["probes"][0]["label"] == "alone"
        and record["signal"]["loss"] == 1.0
        and record["state"]["metric"] == 0.5
    )


# --- evaluate, predict, export


def test_classes_that_a_network_does_not_number_alike(monkeypatch, caplog):
    from tutelage.engine import class_names

    monkeypatch.setattr(class_names, "names_in", lambda facts: facts)
    caplog.set_level(logging.WARNING, "tutelage")
    for theirs, ours in ((["a", "b"], ["a", "b"]), ([], ["a"]), (["a"], [])):
        evaluate._check_classes("k", theirs, ours)
    assert not caplog.records
    with pytest.raises(
        UserError, match=r"^k numbers the classes a, b, these data b, a: give data\.classes=\[a,b\]$"
    ):
        evaluate._check_classes("k", ["a", "b"], ["b", "a"])
    evaluate._check_classes("k", ["a", "b"], ["a", "c"])
    assert [one.getMessage() for one in caplog.records] == [
        "k was trained on the classes a, b and is judged on a, c, number by number"
    ]


def test_samples_that_a_network_has_seen_are_said(monkeypatch, caplog):
    from tutelage.engine import seen

    caplog.set_level(logging.WARNING, "tutelage")
    data, other = (
        SimpleNamespace(splits={"test": [1, 2, 3], "validation": [4]}),
        SimpleNamespace(splits={"validation": [4, 5]}),
    )
    for count, given, split, said in (
        (0, data, "test", []), (2, data, "test", ["k was trained on 2 of the 3 samples judged here: this is no test of it"]),
        (0, data, "validation", ["k was selected on this split: this is no test of it"]), (0, other, "validation", []),
        (1, data, "validation", ["k was trained on 1 of the 1 samples judged here: this is no test of it"]),
    ):  # fmt: skip
        caplog.clear()
        monkeypatch.setattr(seen, "seen_in_training", lambda *_, count=count: count)
        evaluate._check_seen(SimpleNamespace(key="k", config={}), data, given, split)
        assert [one.getMessage() for one in caplog.records] == said
    asks = []
    monkeypatch.setattr(seen, "seen_in_training", lambda *words: asks.append(words[3]) or 2)
    both = "trained, with or without labels, on"
    for unlabelled, how in (("rest", both), ({"root": "a"}, "trained on"), (None, "trained on")):
        caplog.clear()
        run = SimpleNamespace(key="k", config={"method": {"unlabelled": unlabelled}})
        evaluate._check_seen(run, data, data, "test")
        assert caplog.messages == [f"k was {how} 2 of the 3 samples judged here: this is no test of it"]
    assert asks == ["rest", "", ""]


def test_data_that_words_change_have_the_fingerprint_of_their_own_files(monkeypatch):
    monkeypatch.setattr(evaluate, "_fingerprint", lambda data: f"of {data['root']}")
    config = {"data": {"_target_": "a.B", "root": "r", "fingerprint": "f", "size": 8}}

    def found(*words):
        return evaluate._data_overrides(config, list(words))

    assert found() is None and found("data.size=9") == config["data"] | {"size": 9}
    assert found("data.root=x") == config["data"] | {"root": "x", "fingerprint": "of x"}
    assert found("+data.root=x", "data.fingerprint=g") == config["data"] | {"root": "x", "fingerprint": "g"}
    config["data"]["fingerprint"] = None
    assert found("data.root=x")["fingerprint"] is None
    assert found("data=digits")["_target_"].endswith("Digits")


def test_the_csv_of_predictions_and_their_rows():
    assert csv_text(["file", "class", "p"], [["=a", "x", 0.5], ["b", "-", 1.0]]) == (
        "file,class,p\n'=a,x,0.5\nb,-,1.0\n"
    )
    values, mask = torch.arange(130).view(65, 2), torch.ones(65, 1)
    rows = list(predict._features(values, mask))
    assert (
        [len(numbers) for numbers, _, _ in rows] == [64, 1]
        and rows[1][0] == [{"sample": 64}]
        and torch.equal(rows[1][1], values[64:])
    )
    assert rows[0][2].shape == (64, 1) and next(iter(predict._features(values)))[2] is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "a,b,c\n1,2,3\n",
            "takes its 2 inputs as they are, in numbers, no cell empty; got 3 columns, 0 cells empty",
        ),
        ("a,b\n1,\n3,4\n", "got 2 columns, 1 cells empty"),
        ("a,b\n1,x\n", "got 2 columns, 0 cells empty"),
    ],
)
def test_tables_that_are_no_inputs_of_an_exported_network(tmp_path, text, said):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        list(predict._numbers([str(path)], 2))
    path.write_text("a,b\n1,2\n3.5,4\n")
    ((numbers, values, none),) = predict._numbers([str(path)], 2)
    assert (
        values.tolist() == [[1.0, 2.0], [3.5, 4.0]]
        and numbers == [{"sample": 0}, {"sample": 1}]
        and none is None
    )
    for files in ([str(path), str(path)], [str(tmp_path)], [str(tmp_path / "t.png")]):
        missing = ", which is not there" if files[0].endswith("png") else ""
        with pytest.raises(
            UserError,
            match=rf"^this network takes rows of a table: give one file \(.*\), got {' '.join(files)}{missing}$",
        ):
            predict._frame(files)


def test_images_are_read_in_batches_and_what_is_none_is_said(tmp_path):
    from PIL import Image

    for number in range(65):
        Image.fromarray(np.full((4, 4), number, np.uint8)).save(tmp_path / f"{number:02d}.png")
    batches = list(predict._images([str(tmp_path)], (1, 4, 4), None, lambda x: x - 1))
    assert [len(names) for names, _, _ in batches] == [64, 1] and batches[1][0] == [
        {"file": str(tmp_path / "64.png")}
    ]
    assert batches[1][1].shape == (1, 1, 4, 4) and batches[1][1][0, 0, 0, 0].item() == pytest.approx(
        64 / 255 - 1
    )
    (tmp_path / "none").mkdir()
    (tmp_path / "empty.png").touch()
    (tmp_path / "bad.png").write_text("x")
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(tmp_path / "wide.png")
    for name, said in (("gone", "^there is no file or folder .*gone$"),
    ("none", "^this network takes images: .*, got the folder .*none, which holds none"), ("empty.png", "which is empty$"),
                       ("bad.png", "which is no image that Pillow reads$")):  # fmt: skip
        with pytest.raises(UserError, match=said):
            list(predict._images([str(tmp_path / name)], (1, 4, 4), None, lambda x: x))
    with pytest.raises(UserError, match=r"wide\.png is 6 x 4 pixels, the network takes 5 x 4$"):
        list(predict._images([str(tmp_path / "wide.png")], (1, 4, 5), None, lambda x: x))


@pytest.mark.parametrize(
    ("files", "words", "out", "said"),
    [
        (["a"], ["data=b"], "x.csv", r"^predict takes files, or data=\.\.\. with split=\.\.\., not both$"),
        (["a"], [], ".", r"^out must be a file in a folder that exists, got \.$"),
        (["a"], [], "none/x.csv", r"^out must be a file in a folder that exists, got none/x\.csv$"),
    ],
)
def test_predictions_go_into_a_file_that_can_be(tmp_path, monkeypatch, files, words, out, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said):
        predict.predict("run", files, words, split="test", out=out, runs_dir="runs", code="")
    (tmp_path / "export.json").touch()
    with pytest.raises(UserError, match=r"^an exported network has no data: name image files"):
        predict.predict(".", [], [], split="test", out="x.csv", runs_dir="runs", code="")


def test_where_an_export_lies():
    assert export._folder(Path("runs"), "a/b c/0123", "onnx", "none") == Path("runs/exports/a-b-c-0123-onnx")
    assert export._folder(Path("runs"), "a/b+c=d_e.f", "onnx", "int8") == Path(
        "runs/exports/a-b+c=d_e.f-onnx-int8"
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"normalise": "yes"}, "^normalise must be true or false, got 'yes'$"),
        ({"hub": "name"}, "^hub must be a repository such as my_name/my_network, got 'name'$"), ({"hub": "a/b/c"}, "^hub must be"),
    ],
)  # fmt: skip
def test_words_of_an_export(options, said):
    with pytest.raises(UserError, match=said):
        export.run(Given(names=["x"], options={"normalise": "true", "hub": ""} | options))


@pytest.mark.parametrize("hub", ["", "my_name/my-net.work"])
def test_an_export_is_made_as_its_words_say(monkeypatch, capsys, hub):
    monkeypatch.setattr(export, "export", lambda name, **options: f"{name} {options}")
    options = {"normalise": "false", "hub": hub}
    assert export.run(Given(names=["x"], options=options)) == 0
    assert capsys.readouterr().out.split() == f"x {options}".split()


def test_the_card_of_a_quantised_model_shows_both(monkeypatch):
    from tutelage.engine import quantise

    monkeypatch.setattr(quantise, "table", lambda facts, monitor: [f"{facts['kind']} by {monitor}"])
    monkeypatch.setattr(export, "_metrics", lambda source, store, result: [f"metrics of {result}"])
    result = {"selection": {"monitor": "loss"}}
    facts = FACTS | {"quantised": {"kind": "static"}}
    lines = export.card(made(CONFIG, result=result), NOTHING, DATA, facts, "").splitlines()
    assert f"metrics of {result}" in lines
    assert lines[-6].endswith("were not tried here. Then it was quantised to int8 (static):")
    assert lines[-5:-1] == ["", "```", "static by loss", "```"]


FACTS = {
    "format": "onnx", "answer": {"kind": "classes", "task": "classification", "names": ["a", "b"]}, "normalization": None,
     "input_shape": (1, 8, 8), "normalise": False,
    "inputs": "float32", "masked": False, "compared": 64, "largest_difference": 1.234e-6,
}  # fmt: skip


def made(config, attempts=(), result=None):
    return SimpleNamespace(
        name="demo/a", key="demo/a/0123", result=result or {}, config=config, attempts=list(attempts)
    )


CONFIG = {
    "method": {"_target_": "t.Guidance"},
    "model": {"_target_": "t.FCN"},
    "guide": {"x": 1},
    "teacher": None,
    "source": {"y": 1},
    "seed": 3,
}
DATA = {"sizes": {"train": 1000, "test": 50}, "name": "Digits"}
NOTHING = SimpleNamespace(named=lambda name: [])


def test_the_card_of_a_model_word_for_word():
    attempts = [{"command": ["tutelage", "train", "a b"]}, {"command": None}]
    assert export.card(made(CONFIG, attempts), NOTHING, DATA, FACTS, "MIT").splitlines() == [
        "---", "library_name: tutelage", "license: mit", "---", "", "# demo/a", "",
        "FCN for classification, written by `tutelage export` as onnx from the run `demo/a/0123`.", "", "## Use", "", "```python",
         "import tutelage", "",
        'network = tutelage.load_exported("<this folder>")', "outputs = network(inputs)  # logits or values", "```", "",
        "`inputs`: (n, 1, 8, 8) float32, any n, as the data module gives them.",
        "`tutelage predict <this folder> <files>` writes a CSV. Outputs: a, b.", "", "## Data", "",
         "Digits: 1,000 train, 50 test samples.", "", "## Metrics", "",
        "| test | this network | over the seeds of its arm |", "|---|---|---|", "", "## Training", "",
         "Method: Guidance under a guide and a source; seed 3.", "", "```",
        "tutelage train 'a b'", "```", "", "## Licence", "", "MIT", "", "## Limits", "",
        "On 64 validation samples the outputs of this folder lie within 1.2e-06 of the trained network's. It was judged "
        "on the test split of the data above alone: other data, rare classes "
        "and attacks were not tried here.",
        "Its probabilities were not calibrated: `tutelage analyse calibration` measures by how much they are off.",
    ]  # fmt: skip


def test_the_card_of_another_model_differs_where_it_does():
    facts = FACTS | {
        "format": "torch_export", "normalise": True, "masked": True, "normalization": [[0.5],
        [0.25]], "answer": {"kind": "values", "task": "regression", "names": [f"n{i}" for i in range(21)]},
    }  # fmt: skip
    lines = export.card(made(CONFIG | {"guide": None, "source": None}), NOTHING, DATA, facts, "").splitlines()
    assert (
        lines[2] == "license: other"
        and 'network = tutelage.load_exported("<this folder>", code=["torch_export"])' in lines
    )
    assert (
        "`inputs`: (n, 1, 8, 8) float32, any n, as they are before normalisation (images: 0 to 1). `mask`: (n, length), true where real."
        in lines
    )
    assert (
        f"`tutelage predict <this folder> <files>` writes a CSV. Outputs: {', '.join(f'n{i}' for i in range(20))}, ... (21 in all)."
        in lines
    )
    assert (
        "Method: Guidance; seed 3." in lines
        and "None was named: the weights are not licensed to anybody." in lines
        and "calibrated" not in lines[-1]
    )
    plain = export.card(
        made(CONFIG),
        NOTHING,
        DATA,
        facts | {"normalise": False, "answer": {"kind": "binary", "task": "t", "names": None}},
        "x",
    )
    assert (
        "normalised by mean and deviation [[0.5], [0.25]]. `mask`" in plain
        and "Outputs: t." in plain
        and "were not calibrated" in plain
    )
    assert ", ... (" not in export.card(
        made(CONFIG), NOTHING, DATA, FACTS | {"answer": facts["answer"] | {"names": ["n"] * 20}}, ""
    )


def test_a_folder_that_cannot_be_sent_stands(monkeypatch):
    import huggingface_hub

    done = []
    monkeypatch.setattr(
        huggingface_hub,
        "HfApi",
        lambda: SimpleNamespace(
            create_repo=lambda *a, **k: done.append(a), upload_folder=lambda **k: done.append(k)
        ),
    )
    assert export._push(Path("f"), "a/b") == "sent to a/b" and done == [
        ("a/b",),
        {"repo_id": "a/b", "folder_path": Path("f")},
    ]
    for error, reason in (
        (ValueError("one\ntwo"), "one"),
        (KeyError(), "KeyError"),
        (ValueError("x" * 300), "x" * 200),
    ):
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda error=error: (_ for _ in ()).throw(error))
        assert (
            export._push(Path("f"), "a/b")
            == f"not sent to a/b ({reason}): the folder is complete, `hf upload a/b f` sends it later"
        )


# --- programmes


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("", math.inf),
        ("15", 15.0),
        ("0.5", 0.5),
        ("inf", math.inf),
        ("0", None),
        ("-1", None),
        ("x", None),
        ("nan", None),
    ],
)
def test_the_minutes_of_a_programme(text, minutes):
    if minutes is None:
        with pytest.raises(
            UserError, match=rf"^minutes must be a number above 0, such as minutes=15, got '{text}'$"
        ):
            programme._minutes(text)
    else:
        assert programme._minutes(text) == minutes


def test_times_of_a_programme():
    assert [programme._time(s) for s in (0.4, 99.4, 100.0, 5999.0, 6000.0, 36000.0)] == [
        "0 s",
        "99 s",
        "2 min",
        "100 min",
        "1.7 h",
        "10.0 h",
    ]


def test_the_places_of_a_programme(tmp_path):
    one = Programme("p", "t", (), {"photos": "photographs"})

    def places(*words, spoken=(), options=None):
        return programme._places(one, Given(settings=words, spoken=spoken, options=options))

    others = ["a.x=1", "+b.c=2", "seed=1", "model=fcn", "model@guide=fcn"]
    assert places(f"photos={tmp_path}", *others) == ({"photos": str(tmp_path)}, others)
    with pytest.raises(
        UserError,
        match=r"^there is no place 'photo' in this programme, and no setting; did you mean 'photos'",
    ):
        places(f"photo={tmp_path}")
    with pytest.raises(UserError, match=r"^photos=/none: there is nothing; expected photographs$"):
        places("photos=/none")
    for words, more in (
        (["hydra/launcher=local"], {}),
        (["hydra.x=1"], {}),
        ([], {"spoken": ["processes"], "options": {"processes": "2"}}),
    ):
        with pytest.raises(UserError, match=r"^a programme does its runs one after the other"):
            places(*words, **more)


def works(*seconds, **more):
    known = {"stage": Stage("s", "what", worth=30.0, **more), "words": ()}
    return Work(**known, missing=[((f"w{i}",), one) for i, one in enumerate(seconds)])


def test_what_a_programme_will_do_as_a_table():
    def row(left, *seconds):
        console = Console(width=200, file=io.StringIO())
        console.print(programme._plan_table([works(*seconds)], left))
        (line,) = (
            " ".join(line.replace("│", "|").split())
            for line in console.file.getvalue().splitlines()
            if "│" in line
        )
        return line

    assert row(100.0, 10.0, 12.0) == "| s | what | 2 | 10 s | 22 s | all |"
    assert row(100.0, 10.0, 12.1) == "| s | what | 2 | 10 s to 12 s | 22 s | all |"
    assert row(22.0, 10.0, 12.0) == "| s | what | 2 | 10 s | 22 s | all |"
    assert row(21.9, 10.0, 12.0) == "| s | what | 2 | 10 s | 22 s | 1 of 2 |"
    assert row(5.0, 10.0, 1.0) == "| s | what | 2 | 1 s to 10 s | 11 s | 0 of 2 |"
    assert row(math.inf, math.nan, 10.0) == "| s | what | 2 | 10 s | 10 s | 1 of 2 |"
    assert row(math.inf, math.nan) == "| s | what | 1 | not known | 0 s | 0 of 1 |"


def test_texts_of_the_table_stand_left_and_numbers_right():
    console = Console(width=100, file=io.StringIO())
    console.print(programme._plan_table([works(10.0), works(5.0, 200.0)], 300.0))
    lines = console.file.getvalue().splitlines()
    assert lines[0].rstrip() == "in the order of worth per minute on this machine"
    assert lines[2] == "┃ stage ┃ decides ┃ missing ┃         each ┃ all of it ┃ fits into the time ┃"
    assert lines[4:6] == [
        "│ s     │ what    │       1 │         10 s │      10 s │                all │",
        "│ s     │ what    │       2 │ 5 s to 3 min │     3 min │                all │",
    ]


def test_what_a_stage_is_worth():
    assert works(20.0, math.nan, 40.0).seconds == 60.0 and works(20.0, 40.0).value == 0.5
    assert works(0.5).value == works(math.nan).value == 30.0 and works(1.5).value == 20.0


def test_the_next_run_is_the_first_untried_that_fits():
    commands = [(("a",), 10.0), (("b",), math.nan), (("c",), 5.0)]
    assert [programme._next(commands, tried, room) for tried, room in (
        (set(), 10.0), (set(), 9.9), (set(), 4.0), ({("a",)}, 10.0), ({("a",)}, math.inf), ({("a",), ("b",), ("c",)}, math.inf),
    )] == [("a",), ("c",), None, ("c",), ("b",), None]  # fmt: skip


def test_how_a_programme_ends_in_words(monkeypatch, capsys):
    monkeypatch.setattr(programme, "missing", lambda work, plan_of: list(range(len(work.missing))))

    def said(found, failed=(), over=False, left_out=0):
        code = programme._end(found, None, failed, over, 61.0, "runs", left_out)
        return code, capsys.readouterr().out.rstrip("\n")

    assert said([works()]) == (0, "the programme is complete (61 s)")
    assert said([], ["x"], left_out=2) == (
        1,
        "the programme is complete, but for 2 stages left out here (61 s)",
    )
    goes_on = ("The same command continues, here or on another machine to which runs/ was copied: "
               "complete runs are found, begun ones go on from "
               "their last checkpoint")  # fmt: skip
    assert said([works(1.0, 2.0), works(3.0, command=("x",))]) == (
        0,
        f"stopped after 61 s; missing: s (1).\n{goes_on}",
    )
    assert said([works(1.0, 2.0)], over=True) == (
        0,
        f"the time is over after 61 s; missing: s (2).\n{goes_on}",
    )


def test_stages_that_can_be_done_here_and_why_others_cannot(monkeypatch, tmp_path):
    monkeypatch.setattr(programme_stages, "_gpu", lambda: False)
    monkeypatch.setattr(
        Stage,
        "read_table",
        lambda self: (
            (Path(self.table), SimpleNamespace(seeds=(4, 5)))
            if self.table != "gone"
            else (_ for _ in ()).throw(UserError("no table"))
        ),
    )
    stages = (
        Stage("photos", table="t", words=("a={photos}",)), Stage("card", table="t", gpu=True, tiny=("w=1",)), Stage("gone",
         table="gone"), Stage("plain", table="t", words=("b=1",), tiny=("b=2",)),
        Stage("done", command=("x",)), Stage("failed", command=("y",), tiny=("z",)), Stage("new one", command=("y",)),
    )  # fmt: skip
    for label, code in (("done", 0), ("failed", 1)):
        path = programme_stages.note_path(Stage(label), str(tmp_path))
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"exit_code": code}))
    one = Programme("p", "t", stages, {"photos": "photographs"})
    found, left = programme_stages.works_of(one, {}, ["b=3", "c=4"], False, str(tmp_path))
    assert left == {
        "photos": "give photos=<photographs>",
        "card": "needs a GPU, and this machine has none",
        "gone": "no table",
    }
    assert [(work.stage.label, work.words) for work in found] == [
        ("plain", ("b=3", "c=4")),
        ("failed", ("b=3", "c=4")),
        ("new one", ("b=3", "c=4")),
    ]
    tiny, left = programme_stages.works_of(one, {"photos": "/p"}, ["c=4"], True, str(tmp_path))
    assert list(left) == ["gone"] and [(work.stage.label, work.words) for work in tiny] == [
        ("photos", ("a=/p", "c=4")), ("card", ("c=4", "w=1")), ("plain", ("b=2", "c=4")), ("failed", ("z",)), ("new one", ("-c", "pass")),
    ]  # fmt: skip
    assert [work.stage.seeds for work in tiny] == [(4,), (4,), (4,), (), ()] and found[0].stage.seeds == ()
    assert programme_stages.note_path(stages[-1], "r") == Path("r/reproduce/new-one.json")


def test_stages_are_ordered_by_worth_per_minute(monkeypatch):
    seconds = {"a": 60.0, "b": 30.0, "none": None}

    def timed(work, plan_of, speed):
        if work.stage.label == "wrong":
            raise UserError("first\nsecond")
        work.missing = [(("w",), seconds[work.stage.label])] if seconds[work.stage.label] else []

    monkeypatch.setattr(programme_stages, "timed", timed)
    left: dict[str, str] = {}
    given = [Work(Stage(label, table="t"), ()) for label in ("a", "wrong", "b", "none")] + [
        Work(Stage("c", command=("x",), minutes=0.25), ()),
        Work(Stage("d", command=("x",), minutes=2.0), ("own",)),
    ]
    found = programme_stages.measured(given, None, None, left)
    assert [work.stage.label for work in found] == ["c", "b", "a", "d"] and left == {"wrong": "first"}
    assert found[0].missing == [(("x",), 15.0)] and found[-1].missing == [(("own",), 120.0)]


def plan(**fit: Any) -> Plan:
    sections = {
        key: {"a": 1} for key in ("model", "guide", "teacher", "source", "frozen", "method", "hardware")
    }
    known = {"max_steps": 100, "epochs": None, "validate_every_steps": 30, "accumulate": 2}
    return Plan({**sections, "data": {"root": "r", "size": 3}, "fit": known | fit, "seed": 1}, "n", "0" * 12)


def test_how_long_a_run_takes_from_what_was_measured(monkeypatch):
    sizes = {"batch_size": 8, "steps_per_epoch": 20, "sizes": {"validation": 60, "test": 90}}
    asked = []
    monkeypatch.setattr(speed, "_measured", lambda config: asked.append(config) or (0.5, 7.0, sizes))
    one = speed.Speed()
    # 100 updates of 2 x 8 samples; 4 validations of 60 and a test of 90, each sample a third
    assert one.seconds(plan()) == pytest.approx(7 + 0.5 * (100 * 16 + (4 * 60 + 90) / 3))
    assert one.seconds(plan(max_steps=90)) == pytest.approx(7 + 0.5 * (90 * 16 + (3 * 60 + 90) / 3))
    assert one.seconds(plan(validate_every_steps=None)) == pytest.approx(7 + 0.5 * (1600 + (5 * 60 + 90) / 3))
    assert one.seconds(plan(max_steps=10)) == pytest.approx(7 + 0.5 * (160 + (60 + 90) / 3))
    assert one.seconds(plan(max_steps=None, epochs=3)) == pytest.approx(
        7 + 0.5 * (30 * 16 + (60 + 90) / 3)
    )  # of 20 updates, two a step
    assert one.seconds(plan(max_steps=None, epochs=0.01)) == pytest.approx(7 + 0.5 * (16 + (60 + 90) / 3))
    assert len(asked) == 1
    needed = plan()
    needed.config["data"]["root"] = "need:x"
    assert math.isnan(one.seconds(needed))
    before = one.seconds(plan())
    one.learn(plan(), before * 3)
    assert one.seconds(plan()) == pytest.approx(before * 3)
    one.learn(plan(), 0.0)
    assert one.seconds(plan()) == pytest.approx(before * 3)
    speed.Speed().learn(plan(), 5.0)  # of a kind that was not measured


def test_kinds_of_runs_differ_in_what_an_update_takes():
    def kind(**changes):
        config = plan().config | {"seed": 9} | changes
        return speed._kind(config)

    same = kind()
    for changes in (
        {"seed": 4},
        {"data": {"root": "other", "size": 3}},
        {"fit": {"max_steps": 1}},
        {"method": {"a": 1, "weight": 2, "deep": {"lr": 3}}},
        {"model": {"a": 1, "weights": "x", "init_seed": 2}},
    ):
        assert kind(**changes) == same
    for changes in (
        {"data": {"root": "r", "size": 4}},
        {"model": {"depth": 2}},
        {"method": {"loss": "x"}},
        {"hardware": {"devices": 2}},
    ):
        assert kind(**changes) != same


# --- remove, sweep, ranks


@pytest.mark.parametrize(
    ("name", "owner"), [("a/b", "one"), ("a/bc", None), ("tab/x/y", "two"), ("tab", None), ("tabx/y", None)]
)
def test_which_table_needs_runs_of_a_name(name, owner):
    assert remove._owner(name, {"a/b": "one", "tab/": "two"}) == owner and remove._owner(name, {}) is None


def test_the_size_of_a_folder_and_archives(tmp_path):
    (tmp_path / "a/.archive/one-1").mkdir(parents=True)
    (tmp_path / "a/.archive/file").touch()
    (tmp_path / "a/.archive/one-1/x").write_bytes(b"12345")
    (tmp_path / "a/y").write_bytes(b"123")
    (tmp_path / "a/link").symlink_to(tmp_path / "a/y")
    link = (tmp_path / "a/link").lstat().st_size
    assert (
        remove.size_of(tmp_path / "a") == 8 + link
        and remove.size_of(tmp_path / "none") is None
        and remove.size_of(tmp_path / "a/y") is None
    )
    store = Store(tmp_path)
    assert (
        remove.archived(store, "a/") == remove.archived(store, "") == [tmp_path / "a/.archive/one-1"]
        and remove.archived(store, "b") == []
    )
    with pytest.raises(UserError, match="is not below"):
        remove.archived(store, "../x")


@pytest.mark.parametrize(
    ("answer", "yes"), [("y", True), (" YES ", True), ("", False), ("n", False), ("yy", False)]
)
def test_only_yes_is_yes(monkeypatch, answer, yes):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", lambda question: answer if question == "Remove? [y/N] " else None)
    assert remove.agreed("Remove?") is yes
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: False))
    with pytest.raises(
        UserError, match=r"^Remove\? There is nobody to ask: give --yes, or --dry to look only$"
    ):
        remove.agreed("Remove?")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            Given(options=dict.fromkeys(("state", "method", "data", "since", "before"), "")),
            "^remove what\\? Give a name such as demo, a filter such as state=failed or model.width=64, or --all$",
        ),
        (
            Given(
                names=["a"],
                flags=["--archive", "--checkpoints"],
                options=dict.fromkeys(("state", "method", "data", "since", "before"), ""),
            ),
            "^give one of --archive and --checkpoints$",
        ),
        (
            Given(
                flags=["--archive"],
                options=dict.fromkeys(("state", "method", "data", "since", "before"), ""),
                settings=["seed=1"],
            ),
            "^--archive takes a name or --all, and no filter \\(settings\\): archived attempts have no state of their own$",
        ),
    ],
)
def test_what_is_to_be_removed_must_be_said(given, said):
    with pytest.raises(UserError, match=said):
        remove.run(given)


def row(key, state=RunState.COMPLETE, needs=()):
    return Row(key, key.rpartition("/")[0], 0, state, {}, {}, needs=needs)


def test_what_remaining_runs_need_remains_and_so_on(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "tutelage")
    monkeypatch.setattr(remove, "owners_of", lambda tables, store: {"a/tabled": "a table"})
    ids = [f"{i:012x}" for i in range(7)]
    rows = [
        row(f"a/x/{ids[0]}"),
        row(f"a/x/{ids[1]}", needs=(f"a/x/{ids[0]}",)),
        row(f"a/tabled/{ids[2]}"),
        row(f"a/x/{ids[3]}", RunState.RUNNING),
        row(f"a/x/{ids[4]}"),
        row(f"a/x/{ids[5]}"),
    ]
    outside = row(f"b/{ids[6]}", needs=(f"a/x/{ids[1]}",))
    going = remove.removable(Store(tmp_path), rows, "a", [*rows, outside])
    assert [one.key for one in going] == [f"a/x/{ids[4]}", f"a/x/{ids[5]}"]
    assert [one.getMessage() for one in caplog.records] == [
        f"kept: a/tabled/{ids[2]} (a table)", f"kept: a/x/{ids[0]} (needed by a/x/{ids[1]})",
         f"kept: a/x/{ids[1]} (needed by b/{ids[6]})", f"kept: a/x/{ids[3]} (running)",
    ]  # fmt: skip


def swept(words, *values):
    return SweptCommand(tuple(words.split()), values)


def test_arms_of_a_sweep_by_their_words(monkeypatch):
    def arms(*commands):
        monkeypatch.setattr(sweep_words, "expand", lambda words: commands)
        return {label: len(found) for label, found in sweep_words.arms_of(None, []).items()}

    assert arms(swept("a=1 seed=0", "seed=0"), swept("a=1 seed=1", "seed=1")) == {"this command": 2}
    assert arms(swept("experiment=demo/x seed=0", "seed=0"), swept("experiment=demo/x seed=1", "seed=1")) == {
        "demo/x": 2
    }
    assert arms(swept("method=m data=d k=1 model=n")) == {"method=m data=d model=n": 1}
    assert arms(swept("a=1", "a=1"), swept("a=2", "a=2")) == {"a=1": 1, "a=2": 1}


@pytest.mark.parametrize(
    ("there", "rank", "devices", "spoken", "shares", "done"),
    [
        (1, 0, "1", False, True, "work"), (1, 0, "2", True, True, "start 2"), (2, 0, "1", False, True, "together"),
        (2, 1, "2", True, True, "together"), (2, 0, "3", True, True, "2 processes"),
        (1, 0, "2", True, False, "work"), (2, 0, "1", False, False, "work"), (2, 1, "1", False, False, "nothing"),
    ],
)  # fmt: skip
def test_ranks_that_are_there_or_asked_for(monkeypatch, caplog, there, rank, devices, spoken, shares, done):
    from contextlib import contextmanager

    from tutelage.engine import shared_work
    from tutelage.jobs import parallel

    events: list[str] = []
    monkeypatch.setattr(in_ranks, "in_ranks", lambda: there > 1)
    monkeypatch.setattr(in_ranks, "_asked", lambda given: int(devices))
    monkeypatch.setattr(in_ranks, "join_environment", lambda: (rank, there))
    monkeypatch.setattr(in_ranks, "_start", lambda name, given, ranks: events.append(f"start {ranks}") or 5)
    monkeypatch.setattr(parallel, "die_with_parent", lambda: None)

    @contextmanager
    def together():
        events.append("together")
        yield

    monkeypatch.setattr(shared_work, "ranks_together", together)
    caplog.set_level(logging.INFO, "tutelage")
    given = Given(options={in_ranks.KEY: devices, "device": "cpu"}, spoken=[in_ranks.KEY] if spoken else [])

    def run():
        return in_ranks.run_in_ranks(
            "do",
            given,
            lambda _: events.append("work") or 3,
            check=lambda _: events.append("check"),
            shares=shares,
        )

    if done == "2 processes":
        with pytest.raises(
            UserError,
            match=r"^2 processes were started as ranks here \(srun, torchrun\), but hardware\.devices=3: leave that out$",
        ):
            run()
        return
    code = run()
    expected = {
        "work": (["work"], 3),
        "start 2": (["check", "start 2"], 5),
        "together": (["together", "work"], 3),
        "nothing": ([], 0),
    }[done]
    assert (events, code) == expected
    assert ("do is done in one process: there is nothing that ranks could share" in caplog.text) is (
        not shares and done == "work"
    )


@pytest.mark.parametrize("width", [53, 52])
def test_the_values_of_a_command_and_what_sets_each(monkeypatch, capsys, width):
    from tutelage.config import origins

    where = {
        "a": "conf/train.yaml",
        "bcd.e": "command: bcd.e=xy",
        "bcd.f": "conf/experiment/x.yaml",
        "g": "command: g={h: 1}",
    }
    defaults = {"a": 2, "bcd.e": "old", "g": {"h": 1}}
    monkeypatch.setattr(origins, "origins_and_defaults", lambda words: (where, defaults))
    monkeypatch.setattr(doctor, "width", lambda: width)
    styles = []
    monkeypatch.setattr(doctor, "say", lambda text, style="", letters=0: styles.append(style) or print(text))
    doctor._values(SimpleNamespace(config={"a": 1, "bcd": {"e": "xy", "f": None}, "g": [3]}), [])
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == "Values (and what sets each; * differs from the default of what was chosen)"
    # five letters of a key, twenty of a value, twenty-two of what sets it, and six between
    wide = [
        "  a      1                     conf/train.yaml",
        "* bcd.e  'xy' (default 'old')  command: bcd.e=xy",
        "* bcd.f  None                  conf/experiment/x.yaml",
        "* g      [3]                   command: g={h: 1}",
    ]
    narrow = [
        *("conf/train.yaml:", "  a      1", "command: bcd.e=xy:", "* bcd.e  'xy' (default 'old')"),
        *("conf/experiment/x.yaml:", "* bcd.f  None", "command: g={h: 1}:", "* g      [3]"),
    ]
    assert lines == (wide if width == 53 else narrow)
    assert styles[1:] == [
        "bold" if line[0] == "*" else "dim" if line[-1:] == ":" and line[:2] != "  " else "" for line in lines
    ]
