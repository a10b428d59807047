"""Adversarial training, TRADES and robust distillation: what the objective adds, and what it leaves alone."""

import copy

import pytest
import torch
import torch.nn.functional as F

from small_runs import SMALL, TEACHER
from tutelage.config.compose import compose
from tutelage.engine.build import build
from tutelage.errors import UserError

AT = "method.objectives.adversarial"
ADDED = [f"+objective@{AT}=adversarial", f"{AT}.steps=3", f"{AT}.epsilon=0.1"]


def built(tmp_path, *words):
    made = build(compose([*SMALL, f"runs_dir={tmp_path}", *ADDED, *words]))
    made.method.max_steps = 10
    made.method.on_fit_start()
    stream = made.data.train_stream(seed=0, device="cpu")
    stream.seek(0, 1)
    return made.method.train(), next(iter(stream)), made.data


def changed(method, batch, draw=0):
    (images,) = method.objectives["adversarial"].extra_inputs(batch, draw, None)
    return images


def test_images_are_changed_within_epsilon_of_pixels_and_raise_the_loss(tmp_path):
    method, batch, data = built(tmp_path)
    before = copy.deepcopy(method.network.state_dict())
    images = changed(method, batch)
    mean, deviation = (torch.tensor(part).view(1, -1, 1, 1) for part in data.normalization)
    pixels, original = (x * deviation + mean for x in (images, batch.inputs))
    assert float((pixels - original).abs().max()) == pytest.approx(0.1, abs=1e-3)
    assert pixels.min() >= -1e-5 and pixels.max() <= 1 + 1e-5
    network = method.network.eval()
    with torch.no_grad():
        clean, worse = (F.cross_entropy(network(x), batch.targets) for x in (batch.inputs, images))
    assert worse > clean + 0.01
    assert all(torch.equal(value, before[name]) for name, value in method.network.state_dict().items())
    assert all(p.grad is None for p in method.network.parameters())
    assert torch.equal(changed(method, batch), images)
    assert not torch.equal(changed(method, batch, draw=1), images)
    rows = torch.tensor([5, 2])
    some = batch._replace(inputs=batch.inputs[rows], targets=batch.targets[rows], index=batch.index[rows])
    torch.testing.assert_close(changed(method, some), images[rows], atol=1e-5, rtol=0)


def test_parts_that_rest_or_train_do_so_afterwards(tmp_path):
    method, batch, _ = built(tmp_path, "model.dropout=0.5")
    part = next(iter(method.network.children()))
    part.eval()
    modes = [module.training for module in method.network.modules()]
    changed(method, batch)
    assert [module.training for module in method.network.modules()] == modes


def test_the_three_targets_are_their_papers_losses(tmp_path):
    for words in (
        [],
        [f"{AT}.target=outputs"],
        [*TEACHER, f"{AT}.target=outputs", f"{AT}.network=teacher", f"{AT}.temperature=4"],
    ):
        method, batch, _ = built(tmp_path, *words)
        found = method.eval().losses(batch)[
            "adversarial"
        ]  # one forward of both would else mix their batch statistics
        images = changed(method, batch)
        network = method.network
        worse, clean = network(images), network(batch.inputs)
        slow = torch.zeros(())
        for row in range(len(images)):
            if not words:
                slow = slow - worse[row].log_softmax(0)[batch.targets[row]]
                continue
            teacher = len(words) > 1
            target = method.frozen["teacher"](batch.inputs)[row] if teacher else clean[row]
            heat = 4.0 if teacher else 1.0
            p, q = (target / heat).softmax(0), (worse[row] / heat).softmax(0)
            slow = slow + heat**2 * (p * (p / q).log()).sum()
        torch.testing.assert_close(found, slow / len(images), rtol=1e-4, atol=1e-6)
    method, batch, _ = built(tmp_path, f"{AT}.target=outputs")
    method.losses(batch)["adversarial"].backward()
    assert all(p.grad is not None for p in method.network.parameters())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([f"{AT}.epsilon=-0.1"], "epsilon` must be at least 0|epsilon must be at least 0"),
        ([f"{AT}.steps=0"], "steps must be a whole number of at least 1, got 0"),
        ([f"{AT}.target=label"], "'labels'"),
        ([*TEACHER, f"{AT}.network=teacher"], "say target=outputs"),
        ([f"{AT}.target=outputs", f"{AT}.network=teacher"], "reads the frozen network 'teacher'"),
        ([f"{AT}.target=outputs", f"{AT}.random_start=false"], "no slope there"),
        (["data=copy_paste", "model=rnn"], "wrong class|tokens"),
        (["data=table", "data.dataset=diabetes"], "an attack looks for a wrong class"),
        (["data=table", "data.dataset=breast_cancer"], "pixels of images, got inputs of shape"),
    ],
)
def test_what_cannot_be_attacked_is_one_message_before_training(tmp_path, words, message):
    with pytest.raises(UserError, match=message):
        built(tmp_path, *words)
