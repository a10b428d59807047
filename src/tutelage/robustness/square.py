"""The Square attack: random search that sees outputs alone, against what only hides its gradient."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tutelage.robustness.attacks import Classifier, check, lengths, margin, projected
from tutelage.robustness.draws import Draws

_HALVED_AT = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries
SHARE = 0.8  # of the pixels, in the first square


@torch.no_grad()
def square(
    classifier: Classifier,
    pixels: Tensor,
    targets: Tensor,
    *,
    epsilon: float,
    norm: str = "linf",
    queries: int = 1000,
    draws: Draws,
) -> Tensor:
    """Return the images of the least margin that random squares find (Andriushchenko et al. 2020, arXiv 1912.00049).

    "linf": after stripes of plus or minus epsilon, a square of each image goes to one corner of what is allowed, and stays where that
    lowers the margin; its area falls from 0.8 of the image by the paper's schedule, stretched over the queries. "l2": our own simpler form:
    a square of one sign is added to the change, which is then brought back to the length epsilon; the paper moves its mass between windows.
    Every image has its own draws, so its result does not depend on the others. `queries` forward passes of what is still answered rightly.
    """
    check(norm, epsilon)
    channels, height, width = pixels.shape[1:]
    signs = (draws.uniform(channels, 1, width, name="stripes") < 0.5) * 2.0 - 1
    images = _reached(signs.expand_as(pixels) * epsilon, pixels, epsilon, norm)
    least = margin(classifier(images), targets)
    for query in range(1, queries):
        open_ = (least > 0).nonzero()[:, 0]
        if not len(open_):
            break
        ours, original, own = images[open_], pixels[open_], draws.rows(open_)
        side = _side(query, queries, height, width)
        tried = _with_square(ours - original, side, epsilon, norm, own, query)
        tried = _reached(tried, original, epsilon, norm)
        now = margin(classifier(tried), targets[open_])
        lower = now < least[open_]
        images[open_] = torch.where(lower.view(-1, 1, 1, 1), tried, ours)
        least[open_] = torch.where(lower, now, least[open_])
    return images


def _side(query: int, queries: int, height: int, width: int) -> int:
    place = query * 10_000 / queries
    share = SHARE / 2 ** sum(place > at for at in _HALVED_AT)
    return max(1, min(round(math.sqrt(share * height * width)), height, width))


def _with_square(change: Tensor, side: int, epsilon: float, norm: str, draws: Draws, query: int) -> Tensor:
    channels, height, width = change.shape[1:]
    drawn = draws.uniform(2 + channels, name=("square", query))
    inside = torch.ones(1, dtype=torch.bool, device=change.device)
    for axis, length in ((0, height), (1, width)):
        first = (drawn[:, axis] * (length - side + 1)).long()[:, None]
        place = torch.arange(length, device=change.device)
        here = (place >= first) & (place < first + side)
        inside = inside & (here[:, None, :, None] if axis == 0 else here[:, None, None, :])
    signs = ((drawn[:, 2:] < 0.5) * 2.0 - 1)[:, :, None, None] * epsilon
    if norm == "linf":
        return torch.where(inside, signs, change)
    return change + inside * signs / (side * math.sqrt(channels))


def _reached(change: Tensor, pixels: Tensor, epsilon: float, norm: str) -> Tensor:
    if norm == "l2":
        change = change * (epsilon / lengths(change).clamp(min=1e-12))
    return projected(pixels + change, pixels, epsilon, norm)
