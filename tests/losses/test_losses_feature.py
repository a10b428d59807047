"""Feature losses against loops over samples, their invariances, and what must hold of any of them."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from tutelage.errors import UserError
from tutelage.losses import feature as of_features
from tutelage.losses.feature import (
    attention_transfer,
    cosine_distance,
    cross_correlation,
    hint,
    probabilistic_transfer,
    relational,
    similarity_preserving,
)

FEATURE_LOSSES = {
    "hint": hint,
    "attention": attention_transfer,
    "relational": relational,
    "similarity": similarity_preserving,
    "pkt": probabilistic_transfer,
    "cross_correlation": cross_correlation,
}
N = 6


def features(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def rows():
    return features(N, 5, seed=0), features(N, 5, seed=1)


@pytest.fixture
def images():
    return features(N, 3, 4, 4, seed=2), features(N, 3, 4, 4, seed=3)


def huber(x):
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def cosine(a, b):
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


def test_hint_by_loop(rows):
    student, teacher = rows
    total = sum((float(student[i, j]) - float(teacher[i, j])) ** 2 for i in range(N) for j in range(5))
    assert float(hint(student, teacher)) == pytest.approx(total / (N * 5), rel=1e-12)


def test_attention_transfer_by_loop(images):
    student, teacher = images
    total = 0.0
    for i in range(N):
        maps = []
        for feature in (student[i], teacher[i]):
            values = [float(feature[:, h, w].abs().pow(2).mean()) for h in range(4) for w in range(4)]
            length = math.sqrt(sum(v * v for v in values))
            maps.append([v / length for v in values])
        total += sum((a - b) ** 2 for a, b in zip(*maps, strict=True))
    assert float(attention_transfer(student, teacher)) == pytest.approx(total / N, rel=1e-10)


def test_relational_distances_by_loop(rows):
    scaled = []
    for x in rows:
        distances = {(i, j): float((x[i] - x[j]).norm()) for i in range(N) for j in range(N) if i != j}
        mean = sum(distances.values()) / len(distances)
        scaled.append({pair: d / mean for pair, d in distances.items()})
    expected = sum(huber(scaled[0][pair] - scaled[1][pair]) for pair in scaled[0]) / len(scaled[0])
    assert float(relational(*rows, distance=1.0, angle=0.0)) == pytest.approx(expected, rel=1e-8)


def test_relational_angles_by_loop(rows):
    def angle(x, i, j, k):
        return cosine(x[i] - x[j], x[k] - x[j])

    triplets = list(itertools.permutations(range(N), 3))
    gaps = [huber(angle(rows[0], *t) - angle(rows[1], *t)) for t in triplets]
    expected = sum(gaps) / len(gaps)
    assert float(relational(*rows, distance=0.0, angle=1.0)) == pytest.approx(expected, rel=1e-8)
    both = relational(*rows, distance=1.0, angle=0.0) + 2 * expected
    assert float(relational(*rows)) == pytest.approx(float(both), rel=1e-8)


def test_similarity_preserving_by_loop(images):
    grams = []
    for x in images:
        gram = [[float((x[i] * x[j]).sum()) for j in range(N)] for i in range(N)]
        grams.append([[v / math.sqrt(sum(w * w for w in row)) for v in row] for row in gram])
    expected = sum((grams[0][i][j] - grams[1][i][j]) ** 2 for i in range(N) for j in range(N)) / N**2
    assert float(similarity_preserving(*images)) == pytest.approx(expected, rel=1e-10)


def test_probabilistic_transfer_by_loop(rows):
    student, teacher = rows
    total = 0.0
    for i in range(N):
        kernel = {
            x: {j: (cosine(f[i], f[j]) + 1) / 2 for j in range(N) if j != i}
            for x, f in (("s", student), ("t", teacher))
        }
        q, p = ({j: v / sum(kernel[x].values()) for j, v in kernel[x].items()} for x in ("s", "t"))
        total += sum(p[j] * math.log(p[j] / q[j]) for j in p)
    assert float(probabilistic_transfer(student, teacher)) == pytest.approx(total / N, rel=1e-8)


def test_neighbours_of_opposite_features_have_a_probability():
    teacher = torch.tensor([[1.0, 0], [-1, 0], [0.6, 0.8]], dtype=torch.float64)
    student = teacher.flip(0).requires_grad_()
    probabilistic_transfer(student, teacher).backward()
    assert student.grad.isfinite().all()
    kernel = [[1e-7, 0.8], [1e-7, 0.2], [0.8, 0.2]]
    q, p = (
        [[v / sum(row) for v in row] for row in k] for k in ([[0.2, 0.8], [0.2, 1e-7], [0.8, 1e-7]], kernel)
    )
    slow = sum(b * math.log(b / a) for x, y in zip(q, p, strict=True) for a, b in zip(x, y, strict=True)) / 3
    assert float(probabilistic_transfer(student, teacher)) == pytest.approx(slow, rel=1e-8)


def test_cross_correlation_by_loop(rows):
    columns = [[(x[:, d] - x[:, d].mean()) / x[:, d].std(unbiased=False) for d in range(5)] for x in rows]
    expected = 0.0
    for i in range(5):
        for j in range(5):
            c = float((columns[0][i] * columns[1][j]).mean())
            expected += (1 - c) ** 2 if i == j else 0.3 * c * c
    assert float(cross_correlation(*rows, redundancy=0.3)) == pytest.approx(expected / 5, rel=1e-4)


@pytest.mark.parametrize("name", FEATURE_LOSSES)
def test_zero_at_equality_positive_elsewhere_and_falls_along_its_gradient(name, images):
    student, teacher = images
    loss = FEATURE_LOSSES[name]
    if name != "cross_correlation":  # which also asks for uncorrelated dimensions
        assert float(loss(teacher.clone(), teacher)) == pytest.approx(0.0, abs=1e-12)
    student = student.clone().requires_grad_()
    first = loss(student, teacher)
    assert first > 1e-4
    (gradient,) = torch.autograd.grad(first, student)
    step = student.detach() - 0.05 / gradient.norm() * gradient
    assert loss(step, teacher) < first


def test_cross_correlation_is_zero_for_equal_features_of_uncorrelated_dimensions():
    x = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    assert float(cross_correlation(x, 3 * x + 1)) == pytest.approx(0.0, abs=1e-8)


@pytest.mark.parametrize("name", FEATURE_LOSSES)
def test_gradients_agree_with_differences(name):
    student, teacher = features(4, 2, 2, 2, seed=4).requires_grad_(), features(4, 2, 2, 2, seed=5)
    assert torch.autograd.gradcheck(lambda s: FEATURE_LOSSES[name](s, teacher), student)


@pytest.mark.parametrize("name", ["relational", "similarity", "pkt"])
def test_relations_do_not_see_rotation_scale_or_width(name, rows):
    student, teacher = rows
    loss = FEATURE_LOSSES[name]
    rotation, _ = torch.linalg.qr(features(5, 5, seed=6))
    expected = loss(student, teacher)
    torch.testing.assert_close(loss(7 * student @ rotation, teacher), expected)
    torch.testing.assert_close(loss(F.pad(student, (0, 3)), teacher), expected)
    if name == "relational":
        torch.testing.assert_close(loss(student + features(5, seed=7), teacher), expected)


def test_attention_sees_neither_channels_nor_scale_and_pools_to_the_smaller_map(images):
    student, teacher = images
    expected = attention_transfer(student, teacher)
    torch.testing.assert_close(attention_transfer(3 * student.repeat(1, 2, 1, 1), teacher), expected)
    small = F.avg_pool2d(teacher.square().mean(dim=1, keepdim=True), 2).sqrt()
    assert float(attention_transfer(small, teacher)) == pytest.approx(0.0, abs=1e-12)
    tokens = student.flatten(2).transpose(1, 2), teacher.flatten(2).transpose(1, 2)
    torch.testing.assert_close(attention_transfer(*tokens), expected)


@pytest.mark.parametrize("name", FEATURE_LOSSES)
def test_equal_samples_and_dead_units_give_finite_values_and_gradients(name, images):
    student = images[0].float().clone()
    student[0], student[1] = 0.0, student[2]
    student[:, 1] = 0.0
    student.requires_grad_()
    loss = FEATURE_LOSSES[name](student, images[1].float())
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all()
    assert student.grad.abs().max() < 1e3


@pytest.mark.parametrize("name", FEATURE_LOSSES)
def test_half_precision_is_computed_in_single_also_under_autocast(name, images):
    halves = [x.bfloat16() * 100 for x in images]
    expected = FEATURE_LOSSES[name](*(x.float() for x in halves))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = FEATURE_LOSSES[name](*halves)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("name", ["hint", "cross_correlation"])
def test_unequal_widths_are_an_error_that_names_the_way_out(name, rows):
    with pytest.raises(UserError, match="projector"):
        FEATURE_LOSSES[name](rows[0][:, :3], rows[1])


@pytest.mark.parametrize("name", ["relational", "similarity", "pkt"])
def test_relations_need_the_same_samples(name, rows):
    with pytest.raises(UserError, match="one batch"):
        FEATURE_LOSSES[name](rows[0][:4], rows[1])


def test_attention_needs_positions(rows):
    with pytest.raises(UserError, match="images"):
        attention_transfer(*rows)


SCALE_FREE = {
    "attention": attention_transfer,
    "attention, power 4": lambda s, t: attention_transfer(s, t, power=4.0),
    "relational": relational,
    "similarity": similarity_preserving,
    "pkt": probabilistic_transfer,
}


@pytest.mark.parametrize("name", SCALE_FREE)
@pytest.mark.parametrize("scale", [1e-20, 1e-12, 1e-8, 1e-6, 1e-5, 1e-3, 1e3, 1e8, 1e15])
def test_scale_is_not_seen_in_single_precision_however_small_or_large(name, scale, images):
    student, teacher = (image.float() for image in images)
    loss, student = SCALE_FREE[name], student.requires_grad_()
    (expected,) = torch.autograd.grad(value := loss(student, teacher), student)
    small = (scale * student.detach()).requires_grad_()
    (found,) = torch.autograd.grad(scaled := loss(small, teacher), small)
    torch.testing.assert_close(scaled, value, rtol=1e-4, atol=0)
    torch.testing.assert_close(found * scale, expected, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(loss(student.detach(), scale * teacher), value.detach(), rtol=1e-4, atol=0)
    torch.testing.assert_close(loss(scale * teacher, teacher), torch.zeros(()), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", SCALE_FREE)
def test_a_dead_student_has_a_gradient_of_zeros_and_a_tiny_sample_a_finite_one(name, images):
    teacher = images[1].float()
    dead = torch.zeros_like(teacher).requires_grad_()
    (gradient,) = torch.autograd.grad(SCALE_FREE[name](dead, teacher), dead)
    assert torch.equal(gradient, torch.zeros_like(gradient))
    mixed = images[0].float() * torch.tensor([1.0, 0.0, 1e-12, 1e-6, 1e-3, 1.0])[:, None, None, None]
    mixed.requires_grad_()
    loss = SCALE_FREE[name](mixed, teacher)
    assert loss.isfinite() and torch.autograd.grad(loss, mixed)[0].isfinite().all()


@pytest.mark.parametrize("size", [0.01, 1.0, 100.0])
def test_ordinary_magnitudes_give_the_numbers_of_the_plain_formula_to_the_last_bit(size, images):
    def unit(x):
        return x / x.norm(dim=-1, keepdim=True)

    def plain_attention(s, t):
        mine, theirs = (unit(x.abs().pow(2).mean(dim=1).flatten(1)) for x in (s, t))
        return (mine - theirs).square().sum(dim=1).mean()

    def plain_similarity(s, t):
        mine, theirs = (unit(x.flatten(1) @ x.flatten(1).T) for x in (s, t))
        return (mine - theirs).square().mean()

    student, teacher = size * images[0].float(), images[1].float()
    student.requires_grad_()
    for loss, plain in ((attention_transfer, plain_attention), (similarity_preserving, plain_similarity)):
        assert torch.equal(loss(student, teacher), plain(student, teacher))
        (ours,), (theirs,) = (torch.autograd.grad(f(student, teacher), student) for f in (loss, plain))
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", SCALE_FREE)
def test_a_feature_that_is_nan_is_not_taken_for_a_dead_one(name, images):
    student = images[0].float().clone()
    student[2, 1] = torch.nan
    assert SCALE_FREE[name](student, images[1].float()).isnan()


def test_the_cosine_distance_is_that_of_each_position_written_by_hand():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    cosines = []
    for n in range(2):
        for y in range(4):
            for x in range(5):
                a, b = student[n, :, y, x].tolist(), teacher[n, :, y, x].tolist()
                lengths = math.sqrt(sum(p * p for p in a)) * math.sqrt(sum(q * q for q in b))
                cosines.append(sum(p * q for p, q in zip(a, b, strict=True)) / lengths)
    wanted = 1 - sum(cosines) / len(cosines)
    assert float(cosine_distance(student, teacher)) == pytest.approx(wanted)
    tokens = [x.flatten(2).transpose(1, 2) for x in (student, teacher)]  # as a sequence's positions
    assert float(cosine_distance(*tokens)) == pytest.approx(wanted)
    scale = torch.rand(2, 1, 4, 5, generator=generator, dtype=torch.float64) + 0.1
    assert float(cosine_distance(scale * student, 7 * teacher)) == pytest.approx(wanted)
    assert float(cosine_distance(teacher, teacher)) == pytest.approx(0, abs=1e-12)
    zero = torch.zeros(2, 3, 4, 5, requires_grad=True)
    cosine_distance(zero, teacher.float()).backward()
    assert zero.grad.isfinite().all()
    with pytest.raises(UserError, match="one shape"):
        cosine_distance(student, teacher[:, :2])


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_a_dead_sample_changes_no_bit_of_the_others(power, size):
    """Which are taken by a shorter road where none of a batch is out of the ordinary."""
    torch.manual_seed(0)
    alive = size * torch.randn(4, 3, 5, 5)
    with_dead = torch.cat([alive, torch.zeros(1, 3, 5, 5)])
    for loss in (lambda x: of_features._attention(x, power), lambda x: of_features._unit(x.flatten(1))):
        out, gradients = [], []
        for x in (alive.clone().requires_grad_(), with_dead.clone().requires_grad_()):
            made = loss(x)
            made[:4].sum().backward()
            out.append(made[:4])
            gradients.append(x.grad[:4])
        assert torch.equal(*out) and torch.equal(*gradients)
