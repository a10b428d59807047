"""Every command on a finished run of every kind: it answers, or says in one message why not, and leaves the run as it was."""

from __future__ import annotations

import hashlib
import importlib

import numpy as np
import pytest

from small_runs import COPIES, METHODS, SMALL
from tutelage.cli.commands import COMMANDS
from tutelage.cli.reader import read
from tutelage.config.planner import plan_of
from tutelage.errors import UserError
from tutelage.jobs.launch import run_plan

BARE = [word for word in SMALL if not word.startswith("model")]
ENCODER = [*METHODS["masked_tokens"], "model.depth=1", "model.width=8", "model.heads=2"]
DECODER = ["model=transformer_decoder", "model.depth=1", "model.width=8", "model.heads=2"]
NO_LABELS = "trained without labels"
MAKES = "trained a generator"
ANSWERS = (
    *("safetensors", "onnx", "openvino", "torch_export", "static", "dynamic"),
    *("predict", "calibration", "explain", "robustness", "int8", "gap"),
)
KINDS = {
    "image": [*SMALL, "method=guidance", *METHODS["guidance"]],
    "text": [*BARE, *ENCODER],
    "values": [*SMALL, "data=table", "data.target=y"],
    "language": [*BARE, *COPIES, *DECODER],
    "masked text": [*BARE, *ENCODER, "method=masked_tokens"],
    "diffusion": [*SMALL, "method=diffusion", *METHODS["diffusion"]],
    "classes of a table": [*SMALL, "data=table", "data.target=class"],
    "series": [*BARE, "data=etth1", "data.split=[400,150,150]", "model=lstm", "model.depth=1", "model.width=8"],
    "masked images": [*SMALL, "method=masked_images", *METHODS["masked_images"]],
    "gan": [*SMALL, "method=gan", *METHODS["gan"]],
}  # fmt: skip
QUICK = ("image", "text", "language", "diffusion")
CHOOSES_NO_CLASS = dict.fromkeys(("calibration", "explain", "probe"), "one class for each sample")
SAID: dict[str, dict[str, str]] = {  # by kind and command: what is said in the place of an answer
    "image": {},
    "text": {"alignment": "recorded no alignment"},
    "values": {**CHOOSES_NO_CLASS, "alignment": "recorded no alignment"},
    "language": {
        **CHOOSES_NO_CLASS,
        "alignment": "recorded no alignment",
        "predict": "this network's task is tokens",
        "robustness": "these data have none",
    },
    "masked text": {**dict.fromkeys(ANSWERS, NO_LABELS), "alignment": "recorded no alignment"},
    "diffusion": {
        **dict.fromkeys((*ANSWERS, "probe", "cost"), MAKES),
        "alignment": "recorded no alignment",
    },
    "classes of a table": {"alignment": "recorded no alignment"},
    "series": {**CHOOSES_NO_CLASS, "alignment": "recorded no alignment"},
}
SAID |= {"masked images": SAID["masked text"], "gan": SAID["diffusion"]}
QUICK_COMMANDS = {
    "report": ["report", "name", "columns=parameters,flops,size,latency,memory"],
    "safetensors": ["export", "run", "out"],
    "predict": ["predict", "run", "split=test", "out=file"],
    "cost": ["analyse", "cost", "run", "out"],
    "calibration": ["analyse", "calibration", "run", "out"],
    "explain": ["analyse", "explain", "run", "out", "samples=2", "explainers=saliency"],
    "robustness": ["analyse", "robustness", "run", "out", "samples=8", "steps=2", "queries=5", "corruptions=fog"],
    "probe": ["analyse", "probe", "run", "out"],
    "gap": ["analyse", "gap", "run", "out"],
    "alignment": ["analyse", "alignment", "run", "out"],
}  # fmt: skip
SLOW_COMMANDS = {
    **{name: ["export", "run", "out", f"format={name}"] for name in ("onnx", "openvino", "torch_export")},
    **{name: ["export", "run", "out", "format=onnx", f"quantise={name}"] for name in ("static", "dynamic")},
    "int8": ["analyse", "int8", "run", "out"],
}


def content(folder):
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Make the run of a kind once and return its folder."""
    root, files, done = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("files"), {}
    draws = np.random.default_rng(0).normal(size=(120, 2))
    (files / "table.csv").write_text(
        "a,b,y,class\n" + "".join(f"{a:.4f},{b:.4f},{10 + 5 * a:.4f},{'yes' if a > b else 'no'}\n" for a, b in draws)
    )  # fmt: skip
    (files / "series.csv").write_text(
        "date,u,OT\n" + "".join(f"2020-01-{1 + i // 24:02d} {i % 24:02d}:00,{np.sin(i / 3):.4f},{np.cos(i / 5):.4f}\n" for i in range(700))
    )  # fmt: skip
    roots = {"values": "table.csv", "classes of a table": "table.csv", "series": "series.csv"}

    def make(kind):
        if kind not in done:
            extra = [f"data.root={files / roots[kind]}"] if kind in roots else []
            plan = plan_of([*KINDS[kind], *extra, f"name=after/{kind.replace(' ', '-')}", f"runs_dir={root}"])
            run_plan(plan)
            done[kind] = root / plan.key
        return done[kind]

    return make


def check(run, kind, commands, tmp_path):
    before, wrong = content(run), []
    assert any(name.endswith("result.json") for name in before)
    for name, words in commands.items():
        given = {
            "run": str(run),
            "name": str(run.parent.relative_to(run.parents[2])),
            "out": f"out={tmp_path / name}",
            "out=file": f"out={tmp_path / 'answers.csv'}",
        }
        command, *rest = [given.get(word, word) for word in words]
        expected = SAID[kind].get(name)
        try:
            importlib.import_module(f"tutelage.cli.{command}").run(
                read(command, COMMANDS[command], [*rest, f"runs_dir={run.parents[2]}"])
            )
            said = None
        except UserError as error:
            said = str(error)
        if (said is None) != (expected is None) or (expected is not None and expected not in said):
            wrong.append((name, said))
        if content(run) != before:
            wrong.append((name, "changed the run"))
    assert not wrong


@pytest.mark.parametrize("kind", QUICK)
def test_quick_commands_answer_or_say_why_not_and_change_nothing(kind, made, tmp_path):
    check(made(kind), kind, QUICK_COMMANDS, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_command_answers_or_says_why_not_and_changes_nothing(kind, made, tmp_path):
    check(made(kind), kind, {**QUICK_COMMANDS, **SLOW_COMMANDS}, tmp_path)
