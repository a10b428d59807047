"""Language-model windows, vocabularies and splits of small text files."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch

import hugging_face_models
from tutelage.config.compose import compose
from tutelage.data import cache
from tutelage.data.text import Text
from tutelage.errors import UserError
from tutelage.runs.identity import identify

pytestmark = pytest.mark.usefixtures("own_cache")

TRAIN = "the cat sat on the mat\n\nthe dog sat on the cat\n" * 6
VALIDATION = "the bird sat on the dog and on the cat\nso it did\n" * 2
TEST = "the end of the cat and of the mat is a sad one\n" * 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "text"
    root.mkdir()
    for name, text in (("train.txt", TRAIN), ("valid.txt", VALIDATION), ("test.txt", TEST)):
        (root / name).write_text(text)
    return root


def ready(root: Path, **options: object) -> Text:
    module = Text(root=root, **({"batch_size": 2, "length": 5} | options))  # type: ignore[arg-type]
    module.prepare()
    module.setup()
    module.open_test()
    return module


def words(text: str) -> list[str]:
    return [word for line in text.splitlines() for word in (*line.split(), "<eos>")]


FILES = {"train": "train.txt", "validation": "valid.txt", "test": "test.txt"}


def test_words_windows_and_unknowns(folder: Path) -> None:
    module = ready(folder, **FILES)
    vocabulary = module.vocabulary()
    assert vocabulary[0] == "<unk>" and set(vocabulary[1:]) == set(words(TRAIN))
    counts = Counter(words(TRAIN))
    assert [counts[w] for w in vocabulary[1:]] == sorted(counts.values(), reverse=True)
    assert module.vocab_size == module.task.output_size == len(vocabulary)
    for split, text in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST)):
        expected = [word if word in vocabulary else "<unk>" for word in words(text)]
        batches = list(module.batches(split, device="cpu"))
        inputs, targets = (torch.cat([b[k] for b in batches]) for k in (0, 1))
        assert inputs.shape[1] == targets.shape[1] == 5
        windows = (len(expected) - 1) // 5
        assert [vocabulary[i] for i in inputs.flatten()] == expected[: 5 * windows]
        assert [vocabulary[i] for i in targets.flatten()] == expected[1 : 5 * windows + 1]
        assert module.summary()["unknown_tokens"][split] == expected.count("<unk>")
        assert module.summary()["unused_tokens"][split] == len(expected) - 1 - 5 * windows


def test_rare_words_are_unknown(folder: Path) -> None:
    module = ready(folder, min_count=12, **FILES)
    assert set(module.vocabulary()) == {"<unk>", "the", "cat", "sat", "on", "<eos>"}
    assert module.summary()["unknown_tokens"]["train"] == 12  # "dog" and "mat", six times each


def test_characters(folder: Path) -> None:
    module = ready(folder, level="character", **FILES)
    vocabulary = module.vocabulary()
    batch = next(iter(module.batches("validation", device="cpu")))
    text = "".join(c if c in TRAIN else "?" for c in VALIDATION)
    read = "".join("?" if i == 0 else vocabulary[i] for i in batch.inputs.flatten())
    assert read == text[: len(read)] and set(vocabulary[1:]) == set(TRAIN)


def test_missing_parts_are_cut_from_the_end_of_training(folder: Path) -> None:
    module = ready(folder / "train.txt", validation_fraction=0.2, test_fraction=0.1)
    everything = words(TRAIN)
    validation, test = round(0.2 * len(everything)), round(0.1 * len(everything))
    sizes = module.summary()["tokens"]
    assert sizes == {"train": len(everything) - validation - test, "validation": validation, "test": test}
    start = sizes["train"]
    batch = next(iter(module.batches("validation", device="cpu")))
    assert [module.vocabulary()[i] for i in batch.inputs[0]] == everything[start : start + 5]
    partly = ready(folder, train="valid.txt", test="test.txt", length=3, validation_fraction=0.2)
    assert partly.summary()["tokens"]["test"] == len(words(TEST))
    assert partly.summary()["tokens"]["train"] + partly.summary()["tokens"]["validation"] == len(
        words(VALIDATION)
    )


def test_the_vocabulary_ignores_what_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    path.write_text("a b c d\n" * 50 + "secret words\n" * 10)
    module = ready(path, validation_fraction=0.2, test_fraction=0.05)
    assert "secret" not in module.vocabulary()


def test_a_tokenizer_file(folder: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"[UNK]": 0, "the": 1, "cat": 2}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    module = ready(folder, level="tokenizer", tokenizer="tokenizer.json", **FILES)
    batch = next(iter(module.batches("train", device="cpu")))
    assert module.vocab_size == 3 and batch.inputs[0].tolist() == [1, 2, 0, 0, 1]
    tokenizer.enable_padding(pad_id=0, pad_token="[UNK]", length=9)
    tokenizer.enable_truncation(2)
    tokenizer.save(str(folder / "tokenizer.json"))
    again = ready(folder, level="tokenizer", tokenizer="tokenizer.json", **FILES)
    assert torch.equal(next(iter(again.batches("train", device="cpu"))).inputs, batch.inputs)
    elsewhere = folder.parent / "of_a_model"
    elsewhere.mkdir()
    for named in (elsewhere, elsewhere / "tokenizer.json"):  # as data=text_classification has it
        shutil.copy(folder / "tokenizer.json", elsewhere)
        there = ready(folder, tokenizer=str(named), **FILES)
        assert torch.equal(next(iter(there.batches("train", device="cpu"))).inputs, batch.inputs)
    (folder / "tokenizer.json").write_text(json.dumps({"no": "tokenizer"}))
    with pytest.raises(UserError, match=r"no Hugging Face tokenizer\.json"):
        ready(folder, level="tokenizer", tokenizer="tokenizer.json", **FILES)


def test_a_second_job_reads_the_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ready(folder, **FILES).summary()
    cache.forget()
    monkeypatch.setattr("tutelage.data.text.write_tokens", lambda *_, **__: pytest.fail("tokenised again"))
    assert ready(folder, **FILES).summary() == first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": "nothing.txt"}, "there is no text file"),
        ({}, "`train`"),
        ({"train": "train.txt", "length": 500}, "too few for one window"),
        ({"train": "train.txt", "level": "words"}, "did you mean 'word'"),
        ({"train": "train.txt", "level": "tokenizer"}, "must name a tokenizer.json"),
        ({"train": "train.txt", "test_fraction": 0}, "test_fraction"),
        ({"train": "binary.txt"}, "no UTF-8 text"),
    ],
)
def test_wrong_options_are_explained(folder: Path, options: dict, message: str) -> None:
    (folder / "binary.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(UserError, match=message):
        ready(folder, **options)


@pytest.mark.parametrize("kind", ["text", "text_classification"])
def test_a_tokeniser_counts_by_its_content(kind: str, folder: Path) -> None:
    made = hugging_face_models.tokenizer(folder) / "tokenizer.json"
    elsewhere = folder.parent / "elsewhere"
    shutil.copytree(folder, elsewhere)
    words = [f"data={kind}", f"data.root={folder / 'train.txt'}", "model=lstm", "logger=none"]
    of = [identify(compose([*words, f"data.tokenizer={where}"])) for where in (folder, elsewhere, made)]
    (elsewhere / "tokenizer.json").write_text(made.read_text().replace("dull", "duly"))
    assert len({*of}) == 1
    assert (
        len({*of, identify(compose(words)), identify(compose([*words, f"data.tokenizer={elsewhere}"]))}) == 3
    )
