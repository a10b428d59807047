"""A network that ends in the classifier of its teacher: its own last map, brought to the teacher's width, then the teacher's layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.arguments import positive
from tutelage.errors import UserError
from tutelage.models.forward_calls import undisturbed
from tutelage.models.heads import head_of


class ReusedClassifier(nn.Module):
    """A student without its final layer, a trained projector of its last map, the mean over positions, and a fixed linear layer.

    The last layer is the teacher's: the objective `simkd` copies it before training, and nothing trains it; the network that is kept has
    it, so that it is evaluated, exported and loaded without the teacher. The projector is 1 x 1, 3 x 3 and 1 x 1 convolutions, each with
    batch norm and ReLU.

    Args:
        student: a network whose final layer is linear and sees the mean over positions of a map. Its final layer is left out.
        input_shape: of one sample.
        output_size: classes.
        width: channels of the teacher's last map.
        factor: by which the projector is narrower inside than the teacher.

    Raises:
        UserError: a student that ends otherwise, or a width that the factor does not divide.

    Source: Chen et al. 2022 (SimKD), arXiv 2203.14001.
    """

    def __init__(
        self,
        student: nn.Module,
        input_shape: Sequence[int],
        output_size: int,
        width: int,
        factor: int = 2,
    ) -> None:
        super().__init__()
        positive("ReusedClassifier", output_size=output_size, width=width, factor=factor)
        if width % factor:
            raise UserError(f"`factor` must divide `width`={width}, got {factor}")
        self.features, mine = _cut(student, torch.rand(2, *input_shape))
        inner = width // factor
        self.projector = nn.Sequential(
            *_layer(mine, inner, 1), *_layer(inner, inner, 3), *_layer(inner, width, 1)
        )
        self.head = nn.Linear(width, output_size).requires_grad_(False)
        self.has_head = False
        self.register_load_state_dict_post_hook(_noted)

    def take_head(self, head: nn.Linear) -> None:
        """Copy the teacher's final layer. Raises UserError for one of another width or other classes."""
        theirs, mine = (tuple(x.weight.shape) for x in (head, self.head))
        if theirs != mine:
            raise UserError(
                f"the teacher's final layer maps {theirs[1]} features to {theirs[0]} classes, the student's {mine[1]} to {mine[0]}: "
                f"set model.width={theirs[1]}, and give both the same classes"
            )
        with torch.no_grad():
            self.head.weight.copy_(head.weight)
            self.head.bias.zero_() if head.bias is None else self.head.bias.copy_(head.bias)
        self.has_head = True

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) of inputs (n, ...)."""
        if self.training and not self.has_head:
            raise UserError(
                "the final layer of a ReusedClassifier is its teacher's, which the objective simkd brings: add "
                "objective@method.objectives.feature=simkd, or give model.weights"
            )
        return self.head(self.projector(next(iter(self.features(x).values()))).mean(dim=(2, 3)))


def last_map(
    network: nn.Module, inputs: Tensor, run: Callable[..., Any] | None = None
) -> tuple[str, nn.Linear]:
    """Return the layer whose map, averaged over positions, is what the final linear layer sees; and that final layer.

    inputs: an example. run: runs the network on it, where it does so in its own way.
    Raises UserError where the network does not end like that.
    """
    seen: dict[str, Tensor] = {}
    runs: dict[str, int] = {}

    def keep(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        seen[name], runs[name] = output, runs.get(name, 0) + 1

    final = _final(network, inputs, run)
    with ExitStack() as hooks:
        for name, module in network.named_modules():
            if name:
                hooks.enter_context(module.register_forward_hook(partial(keep, name)))
        features = _seen_by(final, network, inputs, run)
    return _map_of(network, {n: x for n, x in seen.items() if runs[n] == 1}, features), final


def _cut(student: nn.Module, inputs: Tensor) -> tuple[nn.Module, int]:
    """Return the part of a network up to its last map, without its final layer, and that map's channels."""
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    final = _final(student, inputs)
    try:
        names = get_graph_node_names(student)[1]
        maps = create_feature_extractor(student, names)
        with undisturbed(student):
            seen = maps.eval()(inputs)
        name = _map_of(student, seen, _seen_by(final, student, inputs))
        return create_feature_extractor(student.train(), [name]), seen[name].shape[1]
    except UserError:
        raise
    except Exception as error:  # whatever a forward does that cannot be traced
        raise UserError(
            f"{type(student).__name__} cannot be cut before its final layer: that needs a forward without branches on values ({error})"
        ) from error


def _final(network: nn.Module, inputs: Tensor, run: Callable[..., Any] | None = None) -> nn.Linear:
    head = head_of(network, inputs, run=run)
    final = network.get_submodule(head.layers[0]) if len(head.layers) == 1 else None
    if not isinstance(final, nn.Linear):
        raise UserError(
            f"{type(network).__name__} must end in one linear layer for its classifier to be reused, it ends in '{head}'"
        )
    return final


def _seen_by(
    final: nn.Linear, network: nn.Module, inputs: Tensor, run: Callable[..., Any] | None = None
) -> Tensor:
    entered: list[Tensor] = []
    hook = final.register_forward_pre_hook(lambda _, given: entered.append(given[0]))
    with hook, undisturbed(network):
        (run or network)(inputs)
    return entered[-1]


def _map_of(network: nn.Module, seen: Mapping[str, Any], features: Tensor) -> str:
    """Return the name of the largest map whose mean over positions are the features; of several, the last."""
    fitting = {
        name: x.shape[2] * x.shape[3]
        for name, x in seen.items()
        if isinstance(x, Tensor)
        and x.ndim == 4
        and x.shape[:2] == features.shape
        and torch.allclose(x.mean(dim=(2, 3)), features, rtol=1e-3, atol=1e-5)
    }
    if not fitting:
        raise UserError(
            f"what the final layer of {type(network).__name__} sees is no mean over the positions of a layer's map, as reusing a "
            "classifier needs"
        )
    return [name for name, size in fitting.items() if size == max(fitting.values())][-1]


def _layer(mine: int, theirs: int, side: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(mine, theirs, side, padding=side // 2, bias=False)
    return convolution, nn.BatchNorm2d(theirs), nn.ReLU()


def _noted(module: nn.Module, _keys: Any) -> None:
    assert isinstance(module, ReusedClassifier)
    module.has_head = True
