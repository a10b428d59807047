"""The setting of source-free transfer, enforced on plans: which stages may open the source data, and what each stage reads (no torch).

Source classifier and generator are trained on source data and then given away; from there on the source data are closed
(Yamaguchi et al. 2022, arXiv 2204.12833). A stage is source-free if it makes or reads a pseudo data set (synthesis, PP, P-SSL) or
declares `setting: source_free`. `setting: source` marks the makers of what is given away. `setting: oracle` alone lifts the rule:
the row of a table that nobody without the source data could have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tutelage.errors import UserError
from tutelage.runs.declared import makes, reads
from tutelage.runs.frozen_networks import objectives_of
from tutelage.runs.identity import identify, identity_of, is_need
from tutelage.runs.run import Run
from tutelage.runs.store import Store
from tutelage.runs.weights import Weights, networks, run_around


class Stage(Protocol):
    """A run with those it needs, such as `needs.Plan`."""

    @property
    def config(self) -> Mapping[str, Any]:
        """The resolved configuration."""

    @property
    def needs(self) -> Mapping[str, Any]:
        """The needed stages by role."""

    @property
    def key(self) -> str:
        """`<name>/<identity>`."""


@dataclass(frozen=True)
class Reads:
    """What a stage reads: its own data, its needs, and the source data that it knows only through what was made of them."""

    setting: str | None
    data: dict[str, Any]
    runs: tuple[str, ...]
    source_data: dict[str, dict[str, Any]] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Return plain data for the run's record."""
        return {
            "setting": self.setting,
            "data": self.data,
            "runs": list(self.runs),
            "source_data_only_through": self.source_data,
        }


def is_synthesis(config: Mapping[str, Any]) -> bool:
    """Say whether the run makes a pseudo data set."""
    return makes(config) == "pseudo_data"


def reads_pseudo(config: Mapping[str, Any]) -> bool:
    """Say whether the run reads a pseudo data set: PP, distillation on pseudo samples, or P-SSL."""
    return (
        reads(config) == "pseudo"
        or any(node.get("pseudo") for _, node in objectives_of(config))
        or any(node.get("_reads_") == "pseudo" for node in _opened(config))
    )


def is_closed(config: Mapping[str, Any]) -> bool:
    """Say whether the source data are closed to this run."""
    setting = config.get("setting")
    return setting == "source_free" or (setting is None and (is_synthesis(config) or reads_pseudo(config)))


def check(stage: Stage) -> Reads:
    """Return what the stage reads.

    Raises:
        UserError: it, or a network that it starts from, opens source data without `setting=oracle`.
    """
    config = stage.config
    setting = config.get("setting")
    if setting == "source" and (is_synthesis(config) or reads_pseudo(config)):
        raise UserError(
            f"{config.get('name')} makes or reads pseudo data, so the source data are closed to it: setting=source is for the "
            "source classifier and the generator; leave setting null"
        )
    below = _below(stage)
    if setting != "oracle":
        for need in below.values():
            if need.config.get("setting") == "oracle":
                raise UserError(
                    f"{config.get('name')} needs {need.config.get('name')}, which opens the source data as an oracle: "
                    "only a configuration with setting=oracle may"
                )
    assets = dict(_assets(stage, below))
    if is_closed(config):
        for opener in _openers(stage):
            for key, data in assets.items():
                if any(overlap(opened, data) for opened in _opened(opener.config)):
                    raise UserError(_refusal(stage, opener, key, data))
    return Reads(
        setting or ("source_free" if is_closed(config) else None),
        _shown(config.get("data") or {}),
        tuple(need.key for need in below.values()),
        {key: _shown(data) for key, data in assets.items()},
    )


def overlap(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Say whether two `data` nodes are of one set and share a class. Names and numbers of classes cannot be compared: that counts."""
    keys = ("_target_", "fingerprint", "dataset")
    if any(first.get(key) != second.get(key) for key in keys):
        return False
    ours, theirs = first.get("classes"), second.get("classes")
    if ours is None or theirs is None or {type(c) for c in ours} != {type(c) for c in theirs}:
        return True
    return bool(set(ours) & set(theirs))


def _opened(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the nodes of the sets that a run looks into: its data, and unlabelled ones beside them."""
    unlabelled = (config.get("method") or {}).get("unlabelled")
    return [config.get("data") or {}, *([unlabelled] if isinstance(unlabelled, Mapping) else [])]


def _assets(stage: Stage, below: Mapping[str, Stage]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield key and data of the runs that were trained on source data and are given away, at any depth. below: see `_below`."""
    if not below:
        return
    given = {
        Weights.of(stage.config, where).need
        for where, _ in networks(stage.config)
        if where in ("source", "teacher") or where.startswith("frozen.")
    } | {
        "source.weights",
        "teacher.weights",
        *(f"{where}.weights" for where, _ in networks(stage.config) if where.startswith("frozen.")),
    }
    for role, need in below.items():
        config = need.config
        closed = (
            config.get("setting") == "source_free"
        )  # a generator that was trained from the classifier alone
        known = config.get("setting") == "source" or (makes(config) == "generator" and not closed)
        if known or (role in given and is_closed(stage.config) and not reads_pseudo(config)):
            yield need.key, config.get("data") or {}
        else:
            yield from _assets(need, _below(need))


def _openers(stage: Stage) -> Iterator[Stage]:
    """Yield the stage and those below it that are no assets and open data other than pseudo data."""
    method = stage.config.get("method") or {}
    opens_nothing = is_synthesis(stage.config) and method.get("labelling") == "uniform"
    if reads(stage.config) != "pseudo" and not opens_nothing:
        yield stage
    below = _below(stage)
    assets = {identity_of(key) for key, _ in _assets(stage, below)}
    for need in below.values():
        if identity_of(need.key) not in assets:
            yield from _openers(need)


def _below(stage: Stage) -> dict[str, Stage]:
    """Return the stages that a stage builds on: its needs, and the runs whose folders (or files in them) it names, as `<section>.<key>`."""
    found: dict[str, Stage] = dict(stage.needs)
    for where, _ in networks(stage.config):
        weights = Weights.of(stage.config, where)
        if weights.kind != "need" and (run := weights.run()) is not None:
            found[f"{where}.weights"] = _stage_of(run)
    places = {
        f"method.objectives.{name}.pseudo": node.get("pseudo") for name, node in objectives_of(stage.config)
    }
    if reads(stage.config) == "pseudo":
        places["data.root"] = (stage.config.get("data") or {}).get("root")
    for key, value in places.items():
        if isinstance(value, str) and not is_need(value) and (run := run_around(Path(value).expanduser())):
            found[key] = _stage_of(run)
    return found


def _stage_of(run: Run) -> Stage:
    config, folder = run.config, run.path.resolve()
    depth = len(Path(str(config.get("name") or "")).parts)
    return dataclasses.replace(
        recorded(config, Store(folder.parents[depth])), key=f"{config.get('name')}/{folder.name}"
    )


def _refusal(stage: Stage, opener: Stage, key: str, data: Mapping[str, Any]) -> str:
    who = stage.config.get("name")
    how = "opens" if opener is stage else f"starts from {opener.config.get('name')}, which opens"
    classes = data.get("classes") or "all"
    return (
        f"{who} is a source-free stage, but {how} the source data: {_shown(data)['name']} (classes {classes}), on which "
        f"{key} was trained. Choose other target data or classes (data.classes), or declare setting=oracle"
    )


def _shown(data: Mapping[str, Any]) -> dict[str, Any]:
    name = str(data.get("_target_", "")).rpartition(".")[2]
    kept = {
        key: data[key]
        for key in ("dataset", "root", "classes", "per_class", "fingerprint")
        if data.get(key) is not None
    }
    return {"name": name, **kept}


@dataclass(frozen=True)
class Recorded:
    """A stage as the store knows it: the needs are read from the folders of their runs."""

    key: str
    config: Mapping[str, Any]
    needs: Mapping[str, Recorded]


def recorded(config: Mapping[str, Any], store: Store) -> Recorded:
    """Return a planned configuration with the needs that exist in the store."""
    needs = {}
    for role, entry in (config.get("needs") or {}).items():
        run = store.at(entry["run"])
        if (run.path / "config.yaml").is_file():
            needs[role] = dataclasses.replace(recorded(run.config, store), key=run.key)
    return Recorded(f"{config.get('name')}/{identify(config)}", config, needs)


def reads_of(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the record of what a planned run reads, from the store it lies in; None where no setting applies to it.

    Raises UserError as `check` does.
    """
    found = check(recorded(config, Store(config["runs_dir"])))
    return found.record() if found.setting else None
