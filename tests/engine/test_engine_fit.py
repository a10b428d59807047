"""Before, around and after training: steps, samples, checkpoints, the test set and the cost, with trainers that are made up."""

from __future__ import annotations

import math
import signal
import threading
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from safetensors.torch import load_file, save_file

from tutelage.engine import checkpoints as checkpoints_module
from tutelage.engine import fit, outcome, shared_work, trainer
from tutelage.engine.checkpoints import Checkpoints, latest_checkpoint
from tutelage.engine.shared_work import _moved, _portable
from tutelage.errors import UserError
from tutelage.runs.store import Store


@pytest.mark.parametrize(("settings", "per_pass", "found"), [
    ({"max_steps": 40}, 10, (40, 10)), ({"max_steps": 7}, 10, (7, 7)), ({"max_steps": 0}, 10, (1, 1)),
    ({"max_steps": None, "epochs": 3}, 10, (30, 10)), ({"max_steps": None, "epochs": 0.25}, 10, (2, 2)),
    ({"max_steps": None, "epochs": 0.01}, 10, (1, 1)), ({"max_steps": None, "epochs": None}, 10, (1, 1)),
    ({"max_steps": None, "epochs": 3, "accumulate": 4}, 10, (8, 2)), ({"max_steps": 40, "accumulate": 4}, 10, (40, 2)),
    ({"max_steps": 40, "accumulate": 16}, 10, (40, 1)), ({"max_steps": 40, "validate_every_steps": 6}, 10, (40, 6)),
    ({"max_steps": 40, "validate_every_steps": 60}, 10, (40, 40)),
])  # fmt: skip
def test_how_many_updates_and_when_it_is_validated(settings, per_pass, found):
    given = {"epochs": None, "accumulate": 1, "validate_every_steps": None, "gradient_clip": 0.5} | settings
    method = SimpleNamespace()
    built = SimpleNamespace(data=SimpleNamespace(steps_per_epoch=per_pass), method=method)
    assert fit.plan_steps(SimpleNamespace(**given), built) == found
    assert (method.max_steps, method.accumulate, method.gradient_clip) == (found[0], given["accumulate"], 0.5)


COMPARES = "what is learnt compares the samples of a batch, and a {} batch holds {} (each rank): at least 3 are needed, see {}"


@pytest.mark.parametrize(("sizes", "batch", "evaluated", "ranks", "said"), [
    ((6, 6, 6), 3, 6, 2, None), ((2, 6, 6), 3, 6, 2, None),
    ((1, 6, 6), 3, 6, 2, "1 train samples cannot be shared by 2 ranks: use fewer devices"),
    ((6, 6, 1), 3, 6, 2, "1 test samples cannot be shared by 2 ranks: use fewer devices"),
    ((6, 6, 6), 2, 6, 2, COMPARES.format("train", 2, "data.batch_size")),
    ((6, 4, 6), 3, 6, 2, COMPARES.format("validation", 2, "the validation split and data.eval_batch_size")),
    ((6, 5, 6), 3, 6, 2, None),  # five samples of two ranks: one has three
    ((6, 6, 6), 3, 5, 2, COMPARES.format("validation", 2, "the validation split and data.eval_batch_size")),
    ((6, 6, 4), 3, 6, 2, COMPARES.format("test", 2, "the test split and data.eval_batch_size")),
    ((6, 6, 6), 3, 1, 2, COMPARES.format("validation", 1, "the validation split and data.eval_batch_size")),
])  # fmt: skip
def test_so_many_samples_are_needed(sizes, batch, evaluated, ranks, said):
    splits = dict(zip(("train", "validation", "test"), map(range, sizes), strict=True))
    data = SimpleNamespace(splits=splits, batch_size=batch, eval_batch_size=evaluated)
    method = SimpleNamespace(fewest=3)
    if said is None:
        fit.check_samples(data, ranks, method)
        return
    with pytest.raises(UserError) as error:
        fit.check_samples(data, ranks, method)
    assert str(error.value) == said


@pytest.mark.parametrize(("asked", "gpu", "mps", "has"), [
    ("cpu", False, False, None), ("auto", False, False, None), ("gpu", True, False, None), ("gpu", False, False, "neither"),
    ("gpu", False, True, "mps"), ("mps", True, False, "gpu"), ("mps", False, True, None),
])  # fmt: skip
def test_the_accelerator_that_is_asked_for_is_there(monkeypatch, asked, gpu, mps, has):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    if has is None:
        fit.check_machine(SimpleNamespace(accelerator=asked))
        return
    with pytest.raises(UserError) as error:
        fit.check_machine(SimpleNamespace(accelerator=asked))
    assert str(error.value) == (
        f"hardware.accelerator={asked}: this machine has no such device (of gpu and mps: {has}); "
        "choose hardware=cpu, or ddp_cpu for several ranks"
    )


# --- checkpoints --------------------------------------------------------------------------------------------


class Loop:
    """As much of a trainer as the checkpoints see; its weights are the step."""

    def __init__(self, first=True, ranks=1):
        self.is_global_zero, self.world_size, self.step = first, ranks, 0
        self.strategy = SimpleNamespace(
            broadcast=lambda due: due, lightning_module_state_dict=lambda: {"network.w": torch.tensor([float(self.step)])},
        )  # fmt: skip

    def save_checkpoint(self, path):
        path.write_text(f"state {self.step}")


@pytest.fixture
def now(monkeypatch):
    found = [1000.0]
    monkeypatch.setattr(checkpoints_module.time, "monotonic", lambda: found[0])
    return found


def validated(one, loop, step, value, max_steps=100):
    loop.step = step
    method = SimpleNamespace(step=step, max_steps=max_steps, values={"validation": {"m": value}})
    one.on_train_epoch_end(loop, method)
    return sorted(path.name for path in one.folder.glob("*")) if one.folder.exists() else []


def kept(tmp_path, **more):
    return Checkpoints(
        tmp_path / "run" / "checkpoints", **{"monitor": "m", "mode": "max", "every_s": 60.0, **more}
    )


def test_states_are_saved_when_it_is_time_with_the_best_weights_of_each(tmp_path, now):
    one, loop = kept(tmp_path), Loop()
    assert validated(one, loop, 1, 0.5) == []
    now[0] += 59.9
    assert validated(one, loop, 2, 0.7) == []
    now[0] += 0.1
    assert validated(one, loop, 3, 0.6) == ["best-2.safetensors", "last.ckpt"]
    assert load_file(one.best_path())["network.w"].item() == 2.0
    assert (one.folder / "last.ckpt").read_text() == "state 3"
    now[0] += 59.0
    before = one.last
    validated(one, loop, 3, 0.9)
    assert one.last is before  # the chunk is closed once more after resuming at its end
    assert validated(one, loop, 4, 0.8) == ["best-2.safetensors", "last.ckpt"]
    now[0] += 1.0
    found = validated(one, loop, 5, 0.75)
    # the state before the last is resumed from where the last is damaged: its best weights stay
    assert found == ["best-2.safetensors", "best-4.safetensors", "last.ckpt", "previous.ckpt"]
    assert (one.folder / "previous.ckpt").read_text() == "state 3"
    now[0] += 60.0
    assert validated(one, loop, 6, 0.75) == ["best-4.safetensors", "last.ckpt", "previous.ckpt"]
    assert one.state_dict() == {
        "best": {"step": 4, "validation": {"m": 0.8}},
        "last": {"step": 6, "validation": {"m": 0.75}},
    }
    other = kept(tmp_path)
    other.load_state_dict(one.state_dict())
    assert other.load_best()["network.w"].item() == 4.0 and other._saved_best == one.best_path()


@pytest.mark.parametrize(("passed", "ranks", "keep_last", "saved"), [
    (0.99, 1, False, False), (1.0, 1, False, True), (0.0, 2, False, True), (0.0, 1, True, True),
])  # fmt: skip
def test_the_last_state_is_saved_where_it_is_worth_it(tmp_path, now, passed, ranks, keep_last, saved):
    one, loop = kept(tmp_path, keep_last=keep_last), Loop(ranks=ranks)
    now[0] += passed
    assert not validated(one, loop, 9, 0.5, max_steps=10)
    assert bool(validated(one, loop, 10, 0.5, max_steps=10)) == saved


@pytest.mark.parametrize("first", [True, False])
def test_the_weights_of_every_validation_where_they_are_asked_for(tmp_path, now, first):
    one, loop = kept(tmp_path, keep_all=True), Loop(first=first)
    for step, value in ((2, 0.5), (10, 0.4), (4, 0.6)):
        found = validated(one, loop, step, value)
    assert found == (["seen-10.safetensors", "seen-2.safetensors", "seen-4.safetensors"] if first else [])
    if first:  # of an earlier attempt that had come further none
        assert [(step, state["network.w"].item()) for step, state in one.seen()] == [(2, 2.0), (4, 4.0)]


def test_another_rank_saves_its_part_alone(tmp_path, now):
    one, loop = kept(tmp_path, every_s=0.0), Loop(first=False, ranks=2)
    assert validated(one, loop, 1, 0.5) == ["fresh.tmp"]


@pytest.mark.parametrize(("error", "raised", "said"), [
    (RuntimeError("[enforce fail] PytorchStreamWriter failed\nmore"), OSError, "[enforce fail] PytorchStreamWriter failed"),
    (RuntimeError("cannot write"), OSError, "cannot write"), (OSError(28, "No space"), OSError, "[Errno 28] No space"),
    (RuntimeError("another"), RuntimeError, None),
])  # fmt: skip
def test_a_disk_that_is_full_is_an_error_of_the_disk(tmp_path, now, error, raised, said):
    one, loop = kept(tmp_path, every_s=0.0), Loop()

    def save_checkpoint(path):
        path.write_text("half")
        raise error

    loop.save_checkpoint = save_checkpoint
    with pytest.raises(raised) as found:
        validated(one, loop, 1, 0.5)
    assert not (one.folder / "fresh.tmp").exists() and not (one.folder / "last.ckpt").exists()
    if said is not None:
        assert found.value.errno == (28 if isinstance(error, OSError) else 5)
        assert found.value.strerror == f"the checkpoint could not be written ({said})"
        assert found.value.filename == str(one.folder / "last.ckpt")


def state(folder, which, best, step):
    torch.save(
        {"callbacks": {"Checkpoints": {"best": {"step": best}}, "Recording": {"step": step}}}, folder / f"{which}.ckpt"
    )  # fmt: skip
    save_file({"w": torch.ones(3)}, folder / f"best-{best}.safetensors")


def test_the_newest_state_that_is_whole_is_resumed_from(tmp_path, caplog):
    run = Store(tmp_path).at("x/000000000001")
    assert latest_checkpoint(run) is None
    folder = run.path / "checkpoints"
    folder.mkdir(parents=True)
    state(folder, "previous", 2, 6)
    assert latest_checkpoint(run) == (folder / "previous.ckpt", 6)
    state(folder, "last", 8, 12)
    assert latest_checkpoint(run) == (folder / "last.ckpt", 12)
    whole = (folder / "best-8.safetensors").read_bytes()
    (folder / "best-8.safetensors").write_bytes(whole[:-1])
    assert latest_checkpoint(run) == (folder / "previous.ckpt", 6)
    (folder / "previous.ckpt").write_bytes(b"torn")
    assert latest_checkpoint(run) is None
    assert [one.getMessage().split(" cannot")[0] for one in caplog.records] == [
        f"checkpoint {name} of {run.key}" for name in ("last.ckpt", "last.ckpt", "previous.ckpt")
    ]


# --- what training came to ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "values", "step"), [
    ("max", {2: 0.5, 4: 0.75, 6: 0.6}, 4), ("min", {2: 0.5, 4: 0.75, 6: 0.6}, 2), ("max", {2: math.nan, 4: 0.1, 6: math.nan}, 4),
    ("min", {2: math.nan, 4: 0.9, 6: 0.8}, 6), ("max", {2: 0.5, 4: 0.5}, 2), ("max", {2: -0.5, 4: -0.75}, 2),
])  # fmt: skip
def test_the_best_on_test_over_all_validations(mode, values, step):
    method = SimpleNamespace(
        values={"test": {}}, load_state_dict=lambda state: method.values["test"].update(m=state)
    )
    loop = SimpleNamespace(test=lambda method, batches, verbose: None)
    kept = SimpleNamespace(monitor="m", mode=mode, seen=lambda: iter(values.items()))
    assert outcome._best_on_test(loop, method, None, kept) == {
        "step": step,
        "test": {"m": values[step]},
        "of": len(values),
        "note": "selected on the test set, for comparison with papers that do; an overestimate",
    }


@pytest.mark.parametrize(("platform", "device", "peak", "of"), [
    ("linux", "cpu", 2048.0, "process"), ("darwin", "cpu", 2.0, "process"), ("linux", "cuda", 3.0, "device"),
])  # fmt: skip
def test_what_a_run_cost(monkeypatch, platform, device, peak, of):
    monkeypatch.setattr(outcome.sys, "platform", platform)
    monkeypatch.setattr(outcome.resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=2 * 2**20))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * 2**20)
    monkeypatch.setattr(outcome.time, "perf_counter", lambda: 107.25)
    loop = SimpleNamespace(strategy=SimpleNamespace(root_device=SimpleNamespace(type=device)), world_size=2)
    built = SimpleNamespace(data=SimpleNamespace(batch_size=32), method=SimpleNamespace(accumulate=3))
    assert outcome.cost(loop, SimpleNamespace(train_s=2.5), built, 10, 4, 100.0) == {
        "steps": 10, "resumed_at_step": 4, "train_s": 2.5, "samples_per_s": 384.0, "peak_memory_mb": peak, "peak_memory_of": of,
        "total_s": 7.25, "ranks": 2,
    }  # fmt: skip


def test_what_a_file_says_beside_its_tensors_is_in_order(tmp_path):
    path = tmp_path / "a.safetensors"
    for names in (("b", "a"), ("a", "b")):
        save_file({"w": torch.arange(5)}, path, metadata=dict.fromkeys(names, "text"))
        size = path.stat().st_size
        outcome._order_metadata(path)
        assert path.read_bytes()[8:].index(b'"a":"text"') < path.read_bytes()[8:].index(b'"b":"text"')
        assert path.stat().st_size == size and torch.equal(load_file(path)["w"], torch.arange(5))
    header = b'{"__metadata__":{"b":"1","a":"2"},"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    for spare in (0, 3):  # with no letter to spare, and with some
        path.write_bytes((len(header) + spare).to_bytes(8, "little") + header + b" " * spare + b"\x05")
        outcome._order_metadata(path)
        ordered = header.replace(b'"b":"1","a":"2"', b'"a":"2","b":"1"')
        assert path.read_bytes()[8:] == ordered + b" " * spare + b"\x05"


# --- shared among ranks, and interrupted --------------------------------------------------------------------


def test_what_travels_is_whole_and_has_its_own_memory():
    from tutelage.tasks import Batch

    large = torch.arange(12.0, requires_grad=True).reshape(3, 4)
    batch = Batch(large[0], torch.tensor([1]), torch.tensor([7]))
    found = _moved({"a": [large[1:], (1, "x")], "b": batch, "c": None}, "cpu")
    assert torch.equal(found["a"][0], large[1:]) and found["a"][0].untyped_storage().nbytes() == 8 * 4
    assert not found["a"][0].requires_grad
    assert found["a"][1] == (1, "x") and isinstance(found["a"], list) and found["c"] is None
    assert type(found["b"]) is Batch and torch.equal(found["b"].inputs, large[0])


class Odd(Exception):
    """Cannot be made from its message alone."""

    def __init__(self, a, b):
        super().__init__(a)


def test_an_error_travels_with_where_it_comes_from_unless_it_is_the_users():
    mistake = _portable(UserError("no 'x'"))
    assert type(mistake) is UserError and str(mistake) == "no 'x'" and not getattr(mistake, "__notes__", [])
    try:
        raise ValueError("odd")
    except ValueError as error:
        found = _portable(error)
    assert type(found) is ValueError and "Traceback" in found.__notes__[0]
    found = _portable(Odd("a", "b"))
    assert type(found) is RuntimeError and str(found) == "Odd: a"


@pytest.mark.parametrize(("rank", "ranks"), [(0, 2), (1, 2), (2, 3), (0, 3)])
def test_each_rank_does_every_so_manieth_and_all_get_all(monkeypatch, rank, ranks):
    done = []

    def work(item):
        done.append(item)
        return item * 10

    monkeypatch.setattr(shared_work, "_sharing", True)
    monkeypatch.setattr(shared_work.dist, "get_rank", lambda: rank)
    monkeypatch.setattr(shared_work.dist, "get_world_size", lambda: ranks)
    turns = iter(range(0, 7, ranks))

    def exchange(value, failed=None):
        first = next(turns)
        assert failed is None and value == (10 * (first + rank) if first + rank < 7 else None)
        return [10 * (first + other) for other in range(ranks)]

    monkeypatch.setattr(shared_work, "_exchange", exchange)
    assert list(shared_work.shared(range(7), work)) == [0, 10, 20, 30, 40, 50, 60]
    assert done == list(range(7))[rank::ranks]
    assert shared_work.is_first() == (rank == 0)


def test_alone_everything_is_done_here():
    assert list(shared_work.shared([1, 2], lambda item: item + 1)) == [2, 3]
    assert shared_work.is_first() and shared_work.agreed("a") == "a"
    with shared_work.ranks_together():
        assert not shared_work._sharing


def test_an_error_in_any_rank_is_told_to_all(monkeypatch):
    def gather(found, value):
        found[:] = (
            [("a", None), ("b", None)] if isinstance(value[0], str) else [(None, None), (None, value[1])]
        )

    monkeypatch.setattr(shared_work.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(shared_work.dist, "all_gather_object", gather)
    assert shared_work._exchange("a") == ["a", "b"]
    with pytest.raises(shared_work._Known) as told:
        shared_work._exchange(None, UserError("no 'x'"))
    assert str(told.value.error) == "no 'x'"

    def dead(found, value):
        raise RuntimeError("connection closed\nby peer")

    monkeypatch.setattr(shared_work.dist, "all_gather_object", dead)
    with pytest.raises(shared_work._Known) as told:
        shared_work._exchange(None)
    assert str(told.value.error) == "another rank of this command died: connection closed"


@pytest.mark.parametrize("below", [False, True])
def test_an_interrupt_leaves_as_one(below):
    before = signal.getsignal(signal.SIGINT)
    handler = signal.default_int_handler  # which a shell may have taken from what it starts in the background
    signal.signal(signal.SIGINT, handler)
    with pytest.raises(KeyboardInterrupt), trainer.interrupts_first():
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            if below:
                raise SystemExit(1)  # noqa: B904
            signal.signal(signal.SIGINT, handler)
            raise
    assert signal.getsignal(signal.SIGINT) is handler
    signal.signal(signal.SIGINT, before)


def test_another_end_and_another_thread_leave_signals_as_they_are():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match=r"^wrong$"), trainer.interrupts_first():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise ValueError("wrong")
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    signal.signal(signal.SIGINT, before)
    ended = []

    def leaves():
        try:
            with trainer.interrupts_first():
                raise SystemExit(3)
        except SystemExit as error:  # setting a signal here would be an error
            ended.append(error.code)

    thread = threading.Thread(target=leaves)
    thread.start()
    thread.join()
    assert ended == [3]


@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_together_say_and_raise_in_the_first_alone(monkeypatch, capsys, rank):
    events = []
    monkeypatch.setattr(shared_work, "in_ranks", lambda: True)
    monkeypatch.setattr(shared_work, "join_environment", lambda: (rank, 2))
    monkeypatch.setattr(shared_work.dist, "init_process_group", events.append)
    monkeypatch.setattr(shared_work.dist, "destroy_process_group", lambda: events.append("left"))
    monkeypatch.setattr(shared_work.dist, "get_rank", lambda: rank)

    def exchange(value, failed=None):
        events.append(failed)
        if failed is not None or told:
            raise shared_work._Known(failed or told)

    monkeypatch.setattr(shared_work, "_exchange", exchange)
    told = None
    with shared_work.ranks_together():
        print("said")
        assert shared_work.is_first() is (rank == 0)
    assert capsys.readouterr().out == ("said\n" if rank == 0 else "") and events == ["gloo", None, "left"]
    assert shared_work.is_first()
    mine, theirs = UserError("mine"), UserError("theirs")

    def fails():
        with shared_work.ranks_together():
            raise mine

    def is_told():
        with shared_work.ranks_together():
            pass

    for work, error in ((fails, mine), (is_told, theirs)):
        told = theirs
        if rank:
            work()
        else:
            with pytest.raises(UserError) as raised:
                work()
            assert raised.value is error
    assert events[3:] == ["gloo", mine, "left", "gloo", None, "left"]
    with pytest.raises(ValueError, match="another"), trainer.interrupts_first():
        raise ValueError("another")


@pytest.mark.parametrize(("group", "counted", "fine"), [(2, 2, True), (2, 3, False), (None, 3, True)])
def test_a_process_group_is_as_large_as_the_trainer_counts(monkeypatch, group, counted, fine):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: group is not None)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: group)
    if fine:
        trainer.check_ranks(SimpleNamespace(world_size=counted))
        return
    with pytest.raises(RuntimeError, match=r"^the process group has 2 ranks, the trainer counts 3$"):
        trainer.check_ranks(SimpleNamespace(world_size=counted))


@pytest.fixture(scope="module")
def composed():
    """Give a command's configuration."""
    from tutelage.config.compose import compose

    return compose(["fit.accumulate=4", "fit.gradient_clip=0.5"])


@pytest.fixture
def made(monkeypatch, composed):
    """Give a function that returns what Lightning's trainer is made with."""

    def do(hardware, in_ranks=False, **more):
        given = {}
        monkeypatch.setattr(trainer.pl, "Trainer", lambda **words: given.update(words))
        monkeypatch.setattr(trainer, "in_ranks", lambda: in_ranks)
        monkeypatch.setattr(trainer, "ranks_and_nodes", lambda: (3, 2))
        config = composed | {"hardware": composed["hardware"] | hardware}
        trainer.make_trainer(config, "folder", [], 40, **more)
        return given

    return do


def test_a_trainer_for_the_hardware(made):
    found = made({"devices": "auto", "strategy": "ddp"})
    assert (found["devices"], found["num_nodes"], found["strategy"]) == ("auto", 1, "ddp")
    assert (
        found["accumulate_grad_batches"],
        found["gradient_clip_val"],
        found["max_steps"],
        found["max_epochs"],
    ) == (4, 0.5, 40, -1)
    for devices in ("auto", -1):
        found = made({"devices": devices}, in_ranks=True)
        assert (found["devices"], found["num_nodes"]) == (3, 2)
    assert made({"devices": 2}, in_ranks=True)["devices"] == 2
    found = made({"strategy": "ddp"}, by_hand=True, all_parameters_get_gradients=False)
    assert (found["accumulate_grad_batches"], found["gradient_clip_val"]) == (1, None)
    assert found["strategy"] == "ddp_find_unused_parameters_true"
    assert made({"strategy": "fsdp"}, all_parameters_get_gradients=False)["strategy"] == "fsdp"


def test_hooks_of_a_batch_that_a_callback_does_not_write_are_not_called(composed, tmp_path):
    class Writes(pl.Callback):
        def on_train_batch_end(self, *given):
            """Nothing."""

    one, other = Writes(), pl.Callback()
    made = trainer.make_trainer(composed, tmp_path, [one, other], 40)
    assert callable(one.on_train_batch_end) and other.on_train_batch_end is None
    assert one.on_before_backward is None and callable(one.on_fit_start)
    with made.profiler.profile("a step") as nothing, made.profiler.profile("a hook of it"):
        assert nothing is None
