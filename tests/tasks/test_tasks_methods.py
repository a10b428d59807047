"""Every method on every task: it trains, or says in one message why it cannot. (Classes of images: `test_contracts`, with every method.)"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import tutelage.tasks
from small_runs import METHODS, sentences
from tutelage.config.compose import compose
from tutelage.data.base import DataModule
from tutelage.data.image_folder import ImageFolder
from tutelage.data.sequences import CopyPaste, Parity
from tutelage.data.series import Series
from tutelage.data.table import Table
from tutelage.data.text_rows import TextRows
from tutelage.engine.build import build
from tutelage.errors import UserError

_folder = tempfile.TemporaryDirectory(prefix="tutelage-tasks-")


def table(target: Any, task: str | None = None) -> DataModule:
    random = np.random.default_rng(0)
    frame = pd.DataFrame(random.normal(size=(90, 4)), columns=list("abcd"))
    frame["class"] = np.where(frame["a"] > 0.5, "high", np.where(frame["a"] < -0.5, "low", "middle"))
    frame["yes"], frame["no"] = (frame["b"] > 0).astype(int), (frame["c"] > 0).astype(int)
    path = Path(_folder.name) / "table.csv"
    if not path.exists():
        frame.to_csv(path, index=False)
    inputs = [name for name in "abcd" if name not in target]
    return Table(root=path, target=target, task=task, columns=inputs, batch_size=16)


def series() -> DataModule:
    path = Path(_folder.name) / "series.csv"
    if not path.exists():
        values = np.random.default_rng(0).normal(size=(120, 2)).cumsum(axis=0)
        frame = pd.DataFrame(
            values, columns=["x", "y"], index=pd.date_range("2024", periods=120, name="date")
        )
        frame.to_csv(path)
    return Series(root=path, batch_size=16, length=8, horizon=3, split=[0.6, 0.2, 0.2])


def images() -> DataModule:
    """Images without classes."""
    root = Path(_folder.name) / "images"
    if not root.exists():
        root.mkdir()
        for number in range(60):
            pixels = np.random.default_rng(number).integers(0, 255, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(root / f"{number}.png")
    return ImageFolder(root=root, image_size=8, channels=1, batch_size=16)


SIZES = {"train_size": 64, "validation_size": 16, "test_size": 16, "batch_size": 16}
TASKS: dict[str, Any] = {
    "classes": lambda: table("class"),
    "binary": lambda: table("yes", "binary"),
    "labels": lambda: table(["yes", "no"]),
    "one value": lambda: table("d", "regression"),
    "values": lambda: table(["c", "d"], "regression"),
    "forecasts": series,
    "tokens": lambda: Parity(target="prefix", min_length=4, max_length=8, **SIZES),
    "next tokens": lambda: CopyPaste(min_length=3, max_length=5, **SIZES),
    "texts": lambda: TextRows(root=Path(sentences()), batch_size=16),
    "images": images,
}
FLAT = ["model=fcn", "model.depth=2", "model.width=16"]
SEQUENCE = ["model=lstm", "model.depth=2", "model.width=8"]
OF_IMAGES = (
    "gan",
    "diffusion",
    "inversion",
    "pseudo_ssl",
    "semi_supervised",
    "self_supervised",
    "masked_images",
    "masked_tokens",
)
SEQUENCES = ("tokens", "next tokens", "texts")
LEARNS_WITHOUT_LABELS = {
    ("images", "self_supervised"),
    ("images", "masked_images"),
    ("texts", "masked_tokens"),
}


@functools.cache
def data_of(task: str) -> DataModule:
    data = TASKS[task]()
    data.prepare()
    data.setup()
    return data  # type: ignore[no-any-return]


@functools.cache
def config_of(method: str, *words: str, sequence: bool = False) -> dict[str, Any]:
    model = SEQUENCE if sequence else FLAT
    frozen = [word.replace("model", "{0}", 1) for word in model]
    given = []
    if "teacher" in " ".join(METHODS[method]):
        given = ["model@teacher=" + model[0].partition("=")[2], *(w.format("teacher") for w in frozen[1:])]
    if "guide" in " ".join(METHODS[method]):
        given = ["model@guide=" + model[0].partition("=")[2], *(w.format("guide") for w in frozen[1:])]
    if method.startswith(OF_IMAGES):
        given = [
            word
            for word in METHODS[method]
            if not word.startswith(("data", "model.", "source.", "model=")) and "@source" not in word
        ]
        if method in ("gan", "diffusion", "inversion"):
            given += ["model@source=fcn"]
    if method == "fitnets":
        given += ["method.hint_steps=1"]
    if method == "intrinsic_dimension":
        given += ["method.objectives.dimension.neighbours=5"]
    return compose([f"method={method}", *model, *given, *words, "logger=none", "data=digits"])


def two_steps(method: Any, data: DataModule | None = None) -> list[float]:
    """Train two steps of what was built, and validate; return the losses."""
    method.max_steps = 2
    data = data or data_of_method(method)
    stream = data.train_stream(seed=0, device="cpu")
    method.on_fit_start()
    optimizer = method.configure_optimizers()
    optimizer = optimizer["optimizer"] if isinstance(optimizer, dict) else optimizer
    losses = []
    for number, batch in zip(range(2), stream, strict=False):
        loss = method.training_step(batch, number)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    if not method.reads_targets:
        return losses
    metrics = method.task.metrics()
    for batch in data.batches("validation", device="cpu"):
        metrics.update(method(batch.inputs, batch.mask), batch)
    assert np.isfinite(metrics.compute()[method.task.monitor])
    return losses


def data_of_method(method: Any) -> DataModule:
    return next(data_of(name) for name in TASKS if data_of(name).task is method.task)


def test_every_kind_of_task_is_here() -> None:
    known = [getattr(tutelage.tasks, name) for name in tutelage.tasks.__all__]
    kinds = {one for one in known if isinstance(one, type) and issubclass(one, tutelage.tasks.Task)}
    assert {type(data_of(task).task) for task in TASKS} == kinds - {tutelage.tasks.Task}


REFUSED = (
    "images with classes|trains a generator|classifier gives|are of images|need (images|texts)|no classes"
)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", METHODS)
def test_a_method_trains_on_a_task_or_says_why_not(method: str, task: str) -> None:
    without_labels = (task, method) in LEARNS_WITHOUT_LABELS
    data = data_of.__wrapped__(task) if without_labels else data_of(task)  # such a method words the task anew
    config = config_of(method, sequence=task in SEQUENCES)
    if not without_labels and (method.startswith(OF_IMAGES) or task == "images"):
        with pytest.raises(UserError, match=REFUSED):
            build(config, data)
        return
    torch.manual_seed(0)
    assert np.isfinite(two_steps(build(config, data).method, data)).all()


@pytest.mark.parametrize("task", ["binary", "labels", "values"])
@pytest.mark.parametrize("objective", ["soft_targets", "logits", "decoupled", "nkd", "dist", "mlkd"])
def test_losses_of_outputs_compare_classes_or_refuse(objective: str, task: str) -> None:
    config = config_of("distillation", f"objective@method.objectives.soft={objective}")
    if task == "binary" or objective == "soft_targets":
        assert np.isfinite(two_steps(build(config, data_of(task)).method)).all()
        return
    with pytest.raises(UserError, match=r"compares classes, which a task of .* has not: choose soft_targets"):
        build(config, data_of(task))


def test_one_output_learns_from_a_teacher_as_two_do() -> None:
    """The losses of (0, z) and of z are one: the gradient of the soft targets is that of two logits."""
    from tutelage.tasks import Batch, Binary, Classification

    z, teacher = torch.randn(2, 9, 1, dtype=torch.float64)
    z.requires_grad_()
    batch = Batch(z, torch.randint(2, (9,)), torch.arange(9))
    one = Binary().soft_loss(z, teacher, batch, 3.0)
    two = Classification(2).soft_loss(
        torch.cat([0 * z, z], 1), torch.cat([0 * teacher, teacher], 1), batch, 3.0
    )
    p, q = (teacher / 3).sigmoid(), (z / 3).sigmoid()
    plain = 9 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    torch.testing.assert_close(one, two)
    torch.testing.assert_close(one.double(), plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "task, weights", [("classes", "balanced"), ("classes", [1.0, 0.0, 2.0]), ("binary", "balanced")]
)
def test_rare_classes_count_more_in_the_loss_alone(task: str, weights: Any) -> None:
    data = data_of(task)
    word = f"method.objectives.task.class_weight={weights}".replace(" ", "")
    method = build(config_of("supervised", word), data).method
    batch = next(iter(data.batches("train", device="cpu")))
    output = method(batch.inputs)
    counts = torch.tensor(data.facts["train_class_counts"]).double()
    of_class = counts.sum() / (len(counts) * counts) if weights == "balanced" else torch.tensor(weights)
    points = data.task.pointwise(*data.task.select(output, batch))
    step = method.take(batch)
    torch.manual_seed(0)
    torch.testing.assert_close(
        method.objectives.losses(step, step=0, max_steps=1)["task"],
        (data.task.pointwise(*data.task.select(step.output, batch)) * of_class.float()[batch.targets]).mean(),
    )
    assert points.shape == batch.targets.shape


@pytest.mark.parametrize(
    "task, word, said",
    [("values", "class_weight=balanced", "`?class_weight.* of classes, which a task of regression has not"),
     ("classes", "class_weight=[1,2]", "needs 3 numbers"), ("labels", "label_smoothing=0.1", "of classes, which a task of multi-label"),
     ("classes", "class_weight=even", "did you mean|known: balanced")],
)  # fmt: skip
def test_what_has_no_classes_has_no_weights(task: str, word: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        build(config_of("supervised", f"method.objectives.task.{word}"), data_of(task))
