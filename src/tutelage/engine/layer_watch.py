"""How signal and gradients pass the layers while a network trains: the look of `diagnose` before each first step, at every validation."""

from __future__ import annotations

import itertools
from typing import Any

import torch

from tutelage.data.base import DataModule
from tutelage.engine.signal import signal
from tutelage.errors import UserError
from tutelage.methods.base import Method, step_seed
from tutelage.methods.generation import Generation

COLUMN = "layers"
"""Columns of the record are layers/<quantity>/<layer>."""
QUANTITIES = ("gradient", "rank", "agreement", "steadiness", "scale")
"""See `LayerSignal`."""
BATCHES = 2
"""Two training batches, the same at every step: what differs between two looks is the network."""
STEP = 1e-4
"""Of steadiness, in units of the weights' length: the ReLUs of a network of 40 layers leave no gradient in place beyond it."""


class LayerWatch:
    """Looks at a method's network on the first training batches of its run; the training stays as it is, bit for bit.

    The gradient is the task's alone: what a guide changes shows in the network that it has made. Cost: three training steps a look.
    Raises UserError for a method that learns no task of the data.
    """

    def __init__(self, method: Method, data: DataModule, seed: int) -> None:
        if not method.reads_targets or isinstance(method, Generation):
            raise UserError(
                "fit.watch_layers looks at how the task's loss reaches the layers, and this method learns no task: leave it out"
            )
        self.data, self.seed = data, seed
        self._batches: list[Any] = []

    def __call__(self, method: Method) -> dict[str, float]:
        """Return the columns of a row."""
        # Validation runs in inference mode, whose tensors no gradient passes.
        with torch.inference_mode(False):
            if not self._batches:
                stream = self.data.train_stream(seed=self.seed, device=method.device)
                stream.seek(0, BATCHES)
                self._batches = list(itertools.islice(stream, BATCHES))
            with method.trainer.precision_plugin.forward_context():
                found = signal(
                    method.network, method.task, self._batches, seed=step_seed(self.seed, 0), step=STEP
                )
        return {
            f"{COLUMN}/{quantity}/{layer.name}": getattr(layer, quantity)
            for quantity in QUANTITIES
            for layer in found.layers
        }
