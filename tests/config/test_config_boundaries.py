"""Words, files and messages of configurations: what each means, exactly, and where it stops meaning it."""

from __future__ import annotations

import math

import pytest
from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf

from tutelage.config import (
    compose,
    group_lists,
    groups,
    hydra_messages,
    names,
    planner,
    resolvers,
    settings,
    shorthand,
    sweeps,
)
from tutelage.config.compose import _leave_out_unused, _readable, as_given, readable
from tutelage.config.hydra_messages import in_words
from tutelage.errors import UserError

# --- words


@pytest.mark.parametrize(
    ("word", "read"),
    [
        ("a=b", "a=b"), ("a=b/c.d:e+f-g@h%i*j?k|l m", "a=b/c.d:e+f-g@h%i*j?k|l m"), ("a=~", "a=~"), ("a=~/b", 'a="~/b"'), ("a=é", 'a="é"'),
        ("a=b;c", 'a="b;c"'), ('a=b"c', 'a=b"c'), ("a", "a"), ("~a.b", "~a.b"), ("a=", "a="), ("a=b=c", 'a="b=c"'), ("a=b,c", "a=b,c"),
    ],
)  # fmt: skip
def test_values_are_quoted_where_hydra_does_not_take_them_bare(word, read):
    assert _readable(word) == read


def test_a_quote_in_the_name_of_a_file_is_escaped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'a"b,c').touch()
    assert _readable('k=a"b,c') == 'k="a\\"b,c"' and _readable("k=a,b") == "k=a,b"
    assert not compose._is_path("x" * 5000) and not compose._is_path("a\0b") and compose._is_path(".")


def test_settings_that_every_network_has_are_added_where_files_do_not_name_them():
    for key in ("model.head", "frozen.two.init_seed", "guide.num_classes", "teacher.pruned"):
        assert readable([f"{key}=1"]) == readable([f"+{key}=1"]) == [f"++{key}=1"]
        assert as_given([f"++{key}=1", "++a.b=1", "c=2"]) == [f"{key}=1", "++a.b=1", "c=2"]
    for kept in (
        "model.weights=x",
        "model.depth=1",
        "mymodel.head=1",
        "frozen.head=1",
        "model.head.x=1",
        "~model.head",
    ):
        assert readable([kept]) == [kept]
    with pytest.raises(UserError, match=r"^\+chain\.parts\.x=1: a chain's parts are chosen by its file"):
        readable(["+chain.parts.x=1"])


def test_needs_that_nothing_uses_are_left_out_and_one_that_is_given_is_a_mistake():
    def left(config, *words):
        _leave_out_unused(config, list(words))
        return config["needs"]

    assert left({"needs": {"a": ["x"], "b": ["y"], "c": None, "d": {"run": "r"}}, "v": "need:a"}) == {
        "a": ["x"],
        "d": {"run": "r"},
    }
    assert left({"needs": {"a": None}}, "needs.a=null") == {}
    with pytest.raises(
        UserError,
        match=r"^needs\.a is given and not used: say need:a where it belongs, such as guide\.weights=need:a$",
    ):
        left({"needs": {"a": ["x"]}}, "+needs.a=[x]")


def test_a_split_without_a_seed_follows_the_runs():
    for given, found in (
        ({"seed": 5, "data": {"split_seed": None}}, 5),
        ({"seed": 5, "data": {"split_seed": 0}}, 0),
        ({"seed": 5, "data": {}}, None),
    ):
        assert compose.plain(OmegaConf.create(given))["data"].get("split_seed") == found


@pytest.mark.parametrize(
    ("word", "read"),
    [
        ("logger=[wandb,csv]", ["logger=wandb", "logger.kind=[wandb,csv]"]),
        ("logger=[csv, 'wandb']", ["logger=wandb", "logger.kind=[csv,wandb]"]),
        ("+logger=[csv]", ["logger=csv"]),
        ("logger=[none]", ["logger=none"]),
        ("logger=csv", ["logger=csv"]),
        ("fit.steps=[1,2]", ["fit.steps=[1,2]"]),
    ],
)
def test_a_list_of_loggers_is_the_settings_it_means(word, read):
    assert group_lists.without_lists([word]) == read


@pytest.mark.parametrize(
    "word", ["logger=[]", "logger=[ , ]", "logger=[none,csv]", "logger=[csv,none]", "logger=[csv,csv]"]
)
def test_loggers_that_cannot_stand_beside_each_other(word):
    with pytest.raises(UserError) as told:
        group_lists.without_lists([word])
    assert (
        str(told.value)
        == f"{word}: expected loggers of different kinds, such as logger=[wandb,csv], or logger=none"
    )
    with pytest.raises(
        UserError,
        match=r"^data=\[\]: this group takes one choice; .* Write data=<choice>, or .*: -m data=<choice>,<choice>$",
    ):
        group_lists.without_lists(["data=[]"])


def test_lists_in_the_defaults_of_files(tmp_path):
    path = tmp_path / "x.yaml"
    entries = [
        ["a", "b"],
        {"override /experiment": ["a"]},
        {"override /data": ["a"]},
        {"/experiment": ["a", "b"]},
        {"/data": "a"},
        {"nothing": ["a"]},
        {"logger": ["a"]},
        "_self_",
    ]
    said = list(group_lists._lists_in(path, entries))
    assert said == [
        f"{path}: its defaults hold a list, ['a', 'b'], where each entry is the name of one file",
        *(
            f"{path}: its defaults give the group {group} a list, of which the last would win without a word: name one"
            for group in ("experiment", "data")
        ),
        f"{path}: its defaults give the group logger a list, of which the last would win without a word: name one. "
        "Several loggers are `logger: {kind: [csv, tensorboard]}`",
    ]


# --- groups


def test_a_key_that_was_refused_is_compared_with_those_that_there_would_be():
    known = compose._known_keys(["fit.max_stps=3", "model=fcn"], "fit.max_stps", "train")
    assert {"fit.max_steps", "model.width", "model", "data"} <= set(known) and "model._target_" not in known
    of_hydra = compose._known_keys(
        ["hydra.launcher.procesess=2", "hydra/launcher=local", "seed=1,2"],
        "hydra.launcher.procesess",
        "train",
    )
    assert "hydra.launcher.processes" in of_hydra and "fit.max_steps" not in of_hydra
    assert (
        compose._known_keys(["model=none_such"], "x", "train") == groups.groups()
    )  # nothing can be composed


@pytest.mark.parametrize(
    ("accelerator", "precision", "fine"),
    [
        ("cpu", "16-mixed", False),
        ("gpu", "16-mixed", True),
        ("cpu", "bf16-mixed", True),
        ("cpu", "32-true", True),
    ],
)
def test_half_precision_is_for_cards(accelerator, precision, fine):
    given = compose.compose([])["hardware"] | {"accelerator": accelerator, "precision": precision}
    if fine:
        assert settings.read(settings.Hardware, given, "hardware").precision == precision
    else:
        with pytest.raises(UserError, match=r"^hardware.precision=16-mixed needs a GPU"):
            settings.read(settings.Hardware, given, "hardware")


def test_groups_and_what_they_offer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert groups.user_folder() is None and groups.folders() == [groups.config_folder()]
    for name in ("data/mine/one.yaml", "own/x.yaml", "_hidden/x.yaml", ".git/x.yaml", "top.yaml"):
        (tmp_path / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "conf" / name).write_text("# Says. So.\na: 1\n")
    assert groups.folders() == [tmp_path / "conf", groups.config_folder()]
    found = groups.groups()
    assert (
        {"own", "data", "model"} <= set(found)
        and not {"_hidden", ".git", "top"} & set(found)
        and found == sorted(found)
    )
    assert "mine/one" in groups.group_options("data@x") and "digits" in groups.group_options("data")
    assert [groups.is_group(key) for key in ("model@guide", "hydra/launcher", "own", "own.x", "hydra.x")] == [
        True,
        True,
        True,
        False,
        False,
    ]
    assert (
        groups.settings_of("own", "x") == {"a": 1}
        and groups.settings_of("own", "none") == {}
        and groups.abouts("own") == {"x": "Says"}
    )
    monkeypatch.chdir(groups.config_folder().parent)
    assert groups.user_folder() is None  # the shipped one


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("# @package _global_\n# One two.\n# Three four.\na: 1\n# no\n", "One two"),
        ("# By He et al. 2015, end. Next.\n", "By He et al. 2015, end"),
        ("# Of one e.g. small. next.\n", "Of one e.g. small. next"),
        ("a: 1\n# late\n", ""),
        ("", ""),
    ],
)
def test_what_a_file_says_of_itself_is_its_first_sentence(tmp_path, text, about):
    (tmp_path / "a.yaml").write_text(text)
    assert groups.summary(tmp_path / "a.yaml") == about


def test_a_file_that_hydra_would_die_of_is_refused(tmp_path):
    (tmp_path / "good.yaml").write_text("a: 1\n")
    groups.check_files(tmp_path)
    (tmp_path / "gone.yaml").symlink_to(tmp_path / "none")
    with pytest.raises(UserError, match=r"cannot read .*gone\.yaml: No such file"):
        groups.check_files(tmp_path)
    (tmp_path / "gone.yaml").unlink()
    (tmp_path / "bad.yaml").write_text("&a [*a]\n")
    with pytest.raises(UserError, match="contains itself"):
        groups.check_files(tmp_path)


# --- messages

KNOWN = [
    "fit.max_steps",
    "fit.epochs",
    "model.width",
    "method.objectives.alignment.pairing.name",
    "model.x.pairing.k",
    "needs",
    "data",
    "optimizer",
]


def said(text, words=(), error=ValueError):
    return str(in_words(error(text), list(words), lambda culprit: KNOWN))


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        ("Could not override 'fit.max_stps'.", (),
         "there is no setting 'fit.max_stps' in this command; did you mean 'fit.max_steps'? Known: fit.epochs, fit.max_steps"),
        ("Could not override 'fit.zzzz'", (), "there is no setting 'fit.zzzz' in this command; known: fit.epochs, fit.max_steps"),
        ("Could not override 'needs'", (),
         "'needs' holds named entries: give each by its name, +needs.<name>=<value>, or several as '+needs={<name>: <value>}'"),
        ("Could not override 'model@frozen.two'", (),
         "there is no network 'two' in this command: known are model@guide, model@teacher and model@source; "
         "another frozen one is added, +model@frozen.two=<model>"),
        ("Could not override 'x@experiment.mine'", ("a=1", "experiment=mine", "sweep=x"),
         "experiment=mine sweep=x: its file must begin with the line "
         "'# @package _global_', before any other"),
        ("Could not override 'method.pairing'", (),
         "there is no setting 'method.pairing' in this command; did you mean 'method.objectives.alignment.pairing'?"),
        ("Could not override 'width'", (), "there is no setting 'width' in this command; did you mean 'model.width'?"),
        ("Could not find 'hydra/launcher/locl'", (),
         "there is no hydra/launcher 'locl'; did you mean 'local'? Known: basic, local, ray, slurm"),
        ("Could not find 'hydra/sweeper/optna'", (), "there is no hydra/sweeper 'optna'; did you mean 'optuna'? Known: basic, optuna"),
        ("Ambiguous value for argument 'x'\nmore", (),
         "Ambiguous value for argument 'x'\nSeveral values make a sweep: add -m. A value with a comma in it has "
         "quotes of its own: \"data.root='a,b'\""),
        ("it requires --multirun\nmore", ("a=range(1,2)", "b=interval(1,2)"), "a=range(1,2): several values make a sweep: add -m"),
        ("it requires --multirun", ("a=1", "b=interval(1,2)"), "b=interval(1,2): an interval is for a search; add -m hydra/sweeper=optuna"),
        ("it requires --multirun\nmore", ("a=1",), "it requires --multirun: several values make a sweep: add -m"),
        ("Config group override must be a string", ("model@guide.depth=3",),
         "model@guide.depth=3: the @ is for the choice of a model; a setting of it is guide.depth=3"),
        ("Missing mandatory value: data.root", (), "the setting 'data.root' has no value: give data.root=<value>"),
        ("Missing mandatory value: data.root\n  full_key: needs.z[0]", (), "the setting 'data.root' has no value: give data.root=<value>"),
        ("Could not override 'fit.early_stopping'", (),
         "there is no setting 'fit.early_stopping' in this command; here it is fit.patience=<validations without a better metric>"),
        ("Could not override 'trainer.max_epochs'", (),
         "there is no setting 'trainer.max_epochs' in this command; here it is fit.epochs=<number> fit.max_steps=null"),
        ("Could not override 'data.augment.mixup'", (),
         "there is no setting 'data.augment.mixup' in this command; here it is +data.augment.mixup.alpha=<value>"),
        ("Could not override 'color_jitter'", (),
         "there is no setting 'color_jitter' in this command; here it is +data.augment.colour_jitter={}"),
        ("Could not override 'optimizer.momentum'", ("optimizer=any",),
         "there is no setting 'optimizer.momentum' in this command; an argument of the optimiser's own is added with a plus: "
         "+optimizer.momentum=<value>"),
        ("Error merging override optimizer.lr_factors={a: 10}", (),
         "optimizer.lr_factors={a: 10} is not of the setting's kind: one is a value, a list [a,b] or a mapping {a: b}. "
         "`tutelage doctor` with the same words, but for this one, shows what it holds; "
         "here pairs of a pattern and a factor, [[head.*,10]]"),
        ("any other\n  text", (), "any other text"),
    ],
)  # fmt: skip
def test_what_hydra_raises_in_words(text, words, expected):
    assert said(text, words) == expected


def test_more_of_what_hydra_raises_in_words():
    assert said("Could not find 'optimizer/lmb'").endswith(
        "; one of PyTorch or timm is optimizer=any optimizer.name=lmb optimizer.lr=<rate>"
    )
    assert said("Could not find 'data/digist'").startswith(
        "there is no data 'digist'; did you mean 'digits'? Known: "
    )
    for word in ("data=null", "data=None", "data=~"):
        assert said("Config group override must be a string", ["a=1", word]).startswith(
            f"{word}: this group needs a choice, or '~data' leaves it out; known: caltech256, cifar10, "
        )
    assert said(
        "Config group override must be a string", ["model@teacher=null", "fit.epochs=null"]
    ).startswith(
        "model@teacher=null: this group needs a choice, or '~model@teacher' leaves it out; known: cifar, convnet, "
    )
    assert said("Config group override must be a string").startswith("a group needs a choice; known: ")
    parse = OverrideParseException(override="a=[", message="no")
    assert str(in_words(parse, [], None)).startswith(
        "cannot read 'a=[' as a setting: expected key=value, lists as [a,b]"
    )
    inner, outer = UserError("ours"), HydraException("theirs")
    outer.__cause__ = HydraException("between")
    outer.__cause__.__context__ = inner
    assert in_words(outer, [], None) is inner
    assert "(+data=cifar10: CIFAR-10 " in said(
        "Missing mandatory value: data.root", ["data=digits", "+data=cifar10", "data.x=1"]
    )
    missing = ValueError("Missing mandatory value: one")
    missing.full_key = "data.two"
    assert str(in_words(missing, [], None)) == "the setting 'data.two' has no value: give data.two=<value>"
    missing.full_key = "needs.a[0]"
    assert str(in_words(missing, [], None)) == "the setting 'one' has no value: give one=<value>"


@pytest.mark.parametrize(
    ("section", "last", "found"),
    [
        ("", "width", "model.width"),
        ("model", "k", "model.x.pairing.k"),
        ("method", "pairing", "method.objectives.alignment.pairing"),
        ("fit", "width", ""),
        ("mod", "width", ""),
        ("", "data", "data"),
        ("", "nothing", ""),
    ],
)
def test_a_setting_that_lies_deeper(section, last, found):
    assert hydra_messages._deeper(section, last, KNOWN) == found
    assert (
        hydra_messages._deeper("", "similarity", ["method.x.similarity.y"])
        == "similarity@method.x.similarity"
    )


# --- names, origins, sweeps, shorthand


@pytest.mark.parametrize(
    ("word", "plain", "need"),
    [
        ("model.width=3", True, False), ("+model.width=3", True, False), ("~model.width", True, False), ("seed=3", True, False),
        ("seed=null", True, False),
        ("seed=${x}", False, False), ("chain.a.b=3", True, False), ("chain.a=x", False, False), ("data=digits", False, False),
        ("model@guide=fcn", False, False),
        ("needs.a=[x]", False, False), ("~needs.a", False, False), ("hydra.x=1", False, False),
        ("guide.weights=need:a", False, True), ("a.b=${c}", False, False),
        ("needs.a=need:b", False, False), ("fit/x.y=1", False, False), ("name=a", False, False),
    ],
)  # fmt: skip
def test_words_that_change_no_choice(word, plain, need):
    assert bool(names._PLAIN_VALUE.match(word)) is plain and bool(names._USES_NEED.fullmatch(word)) is need


def test_files_that_files_are_made_of():
    text = (
        "defaults:\n  - base\n  - sub/one@x\n  - /model/fcn\n  - override /data@y: digits\n"
        "  - other: null\n  - _self_\n  - near: three\n"
    )
    assert list(names._defaults(text, "method")) == [
        ("method", "base"),
        ("method/sub", "one"),
        ("model", "fcn"),
        ("data", "digits"),
        ("method/near", "three"),
    ]
    assert list(names._defaults("a: 1\n", "x")) == list(names._defaults("", "x")) == []
    node = OmegaConf.create({"a": ["x=1", "data.root=${here}"], "b": None})
    assert names._there(node, "a") == ["x=1"] and names._there(node, "b") == []


@pytest.mark.parametrize(
    ("word", "dimension"),
    [
        ("a=interval(1,5)", {"low": 1.0, "high": 5.0, "step": None, "log": False, "whole": False}),
        ("a=int(interval(1,5))", {"low": 1, "high": 5, "step": None, "log": False, "whole": True}),
        (
            "a=tag(log,interval(1e-3,1))",
            {"low": 1e-3, "high": 1.0, "step": None, "log": True, "whole": False},
        ),
        ("a=tag(log,int(interval(1,64)))", {"low": 1, "high": 64, "step": None, "log": True, "whole": True}),
        ("a=range(1,10,3)", {"low": 1, "high": 7, "step": 3, "log": False, "whole": True}),
        ("a=range(0.0,1.0,0.25)", {"low": 0.0, "high": 0.75, "step": 0.25, "log": False, "whole": False}),
        ("a=x,y", {"choices": ["x", "y"]}),
    ],
)
def test_the_space_of_a_word(word, dimension):
    fixed, space = sweeps.space_of(["b=1", word])
    assert fixed == ["b=1"] and space == {"a": dimension}
    assert {key: type(value) for key, value in space["a"].items()} == {
        key: type(value) for key, value in dimension.items()
    }


def test_the_commands_of_a_sweep_and_which_of_their_words_are_swept():
    found = sweeps.expand(["a=1", "b=x,y", "c=3,4", "a=2", "+d=5"])
    assert [one.words for one in found] == [("a=2", f"b={b}", f"c={c}", "+d=5") for b in "xy" for c in (3, 4)]
    assert [one.swept for one in found] == [(f"b={b}", f"c={c}") for b in "xy" for c in (3, 4)]
    assert sweeps.expand(["a=1"])[0].swept == () and [
        one.words for one in sweeps.expand(["a=1,2", "a=3"])
    ] == [("a=3",)]
    with pytest.raises(
        UserError, match=r"^a=interval\(1,2\): an interval is for a search; add hydra/sweeper=optuna$"
    ):
        sweeps.expand(["a=interval(1,2)"])


def test_words_without_a_search_are_a_grid():
    words = ["seed=0,1", "sweep=nothing", "x.sweep=1"]
    assert sweeps.sweeper_of(words) == (None, words)
    search, jobs = sweeps.sweeper_of(["hydra/sweeper=optuna", "hydra.sweeper.trials=3", "a=1"])
    assert jobs == ["a=1"] and search["trials"] == 3 and "params" not in search and "_target_" not in search


def test_names_of_objectives_in_a_file():
    value = {
        "method": {"objectives": {"a": {"x": 1}, "b": None}},
        "defaults": [{"/objective@method.objectives.c": "x"}, {"/o@objectives.d": "x"}, {"/o@other.e": 1}],
        "objectives": [1],
    }
    assert sorted(shorthand._names(value)) == ["a", "b", "c", "d"] and list(
        shorthand._names({"x.objectives": {"z": 1}})
    ) == ["z"]
    sections = shorthand._sections()
    assert {"model", "guide", "fit", "hydra", "seed", "name", "data", "experiment"} <= sections
    assert "defaults" not in sections and not [name for name in sections if " " in name or "@" in name]


# --- resolvers


def test_a_word_of_a_needed_run_is_quoted_as_it_must_be():
    root = OmegaConf.create({"a": {"b": "it's", "c": [1, "x"], "d": None, "e": 2.5, "f": True}})

    def word(key, under=None):
        return resolvers._word(key, under, _root_=root)

    assert word("a.b") == "a.b='it\\'s'" and word("a.b", "k") == "k='it\\'s'"
    assert [word(f"a.{key}") for key in "cdef"] == ['a.c=[1, "x"]', "a.d=null", "a.e=2.5", "a.f=true"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        "chain: x",
        "chain: {parts: [a]}",
        "chain: {parts: {other: x}}",
        "chain: {parts: {network: 3}}",
    ],
)
def test_a_chain_names_its_parts(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf/chain").mkdir(parents=True)
    (tmp_path / "conf/chain/mine.yaml").write_text(text)
    with pytest.raises(
        UserError,
        match=r"mine\.yaml: chain\.parts must name its 'network', a file of conf/data or conf/model$",
    ):
        resolvers._chain_part("mine", "network")
    (tmp_path / "conf/chain/mine.yaml").write_text("chain: {parts: {network: fcn}}")
    assert resolvers._chain_part("mine", "network") == "fcn"


def test_a_chain_that_is_made_from_others_has_their_parts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf/chain").mkdir(parents=True)
    for name, text in (
        ("mine", "defaults: [digits, own, override /logger: none]\nchain: {parts: {network: fcn}}"),
        ("own", "defaults: [mine]\nchain: {parts: {source: mine/set, network: lstm}}"),
    ):
        (tmp_path / f"conf/chain/{name}.yaml").write_text(text)
    found = {part: resolvers._chain_part("mine", part) for part in ("network", "source", "target")}
    assert found == {"network": "fcn", "source": "mine/set", "target": "digits"}
    with pytest.raises(UserError, match=r"^there is no chain 'mien'; did you mean 'mine'"):
        resolvers._chain_part("mien", "network")
    with pytest.raises(UserError, match=r"^a transfer experiment needs its chain: add chain=cifar10 \| "):
        resolvers._chain_part(None, "network")


# --- settings


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (math.nan, "a.b[0] must be a number, got nan"), (2**63, "a.b[0] must be below 2^63, got a number of 19 digits"),
        (-(2**63), "a.b[0] must be below 2^63, got a number of 19 digits"),
        ("x\udce9", "a.b[0]=x\\xe9 is not UTF-8"),
    ],
)  # fmt: skip
def test_numbers_and_texts_that_cannot_be_settings(value, said):
    with pytest.raises(UserError) as told:
        settings._check_numbers("", {"a": {"b": [value]}})
    assert str(told.value).startswith(said.replace("[0]", ".0"))
    settings._check_numbers("", {"a": [2**63 - 1, -(2**63) + 1, math.inf, "é", None, True]})


def test_a_command_is_checked_as_far_as_it_has_settings():
    hardware = compose.compose([])["hardware"]
    config = {
        "seed": 1.0,
        "runs_dir": "r",
        "rerun": False,
        "retry": 0,
        "on_failure": "stop",
        "hardware": dict(hardware),
        "other": {"x": 1},
    }
    settings.check_command(config)
    assert config["seed"] == 1 and type(config["seed"]) is int and config["other"] == {"x": 1}
    for changes, message in (({"runs_dir": "  "}, "^runs_dir must name a folder, such as runs_dir=runs; got an empty text$"),
    ({"seed": 2**32}, "seed must be a whole number"),
                             ({"other": math.nan}, "^other must be a number, got nan$"),
                             ({"hardware": hardware | {"threads": 0}}, r"^hardware\.threads must be")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            settings.check_command(config | changes)
    whole = compose.compose([])
    for root in ("", " "):
        with pytest.raises(UserError, match=r"^data\.root must name existing data; got an empty text$"):
            settings.check(whole | {"data": whole["data"] | {"root": root}})
    settings.check(whole | {"data": whole["data"] | {"root": None}})


def test_a_run_is_so_many_updates_or_epochs_long():
    section = compose.compose([])["fit"]
    for steps, epochs, fine in (
        (3, None, True),
        (None, 2, True),
        (None, 0.5, True),
        (None, None, False),
        (3, 2, False),
    ):
        given = section | {"max_steps": steps, "epochs": epochs}
        if fine:
            settings.read(settings.Fit, given, "fit")
        else:
            with pytest.raises(UserError, match=f"got max_steps={steps}, epochs={epochs}$"):
                settings.read(settings.Fit, given, "fit")


# --- the planner


def test_what_a_planner_composes_as_a_whole(monkeypatch):
    one = planner.Planner()
    with compose.hydra_ready():
        for words in (["seed=1,2"], ["hydra.job.name=x"], ["model=none_such"]):
            assert one._of_many(words) is None
        found = one._of_many(["model=fcn", "model.width=3"])
        assert found["model"]["width"] == 3 and "hydra" not in found and len(one._bases) == 2
    plan = one(["model=fcn", "model.width=3"])
    assert plan.config["model"]["width"] == 3 and plan.words == ("model=fcn", "model.width=3")
    called = []
    monkeypatch.setattr(one, "_composed", lambda words: called.append(words) or {"x": [1]})
    assert one._need(["a"]) is one._need(["a"]) and called == [["a"]]


def test_fingerprints_of_texts_tokenisers_and_pseudo_data(monkeypatch, tmp_path):
    import hashlib

    from tutelage.data import fingerprint, vocabulary

    asked = []
    monkeypatch.setattr(
        fingerprint, "fingerprint", lambda root, kind=None: asked.append((str(root), kind)) or f"of {root}"
    )
    monkeypatch.setattr(fingerprint, "pseudo_fingerprint", lambda root: f"pseudo {root}")
    monkeypatch.setattr(vocabulary, "tokenizer_file", lambda name, root: f"{name} in {root}")
    both = hashlib.sha256(b"of r of t in r").hexdigest()
    for given, found in (
        ((None, None), None),
        (("r", None), "of r"),
        ((None, "t"), "of t in None"),
        (("r", "t"), both),
    ):
        assert resolvers._text_fingerprint(*given) == found
    assert [resolvers._pseudo_fingerprint(path) for path in (None, "need:x", "r")] == [None, None, "pseudo r"]
    asked.clear()
    assert (
        resolvers._fingerprint(None) is None
        and resolvers._fingerprint("r", "images") == "of r"
        and asked == [("r", "images")]
    )


def test_what_is_wrong_with_a_place_names_its_setting_and_is_asked_once(monkeypatch):
    calls = []

    def wrong(path):
        calls.append(path)
        if path == "bad":
            raise UserError("`root`=bad is empty")
        return f"of {path}"

    OmegaConf.register_new_resolver(
        "wrong_place",
        resolvers._once(lambda path: resolvers._of_root(wrong, path, "tokenizer")),
        replace=True,
    )
    try:
        node = OmegaConf.create(
            {"data": {"tokenizer": "good", "a": "${wrong_place:${.tokenizer}}", "b": "${wrong_place:good}"}}
        )
        assert (node.data.a, node.data.b, node.data.a) == ("of good", "of good", "of good") and calls == [
            "good"
        ]
        bad = OmegaConf.create(
            {"data": {"tokenizer": "bad", "a": "${wrong_place:bad}"}, "top": "${wrong_place:bad}"}
        )
        for key, said in (("data.a", "data.tokenizer=bad is empty"), ("top", "data.tokenizer=bad is empty")):
            with pytest.raises(Exception, match="is empty") as told:
                OmegaConf.select(bad, key)
            cause = told.value
            while not isinstance(cause, UserError):
                cause = cause.__cause__ or cause.__context__
            assert str(cause) == said
    finally:
        OmegaConf.clear_resolver("wrong_place")


@pytest.mark.parametrize(
    ("settings", "words", "said"),
    [
        (["model.depth"], ["experiment=demo/plain", "model=convnet"],
         ". model.depth comes from conf/experiment/demo/plain.yaml: add '~model.depth' to go without"),
        (["model.depth", "model.width", "model.dropout"], ["experiment=demo/plain", "model=convnet", "model.width=3"],
         ". model.depth and model.dropout come from conf/experiment/demo/plain.yaml: add '~model.depth' '~model.dropout' to go without"),
        (["guide.blocks", "model.depth"], ["experiment=demo/guided-untrained"],
         ". guide.blocks and model.depth come from conf/experiment/demo/guided-untrained.yaml and conf/experiment/demo/plain.yaml: "
         "add '~guide.blocks' '~model.depth' to go without"),
        (["model.depth"], ["experiment=demo/plain", "model.depth=3"], ""),
        (["model.depth"], ["model=fcn", "data=digits"], ""),
    ],
)  # fmt: skip
def test_what_an_experiment_brings_along_is_said_with_how_to_leave_it_out(settings, words, said):
    from tutelage.config.origins import advice

    assert advice(settings, words) == said


def test_what_sets_each_value_and_its_default():
    from tutelage.config.origins import origins_and_defaults

    found, defaults = origins_and_defaults(
        [
            "model=fcn",
            "model.width=3",
            "+model.extra=1",
            "optimizer={lr: 0.5}",
            "seed=4",
            "data=digits",
            "new=1",
        ]
    )
    assert (
        found["model.width"] == "command: model.width=3" and found["model.extra"] == "command: +model.extra=1"
    )
    assert found["optimizer.lr"] == "command: optimizer={lr: 0.5}" and found["seed"] == "command: seed=4"
    assert (
        found["model.depth"].startswith("conf/model/")
        and "new" not in found
        and "model" not in found
        and "data" not in found
    )
    assert defaults["model.width"] != 3 and "model.extra" not in defaults and defaults["seed"] == 0


@pytest.mark.parametrize(
    ("key", "word", "expected"),
    [
        ("frozen.two", "frozen.two=1", "there is no setting 'frozen.two' in this command; "),
        ("similarity@method.objectives.zz", "similarity@method.objectives.zz=ridge",
         "there is nothing at 'method.objectives.zz' that similarity@method.objectives.zz=ridge could replace: "
         "a further one is added, +similarity@"),
        ("similarity@method.objectives.zz", "similarity@method.objectives.zz=rigde",
         "there is no similarity 'rigde'; did you mean 'ridge'?"),
    ],
)  # fmt: skip
def test_places_that_a_command_has_not(key, word, expected):
    assert said(f"Could not override '{key}'", ["a=1", word]).startswith(expected)


@pytest.mark.parametrize("own", [False, True])
def test_files_are_remembered_unless_a_folder_of_the_users_adds_to_them(tmp_path, monkeypatch, own):
    from hydra.core.global_hydra import GlobalHydra

    monkeypatch.chdir(tmp_path)
    if own:
        (tmp_path / "conf").mkdir()
    with compose.hydra_ready(), names.files_remembered():
        assert isinstance(GlobalHydra.instance().config_loader().repository, names._Remembering) is not own


def test_augmentations_are_described_once_each_without_torch():
    from tutelage.config.elsewhere import AUGMENTATIONS as described
    from tutelage.data.augment import AUGMENTATIONS

    assert list(described) == list(AUGMENTATIONS)
