"""Collecting: what counts as the same arm, and that nothing is lost or averaged by mistake."""

import pytest

from tutelage.reporting import facts as facts_module
from tutelage.reporting.collect import collect, group, prerequisites
from tutelage.runs.run import State


def groups_of(store, under=""):
    return {g.label: [row.seed for row in g.rows] for g in group(collect(store, under))}


def test_seeds_of_one_arm_are_one_group(store, make):
    for seed in (2, 0, 1):
        make("demo/plain", seed, 0.3)
        make("demo/guided", seed, 0.8)
    assert groups_of(store, "demo") == {
        "plain": [0, 1, 2],
        "guided": [0, 1, 2],
    }  # in the order of the first start


def test_other_hyperparameters_are_another_group(store, make):
    for lr in (1e-3, 1e-2):
        for seed in (0, 1):
            make("demo/plain", seed, 0.3, optimizer__lr=lr)
    assert groups_of(store) == {"plain (lr=0.001)": [0, 1], "plain (lr=0.01)": [0, 1]}


def test_arms_of_one_name_are_called_by_the_words_that_differ(store, make):
    same = "fit.max_steps=9 runs_dir=runs"
    for seed in (0, 1):
        make("adhoc", seed, 0.1, words=f"{same} seed={seed}")
        guided = f"method=guidance optimizer.lr=0.1 {same} seed={seed}"
        make("adhoc", seed, 0.1, words=guided, method__guide=1, optimizer__lr=0.1)
        make("adhoc", seed, 0.1, words=f"seed={seed} +model=mine {same}", model__width=8)
    assert set(groups_of(store)) == {"adhoc", "method=guidance, optimizer.lr=0.1", "model=mine"}
    make("other/arm", 0, 0.1, words="model=mine", model__width=8, model__depth=2)
    assert set(groups_of(store)) == {
        "adhoc",
        "adhoc (method=guidance, optimizer.lr=0.1)",
        "adhoc (model=mine)",
        "arm",
    }


def test_a_word_that_changed_nothing_names_no_arm(store, make):
    make("adhoc", 0, 0.1, words="optimizer.lr=0.001 model.width=8", model__width=8)
    make("adhoc", 0, 0.1, words="model.width=16", model__width=16)
    assert set(groups_of(store)) == {"model.width=8", "model.width=16"}


def test_without_the_words_of_all_arms_settings_tell_them_apart(store, make):
    make("adhoc", 0, 0.1, words="method=guidance", method__guide=1)
    make("adhoc", 0, 0.1, method__guide=2)
    assert set(groups_of(store)) == {"adhoc (guide=1)", "adhoc (guide=2)"}
    make("a/b", 0, 0.1, words="model=mine", model__width=1)  # what a name means was edited between them
    make("a/b", 0, 0.1, words="model=mine", model__width=2)
    assert {"b (width=1)", "b (width=2)"} < set(groups_of(store))


def test_the_fewest_keys_tell_groups_apart(store, make):
    make("a/x", 0, 0.1, model__depth=4, data__name="digits", data__size=8)
    make("a/x", 0, 0.1, model__depth=8, data__name="digits", data__size=8)
    make("a/x", 0, 0.1, model__depth=4, data__name="cifar", data__size=32)
    labels = list(groups_of(store))
    assert len(set(labels)) == 3 and all(label.count("=") == 2 for label in labels)
    assert all("depth=" in label for label in labels)


def test_settings_that_changed_together_are_both_named(store, make):
    make("demo/plain", 0, 0.1, optimizer__lr=1e-3, model__width=8)
    make("demo/plain", 0, 0.1, optimizer__lr=1e-2, model__width=16)
    assert set(groups_of(store)) == {"plain (width=8, lr=0.001)", "plain (width=16, lr=0.01)"}


def test_a_section_that_others_lack_is_named_by_its_class(store, make):
    make("a/x", 0, 0.1, guide=None, model__width=8)
    make("a/x", 0, 0.1, guide={"_target_": "my.Strokes", "size": 3}, model__width=8)
    assert set(groups_of(store)) == {"x (guide=null)", "x (guide=Strokes)"}


def test_a_digest_is_named_last_and_in_short(store, make):
    for digest in ("a" * 64, "b" * 64):
        make("demo/plain", 0, 0.1, data__fingerprint=digest, data__name=digest[:1] * 9)
        make("demo/own", 0, 0.1, data__fingerprint=digest)
    assert set(groups_of(store)) == {
        "plain (name=aaaaaaaaa)",
        "plain (name=bbbbbbbbb)",
        "own (fingerprint=aaaaaaaa)",
        "own (fingerprint=bbbbbbbb)",
    }


def test_of_many_settings_the_fewest_that_tell_apart_are_named(store, make):
    sections = ("model", "data", "method", "optimizer", "fit", "guide")
    for value in (1, 2):
        make("demo/plain", 0, 0.1, **{f"{section}__value": value for section in sections})
    assert all(label.count("=") == 1 for label in groups_of(store)) and len(groups_of(store)) == 2


def test_same_last_part_of_the_name(store, make):
    make("demo/plain", 0, 0.1)
    make("other/plain", 0, 0.1)
    assert set(groups_of(store)) == {"demo/plain", "other/plain"}


def test_where_data_lie_is_no_difference(store, make):
    make("demo/plain", 0, 0.1, data__root="/here")
    make("demo/plain", 1, 0.1, data__root="/there")
    assert groups_of(store) == {"plain": [0, 1]}


def test_a_seed_that_follows_is_the_seed(store, make):
    for seed in (0, 1, 2):
        make("demo/follows", seed, 0.1, guide__init_seed=seed)
        make("demo/pinned", seed, 0.1, guide__init_seed=0)
    for seed in (0, 1):
        for init in (0, 1):
            make("demo/crossed", seed, 0.1, guide__init_seed=init)
    assert groups_of(store) == {
        "follows": [0, 1, 2],
        "pinned": [0, 1, 2],
        "crossed (init_seed=0)": [0, 1],
        "crossed (init_seed=1)": [0, 1],
    }


def test_needs_that_follow_the_seed(store, make):
    teachers = {seed: make("demo/cnn", seed, 0.99) for seed in (0, 1)}
    deeper = make("demo/cnn", 0, 0.99, model__depth=9)
    for seed in (0, 1):
        make("demo/own", seed, 0.5, needs={"teacher": {"command": ["x"], "run": teachers[seed].key}})
        make("demo/fixed", seed, 0.5, needs={"teacher": {"command": ["x"], "run": teachers[0].key}})
        make("demo/fixed", seed, 0.5, needs={"teacher": {"command": ["x"], "run": deeper.key}})
    found = groups_of(store)
    assert found["own"] == [0, 1]
    fixed = {label: seeds for label, seeds in found.items() if label.startswith("fixed")}
    assert len(fixed) == 2 and all(seeds == [0, 1] for seeds in fixed.values())
    assert all("depth=" in label for label in fixed)
    assert prerequisites(collect(store)) == {run.identity for run in (*teachers.values(), deeper)}


def test_needs_that_are_gone_still_tell_apart(store, make):
    for which in ("0" * 12, "1" * 12):
        make("demo/fixed", 0, 0.5, needs={"teacher": {"command": ["x"], "run": f"demo/cnn/{which}"}})
    assert len(groups_of(store)) == 2


def test_states_and_reasons(store, make):
    make("demo/plain", 0, 0.5)
    make("demo/plain", 1)
    make("demo/plain", 2, failed="the term 'task' is NaN at step 7\nand more")
    held = make("demo/plain", 3)
    with held.lock():
        (arm,) = group(collect(store))
    assert arm.values("test/accuracy") == {0: 0.5}
    assert arm.gaps("test/accuracy", [0, 1, 2, 3, 4]) == {
        1: "interrupted at step 200",
        2: "failed: NonFiniteLoss: the term 'task' is NaN at step 7",
        3: "running at step 200",
        4: "missing",
    }
    assert arm.gaps("test/top5", [0])[0] == "no test/top5 in its result"


def test_damaged_runs_do_not_stop_a_report(store, make):
    make("demo/plain", 0, 0.5)
    bad = make("demo/plain", 1, 0.6)
    (bad.path / "config.yaml").write_text("name: [")
    worse = make("demo/plain", 2, 0.7)
    (worse.path / "provenance.json").write_text("{")
    odd = make("demo/plain", 3, 0.8)
    (odd.path / "result.json").write_text('{"state": "complete"}')
    rows = {row.key: row for row in collect(store)}
    assert "damaged" in rows[bad.key].reason
    assert rows[worse.key].metrics["test/accuracy"] == 0.7 and rows[worse.key].commits == ()
    assert rows[odd.key].state is State.COMPLETE and not rows[odd.key].metrics
    (arm,) = group(list(rows.values()))
    assert arm.values("test/accuracy") == {0: 0.5, 2: 0.7}


def test_the_checkpoint_chosen_on_validation_is_the_headline(store, make):
    run = make("demo/plain", 0, 0.5)
    run.complete(
        {
            "best": {"step": 3, "validation": {"accuracy": 0.9}, "test": {"accuracy": 0.4}},
            "last": {"step": 9, "validation": {"accuracy": 0.1}, "test": {"accuracy": 0.8}},
            "selection": {"monitor": "accuracy", "mode": "max"},
        }
    )
    (row,) = collect(store)
    assert row.metrics == {"validation/accuracy": 0.9, "test/accuracy": 0.4} and row.best_step == 3


@pytest.mark.parametrize("seeds", [1, 3])
def test_order_on_disk_does_not_matter(store, make, seeds):
    for seed in range(seeds):
        make("demo/plain", seed, 0.1 * seed)
    rows = collect(store)
    assert group(rows) == group(rows[::-1])


def test_a_run_on_the_cpu_of_a_machine_with_a_gpu_is_reported_on_the_cpu():
    facts = {"cpu": "Some Processor", "cores_usable": 16, "gpus": ["Some GPU"]}
    assert facts_module._machine(facts, {"hardware": {"accelerator": "cpu"}}) == "Some Processor, 16 cores"
    assert facts_module._machine(facts, {"hardware": {"accelerator": "gpu"}}) == "1 x Some GPU"
