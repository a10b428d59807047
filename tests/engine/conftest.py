"""Small real runs through the real path: compose, plan, lock, fit, select, test, record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tutelage.cli.compose import plan_of
from tutelage.engine.launch import run_plan
from tutelage.runs.run import Run
from tutelage.runs.store import Store

SMALL = ["logger=none", "hardware.threads=1", "fit.max_steps=12", "fit.validate_every_steps=4", "fit.log_every_steps=2",
         "fit.checkpoint_every_s=0", "data.batch_size=32", "model=fcn", "model.depth=2", "model.width=16"]  # fmt: skip
GUIDE = ["model@guide=residual_convnet", "guide.width=4"]
TEACHER = ["model@teacher=residual_convnet", "teacher.width=4"]

METHODS: dict[str, list[str]] = {
    "supervised": ["model.dropout=0.2"],
    "distillation": [*TEACHER, "model.dropout=0.2"],
    "guidance": [*GUIDE, "model.dropout=0.2"],
}
"""Every method with the least words that make it run; `test_contracts` fails for a method that is not here."""


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., Run]:
    """Give a function that does the run of some overrides and returns it."""

    def do(*words: str, folder: str = "runs", **options: Any) -> Run:
        runs_dir = tmp_path / folder
        plan = plan_of([*SMALL, f"runs_dir={runs_dir}", *words])
        run_plan(plan, **options)
        return Store(runs_dir).run(plan.name, plan.identity)

    return do
