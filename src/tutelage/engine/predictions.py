"""From a network's outputs to answers in words: classes by name with probabilities, labels, or values in their own unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from tutelage.data.base import DataModule
from tutelage.errors import UserError
from tutelage.tasks import Binary, Classification, Forecasting, MultiLabel, Regression


def answer_of(data: DataModule) -> dict[str, Any]:
    """Return what the outputs of a network for these data mean, as plain values: `kind`, `names` and `scale` (mean, deviation)."""
    task = data.task
    names = data.facts.get("classes") or (
        data.facts.get("target") if isinstance(task, MultiLabel | Regression) else None
    )
    size = 2 if isinstance(task, Binary) else task.output_size
    kinds = {
        Classification: "classes",
        Binary: "binary",
        MultiLabel: "labels",
        Regression: "values",
        Forecasting: "values",
    }
    kind = next((kind for one, kind in kinds.items() if isinstance(task, one)), task.kind or task.name)
    if names is None or len(names) != size:
        names = [str(number) for number in range(size)] if kind != "tokens" else None
    scale = data.facts.get("target_scale") if kind == "values" else None
    return {
        "task": task.name,
        "kind": kind,
        "names": None if names is None else list(map(str, names)),
        "scale": scale,
    }


def answers(outputs: Tensor, answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each output.

    outputs: (n, ...) of the network.
    answer: as of `answer_of`.

    Classes: `prediction`, `probability`, and `p(<class>)` of each. Labels: those with at least one half, and all probabilities. Values: by
    name, in the unit of the file.
    """
    kind, names = answer["kind"], answer["names"]
    if kind not in ("classes", "binary", "labels", "values"):
        raise UserError(
            f"predict answers with classes, labels or values of a sample; this network's task is {answer['task']}"
        )
    outputs = outputs.float().flatten(1)
    if kind == "values":
        mean, deviation = answer["scale"] or ([0.0], [1.0])
        values = outputs * outputs.new_tensor(deviation) + outputs.new_tensor(mean)
        return [dict(zip(names, row, strict=True)) for row in values.tolist()]
    if kind == "labels":
        return [_labels(row, names) for row in outputs.sigmoid().tolist()]
    both = outputs.new_zeros(len(outputs), 2)
    if kind == "binary":
        both[:, 1:] = outputs
    return [_class(row, names) for row in (both if kind == "binary" else outputs).softmax(1).tolist()]


def _class(row: Sequence[float], names: Sequence[str]) -> dict[str, Any]:
    best = max(range(len(row)), key=row.__getitem__)
    shown = {f"p({name})": round(p, 6) for name, p in zip(names, row, strict=True)}
    return {"prediction": names[best], "probability": round(row[best], 6), **shown}


def _labels(row: Sequence[float], names: Sequence[str]) -> dict[str, Any]:
    there = [name for name, p in zip(names, row, strict=True) if p >= 0.5]
    return {
        "prediction": ";".join(there),
        **{f"p({name})": round(p, 6) for name, p in zip(names, row, strict=True)},
    }
