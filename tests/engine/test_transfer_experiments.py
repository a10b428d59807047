"""Transfer's experiments: every file hangs together and composes, stages say what they may open, and the digits chain runs whole."""

import functools
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tutelage.cli.main import main
from tutelage.config.compose import compose, hydra_ready
from tutelage.config.groups import group_options
from tutelage.config.planner import Planner, plan_of
from tutelage.engine.build import build
from tutelage.reporting.table_file import load
from tutelage.runs import needs, setting
from tutelage.runs.frozen_networks import objectives_of
from tutelage.runs.store import Store

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
FILES = sorted((CONF / "experiment" / "transfer").rglob("*.yaml"))
NAMES = [str(path.relative_to(CONF / "experiment").with_suffix("")) for path in FILES]
VARIANTS = {
    name: entry
    for name, entry in yaml.safe_load((CONF / "variants.yaml").read_text())["experiment"].items()
    if name.startswith("transfer/")
}
STAGES = sorted([path.stem for path in FILES] + [name.rpartition("/")[2] for name in VARIANTS])
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


CHAINS = ("digits", "cifar10", "imagenet")
TRAINED_SOURCE = ("classifier", "generator", "inversion", "inverted", "inverted-pcs", "fine-tuning")
"""Stages of chains whose source networks are trained here; ImageNet's are published."""


def words_for(stage: str, chain: str, images: Path) -> list[str]:
    place = [] if chain == "digits" else [f"chain.root={images}"]
    return [f"experiment=transfer/{stage}", f"chain={chain}", *place]


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_a_file_is_called_what_its_runs_are_and_names_what_exists(path):
    text = path.read_text()
    assert text.startswith("# @package _global_\n# ")
    config = yaml.safe_load(text)
    assert config["name"] == f"transfer/${{chain.set}}/{path.stem}"
    for entry in config["defaults"]:
        if isinstance(entry, str):
            assert (CONF / f"{entry.removeprefix('/')}.yaml").is_file(), entry
        else:
            ((key, choice),) = entry.items()
            group = key.removeprefix("override /").partition("@")[0]
            for chain in CHAINS if path.stem not in TRAINED_SOURCE else CHAINS[:2]:
                parts = yaml.safe_load((CONF / "chain" / f"{chain}.yaml").read_text())["chain"]["parts"]
                part = choice.removeprefix("${chain_part:${chain},").removesuffix("}")
                assert parts.get(part, choice) in group_options(group.lstrip("/")), entry


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_called_what_its_runs_are(name):
    assert VARIANTS[name]["set"]["name"] == f"transfer/${{chain.set}}/{name.rpartition('/')[2]}"
    assert VARIANTS[name]["of"] in [*NAMES, *VARIANTS]


@pytest.mark.parametrize("chain", CHAINS)
def test_every_stage_plans_and_uses_every_need(chain, images):
    known = functools.cache(lambda words: compose(words))
    for stage in STAGES:
        if chain == "imagenet" and stage in TRAINED_SOURCE:
            continue
        with hydra_ready():
            plan = needs.plan(
                known(tuple(words_for(stage, chain, images))), lambda words: known(tuple(words))
            )
        config = plan.config
        assert plan.name == f"transfer/{chain}/{stage}"
        used = {str((config[role] or {}).get("weights")) for role in ROLES}
        used |= {str(config["data"].get("root"))}
        used |= {str(node.get("pseudo")) for _, node in objectives_of(config)}
        assert {word.removeprefix("need:") for word in used if word.startswith("need:")} == set(plan.needs)
        opens_source = stage in ("classifier", "generator")
        expected = "source" if opens_source else "oracle" if "oracle" in stage else config["setting"]
        assert config["setting"] == expected
        assert opens_source or "oracle" in stage or setting.is_closed(config), stage
        assert all("oracle" not in need.name for need in plan.prerequisites())


@pytest.mark.parametrize("path", TABLES, ids=lambda p: p.stem)
def test_every_arm_of_a_table_plans_and_arms_share_the_recipe_of_the_target(path, images):
    table = load(path)
    assert len(table.seeds) >= 3
    root = [] if table.name == "transfer/digits" else [f"chain.root={images}"]
    plan = Planner()
    with hydra_ready():
        plans = {arm.label: plan([*arm.command, *root]) for arm in table.arms}
    assert len({plan.identity for plan in plans.values()}) == len(plans)
    base = next(iter(plans.values())).config
    for label, plan in plans.items():
        for key in ("data", "optimizer", "fit"):
            assert plan.config[key] == base[key], (label, key)
        assert ("oracle" in label) == (plan.config["setting"] == "oracle")


def test_a_word_for_the_chain_reaches_every_run_that_is_needed(images):
    words = words_for("pp-p-ssl", "cifar10", images)
    with hydra_ready():
        plan = plan_of([*words, "chain.count=7", "chain.generator_steps=11", "data.per_class=3", "seed=5"])
        closed = plan_of([*words, "chain.images=noise"])
    needed = {need.name.rpartition("/")[2]: need.config for need in plan.prerequisites()}
    assert needed["shards"]["method"]["count"] == 7 and needed["generator"]["fit"]["max_steps"] == 11
    assert needed["shards-pcs"]["data"]["per_class"] == 3
    assert needed["pp-pretraining"]["seed"] == 5 and needed["shards"]["seed"] == 0
    assert all(config["data"]["root"] in (str(images), "need:shards") for config in needed.values())
    assert {need.name.rpartition("/")[2] for need in closed.prerequisites()} == {
        "classifier",
        "noise",
        "noise-pcs",
        "pp-pretraining",
    }


@pytest.mark.parametrize("chain", CHAINS[:2])
@pytest.mark.parametrize("stage", ["pp-p-ssl", "logits", "fine-tuning", "pp"])
def test_the_chain_is_drawn_once_or_by_each_seed(stage, chain, images):
    kd = ["chain.pretraining_stage=kd-pretraining"] if stage == "pp" else []
    words = [*words_for(stage, chain, images), *kd, "seed=5"]
    with hydra_ready():
        once, drawn = plan_of(words), plan_of([*words, "chain.drawn=per_seed"])
    assert [plan.config["data"]["split_seed"] for plan in (once, drawn)] == [0, 5]
    for plan, seed in ((once, 0), (drawn, 5)):
        needed = {need.name.rpartition("/")[2]: need.config for need in plan.prerequisites()}
        follow = {"pp-pretraining", "kd-pretraining"} | (
            {"classifier"} if (stage, chain) == ("fine-tuning", "digits") else set()
        )
        assert {name: config["seed"] for name, config in needed.items()} == {
            name: 5 if name in follow else seed for name in needed
        }
        if stage == "pp-p-ssl":  # the images are conditioned on the images that the target has labels of
            assert needed["shards-pcs"]["data"]["split_seed"] == seed


@pytest.mark.parametrize(
    "stage", ["pp", "p-ssl", "pp-p-ssl", "logits", "fine-tuning", "kd-pretraining", "data-free", "inverted"]
)
def test_the_classes_of_the_source_reach_every_run_that_is_needed(stage, images):
    words = [*words_for(stage, "cifar10", images), "chain.source_classes=[cat,deer]", "chain.classes=2"]
    with hydra_ready():
        needed = {need.name.rpartition("/")[2]: need.config for need in plan_of(words).prerequisites()}
    read = {
        name: config["data"]["classes"]
        for name, config in needed.items()
        if name in ("classifier", "generator")
    }
    assert read and all(classes == ["cat", "deer"] for classes in read.values())


def test_a_target_stage_takes_a_step(images, tmp_path):
    with hydra_ready():
        config = compose(
            [*words_for("scratch", "cifar10", images), "data.validation=10", f"runs_dir={tmp_path}"]
        )
    built = build(config)
    built.method.max_steps = 2
    batch = next(iter(built.data.train_stream(seed=0, device="cpu")))
    assert batch.inputs.shape == (64, 3, 16, 16)
    assert built.method.train().training_step(batch, 0).isfinite()
    assert built.data.facts["classes"] == list(CIFAR10[5:])


@pytest.mark.slow
def test_one_command_runs_the_whole_chain_and_again_nothing(tmp_path, monkeypatch, capsys):
    words = ["train", "sweep=transfer/digits", f"runs_dir={tmp_path}", "seed=0", "hydra.launcher.processes=1"]
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
