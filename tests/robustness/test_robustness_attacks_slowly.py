"""Attacks, typos and gaps against slow ones: one image or text at a time, in plain loops, in double precision."""

import math

import pytest
import torch
from torch import nn

from tutelage.errors import UserError
from tutelage.robustness import attacks
from tutelage.robustness.draws import Draws
from tutelage.robustness.pixels import Pixels
from tutelage.robustness.square import _side, square
from tutelage.robustness.typos_and_gaps import MISSING, TYPOS, missing, misspelt, typos

INDEX = torch.tensor([4, 900, 31, 77, 5])


@pytest.fixture(scope="module")
def problem():
    """A small network in double precision, images (5, 2, 3, 4) of which some touch 0 and 1, and classes of which one is wrong."""
    generator = torch.Generator().manual_seed(3)
    network = nn.Sequential(nn.Flatten(), nn.Linear(24, 9), nn.Tanh(), nn.Linear(9, 5)).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.9)
    network.requires_grad_(False)
    pixels = (torch.rand(5, 2, 3, 4, generator=generator, dtype=torch.float64) * 1.3 - 0.15).clamp(0, 1)
    order = network(pixels).argsort(1)
    targets = order[:, -1].clone()
    targets[3] = order[3, -2]
    return network, pixels, targets


def length(change):
    return math.sqrt(sum(float(v) ** 2 for v in change.flatten()))


def step_of(gradient, norm):
    return gradient.sign() if norm == "linf" else gradient / length(gradient)


def pulled(image, original, epsilon, norm):
    """The image brought within epsilon of the original, then into [0, 1]."""
    change = image - original
    if norm == "linf":
        change = change.clamp(-epsilon, epsilon)
    elif length(change) > epsilon:
        change = change * epsilon / length(change)
    return (original + change).clamp(0, 1)


def climbed(network, loss, image, target):
    """The loss of one image, its slope, and whether the answer is right."""
    image = image.clone().requires_grad_()
    logits = network(image[None])
    value = loss(logits, target[None])[0]
    (slope,) = torch.autograd.grad(value, image)
    return float(value.detach()), slope, int(logits.argmax()) == int(target)


def slow_apgd(network, original, target, epsilon, norm, steps, start, loss):
    period, shortest, shrinks = (max(int(share * steps), 1) for share in (0.22, 0.06, 0.03))
    image, before = start, start
    value, slope, right = climbed(network, loss, image, target)
    best, at_check = (value, image, slope), value
    wrong = None if right else image
    size, halved, rises, since = 2 * epsilon, True, 0, 0
    for number in range(steps):
        towards = pulled(image + size * step_of(slope, norm), original, epsilon, norm)
        moved = towards if number == 0 else image + 0.75 * (towards - image) + 0.25 * (image - before)
        before, image = image, pulled(moved, original, epsilon, norm)
        last = value
        value, slope, right = climbed(network, loss, image, target)
        wrong = wrong if right else image
        if value > best[0]:
            best = (value, image, slope)
        rises, since = rises + (value > last), since + 1
        if since == period:
            halved = rises <= 0.75 * period or (not halved and best[0] <= at_check)
            at_check = best[0]
            if halved:
                size, image, slope = size / 2, best[1], best[2]
            period, rises, since = max(period - shrinks, shortest), 0, 0
    return best[1] if wrong is None else wrong


@pytest.mark.parametrize(("steps", "epsilon"), [(70, 0.02), (70, 0.2), (3, 0.1), (17, 0.05)])
@pytest.mark.parametrize("norm", attacks.NORMS)
def test_apgd_is_the_slow_one(problem, norm, steps, epsilon):
    network, pixels, targets = problem
    begun = attacks.random_start(pixels, epsilon, norm, Draws(INDEX, "slow")).double()
    for start in (None, begun):
        for loss in (attacks.cross_entropy, attacks.dlr):
            found = attacks.apgd(
                network, pixels, targets, epsilon=epsilon, norm=norm, steps=steps, start=start, loss=loss
            )
            for k in range(5):
                at = pixels[k] if start is None else start[k]
                wanted = slow_apgd(network, pixels[k], targets[k], epsilon, norm, steps, at, loss)
                torch.testing.assert_close(found[k], wanted, atol=1e-9, rtol=0)


@pytest.mark.parametrize("norm", attacks.NORMS)
def test_a_loss_that_only_stays_has_not_risen(norm):
    """Of equal losses the first image is the best; without a rise the step is halved, and the best image gone back to."""
    seen, pixels = [], torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64)

    def flat(images):  # a slope, but no change
        seen.append(float(images.detach()))
        return torch.cat([images - images.detach(), 0 * images.detach()], 1).flatten(1)

    found = attacks.apgd(
        flat, pixels, torch.tensor([0]), epsilon=0.1, norm=norm, steps=10, loss=lambda z, _: z[:, 0]
    )
    assert torch.equal(found, pixels)
    # two steps of 0.2, cut to 0.1; then from 0.5 one of 0.1: 0.75 x 0.1 along, 0.25 x 0.1 back from the image before
    assert seen[:4] == pytest.approx([0.5, 0.6, 0.6, 0.55])


def slow_square(network, original, target, epsilon, norm, queries, draws):
    """One image; draws: its own."""
    channels, height, width = original.shape

    def reached(change):
        if norm == "l2":
            change = change * epsilon / length(change)
        return pulled(original + change, original, epsilon, norm)

    def margin_of(image):
        logits = network(image[None])[0].tolist()
        own = logits.pop(int(target))
        return own - max(logits)

    stripes = draws.uniform(channels, 1, width, name="stripes")[0]
    image = reached(torch.where(stripes < 0.5, epsilon, -epsilon).double().expand_as(original))
    least = margin_of(image)
    for query in range(1, queries):
        if least <= 0:
            break
        halvings = sum(
            10_000 * query > at * queries for at in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
        )
        side = max(1, min(round(math.sqrt(0.8 * height * width / 2**halvings)), height, width))
        drawn = draws.uniform(2 + channels, name=("square", query))[0].tolist()
        row, column = (int(u * (whole - side + 1)) for u, whole in zip(drawn, (height, width), strict=False))
        change = image - original
        for channel, u in enumerate(drawn[2:]):
            sign = epsilon if u < 0.5 else -epsilon
            part = change[channel, row : row + side, column : column + side]
            part[:] = sign if norm == "linf" else part + sign / (side * math.sqrt(channels))
        tried = reached(change)
        if margin_of(tried) < least:
            image, least = tried, margin_of(tried)
    return image


@pytest.mark.parametrize("norm", attacks.NORMS)
def test_square_is_the_slow_one(problem, norm):
    network, pixels, targets = problem
    draws, epsilon = Draws(INDEX, "squares"), 0.06
    found = square(network, pixels, targets, epsilon=epsilon, norm=norm, queries=120, draws=draws)
    for k in range(5):
        alone = draws.rows(torch.tensor([k]))
        wanted = slow_square(network, pixels[k], targets[k], epsilon, norm, 120, alone)
        torch.testing.assert_close(found[k], wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("query", "queries", "side", "narrow"),
    [(10, 10_000, 29, 5), (11, 10_000, 20, 5), (50, 10_000, 20, 5), (51, 10_000, 14, 5), (1, 1000, 29, 5),
     (2, 1000, 20, 5), (2000, 10_000, 5, 2), (8000, 10_000, 2, 1), (8001, 10_000, 1, 1), (999, 1000, 1, 1)],
)  # fmt: skip
def test_a_square_halves_its_area_after_the_papers_queries(query, queries, side, narrow):
    # the root of 0.8 x height x width / 2^halvings, at least a pixel and no longer than a side
    assert _side(query, queries, 32, 32) == side
    assert _side(query, queries, 32, 5) == _side(query, queries, 5, 32) == narrow


def test_a_random_start_fills_the_ball_evenly(problem):
    _, pixels, _ = problem
    draws, epsilon = Draws(INDEX, "begin"), 0.3
    found = attacks.random_start(pixels, epsilon, "linf", draws)
    u = draws.uniform(2, 3, 4, name="start").double()
    torch.testing.assert_close(found, (pixels - epsilon + 2 * epsilon * u).clamp(0, 1), atol=1e-6, rtol=0)
    middle = torch.full_like(pixels, 0.5)
    found = attacks.random_start(middle, epsilon, "l2", draws) - 0.5
    z, radius = draws.normal(2, 3, 4, name="start").double(), draws.uniform(1, 1, 1, name="radius").double()
    for k in range(5):  # of 24 dimensions: the share of the ball within r is r^24
        wanted = z[k] / length(z[k]) * epsilon * float(radius[k]) ** (1 / 24)
        torch.testing.assert_close(found[k], wanted, atol=1e-6, rtol=0)


def test_where_there_is_no_slope_or_no_size_nothing_moves(problem):
    _, pixels, targets = problem
    for norm in attacks.NORMS:
        assert torch.equal(attacks.direction(torch.zeros_like(pixels), norm), torch.zeros_like(pixels))
        flat = attacks.pgd(
            lambda x: 0 * x.flatten(1)[:, :5], pixels, targets, epsilon=0.1, norm=norm, steps=2
        )
        assert torch.equal(flat, pixels)
        attacks.check(norm, 0)
        for epsilon in (-1e-9, math.nan):
            with pytest.raises(UserError, match="`epsilon` must be at least 0"):
                attacks.check(norm, epsilon)


def test_losses_of_few_classes_and_of_ties():
    z, y, t = torch.tensor([[2.0, -1.0, 0.5, 3.5]]), torch.tensor([0]), torch.tensor([2])
    targeted = attacks.targeted_dlr(t)
    assert attacks.dlr(z[:, :2], y).tolist() == [-3.0]  # minus the margin, 2 - -1
    assert attacks.dlr(z[:, :3], y).tolist() == pytest.approx([-1.5 / 3.0])
    assert targeted(z[:, :3], y).tolist() == [-1.5]  # 0.5 - 2, without a divisor
    assert targeted(z, y).tolist() == pytest.approx([-1.5 / (3.5 - (0.5 - 1.0) / 2)])
    tied = torch.tensor([[0.0, 1.0, 1.0, 1.0, 1.0]])  # a divisor of 0: the loss stays high, and on its side
    assert attacks.dlr(tied, y) > 1e6 and attacks.targeted_dlr(t)(tied, y) > 1e6


def test_mixed_targets_are_attacked_and_are_never_answered_wrongly(problem):
    network, pixels, targets = problem
    mixed = nn.functional.one_hot(targets, 5).double() * 0.8 + 0.04
    values, slope, right = attacks.raised(network, pixels, mixed, attacks.cross_entropy)
    logp = network(pixels).log_softmax(1)
    torch.testing.assert_close(values, -(mixed * logp).sum(1))
    assert slope.shape == pixels.shape and right.tolist() == [True] * 5
    assert attacks.raised(network, pixels, targets, attacks.cross_entropy)[2].tolist() == [True] * 3 + [
        False,
        True,
    ]


def test_pixels_are_the_inputs_before_their_normalisation():
    inputs = torch.tensor([[-1.0, 0.4], [0.25, 2.0]], dtype=torch.float64).view(2, 2, 1, 1)
    pixels = Pixels([[0.5, 0.25], [0.5, 0.3]], inputs)
    assert pixels.of(inputs).flatten().tolist() == pytest.approx([0, 0.37, 0.625, 0.85])
    torch.testing.assert_close(pixels.normalised(pixels.of(inputs)), inputs)
    plain = Pixels(None, inputs.clamp(0, 1))
    assert torch.equal(plain.of(inputs), inputs) and torch.equal(plain.normalised(inputs), inputs)


@pytest.mark.parametrize(
    ("example", "said"),
    [
        ([0.0, 1.0], ""),
        ([-0.001, 1.0], ""),
        ([-0.0011, 1.0], "images hold -0.0011 to 1 before"),
        ([0.0, 1.001], ""),
        ([0.0, 1.0011], "images hold 0 to 1 before"),
    ],
)
def test_pixels_may_lie_a_rounding_outside(example, said):
    example = torch.tensor(example, dtype=torch.float64).view(2, 1, 1, 1)
    if not said:
        Pixels(None, example)
        return
    with pytest.raises(UserError, match=said):
        Pixels(None, example)


@pytest.mark.parametrize(
    ("example", "what"),
    [
        (torch.zeros(2, 5), r"inputs of shape \(5,\)"),
        (torch.zeros(2, 5, dtype=torch.long), "tokens"),
        (torch.zeros(2, 1, 3, 3, dtype=torch.long), "tokens"),
    ],
)
def test_what_is_no_image_is_not_attacked(example, what):
    with pytest.raises(UserError, match=f"attacks change the pixels of images, got {what}$"):
        Pixels(None, example)


@pytest.mark.parametrize(
    ("word", "kind", "place", "other", "wanted"),
    [
        ("film", 0.24, 0.0, 0.0, "iflm"),
        ("film", 0.24, 0.5, 0.0, "fiml"),
        ("film", 0.24, 0.99, 0.0, "fil"),  # nothing follows the last letter: it is left out
        ("film", 0.25, 0.3, 0.0, "flm"),
        ("film", 0.49, 0.0, 0.0, "ilm"),
        ("film", 0.5, 0.3, 0.0, "fiilm"),
        ("film", 0.74, 0.99, 0.0, "filmm"),
        ("film", 0.75, 0.3, 0.0, "falm"),
        ("film", 0.99, 0.99, 0.999, "filz"),
        ("of", 0.1, 0.4, 0.0, "fo"),
        ("of", 0.3, 0.6, 0.0, "o"),
        ("a", 0.1, 0.5, 0.0, "aa"),  # one letter is neither swapped nor left out
        ("a", 0.8, 0.5, 0.5, "n"),
    ],
)
def test_a_typo_of_each_kind(word, kind, place, other, wanted):
    assert misspelt(word, kind, place, other) == wanted


@pytest.mark.parametrize("severity", [1, 5])
@pytest.mark.parametrize("words", [True, False])
def test_typos_are_the_slow_ones(words, severity):
    n, long = 400, 7
    index = torch.arange(n) * 13
    entries = ["<pad>", "<unk>", "a", "ab", "ba", "b", "aab", "abb"]
    tokens = torch.randint(1, len(entries), (n, long), generator=torch.Generator().manual_seed(0))
    real = torch.arange(long) < torch.arange(n)[:, None] % long + 1
    tokens[~real] = 0
    found = typos(tokens, real, severity, index, entries=entries, words=words)
    draws = Draws(index, "typos")
    hits, kinds, places, others = (
        draws.uniform(long, name=name).tolist() for name in ("hit", "kind", "place", "other")
    )
    share = TYPOS[severity - 1] * (1 if words else 0.25)
    for row in range(n):
        text, wanted = tokens[row].tolist(), tokens[row].tolist()
        for at in range(int(real[row].sum())):
            if hits[row][at] >= share or text[at] < 2:
                continue
            kind, place, other = kinds[row][at], places[row][at], others[row][at]
            if words:
                word = misspelt(entries[text[at]], kind, place, other)
                wanted[at] = entries.index(word) if word in entries else 1
            elif kind >= 0.5:
                wanted[at] = 2 + int(other * 6)
            elif at + 1 < int(real[row].sum()):
                wanted[at] = text[at + 1]
                if not (hits[row][at + 1] < share and text[at + 1] >= 2):  # which has a typo of its own
                    wanted[at + 1] = text[at]
        assert found[row].tolist() == wanted, row
    assert (found != tokens).any()


def test_what_is_missing_is_what_the_draws_say():
    values = torch.arange(1.0, 61.0).view(3, 5, 4)
    index = torch.tensor([8, 2, 300])
    u = Draws(index, "missing").uniform(5, 4)
    for severity in range(1, 6):
        gone = missing(values, severity, index)
        for place in torch.cartesian_prod(*map(torch.arange, values.shape)).tolist():
            at = tuple(place)
            assert gone[at] == (0 if u[at] < MISSING[severity - 1] else values[at])
