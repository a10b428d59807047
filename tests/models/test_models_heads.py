"""The final layer of a network: found by what runs, whatever the class looks like; named where it is another."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tutelage.errors import UserError
from tutelage.models.fcn import FCN
from tutelage.models.frozen import FrozenNetwork
from tutelage.models.heads import declare, find_head, head_of, named_head
from tutelage.models.pretrained import timm_model
from tutelage.models.recurrent import Recurrent
from tutelage.models.transformer import Transformer

IMAGES = torch.randn(3, 1, 8, 8)
TOKENS = torch.randint(0, 20, (3, 5))


class Net(nn.Module):
    """The head is declared first."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 4)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(inplace=True))

    def forward(self, x):
        return self.fc(self.body(x))


class Unused(Net):
    """The last layer that is declared never runs, and the one that runs last is no part of the outputs."""

    def __init__(self):
        super().__init__()
        self.rotation = nn.Linear(6, 4)
        self.spare = nn.Linear(6, 4)

    def forward(self, x):
        features = self.body(x)
        return {"logits": self.fc(features).softmax(1), "rotation": self.rotation(features)}


class Functional(Net):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 6))

    def forward(self, x):
        return F.linear(F.normalize(self.body(x)), F.normalize(self.weight)) * 10


class Cosine(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale, self.directions = nn.Parameter(torch.ones(())), nn.Parameter(torch.randn(4, 6))

    def forward(self, x):
        return self.scale * F.linear(F.normalize(x), F.normalize(self.directions))


class Prototypes(Net):
    def __init__(self):
        super().__init__()
        self.prototypes = nn.Parameter(torch.randn(4, 6))

    def forward(self, x):
        return -(self.body(x)[:, None] - self.prototypes).square().sum(2)


class Two(Net):
    def __init__(self):
        super().__init__()
        self.other = nn.Linear(6, 4)

    def forward(self, x):
        features = self.body(x)
        return (self.other(features) + self.fc(features)) / 2


class PerClass(Net):
    """One output layer for each class, written into one tensor."""

    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(6, 1) for _ in range(4))

    def forward(self, x):
        features, out = self.body(x), torch.zeros(len(x), 4)
        for place, head in enumerate(self.heads):
            out[:, place : place + 1] = head(features)
        return out


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.out, self.embed = nn.Linear(6, 20, bias=False), nn.Embedding(20, 6)
        self.out.weight = self.embed.weight

    def forward(self, tokens, mask=None):
        return self.out(self.embed(tokens))


def wrapped(last):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), *last)


@pytest.mark.parametrize(
    ("network", "layers", "names"),
    [
        (Net(), ("fc",), ("fc.weight", "fc.bias")),
        (Unused(), ("fc",), ("fc.weight", "fc.bias")),
        (Functional(), (), ("weight",)),
        (wrapped([Cosine()]), ("3",), ("3.scale", "3.directions")),
        (Prototypes(), (), ("prototypes",)),
        (Two(), ("other", "fc"), ("fc.weight", "fc.bias", "other.weight", "other.bias")),
        (
            PerClass(),
            ("heads.0", "heads.1", "heads.2", "heads.3"),
            tuple(f"heads.{i}.{kind}" for i in range(4) for kind in ("weight", "bias")),
        ),
        (
            wrapped([nn.Linear(6, 4), nn.BatchNorm1d(4)]),
            ("3", "4"),
            ("3.weight", "3.bias", "4.weight", "4.bias", "4.running_mean", "4.running_var", "4.num_batches_tracked"),
        ),
        (wrapped([nn.utils.parametrizations.weight_norm(nn.Linear(6, 4))]), ("3",), None),
        (nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()), ("2",), None),
        (FCN((1, 8, 8), 4, depth=2, width=8), ("head",), None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)  # fmt: skip
def test_it_is_what_the_outputs_come_from(network, layers, names):
    found = find_head(network, IMAGES)
    assert found.layers == layers and not found.shared
    if names is not None:
        assert found.names == names


@pytest.mark.parametrize(
    ("network", "inputs", "layers"),
    [
        (Transformer((5,), 4, vocab_size=20, depth=1, width=8, heads=2, per_position=False), TOKENS, "head"),
        (Recurrent((5,), 20, vocab_size=20, depth=2, width=8, per_position=True), TOKENS, "head"),
        (Recurrent((5, 2), 4, depth=1, width=8, cell="lstm"), torch.randn(3, 5, 2), "head"),
        (nn.Sequential(nn.Embedding(20, 20)), TOKENS, "0"),
    ],
)
def test_of_sequences_it_is_found_too(network, inputs, layers):
    mask = torch.ones(inputs.shape[:2], dtype=torch.bool)
    assert str(find_head(network, inputs, mask)) == layers


def test_a_layer_before_it_that_reads_the_same_features_is_no_part():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.LayerNorm(6), nn.Linear(6, 4))
    found = find_head(network, IMAGES)
    assert found.layers == found.reads == ("3",)


def test_what_scales_the_outputs_is_part_of_it_and_reads_no_features():
    found = find_head(nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.Linear(6, 4), nn.LayerNorm(4)), IMAGES)
    assert found.layers == ("2", "3") and found.reads == ("2",)
    assert found.names == ("2.weight", "2.bias", "3.weight", "3.bias")


def test_weights_that_are_tied_to_the_embedding_are_said():
    found = find_head(Tied(), TOKENS)
    assert found.layers == ("out",) and found.shared == ("embed.weight", "out.weight")


@pytest.mark.parametrize(
    "name", ["resnet18", "deit_tiny_distilled_patch16_224", "convnext_atto", "levit_128s", "mobilenetv3_small_050"]
)  # fmt: skip
def test_it_is_what_timm_declares(name):
    side = 224 if "224" in name or "levit" in name else 32
    network = timm_model(name, (3, side, side), 7)
    declared = network.pretrained_cfg["classifier"]
    found = find_head(network, torch.zeros(2, 3, side, side))
    assert set(found.layers) == ({declared} if isinstance(declared, str) else set(declared))


def test_looking_leaves_no_trace():
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, 4)
    ).train()
    network[2].eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state, images = torch.get_rng_state(), IMAGES.clone()
    find_head(network, images)
    assert find_head(nn.Sequential(nn.ReLU(inplace=True), network), images).layers == ("1.4",)
    assert torch.equal(images, IMAGES)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert network.training and not network[2].training and network[3].training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_a_frozen_network_is_looked_at_as_it_runs():
    network = nn.Sequential(nn.Flatten(), nn.Linear(16 * 16, 6), nn.Linear(6, 4))
    assert FrozenNetwork(network, input_size=16).head(IMAGES).layers == ("2",)
    with pytest.raises(
        UserError, match=r"is found by running it, which fails on inputs of shape \(2, 1, 8, 8\)"
    ):
        find_head(network, IMAGES)
    with pytest.raises(UserError, match="no parameter of Flatten leads to its outputs"):
        find_head(nn.Flatten(), IMAGES)


def test_a_name_is_heeded_and_a_wrong_one_answered():
    network = Unused()
    declare(network, named_head(network, "body.1"))
    found = head_of(network, IMAGES)
    assert found.layers == found.reads == ("body.1",) and found.names == ("body.1.weight", "body.1.bias")
    assert named_head(Functional(), "weight").names == ("weight",)
    assert named_head(Two(), ["fc", "other"]).layers == ("fc", "other")
    with pytest.raises(UserError, match=r"head=fcc: Net has no such layer with weights; did you mean 'fc'"):
        named_head(Net(), "fcc")
    with pytest.raises(UserError, match="head must name a layer, or be a list of names, got 3"):
        named_head(Net(), 3)
