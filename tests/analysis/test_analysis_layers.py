"""What `analyse layers` makes of the rows of watched runs."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tutelage.analysis import layer_curves
from tutelage.errors import UserError


def row(step, gradients, ranks=(5.0, 2.0)):
    names = ("stem", "head")
    return {
        "step": step,
        **{f"layers/gradient/{n}": g for n, g in zip(names, gradients, strict=True)},
        **{f"layers/rank/{n}": r for n, r in zip(names, ranks, strict=True)},
        **{f"layers/agreement/{n}": a for n, a in zip(names, (0.1, 0.3), strict=True)},
        **{f"layers/scale/{n}": 1.0 for n in names},
    }


def subject(label, rows):
    run = SimpleNamespace(key=f"{label}/0", metrics=SimpleNamespace(rows=rows))
    return SimpleNamespace(run=run, arm=label, label=f"{label} 0", role="")


def test_layers_in_their_order_and_the_ratio_of_the_outer_ones():
    rows = [row(0, (8.0, 2.0)), {"step": 5, "train/loss": 1.0}, row(10, (3.0, 6.0), (4.0, 1.5))]
    found = layer_curves.watched("a", rows)
    assert found.layers == ("stem", "head") and found.steps == (0, 10)
    assert found.gradient_ratio.tolist() == [4.0, 0.5]
    assert found.values["rank"].tolist() == [[5.0, 4.0], [2.0, 1.5]]


def test_an_arm_is_the_mean_of_its_runs_gradients_by_their_logarithm():
    one = layer_curves.watched("a", [row(0, (1.0, 1.0)), row(10, (1.0, 2.0))])
    other = layer_curves.watched("b", [row(0, (100.0, 1.0), (7.0, 4.0)), row(20, (1.0, 2.0))])
    mean = layer_curves.mean_of("arm", [one, other])
    assert mean.steps == (0,)
    np.testing.assert_allclose(mean.values["gradient"], [[10.0], [1.0]])
    np.testing.assert_allclose(mean.values["rank"], [[6.0], [3.0]])


def test_what_cannot_be_shown():
    with pytest.raises(
        UserError, match=r"a recorded nothing of its layers: train it with fit\.watch_layers=true"
    ):
        layer_curves.watched("a", [{"step": 1, "train/loss": 1.0}])
    one, later = (layer_curves.watched("a", [row(step, (1.0, 1.0))]) for step in (0, 5))
    with pytest.raises(UserError, match="no common step"):
        layer_curves.mean_of("arm", [one, later])
    other = layer_curves.watched("b", [{"step": 0, "layers/gradient/x": 1.0}])
    with pytest.raises(UserError, match="different layers"):
        layer_curves.mean_of("arm", [one, other])


def test_lines_rows_and_figure(tmp_path):
    subjects = [
        subject("plain", [row(0, (8.0, 2.0)), row(10, (3.0, 6.0), (4.0, 1.5))]),
        subject("guided", [row(0, (8.0, 2.0)), row(10, (6.0, 6.0), (4.0, 3.5))]),
    ]
    lines, record, rows, draw = layer_curves.outcome(SimpleNamespace(subjects=subjects))
    assert lines[:4] == [
        "plain (n = 1), 2 layers, step 0 to 10:",
        "  gradient of the first layer over the last's: 4 to 0.5",
        "  effective rank of what the last layer is given: 2 to 1.5",
        "  agreement of two batches' gradients, median over layers: 0.2 to 0.2",
    ]
    assert record["arms"]["guided (n = 1)"]["last_rank"] == [2.0, 3.5]
    assert rows[0] == {
        "run": "plain 0", "step": 0, "layer": "stem", "gradient": 8.0, "rank": 5.0, "agreement": 0.1, "scale": 1.0,
    }  # fmt: skip
    assert len(rows) == 8
    draw(tmp_path / "layers.png")
    assert (tmp_path / "layers.png").stat().st_size > 5_000


def test_steadiness_is_shown_where_every_run_recorded_it(tmp_path):
    now = [row(0, (8.0, 2.0)) | {"layers/steadiness/stem": 0.2, "layers/steadiness/head": 0.6}]
    lines, record, rows, draw = layer_curves.outcome(SimpleNamespace(subjects=[subject("plain", now)]))
    assert lines[-1] == "  a small step against the gradient leaves a cosine, median over layers: 0.4 to 0.4"
    assert record["arms"]["plain (n = 1)"]["steadiness"] == [0.4] and rows[0]["steadiness"] == 0.2
    draw(tmp_path / "four.png")
    both = [subject("plain", now), subject("before", [row(0, (8.0, 2.0))])]
    layer_curves.outcome(SimpleNamespace(subjects=both))[3](tmp_path / "three.png")
    widths = [Image.open(tmp_path / f"{name}.png").width for name in ("four", "three")]
    assert widths[0] > widths[1]
