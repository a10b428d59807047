"""The alignment loss of a step: the paper's sum over pairs, through one forward of each network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from named_similarities import SIMILARITIES
from tutelage.alignment.alignment import Alignment
from tutelage.alignment.comparison import Comparison
from tutelage.alignment.feature_rows import per_sample
from tutelage.alignment.guides import FeatureGuide, guide_input_like
from tutelage.alignment.pairing import Pair, Pairing
from tutelage.alignment.similarity import cka
from tutelage.alignment.taps import Layer, activations
from tutelage.errors import UserError
from tutelage.tasks import Batch


def networks() -> tuple[nn.Sequential, nn.Sequential]:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Flatten(),
        nn.Linear(36, 8),
        nn.BatchNorm1d(8),
        nn.ReLU(inplace=True),
        nn.Linear(8, 8),
        nn.ReLU(),
        nn.Linear(8, 4),
    )
    guide = nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(inplace=True),
        nn.Conv2d(3, 3, 3),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(12, 4),
    ).eval()
    return network, guide.requires_grad_(False)


def batch(n: int = 12) -> Batch:
    generator = torch.Generator().manual_seed(3)
    return Batch(torch.randn(n, 1, 6, 6, generator=generator), torch.arange(n) % 4, torch.arange(n))


def aligned(
    network: nn.Module, guide: nn.Module, name: str = "cka", example: Batch | None = None, **settings: Any
) -> Alignment:
    example = example or batch(4)
    per_token, most = settings.pop("per_token", False), settings.pop("tokens_per_step", None)
    return Alignment(
        network, guide, example, pairing=Pairing(**settings), similarity=SIMILARITIES[name](),
        per_token=per_token, tokens_per_step=most,
    )  # fmt: skip


def step(alignment: Alignment, network: nn.Module, guide: nn.Module, data: Batch) -> tuple[Tensor, Tensor]:
    alignment.guide(data)
    with alignment.recording():
        network(data.inputs)
    return alignment.loss(), alignment.similarities


def test_the_loss_is_the_sum_over_pairs_with_its_gradient() -> None:
    network, guide = networks()
    alignment = aligned(network, guide)
    data = batch()
    loss, scores = step(alignment, network, guide, data)
    loss.backward()
    got = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    expected: Any = 0.0
    guides = activations(guide, ["0", "3", "6"], data.inputs)
    x = network[:2](data.inputs)
    hidden = network[4](network[2:4](x.clone()))
    for ours, name in ((x, "0"), (hidden, "3"), (network[6](network[5](hidden)), "6")):
        expected = expected + 1 - cka(ours, guides[name].flatten(1))
    expected.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)
    assert scores.shape == (3,)
    assert not scores.requires_grad
    for name, p in network.named_parameters():
        if p.grad is not None and "6.bias" not in name:
            torch.testing.assert_close(got[name], p.grad, rtol=1e-3, atol=1e-6)


def test_the_network_runs_once_and_the_guide_is_untouched() -> None:
    network, guide = networks()
    alignment = aligned(network, guide)
    before = {k: v.clone() for k, v in guide.state_dict().items()}
    counter = int(network[2].num_batches_tracked)
    step(alignment, network, guide, batch())[0].backward()
    assert int(network[2].num_batches_tracked) == counter + 1
    assert all(torch.equal(v, before[k]) for k, v in guide.state_dict().items())
    assert guide[2].inplace  # the guide's taps are consumed at once: its own in-place steps may stay


def test_two_guide_layers_on_one_network_layer_are_two_terms_in_the_order_of_pairs() -> None:
    network, guide = networks()
    pairs = [["3", "4"], ["0", "1"], ["6", "4"]]
    alignment = aligned(network, guide, strategy="explicit", pairs=pairs)
    data = batch()
    _, scores = step(alignment, network, guide, data)
    single = [
        step(aligned(network, guide, strategy="explicit", pairs=[p]), network, guide, data)[1][0]
        for p in pairs
    ]
    torch.testing.assert_close(scores, torch.stack(single))
    assert [row["guide"] for row in alignment.describe()] == ["3", "0", "6"]
    assert alignment.describe()[0] == {
        "guide": "3", "guide_kind": "conv", "guide_shape": [3, 2, 2], "network": "4", "network_kind": "linear", "network_shape": [8]
    }  # fmt: skip


@pytest.mark.parametrize("name", SIMILARITIES)
def test_descending_the_loss_raises_the_similarity(name: str) -> None:
    network, guide = networks()
    alignment = aligned(network, guide, name)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    values = []
    for _ in range(15):
        optimizer.zero_grad()
        loss, _ = step(alignment, network, guide, batch(16))
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert values[-1] < values[0] - 0.1


class Rule(FeatureGuide):
    def features(self, batch: Batch) -> dict[str, Tensor]:
        return {"edges": batch.inputs.diff(dim=-1), "class": nn.functional.one_hot(batch.targets, 4).float()}


def test_a_function_of_inputs_and_targets_can_guide() -> None:
    network, _ = networks()
    rule, data = Rule(), batch()
    alignment = aligned(network, rule)
    assert [(row["guide"], row["network"]) for row in alignment.describe()] == [
        ("edges", "1"),
        ("class", "6"),
    ]
    alignment.guide(data)
    with alignment.recording():
        output = network(data.inputs)
    loss, scores = alignment.loss(), alignment.similarities
    assert float(scores[1]) == pytest.approx(
        float(cka(output.detach(), nn.functional.one_hot(data.targets, 4).float())), abs=1e-5
    )
    loss.backward()


class Sequences(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.rnn = nn.RNN(3, width, batch_first=True)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("name", SIMILARITIES)
def test_padding_has_no_part_in_sequences(name: str, per_token: bool) -> None:
    if per_token and name in ("cka_bfloat16", "cka, three at a time"):
        pytest.skip("refused for tokens, see the similarity's own test")
    torch.manual_seed(1)
    network, guide = Sequences(6), Sequences(7)
    x = torch.randn(8, 5, 3)
    mask = torch.arange(5) < torch.tensor([5, 3, 4, 5, 2, 1, 5, 4]).unsqueeze(1)
    results = []
    for padding in (0.0, 9.0):
        data = Batch(x.masked_fill(~mask.unsqueeze(-1), padding), torch.zeros(8), torch.arange(8), mask)
        alignment = aligned(network, guide, name, example=data, per_token=per_token)
        network.zero_grad()
        loss, _ = step(alignment, network, guide, data)
        loss.backward()
        results.append((loss.detach(), network.rnn.weight_hh_l0.grad.clone()))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-6)


def test_a_draw_of_tokens_is_the_same_for_every_layer_and_leaves_padding_out() -> None:
    torch.manual_seed(1)
    network, guide = Sequences(6), Sequences(6)
    guide.load_state_dict(network.state_dict())
    mask = torch.arange(5) < torch.tensor([5, 1, 2, 5, 2, 1, 5, 4]).unsqueeze(1)
    data = Batch(torch.randn(8, 5, 3), torch.zeros(8), torch.arange(8), mask)
    for most in (12, 30, 100):  # fewer than, more than the 25 real tokens; more than all 40
        alignment = aligned(network, guide, example=data, per_token=True, tokens_per_step=most)
        loss, scores = step(alignment, network, guide, data)
        torch.testing.assert_close(
            scores, torch.ones(2)
        )  # equal networks agree on any draw, if it is one draw
        loss.backward()
        keep = alignment.comparison._picked[1]
        assert int(keep.sum()) == min(most, 25)


def test_what_cannot_be_aligned_is_told() -> None:
    network, guide = networks()
    with pytest.raises(UserError, match=r"unbiased_cka.* at least 4 .* got 3"):
        step(aligned(network, guide, "unbiased_cka"), network, guide, batch(3))
    with pytest.raises(
        UserError, match=r"unbiased_cka.* at least 4 .* got 3"
    ):  # one pair is checked like several
        step(aligned(network, guide, "unbiased_cka", strategy="last", k=1), network, guide, batch(3))
    with pytest.raises(UserError, match=r"two sequences of one length: the guide's '0' is \(3, 4, 4\)"):
        aligned(network, guide, per_token=True)
    with pytest.raises(UserError, match=r"Sequential cannot run on inputs of shape \(4, 2, 6, 6\)"):
        aligned(network, guide, example=Batch(torch.zeros(4, 2, 6, 6), torch.zeros(4), torch.zeros(4)))
    sequences, guide = Sequences(4), Sequences(3)
    data = Batch(torch.randn(2, 5, 3), torch.zeros(2), torch.arange(2), torch.zeros(2, 5, dtype=torch.bool))
    for per_token in (False, True):
        with pytest.raises(UserError, match="without a single real position"):
            aligned(sequences, guide, example=data, per_token=per_token)
    whole = data._replace(mask=torch.ones(2, 5, dtype=torch.bool))
    with pytest.raises(UserError, match="not padding"):
        step(aligned(sequences, guide, example=whole, per_token=True), sequences, guide, data)


def test_noise_inputs() -> None:
    torch.manual_seed(0)
    inputs = torch.full((400, 3, 8, 8), 7.0)
    gaussian, released = guide_input_like(inputs, "gaussian"), guide_input_like(inputs, "released_noise")
    assert guide_input_like(inputs, "batch") is inputs
    assert abs(float(gaussian.mean())) < 0.02
    assert float(gaussian.std()) == pytest.approx(1, abs=0.02)
    assert float(released.min()) == 0
    assert float(released.max()) == 1
    assert float((released == 0).float().mean()) == pytest.approx(0.5, abs=0.02)
    tokens = guide_input_like(torch.tensor([[3, 1], [0, 2]]), "gaussian")
    assert tokens.dtype == torch.int64
    assert int(tokens.max()) <= 3
    with pytest.raises(UserError, match="did you mean 'gaussian'"):
        guide_input_like(inputs, "gausian")


@pytest.mark.parametrize("kept", [[5, 3, 4, 1], [5, 5, 5, 5]])
@pytest.mark.parametrize("form", ["sequence", "heads", "convolution", "transposed", "half"])
def test_rows_of_a_masked_sequence_are_a_choice_for_each_value_bit_by_bit(form: str, kept: list[int]) -> None:
    torch.manual_seed(0)
    mask = torch.arange(5) < torch.tensor(kept).unsqueeze(1)
    shape = {"heads": (4, 5, 2, 3), "convolution": (4, 3, 5)}.get(form, (4, 5, 3))
    x = torch.randn(shape, dtype=torch.bfloat16 if form == "half" else torch.float32)
    if form == "transposed":
        x = torch.randn(4, 3, 5).transpose(1, 2)
    over = mask.unsqueeze(1) if form == "convolution" else mask.view(4, 5, *[1] * (x.ndim - 2))
    x = torch.where(over, x, float("nan")).requires_grad_()  # what padding holds is nobody's business
    weights = torch.randn(x[0].numel(), dtype=x.dtype)
    found, expected = per_sample(x, mask), torch.where(over, x, 0.0).flatten(1)
    slopes = [torch.autograd.grad((rows * weights).sum(), x)[0] for rows in (found, expected)]
    assert torch.equal(found, expected) and torch.equal(*slopes)


@pytest.mark.parametrize("measure", list(SIMILARITIES))
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize("what", ["plain", "far from zero", "half", "inference", "numpy"])
def test_padding_put_aside_gives_the_scores_of_zeros_bit_by_bit(measure: str, what: str) -> None:
    """Of guide and network; what they hold is afterwards what it was, NaN too."""
    torch.manual_seed(0)
    mask = torch.arange(6) < torch.tensor([6, 2, 5, 1, 3]).unsqueeze(1)
    guide, network = (torch.randn(5, 6, 4) + (1e4 if what == "far from zero" else 0) for _ in range(2))
    guide, network = (torch.where(mask.unsqueeze(2), x, float("nan")) for x in (guide, network))
    if what == "half":
        guide, network = guide.bfloat16(), network.bfloat16()
    if what == "inference":
        with torch.inference_mode():
            guide = guide.clone()
    if what == "numpy":
        array = guide.numpy()
        array.flags.writeable = False
        guide = torch.from_numpy(array)
    before = guide.clone(), network.clone()
    results = []
    for padded in (True, False):
        leaf = network.clone().requires_grad_()
        layer = leaf * 1
        named = Layer("layer", "linear", (6, 4))
        comparison = Comparison([Pair(named, named)], [named], SIMILARITIES[measure]())
        comparison.start(mask)
        if not padded:
            comparison._padding = None
        comparison.encode("layer", guide)
        loss, scores = comparison.loss({"layer": layer})
        loss.backward()
        assert torch.equal(layer.nan_to_num(7.0), before[1].nan_to_num(7.0))
        assert torch.equal(guide.nan_to_num(7.0), before[0].nan_to_num(7.0))
        results.append((scores, leaf.grad))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
    assert results[0][1].isfinite().all() and not results[0][1][~mask].any()
