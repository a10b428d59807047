"""Pseudo data sets, whatever their sizes: the same bytes however they are made, and no damaged byte goes unseen."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tutelage.data import cache, pseudo
from tutelage.errors import UserError
from tutelage.generators import shards
from tutelage.generators.conditioning import Conditioning
from tutelage.generators.noise import NoiseDomain
from tutelage.generators.protocol import to_bytes

CLASSES = 3
MICRO_BATCH = 4
LABELLINGS = st.sampled_from(["uniform", "soft", "sampled", "argmax"])


def generator():
    made = NoiseDomain((1, 3, 3), CLASSES)
    made.micro_batch = MICRO_BATCH
    return made


def make(folder, labelling="soft", count=10, shard_size=MICRO_BATCH, ranks=(0,)):
    """Make a set, each rank in its turn, and return the manifest of the last."""
    predictions = torch.randn(7, CLASSES, generator=torch.Generator().manual_seed(1)).softmax(dim=1)
    given = None if labelling == "uniform" else predictions
    labels = Conditioning(labelling, classes=CLASSES, seed=2, predictions=given)
    made = generator()
    wanted = shards.recipe(made, labels, count=count, seed=3)
    cache.forget()
    for rank in ranks:
        manifest = shards.write(
            folder, made, labels, wanted, shard_size=shard_size, rank=rank, world_size=len(ranks)
        )
    return manifest


def files(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def says_the_same(text, other):
    """Whether two JSON texts differ in white space alone."""
    with contextlib.suppress(ValueError):
        return json.loads(text) == json.loads(other)
    return False


@settings(deadline=None, max_examples=60)
@given(data=st.data(), labelling=LABELLINGS, count=st.integers(1, 40), shard_size=st.integers(1, 50))
def test_neither_batch_nor_shard_size_nor_ranks_nor_a_kill_change_a_byte(data, labelling, count, shard_size):
    ranks = data.draw(st.integers(1, 5).flatmap(lambda world: st.permutations(range(world))), label="ranks")
    with tempfile.TemporaryDirectory() as whole, tempfile.TemporaryDirectory() as parts:
        expected = make(whole, labelling, count, shard_size=count)
        made = make(parts, labelling, count, shard_size, ranks)
        assert made["content_sha256"] == expected["content_sha256"]
        found = pseudo.read(parts)
        conditions = found.labels if found.soft_labels is None else found.soft_labels
        batch = data.draw(st.integers(1, count), label="batch")
        images = [
            generator().sample(conditions[i : i + batch], found.seeds[i : i + batch])
            for i in range(0, count, batch)
        ]
        assert torch.equal(found.images, to_bytes(torch.cat(images)))
        kept = files(parts)
        for name in data.draw(st.sets(st.sampled_from(sorted(set(kept) - {"recipe.json"}))), label="gone"):
            (Path(parts) / name).unlink()
        again = make(parts, labelling, count, shard_size, data.draw(st.permutations(ranks), label="then"))
        assert again == made
        assert files(parts) == kept


@settings(deadline=None, max_examples=150)
@given(data=st.data(), labelling=LABELLINGS)
def test_no_damaged_byte_goes_unseen_and_the_damaged_file_alone_is_made_again(data, labelling):
    with tempfile.TemporaryDirectory() as folder:
        whole = make(folder, labelling)
        kept = files(folder)
        name = data.draw(st.sampled_from(sorted(kept)), label="file")
        place = data.draw(st.integers(0, len(kept[name]) - 1), label="place")
        changed = bytes([kept[name][place] ^ data.draw(st.integers(1, 255), label="bits")])
        damaged = kept[name][:place] + changed + kept[name][place + 1 :]
        assume(not name.endswith(".json") or not says_the_same(damaged, kept[name]))
        (Path(folder) / name).write_bytes(damaged)
        stamps = {path.name: path.stat().st_mtime_ns for path in Path(folder).iterdir()}
        record = name.startswith("shard-") and name.endswith(".json")
        if not record:  # a shard's own record serves who makes the set; who reads it has the manifest
            with pytest.raises(UserError, match=r"damaged|has the format"):
                pseudo.read(folder)
        if name == "recipe.json":  # what the shards are is not guessed
            with pytest.raises(UserError, match="remove"):
                make(folder, labelling)
            return
        assert make(folder, labelling) == whole
        assert files(folder) == kept
        assert len(pseudo.read(folder).images) == whole["count"]
        written = {
            path.name for path in Path(folder).iterdir() if path.stat().st_mtime_ns != stamps[path.name]
        }
        stem = name.partition(".")[0]
        assert written <= {f"{stem}.safetensors", f"{stem}.json", "manifest.json"}
