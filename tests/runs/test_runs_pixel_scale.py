"""What images are scaled to where some are generated is said of the plan, before its needs are made."""

from __future__ import annotations

import pytest

from tutelage.errors import UserError
from tutelage.runs.pixel_scale import check


def p_ssl(normalization):
    node = {"pseudo": "need:shards", "normalization": normalization}
    return {"objectives": {"task": {}, "consistency": node}}


GENERATOR = {"_makes_": "generator"}


@pytest.mark.parametrize("given", ["train", None])
def test_a_generator_needs_numbers(given) -> None:
    with pytest.raises(UserError, match=r"set data\.normalization=\[\[0\.5,0\.5,0\.5\],\[0\.5,0\.5,0\.5\]\]"):
        check({"data": {"normalization": given, "channels": 3}, "method": GENERATOR})


def test_pseudo_images_need_numbers() -> None:
    data = {"normalization": "train", "channels": 1}
    with pytest.raises(UserError, match=r"give numbers, data\.normalization=\[\[0\.5\],\[0\.5\]\]"):
        check({"data": data, "method": p_ssl("train")})


@pytest.mark.parametrize(
    "config",
    [
        {"data": {"normalization": [[0.5], [0.5]]}, "method": GENERATOR},
        {"data": {"normalization": None}, "method": p_ssl(None)},
        {"data": {"normalization": "train"}, "method": {}},
        {
            "data": {"root": "mine"},
            "method": GENERATOR,
        },  # a module of the user's own, which scales as it likes
        {},
    ],
)
def test_what_is_right_or_unknown_passes(config) -> None:
    check(config)
