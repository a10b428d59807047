"""`tutelage evaluate`: the selected network of a finished run, on its own data or on any that fit."""

from __future__ import annotations

import logging
from typing import Any

from tutelage.cli.in_ranks import run_in_ranks
from tutelage.cli.reader import Given
from tutelage.errors import UserError
from tutelage.reporting.console import say

log = logging.getLogger("tutelage")
DEVICES = {"cpu": "cpu", "gpu": "cuda", "mps": "mps"}


def run(given: Given) -> int:
    """Run the command; return its exit code."""
    try:
        return run_in_ranks("evaluate", given, _evaluate)
    except RuntimeError as error:
        raise UserError(f"cannot evaluate on device={given.options['device']!r}: {error}") from error


def _evaluate(given: Given) -> int:
    options = {key: given.options[key] for key in ("split", "device", "runs_dir", "code")}
    say(evaluate(given.names[0], given.settings, **options))
    return 0


def evaluate(name: str, data_words: list[str], *, split: str, device: str, runs_dir: str, code: str) -> str:
    """Evaluate a run's network and return the line to print."""
    import torch

    from tutelage.engine.load import evaluate_network
    from tutelage.engine.shared_work import is_first
    from tutelage.runs import provenance
    from tutelage.runs.json_lines import append_json_line

    run, loaded, data, network = opened(name, data_words, runs_dir=runs_dir, code=code)
    data.open_test()
    if split in data.splits:
        _check_seen(run, loaded.data, data, split)
    target = torch.device(DEVICES[device])
    metrics = evaluate_network(network.to(target), data.task, data.batches(split, device=target), target)
    (made_by,) = provenance.commits([{"code": provenance.code()}])
    facts = {"at": provenance.now(), "code": made_by, "device": device}
    if is_first():
        row = {"split": split, "data": data.summary(), "metrics": metrics, **facts}
        append_json_line(run.path / "evaluations.jsonl", row)
    return f"{run.key} on {split}: " + ", ".join(f"{key} {value:.4f}" for key, value in metrics.items())


def opened(name: str, data_words: list[str], *, runs_dir: str, code: str) -> tuple[Any, Any, Any, Any]:
    """Return a run, what `load_run` gives of it, the data that the words name (its own without any), and its network made to take them.

    Raises UserError where the network cannot answer on these data.
    """
    from tutelage.runs.store import Store, short

    run = Store(runs_dir).find(name)
    overrides = _data_overrides(run.config, data_words)
    from tutelage.engine import trust
    from tutelage.engine.class_names import listed
    from tutelage.engine.data_sets import build_data
    from tutelage.engine.inherited import VOCABULARY, check_answers
    from tutelage.engine.load import load_run
    from tutelage.models.frozen import FrozenNetwork, recorded

    check_answers(short(run.key), run.config)
    loaded = load_run(run.path, runs_dir=runs_dir, code=trust.modules(code))
    data = loaded.data
    if overrides is not None:
        data = build_data(loaded.config | {"data": overrides}, judged_as=loaded.data)
        theirs, ours = loaded.data.facts.get("classes"), data.facts.get("classes")
        if theirs and ours and list(theirs) != list(ours) and data.renumber(theirs):
            of = f"{len(ours)} of the {len(theirs)} that the network knows"
            log.info(f"{run.key}: classes are matched by their names: {of}")
        if (
            tuple(data.input_shape) != tuple(loaded.data.input_shape)
            or data.task.output_size != loaded.data.task.output_size
        ):
            known = set(theirs or ()) & set(ours or ())
            if known and (unknown := [one for one in ours or () if one not in known]):
                raise UserError(
                    f"{run.key} does not know the classes {listed(unknown)} of these data; it knows {listed(theirs or ())}. "
                    "data.classes=[...] keeps some"
                )
            raise UserError(
                f"{run.key} was trained on inputs {tuple(loaded.data.input_shape)} and {loaded.data.task.output_size} outputs; "
                f"these data have {tuple(data.input_shape)} and {data.task.output_size}"
            )
        if loaded.data.facts.get(VOCABULARY) != data.facts.get(VOCABULARY):
            raise UserError(
                f"{run.key} was trained with another vocabulary than that of these data: each token would mean another word to it"
            )
        _check_classes(run.key, loaded.data.summary(), data.summary())
    # Inputs come normalised as their own training split says; the network expects what it was trained with.
    expects = recorded(loaded.data.normalization, like=data.normalization)
    network = FrozenNetwork(loaded.network, expects=expects, given=data.normalization)
    return run, loaded, data, network


def _check_seen(run: Any, its: Any, given: Any, split: str) -> None:
    """Warn of samples that the network was trained on, with or without their labels, or selected on."""
    from tutelage.engine.seen import seen_in_training

    key, unlabelled = run.key, (run.config.get("method") or {}).get("unlabelled")
    without = unlabelled if isinstance(unlabelled, str) else ""
    if seen := seen_in_training(its, given, split, without):
        count = len(given.splits[split])
        how = "trained on" if not without else "trained, with or without labels, on"
        log.warning(f"{key} was {how} {seen} of the {count} samples judged here: this is no test of it")
    elif its is given and split == "validation":
        log.warning("%s was selected on this split: this is no test of it", key)


def _check_classes(key: str, its: dict[str, Any], given: dict[str, Any]) -> None:
    from tutelage.engine.class_names import classes_apart, listed, names_in

    theirs, ours = names_in(its), names_in(given)
    apart = classes_apart(theirs, ours)
    if theirs and ours and apart == "order":
        raise UserError(
            f"{key} numbers the classes {listed(theirs)}, these data {listed(ours)}: give data.classes=[{','.join(theirs)}]"
        )
    if theirs and ours and apart:
        log.warning(
            f"{key} was trained on the classes {listed(theirs)} and is judged on {listed(ours)}, number by number"
        )


def _data_overrides(config: dict[str, Any], words: list[str]) -> dict[str, Any] | None:
    if not words:
        return None
    from tutelage.config.compose import compose, setting_value

    if any(word.startswith("data=") for word in words):
        return dict(compose(words)["data"])
    data = dict(config["data"])
    for word in words:
        key = word.lstrip("+").partition("=")[0]
        data[key.removeprefix("data.")] = setting_value(word)
    given = {word.lstrip("+").partition("=")[0] for word in words}
    if "data.root" in given and "data.fingerprint" not in given and data.get("fingerprint") is not None:
        data["fingerprint"] = _fingerprint(data)
    return data


def _fingerprint(data: dict[str, Any]) -> str | None:
    """Return the fingerprint of other files: that of the run's own would have the caches hand out its own data."""
    from tutelage.data.fingerprint import fingerprint, pseudo_fingerprint

    if ".pseudo." in data["_target_"]:
        return pseudo_fingerprint(data["root"])
    return fingerprint(data["root"], "images" if ".image_folder." in data["_target_"] else None)
