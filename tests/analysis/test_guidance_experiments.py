"""Guided learning's experiments: every file hangs together; they compose, build and take a step; every table names what exists."""

import re
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tutelage.config.compose import compose, hydra_ready, plan_of
from tutelage.engine.build import build
from tutelage.reporting.table_file import load

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
FILES = sorted((CONF / "experiment" / "guidance").rglob("*.yaml"))
NAMES = [str(path.relative_to(CONF / "experiment").with_suffix("")) for path in FILES]
TABLES = sorted((ROOT / "experiments" / "guidance").rglob("*.yaml"))
SWEEPS = sorted((CONF / "sweep").glob("guidance_*.yaml"))
QUICK = [
    "paper/cifar10/one-to-many",
    "paper/sequences/parity-guided-trained",
    "digits/initialised",
    "cifar10/guided-vit-trained",
    "cifar10/convnet-guided-untrained",
    "sequences/copy_paste-tokens-untrained",
    "sequences/language-guided-trained",
    "beyond/label_noise-distilled",
    "beyond/etth1-guided-trained",
    "beyond/first-5-ridge-until",
    "rules/digits-gradients",
    "rules/cifar10-hierarchy",
    "rules/etth1-calendar",
]
"""One of each kind; `make test-slow` does all."""
NARROW = {
    "imagenet/wide_fcn": "model.width=512",
    "imagenet/deep_fcn": "model.width=256",
    "paper/cifar10": "model.width=64",
}
"""What a step of the paper's largest networks is tested at; one of each also at its own width, which takes up to 10 GB."""
CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
OWN_SIZE = [
    "imagenet/deep_fcn-guided-trained",
    "imagenet/wide_fcn-guided-untrained",
    "imagenet/deep_convnet-guided-untrained",
    "cifar10/first-5",
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
    return {
        "imagenet": root / "imagenet",
        "cifar10": root / "cifar10",
        "language": root / "text",
        "etth1": root / "ETTh1.csv",
    }


def words_for(name: str, roots: dict[str, Path]) -> list[str]:
    cifar = name.startswith(
        ("guidance/cifar10", "guidance/paper/cifar10", "guidance/rules/cifar10")
    ) or re.search("beyond/(first|until|ridge)", name)
    kind = "cifar10" if cifar else next((k for k in roots if k in name), None)
    return [f"experiment={name}", *([f"data.root={roots[kind]}"] if kind else [])]


def take_a_step(
    name: str, roots: dict[str, Path], tmp_path: Path, *more: str, plain_descent: bool = False
) -> None:
    with hydra_ready():
        words = [*words_for(name, roots), "data.batch_size=8", f"runs_dir={tmp_path}", *more]
        words += ["data.validation=8"] if "cifar10" in str(words) or "imagenet" in str(words) else []
        words += (
            ["data.train_size=null"]
            if re.match("guidance/(rules/)?cifar10", name) or ("beyond/" in name and "cifar10" in str(words))
            else []
        )
        words += ["method.neighbours=4"] if "intrinsic-dimension" in name else []
        plan = plan_of(words)
    assert plan.name == name
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


@pytest.mark.parametrize("name", QUICK)
def test_one_of_each_kind_takes_a_step(name, roots, tmp_path):
    take_a_step(f"guidance/{name}", roots, tmp_path, *narrowed(name))


def narrowed(name: str) -> list[str]:
    if name.endswith(("resnet18", "resnet20")):
        return []
    return [word for part, word in NARROW.items() if part in name]


def test_every_experiment_composes_and_names_what_it_needs(roots):
    with hydra_ready():
        configs = {name: compose(words_for(name, roots)) for name in NAMES}
    for name, config in configs.items():
        assert config["name"] == name
        weights = [str((config[role] or {}).get("weights")) for role in ("guide", "teacher")]
        needed = [word.removeprefix("need:") for word in weights if word.startswith("need:")]
        assert needed == list(config["needs"]), name


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_takes_a_step(name, roots, tmp_path):
    take_a_step(name, roots, tmp_path, *narrowed(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN_SIZE)
def test_the_papers_image_networks_take_a_step_at_their_own_size(name, roots, tmp_path):
    # Adam's moments would double the memory of a billion weights.
    take_a_step(f"guidance/paper/{name}", roots, tmp_path, plain_descent=True)


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
            assert (CONF / group / f"{choice}.yaml").is_file(), entry
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
        name = arm.command[0].removeprefix("experiment=")
        assert (CONF / "experiment" / f"{name}.yaml").is_file(), name


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.stem)
def test_a_sweep_names_experiments_that_exist(path):
    params = yaml.safe_load(path.read_text())["hydra"]["sweeper"]["params"]
    experiments = [word.strip() for word in params["experiment"].split(",")]
    assert len(set(experiments)) == len(experiments) > 1
    for name in experiments:
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
        arm = plan_of(["experiment=guidance/digits/until-150"]).config
        first = plan_of(words_for("guidance/paper/cifar10/first-5", roots)).config
        whole = plan_of(words_for("guidance/paper/cifar10/guided-untrained", roots)).config
    assert {key for key in base if base[key] != arm[key]} == {"name", "method"}
    changed = {key for key in base["method"] if base["method"][key] != arm["method"][key]}
    assert changed == {"schedule", "schedule_steps"}
    assert {key for key in whole if whole[key] != first[key]} == {"name", "method"}
    assert (first["method"]["pairing"], first["method"]["k"], first["method"]["positions"]) == (
        "first",
        5,
        "keep",
    )
    assert (
        first["model"]["depth"] == 50 and first["model"]["width"] == 2048 and first["guide"]["small_images"]
    )
    assert first["data"]["augment"] is None and first["optimizer"]["name"] == "adam"
