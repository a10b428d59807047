"""Nothing moved: every method's loss rows, weights and test values are those that were recorded, bit by bit on the same processor kind.

Where torch or the processor's instruction set is another than that of the record, float32 sums round another way and training amplifies
it: the first rows then agree to TOLERANCE (a run without vector instructions differs by up to 0.03 there), and no more is asked.
"""

from __future__ import annotations

import json

import pytest
from golden_runs import (
    NUMBERS,
    Inputs,
    content,
    do,
    do_broken,
    do_on_two_ranks,
    environment,
    numbers,
)
from golden_words import RESUMED, SYNTHESIS, TWO_RANKS, WORDS, full

RECORD = json.loads(NUMBERS.read_text())
EXACT = environment() == RECORD["environment"]
TOLERANCE = 0.05


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return Inputs(tmp_path_factory.mktemp("golden"))


def holds(run, name):
    """Hold a run against the record."""
    found, expected = numbers(run), RECORD["runs"][name]
    if EXACT:
        assert found == expected
        return
    assert [list(row) for row in found["rows"]] == [list(row) for row in expected["rows"]]
    assert found["rows"][0] == pytest.approx(expected["rows"][0], rel=TOLERANCE, abs=TOLERANCE)


def test_the_record_has_every_run_and_no_other():
    assert set(RECORD["runs"]) == {*WORDS, *TWO_RANKS}


@pytest.mark.parametrize("name", WORDS)
def test_a_run_gives_the_recorded_numbers(name, inputs, tmp_path):
    holds(do(inputs.fill(full(WORDS[name])), tmp_path), name)


@pytest.mark.parametrize("name", RESUMED)
def test_a_run_broken_off_and_resumed_gives_the_recorded_numbers(name, inputs, tmp_path):
    holds(do_broken(inputs.fill(full(WORDS[name])), tmp_path, RESUMED[name]), name)


@pytest.mark.parametrize("name", TWO_RANKS)
def test_two_ranks_give_the_recorded_numbers(name, tmp_path):
    holds(do_on_two_ranks(full(TWO_RANKS[name]), tmp_path / "run"), name)


def test_a_pseudo_data_set_has_the_recorded_bytes(tmp_path):
    made = content(do(SYNTHESIS, tmp_path).result)
    assert made == RECORD["synthesis"] or not EXACT
