"""Plain modules, tensors and functions as what the objectives work on, for training loops of one's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.errors import UserError
from tutelage.losses.distillation import soft_target
from tutelage.models.frozen import FrozenNetwork
from tutelage.tasks import Batch, Task


def as_frozen(name: str, module: Any) -> FrozenNetwork:
    """Return a module as a FrozenNetwork."""
    if isinstance(module, FrozenNetwork):
        return module
    if not isinstance(module, nn.Module):
        raise UserError(f"the frozen network '{name}' must be a torch.nn.Module, got {type(module).__name__}")
    return FrozenNetwork(module)


def as_batch(inputs: Any, targets: Tensor | None = None, mask: Tensor | None = None) -> Batch:
    """Return plain tensors as a batch: inputs, or (inputs, mask); a Batch stays as it is."""
    if isinstance(inputs, Batch):
        return inputs
    if isinstance(inputs, tuple | list):
        inputs, mask = inputs
    if not isinstance(inputs, Tensor):
        raise UserError(f"expected inputs as a tensor (n, ...), got {type(inputs).__name__}")
    index = torch.arange(len(inputs), device=inputs.device)
    return Batch(inputs, index if targets is None else targets, index, mask)


def as_task(task: Any) -> Task | None:
    """Return a function of (outputs, targets) as a task; a Task, or None, stays as it is."""
    if task is None or isinstance(task, Task):
        return task
    if not callable(task):
        raise UserError(
            f"a task is a tutelage.tasks.Task or a function of (outputs, targets), got {type(task).__name__}"
        )
    return _Function(task)


class _Function(Task):
    """A task of which only the loss is known: a function of (outputs, targets)."""

    name = "function"

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.function = function

    def select(self, output: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `Task.select`: everything counts."""
        return output, batch.targets

    def pointwise(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """See `Task.pointwise`; a mean is taken as it is."""
        return self.function(predictions, targets).reshape(-1)

    def soft_loss(self, output: Tensor, teacher_output: Tensor, batch: Batch, temperature: float) -> Tensor:
        """See `Task.soft_loss`: soft targets over the last axis."""
        return soft_target(output, teacher_output, temperature=temperature).mean()

    def metric_parts(self) -> list[Any]:
        """See `Task.metric_parts`: none are known."""
        return []
