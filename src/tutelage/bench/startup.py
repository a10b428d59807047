"""From a command to its first step, over a bare import of pytorch_lightning; and commands that do not train."""

from __future__ import annotations

import subprocess
import sys
import tempfile

from tutelage.bench.timing import Row, in_turn, row

TRAIN = [
    "data=digits",
    "model=fcn",
    "fit.max_steps=1",
    "fit.validate_every_steps=1",
    "logger=none",
    "hardware.threads=1",
]


def rows(pairs: int = 3) -> list[Row]:
    """Measure whole processes."""
    with tempfile.TemporaryDirectory() as folder:
        imports = [sys.executable, "-c", "import pytorch_lightning"]
        train = [sys.executable, "-m", "tutelage", "train", *TRAIN, f"runs_dir={folder}", "rerun=true"]
        timed = in_turn(lambda: _run(train), lambda: _run(imports), pairs=pairs)
        found = [
            row(
                "command to first step (and its end) over import pytorch_lightning",
                [a / b for a, b in timed],
                at_most=1.3,
            )
        ]
        plain = [word for word in train if word != "logger=none"]
        timed = in_turn(lambda: _run(plain), lambda: _run(train), pairs=pairs)
        found.append(
            row(
                "command of one step with the default logger over without",
                [a / b for a, b in timed],
                at_most=1.1,
            )
        )
        for words in (["--help"], ["list", "experiments"], ["list", "runs"], ["doctor"]):
            command = [sys.executable, "-m", "tutelage", *words]
            spent = [a for a, _ in in_turn(lambda command=command: _run(command), lambda: None, pairs=pairs)]  # type: ignore[misc]
            found.append(
                row(
                    f"seconds of `tutelage {' '.join(words)}`",
                    spent,
                    at_most=1.5,
                    note="seconds, not a ratio",
                )
            )
    return found


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
