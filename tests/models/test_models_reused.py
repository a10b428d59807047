"""A network that ends in its teacher's classifier: it is cut where its map is, takes the teacher's layer, and needs no teacher after."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tutelage.errors import UserError
from tutelage.models.cifar import cifar
from tutelage.models.convnet import ConvNet
from tutelage.models.frozen import FrozenNetwork
from tutelage.models.reused import ReusedClassifier, last_map
from tutelage.objectives.simkd import SimKD
from tutelage.objectives.total import Objectives

SHAPE = (3, 16, 16)
X = torch.rand(4, *SHAPE)


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "vgg8", "shufflenetv2"])
def test_a_student_is_cut_at_its_last_map_and_loses_its_final_layer(name):
    torch.manual_seed(0)
    network = cifar(SHAPE, 10, name)
    inputs: list[torch.Tensor] = []
    final = list(network.modules())[-1]
    final.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    network.eval()(X)
    before = sum(p.numel() for p in network.parameters())
    student = ReusedClassifier(network, SHAPE, 10, width=32).eval()
    found = next(iter(student.features(X).values()))
    assert found.ndim == 4 and torch.allclose(found.mean((2, 3)), inputs[0], atol=1e-5)
    kept = sum(p.numel() for p in student.features.parameters())
    assert kept == before - sum(p.numel() for p in final.parameters())


def test_simkd_is_the_mean_squared_difference_of_the_two_maps_and_the_classifier_the_teachers():
    torch.manual_seed(0)
    teacher = cifar(SHAPE, 10, "resnet20")
    student = ReusedClassifier(ConvNet(SHAPE, 10, width=8), SHAPE, 10, width=64)
    total = Objectives(student, {"feature": SimKD(network="teacher")}, frozen={"teacher": teacher}, example=X)
    assert torch.equal(student.head.weight, teacher.fc.weight)
    assert torch.equal(student.head.bias, teacher.fc.bias)
    loss = total(X, torch.zeros(4, dtype=torch.long))
    with torch.no_grad():  # slowly: both maps by hand, the batch's statistics in the student
        h = teacher.eval().relu(teacher.bn1(teacher.conv1(X)))
        theirs = teacher.layer3(teacher.layer2(teacher.layer1(h)))
        mine = next(iter(student.features(X).values()))
        for conv, norm in zip(student.projector[::3], student.projector[1::3], strict=True):
            mine = F.relu(F.batch_norm(conv(mine), None, None, norm.weight, norm.bias, training=True))
    assert loss.item() == pytest.approx(((mine - theirs) ** 2).mean().item(), rel=1e-5)
    loss.backward()
    assert student.head.weight.grad is None
    assert all(p.grad is not None for n, p in student.named_parameters() if not n.startswith("head"))


def test_the_kept_network_runs_without_its_teacher():
    student = ReusedClassifier(cifar(SHAPE, 10, "resnet8"), SHAPE, 10, width=64)
    student.take_head(nn.Linear(64, 10))
    other = ReusedClassifier(cifar(SHAPE, 10, "resnet8"), SHAPE, 10, width=64)
    with pytest.raises(UserError, match="objective simkd brings"):
        other.train()(X)
    other.load_state_dict(student.state_dict())
    assert torch.equal(other.eval()(X), student.eval()(X))
    other.train()(X)


def test_what_does_not_fit_is_a_message():
    student = ReusedClassifier(cifar(SHAPE, 10, "resnet8"), SHAPE, 10, width=32)
    with pytest.raises(UserError, match="maps 64 features to 10 classes, the student's 32"):
        student.take_head(nn.Linear(64, 10))
    with pytest.raises(UserError, match="divide"):
        ReusedClassifier(cifar(SHAPE, 10, "resnet8"), SHAPE, 10, width=33)
    flat = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 14 * 14, 10))
    with pytest.raises(UserError, match="no mean over the positions"):
        last_map(FrozenNetwork(flat).network, X)
    with pytest.raises(UserError, match="model=simkd"):
        Objectives(
            flat,
            {"feature": SimKD(network="teacher")},
            frozen={"teacher": cifar(SHAPE, 10, "resnet8")},
            example=X,
        )
