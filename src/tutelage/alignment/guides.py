"""Guides that are no networks, and what a guide may see in place of the batch."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from tutelage.errors import UserError, choices

GUIDE_INPUTS = ("batch", "gaussian", "released_noise")


class Sample(Protocol):
    """What a guide sees of a batch."""

    @property
    def inputs(self) -> Tensor:
        """(n, ...)."""

    @property
    def targets(self) -> Tensor:
        """(n, ...)."""

    @property
    def index(self) -> Tensor:
        """(n,) int64, the position of each sample in its data set."""

    @property
    def mask(self) -> Tensor | None:
        """(n, length) bool, True where real; None: all."""


class FeatureGuide(nn.Module):
    """A guide that is a function of the batch: knowledge as features that a network should mirror (see `rules`).

    Write `features`; all else is as with a guide network: `model@guide=<its file>`, pairs, similarity, schedule. It may hold buffers.
    sees_inputs: whether it looks at the batch's inputs, so that noise in their place means something. unseen_by: names of similarities to
    which its features say nothing.
    A constructor that names `tables` or `class_names` is given the data's: their tables by sample, and the names of their classes.
    """

    sees_inputs: ClassVar[bool] = True
    unseen_by: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def features(self, batch: Sample) -> dict[str, Tensor]:
        """Return named features, (n, ...) each, in order from what early layers should mirror to late ones. No gradients are taken.

        Only training batches come here, so that targets may be used.
        """

    def forward(self, batch: Sample) -> dict[str, Tensor]:
        """Return `features`, without gradients. Raises UserError where they are no named features of each sample."""
        with torch.no_grad():
            found = self.features(batch)
        if not isinstance(found, dict) or not found:
            raise UserError(
                f"{type(self).__name__}.features must return a dictionary of named features, got {type(found).__name__}"
            )
        for name, values in found.items():
            if values.ndim < 2 or len(values) != len(batch.inputs):
                raise UserError(
                    f"{type(self).__name__}.features must return (n, ...) for the n = {len(batch.inputs)} samples of the batch, "
                    f"got '{name}' of shape {tuple(values.shape)}"
                )
        return found


def guide_input_like(inputs: Tensor, kind: str) -> Tensor:
    """Return what the guide sees in place of the inputs: themselves ("batch"), or noise of their shape, from torch's own generators.

    gaussian: N(0, 1) (arXiv 2410.20035). released_noise: clamp(a + 0.1 b, 0, 1) with a, b ~ N(0, 1), as the released code does.
    Tokens are drawn evenly from those up to the batch's largest, under both. Raises UserError for an unknown kind.
    """
    if kind not in GUIDE_INPUTS:
        raise UserError(f"no guide input is named {kind!r}; {choices(kind, GUIDE_INPUTS)}")
    if kind == "batch":
        return inputs
    if not inputs.is_floating_point():
        return torch.randint_like(inputs, int(inputs.max()) + 1)
    noise = torch.randn_like(inputs)
    return noise if kind == "gaussian" else (noise + 0.1 * torch.randn_like(inputs)).clamp(0, 1)
