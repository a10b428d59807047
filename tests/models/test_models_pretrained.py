"""timm and torchvision by name: names, shapes, normalisation, weights (from a stand-in for the download), and offline."""

import logging
import urllib.error

import pytest
import timm
import torch
from torchvision import models

from tutelage.errors import UserError
from tutelage.models.heads import find_head
from tutelage.models.pretrained import load_torchvision, timm_model, torchvision_model
from tutelage.models.resnet import resnet

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture
def server(monkeypatch):
    """Serve a state instead of a download: set server["state"], or leave it None to be offline."""
    served = {"state": None}

    def fetch(self, *args, **kwargs):
        assert kwargs["weights_only"] is True
        if served["state"] is None:
            raise urllib.error.URLError("Name or service not known")
        return served["state"]

    monkeypatch.setattr(models._api.WeightsEnum, "get_state_dict", fetch)
    return served


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("test_resnet", (3, 32, 32), {}),
        ("test_resnet", (1, 8, 8), {}),
        ("test_resnet.r160_in1k", (4, 16, 24), {"drop_rate": 0.1}),
        ("test_vit", (3, 32, 32), {"patch_size": 4}),
        ("test_vit", (1, 32, 48), {}),
        ("test_convnext", (3, 32, 32), {}),
    ],
)
def test_timm_by_name_fits_the_data(name, shape, options):
    torch.manual_seed(0)
    network = timm_model(name, shape, 7, options=options)
    assert network.training and network(torch.randn(2, *shape)).shape == (2, 7)
    mean, std = network.pretrained_normalization
    assert len(mean) == len(std) == shape[0]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("mobilenet_v3_small", (3, 32, 32)),
        ("squeezenet1_1", (1, 32, 32)),
        ("googlenet", (1, 32, 32)),
        ("shufflenet_v2_x0_5", (5, 16, 16)),
        ("efficientnet_b0", (3, 32, 32)),
        ("densenet121", (1, 32, 32)),
        ("vit_b_32", (3, 64, 64)),
    ],
)
def test_torchvision_by_name_fits_the_data(name, shape):
    network = torchvision_model(name, shape, 7)
    assert network.training and network(torch.randn(2, *shape)).shape == (2, 7)
    head = find_head(network, torch.zeros(2, *shape))
    assert {network.state_dict()[n].shape[0] for n in head.names} == {7}
    mean, std = network.pretrained_normalization
    assert len(mean) == len(std) == shape[0]
    if shape[0] == 3:
        assert (mean, std) == IMAGENET


def test_torchvision_weights_load_and_the_head_is_fresh_for_other_classes(server, caplog):
    torch.manual_seed(0)
    source = models.resnet18()
    server["state"] = source.state_dict()
    same = torchvision_model("resnet18", (3, 32, 32), 1000, pretrained=True).eval()
    inputs = torch.randn(2, 3, 32, 32)
    assert torch.equal(same(inputs), source.eval()(inputs))
    with caplog.at_level(logging.INFO):
        other = torchvision_model("resnet18", (3, 32, 32), 7, pretrained=True)
    assert "weights of 1000 classes, network of 7: the head is fresh" in caplog.text
    assert torch.equal(other.layer4[1].conv2.weight, source.layer4[1].conv2.weight)
    ours = resnet((3, 32, 32), 1000, "resnet18", pretrained=True).eval()
    torch.testing.assert_close(ours(inputs), source(inputs))
    assert ours.pretrained_normalization == IMAGENET


def test_grey_images_see_what_three_equal_channels_would(server):
    torch.manual_seed(0)
    source = models.resnet18().eval()
    server["state"] = source.state_dict()
    grey = torchvision_model("resnet18", (1, 32, 32), 1000, pretrained=True).eval()
    inputs = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(grey(inputs), source(inputs.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)
    six = torchvision_model("resnet18", (6, 32, 32), 1000, pretrained=True).eval()
    colour = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(six(colour.repeat(1, 2, 1, 1)), source(colour), rtol=1e-4, atol=1e-4)
    assert len(six.pretrained_normalization[0]) == 6


def test_a_vit_of_another_image_size_gets_interpolated_positions(server):
    source = models.vit_b_32(image_size=224)
    server["state"] = source.state_dict()
    network = torchvision_model("vit_b_32", (3, 96, 96), 1000, pretrained=True)
    assert network.encoder.pos_embedding.shape == (1, 10, 768)
    assert torch.equal(network.conv_proj.weight, source.conv_proj.weight)
    old, new = source.encoder.pos_embedding[:, 1:], network.encoder.pos_embedding[:, 1:]
    torch.testing.assert_close(new[0, 0], old[0, 0])  # corners stay corners
    torch.testing.assert_close(new[0, -1], old[0, -1])


def test_old_densenet_names_and_auxiliary_classifiers(server):
    source = models.densenet121()
    old = {}
    for name, tensor in source.state_dict().items():
        for part in ("norm1", "norm2", "conv1", "conv2"):
            if "denselayer" in name:
                name = name.replace(f".{part}.", f".{part[:-1]}.{part[-1]}.")
        old[name] = tensor
    server["state"] = old
    network = torchvision_model("densenet121", (3, 32, 32), 1000, pretrained=True).eval()
    inputs = torch.randn(1, 3, 32, 32)
    assert torch.equal(network(inputs), source.eval()(inputs))
    source = models.googlenet(aux_logits=True, init_weights=False, transform_input=True)
    server["state"] = source.state_dict()
    network = torchvision_model("googlenet", (3, 32, 32), 1000, pretrained=True).eval()
    assert torch.equal(network(inputs), source.eval()(inputs))


def test_offline_is_said_in_one_message(server, monkeypatch):
    for make in (
        lambda: torchvision_model("resnet18", (3, 32, 32), 7, pretrained=True),
        lambda: resnet((3, 32, 32), 7, pretrained=True),
    ):
        with pytest.raises(UserError, match=r"could not be fetched \(URLError.*give its path as weights:"):
            make()

    def refuse(*args, **kwargs):
        raise OSError("offline")

    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", refuse)
    with pytest.raises(UserError, match=r"timm's test_resnet could not be fetched \(OSError: offline\)"):
        timm_model("test_resnet", (3, 32, 32), 7, pretrained=True)


def test_timm_weights_load_and_the_head_is_fresh_for_other_classes(monkeypatch, caplog):
    torch.manual_seed(0)
    source = timm.create_model("test_resnet").eval()
    monkeypatch.setattr(
        timm.models._builder, "load_state_dict_from_hf", lambda *a, **k: dict(source.state_dict())
    )
    inputs = torch.randn(2, 3, 32, 32)
    same = timm_model("test_resnet", (3, 32, 32), 1000, pretrained=True).eval()
    torch.testing.assert_close(same(inputs), source(inputs))
    with caplog.at_level(logging.INFO):
        other = timm_model("test_resnet", (1, 32, 32), 7, pretrained=True)
    assert "timm's test_resnet: weights of 1000 classes, network of 7: the head is fresh" in caplog.text
    assert torch.equal(other.layer1[0].conv1.weight, source.layer1[0].conv1.weight)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: timm_model("resnet81", (3, 32, 32), 7),
            r"timm has no image classifier 'resnet81': nearest: .*resnet18",
        ),
        (lambda: timm_model("resnet18.nope", (3, 32, 32), 7), "Invalid pretrained tag"),
        (
            lambda: timm_model("test_vit", (3, 8, 8), 7),
            r"does not run on images of shape \(3, 8, 8\)|cannot be built",
        ),
        (
            lambda: timm_model("test_resnet", (3, 32, 32), 7, options={"bogus": 1}),
            "takes no `options`.bogus; ",
        ),
        (
            lambda: timm_model("test_vit", (3, 32, 32), 7, options={"drop_rat": 0.1}),
            "takes no `options`.drop_rat; did you mean 'drop_rate'",
        ),
        (lambda: timm_model("test_resnet", (12,), 7), "takes images"),
        (lambda: timm_model("resnet14t", (3, 32, 32), 0), "output_size must be"),
        (lambda: torchvision_model("resnet81", (3, 32, 32), 7), r"nearest: .*resnet18"),
        (lambda: torchvision_model("fcn_resnet50", (3, 32, 32), 7), "it is no image classifier; nearest"),
        (lambda: torchvision_model("vit_b_32", (3, 40, 40), 7), "patch size"),
        (lambda: torchvision_model("vit_b_32", (3, 32, 64), 7), "square images"),
        (
            lambda: torchvision_model("alexnet", (3, 16, 16), 7),
            r"does not run on images of shape \(3, 16, 16\)",
        ),
        (
            lambda: torchvision_model("resnet18", (3, 32, 32), 7, options={"bogus": 1}),
            "takes no `options`.bogus; ",
        ),
    ],
)
def test_wrong_values_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_weights_of_another_network_are_refused(server):
    server["state"] = models.resnet34().state_dict()
    with pytest.raises(UserError, match="unexpected: layer"):
        load_torchvision(models.resnet18(), "resnet18", (3, 32, 32))
