"""Attention maps by loops, and what they do not depend on."""

import math

import pytest
import torch
from torch import nn

from tutelage.alignment.pairing import Pairing
from tutelage.errors import UserError
from tutelage.losses.attention_maps import attention_divergence, attention_weights
from tutelage.objectives.attention_maps import AttentionMaps, before, heads_of


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize(("heads", "prefix"), [(1, 0), (2, 0), (2, 1)])
def test_weights_are_the_softmax_of_scaled_products_by_loop(heads, prefix):
    width, length = 6, 5
    made = torch.randn(2, length, 3 * width, dtype=torch.float64)
    found = attention_weights(made, heads=heads, prefix=prefix)
    each = width // heads
    assert found.shape == (2, heads, length - prefix, length - prefix)
    for sample in range(2):
        for head in range(heads):
            for i in range(length - prefix):
                query = made[sample, prefix + i, head * each : (head + 1) * each].tolist()
                scores = []
                for j in range(length - prefix):
                    key = made[sample, prefix + j, width + head * each : width + (head + 1) * each].tolist()
                    scores.append(sum(a * b for a, b in zip(query, key, strict=True)) / math.sqrt(each))
                whole = sum(math.exp(s) for s in scores)
                expected = [math.exp(s) / whole for s in scores]
                assert found[sample, head, i].tolist() == pytest.approx(expected)


def test_the_positions_of_a_map_are_tokens_row_by_row():
    maps = torch.randn(2, 9, 2, 3)
    tokens = torch.stack([maps[:, :, y, x] for y in range(2) for x in range(3)], dim=1)
    assert torch.equal(attention_weights(maps, heads=1), attention_weights(tokens, heads=1))


def test_they_are_what_a_transformer_of_timm_looks_at():
    """Whose attention gives the mean of the values by these weights."""
    from timm.layers import Attention

    layer = Attention(12, num_heads=3, qkv_bias=True).eval()
    x = torch.randn(2, 5, 12)
    made = layer.qkv(x)
    values = made.unflatten(2, (3, 3, 4))[:, :, 2].transpose(1, 2)
    mixed = (
        attention_weights(made, heads=heads_of(nn.ModuleDict({"attn": layer}), "attn.qkv")) @ values
    ).transpose(1, 2)
    assert torch.allclose(layer.proj(mixed.flatten(2)), layer(x), atol=1e-6)


def rows(*shape):
    return torch.rand(*shape, dtype=torch.float64).add(0.1).log().softmax(dim=-1)


@pytest.mark.parametrize("heads", [(2, 2), (1, 2)])
def test_the_divergence_is_a_mean_over_rows_by_loop_and_zero_at_equality(heads):
    student, teacher = (rows(3, h, 4, 4) for h in heads)
    found = attention_divergence(student, teacher)
    if heads[0] != heads[1]:  # the means over heads
        student, teacher = (x.mean(dim=1, keepdim=True) for x in (student, teacher))
    parts = []
    for p, q in zip(teacher.flatten(0, 2).tolist(), student.flatten(0, 2).tolist(), strict=True):
        parts.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    assert float(found) == pytest.approx(sum(parts) / len(parts))
    assert float(attention_divergence(teacher, teacher)) == pytest.approx(0)


def test_a_finer_grid_adds_up_what_is_looked_at_and_averages_who_looks():
    fine, coarse = rows(1, 1, 16, 16), rows(1, 1, 4, 4)
    brought = torch.zeros(4, 4, dtype=torch.float64)
    for i in range(16):
        for j in range(16):
            a, b = (2 * (k // 4 // 2) + k % 4 // 2 for k in (i, j))
            brought[a, b] += fine[0, 0, i, j] / 4
    expected = attention_divergence(brought[None, None], coarse)
    assert float(attention_divergence(fine, coarse)) == pytest.approx(float(expected))
    assert brought.sum(dim=1).tolist() == pytest.approx([1.0] * 4)


def test_gradients_agree_with_differences():
    made = torch.randn(2, 4, 12, dtype=torch.float64, requires_grad=True)
    teacher = rows(2, 2, 4, 4)
    assert torch.autograd.gradcheck(
        lambda x: attention_divergence(attention_weights(x, heads=2), teacher), (made,)
    )


def test_what_is_no_attention_is_one_message():
    with pytest.raises(UserError, match=r"of 2 heads are .* got \(2, 5, 9\)"):
        attention_weights(torch.randn(2, 5, 9), heads=2)
    with pytest.raises(UserError, match="9 positions cannot be brought to a grid of 2 x 2"):
        attention_divergence(rows(1, 1, 9, 9), rows(1, 1, 4, 4))
    with pytest.raises(UserError, match="need the names of the layers"):
        AttentionMaps(network="guide", pairing=Pairing(strategy="last", k=1))
    with pytest.raises(UserError, match=r"a \(Linear\) gives 8 numbers of 4: .* three times as many"):
        heads_of(nn.ModuleDict({"a": nn.Linear(4, 8)}), "a")
    with pytest.raises(UserError, match="has none"):
        before((7,))
    assert [before((n, 3)) for n in (4, 5, 16, 18)] == [0, 1, 0, 2]


def test_changed_queries_cannot_be_read():
    from timm.layers import Attention

    layer = nn.ModuleDict({"attn": Attention(12, num_heads=3, qk_norm=True, norm_layer=nn.LayerNorm)})
    with pytest.raises(UserError, match="changes queries and keys before they are compared"):
        heads_of(layer, "attn.qkv")
