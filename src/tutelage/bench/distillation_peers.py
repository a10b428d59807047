"""Losses of distillation over torchdistill's of the same name: value and gradient alone, and in a whole step of the same networks.

`pip install torchdistill` first, then `python -m tutelage.bench distillation_peers`. Alone, both get the same tensors, those of ResNet-8x4
and ResNet-32x4 on 64 images of CIFAR-100's shape. The other's step is a loop by hand, without its own boxes, so that nothing but its loss
and the hooks for it is in its way.
"""

from __future__ import annotations

import importlib
import math
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from tutelage.bench.timing import Row, in_turn, row, seconds
from tutelage.bench.transfer_step import built, finish, optimizer_of, stepping
from tutelage.errors import UserError

BATCH, CLASSES, CHANNELS, SIDE = 64, 100, 256, 8
SAMPLES, NEGATIVES, WIDTH = 50_000, 4096, 128
LONG_S = 0.02
"""How long each measurement of a loss takes at least: small ones are taken several times in it."""

TAUGHT = {
    "ResNet-8 by ResNet-20": ("resnet8", "resnet20", 11),
    "ResNet-8x4 by 32x4": ("resnet8x4", "resnet32x4", 5),
}
"""Networks of the steps, and pairs of measurements."""


def rows(pairs: int = 11) -> list[Row]:
    """Measure every loss that both have. Raises UserError where torchdistill is not installed."""
    try:
        mid_level = importlib.import_module("torchdistill.losses.mid_level")
    except ImportError as error:
        raise UserError("this bench needs torchdistill: pip install torchdistill") from error
    alone = [_measured(name, ours, theirs, pairs) for name, ours, theirs in losses(mid_level)]
    with tempfile.TemporaryDirectory() as folder:
        return alone + [
            row(
                f"step over one with torchdistill's loss: {name}, {networks}",
                [a / b for a, b in in_turn(*steps, pairs=pairs, warmup=2)],
                at_most=1.02,
            )
            for networks, (student, teacher, pairs) in TAUGHT.items()
            for name, steps in whole_steps(mid_level, folder, student, teacher)
        ]


def _measured(name: str, ours: Callable[[], Any], theirs: Callable[[], Any], pairs: int) -> Row:
    theirs(), theirs()
    times = math.ceil(LONG_S / seconds(lambda: theirs().backward()))

    def repeated(step: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(times):
                step().backward()

        return run

    measured = in_turn(repeated(ours), repeated(theirs), pairs=pairs)
    taken = sorted(a for a, _ in measured)[len(measured) // 2] / times
    return row(
        f"loss and gradient over torchdistill's: {name}",
        [a / b for a, b in measured],
        at_most=1.0,
        note=f"{1000 * taken:.2f} ms",
    )


def losses(theirs: Any) -> Iterator[tuple[str, Callable[[], Any], Callable[[], Any]]]:
    """Yield the name of a loss, ours and theirs, each a function of nothing that returns a number with a gradient."""
    import torch
    import torch.nn.functional as F

    from tutelage.losses import feature, projected, variational
    from tutelage.losses.distillation import soft_target
    from tutelage.losses.logit_variants import correlation, standardised

    torch.manual_seed(0)
    logits, maps, vectors = (
        [torch.randn(BATCH, *shape, requires_grad=place == 0) for place in range(2)]
        for shape in ((CLASSES,), (CHANNELS, SIDE, SIDE), (CHANNELS,))
    )
    raw = torch.zeros(CHANNELS, requires_grad=True)
    at = ("x", "output")
    where = (*at, *at)
    one = {side: {"io": "output", "path": "x"} for side in ("student", "teacher")}

    def called(loss: Any, pair: Any) -> Callable[[], Any]:
        return lambda: loss(*({"x": {"output": part}} for part in pair))

    def both(name: str, ours: Callable[[Any, Any], Any], loss: Any, pair: Any) -> tuple[str, Any, Any]:
        return name, lambda: ours(*pair), called(loss, pair)

    yield both(
        "soft targets",
        lambda s, t: soft_target(s, t, temperature=4.0).mean(),
        theirs.KDLoss(*where, temperature=4.0, alpha=0.0),
        logits,
    )
    yield both(
        "soft targets, standardised",
        lambda s, t: soft_target(standardised(s), standardised(t), temperature=2.0).mean(),
        theirs.LogitStdKDLoss(*where, temperature=2.0, alpha=0.0),
        logits,
    )
    yield both(
        "DIST",
        lambda s, t: correlation(s, t, temperature=1.0, between_classes=1.0, between_samples=1.0),
        theirs.DISTLoss(*where),
        logits,
    )
    yield both("AT", feature.attention_transfer, theirs.ATLoss({"pair": one}), maps)
    yield both("PKT", feature.probabilistic_transfer, theirs.PKTLoss(*where), vectors)
    yield both("RKD", feature.relational, theirs.RKDLoss("x", "x", 1.0, 2.0, "mean"), vectors)
    yield both("SP", feature.similarity_preserving, theirs.SPKDLoss("x", "x", "batchmean"), maps)
    predicted, taught = maps
    yield (
        "VID, without its regressor",
        lambda: variational.gaussian(predicted, taught, raw),
        lambda: theirs.VIDLoss({"pair": one})(
            {"x": {"output": (predicted, (F.softplus(raw) + 1e-5)[:, None, None].expand_as(predicted[:1]))}},
            {"x": {"output": taught}},
        ),
    )
    yield (
        "ReviewKD, without its fusions",
        lambda: projected.hierarchical(predicted, taught),
        lambda: theirs.HierarchicalContextLoss(*where)(
            {"x": {"output": (predicted, None)}}, {"x": {"output": taught}}
        ),
    )
    yield "SRD with soft targets, without its projector", *_projected(theirs, vectors, logits)
    yield "CRD", *_contrast(theirs, vectors)


def _projected(
    theirs: Any, vectors: list[Any], logits: list[Any]
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Its loss brings its own soft targets, and leaves the batch norms to its wrapper of both networks."""
    from torch import nn

    from tutelage.losses.distillation import soft_target
    from tutelage.losses.projected import log_distance

    other = theirs.SRDLoss(*("norm", "output") * 2, *(".", "output") * 2, exponent=4.0, temperature=1.0)
    norm = nn.BatchNorm1d(CHANNELS, eps=1e-4, affine=False, track_running_stats=False)

    def ours() -> Any:
        return 2 * log_distance(*vectors, power=4.0) + soft_target(*logits, temperature=1.0).mean()

    def peer() -> Any:
        return other(
            *(
                {"norm": {"output": norm(part)}, ".": {"output": given}}
                for part, given in zip(vectors, logits, strict=True)
            )
        )

    return ours, peer


def whole_steps(
    theirs: Any, folder: str, student: str, teacher: str
) -> Iterator[tuple[str, tuple[Callable[[], None], Callable[[], None]]]]:
    """Yield the name of a loss, and a step with ours and one with theirs, of the same student, teacher and images."""
    import torch
    import torch.nn.functional as F

    models = [
        "model=cifar",
        f"model.name={student}",
        "model@teacher=cifar",
        f"teacher.name={teacher}",
        "teacher.weights=scratch",
    ]
    soft = ["method=distillation", "method.objectives.soft.temperature=4"]
    feature, of = "method=feature_distillation", "method.objectives.feature"
    pairs = "{strategy: explicit, k: null, pairs: [[%s, %s]]}"
    one = {side: {"io": "output", "path": "x"} for side in ("student", "teacher")}
    where = ("x", "output", "x", "output")
    cases: dict[str, tuple[str, float, Any, list[str]]] = {
        "soft targets": ("fc", 0.5, theirs.KDLoss(*where, temperature=4.0, alpha=0.0), soft),
        "soft targets, standardised": (
            "fc", 0.5, theirs.LogitStdKDLoss(*where, temperature=4.0, alpha=0.0),
            [*soft, "method.objectives.soft.standardise=true"],
        ),
        "DIST": ("fc", 0.5, theirs.DISTLoss(*where), [soft[0], "objective@method.objectives.soft=dist"]),
        "AT": (
            "layer3", 1.0, theirs.ATLoss({"pair": one}),
            [feature, f"objective@{of}=attention", f"{of}.pairing={pairs % ('layer3', 'layer3')}"],
        ),
        "PKT": (
            "avgpool", 1.0, theirs.PKTLoss(*where),
            [feature, f"objective@{of}=pkt", f"{of}.pairing={pairs % ('avgpool', 'avgpool')}"],
        ),
    }  # fmt: skip
    for name, (layer, task, loss, words) in cases.items():
        method, batch = built(folder, [*models, *words])
        network, optimizer = method.network, optimizer_of(method)
        taught = method.frozen["teacher"].network

        def step(
            loss: Any = loss, task: float = task, layer: str = layer, batch: Any = batch,
            networks: tuple[Any, Any] = (network, taught), optimizer: Any = optimizer,
        ) -> None:  # fmt: skip
            read: list[Any] = []
            hooks = [
                dict(one.named_modules())[layer].register_forward_hook(lambda _, __, out: read.append(out))
                for one in networks
            ]
            output = networks[0](batch.inputs)
            with torch.no_grad():
                networks[1](batch.inputs)
            for hook in hooks:
                hook.remove()
            parts = ({"x": {"output": part.flatten(1) if layer == "avgpool" else part}} for part in read)
            finish(task * F.cross_entropy(output, batch.targets) + loss(*parts), optimizer)

        yield name, (stepping(method, batch), step)


def _contrast(theirs: Any, vectors: list[Any]) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Both embed, score, contrast and remember; ours draws its negatives, too, which theirs are given."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    from tutelage.models.frozen import FrozenNetwork
    from tutelage.objectives.base import Reading, Setup, Step
    from tutelage.objectives.crd import CRD
    from tutelage.tasks import Batch, Classification

    networks = [nn.Sequential(nn.Identity(), nn.Linear(CHANNELS, CLASSES)) for _ in range(2)]
    index = torch.arange(BATCH)
    batch = Batch(vectors[0].detach(), index % CLASSES, index)
    crd = CRD(network="teacher", negatives=NEGATIVES, dimensions=WIDTH)
    frozen = FrozenNetwork(networks[1])
    task = Classification(CLASSES)
    crd.prepare(
        Setup(networks[0], task=task, frozen={"teacher": frozen}, example=batch, batch_size=BATCH, index=torch.arange(SAMPLES))
    )  # fmt: skip
    read = [crd.network_layers[0], crd.frozen_layers[0]]

    def ours() -> Any:
        return crd.loss(
            Step(
                batch,
                activations={read[0]: vectors[0]},
                frozen={"teacher": Reading(None, {read[1]: vectors[1]})},
            )
        )

    # its constructor draws tables that it does not use where negatives are given
    theirs.CRDLoss.init_prob_alias = lambda self, probs: setattr(self, "probs", probs)
    other = theirs.CRDLoss("norm", "empty", "norm", WIDTH, SAMPLES, NEGATIVES, SAMPLES)
    drawn = torch.randint(SAMPLES, (BATCH, 1 + NEGATIVES))
    given = {"pos_idx": index, "contrast_idx": drawn}

    def peer() -> Any:
        student, teacher = (
            {"norm": {"output": F.normalize(embed(part), dim=1)}, "empty": {"input": given}}
            for embed, part in zip((crd.map_mine, crd.map_theirs), vectors, strict=True)
        )
        return other(student, teacher)

    return ours, peer
