"""Generators against slow ones: their networks layer by layer, labels and seeds in plain numbers, scores by loops, and their bounds."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tutelage.errors import UserError
from tutelage.generators import shards
from tutelage.generators.biggan import _Spectral
from tutelage.generators.conditioning import Conditioning, _chunks
from tutelage.generators.diffusion_unet import TRAIN_STEPS, DiffusionUNet, _Attention, _waves
from tutelage.generators.gan_networks import Critic, GanGenerator, Modulated, _groups, grid_sizes
from tutelage.generators.noise import NoiseDomain
from tutelage.generators.protocol import image_seeds, label_weights, noise_of
from tutelage.generators.quality import frechet_distance, precision_recall
from tutelage.generators.shards import recipe
from tutelage.generators.synthesis import synthesize


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shaken(module):
    """The same module with every parameter of ordinary size, so that each matters."""
    for k, parameter in enumerate(module.parameters()):
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(k))
    return module


# --- labels and seeds


def test_seeds_are_splitmix64_of_set_and_place():
    for set_seed in (0, 3, -5):
        found = image_seeds(set_seed, np.array([0, 7, 10**9])).tolist()
        for place, seed in zip((0, 7, 10**9), found, strict=True):
            x = ((set_seed % 2**64) * 0x9E3779B97F4A7C15 + 1 + place * 0xD1B54A32D192ED03) % 2**64
            x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
            x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
            assert seed == (x ^ (x >> 31)) >> 1


def test_sampled_labels_are_where_the_running_sum_passes_the_draw():
    predictions = random(3, 4).softmax(1)
    made = Conditioning("sampled", classes=4, seed=9, predictions=predictions)
    draws = image_seeds(9 ^ 0x5EED, np.arange(5, 25)) / 2**63
    slow = []
    for place, draw in zip(range(5, 25), draws, strict=True):
        running, label = 0.0, 0
        for p in predictions[place % 3].double().tolist():
            running += p
            if running > draw * float(predictions[place % 3].double().sum()):
                break
            label += 1
        slow.append(min(label, 3))
    assert made.labels(5, 25).tolist() == slow


def test_a_class_of_no_probability_is_never_drawn(monkeypatch):
    predictions = torch.tensor([[0.0, 0.5, 0.5], [0.5, 0.5, 0.0]])
    for draw, wanted in (
        (0, [1, 0]),
        (2**62, [2, 1]),
        (2**63 - 1, [2, 1]),
    ):  # of 2^63, to which the last one rounds
        monkeypatch.setattr(
            "tutelage.generators.conditioning.image_seeds",
            lambda seed, places, draw=draw: np.full(len(places), draw),
        )
        assert (
            Conditioning("sampled", classes=3, seed=0, predictions=predictions).labels(0, 2).tolist()
            == wanted
        )


@pytest.mark.parametrize("predictions", [None, torch.zeros(4), torch.zeros(0, 4)])
def test_labels_of_target_images_need_some(predictions):
    with pytest.raises(UserError, match="it needs a source classifier and target data"):
        Conditioning("soft", classes=4, seed=0, predictions=predictions)
    assert Conditioning("uniform", classes=4, seed=0, predictions=predictions).labels(2, 6).tolist() == [
        2,
        3,
        0,
        1,
    ]


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (torch.tensor([0, 3]), ""),
        (torch.tensor([], dtype=torch.long), ""),
        (torch.tensor([0, 4]), "knows the classes 0 to 3, got labels from 0 to 4"),
        (torch.tensor([-1, 2]), "got labels from -1 to 2"),
        (torch.tensor([[0.25, 0.25, 0.25, 0.2509]]), ""),
        (torch.tensor([[0.25, 0.25, 0.25, 0.2521]]), "each row summing to 1"),
        (torch.tensor([[1.0, 0.0, 0.0, 0.0]]), ""),
        (torch.tensor([[1.1, -0.1, 0.0, 0.0]]), "not negative"),
        (torch.tensor([0.0, 1.0]), r"weights \(n, 4\), got torch.float32 \(2,\)"),
        (torch.tensor([[1, 0, 0, 0]]), r"got torch.int64 \(1, 4\)"),
        (torch.ones(1, 3) / 3, r"got torch.float32 \(1, 3\)"),
    ],
)
def test_labels_are_numbers_of_classes_or_weights_of_them(labels, says):
    if says:
        with pytest.raises(UserError, match=says):
            label_weights(labels, 4)
        return
    found = label_weights(labels, 4)
    wanted = F.one_hot(labels, 4).float() if labels.ndim == 1 else labels
    assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    ("signal", "contrast", "fits"),
    [(0, 0.1, True), (1, 2, True), (-1e-9, 0.5, False), (1.001, 0.5, False), (0.5, 0, False)],
)
def test_the_noise_domain_is_its_class_image_and_noise_by_their_shares(signal, contrast, fits):
    if not fits:
        with pytest.raises(UserError, match="signal from 0 to 1 and contrast above 0"):
            NoiseDomain((1, 2, 3), 4, signal=signal, contrast=contrast)
        return
    domain = NoiseDomain((1, 2, 3), 4, signal=signal, contrast=contrast, seed=7)
    images = noise_of(7, (4, 1, 2, 3))
    labels, noise = torch.tensor([[0.0, 1, 0, 0], [0.5, 0, 0.5, 0]]), random(2, 1, 2, 3)
    means = torch.stack([images[1], (images[0] + images[2]) / 2])
    wanted = (contrast * (math.sqrt(signal) * means + math.sqrt(1 - signal) * noise)).clamp(-1, 1)
    torch.testing.assert_close(domain.render(noise, labels), wanted)


# --- networks


def test_groups_hold_four_channels_or_more():
    assert {n: _groups(n) for n in (1, 3, 4, 8, 12, 16, 24, 32, 48, 64)} == {
        1: 1, 3: 1, 4: 1, 8: 2, 12: 1, 16: 4, 24: 2, 32: 8, 48: 4, 64: 8,
    }  # fmt: skip
    assert grid_sizes((1, 16, 24)) == [(16, 24), (8, 12), (4, 6)] and grid_sizes((1, 6, 8)) == [(6, 8)]
    assert grid_sizes((1, 8, 8), least_px=2) == [(8, 8), (4, 4), (2, 2)]


def modulated(module, x, condition):
    gain, shift = (condition @ module.affine.weight.T + module.affine.bias).chunk(2, dim=1)
    groups = x.reshape(len(x), module.norm.num_groups, -1)
    normed = (groups - groups.mean(2, keepdim=True)) / (
        groups.var(2, unbiased=False, keepdim=True) + 1e-5
    ).sqrt()
    return normed.view_as(x) * (1 + gain[:, :, None, None]) + shift[:, :, None, None]


def twice(x):
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def test_a_modulated_norm_is_that_by_hand_and_begins_near_1_and_0():
    made = Modulated(8, 3)
    assert float(made.affine.weight.std()) == pytest.approx(0.02, rel=0.3) and not made.affine.bias.any()
    x, condition = random(2, 8, 3, 5), random(2, 3, seed=1)
    torch.testing.assert_close(
        shaken(made)(x, condition), modulated(made, x, condition), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("depth", [1, 2])
def test_the_gan_renders_block_by_block(depth):
    made = shaken(GanGenerator((2, 16, 24), 3, width=4, depth=depth, latent=5))
    assert [(b.conv1.in_channels, b.conv1.out_channels, b.upsample) for b in made.blocks if depth == 1] == (
        [(16, 16, False), (16, 8, True), (8, 4, True)] if depth == 1 else []
    )
    assert sum(b.upsample for b in made.blocks) == 2 and len(made.blocks) == 3 * depth
    noise, labels = random(2, 5), torch.tensor([[1.0, 0, 0], [0.2, 0.3, 0.5]])
    condition = torch.cat([noise, labels @ made.embedding.weight.T], dim=1)
    x = made.start(condition).view(2, 16, 4, 6)
    for block in made.blocks:
        inside = modulated(block.norm1, x, condition).relu()
        inside, x = (twice(inside), twice(x)) if block.upsample else (inside, x)
        x = block.conv2(modulated(block.norm2, block.conv1(inside), condition).relu()) + block.skip(x)
        assert isinstance(block.skip, torch.nn.Identity) is (
            block.conv1.in_channels == block.conv1.out_channels
        )
    wanted = made.last(modulated(made.norm, x, condition).relu()).tanh()
    torch.testing.assert_close(made.render(noise, labels), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("conditioning", ["projection", "embedding"])
@pytest.mark.parametrize("depth", [1, 2])
def test_the_critic_scores_block_by_block(conditioning, depth):
    made = shaken(Critic((2, 16, 24), 3, width=4, depth=depth, conditioning=conditioning)).eval()
    images, labels = random(2, 2, 16, 24), torch.tensor([[1.0, 0, 0], [0.2, 0.3, 0.5]])
    embedded = labels @ made.embedding.weight.T
    assert embedded.shape[1] == (16 if conditioning == "projection" else 16 * 24)
    x = images if conditioning == "projection" else torch.cat([images, embedded.view(2, 1, 16, 24)], dim=1)
    x = made.first(x)
    for place, block in enumerate(made.blocks):
        inside = block.conv2(F.leaky_relu(block.conv1(F.leaky_relu(x, 0.2)), 0.2))
        x = inside + block.skip(x)
        assert block.downsample is (place % depth == depth - 1 and place < 2 * depth)
        x = F.avg_pool2d(x, 2) if block.downsample else x
    features = F.leaky_relu(x, 0.2).sum((2, 3))
    wanted = made.score(features)[:, 0]
    if conditioning == "projection":
        wanted = wanted + (features * embedded).sum(1)
    torch.testing.assert_close(made(images, labels), wanted, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="did you mean 'projection'"):
        Critic((2, 16, 24), 3, conditioning="projecton")


def test_times_are_waves_of_falling_frequency():
    for width in (1, 2, 3, 8, 9):
        half = width // 2
        for row, time in zip(_waves(torch.tensor([0, 3, 999]), width).tolist(), (0, 3, 999), strict=True):
            angles = [time * math.exp(-9.21 * k / max(half - 1, 1)) for k in range(half)]
            wanted = [*map(math.sin, angles), *map(math.cos, angles), *[0.0] * (width - 2 * half)]
            assert row == pytest.approx(wanted, abs=1e-4)


def test_attention_mixes_every_place_with_every_other():
    made, x = shaken(_Attention(4)), random(2, 4, 2, 3)
    normed = made.norm(x)
    q, k, v = (
        F.conv2d(normed, part, bias)
        for part, bias in zip(made.qkv.weight.chunk(3), made.qkv.bias.chunk(3), strict=True)
    )
    share = torch.einsum("ncij,nckl->nijkl", q, k).flatten(3).div(2.0).softmax(3).view(2, 2, 3, 2, 3)
    wanted = x + made.out(torch.einsum("nijkl,nckl->ncij", share, v))
    torch.testing.assert_close(made(x), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("depth", [1, 2])
def test_the_denoiser_runs_down_and_up_with_what_each_block_left(depth):
    made = shaken(DiffusionUNet((2, 8, 12), 3, width=4, depth=depth))
    noisy, time, labels = (
        random(2, 2, 8, 12),
        torch.tensor([3, 700]),
        torch.tensor([[1.0, 0, 0], [0.2, 0.3, 0.5]]),
    )

    def block(one, x, condition):
        inside = one.conv1(F.silu(modulated(one.norm1, x, condition)))
        return one.conv2(F.silu(modulated(one.norm2, inside, condition))) + one.skip(x)

    def by_hand(time, labels):
        condition = made.time(_waves(time, 4))
        if labels is not None:
            condition = condition + labels @ made.embedding.weight.T
        condition = F.silu(condition)
        x = made.first(noisy)
        kept = [x]
        for level, blocks in enumerate(made.down):
            x = F.avg_pool2d(x, 2) if level else x
            for one in blocks:
                x = block(one, x, condition)
                kept.append(x)
        x = block(made.middle[1], made.attention(block(made.middle[0], x, condition)), condition)
        for level, blocks in enumerate(made.up):
            x = twice(x) if level else x
            for one in blocks:
                x = block(one, torch.cat([x, kept.pop()], 1), condition)
        x = torch.cat([x, kept.pop()], 1)
        assert not kept
        return made.last(F.silu(modulated(made.norm, x, condition)))

    torch.testing.assert_close(made(noisy, time, labels), by_hand(time, labels), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        made(noisy), by_hand(torch.zeros(2, dtype=torch.long), None), rtol=1e-3, atol=1e-3
    )
    assert [len(blocks) for blocks in made.down] == [len(blocks) for blocks in made.up] == [depth] * 2
    for steps in (1, TRAIN_STEPS):
        DiffusionUNet((1, 8, 8), 2, width=4, depth=1, sampling_steps=steps)
    for steps in (0, TRAIN_STEPS + 1):
        with pytest.raises(UserError, match=f"sampling_steps must be from 1 to 1000, got {steps}"):
            DiffusionUNet((1, 8, 8), 2, width=4, depth=1, sampling_steps=steps)


# --- scores


def test_precision_and_recall_at_the_reach_of_the_last_neighbour():
    line = torch.tensor([[0.0], [1.0], [3.0], [7.0]])  # to the second neighbour: 3, 2, 3, 6
    for place, inside in ((-3.0, 1), (-3.01, 0), (13.0, 1), (13.01, 0), (5.0, 1)):
        generated = torch.full((3, 1), place)
        precision, recall = precision_recall(line, generated, neighbours=2)
        assert precision == inside
        assert recall == float((line == place).double().mean())  # of points that coincide the reach is 0
    for count in (3, 2):
        if count == 3:
            precision_recall(line, line[:3], neighbours=2)
            continue
        with pytest.raises(
            UserError, match="at least 3 samples of each kind are needed, got 4 real and 2 generated"
        ):
            precision_recall(line, line[:2], neighbours=2)
    assert frechet_distance(line[:2], line[2:]) >= 0
    for real, generated in ((line[:1], line), (line, line[:1])):
        with pytest.raises(UserError, match="at least 2 samples"):
            frechet_distance(real, generated)
    for real, generated in ((line[:, 0], line), (line, line[:, 0]), (line, random(4, 2))):
        with pytest.raises(UserError, match=r"features must be \(n, d\) and \(m, d\)"):
            frechet_distance(real, generated)


# --- sets


def test_what_a_set_is_made_of_is_refused_where_it_does_not_fit(tmp_path):
    domain, images = NoiseDomain((1, 2, 2), 3), [random(2, 1, 2, 2)]
    classifier = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    for more in ({"classifier": classifier}, {"targets": images}):
        with pytest.raises(
            UserError, match="labelling=uniform reads neither a source classifier nor target data"
        ):
            synthesize(tmp_path / "a", domain, labelling="uniform", count=2, **more)
        with pytest.raises(UserError, match="needs a source classifier and target data"):
            synthesize(tmp_path / "a", domain, labelling="soft", count=2, **more)
    with pytest.raises(UserError, match="`micro_batch` must be at least 1 image, got 0"):
        synthesize(tmp_path / "a", domain, labelling="uniform", count=2, micro_batch=0)
    with pytest.raises(UserError, match="`shard_size` must be at least 1 image, got 0"):
        synthesize(tmp_path / "a", domain, labelling="uniform", count=2, shard_size=0)
    with pytest.raises(UserError, match="a count of at least 1 image, got 0"):
        recipe(domain, Conditioning("uniform", classes=3, seed=0), count=0, seed=0)
    made = synthesize(
        tmp_path / "b",
        domain,
        labelling="soft",
        count=1,
        micro_batch=1,
        classifier=classifier,
        targets=images,
    )
    assert made is not None and (made["count"], made["targets"]) == (1, 2) and domain.micro_batch == 1


@pytest.mark.parametrize(
    ("size", "micro", "counts"),
    [(4, 4, [4, 4, 1]), (5, 4, [8, 1]), (1, 4, [4, 4, 1]), (9, 3, [9]), (8, 3, [9]), (3, 1, [3, 3, 3])],
)
def test_shards_are_whole_micro_batches(tmp_path, size, micro, counts):
    made = synthesize(
        tmp_path, NoiseDomain((1, 2, 2), 3), labelling="uniform", count=9, shard_size=size, micro_batch=micro
    )
    assert made is not None and [shard["count"] for shard in made["shards"]] == counts


def test_a_sets_digest_is_taken_anew_where_its_shards_were_checked_or_have_changed(tmp_path, monkeypatch):
    calls = []
    digest = shards.content_digest
    monkeypatch.setattr(shards, "content_digest", lambda *given: calls.append(1) or digest(*given))

    def made(**more):
        domain = NoiseDomain((1, 2, 2), 3)
        return synthesize(
            tmp_path, domain, labelling="uniform", count=9, shard_size=4, micro_batch=4, **more
        ), len(calls)

    assert made(rank=0, world_size=2) == (None, 0)
    manifest, count = made(rank=1, world_size=2)
    assert (
        count == 1
        and shards.damaged(tmp_path, manifest) == []
        and made(rank=0, world_size=2) == (manifest, 2)
    )
    wrong = {**manifest, "content_sha256": "x"}
    (tmp_path / "manifest.json").write_text(json.dumps(wrong))
    assert made(rank=0, world_size=2) == (wrong, 2)  # one of several ranks has not read all
    assert shards.damaged(tmp_path, wrong) == ["manifest.json"]
    assert made() == (manifest, 4)
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "shards": []}))
    assert made(rank=0, world_size=2) == (manifest, 5)
    (tmp_path / "shard-00001.safetensors").unlink()
    (tmp_path / "shard-00002.safetensors").write_bytes(b"x")
    assert shards.damaged(tmp_path, manifest) == ["shard-00001.safetensors", "shard-00002.safetensors"]


def test_a_whole_chunk_is_given_before_more_is_loaded():
    loaded = []

    def batches():
        for size in (3, 2, 4):
            loaded.append(size)
            yield torch.zeros(size, 1)

    found = _chunks(batches(), 3)
    assert [(len(next(found)), list(loaded)) for _ in range(3)] == [(3, [3]), (3, [3, 2, 4]), (3, [3, 2, 4])]


def test_a_spectral_layer_begins_small_and_without_a_shift():
    torch.manual_seed(0)
    made = _Spectral((40, 30), bias=True)
    assert float(made.weight_orig.std()) == pytest.approx(0.02, rel=0.1) and not made.bias.any()
    assert _Spectral((4, 3), bias=False).bias is None
