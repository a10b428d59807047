"""Explanations against slow references and captum, and as a command."""

import csv
import itertools
import json
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from tutelage.analysis import attribution_scores as scores
from tutelage.analysis.attention_rollout import attention_of, attention_rollout, roll
from tutelage.analysis.attributions import EXPLAINERS, cannot, explained
from tutelage.analysis.question import Question, joined
from tutelage.cli.analyse import run
from tutelage.cli.commands import COMMANDS
from tutelage.cli.reader import read
from tutelage.config.planner import plan_of
from tutelage.errors import UserError
from tutelage.jobs.launch import run_plan
from tutelage.models.frozen import FrozenNetwork
from tutelage.models.transformer import Transformer
from tutelage.tasks import Batch, Binary, Classification


def asked(network, inputs, task=None, mask=None, **data):
    """A question for classes 0, 1, 0, ..."""
    task = task or Classification(3)
    targets = torch.arange(len(inputs)) % 2
    batch = Batch(inputs, targets, torch.arange(len(inputs)), mask)
    return Question.of(FrozenNetwork(network.eval()), SimpleNamespace(task=task, **data), batch)


@pytest.fixture
def images():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(4, 5, 3),
        nn.GELU(),  # smooth: a kink costs the quadrature its precision
        nn.Flatten(),
        nn.Linear(5 * 16, 3),
    )
    return asked(network, torch.randn(3, 2, 6, 6))


def logit(question, inputs):
    return question.network.network(inputs)[torch.arange(len(inputs)), question.classes]


def test_integrated_gradients_sum_to_the_change_of_the_score_and_are_the_slow_sum(images):
    found = explained("integrated_gradients", images)
    inputs = images.batch.inputs
    change = logit(images, inputs) - logit(images, torch.zeros_like(inputs))
    torch.testing.assert_close(found.sum((1, 2)), change, atol=1e-3, rtol=1e-3)
    slow = torch.zeros_like(inputs)
    for step in range(500):
        point = (inputs * (step + 0.5) / 500).requires_grad_()
        slow += torch.autograd.grad(logit(images, point).sum(), point)[0] / 500
    torch.testing.assert_close(found, (slow * inputs).sum(1), atol=2e-3, rtol=1e-2)


@pytest.mark.parametrize(("most", "at_once"), [(200, 3), (400, 5)])
def test_as_many_points_of_the_path_at_once_as_there_is_room_for(images, monkeypatch, most, at_once):
    from captum.attr import IntegratedGradients

    asked, attribute = [], IntegratedGradients.attribute
    monkeypatch.setattr("tutelage.analysis.attributions.POINTS", most)
    monkeypatch.setattr(
        IntegratedGradients, "attribute",
        lambda self, *given, **more: asked.append(more["internal_batch_size"]) or attribute(self, *given, **more),
    )  # fmt: skip
    explained("integrated_gradients", images)
    assert asked == [at_once]  # of 72 numbers each, one of each sample at least


def test_saliency_and_grad_cam_are_the_slow_ones(images):
    network, inputs = images.network.network, images.batch.inputs.clone().requires_grad_()
    gradient = torch.autograd.grad(logit(images, inputs).sum(), inputs)[0]
    torch.testing.assert_close(explained("saliency", images), gradient.abs().amax(1))
    inner = network[:3](inputs)
    slope = torch.autograd.grad(network[3:](inner)[torch.arange(3), images.classes].sum(), inner)[0]
    slow = (slope.mean((2, 3), keepdim=True) * inner).sum(1, keepdim=True).relu()
    wide = nn.functional.interpolate(slow, size=(6, 6), mode="bilinear")[:, 0]
    torch.testing.assert_close(explained("grad_cam", images), wide.detach())


def test_occlusion_is_the_fall_of_the_score_for_each_cell(images):
    found, inputs = explained("occlusion", images), images.batch.inputs
    for i, row, column in itertools.product(range(3), range(6), range(6)):
        hidden = inputs.clone()
        hidden[:, :, row, column] = 0
        fall = (logit(images, inputs) - logit(images, hidden))[i]
        assert found[i, row, column] == pytest.approx(float(fall), abs=1e-5)
    wide = asked(nn.Sequential(nn.Flatten(), nn.Linear(400, 3)), torch.randn(2, 1, 20, 20))
    assert wide.cells.max() + 1 == 49 and wide.cells[0, 2] == wide.cells[2, 0] == 0 and wide.cells[3, 3] == 8


def test_kernel_shap_is_the_exact_shapley_value_and_lime_finds_a_linear_rule():
    torch.manual_seed(1)
    question = asked(nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)), torch.randn(2, 5))
    network, exact = question.network.network, torch.zeros(2, 5)
    for row, feature in itertools.product(range(2), range(5)):
        others = [one for one in range(5) if one != feature]
        for size in range(5):
            for inside in itertools.combinations(others, size):
                keep = torch.zeros(5)
                keep[list(inside)] = 1
                without = question.batch.inputs[row] * keep
                keep[feature] = 1
                with_it = question.batch.inputs[row] * keep
                gain = (network(with_it) - network(without))[question.classes[row]]
                exact[row, feature] += gain.detach() / (5 * math.comb(4, size))
    torch.testing.assert_close(explained("kernel_shap", question), exact, atol=0.03, rtol=0.05)
    torch.testing.assert_close(explained("kernel_shap", question), explained("kernel_shap", question))
    linear = asked(nn.Linear(5, 3), torch.randn(2, 5))
    weights = linear.network.network.weight[linear.classes] * linear.batch.inputs
    torch.testing.assert_close(explained("lime", linear), weights, atol=0.01, rtol=0.02)


def test_every_explainer_of_one_output_turns_with_the_class():
    torch.manual_seed(0)
    network = nn.Linear(4, 1)
    inputs = torch.randn(1, 4).expand(2, 4).contiguous()
    question = asked(network, inputs, Binary())
    for name in ("integrated_gradients", "occlusion", "kernel_shap", "lime"):
        found = explained(name, question)
        torch.testing.assert_close(found[0], -found[1], atol=1e-3, rtol=1e-3)
    assert float(question.probability(inputs).sum()) == pytest.approx(1)


def test_rollout_is_the_slow_product_of_the_attention_that_ran():
    torch.manual_seed(0)
    network = Transformer((5, 2), 3, depth=2, width=8, heads=2, pooling="mean").eval()
    inputs, mask = torch.randn(2, 5, 2), torch.tensor([[True] * 5, [True, True, True, False, False]])
    layers, causal = attention_of(network, inputs, mask)
    assert len(layers) == 2 and not causal and layers[0].shape == (2, 2, 5, 5)
    torch.testing.assert_close(layers[0].sum(-1), torch.ones(2, 2, 5))
    assert float(layers[0][1, :, :, 3:].abs().max()) == 0  # what is padding is not looked at
    states = network.embedding(inputs) + network.position_values
    block = network.blocks[0]
    query, key, _ = block.attention.qkv(block.norm1(states)).view(2, 5, 3, 2, 4).permute(2, 0, 3, 1, 4)
    slow = (query @ key.transpose(2, 3) / 2)[0].softmax(-1)
    torch.testing.assert_close(layers[0][0], slow)
    rolled = roll(layers)
    for i in range(2):
        product = np.eye(5)
        for one in layers:
            step = 0.5 * one[i].mean(0).double().numpy() + 0.5 * np.eye(5)
            product = (step / step.sum(1, keepdims=True)) @ product
        np.testing.assert_allclose(rolled[i], product, atol=1e-6)
    found = attention_rollout(FrozenNetwork(network), inputs, mask)
    torch.testing.assert_close(found[1], rolled[1, :3].mean(0))
    torch.testing.assert_close(found.sum(1), torch.ones(2))


def test_rollout_reads_other_transformers():
    import timm

    torch.manual_seed(0)
    vit = timm.create_model("test_vit", num_classes=3, img_size=32, in_chans=1)
    question = asked(vit, torch.randn(2, 1, 32, 32))
    found = explained("attention_rollout", question)
    assert found.shape == (2, 32, 32) and float(found.min()) > 0
    assert "ends in attention" in cannot("grad_cam", question)

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.encoder, self.head = (
                nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
                nn.Linear(8, 3),
            )

        def forward(self, inputs):
            return self.head(self.encoder(inputs)[:, 0])

    encoder, series = Encoder().eval(), torch.randn(2, 6, 8)
    layers, _ = attention_of(encoder, series)
    assert [tuple(one.shape) for one in layers] == [(2, 2, 6, 6)] * 2
    with torch.no_grad():
        _, weights = encoder.encoder.layers[0].self_attn(series, series, series, average_attn_weights=False)
    torch.testing.assert_close(layers[0], weights)
    plain = asked(nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), torch.randn(2, 1, 6, 6))
    assert "no attention" in cannot("attention_rollout", plain) and "none" in cannot("grad_cam", plain)


def test_tokens_have_attributions_that_sum_and_padding_has_none():
    torch.manual_seed(0)
    network = Transformer((6,), 3, vocab_size=9, depth=1, width=8, heads=2, per_position=False)
    tokens = torch.randint(2, 9, (3, 6))
    mask = torch.arange(6)[None] < torch.tensor([6, 4, 2])[:, None]
    question = asked(network, tokens, mask=mask, entries=["<pad>", "<unk>"])
    assert question.hidden == 1
    found = explained("integrated_gradients", question)
    unknown = network(torch.ones_like(tokens), mask)
    change = (network(tokens, mask) - unknown)[torch.arange(3), question.classes]
    torch.testing.assert_close(found.sum(1), change.detach(), atol=2e-3, rtol=1e-2)
    for name in EXPLAINERS:
        if not cannot(name, question):
            assert float(explained(name, question)[~mask].abs().max()) == 0, name


def test_insertion_and_deletion_reward_the_order_that_counts():
    class Additive(nn.Module):
        def forward(self, inputs):
            total = (inputs * torch.tensor([4.0, 2.0, 1.0, 0.5])).sum(1)
            return torch.stack([total, -total, torch.full_like(total, -99)], 1)

    question = asked(Additive(), torch.ones(1, 4))
    best, worst = torch.tensor([[4.0, 2, 1, 0.5]]), -torch.tensor([[4.0, 2, 1, 0.5]])
    shown, hidden = scores.curves(question, best)
    kept = [0, 4, 6, 7, 7.5]
    slow = [1 / (1 + math.exp(-2 * one)) for one in kept]
    np.testing.assert_allclose(shown[0], slow, rtol=1e-5)
    np.testing.assert_allclose(hidden[0], [1 / (1 + math.exp(-2 * (7.5 - one))) for one in kept], rtol=1e-5)
    slow_area = sum((a + b) / 2 / 4 for a, b in itertools.pairwise(slow))
    assert scores.area(shown)[0] == pytest.approx(slow_area, rel=1e-5)
    turned = scores.curves(question, worst)
    assert scores.area(turned[0])[0] < slow_area and scores.area(turned[1])[0] > scores.area(hidden)[0]


def test_rank_correlations_are_scipys_over_the_places_that_are_there():
    from scipy.stats import spearmanr

    draw = torch.Generator().manual_seed(0)
    first, second = (torch.randint(5, (3, 4, 4), generator=draw).float() for _ in range(2))
    real = torch.rand(3, 4, 4, generator=draw) > 0.2
    found = scores.rank_correlations(first, second, real)
    slow = [spearmanr(first[i][real[i]], second[i][real[i]]).statistic for i in range(3)]
    np.testing.assert_allclose(found, slow)
    assert math.isnan(scores.rank_correlations(torch.ones(1, 3), torch.rand(1, 3), torch.ones(1, 3) > 0)[0])


def test_shuffled_weights_change_the_maps_and_the_network_stays(images):
    before = images.network.digest()
    maps = explained("integrated_gradients", images)
    found = scores.randomised(images, lambda one: explained("integrated_gradients", one), maps)
    assert [count for count, _ in found] == [1, 2, 3] and all(value < 0.99 for _, value in found)
    assert images.network.digest() == before
    torch.testing.assert_close(explained("integrated_gradients", images), maps)


def test_batches_are_joined_and_asked_in_blocks(images, monkeypatch):
    whole = explained("saliency", images)
    monkeypatch.setattr("tutelage.analysis.question.BLOCK", 2)
    torch.testing.assert_close(explained("saliency", images), whole)
    batch = images.batch
    parts = [Batch(*(None if x is None else x[rows] for x in batch)) for rows in (slice(0, 2), slice(2, 3))]
    assert torch.equal(joined(parts).inputs, batch.inputs) and joined(parts).mask is None
    marked = batch._replace(target_mask=torch.tensor([True, False, True]))
    assert joined([marked]).index.tolist() == [0, 2]


def test_without_captum_one_message_names_the_extra(images, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(UserError, match=r"saliency needs the package captum.*tutelage\[explain\]"):
        explained("saliency", images)


def small(tmp_path, *words):
    plan = plan_of(
        [
            "logger=none",
            "hardware.threads=1",
            "fit.max_steps=4",
            "fit.validate_every_steps=4",
            f"runs_dir={tmp_path}",
            *words,
        ]
    )
    run_plan(plan)


def explain(tmp_path, *words):
    given = ["explain", *words, f"runs_dir={tmp_path}", f"out={tmp_path / 'out'}"]
    return run(read("analyse", COMMANDS["analyse"], given))


FCN = ("model=fcn", "model.depth=1", "model.width=8")


def test_the_command_explains_a_guided_network_and_its_guide(tmp_path, capsys):
    for seed in (0, 1):
        small(tmp_path, *FCN, "method=guidance", "model@guide=convnet", "name=e/guided", f"seed={seed}")
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "e").rglob("*") if path.is_file()}
    assert explain(tmp_path, "e/guided", "samples=6", "explainers=saliency,occlusion") == 0
    said = capsys.readouterr().out
    assert "agreement with its guide" in said and "95 % over 2 runs" in said
    with (tmp_path / "out" / "explain.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["explainer"] for row in rows[:3]] == ["saliency", "occlusion", "random order"] and len(
        rows
    ) == 6
    first = rows[0]
    assert float(first["insertion_low"]) <= float(first["insertion"]) <= float(first["insertion_high"])
    assert (
        -1 <= float(first["agreement_guide"]) <= 1
        and first["agreement_guide_by_chance"]
        and first["randomised"]
    )
    record = json.loads((tmp_path / "out" / "explain.json").read_text())
    assert record["samples"] == 6 and len(record["index"]) == 6
    assert (tmp_path / "out" / "explain.png").stat().st_size > 5000
    assert {path: path.stat().st_mtime_ns for path in files} == files
    with pytest.raises(UserError, match="there is no 'limes'; did you mean 'lime'"):
        explain(tmp_path, "e/guided", "explainers=limes")
    with pytest.raises(UserError, match=r"Grad-CAM needs a convolution.*explainers=\.\.\. names others"):
        explain(tmp_path, "e/guided", "samples=2", "explainers=grad_cam")


def test_texts_and_tables_are_explained_and_forecasts_and_tokens_are_refused(tmp_path, capsys):
    texts = tmp_path / "texts.csv"
    rows = [
        f"a {word} film number {n},{label}" for n in range(20) for word, label in (("good", 1), ("bad", 0))
    ]
    texts.write_text("text,label\n" + "\n".join(rows) + "\n")
    words = ("data=text_classification", f"data.root={texts}", "model=transformer_encoder", "model.depth=1")
    small(tmp_path, *words, "model.width=8", "model.heads=2", "name=e/text")
    assert explain(tmp_path, "e/text", "samples=3") == 0
    said = capsys.readouterr().out
    assert (
        "attention rollout: insertion" in said
        and "without grad_cam: Grad-CAM is of convolutions over images" in said
    )
    small(tmp_path, "data=table", "data.dataset=wine", *FCN, "name=e/wine")
    assert explain(tmp_path, "e/wine", "samples=3", "explainers=integrated_gradients") == 0
    small(tmp_path, "data=table", "data.dataset=diabetes", *FCN, "name=e/values")
    with pytest.raises(UserError, match="one class for each sample, got a task of regression"):
        explain(tmp_path, "e/values")
