"""What analyses print, tabulate and draw, from small made-up records: whole lines and all drawn artists; numbers by slow versions."""

from __future__ import annotations

import itertools
import math
from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from expected import refused
from tutelage.analysis import (
    attention_rollout,
    compression,
    drawing,
    errors_consistency,
    guidance_picture,
    phases,
    ranking,
    rate_range,
    robustness,
    sample_quality,
)
from tutelage.analysis.errors_consistency import Answers
from tutelage.analysis.guidance_picture import Arm
from tutelage.analysis.question import Question, chosen, joined
from tutelage.reporting.palette import PALETTE
from tutelage.tasks import Batch, Classification


@pytest.fixture
def drawn(monkeypatch):
    """Give the figures that were to be written."""
    figures = []
    for module in (guidance_picture, phases, compression, sample_quality, errors_consistency, ranking):
        monkeypatch.setattr(module, "save", lambda figure, path: figures.append(figure))
    return figures


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


# --- the picture of guidance ----------------------------------------------------------------------------------


def arm(label="guided", runs=3, pairs=("1 a > x", "2 b > y"), metric="accuracy", below=0.0):
    values = np.array([[0.2, 0.5, 0.9], [below, 0.25, 0.5]])
    values = np.resize(values, (len(pairs), 3))
    points = ((15, 0.5, 0.4, 0.6), (20, 0.75, 0.7, 0.8), (40, 0.875, 0.85, 0.9))
    return Arm(label, runs, tuple(pairs), (10, 20, 40), values, (metric, points))


def test_every_part_of_the_picture_at_a_step():
    picture = guidance_picture._Picture([arm(), arm("plain_1", runs=1, below=-0.15)], dpi=50)
    first, second, right, bar = picture.figure.axes
    assert bar.get_ylabel() == "similarity to the guide's layer"
    assert picture.figure.get_size_inches().tolist() == pytest.approx([10.4, 3.6])
    assert [image.get_clim() for image in picture.images] == [(-0.2, 1.0)] * 2
    assert (ticks(first.yaxis), ticks(second.yaxis)) == (["1 a > x", "2 b > y"], [])
    assert (
        first.get_yticks().tolist() == [0.5, 1.5] and first.yaxis_inverted() and first.get_xlabel() == "step"
    )
    assert right.get_xlim() == (0.0, 1.02 * 40) and right.get_ylim() == pytest.approx((0.38, 0.92))
    assert (right.get_xlabel(), right.get_ylabel()) == ("step", "validation accuracy")
    assert right.get_title().startswith("What it learns")
    assert [line.get_color() for line in picture.lines] == list(PALETTE[:2])
    assert [line.get_label() for line in picture.lines] == ["guided (n = 3)", "plain_1"]
    for step, titles, points, bands in (
        (9, ["guided: mean 0.10", "plain_1: mean 0.03"], 0, 0),
        (10, ["guided: mean 0.10", "plain_1: mean 0.03"], 0, 0),
        (15, ["guided: mean 0.10", "plain_1: mean 0.03"], 1, 1),
        (20, ["guided: mean 0.38", "plain_1: mean 0.38"], 2, 1),
        (40, ["guided: mean 0.70", "plain_1: mean 0.70"], 3, 1),
    ):
        picture.show(step)
        said = f"Layers become like the guide's: step {step} (mean over runs; band: 95 % interval)"
        assert picture.heading.get_text() == said
        assert [title.get_text() for title in picture.titles] == titles
        assert picture.lines[0].get_xydata().tolist() == [[15, 0.5], [20, 0.75], [40, 0.875]][:points]
        assert len(picture.bands) == bands == len(right.collections)
        hidden = picture.images[0].get_array().mask.reshape(2, 3)[0].tolist()
        assert hidden == [one > step for one in (10, 20, 40)]
    assert right.collections[0].get_paths()[0].get_extents().extents.tolist() == [15, 0.4, 40, 0.9]


@pytest.mark.parametrize(("pairs", "other", "named"), [(24, False, 24), (25, False, 0), (2, True, 2)])
def test_layer_pairs_are_named_where_they_are_few(pairs, other, named):
    names = [f"{number} a > x" for number in range(pairs)]
    picture = guidance_picture._Picture(
        [arm(pairs=names), arm(pairs=names[::-1] if other else names)], dpi=50
    )
    first, second = picture.figure.axes[:2]
    assert len(ticks(first.yaxis)) == named and len(ticks(second.yaxis)) == (named if other else 0)
    assert (
        first.get_ylabel() == ("" if named else "25 layer pairs, input (top) to output")
        and second.get_ylabel() == ""
    )
    assert picture.figure.get_size_inches()[1] == pytest.approx(
        min(7.0, max(3.6, 1.6 + 0.17 * min(pairs, 24)))
    )


def test_a_picture_of_one_run_each_and_of_what_was_never_validated():
    alone = guidance_picture._Picture([arm(runs=1)], dpi=50)
    assert alone.said == "one run each"
    bare = Arm("a", 1, ("1 a > x",), (10, 20), np.array([[0.1, 0.2]]), ("accuracy", ()))
    guidance_picture._Picture([bare], dpi=50).show(20)
    flat = Arm("a", 1, ("1 a > x",), (10, 20), np.array([[0.1, 0.2]]), ("loss", ((10, 2.0, 2.0, 2.0),)))
    assert guidance_picture._Picture([flat], dpi=50).right.get_ylim() == pytest.approx((1.95, 2.05))


@pytest.mark.parametrize(
    ("steps", "frames", "first_ms"), [(3, 3, 220), (20, 20, 220), (21, 21, 110), (90, 60, 110)]
)
def test_the_frames_of_an_animation_and_how_long_they_stay(tmp_path, monkeypatch, steps, frames, first_ms):
    saved, seen = {}, []
    monkeypatch.setattr(Image.Image, "save", lambda self, path, **more: (saved.update(more), path.touch()))
    monkeypatch.setattr(
        guidance_picture,
        "_Picture",
        lambda arms, dpi: SimpleNamespace(show=seen.append, pixels=lambda: np.zeros((2, 2, 3), np.uint8)),
    )
    guidance_picture.animate([SimpleNamespace(steps=range(1, steps + 1))], tmp_path / "a.webp")
    assert len(seen) == frames == len(set(seen)) and seen[0] == 1 and seen[-1] == steps
    assert (
        saved["duration"] == [first_ms] * (frames - 1) + [2500] and len(saved["append_images"]) == frames - 1
    )


@pytest.mark.parametrize(
    ("steps", "edges"), [([10], [9, 10]), ([10, 20, 40], [0, 10, 20, 40]), ([5, 6], [4, 5, 6])]
)
def test_columns_end_at_their_steps(steps, edges):
    assert guidance_picture.edges(steps) == edges


def test_an_arm_in_a_sentence():
    assert guidance_picture._told(arm()) == (
        "guided (mean over 3 runs): mean similarity 0.100 at step 10, 0.700 at step 40; validation accuracy 0.875"
    )
    alone = Arm("a", 1, ("1 a > x",), (10, 20), np.array([[0.1, 0.2]]), ("accuracy", ()))
    assert guidance_picture._told(alone) == "a: mean similarity 0.100 at step 10, 0.200 at step 20"


# --- ranking --------------------------------------------------------------------------------------------------


def subject(name, depth, value, mode="max", role="", **model):
    result = {"selection": {"monitor": "accuracy", "mode": mode}, "best": {"validation": {"accuracy": value}}}
    config = {"model": {"depth": depth, "head": {"width": 2 * depth}, "kind": "fcn", **model}}
    return SimpleNamespace(
        run=SimpleNamespace(name=name, key=f"{name}/{depth}", result=result, config=config), role=role
    )


@pytest.mark.parametrize(("mode", "picked", "best"), [("max", 0.6, 0.9), ("min", 0.7, 0.5)])
def test_networks_are_ranked_by_the_mean_over_their_seeds(drawn, tmp_path, mode, picked, best):
    cheap = [
        subject("few", depth, value, mode)
        for depth, value in ((1, 0.1), (1, 0.3), (2, 0.3), (3, 0.4), (4, 0.8), (5, 0.9))
    ]
    whole = [
        subject("all", depth, value, mode)
        for depth, value in ((4, 0.6), (3, 0.9), (2, 0.5), (1, 0.7), (6, 0.99))
    ]
    lines, record, rows, draw = ranking.outcome(SimpleNamespace(subjects=[*cheap, *whole]))
    first, second = [0.2, 0.3, 0.4, 0.8], [0.7, 0.5, 0.9, 0.6]
    tau = (
        sum(
            np.sign((a - c) * (b - d))
            for (a, b), (c, d) in itertools.combinations(zip(first, second, strict=True), 2)
        )
        / 6
    )
    assert record == {"tau": pytest.approx(tau), "low": record["low"], "high": record["high"],
     "n": 4, "metric": "accuracy", "picked": picked,
                      "best": best}  # fmt: skip
    assert rows == [
        {
            "networks": f"depth={depth}, head.width={2 * depth}",
            "few": pytest.approx(a),
            "all": b,
            "seeds": f"{2 if depth == 1 else 1}, 1",
        }
        for depth, a, b in zip((1, 2, 3, 4), first, second, strict=True)
    ]
    assert lines == [
        f"Kendall's tau {tau:.2f} (95 % interval {record['low']:.2f} to {record['high']:.2f}, over 4 networks drawn again) between the "
        "validation accuracy of few and of all",
        f"the network that few puts first has {picked:.4g} in all, where the best has {best:.4g}",
        "2 networks are in one of them alone and left out",
    ]
    draw(tmp_path / "a.png")
    (axes,) = drawn[0].axes
    assert axes.lines[0].get_xydata().tolist() == [
        [pytest.approx(a), b] for a, b in zip(first, second, strict=True)
    ]
    assert {text.get_text() for text in axes.texts} == {
        f"depth={depth}, head.width={2 * depth}" for depth in (1, 2, 3, 4)
    }


def test_what_cannot_be_ranked():
    three = [subject("few", depth, 0.5) for depth in (1, 2, 3)] + [
        subject("all", depth, 0.5) for depth in (1, 2, 3)
    ]
    said = refused(ranking.outcome, SimpleNamespace(subjects=three))
    assert said == "few and all share 3 networks (settings of `model` alike); at least 4 are needed"
    for wrong in (
        three[:3],
        [*three, subject("more", 1, 0.5)],
        [*three[:-1], subject("all", 3, 0.5, role="guide")],
    ):
        assert "ranking compares two names of runs" in refused(
            ranking.outcome, SimpleNamespace(subjects=wrong)
        )
    four = [subject("few", d, 0.5) for d in range(4)] + [subject("all", d, 0.5) for d in range(4)]
    four[-1].run.result["selection"]["monitor"] = "loss"
    four[-1].run.result["best"]["validation"]["loss"] = 0.5
    assert (
        refused(ranking.outcome, SimpleNamespace(subjects=four))
        == "the runs are selected by different metrics: accuracy, loss"
    )


# --- learning rates -------------------------------------------------------------------------------------------


def ending_slowly(losses, steps):
    mean, least = 0.0, math.inf
    for step, loss in enumerate(losses):
        mean = 0.9 * mean + 0.1 * loss
        smooth = mean / (1 - 0.9 ** (step + 1))
        if not math.isfinite(smooth):
            return step
        least = min(least, smooth)
        if step > steps / 3 and smooth > 2 * abs(least):
            return step
    return None


@pytest.mark.parametrize("losses", [
    [1.0] * 9, [0.0] * 12,
    [1.0] * 6 + [50.0] * 6, [50.0, 1.0, 1.0, 1.0, 1.0, 90.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 40.0, 1.0, 1.0, 1.0, 1.0, 1.0],
    [1.0, 1.0, 1.0, 1.0, 40.0, 1.0], [2.0, math.nan, 1.0], [-1.0] * 5 + [30.0] * 4, [1.0, 1.0, math.inf],
])  # fmt: skip
@pytest.mark.parametrize("steps", [9, 12, 30])
def test_where_a_loss_has_diverged(losses, steps):
    assert rate_range._ending(losses, steps) == ending_slowly(losses, steps)


def steepest_slowly(rates, losses, window):
    """The middle of the window whose least-squares line falls most, if by four standard errors."""
    best = (0.0, None)
    for start in range(len(losses) - window + 1):
        x, y = np.log(rates[start : start + window]), np.array(losses[start : start + window])
        (slope, _), covariance = np.polyfit(x, y, 1, cov=True)
        if slope < -4 * math.sqrt(covariance[0, 0]) and slope < best[0]:
            best = slope, math.exp((x[0] + x[-1]) / 2)
    return best[1]


@pytest.mark.parametrize("steps", [30, 60, 120])
@pytest.mark.parametrize("seed", range(8))
def test_where_a_loss_falls_fastest_is_a_window_that_falls_for_certain(steps, seed):
    rates, noise = np.geomspace(1e-6, 1.0, steps), np.random.default_rng(seed).normal(size=steps)
    falls = 2.3 - 1.5 / (1 + np.exp(-4 * (np.log10(rates) + 3)))
    for scatter in (0.01, 0.3):
        losses = (falls + scatter * noise).tolist()
        found = rate_range.read(rates, losses)
        until = rates.tolist().index(found.lowest) + 1
        windows = [max(8, math.ceil(steps / part)) for part in (6, 3)]
        near, far = (steepest_slowly(rates[:until], losses[:until], window) for window in windows)
        wanted = near or far
        assert found.steepest == (None if wanted is None else pytest.approx(wanted))
    assert 2e-4 < rate_range.read(rates, (falls + 0.01 * noise).tolist()).steepest < 5e-3


def test_what_falls_after_the_lowest_came_down_from_a_spike():
    rates = np.geomspace(1e-6, 1.0, 60)
    x = np.log10(rates)
    falls = 2.3 - 0.5 / (1 + np.exp(-4 * (x + 4)))  # by 0.5 around 1e-4
    spike = np.where(x > -1.5, 2.0 * np.exp(-8 * (x + 1.5)), 0)  # up at once at 0.03, down again after it
    found = rate_range.read(rates, (falls + spike).tolist())
    assert 2e-5 < found.steepest < 5e-4 < found.lowest < 0.04 and found.diverged is None


def test_beside_other_objectives_the_loss_of_the_task_is_read_and_the_whole_one_diverges():
    rates = np.geomspace(1e-6, 1.0, 60)
    x = np.log10(rates)
    task = (2.3 - 1.5 / (1 + np.exp(-4 * (x + 1)))).tolist()
    whole = [15 - 9 / (1 + math.exp(-4 * (one + 4))) + part for one, part in zip(x, task, strict=True)]
    assert rate_range.read(rates, whole).steepest < 1e-3
    found = rate_range.read(rates, whole, "task", task)
    assert 0.02 < found.steepest < 0.5 and found.of == "task" and found.losses[0] == task[0]
    lost = rate_range.read(rates, [*whole[:58], math.inf, 1.0], "task", task)
    assert lost.diverged == rates[58] and len(lost.losses) == 58


def test_scatter_alone_is_no_fall():
    rates = np.geomspace(1e-6, 1.0, 100)
    noise = [np.random.default_rng(seed).normal(size=100) for seed in range(100)]
    found = [rate_range.read(rates, (2.3 + 0.2 * one).tolist()).steepest for one in noise]
    assert sum(rate is not None for rate in found) <= 6


def test_what_losses_at_rising_rates_say():
    rates, losses = np.geomspace(1e-6, 1.0, 10), [4.0, 3.9, 3.0, 2.0, 1.4, 1.2, 0.9, 0.9, 20.0, 90.0]
    smooth = [sum(0.1 * 0.9 ** (place - k) * one for k, one in enumerate(losses[: place + 1])) / (1 - 0.9 ** (place + 1))
              for place in range(10)]  # fmt: skip
    found, end = rate_range.read(rates, losses), ending_slowly(losses, 10)
    assert found.losses == pytest.approx(smooth[:end]) and found.rates == pytest.approx(rates[:end])
    assert end == 8 and found.diverged == rates[end] and found.lowest == rates[7]
    assert found.steepest == pytest.approx(steepest_slowly(rates, losses[:end], 8))
    rising = rate_range.read(rates, [1.0, 1.1, 1.2])
    assert rising.steepest is None and rising.diverged is None and rising.lowest == rates[2]
    assert rate_range.read(rates, [1.0]).steepest is None
    nothing = rate_range.read(rates, [math.nan])
    assert nothing.losses == () and nothing.lowest == nothing.diverged == rates[0]


@pytest.mark.parametrize(("steepest", "diverged", "said"), [
    (None, None, "learning rate: over 40 steps from 1e-06 to 1 the training loss never fell by more than its scatter from batch to batch; "
     "more steps (rates=120) or a larger data.batch_size may tell"),
    (0.5, None,
     "learning rate: over 40 steps from 1e-06 to 1 the training loss fell fastest at 5.0e-01 and was lowest at 5.0e-02; it did not "
                 "diverge. To choose from, on validation: optimizer.lr=1.5e-01,5.0e-01"),
    (0.01, None,
     "learning rate: over 40 steps from 1e-06 to 1 the training loss fell fastest at 1.0e-02 and was lowest at 5.0e-02; it did not "
                 "diverge. To choose from, on validation: optimizer.lr=3.0e-03,1.0e-02,3.0e-02"),
    (0.01, 0.2,
     "learning rate: over 40 steps from 1e-06 to 1 the training loss fell fastest at 1.0e-02 and was lowest at 5.0e-02; it left the "
                "ground at 2.0e-01. To choose from, on validation: optimizer.lr=3.0e-03,1.0e-02,3.0e-02"),
])  # fmt: skip
def test_the_range_in_a_sentence(steepest, diverged, said):
    assert rate_range.sentence(rate_range.RateRange((0.1,), (2.3,), steepest, 0.05, diverged), 40) == said
    of_task = rate_range.sentence(rate_range.RateRange((0.1,), (2.3,), steepest, 0.05, diverged, "task"), 40)
    assert of_task == said.replace("the training loss", "the loss of the objective 'task' in training")
    nothing = rate_range.sentence(rate_range.RateRange((), (), None, 0.05, diverged), 40)
    assert (
        nothing == "learning rate: the training loss is no finite number at the first step, whatever the rate"
    )


def test_rates_rise_update_by_update_and_losses_are_those_of_updates():
    one = rate_range._Rising(np.array([0.1, 0.2, 0.4, 0.8]))
    groups = [{"lr": 9.0}, {"lr": 9.0, "lr_factor": 0.5}]
    trainer = SimpleNamespace(optimizers=[SimpleNamespace(param_groups=groups)], should_stop=False)
    for step, loss in ((0, None), (1, 2.0), (1, 7.0), (2, 3.0), (3, math.nan)):
        method = SimpleNamespace(step=step, accumulate=2)
        one.on_train_batch_start(trainer, method, None, 0)
        assert [group["lr"] for group in groups] == [one.rates[step], 0.5 * one.rates[step]]
        one.on_train_batch_end(trainer, method, {"loss": loss}, None, 0)
        assert trainer.should_stop == (step == 3)
    assert one.losses[:2] == [4.0, 6.0] and len(one.losses) == 3 and not one.parts
    two = rate_range._Rising(np.array([0.1, 0.2]), "task")
    rows = [(0, ("alignment", "task"), torch.tensor([9.0, 7.0, 2.0]))]
    method = SimpleNamespace(step=1, accumulate=1, history=SimpleNamespace(rows=rows))
    two.on_train_batch_end(trainer, method, {"loss": 9.0}, None, 0)
    assert (two.losses, two.parts) == ([9.0], [2.0])


# --- maps -----------------------------------------------------------------------------------------------------


def cell(arm, x, y, test, **more):
    return {
        "arm": arm,
        "w": x,
        "d": y,
        "test": test,
        "chosen": True,
        "metric": "accuracy",
        "gradient_ratio": None,
        **more,
    }


def test_a_map_of_means_over_seeds(drawn, tmp_path):
    rows = [
        cell("a/one", 4, 1, 0.25, gradient_ratio=10.0), cell("a/one", 4, 1, 0.75, gradient_ratio=1000.0), cell("a/one", 8, 2, 0.9),
        cell("a/one", 8, 2, 0.1, chosen=False), cell("b/two", 8, 1, 0.3),
    ]  # fmt: skip
    assert phases.means(rows, "w", "d", "test", "a/one") == {
        (4, 1): (0.5, pytest.approx(np.std([0.25, 0.75], ddof=1)), 2),
        (8, 2): (0.9, pytest.approx(math.nan, nan_ok=True), 1),
    }
    assert phases.means(rows, "w", "d", "gradient_ratio") == {
        (4, 1): (505.0, pytest.approx(990 / math.sqrt(2)), 2)
    }
    phases.draw(rows, tmp_path / "a.png", x="w", y="d")
    (figure,) = drawn
    first, second, before = figure.axes[:3]
    assert [axes.get_title() for axes in (first, second, before)] == ["one", "two", "before training"]
    assert [(text.get_text(), text.get_position(), text.get_color()) for text in first.texts] == [
        ("0.50", (0, 0), "white"), ("0.90", (1, 1), "black"),
    ]  # fmt: skip
    assert [text.get_text() for text in second.texts] == ["0.30"] and [
        text.get_text() for text in before.texts
    ] == ["2.7"]
    assert first.images[0].get_clim() == second.images[0].get_clim() == (0.3, 0.9)
    assert (ticks(first.xaxis), ticks(first.yaxis), first.get_ylabel()) == (["4", "8"], ["1", "2"], "d")
    assert figure.get_suptitle() == "Mean over 1 to 2 seeds, the other settings chosen on validation"
    assert figure.get_size_inches().tolist() == pytest.approx([10.1, 2.54])
    phases.draw([cell("one", 4, 1, 0.5)], tmp_path / "a.png", x="w", y="d")
    assert drawn[1].get_suptitle().startswith("Mean over 1 seeds") and len(drawn[1].axes) == 2


@pytest.mark.parametrize("count", [14, 15])
def test_cells_show_their_numbers_where_they_are_few(count):
    values = np.full((2, count), 0.0)
    values[0, 0], values[1, 1], values[0, 2] = 1.0, math.nan, -1.0
    names = [f"column {place}" for place in range(count)]
    figure, axes = drawing.heat_map(
        values, rows=["r", "_s$"], columns=names, low=-1.0, high=1.0, label="l", diverging=True
    )
    shown = {text.get_position(): (text.get_text(), text.get_color()) for text in axes.texts}
    assert len(shown) == (0 if count == 15 else 27)
    if shown:
        assert shown[0, 0][0] == "1.00" and shown[2, 0][0] == "-1.00" and (1, 1) not in shown
        assert shown[1, 0] == ("0.00", "black") and shown[0, 0][1] == "white"
    assert ticks(axes.yaxis) == ["r", "\u2009_s\\$"] and figure.axes[1].get_ylabel() == "l"
    assert figure.get_size_inches().tolist() == pytest.approx(
        [3.0 + 0.28 * count + 0.18, 2.4 + 0.52 + 0.04 * 9]
    )


@pytest.mark.parametrize(("names", "every"), [(40, 1), (41, 2), (80, 2), (81, 3)])
def test_so_many_names_on_an_axis(names, every):
    said = [f"n{place}" for place in range(names)]
    _, axes = drawing.heat_map(np.zeros((1, names)), rows=["r"], columns=said, low=0.0, high=1.0, label="l")
    assert ticks(axes.xaxis) == said[::every]


def kappa(value):
    return SimpleNamespace(kappa=value)


def test_kappas_of_arms_stand_together_between_lines(drawn, tmp_path):
    pairs = {("a1", "b1"): kappa(0.1), ("a1", "a2"): kappa(0.2), ("b1", "a2"): kappa(0.3)}
    errors_consistency.draw(pairs, tmp_path / "a.png", {"a": ["a1", "a2", "gone"], "b": ["b1"]})
    axes = drawn[0].axes[0]
    assert ticks(axes.xaxis) == ticks(axes.yaxis) == ["a1", "a2", "b1"]
    assert {text.get_position(): text.get_text() for text in axes.texts} == {
        (1, 0): "0.20", (0, 1): "0.20", (2, 0): "0.10", (0, 2): "0.10", (2, 1): "0.30", (1, 2): "0.30",
    }  # fmt: skip
    assert [line.get_ydata()[0] for line in axes.lines[::2]] == [1.5] and axes.images[0].get_clim() == (
        -1.0,
        1.0,
    )
    many = {(f"a{i}", f"a{j}"): kappa(0.5) for i in range(15) for j in range(i)}
    groups = {"one": [f"a{i}" for i in range(14)], "two": ["a14"]}
    errors_consistency.draw(many, tmp_path / "a.png", groups)
    few = {pair: value for pair, value in many.items() if "a0" not in pair}
    errors_consistency.draw(few, tmp_path / "a.png", groups)
    assert ticks(drawn[2].axes[0].xaxis) == [f"a{i}" for i in range(1, 15)]
    axes = drawn[1].axes[0]
    assert (
        ticks(axes.xaxis) == ["one (n = 14)", "two"]
        and axes.get_xticks().tolist() == [6.5, 14.0]
        and not axes.texts
    )


def test_errors_are_compared_on_the_same_questions():
    ours = Answers(np.array([0, 1, 1]), np.array([0, 1, 0]), np.array([3, 4, 5]))
    same = Answers(np.array([1, 1, 1]), np.array([0, 1, 0]), np.array([3, 4, 5]))
    errors_consistency.check_same_questions("a", ours, "b", same)
    for other in (
        replace(ours, index=np.array([3, 4, 6])),
        replace(ours, targets=np.array([1, 1, 0])),
        Answers(*(getattr(ours, field.name)[:2] for field in fields(Answers))),
    ):
        said = refused(errors_consistency.check_same_questions, "a", ours, "b", other)
        assert said.startswith(
            f"errors are compared on the same samples: a answered 3 questions, b {len(other.index)}, "
        )
    assert (
        refused(errors_consistency.all_pairs, {"a": ours})
        == "error consistency compares at least two runs, got 1"
    )
    assert list(errors_consistency.all_pairs({"a": ours, "b": same})) == [("a", "b")]


# --- samples, int8, robustness ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("total", "count"), [(10, 4), (10, 10), (1000, 1)])
def test_samples_are_drawn_once_for_all_and_in_order(total, count):
    found = sample_quality.drawn(total, count)
    assert len(set(found)) == count and (np.diff(found) > 0).all() and found.max() < total
    assert found.tolist() == sorted(np.random.default_rng(0).permutation(total)[:count].tolist())


def test_some_images_of_each_set_are_drawn_with_their_classes(drawn, tmp_path):
    grey, coloured = torch.full((40, 1, 2, 3), 0.5), torch.rand(3, 3, 2, 3) * 2 - 0.5
    names = ["cat", "an automobile!!", "an automobile!!!"]
    table = [
        sample_quality.Quality("a", 40, 0.5, 12.345, 0.5, 0.25),
        sample_quality.Quality("b$", 3, 0.5, 0.5, 1.0, 0.0),
    ]
    sample_quality.draw({"a": (grey, ["x"] * 32), "b$": (coloured, names)}, table, tmp_path / "a.png")
    (figure,) = drawn
    first, second = figure.subfigs
    assert first.get_suptitle() == "a: Fréchet distance 12.3 (lower is better), precision 0.50, recall 0.25"
    assert (
        second.get_suptitle() == "b\\$: Fréchet distance 0.5 (lower is better), precision 1.00, recall 0.00"
    )
    shown = [axes for axes in first.axes if axes.images]
    assert len(shown) == 32 and len(first.axes) == 32 and shown[0].images[0].get_array().shape == (2, 3, 3)
    found = [(axes.get_title(), axes.title.get_fontsize()) for axes in second.axes if axes.images]
    assert found == [("cat", 6.0), ("an automobile!!", 4.0), ("an automobile!…", 60 / 16)]
    pixels = second.axes[0].images[0].get_array()
    assert np.allclose(pixels, coloured[0].permute(1, 2, 0).clamp(0, 1), atol=1e-6)


def row(arm, form, accuracy, fast, slow, size=2.0):
    return {"arm": arm, "form": form, "test_accuracy": accuracy, "size_mb": size, "latency_ms, batch 1, 1 thread": fast,
            "latency_ms, batch 64, 2 threads": slow}  # fmt: skip


def test_int8_against_floats_in_lines_and_points(drawn, tmp_path):
    rows = [
        row("g/a", "float", 0.5, 1.0, 4.0),
        row("g/a", "float", 0.7, 3.0, 8.0, 4.0),
        row("g/a", "float", 0.6, 2.0, 6.0, 6.0),
    ]
    assert compression._line("g/a", "static", rows[:1], "accuracy") == (
        "g/a, static: accuracy 0.500; 2 MiB; 1 ms for batch 1, 1 thread; 4 ms for batch 64, 2 threads"
    )
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert compression._line("g/a", "float", rows, "accuracy") == (
        f"g/a, float: accuracy 0.600 (95 % over 3 runs {0.6 - half:.3f} to {0.6 + half:.3f}); 4 MiB; 2 ms for batch 1, 1 thread; "
        "6 ms for batch 64, 2 threads"
    )
    compression.draw(
        [("g/a", "float", rows), ("g/a", "static", [row("g/a", "static", 0.4, 0.5, 2.0)])],
        tmp_path / "a.png",
        metric="accuracy",
    )
    (figure,) = drawn
    (panel,) = figure.axes
    assert figure.get_size_inches().tolist() == pytest.approx([8.8, 4.6])
    points = [
        (line.get_marker(), line.get_xydata().tolist()) for line in panel.lines if len(line.get_xdata()) == 1
    ]
    assert points == [("o", [[2.0, pytest.approx(0.6)]]), ("s", [[0.5, 0.4]])]
    assert panel.lines[0].get_ydata() == pytest.approx([0.6 - half, 0.6 + half])
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["a", "float", "int8, static"]
    assert panel.get_xlabel() == "batch 1, 1 thread, ms; lower is better" and panel.get_xscale() == "log"
    assert figure.get_suptitle() == "Mean over at least 1 run with its 95 % interval, against median latency"


def test_the_ninth_arm_is_hollow(drawn, tmp_path):
    points = [
        (f"a{k}", form, [row(f"a{k}", form, 0.5, 1.0, 4.0)]) for k in range(9) for form in ("float", "static")
    ]
    compression.draw(points, tmp_path / "a.png", metric="accuracy")
    (panel,) = drawn[0].axes
    shown = [line.get_markerfacecolor() == "white" for line in panel.lines if len(line.get_xdata()) == 1]
    named = [line.get_markerfacecolor() == "white" for line in panel.lines if len(line.get_xdata()) == 0]
    assert shown == [False] * 16 + [True] * 2 and named == [False] * 8 + [True, False, False]


@pytest.mark.parametrize(("share", "n"), [(0.0, 7), (0.3, 10), (1.0, 4), (0.5, 1)])
def test_the_interval_of_a_share_is_where_its_score_is_the_quantile(share, n):
    low, high = robustness.wilson(share, n)
    assert 0 <= low <= share <= high <= 1
    assert (low > 0) == (share > 0) and (high < 1) == (share < 1)
    for end in (low, high):
        if 0 < end < 1:
            assert abs(share - end) / math.sqrt(end * (1 - end) / n) == pytest.approx(1.959964)


def test_the_rows_of_conditions_in_lines():
    rows = [
        {"network": "x", "arm": "a", "seed": 0, **robustness._row("clean", torch.tensor([True, True, False, True]))},
        {"condition": "noise_1", "severity": 1, "n": 4, "accuracy": 0.5, "low": 0.1, "high": 0.9},
        {"condition": "pgd", "norm": "Linf", "epsilon": 8 / 255, "n": 4, "accuracy": 0.25, "low": 0.05, "high": 0.7},
        {"condition": "mean", "n": 4, "accuracy": 0.375},
        {"condition": "check: more steps", "holds": True, "detail": "fine"}, {"condition": "check: noise", "holds": False, "detail": "odd"},
    ]  # fmt: skip
    low, high = robustness.wilson(0.75, 4)
    assert rows[0]["accuracy"] == 0.75 and (rows[0]["low"], rows[0]["high"]) == (low, high)
    assert robustness.said("x", rows) == [
        f"x: clean: accuracy 0.750 (95 % over 4 samples {low:.3f} to {high:.3f})",
        "x: pgd Linf 0.03137: accuracy 0.250 (95 % over 4 samples 0.050 to 0.700)",
        "x: mean: accuracy 0.375",
        "  more steps: holds (fine)",
        "  noise: DOES NOT HOLD (odd)",
        "  accuracies under attack of this network are upper bounds: give more steps=, restarts= or queries=",
    ]
    assert robustness.said("x", rows[:5])[-1] == "  more steps: holds (fine)"


def test_samples_that_count_are_attacked():
    first = Batch(
        torch.arange(6.0).reshape(3, 2),
        torch.tensor([0, 1, 2]),
        torch.tensor([7, 8, 9]),
        target_mask=torch.tensor([True, False, True]),
    )
    second = Batch(torch.ones(1, 2), torch.tensor([5]), torch.tensor([3]))
    found = robustness._counted([first, second])
    assert (
        found.targets.tolist() == [0, 2, 5]
        and found.index.tolist() == [7, 9, 3]
        and found.inputs.tolist() == [[0, 1], [4, 5], [1, 1]]
    )


@pytest.mark.parametrize(("inputs", "task", "what"), [
    (torch.zeros(2, 3, dtype=torch.long), Classification(3), "these data are tokens, of which no small change exists"),
    (torch.zeros(2, 3), SimpleNamespace(name="forecasting"), "a task of forecasting has no wrong class to reach"),
    (torch.zeros(2, 3), Classification(3), "these inputs, (3,) per sample, have no range"),
])  # fmt: skip
def test_what_has_no_attack(inputs, task, what):
    batch = Batch(inputs, torch.zeros(2), torch.zeros(2))
    said = f"attacks=pgd change pixels of images with one class each, and {what}: say attacks=none"
    assert refused(robustness._refuse_attack, "pgd", batch, task) == said


# --- questions and attention ------------------------------------------------------------------------------------


def test_values_of_the_classes_asked_for():
    values = torch.arange(12.0).reshape(4, 3)
    assert chosen(values, torch.tensor([2, 0])).tolist() == [2.0, 3.0, 8.0, 9.0]
    assert chosen(values, torch.tensor([0, 1, 2, 0])).tolist() == [0.0, 4.0, 8.0, 9.0]


def test_batches_without_what_does_not_count():
    parts = [
        Batch(
            torch.ones(2, 1) * k,
            torch.tensor([k, k + 1]),
            torch.tensor([k, k]),
            target_mask=torch.tensor([True, k > 1]),
        )
        for k in (1, 2)
    ]
    assert joined(parts).targets.tolist() == [1, 2, 3]
    plain = joined([one._replace(target_mask=None) for one in parts])
    assert plain.targets.tolist() == [1, 2, 2, 3] and plain.mask is None


def asked(inputs, mask=None, hidden=9):
    batch = Batch(inputs, torch.zeros(len(inputs)), torch.arange(len(inputs)), mask)
    one = object.__new__(Question)
    for name, value in {
        "batch": batch,
        "classes": torch.zeros(len(inputs), dtype=torch.long),
        "hidden": hidden,
    }.items():
        object.__setattr__(one, name, value)
    return one


@pytest.mark.parametrize("shape", [(2, 3, 20, 33), (2, 1, 5, 8)])
def test_cells_of_images_by_a_loop(shape):
    from tutelage.analysis.question import CELLS

    one = asked(torch.zeros(shape))
    rows, columns = (-(-side // CELLS) for side in shape[2:])
    across = (shape[3] - 1) // columns + 1
    slow = [[(y // rows) * across + x // columns for x in range(shape[3])] for y in range(shape[2])]
    assert one.cells.tolist() == slow


def test_hidden_places_of_images_series_and_tokens():
    image = torch.arange(1.0, 9.0).reshape(1, 2, 2, 2)
    keep = torch.tensor([[[True, False], [False, True]]])
    assert asked(image).kept(keep).tolist() == [[[[1, 0], [0, 4]], [[5, 0], [0, 8]]]]
    series = torch.arange(1.0, 7.0).reshape(1, 3, 2)
    assert asked(series).kept(torch.tensor([[True, False, True]])).tolist() == [[[1, 2], [0, 0], [5, 6]]]
    tokens = torch.tensor([[4, 5, 6]])
    assert asked(tokens).kept(torch.tensor([[True, False, False]])).tolist() == [[4, 9, 9]]
    assert asked(tokens).tokens and not asked(series).tokens
    assert asked(tokens, torch.tensor([[True, True, False]])).real.tolist() == [[True, True, False]]
    assert asked(tokens).real.all() and asked(image).places == (2, 2) and asked(series).places == (3,)


@pytest.mark.parametrize(("causal", "kind", "scale", "grouped"), [(False, None, None, False), (True, None, 0.5, False),
(False, "bool", None, True),
                                                                   (False, "float", None, False)])  # fmt: skip
def test_weights_of_attention_are_read_as_they_are_computed(causal, kind, scale, grouped):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, 5, 3, generator=generator)
    key, value = (torch.randn(2, 2 if grouped else 4, 5, 3, generator=generator) for _ in range(2))
    mask = {
        None: None,
        "bool": torch.rand(5, 5, generator=generator) > 0.3,
        "float": torch.randn(5, 5, generator=generator),
    }[kind]
    if kind == "bool":
        mask.fill_diagonal_(True)
    with attention_rollout._Weights() as read:
        output = nn.functional.scaled_dot_product_attention(
            query, key, value, mask, is_causal=causal, scale=scale, enable_gqa=grouped
        )
        nn.functional.scaled_dot_product_attention(
            query, key[:, :, :4], value[:, :, :4], enable_gqa=grouped
        )  # across two sequences
    (weights,) = read.layers
    assert read.causal == causal
    assert torch.allclose(weights @ value.repeat_interleave(2 if grouped else 1, 1), output, atol=1e-6)


def test_rollout_of_layers_by_a_loop():
    generator = torch.Generator().manual_seed(0)
    layers = [torch.rand(2, 3, 4, 4, generator=generator) for _ in range(3)]
    slow = torch.eye(4).expand(2, 4, 4)
    for weights in layers:
        step = torch.stack([(weights[n].sum(0) / 3 + torch.eye(4)) / 2 for n in range(2)])
        slow = torch.stack([(step[n] / step[n].sum(1)[:, None]) @ slow[n] for n in range(2)])
    assert torch.allclose(attention_rollout.roll(layers), slow, atol=1e-6)


@pytest.mark.parametrize(("attributes", "causal", "prefix", "read"), [
    ({"pooling": "mean"}, True, 0, "mean"), ({"global_pool": "token"}, True, 0, "first"), ({"global_pool": "avg"}, False, 1, "mean"),
    ({}, True, 0, "last"), ({}, True, 1, "first"), ({}, False, 0, "first"), ({"pooling": 3, "global_pool": None}, True, 0, "last"),
])  # fmt: skip
def test_the_positions_that_a_head_sees(attributes, causal, prefix, read):
    assert attention_rollout._read_from(SimpleNamespace(**attributes), causal, prefix) == read
