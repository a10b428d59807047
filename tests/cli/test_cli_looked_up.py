"""`predict`, `synthesize` and `doctor`: what they read, what would be built, and what is missing."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tutelage.cli import (
    evaluate,
    predict,
    synthesize,
)
from tutelage.cli.reader import Given
from tutelage.errors import UserError
from tutelage.runs.needs import Plan


@pytest.mark.parametrize(
    ("names", "lies", "words", "runs_dir"),
    [
        (["k"], "HERE/runs/deep/name/0123", [], "runs"),
        (["k"], "HERE/runs/deep/name/0123", ["runs_dir=R"], "R"),
        (["k"], "/else/runs/deep/name/0123", [], "/else/runs"),
        (["k"], "HERE/other/0123", [], "runs"),
        ([], "", ["name=n"], None),
    ],
)
def test_a_set_is_mended_or_made(monkeypatch, tmp_path, capsys, names, lies, words, runs_dir):
    from tutelage.config import compose, planner
    from tutelage.engine import trust
    from tutelage.jobs import launch, outcomes
    from tutelage.runs import needs, setting, store

    done: list[Any] = []
    monkeypatch.chdir(tmp_path)
    run = SimpleNamespace(
        config={"name": "deep/name", "seed": 1}, path=Path(lies.replace("HERE", str(tmp_path)))
    )
    monkeypatch.setattr(
        store, "Store", lambda root: SimpleNamespace(find=lambda name: done.append((str(root), name)) or run)
    )
    monkeypatch.setattr(trust, "check_stored", lambda config, path, code: done.append(code))
    monkeypatch.setattr(compose, "hydra_ready", nullcontext)
    plan = Plan({"rerun": True, "runs_dir": "R", "method": {}}, "n", "0123456789ab")
    monkeypatch.setattr(needs, "plan", lambda config, compose: done.append(config) or plan)
    monkeypatch.setattr(planner, "plan_of", lambda words: plan)
    monkeypatch.setattr(setting, "is_synthesis", lambda config: True)
    monkeypatch.setattr(outcomes, "headline", lambda result: f"said of {result}")
    monkeypatch.setattr(launch, "mend", lambda plan: mended)
    monkeypatch.setattr(launch, "run_plan", lambda plan, rerun: f"made {rerun}")
    for result, said in (("mended", "mended"), (None, "made True")):
        mended = result
        done.clear()
        given = Given(names=names, settings=words, options={"code": "a,b"})
        assert synthesize.run(given) == 0
        assert capsys.readouterr().out == f"n/0123456789ab: said of {said}\nR/n/0123456789ab/shards\n"
    if names:
        config = {"name": "deep/name", "seed": 1, "runs_dir": runs_dir}
        assert done == [("R" if words else "runs", "k"), ["a", "b"], config]


@pytest.mark.parametrize(
    ("target", "root", "asked"),
    [
        ("tutelage.data.pseudo.PseudoImages", "r", ("pseudo", "r")),
        ("tutelage.data.image_folder.ImageFolder", "r", ("files", "r", "images")),
        ("tutelage.data.table.Table", "r", ("files", "r", None)),
    ],
)
def test_the_fingerprint_of_other_files_by_their_kind(monkeypatch, target, root, asked):
    from tutelage.data import fingerprint

    monkeypatch.setattr(fingerprint, "pseudo_fingerprint", lambda root: ("pseudo", root))
    monkeypatch.setattr(fingerprint, "fingerprint", lambda root, kind: ("files", root, kind))
    assert evaluate._fingerprint({"_target_": target, "root": root}) == asked


@pytest.mark.parametrize("kind", ["text", "table"])
def test_rows_of_a_file_are_read_as_the_training_rows_were(monkeypatch, kind):
    from tutelage.engine import encoding

    monkeypatch.setattr(predict, "_frame", lambda files, **reading: (files, reading))
    asked: list[Any] = []
    monkeypatch.setattr(encoding, "encode", lambda *words: asked.append(words) or ("values", "mask"))
    monkeypatch.setattr(predict, "_features", lambda *words: iter([words]))
    how = {"kind": kind, "column": "t", "empty": ["", "NA"], "decimal": ","}
    assert list(predict._rows(["f"], how, Path("words"))) == [("values", "mask")]
    reading = {"texts": ("t",)} if kind == "text" else {"empty": ("", "NA"), "decimal": ","}
    assert asked == [(how, (["f"], reading), "f", Path("words"))]


def test_an_image_that_fails_for_any_reason_is_named(monkeypatch, tmp_path):
    (tmp_path / "a.png").touch()
    for error, said in ((OSError("cut off\nmore"), "cut off"), (ValueError(), "ValueError")):
        monkeypatch.setattr(
            "tutelage.data.image_pixels.read", lambda *_, error=error: (_ for _ in ()).throw(error)
        )
        with pytest.raises(UserError, match=rf"^cannot read the image {tmp_path}/a\.png: {said}$"):
            list(predict._images([str(tmp_path / "a.png")], (1, 2, 2), None, lambda x: x))


def test_images_of_bytes_are_brought_to_one_and_others_are_as_they_are(monkeypatch, tmp_path):
    import numpy as np

    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    read = iter([np.full((1, 2, 3), 51, np.uint8), np.full((1, 2, 3), 0.25, np.float32)])
    forms: list[Any] = []
    monkeypatch.setattr(
        "tutelage.data.image_pixels.read", lambda file, form: (forms.append(form) or next(read), None)
    )
    ((names, images, none),) = predict._images([str(tmp_path)], (1, 2, 3), None, lambda x: x)
    assert images.shape == (2, 1, 2, 3) and [one.unique().tolist() for one in images] == [
        [pytest.approx(0.2)], [0.25],
    ]  # fmt: skip
    assert [Path(one["file"]).name for one in names] == ["a.png", "b.png"] and none is None
    assert forms[0].size is None and forms[0].channels == 1


@pytest.mark.parametrize("state", ["complete", "incomplete"])
def test_which_runs_a_command_has_and_which_code_made_them(monkeypatch, capsys, state):
    from tutelage.cli import doctor

    complete = state == "complete"
    plans = [Plan({"runs_dir": "R"}, name, "0" * 12) for name in ("first", "second")]
    this = SimpleNamespace(
        config={"runs_dir": "R"}, name="mine", identity="1" * 12, key="mine/1", prerequisites=lambda: plans
    )
    run = SimpleNamespace(is_complete=complete, attempts="attempts", state=state)
    monkeypatch.setattr(doctor, "Store", lambda root: SimpleNamespace(run=lambda name, identity: run))
    monkeypatch.setattr(doctor, "width", lambda: 100)
    monkeypatch.setattr(doctor, "changed_files", lambda attempts, config: ["mine.py"] if changed else [])
    monkeypatch.setattr(doctor, "changed_packages", lambda attempts: ["models"] if changed else [])
    for other, said in ((True, " (the code of mine.py, models has changed since)"), (False, "")):
        changed = other
        doctor._runs(this)
        note = said if complete else ""
        assert capsys.readouterr().out.splitlines() == [
            f"  {role:<9} {key}  {state}{note}"
            for role, key in (("need 1", plans[0].key), ("need 2", plans[1].key), ("this run", "mine/1"))
        ]


def test_what_a_command_would_build(monkeypatch, capsys):
    from torch import nn

    from tutelage.cli import doctor
    from tutelage.engine import build, data_sets

    network, guide = nn.Linear(3, 2), SimpleNamespace(network=nn.Linear(40, 30, bias=False))
    network.bias.requires_grad_(False)
    pair = {
        f"{role}{part}": (4,) if part == "_shape" else "x"
        for role in ("guide", "network")
        for part in ("", "_kind", "_shape")
    }

    class Terms(dict):
        names = ("task", "hint", "soft")

    terms = Terms(
        task=SimpleNamespace(weight=1.0, schedule=SimpleNamespace(name="always")),
        hint=SimpleNamespace(weight=0.25, schedule=SimpleNamespace(name="warmup")),
        soft=SimpleNamespace(weight=2.0, schedule=SimpleNamespace(name="always")),
    )
    described = {
        "objectives": {"hint": {"kind": "h", "pairs": [pair]}, "soft": {"pairs": ["a > b"]}},
        "facts": 3,
    }
    method = SimpleNamespace(
        parameters=network.parameters, network=network, frozen={"guide": guide}, objectives=terms,
        describe=lambda: {**described, "objectives": dict(described["objectives"])},
    )  # fmt: skip
    asked: list[Any] = []
    monkeypatch.setattr(
        data_sets, "build_data", lambda config: SimpleNamespace(summary=lambda: {"name": "set"})
    )
    monkeypatch.setattr(
        build,
        "build",
        lambda config, data: asked.append(config) or SimpleNamespace(method=method, heads={"model": "out"}),
    )
    monkeypatch.setattr(doctor, "alone", lambda config: "without needs")
    monkeypatch.setattr(doctor, "width", lambda: 100)
    monkeypatch.setattr(doctor, "_pair_table", lambda pairs: f"{len(pairs)} pairs in a table")
    there = {"a/0": True, "b/0": False}
    monkeypatch.setattr(
        doctor, "Store", lambda root: SimpleNamespace(at=lambda key: SimpleNamespace(is_complete=there[key]))
    )
    config = {"runs_dir": "R"}
    plan: Any = SimpleNamespace(
        config=config, prerequisites=lambda: [SimpleNamespace(key=key) for key in there]
    )
    assert doctor._build(plan) == []
    shown = [
        "", "Networks", "  trained: Linear, 6 parameters, final layer out", "  guide: 1,200 frozen parameters", "  facts  3",
        "", "Objective task (weight 1)", "", "Objective hint (weight 0.25, warmup)", "  kind  h", "Layer pairs (1)",
        "1 pairs in a table", "", "Objective soft (weight 2)", "  pairs  a > b",
    ]  # fmt: skip
    needed = ["", "needed runs are not complete yet, so their weights are shown as scratch: b/0"]
    assert capsys.readouterr().out.splitlines() == ["", "Data", "  name  set", *needed, *shown]
    there["b/0"] = True
    assert doctor._build(plan) == [] and asked == ["without needs", config]
    assert capsys.readouterr().out.splitlines() == ["", "Data", "  name  set", *shown]
    for module, name in ((build, "build"), (data_sets, "build_data")):
        monkeypatch.setattr(module, name, lambda *_: (_ for _ in ()).throw(UserError("no")))
        assert doctor._build(plan) == ["no"]


@pytest.mark.parametrize(
    ("flags", "problems", "code"),
    [((), ["x"], 0), (("--build",), ["no data", "no card"], 2), (("--build",), [], 0)],
)
def test_a_doctor_ends_with_what_is_missing(monkeypatch, capsys, flags, problems, code):
    from tutelage.cli import doctor
    from tutelage.config import planner

    monkeypatch.setattr(planner, "plan_of", lambda words: f"plan of {words}")
    monkeypatch.setattr(doctor, "_values", lambda plan, words: print("values:", plan, words))
    monkeypatch.setattr(doctor, "_runs", lambda plan: print("runs:", plan))
    monkeypatch.setattr(doctor, "_build", lambda plan: print("built:", plan) or problems)
    assert doctor.run(Given(settings=["a=1"], flags=flags)) == code
    plan = "plan of ['a=1']"
    expected = [f"values: {plan} ['a=1']", "", "Runs", f"runs: {plan}"]
    if flags:
        expected += [f"built: {plan}", *(f"missing: {one}" for one in problems)]
    assert capsys.readouterr().out.splitlines() == expected


@pytest.mark.parametrize("exported", [True, False])
@pytest.mark.parametrize("files", [["f"], []])
def test_what_a_network_answers_is_written(monkeypatch, tmp_path, exported, files):
    from tutelage.engine import predictions
    from tutelage.runs import records

    asked: list[Any] = []
    written: list[Any] = []
    batches = [([{"sample": 0}, {"sample": 1}], 2, "mask"), ([{"sample": 2}], 1, None)]
    made = lambda inputs, mask: asked.append((inputs, mask)) or "outputs", "answer", batches
    monkeypatch.setattr(predict, "_exported", lambda *words: asked.append(words) or made)
    monkeypatch.setattr(predict, "_of_run", lambda *words: asked.append(words) or made)
    monkeypatch.setattr(
        predictions, "answers", lambda outputs, answer: [{"p": outputs, "of": answer}] * asked[-1][0]
    )
    monkeypatch.setattr(records, "write_text", lambda path, text: written.append((path, text)))
    monkeypatch.chdir(tmp_path)
    if exported:
        (tmp_path / "export.json").touch()
    words = [] if files else ["data=d"]

    def answers():
        return predict.predict(".", files, words, split="test", out="x.csv", runs_dir="R", code="c")

    if exported and not files:
        with pytest.raises(UserError, match=r"^an exported network has no data: name image files"):
            answers()
        return
    assert answers() == "3 predictions written: x.csv"
    assert asked == [
        (".", files, "c") if exported else (".", files, words, "test", "R", "c"), (2, "mask"), (1, None),
    ]  # fmt: skip
    rows = "".join(f"{number},outputs,answer\n" for number in range(3))
    assert written == [(Path("x.csv"), f"sample,p,of\n{rows}")]
