"""Store and run: states from files and lock, search, archive, and locks that die with their process."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tutelage.errors import UserError
from tutelage.runs import records
from tutelage.runs.folders import lock_of
from tutelage.runs.identity import identify
from tutelage.runs.run import RunBusy, State
from tutelage.runs.store import Store, check_name

HOLD = """
import sys, time
from tutelage.runs.store import Store
run = Store(sys.argv[1]).at(sys.argv[2])
with run.lock():
    print("held", flush=True)
    time.sleep(60)
"""


def config(name="demo/plain", **more):
    return {"name": name, "seed": 0, "arm": name, **more}


def start(store, cfg):
    run = store.for_config(cfg)
    with run.lock():
        run.begin(cfg, {"started": "now"})
    return run


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs")


@pytest.fixture
def holder(store):
    """Start a process that holds a run's lock; it dies with the test."""
    started = []

    def hold(run):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(store.root), run.key], stdout=subprocess.PIPE
        )
        started.append(process)
        assert process.stdout.readline() == b"held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_states(store):
    cfg = config()
    run = store.for_config(cfg)
    assert run.state is State.MISSING
    assert not store.root.exists()  # asking changes nothing
    with run.lock():
        assert run.state is State.RUNNING
        run.begin(cfg, {"started": "t0"})
    assert run.state is State.INTERRUPTED
    run.fail("NotFinite", "the term 'task' is NaN at step 7", step=7)
    assert run.state is State.FAILED and run.failure["step"] == 7
    with run.lock():
        run.begin(cfg, {"started": "t1"})
        assert run.failure is None and run.failures == 1
        run.complete({"best": {"step": 3}})
        assert run.state is State.COMPLETE
    assert run.state == "complete" and run.result["best"] == {"step": 3}
    assert [a["started"] for a in run.attempts] == ["t0", "t1"]
    assert all(a["finished"].endswith("+00:00") for a in run.attempts)
    assert run.config == cfg


def test_the_first_news_of_a_failure_stays_unless_later_news_can_be_acted_on(store):
    run = store.run("demo", identify({"name": "demo"}))
    run.begin({"name": "demo"}, {})
    run.fail("RuntimeError", "connection closed by peer", mistake=False)
    run.fail("RuntimeError", "another peer is gone", mistake=False)
    assert run.failure["message"] == "connection closed by peer"
    run.fail("UserError", "cannot read the image", mistake=True)
    run.fail("RuntimeError", "connection closed by peer", mistake=False)
    assert run.failure["message"] == "cannot read the image"


def test_a_picture_that_is_being_written_keeps_no_run_from_its_end(store, monkeypatch):
    """A mirror's thread gives a file its name between the moments at which the run's files are listed and put on the disk."""
    run = start(store, config())
    (run.path / ".pairs.png.7.tmp").write_bytes(b"half")
    sync_all = records.sync_all

    def later(paths):
        (run.path / ".pairs.png.7.tmp").rename(run.path / "pairs.png")
        sync_all(paths)

    with monkeypatch.context() as patch, run.lock():
        patch.setattr(records, "sync_all", later)
        run.complete({"best": {"step": 3}})
    assert run.state is State.COMPLETE and (run.path / "pairs.png").read_bytes() == b"half"


def test_damaged_result_is_not_complete(store):
    run = start(store, config())
    (run.path / "result.json").write_text('{"state": "comp')
    assert run.state is State.INTERRUPTED
    (run.path / "result.json").write_text("[]")
    assert run.state is State.INTERRUPTED


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"attempts": 3}', '{"attempts": [1]}', '{"attempts": null}']
)
def test_a_damaged_provenance_reads_as_no_attempt(store, text):
    run = start(store, config())
    (run.path / "provenance.json").write_text(text)
    assert run.attempts == []
    with run.lock():
        run.complete({"best": {"step": 3}})
    assert run.state is State.COMPLETE and run.attempts == []


def test_damaged_config_and_provenance_are_written_anew(store):
    cfg = config()
    run = start(store, cfg)
    (run.path / "config.yaml").write_text("name: [")
    (run.path / "provenance.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.yaml is damaged"):
        run.config
    with run.lock():
        run.begin(cfg, {"started": "t1"})
    assert run.config == cfg and len(run.attempts) == 1


def test_another_configuration_is_refused(store):
    run = start(store, config())
    with pytest.raises(ValueError, match="identity"):
        run.begin(config(seed=1), {})


def test_iterates_in_order_without_archive_and_strangers(store, caplog):
    made = [
        start(store, config(f"{n}/arm-{i}", seed=s)) for n in ("b", "a") for i in range(2) for s in range(2)
    ]
    (store.root / "a" / "notes").mkdir()
    (store.root / "a" / "table.md").write_text("a table")
    with made[0].lock():
        made[0].archive()
    keys = [run.key for run in store.runs()]
    assert keys == sorted(run.key for run in made[1:])
    assert caplog.messages == []
    for odd, run in (("no name!", True), ("nor this?", False)):
        (store.root / "a" / odd / "x").mkdir(parents=True)
        if run:
            (store.root / "a" / odd / "x" / "config.yaml").touch()
    assert [run.key for run in store.runs()] == keys
    assert caplog.messages == [f"{store.root / 'a' / 'no name!'} is left out: no run has a name like that"]
    assert [r.key for r in store.runs("a")] == [k for k in keys if k.startswith("a/")]
    assert [r.key for r in store.runs("a/arm-1/")] == [k for k in keys if k.startswith("a/arm-1/")]
    assert list(store.runs("none")) == []
    with pytest.raises(UserError, match="not below"):
        list(store.runs("../elsewhere"))


def test_find(store):
    one, two = start(store, config("demo/plain", seed=0)), start(store, config("demo/plain", seed=1))
    other = start(store, config("demo/cnn"))
    assert store.find(one.key).key == one.key
    assert store.find(one.identity[:6]).key == one.key
    assert store.find(f"demo/plain/{two.identity[:4]}").key == two.key
    assert store.find(f"plain/{two.identity[:4]}").key == two.key
    assert store.find("demo/cnn").key == other.key
    assert store.find(str(other.path)).key == other.key
    with pytest.raises(UserError, match="means 2 runs") as several:
        store.find("demo/plain")
    assert one.key in str(several.value) and two.key in str(several.value)
    with pytest.raises(UserError, match="did you mean 'demo/cnn'"):
        store.find("demo/cn")
    with pytest.raises(UserError, match="no run"):
        store.find("ab")  # two digits are too few to mean anything


def test_a_copied_run_is_found_by_path(store, tmp_path):
    run = start(store, config("demo/plain"))
    copy = tmp_path / "elsewhere" / run.identity
    copy.mkdir(parents=True)
    (copy / "config.yaml").write_text((run.path / "config.yaml").read_text())
    assert store.find(str(copy)).key == run.key
    assert Store(copy.parent).at_path(copy).key == run.key


@pytest.mark.parametrize(
    "name", ["", "/", "a//b", "../a", "a/..", ".hidden", "a b", "ä", "a/0123456789ab", "-x"]
)
def test_names_that_cannot_be_folders(name):
    with pytest.raises(UserError, match="name"):
        check_name(name)


def test_name_is_required(store):
    with pytest.raises(UserError, match="name"):
        store.for_config({"seed": 0})


def test_archive_keeps_everything(store):
    cfg = config()
    for attempt in (1, 2, 3):
        run = start(store, cfg)
        (run.path / "log.txt").write_text(str(attempt))
        with run.lock():
            moved = run.archive()
        assert moved.name == f"{run.identity}-{attempt}" and (moved / "log.txt").read_text() == str(attempt)
        assert run.state is State.MISSING
        assert store.at_path(moved).key == run.key
    with run.lock():
        assert run.archive() is None


def test_lock_is_held_and_freed_by_a_kill(store, holder):
    run = start(store, config())
    process = holder(run)
    assert run.state is State.RUNNING
    with pytest.raises(RunBusy, match=f"process {process.pid}"), run.lock(wait=False):
        pytest.fail("two holders")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert run.state is State.INTERRUPTED
    with run.lock(wait=False):
        pass


def test_waiting_says_so_and_gets_it(store, holder):
    run = start(store, config())
    process = holder(run)
    threading.Timer(0.6, process.kill).start()
    said = []
    with run.lock(say=said.append):
        assert len(said) == 1 and str(process.pid) in said[0] and run.key in said[0]


def test_two_objects_in_one_process_exclude_each_other(store):
    run, twin = start(store, config()), store.for_config(config())
    with run.lock():
        with run.lock():  # again from the same object
            pass
        assert run.is_locked and twin.state is State.RUNNING
        with pytest.raises(RunBusy), twin.lock(wait=False):
            pytest.fail("two holders")
    with twin.lock(wait=False):
        assert run.is_locked
    assert not run.is_locked


def test_asking_for_states_does_not_make_a_lock_fail(store):
    run = start(store, config())
    stop = threading.Event()

    def ask():
        twin = store.for_config(config())
        while not stop.is_set():
            twin.state

    asker = threading.Thread(target=ask)
    asker.start()
    try:
        for _ in range(30):
            with run.lock(wait=False):
                pass
    finally:
        stop.set()
        asker.join()


def test_a_waiter_is_right_after_an_archive(store):
    """Who waited while the holder archived must write the new folder, alone."""
    cfg = config()
    run, twin = start(store, cfg), store.for_config(cfg)
    order = []
    with run.lock():
        waiter = threading.Thread(target=lambda: _write(twin, cfg, order))
        waiter.start()
        time.sleep(0.5)
        run.archive()
        run.begin(cfg, {"started": "rerun"})
        order.append("holder")
    waiter.join()
    assert order == ["holder", "waiter"]
    assert [a["started"] for a in run.attempts] == ["rerun", "waiter"]


def _write(run, cfg, order):
    with run.lock():
        run.begin(cfg, {"started": "waiter"})
        order.append("waiter")


def test_a_forked_child_does_not_keep_the_lock(store):
    run = start(store, config())
    with run.lock():
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
    try:
        with store.for_config(config()).lock(wait=False):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_root_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    run = Store(tmp_path / "file" / "runs").for_config(config())
    with pytest.raises(UserError, match="runs_dir"), run.lock():
        pass
    assert run.state is State.MISSING


def test_lock_file_that_cannot_be_opened(store, monkeypatch):
    from filelock import FileLock

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    start(store, config())
    monkeypatch.setattr(FileLock, "acquire", denied)
    with pytest.raises(UserError, match="Permission denied"), store.for_config(config()).lock():
        pass
    assert store.for_config(config()).state is State.INTERRUPTED


def test_open_files_go_back(store):
    run = start(store, config())
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(50):
        with run.lock():
            run.state
        store.for_config(config()).state
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1


def test_rooms_import_nothing_heavy():
    code = (
        "import sys, json, importlib, pkgutil, tutelage.runs, tutelage.reporting\n"
        "for package in (tutelage.runs, tutelage.reporting):\n"
        "    for m in pkgutil.iter_modules(package.__path__):\n"
        "        importlib.import_module(f'{package.__name__}.{m.name}')\n"
        "heavy = 'torch lightning pytorch_lightning hydra omegaconf torchmetrics pandas scipy numpy'\n"
        "heavy = [*heavy.split(), 'matplotlib']\n"
        "print(json.dumps([m for m in heavy if m in sys.modules]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_many_runs_are_listed(store):
    for seed in range(300):
        folder = store.root / "sweep" / f"arm-{seed % 7}" / f"{seed:012x}"
        folder.mkdir(parents=True)
        (folder / "result.json").write_text('{"state": "complete"}')
    states = [run.state for run in store.runs()]
    assert len(states) == 300 and set(states) == {State.COMPLETE}


def test_a_folder_means_its_runs_as_a_shell_completes_it(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start(store, config("demo/plain"))
    relative = Store(store.root.relative_to(tmp_path))
    for name in (
        "demo",
        "./demo/",
        f"{relative.root}/demo",
        f"{relative.root}/demo/plain/",
        str(store.root / "demo"),
    ):
        assert [run.name for run in relative.runs(name)] == ["demo/plain"], name
    for everything in ("", ".", str(relative.root), str(store.root)):
        assert [run.key for run in relative.runs(everything)] == [run.key for run in store.runs()]


def test_one_configuration_under_two_names_is_one_run_and_found_from_both(tmp_path):
    store = Store(tmp_path)
    first, second = {"name": "a/one", "x": 1}, {"name": "b/two", "x": 1}
    assert identify(first) == identify(second) != identify({"name": "a/one", "x": 2})
    made = store.for_config(first)
    with made.lock():
        made.begin(first, {})
        made.complete({"best": 1})
    found = store.for_config(second)
    assert found.is_complete and found.key == made.key and found.path == made.path
    assert [run.key for run in store.runs("b")] == []
    store.also_called("b/two", found)
    store.also_called("b/two", found)
    (again,) = store.runs("b")
    assert again.name == "b/two" and again.is_complete and again.path.resolve() == made.path
    assert [run.key for run in store.runs()] == [made.key]  # once, where both are listed
    assert store.names() == ["a/one", "b/two"]
    assert store.find("b/two").identity == store.find("a/one").identity
    assert store.at(f"b/two/{made.identity}").result == made.result


def test_a_run_begun_under_one_name_goes_on_under_another(tmp_path):
    store = Store(tmp_path)
    first, second = {"name": "a/one", "x": 1}, {"name": "two", "x": 1}
    late = store.for_config(second)  # looked up before the other is there
    early = store.for_config(first)
    with early.lock():
        early.begin(first, {})
        with pytest.raises(RunBusy), late.lock(wait=False):
            pass
        assert store.for_config(second).state is State.RUNNING
    with late.lock():
        assert late.key == early.key
        late.begin(second, {})
        assert late.config["name"] == "a/one" and len(late.attempts) == 2
    assert [run.key for run in store.runs()] == [early.key]


def test_ten_processes_with_ten_names_make_one_run(tmp_path):
    def make(number):
        store, config = Store(tmp_path), {"name": f"name/{number}", "x": 1}
        run = store.for_config(config)
        with run.lock():
            if not run.is_complete:
                run.begin(config, {})
                time.sleep(0.05)
                run.complete({"made_by": number})
                made.append(number)
        store.also_called(config["name"], run)

    made: list[int] = []
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(make, range(10)))
    assert len(made) == 1 and len(list(Store(tmp_path).runs())) == 1
    assert len(Store(tmp_path).names()) == 10


def test_a_link_whose_run_is_gone_is_no_run(tmp_path):
    store, config = Store(tmp_path), {"name": "a", "x": 1}
    run = store.for_config(config)
    with run.lock():
        run.begin(config, {})
    store.also_called("b", run)
    (link,) = store.runs("b")
    with link.lock():
        link.remove()
    assert run.path.is_dir() and store.names() == ["a"]
    store.also_called("b", run)
    with run.lock():
        run.remove()
        assert store.names() == []
        store.forget_links([run.identity])
    assert not list((tmp_path / "b").iterdir())


def test_which_run_is_needed_counts_and_not_its_name():
    def with_need(run):
        return {"name": "x", "needs": {"guide": {"command": ["a"], "run": run}}}

    one = identify(with_need("a/000000000000"))
    assert one == identify(with_need("b/c/000000000000")) != identify(with_need("a/000000000001"))


@pytest.mark.parametrize(
    ("file", "begun"),
    [
        (None, False),
        ("checkpoints/best-10.safetensors", False),
        ("checkpoints/fresh.tmp", False),
        ("checkpoints/last.ckpt", True),
        ("checkpoints/previous.ckpt", True),
        ("checkpoints/halved-0.safetensors", True),
        ("shards/00000.tar", True),
    ],
)
def test_a_run_is_begun_once_there_is_a_state_to_go_on_from(store, file, begun):
    run = store.at("a/0123456789ab")
    (run.path / "checkpoints").mkdir(parents=True)
    if file:
        (run.path / file).parent.mkdir(exist_ok=True)
        (run.path / file).touch()
    assert run.is_begun is begun


def test_a_lock_goes_with_its_run_and_who_waited_for_it_holds_the_next_one_alone(store):
    run, waiting, third = (start(store, config()) for _ in range(3))
    said, held = [], []

    def wait():
        with waiting.lock(say=said.append):
            with pytest.raises(RunBusy), third.lock(wait=False):
                pytest.fail("two holders")
            with pytest.raises(RunBusy), third.lock_now():
                pytest.fail("two holders")
            held.append(lock_of(store.root, run.identity).stat().st_ino)

    path = lock_of(store.root, run.identity)
    with run.lock(), path.open() as old:
        waiter = threading.Thread(target=wait)
        waiter.start()
        while not said:
            time.sleep(0.01)
        run.remove()
        assert not path.exists()
        still = os.dup(old.fileno())  # while it is open, no new file has its number
    waiter.join(10)
    assert len(held) == 1 and held[0] != os.fstat(still).st_ino and not run.path.exists()
    os.close(still)
