"""BigGAN-deep, the generator alone, under the parameter names of the public weights (package `pytorch-pretrained-biggan`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.errors import UserError
from tutelage.generators.files import download, load_strictly, read_config, read_weights
from tutelage.generators.protocol import Generator

_HOST = "https://s3.amazonaws.com/models.huggingface.co/biggan"
PUBLIC = tuple(f"biggan-deep-{size}" for size in (128, 256, 512))


class _Spectral(nn.Module):
    """A weight divided by its largest singular value, which the stored vectors u and v give: sigma = u W v."""

    weight_u: Tensor
    weight_v: Tensor

    def __init__(self, shape: Sequence[int], bias: bool) -> None:
        super().__init__()
        self.weight_orig = nn.Parameter(torch.randn(*shape) * 0.02)
        self.bias = nn.Parameter(torch.zeros(shape[0])) if bias else None
        flat = self.weight_orig.detach().flatten(1)
        v = F.normalize(flat.sum(dim=0), dim=0)
        self.register_buffer("weight_v", v)
        self.register_buffer("weight_u", F.normalize(flat @ v, dim=0))

    @property
    def weight(self) -> Tensor:
        return self.weight_orig / torch.dot(self.weight_u, self.weight_orig.flatten(1) @ self.weight_v)


class _Linear(_Spectral):
    def __init__(self, width_in: int, width_out: int, bias: bool = True) -> None:
        super().__init__((width_out, width_in), bias)

    def forward(self, inputs: Tensor) -> Tensor:
        return F.linear(inputs, self.weight, self.bias)


class _Conv(_Spectral):
    def __init__(self, channels_in: int, channels_out: int, size: int, bias: bool = True) -> None:
        super().__init__((channels_out, channels_in, size, size), bias)

    def forward(self, inputs: Tensor) -> Tensor:
        return F.conv2d(inputs, self.weight, self.bias, padding=self.weight_orig.shape[-1] // 2)


class _Norm(nn.Module):
    """Batch norm by standing statistics; the public weights hold them for 51 truncations, the last row being "none"."""

    running_means: Tensor
    running_vars: Tensor

    def __init__(self, channels: int, condition: int | None, statistics: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("running_means", torch.zeros(statistics, channels))
        self.register_buffer("running_vars", torch.ones(statistics, channels))
        self.conditional = condition is not None
        if condition is not None:
            self.scale = _Linear(condition, channels, bias=False)
            self.offset = _Linear(condition, channels, bias=False)
        else:
            self.weight = nn.Parameter(torch.ones(channels))
            self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, inputs: Tensor, condition: Tensor) -> Tensor:
        gain, shift = (
            (1 + self.scale(condition), self.offset(condition))
            if self.conditional
            else (self.weight[None], self.bias[None])
        )
        mean, spread = self.running_means[-1], (self.running_vars[-1] + self.eps).sqrt()
        return (inputs - mean[:, None, None]) / spread[:, None, None] * gain[:, :, None, None] + shift[
            :, :, None, None
        ]


class _Block(nn.Module):
    """A bottleneck of four convolutions; the skip drops channels and repeats pixels, and has no parameters."""

    def __init__(
        self, channels_in: int, channels_out: int, condition: int, upsample: bool, statistics: int, eps: float
    ) -> None:
        super().__init__()
        middle = channels_in // 4
        self.upsample, self.channels_out = upsample, channels_out
        self.bn_0, self.conv_0 = _Norm(channels_in, condition, statistics, eps), _Conv(channels_in, middle, 1)
        self.bn_1, self.conv_1 = _Norm(middle, condition, statistics, eps), _Conv(middle, middle, 3)
        self.bn_2, self.conv_2 = _Norm(middle, condition, statistics, eps), _Conv(middle, middle, 3)
        self.bn_3, self.conv_3 = _Norm(middle, condition, statistics, eps), _Conv(middle, channels_out, 1)

    def forward(self, inputs: Tensor, condition: Tensor) -> Tensor:
        out = self.conv_0(F.relu(self.bn_0(inputs, condition)))
        out = F.relu(self.bn_1(out, condition))
        skip = inputs[:, : self.channels_out]
        if self.upsample:
            out, skip = (F.interpolate(x, scale_factor=2, mode="nearest") for x in (out, skip))
        out = self.conv_1(out)
        out = self.conv_2(F.relu(self.bn_2(out, condition)))
        return self.conv_3(F.relu(self.bn_3(out, condition))) + skip


class _Attention(nn.Module):
    """Attention of every position over the 2 x 2 pooled positions (SAGAN, arXiv 1805.08318)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.snconv1x1_theta = _Conv(channels, channels // 8, 1, bias=False)
        self.snconv1x1_phi = _Conv(channels, channels // 8, 1, bias=False)
        self.snconv1x1_g = _Conv(channels, channels // 2, 1, bias=False)
        self.snconv1x1_o_conv = _Conv(channels // 2, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, inputs: Tensor, condition: Tensor) -> Tensor:
        query = self.snconv1x1_theta(inputs).flatten(2)
        key = F.max_pool2d(self.snconv1x1_phi(inputs), 2).flatten(2)
        value = F.max_pool2d(self.snconv1x1_g(inputs), 2).flatten(2)
        share = (query.transpose(1, 2) @ key).softmax(dim=2)
        mixed = (value @ share.transpose(1, 2)).view(len(inputs), -1, *inputs.shape[2:])
        return inputs + self.gamma * self.snconv1x1_o_conv(mixed)


class _Body(nn.Module):
    def __init__(
        self,
        width: int,
        condition: int,
        layers: Sequence[Sequence[Any]],
        attention: int,
        statistics: int,
        eps: float,
    ) -> None:
        super().__init__()
        self._width = width
        self.gen_z = _Linear(condition, 16 * 16 * width)
        blocks: list[nn.Module] = []
        for position, (upsample, wide_in, wide_out) in enumerate(layers):
            if position == attention:
                blocks.append(_Attention(width * wide_in))
            blocks.append(
                _Block(width * wide_in, width * wide_out, condition, bool(upsample), statistics, eps)
            )
        self.layers = nn.ModuleList(blocks)
        self.bn = _Norm(width, None, statistics, eps)
        self.conv_to_rgb = _Conv(width, width, 3)  # of its outputs the public model uses three

    def forward(self, condition: Tensor) -> Tensor:
        # The weights come from TensorFlow: the first map has its channels last.
        out = self.gen_z(condition).view(-1, 4, 4, 16 * self._width).permute(0, 3, 1, 2).contiguous()
        for layer in self.layers:
            out = layer(out, condition)
        return self.conv_to_rgb(F.relu(self.bn(out, condition)))[:, :3].tanh()


class BigGanDeep(Generator):
    """BigGAN-deep (Brock, Donahue, Simonyan 2018, arXiv 1809.11096): latent and class to RGB images in [-1, 1].

    num_classes, z_dim, channel_width, layers (doubles the grid?, channels in, channels out, in units of channel_width),
    attention_layer_position, eps, n_stats: as in the public weights' config.json.
    A soft label mixes the class embeddings. The noise is normal and never truncated, which would cost diversity; the statistics are
    those for no truncation.
    """

    micro_batch = 8

    def __init__(
        self,
        *,
        layers: Sequence[Sequence[Any]],
        num_classes: int = 1000,
        z_dim: int = 128,
        channel_width: int = 128,
        attention_layer_position: int = 8,
        eps: float = 1e-4,
        n_stats: int = 51,
    ) -> None:
        super().__init__()
        pixels = 4 * 2 ** sum(bool(layer[0]) for layer in layers)
        self.image_shape, self.noise_shape, self.classes = (3, pixels, pixels), (z_dim,), num_classes
        self.embeddings = nn.Linear(num_classes, z_dim, bias=False)
        self.generator = _Body(channel_width, 2 * z_dim, layers, attention_layer_position, n_stats, eps)

    def render(self, noise: Tensor, labels: Tensor) -> Tensor:
        """See `Generator.render`."""
        return self.generator(torch.cat([noise, self.embeddings(labels)], dim=1))


def biggan(source: str = "biggan-deep-256", cache: str = "~/.cache/tutelage/generators") -> BigGanDeep:
    """Return a pre-trained BigGAN-deep.

    source: "biggan-deep-128", "-256" or "-512", downloaded once into `cache`; or a folder with config.json and pytorch_model.bin or
    model.safetensors. Raises UserError where files are missing, damaged or of another network.
    """
    folder = Path(source).expanduser()
    if source in PUBLIC and not folder.is_dir():
        urls = {
            "config.json": f"{_HOST}/{source}-config.json",
            "pytorch_model.bin": f"{_HOST}/{source}-pytorch_model.bin",
        }
        folder = download(urls, Path(cache).expanduser() / source)
    elif not folder.is_dir():
        raise UserError(
            f"there is no generator {source!r}: expected one of {', '.join(PUBLIC)}, or a folder with config.json and weights"
        )
    config = read_config(folder)
    ignored = {"output_dim", "class_embed_dim"}  # they follow from the rest
    try:
        with torch.device("meta"):  # the weights come from the file: nothing is drawn
            network = BigGanDeep(**{key: value for key, value in config.items() if key not in ignored})
    except (TypeError, ValueError) as error:
        raise UserError(f"{folder / 'config.json'} does not describe a BigGAN-deep: {error}") from error
    load_strictly(network, read_weights(folder), str(folder))
    return network.eval()
