"""Labels of pseudo images: uniform or by pseudo conditional sampling, positional, from frozen predictions."""

import pytest
import torch

from tutelage.errors import UserError
from tutelage.generators.conditioning import Conditioning, _chunks, predict
from tutelage.models.convnet import ConvNet

CLASSES, TARGETS = 5, 7


@pytest.fixture
def predictions():
    return torch.randn(TARGETS, CLASSES, generator=torch.Generator().manual_seed(0)).mul(2).softmax(dim=1)


def test_uniform_takes_the_classes_in_turn():
    labels = Conditioning("uniform", classes=CLASSES, seed=0).labels(3, 23)
    assert labels.tolist() == [k % CLASSES for k in range(3, 23)]


def test_soft_and_argmax_are_the_classifiers_words_on_target_k(predictions):
    soft = Conditioning("soft", classes=CLASSES, seed=0, predictions=predictions).labels(5, 20)
    assert all(torch.equal(row, predictions[k % TARGETS]) for row, k in zip(soft, range(5, 20), strict=True))
    hard = Conditioning("argmax", classes=CLASSES, seed=0, predictions=predictions).labels(5, 20)
    assert torch.equal(hard, soft.argmax(dim=1))


def test_sampled_labels_follow_the_probabilities_and_depend_on_seed_and_position_alone(predictions):
    def sampled(seed):
        return Conditioning("sampled", classes=CLASSES, seed=seed, predictions=predictions)

    labels = sampled(0).labels(0, 4000 * TARGETS)
    for target in range(TARGETS):
        share = torch.bincount(labels[target::TARGETS], minlength=CLASSES) / 4000
        torch.testing.assert_close(share, predictions[target], atol=0.04, rtol=0)
    assert torch.equal(sampled(0).labels(100, 200), labels[100:200])
    assert not torch.equal(sampled(1).labels(100, 200), labels[100:200])
    certain = torch.eye(CLASSES)
    drawn = Conditioning("sampled", classes=CLASSES, seed=0, predictions=certain).labels(0, 100)
    assert torch.equal(drawn, torch.arange(100) % CLASSES)


def test_mistakes_are_named(predictions):
    with pytest.raises(UserError, match="did you mean 'sampled'"):
        Conditioning("sample", classes=CLASSES, seed=0)
    with pytest.raises(UserError, match="source classifier"):
        Conditioning("soft", classes=CLASSES, seed=0)
    with pytest.raises(UserError, match="knows 5 classes, the generator 6"):
        Conditioning("soft", classes=6, seed=0, predictions=predictions)


def test_predictions_do_not_depend_on_how_images_were_loaded():
    torch.manual_seed(0)
    network = ConvNet((1, 8, 8), CLASSES, width=4).eval()
    images = torch.randn(21, 1, 8, 8)
    sizes: list[int] = []
    network.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    whole = predict(network, [images], chunk=8)
    assert sizes == [8, 8, 8]  # the last one too, of 5 images
    assert torch.equal(predict(network, images.split(5), chunk=8), whole)
    assert torch.equal(predict(network, images.split(1), chunk=8), whole)
    torch.testing.assert_close(whole, network(images).softmax(dim=1))
    assert not whole.requires_grad


@pytest.mark.parametrize("sizes", [[7], [3, 4], [1] * 7, [5, 2], [0, 7], [64, 64, 1], []])
def test_target_images_are_cut_anew_and_never_all_held(sizes):
    images = torch.randn(sum(sizes), 2, 3)
    parts = list(_chunks(iter(images.split(sizes)) if sizes else iter(()), 3))
    assert all(len(part) == 3 for part in parts[:-1]) and all(0 < len(part) <= 3 for part in parts[-1:])
    assert torch.equal(torch.cat(parts) if parts else images, images)
