"""Every image classifier of timm and torchvision by name, fitted to the data's channels, size and classes."""

from __future__ import annotations

import difflib
import inspect
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.arguments import image_shape, positive
from tutelage.errors import UserError, choices, reason_of
from tutelage.models.forward_calls import undisturbed
from tutelage.models.frozen import Normalization
from tutelage.models.heads import find_head
from tutelage.models.weights_files import load_weights

log = logging.getLogger(__name__)
_OURS = ("num_classes", "in_chans", "img_size", "aux_logits", "init_weights", "input_size", "image_size")
"""Arguments that follow from the data."""

# timm costs ten seconds to import and torchvision seven, so both are imported where they are used.


def timm_model(
    name: str,
    input_shape: Sequence[int],
    output_size: int,
    pretrained: bool = False,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build a network of timm by name: "resnet18", or "resnet18.a1_in1k" for one of several weights.

    input_shape: (channels, height, width); channels and, for networks of one fixed size, the image size are passed on.
    output_size: classes; the output is (n, output_size).
    options: further arguments of timm's network, such as patch_size or drop_rate.
    pretrained: weights downloaded by timm and converted by it to other channels and sizes; the head is fresh where the
    number of classes differs. `pretrained_normalization` of the network is the mean and std of those weights' training.

    Initialisation: each network's own, as timm documents. Raises UserError; cost: one forward of one image.
    """
    import timm

    known = timm.list_models()
    architecture = name.partition(".")[0]
    if architecture not in known:
        raise UserError(_unknown("timm", name, known))
    label = f"timm's {name}"
    positive(label, output_size=output_size)
    channels, height, width = image_shape(label, input_shape)
    _check_options(label, options)
    arguments: dict[str, Any] = {"num_classes": output_size, "in_chans": channels, **(options or {})}
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise UserError(f"{label}: {error}") from error
    if config is not None and config.fixed_input_size:
        arguments.setdefault("img_size", (height, width))
    network = _build(label, input_shape, partial(timm.create_model, name), arguments)
    _check_fit(label, network, (channels, height, width), output_size)
    if config is not None:
        _note_normalization(network, config, channels)
    if pretrained:
        if config is None or not config.has_weights:
            raise UserError(
                f"{label} has no pretrained weights; use weights: scratch, or the path of a weights file"
            )
        network = _download(label, lambda: timm.create_model(name, pretrained=True, **arguments))
        _note_normalization(network, config, channels)
        if config.num_classes != output_size:
            _say_fresh_head(label, config.num_classes, output_size)
    return network


def torchvision_model(
    name: str,
    input_shape: Sequence[int],
    output_size: int,
    pretrained: bool = False,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build an image classifier of torchvision by name, without auxiliary classifiers.

    input_shape: (channels, height, width); other than three channels replace the first convolution, and the networks of
    one fixed size (vit_*, maxvit_t) get the image size. output_size: classes; the output is (n, output_size).
    options: further arguments of torchvision's network, such as dropout.
    pretrained: torchvision's default weights, downloaded by it; the head is fresh where the number of classes differs.
    `pretrained_normalization` of the network is the mean and std of those weights' training.

    Initialisation: each network's own, as torchvision documents; a replaced first convolution has PyTorch's default.
    Raises UserError; cost: one forward of one image.
    """
    from torchvision import models

    known = models.list_models(module=models)  # without detection, segmentation, video and quantised ones
    if name not in known:
        other = "it is no image classifier; " if name in models.list_models() else ""
        raise UserError(_unknown("torchvision", name, known, other))
    label = f"torchvision's {name}"
    positive(label, output_size=output_size)
    channels, height, width = image_shape(label, input_shape)
    _check_options(label, options)
    arguments: dict[str, Any] = {"num_classes": output_size, **(options or {})}
    if name in ("googlenet", "inception_v3"):
        arguments |= {"aux_logits": False, "init_weights": True}
    if name == "maxvit_t":
        arguments.setdefault("input_size", (height, width))
    if name.startswith("vit_"):
        if height != width:
            raise UserError(f"{label} takes square images, got {height} x {width}; timm's ViTs take any size")
        arguments.setdefault("image_size", height)
    network = _build(label, input_shape, partial(models.get_model, name, weights=None), arguments)
    if channels != 3:
        _replace_first_conv(network, channels)
    _check_fit(label, network, (channels, height, width), output_size)
    if len(models.get_model_weights(name)):
        _note_normalization(network, models.get_model_weights(name)["DEFAULT"].transforms(), channels)
    if pretrained:
        load_torchvision(network, name, input_shape)
    return network


def load_torchvision(network: nn.Module, name: str, input_shape: Sequence[int]) -> None:
    """Load torchvision's default weights of `name`, fitted to the network's channels, size and classes.

    network: with torchvision's layer names; its `pretrained_normalization` is set.
    Raises UserError where they cannot be downloaded or do not fit.
    """
    from torchvision import models

    label = f"torchvision's {name}"
    if not len(models.get_model_weights(name)):
        raise UserError(
            f"{label} has no pretrained weights; use weights: scratch, or the path of a weights file"
        )
    weights = models.get_model_weights(name)["DEFAULT"]
    channels, height, _ = image_shape(label, input_shape)
    # weights_only: nothing in the downloaded file is executed.
    state = _download(
        label, lambda: dict(weights.get_state_dict(progress=True, check_hash=True, weights_only=True))
    )
    state = {n: t for n, t in state.items() if not n.startswith(("aux1.", "aux2.", "AuxLogits."))}
    if name.startswith("densenet"):  # its files keep the module names of before 2018
        state = {re.sub(r"\.(norm|conv)\.([12])\.", r".\1\2.", n): t for n, t in state.items()}
    if name.startswith("vit_"):
        patch = network.state_dict()["conv_proj.weight"].shape[-1]
        state = dict(models.vision_transformer.interpolate_embeddings(height, patch, state))  # type: ignore[arg-type]
    first = f"{_first_conv(network)}.weight"
    if state[first].shape[1] != channels:
        state[first] = _conv_for_channels(state[first], channels)
    if hasattr(network, "transform_input"):
        network.transform_input = channels == 3  # type: ignore[assignment]
    own = network.state_dict()
    head = find_head(network, torch.zeros(2, *input_shape))
    is_fresh = any(n in state and state[n].shape != own[n].shape for n in head.names)
    load_weights(network, state, head=head if is_fresh else None)
    if is_fresh:
        _say_fresh_head(label, len(weights.meta["categories"]), len(own[head.names[0]]))
    _note_normalization(network, weights.transforms(), channels)


def _check_options(label: str, options: Mapping[str, Any] | None) -> None:
    """Refuse arguments that would fetch or open weights: some of those ways unpickle, and none of them is in the record."""
    if wrong := [
        key for key in options or {} if key.startswith(("checkpoint", "pretrained", "weights", "cache"))
    ]:
        raise UserError(
            f"{label}: options.{wrong[0]} is refused: weights are given by weights: <file> or pretrained"
        )


def _unknown(library: str, name: str, known: Iterable[str], note: str = "") -> str:
    known = list(known)
    nearest = difflib.get_close_matches(name, known, n=6, cutoff=0.4)
    listed = f"nearest: {', '.join(nearest)}" if nearest else "no name is near"
    return f"{library} has no image classifier '{name}': {note}{listed} ({len(known)} in all)"


def _build(
    label: str, input_shape: Sequence[int], make: Callable[..., nn.Module], arguments: Mapping[str, Any]
) -> nn.Module:
    try:
        return make(**arguments)
    except (TypeError, ValueError, AssertionError, RuntimeError, NotImplementedError, IndexError) as error:
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown is not None and unknown[1] in arguments:
            plain = make(**{key: value for key, value in arguments.items() if key in _OURS})
            taken = inspect.signature(type(plain).__init__).parameters.values()
            known = [one.name for one in taken if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
            raise UserError(
                f"{label} takes no `options`.{unknown[1]}; {choices(unknown[1], [one for one in known if one not in ('self', *_OURS)])}"
            ) from error
        raise UserError(
            f"{label} cannot be built for inputs of shape {tuple(input_shape)}: {error}"
        ) from error


def _check_fit(label: str, network: nn.Module, shape: tuple[int, int, int], output_size: int) -> None:
    # Each network has its own least size, known to its forward pass alone, so one image is run.
    try:
        with undisturbed(network):
            output = network(torch.zeros(1, *shape))
    except Exception as error:
        raise UserError(f"{label} does not run on images of shape {shape}: {reason_of(error)}") from error
    if not isinstance(output, Tensor) or output.shape != (1, output_size):
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise UserError(
            f"{label} is no classifier here: expected an output of shape (1, {output_size}), got {got}"
        )


def _download(label: str, fetch: Any) -> Any:
    try:
        return fetch()
    except Exception as error:  # urllib, huggingface_hub and the file readers share no base class
        raise UserError(
            f"the pretrained weights of {label} could not be fetched ({reason_of(error)}). "
            "Without a connection, fetch the file elsewhere and give its path as weights: <file.safetensors "
            "or .pth>, or start from weights: scratch"
        ) from error


def _say_fresh_head(label: str, classes: int, output_size: int) -> None:
    log.info("%s: weights of %d classes, network of %d: the head is fresh", label, classes, output_size)


def _first_conv(network: nn.Module) -> str:
    return next(name for name, module in network.named_modules() if isinstance(module, nn.Conv2d))


def _replace_first_conv(network: nn.Module, channels: int) -> None:
    name = _first_conv(network)
    old = network.get_submodule(name)
    assert isinstance(old, nn.Conv2d)
    new = nn.Conv2d(
        channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        stride=old.stride,  # type: ignore[arg-type]
        padding=old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    network.set_submodule(name, new)
    if hasattr(network, "transform_input"):
        network.transform_input = False  # type: ignore[assignment]


def _conv_for_channels(weight: Tensor, channels: int) -> Tensor:
    """Fit a weight (out, 3, ...) to other channels: summed for grey images, else repeated and rescaled."""
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    return weight[:, [i % weight.shape[1] for i in range(channels)]] * (weight.shape[1] / channels)


def _note_normalization(network: nn.Module, source: Any, channels: int) -> None:
    """Keep mean and std of the weights' training on the network: averaged for grey images, else repeated."""

    def fit(values: Sequence[float]) -> tuple[float, ...]:
        if channels == 1:
            return (sum(values) / len(values),)
        return tuple(float(values[i % len(values)]) for i in range(channels))

    normalization: Normalization = fit(source.mean), fit(source.std)
    network.pretrained_normalization = normalization  # type: ignore[assignment]
