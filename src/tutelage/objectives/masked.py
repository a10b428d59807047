"""Self-supervised learning by hiding: patches of an image, or tokens of a text, which the features at their positions must tell."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.arguments import positive
from tutelage.data.streams import Resident
from tutelage.errors import UserError
from tutelage.objectives.base import Setup
from tutelage.objectives.pretext import Pretext, features_before, unlabelled_images
from tutelage.objectives.unlabelled import (
    Augment,
    SampleStream,
    UnlabelledTokens,
    Views,
    image_views,
)
from tutelage.tasks import Batch
from tutelage.tasks.base import mean_of_counted

MASKED, REPLACED = 0.8, 0.1
"""Of the chosen tokens, the shares that become the mask token and a random one; the rest stay (arXiv 1810.04805, 3.1)."""


class _Masked(Pretext):
    selects = "masked_loss"
    facts: Mapping[str, Any]

    def __init__(self, *, ratio: float, **common: Any) -> None:
        super().__init__(**common)
        if not 0 < ratio < 1:
            raise UserError(f"`ratio` must lie between 0 and 1, got {ratio}")
        self.ratio = ratio

    def describe(self) -> dict[str, Any]:
        """See `Objective.describe`."""
        return {"unlabelled": dict(self.facts), **super().describe()}

    def counted(self, batch: Batch) -> int:
        """See `Pretext.counted`: what is hidden."""
        assert batch.target_mask is not None
        return int(batch.target_mask.sum())

    def last_with_positions(self, setup: Setup, fits: Any) -> str | None:
        """Return the layer nearest to the output, as `Taps` know it, whose features (shape without the batch axis) fit."""
        head, layers = features_before(setup)[0], setup.layers()
        names = [layer.name for layer in layers]
        before = layers[: names.index(head.reads[0])] if head.reads[0] in names else layers
        fitting = [
            layer.name
            for layer in before
            if not layer.obstacle and layer.name not in head.layers and fits(layer.shape)
        ]
        return fitting[-1] if fitting else None


class MaskedImages(_Masked):
    """Squared error of the hidden pixels, told by one linear map from the features at each position (Xie et al. 2022, arXiv 2111.09886).

    ratio: share of each image's patches, of `patch` x `patch` pixels, that are hidden: set to 0, the mean of normalised images. The
    features are those of the last layer with positions on a regular grid, a map or tokens (tokens before them, such as a class token, are
    left out); of a network without any, such as a fully connected one, what enters the final layer tells all pixels. augment: of images,
    before patches are hidden. The paper's error is absolute, and its mask a trained token.
    """

    def __init__(
        self, *, ratio: float = 0.6, patch: int = 4, augment: Augment | None = None, **common: Any
    ) -> None:
        super().__init__(ratio=ratio, **common)
        positive("patch", patch=patch)
        self.patch, self.augment = patch, dict(augment or {})

    def choose(self, setup: Setup) -> str:
        """See `Pretext.choose`."""
        unlabelled_images(setup, "masked images need")
        self.size = tuple(setup.example.inputs.shape[1:])
        height, width = self.size[1:]
        if height % self.patch or width % self.patch or self.patch >= max(height, width):
            raise UserError(
                f"`patch`={self.patch} must divide the images of {height} x {width} into several patches"
            )
        found = self.last_with_positions(setup, lambda shape: _grid(shape, self.size) is not None)
        return found or features_before(setup)[1]

    def build(self, setup: Setup, features: Tensor) -> None:
        """See `Pretext.build`."""
        unlabelled, count = unlabelled_images(setup, "masked images need")
        grid = _grid(tuple(features.shape[1:]), self.size)
        if grid is None and features.ndim != 2:
            raise UserError(
                f"masked images need features on a regular grid: those of '{self.layer}' are {tuple(features.shape[1:])} for images "
                f"{self.size}"
            )
        channels, height, width = self.size
        self.grid = grid or (1, 1)
        self.cell = (height // self.grid[0], width // self.grid[1])
        source = features.shape[1] if features.ndim != 3 else features.shape[2]
        self.decoder = nn.Linear(source, channels * self.cell[0] * self.cell[1])
        self.facts = unlabelled.facts
        store = MaskedPatches(
            image_views(unlabelled, (height, width), (self.augment,)), self.ratio, self.patch
        )
        self.stream = SampleStream(store, unlabelled.index, count=count, name="unlabelled images")

    def compare(self, features: Tensor, batch: Batch) -> Tensor:
        """See `Pretext.compare`."""
        if features.ndim == 4:
            features = features.flatten(2).transpose(1, 2)
        elif features.ndim == 2:
            features = features[:, None]
        (rows, columns), (high, wide) = self.grid, self.cell
        cells = self.decoder(features[:, -rows * columns :])
        guess = (
            cells.view(-1, rows, columns, self.size[0], high, wide)
            .permute(0, 3, 1, 4, 2, 5)
            .reshape(batch.targets.shape)
        )
        assert batch.target_mask is not None
        hidden = batch.target_mask.expand_as(guess)
        return F.mse_loss(guess.float()[hidden], batch.targets.float()[hidden])


class MaskedTokens(_Masked):
    """Cross-entropy in nats of the hidden tokens, told by one linear map from the features at each position (arXiv 1810.04805, 3.1).

    ratio: share of a text's tokens that are to be told, each by its own throw; of these 80 % are seen as the mask token (where the
    tokeniser has none, as what is unknown), 10 % as a random one, and 10 % as they are. The features are those of the last layer with a
    vector for each position.
    """

    def __init__(self, *, ratio: float = 0.15, **common: Any) -> None:
        super().__init__(ratio=ratio, **common)

    def choose(self, setup: Setup) -> str:
        """See `Pretext.choose`."""
        if not isinstance(setup.unlabelled, UnlabelledTokens) or setup.batch_size is None:
            raise UserError(
                "masked tokens need texts: give method.unlabelled=all and data=text_classification, or data=text"
            )
        length = setup.example.inputs.shape[1]
        found = self.last_with_positions(setup, lambda shape: len(shape) == 2 and shape[0] == length)
        if found is None:
            raise UserError(
                f"{type(setup.network).__name__} has no layer before its final one with a vector for each of the {length} positions"
            )
        return found

    def build(self, setup: Setup, features: Tensor) -> None:
        """See `Pretext.build`."""
        found = setup.unlabelled
        assert isinstance(found, UnlabelledTokens)
        assert setup.batch_size is not None
        self.decoder = nn.Linear(features.shape[-1], found.vocab_size)
        self.facts = found.facts
        special = torch.zeros(found.vocab_size, dtype=torch.bool)
        special[[*found.special]] = True
        store = MaskedTexts(found.store, special, found.mask_token, self.ratio, setup.example.inputs.shape[1])
        self.stream = SampleStream(store, found.index, count=setup.batch_size, name="texts")

    def compare(self, features: Tensor, batch: Batch) -> Tensor:
        """See `Pretext.compare`."""
        assert batch.target_mask is not None
        logits = self.decoder(features[batch.target_mask])
        return mean_of_counted(
            F.cross_entropy(logits.float(), batch.targets[batch.target_mask], reduction="none"), batch
        )


def _grid(shape: tuple[int, ...], image: tuple[int, ...]) -> tuple[int, int] | None:
    """Return rows and columns of the positions of features, each of which stands for as many whole pixels; None where there is no grid."""
    _, height, width = image
    if len(shape) == 3:
        rows, columns = shape[1:]
        return (rows, columns) if rows * columns > 1 and not height % rows and not width % columns else None
    if len(shape) != 2:
        return None
    for count in range(shape[0], max(1, shape[0] - 9), -1):  # the last of them, after tokens of other kinds
        for rows in range(2, height + 1):
            columns, rest = divmod(count, rows)
            if (
                not rest
                and columns
                and not height % rows
                and not width % columns
                and rows * width == columns * height
            ):
                return rows, columns
    return None


@dataclasses.dataclass(frozen=True)
class MaskedPatches(Resident):
    """Images with hidden patches as inputs, whole as targets, and target_mask (n, 1, H, W) where pixels are hidden."""

    views: Views
    ratio: float
    patch: int

    @property
    def patches(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.views.size[0] // self.patch, self.views.size[1] // self.patch

    @property
    def draws(self) -> int:
        """See `Store`."""
        return self.views.draws + self.patches[0] * self.patches[1]

    @property
    def index_device(self) -> torch.device:
        """See `Store`."""
        return self.views.index_device

    def to(self, device: torch.device) -> Self:
        """See `Store`."""
        return dataclasses.replace(self, views=self.views.to(device))

    def batch(self, index: Tensor, noise: Tensor | None) -> Batch:
        """See `Resident`; of each image as many patches are hidden, at least one and not all."""
        assert noise is not None
        images = self.views.batch(index, noise[:, : self.views.draws]).inputs
        order = noise[:, self.views.draws :].argsort(dim=1)
        count = min(max(1, round(self.ratio * order.shape[1])), order.shape[1] - 1)
        hidden = torch.zeros_like(order, dtype=torch.bool).scatter_(1, order[:, :count], True)
        hidden = hidden.view(-1, 1, *self.patches)
        hidden = hidden.repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)
        return Batch(images.masked_fill(hidden, 0.0), images, index, None, hidden)


@dataclasses.dataclass(frozen=True)
class MaskedTexts(Resident):
    """Texts with some tokens changed as inputs, as they are as targets, and target_mask (n, length) where a token is to be told.

    special: (vocab_size,) bool, tokens that are never chosen.
    """

    texts: Resident
    special: Tensor
    mask_token: int
    ratio: float
    length: int

    @property
    def draws(self) -> int:
        """See `Store`: one for each position."""
        return self.length

    def to(self, device: torch.device) -> Self:
        """See `Store`."""
        return dataclasses.replace(self, texts=self.texts.to(device), special=self.special.to(device))

    def batch(self, index: Tensor, noise: Tensor | None) -> Batch:
        """See `Resident`. Where a number falls within the chosen share says, in turn, what becomes of the token."""
        assert noise is not None
        seen = self.texts.batch(index, None)
        tokens = seen.inputs
        chosen = (noise < self.ratio) & ~self.special[tokens]
        chosen = chosen if seen.mask is None else chosen & seen.mask
        share = noise / self.ratio
        other = ((share - MASKED) / REPLACED * len(self.special)).long() % len(self.special)
        changed = torch.where(
            share < MASKED, self.mask_token, torch.where(share < MASKED + REPLACED, other, tokens)
        )
        return Batch(torch.where(chosen, changed, tokens), tokens, index, seen.mask, chosen)
