"""Do the tests notice? Seeded one-operator mutations of the package, each held against the tests of its own package.

    python tests/mutants.py --count 200 --seed 0            # a sample; survivors are printed as they are found
    python tests/mutants.py --count 40 --package losses     # of one package

A mutant replaces one operator (a comparison, a sign, a product, `and` by `or`, a dropped `not`) in one file.
It is noticed when a test of the tests/ folder of its package fails. Each runs in a forked process that serves the
changed source in place of the file: nothing on the disk is changed, and the heavy libraries are imported once.
Results go to `--out` (JSON lines); a second call with the same arguments goes on where the first stopped. By hand:
it takes an hour.
"""

from __future__ import annotations

import argparse
import ast
import importlib.abc
import importlib.util
import json
import os
import random
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "tutelage"
SWAPS: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Add: ast.Sub, ast.Sub: ast.Add,
    ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.And: ast.Or, ast.Or: ast.And,
    ast.UAdd: ast.USub, ast.USub: ast.UAdd,
}  # fmt: skip
SKIPPED = ("bench", "__main__.py", "_version.py")
"""Speed is judged by `make bench`, not by tests."""


@dataclass(frozen=True)
class Mutant:
    """One changed operator: the `number`th place of a file where one can be changed."""

    file: str
    number: int
    line: int
    change: str


class _Places(ast.NodeTransformer):
    """Counts the operators that can be changed, and changes the one with the wanted number."""

    def __init__(self, wanted: int | None = None) -> None:
        self.wanted, self.found = wanted, list[tuple[int, str]]()

    def _next(self, node: Any, operator: ast.AST) -> ast.AST | None:
        new = SWAPS.get(type(operator))
        if new is None:
            return None
        self.found.append((node.lineno, f"{type(operator).__name__} -> {new.__name__}"))
        return new() if self.wanted == len(self.found) - 1 else None

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        node.ops = [self._next(node, operator) or operator for operator in node.ops]  # type: ignore[misc]
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        texts = (node.left, node.right)
        if any(isinstance(x, ast.JoinedStr) or isinstance(getattr(x, "value", None), str) for x in texts):
            return node  # a text that is put together
        node.op = self._next(node, node.op) or node.op  # type: ignore[assignment]
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        node.op = self._next(node, node.op) or node.op  # type: ignore[assignment]
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.Not):
            self.found.append((node.lineno, "not dropped"))
            return node.operand if self.wanted == len(self.found) - 1 else node
        node.op = self._next(node, node.op) or node.op  # type: ignore[assignment]
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is not None:  # `int | None` is an annotation, no operator
            node.value = self.visit(node.value)
        return node

    def visit_FunctionDef(self, node: Any) -> ast.AST:
        node.body = [self.visit(statement) for statement in node.body]
        node.args.defaults = [self.visit(default) for default in node.args.defaults]
        return node

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_If(self, node: ast.If) -> ast.AST:
        if "TYPE_CHECKING" in ast.dump(node.test) or "__main__" in ast.dump(node.test):
            return node
        return self.generic_visit(node)


def mutants(package: str | None = None) -> list[Mutant]:
    """Return every mutant of the package, in the order of files and lines."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).parts
        if parts[0] in SKIPPED or path.name in SKIPPED or (package and parts[0] != package):
            continue
        places = _Places()
        places.visit(ast.parse(path.read_text(encoding="utf-8")))
        name = str(path.relative_to(ROOT))
        found += [Mutant(name, number, *place) for number, place in enumerate(places.found)]
    return found


class _Served(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a changed syntax tree."""

    def __init__(self, mutant: Mutant) -> None:
        self.path = ROOT / mutant.file
        dotted = self.path.relative_to(ROOT / "src").with_suffix("").parts
        self.is_package = dotted[-1] == "__init__"
        self.name = ".".join(dotted[:-1] if self.is_package else dotted)
        tree = _Places(mutant.number).visit(ast.parse(self.path.read_text(encoding="utf-8")))
        self.code: CodeType = compile(ast.fix_missing_locations(tree), str(self.path), "exec")

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != self.name:
            return None
        folder = [str(self.path.parent)] if self.is_package else None
        return importlib.util.spec_from_file_location(
            name, self.path, loader=self, submodule_search_locations=folder
        )

    def exec_module(self, module: Any) -> None:
        exec(self.code, module.__dict__)


def tests_of(mutant: Mutant) -> list[str]:
    """Return the test files of the mutant's package, those that name its module first."""
    parts = Path(mutant.file).relative_to("src/tutelage").parts
    stem = parts[-1].removesuffix(".py")
    folder = ROOT / "tests" / parts[0] if len(parts) > 1 else ROOT / "tests"
    files = sorted(folder.glob("test_*.py"))
    files.sort(key=lambda file: (stem not in file.stem, stem not in file.read_text(encoding="utf-8")))
    return [str(file) for file in files]


def judge(mutant: Mutant, limit_s: float) -> tuple[str, float]:
    """Return `noticed`, `survived` or `too slow` (a loop that does not end is noticed by anybody), and the seconds it took."""
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        _child(mutant)
    while time.monotonic() - started < limit_s:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return "survived" if code == 0 else "noticed", time.monotonic() - started
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "too slow", time.monotonic() - started


def _child(mutant: Mutant) -> None:
    os.setpgid(0, 0)
    code = 1
    try:
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        sys.meta_path.insert(0, _Served(mutant))
        import pytest

        code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--no-header", *tests_of(mutant)]))
    finally:
        os._exit(code)


def warm_up() -> None:
    """Import what every test imports, and nothing of the package itself."""
    import pytorch_lightning
    import sklearn.datasets
    import torch
    import torchvision  # noqa: F401

    torch.set_num_threads(1)
    assert not any(name.split(".")[0] == "tutelage" for name in sys.modules)
    del pytorch_lightning, sklearn


def main() -> None:
    """Judge a sample and print what survived."""
    reader = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    reader.add_argument("--count", type=int, default=200)
    reader.add_argument("--seed", type=int, default=0)
    reader.add_argument("--package", default=None)
    reader.add_argument("--limit-s", type=float, default=600.0)
    reader.add_argument(
        "--part", default="0/1", help="i/n: of the sample every n-th, from i; for several processes"
    )
    reader.add_argument("--out", type=Path, default=Path("mutants.jsonl"))
    asked = reader.parse_args()
    every = mutants(asked.package)
    sample = random.Random(asked.seed).sample(every, min(asked.count, len(every)))
    first, parts = map(int, asked.part.split("/"))
    known = [json.loads(line) for line in asked.out.read_text().splitlines()] if asked.out.is_file() else []
    done = {(row["file"], row["number"]) for row in known}
    warm_up()
    for mutant in sample[first::parts]:
        if (mutant.file, mutant.number) in done:
            continue
        verdict, seconds = judge(mutant, asked.limit_s)
        with asked.out.open("a") as file:
            print(json.dumps({**vars(mutant), "verdict": verdict, "seconds": round(seconds, 1)}), file=file)
        print(f"{verdict:9}{seconds:6.1f} s  {mutant.file}:{mutant.line}  {mutant.change}", flush=True)
    rows = [json.loads(line) for line in asked.out.read_text().splitlines()]
    survived = sum(row["verdict"] == "survived" for row in rows)
    print(f"{len(rows) - survived} of {len(rows)} noticed; {len(every)} places in all")


if __name__ == "__main__":
    main()
