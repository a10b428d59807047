"""What a command loads before its first word and in all: names of modules, which say what times on a busy machine do not."""

from __future__ import annotations

import subprocess
import sys

import pytest

LIBRARIES = {
    "torch", "numpy", "pandas", "scipy", "matplotlib", "pytorch_lightning", "wandb", "jinja2", "pydantic", "typing_extensions",
}  # fmt: skip
OF_HYDRA = {"hydra", "omegaconf", "antlr4", "attr"}
OF_WORK = {
    "filelock", "subprocess", "multiprocessing", "asyncio", "concurrent.futures", "importlib.metadata", "socket", "zipfile", "http",
}  # fmt: skip
"""What locks, processes, archives and installed packages need; a few milliseconds each."""
OF_RECORDS = {
    "yaml",
    "rich",
    "dataclasses",
    "inspect",
    "ast",
    "argparse",
    "textwrap",
    "difflib",
    "logging.handlers",
}
OF_PATHS = {
    "pathlib",
    "urllib.parse",
    "shutil",
    "lzma",
    "bz2",
    "logging",
    "threading",
    "tokenize",
    "json",
    "hashlib",
}
HELP = LIBRARIES | OF_HYDRA | OF_WORK | OF_RECORDS | OF_PATHS
CASES = {
    "--version": (HELP | {"tutelage.cli.commands"}, 50),
    "--help": (HELP, 60),
    "train --help": (HELP, 60),
    "analyse --help": (HELP, 60),
    "list --help": (HELP, 60),
    "list models": (LIBRARIES | OF_HYDRA | OF_WORK | {"rich", "dataclasses", "inspect"}, 140),
    "list tables": (LIBRARIES | OF_HYDRA | OF_WORK | OF_RECORDS - {"textwrap"}, 110),
    "list runs": (LIBRARIES | OF_HYDRA | OF_WORK | {"yaml", "tutelage.config", "argparse"}, 215),
    "report runs_of_nobody": (LIBRARIES | OF_HYDRA | {"tutelage.config", "argparse"}, 175),
    "doctor": (
        LIBRARIES | {"rich", "filelock", "importlib.metadata", "tutelage.engine.build", "tutelage.data"},
        420,
    ),
}
"""What each command must not load, and the most modules that it may: an interpreter that does nothing has about 40."""
ENTRY = """
import runpy, sys
sys.argv[:] = ["tutelage", *sys.argv[1:]]
try:
    runpy.run_module("tutelage", run_name="__main__")
finally:
    print("loaded:", *sys.modules)
"""


@pytest.mark.parametrize("words", CASES)
def test_a_command_loads_what_it_needs_and_no_more(words, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", ENTRY, *words.split()],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    loaded = set(done.stdout.rpartition("loaded:")[2].split())
    forbidden, most = CASES[words]
    assert "tutelage.cli.main" in loaded, done.stderr
    assert sorted(forbidden & loaded) == []
    # Other packages of this environment may hook into every start of Python: they are not the command's.
    bare = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    assert len(loaded - set(bare.stdout.split())) <= most, sorted(loaded)


FIRST_WORD = """
import io, os, sys
class Screen(io.StringIO):
    def write(self, text):
        if text.strip():
            heavy = [name for name in ("torch", "hydra", "rich", "matplotlib", "numpy") if name in sys.modules]
            os.write(1, f"{heavy} {text}".encode())
            os._exit(0)
sys.stderr = sys.stdout = Screen()
from tutelage.cli.main import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("doctor", "composing the command"),
        ("doctor --build model=fcn", "composing the command"),
        ("report of_nobody", "looking for the runs of of_nobody in runs"),
        ("report guidance/digits", "looking for the runs of "),
        ("reproduce guidance/digits --dry", "looking for the runs of "),
    ],
)
def test_the_first_word_comes_before_anything_heavy(words, said, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FIRST_WORD, *words.split()],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert done.stdout.startswith(f"[] {said}"), done.stdout + done.stderr


@pytest.mark.parametrize("words", ["--help", "train --help", "list tables"])
def test_who_reads_may_leave_and_a_full_disk_is_said(words, tmp_path):
    command = [sys.executable, "-m", "tutelage", *words.split()]
    left = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert left.stdout is not None and left.stderr is not None
    left.stdout.close()
    assert (left.wait(60), left.stderr.read()) == (0, "")
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path, timeout=60
        )
    assert (
        done.returncode == 1 and "No space left on device" in done.stderr and "Traceback" not in done.stderr
    )
