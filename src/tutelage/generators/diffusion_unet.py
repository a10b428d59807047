"""A small class-conditional diffusion model: a U-Net that predicts noise, sampled by a fast deterministic solver of `diffusers`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.errors import UserError, choices, extra
from tutelage.generators.gan_networks import Modulated, grid_sizes
from tutelage.generators.protocol import Generator

TRAIN_STEPS = 1000
SOLVERS = ("ddim", "dpm")


def noise_levels(schedule: str = "squaredcos_cap_v2") -> Any:
    """Return diffusers' DDPM scheduler of 1000 steps, for its `add_noise`. UserError where diffusers is not installed."""
    with extra("diffusion", "diffusion models need the package diffusers"):
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
    return DDPMScheduler(num_train_timesteps=TRAIN_STEPS, beta_schedule=schedule)


def solver(name: str, steps: int, config: Any, *, clip: bool = False) -> Any:
    """Return diffusers' sampler over the noise levels of `config`: "ddim" (arXiv 2010.02502) or "dpm" (arXiv 2211.01095), no randomness.

    clip: keep each step's predicted image in [-1, 1]. At the first time of the cosine levels an image is the predicted noise's error
    times 20,000, which dpm by itself would pass on.
    """
    if name == "ddim":
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler as Solver
    else:
        from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler as Solver
    clipped = {
        "clip_sample": True,
        "clip_sample_range": 1.0,
        "thresholding": name != "ddim",
        "sample_max_value": 1.0,
    }
    options = {
        key: value for key, value in clipped.items() if clip and key in Solver.__init__.__annotations__
    }
    made = Solver.from_config(config, timestep_spacing="trailing", **options)
    made.set_timesteps(steps)
    return made


class _Block(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, condition: int) -> None:
        super().__init__()
        self.norm1 = Modulated(channels_in, condition)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = Modulated(channels_out, condition)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.skip = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()
        _shrink(self.conv2)  # each block starts close to its skip

    def forward(self, inputs: Tensor, condition: Tensor) -> Tensor:
        out = self.conv1(F.silu(self.norm1(inputs, condition)))
        return self.conv2(F.silu(self.norm2(out, condition))) + self.skip(inputs)


def _shrink(layer: nn.Conv2d) -> None:
    with torch.no_grad():
        layer.weight.mul_(0.1)


class _Attention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        _shrink(self.out)

    def forward(self, inputs: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(inputs)).flatten(2).transpose(1, 2).chunk(3, dim=2)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return inputs + self.out(mixed.transpose(1, 2).reshape(inputs.shape))


class DiffusionUNet(Generator):
    """Noisy image, time and class to the noise in it; `sample` integrates from noise to image.

    input_shape: (channels, height, width) of the images. num_classes: of the labels. width: channels of the finest grid, doubled at
    each coarser one up to four times `width`. depth: residual blocks per grid, each way. solver, sampling_steps: see `solver`.
    A soft label mixes the class embeddings. Attention on the coarsest grid. Design after DDPM (Ho et al. 2020, arXiv 2006.11239);
    noise levels: cosine (Nichol and Dhariwal 2021, arXiv 2102.09672). No guidance, which would trade diversity away.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        width: int = 64,
        depth: int = 2,
        solver: Literal["ddim", "dpm"] = "dpm",
        sampling_steps: int = 20,
    ) -> None:
        super().__init__()
        if solver not in SOLVERS:
            raise UserError(f"solver={solver!r} is not known; {choices(solver, SOLVERS)}")
        if not 1 <= sampling_steps <= TRAIN_STEPS:
            raise UserError(f"sampling_steps must be from 1 to {TRAIN_STEPS}, got {sampling_steps}")
        self.image_shape = (int(input_shape[0]), int(input_shape[1]), int(input_shape[2]))
        self.noise_shape, self.classes = self.image_shape, num_classes
        self.solver, self.sampling_steps = solver, sampling_steps
        condition = 4 * width
        self.time = nn.Sequential(nn.Linear(width, condition), nn.SiLU(), nn.Linear(condition, condition))
        self.embedding = nn.Linear(num_classes, condition, bias=False)
        self._time_width = width
        widths = [width * min(2**level, 4) for level in range(len(grid_sizes(input_shape)))]
        self.first = nn.Conv2d(self.image_shape[0], width, 3, padding=1)
        self.down, self.up, kept, channels = nn.ModuleList(), nn.ModuleList(), [width], width
        for wide in widths:
            self.down.append(
                nn.ModuleList(_Block(channels if i == 0 else wide, wide, condition) for i in range(depth))
            )
            kept += [wide] * depth
            channels = wide
        self.middle = nn.ModuleList(
            [_Block(channels, channels, condition), _Block(channels, channels, condition)]
        )
        self.attention = _Attention(channels)
        for wide in widths[::-1]:
            blocks = nn.ModuleList()
            for _ in range(depth):
                blocks.append(_Block(channels + kept.pop(), wide, condition))
                channels = wide
            self.up.append(blocks)
        self.norm = Modulated(channels + kept.pop(), condition)
        self.last = nn.Conv2d(channels + width, self.image_shape[0], 3, padding=1)
        _shrink(self.last)

    def forward(self, noisy: Tensor, time: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        """Noisy images (n, C, H, W), times (n,) from 0 to 999 and label weights (n, classes) to the noise (n, C, H, W).

        Without times and labels: time 0 and no class, so that its layers can be looked at on images as they are.
        """
        time = torch.zeros(len(noisy), device=noisy.device) if time is None else time
        labels = noisy.new_zeros(len(noisy), self.classes) if labels is None else labels
        condition = self.time(_waves(time, self._time_width)) + self.embedding(labels)
        condition = F.silu(condition)
        out = self.first(noisy)
        kept = [out]
        for level, blocks in enumerate(self.down):
            out = F.avg_pool2d(out, 2) if level else out
            for block in blocks:  # type: ignore[attr-defined]
                out = block(out, condition)
                kept.append(out)
        out = self.middle[1](self.attention(self.middle[0](out, condition)), condition)
        for level, blocks in enumerate(self.up):
            out = F.interpolate(out, scale_factor=2, mode="nearest") if level else out
            for block in blocks:  # type: ignore[attr-defined]
                out = block(torch.cat([out, kept.pop()], dim=1), condition)
        out = torch.cat([out, kept.pop()], dim=1)
        return self.last(F.silu(self.norm(out, condition)))

    def render(self, noise: Tensor, labels: Tensor) -> Tensor:
        """See `Generator.render`."""
        steps = solver(self.solver, self.sampling_steps, noise_levels().config, clip=True)
        images = noise
        for time in steps.timesteps:
            predicted = self(images, time.to(noise.device).expand(len(noise)), labels)
            images = steps.step(predicted, time, images).prev_sample
        return images

    def describe(self) -> dict[str, Any]:
        """See `Generator.describe`."""
        return super().describe() | {
            "solver": self.solver,
            "sampling_steps": self.sampling_steps,
            "clip": True,
        }


def _waves(time: Tensor, width: int) -> Tensor:
    """Sines and cosines of the time at geometric frequencies, (n, width)."""
    half = width // 2
    frequencies = torch.exp(torch.arange(half, device=time.device) * (-9.21 / max(half - 1, 1)))  # 1 to 1e-4
    angles = time.float()[:, None] * frequencies
    return F.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, width - 2 * half))
