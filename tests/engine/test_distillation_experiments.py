"""The tables of distillation and of semi-supervised learning on real images: every arm plans, one of each kind takes a step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tutelage.config.compose import hydra_ready
from tutelage.config.planner import Planner
from tutelage.engine.build import build
from tutelage.reporting.table_file import load

ROOT = Path(__file__).parents[2]
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
TABLES = (
    "distillation/cifar10_small",
    "distillation/cifar10_small_cnn",
    "distillation/simkd",
    "distillation/cifar100",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A few images of each class of CIFAR-10, as a folder, which stands for CIFAR-100, too."""
    folder = tmp_path_factory.mktemp("cifar10")
    generator = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in CLASSES:
            (folder / part / name).mkdir(parents=True)
            for i in range(4):
                pixels = generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{i}.png")
    return folder


def arms(table: str) -> dict[str, tuple[str, ...]]:
    return {arm.label: arm.command for arm in load(ROOT / f"experiments/{table}.yaml").arms}


def words_for(command, root: Path, runs: Path) -> list[str]:
    """An arm's words on the few images; its needs inherit their folder."""
    small = ["data.validation=8", "data.train_size=null", f"runs_dir={runs}"]
    return ["data=cifar10_folder", *command, f"data.root={root}", *small]


@pytest.mark.parametrize("table", TABLES)
def test_every_arm_plans_and_all_share_recipe_and_teachers(table, tmp_path, monkeypatch):
    monkeypatch.setattr("tutelage.data.fingerprint.fingerprint", lambda *_: "some data")
    given = [] if "100" in table else [f"data.root={tmp_path}"]
    plan, recipes, teachers = Planner(), set(), {}
    with hydra_ready():
        plans = {label: plan([*command, *given, "seed=1"]) for label, command in arms(table).items()}
    for label, found in plans.items():
        assert len(found.needs) == ("alone" not in label and "no teacher" not in label)
        recipes.add(repr([found.config[key] for key in ("optimizer", "data", "fit")]))
        for name, need in found.needs.items():
            teachers.setdefault(name, set()).add(need.identity)
            assert need.config["model"]["name"] == name == found.config["teacher"]["name"]
    assert len(recipes) == 1
    assert all(len(identities) == 1 for identities in teachers.values())
    assert len({found.identity for found in plans.values()}) == len(plans)
    for label, wanted in PUBLISHED.items() if "100" in table else ():
        feature = plans[label].config["method"]["objectives"]["feature"]
        assert {key: feature[key] for key in wanted} == wanted, label


PUBLISHED = {
    "R32x4 -> 8x4, DKD": {"other_weight": 8.0, "temperature": 4.0, "weight": 1.0},
    "R56 -> R20, DKD": {"other_weight": 2.0, "temperature": 4.0, "weight": 1.0},
    "R56 -> R20, DKD, standardised": {"other_weight": 2.0, "temperature": 2.0, "weight": 9.0},
    "R32x4 -> 8x4, ReviewKD": {"weight": 5.0},
    "R56 -> R20, ReviewKD": {"weight": 0.6},
    "R32x4 -> 8x4, CRD": {"weight": 0.8, "negatives": 16384, "temperature": 0.07, "momentum": 0.5},
}
"""Settings of the released scripts where they differ by pair, or from a file's own."""


def take_a_step(words) -> None:
    with hydra_ready():
        config = Planner()(words).config
    if config["teacher"]:  # what a trained one was trained to be does not matter here
        config["teacher"]["weights"] = "scratch"
    built = build(config)
    method = built.method.train()
    method.max_steps = 100
    method.on_fit_start()
    batch = next(iter(built.data.train_stream(seed=0, device="cpu")))
    last = [p for p in method.network.parameters() if p.requires_grad][
        -1
    ]  # SimKD ends in a layer of the teacher's
    before = last.detach().clone()
    optimizer = method.configure_optimizers()
    optimizer = optimizer["optimizer"] if isinstance(optimizer, dict) else optimizer
    loss = method.training_step(batch, 0)
    loss.backward()
    optimizer.step()
    assert loss.isfinite() and last.isfinite().all() and not torch.equal(last, before)


SMALL = (
    arms("distillation/simkd") | arms("distillation/cifar10_small") | arms("distillation/cifar10_small_cnn")
)
LARGE = arms("distillation/cifar100")
QUICK = ("CNN, ReviewKD", "CNN, OFA-KD", "ResNet-8, USKD (no teacher)", "ResNet-8, CKA", "CNN, SimKD")


@pytest.mark.parametrize(
    "arm", [pytest.param(arm, marks=[] if arm in QUICK else [pytest.mark.slow]) for arm in SMALL]
)
def test_an_arm_of_the_small_table_takes_a_step(arm, root, tmp_path):
    take_a_step([*words_for(SMALL[arm], root, tmp_path)[1:], "data.batch_size=8"])


@pytest.mark.parametrize(
    "arm",
    [
        pytest.param(arm, marks=[] if arm == "R56 -> R20, ReviewKD" else [pytest.mark.slow])
        for arm in LARGE
        if not arm.startswith("R56 -> R20") or arm.endswith(("ReviewKD", "alone"))
    ],
)
def test_an_arm_of_the_benchmark_takes_a_step(arm, root, tmp_path):
    words = [*LARGE[arm], "data=cifar10_folder", f"data.root={root}", "data.validation=8"]
    take_a_step([*words, f"runs_dir={tmp_path}", "data.batch_size=8"])


SEMI = arms("semi_supervised/cifar10")


def test_every_arm_of_the_semi_supervised_benchmark_plans_and_all_share_the_recipe(monkeypatch):
    monkeypatch.setattr("tutelage.data.fingerprint.fingerprint", lambda *_: "some data")
    plan = Planner()
    with hydra_ready():
        plans = {label: plan([*command, "seed=1"]) for label, command in SEMI.items()}
    for label, found in plans.items():
        labels = int(label.rpartition(", ")[2].replace(",", ""))
        assert found.config["data"].pop("per_class") * 10 == labels
        assert ("supervised" in label) == (found.config["method"].get("unlabelled") is None)
        algorithm, wanted = label.partition(",")[0], {"Pseudo-Label": 1.0, "Mean Teacher": 1.0}
        if algorithm != "supervised":
            consistency = found.config["method"]["objectives"]["consistency"]
            assert consistency["ratio"] == wanted.get(algorithm, 7.0)
            assert (consistency["schedule"]["steps"] == 419430) == (
                algorithm in wanted
            )  # 0.4 of the training
    assert (
        len({repr([p.config[key] for key in ("optimizer", "data", "fit", "model")]) for p in plans.values()})
        == 1
    )
    assert len({found.identity for found in plans.values()}) == len(plans) == 27


@pytest.mark.parametrize(
    "arm",
    [
        pytest.param(a, marks=[] if a == "FixMatch, 40" else [pytest.mark.slow])
        for a in SEMI
        if a.endswith(" 40")
    ],
)
def test_an_arm_of_the_semi_supervised_benchmark_takes_a_step(arm, root, tmp_path):
    words = [*SEMI[arm], "data=cifar10_folder", f"data.root={root}", "data.validation=8", "data.per_class=1"]
    take_a_step([*words, f"runs_dir={tmp_path}", "data.batch_size=2"])


def test_students_without_data_differ_in_their_images_alone_and_only_the_last_arm_opens_real_ones(tmp_path):
    plan = Planner()
    with hydra_ready():
        plans = {
            label: plan([*command, "seed=1", f"runs_dir={tmp_path}"])
            for label, command in arms("distillation/data_free").items()
        }
    assert (
        len(
            {
                repr([p.config[key] for key in ("optimizer", "fit", "model", "method", "teacher")])
                for p in plans.values()
            }
        )
        == 1
    )
    for label, found in plans.items():
        everything = {found.name: found} | {one.name: one for one in found.prerequisites()}
        opens = {n for n, one in everything.items() if one.config["data"]["_target_"].endswith("Digits")}
        classifier = "transfer/digits/classifier"
        own = {"real images": {found.name}, "diffusion model of the source": {"transfer/digits/generator"}}
        shards = {
            n for n in everything if n.rpartition("/")[2] in ("noise", "shards", "inverted")
        }  # which read none
        assert opens - shards == {classifier} | own.get(label, set())
        assert {one.config["seed"] for n, one in everything.items() if "inver" in n or n in shards} <= {1}
