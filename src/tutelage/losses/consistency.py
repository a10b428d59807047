"""Consistency losses on unlabelled samples: how an output should agree with a target made from another view or network.

Each takes `target` and `output`, logits (n, classes) of the same samples. No gradient flows into `target`. Samples below a confidence
threshold cost nothing but are counted in the mean: all divide by the whole unlabelled batch.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from tutelage.errors import UserError
from tutelage.losses.precision import in_single


@in_single
def uda(target: Tensor, output: Tensor, *, temperature: float = 0.4, threshold: float = 0.8) -> Tensor:
    """KL of the sharpened prediction on the clean view from the prediction on the strong view, where the clean one is confident.

    target: of the clean view, sharpened by softmax(target / temperature); its confidence is taken before sharpening. output: of the
    strong view, not sharpened. Source: Xie et al. 2019, arXiv 1904.12848, section 2 and appendix on training techniques.
    """
    target = _checked(target, output)
    log_p = F.log_softmax(target / temperature, dim=1)
    divergence = (log_p.exp() * (log_p - F.log_softmax(output, dim=1))).sum(dim=1)
    return (divergence * _confident(target, threshold)).mean()


@in_single
def fixmatch(target: Tensor, output: Tensor, *, threshold: float = 0.95) -> Tensor:
    """Cross-entropy of the strong view's output against the weak view's most probable class, where that one is confident.

    target: of the weak view. Source: Sohn et al. 2020, arXiv 2001.07685, eq. 4.
    """
    return weighted(target, output, _confident(target.detach(), threshold))


@in_single
def weighted(target: Tensor, output: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy of an output against the most probable class of a target, each sample times its weight (n,)."""
    target = _checked(target, output)
    cross_entropy = F.cross_entropy(output, target.argmax(dim=1), reduction="none")
    return (cross_entropy * weights).mean()


@in_single
def pseudo_label(target: Tensor, output: Tensor, *, threshold: float = 0.95) -> Tensor:
    """Cross-entropy of an output against the most probable class of the same view.

    target: the output itself, which its own gradient does not reach. Source: Lee 2013 (ICML workshop); the threshold, which that
    paper lacks, is today's custom (USB, arXiv 2208.07204). 0 switches it off.
    """
    return fixmatch(target, output, threshold=threshold)


@in_single
def mean_teacher(target: Tensor, output: Tensor) -> Tensor:
    """Mean squared difference of the predicted probabilities, over samples and classes.

    target: of the averaged network. Source: Tarvainen and Valpola 2017, arXiv 1703.01780, whose released code also takes the mean over
    classes.
    """
    target = _checked(target, output)
    return F.mse_loss(output.softmax(dim=1), target.softmax(dim=1))


def _checked(target: Tensor, output: Tensor) -> Tensor:
    if target.shape != output.shape or target.ndim != 2:
        raise UserError(
            f"a consistency loss compares logits (n, classes) of the same samples, got {tuple(target.shape)} and {tuple(output.shape)}"
        )
    return target.detach()


def _confident(target: Tensor, threshold: float) -> Tensor:
    return (target.softmax(dim=1).amax(dim=1) >= threshold).to(target.dtype)
