"""Recurrent networks and Transformers: against plain references, padding, causality, pooling, and what is refused."""

import math

import pytest
import torch
from torch import nn

from tutelage.engine.causality import check_causal
from tutelage.errors import UserError
from tutelage.models.recurrent import CELLS, Recurrent
from tutelage.models.sequence import pool
from tutelage.models.transformer import Attention, Transformer, sinusoidal
from tutelage.tasks import Batch

LENGTHS = torch.tensor([3, 7, 1])
MASK = torch.arange(7) < LENGTHS[:, None]


def small(kind, **options):
    torch.manual_seed(0)
    if kind in CELLS:
        return Recurrent((7,), 5, vocab_size=11, cell=kind, depth=2, width=8, **options).eval()
    causal = {"encoder": False, "decoder": True}[kind]
    return Transformer((7,), 5, vocab_size=11, depth=2, width=8, heads=2, causal=causal, **options).eval()


KINDS = [*CELLS, "encoder", "decoder"]


@pytest.mark.parametrize("cell", list(CELLS))
def test_a_stack_of_single_layers_is_pytorchs_stack(cell):
    network = small(cell)
    reference = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[cell](8, 8, num_layers=2, batch_first=True)
    state = {
        f"{name[:-1]}{i}": p for i, layer in enumerate(network.layers) for name, p in layer.named_parameters()
    }
    reference.load_state_dict(state)
    tokens = torch.randint(11, (3, 7))
    states, _ = reference(network.embedding(tokens))
    torch.testing.assert_close(network(tokens), network.head(states))


def test_a_tap_on_a_recurrent_layer_sees_its_states():
    seen = []
    network = small("lstm")
    network.layers[0].register_forward_hook(lambda module, inputs, output: seen.append(output))
    network(torch.randint(11, (3, 7)))
    assert seen[0].shape == (3, 7, 8) and isinstance(network.layers[0], nn.LSTM)


def test_relu_cells_are_relu():
    network = small("rnn", activation="relu")
    states = network.layers[0](network.embedding(torch.randint(11, (3, 7))))
    assert states.min() == 0 and (states == 0).any() and states.max() > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooling", [None, "last", "mean", "first"])
def test_padding_changes_nothing(kind, pooling):
    network = small(kind, **({} if pooling is None else {"per_position": False, "pooling": pooling}))
    tokens = torch.randint(11, (3, 7))
    padded = network(tokens, MASK)
    torch.testing.assert_close(network(torch.where(MASK, tokens, 0), MASK)[0], padded[0]) if pooling else None
    for i, length in enumerate(LENGTHS.tolist()):
        alone = network(tokens[i : i + 1, :length])[0]
        torch.testing.assert_close(padded[i] if pooling else padded[i, :length], alone)


@pytest.mark.parametrize("kind", KINDS)
def test_only_an_encoder_looks_ahead(kind):
    network = small(kind)
    tokens = torch.randint(11, (2, 7))
    changed = tokens.clone()
    changed[:, 4] = (tokens[:, 4] + 1) % 11
    for mask in (None, torch.ones(2, 7, dtype=torch.bool)):
        before, after = network(tokens, mask), network(changed, mask)
        assert not torch.allclose(before[:, 4:], after[:, 4:])
        assert torch.allclose(before[:, :4], after[:, :4], atol=1e-6) == (kind != "encoder")


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_the_softmax_of_scaled_products(causal):
    torch.manual_seed(0)
    attention = Attention(6, heads=2, causal=causal, dropout=0.0)
    states = torch.randn(2, 4, 6)
    query, key, value = (
        states @ w.T + b
        for w, b in zip(attention.qkv.weight.chunk(3), attention.qkv.bias.chunk(3), strict=True)
    )
    mixed = torch.zeros(2, 4, 6)
    for n in range(2):
        for head in range(2):
            part = slice(3 * head, 3 * head + 3)
            for t in range(4):
                seen = range(t + 1) if causal else range(4)
                scores = torch.stack(
                    [query[n, t, part] @ key[n, s, part] / math.sqrt(3) for s in seen]
                ).softmax(0)
                mixed[n, t, part] = sum(
                    score * value[n, s, part] for score, s in zip(scores, seen, strict=True)
                )
    torch.testing.assert_close(attention(states), attention.projection(mixed))


def test_norm_order():
    states = torch.randn(2, 4, 8) * 5
    before = small("encoder", pre_norm=True)
    after = small("encoder", pre_norm=False)
    assert isinstance(after.norm, nn.Identity)
    normed = after.blocks[0](states)
    torch.testing.assert_close(normed.mean(-1), torch.zeros(2, 4), atol=1e-5, rtol=0)
    block = before.blocks[0]
    middle = states + block.attention(block.norm1(states))
    torch.testing.assert_close(block(states), middle + block.mlp(block.norm2(middle)))


def test_sinusoidal_positions_are_the_papers():
    values = sinusoidal(9, 6)
    for t in range(9):
        for i in range(3):
            angle = t / 10_000 ** (2 * i / 6)
            assert values[t, 2 * i] == pytest.approx(math.sin(angle), abs=1e-6)
            assert values[t, 2 * i + 1] == pytest.approx(math.cos(angle), abs=1e-6)
    network = small("encoder", positions="sinusoidal")
    assert not any("position" in name for name in network.state_dict())


def test_positions_matter_to_an_encoder():
    network = small("encoder", per_position=False)
    tokens = torch.tensor([[1, 2, 3, 4, 5, 6, 7]])
    assert not torch.allclose(network(tokens), network(tokens.flip(1)), atol=1e-4)


def test_pooling_takes_real_positions_wherever_they_are():
    states = torch.arange(2 * 4 * 1.0).view(2, 4, 1)
    mask = torch.tensor([[False, True, True, False], [False, False, False, False]])
    assert pool(states, mask, "last").flatten().tolist() == [2.0, 4.0]
    assert pool(states, mask, "first").flatten().tolist() == [1.0, 4.0]
    assert pool(states, mask, "mean").flatten().tolist() == [1.5, 0.0]
    assert pool(states, None, "last").flatten().tolist() == [3.0, 7.0]


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_sequence_gives_finite_values_and_gradients(kind):
    network = small(kind, per_position=False)
    mask = MASK.clone()
    mask[2] = False
    output = network(torch.randint(11, (3, 7)), mask)
    output.sum().backward()
    assert output.isfinite().all()
    assert all(p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_every_position_sees_something_whatever_the_mask(kind):
    mask = torch.tensor([[False, False, True], [False, False, False], [True, False, True]])
    visible = small(kind)._visible(mask).expand(3, 1, 3, 3)[:, 0]
    assert visible.any(dim=-1).all()
    for n, row, column in torch.ones(3, 3, 3).nonzero().tolist():
        allowed = mask[n, column] and (kind == "encoder" or column <= row)
        if mask[n, row]:
            assert visible[n, row, column] == allowed


def test_dropout_works_in_training_alone():
    for kind in KINDS:
        network = small(kind, dropout=0.5)
        tokens = torch.randint(11, (3, 7))
        assert torch.equal(network(tokens), network(tokens))
        network.train()
        assert not torch.equal(network(tokens), network(tokens))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Transformer((7,), 5, vocab_size=11, width=8, heads=3),
            "heads must divide width, got 3 heads for width 8",
        ),
        (lambda: Transformer((7,), 5, vocab_size=11, depth=0), "depth must be"),
        (lambda: Transformer((7,), 5, vocab_size=11, positions="rotary"), "unknown positions 'rotary'"),
        (lambda: Transformer((7,), 5), r"tokens \(length,\) with a vocab_size, or series"),
        (lambda: Transformer((3, 8, 8), 5), "got inputs of shape"),
        (lambda: Recurrent((7, 2), 5, vocab_size=11), "got inputs of shape"),
        (lambda: Recurrent((7,), 5, vocab_size=0), "vocab_size must be"),
        (lambda: Recurrent((7, 2), 5, cell="gruu"), "did you mean 'gru'"),
        (
            lambda: Recurrent((7, 2), 5, cell="lstm", activation="relu"),
            "unknown activation 'relu'; known: tanh|Known: tanh",
        ),
        (lambda: Recurrent((7, 2), 5, pooling="max"), "unknown pooling 'max'"),
        (lambda: Recurrent((7, 2), 5, width=0), "width must be"),
        (
            lambda: small("encoder")(torch.zeros(1, 8, dtype=torch.long)),
            "built for 7 positions, got inputs of 8",
        ),
    ],
)
def test_wrong_values_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize("mask", [None, MASK])
@pytest.mark.parametrize("kind", KINDS)
def test_a_network_that_sees_the_next_tokens_is_refused_where_they_are_the_answers(kind, mask):
    network = small(kind, per_position=True).train()
    tokens = torch.randint(5, (3, 7), generator=torch.Generator().manual_seed(0))
    batch = Batch(tokens, tokens, torch.arange(3), mask)
    if kind == "encoder":
        with pytest.raises(UserError, match="sees the tokens that it is to foretell"):
            check_causal(network, batch, vocabulary=5)
    else:
        check_causal(network, batch, vocabulary=5)
    assert network.training
