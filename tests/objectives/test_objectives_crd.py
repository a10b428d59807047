"""Contrastive distillation against sums written by hand: scores, constants, banks, draws."""

import math

import pytest
import torch

from tutelage.errors import UserError
from tutelage.losses.contrast import noise_contrast
from tutelage.models.convnet import ConvNet
from tutelage.models.fcn import FCN
from tutelage.objectives.crd import CRD
from tutelage.objectives.task import Task
from tutelage.objectives.total import Objectives
from tutelage.tasks import Batch, Classification

CLASSES, SAMPLES = 3, 12
INDEX = torch.arange(SAMPLES) * 3 + 5  # positions in a larger set


def batch_of(rows):
    rows = torch.tensor(rows)
    inputs = torch.randn(SAMPLES, 1, 8, 8, generator=torch.Generator().manual_seed(0))[rows]
    return Batch(inputs, rows % CLASSES, INDEX[rows])


def contrast(index=INDEX, teacher=None, **options):
    torch.manual_seed(0)
    network = ConvNet((1, 8, 8), CLASSES, width=4, stages=2)
    teacher = teacher or ConvNet((1, 8, 8), CLASSES, width=6, stages=2)
    options = {"dimensions": 4, "negatives": 5, "temperature": 0.5, **options}
    terms = {"task": Task(), "crd": CRD(network="teacher", **options)}
    return Objectives(
        network.eval(),
        terms,
        frozen={"teacher": teacher},
        task=Classification(CLASSES),
        example=batch_of([0, 1]),
        index=index,
    )


def unit(row):
    length = math.sqrt(sum(x * x for x in row))
    return [x / length for x in row]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def test_two_steps_are_those_written_by_hand(monkeypatch):
    total = contrast()
    crd, network = total["crd"], total._network[0]
    teacher = total.frozen["teacher"].network
    banks = [crd.bank_mine.tolist(), crd.bank_theirs.tolist()]
    constants = None
    for rows in ([0, 4, 7], [4, 2, 0]):
        batch = batch_of(rows)
        draws = torch.randint(SAMPLES, (3, 5))
        monkeypatch.setattr(crd, "_draw", lambda *_, draws=draws: draws)
        taken = total.take(batch, lambda x, mask: network(x))
        term = float(crd.loss(taken).detach())

        embedded = []
        for net, embed in ((network, crd.map_mine), (teacher, crd.map_theirs)):
            with torch.no_grad():
                features = net.blocks(net.stem(batch.inputs)).mean(dim=(2, 3))
                embedded.append([unit(row) for row in embed(features).tolist()])
        scores = []  # the student's with the teacher's bank, and the other way
        for side in (0, 1):
            places = [[row, *draw] for row, draw in zip(rows, draws.tolist(), strict=True)]
            scores.append(
                [
                    [dot(embedded[side][i], banks[1 - side][j]) / 0.5 for j in row]
                    for i, row in enumerate(places)
                ]
            )
        if constants is None:
            powers = [[math.exp(s) for row in found for s in row] for found in scores]
            constants = [SAMPLES * sum(p) / len(p) for p in powers]
        by_hand = 0.0
        for found, z in zip(scores, constants, strict=True):
            for row in found:
                p = [math.exp(s) / z for s in row]
                noise = 5 / SAMPLES
                by_hand -= math.log(p[0] / (p[0] + noise)) / 3
                by_hand -= sum(math.log(noise / (q + noise)) for q in p[1:]) / 3
        assert term == pytest.approx(by_hand, rel=1e-5)
        assert crd.log_normalisers.exp().tolist() == pytest.approx(constants, rel=1e-5)

        for side in (0, 1):
            for i, row in enumerate(rows):
                mixed = [0.5 * a + 0.5 * b for a, b in zip(banks[side][row], embedded[side][i], strict=True)]
                banks[side][row] = unit(mixed)
        torch.testing.assert_close(crd.bank_mine, torch.tensor(banks[0]))
        torch.testing.assert_close(crd.bank_theirs, torch.tensor(banks[1]))


def test_negatives_are_drawn_evenly_from_other_classes():
    crd = contrast(negatives=11)["crd"]
    rows = torch.tensor([0, 1, 5])
    crd.labels[:] = torch.arange(SAMPLES) % CLASSES
    drawn = torch.cat([crd._draw(rows, rows % CLASSES) for _ in range(400)], dim=1)
    for row, found in zip(rows.tolist(), drawn, strict=True):
        counts = torch.bincount(found, minlength=SAMPLES)
        other = torch.arange(SAMPLES) % CLASSES != row % CLASSES
        assert not counts[~other].any()
        assert (counts[other] / found.numel() - 1 / 8).abs().max() < 0.03


def test_a_sample_is_no_negative_of_its_own_before_it_was_seen_or_without_classes():
    crd = contrast(negatives=11)["crd"]
    rows = torch.arange(SAMPLES)
    for targets in (rows % CLASSES, -2 - rows):
        crd.labels.fill_(-1)
        for _ in range(30):
            assert not (crd._draw(rows, targets) == rows[:, None]).any()
    crd.labels[:] = -2 - rows  # seen, each a class of its own
    for _ in range(30):
        assert not (crd._draw(rows, -2 - rows) == rows[:, None]).any()


def test_there_are_at_most_as_many_negatives_as_other_samples():
    assert contrast(negatives=16384)["crd"].describe()["negatives"] == SAMPLES - 1


def test_the_gradient_reaches_network_and_both_maps_and_memory_is_in_the_state():
    total = contrast()
    total(batch_of([0, 1, 2])).backward()
    assert all(p.grad is not None for p in total.parameters())
    state = total.state_dict()
    assert {f"terms.crd.{name}" for name in ("bank_mine", "bank_theirs", "log_normalisers", "labels")} <= set(
        state
    )
    assert not any("row_of" in name for name in state)
    again = contrast()
    again.load_state_dict(state)
    torch.manual_seed(3)
    one = total["crd"].loss(total.take(batch_of([3, 1, 2]), lambda x, mask: total._network[0](x)))
    again._network[0].load_state_dict(total._network[0].state_dict())
    torch.manual_seed(3)
    other = again["crd"].loss(again.take(batch_of([3, 1, 2]), lambda x, mask: again._network[0](x)))
    assert torch.equal(one, other)


def test_networks_of_unlike_kinds_meet():
    assert contrast(teacher=FCN((1, 8, 8), CLASSES, depth=2, width=5))(batch_of([0, 1, 2])).isfinite()


def test_a_true_pair_of_high_score_costs_nothing():
    loss = noise_contrast(torch.tensor([50.0]), torch.full((1, 4), -50.0), torch.zeros(()), samples=10)
    assert float(loss) == pytest.approx(0, abs=1e-6)


def test_mistakes_are_named():
    with pytest.raises(UserError, match="give Objectives `index`"):
        contrast(index=None)
    for option, value in (("negatives", 0), ("dimensions", 1.5), ("temperature", 0.0), ("momentum", 1.0)):
        with pytest.raises(UserError, match=f"`{option}` must be"):
            CRD(network="teacher", **{option: value})
