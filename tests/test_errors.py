"""What a user reads of a mistake: the choices, the nearest name, what was refused, what lacked; and values against their annotations."""

from __future__ import annotations

import dataclasses
import errno
import resource
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, get_type_hints

import pytest

from tutelage import errors
from tutelage.config.settings import Hardware
from tutelage.errors import (
    RunFailed,
    StoppedBelow,
    UserError,
    choices,
    exit_code,
    gist,
    nearest,
    out_of_memory,
    reason_of,
    refused,
    visible,
)
from tutelage.typed import (
    Count,
    Positive,
    Range,
    Rate,
    checked,
    checking,
    describe,
    fits,
    in_keys,
    literals,
    read,
    whole,
)


def test_a_mistake_ends_with_two_and_a_run_that_failed_with_one():
    mistake = UserError("x")
    mistake.mistake = False
    assert [
        exit_code(one)
        for one in (UserError("x"), mistake, RunFailed("x"), StoppedBelow("x", step=3), ValueError("x"))
    ] == [2, 1, 1, 1, 1]
    assert StoppedBelow("x", step=3, value=0.5).facts == {"step": 3, "value": 0.5}


@pytest.mark.parametrize(
    "number",
    [errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG],
)
def test_what_the_file_system_refuses_is_a_message(number):
    said = str(refused(OSError(number, "no", "/a/b")))
    assert said == (
        "a name in this command is longer than the file system allows: 255 characters are common" if number == errno.ENAMETOOLONG
        else "cannot use /a/b: no. Give this user the right to it, or name another folder: runs_dir=..."
    )  # fmt: skip
    assert "cannot use a file: no" in str(refused(OSError(errno.EPERM, "no")))


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), OSError(errno.ENOENT, "none"), ValueError("x"), UserError("x")]
)
def test_what_it_does_not_refuse_is_none(error):
    assert refused(error) is None


def test_another_librarys_error_in_a_line():
    assert reason_of(ValueError("one\ntwo")) == "ValueError: one" and reason_of(KeyError()) == "KeyError:"
    assert len(reason_of(ValueError("x" * 400))) == 300


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "none is left"),
        (MemoryError("one\ntwo"), "one"),
        (RuntimeError("CUDA out of memory. Tried"), "CUDA out of memory. Tried"),
        (OSError("cannot allocate memory"), "cannot allocate memory"),
        (RuntimeError("std::bad_alloc"), "std::bad_alloc"),
        (ImportError("x: failed to map segment from"), "x: failed to map segment from"),
        (RuntimeError("can't start new thread"), "can't start new thread"),
        (RuntimeError("another"), None),
        (ValueError("out of memory"), None),
        (UserError("out of memory"), None),
    ],
)
def test_memory_that_is_not_there_is_a_message(monkeypatch, error, told):
    begin, end = (
        "there is not enough memory",
        "data.batch_size (fit.accumulate makes up for it in the update) or the model's size, or use hardware.precision=bf16-mixed",
    )
    for limit, within, advice in (
        (resource.RLIM_INFINITY, "", "Lower"),
        (3 * 2**29, " within the 1.5 GB that `ulimit -v` leaves a process", "Raise that limit, lower"),
    ):
        monkeypatch.setattr(resource, "getrlimit", lambda kind, limit=limit: (limit, 0))
        found = out_of_memory(error)
        assert (found and str(found)) == (
            None if told is None else f"{begin}{within}: {told}. {advice} {end}"
        )


def test_control_characters_are_spelled_out_but_tabs_and_line_ends():
    for code in (0, 8, 11, 13, 31, 127, 159, 0x200B, 0x200F, 0x202A, 0x202E, 0x2066, 0x2069, 0xD800, 0xDFFF):
        assert visible(f"a{chr(code)}b") == f"a{chr(code).encode('unicode_escape').decode()}b"
    kept = "".join(map(chr, (9, 10, 32, 126, 160, 0x200A, 0x2010, 0x2029, 0x202F, 0x2065, 0x206A, 0xE000)))
    assert visible(kept) == kept


@pytest.mark.parametrize(
    ("name", "known", "said"),
    [
        ("x", [], "known: none"),
        ("zzz", ["b", "a", "b"], "known: a, b"),
        ("aplha", ["beta", "alpha"], "did you mean 'alpha'? Known: alpha, beta"),
        ("q", tuple(map(str, range(12))), "known: 0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9"),
        ("q", tuple(map(str, range(13))), "known: 0, 1, 10, 11, 12, 2, 3, 4, 5, 6, 7, 8, ... (13 in all)"),
        ("a", [1, 2], "known: 1, 2"),
    ],
)
def test_the_choices_in_words(name, known, said):
    assert choices(name, known) == said
    assert choices("q", "abc", limit=2) == "known: a, b, ... (3 in all)"


@pytest.mark.parametrize(
    ("name", "known", "found"),
    [
        ("Batch-Size", ["batch", "batch_size"], "batch_size"),  # but for case, _ and -
        (
            "optimizer.lr",
            ["optimizer.rl", "optimizer.learning_rate"],
            "optimizer.learning_rate",
        ),  # its initials
        ("lr", ["learningRate", "x"], "learningRate"),
        ("learning_rate", ["lr", "x"], "lr"),
        ("model.lr", ["optimizer.learning_rate"], None),  # of another section
        ("l", ["width", "long"], None),
        ("dpeth", ["width", "depth"], "depth"),  # letters that changed places
        ("accurcy", ["accuracy", "loss"], "accuracy"),
        ("model.widht", ["model.width", "model.depth"], "model.width"),
        ("model.dep", ["model.width", "model.depth"], "model.depth"),
        ("modle.q", ["model.width", "model.depth"], "model.width"),
        ("dta.sz", ["data.size", "model.width"], "data.size"),  # of several sections, whole names
        ("data.q", ["data.size", "model.width"], "data.size"),
        ("xyz", ["abc"], None),
        ("a", [], None),
    ],
)
def test_the_name_that_was_probably_meant(name, known, found):
    assert nearest(name, known) == found


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("cuda", "gpu"),
        ("CUDA", "gpu"),
        ("fp16", "16-mixed"),
        ("bfloat16", "bf16-mixed"),
        ("float32", "32-true"),
    ],
)
def test_what_other_frameworks_call_it_is_known(word, name):
    hardware = get_type_hints(Hardware)
    key = "accelerator" if name == "gpu" else "precision"
    with pytest.raises(UserError, match=rf"got '{word}'; did you mean '{name}'\?$"):
        checked(f"hardware.{key}", word, hardware[key])
    assert nearest("float32", ["float64"]) == "float64"  # only where there is such a name


def test_a_message_without_what_there_is():
    assert (
        gist("no x; did you mean 'a'? Known: a, b\nand more") == "no x; did you mean 'a'"
        and gist("no x; known: a") == "no x"
    )
    assert gist("unknown: a, b") == "unknown: a, b"


# --- values against annotations


@pytest.mark.parametrize(
    ("hint", "inside", "outside", "words"),
    [
        (Range(1), (1, 2.5), (0.999,), "of at least 1"),
        (Range(1, 3), (1, 3), (0, 3.001), "of at least 1 and at most 3"),
        (Range(1, 3, above=True), (1.001, 3), (1,), "above 1 and at most 3"),
        (Range(1, 3, below=True), (1, 2.999), (3,), "of at least 1 and below 3"),
        (Range(0, above=True), (0.1, 1e9), (0, -1), "above 0"),
    ],
)
def test_ranges_hold_their_ends_or_not(hint, inside, outside, words):
    assert all(value in hint for value in inside) and not any(value in hint for value in outside)
    assert str(hint) == words


@pytest.mark.parametrize(
    ("hint", "fitting", "other", "words"),
    [
        (int, (1, -3, 10**30), (True, 1.0, "1", None), "a whole number"),
        (float, (1, 1.5), (True, "1", None), "a number"),
        (bool, (True, False), (1, 0, "true", None), "true or false"),
        (str, ("", "a"), (1, None), "text"),
        (type(None), (None,), (0, ""), "nothing (null)"),
        (int | None, (1, None), (1.5, "a"), "a whole number or nothing (null)"),
        (int | float, (1, 1.5), (True,), "a whole number or a number"),
        (Literal["a", 1], ("a", 1), ("b", True, 1.0, None), "one of a, 1"),
        (Count, (1,), (0, 1.5), "a whole number of at least 1"),
        (Positive, (0.1,), (0, -1), "a number above 0"),
        (Rate, (0, 0.999), (1, -0.1), "a number of at least 0 and below 1"),
        (Annotated[int, "a year"], (3,), ("x",), "a year"),
        (list[int], ([], [1], (1, 2)), ([1.5], "a", {"a": 1}, 3, None), "a list of a whole number"),
        (list, ([1, "a"], "a"), (), "list"),  # taken on trust
        (list[Any], ([1, "a"],), ("a",), "a list"),
        (Sequence[str], (["a"], ("a",)), ("a", [1]), "a list of text"),
        (Iterable[int], ([1],), (3, "a"), "a list of a whole number"),
        (
            tuple[int, str],
            ((1, "a"), [1, "a"]),
            ((1,), (1, "a", 2), ("a", 1)),
            "a list of 2 values (a whole number, text)",
        ),
        (tuple[int, int], ((1, 2),), ((1,),), "a list of 2 values, each a whole number"),
        (tuple[int, ...], ((), (1, 2, 3)), ((1, "a"),), "a list of a whole number"),
        (dict[str, int], ({}, {"a": 1}), ({"a": "b"}, {1: 1}, [1], None), "a mapping to a whole number"),
        (Mapping[str, Any], ({"a": "b"},), ([1],), "a mapping"),
        (dict, ({1: 2},), (), "dict"),
        (Callable[[int], int], (print, 3), (), ""),
        (type[int], (int, "a"), (), ""),
    ],
)
def test_which_values_fit_an_annotation_and_what_it_is_in_words(hint, fitting, other, words):
    assert (
        [value for value in fitting if not fits(value, hint)]
        == []
        == [value for value in other if fits(value, hint)]
    )
    assert not words or describe(hint) == words


@pytest.mark.parametrize(
    ("value", "hint", "found"),
    [
        (1e3, int, 1000), (1e3, float, 1e3), (1.5, int, 1.5), (2.0, int | None, 2), (2.0, int | float, 2.0), (2.0, str, 2.0),
        (0.0, Count, 0.0),
        ("2.0", int, "2.0"), (2.0, Count, 2),
    ],
)  # fmt: skip
def test_whole_fractions_are_whole_numbers_where_these_are_expected(value, hint, found):
    assert whole(value, hint) == found and type(whole(value, hint)) is type(found)


@pytest.mark.parametrize(
    ("value", "hint", "said"),
    [
        ("a", int, "k must be a whole number, got 'a' (str)"),
        (0, Count, "k must be a whole number of at least 1, got 0"),
        (1.5, Count, "k must be a whole number of at least 1, got 1.5 (float)"),
        (
            "alpah",
            Literal["alpha", "beta"],
            "k must be one of alpha, beta, got 'alpah'; did you mean 'alpha'?",
        ),
        ("zz", Literal["alpha", "beta"] | None, "k must be one of alpha, beta or nothing (null), got 'zz'"),
        (3, Literal["alpha"], "k must be one of alpha, got 3 (int)"),
        (True, int | float, "k must be a whole number or a number, got True (bool)"),
        ({"a": {"b": "c"}}, dict[str, dict[str, int]], "k.a.b must be a whole number, got 'c' (str)"),
        ({"a": "c"}, dict[str, Literal["x"]] | None, "k.a must be one of x, got 'c'"),
        ({1: 1}, dict[str, int], "k must be a mapping to a whole number, got {1: 1} (dict)"),
    ],
)
def test_a_value_that_does_not_fit_is_said_with_its_place(value, hint, said):
    with pytest.raises(UserError) as told:
        checked("k", value, hint)
    assert str(told.value) == said
    assert literals(Literal["a", 1] | None | Literal["b"]) == ["a", 1, "b"] and literals(int) == []


@dataclasses.dataclass
class Settings:
    depth: Count
    rate: float = 0.5
    names: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        if self.rate > 1:
            raise UserError("`rate` is above `depth.x` of `other`")


@pytest.mark.parametrize(
    ("section", "where", "said"),
    [
        (
            {"depht": 1},
            "model",
            "there is no setting 'model.depht'; did you mean 'depth'? Known: depth, names, rate",
        ),
        ({"rate": 1}, "", "the setting 'depth' is missing"),
        ({}, "a.b", "the setting 'a.b.depth' is missing"),
        ({"depth": 0}, "a", "a.depth must be a whole number of at least 1, got 0"),
        ({"depth": 1, "rate": 2.0}, "a", "a.rate is above a.depth.x of `other`"),
        ({"depth": 1, "rate": 2.0}, "", "rate is above depth.x of `other`"),
    ],
)
def test_a_section_that_is_no_settings_is_said_with_its_place(section, where, said):
    with pytest.raises(UserError) as told:
        read(Settings, section, where)
    assert str(told.value) == said
    assert read(Settings, {"depth": 2.0}) == Settings(2, 0.5, [])


def test_arguments_are_held_against_their_annotations():
    @checking
    def made(*ours: Any, depth: Count, **others: Any) -> Any:
        return ours, depth, others

    assert made("x", depth=3.0, other="y") == (("x",), 3, {"other": "y"}) and made.__name__ == "made"
    with pytest.raises(UserError, match=r"^`depth` must be a whole number of at least 1, got 0$"):
        made(depth=0)
    assert (
        in_keys("`a.b` and `c` and `d`", "data", {"a", "d"}) == "data.a.b and `c` and data.d"
        and in_keys("`a`", "", ["a"]) == "a"
    )
    assert errors.ONCE == {"once": True}


def test_the_names_that_an_option_lists_are_those_that_exist_each_once():
    known = ("flops", "size")
    assert (
        errors.named("columns", "flops,size,flops,", known) == known
        and errors.named("columns", "", known) == ()
    )
    with pytest.raises(errors.UserError, match="columns=flop,x: there is no 'flop'; did you mean 'flops'"):
        errors.named("columns", "flop,x", known)


@pytest.mark.parametrize(
    ("number", "said"),
    [(1, "1 run"), (0, "0 runs"), (1200, "1,200 runs"), (1.0, "1 run"), (0.25, "0.25 runs")],
)
def test_a_counted_noun(number, said):
    assert errors.counted(number, "run") == said
