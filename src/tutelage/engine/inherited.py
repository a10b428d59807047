"""What a run inherits with its weights: where they come from, which inputs they know, and whether they suit this run's data."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from torch import nn

from tutelage.data.base import DataModule
from tutelage.engine.class_names import classes_apart, listed, names_in, same_set
from tutelage.engine.instantiate import parameters_of, resolve
from tutelage.errors import UserError
from tutelage.methods.self_supervised import SelfSupervised
from tutelage.models.frozen import Normalization, recorded
from tutelage.runs.bounded import check_archive, parse_json
from tutelage.runs.declared import makes
from tutelage.runs.provenance import changed_files
from tutelage.runs.records import read_json, read_yaml
from tutelage.runs.run import Run
from tutelage.runs.weights import FILE, RESERVED, Weights, node_of

log = logging.getLogger("tutelage")
_SELF_SUPERVISED = f"{SelfSupervised.__module__}.{SelfSupervised.__qualname__}"
OF_A_SPLIT = ("split_seed", "validation", "test", "classes", "without", "group", "time", "folds", "fold")
"""Settings of data that decide which sample is in which split."""
VOCABULARY = "vocabulary_sha256"  # of the words a text's tokens stand for
FROM_DATA = (
    *("input_shape", "num_classes", "output_size", "vocab_size", "per_position", "next_token"),
    *("padding_token", VOCABULARY, "class_names", "tables"),
)
"""What a network's constructor may ask of its data."""


def _folder(weights: Weights) -> Path | None:
    """The folder of the run whose network the weights are; None where they are of no run."""
    path = weights.path() if weights.are_given else None
    return path.parent if path is not None and path.name == FILE else None


def recorded_data(where: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of the data that the run behind a network's weights was trained on; empty where they are of no run."""
    folder = _folder(Weights.of(config, where))
    record = None if folder is None else folder / "setup.json"
    return dict(read_json(record)["data"]) if record is not None and record.is_file() else {}


def recorded_sizes(where: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the record of the run that gives a network its weights says of its data; empty where the weights are of no run."""
    data = recorded_data(where, config)
    if not data:
        return {}
    classes = data["output_size"]
    return {"input_shape": tuple(data["input_shape"]), "output_size": classes, "num_classes": classes}


def expected_normalization(
    weights: Weights, network: nn.Module, *, given: Normalization | None
) -> Normalization | None:
    """Return the (mean, std) per channel that a network's weights were trained with; None where they take what comes.

    given: that of the data. Weights of a run say theirs. A file that says nothing is taken for the published weights of its network,
    where there are such: a log line says so.
    """
    if weights.kind == "scratch":
        return None
    published: Normalization | None = getattr(network, "pretrained_normalization", None)
    if weights.kind == "pretrained":
        return published
    path = weights.path()
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("normalization")
        if text is not None:
            return recorded(parse_json(text.encode()), like=given)
    if published is not None:
        log.info(
            "%s.weights=%s does not say which inputs it was trained with: taken to be those of the published weights, mean %s, std %s",
            weights.where,
            weights.said,
            *(list(part) for part in published),
        )
    return published


def check_code(where: str, config: Mapping[str, Any]) -> None:
    """Warn where a network of the user's own takes weights of a run, and its code is no longer what it was there."""
    weights = Weights.of(config, where)
    folder = _folder(weights)
    if folder is not None and (changed := changed_files(Run(folder).attempts, node_of(config, where))):
        log.warning(
            "%s.weights=%s are of a run with another %s than the one here",
            where,
            weights.said,
            ", ".join(changed),
        )


def check_architecture(where: str, config: Mapping[str, Any]) -> None:
    """Warn where weights of a run fit a network by names and shapes that computes something else with them, such as without residuals.

    Dropout, and what says where weights come from, may differ.
    """
    weights = Weights.of(config, where)
    folder = _folder(weights)
    if folder is None or not (folder / "config.yaml").is_file():
        return
    ours, theirs = node_of(config, where), read_yaml(folder / "config.yaml").get("model")
    if not isinstance(theirs, Mapping) or "_target_" not in theirs:
        return
    parameters, _, _ = parameters_of(resolve(ours["_target_"], where))
    free = {*RESERVED, *FROM_DATA, "_target_", "pretrained", *(key for key in parameters if "drop" in key)}
    apart = {
        key: tuple(node.get(key, getattr(parameters.get(key), "default", None)) for node in (theirs, ours))
        for key in sorted({*ours, *theirs} - free)
    }
    apart = {key: pair for key, pair in apart.items() if pair[0] != pair[1]}
    if theirs["_target_"] != ours["_target_"]:
        apart = {"_target_": (theirs["_target_"], ours["_target_"])}
    if apart:
        log.warning(
            "%s.weights=%s fit this network and were trained in another: %s",
            where,
            weights.said,
            ", ".join(f"{key}={one} there, {other} here" for key, (one, other) in apart.items()),
        )


def check_vocabulary(where: str, config: Mapping[str, Any], data: DataModule) -> None:
    """Raise UserError for weights of a run whose tokens mean other words; only warn where they are trained on."""
    theirs = recorded_data(where, config).get(VOCABULARY)
    if theirs and theirs != data.facts.get(VOCABULARY):
        said = f"{where}.weights={Weights.of(config, where).said} was trained with another vocabulary than that of these data"
        if where != "model":
            raise UserError(
                f"{said}: each token would mean another word to it. Give both one vocabulary: the same "
                "data.tokenizer, or the same training file, data.level and data.min_count"
            )
        log.warning("%s: its embeddings and outputs belong to other words", said)


def check_unseen(where: str, config: Mapping[str, Any], data: DataModule) -> None:
    """Raise UserError for weights of a run that was trained on samples which are to select or to test here."""
    weights, theirs = Weights.of(config, where), recorded_data(where, config)
    folder = _folder(weights)
    splits = None if folder is None else folder / "splits.npz"
    ours = data.summary()
    if (
        theirs
        and same_set({**theirs, "absent": None}, {**ours, "absent": None})
        and theirs.get("absent") != ours.get("absent")
    ):
        raise UserError(
            f"{where}.weights={weights.said} was trained while {len(theirs.get('absent') or ())} images of its set were missing, "
            f"{len(ours.get('absent') or ())} are missing here: its splits are others, and may hold samples that are to test here. "
            "Give the command of the run that made it again, with rerun=true"
        )
    if not theirs or splits is None or not splits.is_file() or not same_set(theirs, ours):
        return
    check_archive(splits, limit=max(2**26, 100 * splits.stat().st_size))  # indices hardly compress
    try:
        with np.load(splits, allow_pickle=False) as file:
            trained = file["train"]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise UserError(
            f"{splits} is damaged ({error}): which samples {where}.weights has seen is not known"
        ) from error
    seen = {name: int(np.isin(data.splits[name], trained).sum()) for name in ("validation", "test")}
    if any(seen.values()):
        raise UserError(
            f"{where}.weights={weights.said} was trained on {seen['validation']} of the validation and {seen['test']} of the test samples "
            f"of this run, which would be no test of it. Both come from one set: give the run that made it the same "
            + (
                ", ".join(_apart(splits.parent, config.get("data") or {}))
                or f"data.split_seed (it has {theirs.get('split_seed')}, this one {data.split_seed}), data.validation and data.test"
            )
        )


def _apart(folder: Path, ours: Mapping[str, Any]) -> list[str]:
    """Return which settings that decide a split are others in a run's data, with both values."""
    recorded = read_yaml(folder / "config.yaml") if (folder / "config.yaml").is_file() else {}
    theirs = recorded.get("data") or {}
    return [
        f"data.{key} (it has {theirs.get(key)}, this one {ours.get(key)})"
        for key in OF_A_SPLIT
        if theirs.get(key) != ours.get(key)
    ]


def check_answers(key: str, config: Mapping[str, Any]) -> None:
    """Raise UserError for the configuration of a run that read no labels, so that its final layer has learnt nothing; or of a generator."""
    check_reads(key, config)
    method = config.get("method")
    if isinstance(method, Mapping) and method.get("_target_") == _SELF_SUPERVISED:
        raise UserError(
            f"{key} was trained without labels: its final layer has learnt nothing, so it gives no answers. `tutelage analyse probe {key}` "
            f"measures its features; model.weights=<this run> model.new_head=true trains it on labels"
        )


def check_reads(key: str, config: Mapping[str, Any]) -> None:
    """Raise UserError for the configuration of a run whose network reads no samples of its data: a generator makes them."""
    if makes(config) == "generator":
        raise UserError(
            f"{key} trained a generator, which makes samples out of noise and gives no answers to any: `tutelage synthesize` makes a data "
            "set with it, and its result.json has what its samples are worth"
        )


def check_teacher(where: str, config: Mapping[str, Any], data: DataModule, *, same_classes: bool) -> None:
    """Raise UserError for a frozen network with other numbers of classes (same_classes: that matters); warn of one that knows nothing."""
    if Weights.of(config, where).kind == "scratch":
        log.warning(
            "the %s is at its random initialisation: %s.weights=scratch. It has nothing to teach but noise",
            f"frozen network '{where.removeprefix('frozen.')}'" if where.startswith("frozen.") else where,
            where,
        )
    elif (folder := _folder(Weights.of(config, where))) is not None and (folder / "config.yaml").is_file():
        check_answers(f"{where}.weights={Weights.of(config, where).said}", Run(folder).config)
    theirs, ours = names_in(recorded_data(where, config)), names_in(data.summary())
    apart = classes_apart(theirs, ours) if same_classes else None
    if theirs and ours and apart:
        advice = (
            f"give data.classes=[{','.join(theirs)}]"
            if apart == "order"
            else "set label_space=other in the objective that compares outputs, or choose data or a teacher with the same classes"
        )
        raise UserError(
            f"the classes of the {where} are {listed(theirs)}, those of these data {listed(ours)}, number by number: {advice}"
        )
