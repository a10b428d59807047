"""Every generator: an image is a function of its label and seed alone, soft labels contain hard ones, mistakes are named."""

import contextlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tutelage.errors import UserError
from tutelage.generators.diffusion_unet import SOLVERS, DiffusionUNet, _Block, noise_levels
from tutelage.generators.gan_networks import Critic, GanGenerator, grid_sizes
from tutelage.generators.inversion_network import InversionGenerator
from tutelage.generators.noise import NoiseDomain
from tutelage.generators.protocol import Generator, image_seeds, label_weights, noise_of, to_bytes

CLASSES = 4
MAKE = {
    "gan": lambda: GanGenerator((3, 16, 16), CLASSES, width=8, latent=8),
    "inversion": lambda: InversionGenerator((3, 16, 16), CLASSES, width=8, latent=8),
    "diffusion": lambda: DiffusionUNet((1, 8, 8), CLASSES, width=8, depth=1, sampling_steps=3),
    "ddim": lambda: DiffusionUNet((1, 8, 8), CLASSES, width=8, depth=1, solver="ddim", sampling_steps=3),
    "noise": lambda: NoiseDomain((3, 8, 8), CLASSES),
}
N = 37
LABELS, SEEDS = torch.arange(N) % CLASSES, torch.arange(N) + 2**40


@pytest.fixture(params=MAKE)
def generator(request) -> Generator:
    torch.manual_seed(0)
    made = MAKE[request.param]()
    for p in made.parameters():  # an untrained network may be nearly linear, and forgive rounding
        torch.nn.init.normal_(p, std=0.1)
    made.micro_batch = 8
    return made


def test_images_do_not_depend_on_batch_size_order_or_neighbours(generator):
    whole = generator.sample(LABELS, SEEDS)
    assert whole.shape == (N, *generator.image_shape)
    assert whole.dtype == torch.float32
    assert whole.min() >= 0 and whole.max() <= 1
    assert len({image.numpy().tobytes() for image in whole}) == N
    for size in (1, 5, 8, 24):
        parts = [generator.sample(LABELS[i : i + size], SEEDS[i : i + size]) for i in range(0, N, size)]
        assert torch.equal(torch.cat(parts), whole)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    assert torch.equal(generator.sample(LABELS[order], SEEDS[order]), whole[order])


def test_the_global_random_state_and_the_mode_are_left_alone_and_do_not_matter(generator):
    torch.manual_seed(1)
    generator.train()
    first = generator.sample(LABELS[:3], SEEDS[:3])
    state = torch.get_rng_state()
    assert generator.training
    generator.eval()
    assert torch.equal(generator.sample(LABELS[:3], SEEDS[:3]), first)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_one_hot_soft_label_is_the_hard_label_and_others_mix(generator):
    hard = generator.sample(LABELS[:6], SEEDS[:6])
    assert torch.equal(generator.sample(F.one_hot(LABELS[:6], CLASSES).double(), SEEDS[:6]), hard)
    mixed = generator.sample(torch.full((1, CLASSES), 1 / CLASSES), SEEDS[:1])
    assert not torch.equal(mixed, hard[:1])


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_small_error_of_the_predicted_noise_stays_small_in_the_image(solver):
    generator = DiffusionUNet((1, 8, 8), CLASSES, width=8, depth=1, solver=solver)
    kept = noise_levels().alphas_cumprod

    def almost(noisy, time, labels):  # of grey images the noise is all there is: noisy = sqrt(1 - kept) noise
        return 0.99 * noisy / (1 - kept[time]).sqrt().view(-1, 1, 1, 1)

    generator.forward = almost
    images = generator.sample(torch.zeros(16, dtype=torch.long), range(16))
    assert (images - 0.5).abs().max() < 0.1


def test_samples_carry_no_gradient_and_may_take_part_in_training(generator):
    images = generator.sample(LABELS[:2], SEEDS[:2])
    assert not images.requires_grad
    scale = torch.ones(1, requires_grad=True)
    (images * scale).sum().backward()


def test_no_images_are_an_empty_batch(generator):
    assert generator.sample(LABELS[:0], SEEDS[:0]).shape == (0, *generator.image_shape)


def test_labels_that_do_not_fit_are_named():
    generator = MAKE["noise"]()
    for labels, words in (
        (torch.tensor([0, CLASSES]), "same classes"),
        (torch.tensor([-1]), "same classes"),
        (torch.full((1, CLASSES + 1), 0.2), "same classes"),
        (torch.full((1, CLASSES), 0.5), "summing to 1"),
        (torch.tensor([[1.5, -0.5, 0.0, 0.0]]), "summing to 1"),
    ):
        with pytest.raises(UserError, match=words):
            generator.sample(labels, range(len(labels)))
    with pytest.raises(UserError, match="one seed"):
        generator.sample(LABELS, SEEDS[:3])
    assert torch.equal(label_weights(torch.tensor([2]), 4), torch.tensor([[0.0, 0.0, 1.0, 0.0]]))


def test_seeds_are_distinct_positional_and_unlike_their_neighbours():
    seeds = image_seeds(3, np.arange(20000))
    assert len(set(seeds.tolist())) == 20000
    assert np.array_equal(image_seeds(3, np.arange(500, 600)), seeds[500:600])
    assert not set(seeds.tolist()) & set(image_seeds(4, np.arange(20000)).tolist())
    assert (seeds >= 0).all()
    noise = torch.stack([noise_of(int(seed), (64,)) for seed in seeds[:200]])
    assert (torch.corrcoef(noise) - torch.eye(200)).abs().max() < 0.65
    assert abs(float(noise.mean())) < 0.05


def test_to_bytes_rounds_to_nearest():
    assert to_bytes(torch.tensor([0.0, 1.0, 0.5, 0.1 / 255, 1.2])).tolist() == [0, 255, 128, 0, 255]


def test_the_noise_domain_carries_the_class_and_at_signal_zero_nothing():
    generator = NoiseDomain((1, 8, 8), 3, signal=0.8)
    images = generator.sample(torch.arange(300) % 3, range(300))
    means = torch.stack([images[torch.arange(300) % 3 == c].mean(dim=0) for c in range(3)])
    nearest = torch.cdist(images.flatten(1), means.flatten(1)).argmin(dim=1)
    assert (nearest == torch.arange(300) % 3).float().mean() > 0.95
    blind = NoiseDomain((1, 8, 8), 3, signal=0.0)
    assert torch.equal(blind.sample(torch.tensor([0]), [5]), blind.sample(torch.tensor([2]), [5]))
    with pytest.raises(UserError, match="signal"):
        NoiseDomain((1, 8, 8), 3, signal=2.0)


@pytest.mark.parametrize("depth", [1, 2])
def test_the_critic_halves_the_image_once_a_level_down_to_the_generators_smallest_grid(depth):
    critic = Critic((1, 16, 16), CLASSES, width=4, depth=depth)
    sides = []
    for block in critic.blocks:
        block.register_forward_hook(lambda _, __, output: sides.append(output.shape[-1]))
    critic(torch.randn(2, 1, 16, 16), torch.eye(CLASSES)[:2])
    assert grid_sizes((1, 16, 16)) == [(16, 16), (8, 8), (4, 4)]
    assert sides == {1: [8, 4, 4], 2: [16, 8, 8, 4, 4, 4]}[depth]


@pytest.mark.parametrize("conditioning", ["projection", "embedding"])
def test_the_critic_scores_image_and_label_without_looking_at_neighbours(conditioning):
    torch.manual_seed(0)
    critic = Critic((1, 8, 8), CLASSES, width=8, conditioning=conditioning).eval()
    images, labels = torch.randn(5, 1, 8, 8), F.one_hot(LABELS[:5], CLASSES).float()
    scores = critic(images, labels)
    assert scores.shape == (5,)
    torch.testing.assert_close(critic(images[2:3], labels[2:3]), scores[2:3])
    assert not torch.allclose(critic(images, labels.roll(1, dims=1)), scores)
    critic.train()
    for _ in range(30):
        critic(images, labels)
    for module in critic.modules():
        if isinstance(module, torch.nn.Conv2d):
            norm = torch.linalg.matrix_norm(module.weight.detach().flatten(1), 2)
            assert float(norm) == pytest.approx(1.0, rel=0.1)


def test_grids_halve_down_to_four_px():
    assert grid_sizes((3, 32, 32)) == [(32, 32), (16, 16), (8, 8), (4, 4)]
    assert grid_sizes((1, 28, 28)) == [(28, 28), (14, 14), (7, 7)]
    assert grid_sizes((1, 8, 12)) == [(8, 12), (4, 6)]


def test_a_generator_without_parameters_samples_where_its_buffers_are(monkeypatch):
    """On a GPU the noise domain was taken to be on the CPU: it has no parameter. The meta device stands for one."""
    seen = []
    domain = NoiseDomain((1, 4, 4), 2).to("meta")

    def render(noise, labels):
        seen.extend([noise.device.type, labels.device.type])
        return torch.zeros(len(noise), 1, 4, 4)

    monkeypatch.setattr(domain, "render", render)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # knows no meta device
    domain.sample(torch.tensor([0, 1]), [0, 1])
    assert seen == ["meta", "meta"]


def test_a_block_of_the_denoiser_is_its_skip_and_what_it_adds() -> None:
    for channels_out in (8, 12):
        block = _Block(8, channels_out, 5)
        inputs, condition = torch.randn(2, 8, 4, 4), torch.randn(2, 5)
        added = block.conv2(
            F.silu(block.norm2(block.conv1(F.silu(block.norm1(inputs, condition))), condition))
        )
        torch.testing.assert_close(block(inputs, condition), block.skip(inputs) + added)
