"""Which of two states is the better one."""

import math

import pytest

from tutelage.engine.checkpoints import Checkpoints


@pytest.mark.parametrize(("mode", "better", "worse"), [("max", 0.6, 0.4), ("min", 0.4, 0.6)])
def test_a_state_is_better_by_its_metric_and_any_number_is_better_than_none(tmp_path, mode, better, worse):
    checkpoints = Checkpoints(tmp_path, monitor="m", mode=mode, every_s=1.0)
    assert checkpoints._improves(math.nan)  # the first one

    def beats(value, best):
        checkpoints.best = {"validation": {"m": best}}
        return checkpoints._improves(value)

    assert beats(better, 0.5) and not beats(worse, 0.5) and not beats(0.5, 0.5)
    assert beats(worse, math.nan) and not beats(math.nan, math.nan) and not beats(math.nan, 0.5)
