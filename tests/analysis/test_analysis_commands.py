"""The commands on small real runs: what they print, write and refuse."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tutelage.analysis import alignment_curves
from tutelage.analysis.analyses import ANALYSES, outcome
from tutelage.analysis.analysis_request import Request, Subject, told_apart
from tutelage.analysis.overfitting import gap_of
from tutelage.cli.analyse import run
from tutelage.cli.commands import COMMANDS
from tutelage.cli.reader import read
from tutelage.config.planner import plan_of
from tutelage.errors import UserError
from tutelage.jobs.launch import run_plan
from tutelage.runs.run import Run

SMALL = ["logger=none", "hardware.threads=1", "fit.max_steps=8", "fit.validate_every_steps=4", "data.batch_size=32",
         "model=fcn", "model.depth=2", "model.width=16"]  # fmt: skip


def main(words):
    """Do `tutelage analyse`; what it refuses is raised."""
    return run(read("analyse", COMMANDS["analyse"], words))


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("runs")
    teacher = ["method=distillation", "model@teacher=residual_convnet", "teacher.width=4"]
    guide = ["method=guidance", "model@guide=residual_convnet", "guide.width=4", "guide.blocks=1"]
    commands = {
        "guided-0": ["name=small/guided", "seed=0", *guide],
        "plain-0": ["name=small/plain", "seed=0"],
        "plain-1": ["name=small/plain", "seed=1"],
        "distilled-0": ["name=small/distilled", "seed=0", *teacher],
        "split": ["name=small/other-split", "data.split_seed=1"],
    }
    found = {"root": str(root)}
    for name, words in commands.items():
        plan = plan_of([*SMALL, f"runs_dir={root}", *words])
        run_plan(plan)
        found[name] = str(root / plan.key)
    return found


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_errors_of_all_seeds_of_two_arms(runs, tmp_path, capsys):
    out = tmp_path / "errors"
    assert main(["errors", "small/plain", "small/distilled", f"runs_dir={runs['root']}", f"out={out}"]) == 0
    rows = read_csv(out / "errors.csv")
    assert len(rows) == 3 and all(int(row["n"]) == 359 for row in rows)
    assert all(
        float(row["bootstrap_low"]) <= float(row["kappa"]) <= float(row["bootstrap_high"]) for row in rows
    )
    record = json.loads((out / "errors.json").read_text())
    ((arm, kappas),) = [
        (arm, [float(r["kappa"]) for r in rows if "plain" not in r["second"]]) for arm in record["arms"]
    ]
    assert arm["n"] == 2 and arm["mean"] == pytest.approx(
        sum(kappas) / 2
    )  # the one distilled run against each plain one
    assert {s["seed"] for s in record["subjects"]} == {0, 1}
    assert (
        "one run against each seed: mean kappa" in capsys.readouterr().out and (out / "errors.png").exists()
    )
    with pytest.raises(UserError, match="same samples"):
        main(["errors", runs["plain-0"], runs["split"], f"runs_dir={runs['root']}"])


def test_similarity_of_a_network_with_its_teacher_repeats_itself(runs, tmp_path):
    words = [runs["distilled-0"], f"{runs['distilled-0']}:teacher", f"runs_dir={runs['root']}", "samples=90"]
    assert main(["similarity", *words, f"out={tmp_path / 'a'}"]) == 0
    assert main(["similarity", *words, f"out={tmp_path / 'b'}"]) == 0
    rows = read_csv(tmp_path / "a" / "similarity.csv")
    assert rows == read_csv(tmp_path / "b" / "similarity.csv")
    assert len(rows) == 3 * 20 and all(-1 <= float(row["unbiased_cka"]) <= 1 for row in rows)
    assert json.loads((tmp_path / "a" / "similarity.json").read_text())["samples"] <= 90
    with pytest.raises(UserError, match="compares two networks, got 3"):
        main(["similarity", "small/plain", runs["split"], f"runs_dir={runs['root']}"])


def test_the_gap_is_training_minus_test_over_the_seeds(runs, capsys):
    assert main(["gap", "small/plain", f"runs_dir={runs['root']}"]) == 0
    printed = capsys.readouterr().out
    assert "small/plain: accuracy train" in printed and "95 % over 2 runs" in printed
    folder = Path(printed.split("written: ")[1].split("/gap.png")[0])
    assert folder.parent == Path(runs["root"]) / "analysis"
    for row in read_csv(folder / "gap.csv"):
        assert float(row["gap"]) == pytest.approx(float(row["train"]) - float(row["test"]))
        result = json.loads((Path(runs["root"]) / row["run"] / "result.json").read_text())
        assert float(row["test"]) == result["best"]["test"]["accuracy"]


def test_a_gap_has_the_metric_on_other_data_which_must_number_the_same_classes(runs, tmp_path):
    words = ["gap", "small/plain", f"runs_dir={runs['root']}", f"out={tmp_path}"]
    assert main([*words, "other=digits"]) == 0
    rows = read_csv(tmp_path / "gap.csv")
    assert rows and all(row["other"] == row["test"] for row in rows)  # these are the same data
    with pytest.raises(UserError, match=r"other=synthetic numbers 4 classes.*knows 10"):
        main([*words, "other=synthetic"])
    with pytest.raises(UserError, match=r"^other=image_folder needs to know its root: add other.root="):
        main([*words, "other=image_folder"])
    with pytest.raises(UserError, match=r"nowhere"):
        main([*words, "other=image_folder", "other.root=nowhere"])
    with pytest.raises(
        UserError, match=r"other.root=nowhere is a setting of the data that `other` names: add other=<data>"
    ):
        main([*words, "other.root=nowhere"])
    assert main([*words, "other=digits", "other.split_seed=3"]) == 0
    assert read_csv(tmp_path / "gap.csv") != rows  # another draw of the test split


def test_a_gap_is_positive_where_training_is_better_whatever_the_metric():
    result = {
        "selection": {"monitor": "mse", "mode": "min"},
        "best": {"validation": {"mse": 2}, "test": {"mse": 3}},
    }
    assert gap_of("a", 0, result, {"mse": 1.0}).gap == 2
    with pytest.raises(UserError, match="no validation and test"):
        gap_of("a", 0, {"selection": {"monitor": "mse", "mode": "min"}}, {"mse": 1.0})


def test_alignment_curves_are_mean_similarities_and_those_of_pairs(tmp_path):
    rows = [
        {"step": 0, "train/loss": 3.0},
        {"step": 10, "train/alignment": 1.5, "train/similarity/01": 0.2, "train/similarity/02": 0.3},
        {"step": 20, "train/alignment": 0.5, "train/similarity/01": float("nan"), "train/similarity/02": 0.5},
    ]
    pairs = [{"guide": "a", "network": "x"}, {"guide": "b", "network": "y"}]
    found = alignment_curves.curves_of("run", rows, {"objectives": {"alignment": {"pairs": pairs}}})
    assert found == alignment_curves.curves_of("run", rows, {"pairs": pairs})  # a record of an earlier time
    assert found == {
        "mean over pairs": ([10, 20], [0.25, 0.75]),
        "1 a > x": ([10], [0.2]),
        "2 b > y": ([10, 20], [0.3, 0.5]),
    }
    rows[2] |= {"train/second": 0.25, "train/similarity/second/01": 0.75}
    both = {"alignment": {"pairs": pairs}, "second": {"pairs": pairs[:1]}, "hint": {"pairs": [["a", "x"]]}}
    found = alignment_curves.curves_of("run", rows, {"objectives": both})
    assert found["second: mean over pairs"] == ([20], [0.75]) == found["second: 1 a > x"]
    assert found["alignment: 2 b > y"] == ([10, 20], [0.3, 0.5])
    alignment_curves.draw(found, tmp_path / "alignment.png", title="run")
    assert (tmp_path / "alignment.png").stat().st_size > 1000


def test_a_guided_run_shows_its_pairs(runs, tmp_path, capsys):
    assert main(["alignment", "small/guided", f"runs_dir={runs['root']}", f"out={tmp_path}"]) == 0
    curves = {row["curve"] for row in read_csv(tmp_path / "alignment.csv")}
    assert len(curves) == 1 + 8 and "1 stem.conv > layers.0.linear" in curves
    assert "mean over pairs: 0." in capsys.readouterr().out


def test_the_picture_of_guidance_says_where_the_similarity_began_and_ended(runs, tmp_path, capsys):
    assert main(["guidance", "small/guided", f"runs_dir={runs['root']}", f"out={tmp_path}"]) == 0
    rows = [(int(row["step"]), float(row["similarity"])) for row in read_csv(tmp_path / "guidance.csv")]
    first, last = min(rows)[0], max(rows)[0]
    at = {step: [value for where, value in rows if where == step] for step in (first, last)}
    means = {step: sum(values) / len(values) for step, values in at.items()}
    accuracy = Run(Path(runs["guided-0"])).metrics.rows[-1]["validation/accuracy"]
    assert (
        f"mean similarity {means[first]:.3f} at step {first}, {means[last]:.3f} at step {last}; validation accuracy {accuracy:.3f}"
        in capsys.readouterr().out.replace("\n", " ")
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["error"], "there is no 'analyse error'; did you mean 'errors'"),
        (["errors"], "needs the runs"),
        (["errors", "small/plain", "splits=test"], "splits=test.*did you mean 'split'"),
        (["errors", "small/plain:gide"], "no network 'gide'; did you mean 'guide'"),
        (["errors", "nowhere"], "no run 'nowhere'"),
        (["gap", "small/distilled:teacher"], "not of its teacher"),
        (["similarity", "small/plain", "small/plain:guide"], "has no guide .it has none"),
        (["alignment", "small/plain"], "recorded no alignment"),
        (
            ["similarity", "small/distilled", "small/distilled:teacher", "samples=few"],
            "samples must be a whole number",
        ),
        (["gap", "small/distilled", "device=abacus"], "device='abacus'"),
    ],
)
def test_a_mistake_gets_one_message(runs, words, message):
    with pytest.raises(UserError, match=message):
        main([*words, f"runs_dir={runs['root']}"])


def test_a_rule_has_features_to_compare_and_no_answers(runs, tmp_path, capsys):
    root = runs["root"]
    for rule, more in (("digits_topology", []), ("oriented_gradients", ["guide.cell=4"])):
        plan = plan_of(
            [
                *SMALL,
                f"runs_dir={root}",
                f"name=small/{rule}",
                "method=guidance",
                f"model@guide=rule/{rule}",
                *more,
            ]
        )
        run_plan(plan)
        subjects = [f"small/{rule}", f"small/{rule}:guide", f"runs_dir={root}", f"out={tmp_path / rule}"]
        assert main(["similarity", *subjects, "samples=200"]) == 0
        found = read_csv(tmp_path / rule / "similarity.csv")
        features = {row["second"] for row in found}
        assert features == (
            {"level 1", "level 2"} if rule == "digits_topology" else {"edges", "cells", "blocks"}
        )
        values = [float(row["unbiased_cka"]) for row in found if row["unbiased_cka"]]
        assert values and all(-1 <= value <= 1 for value in values)
        with pytest.raises(UserError, match="is a rule: it has features and no answers"):
            main(["errors", *subjects])


def test_runs_selected_by_different_metrics_are_no_seeds_of_one_arm(runs, tmp_path, capsys):
    days = [f"2020-01-{day:02d},{day * day % 7},{day % 5}" for day in range(1, 32)]
    (tmp_path / "table.csv").write_text("\n".join(["date,a,b", *days]))
    series = [
        "data=series",
        f"data.root={tmp_path}/table.csv",
        "data.length=2",
        "data.horizon=1",
        "data.batch_size=4",
    ]
    for words in ([], series):
        run_plan(plan_of([*SMALL, f"runs_dir={runs['root']}", "name=small/mixed", *words]))
    assert main(["gap", "small/mixed", f"runs_dir={runs['root']}", f"out={tmp_path}/gap"]) == 0
    told = capsys.readouterr().out
    assert ": accuracy train " in told and ": mse train " in told and "95 % over" not in told


def test_runs_of_one_name_that_differ_in_more_than_the_seed_are_arms_of_their_own(runs, tmp_path, capsys):
    """Two learning rates are no two seeds: an interval over both would be of nothing."""
    for rate in ("2e-3", "1e-2"):  # 1e-3 is that of small/plain: one run of two names
        for seed in (0, 1):
            run_plan(
                plan_of(
                    [
                        *SMALL,
                        f"runs_dir={runs['root']}",
                        "name=small/tuned",
                        f"seed={seed}",
                        f"optimizer.lr={rate}",
                    ]
                )
            )
    assert main(["gap", "small/tuned", f"runs_dir={runs['root']}", f"out={tmp_path}"]) == 0
    told = capsys.readouterr().out
    assert "optimizer.lr=2e-3: " in told and "optimizer.lr=1e-2: " in told and "over 2 runs" in told
    assert main(["errors", "small/tuned", "small/plain", f"runs_dir={runs['root']}", f"out={tmp_path}"]) == 0
    told = capsys.readouterr().out
    assert told.count("runs of one seed: mean kappa") == 3 and "over 2 seeds" in told


def test_as_many_samples_as_asked_for_are_compared(runs, tmp_path, capsys):
    words = [
        "similarity",
        "small/distilled",
        "small/distilled:teacher",
        f"runs_dir={runs['root']}",
        f"out={tmp_path}",
    ]
    assert main([*words, "samples=50"]) == 0
    assert " 50 samples" in capsys.readouterr().out


def test_a_guide_sees_the_images_of_the_first_network_as_its_own_run_does(runs, tmp_path):
    """Compared through the run that it guides or through its own, it is one network on the same images."""
    root = runs["root"]
    guide = ["model@guide=fcn", "guide.depth=2", "guide.width=16", f"guide.weights={runs['plain-0']}"]
    for words in (
        ["name=small/raw", "data.normalization=null"],
        ["name=small/under", "method=guidance", *guide],
    ):
        run_plan(plan_of([*SMALL, f"runs_dir={root}", *words]))
    found = []
    for second in ("small/under:guide", runs["plain-0"]):
        out = tmp_path / str(len(found))
        assert main(["similarity", "small/raw", second, f"runs_dir={root}", f"out={out}", "samples=60"]) == 0
        found.append([float(row["unbiased_cka"]) for row in read_csv(out / "similarity.csv")])
    assert found[0] == pytest.approx(found[1], abs=1e-5)


def test_cost_of_networks_and_of_their_guide_beside_the_test_metric(runs, tmp_path, capsys):
    out = tmp_path / "cost"
    words = [
        runs["plain-0"],
        runs["guided-0"],
        f"{runs['guided-0']}:guide",
        f"runs_dir={runs['root']}",
        f"out={out}",
    ]
    assert main(["cost", *words]) == 0
    plain, guided, guide = read_csv(out / "cost.csv")
    width, inputs, classes = 16, 64, 10  # an FCN of two layers, each with batch norm and bias
    weights = inputs * width + width * width + width * classes
    assert int(plain["operations"]) == 2 * weights == int(guided["operations"])
    assert int(plain["parameters"]) == weights + 2 * 3 * width + classes
    assert float(plain["test_accuracy"]) > 0 and not guide["test_accuracy"]
    assert float(guide["latency_ms_batch_64_threads_1"]) > 0
    machine = json.loads((out / "cost.json").read_text())["machine"]
    assert machine["cpu"] and machine["threads"][0] == 1
    assert (out / "cost.png").is_file() and "parameters" in capsys.readouterr().out


@pytest.mark.parametrize("arm", ["small/guided (lr=0.1, depth=3)", "a b/c;d", "x & y $(z)", "Köln (1)"])
def test_folders_of_results_have_names_that_a_shell_takes_as_they_are(arm, tmp_path):
    import shlex

    subject = Subject(Run(tmp_path / "n" / ("0" * 12), name="n"), arm=arm)
    options = {"out": "", "split": "test", "samples": "1", "layers": "", "measure": "cka", "runs_dir": "runs"}
    folder = Request([subject], options, {}).folder
    assert shlex.quote(folder.name.replace("ö", "o")) == folder.name.replace("ö", "o")


def test_runs_of_one_beginning_are_told_apart_by_further_digits():
    from types import SimpleNamespace

    runs = [SimpleNamespace(identity=f"abcdef{end}") for end in ("111111", "112222", "112222")]
    found = told_apart([Subject(run, "small") for run in runs])
    assert [one.label for one in found] == ["small abcdef111", "small abcdef112"]
    assert [one.label for one in told_apart(found[:1])] == ["small abcdef"]


@pytest.mark.parametrize("name", [name for name, one in ANALYSES.items() if one.of_answers])
def test_answers_are_not_asked_of_a_network_that_was_trained_without_labels(name):
    config = {"method": {"_target_": "tutelage.methods.self_supervised.SelfSupervised"}}
    subject = SimpleNamespace(role="", run=SimpleNamespace(key="starts/simclr/0", config=config))
    with pytest.raises(UserError, match=r"starts/simclr/0 was trained without labels.*analyse probe"):
        outcome(name, SimpleNamespace(subjects=[subject], options={}))
