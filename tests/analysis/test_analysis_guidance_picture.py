"""The picture of guidance, alignment by arm, and how maps of kappas and similarities are drawn."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from tutelage.analysis import alignment_curves, drawing, errors_consistency, guidance_picture
from tutelage.errors import UserError
from tutelage.objectives.alignment import Alignment
from tutelage.objectives.base import Start
from tutelage.objectives.schedule import Schedule
from tutelage.objectives.task import Task
from tutelage.objectives.total import Objectives
from tutelage.runs.layer_pairs import layer_pairs

PAIRS = [{"guide": "a", "network": "x"}, {"guide": "b", "network": "y"}]


def run(similar, accuracy, steps=(10, 20, 30)):
    """What a run recorded: (layer pairs, rows)."""
    rows = []
    for i, step in enumerate(steps):
        values = [similar * (i + 1) / len(steps), similar / 2]
        pairs = {f"train/similarity/{i:02d}": value for i, value in enumerate(values, start=1)}
        rows.append({"step": step, "train/alignment": 2 - sum(values), **pairs})
        rows.append({"step": step, "validation/accuracy": accuracy})
    return layer_pairs(rows, {"objectives": {"alignment": {"pairs": PAIRS}}})["alignment"], rows


def test_an_arm_is_the_mean_over_its_runs_with_the_interval_clipped():
    arm = guidance_picture.arm_of("guided", [run(0.6, 0.9), run(0.8, 1.0)], "accuracy")
    np.testing.assert_allclose(arm.values, [[0.7 / 3, 1.4 / 3, 0.7], [0.35] * 3])
    assert arm.pairs == ("1 a > x", "2 b > y") and arm.steps == (10, 20, 30) and arm.runs == 2
    step, mean, low, high = arm.metric[1][0]
    assert (step, high) == (10, 1.0) and mean == pytest.approx(0.95)
    assert low == pytest.approx(0.95 - 12.7062 * math.sqrt(0.005) / math.sqrt(2), abs=1e-4)
    alone = guidance_picture.arm_of("plain", [run(0.6, 0.9)], "accuracy")
    assert alone.metric[1][0] == (10, 0.9, 0.9, 0.9)


def test_steps_that_all_runs_have_are_drawn_and_other_pairs_are_refused():
    arm = guidance_picture.arm_of("guided", [run(0.6, 0.9), run(0.6, 0.9, steps=(20, 30, 40))], "accuracy")
    assert arm.steps == (20, 30)
    with pytest.raises(UserError, match="different steps"):
        guidance_picture.arm_of("guided", [run(0.6, 0.9), run(0.6, 0.9, steps=(11, 12, 13))], "accuracy")
    other = run(0.6, 0.9)[1], {"objectives": {"alignment": {"pairs": PAIRS[::-1]}}}
    with pytest.raises(UserError, match="different layer pairs"):
        guidance_picture.arm_of("guided", [run(0.6, 0.9), (layer_pairs(*other)["alignment"], other[0])], "accuracy")  # fmt: skip


def test_the_animation_goes_through_training_and_ends_with_the_figure(tmp_path):
    arms = [
        guidance_picture.arm_of("guided", [run(0.9, 0.9), run(0.8, 0.95)], "accuracy"),
        guidance_picture.arm_of("plain $x_1$", [run(0.2, 0.4)], "accuracy"),
    ]
    figure, animation = guidance_picture.draw(arms, tmp_path / "guidance.png")
    assert Image.open(figure).size[0] > 1000 and not list(tmp_path.glob(".*"))
    with Image.open(animation) as moving:
        assert moving.n_frames == 3
        frames = []
        for place in range(3):
            moving.seek(place)
            frames.append(np.asarray(moving.convert("L"), float))
    # What is not yet trained is light grey: there is less of it from picture to picture.
    light = [int((np.abs(frame - 237) < 4).sum()) for frame in frames]
    assert light[0] > light[1] > light[2]


def test_an_arm_is_told_from_its_first_step_to_its_last():
    arm = guidance_picture.arm_of("guided", [run(0.6, 0.9), run(0.6, 0.7)], "accuracy")
    assert (
        guidance_picture._told(arm)
        == "guided (mean over 2 runs): mean similarity 0.250 at step 10, 0.450 at step 30; validation accuracy 0.800"
    )


def test_the_column_of_a_step_ends_at_it():
    assert guidance_picture.edges((50, 150, 200)) == [-50, 50, 150, 200]
    assert guidance_picture.edges((7,)) == [6, 7]


def test_alignment_by_arm_has_a_mean_and_a_band():
    mean, low, high = alignment_curves.over_seeds([([1, 2, 3], [0.8, 0.9, 1.0]), ([1, 3], [0.6, 0.9])])
    assert mean == ([1, 3], pytest.approx([0.7, 0.95]))
    half = 12.7062 * 0.1  # t(1) times the standard error
    assert high[1] == [1.0, 1.0] and low[1][0] == pytest.approx(0.7 - half, abs=1e-4)
    assert all(a <= b <= c for a, b, c in zip(low[1], mean[1], high[1], strict=True))
    assert alignment_curves.over_seeds([([1], [0.5])]) == (([1], [0.5]),) * 3


def test_a_map_of_kappas_stands_by_arm_around_zero(tmp_path, monkeypatch):
    drawn = {}
    heat_map = drawing.heat_map

    def seen(values, **options):
        drawn.update(values=values, **options)
        return heat_map(values, **options)

    monkeypatch.setattr(errors_consistency, "heat_map", seen)
    names = ["p 1", "g 0", "p 0", "g 1"]
    right = np.array([1, 0, 1, 1], bool), np.array([1, 1, 0, 1], bool)
    kappas = {pair: errors_consistency.error_consistency(*right) for pair in combinations(names, 2)}
    errors_consistency.draw(kappas, tmp_path / "errors.png", {"p": ["p 0", "p 1"], "g": ["g 0", "g 1"]})
    assert drawn["rows"] == drawn["columns"] == ["p 0", "p 1", "g 0", "g 1"]
    assert (drawn["low"], drawn["high"], drawn["diverging"]) == (-1, 1, True)
    np.testing.assert_array_equal(drawn["values"], drawn["values"].T)
    assert np.isnan(np.diag(drawn["values"])).all()
    many = [f"p {i}" for i in range(9)] + [f"g {i}" for i in range(8)]
    kappas = {
        pair: errors_consistency.error_consistency(*right, resamples=10) for pair in combinations(many, 2)
    }
    figures = []
    monkeypatch.setattr(errors_consistency, "save", lambda figure, path: figures.append(figure))
    errors_consistency.draw(kappas, tmp_path / "errors.png", {"p": many[:9], "g": many[9:]})
    axes = figures[0].axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["p (n = 9)", "g (n = 8)"]
    assert list(axes.get_yticks()) == [4, 12.5]


def test_lines_have_their_legend_outside_and_their_bands():
    figure, axes = drawing.lines(
        {"a": ([0, 1], [0, 1]), "b": ([0, 1], [1, 0])}, x="x", y="y", bands={"a": ([0, 0], [1, 1])}, title="t"
    )
    figure.canvas.draw()
    legend = axes.get_legend().get_window_extent()
    assert legend.x0 >= axes.get_window_extent().x1 and len(axes.collections) == 1
    assert axes.get_title() == "t" and len({line.get_color() for line in axes.lines}) == 2


def test_a_watched_alignment_is_recorded_and_moves_no_weight():
    torch.manual_seed(0)
    inputs, targets = torch.randn(16, 6), torch.randint(3, (16,))
    guide = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    watched = Alignment(network="guide", schedule=Schedule(name="from", steps=10**6, watched=True))
    trained = []
    for terms in ({"task": Task()}, {"task": Task(), "alignment": watched}):
        torch.manual_seed(1)
        network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        total = Objectives(network, terms, frozen={"guide": guide}, task=F.cross_entropy, example=inputs)
        total.start(Start(max_steps=4, accumulate=1, rank=1, world_size=1, device=inputs.device, seed=0))
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        for _ in range(4):
            optimizer.zero_grad()
            total(inputs, targets).backward()
            optimizer.step()
        trained.append([parameter.detach().clone() for parameter in network.parameters()])
    assert all(map(torch.equal, *trained))
    recorded = total.record()
    assert len(recorded) == 2 and all(0 <= value <= 1.001 for value in recorded.values())
