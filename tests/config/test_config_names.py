"""The names of a command's run and of those it needs: what is composed for them, what is not, and which files speak of no need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tutelage.config import names
from tutelage.config.names import NameFinder, Names


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of configuration files; `var` and `both` are variants."""
    varied = {"model/var": "plain", "model/needs-var": "need", "model/both": "need"}
    monkeypatch.setattr(names, "folders", lambda: [tmp_path, tmp_path / "of the user"])
    monkeypatch.setattr(names, "readable", list)
    monkeypatch.setattr(
        names, "variant", lambda key: SimpleNamespace(of=varied[key]) if key in varied else None
    )
    for name, text in {
        "data/digits": "size: 1", "data/needy": "root: need:shards", "experiment/e": "needs: {}", "experiment/teacher": "needs: {}",
        "experiment/other": "needs: {}", "experiment/c": "name: ${x}\nneeds: {}", "model/plain": "width: 3  # needs: nothing",
        "model/need": "weights: need:x", "model/chained": "a: ${chain.images}", "model/comment": "# needs: a\nneedless: 1",
        "model/global": "# @package _global_\na: 1", "model/above": "defaults: [plain, _self_]",
        "model/above-need": "defaults: [plain, need]",
        "model/across": "defaults:\n- /data@place: digits\n- override /data: null",
        "model/across-need": "defaults:\n- override /data@x: needy",
        "model/named": "defaults: [/data/digits, plain@x]", "model/named-need": "defaults: [/data/needy]",
        "model/round": "defaults: [trip]", "model/trip": "defaults: [round]", "model/both": "width: 3",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


@pytest.mark.parametrize(("option", "silent"), [
    ("plain", True), ("need", False), ("chained", False), ("comment", True), ("global", False), ("above", True), ("above-need", False),
    ("across", True), ("across-need", False), ("named", True), ("named-need", False), ("round", True), ("missing", False), ("var", True),
    ("needs-var", False), ("both", True),
])  # fmt: skip
def test_a_file_that_speaks_of_no_need_nor_those_that_it_is_made_of(
    files: Path, option: str, silent: bool
) -> None:
    finder = NameFinder()
    assert finder._says_nothing(f"+model@guide={option}") == finder._says_nothing(f"model={option}") == silent
    (files / "of the user" / "model").mkdir(parents=True)
    (files / "of the user" / "model" / "plain.yaml").write_text(
        "needs: {}"
    )  # a user's file of the same name counts too
    assert NameFinder()._says_nothing("model=plain") is False


@pytest.mark.parametrize(("word", "plain", "need"), [
    ("fit.max_steps=5", True, None), ("+a.b=c", True, None), ("seed=3", True, None), ("seed=null", True, None), ("seed=a", False, None),
    ("chain.images=4", True, None), ("chain.images=x", False, None), ("~model.depth", True, None), ("~model", False, None),
    ("model=mlp", False, None), ("model@guide=mlp", False, None), ("a/b.c=1", False, None), ("needs.t.command=[x]", False, None),
    ("hydra.job.name=x", False, None), ("a.b=${x}", False, None), ("a.b=need:t", False, "t"), ("+a.b=need:t-1.x", False, "t-1.x"),
    ("a=need:t", False, None), ("needs.a=need:t", False, None), ("name=x", False, None), ("a.b=[need:t]", False, None),
])  # fmt: skip
def test_words_that_change_nothing_and_words_that_use_a_need(
    word: str, plain: bool, need: str | None
) -> None:
    assert bool(names._PLAIN_VALUE.match(word)) == plain
    match = names._USES_NEED.fullmatch(word)
    assert (match[1] if match else None) == need


def test_what_is_composed_for_the_names_of_a_command(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offered: Mapping[str, Sequence[str]] = {
        "t": ["experiment=teacher"],
        "u": ["experiment=other", "seed=1"],
        "v": [],
    }
    said = {
        ("experiment=e",): Names("e", offered), ("experiment=other",): Names("other"), ("experiment=c", "seed=3"): Names("c3"),
        ("experiment=teacher",): Names("teacher", {"t": ["experiment=teacher"]}, frozenset({"t"})),  # which needs itself
        ("experiment=c",): Names("c?", offered, frozenset({"u"}), composed=True), (): Names("adhoc"),
    }  # fmt: skip
    asked: list[Any] = []
    monkeypatch.setattr(names, "_compose", lambda words: (asked.append(tuple(words)), said[tuple(words)])[1])
    find = NameFinder()
    for words, found, composed in (
        (["experiment=e", "data=digits", "fit.max_steps=5", "~model.depth"], {"e"}, [("experiment=e",)]),
        (["experiment=e", "seed=4"], {"e"}, []),  # composed once
        (["experiment=e", "teacher.weights=need:t"], {"e", "teacher"}, [("experiment=teacher",)]),
        (
            ["experiment=e", "name=a", "name=mine", "guide.weights=need:u"],
            {"mine", "other"},
            [("experiment=other",)],
        ),
        (["experiment=e", "teacher.weights=need:v", "guide.weights=need:none"], {"e"}, []),
        (["experiment=c", "seed=3"], {"c3", "other"}, [("experiment=c",), ("experiment=c", "seed=3")]),
        (["experiment=c", "name=n"], {"n", "other"}, []),
        (["model=plain", "seed=1"], {"adhoc"}, [()]),
    ):
        asked.clear()
        assert (find(words), asked) == (found, composed), words


def test_the_files_that_a_file_is_made_of() -> None:
    text = "defaults: [a, /g/b@x, _self_, {c: d}, {/e@y.z: f/g}, {override /h: i}, {j: null}]\nk: 1"
    assert list(names._defaults(text, "m")) == [
        ("m", "a"),
        ("g", "b"),
        ("m/c", "d"),
        ("e/f", "g"),
        ("h", "i"),
    ]
    assert list(names._defaults("", "m")) == list(names._defaults("a: 1", "m")) == []
