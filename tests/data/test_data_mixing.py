"""Mixup, CutMix, colour jitter and random erasing: what each image becomes, against a loop and torchvision."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as reference

from small_runs import METHODS, SMALL
from tutelage.config.compose import compose
from tutelage.data.augment import build, build_all
from tutelage.data.augment_colour import ColourJitter, RandomErasing, hue
from tutelage.engine.build import build as build_run
from tutelage.errors import UserError
from tutelage.tasks import Batch


def batch(n=8, size=9):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(n, 3, size, size, generator=generator)
    return Batch(inputs, torch.arange(n) % 4, torch.arange(n)), torch.rand(n, 4, generator=generator)


def mixer(**ways):
    found = build_all(ways)[1]
    assert found is not None
    return found


def test_mixup_is_the_weighted_mean_of_neighbours_with_beta_shares():
    from scipy.stats import beta

    seen, noise = batch()
    found = mixer(mixup={"alpha": 0.3})(seen, noise, 4)
    for i in range(8):
        share = beta.ppf(float(noise[i, 1]), 0.3, 0.3)
        expected = share * seen.inputs[i] + (1 - share) * seen.inputs[i ^ 1]
        torch.testing.assert_close(found.inputs[i], expected, atol=2e-3, rtol=0)
        targets = torch.zeros(4)
        targets[seen.targets[i]] += share
        targets[seen.targets[i ^ 1]] += 1 - share
        torch.testing.assert_close(found.targets[i], targets, atol=2e-3, rtol=0)


def test_cutmix_takes_a_rectangle_and_counts_its_pixels():
    seen, noise = batch(size=16)
    found = mixer(cutmix={})(seen, noise, 4)
    changed = (found.inputs != seen.inputs).any(1)
    for i in range(8):
        share = float(changed[i].float().mean())
        assert torch.equal(found.inputs[i][:, changed[i]], seen.inputs[i ^ 1][:, changed[i]])
        assert float(found.targets[i, seen.targets[i ^ 1]]) == pytest.approx(share, abs=1e-6)
        rows, columns = changed[i].nonzero().unbind(1) if changed[i].any() else (torch.zeros(0),) * 2
        if len(rows):  # a rectangle, whose area is about the share that was drawn, unless the border cuts it
            area = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
            assert int(area) == int(changed[i].sum()) <= (1 - float(noise[i, 1])) * 256 + 33


def test_one_way_at_most_mixes_an_image_and_partners_do_not_depend_on_ranks():
    seen, noise = batch()
    both = mixer(mixup={"probability": 0.4}, cutmix={"probability": 0.4})
    found = both(seen, noise, 4)
    halves = [both(Batch(*(part[s] for part in seen[:3])), noise[s], 4) for s in (slice(0, 4), slice(4, 8))]
    assert torch.equal(found.inputs, torch.cat([half.inputs for half in halves]))
    assert torch.equal(found.targets, torch.cat([half.targets for half in halves]))
    plain = noise[:, 0] >= 0.8
    assert torch.equal(found.inputs[plain], seen.inputs[plain])
    torch.testing.assert_close(found.targets.sum(1), torch.ones(8))
    with pytest.raises(UserError, match="come to 2"):
        mixer(mixup={}, cutmix={})
    with pytest.raises(UserError, match="even"):
        both(Batch(*(part[:3] for part in seen[:3])), noise[:3], 4)
    with pytest.raises(UserError, match="Mixup mixes images with their targets"):
        build({"mixup": {}})


def test_colour_jitter_is_torchvisions_on_each_image():
    images = torch.randint(
        0, 256, (6, 3, 7, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    images[0] = images[0, :1]  # grey
    noise = torch.rand(6, 9, generator=torch.Generator().manual_seed(1))
    found = ColourJitter(brightness=0.4, contrast=0.5, saturation=0.6, hue=0.2)(images, noise)
    ways = (
        reference.adjust_brightness,
        reference.adjust_contrast,
        reference.adjust_saturation,
        reference.adjust_hue,
    )
    for i in range(6):
        factors = [1 - s + 2 * s * float(u) for s, u in zip((0.4, 0.5, 0.6), noise[i], strict=False)]
        factors.append(-0.2 + 0.4 * float(noise[i, 3]))
        expected = images[i]
        for number in noise[i, 4:8].argsort().tolist():
            expected = ways[number](expected, factors[number])
        assert (found[i].int() - expected.int()).abs().max() <= 3  # each of four operations rounds
    turned = hue(images, torch.full((6,), 0.3))
    assert (turned.int() - reference.adjust_hue(images, 0.3).int()).abs().max() <= 1
    still = ColourJitter(brightness=0.4, hue=0.1, probability=0.0)(images, noise)
    assert torch.equal(still, images)


def test_random_erasing_covers_one_rectangle_of_the_asked_area():
    images = torch.full((200, 1, 20, 30), 255, dtype=torch.uint8)
    noise = torch.rand(200, 5, generator=torch.Generator().manual_seed(0))
    found = RandomErasing(probability=0.5, scale=(0.1, 0.3))(images, noise)
    for i in range(200):
        rows, columns = (found[i, 0] == 128).nonzero().unbind(1)
        assert (len(rows) > 0) == (noise[i, 4] < 0.5)
        if len(rows):
            area = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
            assert int(area) == len(rows) and 0.08 <= len(rows) / 600 <= 0.33
    assert set(np.unique(found)) == {128, 255}


MIXED = ["data.augment={mixup: {alpha: 0.8}}"]


@pytest.mark.parametrize("method", ["supervised", "distillation", "feature_distillation", "guidance"])
def test_guide_and_network_see_the_same_mixed_images(tmp_path, method):
    built = build_run(compose([*SMALL, f"runs_dir={tmp_path}", f"method={method}", *METHODS[method], *MIXED]))
    module = built.method.train()
    module.on_fit_start()
    seen = []
    for network in (module.network, *(frozen.network for frozen in module.frozen.values())):
        network.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    stream = built.data.train_stream(seed=0, device="cpu")
    stream.seek(0, 1)
    (first,) = stream
    terms = module.losses(first)
    assert first.targets.shape == (32, 10) and all(value.isfinite() for value in terms.values())
    assert all(torch.equal(one, first.inputs) for one in seen) and len(seen) == 1 + len(module.frozen)
    expected = -(first.targets * module.network.eval()(first.inputs).log_softmax(1)).sum(1).mean()
    if "model.dropout=0.2" not in METHODS[method]:
        torch.testing.assert_close(terms["task"], expected)


@pytest.mark.parametrize(
    "words",
    [
        ["method=distillation", *METHODS["distillation"], "+objective@method.objectives.extra=decoupled"],
        ["method=gan", *METHODS["gan"]],
    ],
)
def test_what_singles_out_a_class_refuses_mixed_images_before_training(tmp_path, words):
    with pytest.raises(UserError, match="leave mixup and cutmix out"):
        build_run(compose([*SMALL, f"runs_dir={tmp_path}", *words, *MIXED]))
