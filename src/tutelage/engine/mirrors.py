"""Mirrors of the record: W&B, TensorBoard, MLflow, CSV. They can be absent, slow or broken; the run and its own record stay the same.

All mirrors of a process are served by one background thread, in order, so that starting and finishing W&B never holds up a step
and several runs of one process never merge. What a mirror raises is logged once, and that mirror is left for the rest of the run.
"""

from __future__ import annotations

import atexit
import functools
import logging
import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tutelage.config.settings import Logger
from tutelage.engine.mirror_kinds import About, CsvMirror, MlflowMirror, TensorBoardMirror, WandbMirror

log = logging.getLogger("tutelage")
DRAIN_TIMEOUT_S = 60.0  # how long the end of the process waits for a slow mirror


def open_mirrors(logger: Logger, folder: Path, config: dict[str, Any], about: About) -> Mirrors:
    """Return the mirrors that the `logger` section of a configuration asks for: `kind` is one or a list."""
    mirrors: list[Any] = []
    for kind in logger.kind if isinstance(logger.kind, list | tuple) else [logger.kind]:
        if kind == "wandb":
            mirrors.append(WandbMirror(folder, config, about, project=logger.project, mode=logger.mode))
        elif kind == "mlflow":
            mirrors.append(MlflowMirror(Path(config["runs_dir"]), about, project=logger.project))
        elif kind != "none":
            mirrors.append(TensorBoardMirror(folder, about) if kind == "tensorboard" else CsvMirror(folder))
    return Mirrors(mirrors)


def summary_of(result: dict[str, Any]) -> dict[str, Any]:
    """Return what mirrors show of a result: the selected network's metrics on every split, its step, and the cost; empty without one."""
    best = result.get("best") or {}
    values = {
        f"{split}/{name}": v
        for split, found in best.items()
        if isinstance(found, dict)
        for name, v in found.items()
    }
    cost = {f"cost/{name}": value for name, value in (result.get("cost") or {}).items()}
    return values | ({"best_step": best["step"]} if "step" in best else {}) | cost


class Mirrors:
    """The mirrors of one run, fed without waiting."""

    def __init__(self, mirrors: list[Any]) -> None:
        self._live = list(mirrors)
        self._each("start")

    def log(self, row: dict[str, float]) -> None:
        """Queue one row."""
        self._each("log", dict(row))

    def finish(self, summary: dict[str, Any], pictures: Callable[[], dict[str, Path]] = dict) -> None:
        """Queue the end of the run. pictures: returns them by name; called once, in the background, if a mirror shows any."""
        self._each("finish", summary, functools.cache(pictures))

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
                "a mirror (W&B, TensorBoard, MLflow) did not finish within %.0f s and was left; the run's own files are complete",
                timeout_s,
            )


def drain() -> None:
    """Wait until every queued row has been mirrored, at most DRAIN_TIMEOUT_S seconds."""
    if _Worker._instance is not None:
        _Worker._instance.drain()
