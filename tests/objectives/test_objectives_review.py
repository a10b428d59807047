"""ReviewKD against loops over pairs and positions, and what it refuses."""

from types import SimpleNamespace

import pytest
import torch

from small_runs import SMALL, TEACHER
from tutelage.config.compose import compose
from tutelage.engine.build import build
from tutelage.errors import UserError
from tutelage.losses.projected import hierarchical
from tutelage.objectives.review import Fusion, ReviewKD

AT = "method.objectives.feature"
CONV = ["model=cifar", "model.name=resnet8", "model@teacher=cifar", "teacher.name=resnet14"]
STAGES = f"{AT}.pairing={{strategy: explicit, k: null, pairs: [[layer1, layer1], [layer2, layer2], [layer3, layer3], [avgpool, avgpool]]}}"


def averaged(x, side):
    """Means over the bins of an adaptive pooling, by loops."""
    n, c, h, w = x.shape
    out = torch.zeros(n, c, side, side, dtype=x.dtype)
    for i in range(side):
        for j in range(side):
            rows = slice(i * h // side, -(-(i + 1) * h // side))
            columns = slice(j * w // side, -(-(j + 1) * w // side))
            out[:, :, i, j] = x[:, :, rows, columns].mean(dim=(2, 3))
    return out


@pytest.mark.parametrize(
    ("size", "sides"), [(8, (4, 2, 1)), (7, (4, 2, 1)), (6, (4, 2, 1)), (4, (2, 1)), (3, (2, 1)), (1, ())]
)
def test_hierarchical_by_loop(size, sides):
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(3, 2, size, size, generator=g, dtype=torch.float64) for _ in range(2))
    total, weights = (x - y).square().mean(), [1.0]
    for side in sides:
        weights.append(weights[-1] / 2)
        total = total + weights[-1] * (averaged(x, side) - averaged(y, side)).square().mean()
    assert float(hierarchical(x, y)) == pytest.approx(float(total) / sum(weights), rel=1e-12)
    assert float(hierarchical(x, x)) == 0
    with pytest.raises(UserError, match=r"maps .* alike"):
        hierarchical(x, y[:, :1])


def normed(x):
    """A batch norm as it starts, over all but channels."""
    x = x - x.mean(dim=(0, 2, 3), keepdim=True)
    return x / (x.square().mean(dim=(0, 2, 3), keepdim=True) + 1e-5).sqrt()


def nearest(x, size):
    places = [i * x.shape[2] // size for i in range(size)]
    return x[:, :, places][:, :, :, places]


def test_a_fusion_weighs_each_position_of_its_own_feature_and_of_what_came_from_below():
    torch.manual_seed(0)
    fusion = Fusion((3, 8, 8), (5, 4, 4), 2, fuses=True).double()
    feature, below = torch.randn(2, 3, 8, 8).double(), torch.randn(2, 2, 4, 4).double()
    out, on = fusion.review(feature, below, (4, 4))
    mine = normed(torch.einsum("oc,nchw->nohw", fusion.enter[0].weight[:, :, 0, 0], feature))
    up = nearest(below, 8)
    weight, bias = fusion.attention.weight[:, :, 0, 0], fusion.attention.bias
    gates = torch.einsum("oc,nchw->nohw", weight, torch.cat([mine, up], 1)) + bias[None, :, None, None]
    gates = 1 / (1 + (-gates).exp())
    expected = nearest(mine * gates[:, 0, None] + up * gates[:, 1, None], 4)
    assert torch.allclose(on, expected)
    padded = torch.nn.functional.pad(expected, (1, 1, 1, 1))
    kernel = fusion.leave[0].weight
    convolved = sum(
        torch.einsum("oc,nchw->nohw", kernel[:, :, i, j], padded[:, :, i : i + 4, j : j + 4])
        for i in range(3)
        for j in range(3)
    )
    assert torch.allclose(out, normed(convolved))


def test_stages_and_the_pooled_feature_meet_the_teachers_and_the_shallow_ones_hear_of_the_deep_ones(tmp_path):
    small = [word for word in SMALL if not word.startswith("model")]
    words = [*small, f"runs_dir={tmp_path}", "method=feature_distillation", f"objective@{AT}=review", *CONV]
    method = build(compose([*words, STAGES])).method
    review = method.objectives["feature"]
    assert [fusion.attention is None for fusion in review.projectors] == [False, False, False, True]
    stream = build(compose([*words, STAGES])).data.train_stream(seed=0, device="cpu")
    stream.seek(0, 1)
    taken = method.objectives.take(next(iter(stream)), lambda inputs, mask: method.network(inputs))
    value = review.loss(taken)
    changed = dict(taken.activations) | {"avgpool": torch.randn_like(taken.activations["avgpool"])}
    teacher = taken.frozen["teacher"]
    first = []
    for activations in (taken.activations, changed):
        below = None
        for pair, fusion in zip(reversed(review.pairs), reversed(review.projectors), strict=True):
            size = teacher.activations[pair.guide.name].shape[2:]
            out, below = fusion.review(activations[pair.network.name], below, size)
        first.append(out)
    assert not torch.allclose(*first)
    assert value.isfinite() and value > 0


def test_a_width_of_nothing_is_refused(tmp_path):
    words = [
        *SMALL,
        f"runs_dir={tmp_path}",
        "method=feature_distillation",
        f"objective@{AT}=review",
        *TEACHER,
    ]
    with pytest.raises(UserError, match=r"method\.objectives\.feature\.width must be at least 1"):
        build(compose([*words, f"{AT}.width=0"]))


@pytest.mark.parametrize("shapes", [((4, 8), (6, 8, 8)), ((4, 8, 8), (6, 8))])
def test_a_sequence_on_either_side_is_refused(shapes):
    mine, theirs = (SimpleNamespace(name="layer", shape=shape) for shape in shapes)
    objective = ReviewKD(network="teacher")
    objective.pairs = [SimpleNamespace(network=mine, guide=theirs)]
    with pytest.raises(UserError, match="choose hint or srd"):
        objective.make_projectors()
