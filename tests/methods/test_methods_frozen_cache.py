"""Remembering what a frozen network gives for each training sample: the same loss, one look at each sample, and when it is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from made_methods import made
from tutelage.alignment.pairing import Pairing
from tutelage.alignment.rules import OrientedGradients
from tutelage.alignment.similarity import Ridge
from tutelage.errors import UserError
from tutelage.methods.distillation import Distillation
from tutelage.methods.guidance import Guidance
from tutelage.models.convnet import ConvNet
from tutelage.models.fcn import FCN
from tutelage.models.frozen import FrozenNetwork
from tutelage.models.recurrent import Recurrent
from tutelage.models.transformer import Transformer
from tutelage.objectives import frozen_cache
from tutelage.objectives.alignment import Alignment
from tutelage.objectives.soft_targets import SoftTargets
from tutelage.objectives.task import Task as TaskLoss
from tutelage.tasks import Batch, Classification, Task, Tokens


class AtStart(Guidance):
    """Guidance outside of a trainer, which would count the steps."""

    @property
    def step(self) -> int:
        return 0


class AtStartDistilled(Distillation):
    """As `AtStart`."""

    @property
    def step(self) -> int:
        return 0


class Samples:
    """Some samples in batches of five, whose indices in their data set are not 0, 1, 2, ..."""

    def __init__(self, whole: Batch) -> None:
        self.whole = whole

    def on(self, device: torch.device) -> Iterator[Batch]:
        for rows in torch.arange(len(self)).split(5):
            yield self.batch(rows)

    def batch(self, rows: Tensor) -> Batch:
        parts: Any = [None if part is None else part[rows] for part in self.whole]
        return Batch(*parts)

    def __len__(self) -> int:
        return len(self.whole.inputs)


def images() -> Samples:
    generator = torch.Generator().manual_seed(3)
    order = torch.randperm(40, generator=generator)[:23]
    return Samples(Batch(torch.randn(23, 1, 8, 8, generator=generator), torch.arange(23) % 4, order))


def sequences() -> Samples:
    generator = torch.Generator().manual_seed(4)
    tokens = torch.randint(5, (23, 7), generator=generator)
    mask = torch.arange(7) < torch.randint(2, 8, (23, 1), generator=generator)
    return Samples(Batch(tokens, tokens, torch.arange(23) + 2, mask))


def guided(
    whole: Samples, *, norm_mode: str = "eval", guide: nn.Module | None = None, **settings: Any
) -> AtStart:
    torch.manual_seed(0)
    task: Task
    network: nn.Module
    if whole.whole.inputs.is_floating_point():
        network, task = FCN((1, 8, 8), 4, depth=3, width=16), Classification(4)
        guide = guide or ConvNet((1, 8, 8), 4, width=4, stages=2)
    else:
        shape: dict[str, Any] = {"vocab_size": 5, "per_position": True, "depth": 2}
        network, task = Recurrent((7,), 5, cell="rnn", width=8, **shape), Tokens(5)
        guide = guide or Transformer((7,), 5, width=8, heads=2, dropout=0.0, **shape)
    frozen = FrozenNetwork(guide, norm_mode=norm_mode)
    example = whole.batch(torch.arange(4))
    if whole.whole.inputs.ndim == 4:
        frozen.prefer_channels_last(example.inputs)
    context = {key: settings.pop(key) for key in ("cache", "samples") if key in settings}
    return made(
        AtStart, network, {"task": TaskLoss(), "alignment": Alignment(network="guide", **settings)}, frozen={"guide": frozen},
        example=example, task=task, **{"samples": whole, **context},
    )  # fmt: skip


def distilled(whole: Samples, **settings: Any) -> Distillation:
    torch.manual_seed(0)
    return made(
        AtStartDistilled, FCN((1, 8, 8), 4, depth=2, width=8), {"task": TaskLoss(), "soft": SoftTargets(network="teacher")},
        frozen={"teacher": FrozenNetwork(ConvNet((1, 8, 8), 4, width=4, stages=2))}, task=Classification(4),
        example=whole.batch(torch.arange(4)), **{"samples": whole, **settings},
    )  # fmt: skip


def looks(network: FrozenNetwork) -> list[int]:
    seen: list[int] = []
    network.network.register_forward_pre_hook(lambda _module, inputs: seen.append(len(inputs[0])))
    return seen


ROWS = [torch.tensor([22, 3, 3, 17, 0, 9]), torch.arange(8), torch.tensor([5, 4, 21])]


@pytest.mark.parametrize(
    ("samples", "settings"),
    [
        (images(), {}),
        (images(), {"pairing": Pairing(strategy="first", k=1)}),
        (images(), {"similarity": Ridge(projection_size=8)}),
        (sequences(), {}),
        (sequences(), {"compare": "tokens", "tokens_per_step": 16}),
    ],
    ids=["images", "first layer", "ridge", "sequences", "tokens"],
)
def test_guidance_by_memory_is_guidance_and_the_guide_looks_once(
    samples: Samples, settings: dict[str, Any]
) -> None:
    live, remembering = guided(samples, **settings), guided(samples, cache=["guide"], **settings)
    seen = looks(remembering.frozen["guide"])
    for rows in [r for r in ROWS if len(r) >= 6] if "similarity" in settings else ROWS:
        batch = samples.batch(rows)
        terms = []
        for method in (live, remembering):
            torch.manual_seed(7)  # of the tokens and the projection
            terms.append(method.losses(batch)["alignment"])
        torch.testing.assert_close(*terms)
    assert seen == [5, 5, 5, 5, 3]


def test_distillation_by_memory_is_distillation_and_the_teacher_looks_once() -> None:
    samples = images()
    live, remembering = distilled(samples), distilled(samples, cache=["teacher"])
    seen = looks(remembering.frozen["teacher"])
    for rows in ROWS:
        batch = samples.batch(rows)
        torch.testing.assert_close(remembering.losses(batch)["soft"], live.losses(batch)["soft"])
    assert seen == [5, 5, 5, 5, 3]


def test_a_guide_that_ends_early_is_remembered_without_running_the_rest() -> None:
    samples = images()
    method = guided(samples, cache=["guide"], pairing=Pairing(strategy="first", k=1))
    ran: list[str] = []
    for name, module in method.frozen["guide"].network.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda *_, name=name: ran.append(name))
    method.losses(samples.batch(ROWS[1]))
    assert not ran


def test_what_changes_from_step_to_step_is_not_remembered() -> None:
    samples = images()
    for settings, part in (
        ({"norm_mode": "batch"}, "norm_mode=eval"),
        ({"input": "gaussian"}, "input=batch"),
        ({"guide": OrientedGradients(cell=4)}, "must be a network"),
    ):
        with pytest.raises(UserError, match=part):
            guided(samples, cache=["guide"], **settings)
    with pytest.raises(UserError, match=r"method\.cache=\[guide\] .* data\.augment=null"):
        guided(samples, cache=["guide"], samples=None)
    with pytest.raises(UserError, match=r"method\.cache=\[teacher\] .* data\.augment=null"):
        distilled(samples, cache=["teacher"], samples=None)


def test_what_does_not_fit_is_refused_before_it_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = images()
    method = guided(samples, cache=["guide"])
    monkeypatch.setattr(frozen_cache, "_free_bytes", lambda device: 1000)
    with pytest.raises(
        UserError, match=r"GiB are free on cpu: compare fewer layers, or set method\.cache=\[\]"
    ):
        method.losses(samples.batch(ROWS[1]))


def test_this_machine_says_what_is_free() -> None:
    free = frozen_cache._free_bytes(torch.device("cpu"))
    assert free is None or free > 2**20
