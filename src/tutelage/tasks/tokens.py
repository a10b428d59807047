"""Tokens as targets: language modelling, copying."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from tutelage.errors import UserError
from tutelage.tasks.base import Batch, Task, kl_at_temperature


class Tokens(Task):
    """One token for each position: language modelling, copying. Loss in nats per counted token.

    vocab_size: number of tokens the network chooses from. monitor: "accuracy" (max) or "perplexity" (min).
    next_token: each target is the token after, so that a network must not look ahead.
    """

    name = "tokens"
    kind = "tokens"
    per_position = True

    def __init__(
        self,
        vocab_size: int,
        monitor: Literal["accuracy", "perplexity"] = "accuracy",
        *,
        next_token: bool = False,
    ) -> None:
        if monitor not in ("accuracy", "perplexity"):
            raise UserError(f"a token task is selected by 'accuracy' or 'perplexity', got {monitor!r}")
        self.output_size, self.next_token = vocab_size, next_token
        self.monitor, self.mode = monitor, "max" if monitor == "accuracy" else "min"

    def select(self, output: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `Task.select`: logits (m, vocabulary) and targets (m,) at the counted positions."""
        if output.shape != (*batch.targets.shape, self.output_size):
            raise UserError(
                f"the network must return one row of {self.output_size} logits per position, "
                f"{(*batch.targets.shape, self.output_size)}, got {tuple(output.shape)}"
            )
        keep = batch.mask if batch.target_mask is None else batch.target_mask
        if keep is None:
            return output.flatten(0, 1), batch.targets.flatten()
        return output[keep], batch.targets[keep]

    def pointwise(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """See `Task.pointwise`: cross-entropy in nats."""
        return F.cross_entropy(predictions, targets, reduction="none")

    def soft_loss(self, output: Tensor, teacher_output: Tensor, batch: Batch, temperature: float) -> Tensor:
        """See `Task.soft_loss`: KL divergence at the counted positions."""
        mine, _ = self.select(output, batch)
        theirs, _ = self.select(teacher_output, batch)
        return kl_at_temperature(mine, theirs, temperature, batch)

    def metric_parts(self) -> list[tuple[str, Metric]]:
        """See `Task.metric_parts`."""
        return [("accuracy", MulticlassAccuracy(self.output_size, average="micro", validate_args=False))]

    def derive(self, values: dict[str, float]) -> dict[str, float]:
        """Add perplexity = exp(mean loss per token); beyond float range it is infinite, not an error."""
        return values | {"perplexity": float(torch.tensor(values["loss"], dtype=torch.float64).exp())}
