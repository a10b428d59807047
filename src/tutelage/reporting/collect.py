"""From run folders to rows, and from rows to groups: runs that differ in nothing but their seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from tutelage.errors import UserError
from tutelage.reporting.arm_labels import is_seed, labels
from tutelage.reporting.facts import Facts, NoConfig, Settings, read_facts, settings_of
from tutelage.reporting.index import Index
from tutelage.reporting.row import Row
from tutelage.reporting.settings_by_section import Inputs, Kinds
from tutelage.runs.identity import identity_of
from tutelage.runs.run import Run, State
from tutelage.runs.store import Store

_MOST_INPUTS = 4_000
_AS_FACTS = {field.name for field in fields(Row)} & {field.name for field in fields(Facts)}
"""What a row has of a run's facts as it is."""


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


class Known:
    """What reading one run after another remembers: facts on the disk, and the inputs of runs that several need."""

    def __init__(self, index: Index | None = None) -> None:
        self.index = index
        self.needed: dict[str, Mapping[str, str]] = {}
        self.spelled_out: dict[Any, dict[str, str]] = {}


def collect(
    store: Store, under: str = "", index: Index | None = None, met: dict[str, Row] | None = None
) -> list[Row]:
    """Return a row for every run at or below a name, in the order of their keys.

    A run whose configuration cannot be read becomes a row with the reason and no inputs. index: one that is kept between calls, and
    not written; default: that on the disk, which is. met: the rows that a command read already, by key; takes the others.
    """
    kept = index or Index(store.root)
    known = Known(kept)
    before = {} if met is None else met
    rows = [before.get(run.key) or row_of(run, store, known) for run in store.runs(under)]
    before.update({row.key: row for row in rows})
    if index is None:
        kept.save(store.name_in(under), {row.key for row in rows})
    else:
        kept.remember()
    return rows


def row_of(run: Run, store: Store, known: Known | None = None) -> Row:
    """Read one run; `store` has the runs it needed, `known` remembers between calls.

    A run whose record holds other things than Tutelage writes becomes a row with the reason: it hides no other.
    """
    known = known or Known()
    facts = known.index.facts(run) if known.index else None
    # Its files say whether it is complete, its lock whether it runs.
    state = State.COMPLETE if facts is not None and facts.complete else run.state
    try:
        if facts is None or facts.complete is not (state is State.COMPLETE) or facts.reason(state) is None:
            try:
                facts = known.index.read(run, state) if known.index else read_facts(run, state)
            except NoConfig as error:
                reason = "" if state is State.MISSING else str(error)
                return Row(run.key, run.name, 0, state, {}, {}, reason=reason)
        return _row(run, state, facts, store, known)
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


def _row(run: Run, state: State, facts: Facts, store: Store, known: Known) -> Row:
    return Row(
        key=run.key,
        name=run.name,
        seed=facts.settings.seed,
        state=state,
        inputs=_inputs(facts.settings, store, known),
        reason=facts.reason(state) or "",
        needs=tuple(key for _, key in facts.settings.needs),
        **{name: getattr(facts, name) for name in _AS_FACTS},
    )


def _inputs(own: Settings, store: Store, known: Known) -> Inputs:
    """Return what enters the identity, less the seed, as {dotted key: JSON text}.

    A needed run that the store still has is spelled out by its own inputs and its seed, so that runs whose
    needs differ in nothing but a seed can be told from those whose needs differ in kind.
    """
    if not own.needs:
        return own.inputs
    section = own.inputs.sections.get("needs", {})
    others = len(own.inputs) - len(section)
    spelled = dict(section)
    for role, key in own.needs:
        if key not in known.needed:
            known.needed[key] = {}  # runs that need each other, which no command makes, end here
            needed = _settings(store, key, known)
            if needed is not None:
                known.needed[key] = {**_inputs(needed, store, known), "seed": str(needed.seed)}
        if known.needed[key]:
            del spelled[f"needs.{role}.run"]
            spelled |= {f"needs.{role}.{name}": text for name, text in known.needed[key].items()}
        if others + len(spelled) > _MOST_INPUTS:
            raise ValueError(f"with the runs it needs it has more than {_MOST_INPUTS:,} settings")
    # Runs that need the same share what is spelled out.
    spelled = known.spelled_out.setdefault(tuple(spelled.items()), spelled)
    return Inputs({**own.inputs.sections, "needs": spelled})


def _settings(store: Store, key: str, known: Known) -> Settings | None:
    try:
        run = store.at(key)
        facts = known.index.facts(run) if known.index else None
        return settings_of(run.config) if facts is None else facts.settings
    except UserError:  # removed, or damaged: its key still tells it apart
        return None


def group(rows: Sequence[Row]) -> list[Group]:
    """Put runs together that differ in nothing but the seed, ordered by the groups' first start.

    A setting named `seed` or `..._seed` (of the run, or of a run it needs) counts as the seed if it equals
    the run's seed in all the runs it could separate, and as a setting like any other if not.
    """
    kinds = Kinds(counts=lambda key: not is_seed(key))
    clusters: dict[tuple[int, ...], list[Row]] = {}
    for row in rows:
        if row.inputs:
            clusters.setdefault(kinds.kind(Inputs.of(row.inputs)), []).append(row)
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for kind, members in clusters.items():
        seed_keys = sorted({key for row in members for key in kinds.others(Inputs.of(row.inputs))})
        fixed = [key for key in seed_keys if any(row.inputs.get(key) != str(row.seed) for row in members)]
        for row in members:
            groups.setdefault((kind, *(row.inputs.get(key) for key in fixed)), []).append(row)
    ordered = sorted(groups.values(), key=lambda g: (min(r.started or "~" for r in g), g[0].name, g[0].key))
    arms = [tuple(sorted(rows, key=lambda row: (row.seed, row.key))) for rows in ordered]
    return [Group(label, rows) for label, rows in zip(labels(arms), arms, strict=True)]


def prerequisites(rows: Iterable[Row]) -> set[str]:
    """Return the identities of the runs that other rows needed."""
    return {identity_of(key) for row in rows for key in row.needs}


def gap_reason(row: Row | None, metric: str) -> str:
    """Say why a cell of a table has no value."""
    if row is None:
        return "missing"
    return row.reason or (f"no {metric} in its result" if row.state is State.COMPLETE else str(row.state))
