"""Small real runs through the real path: compose, plan, lock, fit, select, test, record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_runs import SMALL

from tutelage.cli.compose import plan_of
from tutelage.engine.launch import run_plan
from tutelage.runs.run import Run
from tutelage.runs.store import Store


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., Run]:
    """Give a function that does the run of some overrides and returns it."""

    def do(*words: str, folder: str = "runs", **options: Any) -> Run:
        runs_dir = tmp_path / folder
        plan = plan_of([*SMALL, f"runs_dir={runs_dir}", *words])
        run_plan(plan, **options)
        return Store(runs_dir).run(plan.name, plan.identity)

    return do
