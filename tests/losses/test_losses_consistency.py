"""Consistency losses against loops over samples; masks, denominators, and where no gradient may flow."""

import math

import pytest
import torch

from tutelage.errors import UserError
from tutelage.losses.consistency import fixmatch, mean_teacher, pseudo_label, uda

CONSISTENCY = {"uda": uda, "fixmatch": fixmatch, "pseudo_label": pseudo_label, "mean_teacher": mean_teacher}

N, CLASSES = 8, 3


@pytest.fixture
def views():
    generator = torch.Generator().manual_seed(0)
    target, output = (3 * torch.randn(N, CLASSES, generator=generator, dtype=torch.float64) for _ in range(2))
    return target, output


def softmax(row, temperature=1.0):
    powers = [math.exp(float(value) / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def test_uda_by_loop(views):
    target, output = views
    total, counted = 0.0, 0
    for weak, strong in zip(target, output, strict=True):
        if max(softmax(weak)) < 0.8:
            continue
        counted += 1
        p, q = softmax(weak, 0.4), softmax(strong)
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert 0 < counted < N
    assert float(uda(target, output)) == pytest.approx(total / N, rel=1e-10)


def test_fixmatch_and_pseudo_label_by_loop(views):
    target, output = views
    total, counted = 0.0, 0
    for weak, strong in zip(target, output, strict=True):
        p = softmax(weak)
        if max(p) >= 0.9:
            counted += 1
            total -= math.log(softmax(strong)[p.index(max(p))])
    assert 0 < counted < N
    assert float(fixmatch(target, output, threshold=0.9)) == pytest.approx(total / N, rel=1e-10)
    own = sum(-math.log(max(softmax(row))) for row in output if max(softmax(row)) >= 0.9)
    assert float(pseudo_label(output, output, threshold=0.9)) == pytest.approx(own / N, rel=1e-10)


def test_mean_teacher_by_loop(views):
    target, output = views
    total = sum(
        (a - b) ** 2
        for t, o in zip(target, output, strict=True)
        for a, b in zip(softmax(t), softmax(o), strict=True)
    )
    assert float(mean_teacher(target, output)) == pytest.approx(total / (N * CLASSES), rel=1e-10)


@pytest.mark.parametrize("name", CONSISTENCY)
def test_no_gradient_reaches_the_target(name, views):
    target, output = (x.clone().requires_grad_() for x in views)
    CONSISTENCY[name](10 * target, output).backward()
    assert target.grad is None
    assert output.grad.abs().sum() > 0


def test_the_target_of_a_pseudo_label_is_the_output_itself_without_its_gradient(views):
    output = views[1].clone().requires_grad_()
    pseudo_label(output, output, threshold=0.0).backward()
    expected = output.detach().softmax(dim=1) - torch.nn.functional.one_hot(output.argmax(dim=1), CLASSES)
    torch.testing.assert_close(output.grad, expected / N)


@pytest.mark.parametrize("name", ["uda", "fixmatch", "pseudo_label"])
def test_an_unsure_sample_costs_nothing_and_is_counted(name):
    sure, unsure = torch.tensor([[20.0, 0.0, 0.0]]), torch.tensor([[0.1, 0.0, 0.0]])
    output = torch.tensor([[1.0, 2.0, 0.0]])
    loss = CONSISTENCY[name]
    one = loss(sure, output)
    both = loss(torch.cat([sure, unsure]), torch.cat([output, output]))
    assert one > 0
    torch.testing.assert_close(both, one / 2)
    assert loss(unsure, output) == 0


@pytest.mark.parametrize("name", CONSISTENCY)
def test_falls_along_its_gradient_and_agrees_with_differences(name, views):
    target, output = 5 * views[0], views[1].clone().requires_grad_()
    loss = CONSISTENCY[name]
    first = loss(target, output)
    (gradient,) = torch.autograd.grad(first, output)
    assert loss(target, output.detach() - 0.1 * gradient) < first
    assert torch.autograd.gradcheck(lambda o: loss(target, o), output)


@pytest.mark.parametrize("name", CONSISTENCY)
def test_half_precision_is_computed_in_single_also_under_autocast(name, views):
    halves = [x.bfloat16() for x in views]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = CONSISTENCY[name](*halves)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, CONSISTENCY[name](*(x.float() for x in halves)))


def test_uda_is_zero_where_the_strong_view_gives_the_sharpened_prediction(views):
    target = 5 * views[0]
    assert float(uda(target, target / 0.4)) == pytest.approx(0.0, abs=1e-12)


def test_other_shapes_are_an_error(views):
    for name in CONSISTENCY:
        with pytest.raises(UserError, match="logits"):
            CONSISTENCY[name](views[0][:3], views[1])
