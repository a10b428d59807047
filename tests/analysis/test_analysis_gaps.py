"""The figure of training against test, as all its artists; which way is better."""

from __future__ import annotations

import pytest

from drawn import drawn, figures
from expected import same_as
from tutelage.analysis.drawing import direction
from tutelage.analysis.overfitting import Gap, draw


def test_the_figure_of_gaps_whole(tmp_path, monkeypatch):
    saved = figures(monkeypatch)
    plain = [
        Gap("plain", f"r{i}", i, "accuracy", "max", train, 0.7, test)
        for i, (train, test) in enumerate([(0.99, 0.7), (0.95, 0.72), (1.0, 0.61)])
    ]
    one = [Gap("guided", "r9", 0, "accuracy", "max", 0.9, 0.85, 0.88)]
    draw({"plain": plain, "guided": one}, tmp_path / "gap.png")
    same_as("figure-gap.txt", "\n".join(drawn(saved[0])))


@pytest.mark.parametrize(
    ("modes", "said"),
    [
        ({"max"}, "higher is better"),
        ({"min"}, "lower is better"),
        ({"max", "min"}, ""),
        ({None}, ""),
        (set(), ""),
    ],
)
def test_which_way_is_better_is_said_where_all_are_selected_alike(modes, said):
    assert direction(modes) == said
