"""From run folders to rows, and from rows to groups: runs that differ in nothing but their seed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tutelage.errors import UserError
from tutelage.runs.declared import DECLARATIONS
from tutelage.runs.identity import canonical, flatten, identity_of, without_excluded
from tutelage.runs.provenance import commits
from tutelage.runs.records import read_json
from tutelage.runs.run import Run, State
from tutelage.runs.store import Store

_MOST_INPUTS = 4_000
_FEW = 4
"""How many settings an arm's label may name."""


@dataclass(frozen=True)
class TestData:
    """What a run was tested on: the kind of data, its samples, and the digest that the data gave of what is asked (none, in old runs)."""

    __test__ = False  # pytest would otherwise collect the class by its name

    kind: str
    samples: str
    digest: str | None

    def is_that_of(self, other: TestData) -> bool:
        """Say whether values on the two may be compared."""
        same = self.digest == other.digest if self.digest and other.digest else self.samples == other.samples
        return self.kind == other.kind and same


@dataclass(frozen=True)
class Row:
    """One run as a report sees it.

    `inputs` maps dotted keys of what enters the identity (needed runs spelled out under `needs.<name>.`) to
    JSON text; the seed is apart. `metrics` maps "<split>/<metric>" to the value of the checkpoint chosen on
    validation.
    """

    key: str
    name: str
    seed: int
    state: State
    inputs: Mapping[str, str]
    metrics: Mapping[str, float]
    monitor: str | None = None
    mode: str | None = None
    best_step: int | None = None
    reason: str = ""
    commits: tuple[str, ...] = ()
    started: str = ""
    finished: str = ""
    train_s: float | None = None
    machine: str = ""
    needs: tuple[str, ...] = ()
    tested_on: TestData | None = None


@dataclass(frozen=True)
class Group:
    """The runs of one arm: one configuration, several seeds."""

    label: str
    rows: tuple[Row, ...]

    @property
    def name(self) -> str:
        """The runs' name."""
        return self.rows[0].name

    def values(self, metric: str) -> dict[int, float]:
        """Return the metric ("test/accuracy") by seed, for the runs that are complete and have it."""
        done = (row for row in self.rows if row.state is State.COMPLETE)
        return {row.seed: row.metrics[metric] for row in done if metric in row.metrics}

    def gaps(self, metric: str, seeds: Iterable[int]) -> dict[int, str]:
        """Return the seeds without a value, with the reason."""
        there = {row.seed: row for row in self.rows}
        values = self.values(metric)
        return {
            seed: gap_reason(there.get(seed), metric)
            for seed in sorted({*seeds, *there})
            if seed not in values
        }


def collect(store: Store, under: str = "") -> list[Row]:
    """Return a row for every run at or below a name, in the order of their keys.

    A run whose configuration cannot be read becomes a row with the reason and no inputs.
    """
    known: dict[str, dict[str, str]] = {}
    return [row_of(run, store, known) for run in store.runs(under)]


def row_of(run: Run, store: Store, known: dict[str, dict[str, str]] | None = None) -> Row:
    """Read one run; `store` has the runs it needed, `known` remembers them between calls.

    A run whose record holds other things than Tutelage writes becomes a row with the reason: it hides no other.
    """
    state = run.state
    try:
        return _row(run, state, store, known)
    except (
        UserError,
        OSError,
        AttributeError,
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        ArithmeticError,
        RecursionError,
    ) as error:
        said = str(error) if isinstance(error, UserError | OSError) else f"{type(error).__name__}: {error}"
        return Row(run.key, run.name, 0, state, {}, {}, reason=f"its record is damaged: {said:.200}")


def _row(run: Run, state: State, store: Store, known: dict[str, dict[str, str]] | None) -> Row:
    try:
        config = run.config
    except UserError as error:
        return Row(run.key, run.name, 0, state, {}, {}, reason="" if state is State.MISSING else str(error))
    result = (run.result or {}) if state is State.COMPLETE else {}
    best, selection = result.get("best", {}), result.get("selection", {})
    attempts = run.attempts
    return Row(
        key=run.key,
        name=run.name,
        seed=_seed(config),
        state=state,
        inputs=inputs_of(config, store, {} if known is None else known),
        metrics=_metrics(best or result.get("metrics", {}))
        | _metrics({"best_on_test": result.get("best_on_test", {}).get("test")}),
        monitor=selection.get("monitor"),
        mode=selection.get("mode"),
        best_step=best.get("step"),
        reason=_why_unfinished(run, state),
        commits=tuple(commits(attempts)),
        started=str(attempts[0].get("started", "")) if attempts else "",
        finished=str(attempts[-1].get("finished", "")) if attempts else "",
        train_s=result.get("cost", {}).get("train_s"),
        machine=_machine(attempts[-1].get("machine", {}), config) if attempts else "",
        needs=tuple(_needed(config).values()),
        tested_on=_tested_on(run, config),
    )


def inputs_of(config: Mapping[str, Any], store: Store, known: dict[str, dict[str, str]]) -> dict[str, str]:
    """Return what enters the identity, less the seed, as {dotted key: JSON text}.

    A needed run that the store still has is spelled out by its own inputs and its seed, so that runs whose
    needs differ in nothing but a seed can be told from those whose needs differ in kind.
    """
    inputs = {
        key: json.dumps(canonical(value), sort_keys=True)
        for key, value in flatten(without_excluded(config))
        if key.rpartition(".")[2] not in DECLARATIONS  # of a `_target_`, which is there itself
    }
    inputs.pop("seed", None)
    for role, key in _needed(config).items():
        if key not in known:
            known[key] = {}  # runs that need each other, which no command makes, end here
            try:
                needed = store.at(key).config
                known[key] = {**inputs_of(needed, store, known), "seed": str(_seed(needed))}
            except UserError:  # removed, or damaged: its key still tells it apart
                pass
        if known[key]:
            del inputs[f"needs.{role}.run"]
            inputs |= {f"needs.{role}.{name}": text for name, text in known[key].items()}
        if len(inputs) > _MOST_INPUTS:
            raise ValueError(f"with the runs it needs it has more than {_MOST_INPUTS:,} settings")
    return inputs


def group(rows: Sequence[Row]) -> list[Group]:
    """Put runs together that differ in nothing but the seed, ordered by the groups' first start.

    A setting named `seed` or `..._seed` (of the run, or of a run it needs) counts as the seed if it equals
    the run's seed in all the runs it could separate, and as a setting like any other if not.
    """
    clusters: dict[tuple[tuple[str, str], ...], list[Row]] = {}
    for row in rows:
        if row.inputs:
            kind = tuple(sorted((key, text) for key, text in row.inputs.items() if not is_seed(key)))
            clusters.setdefault(kind, []).append(row)
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for kind, members in clusters.items():
        seed_keys = sorted({key for row in members for key in row.inputs if is_seed(key)})
        fixed = [key for key in seed_keys if any(row.inputs.get(key) != str(row.seed) for row in members)]
        for row in members:
            groups.setdefault((kind, *(row.inputs.get(key) for key in fixed)), []).append(row)
    ordered = sorted(groups.values(), key=lambda g: (min(r.started or "~" for r in g), g[0].name, g[0].key))
    return _label([Group("", tuple(sorted(rows, key=lambda row: (row.seed, row.key)))) for rows in ordered])


def prerequisites(rows: Iterable[Row]) -> set[str]:
    """Return the identities of the runs that other rows needed."""
    return {identity_of(key) for row in rows for key in row.needs}


def gap_reason(row: Row | None, metric: str) -> str:
    """Say why a cell of a table has no value."""
    if row is None:
        return "missing"
    return row.reason or (f"no {metric} in its result" if row.state is State.COMPLETE else str(row.state))


def _label(groups: list[Group]) -> list[Group]:
    short: dict[str, set[str]] = {}
    for item in groups:
        short.setdefault(item.name.rpartition("/")[2], set()).add(item.name)
    twins: dict[str, list[Group]] = {}
    for item in groups:
        twins.setdefault(item.name, []).append(item)
    labels = []
    for item in groups:
        last = item.name.rpartition("/")[2]
        label = last if len(short[last]) == 1 else item.name
        keys = _telling_keys([twin.rows[0].inputs for twin in twins[item.name]])
        inputs = item.rows[0].inputs
        told = [f"{name}={shown(key, inputs.get(key))}" for key, name in _short_names(keys).items()]
        labels.append(f"{label} ({', '.join(told)})" if told else label)
    return [replace(item, label=label) for item, label in zip(groups, labels, strict=True)]


def _telling_keys(inputs: list[Mapping[str, str]]) -> list[str]:
    # A few settings that differ are all named, lest one be taken for the cause of what two did; what goes hand in hand within a section (a
    # change of data set alters ten keys) is named by one. Of many, the fewest that tell all groups apart, found greedily.
    differing = sorted({k for one in inputs for k in one if len({other.get(k) for other in inputs}) > 1})
    kinds_of = {k: _kinds([one.get(k) for one in inputs]) for k in differing}
    legible = {k for k in differing if not any(is_digest(one.get(k)) for one in inputs)}
    together: dict[tuple[Any, ...], list[str]] = {}
    for key in sorted(legible):
        together.setdefault((key.split(".")[0], *kinds_of[key]), []).append(key)
    few = sorted(min(keys, key=lambda key: (key.count("."), len(key))) for keys in together.values())
    if len(few) <= _FEW and len({tuple(one.get(k) for k in few) for one in inputs}) == len(inputs):
        return few

    def preference(key: str) -> tuple[bool, int, int]:
        return key in legible, -key.count("."), -len(key)

    alike: dict[
        tuple[int, ...], list[str]
    ] = {}  # keys that tell the same apart: the best of them stands for all
    for key in differing:
        alike.setdefault(kinds_of[key], []).append(key)
    differing = sorted(max(keys, key=preference) for keys in alike.values())
    chosen: list[str] = []
    told = 1
    while differing and told < len(inputs):
        kinds = {key: len({tuple(one.get(k) for k in (*chosen, key)) for one in inputs}) for key in differing}
        best = max(differing, key=lambda key: (kinds[key], *preference(key)))
        if kinds[best] == told:
            break
        chosen.append(best)
        told = kinds[best]
    return sorted(chosen)


def _kinds(values: list[str | None]) -> tuple[int, ...]:
    """Return the values by number, in the order in which they first come."""
    numbers: dict[str | None, int] = {}
    return tuple(numbers.setdefault(value, len(numbers)) for value in values)


def _short_names(keys: list[str]) -> dict[str, str]:
    last = [key.rpartition(".")[2] for key in keys]
    return {
        key: name if last.count(name) == 1 and name != "_target_" else key
        for key, name in zip(keys, last, strict=True)
    }


def shown(key: str, text: str | None) -> str:
    """Return an input's JSON text as a label shows it."""
    if text is None:
        return "-"
    text = text.strip('"')
    if is_digest(text):
        return text[:8]
    return text.rpartition(".")[2] if key.endswith("_target_") else text


def is_digest(text: str | None) -> bool:
    """Say whether an input's JSON text is a digest."""
    return bool(re.fullmatch(r'"?[0-9a-f]{32,}"?', text or ""))


def is_seed(key: str) -> bool:
    """Say whether a key is that of a seed."""
    last = key.rpartition(".")[2]
    return last == "seed" or last.endswith("_seed")


def _tested_on(run: Run, config: Mapping[str, Any]) -> TestData | None:
    path = run.path / "setup.json"
    if not path.is_file():
        return None
    data, given = read_json(path).get("data") or {}, config.get("data") or {}
    kind = ", ".join(str(given[key]) for key in ("_target_", "dataset", "name") if given.get(key))
    indices = data.get("split_sha256", {}).get("test")
    samples = json.dumps([indices, data.get("fingerprint"), data.get("output_size")])
    return TestData(kind, samples, data.get("test_sha256"))


def _seed(config: Mapping[str, Any]) -> int:
    seed = config.get("seed", 0)
    return seed if isinstance(seed, int) and 0 <= seed < 2**64 else 0


def _needed(config: Mapping[str, Any]) -> dict[str, str]:
    needs = config.get("needs") or {}
    return {
        role: entry["run"] for role, entry in needs.items() if isinstance(entry, Mapping) and "run" in entry
    }


def _metrics(best: Mapping[str, Any]) -> dict[str, float]:
    return {
        f"{split}/{name}": float(value)
        for split, values in best.items()
        if isinstance(values, Mapping)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _machine(facts: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    on_cpu = (config.get("hardware") or {}).get("accelerator") == "cpu"  # a GPU beside it did nothing
    gpus = [] if on_cpu else facts.get("gpus") or []
    cores = f"{facts.get('cpu', 'unknown processor')}, {facts.get('cores_usable', '?')} cores"
    return f"{len(gpus)} x {gpus[0]}" if gpus else cores


def _why_unfinished(run: Run, state: State) -> str:
    if state is State.FAILED:
        try:
            failure = run.failure or {}
        except UserError as error:
            return str(error)
        message = str(failure.get("message", "")).strip().splitlines()
        kind = str(failure.get("error", ""))
        if kind == "StoppedBelow":  # as fit.stop_below asked: no failure
            return " ".join(message[:1]) or "stopped"
        told = [] if kind == "UserError" else [kind]  # a mistake needs no class name
        return ": ".join(["failed", *told, *message[:1]])
    if state in (State.INTERRUPTED, State.RUNNING):
        rows = run.metrics.rows
        return f"{state} at step {rows[-1]['step']}" if rows else str(state)
    return ""
