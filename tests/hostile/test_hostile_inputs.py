"""Files from elsewhere execute nothing, hang nothing and write nothing elsewhere, whatever they hold: each input of `inputs`."""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path

import pytest
from hostile_inputs import EVALUATE, INPUTS, LIST, QUICK, READERS, REPORT, TABLE, Hostile, edit

import tutelage
from tutelage.cli.main import main
from tutelage.errors import UserError
from tutelage.runs.store import Store

SECONDS = 20
GOES_WELL = ("list", "report", "remove")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("template") / "runs"
    assert main(["train", *QUICK, f"runs_dir={root}"]) == 0
    return root


@pytest.fixture
def run(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a complete run, somebody else's, in the current folder."""
    here = tmp_path / "here"
    here.mkdir()
    shutil.copytree(template, here / "runs")
    (here / "precious.txt").write_text("precious")
    for module in [name for name in sys.modules if name.split(".")[0] == "diffusers"]:
        monkeypatch.delitem(
            sys.modules, module
        )  # a command of its own has not imported it, as a test before this one may have
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOSTILE_SECRET", "the secret")
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(here))])
    (found,) = Store("runs").runs()
    return found.path.absolute()


class Late(BaseException):
    """Nothing catches it."""


@pytest.fixture(autouse=True)
def in_time():
    """A command that hangs is interrupted, also inside a library: the test says where."""

    def late(*_):
        raise Late(f"it did not end within {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


OWN_SCRIPTS = 4
"""Of a report's page: two with data, its library, its own."""


def snapshot(folder: Path) -> dict[str, object]:
    """Everything in a folder, but for the run's own folders, whose records a command may write."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name.startswith(("here/runs/", "cache")) or "__pycache__" in name:
            continue
        regular = path.is_file() and not path.is_symlink()
        found[name] = (
            path.read_bytes() if regular else str(path.readlink()) if path.is_symlink() else path.is_dir()
        )
    return found


def ends_as_it_should(command: tuple[str, ...], code: int, wanted: int) -> bool:
    return code == wanted or (command[0] in GOES_WELL and code == 0)


def shows(part: str, text: str, kind: str) -> bool:
    """Whether a reader of a file sees what it must not show. Tags and images of Markdown are but text in a table of values."""
    if part.startswith(("<", "]")) and kind == ".csv":
        return False
    if kind == ".html" and part.startswith("<script"):
        return text.count("<script") != OWN_SCRIPTS
    return part in text and not (kind == ".html" and part.startswith("]"))


@pytest.mark.parametrize("name", INPUTS)
def test_a_hostile_input_executes_hangs_and_writes_nothing(name, run, tmp_path, capfd):
    hostile: Hostile = INPUTS[name]
    hostile.make(run)
    before = snapshot(tmp_path)
    modules = set(sys.modules)
    said = ""
    for command in hostile.commands:
        words = [word.format(run=run, weights=run) for word in command]
        code = main(words)
        out, error = capfd.readouterr()
        assert "Traceback" not in error, error
        assert ends_as_it_should(command, code, hostile.code), (command, code, error)
        said += out + error
    written = {path: content for path, content in snapshot(tmp_path).items() if before.get(path) != content}
    pages = {path: content for path, content in written.items() if path.startswith("here/results")}
    assert pages == written, "written elsewhere"
    assert (tmp_path / "here/precious.txt").read_text() == "precious"
    assert not {
        module for module in set(sys.modules) - modules if module.partition(".")[0] in ("evil", "runs")
    }
    assert " ".join(hostile.says.split()) in " ".join(said.split())
    files = [tmp_path / path for path in pages] + list(Path("runs/plain").glob("*.*"))
    texts = {path: path.read_text() for path in files if path.suffix in (".md", ".csv", ".html")}
    for part in hostile.never:
        assert not [path for path, text in texts.items() if shows(part, text, path.suffix)]
        assert part not in said or hostile.commands == (
            TABLE,
        )  # a terminal shows tags and formulas as they are


OF_CODE = [
    name
    for name, hostile in INPUTS.items()
    if hostile.commands[: len(READERS)] == READERS and EVALUATE in hostile.commands
]


@pytest.mark.parametrize("name", OF_CODE)
def test_load_run_refuses_what_evaluate_refuses(name, run, tmp_path):
    INPUTS[name].make(run)
    before = snapshot(tmp_path)
    if INPUTS[name].code == 0:
        tutelage.load_run(run)
    else:
        with pytest.raises(UserError):
            tutelage.load_run(run)
    assert snapshot(tmp_path) == before


def test_there_are_sixty_inputs_and_every_entry_is_tried() -> None:
    assert len(INPUTS) >= 60
    tried = {
        command[:2] if command[0] == "analyse" else command[:1]
        for hostile in INPUTS.values()
        for command in hostile.commands
    }
    assert tried >= {
        ("evaluate",),
        ("list",),
        ("report",),
        ("train",),
        ("doctor",),
        ("remove",),
        ("analyse", "gap"),
    }
    assert {LIST, REPORT, EVALUATE} <= {
        command for hostile in INPUTS.values() for command in hostile.commands
    }


def test_a_module_is_refused_from_everywhere_until_its_user_has_had_it_run(run, monkeypatch, capfd):
    """The current folder is the run's own, or the stranger's; the module's name is one that this user's commands know from elsewhere."""
    INPUTS["a module in the current folder"].make(run)
    shutil.copy("evil.py", run / "evil.py")
    for folder, where in ((run, "."), (run.parent, run.name), (run.parents[1], f"plain/{run.name}")):
        monkeypatch.chdir(folder)
        assert main(["evaluate", where]) == 2
        assert "so it is refused" in capfd.readouterr().err or folder == run.parents[1]
    assert not list(run.parents[2].rglob("executed"))


def test_a_named_module_is_imported_and_a_users_own_need_not_be_named(run, monkeypatch, capfd):
    network = "from torch import nn\nclass Mine(nn.Sequential):\n    def __init__(self, input_shape, num_classes):\n" \
              "        super().__init__(nn.Flatten(), nn.Linear(64, num_classes))\n"  # fmt: skip
    Path("network_that_travels.py").write_text(network)
    words = [word for word in QUICK if not word.startswith("model.")]
    assert main(["train", *words, "name=mine", "model=own", "model._target_=network_that_travels.Mine"]) == 0
    assert main(["evaluate", "mine"]) == 0
    # What else lies in that module was never named: a stranger's run cannot call it.
    edit(model={"_target_": "network_that_travels.remove_everything"})(run)
    assert main(["evaluate", "plain"]) == 2
    assert "named it from there before" in capfd.readouterr().err
    elsewhere = run.parents[3] / "elsewhere"  # another machine, as far as anybody knows
    shutil.copytree("runs/mine", elsewhere / "runs/mine")
    shutil.copy("network_that_travels.py", elsewhere)
    monkeypatch.chdir(elsewhere)
    monkeypatch.delitem(sys.modules, "network_that_travels")
    capfd.readouterr()
    assert main(["evaluate", "mine"]) == 2
    assert "code=network_that_travels" in capfd.readouterr().err
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if not entry.endswith("/here")])
    assert main(["evaluate", "mine", "code=network_that_travels"]) == 0
    assert tutelage.load_run("mine", code=["network_that_travels"]).network is not None
