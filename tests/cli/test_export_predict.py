"""`export` and `predict` on small real runs: what they write, say and refuse; the run stays as it was."""

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tutelage
from tutelage.cli import export, predict
from tutelage.cli.commands import COMMANDS
from tutelage.cli.reader import read
from tutelage.config.compose import plan_of
from tutelage.errors import UserError
from tutelage.jobs.launch import run_plan

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
    found = {"root": root, "file": table}
    for name, those in words.items():
        plan = plan_of(
            [*SMALL[:5], *([] if name == "tokens" else SMALL[5:]), f"runs_dir={root}", "model=fcn", *those]
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
    main("export", runs["digits"], f"out={tmp_path / 'x'}")
    for normalise in ("true", "false"):
        main("export", runs["digits"], f"out={tmp_path / 'x'}", f"normalise={normalise}")
        main("predict", runs["digits"], images, f"out={tmp_path / 'run.csv'}")
        main("predict", tmp_path / "x", images, f"out={tmp_path / 'export.csv'}")
        ours, theirs = rows(tmp_path / "run.csv"), rows(tmp_path / "export.csv")
        assert len(ours) == 3 and [r["prediction"] for r in ours] == [r["prediction"] for r in theirs]
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
    (tmp_path / "inputs.csv").write_text("f,g\n" + "".join(f"{a},{b}\n" for a, b in values))
    main("predict", tmp_path / "x", tmp_path / "inputs.csv", f"out={tmp_path / 'q.csv'}")
    np.testing.assert_allclose([float(row["y"]) for row in rows(tmp_path / "q.csv")], expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["digits", "nowhere.png"], "there is no file or folder nowhere.png"),
        (["digits", "file"], "cannot read the image"),
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
