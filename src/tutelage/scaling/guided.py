"""The guided variant: a fully connected ensemble whose hidden layer is drawn toward an untrained convolutional guide.

The guide sees the same inputs, cut into patches; its features are fixed. The potential gains
-strength * kappa * points * CKA(hidden, guide), so `strength` is in nats per data point at perfect alignment.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tutelage.errors import UserError
from tutelage.scaling.ensembles import PatchConvolution, TwoLayer


def centred(features: Tensor, present: Tensor | None = None) -> Tensor:
    """Features (members, points, units) less their mean over the points that are present; absent points become zero."""
    if present is None:
        return features - features.mean(1, keepdim=True)
    weights = present.unsqueeze(2)
    mean = (features * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True)
    return (features - mean) * weights


def cka(first: Tensor, second: Tensor) -> Tensor:
    """Linear CKA per member of centred features (members, points, units): Kornblith et al. 2019, biased form."""
    cross = torch.bmm(first.transpose(1, 2), second).square().sum((1, 2))
    own = [torch.bmm(f.transpose(1, 2), f).square().sum((1, 2)).sqrt() for f in (first, second)]
    return cross / (own[0] * own[1]).clamp_min(1e-30)


class Guide:
    """Gradient of the guiding potential, for `Langevin(extra=...)`.

    Args:
        network: the guided ensemble; its inputs are flat (members, points, patches * patch_dim).
        guide: an untrained convolution on the same inputs.
        inputs: the ensemble's data; present: as in `Langevin`.
        strength: nats per data point at perfect alignment.
        temperature: kappa.
        seed: of the guide's weights, one guide per member.

    Raises:
        UserError: when guide and inputs do not fit.
    """

    def __init__(
        self,
        network: TwoLayer,
        guide: PatchConvolution,
        inputs: Tensor,
        *,
        strength: float,
        temperature: float,
        seed: int,
        present: Tensor | None = None,
    ) -> None:
        if guide.patches * guide.patch_dim != network.inputs:
            raise UserError(
                f"the guide reads {guide.patches} patches of {guide.patch_dim}, {guide.patches * guide.patch_dim} inputs in "
                f"all, but the guided network has {network.inputs}"
            )
        self.network, self.present = network, present
        weights = guide.draw(len(inputs), torch.Generator(inputs.device).manual_seed(seed))
        cut = inputs.unflatten(2, (guide.patches, guide.patch_dim))
        self.features = centred(guide.forward(weights, cut)[1][0], present)
        gram = torch.bmm(self.features.transpose(1, 2), self.features)
        self.features /= gram.square().sum((1, 2)).sqrt().sqrt()[:, None, None]  # its own HSIC becomes 1
        points = torch.full((len(inputs),), float(inputs.shape[1]), device=inputs.device)
        self.weight = strength * temperature * (points if present is None else present.sum(1))

    def alignment(self, flat: Tensor, inputs: Tensor, members: slice = slice(None)) -> Tensor:
        """CKA of hidden layer and guide, per member."""
        features, present = self._of(inputs, members)
        return cka(centred(self.network.forward(flat, inputs)[1][0], present), features)

    def _of(self, inputs: Tensor, members: slice) -> tuple[Tensor, Tensor | None]:
        # Callers leave points out that no member of theirs has.
        points = inputs.shape[1]
        return self.features[members, :points], None if self.present is None else self.present[
            members, :points
        ]

    def __call__(self, flat: Tensor, inputs: Tensor, members: slice) -> Tensor:
        """Gradient of -weight * CKA in the flat parameters of some members."""
        guide, present = self._of(inputs, members)
        cache = self.network.forward(flat, inputs)[1]
        hidden = centred(cache[0], present)
        cross = torch.bmm(guide.transpose(1, 2), hidden)
        own = torch.bmm(hidden.transpose(1, 2), hidden)
        own_norm = own.square().sum((1, 2)).sqrt().clamp_min(1e-30)[:, None, None]
        similarity = cross.square().sum((1, 2), keepdim=True) / own_norm
        toward = torch.bmm(guide, cross) - torch.bmm(hidden, own) * (similarity / own_norm)
        toward = toward * (-2 * self.weight[members][:, None, None] / own_norm)
        return self.network.backward_hidden(flat, inputs, cache, toward)
