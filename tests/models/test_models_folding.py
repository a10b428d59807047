"""Folded norms: the same outputs but for rounding, only where that holds, and the frozen network as it was."""

import pytest
import torch
from torch import nn

from small_runs import SMALL, TEACHER
from tutelage.config.compose import compose
from tutelage.engine.build import build
from tutelage.errors import UserError
from tutelage.models.cifar import cifar
from tutelage.models.convnet import ConvNet
from tutelage.models.folding import folded
from tutelage.models.frozen import FrozenNetwork
from tutelage.tasks import Batch

IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def trained(network):
    """Give norms statistics and affine parts that are no identity."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            nn.init.normal_(module.weight, 1, 0.2, generator=generator)
            nn.init.normal_(module.bias, 0, 0.2, generator=generator)
    return network.eval()


class NormFirst(nn.Module):
    """A norm whose convolution is also read past it, one before its convolution, and one after a plain pair."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.later, self.second = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        self.skips = True

    def forward(self, images):
        out = self.first(images)
        return self.second(self.later(self.norm(out).relu())).mean((2, 3)) + self.skips * out.mean((2, 3))


@pytest.mark.parametrize(
    "make", [lambda: cifar((3, 16, 16), 10, "resnet8"), lambda: ConvNet((3, 16, 16), 10, width=4)]
)
def test_outputs_are_the_same_but_for_rounding_and_the_network_is_as_it_was(make):
    network = trained(make())
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    frozen, plain = FrozenNetwork(network), network(IMAGES)
    before = frozen.digest()
    assert frozen.fold_norms(IMAGES[:2]) == norms
    assert frozen.digest() == before and torch.equal(network(IMAGES), plain)
    assert not torch.equal(frozen(IMAGES), plain)  # which says that the copy runs
    torch.testing.assert_close(frozen(IMAGES), plain, rtol=1e-4, atol=1e-5)
    assert frozen.to(torch.float64)(IMAGES.double()).dtype == torch.float64
    assert not list(frozen.parameters()) and not frozen.state_dict()


def test_a_convolution_that_something_else_reads_folds_nothing_and_a_norm_before_its_convolution_stays():
    network = trained(NormFirst())
    assert folded(network, lambda net: net(IMAGES)) == (network, 0)
    network.skips = False
    made, count = folded(network, lambda net: net(IMAGES))
    assert count == 1 and isinstance(made.norm, nn.Identity) and isinstance(made.later, nn.BatchNorm2d)
    torch.testing.assert_close(made(IMAGES), network(IMAGES))
    assert (
        folded(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train(), lambda net: net(IMAGES))[1] == 0
    )


def test_a_teacher_read_by_its_output_is_folded_and_what_is_tapped_is_refused(tmp_path):
    def method(*words, fold="true"):
        return build(compose([*SMALL, *words, f"hardware.fold_norms={fold}", f"runs_dir={tmp_path}"])).method

    images, losses = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)), {}
    for fold in ("true", "false"):
        made = method("method=distillation", *TEACHER, fold=fold)
        teacher = made.frozen["teacher"]
        assert (teacher._folded is not teacher.network) == (fold == "true")
        losses[fold] = made.losses(Batch(images, torch.arange(8), torch.arange(8)))["soft"]
    torch.testing.assert_close(losses["true"], losses["false"])
    hint = ["method=feature_distillation", *TEACHER, "objective@method.objectives.feature=hint"]
    with pytest.raises(UserError, match=r"hardware\.fold_norms folds .* there is none"):
        method(*hint)
    with pytest.raises(UserError, match=r"teacher, none has some"):
        method("method=distillation", "model@teacher=fcn", "teacher.depth=2", "teacher.width=8")
