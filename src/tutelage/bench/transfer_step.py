"""Transfer: distillation and P-SSL steps over their floors, shards over resident tensors, and what the generators make in a second."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tutelage.bench.guided_step import peak_mib
from tutelage.bench.timing import Row, in_turn, row, seconds, until_decided

BATCH, PIXELS, CLASSES, PSEUDO = 64, 32, 10, 1024
COMMON = ["data=synthetic", f"data.shape=[3,{PIXELS},{PIXELS}]", "data.samples=2000", f"data.batch_size={BATCH}", "logger=none",
          "model=residual_convnet", "data.normalization=[[0.5,0.5,0.5],[0.5,0.5,0.5]]"]  # fmt: skip
GENERATORS = {
    "gan": ["model=generator/gan", "model.width=32"],
    "diffusion": ["model=generator/diffusion", "model.width=32", "model.depth=1", "model.sampling_steps=10"],
}


def rows(pairs: int = 7) -> list[Row]:
    """Measure steps, shard reading and sampling."""
    with tempfile.TemporaryDirectory() as folder:
        make_shards(Path(folder) / "pseudo")
        return [
            _step(
                "distillation step over floor: ResNet-20, teacher ResNet-20",
                distillation(folder),
                pairs,
                1.05,
            ),
            _step("P-SSL (UDA) step over floor: ResNet-20, 64 + 64 images", p_ssl(folder), pairs, 1.15),
            _step("FixMatch step over floor: ResNet-20, 16 + 7 x 16 images", fixmatch(folder), pairs, 1.1),
            _step("step with an average over the step without: ResNet-20", averaged(folder), pairs, 1.02),
            _step(
                "three objectives (soft targets, CRD, alignment) over their floor: ResNet-20",
                three(folder),
                pairs,
                1.1,
            ),
            _step(
                "step with channels last over the step without: ResNet-20",
                with_and_without(folder, "channels_last", ["method=supervised"]),
                pairs,
                0.95,
            ),
            _step(
                "distillation step whose teacher has folded norms over one whose has not: ResNet-20, teacher ResNet-20",
                with_and_without(
                    folder, "fold_norms", ["method=distillation", "model@teacher=residual_convnet"]
                ),
                pairs,
                1.0,
            ),
            _step(
                "P-SSL step whose weak view has no gradient over one whose has: ResNet-20",
                p_ssl_views(folder),
                pairs,
                0.9,
            ),
            _reading(Path(folder) / "pseudo", pairs),
            *[_sampling(name, pairs) for name in GENERATORS],
        ]


def make_shards(folder: Path) -> None:
    """Write a pseudo data set of the noise domain."""
    from tutelage.generators.noise import NoiseDomain
    from tutelage.generators.synthesis import synthesize

    synthesize(
        folder, NoiseDomain((3, PIXELS, PIXELS), CLASSES), labelling="uniform", count=PSEUDO, shard_size=256
    )


def distillation(folder: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return our step and its floor: the teacher's forward and a training step by hand, of the same networks and loss."""
    import torch
    import torch.nn.functional as F

    method, batch = built(folder, ["method=distillation", "model@teacher=residual_convnet"])
    network, optimizer = method.network, optimizer_of(method)

    def floor() -> None:
        with torch.no_grad():
            theirs = method.frozen["teacher"].network(batch.inputs)
        mine = network(batch.inputs)
        soft = F.kl_div(F.log_softmax(mine / 2, 1), F.softmax(theirs / 2, 1), reduction="batchmean") * 4
        finish(0.5 * F.cross_entropy(mine, batch.targets) + 0.5 * soft, optimizer)

    return _ours(method, batch, optimizer), floor


def p_ssl(folder: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return our step, drawing and augmenting pseudo images included, and its floor: forward and backward of as many images."""
    import torch

    method, batch = built(
        folder, ["method=pseudo_ssl/uda", f"method.objectives.consistency.pseudo={folder}/pseudo"]
    )
    network, optimizer = method.network, optimizer_of(method)
    images = torch.cat([batch.inputs, torch.randn(2 * BATCH, 3, PIXELS, PIXELS)])

    def floor() -> None:
        finish(network(images).square().mean(), optimizer)

    return _ours(method, batch, optimizer), floor


def p_ssl_views(folder: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return our step with the weak view run without a gradient, and with one."""
    consistency = "method.objectives.consistency"
    words = [
        "method=pseudo_ssl/uda",
        f"{consistency}.pseudo={folder}/pseudo",
        f"{consistency}.batch_norm=labelled",
    ]
    spared, usual = (
        built(folder, [*words, f"{consistency}.weak_gradient={value}"]) for value in ("false", "true")
    )
    return tuple(_ours(method, batch, optimizer_of(method)) for method, batch in (spared, usual))  # type: ignore[return-value]


def fixmatch(folder: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return our step, with drawing and augmenting both views, and its floor: forward and backward of as many images."""
    import torch

    batch_size, ratio = 16, 7
    words = [
        f"data.batch_size={batch_size}",
        "method=pseudo_ssl/fixmatch",
        f"method.objectives.consistency.ratio={ratio}",
    ]
    method, batch = built(
        folder, [*words, "method.ema_decay=0", f"method.objectives.consistency.pseudo={folder}/pseudo"]
    )
    network, optimizer = method.network, optimizer_of(method)
    images = torch.cat([batch.inputs, torch.randn(2 * ratio * batch_size, 3, PIXELS, PIXELS)])

    def floor() -> None:
        finish(network(images).square().mean(), optimizer)

    return _ours(method, batch, optimizer), floor


def averaged(folder: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return our step with the moving average of the network, and without."""
    method, batch = built(folder, ["method=supervised", "method.ema_decay=0.999"])
    step = _ours(method, batch, optimizer_of(method))

    def ours() -> None:
        step()
        method.average.update(method.network, 1)

    return ours, step


def three(folder: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return our step with three objectives on one teacher, and its floor: each network once, and the objectives' own arithmetic.

    The floor takes the activations that they compare by hooks of its own, and calls each loss by itself.
    """
    import torch

    from tutelage.objectives.base import Reading, Step

    terms = "method.objectives"
    method, batch = built(
        folder,
        ["method=distillation", "model@teacher=residual_convnet", f"+objective@{terms}.crd=crd", f"+objective@{terms}.alignment=alignment",
         f"{terms}.alignment.network=teacher", f"{terms}.alignment.pairing={{strategy: last, k: 3}}"],
    )  # fmt: skip
    network, teacher, optimizer = method.network, method.frozen["teacher"], optimizer_of(method)
    objectives = list(method.objectives)
    kept: dict[str, dict[str, Any]] = {"mine": {}, "theirs": {}}

    def hooked(module: Any, where: str, names: set[str]) -> list[Any]:
        layers = dict(module.named_modules())

        def keep(name: str, of_input: bool) -> Any:
            def hook(_: Any, given: Any, out: Any) -> None:
                kept[where][name] = given[0] if of_input else out

            return layers[name.removesuffix(":input")].register_forward_hook(hook)

        return [keep(name, name.endswith(":input")) for name in names]

    def floor() -> None:
        handles = hooked(network, "mine", {n for o in objectives for n in o.network_layers})
        handles += hooked(teacher.network, "theirs", {n for o in objectives for n in o.frozen_layers})
        theirs, mine = teacher(batch.inputs), network(batch.inputs)
        for handle in handles:
            handle.remove()
        alignment = method.objectives["alignment"]
        alignment.begin(batch)
        for name in alignment.frozen_layers:
            alignment.consume(name, kept["theirs"][name])
        step = Step(batch, mine, kept["mine"], {"teacher": Reading(theirs, kept["theirs"])})
        factors = method.objectives.factors(0, 0)
        finish(torch.stack([factors[o.name] * o.loss(step) for o in objectives]).sum(), optimizer)

    return _ours(method, batch, optimizer), floor


def with_and_without(
    folder: str, setting: str, words: list[str]
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return our step with a setting of the hardware, and without."""
    pair = (built(folder, [*words, f"hardware.{setting}={value}"]) for value in ("true", "false"))
    return tuple(_ours(method, batch, optimizer_of(method)) for method, batch in pair)  # type: ignore[return-value]


def built(folder: str, words: list[str]) -> tuple[Any, Any]:
    """Return a method of these words, and a batch."""
    from tutelage.config.compose import compose
    from tutelage.engine.build import build

    made = build(compose([*COMMON, *words, f"runs_dir={folder}"]))
    made.method.on_fit_start()
    return made.method.train(), next(iter(made.data.train_stream(seed=0, device="cpu")))


def stepping(method: Any, batch: Any) -> Callable[[], None]:
    """Return a training step of a method on one batch."""
    return _ours(method, batch, optimizer_of(method))


def optimizer_of(method: Any) -> Any:
    """Return the method's optimiser."""
    made, _ = method.optimizer_spec.build([p for p in method.parameters() if p.requires_grad], 1)
    return made


def _ours(method: Any, batch: Any, optimizer: Any) -> Callable[[], None]:
    def ours() -> None:
        finish(method.training_step(batch, 0), optimizer)

    return ours


def finish(loss: Any, optimizer: Any) -> None:
    """Take a loss's gradient, and a step of the optimiser."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _step(name: str, steps: tuple[Callable[[], None], Callable[[], None]], pairs: int, at_most: float) -> Row:
    ours, floor = steps
    floors: list[float] = []

    def measured(pairs: int) -> list[float]:
        times = in_turn(lambda: _repeat(ours, 2), lambda: _repeat(floor, 2), pairs=pairs, warmup=2)
        floors.extend(theirs / 2 for _, theirs in times)
        return [mine / theirs for mine, theirs in times]

    ratios = until_decided(measured, at_most, pairs=pairs)
    return row(name, ratios, at_most=at_most, note=f"floor {statistics.median(floors):.3f} s")


def _repeat(action: Callable[[], None], times: int) -> None:
    for _ in range(times):
        action()


def _reading(folder: Path, pairs: int) -> Row:
    import torch

    from tutelage.data.pseudo import PseudoImages, read

    options: dict[str, Any] = {"batch_size": BATCH, "normalization": [[0.5] * 3, [0.5] * 3]}
    data = PseudoImages(root=str(folder), **options)
    data.setup()
    images, labels = read(folder).images, read(folder).labels

    def shards() -> None:
        for _ in data.train_stream(seed=0, device="cpu"):
            pass

    def resident() -> None:
        order = torch.from_numpy(data.splits["train"])[torch.randperm(len(data.splits["train"]))]
        for start in range(0, len(order) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            _ = images.index_select(0, chosen).float().div_(127.5).sub_(1), labels.index_select(0, chosen)

    ratios = [
        theirs / mine
        for mine, theirs in in_turn(lambda: _repeat(shards, 20), lambda: _repeat(resident, 20), pairs=pairs)
    ]
    return row(
        "shards over resident tensors, throughput of reading",
        ratios,
        at_least=0.95,
        note=f"{PSEUDO} images of {PIXELS} px",
    )


def _sampling(name: str, pairs: int) -> Row:
    import torch

    from tutelage.config.compose import compose
    from tutelage.engine.pseudo_data import build_generator

    config = compose([*GENERATORS[name], "logger=none"])
    generator = build_generator(config, {"input_shape": (3, PIXELS, PIXELS), "num_classes": CLASSES})
    labels = torch.arange(32) % CLASSES

    def sample() -> None:
        generator.sample(labels, range(32))

    sample()
    rates = [len(labels) / seconds(sample) for _ in range(pairs)]
    peak = peak_mib(sample)
    memory = "" if peak is None else f"; {peak:.0f} MiB at its peak beyond what rests"
    return row(
        f"samples per second: {name}, {PIXELS} px", rates, note=f"micro-batch {generator.micro_batch}{memory}"
    )
