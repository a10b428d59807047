"""Do the tests notice? Seeded one-operator mutations of the package, each held against the tests that reach its line.

    python tests/reached.py --out reached                      # once: which test reaches which statement (as long as the tests take)
    python tests/mutants.py --reached reached --count 200      # a sample; survivors are printed as they are found
    python tests/mutants.py --reached reached --package losses # of one package

A mutant replaces one operator (a comparison, a sign, a product, `and` by `or`, a dropped `not`) in one file.
It is noticed when a test that reaches its statement fails: those of its own package first, `--tests` of them at most and as many as passed
in `--seconds` when the map was made. Each runs in a forked process that serves the changed source in place of the file: nothing
on the disk is changed, and the heavy libraries are imported once. A process that a test starts anew runs the unchanged source.
Results go to `--out` (JSON lines); a second call with the same arguments goes on where the first stopped. By hand: it takes an hour.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import os
import random
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reached import Passed, Served, warm_up

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "tutelage"
SWAPS: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Add: ast.Sub, ast.Sub: ast.Add,
    ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.And: ast.Or, ast.Or: ast.And,
    ast.UAdd: ast.USub, ast.USub: ast.UAdd,
}  # fmt: skip
READ: dict[tuple[str, str, str], str] = {
    (
        "models/heads.py",
        "GtE -> Gt",
        "if place >= before or place in seen:",
    ): "a place that equals `before` has been seen",
    (
        "cli/doctor.py",
        "Lt -> LtE",
        '"; " if nested else " x " if 1 < len(value) <= 3',
    ): "what joins one text does not show",
    (
        "analysis/gram_blocks.py",
        "LtE -> Lt",
        "rounding = (norm <= 4 * eps * n * length) | (length <= self",
    ): ("a number equal to its rounding bound; of zeros either side alone is true"),
    (
        "analysis/errors_consistency.py",
        "Gt -> GtE",
        "1 - expected > 1e-12",
    ): "a chance agreement 1e-12 below 1 exactly",
    ("data/augment_colour.py", "Add -> Sub", "(sector / 6 + 1) % 1"): "a turn around the circle, either way",
    (
        "analysis/gram_blocks.py",
        "LtE -> Lt",
        "rounding = spread <= 4",
    ): "a number equal to its rounding bound",
    ("scaling/grid.py", "Add -> Sub", "seed=point.seed + 1,"): "any stream but the data's will do",
    ("scaling/grid.py", "Add -> Sub", "seed=point.seed + 2,"): "any stream but the data's will do",
    (
        "scaling/verdicts.py",
        "Gt -> GtE",
        'if slope.high < 0 else ("disagrees" if slope.low > 0',
    ): "an interval that ends at 0 exactly",
    (
        "scaling/measure.py",
        "Gt -> GtE",
        "float((found > threshold).sum()) / networks, threshold",
    ): "an overlap in the middle of a bin",
    (
        "scaling/verdicts.py",
        "Gt -> GtE",
        "np.abs(overlaps) > found.threshold",
    ): "an overlap on the threshold exactly",
    ("scaling/measure.py", "Gt -> GtE", "found > factor * threshold"): "an overlap on the threshold exactly",
    ("alignment/products.py", "Gt -> GtE", "products.shape[1] > 1 else"): "one part is the whole",
    ("alignment/gram.py", "Gt -> GtE", "if len(layers) > 1"): "a stack of one",
    ("alignment/gram.py", "Gt -> GtE", "if len(references) > 1"): "a stack of one",
    ("alignment/gram.py", "Lt -> LtE", "1e-12 < length"): "a length that is the bound exactly",
    ("alignment/gram.py", "USub -> UAdd", "direction.mean(-1"): "the matrix is symmetric",
    ("alignment/token_cka.py", "Lt -> LtE", "1e-12 < spread"): "a spread that is the bound exactly",
    ("alignment/comparisons.py", "LtE -> Lt", "min(sizes) <= len(a)"): "a size equal to its rounding bound",
    ("alignment/procrustes.py", "Gt -> GtE", "square > floor"): "a number equal to its rounding bound",
    (
        "alignment/procrustes.py",
        "GtE -> Gt",
        "product.shape[0] >= product.shape[1]",
    ): "either square is right",
    ("alignment/ridge.py", "Gt -> GtE", "square > floor"): "a number equal to its rounding bound",
    ("reporting/long_table.py", "Gt -> GtE", "sum(longest) > room:"): (
        "what just fits is printed alike by rich and by us"
    ),
    (
        "reporting/forest.py",
        "LtE -> Lt",
        "if low <= m * 10.0**e <= high",
    ): "a round number at the end of the margin",
    (
        "runs/bounded.py",
        "Gt -> GtE",
        "if opening > DEPTH:",
    ): "as many brackets as levels are looked through once more",
    (
        "robustness/corruptions.py",
        "Sub -> Add",
        "v[inside][:, None] - place",
    ): "a disk looks the same from both sides",
    ("robustness/corruptions.py", "Lt -> LtE", "hit < share"): "a uniform number that is the share exactly",
    (
        "robustness/typos_and_gaps.py",
        "Lt -> LtE",
        "draws < MISSING",
    ): "a uniform number that is the share exactly",
    (
        "methods/generation.py",
        "Lt -> LtE",
        "abs(m - 0.5) < 1e-3",
    ): "no number lies 0.001 beside one half exactly",
    (
        "scaling/phase_diagram.py",
        "LtE -> Lt",
        "stacked <= least + 1e-9",
    ): "an exponent that is 1e-9 beside another exactly",
    (
        "data/timeline.py",
        "Lt -> LtE",
        "back = np.flatnonzero(np.diff(instants)",
    ): "equal times are refused first",
    ("objectives/crd.py", "Add -> Sub", "(found + 1) % count"): "either neighbour will do",
    ("engine/progress.py", "Lt -> LtE", "self.rate < 100"): "a rate of 100 reads the same both ways",
    ("jobs/parallel.py", "Gt -> GtE", "time.monotonic() > deadline"): "a moment that is the deadline exactly",
    ("objectives/gkd.py", "Lt -> LtE", "< self.on_policy"): "a uniform number that is the share exactly",
}
"""Survivors that were read and need no test: of a file, a change, and a part of its line, why."""
_NOT_RUN = (4, 5)
"""pytest's codes for tests that it does not find."""
SKIPPED = ("bench", "__main__.py", "_version.py")
"""Speed is judged by `make bench`, not by tests."""


@dataclass(frozen=True)
class Mutant:
    """One changed operator: the `number`th place of a file where one can be changed.

    statement: The line where the innermost statement of a function that holds it begins; 0 outside functions.
    """

    file: str
    number: int
    line: int
    statement: int
    change: str


class _Places(ast.NodeTransformer):
    """Counts the operators that can be changed, and changes the one with the wanted number."""

    def __init__(self, wanted: int | None = None) -> None:
        self.wanted, self.found = wanted, list[tuple[int, int, str]]()
        self.statement, self.functions = 0, 0

    def visit(self, node: ast.AST) -> Any:
        before = self.statement
        if isinstance(node, ast.stmt) and self.functions:
            self.statement = node.lineno
        try:
            return super().visit(node)
        finally:
            self.statement = before

    def _is_wanted(self, node: Any, change: str) -> bool:
        self.found.append((node.lineno, self.statement, change))
        return self.wanted == len(self.found) - 1

    def _next(self, node: Any, operator: ast.AST) -> ast.AST | None:
        new = SWAPS.get(type(operator))
        if new is None:
            return None
        return new() if self._is_wanted(node, f"{type(operator).__name__} -> {new.__name__}") else None

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
            return node.operand if self._is_wanted(node, "not dropped") else node
        node.op = self._next(node, node.op) or node.op  # type: ignore[assignment]
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is not None:  # `int | None` is an annotation, no operator
            node.value = self.visit(node.value)
        return node

    def visit_FunctionDef(self, node: Any) -> ast.AST:
        self.functions += 1
        node.body = [self.visit(statement) for statement in node.body]
        self.functions -= 1
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


def changed(mutant: Mutant) -> ast.Module:
    """Return the changed syntax tree of the mutant's file."""
    tree: ast.Module = _Places(mutant.number).visit(
        ast.parse((ROOT / mutant.file).read_text(encoding="utf-8"))
    )
    return tree


def tests_of(mutant: Mutant, passed: list[Passed], tests: int, seconds: float) -> list[str]:
    """Return the tests to hold the mutant against: of its package first, then those that reach little else, then the fast.

    Of a test with many parameters three come before the others' turn.
    """
    parts = Path(mutant.file).relative_to("src/tutelage").parts
    package, stem = parts[0].removesuffix(".py"), parts[-1].removesuffix(".py")
    reaching = [one for one in passed if mutant.statement in one.reached.get(mutant.file, ())]
    if mutant.statement == 0:  # a constant: whoever uses its file, or of the package
        reaching = [one for one in passed if mutant.file in one.reached or one.package == package]

    def key(one: Passed) -> Any:
        here = len(one.reached.get(mutant.file, ()))
        return (one.package != package, stem not in one.file, one.seconds > 5, -here / one.size, one.seconds)

    turns: dict[str, int] = {}
    ordered = []
    for one in sorted(reaching, key=key):
        function = one.test.partition("[")[0]
        turns[function] = turns.get(function, -1) + 1
        ordered.append((turns[function] // 3, len(ordered), one))
    chosen, left = list[str](), seconds
    for _, _, one in sorted(ordered):
        if len(chosen) < tests and (one.seconds <= left or not chosen):
            chosen.append(one.test)
            left -= one.seconds
    return chosen


def judge(mutant: Mutant, tests: list[str], limit_s: float) -> tuple[str, str]:
    """Return `noticed`, `survived` or `too slow` (a loop that does not end is noticed by anybody), and the test that failed."""
    started = time.monotonic()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _child(mutant, tests, writer)
    os.close(writer)
    verdict = ""
    while not verdict and time.monotonic() - started < limit_s:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            if code in _NOT_RUN and not _collected(tests):
                raise RuntimeError(f"the tests of {mutant} were not run: make the map anew")
            verdict = "survived" if code == 0 else "noticed"
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):  # also what its tests left running
        os.killpg(child, signal.SIGKILL)
    if not verdict:
        os.waitpid(child, 0)
    os.set_blocking(reader, False)
    with open(reader, "rb", buffering=0) as file:  # noqa: PTH123
        failed = (file.read() or b"").decode()
    return verdict or "too slow", failed


def _collected(tests: list[str]) -> bool:
    """Whether the unchanged source lets these tests be collected: then it was the mutant that did not."""
    child = os.fork()
    if child == 0:
        _child(None, ["--collect-only", *tests], os.open(os.devnull, os.O_WRONLY))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _child(mutant: Mutant | None, tests: list[str], writer: int) -> None:
    os.setpgid(0, 0)
    code = 1
    try:
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        sys.meta_path.insert(
            0, Served(lambda file: changed(mutant) if mutant and file == mutant.file else None)
        )
        import pytest

        class Failures:
            def pytest_runtest_logreport(self, report: Any) -> None:
                if report.failed:
                    os.write(writer, report.nodeid.encode()[:4000])

        words = ["-x", "-q", "-p", "no:cacheprovider", "--no-header", *tests]
        code = int(pytest.main(words, plugins=[Failures()]))
    finally:
        os._exit(code)


def reason(mutant: Mutant) -> str:
    """Return why a mutant needs no test; empty where nobody has said so."""
    line = (ROOT / mutant.file).read_text(encoding="utf-8").splitlines()[mutant.line - 1]
    file = mutant.file.removeprefix("src/tutelage/")
    return next(
        (
            why
            for (at, change, part), why in READ.items()
            if (at, change) == (file, mutant.change) and part in line
        ),
        "",
    )


def verdicts(out: Path) -> dict[tuple[str, int], str]:
    """Return the last verdict of each mutant that was judged."""
    lines = out.read_text(encoding="utf-8").splitlines() if out.is_file() else []
    return {(row["file"], row["number"]): row["verdict"] for row in map(json.loads, lines)}


def main() -> None:
    """Judge a sample and print what survived."""
    reader = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    reader.add_argument("--count", type=int, default=200)
    reader.add_argument("--seed", type=int, default=0)
    reader.add_argument("--package", default=None)
    reader.add_argument("--reached", type=Path, required=True, help="the folder that reached.py wrote")
    reader.add_argument("--tests", type=int, default=60)
    reader.add_argument("--seconds", type=float, default=60.0)
    reader.add_argument("--limit-s", type=float, default=400.0)
    reader.add_argument("--again", action="store_true", help="judge those again that survived")
    reader.add_argument(
        "--part", default="0/1", help="i/n: of the sample every n-th, from i; for several processes"
    )
    reader.add_argument("--out", type=Path, default=Path("mutants.jsonl"))
    asked = reader.parse_args()
    asked.out, asked.reached = asked.out.resolve(), asked.reached.resolve()
    os.chdir(ROOT)  # from where tests are named
    every = mutants(asked.package)
    sample = random.Random(asked.seed).sample(every, min(asked.count, len(every)))
    first, parts = map(int, asked.part.split("/"))
    passed = Passed.read(asked.reached)
    warm_up()
    for mutant in sample[first::parts]:
        before = verdicts(asked.out).get((mutant.file, mutant.number))
        if before and not (asked.again and before == "survived"):
            continue
        started = time.monotonic()
        tests = tests_of(mutant, passed, asked.tests, asked.seconds)
        verdict, by = judge(mutant, tests, asked.limit_s) if tests else ("unreached", "")
        row = {**vars(mutant), "verdict": verdict, "tests": len(tests), "by": by}
        row["seconds"] = round(time.monotonic() - started, 1)
        with asked.out.open("a") as file:
            print(json.dumps(row), file=file)
        place = f"{mutant.file}:{mutant.line}  {mutant.change}"
        print(f"{verdict:9}{row['seconds']:6.1f} s  {place}  {len(tests)} tests  {by}", flush=True)
    last = verdicts(asked.out)
    left = {place for place, verdict in last.items() if verdict in ("survived", "unreached")}
    read = [one for one in sample if (one.file, one.number) in left and reason(one)]
    print(
        f"{len(last) - len(left)} of {len(last)} noticed, {len(read)} need no test; {len(every)} places in all"
    )
    print(*(f"{one.file}:{one.line}  {one.change}: {reason(one)}" for one in read), sep="\n")


if __name__ == "__main__":
    main()
