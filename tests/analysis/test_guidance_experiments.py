"""Guided learning's experiments: every file hangs together; they compose, build and take a step; every table names what exists."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tutelage.config.compose import compose, hydra_ready
from tutelage.config.groups import group_options
from tutelage.config.planner import plan_of
from tutelage.engine.build import build
from tutelage.reporting.table_file import load

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
FILES = sorted((CONF / "experiment" / "guidance").rglob("*.yaml"))
NAMES = [str(path.relative_to(CONF / "experiment").with_suffix("")) for path in FILES]
TABLES = sorted((ROOT / "experiments" / "guidance").rglob("*.yaml"))
ARMS = {
    f"{path.relative_to(ROOT / 'experiments/guidance').with_suffix('')}: {arm.label}": arm.command
    for path in TABLES
    for arm in load(path).arms
}
QUICK = [
    "paper/cifar10_layers: one-to-many",
    "paper/parity: trained guide",
    "digits: 300 steps on noise, then task",
    "error_consistency: guided by ViT",
    "convnet: untrained guide",
    "copy_paste: untrained guide, by token",
    "language: trained guide",
    "label_noise: 20% distilled",
    "forecasting: trained guide",
    "combined: first 5, ridge, until",
    "rules: oriented gradients",
    "forecasting: calendar",
]
"""One of each kind; `make test-slow` does all."""
BEYOND_TABLES = {
    "no table: hierarchy": (
        "experiment=guidance/cifar10/base",
        "method=guidance",
        "model@guide=rule/cifar10_hierarchy",
    ),
    "no table: gradients": (
        "experiment=guidance/cifar10/base",
        "method=guidance",
        "model@guide=rule/oriented_gradients",
        "guide.cell=4",
    ),
}
ARMS |= BEYOND_TABLES
NARROW = {
    "model.width=8192": "model.width=512",
    "guidance/paper/imagenet": "model.width=256",
    "paper/cifar10": "model.width=64",
}
"""What a step of the paper's largest networks is tested at; one of each also at its own width, which takes up to 10 GB."""
CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
OWN_SIZE = [
    "paper/imagenet: Deep FCN, trained guide",
    "paper/imagenet: Wide FCN, untrained guide",
    "paper/imagenet: Deep ConvNet, untrained guide",
    "paper/cifar10_layers: first 5",
]


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> dict[str, Path]:
    """Data in the layouts that the experiments ask for, a few samples of each."""
    root = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    for kind, size, parts in (("cifar10", 32, ("train", "test")), ("imagenet", 224, ("train", "val"))):
        for part in parts:
            names = CIFAR10 if kind == "cifar10" else ("cat", "dog")
            for name in names:
                (root / kind / part / name).mkdir(parents=True)
                for i in range(20 // len(names)):
                    pixels = generator.integers(0, 255, (size, size, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(root / kind / part / name / f"{i}.png")
    words = " ".join(generator.choice(["a", "b", "c", "d"], 4000).tolist())
    (root / "text").mkdir()
    for name in (
        "wikitext2-valid.txt",
        "wikitext2-test.txt",
        "wiki.train.tokens",
        "wiki.valid.tokens",
        "wiki.test.tokens",
    ):
        (root / "text" / name).write_text(words)
    start = datetime(2016, 7, 1)
    rows = [f"{start + timedelta(hours=i)},{i % 7}.5,{i % 5}.0" for i in range(14_400)]
    (root / "ETTh1.csv").write_text("\n".join(["date,HUFL,OT", *rows]))
    (root / "sentences").mkdir()
    for part in ("train", "dev", "test"):
        rows = [f"{' '.join(generator.choice(['a', 'b', 'c', 'd'], 6))},{i % 2}" for i in range(80)]
        (root / "sentences" / f"sst2-{part}.csv").write_text("\n".join(["text,label", *rows]))
    return {
        "imagenet": root / "imagenet",
        "cifar10": root / "cifar10",
        "language": root / "text",
        "etth1": root / "ETTh1.csv",
        "sentences": root / "sentences",
    }


def words_for(words: Sequence[str], roots: dict[str, Path]) -> list[str]:
    experiment = words[0].removeprefix("experiment=")
    kinds = {
        "cifar10": "cifar10",
        "imagenet": "imagenet",
        "language": "language",
        "forecasting": "etth1",
        "sst2": "sentences",
    }
    kind = next((kind for part, kind in kinds.items() if part in experiment), None)
    return [*words, *([f"data.root={roots[kind]}"] if kind else [])]


def take_a_step(
    words: Sequence[str], roots: dict[str, Path], tmp_path: Path, *more: str, plain_descent: bool = False
) -> None:
    experiment = words[0].removeprefix("experiment=")
    on_cpu = ["hardware=cpu"] if "hardware=gpu" in words else []
    with hydra_ready():
        words = [*words_for(words, roots), *on_cpu, "data.batch_size=8", f"runs_dir={tmp_path}", *more]
        words += ["data.validation=8"] if "cifar10" in experiment or "imagenet" in experiment else []
        words += ["data.train_size=null"] if experiment.startswith("guidance/cifar10") else []
        words += ["method.objectives.dimension.neighbours=4"] if "method=intrinsic_dimension" in words else []
        plan = plan_of(words)
    for need in plan.needs.values():
        assert need.name.startswith(("guidance/", "demo"))
    config = plan.config
    for role in ("guide", "teacher"):
        if config[role]:  # what a trained one was trained to be does not matter here
            config[role]["weights"] = "scratch"
    built = build(config)
    method = built.method.train()
    method.max_steps = 100
    batch = next(iter(built.data.train_stream(seed=0, device="cpu")))
    last = list(method.network.parameters())[-1]
    before = last.detach().clone()
    optimizer = method.configure_optimizers()
    optimizer = optimizer["optimizer"] if isinstance(optimizer, dict) else optimizer
    if plain_descent:
        optimizer = torch.optim.SGD(method.network.parameters(), lr=1e-3)
    loss = method.training_step(batch, 0)
    loss.backward()
    optimizer.step()
    assert loss.isfinite()
    assert last.isfinite().all() and not torch.equal(last, before)


@pytest.mark.parametrize("arm", [*QUICK, *BEYOND_TABLES])
def test_one_of_each_kind_takes_a_step(arm, roots, tmp_path):
    take_a_step(ARMS[arm], roots, tmp_path, *narrowed(ARMS[arm]))


def narrowed(words: Sequence[str]) -> list[str]:
    if "resnet" in words[0] or any(word == "model.residual=false" for word in words):
        return []
    return [word for part, word in NARROW.items() if part in " ".join(words)][:1]


def test_every_experiment_composes_and_names_what_it_needs(roots):
    with hydra_ready():
        configs = {name: compose(words_for([f"experiment={name}"], roots)) for name in NAMES}
    for name, config in configs.items():
        assert config["name"] == name
        weights = [str((config[role] or {}).get("weights")) for role in ("guide", "teacher")]
        needed = [word.removeprefix("need:") for word in weights if word.startswith("need:")]
        assert needed == list(config["needs"]), name


@pytest.mark.slow
@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_takes_a_step(arm, roots, tmp_path):
    take_a_step(ARMS[arm], roots, tmp_path, *narrowed(ARMS[arm]))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_takes_a_step(name, roots, tmp_path):
    words = [f"experiment={name}"]
    take_a_step(words, roots, tmp_path, *narrowed(words))


@pytest.mark.slow
@pytest.mark.parametrize("arm", OWN_SIZE)
def test_the_papers_image_networks_take_a_step_at_their_own_size(arm, roots, tmp_path):
    # Adam's moments would double the memory of a billion weights.
    take_a_step(ARMS[arm], roots, tmp_path, plain_descent=True)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_a_file_is_called_what_its_runs_are_and_its_defaults_exist(path):
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
            assert choice in group_options(group), entry
    for command in (config.get("needs") or {}).values():
        assert command[0].startswith("experiment=")
        assert (CONF / "experiment" / f"{command[0].removeprefix('experiment=')}.yaml").is_file()


@pytest.mark.parametrize("path", TABLES, ids=lambda p: p.stem)
def test_a_table_loads_and_names_experiments_that_exist(path):
    table = load(path)
    assert table.paper_setting == (path.parent.name == "paper")
    assert len(table.seeds) >= 3
    grids = {arm.points for arm in table.arms}
    assert len(grids) == 1  # the same grid for every arm
    for arm in table.arms:
        kind, _, name = arm.command[0].partition("=")
        assert kind == "experiment" or kind in ("data", "method"), arm.command[0]
        if kind != "experiment":
            continue  # its words are all there
        assert (CONF / "experiment" / f"{name}.yaml").is_file(), name


def test_every_arm_that_was_published_has_its_experiment_and_its_number():
    imagenet = {
        arm.label: arm.published.value for arm in load(ROOT / "experiments/guidance/paper/imagenet.yaml").arms
    }
    assert imagenet["Deep FCN, untrained guide"] == 13.10 and imagenet["Deep ConvNet, trained guide"] == 78.91
    layers = {
        arm.label: arm.published.value for arm in load(ROOT / "experiments/guidance/cifar10_layers.yaml").arms
    }
    assert layers["base"] == 60.58 and layers["first 5"] == 79.58 and len(layers) == 11
    language = load(ROOT / "experiments/guidance/paper/language_large.yaml")
    assert language.metric == "perplexity" and language.arms[1].published.value == 36.91


def test_arms_differ_from_their_base_in_what_they_are_named_for(roots):
    with hydra_ready():
        base = plan_of(["experiment=demo/guided-untrained"]).config
        arm = plan_of(ARMS["digits: guided until step 150"]).config
        first = plan_of(words_for(ARMS["paper/cifar10_layers: first 5"], roots)).config
        whole = plan_of(words_for(ARMS["paper/cifar10_layers: all"], roots)).config
    assert {key for key in base if base[key] != arm[key]} - {"name"} == {"method"}
    changed = {key for key in base["method"] if base["method"][key] != arm["method"][key]}
    assert changed == {"objectives"}
    ours, theirs = (config["method"]["objectives"] for config in (base, arm))
    assert ours["task"] == theirs["task"]
    assert {key for key in ours["alignment"] if ours["alignment"][key] != theirs["alignment"][key]} == {
        "schedule"
    }
    assert {key for key in whole if whole[key] != first[key]} - {"name"} == {"method"}
    pairing = first["method"]["objectives"]["alignment"]["pairing"]
    assert (pairing["strategy"], pairing["k"], pairing["positions"]) == ("first", 5, "keep")
    assert (
        first["model"]["depth"] == 50 and first["model"]["width"] == 2048 and first["guide"]["small_images"]
    )
    assert first["data"]["augment"] is None and first["optimizer"]["name"] == "adam"
