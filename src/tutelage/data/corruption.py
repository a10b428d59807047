"""Hard data: wrong labels and missing values, a function of the sample's index and a seed alone (no
torch).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from tutelage.data.splits import derive_seed, uniform
from tutelage.errors import UserError
from tutelage.typed import Rate, checking

LabelNoise = Literal["symmetric", "asymmetric"]


@checking
def flip_labels(
    labels: np.ndarray,
    indices: np.ndarray,
    *,
    rate: Rate,
    classes: int,
    seed: int,
    kind: LabelNoise = "symmetric",
    mapping: Mapping[int, int] | None = None,
) -> tuple[np.ndarray, float]:
    """Return a copy of the labels (N,) with wrong ones at some of the indices, and the realised share of
    wrong labels there.

    rate: share of the affected samples that change, exact up to rounding; the samples changed at a lower
    rate also change at a higher. kind: "symmetric", to another class chosen uniformly; "asymmetric", class c
    to mapping[c], by default to c + 1 with the last to 0; classes that the mapping leaves out keep their
    labels. (Definitions: Patrini et al. 2017, arXiv 1609.03683.)
    """
    old = labels[indices]
    if kind == "symmetric":
        if mapping:
            raise UserError(
                "label_noise_map belongs to label_noise_kind=asymmetric, and the kind is symmetric"
            )
        steps = uniform(len(labels), derive_seed("wrong class", seed))[indices]
        new = (old + 1 + (steps * (classes - 1)).astype(np.int64)) % classes
    else:
        table = np.arange(classes)
        for source, target in (mapping or {c: (c + 1) % classes for c in range(classes)}).items():
            if not (0 <= source < classes and 0 <= target < classes):
                raise UserError(f"label_noise_map {source}: {target} leaves the classes 0 to {classes - 1}")
            table[source] = target
        new = table[old]
    affected = np.flatnonzero(new != old)
    keys = uniform(len(labels), derive_seed("which labels", seed))[indices[affected]]
    changed = affected[np.argsort(keys, kind="stable")[: round(rate * len(affected))]]
    noisy = labels.copy()
    noisy[indices[changed]] = new[changed]
    return noisy, len(changed) / max(len(indices), 1)


def missing_values(first: int, count: int, values: int, *, rate: float, seed: int) -> np.ndarray:
    """Say which values are missing in samples first ... first + count - 1: (count, values) bool, True with
    probability `rate`.

    A sample's row depends on its index, the number of values, the rate (to 1 / 65536) and the seed alone.
    """
    words = -(-values // 4)  # four 16-bit numbers in each 64-bit word
    generator = np.random.PCG64(derive_seed("missing", seed)).advance(first * words)
    raw = np.asarray(generator.random_raw(count * words), dtype="<u8").view("<u2")
    return raw.reshape(count, words * 4)[:, :values] < round(rate * 65536)
