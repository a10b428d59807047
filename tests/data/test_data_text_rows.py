"""Texts with targets: the vocabulary is the training rows', a tokeniser's is its own, and mistakes are one message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from tutelage.cli.main import main
from tutelage.data.text_rows import TextRows
from tutelage.errors import UserError
from tutelage.tasks import Classification

GOOD = ["a fine film", "good , really good", "loved every minute of it", "NA is no empty text"]
BAD = ["a dull film", "bad , really bad", "hated every minute of it", "null and void"]


def reviews(folder: Path, name: str = "reviews.csv", repeat: int = 5, **columns: Any) -> Path:
    rows = [
        (text, label)
        for _ in range(repeat)
        for label, texts in (("positive", GOOD), ("negative", BAD))
        for text in texts
    ]
    frame = pd.DataFrame(rows, columns=["text", "label"]).assign(**columns)
    frame.to_csv(folder / name, index=False)
    return folder / name


def loaded(root: Path, **options: Any) -> TextRows:
    data = TextRows(root=root, batch_size=4, **options)
    data.prepare()
    data.setup()
    return data


def test_words_are_those_of_the_training_rows(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    reviews(tmp_path / "set", "train.csv")
    pd.DataFrame({"text": ["a splendid film"] * 4, "label": ["positive"] * 4}).to_csv(
        tmp_path / "set" / "test.csv", index=False
    )
    data = loaded(tmp_path / "set")
    assert type(data.task) is Classification and data.facts["classes"] == ["negative", "positive"]
    assert data.entries[:2] == ["<pad>", "<unk>"] and "splendid" not in data.entries and "NA" in data.entries
    data.open_test()
    batch = next(iter(data.batches("test", device="cpu")))
    assert batch.mask is not None
    real = batch.mask.sum(dim=1).tolist()
    words = [
        [data.entries[i] for i in row[:count]] for row, count in zip(batch.inputs.tolist(), real, strict=True)
    ]
    assert words[0] == ["a", "<unk>", "film"] and (batch.inputs[~batch.mask] == 0).all()
    assert data.facts["unknown_tokens"]["test"] == 4 and data.input_shape == (5,)


@pytest.mark.parametrize("level", ["word", "character"])
def test_long_texts_are_cut_and_counted(tmp_path: Path, level: str) -> None:
    data = loaded(reviews(tmp_path), level=level, length=3)
    assert data.input_shape == (3,) and data.facts["cut_texts"] == (25 if level == "word" else 40)
    rare = loaded(reviews(tmp_path), level=level, min_count=10**6)
    assert rare.vocab_size == 2


def test_a_tokeniser_s_pieces(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    known = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "a", "fine", "dull", "film"])}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    (tmp_path / "tokenizer").mkdir()
    tokenizer.save(str(tmp_path / "tokenizer" / "tokenizer.json"))
    data = loaded(reviews(tmp_path), tokenizer=tmp_path / "tokenizer")
    assert data.vocab_size == 6
    batch = data.store.batch(torch.tensor([0, 4]), None)  # type: ignore[attr-defined]
    assert batch.inputs[:, :3].tolist() == [[2, 3, 5], [2, 4, 5]]
    with pytest.raises(UserError, match=r"no tokenizer file .*nowhere.*tokenizer.json"):
        loaded(reviews(tmp_path), tokenizer=tmp_path / "nowhere")


@pytest.mark.parametrize(
    "text, options, said",
    [("text,label\n" + "good,1\n,0\n" * 9, {}, "the text is empty in 9 of 18 rows, the first of them row 2"),
     ("words,label\n" + "good,1\nbad,0\n" * 5, {}, r"has no column 'text' \(`text`\); .*nown: label, words"),
     ("text,sentiment\n" + "good,1\nbad,0\n" * 5, {}, r"has no column 'label' \(`target`\)"),
     ("text,label\n" + "good,1\nbad,1\n" * 5, {}, "one class only"),
     ("text,label\n" + "good,1\nbad,\n" * 5, {}, "target 'label' is empty in 5 of 10"),
     ("text,label\n" + "good,1\nbad,0\n" * 5, {"level": "words"}, "did you mean 'word'"),
     ("text,label\n" + "good,1\nbad,0\n" * 5, {"level": "tokenizer"}, "`tokenizer` must name"),
     ("text,label\n" + "good,1\nbad,0\n" * 5, {"length": 0}, "`length` must be a whole number of at least 1, got 0")],
)  # fmt: skip
def test_a_mistake_is_one_message_before_training(
    tmp_path: Path, text: str, options: dict[str, Any], said: str
) -> None:
    (tmp_path / "reviews.csv").write_text(text)
    with pytest.raises(UserError, match=said):
        loaded(tmp_path / "reviews.csv", **options)


def test_a_network_reads_other_texts_with_its_own_words(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    reviews(tmp_path)
    words = ["data=text_classification", "data.root=reviews.csv", "model=lstm", "model.depth=1", "model.width=8", "logger=none",
             "fit.max_steps=60", "fit.validate_every_steps=30", "optimizer.lr=0.02", "data.min_count=1"]  # fmt: skip
    assert main(["train", *words]) == 0
    (run,) = (tmp_path / "runs" / "adhoc").iterdir()
    (tmp_path / "other.csv").write_text(
        "label,text\npositive,good and a fine minute\npositive,a fine film good\n"
    )
    capsys.readouterr()
    assert main(["evaluate", str(run), "data.root=other.csv"]) == 0
    assert "accuracy 1.0000" in capsys.readouterr().out


def test_unknown_words_are_counted_in_what_is_left_of_each_text(tmp_path: Path, caplog: Any) -> None:
    """Also where padding has their number, as a tokeniser without one says."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "b": 2}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.save(str(tmp_path / "tokenizer.json"))
    for part, texts in (
        ("train", ["a b a", "x b a y", "a"] * 4),
        ("val", ["b b x", "a", "b y y z"]),
        ("test", ["a b x", "x"]),
    ):
        labels = [f"c{place % 2}" for place in range(len(texts))]
        pd.DataFrame({"text": texts, "label": labels}).to_csv(tmp_path / f"{part}.csv", index=False)
    data = loaded(tmp_path, tokenizer=tmp_path / "tokenizer.json", length=3)
    assert data.facts["unknown_tokens"] == {"train": 4, "validation": 3, "test": 2}
    assert data.facts["cut_texts"] == 5 and data.padding == 0 and data.vocab_size == 3
    why = "the tokeniser does not know them"
    assert [one.getMessage() for one in caplog.records if "are unknown" in one.getMessage()] == [
        f"{tmp_path}: 3 of the 7 tokens of the validation texts are unknown: {why}",
        f"{tmp_path}: 2 of the 4 tokens of the test texts are unknown: {why}",
    ]


def test_texts_are_repeated_as_written_and_many_unknown_words_are_said(tmp_path, caplog):
    (tmp_path / "r.csv").write_text("text,label\n" + "\n".join(f"film {i},{i % 2}" for i in range(60)))
    with caplog.at_level("WARNING", logger="tutelage"):
        data = loaded(tmp_path / "r.csv", min_count=2)
    assert data.facts["repeated_samples"] == {}  # all of them "film <unk>" to the network
    assert "tokens of the test texts are unknown" in caplog.text


def test_lists_of_words_are_no_texts(tmp_path: Path) -> None:
    pd.DataFrame({"text": [["good", "film"]] * 40, "label": ["a", "b"] * 20}).to_parquet(
        tmp_path / "t.parquet"
    )
    data = TextRows(root=tmp_path / "t.parquet", batch_size=4)
    with pytest.raises(UserError, match=r"column 'text' .* holds ndarray objects, no texts"):
        data.setup()
