"""Transfer's experiments: every file hangs together and composes, stages say what they may open, and the digits chain runs whole."""

import functools
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tutelage.cli.main import main
from tutelage.config.compose import compose, hydra_ready
from tutelage.engine.build import build
from tutelage.reporting.table_file import load
from tutelage.runs import needs, setting
from tutelage.runs.store import Store

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
FILES = sorted((CONF / "experiment" / "transfer").rglob("*.yaml"))
NAMES = [str(path.relative_to(CONF / "experiment").with_suffix("")) for path in FILES]
TABLES = sorted((ROOT / "experiments" / "transfer").glob("*.yaml"))
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ROLES = ("model", "teacher", "source")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """An image folder with CIFAR-10's classes, a few images of each."""
    root, draw = tmp_path_factory.mktemp("cifar10"), np.random.default_rng(0)
    for part, count in (("train", 40), ("test", 4)):
        for name in CIFAR10:
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = draw.integers(0, 255, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i}.png")
    return root


def words_for(name: str, images: Path) -> list[str]:
    if "/digits/" in name:
        return [f"experiment={name}"]
    if "/imagenet/" in name:
        place = {"oracle": "source_root", "oracle-pretraining": "data.root"}.get(name.rpartition("/")[2])
        return [f"experiment={name}", *([f"{place}={images}"] if place else [])]
    place = "source_root" if name.endswith("pretraining") and "oracle" not in name else "data.root"
    return [f"experiment={name}", f"{place}={images}"]


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_a_file_is_called_what_its_runs_are_and_names_what_exists(path):
    text = path.read_text()
    assert text.startswith("# @package _global_\n# ")
    config = yaml.safe_load(text)
    assert config["name"] == str(path.relative_to(CONF / "experiment").with_suffix(""))
    for entry in config["defaults"]:
        if isinstance(entry, str):
            assert (CONF / f"{entry.removeprefix('/')}.yaml").is_file(), entry
        else:
            ((key, choice),) = entry.items()
            group = key.removeprefix("override /").partition("@")[0]
            assert (CONF / group / f"{choice}.yaml").is_file(), entry


def test_every_experiment_plans_and_uses_every_need(images):
    known = functools.cache(lambda words: compose(words))
    for name in NAMES:
        with hydra_ready():
            plan = needs.plan(known(tuple(words_for(name, images))), lambda words: known(tuple(words)))
        config = plan.config
        assert plan.name == name
        used = {str((config[role] or {}).get("weights")) for role in ROLES}
        used |= {str(config["data"].get("root")), str(config["method"].get("pseudo"))}
        assert {word.removeprefix("need:") for word in used if word.startswith("need:")} == set(plan.needs), (
            name
        )
        opens_source = name.endswith(("classifier", "generator"))
        assert config["setting"] == (
            "source" if opens_source else "oracle" if "oracle" in name else config["setting"]
        )
        assert opens_source or "oracle" in name or setting.is_closed(config), name
        for need in plan.prerequisites():
            assert "oracle" not in need.name or "oracle" in name


def test_arms_differ_in_what_they_are_called_for(images):
    with hydra_ready():
        for family in ("digits", "cifar10", "imagenet"):
            base = compose(words_for(f"transfer/{family}/scratch", images))
            for arm in (
                "logits",
                "soft",
                "pp",
                "kd",
                "p-ssl",
                "pp-p-ssl",
                "noise-pp",
                "noise-pp-p-ssl",
                "oracle",
            ):
                config = compose(words_for(f"transfer/{family}/{arm}", images))
                for key in ("data", "optimizer", "fit"):
                    assert config[key] == base[key], (arm, key)
                assert config["model"]["_target_"] == base["model"]["_target_"]


@pytest.mark.parametrize("path", TABLES, ids=lambda p: p.stem)
def test_a_table_names_experiments_that_exist(path):
    table = load(path)
    assert len(table.seeds) >= 3
    for arm in table.arms:
        assert arm.command[0].removeprefix("experiment=") in NAMES


def test_a_target_stage_takes_a_step(images, tmp_path):
    with hydra_ready():
        config = compose(
            [*words_for("transfer/cifar10/scratch", images), "data.validation=10", f"runs_dir={tmp_path}"]
        )
    built = build(config)
    built.method.max_steps = 2
    batch = next(iter(built.data.train_stream(seed=0, device="cpu")))
    assert batch.inputs.shape == (64, 3, 16, 16)
    assert built.method.train().training_step(batch, 0).isfinite()
    assert built.data.facts["classes"] == list(CIFAR10[5:])


@pytest.mark.slow
def test_one_command_runs_the_whole_chain_and_again_nothing(tmp_path, monkeypatch, capsys):
    words = ["train", "sweep=transfer_digits", f"runs_dir={tmp_path}", "seed=0", "hydra.launcher.processes=1"]
    assert main(words) == 0
    store = Store(tmp_path)
    assert (
        len(list(store.runs("transfer/digits/shards")))
        == len(list(store.runs("transfer/digits/generator")))
        == 1
    )
    before = {run.key: run.attempts for run in store.runs()}
    assert all(run.is_complete for run in store.runs())
    assert main(words) == 0
    assert {run.key: run.attempts for run in store.runs()} == before
