"""Methods put together by hand, outside of any configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from tutelage.methods.base import Method
from tutelage.methods.optim import OptimizerSpec
from tutelage.objectives.base import Objective
from tutelage.objectives.total import Objectives
from tutelage.tasks import Batch, Task


def made(
    kind: type[Method],
    network: nn.Module,
    objectives: Mapping[str, Objective],
    *,
    task: Task,
    example: Batch,
    optimizer: OptimizerSpec | None = None,
    options: Mapping[str, Any] | None = None,
    **context: Any,
) -> Any:
    """Return a method of a kind. options: of its constructor. context: of `Objectives`."""
    total = Objectives(network, objectives, task=task, example=example, **context)
    optimizer = optimizer or OptimizerSpec(name="sgd", lr=0.1)
    return kind(network=network, task=task, optimizer=optimizer, objectives=total, **(options or {}))
