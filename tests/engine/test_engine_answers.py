"""Rows to inputs and outputs to answers, by slow versions."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from expected import refused
from tutelage.engine import encoding, predictions
from tutelage.tasks import Binary, Classification, Forecasting, MultiLabel, Regression

WORDS = {"kind": "text", "column": "t", "level": "word", "entries": ["<p>", "<u>", "a", "b"], "special_tokens": False, "length": 3,
         "padding": 0}  # fmt: skip


def test_texts_become_tokens_and_a_mask(said):
    frame = pd.DataFrame({"t": ["a b", "b", "a x b a", "x y"]})
    tokens, mask = encoding.encode(WORDS, frame, "file")
    assert tokens.tolist() == [[2, 3, 0], [3, 0, 0], [2, 1, 3], [1, 1, 0]]
    assert mask.tolist() == [
        [True, True, False],
        [True, False, False],
        [True, True, True],
        [True, True, False],
    ]
    assert said() == ["file: 1 of 4 texts have no word that the training texts have"]
    letters = encoding.encode(
        WORDS | {"level": "character", "entries": ["<p>", "<u>", "a", " "]}, frame[:1], "file"
    )[0]
    assert letters.tolist() == [[2, 3, 1]] and not said()


@pytest.mark.parametrize(("texts", "message"), [
    (["a", "", "b", " "], "file: the text is empty in 2 of 4 rows, the first of them row 2"),
    ([1.5, 2.5], "file: the column 't' holds no texts"),
])  # fmt: skip
def test_texts_that_are_none(texts, message):
    assert refused(encoding.encode, WORDS, pd.DataFrame({"t": texts}), "file") == message


def test_rows_of_a_table_by_their_encoding(said):
    kept = {
        "kind": "table",
        "columns": [
            {"name": "n", "mean": 2.0, "deviation": 4.0, "indicator": False},
            {"name": "c", "words": ["x", "y"]},
        ],
    }
    found, mask = encoding.encode(kept, pd.DataFrame({"n": [10.0, 0.0], "c": ["y", "z"]}), "file")
    assert mask is None and found.tolist() == [[2.0, 0.0, 1.0], [-0.5, 0.0, 0.0]]
    assert said() == [
        "file: the column 'c' holds words that no training row has, in 1 of 2 rows: taken as none of the known"
    ]
    damaged = refused(encoding.encode, {"kind": "table"}, pd.DataFrame({"n": [1.0]}), "file")
    assert damaged == "the encoding of file is damaged: KeyError 'columns'"


def task(base, size):
    return object.__new__(
        type("Made", (base,), {"output_size": size, "name": base.__name__.lower(), "kind": ""})
    )


@pytest.mark.parametrize(("base", "size", "facts", "answer"), [
    (Classification, 2, {"classes": ["a", "b"]}, ("classes", ["a", "b"], None)),
    (Classification, 3, {"classes": ["a", "b"]}, ("classes", ["0", "1", "2"], None)),
    (Classification, 2, {"target": ["a", "b"], "target_scale": 3}, ("classes", ["0", "1"], None)),
    (Binary, 1, {"classes": ["a", "b"]}, ("binary", ["a", "b"], None)), (Binary, 1, {}, ("binary", ["0", "1"], None)),
    (MultiLabel, 2, {"target": ["a", "b"]}, ("labels", ["a", "b"], None)),
    (Regression, 2, {"target": ["a", "b"], "target_scale": ([1.0], [2.0])}, ("values", ["a", "b"], ([1.0], [2.0]))),
    (Forecasting, 2, {"target": ["a", "b"]}, ("values", ["0", "1"], None)),
])  # fmt: skip
def test_what_outputs_mean(base, size, facts, answer):
    found = predictions.answer_of(SimpleNamespace(task=task(base, size), facts=facts))
    assert (found["kind"], found["names"], found["scale"]) == answer and found[
        "task"
    ] == base.__name__.lower()


@pytest.mark.parametrize(
    ("kind", "said", "names"),
    [("tokens", "tokens", None), ("", "own", ["0", "1", "2"]), ("maps", "maps", ["0", "1", "2"])],
)
def test_outputs_of_a_task_of_ones_own_are_called_as_it_calls_them(kind, said, names):
    own = SimpleNamespace(output_size=3, name="own", kind=kind)
    found = predictions.answer_of(
        SimpleNamespace(task=own, facts={"target": ["a", "b", "c"], "target_scale": 1})
    )
    assert found == {"task": "own", "kind": said, "names": names, "scale": None}


def answered(kind, outputs, names=("a", "b"), scale=None):
    return predictions.answers(
        torch.tensor(outputs), {"kind": kind, "names": names, "scale": scale, "task": "t"}
    )


def test_answers_in_words():
    softmax = [np.exp(x) / np.exp([1.0, -2.0]).sum() for x in (1.0, -2.0)]
    (row,) = answered("classes", [[1.0, -2.0]])
    assert row == {
        "prediction": "a",
        "probability": round(softmax[0], 6),
        "p(a)": round(softmax[0], 6),
        "p(b)": round(softmax[1], 6),
    }
    sigmoid = 1 / (1 + np.exp(-0.7))
    first, second = answered("binary", [[0.7], [-0.7]])
    assert first["prediction"] == "b" and first["p(b)"] == pytest.approx(sigmoid, abs=1e-6) == second["p(a)"]
    assert second["prediction"] == "a" and second["probability"] == first["probability"]
    rows = answered("labels", [[0.0, -1e-3], [1e-3, 0.7], [-2.0, -0.1]])
    assert [one["prediction"] for one in rows] == ["a", "a;b", ""]
    assert rows[1]["p(b)"] == pytest.approx(sigmoid, abs=1e-6)
    assert answered("values", [[1.0, -2.0]], scale=([10.0, 20.0], [2.0, 4.0])) == [{"a": 12.0, "b": 12.0}]
    assert answered("values", [[1.0, -2.0]]) == [{"a": 1.0, "b": -2.0}]
    assert answered("values", [[[1.0], [-2.0]]], names=("1", "2")) == [{"1": 1.0, "2": -2.0}]
    said = "predict answers with classes, labels or values of a sample; this network's task is t"
    assert refused(answered, "tokens", [[1.0]]) == said
