"""A command whose plain values were put into another one's result is what Hydra composes of its words, whatever follows from them."""

from __future__ import annotations

import functools

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import event, example, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tutelage.config.resolvers import prepare
from tutelage.config.templates import Template, _look, depends, is_plain

KEYS = ["a", "b", "s.a", "s.b", "s.t.a", "s.t.c", "u.b"]
VALUES = [*["1", "2", "2.5", "true", "null", "x", "'1'", "''", "1e3"] * 3, "${a}", "[1,2]", "{c:3}", "need:b"]
SCALARS = [1, 1.0, None, True, "x"]
COPIES = ["${b}", "${s.b}", "${a}"]
ODD = [
    "${.b}", "${..b}", "${s}", "p${a}", "${oc.select:s.b,7}", "${word:b}", "${word:s.b,x}", ["${b}", 1], {"deep": "${s.t.a}"},
    "${oc.select:s,null}", "${oc.select:u.${b},0}", "${u.${b}}", "${oc.env:NOWHERE,${b}}",
]  # fmt: skip
TREES = st.fixed_dictionaries({key: st.sampled_from([*SCALARS * 6, *COPIES * 4, *ODD]) for key in KEYS})
WORDS = st.lists(
    st.tuples(st.sampled_from([*[""] * 12, "+", "++", "~"]), st.sampled_from(KEYS), st.integers(0, 99)),
    max_size=4,
    unique_by=lambda word: word[1],
)


@functools.cache
def read(word):
    return OverridesParser.create().parse_override(word)


def node_of(tree):
    node = OmegaConf.create()
    for key, value in tree.items():
        OmegaConf.update(node, key, value, force_add=True)
    return node


def composed(tree, words):
    """Return the node with the words applied, by Hydra's own code, and what it resolves to; None where there is a mistake."""
    prepare()
    node = node_of(tree)
    OmegaConf.set_struct(node, True)
    try:
        ConfigLoaderImpl._apply_overrides_to_config(words, node)
        OmegaConf.set_struct(node, None)
        return node, OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException, RecursionError, ValueError):
        return None


def words_of(kinds, turn):
    texts = [
        f"{sign}{key}" + ("" if sign == "~" else f"={VALUES[(n + turn * 5) % len(VALUES)]}")
        for sign, key, n in kinds
    ]
    return [read(text) for text in texts]


@settings(max_examples=150, deadline=None)
@given(TREES, WORDS)
@example({**dict.fromkeys(KEYS, 1), "b": "${a}", "s.a": "${b}"}, [("", "a", 0)])
@example({**dict.fromkeys(KEYS, 1), "b": "${a}", "s.a": "${b}"}, [("", "a", 0), ("", "b", 1)])
@example({**dict.fromkeys(KEYS, 1), "b": "${s.b}"}, [("", "s.b", 70), ("~", "b", 0)])
@example({**dict.fromkeys(KEYS, 1), "s": "${u}"}, [("", "u.b", 0), ("+", "s.b", 1)])
@example({**dict.fromkeys(KEYS, 1), "b": "${s}"}, [("", "s.a", 0)])
@example({**dict.fromkeys(KEYS, 1), "b": "${s.t}"}, [("", "s.t.a", 0)])
def test_values_put_into_a_result_give_what_hydra_composes(tree, kinds):
    first, second = words_of(kinds, 0), words_of(kinds, 1)
    plain, others = [w for w in first if is_plain(w)], [w for w in first if not is_plain(w)]
    now, then = [w for w in second if is_plain(w)], [w for w in second if not is_plain(w)]
    if [w.key_or_group for w in plain] != [w.key_or_group for w in now] or len(others) != len(then):
        return  # of another shape
    second = [others[then.index(w)] if w in then else w for w in second]
    found = composed(tree, first)
    refused = found is None or any(depends(node_of(tree), word) for word in first)
    template = None if refused else Template.of(*found, plain, others)
    if template is not None:
        event("has a template")
        assert repr(template.filled(now)) == repr(composed(tree, second)[1])


def test_a_template_comes_of_most_sweeps():
    """What is proven above is not proven of nothing: values and their copies have places, and sections that are copied have none."""
    tree = {**dict.fromkeys(KEYS, 1), "b": "${a}", "s.b": "${b}"}
    template = Template.of(*composed(tree, words := [read("a=5"), read("s.a=6")]), words, [])
    assert template.filled([read("a=7"), read("s.a=x")]) == {
        "a": 7, "b": 7, "s": {"a": "x", "b": 7, "t": {"a": 1, "c": 1}}, "u": {"b": 1},
    }  # fmt: skip
    for raw in ("${s}", "p${a}", "${oc.select:a,1}", "${nowhere.${a}}", ["${a}"]):
        found = composed({**tree, "u.b": raw}, [read("a=5"), read("s.a=6")])
        assert found is None or Template.of(*found, words, []) is None


@pytest.mark.parametrize(
    "word",
    ["+a=1", "++a=1", "~a", "a=[1]", "a={b:1}", "a=${b}", "a=???", "a=need:b", "data.split_seed=3", "a@b=1"],
)
def test_a_word_that_may_do_more_is_not_plain(word):
    assert not is_plain(read(word))


@pytest.mark.parametrize("word", ["a=1", "s.a=-2.5", "a=true", "a=null", "a=text", "a=''", "a='two words'"])
def test_a_value_for_a_setting_that_is_there_is_plain(word):
    assert is_plain(read(word))


@pytest.mark.parametrize(("text", "followed"), [
    ("x", True), ("p${c}", True), ("${c}", True), ("p${a}", False), ("${u.${c}}", False), ("${unknown:c}", False), ("${word:c}", True),
    ("${word:a}", False), ("${oc.select:u.${c},0}", False), ("${oc.select:${c}}", False), ("${oc.select:u.c,${c}}", True),
    ("${a}", True), (["q", "${word:c}"], True), (["q", "${unknown:c}"], False),
])  # fmt: skip
def test_values_are_put_where_every_text_can_be_followed(text, followed):
    node = node_of({"a": 1, "c": 2, "u.c": 3, "t": text})
    template = Template.of(node, {"a": 1, "c": 2, "u": {"c": 3}, "t": 1}, [read("a=1")], [])
    assert (template is not None) == followed
    if followed:
        assert template.filled([read("a=7")]) == {
            "a": 7,
            "c": 2,
            "u": {"c": 3},
            "t": 7 if text == "${a}" else 1,
        }
    for more, one in (
        ([read("a=2")], []),
        ([read("a=1")], [read("a.b=1")]),
        ([read("a=1")], [read("u.c=3")]),
    ):
        fits = followed and more == [read("a=1")] and one == [read("u.c=3")]
        assert (Template.of(node, {"a": 1}, more, one) is not None) == fits


def test_leaves_are_told_from_texts_that_are_composed():
    node = OmegaConf.create(
        {"x": {"k": 1, "i": "${x.k}", "p": "p${x.k}"}, "l": [1, "q${a}", {"m": "${z}"}, "plain"]}
    )
    node["none"], node["other"] = DictConfig(None), DictConfig("${x}")
    leaves, texts = {}, []
    _look(node, (), leaves, texts)
    assert leaves == {("x", "k"): 1, ("x", "i"): "${x.k}", ("x", "p"): "p${x.k}"}
    assert sorted(texts) == ["${x}", "${z}", "p${x.k}", "q${a}"]
