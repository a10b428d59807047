"""Pairing: Algorithm 1 by hand, every strategy, and every list that cannot be."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.alignment.pairing import Pair, Pairing, even_index, table
from tutelage.alignment.taps import Layer
from tutelage.errors import UserError


def layers(prefix: str, kinds: list[str]) -> list[Layer]:
    return [Layer(f"{prefix}{i}", kind, (8, i + 1)) for i, kind in enumerate(kinds)]


def names(pairs: list[Pair]) -> list[tuple[str, str]]:
    return [(pair.guide.name, pair.network.name) for pair in pairs]


def pair(guides: int, networks: int, **settings: Any) -> list[tuple[str, str]]:
    return names(Pairing(**settings)(layers("g", ["conv"] * guides), layers("t", ["linear"] * networks)))


def test_algorithm_1_by_hand() -> None:
    # l = 5 guide layers, t = 9: step 2. l = 3, t = 4: step 1.5, 1.5 rounds to even, 2.
    assert pair(5, 9) == [("g0", "t0"), ("g1", "t2"), ("g2", "t4"), ("g3", "t6"), ("g4", "t8")]
    assert pair(3, 4) == [("g0", "t0"), ("g1", "t2"), ("g2", "t3")]
    assert pair(1, 4) == [("g0", "t0")]
    assert pair(3, 1) == [("g0", "t0"), ("g1", "t0"), ("g2", "t0")]
    # 21 layers of ResNet-18 on 49 of an FCN: step 2.4.
    assert [int(t[1:]) for _, t in pair(21, 49)] == [round(2.4 * i) for i in range(21)]


@given(guides=st.integers(1, 60), networks=st.integers(1, 60))
def test_even_indices_rise_within_range_and_reach_both_ends(guides: int, networks: int) -> None:
    places = [even_index(i, guides, networks) for i in range(guides)]
    assert places == sorted(places)
    assert places[0] == 0
    assert max(places) <= networks - 1
    if guides > 1:
        assert places[-1] == networks - 1


def test_first_and_last_keep_their_places_or_spread() -> None:
    everything = pair(5, 9)
    assert pair(5, 9, strategy="first", k=2) == everything[:2]
    assert pair(5, 9, strategy="last", k=2) == everything[-2:]
    assert pair(5, 9, strategy="first", k=2, positions="spread") == [("g0", "t0"), ("g1", "t8")]
    assert pair(5, 9, strategy="last", k=5) == everything


def test_one_type_one_to_many_and_explicit() -> None:
    guide, network = (
        layers("g", ["linear", "attention", "linear", "attention"]),
        layers("t", ["recurrent"] * 4),
    )
    assert names(Pairing(strategy="type", layer_type="attention")(guide, network)) == [
        ("g1", "t1"),
        ("g3", "t3"),
    ]
    assert names(Pairing(strategy="one_to_many")(guide[:2], network)) == [
        ("g0", "t0"), ("g0", "t1"), ("g1", "t2"), ("g1", "t3")
    ]  # fmt: skip
    explicit = Pairing(strategy="explicit", pairs=[["g3", "t0"], ["g0", "t2"], ["g3", "t2"]])
    assert names(explicit(guide, network)) == [("g3", "t0"), ("g0", "t2"), ("g3", "t2")]


def test_many_to_one_sums_or_keeps_the_last() -> None:
    assert pair(4, 2) == [("g0", "t0"), ("g1", "t0"), ("g2", "t1"), ("g3", "t1")]
    assert pair(4, 2, many_to_one="last") == [("g1", "t0"), ("g3", "t1")]


def test_excluding_the_output_drops_both_last_weight_layers() -> None:
    assert pair(3, 4, exclude_output=True) == [("g0", "t0"), ("g1", "t2")]


def test_non_linearities_and_untappable_layers_do_not_count() -> None:
    guide = [Layer("a", "conv", (1,)), Layer("b", "ReLU", (1,)), Layer("c", "linear", (1,), "it runs twice")]
    assert names(Pairing()(guide, layers("t", ["linear"]))) == [("a", "t0")]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategy": "evn"}, "did you mean 'even'"),
        ({"strategy": "first"}, "needs `k`"),
        ({"k": 2}, "`k` belongs to `strategy`=first|last"),
        ({"strategy": "first", "k": 4}, "`pairing.k` must be from 1 to 3, the guide's layers, got 4"),
        ({"strategy": "last", "k": 0}, "got 0"),
        ({"strategy": "type", "layer_type": "attention"}, "no layer of type 'attention'; known: conv"),
        ({"strategy": "explicit"}, "needs `pairs`"),
        ({"strategy": "explicit", "pairs": []}, "empty list"),
        ({"strategy": "explicit", "pairs": [["g0"]]}, "a pair is"),
        ({"strategy": "explicit", "pairs": [["g0", "t7"]]}, "network has no layer 't7'; did you mean 't"),
        ({"strategy": "explicit", "pairs": [["G0", "t0"]]}, "guide has no layer 'G0'"),
        ({"many_to_one": "mean"}, "known: last, sum"),
        ({"positions": "kept"}, "did you mean 'keep'"),
    ],
)
def test_what_cannot_be_paired_is_told(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        pair(3, 4, **settings)
    assert message in str(error.value)


def test_networks_without_weight_layers_are_told() -> None:
    with pytest.raises(
        UserError, match=r"the guide has no layer to pair: expected one of conv, .* found ReLU"
    ):
        Pairing()([Layer("a", "ReLU", (1,))], layers("t", ["linear"]))
    with pytest.raises(UserError, match="the network has no layer to pair beside its output"):
        Pairing(exclude_output=True)(layers("g", ["conv"] * 2), layers("t", ["linear"]))


def test_the_table_shows_names_kinds_and_shapes() -> None:
    text = table(Pairing()(layers("g", ["conv"] * 2), layers("t", ["linear"] * 2)))
    assert text.splitlines()[0].split() == [
        "#",
        "guide",
        "layer",
        "kind",
        "shape",
        "network",
        "layer",
        "kind",
        "shape",
    ]
    assert text.splitlines()[2].split() == ["2", "g1", "conv", "8x2", "t1", "linear", "8x2"]
