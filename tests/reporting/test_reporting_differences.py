"""Arms that differ in more than they are compared for: it is said, and other test data have no common verdict."""

from types import SimpleNamespace

import pytest

from tutelage.reporting import render
from tutelage.reporting.runs_report import free_report
from tutelage.reporting.table_file import load
from tutelage.reporting.table_report import _comparisons, build
from tutelage.reporting.verdict import Verdict
from tutelage.runs.store import Store

HERE = {"split_sha256": {"test": "aa"}, "fingerprint": None, "output_size": 10, "test_sha256": "11"}
OTHER = {**HERE, "test_sha256": "22"}
OLD = {key: value for key, value in HERE.items() if key != "test_sha256"}


def differences(report):
    return [note for note in report.notes if "differ" in note]


def test_arms_that_differ_in_nothing_but_their_method_have_no_note(make, store):
    for seed in range(4):
        make("t/plain", seed, 0.3 + 0.01 * seed, tested_on=HERE)
        make("t/guided", seed, 0.5 + 0.01 * seed, tested_on=HERE, method__weight=2, guide__depth=3)
    report = free_report(store)
    assert not differences(report)
    assert [item.verdict for item in report.comparisons] == [Verdict.ABOVE]


def test_data_and_budget_that_differ_are_said_with_their_values(make, store):
    for seed in range(2):
        make("t/plain", seed, 0.3, fit__max_steps=500, data__train_size=100, data__batch_size=8)
        make("t/guided", seed, 0.5, fit__max_steps=1000, data__train_size=100, data__batch_size=8)
        make("t/distilled", seed, 0.4, fit__max_steps=500, data__train_size=200, data__batch_size=16)
    assert differences(free_report(store)) == [
        "The arms differ in data: batch_size and 1 more settings with it: 8 (plain, guided), 16 (distilled)",
        "The arms differ in training budget (fit): max_steps: 500 (plain, distilled), 1000 (guided)",
    ]


def test_one_arm_differs_in_nothing_and_two_in_what_they_differ_in(make, store):
    make("t/plain", 0, 0.3, fit__max_steps=500)
    assert not differences(free_report(store))
    make("t/guided", 0, 0.5, fit__max_steps=1000)
    assert differences(free_report(store)) == [
        "The arms differ in training budget (fit): max_steps: 500 (plain), 1000 (guided)"
    ]


def test_what_labels_name_is_not_said_again(make, store):
    for size in (100, 200):
        make("t/plain", 0, 0.3, data__train_size=size)
    report = free_report(store)
    assert [line.label for line in report.lines] == ["plain (train_size=100)", "plain (train_size=200)"]
    assert not differences(report)


@pytest.mark.parametrize(
    ("other", "apart"),
    [
        (HERE, False),
        (OTHER, True),
        (OLD, False),  # recorded before the digest was: the samples tell
        ({**OLD, "fingerprint": "f"}, True),
        ({**OLD, "split_sha256": {"test": "bb"}}, True),
        (None, False),
    ],
)
def test_arms_of_other_test_data_have_no_common_verdict(make, store, other, apart):
    for seed in range(4):
        make("t/plain", seed, 0.3 + 0.01 * seed, tested_on=HERE)
        make("t/guided", seed, 0.5 + 0.01 * seed, tested_on=other)
        make("t/third", seed, 0.4 + 0.01 * seed, tested_on=HERE)
    report = free_report(store)
    verdicts = {item.first: item.verdict for item in report.comparisons}
    assert verdicts == {"guided": Verdict.APART if apart else Verdict.ABOVE, "third": Verdict.ABOVE}
    said = "The arms are tested on different data, so that their values have no common verdict: plain, third; guided"
    assert (said in report.notes) == apart
    row = next(row for row in render.comparisons_table(report)[1] if row[0] == "guided - plain")
    assert (row[1:] == ["-", "-", "0", "none: tested on other data"]) == apart
    if apart:  # nor a share in the correction of the others
        third = next(item for item in report.comparisons if item.first == "third")
        assert third.p_holm == third.p


def test_other_kinds_of_data_are_other_test_data_whatever_their_indices(make, store):
    for seed in range(3):
        make("t/plain", seed, 0.3, tested_on=HERE, data__dataset="mnist")
        make("t/guided", seed, 0.5, tested_on=HERE, data__dataset="fashion_mnist")
    assert [item.verdict for item in free_report(store).comparisons] == [Verdict.APART]


def test_a_test_split_that_follows_the_seed_is_compared_seed_by_seed(make, store):
    for seed in range(3):
        data = {**HERE, "test_sha256": str(seed)}
        make("t/plain", seed, 0.3 + 0.01 * seed, tested_on=data, data__split_seed=seed)
        make("t/guided", seed, 0.5 + 0.01 * seed, tested_on=data, data__split_seed=seed)
    report = free_report(store)
    assert [item.verdict for item in report.comparisons] == [Verdict.ABOVE] and not differences(report)


def test_a_table_says_what_its_grid_does_not_sweep(make, store: Store, tmp_path):
    from tutelage.reporting.collect import row_of

    path = tmp_path / "table.yaml"
    path.write_text(
        "title: T\nmetric: accuracy\nseeds: 3\ngrid: {optimizer.lr: [0.1, 0.01]}\n"
        "arms: {base: [experiment=base], guided: [experiment=guided], elsewhere: [experiment=elsewhere]}\n"
        "compare: base\n"
    )
    runs = {}
    for arm, steps, best, tested in (
        ("base", 100, 0.1, HERE),
        ("guided", 300, 0.01, HERE),
        ("elsewhere", 100, 0.1, OTHER),
    ):
        for lr in (0.1, 0.01):
            for seed in range(3):
                value = 0.5 + (lr == best) * 0.1 + 0.01 * seed
                run = make(f"t/{arm}", seed, value, optimizer__lr=lr, fit__max_steps=steps, tested_on=tested)
                runs[f"experiment={arm}", f"name=table/{arm}", f"optimizer.lr={lr}", f"seed={seed}"] = run
    report = build(load(path), lambda cell: row_of(runs[tuple(cell.overrides)], store))
    assert differences(report) == [
        "The arms are tested on different data, so that their values have no common verdict: base, guided; elsewhere",
        "The arms differ in training budget (fit): max_steps: 100 (base, elsewhere), 300 (guided)",
    ]
    assert [item.verdict for item in report.comparisons] == [Verdict.UNDECIDED, Verdict.APART]


def test_a_section_compares_arms_that_both_have_its_metric():
    first, second = (
        SimpleNamespace(label=name, values=values) for name, values in (("a", {0: 0.5}), ("b", {}))
    )
    table = SimpleNamespace(compare=[("a", "b"), ("b", "a")], paper_setting=False)
    assert _comparisons(table, [first, second], all_pairs=False) == []
