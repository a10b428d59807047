"""What commands ask a network, and of which data: images, rows, texts, a split; and the data that it cannot answer for."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tutelage.cli import evaluate, predict
from tutelage.engine import data_sets, encoding, exported, inherited, load, predictions, trust
from tutelage.errors import UserError
from tutelage.models import frozen
from tutelage.runs.store import Store


@pytest.fixture
def read(monkeypatch) -> list[Any]:
    """Note how files are read, in place of reading them."""
    asked: list[Any] = []

    def images(files, shape, form, prepare):
        values = prepare(torch.ones(2, len(shape) and shape[0], 1, 1))
        asked.append(("images", files, shape, form, values[0].flatten().tolist()))

    monkeypatch.setattr(predict, "_images", images)
    monkeypatch.setattr(
        predict,
        "_rows",
        lambda files, encoding, tokenizer: asked.append(("rows", files, encoding, tokenizer)),
    )
    monkeypatch.setattr(predict, "_numbers", lambda files, width: asked.append(("numbers", files, width)))
    monkeypatch.setattr(predict, "_split", lambda data, split: asked.append(("split", split)))
    monkeypatch.setattr(trust, "modules", lambda code: code)
    return asked


SCALED = [[0.5, 0.25], [0.25, 0.5]]


@pytest.mark.parametrize(
    ("facts", "done"),
    [
        (
            {"input_shape": (2, 8, 8), "normalization": SCALED, "normalise": False},
            ("images", ["f"], (2, 8, 8), None, [2.0, 1.5]),
        ),
        (
            {"input_shape": (2, 8, 8), "normalization": SCALED, "normalise": True},
            ("images", ["f"], (2, 8, 8), None, [1.0, 1.0]),
        ),
        (
            {"input_shape": (1, 8, 8), "normalization": None, "normalise": False},
            ("images", ["f"], (1, 8, 8), None, [1.0]),
        ),
        ({"input_shape": (5,), "inputs": "float32"}, ("numbers", ["f"], 5)),
        (
            {"input_shape": (5,), "inputs": "float32", "encoding": {"kind": "table"}},
            ("rows", ["f"], {"kind": "table"}, Path("e") / encoding.TOKENISER),
        ),
        ({"input_shape": (5,), "inputs": "int64"}, None),
        ({"input_shape": (5, 3), "inputs": "float32"}, None),
    ],
)
def test_what_an_exported_network_is_asked(monkeypatch, read, facts, done):
    network = SimpleNamespace(facts={"answer": "a"} | facts)
    monkeypatch.setattr(exported, "load_exported", lambda name, code: network)
    if done is None:
        with pytest.raises(
            UserError,
            match=r"^e takes inputs \(5,.*\), which no image file and no row of a CSV is: predict with its run",
        ):
            predict._exported("e", ["f"], "")
    else:
        assert predict._exported("e", ["f"], "")[:2] == (network, "a") and read == [done]


@pytest.mark.parametrize(
    ("files", "data", "encoded", "done"),
    [
        ([], {}, None, ("split", "test")),
        (["f"], {"input_shape": (2, 4, 4), "normalization": SCALED, "form": "own"}, None, ("images", ["f"], (2, 4, 4), "own", [2.0, 1.5])),
        (["f"], {"input_shape": (2, 4, 4), "normalization": None, "form": "own", "_files": SimpleNamespace(form="files")}, None,
         ("images", ["f"], (2, 4, 4), "files", [1.0, 1.0])),
        (["f"], {"input_shape": (4,)}, {"kind": "table"}, ("rows", ["f"], {"kind": "table"}, None)),
        (["f"], {"input_shape": (4,)}, {"level": "tokenizer"}, ("rows", ["f"], {"level": "tokenizer"}, "a tokenizer")),
        (["f"], {"input_shape": (4,)}, None, None),
    ],
)  # fmt: skip
def test_what_the_network_of_a_run_is_asked(monkeypatch, read, files, data, encoded, done):
    opened: list[Any] = []
    own = SimpleNamespace(open_test=lambda: opened.append(1), tokenizer_file=lambda: "a tokenizer", **data)
    loaded = SimpleNamespace(data="its own", network="bare")
    monkeypatch.setattr(
        evaluate, "opened", lambda *_, **__: (SimpleNamespace(key="k"), loaded, own, "wrapped")
    )
    monkeypatch.setattr(encoding, "encoding_of", lambda data: encoded)
    monkeypatch.setattr(
        predictions, "answer_of", lambda data: f"answer of {'its own' if data == 'its own' else 'these'}"
    )
    monkeypatch.setattr(frozen, "FrozenNetwork", lambda network: f"frozen {network}")
    if done is None:
        with pytest.raises(
            UserError, match=r"^k was trained on SimpleNamespace: predict reads image files, tables and texts"
        ):
            predict._of_run("r", files, [], "test", "runs", "")
        return
    network, answer, _ = predict._of_run("r", files, [], "test", "runs", "")
    assert read == [done] and opened == [1] * (not files)
    assert (network, answer) == (
        ("frozen bare", "answer of these") if files else ("wrapped", "answer of its own")
    )


def data_of(shape=(1, 8, 8), outputs=3, classes=None, renumbers=True, **facts):
    known = {"classes": classes, **facts}
    task = SimpleNamespace(output_size=outputs)
    return SimpleNamespace(
        input_shape=shape,
        task=task,
        facts=known,
        normalization="n",
        renumber=lambda theirs: renumbers,
        summary=dict,
    )


@pytest.mark.parametrize(
    ("own", "other", "said"),
    [
        (data_of(), data_of(), None),
        (data_of(), data_of(shape=[1, 8, 8]), None),
        (
            data_of(),
            data_of(shape=(1, 8, 9)),
            r"^k/0 was trained on inputs \(1, 8, 8\) and 3 outputs; these data have \(1, 8, 9\) and 3$",
        ),
        (data_of(), data_of(outputs=4), r"these data have \(1, 8, 8\) and 4$"),
        (data_of(vocabulary="a"), data_of(vocabulary="b"), "^k/0 was trained with another vocabulary"),
        (data_of(vocabulary="a"), data_of(vocabulary="a"), None),
        (
            data_of(classes=["a", "b"]),
            data_of(classes=["b"]),
            "k/0: classes are matched by their names: 1 of the 2 that the network knows",
        ),
        (
            data_of(classes=["a", "b", "c"]),
            data_of(classes=["b", "z"], outputs=2, renumbers=False),
            r"^k/0 does not know the classes z of these data; it knows a, b, c\. data\.classes=\[\.\.\.\] keeps some$",
        ),
        (data_of(classes=["a", "b"]), data_of(classes=("a", "b")), None),
        (data_of(classes=["a", "b"]), data_of(classes=["b"], renumbers=False), None),
        (data_of(classes=None), data_of(classes=["b"]), None),
    ],
)
def test_data_that_a_network_can_be_judged_on(monkeypatch, caplog, own, other, said):
    monkeypatch.setattr(inherited, "VOCABULARY", "vocabulary")
    run = SimpleNamespace(key="k/0", config={}, path=Path())
    loaded = SimpleNamespace(data=own, network="bare", config={"data": 0, "x": 1})
    built: list[Any] = []
    monkeypatch.setattr(Store, "find", lambda self, name: run)
    monkeypatch.setattr(inherited, "check_answers", lambda *_: None)
    monkeypatch.setattr(load, "load_run", lambda *_, **__: loaded)
    monkeypatch.setattr(trust, "modules", lambda code: code)
    monkeypatch.setattr(
        data_sets, "build_data", lambda config, judged_as: built.append((config, judged_as)) or other
    )
    monkeypatch.setattr(evaluate, "_check_classes", lambda *_: None)
    monkeypatch.setattr(frozen, "recorded", lambda value, like: (value, like))
    monkeypatch.setattr(frozen, "FrozenNetwork", lambda network, **more: (network, more))
    caplog.set_level(logging.INFO, "tutelage")
    monkeypatch.setattr(evaluate, "_data_overrides", lambda config, words: None)
    assert evaluate.opened("r", [], runs_dir="runs", code="")[2] is own and built == []
    monkeypatch.setattr(evaluate, "_data_overrides", lambda config, words: "other data")
    if said and "matched" not in said:
        with pytest.raises(UserError, match=said):
            evaluate.opened("r", ["w"], runs_dir="runs", code="")
        return
    found = evaluate.opened("r", ["w"], runs_dir="runs", code="")
    assert found == (run, loaded, other, ("bare", {"expects": ("n", "n"), "given": "n"}))
    assert built == [({"data": "other data", "x": 1}, own)] and caplog.messages == ([said] if said else [])


def test_the_line_of_an_evaluation(monkeypatch, tmp_path):
    from tutelage.engine import shared_work
    from tutelage.runs import json_lines, provenance

    kept: list[Any] = []
    opened: list[Any] = []
    data = SimpleNamespace(
        open_test=lambda: opened.append(1),
        splits={"test": [1]},
        task="t",
        batches=lambda split, device: (split, device),
        summary=lambda: "s",
    )
    network = SimpleNamespace(to=lambda target: ("on", target.type))
    run = SimpleNamespace(key="k", path=tmp_path)
    monkeypatch.setattr(evaluate, "opened", lambda *_, **__: (run, SimpleNamespace(data=data), data, network))
    monkeypatch.setattr(evaluate, "_check_seen", lambda *words: opened.append(words[3]))
    monkeypatch.setattr(
        load, "evaluate_network", lambda network, task, batches, target: {"accuracy": 0.123456, "loss": 2.0}
    )
    monkeypatch.setattr(provenance, "now", lambda: "now")
    monkeypatch.setattr(provenance, "commits", lambda attempts: ["c"])
    monkeypatch.setattr(json_lines, "append_json_line", lambda path, row: kept.append((path.name, row)))
    words = {"split": "test", "runs_dir": "runs", "code": ""}
    for first in (True, False):
        monkeypatch.setattr(shared_work, "is_first", lambda first=first: first)
        assert evaluate.evaluate("r", [], device="cpu", **words) == "k on test: accuracy 0.1235, loss 2.0000"
    assert opened == [1, "test"] * 2
    metrics = {"accuracy": 0.123456, "loss": 2.0}
    assert kept == [
        (
            "evaluations.jsonl",
            {"split": "test", "data": "s", "metrics": metrics, "at": "now", "code": "c", "device": "cpu"},
        )
    ]
    evaluate.evaluate("r", [], device="cpu", **(words | {"split": "another"}))
    assert opened[4:] == [1]  # a split that these data have not is named where it is read
