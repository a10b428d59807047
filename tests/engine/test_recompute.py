"""Gradient checkpointing changes no number of any method, and keeps less."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torchvision.models import resnet18

from small_runs import METHODS, C
from tutelage.engine.recompute import recompute
from tutelage.errors import UserError
from tutelage.models.cifar import cifar
from tutelage.models.convnet import ConvNet
from tutelage.models.fcn import FCN

WORDS = {name: [f"method={name}", *METHODS[name]] for name in METHODS}
WORDS["norms apart"] = [*WORDS["semi_supervised"], f"{C}.batch_norm=labelled"]
WORDS["a weak view apart"] = [*WORDS["norms apart"], f"{C}.weak_gradient=false"]


QUICK = (
    "supervised",
    "fitnets",
    "gan",
    "masked_tokens",
    "guidance",
    "pseudo_ssl/mean_teacher",
    "a weak view apart",
)


@pytest.mark.parametrize(
    "words",
    [pytest.param(WORDS[name], id=name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in WORDS],
)
def test_numbers_are_the_same_bit_for_bit_with_every_method(command, words):
    kept, again = (
        command(*words, "fit.max_steps=8", f"hardware.recompute={value}", folder=f"r{value}")
        for value in ("false", "true")
    )
    assert kept.identity == again.identity
    ours, theirs = (load_file(run.path / "network.safetensors") for run in (again, kept))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert again.result["metrics"] == kept.result["metrics"]


def test_dropout_draws_the_same_again():
    found = []
    for again in (False, True):
        torch.manual_seed(0)
        network = nn.Sequential(
            *[nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.5)) for _ in range(3)]
        )
        if again:
            assert recompute(network) == ["0", "1", "2"]
        torch.manual_seed(1)
        inputs = torch.randn(8, 6, requires_grad=True)
        network(inputs).square().mean().backward()
        found.append([inputs.grad, *(p.grad for p in network.parameters()), *network.buffers()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert int(network[0][1].num_batches_tracked) == 1 and network[0][1].momentum == 0.1


def test_blocks_are_the_outermost_and_less_is_kept():
    def kept(network):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            network(torch.randn(4, 3, 16, 16))
        return sum(sizes)

    network = ConvNet((3, 16, 16), 10, width=8, blocks=2)
    before = kept(network)
    recompute(network)
    assert kept(network) < 0.6 * before
    assert recompute(resnet18())[:2] == ["layer1.0", "layer1.1"]
    assert recompute(FCN((4,), 2, depth=2, width=4)) == ["layers.0", "layers.1"]
    with pytest.raises(UserError, match="Linear has no list of blocks"):
        recompute(nn.Linear(2, 2))


def test_a_network_of_lists_of_layers_alone_has_these_computed_again():
    network = cifar((3, 32, 32), 10, "vgg8")
    assert recompute(network) == [f"block{number}" for number in range(5)]
    one_list = nn.Module()
    one_list.layers = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(UserError, match="Module has no list of blocks"):
        recompute(one_list)
