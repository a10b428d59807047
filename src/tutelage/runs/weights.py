"""Where a network's weights come from, read once: the settings of a network that say so, and the run or file behind them (no torch)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tutelage.errors import UserError, choices, nearest
from tutelage.runs.digests import file_digest
from tutelage.runs.identity import WEIGHTS_DIGEST, is_need
from tutelage.runs.run import Run
from tutelage.runs.store import Store

NETWORKS = ("model", "guide", "teacher", "source")
"""The sections of a configuration that describe a network; further frozen ones stand in `frozen`, by name."""

FILE = "network.safetensors"
"""The file of a run's folder that holds its network."""

RESERVED: dict[str, str] = {
    "weights": "scratch | pretrained | a file | a run | need:<name>",
    WEIGHTS_DIGEST: "the sha256 of a file of weights, noted when a command is composed",
    "init_seed": "pins the initialisation, whatever the run's seed",
    "new_head": "true: the final layer starts afresh, for other classes",
    "head": "the final layer, where it is not the one that gives the outputs",
    "entry": "which of several networks in a file of weights is meant",
    "norm_mode": "of a frozen network: eval (batch norms use running statistics) | batch (those of the batch)",
    "pruned": "the share of its weights, or of each layer's channels, that is taken away before training",
    "pruned_by": "weights (the smallest; the default) | channels (of the least norm) | random",
    "quantised": "int8: it computes with rounded weights and inputs, so that it learns to be quantised",
    "input_size": "of a frozen network: the size of the images that it sees",
}
"""The settings of a network that are no arguments of its class, and what they say."""

YIELDING = ("head", "entry", "input_size", "pruned", "pruned_by", "quantised")
"""Those of them that are its class's where that has an argument of the name."""

EXPECTED = "scratch, pretrained, a file (.safetensors, .pth, .ckpt, ...), a run (its folder, or <name>/<first digits>), or need:<name>"

Kind = Literal["scratch", "pretrained", "file", "run", "need"]


@dataclass(frozen=True)
class Weights:
    """Where the weights of one network come from.

    where: the network's section: `model`, `teacher`, `frozen.<name>`.
    said: as in the configuration.
    kind: what that is.
    runs_dir: where runs are looked for.
    needs: the runs that the configuration needs, by name; their keys once they are planned, else empty.
    digest: sha256 of the file, where the composed configuration notes it.
    new_head, head, entry: see `RESERVED`.
    """

    where: str
    said: str
    kind: Kind
    runs_dir: Path
    needs: Mapping[str, str] = field(default_factory=dict)
    digest: str | None = None
    new_head: bool = False
    head: Any = None
    entry: str | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any], where: str) -> Weights:
        """Read a network's section of a resolved configuration; one that is not there has no weights but its initialisation.

        Raises UserError for a value of another kind, or a need that the configuration does not name.
        """
        node = node_of(config, where)
        said = node.get("weights")
        said = "scratch" if said is None else said
        if not isinstance(said, str) or not said:
            raise UserError(f"{where}.weights must be {EXPECTED}; got {said!r}")
        for key in ("new_head", "entry"):
            kind, word = (bool, "true or false") if key == "new_head" else (str, "text")
            if node.get(key) is not None and not isinstance(node[key], kind):
                raise UserError(f"{where}.{key} must be {word}, got {node[key]!r}")
        runs_dir = Path(str(config.get("runs_dir") or "runs")).expanduser()
        return cls(
            where=where,
            said=said,
            kind=_kind(said, runs_dir),
            runs_dir=runs_dir,
            needs=_needs(config),
            digest=node.get(WEIGHTS_DIGEST),
            new_head=bool(node.get("new_head")),
            head=node.get("head"),
            entry=node.get("entry"),
        )

    @property
    def are_given(self) -> bool:
        """Whether they are loaded from a file or a run, rather than drawn or downloaded."""
        return self.kind not in ("scratch", "pretrained")

    @property
    def need(self) -> str | None:
        """The name in `need:<name>`, else None."""
        return self.said.removeprefix("need:") if self.kind == "need" else None

    @property
    def needed(self) -> str | None:
        """The key of the run behind `need:<name>`; None where it is no need, or not planned yet."""
        return self.needs.get(self.need or "") or None

    def path(self) -> Path:
        """Return the file of weights. Raises UserError saying what is missing; do not ask where there is none to load."""
        if self.kind == "need":
            key = _key(f"{self.where}.weights={self.said}", self.said, self.needs)
            path = Store(self.runs_dir).at(key).path / FILE  # a key that could not be a run's is refused
            if not path.exists():
                raise UserError(
                    f"{self.where}.weights={self.said}: the run {self.needed} has no {FILE}; give its train command, with rerun=true if "
                    "it is complete"
                )
            return path
        path = _place(self.said, self.runs_dir)
        if not path.exists():
            near = nearest(self.said, ("scratch", "pretrained"))
            raise UserError(
                f"{self.where}.weights={self.said}: no such file or run"
                + (
                    f" (the run in {path.parent} has {'its weights in' if (path.parent / FILE).is_file() else 'no'} {FILE})"
                    if (path.parent / "config.yaml").is_file()
                    else " (the folder of a Hugging Face model is its `name`, with weights=pretrained)"
                    if (path.parent / "config.json").is_file()
                    else ""
                )
                + f". Expected {EXPECTED}"
                + (f"; did you mean '{near}'?" if near else "")
            )
        return path

    def run(self) -> Run | None:
        """Return the run that the weights come from; None where they are of no run, or of a file that stands alone."""
        if not self.are_given:
            return None
        if self.kind == "need":
            return None if self.needed is None else Store(self.runs_dir).at(self.needed)
        return run_around(_place(self.said, self.runs_dir))


def networks(config: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place and the node of every network that a configuration describes."""
    for name in NETWORKS:
        if isinstance(config.get(name), dict):
            yield name, config[name]
    frozen = config.get("frozen")
    for name, node in frozen.items() if isinstance(frozen, Mapping) else ():
        if isinstance(node, dict):
            yield f"frozen.{name}", node


def stamp(config: dict[str, Any]) -> None:
    """Note the content of each network's weights that are a file or a run: it, not the place, is part of a run's identity.

    A run's short name becomes its whole key, so that a run made later cannot make it mean two. What is missing is left: it is named
    when it is opened.
    """
    for where, node in networks(config):
        weights = Weights.of(config, where)
        if weights.kind not in ("file", "run"):
            continue
        if weights.kind == "run" and not Path(weights.said).expanduser().exists():
            node["weights"] = Store(weights.runs_dir).find(weights.said).key
        path = _place(str(node["weights"]), weights.runs_dir)
        if path.is_file():
            node[WEIGHTS_DIGEST] = file_digest(path)


def run_around(path: Path) -> Run | None:
    """Return the run whose folder is, or holds, a path (the file of its network, its shards); None where there is none."""
    for folder in (path, path.parent):
        if (folder / "config.yaml").is_file() and (folder / "provenance.json").is_file():
            return Run(folder.resolve())
    return None


def needed_folder(config: Mapping[str, Any], setting: str, value: str) -> Path:
    """Return the folder of the run behind a setting's `need:<name>`. Raises UserError where the configuration has no such need."""
    key = _key(f"{setting}={value}", value, _needs(config))
    return Store(str(config["runs_dir"])).at(key).path  # a key that could not be a run's is refused


def node_of(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the section of a network, such as `teacher` or `frozen.<name>`; empty where there is none."""
    node: Any = config
    for part in where.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return dict(node) if isinstance(node, Mapping) else {}


def _needs(config: Mapping[str, Any]) -> dict[str, str]:
    needs = config.get("needs")
    entries = needs.items() if isinstance(needs, Mapping) else ()
    return {
        name: str(entry.get("run") or "") if isinstance(entry, Mapping) else "" for name, entry in entries
    }


def _key(said: str, value: str, needs: Mapping[str, str]) -> str:
    name = value.removeprefix("need:")
    if name not in needs:
        raise UserError(f"{said}: the configuration names no need '{name}'; {choices(name, needs)}")
    return needs[name]


def _kind(said: str, runs_dir: Path) -> Kind:
    if said == "scratch":
        return "scratch"
    if said == "pretrained":
        return "pretrained"
    if is_need(said):
        return "need"
    path = Path(said).expanduser()
    return "file" if path.is_file() or not (path.is_dir() or _short(said, runs_dir)) else "run"


def _place(said: str, runs_dir: Path) -> Path:
    """The file that a path, a run's folder or a run's short name means; the path as it is where there is nothing."""
    path = Path(said).expanduser()
    if not path.exists() and (run := _short(said, runs_dir)):
        path = run.path
    return path / FILE if path.is_dir() else path


def _short(said: str, runs_dir: Path) -> Run | None:
    """The run that a short name means, None where it means none. Raises UserError where it means several."""
    store = Store(runs_dir)
    if (runs_dir / said / "config.yaml").is_file():
        return store.at_path(runs_dir / said)
    return store.find(said) if store.means_runs(said) else None
