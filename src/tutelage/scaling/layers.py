"""A layer in the scale analysis: how many units pay for a pattern, which feature norms enter and leave.

Everything here counts scales only: constants are dropped and sums of scales are kept as sums. The *norm* of
a feature in a kernel is its squared RKHS norm, the inverse of its eigenvalue: 1 for a feature that fills
the kernel, d for one of d equal directions. `a_y = <y, K^-1, y>` of the paper (Rubin, Davidovich, Ringel,
arXiv 2512.04165) is the norm of the target.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import sympy

from tutelage.errors import UserError, choices

Scale = sympy.Expr

_ACTIVATION_POWERS = {
    "linear": "only the first power",
    "erf": "odd powers (an odd function without biases)",
    "relu": "the first and the even powers (x/2 + |x|/2)",
    "generic": "every power (any function of no parity)",
}
ACTIVATIONS = tuple(_ACTIVATION_POWERS)


def has_power(activation: str, power: int) -> bool:
    """Whether the activation's Hermite expansion has a term of this power, so that a layer can make it.

    Raises:
        UserError: for an activation that is not one of `ACTIVATIONS`.
    """
    if activation not in _ACTIVATION_POWERS:
        raise UserError(f"unknown activation '{activation}'; {choices(activation, ACTIVATIONS)}")
    if power == 1 or activation == "generic":
        return True
    return {"linear": False, "erf": power % 2 == 1, "relu": power % 2 == 0}[activation]


def scale(value: str | int | Scale) -> Scale:
    """A positive sympy symbol for a name, or the number itself (a number is order one: it has exponent 0)."""
    if isinstance(value, str):
        if not value.isidentifier():
            raise UserError(f"a scale is a name such as 'N1' or a positive whole number, got '{value}'")
        return sympy.Symbol(value, positive=True)
    expression = sympy.sympify(value)
    if expression.is_number and not expression.is_positive:
        raise UserError(f"a scale must be positive, got {value}")
    return expression


@dataclass(frozen=True)
class Features:
    """Norms of the hidden feature's powers, as one layer hands them to the next.

    `norms[k]` belongs to He_k of the hidden feature z (unit variance); a power that is not listed is
    absent. `composable` says that z itself is a scalar the next layer may raise to powers. It is False
    after a convolution or an attention head: there z differs per patch or token, and a power of the sum is
    not the sum of the powers.
    """

    norms: Mapping[int, Scale]
    composable: bool = True


@dataclass(frozen=True)
class Layer(ABC):
    """Base of the layers: `units` symbol or number, and what the patterns see on the way in and out."""

    @property
    @abstractmethod
    def units(self) -> Scale:
        """The independent copies (neurons, channels, heads) over which a pattern's cost is summed."""

    @property
    def first_only(self) -> bool:
        """Whether the layer makes sense only on the raw inputs."""
        return False

    def incoming(self, features: Features) -> Features:
        """The features of which the layer's units choose linear combinations."""
        return features

    def outgoing(self, features: Features, degree: int) -> Features:
        """The features as the next layer (or the readout) sees them."""
        return features

    def activation(self, name: str) -> str:
        """The activation whose powers count here."""
        return name


@dataclass(frozen=True)
class Dense(Layer):
    """A fully connected layer of `width` neurons, weights of variance 1 / inputs."""

    width: str | int

    @property
    def units(self) -> Scale:
        """Its neurons."""
        return scale(self.width)


@dataclass(frozen=True)
class Convolution(Layer):
    """Filters on non-overlapping patches, d = patch_dim * patches.

    Target: the sum over patches i of s_i He_m(w*.x_i) / sqrt(patches), with one hidden filter w*.

    Derivation (our reading; the stated rules fix the first layer, the count of patches is ordinary kernel
    algebra). A filter sees one patch, so the hidden feature enters with norm `patch_dim` instead of d, and
    a pattern is paid once per channel. What follows reads every (patch, channel) with its own weight of
    variance 1 / (patches * channels): the kernel is the *mean* over patches of patch kernels, K =
    (1/patches) sum_i k(x_i, x'_i), and patches are independent, so each eigenvalue is that of k over
    `patches` and every norm is multiplied by `patches`. Specialisation: M patch_dim + patches channels / M,
    hence sqrt(channels d), and for GFL with a linear target the same. With channels, patches and patch_dim
    all of order sqrt(d), this is the d^(3/4) of the paper.
    """

    channels: str | int
    patch_dim: str | int
    patches: str | int

    @property
    def units(self) -> Scale:
        """Its channels."""
        return scale(self.channels)

    @property
    def first_only(self) -> bool:
        """Patches are cut from raw inputs."""
        return True

    def incoming(self, features: Features) -> Features:
        """One patch: the hidden direction is one of `patch_dim`."""
        return Features({1: scale(self.patch_dim)})

    def outgoing(self, features: Features, degree: int) -> Features:
        """The mean over patches: every norm times the number of patches."""
        norms = {power: norm * scale(self.patches) for power, norm in features.norms.items()}
        return Features(norms, composable=False)


@dataclass(frozen=True)
class Attention(Layer):
    """Softmax attention of one query token over `context` tokens, all of d inputs.

    f(X) = sum_h sum_b (softmax_b(x_0' A_h x_b) - 1/L) v_h.x_b / sqrt(heads).

    Target of degree 2p + 1: sum_b (q.x_0 k.x_b)^p v.x_b / sqrt(context); p = 1 is the cubic target.

    Derivation (our reading: the paper's architecture is not known to us beyond "softmax attention head,
    cubic target, context L"). The logit x_0' A x_b is of order one for weights of variance 1/d^2, so the
    hidden logit (q.x_0)(k.x_b) is one of d^2 directions of A: it enters with norm d^2, and the patterns act
    on it, once per head. Expanding the softmax, weight b is (1/L)(1 + u_b - mean u + ...): the term of
    power p of the head is (1/L) sum_b u_b^p v.x_b, while the normalised target is (1/sqrt L) sum_b ...;
    their overlap is (1/sqrt L) A_qk^p v_v, of variance (1/L) (1/d) (1/d^2)^p. So the norm handed on is L d
    times that of the logit's power: L d^3 for a lazy head and the cubic target, L d^3 / D when the logit's
    variance is amplified by D at cost D per head, and the cheapest D gives sqrt(L d^3) for one head, D
    staying below the saturation d^2 as long as L < d.
    """

    context: str | int
    heads: str | int = 1
    inputs: str | int = field(default="d")

    @property
    def units(self) -> Scale:
        """Its heads."""
        return scale(self.heads)

    @property
    def first_only(self) -> bool:
        """Tokens are raw inputs."""
        return True

    def incoming(self, features: Features) -> Features:
        """The hidden logit: one of d^2 directions."""
        return Features({1: scale(self.inputs) ** 2})

    def outgoing(self, features: Features, degree: int) -> Features:
        """Power p of the logit times a value direction, averaged over the context."""
        rest = scale(self.context) * scale(self.inputs)
        norms = {2 * power + 1: norm * rest for power, norm in features.norms.items()}
        return Features(norms, composable=False)

    def activation(self, name: str) -> str:
        """The softmax has every power."""
        return "generic"


def check_stack(layers: Sequence[Layer]) -> None:
    """Refuse an empty stack and layers that need raw inputs but do not get them.

    Raises:
        UserError: naming the layer and its place.
    """
    if not layers:
        raise UserError(
            "a network needs at least one hidden layer, e.g. layers=[Dense('N')]; the readout is implied"
        )
    for place, layer in enumerate(layers, start=1):
        if layer.first_only and place > 1:
            raise UserError(
                f"{type(layer).__name__} is layer {place}, but it reads raw inputs: it can only be layer 1"
            )
