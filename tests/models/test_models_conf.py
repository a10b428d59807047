"""Every file of conf/model: it names only real arguments, builds small, runs, learns everywhere, and repeats under a seed."""

import importlib
import inspect
from pathlib import Path

import pytest
import torch
import yaml

from tutelage.config.groups import abouts, group_options
from tutelage.config.variants import variant
from tutelage.models.weights_files import digest

CONF = Path(__file__).parents[2] / "conf" / "model"
NAMES = [
    name for name in group_options("model") if "/" not in name and name not in ("own", "huggingface", "simkd")
]  # their class, folder or student is the user's; simkd: test_models_reused
PASSED = {"input_shape", "output_size", "vocab_size"}  # what the builder passes by itself
IMAGE, SERIES, TOKENS = (3, 32, 32), (12, 2), (12,)
SMALL = {
    "deep_fcn": {"depth": 3, "width": 16},
    "resnet50": {"small_images": True},
    "timm": {"name": "test_resnet"},
}


def values_of(name):
    varied = variant(f"model/{name}")
    return (
        values_of(varied.of) | varied.set if varied else yaml.safe_load((CONF / f"{name}.yaml").read_text())
    )


def arguments(name):
    values = dict(values_of(name))
    module, _, of = values.pop("_target_").rpartition(".")
    assert values.pop("weights") == "scratch"
    return getattr(importlib.import_module(module), of), values


def build(name, shape, vocab_size=None, output_size=5, **overrides):
    make, values = arguments(name)
    sequence = "Recurrent" in str(make) or "Transformer" in str(make)
    small = (
        {"depth": 2, "width": 16, **({"heads": 4} if "heads" in values else {})}
        if sequence
        else SMALL.get(name, {})
    )
    given = {"input_shape": shape, "output_size": output_size} | (
        {"vocab_size": vocab_size} if sequence else {}
    )
    return make(**(values | small | overrides), **given)


def is_sequence(name):
    return "cell" in (values := arguments(name)[1]) or "causal" in values


def check_learns(network, inputs, shape):
    output = network(inputs)
    assert output.shape == shape
    (output - torch.randn_like(output)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        # A bias before a batch norm has no effect by nature, and timm starts the last norm of each block at zero.
        if parameter.ndim > 1 and not network.__module__.startswith("timm"):
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("name", NAMES)
def test_a_file_states_every_argument_once(name):
    make, values = arguments(name)
    assert abouts("model")[name]
    signature = set(inspect.signature(make).parameters)
    assert set(values) <= signature
    assert signature - set(values) <= PASSED | {"pretrained"}


@pytest.mark.parametrize("name", [name for name in NAMES if not is_sequence(name)])
def test_an_image_network_builds_runs_and_learns(name):
    torch.manual_seed(0)
    shape = (1, 64, 64) if name in ("resnet18", "torchvision") else IMAGE
    network = build(name, shape)
    check_learns(network, torch.randn(4, *shape), (4, 5))
    torch.manual_seed(0)
    again = build(name, shape)
    other = build(name, shape)
    fresh = {key: tensor for key, tensor in network.state_dict().items() if tensor.ndim > 1}
    assert all(torch.equal(fresh[n], t) for n, t in again.state_dict().items() if n in fresh)
    assert digest(again) != digest(other)


@pytest.mark.parametrize("name", [name for name in NAMES if is_sequence(name)])
def test_a_sequence_network_takes_tokens_and_series(name):
    torch.manual_seed(0)
    stated = arguments(name)[1]["per_position"]
    tokens = build(name, TOKENS, vocab_size=7)
    check_learns(tokens, torch.randint(7, (4, 12)), (4, 5) if stated is False else (4, 12, 5))
    series = build(name, SERIES)
    check_learns(series, torch.randn(4, 12, 2), (4, 12, 5) if stated else (4, 5))
    torch.manual_seed(0)
    assert digest(build(name, TOKENS, vocab_size=7)) == digest(tokens)


def test_the_papers_sizes():
    sizes = {
        "deep_fcn": 3072 * 2048 + 49 * 2048**2 + 50 * 3 * 2048 + 2048 * 10 + 10,
    }
    wide = {"depth": 3, "width": 8192}  # the Wide FCN of the paper's tables
    with torch.device("meta"):
        for name, expected in sizes.items():
            make, values = arguments(name)
            network = make(input_shape=(3, 32, 32), output_size=10, **values)
            assert sum(p.numel() for p in network.parameters()) == expected
        network = make(input_shape=(3, 32, 32), output_size=10, **values | wide)
        expected = 3072 * 8192 + 2 * 8192**2 + 3 * 3 * 8192 + 8192 * 10 + 10
        assert sum(p.numel() for p in network.parameters()) == expected
        make, values = arguments("transformer_decoder")
        values |= {"width": 768, "heads": 12}
        network = make(input_shape=(80,), output_size=12, vocab_size=12, **values)
        block = 12 * 768**2 + (3 + 1 + 4 + 1) * 768 + 4 * 768
        assert sum(p.numel() for p in network.blocks.parameters()) == 4 * block
        make, values = arguments("relu_rnn")
        values |= {"depth": 6, "width": 1024}
        network = make(input_shape=(70,), output_size=100, vocab_size=100, **values)
        assert sum(p.numel() for p in network.layers.parameters()) == 6 * (2 * 1024**2 + 2 * 1024)
