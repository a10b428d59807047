"""`export` and `predict` on small real runs: what they write, say and refuse; the run stays as it was."""

import csv
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from PIL import Image

import tutelage
from tutelage.cli import export, predict
from tutelage.cli.commands import COMMANDS
from tutelage.cli.reader import read
from tutelage.config.planner import plan_of
from tutelage.engine.encoding import encode
from tutelage.errors import UserError
from tutelage.jobs.launch import run_plan
from tutelage.runs.store import Store

SMALL = ["logger=none", "hardware.threads=1", "fit.max_steps=6", "fit.validate_every_steps=3", "model=fcn",
         "model.depth=2", "model.width=16"]  # fmt: skip


def main(name, *words):
    given = read(name, COMMANDS[name], [str(word) for word in words])
    return {"export": export, "predict": predict}[name].run(given)


def rows(path):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def content(folder):
    return {
        str(p): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(Path(folder).rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    table = tmp_path_factory.mktemp("table") / "t.csv"
    draw = np.random.default_rng(0)
    table.write_text(
        "a,b,y\n" + "".join(f"{a:.4f},{b:.4f},{10 + 5 * a:.4f}\n" for a, b in draw.normal(size=(60, 2)))
    )
    words = {
        "digits": ["name=out/plain", "seed=0"],
        "second": ["name=out/plain", "seed=1"],
        "table": [
            "name=out/table",
            "data=table",
            f"data.root={table}",
            "data.target=y",
            "data.batch_size=16",
        ],
        "tokens": [
            "name=out/tokens",
            "data=copy_paste",
            "model=gru",
            "model.depth=1",
            "model.width=8",
            "data.batch_size=8",
        ],
    }
    texts = table.with_name("texts.csv")
    texts.write_text(
        "text,label\n" + "".join(f"a {'good' if n % 2 else 'bad'} film {n},{n % 2}\n" for n in range(40))
    )
    net = ["model=gru", "model.depth=1", "model.width=8", "data.batch_size=8"]
    words["text"] = ["name=out/text", "data=text_classification", f"data.root={texts}", "data.length=4", *net]
    found = {"root": root, "file": table}
    for name, those in words.items():
        plan = plan_of(
            [
                *SMALL[:5],
                *([] if name in ("tokens", "text") else SMALL[5:]),
                f"runs_dir={root}",
                "model=fcn",
                *those,
            ]
        )
        run_plan(plan)
        found[name] = root / plan.key
    return found


def test_a_run_leaves_with_a_card_and_is_read_anywhere(runs, tmp_path, capsys, monkeypatch):
    before = content(runs["digits"])
    assert (
        main("export", runs["digits"], f"out={tmp_path / 'x'}", "licence=MIT", f"runs_dir={runs['root']}")
        == 0
    )
    said = capsys.readouterr().out
    assert "its outputs are the network's up to" in said
    card = (tmp_path / "x" / "README.md").read_text()
    assert "95 %, n = 2" in card and "1,222 train" in card and "license: mit" in card and "Supervised" in card
    assert "Outputs: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9." in card
    run = tutelage.load_run(runs["digits"])
    monkeypatch.chdir(tmp_path)
    network = tutelage.load_exported("x")
    batch = next(iter(run.data.batches("validation", device="cpu")))
    mean, std = run.data.normalization
    torch.testing.assert_close(
        network(batch.inputs * std[0] + mean[0]), run.network(batch.inputs).detach(), atol=1e-5, rtol=1e-4
    )
    main("export", runs["digits"], "out=x", "normalise=false")  # an earlier export is replaced
    torch.testing.assert_close(tutelage.load_exported("x")(batch.inputs), run.network(batch.inputs).detach())
    assert content(runs["digits"]) == before


def test_files_are_answered_alike_by_run_and_export(runs, tmp_path, capsys):
    before = content(runs["digits"])
    images = tmp_path / "images"
    images.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (16, 16), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{number}.png")
    (images / "2.png").rename(os.fsdecode(os.fsencode(images) + b"/\xe4.png"))
    main("export", runs["digits"], f"out={tmp_path / 'x'}")
    for normalise in ("true", "false"):
        main("export", runs["digits"], f"out={tmp_path / 'x'}", f"normalise={normalise}")
        main("predict", runs["digits"], images, f"out={tmp_path / 'run.csv'}")
        main("predict", tmp_path / "x", images, f"out={tmp_path / 'export.csv'}")
        ours, theirs = rows(tmp_path / "run.csv"), rows(tmp_path / "export.csv")
        assert len(ours) == 3 and [r["prediction"] for r in ours] == [r["prediction"] for r in theirs]
        assert ours[2]["file"] == theirs[2]["file"] == rf"{images}/\xe4.png"
        for own, other in zip(ours, theirs, strict=True):
            p = [float(own[f"p({k})"]) for k in range(10)]
            assert sum(p) == pytest.approx(1, abs=1e-4) and float(own["probability"]) == max(p)
            np.testing.assert_allclose([float(other[f"p({k})"]) for k in range(10)], p, atol=1e-4)
    assert content(runs["digits"]) == before


def test_a_split_is_answered_as_it_is_evaluated(runs, tmp_path, capsys):
    main("predict", runs["digits"], f"out={tmp_path / 'p.csv'}")
    run = tutelage.load_run(runs["digits"])
    labels = run.data.store.labels.tolist()
    found = rows(tmp_path / "p.csv")
    right = sum(int(row["prediction"]) == labels[int(row["sample"])] for row in found) / len(found)
    assert right == pytest.approx(run.result["best"]["test"]["accuracy"], abs=1e-6) and len(found) == 359
    main("predict", runs["digits"], "data.split_seed=1", "split=validation", f"out={tmp_path / 'p.csv'}")
    assert len(rows(tmp_path / "p.csv")) == 216


def test_a_table_needs_no_target_and_values_are_in_its_unit(runs, tmp_path, capsys):
    (tmp_path / "new.csv").write_text("b,a\n0.1,0.2\n0.3,-1\n")
    main("predict", runs["table"], tmp_path / "new.csv", f"out={tmp_path / 'p.csv'}")
    run = tutelage.load_run(runs["table"])
    values = run.data.encoding.apply(__import__("pandas").read_csv(tmp_path / "new.csv"), "new")[0]
    mean, deviation = run.data.facts["target_scale"]
    expected = run.network(torch.from_numpy(values)).detach().flatten().numpy() * deviation[0] + mean[0]
    np.testing.assert_allclose([float(row["y"]) for row in rows(tmp_path / "p.csv")], expected, rtol=1e-5)
    main("export", runs["table"], f"out={tmp_path / 'x'}")
    main("predict", tmp_path / "x", tmp_path / "new.csv", f"out={tmp_path / 'q.csv'}")
    assert rows(tmp_path / "q.csv") == rows(tmp_path / "p.csv")
    facts = json.loads((tmp_path / "x" / "export.json").read_text())
    del facts["encoding"]  # an older export takes the network's inputs as they are
    (tmp_path / "x" / "export.json").write_text(json.dumps(facts))
    (tmp_path / "inputs.csv").write_text("f,g\n" + "".join(f"{a},{b}\n" for a, b in values))
    main("predict", tmp_path / "x", tmp_path / "inputs.csv", f"out={tmp_path / 'q.csv'}")
    np.testing.assert_allclose([float(row["y"]) for row in rows(tmp_path / "q.csv")], expected, rtol=1e-4)


def test_words_of_a_table_that_no_training_row_has_are_told(caplog):
    encoding = {"kind": "table", "columns": [{"name": "c", "words": ["green", "red"]}]}
    frame = __import__("pandas").DataFrame({"c": ["red", "violet", "green"]})
    inputs, _ = encode(encoding, frame, "new.csv")
    assert inputs.tolist() == [[0, 1], [0, 0], [1, 0]]
    assert "new.csv: the column 'c' holds words that no training row has, in 1 of 3 rows" in caplog.text


@pytest.mark.parametrize("level", ["word", "character", "tokenizer"])
def test_an_export_of_texts_or_words_carries_what_they_are_encoded_by(tmp_path, level, caplog):
    texts = [
        (f"{word} number {n % 7}", n, kind)
        for n in range(12)
        for word, kind in (("good", "yes"), ("bad", "no"))
    ]
    (tmp_path / "t.csv").write_text("text,n,label\n" + "".join(f"{a},{b},{c}\n" for a, b, c in texts))
    words = [f"data.level={level}"]
    if level == "tokenizer":
        entries = {"[UNK]": 0, "[PAD]": 1, "good": 2, "bad": 3, "number": 4}
        encoder = tokenizers.Tokenizer(tokenizers.models.WordLevel(entries, unk_token="[UNK]"))
        encoder.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        encoder.save(str(tmp_path / "tokenizer.json"))
        words = [f"data.tokenizer={tmp_path / 'tokenizer.json'}"]
    small = [*SMALL[:4], "fit.max_steps=3", "fit.validate_every_steps=3", f"runs_dir={tmp_path / 'runs'}"]
    net = ["model=transformer_encoder", "model.depth=1", "model.width=8", "model.heads=2"]
    run_plan(
        plan_of(
            [
                *small,
                *net,
                "data=text_classification",
                f"data.root={tmp_path / 't.csv'}",
                *words,
                "name=texts",
            ]
        )
    )
    (run,) = Store(tmp_path / "runs").runs("texts")
    (tmp_path / "new.csv").write_text("text\ngood number 3\nwhatever\nbad\n")
    main("predict", run.path, tmp_path / "new.csv", f"out={tmp_path / 'p.csv'}")
    strange = "1 of 3 texts have no word that the training texts have"  # whatever
    assert (strange in caplog.text) == (level == "word")
    main("export", run.path, f"out={tmp_path / 'x'}")
    (tmp_path / "tokenizer.json").unlink(missing_ok=True)  # the folder has all it takes
    main("predict", tmp_path / "x", tmp_path / "new.csv", f"out={tmp_path / 'q.csv'}")
    assert rows(tmp_path / "q.csv") == rows(tmp_path / "p.csv") and len(rows(tmp_path / "p.csv")) == 3
    network = tutelage.load_exported(tmp_path / "x")
    frame = __import__("pandas").read_csv(tmp_path / "new.csv")
    inputs, mask = network.encode(frame)
    assert inputs.shape == mask.shape and mask.sum(1).tolist() == (
        [3, 1, 1] if level != "character" else [13, 8, 3]
    )
    assert network(inputs, mask).shape == (3, 2)
    (tmp_path / "bad.csv").write_text("words\ngood\n")
    with pytest.raises(UserError, match="has no column 'text'"):
        main("predict", tmp_path / "x", tmp_path / "bad.csv", f"out={tmp_path / 'q.csv'}")
    if level != "character":  # where a space is a token
        (tmp_path / "bad.csv").write_text('text\n"good"\n" "\n')
        with pytest.raises(UserError, match="the text is empty in 1 of 2 rows, the first of them row 2"):
            main("predict", tmp_path / "x", tmp_path / "bad.csv", f"out={tmp_path / 'q.csv'}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["digits", "nowhere.png"], "there is no file or folder nowhere.png"),
        (["table", "nowhere.png"], "rows of a table"),
        (["digits", "file", "data=mnist"], "not both"),
        (["digits", "out=/nowhere/at/all.csv"], "a folder that exists"),
        (["tokens"], "this network's task is tokens"),
    ],
)
def test_a_mistake_is_one_message(runs, words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said) as caught:
        main("predict", *[runs.get(word, word) for word in words])
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


@pytest.fixture
def inputs(tmp_path):
    """Files and folders of every kind."""
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    (tmp_path / "empty.csv").touch()
    (tmp_path / "empty.png").touch()
    (tmp_path / "words.csv").write_text("a,b\n1,two\n")
    (tmp_path / "notes.txt").write_text("hello\n")
    (tmp_path / "table.png").write_text("a,b\n1,2\n")
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "a.csv").write_text("a,b\n1,2\n")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "images" / "one.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "images" / "one.png").read_bytes()[:2000])
    __import__("pandas").DataFrame({"a": [1.0]}).to_parquet(tmp_path / "less.parquet")
    (tmp_path / "image.csv").write_bytes((tmp_path / "images" / "one.png").read_bytes())
    return tmp_path


NO_IMAGE = "this network takes images: give image files, or folders of them, got {}, which"
NO_TABLE = "this network takes rows of a table: give one file (.csv, .tsv, "
OTHER_KINDS = {
    "digits": {
        "table.csv": f"{NO_IMAGE} is no image",
        "less.parquet": f"{NO_IMAGE} is no image",
        "table.png": f"{NO_IMAGE} is no image",
        "empty.png": f"{NO_IMAGE} is empty",
        "empty.csv": f"{NO_IMAGE} is empty",
        "tables": f"{NO_IMAGE.replace('got', 'got the folder')} holds none (.jpg, ",
        "nothing": f"{NO_IMAGE.replace('got', 'got the folder')} holds none (.jpg, ",
        "cut.png": "cannot read the image {}: ",
        "nowhere.csv": "there is no file or folder {}",
    },
    "table": {
        "images": NO_TABLE,
        "images/one.png": NO_TABLE,
        "nothing": NO_TABLE,
        "tables": NO_TABLE,
        "nowhere.csv": NO_TABLE,
        "empty.csv": "{} is empty: a header and rows are expected",
        "notes.txt": "{} has a header and no rows",
        "less.parquet": "{} has no column 'b'",
        "words.csv": "{}: the column 'b' held numbers in training, and holds words here",
        "image.csv": "{} is no CSV file, but holds binary data",
    },
    "text": {
        "images/one.png": NO_TABLE,
        "images": NO_TABLE,
        "table.csv": "{} has no column 'text'",
        "empty.csv": "{} is empty: a header and rows are expected",
        "less.parquet": "{} has no column 'text'",
    },
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_inputs_of_another_kind_are_one_message(kind, runs, inputs):
    main("export", runs[kind], f"out={inputs / 'x'}")
    for name, said in OTHER_KINDS[kind].items():
        for network in (runs[kind], inputs / "x"):
            with pytest.raises(UserError) as caught:
                main("predict", network, inputs / name, f"out={inputs / 'p.csv'}")
            assert said.format(inputs / name) in str(caught.value) and "\n" not in str(caught.value)
    assert not (inputs / "p.csv").exists()


def test_files_that_a_run_was_trained_on_are_predicted_in_every_form(runs, inputs):
    """What tables may be called is one list: in training and after it."""
    text = "text\ngood film\n"
    for name in ("t.csv", "t.txt", "t.csv.gz", "t.tsv"):
        opened = __import__("gzip").open if name.endswith("gz") else open
        with opened(inputs / name, "wt") as file:
            file.write(text)
        main("predict", runs["text"], inputs / name, f"out={inputs / 'p.csv'}")
        assert len(rows(inputs / "p.csv")) == 1


def test_export_refuses_what_it_would_overwrite_and_unknown_words(runs, tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(UserError, match="holds other things than an export"):
        main("export", runs["digits"], f"out={tmp_path}")
    with pytest.raises(UserError, match="format"):
        main("export", runs["digits"], "format=onx")
    with pytest.raises(UserError, match="hub must be a repository"):
        main("export", runs["digits"], "hub=nobody")


def test_offline_the_hub_is_not_reached_and_the_folder_stands(runs, tmp_path, capsys, monkeypatch):
    import huggingface_hub

    def away(*_, **__):
        raise OSError("no network\nat all")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", away)
    assert main("export", runs["digits"], f"out={tmp_path / 'x'}", "hub=me/mine") == 0
    said = capsys.readouterr().out
    assert "not sent to me/mine (no network)" in said and (tmp_path / "x" / "weights.safetensors").is_file()
