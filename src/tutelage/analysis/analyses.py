"""The analyses behind `tutelage analyse`: each returns lines to print, its record, a table's rows and the function that draws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.analysis.analysis_request import Request, Subject
from tutelage.errors import UserError

if TYPE_CHECKING:
    from tutelage.models.frozen import FrozenNetwork

Outcome = tuple[list[str], dict[str, Any], list[dict[str, Any]], Callable[[Path], Any]]
BLOCK = 125  # samples whose features a similarity map holds at once: 0.3 GB for a ResNet-18 at 32 px
SPLITS = ("train", "validation", "test")


def errors(request: Request) -> Outcome:
    """Error consistency of every two networks, and its mean over seeds for every two arms."""
    from tutelage.analysis import errors_consistency as analysis
    from tutelage.reporting.statistics import bounds_of, summarize

    answers = {}
    for subject in request.subjects:
        network, data, batches = opened(subject, request)
        answers[subject.label] = analysis.answers(network, data.task, batches)
    pairs = analysis.all_pairs(answers)
    of = {subject.label: subject for subject in request.subjects}
    rows = [{"first": a, "second": b, **_flat(found)} for (a, b), found in pairs.items()]
    lines = [
        f"{a} | {b}: kappa {found.kappa:.3f}, 95 % over samples {_interval(found.bootstrap)}"
        for (a, b), found in pairs.items()
    ]
    runs = Counter(subject.arm for subject in request.subjects)
    arms: dict[tuple[str, str], dict[int, float]] = {}
    order = {arm: place for place, arm in enumerate(runs)}
    for (a, b), found in pairs.items():
        # Runs come in the order of their identities: two arms are one pair, whichever run comes first.
        first, second = sorted((of[a], of[b]), key=lambda subject: order[subject.arm])
        # Runs of one seed alone, so that the values are independent; within an arm every two pairs may share a run. What has one run
        # only, such as a guide, is held against every seed.
        alone = 1 in (runs[first.arm], runs[second.arm])
        if first.arm != second.arm and (first.seed == second.seed or alone):
            seed = second.seed if runs[first.arm] == 1 else first.seed
            arms.setdefault((first.arm, second.arm), {})[seed] = found.kappa
    groups = {arm: [s.label for s in by_seed(request.subjects) if s.arm == arm] for arm in runs}
    over_seeds = []
    for (a, b), values in arms.items():
        summary = summarize(list(values.values()), bounds=bounds_of("kappa"))
        over_seeds.append({"first": a, "second": b, **summary._asdict()})
        if summary.n > 1:
            spread = f"95 % over {summary.n} seeds {_interval((summary.low, summary.high))}"
            which = "one run against each seed" if 1 in (runs[a], runs[b]) else "runs of one seed"
            lines.append(f"{a} | {b}, {which}: mean kappa {summary.mean:.3f}, {spread}")
    return lines, {"arms": over_seeds}, rows, lambda path: analysis.draw(pairs, path, groups)


def by_seed(subjects: list[Subject]) -> list[Subject]:
    """Return subjects in the order of their seeds."""
    return sorted(subjects, key=lambda subject: subject.seed)


def _flat(found: Any) -> dict[str, Any]:
    values = asdict(found)
    first, second = values.pop("accuracies")
    values |= {"accuracy_first": first, "accuracy_second": second}
    for name in ("analytic", "bootstrap"):
        values[f"{name}_low"], values[f"{name}_high"] = values.pop(name)
    return values


def _interval(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.3f} to {ends[1]:.3f}"


def similarity(request: Request) -> Outcome:
    """Layer-by-layer map of exactly two networks on the same inputs."""
    from tutelage.analysis import similarity_map as analysis
    from tutelage.models.frozen import FrozenNetwork, recorded

    names = [subject.label for subject in request.subjects]
    if len(names) != 2:
        raise UserError(f"similarity compares two networks, got {len(names)}: {', '.join(names)}")
    first, data, batches = opened(request.subjects[0], request, samples=_whole("samples", request.options))
    second, theirs, _ = opened(request.subjects[1], request)
    if tuple(theirs.input_shape) != tuple(data.input_shape) or theirs.vocab_size != data.vocab_size:
        raise UserError(
            f"the two networks take different inputs: {tuple(data.input_shape)} and {tuple(theirs.input_shape)}"
        )
    if theirs.normalization != data.normalization:  # the second is to see what its own run showed it
        expects = second.expects or recorded(theirs.normalization, like=data.normalization)
        second = FrozenNetwork(
            second.network, norm_mode=second.norm_mode, expects=expects, given=data.normalization
        )
        second = second.to(request.options["device"])
    found = analysis.similarity_map(
        first, second, batches, layers=request.options["layers"], measure=request.options["measure"]
    )
    layers = f"{len(found.first)} by {len(found.second)} layers"
    measure = "unbiased CKA" if found.chance is None else found.measure
    by_chance = (
        "" if found.chance is None else f"; by chance {found.chance[0]:.3f}, at most {found.chance[1]:.3f}"
    )
    shown = f"{measure} {_range(found.values)}{by_chance}"
    lines = [f"{names[0]} | {names[1]}: {layers}, {found.samples} samples, {shown}"]
    record, rows = analysis.describe(found), analysis.rows(found)
    aligned = _aligned(request.subjects, found)
    return (
        lines,
        record,
        rows,
        lambda path: analysis.draw(found, path, first=names[0], second=names[1], aligned=aligned),
    )


def _aligned(subjects: list[Subject], found: Any) -> list[tuple[int, int]]:
    """The cells (row, column) of a map whose layers one of the two networks was trained to align, as its run recorded them."""
    from tutelage.reporting.layer_pairs import described
    from tutelage.runs.records import read_json

    first, second = ([layer.name for layer in part] for part in (found.first, found.second))
    cells = []
    for subject, other in (subjects, subjects[::-1]):
        path = subject.run.path / "setup.json"
        if subject.role or not path.is_file() or other.role != "guide":
            continue
        for pairs in described(read_json(path).get("method") or {}).values():
            for pair in pairs:
                own, theirs = pair.get("network"), pair.get("guide")
                row, column = (own, theirs) if subject is subjects[0] else (theirs, own)
                if row in first and column in second:
                    cells.append((first.index(row), second.index(column)))
    return cells


def _range(values: Any) -> str:
    import numpy as np

    if np.isnan(values).all():
        return "undefined: no layer varies over these samples"
    return f"from {np.nanmin(values):.3f} to {np.nanmax(values):.3f}, mean {np.nanmean(values):.3f}"


def gap(request: Request) -> Outcome:
    """Metric of the selected network on the training split beside validation and test."""
    from tutelage.analysis import overfitting as analysis
    from tutelage.engine.load import evaluate_network
    from tutelage.reporting.statistics import bounds_of, summarize

    arms: dict[str, list[analysis.Gap]] = {}
    for subject in request.subjects:
        if subject.role:
            raise UserError(
                f"'{subject.label}': the gap is that of a trained network, not of its {subject.role}"
            )
        network, data, batches = opened(subject, request, split="train")
        on_train = evaluate_network(network.network, data.task, batches, request.options["device"])
        found = analysis.gap_of(subject.run.key, subject.seed, subject.run.result or {}, on_train)
        arms.setdefault(subject.arm, []).append(found)
    lines = []
    for arm, gaps in arms.items():
        low, high = bounds_of(gaps[0].metric)
        summary = summarize([found.gap for found in gaps], bounds=(low - high, high - low))
        spread = f" (95 % over {summary.n} runs {_interval((summary.low, summary.high))})"
        means = [
            f"{split} {sum(getattr(found, split) for found in gaps) / len(gaps):.3f}" for split in SPLITS
        ]
        shown = f"gap {summary.mean:.3f}{spread if summary.n > 1 else ''}"
        lines.append(f"{arm}: {gaps[0].metric} {', '.join(means)}; {shown}")
    rows = [{"arm": arm, **asdict(found), "gap": found.gap} for arm, gaps in arms.items() for found in gaps]
    return lines, {}, rows, lambda path: analysis.draw(arms, path)


def probe(request: Request) -> Outcome:
    """A linear classifier and the nearest neighbours on what the final layer is given, learnt on the runs' labelled training samples."""
    from tutelage.analysis import probe as analysis
    from tutelage.reporting.statistics import summarize

    arms: dict[str, list[analysis.Probe]] = {}
    rows = []
    for subject in request.subjects:
        network, data, _ = opened(subject, request)
        device = request.options["device"]
        batches = {split: data.batches(split, device=device) for split in SPLITS}
        found = analysis.probe(network, data.task, batches)
        arms.setdefault(subject.arm, []).append(found)
        labelled = len(data.splits["train"])
        rows.append(
            {
                "arm": subject.arm,
                "run": subject.run.key,
                "role": subject.role,
                "seed": subject.seed,
                "labelled": labelled,
            }
            | asdict(found)
        )
    lines = []
    for arm, probes in arms.items():
        said = []
        for name, of in (
            ("linear probe", "linear"),
            (f"{analysis.NEIGHBOURS} nearest neighbours", "neighbours"),
        ):
            over = summarize([getattr(one, of) for one in probes], bounds=(0.0, 1.0))
            spread = f" (95 % over {over.n} runs {_interval((over.low, over.high))})" if over.n > 1 else ""
            said.append(f"{name} {over.mean:.3f}{spread}")
        lines.append(f"{arm}: {', '.join(said)}; accuracy on test")
    return lines, {}, rows, lambda path: analysis.draw(arms, path)


def alignment(request: Request) -> Outcome:
    """Similarity of the guided layers over training; loads no network."""
    from tutelage.analysis import alignment_curves as analysis

    curves: dict[str, analysis.Curve] = {}
    arms: dict[str, list[analysis.Curve]] = {}
    several = len(request.subjects) > 1
    for subject in request.subjects:
        found = analysis.curves_of(subject.run.key, subject.run.metrics.rows, _method_of(subject))
        mean = next(iter(found.values()))
        arms.setdefault(subject.arm, []).append(mean)
        curves |= {subject.label: mean} if several else found
    rows = [
        {"curve": name, "step": step, "similarity": value}
        for name, (steps, values) in curves.items()
        for step, value in zip(steps, values, strict=True)
    ]
    lines = [
        f"{name}: {values[0]:.3f} at step {steps[0]:g}, {values[-1]:.3f} at step {steps[-1]:g}"
        for name, (steps, values) in curves.items()
        if values
    ]
    if several:
        return lines, {}, rows, lambda path: analysis.draw_arms(arms, path)
    title = f"{request.subjects[0].label}: similarity of its layer pairs"
    return lines, {}, rows, lambda path: analysis.draw(curves, path, title=title)


def guidance(request: Request) -> Outcome:
    """Layer pairs by step, one arm beside another, with the metric: a figure and an animation; loads no network."""
    from tutelage.analysis import guidance_picture as analysis
    from tutelage.analysis.alignment_curves import pairs_of

    runs: dict[str, list[Any]] = {}
    for subject in request.subjects:
        rows = subject.run.metrics.rows
        pairs = next(iter(pairs_of(subject.run.key, rows, _method_of(subject)).values()))
        runs.setdefault(subject.arm, []).append((pairs, rows))
    if len(runs) > analysis.MOST_ARMS:
        raise UserError(
            f"guidance draws at most {analysis.MOST_ARMS} arms beside each other, got {len(runs)}: {', '.join(runs)}"
        )
    metric, _ = _monitored(request.subjects[0])
    arms = [analysis.arm_of(label.rpartition("/")[2], found, metric) for label, found in runs.items()]
    table = [
        {"arm": arm.label, "pair": pair, "step": step, "similarity": float(arm.values[i, j])}
        for arm in arms
        for i, pair in enumerate(arm.pairs)
        for j, step in enumerate(arm.steps)
    ]
    lines = []
    for arm in arms:
        first, last = arm.values[:, 0].mean(), arm.values[:, -1].mean()
        reached = f"; validation {metric} {arm.metric[1][-1][1]:.3f}" if arm.metric[1] else ""
        over = f" (mean over {arm.runs} runs)" if arm.runs > 1 else ""
        lines.append(
            f"{arm.label}{over}: mean similarity {first:.3f} at step {arm.steps[0]}, {last:.3f} at step {arm.steps[-1]}{reached}"
        )
    return lines, {"metric": metric}, table, lambda path: analysis.draw(arms, path)


def _method_of(subject: Subject) -> dict[str, Any]:
    from tutelage.runs.records import read_json

    if not (path := subject.run.path / "setup.json").is_file():
        raise UserError(
            f"{subject.run.key} has no {path.name}: its pairs are not known; its command with rerun=true makes it anew"
        )
    return dict(read_json(path)["method"])


def quality(request: Request) -> Outcome:
    """Pseudo data sets against real images, in the features of a classifier: one run among those named is no pseudo data set."""
    import torch

    from tutelage.analysis import sample_quality as analysis
    from tutelage.data import pseudo
    from tutelage.data.base import SplitBatches
    from tutelage.engine.pseudo_data import FOLDER
    from tutelage.objectives.unlabelled import byte_affine

    judges = [s for s in request.subjects if "pseudo" not in (s.run.result or {})]
    made = [s for s in request.subjects if s not in judges]
    if len(judges) != 1 or not made:
        raise UserError(
            "quality needs one classifier's run and at least one run of `tutelage synthesize`, got "
            f"{len(judges)} and {len(made)}: {', '.join(s.label for s in request.subjects)}"
        )
    classifier, data, _ = opened(judges[0], request)
    found = {s.label: pseudo.read(s.run.path / FOLDER) for s in made}
    split, device = request.options["split"], torch.device(request.options["device"])
    parts = {name: data.splits[name] for name in dict.fromkeys((split, "train"))}
    sizes = [*map(len, parts.values()), *(len(one.images) for one in found.values())]
    count = min(_whole("samples", request.options), *sizes)
    store = data.store.to(device)
    real = {
        name: analysis.gather(SplitBatches(store, index[analysis.drawn(len(index), count)], batch_size=BLOCK))
        for name, index in parts.items()
    }
    reference = real.pop(split)
    scale, shift = byte_affine(data.normalization, reference[0].shape[1])
    sets = {
        f"{name}ing images": one for name, one in real.items()
    }  # none where the training images are the reference
    for name, one in found.items():
        if one.images.shape[1:] != reference[0].shape[1:]:
            raise UserError(
                f"{name} holds images {tuple(one.images.shape[1:])}, {judges[0].label} takes {tuple(reference[0].shape[1:])}"
            )
        chosen = analysis.drawn(len(one.images), count)
        images = (one.images[chosen].float() * scale + shift).to(device)
        sets[name] = images, one.labels[chosen]
    classes = list(data.facts.get("classes") or ())

    def class_of(label: Any) -> str:
        return str(classes[int(label)]) if int(label) < len(classes) else str(int(label))

    judge = analysis.Judge(classifier, reference)
    table = [judge.judge(name, *one) for name, one in sets.items()]
    lines = [f"against {count} {split} images, in the features of {judges[0].label}:"]
    lines += [
        f"{q.images}: source accuracy {q.accuracy:.3f}, Frechet distance {q.frechet_distance:.4g}, "
        f"precision {q.precision:.3f}, recall {q.recall:.3f}"
        for q in table
    ]
    rows = [asdict(q) for q in table]
    shown = {
        name: (
            (one[0].cpu() - shift) / (255 * scale),
            [class_of(label) for label in one[1][: analysis.SHOWN]],
        )
        for name, one in sets.items()
    }
    return lines, {"reference": split, "count": count}, rows, lambda path: analysis.draw(shown, table, path)


def cost(request: Request) -> Outcome:
    """Parameters, operations, size, latency and memory of every network, beside its metric on the test split."""
    import torch

    from tutelage.analysis import network_cost as analysis
    from tutelage.runs.provenance import cpu_model

    most = torch.get_num_threads() if request.options["device"] == "cpu" else 0
    threads = sorted({1, max(1, most)})
    rows, lines, points = [], [], dict[str, tuple[float, list[float]]]()
    for subject in request.subjects:
        network, _, batches = opened(subject, request, samples=analysis.BATCHES[-1])
        found = analysis.network_cost(network, next(iter(batches)), threads=threads)
        monitor, metrics = _monitored(subject)
        rows.append(
            {"network": subject.label, "arm": subject.arm, "seed": subject.seed, **metrics, **found.columns}
        )
        first = found.latencies[0]
        lines.append(
            f"{subject.label}: {found.parameters:,} parameters, {found.operations:,} operations, {found.size_mb:.2f} MiB, "
            f"one sample {1e3 * first.median_s:.2f} ms ({1e3 * first.low_s:.2f} to {1e3 * first.high_s:.2f})"
        )
        if monitor:
            points.setdefault(subject.arm, (found.operations, []))[1].append(metrics[f"test_{monitor}"])
    name = next((key for key in rows[0] if key.startswith("test_")), "test_metric").removeprefix("test_")
    machine = {
        "device": request.options["device"],
        "cpu": cpu_model(),
        "threads": threads,
        "torch": torch.__version__,
    }
    if request.options["device"].startswith("cuda"):
        machine["device"] = torch.cuda.get_device_name(torch.device(request.options["device"]))
    shown = [(arm, operations, values) for arm, (operations, values) in points.items()]
    modes = {(s.run.result or {}).get("selection", {}).get("mode") for s in request.subjects if not s.role}
    better = {"max": "higher is better", "min": "lower is better"}.get(
        modes.pop() if len(modes) == 1 else "", ""
    )
    return (
        lines,
        {"machine": machine},
        rows,
        lambda path: analysis.draw(shown, path, metric=name, better=better),
    )


def _monitored(subject: Subject) -> tuple[str, dict[str, float]]:
    """The monitored metric of a run's own network and its value on the test split; none of a guide or teacher."""
    result = subject.run.result or {}
    if subject.role or "selection" not in result:
        return "", {}
    monitor = str(result["selection"]["monitor"])
    return monitor, {f"test_{monitor}": float(result["best"]["test"][monitor])}


def phases(request: Request) -> Outcome:
    """The metric over two settings of the runs, beside what their networks show before any training."""
    from tutelage.analysis.phases import outcome

    return outcome(request)


def calibration(request: Request) -> Outcome:
    """Calibration, temperature scaling and selective prediction of every network."""
    from tutelage.analysis import calibration as analysis
    from tutelage.reporting.statistics import bounds_of, summarize

    rows, lines, shown = [], [], {}
    arms: dict[str, list[float]] = {}
    for subject in request.subjects:
        network, data, batches = opened(subject, request)
        device = request.options["device"]
        validation = analysis.logits_of(network, data.task, data.batches("validation", device=device))
        judged = analysis.logits_of(network, data.task, batches)
        found = analysis.calibration(validation, judged)
        row = {"network": subject.label, "arm": subject.arm, "seed": subject.seed, **asdict(found)}
        lines.append(
            f"{subject.label}: ECE {found.ece:.3f}, 95 % over samples {_interval((found.low, found.high))}; at the temperature "
            f"{found.temperature:.3f} learnt on validation {found.after:.3f}; errors {1 - found.accuracy:.3f}, of the surest 80 % "
            f"{found.risk_at_80:.3f}"
        )
        if other := request.options["other"]:
            outside = _outside(other, network, data, request)
            inside = analysis.scores(judged[0])
            aurocs = {
                name: analysis.auroc(inside[name], value) for name, value in analysis.scores(outside).items()
            }
            row |= {f"auroc_{name}": value for name, value in aurocs.items()}
            shares = ", ".join(f"{name} {value:.3f}" for name, value in aurocs.items())
            lines.append(f"  told from {other}, area under the ROC curve: {shares}")
        rows.append(row)
        arms.setdefault(subject.arm, []).append(found.ece)
        p = analysis.softmax(judged[0])
        shown[subject.label] = (
            (found.ece, found.temperature),
            p.max(1),
            (p.argmax(1) == judged[1]).astype(float),
        )
    for arm, values in arms.items():
        if len(values) > 1:
            over = summarize(values, bounds=bounds_of("share"))
            lines.append(
                f"{arm}: mean ECE {over.mean:.3f}, 95 % over {over.n} runs {_interval((over.low, over.high))}"
            )
    return lines, {"bins": analysis.BINS}, rows, lambda path: analysis.draw(shown, path)


def _outside(other: str, network: FrozenNetwork, data: Any, request: Request) -> Any:
    """Logits of a network on the test split of other data, brought to its own normalisation."""
    from tutelage.analysis.calibration import outside_logits
    from tutelage.config.compose import compose
    from tutelage.engine.build import build_data
    from tutelage.models.frozen import FrozenNetwork, recorded

    words = dict(compose([f"data={other}"])["data"])
    theirs = build_data({"data": words, "runs_dir": request.options["runs_dir"]})
    if tuple(theirs.input_shape) != tuple(data.input_shape) or theirs.vocab_size != data.vocab_size:
        raise UserError(
            f"other={other} has inputs {tuple(theirs.input_shape)}, the runs were trained on {tuple(data.input_shape)}"
        )
    seen = FrozenNetwork(
        network.network,
        norm_mode=network.norm_mode,
        expects=network.expects or recorded(data.normalization, like=theirs.normalization),
        given=theirs.normalization,
        input_size=network.input_size,
    ).to(request.options["device"])
    theirs.open_test()
    return outside_logits(seen, data.task, theirs.batches("test", device=request.options["device"]))


ANALYSES: dict[str, Callable[[Request], Outcome]] = {
    "errors": errors,
    "similarity": similarity,
    "gap": gap,
    "probe": probe,
    "alignment": alignment,
    "guidance": guidance,
    "quality": quality,
    "cost": cost,
    "calibration": calibration,
    "phases": phases,
}


def _whole(key: str, options: dict[str, str]) -> int:
    if not options[key].isdigit() or int(options[key]) < 1:
        raise UserError(f"{key} must be a whole number of at least 1, got {options[key]!r}")
    return int(options[key])


def opened(
    subject: Subject, request: Request, *, split: str = "", samples: int | None = None
) -> tuple[FrozenNetwork, Any, Any]:
    """Return a subject's network on the device, its data module and the batches of the split asked for.

    samples: at most so many of the split, evenly spaced.
    """
    import numpy as np
    import torch

    from tutelage.data.base import SplitBatches
    from tutelage.engine import trust
    from tutelage.engine.load import load_run
    from tutelage.engine.networks import build_frozen
    from tutelage.models.frozen import FrozenNetwork

    device, split = torch.device(request.options["device"]), split or request.options["split"]
    options = {"runs_dir": request.options["runs_dir"], "code": trust.modules(request.options["code"])}
    loaded = load_run(subject.run.path, **options, **request.data)  # type: ignore[arg-type]
    loaded.data.open_test()
    if subject.role:
        network: Any = build_frozen(subject.role, loaded.config, loaded.data)
    else:
        network = FrozenNetwork(loaded.network)
    batches: Any = loaded.data.batches(split, device=device)
    if samples is not None:
        index = loaded.data.splits[split]
        chosen = index[np.linspace(0, len(index) - 1, min(samples, len(index))).round().astype(int)]
        batches = SplitBatches(loaded.data.store.to(device), chosen, batch_size=BLOCK)
    return network.to(device), loaded.data, batches
