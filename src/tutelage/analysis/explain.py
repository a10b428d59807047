"""`tutelage analyse explain`: pictures of what answers rest on, and numbers that say what the pictures are worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tutelage.analysis import attribution_scores as scores
from tutelage.analysis.analysis_request import Outcome, Request, Subject
from tutelage.analysis.attributions import EXPLAINERS, SIGNED, USUAL, cannot, explained
from tutelage.analysis.explanation_picture import Picture, draw
from tutelage.analysis.opening import opened, whole
from tutelage.analysis.question import Question, joined
from tutelage.engine.shared_work import shared
from tutelage.errors import UserError, named
from tutelage.reporting.statistics import Summary, bounds_of, summarize
from tutelage.runs.frozen_networks import ROLES

SAMPLES = 64
PICTURED = 4
"""Samples in the figure."""
MOST_ROWS = 6
"""Networks in the figure."""


def outcome(request: Request) -> Outcome:
    """Return what `tutelage analyse explain` prints, records, tabulates and draws."""
    asked = _asked(request.options["explainers"])
    samples = whole("samples", request.options, SAMPLES)
    rows: list[dict[str, Any]] = []
    lines: list[str] = []
    record: dict[str, Any] = {"networks": {}}
    pictures: list[Picture] = []
    shown: dict[str, Any] = {}
    for subject in request.subjects:
        network, data, batches = opened(subject, request, samples=samples)
        batch = joined(batches)
        question = Question.of(network, data, batch)
        names = _fitting(asked, question, subject, lines if not pictures else None)
        others = dict(_others(subject, request, samples, lines))
        theirs: dict[str, dict[str, Tensor]] = {role: {} for role in others}
        maps: dict[str, Tensor] = {}
        details: dict[str, Any] = {}
        found = shared(names, partial(_explanation, question=question, others=others))
        for name, (own, of_others, row, details[name]) in zip(names, found, strict=True):
            maps[name] = own
            for role, other in of_others.items():
                theirs[role][name] = other
            whose = {"network": subject.label, "arm": subject.arm, "seed": subject.seed, "explainer": name}
            rows.append(whose | row)
            lines.append(_line(subject.label, rows[-1], others))
        random = torch.rand(question.real.shape, generator=torch.Generator().manual_seed(0)).to(
            question.real.device
        )
        rows.append(
            {"network": subject.label, "arm": subject.arm, "seed": subject.seed, "explainer": "random order"}
            | _faithful(question, random, details.setdefault("random order", {}))
        )
        lines.append(_line(subject.label, rows[-1], {}))
        record["networks"][subject.label] = details
        if (
            subject.arm not in {one.label.rpartition(" ")[0] for one in pictures}
            and len(pictures) < MOST_ROWS
        ):
            pictures.append(Picture(subject.label, maps))
            pictures += [Picture(f"{subject.label}:{role}", found) for role, found in theirs.items() if found]
        shown = shown or {"batch": batch, "data": data, "question": question}
    lines += _over_runs(rows)
    record["samples"] = len(shown["batch"].inputs)
    record["index"] = shown["batch"].index.tolist()
    return (
        lines,
        record,
        rows,
        lambda path: draw(pictures[:MOST_ROWS], path, count=PICTURED, signed=SIGNED, **shown),
    )


def _explanation(
    name: str, question: Question, others: Mapping[str, Question]
) -> tuple[Tensor, dict[str, Tensor], dict[str, float], dict[str, Any]]:
    """Return the maps of one explainer, those of other networks by role, the columns of its row and its details."""
    maps = explained(name, question)
    details: dict[str, Any] = {}
    row = _faithful(question, maps, details)
    theirs = {role: explained(name, other) for role, other in others.items() if not cannot(name, other)}
    for role, other in theirs.items():
        row |= _agreement(role, maps, other, question)
    details["randomised"] = scores.randomised(question, partial(explained, name), maps)
    return maps, theirs, row | {"randomised": details["randomised"][-1][1]}, details


def _asked(words: str) -> tuple[str, ...]:
    """Return the explainers asked for; none where those that fit are."""
    return tuple(EXPLAINERS) if words == "all" else named("explainers", words, EXPLAINERS)


def _fitting(
    asked: Sequence[str], question: Question, subject: Subject, lines: list[str] | None
) -> list[str]:
    """Return the explainers of a network: those asked for, which all must fit, or the usual and all that fit."""
    every = asked and set(asked) != set(EXPLAINERS)
    found = []
    for name in asked or USUAL:
        if not (why := cannot(name, question)):
            found.append(name)
        elif every:
            raise UserError(f"{subject.label}: {why}; explainers=... names others: {', '.join(EXPLAINERS)}")
        elif lines is not None:
            lines.append(f"without {name}: {why}")
    return found


def _others(subject: Subject, request: Request, samples: int, lines: list[str]) -> list[tuple[str, Question]]:
    """Return the frozen networks of a run that answer the same question, by role."""
    if subject.role:
        return []
    found = []
    for role in ROLES:
        if not subject.run.config.get(role):
            continue
        try:
            network, data, batches = opened(replace(subject, role=role), request, samples=samples)
            found.append((role, Question.of(network, data, joined(batches))))
        except UserError as error:
            lines.append(f"{subject.label}: no agreement with its {role}: {error}")
    return found


def _faithful(question: Question, maps: Tensor, details: dict[str, Any]) -> dict[str, float]:
    """Insertion and deletion: columns of a row, and the mean curves."""
    row: dict[str, float] = {}
    for name, curve in zip(("insertion", "deletion"), scores.curves(question, maps), strict=True):
        details[name] = [round(float(one), 5) for one in curve.mean(axis=0)]
        row |= _columns(name, summarize(scores.area(curve).tolist(), bounds=(0.0, 1.0)))
    return row


def _agreement(role: str, ours: Tensor, theirs: Tensor, question: Question) -> dict[str, float]:
    """Rank correlation with another network's maps of the same samples, and of other samples."""
    values = scores.rank_correlations(ours, theirs, question.real)
    chance = scores.by_chance(ours, theirs, question.real)
    kept = values[np.isfinite(values)].tolist()
    return _columns(f"agreement_{role}", summarize(kept, bounds=bounds_of("kappa"))) | {
        f"agreement_{role}_n": len(kept),
        f"agreement_{role}_by_chance": float(np.nanmean(chance)) if np.isfinite(chance).any() else math.nan,
    }


def _columns(name: str, found: Summary) -> dict[str, float]:
    return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}


def _line(label: str, row: dict[str, Any], others: dict[str, Any]) -> str:
    """One explainer of one network, in words."""

    def said(name: str) -> str:
        return f"{row[name]:.3f} ({row[f'{name}_low']:.3f} to {row[f'{name}_high']:.3f})"

    parts = [f"insertion {said('insertion')}", f"deletion {said('deletion')}"]
    for role in others:
        key = f"agreement_{role}"
        if key in row:
            parts.append(f"agreement with its {role} {said(key)}, by chance {row[f'{key}_by_chance']:.3f}")
    if "randomised" in row:
        parts.append(f"with shuffled weights {row['randomised']:.3f}")
    return f"{label}, {row['explainer'].replace('_', ' ')}: {', '.join(parts)}"


def _over_runs(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The means over an arm's runs, with intervals."""
    lines = []
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["arm"], row["explainer"]), []).append(row)
    for (arm, name), found in groups.items():
        if len(found) < 2:
            continue
        parts = []
        for key in ("insertion", "deletion", *(f"agreement_{role}" for role in ROLES)):
            values = [row[key] for row in found if key in row]
            if len(values) > 1:
                over = summarize(values, bounds=bounds_of("kappa" if "agreement" in key else "share"))
                parts.append(f"{key.replace('_', ' ')} {over.mean:.3f} ({over.low:.3f} to {over.high:.3f})")
        lines.append(f"{arm}, {name.replace('_', ' ')}, 95 % over {len(found)} runs: {', '.join(parts)}")
    return lines
