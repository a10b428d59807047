"""A command planned among others has the plan that it has alone, whatever its words."""

from __future__ import annotations

import contextlib
import functools
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tutelage.config.compose import compose, hydra_ready
from tutelage.config.planner import Planner
from tutelage.errors import UserError
from tutelage.runs import needs

# What a sweep has values of, and words that mean something of their own or nothing.
PLAIN = [
    "seed=3", "seed=1e2", "name=study/one", "fit.max_steps=7", "fit.max_steps=1e3", "fit.epochs=0.5", "fit={max_steps:9}",
    "optimizer.lr=1e-3", "optimizer.lr=0.1", "optimizer.lr=${seed}", "seed=${fit.accumulate}", "model.width=8",
    "model.width=${fit.accumulate}", "model.depth=${oc.env:NOWHERE,4}", "model={width:12}", "++model.head=null", "+model.new=1",
    "+model.new={a:[1,2]}", "++model.width=9", "++notes='a, b'", "logger.kind=[csv,tensorboard]", "logger.mode=disabled",
    "hardware.threads=1", "hardware.devices=[0,1]", "runs_dir=elsewhere", "data.batch_size=16", "data.split_seed=7",
    "data.split_seed=${seed}", "data.split_seed=null", "needs={}", "seed=4", "name=study/two", "fit.max_steps=9", "optimizer.lr=0.2",
    "model.width=10", "model.depth=3", "hardware.threads=2", "data.batch_size=8", "retry=0", "runs_dir=there",
    "guide=null", "retry=1", "+needs.other=[method=supervised,'seed=1']",
    "seed=007", "seed=+3", "seed=0", "seed=123456789012345678901", "+model.new=2", "++model.width=10", "model@guide.width=3",
    "+method.objectives.task.weight=0.5", "fit.stop_below=[[1,0.5]]", "~optimizer.weight_decay",
]  # fmt: skip
ODD = [
    "seed=-1", "optimizer.lr=fast", "model.widht=8", "~model.width=64", "~fit", "~model.width", "+frozen.two.weights=x",
    "tags=[a,b]", "+tags=[a,b]", "needs.guide=[model=convnet]", "guide.weights=need:guide",
    "+method.objectives.more={_target_:x}", "~needs", "~method.objectives.task", "a=${hydra:runtime.cwd}", "+a=${hydra.job.name}",
    "+a=${now:%Y}", "+a=${word:seed}", "retry=two", "on_failure=stop", "x", "model.width=1,2", "model@guide.width=3",
    "hydra.job.name=x", "seed=${nowhere}", "+seed=2", "model=[fcn,convnet]",
]  # fmt: skip
CHOICES = [
    "data=digits", "model=fcn", "model=convnet", "model@guide=convnet", "model@guide=null", "model@teacher=fcn",
    "+model@frozen.two=fcn", "method=guidance", "method=distillation", "method=supervised", "experiment=demo/guided-trained",
    "experiment=demo/plain", "+objective@method.objectives.hint=attention", "optimizer=sgd", "logger=none",
    "logger=[csv,tensorboard]", "hardware=gpu",
]  # fmt: skip
ODD_CHOICES = [
    "model=nowhere", "~optimizer", "hydra/launcher=local", "++data=digits", "data@other=digits", "sweep=search_digits",
    "+model=fcn",
]  # fmt: skip
VALUE = st.sampled_from(PLAIN * 3 + ODD)
CHOICE = st.sampled_from(CHOICES * 3 + ODD_CHOICES)


@functools.cache
def alone(words):
    """Return what a command comes to by itself: its plan, or its message."""
    with hydra_ready():
        try:
            return needs.plan(compose(list(words)), lambda command: compose(list(command)))
        except UserError as error:
            return str(error)


def among_others(planner, words):
    try:
        return planner(list(words))
    except UserError as error:
        return str(error)


@pytest.fixture(scope="module")
def planner():
    with contextlib.ExitStack() as stack:
        stack.enter_context(hydra_ready())
        yield Planner()


SAME_KEY = {
    word: [other for other in PLAIN if other.partition("=")[0] == word.partition("=")[0]] for word in PLAIN
}


SWEEPS = given(
    st.lists(CHOICE, max_size=2), st.lists(st.lists(VALUE, max_size=3), min_size=1, max_size=3), st.booleans()
)


def compare(planner, choices, several, choices_last):
    for values in several:
        words = (*values, *choices) if choices_last else (*choices, *values)
        expected = alone(words)
        for turn in (1, 2):  # from the third on, commands of one shape are copied
            with contextlib.suppress(UserError):
                planner(
                    [
                        (same := SAME_KEY.get(word, [word]))[(same.index(word) + turn) % len(same)]
                        for word in words
                    ]
                )
        found = among_others(planner, words)
        assert found == expected, words
        if not isinstance(found, str):
            assert repr(found.config) == repr(expected.config), (
                words
            )  # 1 is not 1.0, and keys keep their order


@settings(max_examples=10, deadline=None)
@SWEEPS
@example(
    ["experiment=transfer/fine-tuning", "chain=digits"],
    [["seed=3", "fit.max_steps=7"], ["model.width=8", "seed=4"]],
    True,
)
@example(["model=fcn"], [["model.width=8"], ["model.width=${model.depth}"], ["~model.width"]], True)
@example(["experiment=demo/guided-trained"], [["seed=3"], ["needs.guide=[model=convnet]"]], False)
@example([], [["seed=${fit.accumulate}", "data.split_seed=${seed}"], ["data.split_seed=${seed}"]], False)
def test_a_command_among_others_has_the_plan_that_it_has_alone(planner, choices, several, choices_last):
    compare(planner, choices, several, choices_last)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@SWEEPS
def test_a_command_among_many_others_has_the_plan_that_it_has_alone(planner, choices, several, choices_last):
    compare(planner, choices, several, choices_last)


def test_a_split_of_each_seeds_own_is_a_number_for_the_run_and_for_those_that_it_needs(planner):
    plan = planner(["experiment=demo/guided-trained", "data.split_seed=null", "seed=3"])
    splits = [run.config["data"]["split_seed"] for run in (plan, *plan.needs.values())]
    assert splits == [3, 3]


def test_plans_share_nothing_that_one_could_change_for_another(planner):
    first = planner(["experiment=demo/guided-trained", "seed=1"])
    expected = repr(planner(["experiment=demo/guided-trained", "seed=2"]).config)

    def spoil(node):
        for key, value in list(node.items()):
            if isinstance(value, dict):
                spoil(value)
            elif isinstance(value, list):
                value.append("spoilt")
            node[key] = "spoilt"

    for need in first.prerequisites():
        spoil(need.config)
    spoil(first.config)
    assert repr(planner(["experiment=demo/guided-trained", "seed=2"]).config) == expected


def test_a_folder_of_the_users_is_a_group_here_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "conf" / "model"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("_target_: tutelage.models.fcn.FCN\ndepth: 1\nwidth: ${seed}\n")
    planner = Planner()
    for words in (["model=mine", "seed=9"], ["model=mine", "seed=10"], ["model=mine", "model.depth=2"]):
        assert planner(words).config == alone((*words,)).config


def test_files_are_read_anew_for_each_command_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "conf" / "model"
    folder.mkdir(parents=True)
    file = folder / "mine.yaml"
    file.write_text("_target_: tutelage.models.fcn.FCN\ndepth: 1\nwidth: 5\n")
    assert Planner()(["model=mine"]).config["model"]["width"] == 5
    file.write_text("_target_: tutelage.models.fcn.FCN\ndepth: 1\nwidth: 6\n")
    assert Planner()(["model=mine"]).config["model"]["width"] == 6


def test_what_many_commands_choose_is_merged_once(monkeypatch):
    from tutelage.config import compose as module

    asked = []
    merged = module.merged
    monkeypatch.setattr(module, "merged", lambda *given: asked.append(given) or merged(*given))
    planner = Planner()
    with hydra_ready():
        plans = [planner(["model=fcn", f"seed={seed}", f"model.width={8 + seed}"]) for seed in range(20)]
    assert len({plan.identity for plan in plans}) == 20
    assert len(asked) == 1


@pytest.fixture
def images(tmp_path, monkeypatch):
    from tutelage.data import fingerprint
    from tutelage.runs import digests

    monkeypatch.setattr(digests, "FRESH_S", 0.0)
    monkeypatch.setattr(digests, "SHARE", 1e-9)  # a walk is trusted for a minute
    digests._kept.clear()
    for place in range(100):
        file = tmp_path / "images" / f"class-{place % 5}" / f"{place}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes([place]))
    time.sleep(0.02)  # the clock of the file system goes on
    walks = []
    walk = fingerprint.walk
    monkeypatch.setattr(fingerprint, "walk", lambda *given: walks.append(given) or walk(*given))
    return tmp_path / "images", walks


def test_a_folder_is_walked_once_for_all_commands_and_again_when_it_changed(images, caplog):
    root, walks = images
    of_images = ["data=image_folder", f"data.root={root}", "data.image_size=8"]
    planner = Planner()
    needed = ",".join(f"'{word}'" for word in [*of_images, "model=fcn"])
    commands = [[*of_images, "model=fcn", *more, f"seed={seed}"] for seed in range(4) for more in (
        [], ["model.width=9"],
        ["method=guidance", "model@guide=fcn", "guide.weights=need:guide", f"+needs.guide=[{needed}]"],
    )]  # fmt: skip
    before = [planner(words) for words in commands]
    assert len(walks) == 1 and {plan.config["data"]["fingerprint"] for plan in before} == {
        before[0].config["data"]["fingerprint"]
    }
    (root / "class-1" / "new.png").write_bytes(b"x")
    after = [planner(words) for words in commands]
    assert [record.getMessage() for record in caplog.records] == [
        f"{root} changed while this command was planning: what it plans from now on is of what is there now"
    ]
    assert not {plan.identity for plan in before} & {plan.identity for plan in after}
    time.sleep(0.02)
    alone.cache_clear()
    assert after[-3:] == [alone((*words,)) for words in commands[-3:]] and len(walks) <= 3
    (need,) = after[-1].prerequisites()
    assert need.config["data"]["fingerprint"] == after[0].config["data"]["fingerprint"]
    alone.cache_clear()


def test_of_commands_on_one_folder_the_later_ones_are_copied(images, monkeypatch):
    from tutelage.config import compose as module

    root, _ = images
    resolved = []
    plain = module.plain
    monkeypatch.setattr(module, "plain", lambda node: resolved.append(node) or plain(node))
    planner = Planner()
    words = ["data=image_folder", f"data.root={root}", "data.image_size=8", "model=fcn"]
    plans = [planner([*words, f"seed={seed}", f"model.width={8 + seed}"]) for seed in range(20)]
    assert len({plan.identity for plan in plans}) == 20 and len(resolved) <= 5
    assert plans[-1] == alone((*words, "seed=19", "model.width=27"))
    other = root.with_name("other")
    other.symlink_to(root)
    words[1] = f"data.root={other}"
    again = planner([*words, "seed=19", "model.width=27"])
    assert again.config["data"]["root"] == str(other) and again.identity == plans[-1].identity


def test_a_folder_that_is_gone_is_said_as_in_a_command_alone(images):
    root, _ = images
    planner = Planner()
    words = ["data=image_folder", f"data.root={root}", "data.image_size=8", "model=fcn"]
    for seed in (1, 2, 3):
        planner([*words, f"seed={seed}"])
    root.rename(root.with_name("elsewhere"))
    with pytest.raises(UserError, match="there is no file or folder"):
        planner([*words, "seed=4"])
