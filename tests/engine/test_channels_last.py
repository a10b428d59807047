"""Training with channels last: the same but for the last bits, resumed exactly, and refused where it does nothing."""

import pytest
import torch
from test_resume import resumes_exactly

from small_runs import GUIDE, SMALL
from tutelage.config.compose import compose
from tutelage.engine.build import build
from tutelage.errors import UserError

LAST = "hardware.channels_last=true"
WORDS = [
    *(word for word in SMALL if not word.startswith("model")),
    "model=residual_convnet",
    "model.width=4",
    "model.blocks=1",
]


def test_maps_have_channels_last_and_the_loss_is_the_same_but_for_rounding(tmp_path):
    found = []
    for words in ([], [LAST]):
        made = build(compose([*WORDS, "method=guidance", *GUIDE, *words, f"runs_dir={tmp_path}"]))
        kept = []
        made.method.network.blocks[0].register_forward_hook(
            lambda module, given, out, kept=kept: kept.append(out)
        )
        stream = made.data.train_stream(seed=0, device="cpu")
        stream.seek(0, 1)
        loss = sum(made.method.train().losses(next(iter(stream))).values())
        loss.backward()
        assert kept[0].is_contiguous(memory_format=torch.channels_last) is bool(words)
        gradients = [p.grad for p in made.method.network.parameters()]
        assert all(
            p.is_contiguous(memory_format=torch.channels_last) for p in gradients if p.ndim == 4
        ) is bool(words)
        found.append((loss.detach(), *gradients))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.fixture
def convnet_command(monkeypatch, request):
    """`command` with a small CNN in place of the fully connected network."""
    monkeypatch.setattr("small_runs.SMALL", WORDS)
    return request.getfixturevalue("command")


@pytest.mark.parametrize("method", ["supervised", "guidance"])
def test_a_resumed_run_is_the_undisturbed_run(convnet_command, monkeypatch, method):
    more = GUIDE if method == "guidance" else []
    resumes_exactly(convnet_command, monkeypatch, [f"method={method}", *more, LAST, "method.ema_decay=0.8"])


def test_a_network_without_maps_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"hardware\.channels_last: FCN has no 2-d convolutions"):
        build(compose([*SMALL, LAST, f"runs_dir={tmp_path}"]))
