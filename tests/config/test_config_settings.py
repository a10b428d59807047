"""Settings are typed, and say where a value is not one; what a constructor says of its arguments is worded in keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Literal

import pytest

from tutelage.config import settings
from tutelage.config.compose import compose
from tutelage.config.settings import SECTIONS, Fit, Hardware
from tutelage.engine.instantiate import construct, worded
from tutelage.errors import UserError
from tutelage.typed import Range, checked, describe, fits, in_keys, read


def test_every_section_of_a_command_is_read_and_cannot_be_changed():
    config = compose([])
    for name, kind in SECTIONS.items():
        settings = read(kind, config[name], name)
        assert dataclasses.asdict(settings) == config[name]
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(settings, next(iter(config[name])), None)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"max_stps": 3}, "there is no setting 'fit.max_stps'; did you mean 'max_steps'"),
        ({"accumulate": 0}, "fit.accumulate must be a whole number of at least 1, got 0$"),
        ({"accumulate": "two"}, r"fit.accumulate must be a whole number of at least 1, got 'two' \(str\)"),
        ({"protocol": "best_on_tset"}, "did you mean 'best_on_test'"),
        ({"stop_below": [[1]]}, "fit.stop_below must be a list of lists of 2 values"),
        ({"epochs": 2}, "either fit.max_steps or fit.epochs"),
        ({"max_steps": None}, "either fit.max_steps or fit.epochs"),
        ({"epochs": -1, "max_steps": None}, "fit.epochs must be a number above 0"),
        ({"gradient_clip": 0}, "fit.gradient_clip must be a number above 0"),
    ],
)
def test_a_wrong_setting_names_its_key(change, says):
    with pytest.raises(UserError, match=says):
        read(Fit, compose([])["fit"] | change, "fit")


def test_a_missing_setting_is_named_and_whole_fractions_become_whole():
    section = compose([])["fit"]
    assert read(Fit, section | {"max_steps": 1e3}, "fit").max_steps == 1000
    del section["accumulate"]
    with pytest.raises(UserError, match=r"the setting 'fit.accumulate' is missing"):
        read(Fit, section, "fit")


def test_half_precision_on_a_cpu_is_refused_by_the_settings_themselves():
    with pytest.raises(UserError, match=r"^hardware.precision=16-mixed needs a GPU"):
        read(Hardware, compose([])["hardware"] | {"precision": "16-mixed"}, "hardware")


@pytest.mark.parametrize(
    ("hint", "good", "bad", "words"),
    [
        (Annotated[int, Range(1)], [1, 7], [0, 1.5, True, "1"], "a whole number of at least 1"),
        (Annotated[float, Range(0, 1)], [0, 1, 0.5], [-0.1, 1.1], "a number of at least 0 and at most 1"),
        (Annotated[float, Range(0, above=True)], [1e-9], [0, -1], "a number above 0"),
        (Literal["a", 1], ["a", 1], ["b", True, 1.5, None], "one of a, 1"),
        (tuple[int, float], [[1, 2.5], (1, 2)], [[1], [1.5, 2], [1, 2, 3]], "a list of 2 values (a whole number, a number)"),
        (Sequence[int] | None, [[1], None, []], ["12", ["a"]], "a list of a whole number or nothing (null)"),
    ],
)  # fmt: skip
def test_values_and_annotations(hint, good, bad, words):
    assert describe(hint) == words
    assert all(fits(value, hint) for value in good)
    assert not any(fits(value, hint) for value in bad)
    for value in bad:
        with pytest.raises(UserError, match=r"^data.x must be "):
            checked("data.x", value, hint)


def test_arguments_in_backticks_are_keys_and_other_words_are_left():
    said = "`length`=3 and `augment.flip` of `length` rows; `other` and length stay"
    assert in_keys(said, "data", {"length", "augment"}) == (
        "data.length=3 and data.augment.flip of data.length rows; `other` and length stay"
    )
    assert in_keys("`seed` is none", "", {"seed"}) == "seed is none"


def test_what_a_constructor_refuses_is_said_in_keys_of_its_node():
    with pytest.raises(UserError, match=r"^data.min_length must be at most data.max_length"):
        construct("data", compose(["data=parity"])["data"] | {"min_length": 51})

    class Mine(UserError):
        pass

    with pytest.raises(Mine, match=r"^data.root is gone$"), worded("data", {"root"}):
        raise Mine("`root` is gone")


def test_a_name_that_is_no_utf8_is_named() -> None:
    with pytest.raises(UserError, match=r"data\.root=caf\\xe9 is not UTF-8") as caught:
        settings._check_numbers("", {"data": {"root": "caf\udce9"}})
    str(caught.value).encode()
    settings._check_numbers("", {"data": {"root": "caf\u00e9"}})
