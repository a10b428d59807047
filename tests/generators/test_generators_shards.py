"""Pseudo data sets: the same bytes however they are made, restartable, and every damage found."""

import json
import shutil

import pytest
import torch

from tutelage.data import cache
from tutelage.data.pseudo import PseudoImages, read
from tutelage.errors import UserError
from tutelage.generators import shards
from tutelage.generators.conditioning import Conditioning
from tutelage.generators.gan_networks import GanGenerator
from tutelage.generators.noise import NoiseDomain
from tutelage.generators.protocol import to_bytes
from tutelage.generators.synthesis import synthesize
from tutelage.models.convnet import ConvNet

COUNT, CLASSES = 50, 4


def generator(seed=0):
    torch.manual_seed(seed)
    made = GanGenerator((1, 8, 8), CLASSES, width=4, latent=8)
    made.micro_batch = 4
    return made


def conditioning(labelling="soft"):
    predictions = torch.randn(9, CLASSES, generator=torch.Generator().manual_seed(1)).softmax(dim=1)
    return Conditioning(labelling, classes=CLASSES, seed=2, predictions=predictions)


def make(folder, labelling="soft", made=None, count=COUNT, seed=3, **options):
    made, labels = made or generator(), conditioning(labelling)
    wanted = shards.recipe(made, labels, count=count, seed=seed, origin={"run": "x"})
    return shards.write(folder, made, labels, wanted, **{"shard_size": 12, **options})


@pytest.fixture(autouse=True)
def fresh_cache():
    cache.forget()


def test_the_set_is_what_the_generator_gives_for_its_labels_and_seeds(tmp_path):
    manifest = make(tmp_path)
    found = read(tmp_path)
    assert found.manifest == manifest
    assert torch.equal(found.soft_labels, conditioning().labels(0, COUNT))
    assert torch.equal(found.labels, found.soft_labels.argmax(dim=1))
    assert torch.equal(found.images, to_bytes(generator().sample(found.soft_labels, found.seeds)))
    hard = read_other(tmp_path / "hard", "argmax")
    assert hard.soft_labels is None
    assert torch.equal(hard.labels, found.labels)


def read_other(folder, labelling):
    make(folder, labelling)
    return read(folder)


@pytest.mark.parametrize("shard_size", [4, 5, 20, 1000])
def test_bytes_do_not_depend_on_shards_ranks_or_batches(tmp_path, shard_size):
    whole = make(tmp_path / "a")
    for world in (1, 3):
        folder = tmp_path / f"b{world}"
        results = [
            make(folder, shard_size=shard_size, rank=r, world_size=world) for r in reversed(range(world))
        ]
        assert results[-1]["content_sha256"] == whole["content_sha256"]
        assert torch.equal(read(folder).images, read(tmp_path / "a").images)


def test_a_rank_that_is_first_leaves_no_manifest(tmp_path):
    assert make(tmp_path, rank=0, world_size=2) is None
    with pytest.raises(UserError, match="not complete"):
        read(tmp_path)
    assert make(tmp_path, rank=1, world_size=2) is not None
    assert len(read(tmp_path).images) == COUNT


def test_a_killed_run_goes_on_and_makes_nothing_twice(tmp_path, monkeypatch):
    whole = make(tmp_path / "whole")
    sample, calls = GanGenerator.sample, []

    def dying(self, labels, seeds):
        calls.append(len(labels))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return sample(self, labels, seeds)

    monkeypatch.setattr(GanGenerator, "sample", dying)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "broken")
    assert not (tmp_path / "broken" / "manifest.json").exists()
    assert make(tmp_path / "broken") == whole
    assert calls == [12, 12, 12, 12, 12, 2]
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "broken").iterdir()}
    assert make(tmp_path / "broken") == whole
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "broken").iterdir()} == stamps
    assert calls == [12, 12, 12, 12, 12, 2]


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "record gone", "swapped"])
def test_a_damaged_shard_is_found_and_made_again(tmp_path, damage):
    whole = make(tmp_path)
    shard = tmp_path / "shard-00001.safetensors"
    good = shard.read_bytes()
    if damage == "flipped":
        shard.write_bytes(good[:-5] + bytes([good[-5] ^ 1]) + good[-4:])
    elif damage == "cut":
        shard.write_bytes(good[: len(good) // 2])
    elif damage == "gone":
        shard.unlink()
    elif damage == "record gone":
        shard.with_suffix(".json").unlink()
    else:
        shutil.copy(tmp_path / "shard-00002.safetensors", shard)
    if damage != "record gone":
        with pytest.raises(UserError, match=r"shard-00001.*(damaged|missing)"):
            read(tmp_path)
    assert make(tmp_path) == whole
    assert shard.read_bytes() == good
    assert len(read(tmp_path).images) == COUNT


def test_another_recipe_is_refused_with_what_differs(tmp_path):
    make(tmp_path)
    for options, words in (
        ({"made": generator(seed=1)}, "generator is"),
        ({"made": NoiseDomain((1, 8, 8), CLASSES)}, "generator is"),
        ({"count": COUNT + 1}, "count is 50 there, 51 wanted"),
        ({"seed": 4}, "seed is 3 there, 4 wanted"),
        ({"labelling": "uniform"}, "labelling is 'soft' there, 'uniform' wanted"),
    ):
        with pytest.raises(UserError, match=words):
            make(tmp_path, **options)
    with pytest.raises(UserError, match="at least 1"):
        make(tmp_path / "none", count=0)
    with pytest.raises(UserError, match="no pseudo data set"):
        read(tmp_path / "nowhere")


def test_a_manifest_of_another_format_is_refused(tmp_path):
    make(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(UserError, match="format 2"):
        read(tmp_path)


def test_pseudo_images_are_a_data_set_that_says_what_it_read(tmp_path):
    manifest = make(tmp_path, "uniform", count=80)
    data = PseudoImages(
        root=str(tmp_path), batch_size=8, validation=0.2, test=0.2, normalization=[[0.5], [0.5]]
    )
    data.setup()
    assert data.task.output_size == CLASSES
    facts = data.summary()["pseudo"]
    assert facts["content_sha256"] == manifest["content_sha256"]
    assert facts["generator"]["sha256"] == manifest["generator"]["sha256"]
    batch = next(iter(data.train_stream(seed=0, device="cpu")))
    found = read(tmp_path)
    torch.testing.assert_close(batch.inputs, found.images[batch.index].float() / 127.5 - 1)
    assert torch.equal(batch.targets, found.labels[batch.index])


def test_synthesis_conditions_on_what_the_classifier_says_of_the_targets(tmp_path):
    torch.manual_seed(0)
    classifier = ConvNet((1, 8, 8), CLASSES, width=4).eval()
    targets = torch.randn(9, 1, 8, 8)
    options = {"labelling": "soft", "count": 20, "seed": 3, "classifier": classifier, "shard_size": 8}
    manifest = synthesize(tmp_path / "a", generator(), targets=targets.split(4), **options)
    assert manifest == synthesize(tmp_path / "b", generator(), targets=[targets], **options)
    soft = read(tmp_path / "a").soft_labels
    torch.testing.assert_close(soft, classifier(targets).softmax(dim=1)[torch.arange(20) % 9])
    for labelling, given, words in (
        ("uniform", {"classifier": classifier}, "reads neither"),
        ("soft", {"classifier": classifier}, "target data"),
        ("soft", {"targets": [targets]}, "source classifier"),
        (
            "soft",
            {"targets": [targets], "classifier": ConvNet((1, 8, 8), 9, width=4).eval()},
            "knows 9 classes",
        ),
    ):
        with pytest.raises(UserError, match=words):
            synthesize(tmp_path / "c", generator(), labelling=labelling, count=4, **given)
