"""`tutelage diagnose`: before any training, what passes a network's layers, whether it trains alone, and which guide would help."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.cli.reader import Given
from tutelage.errors import UserError, choices
from tutelage.reporting.console import console, say

if TYPE_CHECKING:
    from tutelage.analysis.diagnosis import Probe, State, Subject
    from tutelage.analysis.rate_range import RateRange
    from tutelage.engine.signal import Signal

FEWEST_RATES = 20
"""Steps of a range test, a factor of 2 apart, below which its slopes are noise."""
MOST_LAYERS = 16
"""Layers that the table shows; of more, evenly spaced ones, the first and the last among them."""


def run(given: Given) -> int:
    """Run the command; return its exit code."""
    steps, rates = (_steps(given.options[name], name) for name in ("steps", "rates"))
    out = _file(given.options["out"])
    from tutelage.analysis import diagnosis, trainability
    from tutelage.config.compose import hydra_ready

    words = given.as_settings("runs_dir")
    with hydra_ready():
        subject = diagnosis.opened(words)
        guides = _guides(given.options["guides"], words, subject) if steps else {}
        seen = subject.signal()
        state = subject.state([layer.name for layer in seen.layers])
        verdict = trainability.verdict(seen)
        console().print(_layer_table(seen, state))
        images = len(subject.data.input_shape) == 3  # what a convolutional guide can look at
        of_guide = trainability.guide_sentence(seen.gradient_ratio) if images else ""
        say("\n" + "\n".join(filter(None, [*_findings(seen, state), verdict.sentence, of_guide])))
        ranged = _ranged(subject, rates) if rates else None
        found = [*_probed(words, guides, steps, subject)] if steps else []
        if found:
            say("\n" + "\n".join(_advice(found, words, subject)))
    if out is not None:
        _write(out, seen, state, verdict, found, ranged)
    return 0


def _file(out: str) -> Path | None:
    path = Path(out).expanduser()
    if out and path.is_dir():
        raise UserError(
            f"out={out} is a folder: what is seen goes to a file, such as out={path / 'diagnosis.json'}"
        )
    return path if out else None


def _steps(text: str, name: str) -> int:
    if not text.isdigit() or (name == "rates" and 0 < int(text) < FEWEST_RATES):
        fewest = f" of at least {FEWEST_RATES}" if name == "rates" else ""
        raise UserError(f"{name} must be a whole number{fewest}, or 0 for none, got {text!r}")
    return int(text)


def _ranged(subject: Subject, steps: int) -> RateRange:
    from tutelage.analysis.rate_range import range_test, sentence

    found = range_test(subject, steps=steps)
    say("\n" + sentence(found, steps))
    return found


def _guides(given: str, words: Sequence[str], subject: Subject) -> dict[str, list[str]]:
    """Return the guides to try, by name: those given, that of the command, or those for the kind of data."""
    from tutelage.analysis.diagnosis import guides_for
    from tutelage.config.groups import group_options

    usual = guides_for(subject.data)
    if not given:
        return {"yours": []} if subject.config.get("guide") else usual
    found = {}
    for name in filter(None, given.strip("[]").split(",")):
        if name not in usual and name not in (known := group_options("model")):
            raise UserError(f"there is no guide '{name}'; {choices(name, [*usual, *known])}")
        found[name] = list(usual.get(name, [f"model@guide={name}"]))
    return found


def _layer_table(seen: Signal, state: State) -> Any:
    from tutelage.reporting.fitted import Fitted

    titles = ["layer", "shape", "scale out", "correlation of two samples", "effective rank", "dead inputs", "gradient / weight",
              "batches agree"]  # fmt: skip
    classes = bool(state.readable)
    titles += ["classes read"] if classes else []
    rows = []
    count = min(len(seen.layers), MOST_LAYERS)
    shown = sorted({round(i * (len(seen.layers) - 1) / max(1, count - 1)) for i in range(count)})
    for i in shown:
        layer = seen.layers[i]
        row = [layer.name, " x ".join(map(str, layer.shape)), f"{layer.scale:.3g}", f"{layer.correlation:.3f}", f"{layer.rank:.1f}",
               f"{layer.dead:.0%}", f"{layer.gradient:.2g}", f"{layer.agreement:+.3f}"]  # fmt: skip
        rows.append(row + ([f"{state.readable[i]:.0%}"] if classes else []))
    title = "what each layer is given, and its gradient, before training"
    return Fitted(title, titles, rows, left=("shape",), wraps=set(titles[2:]), drop=("shape",))


def _findings(seen: Signal, state: State) -> list[str]:
    lines = [
        f"loss {seen.loss:.3f}; gradient of the first layer over the last's: {seen.gradient_ratio:.3g}; "
        f"gradients of two batches agree by {seen.agreement:+.3f} in the median layer"
    ]
    last = seen.layers[-1]
    read = f", classes read {state.readable[-1]:.0%} of {state.readable[0]:.0%}" if state.readable else ""
    lines.append(
        f"at the last layer: two samples correlate by {last.correlation:.3f}, effective rank {last.rank:.1f} of "
        f"{seen.input_rank:.1f} at the inputs{read}"
    )
    if seen.dead > 0.5:
        lines.append(f"up to {seen.dead:.0%} of a layer's inputs are dead: the same for every sample")
    return lines


def _probed(
    words: Sequence[str], guides: Mapping[str, Sequence[str]], steps: int, subject: Subject
) -> list[Probe]:
    from tutelage.analysis.diagnosis import apart_from_method, probes

    found = []
    if left := apart_from_method(words)[1]:
        own = ", but for yours," if "yours" in guides else ""
        say(f"of the method the probes{own} leave out: {shlex.join(left)}")
    for one in probes(words, guides, steps=steps, subject=subject):
        if isinstance(one, tuple):
            say(f"{one[0]}: not tried, {one[1]}")
        else:
            found.append(one)
    return found


def _advice(found: Sequence[Probe], words: Sequence[str], subject: Subject) -> list[str]:
    from tutelage.analysis.diagnosis import ranked, told_apart

    monitor = subject.data.task.monitor
    lines = [f"after {found[0].steps} steps, on validation samples:"]
    order = ranked(found)
    for probe in order:
        read = (
            f", classes read {probe.state.depth_read:.1%} (mean over layers)" if probe.state.readable else ""
        )
        lines.append(
            f"  {probe.label}: loss {probe.state.loss:.3f}, {monitor} {probe.state.metric:.3f}{read}; gradient first over last "
            f"{probe.signal.gradient_ratio:.3g}; {probe.seconds:.0f} s"
        )
    alone = next(probe for probe in found if probe.label == "alone")
    best = order[0]
    if len(found) == 1:
        lines.append("no guide was tried; to train it alone:")
    elif best is alone:
        lines.append("no guide of these is ahead of training alone; to try first:")
    elif told_apart(best, alone):
        lines.append(f"ahead after these steps: {best.label}; to try, beside the network alone:")
    else:
        lines.append(
            "no guide of these is told apart from training alone after these steps: more of them (steps=200), or the training, decide:"
        )
    tried = [alone] if best is alone else [best, alone]
    lines += [f"  tutelage train {shlex.join(probe.words)}" for probe in tried]
    return lines


def _write(
    path: Path, seen: Signal, state: State, verdict: Any, found: Sequence[Probe], ranged: RateRange | None
) -> None:
    from tutelage.runs.folders import make_folder
    from tutelage.runs.records import write_json

    make_folder(path.parent)
    record: dict[str, Any] = {"signal": asdict(seen), "state": asdict(state), "verdict": asdict(verdict)}
    record["probes"] = [asdict(probe) for probe in found]
    record["rates"] = None if ranged is None else asdict(ranged)
    write_json(path, record)
    say(f"written: {path}")
