"""Corruptions, typos and missing values: what they do, and that it depends on a sample alone."""

import io
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from tutelage.errors import UserError
from tutelage.robustness.corruptions import CORRUPTIONS, corrupted
from tutelage.robustness.typos_and_gaps import MISSING, TYPOS, missing, misspelt, typos


@pytest.fixture(scope="module")
def photos():
    """Smooth coloured images (6, 3, 32, 40) with edges."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 32), torch.linspace(0, 1, 40), indexing="ij")
    waves = [
        torch.stack([(torch.sin((k + c + 1) * 3 * x) * torch.cos((k + 2) * 2 * y) + 1) / 2 for c in range(3)])
        for k in range(6)
    ]
    images = torch.stack(waves)
    images[:, :, 10:20, 12:25] = 0.9
    return (images * 255).round() / 255


INDEX = torch.tensor([3, 90, 7, 1200, 5, 44])


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_corruption_depends_on_the_sample_alone_and_grows(photos, kind):
    changes = []
    for severity in (1, 3, 5):
        found = corrupted(photos, kind, severity, INDEX)
        assert found.shape == photos.shape and found.isfinite().all()
        assert found.min() >= 0 and found.max() <= 1
        rows = torch.tensor([4, 1])
        torch.testing.assert_close(corrupted(photos[rows], kind, severity, INDEX[rows]), found[rows])
        changes.append(float((found - photos).abs().mean()))
        grey = photos[:, :1, :8, :8]
        assert corrupted(grey, kind, severity, INDEX).shape == grey.shape
    assert changes[0] > 0
    if kind != "elastic":  # whose published strengths do not grow from the first to the last
        assert changes[0] < changes[1] < changes[2]


def test_noise_has_the_published_deviation_and_share():
    flat = torch.full((50, 3, 32, 32), 0.5)
    index = torch.arange(50)
    assert float((corrupted(flat, "gaussian_noise", 5, index) - 0.5).std()) == pytest.approx(0.1, rel=0.02)
    shot = corrupted(flat, "shot_noise", 5, index) - 0.5
    assert float(shot.std()) == pytest.approx(math.sqrt(0.5 / 50), rel=0.02)
    assert abs(float(shot.mean())) < 0.002
    hit = corrupted(flat, "impulse_noise", 5, index) != 0.5
    assert float(hit.float().mean()) == pytest.approx(0.07, rel=0.05)


def test_pixelate_is_that_of_a_library(photos):
    square = photos[0, :1, :, :32]
    found = corrupted(square[None], "pixelate", 5, INDEX[:1])[0, 0]
    shown = Image.fromarray(square[0].numpy())
    slow = np.array(shown.resize((20, 20), Image.Resampling.BOX).resize((32, 32), Image.Resampling.BOX))
    torch.testing.assert_close(found, torch.from_numpy(slow))


def test_jpeg_is_nearly_that_of_a_library(photos):
    square = photos[:, :, :, :32]
    wanted = []
    for image in square:
        file = io.BytesIO()
        pixels = (image.permute(1, 2, 0) * 255).round().byte().numpy()
        Image.fromarray(pixels).save(file, "JPEG", quality=40, subsampling=0)
        wanted.append(torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255)
    whole = torch.stack(wanted)
    found = corrupted(square, "jpeg", 5, INDEX)
    assert float((found - whole).abs().mean()) < 0.15 * float((whole - square).abs().mean())


def test_unknown_names_and_severities_are_one_message(photos):
    with pytest.raises(UserError, match="there is no corruption 'rain'"):
        corrupted(photos, "rain", 1, INDEX)
    with pytest.raises(UserError, match="a severity is 1 to 5, got 6"):
        corrupted(photos, "fog", 6, INDEX)


def test_typos_hit_the_share_of_words_and_most_become_unknown():
    entries = ["<pad>", "<unk>", "the", "film", "was", "good", "fim"]
    tokens = torch.tensor([[2, 3, 4, 5, 0]]).repeat(2000, 1)
    real = tokens > 0
    index = torch.arange(2000)
    found = typos(tokens, real, 3, index, entries=entries, words=True)
    changed = (found != tokens) & real
    assert float(changed.sum() / real.sum()) == pytest.approx(TYPOS[2], rel=0.1)
    assert not ((found != tokens) & ~real).any()
    assert 6 in found and (found[changed] == 1).float().mean() > 0.8
    rows = torch.tensor([70, 3])
    assert torch.equal(
        typos(tokens[rows], real[rows], 3, index[rows], entries=entries, words=True), found[rows]
    )
    letters = typos(tokens, real, 5, index, entries=entries, words=False)
    assert not ((letters != tokens) & ~real).any() and letters.max() < len(entries) and letters.min() >= 0
    assert misspelt("film", 0.1, 0.0, 0.5) == "iflm" and misspelt("film", 0.3, 0.99, 0.5) == "fil"
    assert misspelt("film", 0.6, 0.3, 0.5) == "fiilm" and misspelt("film", 0.9, 0.0, 0.0) == "ailm"


def test_missing_values_are_their_share_and_stay_missing():
    values = torch.ones(300, 24, 3)
    index = torch.arange(300)
    gone = [missing(values, severity, index) == 0 for severity in range(1, 6)]
    for share, one in zip(MISSING, gone, strict=True):
        assert float(one.float().mean()) == pytest.approx(share, rel=0.05)
    assert all((later | ~earlier).all() for earlier, later in pairwise(gone))
    assert torch.equal(missing(values[[7]], 4, index[[7]]) == 0, gone[3][[7]])
