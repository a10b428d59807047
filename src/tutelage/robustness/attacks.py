"""Gradient attacks on a classifier of images: FGSM, PGD and APGD; pixels lie in [0, 1], and so does what an attack returns.

A classifier is a function from pixels (n, channels, height, width) to logits (n, classes) that treats every image alone. `epsilon` is the
largest change: of any pixel ("linf"), or the Euclidean length of the change of an image ("l2").
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.errors import UserError, choices
from tutelage.robustness.draws import Draws

Classifier = Callable[[Tensor], Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]
"""From logits (n, classes) and classes (n,) to what an attack raises, (n,)."""

NORMS = ("linf", "l2")


def check(norm: str, epsilon: float) -> None:
    """Raise UserError for a norm that there is not, or an epsilon that is no size."""
    if norm not in NORMS:
        raise UserError(f"`norm`={norm!r} is not known; {choices(norm, NORMS)}")
    if not epsilon >= 0:
        raise UserError(f"`epsilon` must be at least 0, in pixels from 0 to 1, got {epsilon}")


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy (n,) in nats."""
    return F.cross_entropy(logits, targets, reduction="none")


def margin(logits: Tensor, targets: Tensor) -> Tensor:
    """Return by how much the class's logit is above the best other (n,): below 0 the answer is wrong."""
    own = logits.gather(1, targets[:, None])[:, 0]
    others = logits.scatter(1, targets[:, None], -torch.inf)
    return own - others.amax(dim=1)


def dlr(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the difference of logits ratio (Croce and Hein 2020, arXiv 2003.01690, equation 6), which no scale of the logits changes.

    It needs three classes; of two, it is minus the margin.
    """
    if logits.shape[1] < 3:
        return -margin(logits, targets)
    ordered = logits.sort(dim=1).values
    return -margin(logits, targets) / (ordered[:, -1] - ordered[:, -3] + 1e-12)


def targeted_dlr(wanted: Tensor) -> Loss:
    """Return the targeted loss of the same paper, equation 7, towards classes (n,); of fewer than four classes, without its divisor."""

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        own, other = (logits.gather(1, classes[:, None])[:, 0] for classes in (targets, wanted))
        if logits.shape[1] < 4:
            return other - own
        ordered = logits.sort(dim=1).values
        return (other - own) / (ordered[:, -1] - 0.5 * (ordered[:, -3] + ordered[:, -4]) + 1e-12)

    return loss


def projected(changed: Tensor, pixels: Tensor, epsilon: float, norm: str) -> Tensor:
    """Return the images next to `changed` that lie within epsilon of `pixels` and in [0, 1]."""
    if norm == "linf":
        return torch.minimum(torch.maximum(changed, pixels - epsilon), pixels + epsilon).clamp(0, 1)
    change = changed - pixels
    # what the box cuts off brings an image nearer to its original in every pixel
    return (pixels + change * (epsilon / lengths(change).clamp(min=1e-12)).clamp(max=1)).clamp(0, 1)


def lengths(change: Tensor) -> Tensor:
    """Return the Euclidean length of each image's change, (n, 1, 1, 1)."""
    return torch.linalg.vector_norm(change.flatten(1), dim=1).view(-1, 1, 1, 1)


def direction(gradient: Tensor, norm: str) -> Tensor:
    """Return the steepest step of length 1 in the norm, (n, ...); 0 where there is no gradient."""
    return gradient.sign() if norm == "linf" else gradient / lengths(gradient).clamp(min=1e-12)


def random_start(pixels: Tensor, epsilon: float, norm: str, draws: Draws) -> Tensor:
    """Return images drawn uniformly from what lies within epsilon of `pixels`, cut to [0, 1]."""
    shape = pixels.shape[1:]
    if norm == "linf":
        return (pixels + epsilon * (2 * draws.uniform(*shape, name="start") - 1)).clamp(0, 1)
    ways = direction(draws.normal(*shape, name="start"), "l2")
    radius = draws.uniform(1, 1, 1, name="radius") ** (1 / shape.numel())
    return (pixels + epsilon * radius * ways).clamp(0, 1)


def raised(
    classifier: Classifier, images: Tensor, targets: Tensor, loss: Loss
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss (n,), its gradient in the images, and whether the answers are right (n,)."""
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        logits = classifier(images)
        values = loss(logits, targets)
        (gradient,) = torch.autograd.grad(values.sum(), images)
    right = (
        logits.detach().argmax(1) == targets
        if targets.ndim == 1
        else torch.ones_like(values, dtype=torch.bool)
    )
    return values.detach(), gradient, right


def fgsm(
    classifier: Classifier, pixels: Tensor, targets: Tensor, *, epsilon: float, norm: str = "linf"
) -> Tensor:
    """Return the images one whole step along the gradient (Goodfellow et al. 2015, arXiv 1412.6572)."""
    return pgd(classifier, pixels, targets, epsilon=epsilon, norm=norm, steps=1, step=epsilon)


def pgd(
    classifier: Classifier,
    pixels: Tensor,
    targets: Tensor,
    *,
    epsilon: float,
    norm: str = "linf",
    steps: int,
    step: float | None = None,
    start: Tensor | None = None,
    loss: Loss = cross_entropy,
) -> Tensor:
    """Return the images after projected gradient ascent (Madry et al. 2018, arXiv 1706.06083).

    step: the length of a step; None: 2.5 epsilon / steps, with which any point is reached from any other. start: images to begin at;
    None: the originals. `steps` forward and backward passes.
    """
    check(norm, epsilon)
    images = pixels if start is None else start
    length = 2.5 * epsilon / steps if step is None else step
    for _ in range(steps):
        _, gradient, _ = raised(classifier, images, targets, loss)
        images = projected(images + length * direction(gradient, norm), pixels, epsilon, norm)
    return images.detach()


def apgd(
    classifier: Classifier,
    pixels: Tensor,
    targets: Tensor,
    *,
    epsilon: float,
    norm: str = "linf",
    steps: int = 100,
    start: Tensor | None = None,
    loss: Loss = cross_entropy,
) -> Tensor:
    """Return the worst images that ascent with momentum and halving steps finds (Croce and Hein 2020, arXiv 2003.01690, algorithm 1).

    An image that is answered wrongly, or else that of the highest loss. The first step is 2 epsilon long; at checkpoints that get closer
    from 0.22 to 0.06 of `steps`, where the loss rose in at most three of four steps or not at all, it is halved, and the best image
    so far is gone back to. start: images to begin at; None: the originals. `steps` + 1 forward and backward passes.
    """
    check(norm, epsilon)
    images = pixels if start is None else start
    values, gradient, right = raised(classifier, images, targets, loss)
    found = images.clone()
    best, best_values, best_gradient = images.clone(), values.clone(), gradient.clone()
    length = pixels.new_full((len(pixels), 1, 1, 1), 2 * epsilon)
    before, at_check = images, best_values.clone()
    halved = torch.ones_like(right)
    period, shortest, shrinks = (max(int(share * steps), 1) for share in (0.22, 0.06, 0.03))
    rises, since = torch.zeros_like(values), 0
    for number in range(steps):
        towards = projected(images + length * direction(gradient, norm), pixels, epsilon, norm)
        momentum = 0.75 if number else 1.0
        moved = images + momentum * (towards - images) + (1 - momentum) * (images - before)
        before, images = images, projected(moved, pixels, epsilon, norm)
        last = values
        values, gradient, now_right = raised(classifier, images, targets, loss)
        wrong = _wide(~now_right)
        found, right = torch.where(wrong, images, found), right & now_right
        better = values > best_values
        best = torch.where(_wide(better), images, best)
        best_gradient = torch.where(_wide(better), gradient, best_gradient)
        best_values = torch.where(better, values, best_values)
        rises, since = rises + (values > last), since + 1
        if since == period:
            halved = (rises <= 0.75 * period) | (~halved & (at_check >= best_values))
            at_check = best_values.clone()
            length = torch.where(_wide(halved), length / 2, length)
            images = torch.where(_wide(halved), best, images)
            gradient = torch.where(_wide(halved), best_gradient, gradient)
            period, rises, since = max(period - shrinks, shortest), torch.zeros_like(values), 0
    return torch.where(_wide(right), best, found).detach()


def _wide(rows: Tensor) -> Tensor:
    return rows.view(-1, 1, 1, 1)
