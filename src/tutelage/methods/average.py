"""Methods that keep an exponential moving average of the trained network and evaluate it. Shared by methods; no method itself."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.errors import UserError
from tutelage.methods.base import Method
from tutelage.tasks import Batch


class Average(nn.Module):
    """The moving average of a network's parameters; its buffers (batch norm's) are copies of the network's latest.

    decay: per update, in [0, 1). The update numbered n, from 1, uses min(decay, (1 + n) / (10 + n)), so that a short run does not
    evaluate its own beginning. Always in eval mode, without gradients.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.network = copy.deepcopy(network).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, network: nn.Module, count: int) -> None:
        """Move towards the network; `count` is the number of this update, from 1."""
        share = 1 - min(self.decay, (1 + count) / (10 + count))
        torch._foreach_lerp_(
            list(self.network.parameters()), [p.detach() for p in network.parameters()], share
        )
        for mine, theirs in zip(self.network.buffers(), network.buffers(), strict=True):
            mine.copy_(theirs)

    def train(self, mode: bool = True) -> Average:
        """Stay in eval mode."""
        return super().train(False)


class AveragedMethod(Method):
    """A method whose validation, test and kept network are the average of the trained one, if `ema_decay` is above 0.

    Only the trained network is averaged. Before the first update the average is the network itself. In every state and file
    `network.` names the network that is evaluated (the average), and `trained.` the raw weights beside it; the number of updates is
    the number of steps, so that a resumed run continues both exactly.
    """

    keeps_average = True

    def __init__(self, *, ema_decay: float = 0.0, **common: Any) -> None:
        if not 0 <= ema_decay < 1:
            raise UserError(f"method.ema_decay must be at least 0 (no average) and below 1, got {ema_decay}")
        super().__init__(**common)
        self.average = Average(self.network, ema_decay) if ema_decay else None
        self.objectives.use_average(self.average.network if self.average else None)
        self._averaged_step = 0
        # Lightning warns of modules in eval mode, which the average is on purpose.
        warnings.filterwarnings("ignore", r".*module\(s\) in eval mode at the start of training.*")

    @property
    def evaluated(self) -> nn.Module:
        """The network that validation and test see."""
        return self.network if self.average is None else self.average.network

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Run the trained network in training, the evaluated one otherwise."""
        return self.run(self.network if self.training else self.evaluated, inputs, mask)

    def on_train_start(self) -> None:
        """Remember the step that a resumed run starts from."""
        self._averaged_step = self.step

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Update the average once per update of the network, however many batches that took."""
        if self.average is not None and self.step != self._averaged_step:
            self._averaged_step = self.step
            self.average.update(self.network, self.step)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return the state, the evaluated network under `network.`."""
        state = super().state_dict(*args, **kwargs)
        return (
            _renamed(state, {"average.network.": "network.", "network.": "trained."})
            if self.average
            else state
        )

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load what `state_dict` returned."""
        if self.average:
            state_dict = _renamed(state_dict, {"network.": "average.network.", "trained.": "network."})
        return super().load_state_dict(state_dict, strict=strict, assign=assign)


def _renamed(state: Mapping[str, Any], prefixes: Mapping[str, str]) -> dict[str, Any]:
    def new(name: str) -> str:
        old = next((old for old in prefixes if name.startswith(old)), "")
        return prefixes[old] + name.removeprefix(old) if old else name

    return {new(name): value for name, value in state.items()}
