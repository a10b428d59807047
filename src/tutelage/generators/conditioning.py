"""Which labels the images of a pseudo data set get: uniform over the source's classes, or pseudo conditional sampling (PCS).

PCS (Yamaguchi et al. 2022, arXiv 2204.12833): a target image goes through the source classifier, and what the classifier says of it is
the label of one pseudo image. Each choice is a function of the set's seed and the image's position alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from tutelage.errors import UserError, choices
from tutelage.generators.protocol import image_seeds

LABELLINGS = ("uniform", "soft", "sampled", "argmax")
_LABEL_STREAM = 0x5EED  # keeps a label's draw apart from its image's noise


class Conditioning:
    """Labels of pseudo images by position.

    labelling: "uniform": classes in turn, so that each is as frequent (PP, and the control of PCS). With `predictions`: "soft": the
    classifier's probabilities of a target image. "sampled": a class drawn from them. "argmax": the most probable class.
    predictions: (targets, classes) probabilities of the target images; position k takes target k modulo their number.
    Raises UserError for an unknown labelling, or where predictions are missing.
    """

    def __init__(self, labelling: str, *, classes: int, seed: int, predictions: Tensor | None = None) -> None:
        check_labelling(labelling)
        if labelling != "uniform":
            if predictions is None or predictions.ndim != 2 or len(predictions) == 0:
                raise UserError(
                    f"labelling={labelling} conditions on target images: it needs a source classifier and target data. "
                    "Without them choose labelling=uniform"
                )
            if predictions.shape[1] != classes:
                raise UserError(
                    f"the source classifier knows {predictions.shape[1]} classes, the generator {classes}: "
                    "both must come from the same source"
                )
        self.labelling, self.classes, self.seed = labelling, classes, seed
        self.predictions = None if predictions is None else predictions.detach().float().cpu()

    def labels(self, start: int, stop: int) -> Tensor:
        """Return the labels of positions [start, stop): soft (n, classes), or hard (n,) int64."""
        position = torch.arange(start, stop)
        if self.labelling == "uniform" or self.predictions is None:
            return position % self.classes
        soft = self.predictions[position % len(self.predictions)]
        if self.labelling == "soft":
            return soft
        if self.labelling == "argmax":
            return soft.argmax(dim=1)
        seeds = image_seeds(self.seed ^ _LABEL_STREAM, np.arange(start, stop)).astype(np.float64)
        draws = np.minimum(seeds / 2**63, np.nextafter(1.0, 0.0))  # the largest seeds round to 2^63
        below = soft.double().cumsum(dim=1) <= torch.from_numpy(draws)[:, None] * soft.double().sum(
            dim=1, keepdim=True
        )
        return below.sum(dim=1).clamp(max=self.classes - 1)


def check_labelling(labelling: str) -> str:
    """Return the labelling. Raises UserError for one that does not exist."""
    if labelling not in LABELLINGS:
        raise UserError(f"labelling={labelling!r} is not known; {choices(labelling, LABELLINGS)}")
    return labelling


def _chunks(batches: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    held: list[Tensor] = []
    for batch in batches:
        held.append(batch)
        while sum(map(len, held)) >= size:
            images = torch.cat(held) if len(held) > 1 else held[0]
            yield images[:size]
            held = [images[size:]]
    if any(map(len, held)):
        yield torch.cat(held)


@torch.inference_mode()
def predict(classifier: nn.Module, batches: Iterable[Tensor], *, chunk: int = 64) -> Tensor:
    """Return a classifier's probabilities of images, (n, classes) on the CPU.

    batches: images (b, C, H, W) as the classifier takes them. They are cut anew into chunks of `chunk` (the last one filled up by its
    last image), so that how they were loaded cannot change a bit.
    """
    outputs = []
    for part in _chunks(batches, chunk):
        missing = chunk - len(part)
        filled = torch.cat([part, part[-1:].expand(missing, *part.shape[1:])]) if missing else part
        outputs.append(classifier(filled)[: len(part)].float().softmax(dim=1).cpu())
    return torch.cat(outputs).clone()
