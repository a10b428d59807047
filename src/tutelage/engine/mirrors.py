"""Mirrors of the record: W&B, TensorBoard, CSV. They can be absent, slow or broken; the run and its own record stay the same.

All mirrors of a process are served by one background thread, in order, so that starting and finishing W&B never holds up a step
and several runs of one process never merge. What a mirror raises is logged once, and that mirror is left for the rest of the run.
"""

from __future__ import annotations

import atexit
import csv
import functools
import logging
import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from tutelage.config.settings import Logger
from tutelage.runs.records import read_metrics, replacing

log = logging.getLogger("tutelage")
DRAIN_TIMEOUT_S = 60.0  # how long the end of the process waits for a slow mirror


class Mirror(Protocol):
    """One place that rows are copied to."""

    def start(self) -> None:
        """Open it."""

    def log(self, row: dict[str, float]) -> None:
        """Copy one row; `step` is among its values."""

    def finish(self, summary: dict[str, Any]) -> None:
        """Close it with the result."""


class WandbMirror:
    """Weights & Biases: offline unless asked otherwise. Its run has the identity of ours, so a resumed run continues there too."""

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        *,
        project: str,
        mode: str,
        name: str,
        group: str,
        run_id: str,
    ) -> None:
        self.arguments: dict[str, Any] = {
            "dir": str(folder), "config": config, "project": project, "mode": os.environ.get("WANDB_MODE", mode),
            "name": name, "group": group, "id": run_id, "resume": "allow", "reinit": "create_new",
        }  # fmt: skip
        self.run: Any = None

    def start(self) -> None:
        import wandb

        settings = wandb.Settings(silent=True, console="off", x_disable_stats=True, init_timeout=30)
        self.run = wandb.init(settings=settings, **self.arguments)
        self.run.define_metric("*", step_metric="step")

    def log(self, row: dict[str, float]) -> None:
        self.run.log(row)

    def finish(self, summary: dict[str, Any]) -> None:
        try:
            self.run.summary.update(summary)
        finally:
            self.run.finish()


class TensorBoardMirror:
    """TensorBoard event files in the run's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writer: Any = None

    def start(self) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(self.folder / "tensorboard"))

    def log(self, row: dict[str, float]) -> None:
        for name, value in row.items():
            if name != "step":
                self.writer.add_scalar(name, value, int(row["step"]))

    def finish(self, summary: dict[str, Any]) -> None:
        self.writer.close()


class CsvMirror:
    """One CSV file, written at the end from the record: then all columns are known, and the rows before a resume are there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self) -> None:
        """Nothing to open."""

    def log(self, row: dict[str, float]) -> None:
        """The record has it."""

    def finish(self, summary: dict[str, Any]) -> None:
        rows = read_metrics(self.folder / "metrics.jsonl").rows
        columns = list(dict.fromkeys(key for row in rows for key in row))
        with replacing(self.folder / "metrics.csv") as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)


def open_mirrors(logger: Logger, folder: Path, config: dict[str, Any]) -> Mirrors:
    """Return the mirrors that the `logger` section of a configuration asks for: `kind` is one or a list."""
    mirrors: list[Mirror] = []
    for kind in logger.kind if isinstance(logger.kind, list | tuple) else [logger.kind]:
        if kind == "wandb":
            name = f"{config['name']}/seed{config['seed']}"
            where = {"project": logger.project, "mode": logger.mode, "name": name, "group": config["name"]}
            mirrors.append(WandbMirror(folder, config, run_id=folder.name, **where))
        elif kind != "none":
            mirrors.append(TensorBoardMirror(folder) if kind == "tensorboard" else CsvMirror(folder))
    return Mirrors(mirrors)


class Mirrors:
    """The mirrors of one run, fed without waiting."""

    def __init__(self, mirrors: list[Any]) -> None:
        self._live = list(mirrors)
        self._each("start")

    def log(self, row: dict[str, float]) -> None:
        """Queue one row."""
        self._each("log", dict(row))

    def finish(self, summary: dict[str, Any]) -> None:
        """Queue the end of the run."""
        self._each("finish", summary)

    def _each(self, action: str, *arguments: Any) -> None:
        for mirror in self._live:
            _Worker.get().submit(functools.partial(self._try, mirror, action, arguments))

    def _try(self, mirror: Any, action: str, arguments: tuple[Any, ...]) -> None:
        if mirror not in self._live:
            return
        try:
            getattr(mirror, action)(*arguments)
        except (
            BaseException
        ) as error:  # a mirror may raise anything, SystemExit included: it can never stop a run
            self._live.remove(mirror)
            log.warning(
                "%s failed in %s and is left out of this run: %s", type(mirror).__name__, action, error
            )


class _Worker:
    """The one background thread. At the end of the process it is given DRAIN_TIMEOUT_S to empty its queue."""

    _instance: _Worker | None = None

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._serve, name="tutelage-mirrors", daemon=True)
        self.thread.start()
        atexit.register(self.drain)

    @classmethod
    def get(cls) -> _Worker:
        if cls._instance is None or cls._instance.pid != os.getpid() or not cls._instance.thread.is_alive():
            cls._instance = cls()  # a forked process has the object but not the thread
        return cls._instance

    def submit(self, task: Callable[[], None]) -> None:
        self.queue.put(task)

    def _serve(self) -> None:
        while (task := self.queue.get()) is not None:
            task()

    def drain(self, timeout_s: float = DRAIN_TIMEOUT_S) -> None:
        if self.pid != os.getpid():
            return
        self.queue.put(None)
        self.thread.join(timeout_s)
        if self.thread.is_alive():
            log.warning(
                "a mirror (W&B, TensorBoard) did not finish within %.0f s and was left; the run's own files are complete",
                timeout_s,
            )


def drain() -> None:
    """Wait until every queued row has been mirrored, at most DRAIN_TIMEOUT_S seconds."""
    if _Worker._instance is not None:
        _Worker._instance.drain()
