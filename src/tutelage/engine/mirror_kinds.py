"""The places that rows are copied to: W&B, TensorBoard, MLflow, a CSV file; and what they are told of a run beside its numbers."""

from __future__ import annotations

import csv
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tutelage.runs.identity import flatten
from tutelage.runs.json_lines import read_metrics
from tutelage.runs.records import replacing

Pictures = Callable[[], dict[str, Path]]
"""Returns a run's figures and sample grids by name."""


class Mirror(Protocol):
    """One place that rows are copied to."""

    def start(self) -> None:
        """Open it."""

    def log(self, row: dict[str, float]) -> None:
        """Copy one row; `step` is among its values."""

    def finish(self, summary: dict[str, Any], pictures: Pictures) -> None:
        """Close it with the result, by dotted key, and with the figures and sample grids in the run's folder, drawn when asked for."""


@dataclass(frozen=True)
class About:
    """What a mirror says of a run beside its numbers.

    name, group, identity, seed: of the run. tags: its method, data and networks. commit: of the code. layers: of each recorded
    similarity, which layers it compares. settings: the configuration, flat.
    """

    name: str
    group: str
    identity: str
    seed: int
    tags: tuple[str, ...]
    commit: str
    layers: dict[str, str]
    settings: dict[str, Any]


def about(config: dict[str, Any], identity: str, code: dict[str, Any], described: dict[str, Any]) -> About:
    """Return what mirrors say of a run: its configuration, the code of its last attempt, and what its method describes."""
    targets = [
        (config.get(part) or {}).get("_target_") for part in ("method", "data", "model", "guide", "teacher")
    ]
    layers = {}
    for name, objective in (described.get("objectives") or {}).items():
        where = "similarity" if name == "alignment" else f"similarity/{name}"
        for number, pair in enumerate(objective.get("pairs") or (), start=1):
            if isinstance(pair, dict) and {"guide", "network"} <= pair.keys():
                layers[f"{where}/{number:02d}"] = f"{pair['guide']} -> {pair['network']}"
    return About(
        name=f"{config['name']}/seed{config['seed']}",
        group=config["name"],
        identity=identity,
        seed=config["seed"],
        tags=tuple(dict.fromkeys(str(one).rpartition(".")[2] for one in targets if one)),
        commit=str(code.get("commit") or "unknown"),
        layers=layers,
        settings=dict(flatten(config)),
    )


class WandbMirror:
    """Weights & Biases: offline unless asked otherwise. Its run has the identity of ours, so a resumed run continues there too."""

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        about: About,
        *,
        project: str,
        mode: str,
    ) -> None:
        beside = {"commit": about.commit, "identity": about.identity, "layers": about.layers}
        self.arguments: dict[str, Any] = {
            "dir": str(folder), "config": config | beside, "project": project, "mode": os.environ.get("WANDB_MODE", mode),
            "name": about.name, "group": about.group, "tags": [tag[:64] for tag in about.tags], "id": about.identity,
            "resume": "allow", "reinit": "create_new",
        }  # fmt: skip
        self.run: Any = None

    def start(self) -> None:
        import wandb

        _launch_inputs_on_demand(wandb.Run)
        settings = wandb.Settings(silent=True, console="off", x_disable_stats=True, init_timeout=30)
        self.run = wandb.init(settings=settings, **self.arguments)
        self.run.define_metric("*", step_metric="step")

    def log(self, row: dict[str, float]) -> None:
        self.run.log(row)

    def finish(self, summary: dict[str, Any], pictures: Pictures) -> None:
        try:
            self.run.summary.update(summary)
            if shown := pictures():
                import wandb

                self.run.log({name: wandb.Image(str(path)) for name, path in shown.items()})
        finally:
            self.run.finish()


def _launch_inputs_on_demand(run: Any) -> None:
    """Let a run of W&B look for inputs of its launcher only where that was imported, without which there are none.

    Each run looks, and the import of the launcher's client for that, beside thousands of modules of ours, is a second of work: most of
    what the mirror costs.
    """
    look = getattr(run, "_detect_and_apply_job_inputs", None)
    if look is None or getattr(look, "on_demand", False):
        return

    def looked(self: Any) -> None:
        if "wandb.sdk.launch" in sys.modules:
            look(self)

    looked.on_demand = True  # type: ignore[attr-defined]
    run._detect_and_apply_job_inputs = looked


class TensorBoardMirror:
    """TensorBoard event files in the run's folder."""

    def __init__(self, folder: Path, about: About) -> None:
        self.folder, self.about = folder, about
        self.writer: Any = None

    def start(self) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(self.folder / "tensorboard"))
        run = {
            "run": self.about.name,
            "identity": self.about.identity,
            "commit": self.about.commit,
            "tags": ", ".join(self.about.tags),
        }
        for title, facts in (("run", run), ("layers", self.about.layers), ("settings", self.about.settings)):
            if facts:
                self.writer.add_text(
                    title, "| | |\n|---|---|\n" + "\n".join(f"| {k} | {v} |" for k, v in facts.items())
                )

    def log(self, row: dict[str, float]) -> None:
        for name, value in row.items():
            if name != "step":
                self.writer.add_scalar(name, value, int(row["step"]))

    def finish(self, summary: dict[str, Any], pictures: Pictures) -> None:
        try:
            from torch.utils.tensorboard.summary import hparams

            numbers = {
                name: float(value) for name, value in summary.items() if isinstance(value, int | float)
            }
            plain = {
                k: v if isinstance(v, bool | int | float) else str(v) for k, v in self.about.settings.items()
            }
            for part in hparams(plain, dict.fromkeys(numbers, 0.0)):
                self.writer.file_writer.add_summary(part)
            for name, value in numbers.items():
                self.writer.add_scalar(name, value)
            for name, path in pictures().items():
                self.writer.add_image(name, _pixels(path), dataformats="HWC")
        finally:
            self.writer.close()


def _pixels(path: Path) -> Any:
    import numpy as np
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB"))


class MlflowMirror:
    """MLflow: in the file store `<runs_dir>/.mlflow`, or where MLFLOW_TRACKING_URI says. A resumed run continues there too."""

    def __init__(self, runs_dir: Path, about: About, *, project: str) -> None:
        self.where = (
            os.environ.get("MLFLOW_TRACKING_URI") or (runs_dir.expanduser().absolute() / ".mlflow").as_uri()
        )
        self.about, self.project = about, project
        self.client: Any = None
        self.run_id = ""

    def start(self) -> None:
        if self.where.startswith("file:"):
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # its next generation wants a database
        try:
            from mlflow.entities import Param
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise ImportError("it needs the extra 'mlflow': pip install 'tutelage[mlflow]'") from error
        self.client, about = MlflowClient(tracking_uri=self.where), self.about
        experiment = self._experiment()
        there = self.client.search_runs(
            [experiment], f"tags.`tutelage.identity` = '{about.identity}'", max_results=1
        )
        tags = {
            "tutelage.identity": about.identity, "mlflow.source.git.commit": about.commit, "group": about.group,
            **dict.fromkeys(about.tags, "true"), **{f"layers.{name.replace('/', '.')}": pair for name, pair in about.layers.items()},
        }  # fmt: skip
        if there:
            self.run_id = there[0].info.run_id
            self.client.update_run(self.run_id, status="RUNNING")
            return
        self.run_id = self.client.create_run(experiment, run_name=about.name, tags=tags).info.run_id
        settings = [Param(key, str(value)[:6000]) for key, value in about.settings.items()]
        for first in range(0, len(settings), 100):  # as many as it takes at a time
            self.client.log_batch(self.run_id, params=settings[first : first + 100])

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(self.project)
        if found is None:
            try:
                return str(self.client.create_experiment(self.project))
            except Exception:  # another run has made it meanwhile
                found = self.client.get_experiment_by_name(self.project)
                if found is None:
                    raise
        return str(found.experiment_id)

    def log(self, row: dict[str, float]) -> None:
        self._metrics({name: value for name, value in row.items() if name != "step"}, int(row["step"]))

    def _metrics(self, values: dict[str, Any], step: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        numbers = [
            Metric(name, float(v), now, step) for name, v in values.items() if isinstance(v, int | float)
        ]
        self.client.log_batch(self.run_id, metrics=numbers)

    def finish(self, summary: dict[str, Any], pictures: Pictures) -> None:
        try:
            self._metrics(summary, int(summary.get("best_step", 0)))
            for path in pictures().values():
                self.client.log_artifact(self.run_id, str(path), "pictures")
        finally:
            self.client.set_terminated(self.run_id, "FINISHED" if summary else "KILLED")


class CsvMirror:
    """One CSV file, written at the end from the record: then all columns are known, and the rows before a resume are there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self) -> None:
        """Nothing to open."""

    def log(self, row: dict[str, float]) -> None:
        """The record has it."""

    def finish(self, summary: dict[str, Any], pictures: Pictures) -> None:
        rows = read_metrics(self.folder / "metrics.jsonl").rows
        columns = list(dict.fromkeys(key for row in rows for key in row))
        with replacing(self.folder / "metrics.csv") as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
