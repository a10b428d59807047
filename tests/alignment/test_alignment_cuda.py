"""On a GPU, where layers share batched products and nothing may wait for values: the numbers of float64 on the CPU.

Where there is no GPU the same runs in float32 on the CPU, so that the tests do not rot until somebody has one.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tutelage.alignment.products import gram
from tutelage.alignment.similarity import GramSimilarity, Ridge, Similarity, TokenCKA

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

MEASURES = [
    GramSimilarity("cka"),
    GramSimilarity("unbiased_cka"),
    GramSimilarity("rsa"),
    GramSimilarity("cka", "bfloat16"),
    GramSimilarity("cka", block=10),
    GramSimilarity("unbiased_cka", block=10),
    GramSimilarity("cka", "bfloat16", 10),
    TokenCKA(),
    TokenCKA(unbiased=True),
    Ridge(),
]


def scored(measure: Similarity, layers: list[Tensor], guides: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    layers = [x.detach().clone().requires_grad_() for x in layers]
    references = [measure.encode(y) for y in guides]
    scores = measure.scores(layers, [references[:1], references[1:], references])
    (scores * torch.arange(1, 5, device=scores.device)).sum().backward()
    return scores.detach().cpu(), [x.grad.cpu() for x in layers if x.grad is not None]


@pytest.mark.parametrize(
    "measure", MEASURES, ids=lambda m: f"{type(m).__name__} {m.name} {getattr(m, 'form', '')}"
)
@pytest.mark.parametrize(("mean", "scale"), [(0, 1), (300, 1), (1, 1e-20), (1, 1e19)])
def test_scores_and_gradients_are_those_of_float64_on_the_cpu(
    measure: Similarity, mean: float, scale: float
) -> None:
    g = torch.Generator().manual_seed(0)
    if mean == 300 and measure.name == "rsa":
        pytest.skip("cosines near 1 are a matter of the features' own rounding")
    layers = [(torch.randn(48, d, generator=g) + mean) * scale for d in (30, 30, 4096)]
    guides = [torch.randn(48, 20, generator=g) + mean + layers[0][:, :20] / scale for _ in range(2)]
    rounded = isinstance(measure, GramSimilarity) and measure.form.precision == "bfloat16"
    exact = GramSimilarity("cka", block=measure.form.block) if rounded else measure
    expected = scored(exact, [x.double() / scale for x in layers], [y.double() for y in guides])
    got = scored(measure, [x.to(DEVICE) for x in layers], [y.to(DEVICE) for y in guides])
    torch.testing.assert_close(
        got[0].double(), expected[0], rtol=0, atol=1e-3 if rounded or measure.name == "ridge" else 1e-5
    )
    for ours, theirs in zip(got[1], expected[1], strict=True):
        error = (ours.double() * scale - theirs).norm() / theirs.norm()
        assert float(error) < (5e-2 if measure.name == "ridge" else 5e-3 if rounded else 1e-4)


@pytest.mark.parametrize(
    "measure", MEASURES, ids=lambda m: f"{type(m).__name__} {m.name} {getattr(m, 'form', '')}"
)
@pytest.mark.parametrize("value", [0.0, 0.1, 1e38])
def test_constant_features_give_zero(measure: Similarity, value: float) -> None:
    x = torch.full((16, 12), value, device=DEVICE, requires_grad=True)
    score = measure(x, torch.randn(16, 9, device=DEVICE))
    score.backward()
    assert float(score.detach()) == 0
    assert not x.grad.any()


def test_the_split_gram_matrix_is_the_product() -> None:
    x = torch.randn(2, 40, 65536, device=DEVICE)
    expected = x.double() @ x.double().mT
    assert float((gram(x) - expected).norm() / expected.norm()) < 1e-6
