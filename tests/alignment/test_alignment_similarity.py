"""Similarities against slow, obvious references in float64, their invariances, gradients and edge cases."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from named_similarities import SIMILARITIES
from tutelage.alignment.comparisons import Centred, procrustes
from tutelage.alignment.products import gram
from tutelage.alignment.ridge import projection
from tutelage.alignment.similarity import (
    CKA,
    Gram,
    GramSimilarity,
    Procrustes,
    Ridge,
    TokenCKA,
    cka,
    ridge,
    rsa,
)
from tutelage.errors import UserError


def reference_cka(x: Tensor, y: Tensor) -> Tensor:
    """The paper's formula, in float64: tr(HKH HLH) over the root of both sides' own."""
    x, y = x.double(), y.double()
    h = torch.eye(len(x), dtype=torch.float64) - 1 / len(x)
    k, l = h @ (x @ x.T) @ h, h @ (y @ y.T) @ h  # noqa: E741
    return torch.trace(k @ l) / torch.sqrt(torch.trace(k @ k) * torch.trace(l @ l))


def looped_hsic1(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741
    """HSIC_1 as the U-statistic it is: means over tuples of distinct indices (Song et al. 2012, eq. 4 and 5)."""
    n = len(k)
    two = [k[i, j] * l[i, j] for i, j in itertools.permutations(range(n), 2)]
    four = [k[i, j] * l[q, r] for i, j, q, r in itertools.permutations(range(n), 4)]
    three = [k[i, j] * l[i, q] for i, j, q in itertools.permutations(range(n), 3)]
    return float(np.mean(two) + np.mean(four) - 2 * np.mean(three))


def looped_unbiased_cka(x: np.ndarray, y: np.ndarray) -> float:
    k, l = x @ x.T, y @ y.T  # noqa: E741
    return looped_hsic1(k, l) / np.sqrt(looped_hsic1(k, k) * looped_hsic1(l, l))


def reference_rsa(x: Tensor, y: Tensor) -> Tensor:
    def dissimilarities(z: Tensor) -> Tensor:
        z = z.double()
        z = z / z.norm(dim=1, keepdim=True)
        i, j = np.triu_indices(len(z), 1)
        return 1 - (z[i] * z[j]).sum(1)

    return torch.corrcoef(torch.stack([dissimilarities(x), dissimilarities(y)]))[0, 1]


def reference_ridge(x: Tensor, y: Tensor, penalty: float) -> Tensor:
    def unit(z: Tensor) -> Tensor:
        z = z.double()
        fit = z[: len(z) // 2]
        z = z - fit.mean(0)
        return z / (fit - fit.mean(0)).square().mean().sqrt()

    x, y = unit(x), unit(y)
    half = len(x) // 2
    a, b = x[:half], y[:half]
    weights = torch.linalg.inv(a.T @ a + penalty * torch.eye(x.shape[1], dtype=torch.float64)) @ a.T @ b
    return torch.cosine_similarity(x[half:] @ weights, y[half:]).mean()


REFERENCES = {
    "cka": reference_cka,
    "rsa": reference_rsa,
    "ridge": lambda x, y: reference_ridge(x, y, 10.0),
}
FUNCTIONS = {
    "cka": cka,
    "token cka": TokenCKA(),
    "unbiased": lambda x, y: cka(x, y, unbiased=True),
    "token unbiased": TokenCKA(unbiased=True),
    "rsa": rsa,
    "ridge": ridge,
    "procrustes": Procrustes(),
    "gram": Gram(),
    "cka, bfloat16": CKA(precision="bfloat16"),
    "cka, blocks": CKA(block=6),
    "unbiased, blocks": CKA(unbiased=True, block=5),
}


def features(n: int, d: int, *, seed: int, mean: float = 0.0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    low = torch.randn(n, 5, generator=generator) @ torch.randn(5, d, generator=generator)
    return (low + torch.randn(n, d, generator=generator) + mean) * scale


def value_and_gradient(function, x: Tensor, *rest) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    value = function(x, *rest)
    value.backward()
    assert x.grad is not None
    return value.detach(), x.grad


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected.double()).norm() / expected.double().norm())


@pytest.fixture(params=["as on a CPU", "as on a GPU"])
def road(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both roads through the code: looking at values, or never waiting for a device (batched, always centred)."""
    if request.param == "as on a GPU":
        for module in ("gram", "products", "token_cka"):
            monkeypatch.setattr(f"tutelage.alignment.{module}.on_cpu", lambda _: False)


@pytest.mark.usefixtures("road")
@pytest.mark.parametrize("n, d, e", [(32, 700, 40), (64, 20, 9000), (150, 5000, 6), (96, 12, 24)])
@pytest.mark.parametrize("mean, scale", [(0, 1), (3, 1), (100, 1), (2000, 1e-3), (1, 1e-20), (5, 1e20)])
def test_biased_cka_agrees_with_float64_to_1e5(n: int, d: int, e: int, mean: float, scale: float) -> None:
    x, y = features(n, d, seed=1, mean=mean, scale=scale), features(n, e, seed=2, mean=-mean, scale=scale)
    y[:, 0] = x[:, 0]
    expected, slope = value_and_gradient(reference_cka, x.double() / scale, y.double() / scale)
    for measure in (GramSimilarity("cka"), TokenCKA(), cka):
        value, gradient = value_and_gradient(measure, x, y)
        assert abs(float(value - expected)) < 1e-5
        assert relative(gradient.double() * scale, slope) < 1e-5


@pytest.mark.usefixtures("road")
@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("n, d, e", [(32, 700, 40), (64, 20, 9000), (150, 5000, 6), (256, 4096, 4096)])
@pytest.mark.parametrize("mean, scale", [(0, 1), (30, 1), (2000, 1e-3), (1, 1e-20), (5, 1e20)])
def test_cka_from_bfloat16_is_near_float64(
    unbiased: bool, n: int, d: int, e: int, mean: float, scale: float
) -> None:
    x, y = features(n, d, seed=1, mean=mean, scale=scale), features(n, e, seed=2, mean=-mean, scale=scale)
    y[:, 0] = x[:, 0]
    exact = cka(x.double() / scale, y.double() / scale, unbiased=unbiased)
    _, slope = value_and_gradient(lambda z: cka(z, y.double() / scale, unbiased=unbiased), x.double() / scale)
    value, gradient = value_and_gradient(CKA(unbiased=unbiased, precision="bfloat16"), x, y)
    assert value.dtype is torch.float32
    assert abs(float(value - exact)) < 1e-3
    assert relative(gradient.double() * scale, slope) < 5e-3


def test_cka_from_bfloat16_differs_where_it_should_and_nowhere_else() -> None:
    wide, flat = features(256, 4096, seed=1).relu(), features(256, 9, seed=2)
    low = CKA(precision="bfloat16")
    assert low(wide, flat) != cka(wide, flat)
    assert torch.equal(CKA()(wide, flat), cka(wide, flat))
    with pytest.raises(
        UserError, match=r"CKA from bfloat16 .* is for samples: tokens .* choose the similarity cka"
    ):
        low.for_tokens()
    with pytest.raises(UserError, match=r"`precision`='half' is not known.*bfloat16, float32"):
        CKA(precision="half")  # type: ignore[arg-type]


def reference_in_blocks(x: Tensor, y: Tensor, size: int, hsic) -> Tensor:
    """Sums of HSIC over blocks, each by itself, in float64: one estimate for the numerator, two for the denominator."""
    n, count = len(x), max(1, len(x) // size)
    rows = n // count
    parts = [slice(i * rows, (i + 1) * rows) for i in range(count)]
    x, y = x.double(), y.double()
    cross, own, other = (
        sum(hsic(a[part] @ a[part].T, b[part] @ b[part].T) for part in parts)
        for a, b in ((x, y), (x, x), (y, y))
    )
    return cross / (own * other) ** 0.5


def biased_hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741
    h = torch.eye(len(k), dtype=torch.float64) - 1 / len(k)
    return torch.trace(h @ k @ h @ h @ l @ h)


@pytest.mark.usefixtures("road")
@pytest.mark.parametrize("n, size", [(24, 6), (26, 6), (23, 5), (160, 128), (9, 20), (300, 128)])
@pytest.mark.parametrize("d, e", [(700, 40), (12, 24), (4, 3)])
@pytest.mark.parametrize("mean, scale", [(0, 1), (30, 1), (2000, 1e-3), (1, 1e-20), (5, 1e20)])
def test_cka_in_blocks_sums_hsic_over_them(
    n: int, size: int, d: int, e: int, mean: float, scale: float
) -> None:
    x, y = features(n, d, seed=1, mean=mean, scale=scale), features(n, e, seed=2, mean=-mean, scale=scale)
    y[:, 0] = x[:, 0]
    expected, slope = value_and_gradient(
        lambda x, y: reference_in_blocks(x, y, size, biased_hsic), x.double() / scale, y.double() / scale
    )
    value, gradient = value_and_gradient(CKA(block=size), x, y)
    assert abs(float(value - expected)) < 1e-5
    assert relative(gradient.double() * scale, slope) < 1e-5
    low, rough = value_and_gradient(CKA(block=size, precision="bfloat16"), x, y)
    assert abs(float(low - expected)) < 2e-3
    assert relative(rough.double() * scale, slope) < 2e-2


@pytest.mark.usefixtures("road")
@pytest.mark.parametrize("n", [12, 14])
def test_unbiased_cka_in_blocks_equals_loops_over_index_tuples(n: int) -> None:
    x, y = features(n, 9, seed=1), features(n, 30, seed=2)
    y[:, :9] += x
    looped = reference_in_blocks(x, y, 6, lambda k, l: looped_hsic1(k.numpy(), l.numpy()))  # noqa: E741
    assert float(CKA(unbiased=True, block=6)(x, y)) == pytest.approx(float(looped), abs=1e-5)


def test_what_a_block_cannot_hold_is_left_out_and_one_block_is_the_whole() -> None:
    x, y = features(26, 9, seed=1), features(26, 30, seed=2)
    value, gradient = value_and_gradient(CKA(block=6), x, y)  # four of six, two left
    first, slope = value_and_gradient(CKA(block=6), x[:24], y[:24])
    assert value == first and torch.equal(gradient[:24], slope) and not gradient[24:].any()
    whole, block = (value_and_gradient(CKA(block=size), x, y) for size in (None, 14))
    assert whole[0] == block[0] and torch.equal(whole[1], block[1])


def test_blocks_have_samples_enough_and_are_not_for_tokens() -> None:
    for block in (2, 0, -4, 2.5, 16.0, "64", True):
        with pytest.raises(
            UserError, match=r"`block`=.* whole number of at least 3, the fewest samples that cka"
        ):
            CKA(block=block)
    with pytest.raises(
        UserError, match=r"at least 4, the fewest samples that unbiased_cka compares; null: all"
    ):
        CKA(unbiased=True, block=3)
    with pytest.raises(UserError, match=r"`block`=64 is for samples: tokens .* `tokens_per_step`"):
        CKA(block=64).for_tokens()


def test_unbiased_cka_equals_a_loop_over_index_tuples() -> None:
    x, y = features(6, 4, seed=1, mean=1), features(6, 3, seed=2)
    expected = looped_unbiased_cka(x.double().numpy(), y.double().numpy())
    assert float(cka(x, y, unbiased=True)) == pytest.approx(expected, abs=1e-5)
    assert float(TokenCKA(unbiased=True)(x.double(), y.double())) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("d, e", [(5, 4), (12, 4), (5, 14), (12, 14)])
def test_unbiased_gradient_agrees_between_both_forms_and_with_finite_differences(d: int, e: int) -> None:
    x, y = features(9, d, seed=1, mean=2).double(), features(9, e, seed=2).double()
    for measure in (GramSimilarity("unbiased_cka"), TokenCKA(unbiased=True)):
        torch.autograd.gradcheck(lambda z, measure=measure: measure(z, y), x.clone().requires_grad_())
    a = value_and_gradient(GramSimilarity("unbiased_cka"), x, y)
    b = value_and_gradient(TokenCKA(unbiased=True), x, y)
    torch.testing.assert_close(a, b)


@pytest.mark.usefixtures("road")
@pytest.mark.parametrize("name", ["rsa", "ridge"])
@pytest.mark.parametrize(
    "d, mean, scale", [(7, 0, 1), (300, 0, 1), (40, 20, 1), (40, 1, 1e-20), (40, 1, 1e19)]
)
def test_rsa_and_ridge_agree_with_float64(name: str, d: int, mean: float, scale: float) -> None:
    x, y = features(30, d, seed=3, mean=mean, scale=scale), features(30, 50, seed=4)
    y[:, :5] = x[:, :5] / scale
    expected, slope = value_and_gradient(REFERENCES[name], x.double() / scale, y)
    value, gradient = value_and_gradient(FUNCTIONS[name], x, y)
    assert float(value) == pytest.approx(float(expected), abs=1e-4)
    assert relative(gradient.double() * scale, slope) < (2e-3 if name == "ridge" else 1e-4)


def reference_procrustes(x: Tensor, y: Tensor) -> Tensor:
    """The largest trace of a rotated cross product over both norms, in float64; the best rotation is a constant to first order."""
    x, y = (z.double() - z.double().mean(0) for z in (x, y))
    u, _, v = torch.linalg.svd((x.T @ y).detach(), full_matrices=False)
    return torch.trace((u @ v).T @ x.T @ y) / (x.norm() * y.norm())


@pytest.mark.parametrize("n, d, e", [(30, 7, 5), (30, 50, 9), (30, 6, 80), (30, 90, 70), (64, 64, 64)])
@pytest.mark.parametrize("mean, scale", [(0, 1), (20, 1), (1, 1e-20), (1, 1e19)])
def test_procrustes_agrees_with_float64_and_with_the_measure_of_the_analysis(
    n: int, d: int, e: int, mean: float, scale: float
) -> None:
    x, y = features(n, d, seed=3, mean=mean, scale=scale), features(n, e, seed=4)
    y[:, :5] = x[:, :5] / scale
    expected, slope = value_and_gradient(reference_procrustes, x.double() / scale, y)
    value, gradient = value_and_gradient(Procrustes(), x, y)
    assert float(value) == pytest.approx(float(expected), abs=1e-5)
    assert relative(gradient.double() * scale, slope) < 1e-3
    layers = [Centred.of_features(z.double()) for z in (x / scale, y)]
    assert float(value) == pytest.approx(procrustes(*layers), abs=1e-5)


def reference_gram(x: Tensor, y: Tensor) -> Tensor:
    """1 less the distance of both matrices of scalar products, an entry at a time, in float64."""
    grams = []
    for z in (x.double(), y.double()):
        z = z - z.mean(0)
        k = torch.stack([torch.stack([(a * b).sum() for b in z]) for a in z])
        grams.append(k / k.square().sum().sqrt())
    return 1 - ((grams[0] - grams[1]).square().sum() / 2).sqrt()


@pytest.mark.parametrize("mean, scale", [(0, 1), (20, 1), (1, 1e-20), (1, 1e19)])
def test_the_gram_distance_agrees_with_float64_and_is_the_root_of_1_less_cka(
    mean: float, scale: float
) -> None:
    x, y = features(12, 7, seed=3, mean=mean, scale=scale), features(12, 30, seed=4)
    y[:, :5] = x[:, :5] / scale
    expected, slope = value_and_gradient(reference_gram, x.double() / scale, y)
    value, gradient = value_and_gradient(Gram(), x, y)
    assert float(value) == pytest.approx(float(expected), abs=1e-6)
    assert relative(gradient.double() * scale, slope) < 1e-4
    assert float(value) == pytest.approx(
        1 - (1 - float(reference_cka(x.double() / scale, y))) ** 0.5, abs=1e-6
    )


def test_the_slope_of_the_gram_distance_does_not_fade_near_the_guide() -> None:
    y = features(24, 9, seed=1).double()
    noise = features(24, 9, seed=2).double()
    slopes = {
        name: [float(value_and_gradient(FUNCTIONS[name], y + e * noise, y)[1].norm()) for e in (1e-1, 1e-3)]
        for name in ("gram", "cka")
    }
    assert slopes["gram"][1] > 0.5 * slopes["gram"][0]
    assert slopes["cka"][1] < 0.05 * slopes["cka"][0]


def test_cka_is_near_1_where_small_directions_differ_which_procrustes_sees() -> None:
    x = torch.randn(400, 20, generator=torch.Generator().manual_seed(0))
    y = torch.randn(400, 20, generator=torch.Generator().manual_seed(1))
    y[:, 0] = x[:, 0] = 8 * x[:, 0]
    assert float(cka(x, y)) > 0.98
    assert float(Procrustes()(x, y)) < 0.9


@pytest.mark.parametrize("name", ["cka", "unbiased_cka", "rsa", "procrustes", "gram"])
def test_gradients_pass_finite_differences(name: str) -> None:
    x, y = features(8, 5, seed=5).double().requires_grad_(), features(8, 6, seed=6).double()
    torch.autograd.gradcheck(lambda z: SIMILARITIES[name]()(z, y), x)


@pytest.mark.parametrize("name", FUNCTIONS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(1e-3, 1e3), d=st.integers(2, 24))
def test_invariance_range_and_symmetry(name: str, seed: int, scale: float, d: int) -> None:
    function, near = FUNCTIONS[name], 1e-3 if name == "cka, bfloat16" else 1e-4
    x, y = features(20, d, seed=seed), features(20, 9, seed=seed + 1)
    rotation = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(seed)))[0]
    value = float(function(x, y))
    assert -1 - 1e-5 <= value <= 1 + 1e-5
    assert float(function(x @ rotation * scale, y)) == pytest.approx(value, abs=near)
    assert float(function(x, y * scale)) == pytest.approx(value, abs=near)
    if name != "ridge":
        assert float(function(y, x)) == pytest.approx(value, abs=near)
        assert float(function(x, x @ rotation)) == pytest.approx(1, abs=near)
    if name not in ("rsa", "ridge"):
        assert float(function(x + 7.0, y)) == pytest.approx(value, abs=near)


def test_independent_features_saturate_the_biased_estimate_alone() -> None:
    x, y = (torch.randn(64, 4096, generator=torch.Generator().manual_seed(s)) for s in (1, 2))
    assert float(cka(x, y)) == pytest.approx(0.984, abs=0.003)
    assert abs(float(cka(x, y, unbiased=True))) < 0.06  # its standard deviation at n = 64 is near 0.03


@pytest.mark.usefixtures("road")
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("case", ["constant", "zero", "tiny", "huge", "mixed", "half", "one varying"])
def test_value_and_gradient_are_finite_at_the_edges(name: str, case: str) -> None:
    x, y = features(16, 12, seed=7), features(16, 9, seed=8)
    x = {
        "constant": torch.full_like(x, 0.1),
        "zero": torch.zeros_like(x),
        "tiny": x * 1e-38,
        "huge": x * 1e37,
        "mixed": x * torch.logspace(-30, 30, 12),
        "half": (x * 5e3).half(),
        "one varying": torch.full_like(x, 3.0).index_fill(0, torch.tensor([0]), 3.0001),
    }[case]
    for network, guide in ((x, y), (y, x)):
        value, gradient = value_and_gradient(FUNCTIONS[name], network, guide)
        assert value.isfinite()
        assert gradient.isfinite().all()
        if case in ("constant", "zero"):
            assert float(value) == 0
            assert not gradient.any()


@pytest.mark.usefixtures("road")
def test_noise_at_the_rounding_of_constant_features_gives_no_gradient() -> None:
    x = torch.full((16, 12), 5.0)
    x[::2] = torch.nextafter(x[::2], torch.tensor(10.0))
    value, gradient = value_and_gradient(cka, x, features(16, 9, seed=8))
    assert float(value) == 0
    assert not gradient.any()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_inside_autocast_everything_is_float32(name: str) -> None:
    x, y = features(16, 12, seed=7), features(16, 9, seed=8)
    plain = value_and_gradient(FUNCTIONS[name], x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = x.clone().requires_grad_()
        value = FUNCTIONS[name](z, y)
        low = FUNCTIONS[name](x.bfloat16(), y.bfloat16())
    value.backward()
    torch.testing.assert_close((value.detach(), z.grad), plain, rtol=0, atol=0)
    assert low.dtype == torch.float32
    assert float(low) == pytest.approx(float(plain[0]), abs=0.05)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_step_along_the_gradient_raises_the_score(name: str) -> None:
    x, y = features(24, 12, seed=9), features(24, 30, seed=10)
    value, gradient = value_and_gradient(FUNCTIONS[name], x, y)
    assert float(FUNCTIONS[name](x + 0.1 * gradient / gradient.norm(), y)) > float(value)


@pytest.mark.usefixtures("road")
@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("d, e", [(6, 7), (30, 7), (6, 31), (30, 31)])
def test_masked_rows_count_as_absent(unbiased: bool, d: int, e: int) -> None:
    x, y = features(20, d, seed=11, mean=2), features(20, e, seed=12)
    mask = torch.rand(20, generator=torch.Generator().manual_seed(0)) > 0.4
    measure = TokenCKA(unbiased=unbiased)
    expected, slope = value_and_gradient(measure, x[mask], y[mask])
    padded = x.clone()
    padded[~mask] = 1e6

    def masked(z: Tensor) -> Tensor:
        return measure.scores([z], [[measure.encode(y, mask)]], mask)[0]

    value, gradient = value_and_gradient(masked, padded)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient[mask], slope, rtol=1e-4, atol=1e-6)
    assert not gradient[~mask].any()


@pytest.mark.usefixtures("road")
def test_scores_of_many_pairs_equal_one_by_one_and_weigh_separately() -> None:
    layers = [features(24, d, seed=d) for d in (6, 6, 9, 30)]
    guides = [features(24, d, seed=s) for s, d in ((20, 11), (21, 11), (22, 11), (23, 40), (24, 50))]
    met = [
        [0, 3],
        [1],
        [2],
        [4, 0, 3],
    ]  # the last: wider than its samples, with guides that are and one that is not
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0, 2.0, 0.7])
    for measure in (
        GramSimilarity("cka"),
        GramSimilarity("rsa"),
        TokenCKA(),
        TokenCKA(unbiased=True),
        Ridge(),
        Procrustes(),
        Gram(),
    ):
        together = [x.clone().requires_grad_() for x in layers]
        encoded = [measure.encode(y) for y in guides]
        scores = measure.scores(together, [[encoded[g] for g in gs] for gs in met])
        (scores * weights).sum().backward()
        apart = [x.clone().requires_grad_() for x in layers]
        singles = torch.stack([measure(apart[t], guides[g]) for t, gs in enumerate(met) for g in gs])
        (singles * weights).sum().backward()
        torch.testing.assert_close(scores, singles)
        for a, b in zip(together, apart, strict=True):
            torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.usefixtures("road")
@pytest.mark.parametrize("n, d", [(128, 4096), (129, 8190), (200, 4099), (256, 16384)])
def test_the_blocked_gram_matrix_is_the_product_and_symmetric(n: int, d: int) -> None:
    x = features(n, d, seed=13)
    product = gram(x.unsqueeze(0))[0]
    assert relative(product, x.double() @ x.double().T) < 1e-6
    torch.testing.assert_close(product, product.T)


def test_too_few_samples_and_wrong_names_are_told() -> None:
    x = features(3, 4, seed=1)
    with pytest.raises(UserError, match=r"unbiased_cka.*at least 4.*got 3"):
        cka(x, x, unbiased=True)
    with pytest.raises(UserError, match=r"\(3, 4\) and \(2, 4\)"):
        cka(x, x[:2])
    with pytest.raises(UserError, match="penalty must be above 0"):
        Ridge(penalty=0)


def test_the_sparse_projection_keeps_lengths_and_is_seeded() -> None:
    matrix, back = projection(10_000, 500, seed=3, device=torch.device("cpu"))
    assert torch.equal(matrix.to_dense(), back.to_dense().T)
    assert matrix._nnz() == pytest.approx(500 * 100, rel=0.05)
    values = matrix.values().abs()
    assert torch.allclose(values, values[0])
    x = features(20, 10_000, seed=14)
    ratio = (matrix @ x.T).square().sum(0) / x.square().sum(1)
    assert float(ratio.mean()) == pytest.approx(1, abs=0.1)
    assert not torch.equal(
        matrix.to_dense(), projection(10_000, 500, seed=4, device=torch.device("cpu"))[0].to_dense()
    )


def test_ridge_differentiates_through_its_projection() -> None:
    x, y = features(16, 40, seed=15).double(), features(16, 8, seed=16).double()
    measure = Ridge(projection_size=10)
    torch.autograd.gradcheck(lambda z: measure(z, y), x.requires_grad_())


@pytest.mark.parametrize("penalty", [1e-4, 1e-2, 0.9])
@pytest.mark.parametrize("kind", ["low rank", "dead units", "repeated rows"])
def test_ridge_with_a_small_penalty_on_features_of_low_rank(kind: str, penalty: float) -> None:
    x, y = features(256, 64, seed=17), features(256, 8, seed=18)
    if kind == "low rank":
        x = features(256, 3, seed=19) @ features(64, 3, seed=20).T
    elif kind == "dead units":
        x = x.relu() * (torch.arange(64) < 5)
    else:
        x, y = x[:8].repeat(32, 1), x[:8].repeat(32, 1)
    y = y + x[:, :1]
    expected = reference_ridge(x, y, penalty)
    assert float(ridge(x, y, penalty=penalty)) == pytest.approx(float(expected), abs=1e-4)
    assert ridge(x, y, penalty=penalty).dtype is torch.float32
