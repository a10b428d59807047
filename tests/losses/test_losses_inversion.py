"""The terms of inversion against loops over samples and channels, and what they are blind to."""

import math

import pytest
import torch
from torch import nn

from tutelage.losses import inversion

LOGITS = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def softmax(row):
    exponentials = [math.exp(value) for value in row]
    return [value / sum(exponentials) for value in exponentials]


@pytest.mark.parametrize("labels", [None, [0, 3, 1, 1, 2, 0, 3]])
def test_one_hot_is_minus_the_mean_log_probability_of_the_label_or_of_the_largest(labels):
    rows = [softmax(row) for row in LOGITS.tolist()]
    wanted = [max(row) if labels is None else row[labels[i]] for i, row in enumerate(rows)]
    slow = -sum(math.log(p) for p in wanted) / len(rows)
    given = None if labels is None else torch.tensor(labels)
    assert inversion.one_hot(LOGITS, given).item() == pytest.approx(slow, rel=1e-12)


def test_information_entropy_is_that_of_the_mean_answer_and_least_where_classes_are_as_frequent():
    rows = [softmax(row) for row in LOGITS.tolist()]
    mean = [sum(row[k] for row in rows) / len(rows) for k in range(4)]
    slow = sum(p * math.log(p) for p in mean)
    assert inversion.information_entropy(LOGITS).item() == pytest.approx(slow, rel=1e-12)
    sure = 1000 * torch.eye(4)
    assert inversion.information_entropy(sure).item() == pytest.approx(-math.log(4), rel=1e-6)
    one_class = inversion.information_entropy(sure[:1].repeat(5, 1).requires_grad_())
    assert one_class.item() == pytest.approx(0, abs=1e-6)
    order = torch.tensor([2, 0, 3, 1])
    assert inversion.information_entropy(LOGITS[:, order]).item() == pytest.approx(slow, rel=1e-12)


def test_activation_is_minus_the_mean_size():
    features = torch.tensor([[1.0, -2.0], [0.0, 5.0]])
    assert inversion.activation(features).item() == -2.0


def test_statistics_are_the_lengths_of_the_differences_by_loop_whatever_the_order_of_samples():
    inputs = torch.randn(5, 3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mean, variance = torch.tensor([0.1, -0.2, 0.3]), torch.tensor([1.0, 0.5, 2.0])
    means, spreads = 0.0, 0.0
    for channel in range(3):
        values = inputs[:, channel].flatten().tolist()
        middle = sum(values) / len(values)
        spread = sum((value - middle) ** 2 for value in values) / len(values)
        means += (middle - mean[channel].item()) ** 2
        spreads += (spread - variance[channel].item()) ** 2
    slow = math.sqrt(means) + math.sqrt(spreads)
    assert inversion.statistics(inputs, mean, variance).item() == pytest.approx(slow, rel=1e-6)
    assert inversion.statistics(inputs.flip(0), mean, variance).item() == pytest.approx(slow, rel=1e-6)


def test_a_batch_of_the_norms_own_statistics_is_at_no_distance_and_hooks_are_gone_afterwards():
    network = nn.Sequential(
        nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3, momentum=1.0), nn.BatchNorm2d(3, track_running_stats=False)
    )
    images = torch.randn(64, 2, 4, 4)
    network(images)
    norms = inversion.norms_with_memory(network.eval())
    assert norms == [network[1]]
    norms[0].running_var *= 1 - 1 / (64 * 16)  # which remembers the unbiased one
    with inversion.recorded_statistics(norms) as found:
        network(images)
    assert len(found) == 1 and found[0].item() == pytest.approx(0, abs=1e-5)
    network(images)
    assert len(found) == 1
