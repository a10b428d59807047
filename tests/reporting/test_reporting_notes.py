"""What a report says in words below its tables: gaps, code, cost, folds, differences, baselines; every sentence as it is written."""

from __future__ import annotations

import math

import pytest

from tutelage.reporting import arm_labels, folds, render
from tutelage.reporting.collect import Group, gap_reason
from tutelage.reporting.differences import notes_on_differences, same_test_data
from tutelage.reporting.facts import TestData
from tutelage.reporting.report_model import Line, Report
from tutelage.reporting.row import Row
from tutelage.reporting.runs_report import (
    _against_baseline,
    _baselines,
    _usual_monitor,
    notes_on,
    sweep_report,
)
from tutelage.reporting.verdict import compare, correct, smallest_corrected_p
from tutelage.runs.run import State


def run(label="a", seed=0, value=0.5, **more):
    known = {
        "key": f"{label}/{seed}", "name": label, "seed": seed, "state": State.COMPLETE, "inputs": {"name": label},
        "metrics": {"test/accuracy": value}, "monitor": "accuracy", "commits": ("c1",), "train_s": 10.0, "machine": "M",
        "finished": "2026-01-02T00:00:00",
    }  # fmt: skip
    return Row(**known | more)


def line(label="a", rows=(), gaps=None, metric="test/accuracy"):
    values = {
        row.seed: row.metrics[metric] for row in rows if metric in row.metrics and row.state is State.COMPLETE
    }
    return Line(label, metric, values, gaps or {}, tuple(rows))


def test_gaps_are_said_by_reason_and_values_that_are_no_numbers_by_seed():
    rows = [run(seed=0, value=math.nan), run(seed=1, value=math.inf), run(seed=2)]
    assert notes_on([line("a", rows, {3: "missing", 4: "failed", 5: "missing"}), line("b", [run("b")])]) == [
        "a, seed 3, 5: missing",
        "a, seed 4: failed",
        "a: not a finite number at seed 0, 1, hence no finite mean",
        "4 runs, 40 seconds of training, on: M; 2026-01-02 (UTC)",
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "2 runs, 20 seconds of training, on: M; 2026-01-02 (UTC)"),
        ({"train_s": 49.9}, "2 runs, 60 seconds of training, on: M; 2026-01-02 (UTC)"),
        ({"train_s": 50.0}, "2 runs, 1.0 minutes of training, on: M; 2026-01-02 (UTC)"),
        ({"train_s": None}, "2 runs, 10 seconds of training, on: M; 2026-01-02 (UTC)"),
        ({"machine": "N"}, "2 runs, 20 seconds of training, on: M; N; 2026-01-02 (UTC)"),
        ({"machine": ""}, "2 runs, 20 seconds of training, on: M; 2026-01-02 (UTC)"),
        (
            {"finished": "2026-03-01T"},
            "2 runs, 20 seconds of training, on: M; 2026-01-02 to 2026-03-01 (UTC)",
        ),
        ({"finished": ""}, "2 runs, 20 seconds of training, on: M; 2026-01-02 (UTC)"),
        (
            {"needs": ("x/1",)},
            "2 runs, 20 seconds of training, without that of the runs they need, on: M; 2026-01-02 (UTC)",
        ),
        ({"needs": ("a/0",)}, "2 runs, 20 seconds of training, on: M; 2026-01-02 (UTC)"),
        ({"state": State.FAILED}, "1 run, 10 seconds of training, on: M; 2026-01-02 (UTC)"),
        ({"key": "a/0"}, "1 run, 10 seconds of training, on: M; 2026-01-02 (UTC)"),
    ],
)
def test_what_the_runs_cost(changes, said):
    assert notes_on([line("a", [run(), run(seed=1, **changes)])])[-1] == said


def test_the_cost_is_whole_where_runs_need_one_another_alone():
    both = [run(seed=0, needs=("a/1",)), run(seed=1, needs=("a/0",))]
    assert notes_on([line("a", both)]) == ["2 runs, 20 seconds of training, on: M; 2026-01-02 (UTC)"]


def test_a_setting_of_no_section_is_named_by_itself():
    arms = [line(label, [run(label, inputs={"top": text})]) for label, text in (("a", "1"), ("b", "2"))]
    assert notes_on_differences(arms) == ["The arms differ in top: top: 1 (a), 2 (b)"]


def test_runs_beside_the_lines_cost_once_and_are_said_by_what_they_were_for():
    shown = [line("a", [run(), run(seed=1)])]
    more = [run("t", 0), run("t", 1, state=State.FAILED), run("a", 0), run("t", 2)]
    beside = {"that only choose": more, "that others need": [run("t", 2), run("n", 0)], "nothing": []}
    assert notes_on(shown, beside=beside) == [
        "5 runs (of these 2 that only choose and 1 that others need), 50 seconds of training, on: M; 2026-01-02 (UTC)"
    ]
    for unknown in ({"train_s": 0.0}, {"machine": ""}):
        assert notes_on([line("a", [run(**unknown)])]) == []
    assert notes_on([line("a", [run(finished="")])]) == ["1 run, 10 seconds of training, on: M"]


def test_runs_of_different_code_are_said_the_most_first_and_six_by_name():
    old = [run(seed=seed, commits=("c0", "c1")) for seed in range(7)]
    new = [run("b", seed, commits=()) for seed in range(6)]
    other = [run("c", 0, commits=("c2",)), run("c", 1, state=State.FAILED, commits=("c3",))]
    names = ", ".join(f"a seed {i}" for i in range(6))
    assert [n for n in notes_on([line("c", other), line("b", new), line("a", old)]) if "code" in n] == [
        f"The runs come from different code: c0 then c1 (7 runs: {names}, ...); "
        f"unknown (6 runs: {', '.join(f'b seed {i}' for i in range(6))}); c2 (1 run: c seed 0)"
    ]
    assert not [n for n in notes_on([line("a", old)]) if "code" in n]


def test_settings_in_which_arms_differ_are_said_as_far_as_four():
    def arms(n, keys):
        return [
            line(
                f"arm{i}",
                [
                    run(
                        f"arm{i}",
                        inputs={"name": f"arm{i}"} | {key: str(value(i)) for key, value in keys.items()},
                    )
                ],
            )
            for i in range(n)
        ]

    separate = {f"data.k{j}": (lambda i, j=j: int(i == j)) for j in range(5)}
    few = notes_on_differences(arms(5, dict(list(separate.items())[:4])))
    many = notes_on_differences(arms(5, separate))
    part = (
        "k0: 1 (arm0), 0 (arm1, arm2, arm3, arm4); k1: 0 (arm0, arm2, arm3, arm4), 1 (arm1); "
        "k2: 0 (arm0, arm1, arm3, arm4), 1 (arm2); k3: 0 (arm0, arm1, arm2, arm4), 1 (arm3)"
    )
    assert few == [f"The arms differ in data: {part}"] and many == [
        f"The arms differ in data: {part}; and 1 more"
    ]
    (crowd,) = notes_on_differences(
        arms(6, {"fit.max_steps": lambda i: 5 + (i == 5), "fit.x": lambda i: 7 + (i == 5)})
    )
    assert (
        crowd
        == "The arms differ in training budget (fit): x and 1 more settings with it: 7 (arm0, arm1, arm2, arm3 and 1 more), 8 (arm5)"
    )
    assert (
        notes_on_differences(arms(2, {"data.k": lambda i: i}), ["data"])
        == notes_on_differences(arms(2, {"data.k": lambda i: i}), ["data.k"])
        == []
    )
    assert len(notes_on_differences(arms(2, {"data.k": lambda i: i}), ["dat"])) == 1


@pytest.mark.parametrize(
    "section",
    ["method", "objective", "objectives", "guide", "teacher", "source", "frozen", "needs", "setting", "name"],
)
def test_what_arms_are_there_to_differ_in_is_no_note(section):
    arms = [line(str(i), [run(str(i), inputs={f"{section}.x": str(i)})]) for i in range(2)]
    assert notes_on_differences(arms) == []


def test_a_class_names_what_goes_hand_in_hand_and_a_seed_that_all_have_is_compared():
    def arm(label, seeds, **inputs):
        return line(
            label,
            [
                run(
                    label,
                    seed,
                    inputs={key.replace("__", "."): str(text) for key, text in inputs.items()}
                    | {"data.split_seed": str(seed)},
                )
                for seed in seeds
            ],
        )

    first = arm("a", (0, 1), model__width=8, model___target_='"my.Small"')
    assert notes_on_differences([first, arm("b", (1, 2), model__width=9, model___target_='"my.Large"')]) == [
        "The arms differ in model: _target_ and 1 more settings with it: Small (a), Large (b)"
    ]
    assert notes_on_differences([first, arm("b", (2, 3), model__width=8, model___target_='"my.Small"')]) == []
    assert notes_on_differences([first, line("b", [run("b", inputs={})])]) == notes_on_differences([]) == []


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        (("digits", "1", "d"), ("digits", "2", "d"), True),  # the digest decides where both have one
        (("digits", "1", "d"), ("digits", "1", "e"), False),
        (("digits", "1", None), ("digits", "1", "e"), True),
        (("digits", "1", "d"), ("digits", "2", None), False),
        (("digits", "1", "d"), ("mnist", "1", "d"), False),
        (None, ("mnist", "1", "d"), True),
    ],
)
def test_data_are_the_same_by_kind_and_digest_or_samples(ours, theirs, same):
    first, second = (
        line(name, [run(name, tested_on=data and TestData(*data))])
        for name, data in (("a", ours), ("b", theirs))
    )
    assert same_test_data(first, second) is same_test_data(second, first) is same


def test_without_a_common_seed_the_first_of_each_arm_are_compared_and_what_is_not_complete_is_not():
    here, there = TestData("digits", "1", None), TestData("digits", "2", None)
    first = line("a", [run(seed=0, tested_on=here), run(seed=1, tested_on=there)])
    assert same_test_data(first, line("b", [run("b", 5, tested_on=here)]))
    assert not same_test_data(first, line("b", [run("b", 5, tested_on=there)]))
    assert not same_test_data(first, line("b", [run("b", 0, tested_on=here), run("b", 1, tested_on=here)]))
    assert same_test_data(
        first, line("b", [run("b", 0, tested_on=there, state=State.FAILED), run("b", 1, tested_on=there)])
    )


@pytest.mark.parametrize(
    ("labels", "bases"),
    [
        (["plain", "guided"], {"guided": "plain"}),
        (["guided", "supervised", "distilled"], {"guided": "supervised", "distilled": "supervised"}),
        (["one", "two", "three"], {"two": "one", "three": "one"}),
        (["base", "plain", "guided"], {"plain": "base", "guided": "base"}),
        (
            ["experiment=demo/plain, lr=1", "experiment=demo/guided, lr=1"],
            {"experiment=demo/guided, lr=1": "experiment=demo/plain, lr=1"},
        ),
        (["plain (lr=1)", "plain (lr=2)", "x (lr=2)"], {"x (lr=2)": "plain (lr=2)"}),
        (["plain", "plain, a=1", "x, a=1", "y, a=2"], {"x, a=1": "plain, a=1", "y, a=2": "plain"}),
        (["plainer", "other"], {"other": "plainer"}),
        (["plain", "plain, lr=1", "lr=1"], {"lr=1": "plain, lr=1"}),
    ],
)
def test_what_each_arm_is_compared_with(labels, bases):
    found = _baselines([line(label) for label in labels])
    assert {label: base.label for label, base in found.items()} == bases


def test_arms_of_one_metric_and_two_common_seeds_are_compared():
    plain = line("plain", [run("plain", seed, 0.5 + seed / 100) for seed in range(3)])
    guided = line("guided", [run("guided", seed, 0.8 + seed / 50) for seed in (1, 2)])
    single = line("single", [run("single", seed, 0.8) for seed in (2, 3)])
    other = line(
        "other", [run("other", seed, metrics={"test/loss": 1.0}) for seed in range(3)], metric="test/loss"
    )
    (found,) = _against_baseline([plain, guided, single, other])
    assert (found.first, found.second, found.seeds) == ("guided", "plain", (1, 2)) and _against_baseline(
        []
    ) == []
    assert found.difference.mean == pytest.approx(0.315)


def test_an_arm_without_a_metric_has_that_of_most_runs():
    arms = [
        Group("a", (run(), run(seed=1, monitor="loss"))),
        Group("b", (run("b", monitor="loss"), run("b", 1, monitor=None))),
    ]
    assert _usual_monitor(arms) == "loss" and _usual_monitor([Group("a", (run(monitor=None),))]) == "?"
    report = sweep_report(
        "t",
        {"x": [run(seed=1), run(seed=0)], "y": [run("y", monitor=None, state=State.MISSING, metrics={})]},
        [0, 1, 2],
    )
    assert [(one.label, one.metric, one.values, one.gaps) for one in report.lines] == [
        ("x", "test/accuracy", {0: 0.5, 1: 0.5}, {2: "missing"}),
        ("y", "test/accuracy", {}, {0: "missing", 1: "missing", 2: "missing"}),
    ]  # fmt: skip


def test_why_a_cell_has_no_value():
    assert gap_reason(None, "test/x") == "missing"
    assert gap_reason(run(reason="because"), "test/x") == "because"
    assert gap_reason(run(), "test/x") == "no test/x in its result"
    assert gap_reason(run(state=State.RUNNING), "test/x") == "running"


# --- folds


def fold(seed, number, value, state=State.COMPLETE, **more):
    inputs = {
        "data.fold": str(number),
        "data.folds": "3",
        "needs.guide.data.fold": str(number),
        "needs.guide.run": f'"g{number}"',
        "seed": str(seed),
    }
    metrics = {"test/accuracy": value, **({"test/f1": 1.0} if number else {})}
    return run(
        "cv",
        seed,
        key=f"cv/{seed}-{number}",
        inputs=inputs,
        metrics=metrics if state is State.COMPLETE else {},
        state=state,
        needs=(f"g/{number}", "t"),
        **more,
    )


def test_folds_are_one_row_with_their_mean_sum_of_times_and_all_they_need():
    rows = [
        fold(0, 1, 0.4, train_s=None),
        fold(0, 2, 0.8, train_s=2.5),
        fold(0, 0, 0.6, train_s=1.0),
        run("x"),
    ]
    joined, other = folds.together(rows)
    assert (
        other is rows[3] and joined.key == "cv/0-1" and joined.state is State.COMPLETE and joined.reason == ""
    )
    assert dict(joined.inputs) == {"data.folds": "3", "needs.guide.run": '"g1"', "seed": "0"}
    assert joined.metrics == {"test/accuracy": pytest.approx(0.6)} and joined.by_fold == {
        "test/accuracy": (0.6, 0.4, 0.8)
    }
    assert joined.needs == ("g/1", "t", "g/2", "g/0") and joined.train_s == 3.5 and joined.folds == 3
    assert folds.note("cv", [joined], "test/accuracy", 100.0) == (
        "cv: each value is the mean over 3 folds, which reach from 40 to 80; n counts seeds, since folds share training samples and are "
        "not independent"
    )
    assert "which reach" not in folds.note("cv", [joined], "test/f1")


def test_folds_of_which_some_are_missing_have_no_mean():
    (joined,) = folds.together([fold(0, 0, 0.6), fold(0, 2, 0.0, State.RUNNING)])
    assert (joined.state, joined.reason, joined.metrics, joined.train_s) == (
        State.RUNNING,
        "1 of 3 folds: 1, 2 not complete",
        {},
        None,
    )
    (none,) = folds.together([fold(0, 0, 0.6, State.FAILED), fold(0, 2, 0.0, State.RUNNING)])
    assert (none.state, none.reason) == (State.FAILED, "0 of 3 folds: 0, 1, 2 not complete")
    alone = fold(0, 0, 0.6)
    assert folds.together([alone]) == [alone]


def test_arms_of_a_sweep_are_called_without_their_folds():
    arms = {
        "data.fold=0": [fold(0, 0, 0.5)],
        "data.fold=1, model=a": [fold(0, 1, 0.5)],
        "model=a ++data.fold=2": [fold(0, 2, 0.5)],
        "": [run()],
    }
    assert list(folds.of_sweep(arms)) == ["all folds", "model=a", ""]


# --- labels


def named(name, words, **inputs):
    return [
        run(
            name,
            words=None if words is None else tuple(words.split()),
            inputs={key.replace("__", "."): str(text) for key, text in inputs.items()},
        )
    ]


def test_six_words_tell_arms_apart_and_seven_are_too_many():
    def arms(n):
        words = [f"a.k{i}={{}}" for i in range(n)]
        return [
            named("x", " ".join(words).format(*[j] * n), **{f"a__k{i}": j for i in range(n)}) for j in (1, 2)
        ]

    assert arm_labels.labels(arms(6)) == [", ".join(f"a.k{i}={j}" for i in range(6)) for j in (1, 2)]
    assert arm_labels.labels(arms(7)) == ["x (k0=1)", "x (k0=2)"]


def test_settings_of_four_sections_are_named_and_of_five_the_fewest():
    def arms(n):
        return [named("x", None, **{f"s{i}__k{i}": j for i in range(n)}) for j in (1, 2)]

    assert arm_labels.labels(arms(4)) == [f"x ({', '.join(f'k{i}={j}' for i in range(4))})" for j in (1, 2)]
    assert arm_labels.labels(arms(5)) == ["x (k0=1)", "x (k0=2)"]


def test_of_what_tells_the_same_apart_the_shallowest_and_shortest_legible_key_is_named():
    digests = ["a" * 32, "b" * 32]
    arms = [named("x", None, m__deep__k=j, m__longer=j, m__k2=j, m__d=f'"{digests[j]}"') for j in (0, 1)]
    assert arm_labels.labels(arms) == ["x (k2=0)", "x (k2=1)"]
    same_last = [named("x", None, a__k=j, b__k=j % 2, b___target_=f'"c.C{j}"') for j in (0, 1, 2)]
    assert arm_labels.labels(same_last) == [f"x (a.k={j}, b._target_=C{j}, b.k={j % 2})" for j in (0, 1, 2)]


def test_words_of_seeds_folds_and_places_name_no_arm():
    arms = [
        named(
            "x",
            f"seed={j} data.fold={j} runs_dir=r{j} guide.init_seed={j} m.k={j} choice=c{j}",
            m__k=j,
            choice=f"c{j}",
        )
        for j in (1, 2)
    ]
    assert arm_labels.labels(arms) == ["choice=c1, m.k=1", "choice=c2, m.k=2"]


# --- verdicts in a table


def test_what_the_comparisons_rest_on_is_said_for_one_and_for_many():
    def report(*counts, mode="max"):
        lines = [
            line(
                f"a{n}",
                [
                    run(f"a{n}", seed, 0.5 + n / 10 + seed / 1000, directions={"accuracy": mode})
                    for seed in range(count)
                ],
            )
            for n, count in enumerate(counts)
        ]
        pairs = [
            compare((x.label, x.values, None), (lines[0].label, lines[0].values, None), same_setting=False)
            for x in lines[1:]
        ]
        return Report("t", tuple(lines), tuple(correct(pairs)))

    begin = "Differences over the seeds both arms have, with the 95 % t interval of their mean."
    end = "The verdict rests on the interval alone."
    assert render.comparisons_explained(report(2, 2)) == f"{begin} {end}"
    assert render.comparisons_explained(report(3, 3)) == (
        f"{begin} No p values: in the exact sign-flip test of 3 pairs, p is at least 0.25, so it could not decide at 0.05. {end}"
    )
    assert render.comparisons_explained(report(6, 6, 5)) == (
        f"{begin} No p values: in the exact sign-flip test of 6 pairs in 2 comparisons, p is at least 0.062, "
        f"so it could not decide at 0.05. {end}"
    )
    assert "of 3 pairs, p is at least 0.25" in render.comparisons_explained(
        report(3, 3, 0)
    )  # one is not tested
    assert render.comparisons_explained(report(6, 6)) == (
        f"{begin} p is that of the exact two-sided sign-flip test; p (Holm) is corrected for the number of comparisons. {end}"
    )
    assert (
        render.comparisons_explained(report(2, 2, mode="min"))
        == f"{begin} {end} Lower is better: below 0, the first arm is ahead."
    )
    assert smallest_corrected_p(report(6, 6, 5).comparisons) == 2 * 2 / 64 and smallest_corrected_p([]) == 1.0
    assert smallest_corrected_p(report(1, 1, 1, 1).comparisons) == 1.0


def test_of_many_settings_the_shallowest_and_shortest_that_can_be_read_tells_apart():
    digests = ["a" * 32, "b" * 32]
    keys = {"s0__deep__k": 0, "s1__kkk": 0, "s2__kk": 0, "s4__kkkk": 0, "s5__x__kkkk": 0}
    arms = [named("x", None, **dict.fromkeys(keys, j), s3__d=f'"{digests[j]}"') for j in (0, 1)]
    assert arm_labels.labels(arms) == ["x (kk=0)", "x (kk=1)"]
    told = {"s0__a": "0011", "s1__b": "0101", "s2__c": "0001", "s3__d": "0111", "s4__e": "0110"}
    arms = [named("x", None, **{key: values[j] for key, values in told.items()}) for j in range(4)]
    assert arm_labels.labels(arms) == ["x (a=0, b=0)", "x (a=0, b=1)", "x (a=1, b=0)", "x (a=1, b=1)"]
    alike = [named("x", None, **dict.fromkeys(told, "0")) for _ in range(2)]
    assert arm_labels.labels(alike) == ["x", "x"]  # nothing tells them apart
