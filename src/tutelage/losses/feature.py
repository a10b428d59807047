"""Losses between features of a student and of its teacher, on the same samples.

Features are (n, channels, height, width), (n, length, width) or (n, width). The relational ones compare the relations among the
samples of a batch, so they take features of any two shapes; `hint` and `cross_correlation` need equal ones, which a projector gives.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.errors import UserError
from tutelage.losses.precision import in_single

_ORDINARY = (1e-4, 1e4)
"""Magnitudes whose squares, and sums of products of squares, single precision holds: such features are taken as they are."""

_LEAST = 1e-7
"""Of what probabilities of neighbours are in proportion to: opposite features would have 0, of which there is no logarithm."""


@in_single
def hint(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of equally shaped features.

    Source: FitNets, Romero et al. 2014, arXiv 1412.6550, eq. 3; the mean over elements replaces half the sum, so that the weight does
    not depend on the layer's size. Raises UserError on unequal shapes.
    """
    _same_shape(student, teacher, "hint")
    return F.mse_loss(student, teacher)


@in_single
def attention_transfer(student: Tensor, teacher: Tensor, *, power: float = 2.0) -> Tensor:
    """Squared distance of the normalised attention maps, mean over samples.

    A map is the mean over channels of |feature|^power at each position, scaled to length 1; it has no channels, so their numbers may
    differ. Images of unequal size are averaged down to the smaller one. Invariant to the scale of either feature.
    Source: Zagoruyko and Komodakis 2016, arXiv 1612.03928, eq. 2, squared as in its code.
    Raises UserError for features without positions, or sequences of unequal length.
    """
    if student.ndim != teacher.ndim or student.ndim not in (3, 4):
        raise UserError(
            "attention transfer needs two images (n, channels, height, width) or two sequences (n, length, width), "
            f"got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    maps = [_attention(feature, power) for feature in (student, teacher)]
    if student.ndim == 4:
        size = (min(m.shape[1] for m in maps), min(m.shape[2] for m in maps))
        maps = [m if m.shape[1:] == size else F.adaptive_avg_pool2d(m, size) for m in maps]
    mine, theirs = (_unit(m.flatten(1)) for m in maps)
    _same_shape(mine, theirs, "attention transfer")
    return (mine - theirs).square().sum(dim=1).mean()


def _attention(feature: Tensor, power: float) -> Tensor:
    axis = 1 if feature.ndim == 4 else 2
    if feature.device.type == "cpu":
        # the map says of most features, at a channel's cost, that they are of ordinary size
        made = _powers(feature, power, axis)
        low, high = _ORDINARY
        if _all_within(made.detach().flatten(1).amax(dim=1), low**power, high**power / feature.shape[axis]):
            return made
    largest = feature.detach().abs().flatten(1).amax(dim=1)
    feature = _of_ordinary_size(feature, largest.view(-1, *[1] * (feature.ndim - 1)), *_ORDINARY)
    return _powers(feature, power, axis)


def _powers(feature: Tensor, power: float, axis: int) -> Tensor:
    # the gradient of these very words is a quarter of the work of that of square and mean, with the same bits
    powers = feature * feature if power == 2 else feature.abs().pow(power)
    return powers.sum(dim=axis) / feature.shape[axis]


@in_single
def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cosine of the features at each position, a mean over samples and positions.

    Invariant to the scale of either feature at each position; features of length 0 have cosine 0.
    Source: REPA, Yu et al. 2024, arXiv 2410.06940, eq. 8, plus 1. Raises UserError on unequal shapes.
    """
    _same_shape(student, teacher, "the cosine distance")
    mine, theirs = (x.movedim(1, -1) if x.ndim == 4 else x for x in (student, teacher))
    return 1 - (_unit(mine) * _unit(theirs)).sum(dim=-1).mean()


@in_single
def relational(student: Tensor, teacher: Tensor, *, distance: float = 1.0, angle: float = 2.0) -> Tensor:
    """Relational distillation: Huber losses on distances of pairs and angles of triplets, weighted.

    Distances are divided by their mean; an angle is the cosine at the middle one of three samples. Means run over ordered pairs and
    triplets of distinct samples, of which the batch must hold 3. Invariant to rotation, shift and scale of either feature.
    Cost: a product of n x n x d, then n^2 distances and n^3 angles, whatever d.
    Source: Park et al. 2019, arXiv 1904.05068, eq. 5-10, with its ratio 1 : 2 of the weights.
    """
    mine, theirs = (_products(x) for x in _rows(student, teacher, "relational distillation", at_least=3))
    n = len(mine)
    off_diagonal = ~torch.eye(n, dtype=torch.bool, device=mine.device)
    total = mine.new_zeros(())
    if distance:
        apart, theirs_apart = (
            (d := _distances(x)[off_diagonal]) / torch.where((mean := d.mean()) > 0, mean, 1.0)
            for x in (mine, theirs)
        )
        total = total + distance * F.smooth_l1_loss(apart, theirs_apart)
    if angle:
        # Those with j in {i, k} are 0 on both sides.
        gap = F.smooth_l1_loss(_angles(mine), _angles(theirs), reduction="none")
        total = total + angle * (gap * off_diagonal).sum() / (n * (n - 1) * (n - 2))
    return total.to(student.dtype)


def _products(x: Tensor) -> Tensor:
    """Inner products (n, n) of centred rows (n, d), in double precision where there is any: differences of them are to be taken."""
    x = (x - x.mean(dim=0)).to(torch.float32 if x.device.type == "mps" else torch.float64)
    return x @ x.T


def _distances(products: Tensor) -> Tensor:
    """Distances (n, n) from inner products; of samples that differ by no more than rounding 0, without the gradient of its root."""
    lengths = products.diagonal()
    both = lengths[:, None] + lengths
    squares = both - 2 * products
    apart = ~(squares <= 64 * torch.finfo(products.dtype).eps * both)  # what is NaN stays it
    return torch.where(apart, squares.where(apart, 1.0).sqrt(), 0.0)


def _angles(products: Tensor) -> Tensor:
    """Cosines (n, n, n) at sample j, the first axis, between i and k; 0 where j is no other place than i or k."""
    apart = _distances(products)
    inner = products[None] - products[:, :, None] - products[:, None, :] + products.diagonal()[:, None, None]
    norms = apart[:, :, None] * apart[:, None, :]
    return torch.where(norms != 0, inner / norms.where(norms != 0, 1.0), 0.0)


@in_single
def similarity_preserving(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of the row-normalised Gram matrices, divided by n^2.

    Invariant to rotation and scale of either feature. Source: Tung and Mori 2019, arXiv 1907.09682, eq. 1-4.
    """
    features = _rows(student, teacher, "similarity preserving", at_least=2)
    mine, theirs = (_unit(_scalar_products(x)) for x in features)
    return (mine - theirs).square().mean()


def _scalar_products(x: Tensor) -> Tensor:
    """Products (n, n) of rows (n, d), of rows divided by their largest magnitude where that is far from ordinary."""
    if x.device.type == "cpu":
        products, (low, high) = x @ x.T, _ORDINARY
        if low**2 * x.shape[1] <= float(products.detach().diagonal().amax()) <= high**2:
            return products
    x = _of_ordinary_size(x, x.detach().abs().amax(), *_ORDINARY)
    return x @ x.T


@in_single
def probabilistic_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """PKT: KL of the teacher's from the student's distribution over a sample's neighbours, mean over samples.

    The probability of neighbour j of i is (cos + 1) / 2 of their features, normalised over j != i. Invariant to rotation and scale.
    Source: Passalis and Tefas 2018, arXiv 1803.10837, eq. 4-8; the released code takes the mean over pairs, n times smaller.
    """
    rows = _rows(student, teacher, "probabilistic transfer", at_least=3)
    mine, theirs = (_neighbours(x) for x in rows)
    return F.kl_div(mine, theirs, reduction="batchmean", log_target=True)


def _neighbours(x: Tensor) -> Tensor:
    x, n = _unit(x), len(x)
    square = torch.addmm(x.new_full((), 0.5), x, x.T, alpha=0.5)
    # its memory after the first value is n - 1 times n others and a value of the diagonal
    kernel = square.as_strided((n - 1, n), (n + 1, 1), 1).reshape(n, n - 1)
    if kernel.device.type != "cpu" or not _all_within(
        kernel, _LEAST, math.inf
    ):  # a bound costs a fifth of all
        kernel = kernel.clamp_min(_LEAST)
    return kernel.log() - kernel.sum(dim=1, keepdim=True).log()


@in_single
def cross_correlation(student: Tensor, teacher: Tensor, *, redundancy: float = 0.01) -> Tensor:
    """Drive the cross-correlation of student and teacher features to the identity (redundancy suppression).

    Features (n, ..., d) are standardised per dimension over the samples (maps are first averaged over positions), C = S^T T / n;
    the loss is the mean over d of (1 - C_ii)^2 + redundancy * sum_j (C_ij)^2. Not zero at equality unless the teacher's dimensions
    are uncorrelated. Source: Zhang et al. 2025 (RSD), arXiv 2507.21844, kappa = 0.01; the mean over d replaces the sum.
    Raises UserError on unequal widths.
    """
    mine, theirs = (_pooled(x) for x in (student, teacher))
    _same_shape(mine, theirs, "cross-correlation")
    mine, theirs = (_standardised(x) for x in (mine, theirs))
    correlation = mine.T @ theirs / len(mine)
    diagonal = correlation.diagonal()
    others = correlation.square().sum() - diagonal.square().sum()
    return ((1 - diagonal).square().sum() + redundancy * others) / len(diagonal)


def _pooled(x: Tensor) -> Tensor:
    return x.mean(dim=(2, 3)) if x.ndim == 4 else x.mean(dim=1) if x.ndim == 3 else x


def _standardised(x: Tensor) -> Tensor:
    x = x - x.mean(dim=0)
    return x / (x.square().mean(dim=0) + 1e-5).sqrt()  # batch norm's constant


def _unit(x: Tensor) -> Tensor:
    # Equal samples and dead units give zero vectors: they stay zero, and without the gradient of 1 / 0.
    low, high = _ORDINARY
    if x.device.type == "cpu":
        length = x.norm(dim=-1, keepdim=True)
        if _all_within(length, low**3 * x.shape[-1] ** 0.5, high**3):
            return x / length
    x = _of_ordinary_size(x, x.detach().abs().amax(dim=-1, keepdim=True), low**3, high**3)
    length = x.norm(dim=-1, keepdim=True)
    return torch.where(length == 0, 0.0, x / torch.where(length == 0, 1.0, length))


def _all_within(values: Tensor, low: float, high: float) -> bool:
    """Return whether all values are from low to high; NaN is not."""
    if not values.numel():
        return True
    least, most = values.detach().aminmax()
    return low <= float(least) and float(most) <= high


def _of_ordinary_size(x: Tensor, largest: Tensor, low: float, high: float) -> Tensor:
    """Return x, divided by its largest magnitudes where these are beyond low and high: what is scaled to length 1 later loses no digit."""
    is_odd = largest.isfinite() & (largest > 0) & ((largest < low) | (largest > high))
    if x.device.type == "cpu" and not bool(
        is_odd.any()
    ):  # where a look costs nothing: no step of the gradient's sum is added
        return x
    return x / torch.where(is_odd, largest.clamp_min(1e-37), 1.0)


def _rows(student: Tensor, teacher: Tensor, name: str, *, at_least: int) -> tuple[Tensor, Tensor]:
    if len(student) != len(teacher) or len(student) < at_least:
        raise UserError(
            f"{name} compares the samples of one batch, at least {at_least}; got {len(student)} and {len(teacher)}"
        )
    return student.flatten(1), teacher.flatten(1)


def _same_shape(student: Tensor, teacher: Tensor, name: str) -> None:
    if student.shape != teacher.shape:
        raise UserError(
            f"{name} needs features of one shape, got {tuple(student.shape)} and {tuple(teacher.shape)}: "
            "use a projector, or a loss on relations (relational, similarity, pkt)"
        )
