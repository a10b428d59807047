"""Runs, their records and what is read of them at every boundary: the last value that passes, and the first that does not."""

from __future__ import annotations

import errno
import json
import os
import platform
import stat
import time
import zipfile
from importlib import metadata
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

import pytest
import yaml

from tutelage.errors import UserError
from tutelage.runs import (
    bounded,
    folders,
    identity,
    json_lines,
    model_folders,
    pixel_scale,
    provenance,
    records,
    setting,
    words,
)
from tutelage.runs.bounded import (
    check_archive,
    check_yaml,
    load_json,
    load_yaml,
    parse_json,
    read_bytes,
    read_end,
)
from tutelage.runs.folders import is_held, lock_of, names_in, twin
from tutelage.runs.frozen_networks import frozen_named, frozen_read, networks_of, where_of
from tutelage.runs.layer_pairs import LayerPairs, described, layer_pairs
from tutelage.runs.needs import Plan, _inherit, _speaks_of, check_words, ensure, plan, used
from tutelage.runs.run import Run, RunBusy, State
from tutelage.runs.store import Store, check_name, name_of, short, shortest
from tutelage.runs.weights import Weights, node_of

# --- bounded files


def test_a_file_is_read_up_to_its_limit(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert read_bytes(path, 5) == b"12345"
    path.write_bytes(b"x" * 3_000_000)
    with pytest.raises(UserError, match=r"a is refused: it has 3 MB, expected at most 2$"):
        read_bytes(path, 2_000_000)
    with pytest.raises(IsADirectoryError):
        read_bytes(tmp_path, 5)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(
        UserError, match="pipe is refused: expected a regular file, found a pipe, socket or device"
    ):
        read_bytes(tmp_path / "pipe", 5)


def test_the_end_of_a_file_and_its_size(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert [read_end(path, most) for most in (2, 5, 9)] == [(b"45", 5), (b"12345", 5), (b"12345", 5)]
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(OSError):
        read_end(tmp_path / "link", 2)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="found something else"):
        read_end(tmp_path / "pipe", 2)


def test_json_is_as_deep_and_as_large_as_it_may_be(monkeypatch, tmp_path):
    deep = lambda n, one="[", other="]": (one * n + other * n).encode()  # noqa: E731
    assert bounded.DEPTH == 64 and parse_json(deep(64)) and parse_json(b"[" + b"[1]," * 100 + b"[]]")
    for one, other in (("[", "]"), ('{"a":', "}")):
        text = deep(65, one, other).replace(b":}", b":1}")
        with pytest.raises(ValueError, match="nested more than 64 deep"):
            parse_json(text)
    assert parse_json(b'["' + b"[{" * 99 + b'\\"["]') == [
        "[{" * 99 + '"['
    ]  # what stands in a text opens nothing
    monkeypatch.setattr(bounded, "NODES", 3)
    assert parse_json(b"[[],[]]") == [[], []] and parse_json(b'{"a": [[]]}') == {"a": [[]]}
    for text in (b"[[],[],[]]", b'[{"a": {}}, []]'):
        with pytest.raises(ValueError, match="it holds 4 lists and objects, expected at most 3"):
            parse_json(text)
    path = tmp_path / "a.json"
    path.write_bytes(b"[1,")
    with pytest.raises(UserError, match=r"a\.json is damaged: expected JSON, but "):
        load_json(path)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1", 1),
        ("[1, 2]", 3),
        ("{a: 1}", 3),
        ("[[], []]", 3),
        ("- &a [1, 2]\n- *a", 7),
        ("- &a x\n- *a\n- *a", 4),
        ("- &a {b: &c [1]}\n- *c\n- *a", 11),
    ],
)
def test_values_of_yaml_are_counted_with_aliases_spelled_out(monkeypatch, text, values):
    monkeypatch.setattr(bounded, "NODES", values)
    check_yaml(text)
    monkeypatch.setattr(bounded, "NODES", values - 1)
    with pytest.raises(ValueError, match=f"it holds more than {values - 1} values, aliases spelled out"):
        check_yaml(text)


@pytest.mark.parametrize(
    ("text", "depth"),
    [
        ("1", 1),
        ("[1]", 2),
        ("[]", 2),
        ("{a: [1]}", 3),
        ("- &a [[1]]\n- [*a]", 5),
        ("- &a [[1]]\n- *a", 4),
        ("- &a x\n- [*a]", 3),
        ("[[1], [[2]], []]", 4),
    ],
)
def test_levels_of_yaml_are_counted_with_aliases_spelled_out(monkeypatch, text, depth):
    monkeypatch.setattr(bounded, "DEPTH", depth)
    check_yaml(text)
    monkeypatch.setattr(bounded, "DEPTH", depth - 1)
    with pytest.raises(ValueError, match=f"it is nested more than {depth - 1} deep"):
        check_yaml(text)


@pytest.mark.parametrize("style", [{"indent": 2}, {"default_flow_style": True}, {"indent": 9}, {}])
@pytest.mark.parametrize("kind", ["lists", "mappings", "turns", "pairs"])
def test_what_is_not_looked_at_event_by_event_would_pass(tmp_path, kind, style):
    passed = 0
    for depth in range(1, 100):
        value: object = 1
        for level in range(depth):
            as_list = {"lists": True, "mappings": False, "turns": level % 2 == 0, "pairs": level % 4 < 2}[
                kind
            ]
            value = [value] if as_list else {"a": value}
        small = bounded._is_surely_small(text := yaml.dump(value, **style))
        passed += small
        if small:
            check_yaml(text)
    assert passed >= 3
    for text in ("a: &b 1", "a: *b", "a: '*'", "[" * 16, "- " * 16 + "x", "? " * 16 + "x"):
        assert not bounded._is_surely_small(text)
    narrow = "".join(" " * i + "a:\n" for i in range(99))  # a column each
    assert not bounded._is_surely_small(narrow) and bounded._is_surely_small(
        "".join(narrow.splitlines(True)[:32])
    )


def test_yaml_that_contains_itself_or_is_none_is_refused(tmp_path):
    for text in ("&a [*a]", "&a {b: [1, *a]}"):
        with pytest.raises(ValueError, match=r"'\*a' contains itself"):
            check_yaml(text)
    check_yaml("[*b]")  # an alias of nothing, which the parser names
    with pytest.raises(yaml.YAMLError):
        yaml.safe_load("[*b]")
    path = tmp_path / "a.yaml"
    for content in (b"[*b]", b"[", b"\xff\xfe\xff"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"a\.yaml is damaged: expected YAML, but "):
            load_yaml(path)
    path.write_text("- &a [1]\n- *a\n")
    assert load_yaml(path) == [[1], [1]]


def test_an_archive_may_unpack_to_four_times_itself_and_a_megabyte(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("one", bytes(2**20))
        archive.writestr("two", bytes(500))
    most = 4 * path.stat().st_size + 2**20
    check_archive(path)  # a megabyte and 500 bytes
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("three", bytes(9000))
    assert bounded.EXPANSION == 4 and most < 2**20 + 9500
    with pytest.raises(UserError, match=r"a\.zip is refused: its 0\.0 MB would unpack to 1 MB$"):
        check_archive(path)
    check_archive(path, 2**20 + 9500)
    with pytest.raises(UserError):
        check_archive(path, 2**20 + 9499)
    path.write_bytes(b"no archive")
    check_archive(path)
    check_archive(tmp_path / "missing")


# --- identity


def test_integers_of_four_thousand_digits_pass():
    assert identity.canonical(10**4000 - 1) and identity.canonical(-(10**4000) + 1)
    for number in (10**4000, -(10**4000)):
        with pytest.raises(UserError, match=r"'a\.b\[1\]' is an integer of more than 4,000 digits"):
            identity.identify({"a": {"b": [0, number]}})


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        ({"data": {"root": "a", "_reads_": "published"}}, {"data": {"_reads_": "published"}}),
        ({"data": {"root": "a", "fingerprint": "f"}}, {"data": {"fingerprint": "f"}}),
        ({"data": {"root": "a"}}, {"data": {"root": "a"}}),
        (
            {"data": {"root": "need:x", "_reads_": "published"}},
            {"data": {"root": "need:x", "_reads_": "published"}},
        ),
        ({"data": {"cache_mb": 5, "root": "a"}}, {"data": {"root": "a"}}),
        ({"data": {"tokenizer": "t"}}, {"data": {}}),
        ({"data": {"tokenizer": None}}, {"data": {"tokenizer": None}}),
        ({"model": {"weights": "w", "weights_digest": "d"}}, {"model": {"weights_digest": "d"}}),
        (
            {"model": {"weights": "w", "weights_digest": None}},
            {"model": {"weights": "w", "weights_digest": None}},
        ),
        (
            {"model": {"name": "n", "revision": "r", "content_digest": "d"}},
            {"model": {"content_digest": "d"}},
        ),
        ({"model": {"name": "n", "revision": "r"}}, {"model": {"name": "n", "revision": "r"}}),
        ({"needs": {"t": {"run": "a/b/1", "command": ["x"]}}}, {"needs": {"t": {"run": "1"}}}),
        ({"needs": {"t": {"run": None}}}, {"needs": {"t": {"run": None}}}),
        ({"setting": None, "frozen": {}, "seed": 0}, {"seed": 0}),
        ({"setting": "oracle", "frozen": {"a": {"b": 1}}}, {"setting": "oracle", "frozen": {"a": {"b": 1}}}),
        ({"optimizer": {"patience": 5, "power": 2.0}}, {"optimizer": {"power": 2.0}}),
        (
            {"optimizer": {"power": 5, "patience": 1.0}},
            {"optimizer": {"power": 5, "patience": 1.0}},
        ),  # another's silent value
        (
            {"method": {"unlabelled": {"root": "a", "_reads_": "published", "download": True}}},
            {"method": {"unlabelled": {"_reads_": "published"}}},
        ),
        ({"method": {"unlabelled": {"root": "a"}}}, {"method": {"unlabelled": {"root": "a"}}}),
    ],
)
def test_what_enters_an_identity(config, kept):
    assert identity.without_excluded(config) == kept


def test_a_mapping_that_is_no_dict_is_a_section_too():
    plain = {"data": {"root": "r", "fingerprint": "f", "a": {"b": [1, "x"]}}, "tags": ["t"]}
    other = MappingProxyType(
        {**plain, "data": MappingProxyType({**plain["data"], "a": MappingProxyType({"b": (1, "x")})})}
    )
    assert identity.without_excluded(other) == {"data": {"fingerprint": "f", "a": {"b": (1, "x")}}}
    assert (
        identity.identify(other)
        == identity.identify(plain)
        == identity.identify({"data": {"fingerprint": "f", "a": {"b": [1, "x"]}}})
    )


def test_messages_of_what_is_no_plain_data_name_its_place():
    with pytest.raises(
        UserError, match=r"^'the configuration' has the key 1 twice \(as text and as number\)$"
    ):
        identity.identify({1: 0, "1": 0})
    with pytest.raises(UserError, match=r"^'a\.b\[2\]\.c' must be plain data .*, got set: \{1\}$"):
        identity.identify({"a": {"b": [0, 1, {"c": {1}}]}})
    with pytest.raises(UserError, match=r"^'a \(a key\)\[0\]' must be plain data"):
        identity.identify({"a": {(b"x",): 0}})
    assert identity.canonical({"a": (1.0, 2.5, True, None)}) == {"a": [1, 2.5, True, None]}
    assert identity.identity_of("a/b/c") == "c" and identity.identity_of("c") == "c"
    assert [identity.is_need(one) for one in ("need:x", "needx", "a need:x", None, 3)] == [
        True,
        False,
        False,
        False,
        False,
    ]


# --- models of Hugging Face


def test_where_a_model_lies(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    folder.mkdir()
    with pytest.raises(UserError, match=r"`name`=.*model: the folder holds no config\.json"):
        model_folders.model_folder(str(folder))
    (folder / "config.json").write_text("{}")
    assert model_folders.model_folder(str(folder)) == folder
    asked = []
    monkeypatch.setattr(model_folders, "_cached", lambda name, revision: asked.append((name, revision)))
    for name in ("one", "an/other", "a/b/c", "./one", "~/one", "/one"):
        with pytest.raises(
            UserError, match=f"`name`={name}: there is no such folder.*hf download {name} --revision r$"
        ):
            model_folders.model_folder(name, "r")
    assert asked == [("one", "r"), ("an/other", "r")]
    with pytest.raises(UserError, match=r"hf download one$"):
        model_folders.model_folder("one")


def test_the_digest_of_a_model_is_that_of_what_counts(tmp_path):
    def digest(**files):
        for path in tmp_path.iterdir():
            path.unlink()
        for name, text in {"config.json": "{}", **files}.items():
            (tmp_path / name).write_text(text)
        return model_folders.model_digest(str(tmp_path))

    plain = digest()
    assert plain == digest(**{"README.md": "x", "pytorch_model.bin": "y"}) and len(plain) == 64
    others = [
        digest(**{name: "x"})
        for name in ("a.safetensors", "b.safetensors", "tokenizer.json", "preprocessor_config.json")
    ]
    assert len({plain, *others}) == 5 and digest(**{"a.safetensors": "y"}) not in others
    assert plain == digest()


# --- frozen networks and layer pairs


def test_frozen_networks_by_name():
    config = {
        "guide": {"a": 1}, "teacher": None, "frozen": {"x": {"b": 2}, "off": None},
        "method": {"objectives": {"one": {"network": "x"}, "two": {"network": ["guide", "x"]}, "three": {}, "off": None}},
    }  # fmt: skip
    assert frozen_named(config) == {"guide": {"a": 1}, "x": {"b": 2}} and frozen_named({}) == {}
    assert frozen_read(config) == ["x", "guide"] and [where_of(name) for name in ("teacher", "x")] == [
        "teacher",
        "frozen.x",
    ]
    for wrong in (3, [1], {"a": 1}):
        with pytest.raises(
            UserError,
            match="an objective's `network` is the name of a frozen network, or a list of names, got ",
        ):
            networks_of({"network": wrong})
    assert networks_of({"network": None}) == networks_of({}) == []


def test_layer_pairs_of_what_was_recorded():
    pairs = [{"guide": "g0", "network": "n0"}, {"guide": "g1", "network": "n1"}]
    rows = [
        {"step": 10, "train/alignment": 0.5, "train/similarity/01": 0.9, "train/similarity/02": True},
        {"step": 15, "validation/x": 1.0},
        {
            "step": 20,
            "train/alignment": 1.5,
            "train/similarity/02": 0.25,
            "train/similarity/extra/01": 0.75,
            "train/extra": 0.25,
        },
    ]
    (found,) = layer_pairs(rows, {"pairs": pairs}).values()
    assert (
        found.pairs == (("g0", "n0"), ("g1", "n1")) and found.steps == (10, 20) and found.mean == (0.75, 0.25)
    )
    assert str(found.values) == "((0.9, nan), (nan, 0.25))" and found.names == ["1 g0 > n0", "2 g1 > n1"]
    both = {
        "objectives": {
            "extra": {"pairs": pairs[:1]},
            "alignment": {"pairs": pairs},
            "none": {"pairs": []},
            "odd": {"pairs": ["x"]},
            "off": None,
            "silent": {"pairs": pairs},
        }
    }
    assert list(described(both)) == ["extra", "alignment", "silent"]
    named = layer_pairs(rows, both)
    assert named["extra"] == LayerPairs((("g0", "n0"),), (20,), ((0.75,),), (0.75,)) and list(named) == [
        "extra",
        "alignment",
    ]
    assert described({}) == {}


# --- words


def test_words_of_commands():
    assert [words.key_of(word) for word in ("+a.b=c=d", "++a=1", "~a", "a")] == ["a.b", "a", "a", "a"]
    assert words.value_of(["a=1", "b=2", "+a=3=4"], "a") == "3=4" and words.value_of(["a=1"], "b") is None
    assert words.joined(["a=1", "b=2"], ["+a=3", "c=4"]) == ["+a=3", "b=2", "c=4"]
    assert words.distinguishing([["a=1", "b=2"], ["a=1", "b=3", "c=4"]]) == [["b=2"], ["b=3", "c=4"]]
    assert words.distinguishing([["a=1"]]) == [["a=1"]] and words.distinguishing([]) == []
    assert (
        words.brief("method.objectives.soft.weight=1") == "soft.weight=1"
        and words.brief("a=method.objectives.x") == "a=x"
    )


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["a=1"], ["a=1"]), (["fit.epochs=3"], ["fit.epochs=3", "fit.max_steps=null"]), (["fit.max_steps=3"],
        ["fit.max_steps=3", "fit.epochs=null"]),
        (["fit.epochs=3", "fit.max_steps=null"], ["fit.epochs=3", "fit.max_steps=null"]), (["fit.epochs=null"], ["fit.epochs=null"]),
    ],
)  # fmt: skip
def test_a_run_has_one_length(given, found):
    assert words.one_length(given) == found
    with pytest.raises(
        UserError,
        match=r"^fit.max_steps=3 and fit.epochs=2: a run is so many updates or so many epochs long; give one of them$",
    ):
        words.one_length(["fit.epochs=2", "fit.max_steps=3"])


def test_experiments_are_called_by_their_last_part_where_that_tells_them_apart():
    assert words.told_apart([["experiment=a/x", "k=1"], ["experiment=a/y"]]) == [["x", "k=1"], ["y"]]
    assert words.told_apart([["experiment=a/x"], ["experiment=b/x"]]) == [["a/x"], ["b/x"]]
    assert words.told_apart([["experiment=a/x"], ["experiment=a/x"]]) == [["x"], ["x"]]


# --- needs


@pytest.mark.parametrize(
    "word", ["hydra.x=1", "+hydra.x=1", "hydra/launcher=a", "~hydra.x", "a=${b}", "a=x${oc.env:HOME}"]
)
def test_words_of_hydra_and_interpolations_are_refused_in_files(word):
    with pytest.raises(
        UserError, match=r"^where: the word '.*' is refused: a file gives settings and choices"
    ):
        check_words(["a=1", word], "where")
    check_words(["hydraulic=1", "a=$b", "a={b}", "b.hydra.x=1"], "where")


def test_needs_that_are_used_are_those_that_a_value_names():
    config = {
        "needs": {"a": "need:never"},
        "x": {"y": ["need:one", {"z": ("need:two", "needthree")}]},
        "w": 3,
        "v": "need:one",
    }
    assert used(config) == {"one", "two"} and used({}) == set() and used("need:x") == {"x"}


def test_what_a_command_speaks_of():
    assert [_speaks_of([word], "data") for word in ("data", "data.root", "data@x", "database", "a.data")] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_a_need_takes_what_changes_no_number_and_the_places_of_the_same_data():
    parent = {
        "runs_dir": "p", "logger": "p", "display": "p", "verbose": "p", "rerun": "p", "hardware": {"devices": 9},
        "data": {"name": "d", "_reads_": "published", "root": "p", "num_workers": 9, "download": "need:x", "batch_size": 5},
    }  # fmt: skip
    own = {
        "runs_dir": "o",
        "logger": "o",
        "rerun": "o",
        "hardware": {"devices": 1},
        "data": {"name": "d", "_reads_": "published", "root": "o", "num_workers": 1, "batch_size": 5},
    }

    def after(command, **changes):
        needed = json.loads(json.dumps(own | changes))
        _inherit(needed, parent, command)
        return needed

    free = after(["experiment=x"])
    assert {key: free.get(key) for key in ("runs_dir", "logger", "display", "verbose", "rerun")} == {
        "runs_dir": "p",
        "logger": "p",
        "display": "p",
        "verbose": "p",
        "rerun": "o",
    }
    assert free["hardware"] == {"devices": 9}
    # `download` names a need of the parent's, and its data differ by that: the places stay its own
    assert free["data"] == own["data"]
    del parent["data"]["download"]
    assert after([])["data"] == own["data"] | {"root": "p", "num_workers": 9}
    assert after(["+data.root=o", "logger=o", "hardware.threads=2"])["data"] == own["data"] | {
        "num_workers": 9
    }
    assert after(["logger=o"])["logger"] == "o" and after(["hardware.threads=2"])["hardware"] == {
        "devices": 1
    }
    assert (
        after([], data=own["data"] | {"batch_size": 6})["data"]["root"] == "o"
        and after([], data=None)["data"] is None
    )
    assert after([], data=own["data"] | {"root": "need:y"})["data"]["root"] == "need:y"


def test_needs_of_needs_come_first_and_once():
    leaf, mid = Plan({}, "l", "1"), None
    mid = Plan({}, "m", "2", {"leaf": leaf})
    top = Plan({}, "t", "3", {"mid": mid, "leaf": leaf, "other": Plan({}, "o", "4")})
    assert [one.name for one in top.prerequisites()] == ["l", "m", "o"] and top.key == "t/3"
    assert list(top.lines()) == ["t/3", "  mid: m/2", "    leaf: l/1", "  leaf: l/1", "  other: o/4"]
    assert list(leaf.lines(1, "x")) == ["  x: l/1"]
    found = plan({"name": "a"}, None, ["a=1"])
    assert (
        found.words == ("a=1",)
        and plan({"name": "a"}, None).words is None
        and found == plan({"name": "a"}, None)
    )


def test_a_need_that_another_process_made_meanwhile_is_not_made_again(tmp_path, monkeypatch):
    store = Store(tmp_path)
    planned = plan({"name": "top", "needs": {"x": ["x"]}}, lambda command: {"name": "need"})
    (need,) = planned.prerequisites()
    run = store.run(need.name, need.identity)
    states = iter([False, True, True])
    monkeypatch.setattr(Run, "is_complete", property(lambda self: next(states)))
    ensure(planned, store, lambda *_: pytest.fail("it was made again"))
    assert next(states, None) is None and run.name == "need"


# --- pixel scale, settings of transfer


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            {"normalization": "train", "channels": 3},
            "data.normalization=train gives others: set data.normalization=[[0.5,0.5,0.5],[0.5,0.5,0.5]], for",
        ),
        (
            {"normalization": None},
            "data.normalization=null gives others: set data.normalization=[[0.5],[0.5]], with a 0.5 for each channel, for",
        ),
    ],
)
def test_a_generator_is_told_what_numbers_to_set(data, said):
    with pytest.raises(UserError) as told:
        pixel_scale.check({"data": data, "method": {"_makes_": "generator"}})
    assert said in str(told.value)
    pixel_scale.check(
        {
            "data": data,
            "method": {
                "_makes_": "pseudo_data",
                "objectives": {"a": {"pseudo": "p", "normalization": None}, "b": {"normalization": "train"}},
            },
        }
    )


@pytest.mark.parametrize(
    ("config", "closed", "pseudo"),
    [
        ({}, False, False),
        ({"data": {"_reads_": "pseudo"}}, True, True),
        ({"data": {"_reads_": "published"}}, False, False),
        ({"method": {"_makes_": "pseudo_data"}}, True, False),
        ({"method": {"objectives": {"a": {"pseudo": "x"}}}}, True, True),
        ({"method": {"objectives": {"a": {"pseudo": None}}}}, False, False),
        ({"method": {"unlabelled": {"_reads_": "pseudo"}}}, True, True),
        ({"setting": "source_free"}, True, False),
        ({"setting": "oracle", "data": {"_reads_": "pseudo"}}, False, True),
        ({"setting": "source"}, False, False),
    ],
)
def test_which_runs_the_source_data_are_closed_to(config, closed, pseudo):
    assert setting.is_closed(config) is closed and setting.reads_pseudo(config) is pseudo
    found = SimpleNamespace(config={"name": "n"} | config, needs={}, key="n/1")
    if config.get("setting") != "oracle" or not pseudo:
        assert setting.check(found).setting == (config.get("setting") or ("source_free" if closed else None))


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        ({"_target_": "a"}, {"_target_": "b"}, False),
        ({"_target_": "a", "dataset": "x"}, {"_target_": "a", "dataset": "y"}, False),
        ({"_target_": "a", "fingerprint": "x"}, {"_target_": "a"}, False),
        ({"_target_": "a"}, {"_target_": "a"}, True),
        ({"_target_": "a", "classes": [1]}, {"_target_": "a"}, True),
        ({"_target_": "a", "classes": [1]}, {"_target_": "a", "classes": [2]}, False),
        ({"_target_": "a", "classes": [1, 3]}, {"_target_": "a", "classes": [2, 3]}, True),
        ({"_target_": "a", "classes": [1]}, {"_target_": "a", "classes": ["2"]}, True),
    ],
)
def test_which_data_share_a_class(first, second, shared):
    assert setting.overlap(first, second) is setting.overlap(second, first) is shared


# --- provenance


def test_folders_are_shortened_where_they_are_whole_parts(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
    here = str(tmp_path)
    for given, said in (
        (here, "."), (f"x={here}/a", "x=./a"), (f"{here}s/a", f"{here}s/a"), (f"['{here}', /home/me]", "['.', ~]"),
        ("/home/men", "/home/men"),
        ("/home/me:/home/me;/home/me\\x", "~:~;~\\x"),
    ):  # fmt: skip
        assert provenance.scrub(given) == said
    monkeypatch.chdir("/")
    assert provenance.scrub("/a / b") == "/a / b"


def test_code_of_ones_own_is_digested_and_kept_up_to_a_megabyte(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("x = 1\n")
    (tmp_path / "pack/sub").mkdir(parents=True)
    (tmp_path / "pack/a.py").write_text("a")
    (tmp_path / "pack/sub/b.py").write_text("b")
    config = {
        "model": {"_target_": "mine.Net"},
        "x": [{"_target_": "pack.sub.B"}, ({"_target_": "absent.C"},)],
        "y": {"_target_": 3},
        "z": {"_target_": "../x.D"},
    }
    found = provenance.own_code(config)
    assert list(found) == ["mine.py", "pack"] and all(len(digest) == 16 for digest in found.values())
    kept = tmp_path / "kept"
    provenance.keep_own_code(config, kept)
    assert sorted(str(path.relative_to(kept)) for path in kept.rglob("*.py")) == [
        "mine.py",
        "pack/a.py",
        "pack/sub/b.py",
    ]
    provenance.keep_own_code({}, kept)
    assert (kept / "mine.py").is_file()  # none of one's own: what was kept stays
    monkeypatch.setattr(provenance, "OWN_CODE_LIMIT_BYTES", 8)
    provenance.keep_own_code(config, kept)
    assert (kept / "mine.py").read_text() == "x = 1\n"
    monkeypatch.setattr(provenance, "OWN_CODE_LIMIT_BYTES", 7)
    provenance.keep_own_code(config, kept)
    assert not kept.exists()
    (tmp_path / "pack/a.py").write_text("c")
    assert provenance.changed_files([{}, {"own_code": found}], config) == ["pack"]
    assert (
        provenance.changed_files([{"own_code": found | {"gone.py": "1"}}], config) == ["pack"]
        and provenance.changed_files([], config) == []
    )
    assert provenance.commits(
        [
            {
                "code": {"commit": "a" * 40, "untracked": ["x"], "digest": "d" * 16},
                "own_code": {"mine.py": "e" * 16},
            }
        ]
    ) == ["aaaaaaaaa+dddddd mine.py:eeeeee"]


def test_what_git_says_is_read_word_by_word(monkeypatch):
    entries = ["# branch.oid " + "a" * 40, "# branch.head main", "? b.txt", "? a.txt", ""]
    diff = "x" * 10
    monkeypatch.setattr(
        provenance, "_git", lambda folder, first, *rest: "\0".join(entries) if first == "status" else diff
    )
    asked = provenance.repository.__wrapped__
    assert asked(Path()) == {"commit": "a" * 40, "changed": False, "untracked": ["a.txt", "b.txt"]}
    for kind in ("1 .M x", "2 R. x", "u UU x"):
        entries[2:] = [kind]
        monkeypatch.setattr(provenance, "DIFF_LIMIT_BYTES", 10)
        found = asked(Path())
        assert found["changed"] and found["diff"] == diff and "untracked" not in found
        monkeypatch.setattr(provenance, "DIFF_LIMIT_BYTES", 9)
        assert asked(Path())["diff"] == "x" * 9 + "\n[cut]\n"
    entries[:] = ["# branch.oid (initial)", "1 A. x", *(f"? {i:03d}" for i in range(101))]
    found = asked(Path())
    assert (
        found["commit"] is None
        and found["changed"]
        and "diff" not in found
        and len(found["untracked"]) == 100
    )
    monkeypatch.setattr(provenance, "_git", lambda *_: None)
    assert asked(Path()) is None


def test_packages_whose_code_changed(monkeypatch):
    monkeypatch.setattr(provenance, "package_digests", lambda: {"a": "1", "b": "2", "new": "3"})
    attempts = [{}, {"code": {"packages": {"a": "1", "b": "9", "old": "4"}}}]
    assert (
        provenance.changed_packages(attempts) == ["b", "new", "old"]
        and provenance.changed_packages([{"code": {}}]) == provenance.changed_packages([]) == []
    )


@pytest.mark.parametrize(("asked", "found"), [
    (["torch>=2", "numpy ; extra == 'x'", "torch[all]", "none-such-thing", "PyYAML"], ["PyYAML", "numpy", "torch"]), ([], []), (None, []),
    (metadata.PackageNotFoundError, []),
])  # fmt: skip
def test_versions_of_the_packages_that_are_asked_for(monkeypatch, asked, found):
    def requires(name):
        if isinstance(asked, type):
            raise asked
        return asked

    monkeypatch.setattr(metadata, "requires", requires)
    versions = provenance.packages.__wrapped__()
    assert list(versions) == found and all(versions[name] == metadata.version(name) for name in found)


# --- records


@pytest.mark.parametrize(
    ("cell", "safe"),
    [
        ("=1", "'=1"),
        ("+a", "'+a"),
        ("-a", "'-a"),
        ("@a", "'@a"),
        ("\ta", "'\ta"),
        ("-1.5", "-1.5"),
        ("+2", "+2"),
        ("-", "-"),
        ("a=1", "a=1"),
        ("\x1b", "\\x1b"),
        (3, 3),
        (None, None),
        ("", ""),
    ],
)
def test_cells_that_a_spreadsheet_would_compute_are_quoted(cell, safe):
    assert records.spreadsheet_safe(cell) == safe


def test_rows_beyond_a_step_are_dropped_and_counted(tmp_path):
    writer = json_lines.MetricsWriter(tmp_path / "m.jsonl")
    for step in (1, 2.5, 3):
        writer.write({"step": step})
    writer.flush()
    assert writer.truncate_after(3) == 0 and writer.rows == 3
    assert (
        writer.truncate_after(2.5) == 1
        and writer.rows == 2
        and writer.truncate_after(0) == 2
        and writer.rows == 0
    )
    assert (tmp_path / "m.jsonl").read_text() == ""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", ""),
        ('{"a": 1}\n', '{"a": 1}\n'),
        ('{"a": 1}', '{"a": 1}\n'),
        ('{"a": 1}\n{"b"', '{"a": 1}\n'),
        ('{"b"', ""),
        ("1\n[2]", "1\n[2]\n"),
    ],
)
def test_a_torn_line_is_mended_and_a_whole_one_ended(tmp_path, before, after):
    path = tmp_path / "a.jsonl"
    path.write_text(before)
    json_lines._repair_tail(path)
    assert path.read_text() == after


def test_rows_are_read_whatever_their_line(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text(
        '\n{"step": 1}\n  \n{"no": 1}\n{"step": "x"}\n[1]\n{"step": 2.5, "a": "NaN"}\n' + "x" * 99
    )
    rows, dropped = json_lines.read_metrics(path)
    assert [row["step"] for row in rows] == [1, 2.5] and rows[1]["a"] != rows[1]["a"]
    assert dropped == [
        "m.jsonl: line 4 is torn or broken and was dropped: b'{\"no\": 1}'",
        'm.jsonl: line 5 is torn or broken and was dropped: b\'{"step": "x"}\'',
        "m.jsonl: line 6 is torn or broken and was dropped: b'[1]'",
        f"m.jsonl: line 8 is torn or broken and was dropped: {b'x' * 60!r}",
    ]
    assert json_lines.read_metrics(tmp_path / "none") == ([], [])


def test_nothing_is_written_through_a_link_or_into_a_pipe(tmp_path):
    (tmp_path / "target").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        with pytest.raises(UserError, match=f"{name} is refused: expected a regular file to write to"):
            json_lines._append(tmp_path / name, "x")
    with pytest.raises(UserError, match="link is refused"):
        json_lines.MetricsWriter(tmp_path / "link")
    assert (tmp_path / "target").read_text() == "mine"


def test_files_are_put_on_the_disk_before_what_relies_on_them(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(records, "_sync", lambda path: synced.append(path.name))
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    records.write_text(one, "1", durable=False)
    assert synced == []
    records.write_text(two, "2")
    assert synced == [f".two.{os.getpid()}.tmp", tmp_path.name]
    synced.clear()
    records.write_json(three, {}, after=[one, two])
    assert set(synced[:3]) == {f".three.{os.getpid()}.tmp", "one", "two"} and synced[3:] == [tmp_path.name]
    synced.clear()
    records.sync_all([])
    assert synced == []
    monkeypatch.undo()
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
    )
    records.write_text(two, "2")
    assert synced == [False, True]  # the file, then its folder


# --- folders, locks, the store


def begun(store, name, number, **config):
    """A run as its folder alone: a configuration."""
    run = Run(store.root / name / f"{number:012x}", name=name, root=store.root)
    run.path.mkdir(parents=True)
    (run.path / "config.yaml").write_text(yaml.safe_dump({"name": name, **config}))
    return run


def test_folders_that_a_name_may_stand_for(tmp_path, monkeypatch):
    for name in ("b/c", "a", ".hidden", "0123456789ab", "0123456789abc", "b/0123456789ab/x"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    found = [str(path.relative_to(tmp_path)) for path in names_in(tmp_path)]
    assert found == ["0123456789abc", "a", "b", "b/c"]
    clock = [time.monotonic()]
    monkeypatch.setattr(folders.time, "monotonic", lambda: clock[0])
    names_in(tmp_path)
    (tmp_path / "new").mkdir()
    clock[0] += 10.0
    assert len(names_in(tmp_path, within_s=10.0)) == 4
    clock[0] += 0.1
    assert len(names_in(tmp_path, within_s=10.0)) == 5 and names_in(tmp_path / "none") == []


def test_of_several_folders_of_an_identity_a_complete_one_is_the_run(tmp_path):
    store, digits = Store(tmp_path), f"{7:012x}"
    assert twin(tmp_path, digits) is None
    first, second = begun(store, "a", 7), begun(store, "b", 7)
    assert twin(tmp_path, digits, begun=True) == first.path
    (second.path / "result.json").write_text("{}")
    assert twin(tmp_path, digits, begun=True) == second.path
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / digits).symlink_to(first.path)
    assert (
        twin(tmp_path, digits, begun=True) == second.path
        and lock_of(tmp_path, "x") == tmp_path / ".locks/x.lock"
    )


def test_a_lock_that_is_no_file_or_a_link_is_held_by_nobody(tmp_path):
    assert not is_held(tmp_path / "none")
    held = tmp_path / "x.lock"
    with folders.lock_at(held):
        (tmp_path / "link").symlink_to(held)
        assert is_held(held) and not is_held(tmp_path / "link")
        assert folders._is_held_to_readers(held)
    assert (
        not is_held(held)
        and not folders._is_held_to_readers(held)
        and not folders._is_held_to_readers(tmp_path / "none")
    )


def test_a_lock_is_taken_by_one_and_free_when_it_is_closed(tmp_path, monkeypatch):
    path = tmp_path / "lock"
    assert folders.take(path) is None  # none there
    path.touch()
    held = folders.take(path)
    assert isinstance(held, int) and folders.take(path) is None and folders._is_held_to_readers(path)
    os.close(held)
    assert not folders._is_held_to_readers(path)
    again = folders.take(path)
    assert isinstance(again, int)
    os.close(again)
    real = os.fstat
    monkeypatch.setattr(folders.os, "fstat", lambda one: SimpleNamespace(st_nlink=0))  # removed meanwhile
    assert folders.take(path) is None
    monkeypatch.setattr(folders.os, "fstat", real)
    monkeypatch.setattr(folders, "fcntl", None)
    assert folders.take(path) is None and folders._is_held_to_readers(path) is False


def test_a_folder_is_set_aside_also_on_another_disk(tmp_path, monkeypatch):
    for name in ("a", "b", "c", "d"):
        (tmp_path / "names" / name).mkdir(parents=True)
    first = folders.set_aside(tmp_path / "names/a", tmp_path)
    second = folders.set_aside(tmp_path / "names/b", tmp_path)
    assert [one.name.partition("-")[0] for one in folders.left_aside(tmp_path)] == ["a", "b"]
    assert first.parent == second.parent == tmp_path / ".removed" and not (tmp_path / "names/a").exists()
    rename = Path.rename

    def refusing(number):
        def renamed(self, target):
            if Path(target).parent.name == ".removed":
                raise OSError(number, "refused")
            return rename(self, target)

        return renamed

    monkeypatch.setattr(Path, "rename", refusing(errno.EXDEV))
    third = folders.set_aside(tmp_path / "names/c", tmp_path)
    assert third.parent == tmp_path / "names" and third.name.startswith(".removed-c-") and third.is_dir()
    monkeypatch.setattr(Path, "rename", refusing(errno.EACCES))
    with pytest.raises(OSError, match="refused"):
        folders.set_aside(tmp_path / "names/d", tmp_path)
    assert (tmp_path / "names/d").is_dir()


@pytest.mark.parametrize("count", [0, 1, 2, 20])
def test_folders_are_deleted_and_those_that_stay_are_told(tmp_path, monkeypatch, count):
    given = [tmp_path / f"{number}" for number in range(count)]
    outside = tmp_path.parent / f"outside-{count}"
    outside.mkdir()
    (outside / "stays").touch()
    for number, one in enumerate(given):
        one.mkdir()
        (one / "a").touch()
        (one / "link").symlink_to(outside)
        if number % 3:
            (one / "in" / "deep").mkdir(parents=True)
            (one / "in" / "deep" / "b").touch()
            (one / "in" / "link").symlink_to(outside / "stays")
    assert folders.delete(given) == [] and list(tmp_path.iterdir()) == []
    link = tmp_path / "a link is no folder"
    link.symlink_to(outside)
    assert folders.delete([link]) == [link] and [path.name for path in outside.iterdir()] == ["stays"]
    for one in given:
        (one / "in").mkdir(parents=True)
    monkeypatch.setattr(folders.shutil, "rmtree", lambda path, ignore_errors: None)
    assert folders.delete(given) == given


def test_a_busy_run_says_by_whom(tmp_path):
    store = Store(tmp_path)
    run = begun(store, "a", 1)
    with run.lock():
        other = Run(run.path, name="a", root=tmp_path)
        assert other.is_locked and other.state is State.RUNNING
        with (
            pytest.raises(
                RunBusy, match=rf"^a/000000000001 is being run by process {os.getpid()} on \S+ since \d"
            ),
            other.lock(wait=False),
        ):
            pass
        lock_of(tmp_path, run.path.name).write_text("odd")
        with pytest.raises(RunBusy, match=r"is being run by another process$"), other.lock(wait=False):
            pass
    assert not other.is_locked and run.state is State.INTERRUPTED


def test_the_states_of_a_run(tmp_path):
    store = Store(tmp_path)
    run = store.run("a", "0" * 12)
    assert run.state is State.MISSING and run.archive() is None
    run = begun(store, "a", 0)
    assert run.state is State.INTERRUPTED and run.result is run.failure is None and run.attempts == []
    run.fail("Error", "first", step=3)
    run.fail("Error", "second")
    assert run.state is State.FAILED and run.failure == {"error": "Error", "message": "first", "step": 3}
    run.fail("UserError", "a mistake", mistake=True)
    run.fail("UserError", "another", mistake=True)
    assert run.failure["message"] == "a mistake" and run.failures == 0
    (run.path / "result.json").write_text('{"state": "torn"}')
    assert not run.is_complete and run.state is State.FAILED
    (run.path / "result.json").write_text("[1]")
    assert not run.is_complete
    (run.path / "result.json").write_text('{"state": "complete"}')
    assert run.is_complete and run.state is State.COMPLETE and run.key == "a/000000000000"
    (tmp_path / "a/.archive").mkdir()
    for name in ("000000000000-x", "000000000000-4", "000000000001-9"):
        (tmp_path / "a/.archive" / name).mkdir()
    assert run.archive() == tmp_path / "a/.archive/000000000000-5"


def test_a_run_is_found_by_any_of_its_names(tmp_path):
    store = Store(tmp_path)
    (
        begun(store, "demo/plain", 0xABC123),
        begun(store, "demo/plain", 0xABD999),
        begun(store, "other", 0xABCFFF),
        begun(store, "demo", 5),
    )
    first = "000000abc123"
    for text in (f"demo/plain/{first}", "demo/plain/000000abc", f"plain/{first}", f"/{first}/", "000000abc1"):
        assert store.find(text).key == f"demo/plain/{first}"
    assert store.find("other").key == "other/000000abcfff" and store.find("demo").key == "demo/000000000005"
    with pytest.raises(
        UserError,
        match=r"^'000000ab' means 3 runs; give more digits of one of them:\n  demo/plain/000000abc123  interrupted\n",
    ):
        store.find("000000ab")
    for text in ("00", "lain/000000abc", "demo/plain/00", "nothing"):
        with pytest.raises(UserError, match=f"^no run '{text}' in {tmp_path}; (did you mean|known: )"):
            store.find(text)
        assert not store.means_runs(text)
    assert store.means_runs("000") and store.means_runs("demo/plain") and not store.means_runs("abc")
    assert store.names() == ["demo", "demo/plain", "other"] and store.levels() == [
        "demo",
        "demo/plain",
        "other",
    ]
    assert [run.key for run in store.runs("demo")] == [
        "demo/000000000005",
        "demo/plain/000000abc123",
        "demo/plain/000000abd999",
    ]
    assert [run.key for run in store.runs("demo/plain/000000abc")] == ["demo/plain/000000abc123"] and len(
        store.named("/demo/plain/")
    ) == 2
    assert (
        store.folder_of("demo/plain") == tmp_path / "demo/plain"
        and store.folder_of("demo/plain/000000abc") == tmp_path / "demo/plain" / first
    )
    for number in range(30):
        begun(store, "many", number + 0xF0000)
    with pytest.raises(UserError) as told:
        store.find("many")
    assert str(told.value).count("\n") == 21 and str(told.value).endswith("\n  ... and 10 more")
    for number in range(20):
        begun(store, "twenty", number + 0xE0000)
    with pytest.raises(UserError) as told:
        store.find("twenty")
    assert str(told.value).count("\n") == 20 and "..." not in str(told.value)


def test_names_and_folders_as_a_shell_completes_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store("runs")
    begun(store, "demo/plain", 1)
    for given, name in (
        ("demo", "demo"),
        ("demo/", "demo"),
        ("runs/demo", "demo"),
        ("runs/demo/plain/", "demo/plain"),
        ("runs", ""),
        (".", ""),
        ("", ""),
        (str(tmp_path / "runs/demo"), "demo"),
    ):
        assert store.name_in(given) == name
    for given, is_key in (
        ("demo/abcdef", True), ("demo/0123456789ab", True), ("abcdef", False), ("0123456789ab", False), ("demo/plain", False), ("", False),
    ):  # fmt: skip
        assert store._is_key(given) == is_key, given
    begun(store, "runs/inner", 2)
    assert store.name_in("runs/inner") == "runs/inner"
    with pytest.raises(UserError, match=r"'\.\./x' is not below runs"):
        list(store.runs("../x"))


def test_links_are_other_names_of_a_run(tmp_path):
    store = Store(tmp_path)
    run = begun(store, "a/b", 1)
    store.also_called("a/b", run)
    store.also_called("c", run)
    made = (tmp_path / "c/000000000001").lstat()
    store.also_called("c", run)
    assert (tmp_path / "c/000000000001").lstat().st_ino == made.st_ino
    store.also_called("d", store.run("d", "000000000002"))  # not begun: no link to itself
    assert not (tmp_path / "d").exists()
    assert (tmp_path / "c/000000000001").is_symlink() and store.other_names() == {"000000000001": ["c"]}
    assert [one.key for one in store.runs()] == ["a/b/000000000001"] and [
        one.key for one in store.runs("c")
    ] == ["c/000000000001"]
    assert (
        store.folders("") == [str(run.path)]
        and store.folders("c") == []
        and store.folders("a") == [str(run.path)]
    )
    store.forget_links(["000000000001"])
    assert (tmp_path / "c/000000000001").is_symlink()  # whose run is there
    run.remove()
    store.forget_links(["000000000001", "000000000002"])
    assert not (tmp_path / "c/000000000001").is_symlink()


def test_digits_that_tell_runs_apart_and_names_that_are_folders():
    assert (
        shortest(["abcdef000000", "abcdef100000"]) == 7
        and shortest(["abcdef000000", "bbcdef000000", "abcdef000000"]) == 6
        and shortest(["abcdef000000", "abcdef000001"]) == 12
    )
    assert short("a/b/0123456789ab") == "a/b/012345"
    for name in ("a", "a/b", "A.b_c+d=e-f", "0123456789a", "0123456789abc"):
        assert check_name(name) == name
    for name in ("", "/a", "a//b", "..", ".a", "a b", "0123456789ab", "a/0123456789ab", "-a"):
        with pytest.raises(UserError, match="a run's name has parts like 'demo/plain'"):
            check_name(name)
    for config in ({}, {"name": None}, {"name": 3}):
        with pytest.raises(
            UserError, match="a configuration needs 'name', the run's name such as 'demo/plain', got "
        ):
            name_of(config)


def test_folders_inside_and_outside_a_store(tmp_path):
    store = Store(tmp_path / "runs")
    run = begun(store, "a/b", 1)
    found = store.at_path(run.path)
    assert (found.name, found.key) == ("a/b", "a/b/000000000001")
    outside = tmp_path / "copy" / "000000000001"
    outside.mkdir(parents=True)
    (outside / "config.yaml").write_text("name: its/own\n")
    assert store.at_path(outside).name == "its/own"
    top = store.root / "000000000002"
    top.mkdir()
    (top / "config.yaml").write_text("seed: 1\n")
    assert store.at_path(top).name == "runs"
    archived = store.root / "a/.archive/000000000001-1"
    archived.mkdir(parents=True)
    (archived / "config.yaml").write_text("name: old\n")
    assert store.at_path(archived).name == "old" and store.at_path(archived).identity == "000000000001"


# --- weights


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ({"weights": 3}, r"^teacher\.weights must be scratch, .*; got 3$"),
        ({"weights": ""}, r"; got ''$"),
        ({"new_head": 1}, r"^teacher\.new_head must be true or false, got 1$"),
        ({"entry": True}, r"^teacher\.entry must be text, got True$"),
    ],
)
def test_settings_of_weights_that_are_none(node, said):
    with pytest.raises(UserError, match=said):
        Weights.of({"teacher": node}, "teacher")


def test_the_settings_of_weights(tmp_path):
    node = {"weights": "need:x", "new_head": True, "head": "fc", "entry": "ema", "weights_digest": "d"}
    config = {
        "frozen": {"a": node, "b": None},
        "needs": {"x": {"run": "n/0123456789ab"}, "y": ["w"], "z": {"run": None}},
        "runs_dir": str(tmp_path),
    }
    found = Weights.of(config, "frozen.a")
    assert (found.kind, found.said, found.new_head, found.head, found.entry, found.digest) == (
        "need",
        "need:x",
        True,
        "fc",
        "ema",
        "d",
    )
    assert (
        found.needs == {"x": "n/0123456789ab", "y": "", "z": ""}
        and found.need == "x"
        and found.needed == "n/0123456789ab"
    )
    assert node_of(config, "frozen.b") == node_of(config, "frozen.c") == node_of(config, "guide") == {}
    unplanned = Weights.of({"guide": {"weights": "need:y"}, "needs": config["needs"]}, "guide")
    assert unplanned.needed is None and unplanned.run() is None and unplanned.runs_dir == Path("runs")
    plain = Weights.of({"guide": {}}, "guide")
    assert (plain.kind, plain.new_head, plain.head, plain.entry, plain.digest, plain.are_given) == (
        "scratch",
        False,
        None,
        None,
        None,
        False,
    )
    assert Weights.of({"guide": {"weights": "pretrained"}}, "guide").are_given is False


def test_weights_that_are_missing_say_what_is_there(tmp_path):
    def path(said):
        return Weights.of({"model": {"weights": said}, "runs_dir": str(tmp_path / "runs")}, "model").path()

    hub = tmp_path / "hub"
    hub.mkdir()
    (hub / "config.json").write_text("{}")
    with pytest.raises(
        UserError,
        match=r"no such file or run \(the folder of a Hugging Face model is its `name`, with weights=pretrained\)\. Expected scratch",
    ):
        path(str(hub))
    with pytest.raises(UserError, match=r"no such file or run\. Expected scratch"):
        path(str(tmp_path / "none.pt"))
    run = begun(Store(tmp_path / "runs"), "a", 1)
    with pytest.raises(
        UserError,
        match=r"no such file or run \(the run in .*000000000001 has no network\.safetensors\)\. Expected",
    ):
        path(str(run.path))
    (run.path / "network.safetensors").touch()
    assert path("a") == path(str(run.path)) == run.path / "network.safetensors"


def test_the_mode_of_a_file_that_is_written_is_that_of_the_umask(tmp_path):
    before = os.umask(0o022)
    try:
        json_lines._append(tmp_path / "x", "a")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o644


@pytest.mark.parametrize(
    ("folder", "made"), [(0o2775, 0o775), (0o2755, 0o755), (0o775, 0o755), (0o2770, 0o775)]
)
def test_a_group_writes_in_folders_with_its_bit_that_it_may_write(tmp_path, folder, made):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(folder)
    before = os.umask(0o022)
    try:
        folders.make_folder(shared / "a" / "b")
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    assert [stat.S_IMODE(one.stat().st_mode) & 0o777 for one in (shared / "a", shared / "a/b")] == [
        made,
        made,
    ]


def test_an_attempt_is_begun_with_what_it_knows_and_an_old_failure_is_put_away(tmp_path):
    config = {"name": "a", "seed": 1}
    run = Store(tmp_path).for_config(config)
    with run.lock():
        run.begin(config, {"started": "1"})
        run.fail("E", "first")
        (run.path / ".x.1.tmp").touch()
        (run.path / "checkpoints/.y.1.tmp").touch()
        (run.path / "ranks-0").mkdir()
        run.begin(config, {"started": "2"})
        run.fail("E", "second")
        run.begin(config, {"started": "3"})
    assert [attempt["started"] for attempt in run.attempts] == ["1", "2", "3"] and "finished" in run.attempts[
        0
    ]
    assert run.failures == 2 and run.failure is None and run.config == config
    assert json.loads((run.path / "failed-1.json").read_text())["message"] == "first"
    assert (
        sorted(path.name for path in run.path.rglob("*") if path.name[0] == "." or "ranks" in path.name) == []
    )
    with pytest.raises(ValueError, match="this configuration has the identity"):
        run.begin(config | {"seed": 2}, {})
    (run.path / "link").symlink_to(tmp_path)
    with pytest.raises(
        UserError, match=r"link is refused: a run is written into its own folder, not through a link to "
    ):
        run.begin(config, {})
    (run.path / "link").unlink()
    run.complete({"x": 1})
    assert run.result == {"state": "complete", "x": 1} and run.attempts[-1]["finished"]
    run.drop_checkpoints()
    assert not (run.path / "checkpoints").exists() and run.archive().name == f"{run.identity}-1"


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ESTALE, None),
        (errno.EACCES, "cannot make the folder .*x: denied. Name one that can be written"),
    ],
)
def test_a_handle_that_a_server_forgot_is_asked_for_again_and_other_errors_are_messages(
    tmp_path, monkeypatch, number, said
):
    def fails(*_, **__):
        raise OSError(number, "denied")

    monkeypatch.setattr(Path, "mkdir", fails)
    with pytest.raises(UserError if said else OSError, match=said):
        folders.make_folder(tmp_path / "x")
    monkeypatch.undo()
    run = Run(tmp_path / "a" / ("0" * 12), name="a", root=tmp_path)
    monkeypatch.setattr(Run, "_acquire", fails)
    with (
        pytest.raises(UserError if said else OSError, match="cannot lock .*: denied" if said else "denied"),
        run.lock(),
    ):
        pass


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("vendor: x\nmodel name\t: A CPU\nmodel name : B\n", "A CPU"),
        ("nothing", "processor"),
        (None, "from sysctl"),
    ],
)
def test_the_name_of_the_processor(monkeypatch, text, model):
    def read_text(self, **_):
        if text is None:
            raise OSError
        return text

    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr(platform, "processor", lambda: "processor")
    monkeypatch.setattr(platform, "machine", lambda: "machine")
    monkeypatch.setattr(provenance, "_output", lambda *_: "from sysctl\n")
    assert provenance.cpu_model() == model
    monkeypatch.setattr(provenance, "_output", lambda *_: None)
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert provenance.cpu_model() == {"A CPU": "A CPU", "processor": "machine"}.get(model, "")


def test_what_the_machine_says_of_its_cards(monkeypatch):
    for said, cards in (("H100\n A100 \n\n", ("H100", "A100")), (None, ())):
        monkeypatch.setattr(provenance, "_output", lambda *_, said=said: said)
        assert provenance._gpus.__wrapped__() == cards


def test_a_run_is_held_for_an_instant_where_it_is_free_and_refused_where_it_is_not(tmp_path):
    run = begun(Store(tmp_path), "a", 1)
    other = Run(run.path, name="a", root=tmp_path)
    with run.lock_now():  # no lock file yet
        assert other.is_locked
    for _ in range(2):
        with run.lock_now():
            assert other.is_locked
            with pytest.raises(RunBusy), other.lock(wait=False):
                pass
        assert not other.is_locked
    with other.lock(), pytest.raises(RunBusy), run.lock_now():
        pass
    assert not run.is_locked


def test_stages_that_are_named_by_their_folders(tmp_path):
    store = Store(tmp_path)
    made = begun(store, "shards", 1, data={"_target_": "a.B"})
    (made.path / "provenance.json").write_text('{"attempts": []}')

    def below(**config):
        return setting._below(SimpleNamespace(config={"runs_dir": str(tmp_path), **config}, needs={}))

    pseudo = {"_reads_": "pseudo", "root": str(made.path / "shards")}
    assert list(below(data=pseudo)) == ["data.root"] and below(data=pseudo)["data.root"].config["data"] == {
        "_target_": "a.B"
    }
    assert (
        below(data=pseudo | {"_reads_": "published"})
        == below(data=pseudo | {"root": "need:x"})
        == below(data=pseudo | {"root": None})
        == {}
    )
    named = {
        "objectives": {
            "one": {"pseudo": str(made.path)},
            "two": {"pseudo": "need:x"},
            "three": {"pseudo": str(tmp_path)},
        }
    }
    assert list(below(method=named)) == ["method.objectives.one.pseudo"]
    (made.path / "network.safetensors").touch()
    assert list(below(model={"weights": "shards"}, frozen={"f": {"weights": str(made.path)}})) == [
        "model.weights",
        "frozen.f.weights",
    ]
