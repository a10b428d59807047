"""The DiT adapter: the pipeline's own images for class numbers, mixtures for soft labels, folders that are none."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tutelage.errors import UserError
from tutelage.generators.dit import dit

CLASSES = 7  # so that the null class is 7, not 1000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=8, patch_size=2,
        num_embeds_ada_norm=CLASSES, norm_num_groups=4, activation_fn="gelu-approximate", norm_elementwise_affine=False,
    )  # fmt: skip
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    vae = AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    scheduler = DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    path = tmp_path_factory.mktemp("dit")
    DiTPipeline(transformer, vae, scheduler).save_pretrained(path)
    return path


def test_class_numbers_give_the_pipelines_own_images(folder):
    from diffusers import DiTPipeline

    pipeline = DiTPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    labels, seeds = [2, 0, 6], [11, 12, 13]
    expected = pipeline(
        labels,
        guidance_scale=1.0,
        generator=[torch.Generator().manual_seed(s) for s in seeds],
        num_inference_steps=3,
        output_type="np",
    ).images
    ours = dit(str(folder), solver="ddim", sampling_steps=3).sample(torch.tensor(labels), seeds)
    np.testing.assert_allclose(ours.permute(0, 2, 3, 1).numpy(), expected, atol=1e-4)
    assert ours.std() > 0.02


def test_soft_labels_mix_the_class_embeddings_and_no_image_sees_its_batch(folder):
    generator = dit(str(folder), sampling_steps=2)
    assert generator.classes == CLASSES
    assert generator.image_shape == (3, 16, 16)
    labels, seeds = torch.arange(6), torch.arange(6)
    hard = generator.sample(labels, seeds)
    assert torch.equal(generator.sample(F.one_hot(labels, CLASSES).float(), seeds), hard)
    assert torch.equal(generator.sample(labels[4:5], seeds[4:5]), hard[4:5])
    soft = torch.tensor([[0.5, 0.5] + [0.0] * (CLASSES - 2)])
    embedder = generator.transformer.transformer_blocks[0].norm1.emb.class_embedder
    torch.testing.assert_close(embedder(soft)[0], embedder.table.weight[:2].mean(dim=0))
    assert not torch.equal(generator.sample(soft, [0]), hard[:1])
    assert all(not p.requires_grad for p in generator.parameters())


def test_what_is_no_dit_is_named(tmp_path):
    with pytest.raises(UserError, match="transformer/"):
        dit(str(tmp_path))
    with pytest.raises(UserError, match="did you mean 'ddim'"):
        dit(str(tmp_path), solver="dim")
