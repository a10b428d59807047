"""Words as a shell hands them over: values that Hydra's grammar does not take bare, and files with odd names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tutelage.config.compose import compose, readable, setting_value
from tutelage.config.groups import group_options
from tutelage.config.sweeps import expand
from tutelage.errors import UserError

CONF = Path(__file__).parents[2] / "conf"


@pytest.mark.parametrize(
    "value",
    [
        "~/data",
        "/mnt/~old/x",
        "/x/a&b",
        "it;s",
        "/x/a=b",
        "a#1",
        "Jürgen/Köln",
        "!",
        "a^b",
        "100%",
        "a b",
        "a@b",
    ],
)
def test_a_value_is_what_was_written(value: str) -> None:
    assert compose(["data=image_folder", f"data.root={value}", "data.fingerprint=x"])["data"]["root"] == value
    assert setting_value(f"data.root={value}") == value


@pytest.mark.parametrize("name", ["a,b.csv", "data (1)", "x[1]", "it's", "{y}", "a,b (c).csv"])
def test_a_file_that_is_there_needs_no_quotes_in_single_runs_and_sweeps(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir()
    for value in (name, f"{tmp_path}/{name}"):
        assert setting_value(f"data.root={value}") == value
        (command,) = expand(readable([f"data.root={value}"]))
        assert setting_value(command.words[0]) == value


@pytest.mark.parametrize(
    "word",
    [
        "seed=0,1",
        "a=[1,2]",
        "a={b: 1}",
        "a='x,y'",
        'a="x y"',
        "a=range(1,3)",
        "~a",
        "a=~",
        "a=${b}",
        "a=null",
        "+a=1",
    ],
)
def test_what_means_something_is_left_as_it_is(word: str) -> None:
    assert readable([word]) == [word]


def test_a_transfer_experiment_without_its_chain_names_the_chains() -> None:
    with pytest.raises(UserError, match=r"needs its chain: add chain=cifar10 \| digits \| imagenet"):
        compose(["experiment=transfer/pp"])


def test_a_file_of_ones_own_counts_over_a_shipped_variant_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = compose(["optimizer=adam"])["optimizer"]
    file = tmp_path / "conf/optimizer/adam.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("defaults:\n  - adamw\n  - _self_\nname: adam\nlr: 0.25\nweight_decay: 0.0\n")
    assert compose(["optimizer=adam"])["optimizer"] == shipped | {"lr": 0.25}
    file.unlink()
    assert compose(["optimizer=adam"])["optimizer"] == shipped


def named_choices() -> list[tuple[str, str]]:
    """The (group, choice) that the comments of configuration files name: beside a default, and as words to give."""
    found = set()
    for file in sorted(CONF.rglob("*.yaml")):
        text = file.read_text()
        for group, comment in re.findall(r"^ *- (?:override )?/?([a-z]+)@.*#(.*\|.*)$", text, re.MULTILINE):
            words = (re.fullmatch(r"([a-z_0-9]+)(?: \(.*)?", word.strip()) for word in comment.split("|"))
            found |= {(group, word[1]) for word in words if word}  # not: one of your own
        for group, listed in re.findall(r"\b([a-z]+)@[a-z_.]+=([a-z_0-9]+(?: \| [a-z_0-9]+)*)", text):
            found |= {(group, word) for word in listed.split(" | ")}
    return sorted(found)


@pytest.mark.parametrize(("group", "choice"), named_choices())
def test_the_choices_that_comments_name_are_there(group: str, choice: str) -> None:
    assert choice in group_options(group)
