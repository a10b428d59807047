"""DiT, a class-conditional latent diffusion Transformer, through `diffusers`; soft labels mix its class embeddings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from tutelage.errors import UserError, choices, extra
from tutelage.generators.diffusion_unet import SOLVERS, solver
from tutelage.generators.protocol import Generator


class _MixedLabels(nn.Module):
    """Takes the place of a label embedding: weights (n, classes) instead of class numbers. The null class takes no part."""

    def __init__(self, table: nn.Embedding, classes: int) -> None:
        super().__init__()
        self.table, self.classes = table, classes

    def forward(self, labels: Tensor) -> Tensor:
        return labels.to(self.table.weight.dtype) @ self.table.weight[: self.classes]


class Dit(Generator):
    """A DiT with its image decoder (Peebles and Xie 2022, arXiv 2212.09748), sampled without guidance, which would cost diversity.

    transformer, vae: diffusers' DiTTransformer2DModel and AutoencoderKL. levels: the configuration of the noise levels it was
    trained with. solver_name, sampling_steps: see `diffusion.solver`.
    """

    micro_batch = 4

    def __init__(
        self,
        transformer: nn.Module,
        vae: nn.Module,
        levels: dict[str, Any],
        *,
        solver_name: str,
        sampling_steps: int,
    ) -> None:
        super().__init__()
        config: Any = transformer.config
        self.classes = int(config.num_embeds_ada_norm)  # the null class comes after these
        self.noise_shape = (config.in_channels, config.sample_size, config.sample_size)
        enlarged: Any = vae.config
        pixels = config.sample_size * 2 ** (len(enlarged.block_out_channels) - 1)
        self.image_shape = (enlarged.out_channels, pixels, pixels)
        for module in transformer.modules():
            table = getattr(getattr(module, "class_embedder", None), "embedding_table", None)
            if isinstance(table, nn.Embedding):
                module.class_embedder = _MixedLabels(table, self.classes)
        self.transformer, self.vae = transformer.requires_grad_(False), vae.requires_grad_(False)
        self._scaling, self._latent_channels = float(enlarged.scaling_factor), int(config.in_channels)
        self._levels, self.solver, self.sampling_steps = levels, solver_name, sampling_steps

    def render(self, noise: Tensor, labels: Tensor) -> Tensor:
        """See `Generator.render`."""
        steps = solver(self.solver, self.sampling_steps, self._levels)
        latents = noise * steps.init_noise_sigma
        for time in steps.timesteps:
            times = time.to(noise.device).expand(len(noise))
            predicted = self.transformer(
                steps.scale_model_input(latents, time), timestep=times, class_labels=labels
            ).sample
            predicted = predicted[
                :, : self._latent_channels
            ]  # the rest is a learned variance, which these solvers do not use
            latents = steps.step(predicted, time, latents).prev_sample
        decoder: Any = self.vae
        return decoder.decode(latents / self._scaling).sample

    def describe(self) -> dict[str, Any]:
        """See `Generator.describe`."""
        return super().describe() | {"solver": self.solver, "sampling_steps": self.sampling_steps}


def dit(
    source: str = "facebook/DiT-XL-2-256", solver: Literal["dpm", "ddim"] = "dpm", sampling_steps: int = 25
) -> Dit:
    """Return a pre-trained DiT.

    source: a public name, fetched by diffusers, or a folder that its `DiTPipeline.save_pretrained` has written.
    Raises UserError where diffusers is not installed, or the files are missing or of another kind.
    """
    if solver not in SOLVERS:
        raise UserError(f"solver={solver!r} is not known; {choices(solver, SOLVERS)}")
    with extra("diffusion", "DiT needs the package diffusers"):
        from diffusers import AutoencoderKL, DiTTransformer2DModel
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    folder = Path(source).expanduser()
    place = str(folder) if folder.is_dir() else source
    parts: dict[str, Any] = {"transformer": DiTTransformer2DModel, "vae": AutoencoderKL}
    try:
        loaded = {name: kind.from_pretrained(place, subfolder=name) for name, kind in parts.items()}
        levels, _ = DDIMScheduler.load_config(place, subfolder="scheduler", return_unused_kwargs=True)
    except (OSError, ValueError, RuntimeError, json.JSONDecodeError) as error:
        raise UserError(
            f"no DiT can be read from {source!r}: expected a folder with transformer/, vae/ and scheduler/ as DiTPipeline writes it, "
            f"or a public name and a network ({str(error).splitlines()[0]})"
        ) from error
    return Dit(
        loaded["transformer"], loaded["vae"], levels, solver_name=solver, sampling_steps=sampling_steps
    ).eval()
