"""What is read back of a stored run, what a configuration may name, and what a quantised file is measured by: rule by rule."""

from __future__ import annotations

import collections
import dataclasses
import importlib.machinery
import logging
import math
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from expected import refused
from tutelage.engine import encoding, instantiate, load, quantise, trust
from tutelage.errors import UserError
from tutelage.tasks import Batch

# --- runs that are loaded


@pytest.fixture
def stored(monkeypatch, tmp_path):
    """A run that is made up; what it is asked of."""
    run = SimpleNamespace(
        key="a/0123",
        is_complete=True,
        path=tmp_path,
        result={"best": 1},
        state="failed",
        attempts=["attempt"],
    )
    config = {"data": {"root": "there", "download": True, "size": 8}, "model": {}}
    asked: dict[str, Any] = {}
    for name, part in {
        "Store": lambda runs_dir: SimpleNamespace(find=lambda key: asked.update(found=(runs_dir, key)) or run),
        "stored_config": lambda run, runs_dir, code: asked.update(code=code) or config,
        "changed_files": lambda attempts, config: asked.get("changed", []),
        "check_size": lambda key, config, weights: asked.update(weights=weights),
        "build_data": lambda config: asked.update(data=dict(config["data"])) or "data",
        "sizes_of": lambda data: f"sizes of {data}",
        "restored": lambda key, config, sizes, weights, advice: asked.update(restored=(key, sizes, weights, advice)) or "network",
    }.items():  # fmt: skip
        monkeypatch.setattr(load, name, part)
    return run, config, asked


def test_a_run_is_loaded_with_its_data_and_nothing_is_downloaded(stored, tmp_path, caplog):
    run, config, asked = stored
    found = load.load_run("a", "R", code=["mine"], size=9)
    assert found == load.LoadedRun("network", config, {"best": 1}, "data")
    assert asked["found"] == ("R", "a") and asked["code"] == ["mine"] and caplog.messages == []
    assert asked["data"] == {"root": "there", "download": False, "size": 9}
    file = tmp_path / load.FILE
    advice = "The run's command with rerun=true makes it anew"
    assert asked["restored"] == ("a/0123", "sizes of data", file, advice) and asked["weights"] == file
    config["data"] = {"root": "there", "download": True}
    load.load_run("a", root="elsewhere")  # a folder of one's own may be filled
    assert asked["data"] == {"root": "elsewhere", "download": True}
    for given in ({"root": None, "download": True}, {"root": "there"}):
        config["data"] = dict(given)
        load.load_run("a")
        assert asked["data"] == given
    run.result, asked["changed"] = None, ["mine.py", "yours.py"]
    assert load.load_run("a").result == {}
    said = "a/0123 was trained with another mine.py and yours.py: its weights now run through other code"
    assert caplog.messages == [said]


def test_what_is_no_run_to_load(stored, tmp_path, monkeypatch):
    run, _, _ = stored
    run.result = {"pseudo": {}}
    assert refused(load.load_run, "a") == "a/0123 is a pseudo data set: it has no network"
    run.is_complete = False
    said = "a/0123 is failed: only a complete run can be loaded; give its train command again to finish it"
    assert refused(load.load_run, "a") == said
    (tmp_path / "result.json").touch()
    assert refused(load.load_run, "a").startswith(f"{tmp_path}/result.json is damaged: give the run's train")
    run.is_complete, run.result = True, {}
    for name in ("build_data", "sizes_of", "check_size"):
        with monkeypatch.context() as patch:
            patch.setattr(load, name, lambda *_: {}["gone"])
            said = "a/0123 cannot be built from its configuration (KeyError 'gone')"
            assert refused(load.load_run, "a").replace(": ", " ") == said


@pytest.mark.parametrize(("target", "weights", "more"), [
    (load.HUGGING_FACE, "pretrained", {"own_size": True}), (load.HUGGING_FACE, "scratch", {}),
    ("a.Own", "pretrained", {}), ("a.Own", None, {}),
])  # fmt: skip
def test_a_network_is_built_again_as_its_weights_are(monkeypatch, tmp_path, caplog, target, weights, more):
    given: list[Any] = []
    network = nn.Sequential(nn.Linear(2, 1), nn.Dropout())
    monkeypatch.setattr(load, "build_network", lambda *words: given.append(words) or network)
    monkeypatch.setattr(load, "load_weights", lambda *words: given.append(words))
    model = {"_target_": target, "pruned": 0.5, "size": 4} | ({} if weights is None else {"weights": weights})
    config = {"model": model, "seed": 3}
    found = load.restored("key", config, {"sizes": 1}, tmp_path / "w", advice="Do it again")
    assert found is network and not network.training and caplog.messages == []
    afresh = {"_target_": target, "size": 4, "weights": "scratch", "pruned": None}
    assert given == [
        ("model", {"model": afresh | more, "seed": 3}, {"sizes": 1}), (network, tmp_path / "w"),
    ]  # fmt: skip
    with torch.no_grad():
        network[0].bias[:] = math.nan
    load.restored("key", config, {}, tmp_path / "w", advice="")
    assert caplog.messages == [
        "the weights of key are not finite numbers in 1 of its tensors (0.bias, ...): what it answers means nothing"
    ]
    monkeypatch.setattr(load, "load_weights", lambda *_: (_ for _ in ()).throw(UserError("do not fit")))
    assert refused(load.restored, "key", config, {}, tmp_path / "w", advice="Do it again") == (
        "do not fit\nDo it again"
    )


def test_metrics_of_a_network_are_of_every_batch(monkeypatch):
    class Sums:
        def __init__(self):
            self.found: list[Any] = []

        def to(self, device):
            self.found.append(device)
            return self

        def update(self, outputs, batch):
            self.found.append((outputs.tolist(), batch.targets.tolist(), len(batch.inputs)))

        def compute(self):
            return self.found

    batches = [
        Batch(torch.tensor([[1.0], [2.0]]), torch.tensor([3, 4]), torch.arange(2)),
        Batch(torch.tensor([[5.0]]), torch.tensor([6]), torch.arange(1)),
    ]
    network = nn.Sequential(nn.Dropout(0.9), nn.Linear(1, 1, bias=False))
    nn.init.constant_(network[1].weight, 2.0)
    task: Any = SimpleNamespace(metrics=Sums)
    found = load.evaluate_network(network, task, batches)
    assert found == ["cpu", ([[2.0], [4.0]], [3, 4], 0), ([[10.0]], [6], 0)] and not network.training


# --- what a configuration may name


class Net(nn.Module):
    """A network of one's own."""


class Plain:
    """No network."""


@dataclasses.dataclass
class Settings:
    """Settings in a node of their own."""

    count: int = 2
    weight: int = 0


class Holder:
    """Takes settings, another object, and words."""

    declares: ClassVar = {"_reads_": "pseudo"}

    def __init__(
        self, settings: Settings | None = None, inner: Any = None, words: Any = None, *, count: int = 0
    ):
        self.given = settings, inner, words, count


def function_of(file):
    made = ModuleType("made_module")
    made.__file__ = file
    exec("def made(): pass", made.__dict__)
    sys.modules["made_module"] = made
    return made.made


@pytest.mark.parametrize(
    ("file", "own"),
    [
        ("HERE/mine.py", True), ("HERE/deep/mine.py", True), ("/elsewhere/mine.py", False), (None, False),
        ("HERE/lib/site-packages/x.py", False), ("HERE/lib/dist-packages/x.py", False), ("HERE/pure/x.py", False),
    ],
)  # fmt: skip
def test_functions_of_the_folder_of_the_command_alone_may_be_named(monkeypatch, tmp_path, file, own):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        instantiate.sysconfig,
        "get_path",
        lambda name: str(tmp_path / "pure") if name == "purelib" else "/usr",
    )
    made = function_of(file and file.replace("HERE", str(tmp_path)))
    try:
        assert instantiate._allowed(made, "made_module") is own
    finally:
        del sys.modules["made_module"]
    assert instantiate._allowed(made, "made_module") is False  # nobody knows where it is from


def test_which_classes_and_parts_of_ours_may_be_named():
    from torch.utils.data import Dataset

    from tutelage.jobs.launch import run_plan
    from tutelage.models.fcn import FCN
    from tutelage.scaling.layers import Dense
    from tutelage.scaling.phase_diagram import phase_diagram

    allowed = instantiate._allowed
    assert allowed(Net, "mine") and allowed(type("D", (Dataset,), {}), "mine") and not allowed(Plain, "mine")
    assert not allowed(3, "mine") and not allowed(Net(), "mine")
    assert allowed(FCN, "tutelage.models.fcn") and allowed(Dense, "tutelage.scaling.layers")
    assert not allowed(run_plan, "tutelage.models.fcn") and not allowed(
        phase_diagram, "tutelage.scaling.cases"
    )
    assert not allowed(Net, "tutelage.models.fcn") and not allowed("text", "tutelage.models.fcn")
    theirs = SimpleNamespace(__module__="tutelage.models.fcn")  # ours, but nothing that can be called
    assert not allowed(theirs, "tutelage.models.fcn")
    assert allowed(Net, "tutelagex.models") and not allowed(FCN.forward, "tutelagex.models")


def test_what_is_not_there_is_named_with_what_is(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_parts.py").write_text(
        "import torch\nclass Deep(torch.nn.Module): pass\ndef build(): pass\nnumber = 3\nclass Optimizer: pass\n"
        "class Adam(Optimizer): pass\n"
    )
    try:
        assert instantiate.resolve("own_parts.Deep", "model").__name__ == "Deep" and sys.path[0] == str(
            tmp_path
        )
        said = "model._target_=own_parts.Deap: own_parts has no 'Deap'; did you mean 'Deep'? Known: Adam, Deep, Optimizer, build"
        assert refused(instantiate.resolve, "own_parts.Deap", "model") == said
        assert refused(instantiate.resolve, "own_parts.Adam", "optimizer").startswith(
            "optimizer._target_=own_parts.Adam is no way to choose an optimiser"
        )
        for name in ("Optimizer", "number"):
            said = f"model._target_=own_parts.{name} is refused: a configuration may name"
            assert refused(instantiate.resolve, f"own_parts.{name}", "model").startswith(said)
        assert refused(instantiate.resolve, "own_party.Deep", "model").startswith(
            "model._target_=own_party.Deep: module 'own_party' cannot be imported (No module named 'own_party')."
        )
    finally:
        sys.modules.pop("own_parts", None)


def test_nodes_within_nodes_are_objects_settings_or_plain(monkeypatch):
    monkeypatch.setattr(instantiate, "resolve", lambda target, where: {"Holder": Holder, "Net": Net}[target])
    node = {
        "_target_": "Holder", "_reads_": "pseudo", "settings": {"count": 5}, "inner": {"_target_": "Net"}, "words": {"a": 1}, "count": 3,
    }  # fmt: skip
    settings, inner, words, count = instantiate.construct("top", node, count=9).given
    assert settings == Settings(5) and isinstance(inner, Net) and words == {"a": 1} and count == 9
    assert instantiate.construct("top", node | {"settings": None}, other=1).given[0] is None
    assert (
        instantiate.construct("top", node | {"count": -3}).given[3] == -3
    )  # not ours: it may count backwards
    assert refused(instantiate.construct, "top", node | {"settings": {"count": -1}}) == (
        "top.settings.count must not be negative, got -1"
    )
    assert instantiate.construct("top", node | {"settings": {"count": 0, "weight": -1}}).given[0].weight == -1
    said = "top.settings: Settings takes no 'cuont'; did you mean 'count'? Known: count, weight"
    assert refused(instantiate.construct, "top", node | {"settings": {"cuont": 1}}) == said
    said = "top._reads_=nothing declares nothing; known: pseudo, published"
    assert refused(instantiate.construct, "top", node | {"_reads_": "nothing"}) == said
    del node["_reads_"]
    assert refused(instantiate.construct, "top", node) == (
        "top: a file that names Holder must declare `_reads_: pseudo`, as the shipped one does, got None"
    )


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("top.count is odd"), "top.count is odd"),
        (UserError("is odd"), "top: is odd"),
        (TypeError("no"), "top: Net cannot be built from {}: no"),
        (MemoryError("full"), "top: Net cannot be built from {}: full"),
    ],
)
def test_a_constructor_that_refuses_is_one_message(monkeypatch, error, said):
    def fails():
        raise error

    monkeypatch.setattr(instantiate, "resolve", lambda target, where: fails)
    assert refused(instantiate.construct, "top", {"_target_": "Net"}) == said


@pytest.mark.parametrize(("origin", "located", "parts", "place"), [
    ("HERE/x.py", True, None, "HERE/x.py"), ("built-in", False, None, None), (None, False, ["HERE/b", "HERE/a"], "HERE/a:HERE/b"),
    (None, True, ["HERE/b", "HERE/b"], "HERE/b"), ("frozen", False, [], None), (None, False, None, None),
])  # fmt: skip
def test_the_place_of_a_loaded_module(monkeypatch, tmp_path, origin, located, parts, place):
    here = os.path.realpath(tmp_path)
    spec = importlib.machinery.ModuleSpec("made_up", None, origin=origin and origin.replace("HERE", here))
    spec.has_location = located
    spec.submodule_search_locations = parts and [one.replace("HERE", here) for one in parts]
    module = ModuleType("made_up")
    module.__spec__ = spec
    monkeypatch.setitem(sys.modules, "made_up", module)
    assert trust.place_of("made_up") == (place and place.replace("HERE", here))


@pytest.mark.parametrize(
    ("module", "place", "is_library"),
    [
        ("timm.models.x", "LIB/timm/__init__.py", True), ("timm", "LIB/timm/__init__.py", True), ("timm.x", "LIB/timm/__init__.py", False),
        ("timmx", "LIB/timmx.py", False), ("timm", "/mine/timm.py", False), ("timm", None, False), ("other", "LIB/other.py", False),
        ("transformers.models.a", "LIB2/x.py", True),
    ],
)  # fmt: skip
def test_libraries_of_networks_are_those_that_are_installed(monkeypatch, module, place, is_library):
    asked: list[str] = []
    monkeypatch.setattr(trust, "_installed", lambda: frozenset({Path("/lib"), Path("/lib2")}))
    there = place and place.replace("LIB2", "/lib2").replace("LIB", "/lib")
    monkeypatch.setattr(trust, "place_of", lambda top: asked.append(top) or there)
    assert trust._of_library(module) is is_library and set(asked) <= {module.partition(".")[0]}


def test_what_was_named_is_read_line_by_line(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert trust._noted() == set()
    (tmp_path / "tutelage").mkdir()
    (tmp_path / "tutelage/named.txt").write_text("a.B\t/x/a.py\nbroken\nc.D\t\n")
    assert trust._noted() == {("a.B", "/x/a.py")}
    places = {"a": "/x/a.py", "c": None, "e": "/new\nline.py", "g": "/y/g.py"}
    monkeypatch.setattr(trust, "place_of", places.get)
    names = ["a.B", "c.D", "e.F", "g.H", "g.Again", "tutelage.models.fcn.FCN"]
    trust.note({name: {"_target_": name} for name in names})
    assert (tmp_path / "tutelage/named.txt").read_text().splitlines()[3:] == [
        "g.Again\t/y/g.py",
        "g.H\t/y/g.py",
    ]
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert trust._notes() == Path("/home/me/.local/state/tutelage/named.txt")


# --- encodings and quantised files


def test_the_encoding_of_data_that_have_one(monkeypatch, tmp_path):
    class Table:
        def __init__(self, made):
            self.encoding, self.empty, self.decimal = made, ("", "NA"), ","

    class Texts:
        text, entries, special_tokens, input_shape, padding = (
            "t",
            ["<p>", "<u>", "a"],
            True,
            torch.Size((7,)),
            torch.tensor(0),
        )

        def __init__(self, level):
            self.level = level

        def tokenizer_file(self):
            return tmp_path / "theirs.json"

    monkeypatch.setattr(encoding, "Table", Table)
    monkeypatch.setattr(encoding, "TextRows", Texts)
    of: Any = encoding.encoding_of
    columns = SimpleNamespace(columns=(Settings(3), Settings(4, 5)))
    assert of(Table(columns)) == {
        "kind": "table", "columns": [{"count": 3, "weight": 0}, {"count": 4, "weight": 5}], "empty": ["", "NA"], "decimal": ",",
    }  # fmt: skip
    assert of(Table(None)) is None and of(Plain()) is None
    text = {"kind": "text", "column": "t", "special_tokens": True, "length": 7, "padding": 0}
    assert of(Texts("word")) == text | {"level": "word", "entries": ["<p>", "<u>", "a"]}
    assert of(Texts("tokenizer")) == text | {"level": "tokenizer", "entries": []}
    (tmp_path / "theirs.json").write_text("words")
    for data, kept in ((Texts("word"), False), (Plain(), False), (Texts("tokenizer"), True)):
        encoding.keep(data, tmp_path)  # type: ignore[arg-type]
        assert (tmp_path / encoding.TOKENISER).is_file() is kept


@pytest.mark.parametrize("kind", ["dynamic", "static", "weights"])
def test_a_file_is_quantised_and_both_are_measured(monkeypatch, tmp_path, kind):
    events: list[Any] = []
    file = tmp_path / "network.onnx"
    file.write_bytes(b"floats")

    def make(whole, target, served, data, masked):
        events.append((whole.name, whole.read_bytes(), served, data, masked))
        print("said by a library")
        target.write_bytes(b"integers")

    answers = {
        "float.onnx": torch.tensor([[1.0, 0.0]] * 4),
        "network.onnx": torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]]),
    }
    monkeypatch.setitem(quantise._MAKERS, kind, make)
    monkeypatch.setattr(quantise, "_quantised", lambda model: count)
    monkeypatch.setattr("onnx.load", lambda path: events.append(path.name))
    monkeypatch.setattr(quantise, "of_onnx", lambda path: events.append(("read", path.name)))
    monkeypatch.setattr(
        quantise,
        "_measured",
        lambda path, served, data, masked, unpack=False: {
            "of": path.name,
            "unpack": unpack,
            "answers": answers[path.name],
        },
    )
    monkeypatch.setattr(quantise, "cpu_model", lambda: "a CPU")
    count = 3
    served: Any = "served"
    data: Any = "data"
    level = logging.getLogger().level
    assert quantise.quantise(kind, file, served, data, masked=True) == {
        "kind": kind, "machine": "a CPU", "operations": 3, "answers_changed": 0.25,
        "measured": {
            "float": {"of": "float.onnx", "unpack": False}, kind: {"of": "network.onnx", "unpack": kind == "weights"},
        },
    }  # fmt: skip
    assert events == [
        ("float.onnx", b"floats", "served", "data", True),
        "network.onnx",
        ("read", "network.onnx"),
    ]
    assert [one.name for one in tmp_path.iterdir()] == ["network.onnx"] and file.read_bytes() == b"integers"
    assert logging.getLogger().level == level
    count = 0
    said = f"quantise={kind} finds nothing to quantise in this network: {quantise._WANTS[kind]}"
    assert refused(quantise.quantise, kind, file, served, data, masked=True) == said
    assert not (tmp_path / "float.onnx").exists()


def test_operations_of_integers_are_counted():
    kinds = [
        "MatMulInteger",
        "Add",
        "DequantizeLinear",
        "DequantizeLinear",
        "QLinearConv",
        "MatMul",
        "ConvInteger",
    ]
    model = SimpleNamespace(graph=SimpleNamespace(node=[SimpleNamespace(op_type=kind) for kind in kinds]))
    found = collections.Counter(kinds)
    assert quantise._quantised(model) == 5 == len(kinds) - found["Add"] - found["MatMul"]
