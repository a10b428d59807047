"""Pseudo data sets as runs: made as needs, restartable, mended, the same bytes, and read by PP and P-SSL."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.linalg
import torch
import yaml

from tutelage.analysis import sample_quality
from tutelage.cli.main import main
from tutelage.config.planner import plan_of
from tutelage.data import cache, pseudo
from tutelage.engine.load import load_run
from tutelage.errors import UserError
from tutelage.generators import shards
from tutelage.jobs.launch import run_plan
from tutelage.runs.store import Store

C = "method.objectives.consistency"
COMMON = ["logger=none", "hardware.threads=1"]
FIT = ["fit.max_steps=4", "fit.validate_every_steps=2"]
CLASSES = "data.classes=[5,6,7,8,9]"
HALF = "data.normalization=[[0.5],[0.5]]"
NOISE = [
    "model=generator/noise",
    "+model.num_classes=3",
    "method.count=80",
    "method.shard_size=32",
    CLASSES,
    HALF,
]
CLASSIFIER = [
    "name=classifier",
    "model=residual_convnet",
    "model.width=4",
    "model.blocks=1",
    "data.classes=[0,1,2]",
    HALF,
    *COMMON,
    *FIT,
]


@pytest.fixture(autouse=True)
def fresh_cache():
    cache.forget()


@pytest.fixture
def do(tmp_path):
    """Give a function that does the run of some overrides and returns it."""

    def run(*words, runs_dir=tmp_path / "runs"):
        plan = plan_of([*COMMON, *words, f"runs_dir={runs_dir}"])
        run_plan(plan)
        return Store(runs_dir).run(plan.name, plan.identity)

    return run


def need(role, *words):
    """Return the override that adds a need, nested needs included."""
    return f"+needs.{role}=[{','.join(repr(word) for word in words)}]"


def content(run):
    return pseudo.read_manifest(run.path)["content_sha256"]


def soft(do, *words):
    return do(
        "name=soft", "method=synthesis", *NOISE, "method.labelling=soft", "data.per_class=4", "model@source=residual_convnet",
        "source.width=4", "source.blocks=1", "source.weights=need:c", need("c", *CLASSIFIER), *words,
    )  # fmt: skip


def test_a_set_is_a_run_with_a_record(do):
    run = do("method=synthesis", "name=set", *NOISE)
    assert run.is_complete
    assert run.result["pseudo"]["count"] == 80
    assert run.result["reads"]["setting"] == "source_free"
    assert len(pseudo.read(run.path).images) == len(pseudo.read(run.path / "shards").images) == 80
    assert (run.path / "samples.png").is_file() and run.attempts


def test_uniform_labels_of_a_trained_generator_open_no_data(do):
    generator = ["name=g", "model=generator/gan", "model.width=4", "method=gan", "method.critic_width=4", "method.quality_samples=8",
                 "model@source=residual_convnet", "source.width=4", "data.classes=[0,1,2]", HALF, *COMMON, *FIT]  # fmt: skip
    words = [
        "method=synthesis",
        "name=set",
        "model=generator/gan",
        "model.width=4",
        "model.weights=need:g",
        "method.count=16",
    ]
    run = do(*words, need("g", *generator), "data=image_folder", "data.root=/nowhere", "data.fingerprint=x")
    assert run.result["reads"]["data"] is None
    assert run.result["pseudo"]["classes"] == 3  # the generator's own run says so
    assert "data" not in json.loads((run.path / "setup.json").read_text())


def test_shard_size_changes_no_byte(do):
    whole = content(do("method=synthesis", "name=set", *NOISE))
    assert content(do("method=synthesis", "name=set", *NOISE, "method.shard_size=16")) == whole


@pytest.mark.slow
def test_ranks_make_the_same_bytes(do):
    whole = content(soft(do))
    ranks = soft(do, "hardware=ddp_cpu", "hardware.devices=2", "hardware.threads=1")
    assert content(ranks) == whole
    assert ranks.result["cost"]["ranks"] == 2


def test_a_killed_synthesis_goes_on_with_what_is_there(do, monkeypatch):
    write, made = shards._write_shard, []

    def killed(path, *rest):
        if made:
            raise KeyboardInterrupt
        made.append(path)
        write(path, *rest)

    monkeypatch.setattr(shards, "_write_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        do("method=synthesis", "name=set", *NOISE)
    monkeypatch.setattr(shards, "_write_shard", write)
    before = made[0].stat().st_mtime_ns
    run = do("method=synthesis", "name=set", *NOISE)
    assert made[0].stat().st_mtime_ns == before
    monkeypatch.undo()
    assert content(run) == content(do("method=synthesis", "name=again", *NOISE))


def test_a_damaged_shard_is_named_by_its_reader_and_mended_by_the_command(do, tmp_path, capsys):
    run = soft(do)
    assert 0 <= run.result["metrics"]["validation"]["source_accuracy"] <= 1
    whole, shard = content(run), run.path / "shards" / "shard-00001.safetensors"
    original = shard.read_bytes()
    shard.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    cache.forget()
    with pytest.raises(UserError, match=f"shard-00001.* is damaged: `tutelage synthesize .*{run.identity}`"):
        pseudo.read(run.path)
    assert main(["synthesize", str(run.path), f"runs_dir={tmp_path / 'runs'}"]) == 0
    assert "labelling soft" in capsys.readouterr().out
    assert shard.read_bytes() == original
    shard.unlink()
    assert main(["synthesize", run.key, f"runs_dir={tmp_path / 'runs'}"]) == 0
    assert shard.read_bytes() == original
    assert content(run) == whole


@pytest.mark.parametrize("damage", ["truncated", "another content"])
def test_a_damaged_manifest_is_named_by_its_reader_and_mended_by_the_command(do, damage):
    run = do("method=synthesis", "name=set", *NOISE)
    manifest = run.path / "shards" / "manifest.json"
    good = manifest.read_text()
    manifest.write_text(good[:-9] if damage == "truncated" else good.replace(content(run), "0" * 64))
    stamps = [path.stat().st_mtime_ns for path in sorted(manifest.parent.glob("shard-*"))]
    cache.forget()
    with pytest.raises(UserError, match=f"damaged.*tutelage synthesize .*{run.identity}"):
        pseudo.read(run.path)
    assert main(["synthesize", str(run.path)]) == 0
    assert manifest.read_text() == good
    assert [path.stat().st_mtime_ns for path in sorted(manifest.parent.glob("shard-*"))] == stamps
    assert len(pseudo.read(run.path).images) == 80


def test_the_chain_composes_pp_then_p_ssl(do, tmp_path):
    uniform = ["method=synthesis", "name=uniform", *NOISE, *COMMON]
    small = ["model=convnet", "model.width=4", "model.blocks=1", *FIT]
    pp = [
        "name=pp",
        "data=pseudo",
        "data.root=need:u",
        "data.batch_size=16",
        HALF,
        *small,
        *COMMON,
        need("u", *uniform),
    ]
    p_ssl = ["name=p-ssl", "method=pseudo_ssl/uda", f"{C}.pseudo=need:u", f"{C}.weak.random_crop.padding=1",
             f"{C}.strong.random_crop.padding=1", CLASSES, HALF, "data.batch_size=16", *small, need("u", *uniform)]  # fmt: skip
    first = do(*pp)
    assert first.result["reads"]["runs"] == [next(Store(tmp_path / "runs").runs("uniform")).key]
    run = do(*p_ssl, f"model.weights={first.path}", "+model.new_head=true")
    assert run.result["reads"]["data"]["classes"] == [5, 6, 7, 8, 9]
    setup = json.loads((run.path / "setup.json").read_text())
    assert setup["method"]["objectives"]["consistency"]["pseudo"]["content_sha256"] == content(
        next(Store(tmp_path / "runs").runs("uniform"))
    )
    method = yaml.safe_load((run.path / "config.yaml").read_text())["method"]
    assert method["objectives"]["consistency"]["pseudo"] == "need:u"
    by_folder = [w for w in p_ssl if "pseudo=" not in w and "needs." not in w]
    folder = next(Store(tmp_path / "runs").runs("uniform")).path
    assert do(*by_folder, f"{C}.pseudo={folder}").is_complete


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["method.labelling=uniform", "method.count=0"], "count of at least 1"),
        (["method.labelling=unform"], "did you mean 'uniform'"),
        (["method.labelling=soft"], "needs a source: add model@source"),
        (["method.micro_batch=0"], "micro_batch must be at least 1"),
        (["model.weights=need:g"], "names no need 'g'"),
        (["method.labelling=soft", "model@source=fcn", "source.depth=1"], "classifier knows 5 classes, the generator 3"),
        (["data.per_class=5000", "method.labelling=soft", "model@source=fcn", "source.depth=1"], "training samples; choose from 1"),
        (["hardware=gpu"], "hardware=cpu"),
    ],
)  # fmt: skip
def test_wrong_input_is_named(tmp_path, capsys, words, says):
    import torch

    if words == ["hardware=gpu"] and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    code = main(["synthesize", *NOISE, *COMMON, f"runs_dir={tmp_path}", *words])
    message = capsys.readouterr().err
    assert code == 2 and "Traceback" not in message
    assert says in message


def test_a_teacher_of_other_classes_is_named(do, tmp_path):
    noise = do("method=synthesis", "name=set", *NOISE)
    words = [
        "data=pseudo",
        f"data.root={noise.path}",
        "data.batch_size=16",
        "method=distillation",
        "model=fcn",
        "model.depth=1",
        HALF,
    ]
    teacher = [
        "model@teacher=residual_convnet",
        "teacher.width=4",
        "teacher.blocks=1",
        "teacher.weights=need:c",
    ]
    of_five = [word for word in CLASSIFIER if not word.startswith("data.classes")] + [
        "data.classes=[0,1,2,3,4]"
    ]
    with pytest.raises(UserError, match=r"the teacher gives .5,. per sample, FCN .3,."):
        do(*words, *teacher, need("c", *of_five), *FIT)


def test_a_network_is_no_generator(tmp_path, capsys):
    assert main(["synthesize", "model=fcn", *COMMON, f"runs_dir={tmp_path}"]) == 2
    assert "choose one of model=generator/" in capsys.readouterr().err


def test_a_reader_names_a_set_that_is_not_there(tmp_path, capsys):
    assert main(["train", "data=pseudo", f"data.root={tmp_path}", *COMMON]) == 2
    assert "`tutelage synthesize` makes one" in capsys.readouterr().err


def test_a_folder_holds_the_set_of_one_generator(do):
    run = do("method=synthesis", "name=set", *NOISE)
    recipe = run.path / "shards" / "recipe.json"
    stored = json.loads(recipe.read_text())
    stored["generator"]["sha256"] = "0" * 64
    recipe.write_text(json.dumps(stored))
    (run.path / "result.json").unlink()
    with pytest.raises(UserError, match=r"holds another pseudo data set .generator is"):
        do("method=synthesis", "name=set", *NOISE)


@pytest.mark.parametrize("labels", [np.arange(4000) % 5, np.arange(4000) // 800])
def test_images_to_judge_are_of_all_classes_however_these_lie(labels):
    counts = np.bincount(labels[sample_quality.drawn(4000, 800)], minlength=5)
    assert counts.sum() == 800 and counts.min() > 120


def test_pseudo_sets_are_held_against_real_images(do, tmp_path, capsys):
    runs = tmp_path / "runs"
    classifier = do(*CLASSIFIER)
    sets = [do("method=synthesis", "name=noise", *NOISE, f"seed={seed}") for seed in (0, 1)]
    words = [
        "analyse",
        "quality",
        "classifier",
        "noise",
        f"runs_dir={runs}",
        f"out={tmp_path}/out",
        "samples=60",
    ]
    assert main(words) == 0
    with (tmp_path / "out" / "quality.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["images"] == "training images" and len(rows) == 3
    assert {row["count"] for row in rows} == {"60"} and (tmp_path / "out" / "quality.png").exists()
    real, *noise = (float(row["frechet_distance"]) for row in rows)
    assert real < min(noise)
    assert float(rows[0]["recall"]) > max(float(row["recall"]) for row in rows[1:])
    # The obvious way: every image through the network, one by one, and scipy's root of a matrix.
    loaded = load_run(classifier.path)
    loaded.data.open_test()
    whole = torch.cat([b.inputs for b in loaded.data.batches("test", device="cpu")])
    reference = whole[sample_quality.drawn(len(whole), 60)]
    images = pseudo.read(sets[0].path / "shards").images
    chosen = images[sample_quality.drawn(len(images), 60)]
    kept = []
    loaded.network.get_submodule("head").register_forward_pre_hook(
        lambda module, given: kept.append(given[0])
    )
    with torch.no_grad():
        for image in [*reference, *(chosen / 255 - 0.5) / 0.5]:
            loaded.network(image.unsqueeze(0))
    real, made = (torch.cat(part).flatten(1).double().numpy() for part in (kept[:60], kept[60:]))
    covariances = [np.cov(x.T) for x in (real, made)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = ((real.mean(0) - made.mean(0)) ** 2).sum() + np.trace(sum(covariances) - 2 * root)
    (row,) = (row for row in rows if sets[0].identity[:6] in row["images"])
    assert float(row["frechet_distance"]) == pytest.approx(expected, rel=1e-3)
    assert main(["analyse", "quality", "classifier", f"runs_dir={runs}"]) == 2
    assert (
        "one classifier's run and at least one run of `tutelage synthesize`, got 1 and 0"
        in capsys.readouterr().err
    )


@pytest.mark.slow
def test_tasks_that_slurm_started_share_the_shards(do, tmp_path):
    """srun sets other names than torchrun: each task took itself for the only one, and all wrote everything."""
    whole = content(do("method=synthesis", "name=set", *NOISE))
    words = [
        sys.executable,
        "-m",
        "tutelage",
        "synthesize",
        "name=set",
        *NOISE,
        *COMMON,
        f"runs_dir={tmp_path}/two",
        "hardware=ddp_cpu",
    ]
    told = {
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_JOB_ID": "15001",
        "SLURM_JOB_NAME": "set",
        "SLURM_NODELIST": "localhost",
        "SLURM_NODEID": "0",
    }
    tasks = [
        subprocess.Popen(words, env=os.environ | told | {"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)}) for i in range(2)
    ]  # fmt: skip
    assert [task.wait(200) for task in tasks] == [0, 0]
    (run,) = Store(tmp_path / "two").runs()
    assert content(run) == whole
    assert run.result["cost"]["ranks"] == 2
