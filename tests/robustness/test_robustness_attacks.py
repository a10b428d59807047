"""Attacks against slow references and against what a maintained library reaches on the same network."""

import pytest
import torch
from torch import nn

from tutelage.errors import UserError
from tutelage.robustness import attacks
from tutelage.robustness.draws import Draws
from tutelage.robustness.pixels import Pixels
from tutelage.robustness.square import square


def waves(*shape, rate):
    n = torch.Size(shape).numel()
    return torch.sin(rate * torch.arange(n, dtype=torch.float64) ** 1.5).reshape(shape).float()


@pytest.fixture(scope="module")
def problem():
    """A network of fixed weights, images, and the classes that it gives them."""
    layers = [nn.Linear(64, 48), nn.Linear(48, 32), nn.Linear(32, 10)]
    network = nn.Sequential(nn.Flatten(), layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    with torch.no_grad():
        for number, layer in enumerate(layers):
            layer.weight.copy_(
                waves(*layer.weight.shape, rate=0.7 + number) * (2 / layer.in_features) ** 0.5 * 1.4
            )
            layer.bias.zero_()
    network.requires_grad_(False)
    pixels = 0.5 + 0.5 * waves(128, 1, 8, 8, rate=0.37)
    return network, pixels, network(pixels).argmax(1)


def left(problem, images):
    network, _, targets = problem
    return int((network(images).argmax(1) == targets).sum())


INDEX = torch.arange(128)

# torchattacks 3.5.1 on the network above: samples of 128 still answered rightly. FGSM and PGD (10 steps of epsilon / 4 from the images)
# are deterministic, and were the same image by image (largest difference 2e-9); APGD (50 steps) and Square (1,000 queries) draw.
LIBRARY = {
    ("linf", 0.02): {"fgsm": 71, "pgd": 70, "apgd": 68, "dlr": 54, "targeted": 54, "square": 67},
    ("linf", 0.04): {"fgsm": 35, "pgd": 30, "apgd": 29, "dlr": 24, "targeted": 23, "square": 35},
    ("l2", 0.15): {"pgd": 61, "apgd": 61, "dlr": 46, "targeted": 46, "square": 74},
    ("l2", 0.3): {"pgd": 24, "apgd": 23, "dlr": 15, "targeted": 14, "square": 37},
}
DRAWN = 6  # samples by which two searches with other draws may differ


@pytest.mark.parametrize(("norm", "epsilon"), LIBRARY)
def test_attacks_reach_what_a_maintained_library_reaches(problem, norm, epsilon):
    network, pixels, targets = problem
    wanted = LIBRARY[norm, epsilon]
    same = {"epsilon": epsilon, "norm": norm}
    found = attacks.pgd(network, pixels, targets, steps=10, step=epsilon / 4, **same)
    assert left(problem, found) == wanted["pgd"]
    if "fgsm" in wanted:
        assert left(problem, attacks.fgsm(network, pixels, targets, **same)) == wanted["fgsm"]
    start = attacks.random_start(pixels, epsilon, norm, Draws(INDEX, "test"))
    for name, loss in (("apgd", attacks.cross_entropy), ("dlr", attacks.dlr)):
        found = attacks.apgd(network, pixels, targets, steps=50, start=start, loss=loss, **same)
        assert left(problem, found) <= wanted[name] + DRAWN
        assert (found - pixels).abs().max() <= epsilon + 1e-6 and 0 <= found.min() <= found.max() <= 1
        assert attacks.lengths(found - pixels).max() <= (epsilon if norm == "l2" else 8 * epsilon) + 1e-5
    order, worst = network(pixels).argsort(1, descending=True), pixels.clone()
    for goal in range(1, 10):
        rows = (network(worst).argmax(1) == targets).nonzero()[:, 0]
        loss = attacks.targeted_dlr(order[rows, goal])
        worst[rows] = attacks.apgd(
            network, pixels[rows], targets[rows], steps=50, start=start[rows], loss=loss, **same
        )
    assert abs(left(problem, worst) - wanted["targeted"]) <= DRAWN
    found = square(network, pixels, targets, queries=1000, draws=Draws(INDEX, "square"), **same)
    assert left(problem, found) <= wanted["square"] + DRAWN
    assert attacks.lengths(found - pixels).max() <= (epsilon if norm == "l2" else 8 * epsilon) + 1e-5


def test_pgd_is_the_slow_one_sample_by_sample(problem):
    network, pixels, targets = problem
    for norm, epsilon in (("linf", 0.05), ("l2", 0.4)):
        start = attacks.random_start(pixels[:4], epsilon, norm, Draws(INDEX[:4], "slow"))
        found = attacks.pgd(
            network, pixels[:4], targets[:4], epsilon=epsilon, norm=norm, steps=3, start=start
        )
        for number in range(4):
            x, image = pixels[number], start[number].clone()
            for _ in range(3):
                image = image.clone().requires_grad_()
                logits = network(image[None])[0]
                (-logits.log_softmax(0)[targets[number]]).backward()
                g, length = image.grad, 2.5 * epsilon / 3
                with torch.no_grad():
                    image = image + (length * g.sign() if norm == "linf" else length * g / g.norm())
                    for place in torch.cartesian_prod(*map(torch.arange, x.shape)).tolist():
                        at = tuple(place)
                        if norm == "linf":
                            image[at] = min(max(image[at], x[at] - epsilon), x[at] + epsilon)
                    if norm == "l2" and (image - x).norm() > epsilon:
                        image = x + (image - x) * epsilon / (image - x).norm()
                    image = image.clamp(0, 1)
            torch.testing.assert_close(found[number], image, atol=1e-6, rtol=0)


def test_the_losses_are_the_papers_row_by_row():
    logits = waves(6, 5, rate=0.9) * 3
    targets, wanted = torch.tensor([0, 1, 2, 3, 4, 0]), torch.tensor([1, 2, 3, 4, 0, 4])
    for number in range(6):
        z, y, t = logits[number].tolist(), int(targets[number]), int(wanted[number])
        ordered = sorted(z, reverse=True)
        best = max(v for k, v in enumerate(z) if k != y)
        row = slice(number, number + 1)
        assert attacks.margin(logits, targets)[number] == pytest.approx(z[y] - best)
        assert attacks.dlr(logits, targets)[number] == pytest.approx(
            -(z[y] - best) / (ordered[0] - ordered[2]), rel=1e-5
        )
        found = attacks.targeted_dlr(wanted[row])(logits[row], targets[row])
        assert float(found) == pytest.approx(
            -(z[y] - z[t]) / (ordered[0] - (ordered[2] + ordered[3]) / 2), rel=1e-5
        )
    scaled = attacks.dlr(7 * logits, targets)
    torch.testing.assert_close(scaled, attacks.dlr(logits, targets))
    few = logits[:, :2]
    assert attacks.dlr(few, targets % 2).isfinite().all()


def test_no_sample_depends_on_the_others(problem):
    network, pixels, targets = problem
    draws = Draws(INDEX, "alone")
    rows = torch.tensor([90, 3, 41])
    for norm in attacks.NORMS:
        start = attacks.random_start(pixels, 0.1, norm, draws)
        assert torch.equal(
            start[rows], attacks.random_start(pixels[rows], 0.1, norm, Draws(INDEX[rows], "alone"))
        )
        whole = square(network, pixels, targets, epsilon=0.03, norm=norm, queries=40, draws=draws)
        some = square(
            network, pixels[rows], targets[rows], epsilon=0.03, norm=norm, queries=40, draws=draws.rows(rows)
        )
        torch.testing.assert_close(whole[rows], some)


def test_draws_are_uniform_normal_and_of_their_purpose():
    draws = Draws(torch.arange(4000), "one")
    u, z = draws.uniform(9), draws.normal(9)
    assert u.min() > 0 and u.max() < 1 and abs(float(u.mean()) - 0.5) < 0.01
    assert abs(float(u.var()) - 1 / 12) < 0.002
    assert abs(float(z.mean())) < 0.02 and abs(float(z.std()) - 1) < 0.02 and z.isfinite().all()
    both = torch.cat([u, Draws(torch.arange(4000), "two").uniform(9)], dim=1)
    correlation = torch.corrcoef(both.T) - torch.eye(18)
    assert correlation.abs().max() < 0.07
    assert torch.corrcoef(torch.stack([u[:-1, 0], u[1:, 0]]))[0, 1].abs() < 0.07
    assert torch.equal(draws.uniform(3), draws.uniform(3)) and not torch.equal(
        draws.uniform(3), draws.uniform(3, name="other")
    )


def test_what_is_no_size_norm_or_image_is_one_message(problem):
    network, pixels, targets = problem
    with pytest.raises(UserError, match="`norm`='l1' is not known"):
        attacks.pgd(network, pixels, targets, epsilon=0.1, norm="l1", steps=1)
    with pytest.raises(UserError, match="`epsilon` must be at least 0"):
        attacks.fgsm(network, pixels, targets, epsilon=-1)
    with pytest.raises(UserError, match="images hold -1 to 1 before"):
        Pixels(None, 2 * pixels - 1)
    with pytest.raises(UserError, match="pixels of images, got tokens"):
        Pixels(None, torch.zeros(2, 5, dtype=torch.long))
    exact = Pixels([[0.5], [0.5]], 2 * pixels - 1)
    torch.testing.assert_close(exact.of(exact.normalised(pixels)), pixels)
