"""Which test reaches which statement of the package? For tests/mutants.py.

    python tests/reached.py --out reached [--part 0/2] [words of pytest ...]

Every statement of a function gets a mark before it: one byte in memory that forked processes share. Each test file runs in a fork; what
each of its tests reached, how it ended and how long it took is a line of `<out>/<file>.jsonl`. Files that are there are not run again. A
process that a test starts anew is not seen.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import importlib.abc
import importlib.util
import json
import mmap
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "tutelage"
LEFT_OUT = ("bench", "cluster", "hostile", "test_wheel.py", "test_notebooks.py", "test_contributing.py")
"""Tests that need a machine of their own, run in fresh processes, or compare all numbers at once."""


@dataclass
class Passed:
    """A test that passed: what it reached, as the lines of statements by file."""

    test: str
    seconds: float
    reached: dict[str, set[int]]

    @property
    def file(self) -> str:
        return self.test.partition("::")[0]

    @property
    def package(self) -> str:
        return Path(self.file).parts[1]

    @property
    def size(self) -> int:
        return sum(map(len, self.reached.values()))

    @classmethod
    def read(cls, folder: Path) -> list[Passed]:
        rows = [
            json.loads(line)
            for file in sorted(folder.glob("*.jsonl"))
            for line in file.read_text().splitlines()
        ]
        return [
            cls(row["test"], row["seconds"], {file: set(lines) for file, lines in row["reached"].items()})
            for row in rows
            if row["outcome"] == "passed" and row["reached"]
        ]


class Served(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports modules of the package from syntax trees: tree_of returns a file's, or None for the file as it is."""

    def __init__(self, tree_of: Callable[[str], ast.Module | None]) -> None:
        self.tree_of = tree_of
        self.trees: dict[str, ast.Module] = {}

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name.partition(".")[0] != "tutelage":
            return None
        place = (ROOT / "src").joinpath(*name.split("."))
        is_package = place.is_dir()
        file = place / "__init__.py" if is_package else place.with_suffix(".py")
        tree = self.tree_of(str(file.relative_to(ROOT))) if file.is_file() else None
        if tree is None:
            return None
        self.trees[name] = tree
        folder = [str(place)] if is_package else None
        return importlib.util.spec_from_file_location(
            name, file, loader=self, submodule_search_locations=folder
        )

    def exec_module(self, module: Any) -> None:
        tree = ast.fix_missing_locations(self.trees[module.__name__])
        exec(compile(tree, module.__file__, "exec"), module.__dict__)


class Marks:
    """A byte for each line of the package, set when a marked statement that begins there is reached."""

    def __init__(self) -> None:
        self.base: dict[str, int] = {}
        size = 0
        for path in sorted(PACKAGE.rglob("*.py")):
            self.base[str(path.relative_to(ROOT))] = size
            size += len(path.read_text(encoding="utf-8").splitlines()) + 1
        self.bytes = mmap.mmap(-1, size)

    def clear(self) -> None:
        self.bytes[:] = bytes(len(self.bytes))

    def reached(self) -> dict[str, list[int]]:
        set_bytes = [number for number, byte in enumerate(self.bytes[:]) if byte]
        found: dict[str, list[int]] = {}
        files = iter([*self.base.items(), ("", len(self.bytes))])
        name, start = next(files)
        following, end = next(files)
        for number in set_bytes:
            while number >= end:
                name, start = following, end
                following, end = next(files)
            found.setdefault(name, []).append(number - start)
        return found

    def tree_of(self, file: str) -> ast.Module:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        inside = {
            id(node)
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
            for statement in function.body
            for node in ast.walk(statement)
        }
        for node in list(ast.walk(tree)):
            for field in ("body", "orelse", "finalbody"):
                block = getattr(node, field, None)
                if isinstance(block, list):
                    setattr(node, field, list(self._marked(file, block, inside)))
        return tree

    def _marked(self, file: str, block: list[ast.stmt], inside: set[int]) -> Iterator[ast.stmt]:
        for number, statement in enumerate(block):
            is_text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            if id(statement) in inside and not (number == 0 and is_text):
                mark = ast.parse(f"__reached__[{self.base[file] + statement.lineno}] = 1").body[0]
                yield ast.copy_location(mark, statement)
                for part in ast.walk(mark):
                    ast.copy_location(part, statement)
            yield statement


def warm_up() -> None:
    """Import what every test imports, and nothing of the package itself."""
    import pytorch_lightning
    import sklearn.datasets
    import torch
    import torchvision  # noqa: F401

    torch.set_num_threads(1)
    assert not any(name.split(".")[0] == "tutelage" for name in sys.modules)
    del pytorch_lightning, sklearn


def collect(test_file: Path, out: Path, words: list[str]) -> None:
    """Run one file of tests in a fork, and write what each reached."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        import pytest

        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 1)
        marks = Marks()
        builtins.__reached__ = marks.bytes  # type: ignore[attr-defined]
        sys.meta_path.insert(0, Served(marks.tree_of))
        rows: list[str] = []

        class Recorder:
            said = "passed"

            @pytest.hookimpl(wrapper=True)
            def pytest_runtest_protocol(self, item: Any) -> Iterator[None]:
                marks.clear()
                self.said, started = "passed", time.monotonic()
                result = yield
                seconds = round(time.monotonic() - started, 3)
                row = {"test": item.nodeid, "outcome": self.said, "seconds": seconds}
                rows.append(json.dumps({**row, "reached": marks.reached()}))
                return result

            def pytest_runtest_logreport(self, report: Any) -> None:
                if not report.passed:
                    self.said = report.outcome

        pytest.main(["-q", "-p", "no:cacheprovider", *words, str(test_file)], plugins=[Recorder()])
        out.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    finally:
        os._exit(0)


def main() -> None:
    """Run the tests and write the map."""
    reader = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    reader.add_argument("--out", type=Path, default=Path("reached"))
    reader.add_argument(
        "--part", default="0/1", help="i/n: of the files every n-th, from i; for several processes"
    )
    asked, words = reader.parse_known_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    first, parts = map(int, asked.part.split("/"))
    warm_up()
    for test_file in sorted((ROOT / "tests").rglob("test_*.py"))[first::parts]:
        name = test_file.relative_to(ROOT / "tests")
        out = asked.out / f"{'.'.join(name.parts)}.jsonl"
        if out.exists() or name.parts[0] in LEFT_OUT:
            continue
        started = time.monotonic()
        collect(test_file, out, words)
        rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
        bad = [row["test"] for row in rows if row["outcome"] == "failed"]
        print(
            f"{time.monotonic() - started:6.1f} s  {len(rows):4} tests  {name}",
            *(f"\n    {one}" for one in bad),
            flush=True,
        )


if __name__ == "__main__":
    main()
