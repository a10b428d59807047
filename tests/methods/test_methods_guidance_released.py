"""method=guidance_released is the code released with arXiv 2410.20035 where it differs from the paper's text: pairs, end, RSA."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn

from small_runs import SMALL
from tutelage.alignment.pairing import Pairing
from tutelage.alignment.similarity import rsa
from tutelage.alignment.taps import probe
from tutelage.config.compose import compose
from tutelage.engine.build import build
from tutelage.errors import UserError

RELEASED = {
    "many_to_one": "last",
    "exclude_output": True,
    "kinds": ["conv", "linear", "recurrent", "attention", "layer_norm", "adaptive_average_pooling"],
}


def fully_connected(depth: int) -> nn.Module:
    """A network of `depth` hidden layers and its output."""
    layers = [part for _ in range(depth) for part in (nn.LazyLinear(8), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers, nn.LazyLinear(10))


def pairs(guide: nn.Module, depth: int, pairing: Pairing) -> list[tuple[str, str]]:
    x = torch.randn(2, 3, 32, 32)
    network = fully_connected(depth)
    network(x)
    return [(pair.guide.name, pair.network.name) for pair in pairing(probe(guide, x), probe(network, x))]


@pytest.mark.parametrize(
    ("make", "depth", "shared", "of"),
    [("resnet18", 10, 4, 10), ("resnet18", 48, 5, 21), ("resnet50", 48, 23, 48)],
)
def test_counting_pooling_leaves_few_pairs_where_they_were(make, depth, shared, of) -> None:
    guide = getattr(torchvision.models, make)(num_classes=10)
    ours = pairs(guide, depth, Pairing(**RELEASED))
    weights_alone = pairs(guide, depth, Pairing(many_to_one="last", exclude_output=True))
    assert len(ours) == of
    assert len(set(ours) & set(weights_alone)) == shared
    assert ours[-1][0] == "avgpool"  # the network's last layer but the output meets it


def by_hand(guides: list[str], networks: list[str]) -> list[tuple[str, str]]:
    """Algorithm 1 as the released code runs it: captured layers in order, the last left out, a dictionary by network layer."""
    guides, networks = guides[:-1], networks[:-1]
    step = (len(networks) - 1) / (len(guides) - 1)
    kept = {networks[min(round(i * step), len(networks) - 1)]: name for i, name in enumerate(guides)}
    return [(guide, network) for network, guide in kept.items()]


@pytest.mark.parametrize("depth", [10, 48])
def test_the_pairs_are_those_of_the_released_algorithm_written_by_hand(depth: int) -> None:
    guide, x = torchvision.models.resnet18(num_classes=10), torch.randn(2, 3, 32, 32)
    network = fully_connected(depth)
    network(x)
    wanted = (nn.Conv2d, nn.Linear, nn.AdaptiveAvgPool2d)

    def captured(module: nn.Module) -> list[str]:
        seen: list[str] = []
        hooks = [
            child.register_forward_hook(lambda *_, name=name: seen.append(name))
            for name, child in module.named_modules()
            if isinstance(child, wanted)
        ]
        module(x)
        for hook in hooks:
            hook.remove()
        return seen

    assert pairs(guide, depth, Pairing(**RELEASED)) == by_hand(captured(guide), captured(network))


def reference_rsa(x: Tensor, y: Tensor) -> Tensor:
    """Pearson correlation of all n * n cosines, the diagonal of ones included."""

    def cosines(z: Tensor) -> Tensor:
        z = z.double() / z.double().norm(dim=1, keepdim=True)
        return (z @ z.T).flatten()

    return torch.corrcoef(torch.stack([cosines(x), cosines(y)]))[0, 1]


def test_rsa_over_the_whole_matrix_is_near_its_diagonal_where_features_are_independent() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(64, 512, generator=generator) for _ in range(2))
    assert float(rsa(x, y, whole=True)) == pytest.approx(float(reference_rsa(x, y)), abs=1e-5)
    assert float(rsa(x, y, whole=True)) > 0.8 and abs(float(rsa(x, y))) < 0.1
    assert float(rsa(x, x, whole=True)) == pytest.approx(1, abs=1e-5)
    z = torch.randn(7, 5, dtype=torch.float64, generator=generator).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: rsa(z, y[:7].double(), whole=True), z)


def test_the_method_composes_the_choices_and_ends_after_301_steps(tmp_path) -> None:
    words = [
        "method=guidance_released",
        "model@guide=residual_convnet",
        "guide.width=4",
        f"runs_dir={tmp_path}",
    ]
    similarity = ["similarity@alignment.similarity=rsa", "alignment.similarity.whole=true"]
    method = build(compose([*SMALL, *words, *similarity])).method
    alignment = method.objectives["alignment"]
    assert alignment.pairing == Pairing(**RELEASED) and alignment.similarity.form.kind == "rsa_whole"
    assert [method.objectives.weights(step, 1000)["alignment"] for step in (0, 300, 301)] == [1, 1, 0]
    assert method.frozen["guide"].norm_mode == "eval"


def test_an_unknown_kind_of_layer_is_told() -> None:
    with pytest.raises(UserError, match="did you mean 'adaptive_average_pooling'"):
        pairs(torchvision.models.resnet18(), 2, Pairing(kinds=["conv", "linear", "adaptive_avg_pooling"]))
