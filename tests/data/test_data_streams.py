"""The stateless stream: ranks, epochs, seeking, evaluation, the closed test set; and files against memory, workers against none."""

import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tutelage.data.base import DataModule
from tutelage.data.image_folder import ImageFolder
from tutelage.data.synthetic import Synthetic
from tutelage.errors import TestSetClosed, UserError
from tutelage.tasks import Batch

CROP_AND_FLIP = {"random_crop": {"padding": 2}, "horizontal_flip": {}}


def ready(module: DataModule) -> DataModule:
    module.prepare()
    module.setup()
    return module


def synthetic(batch_size: int = 12, samples: int = 90, **options: object) -> DataModule:
    options = {"augment": CROP_AND_FLIP} | options
    return ready(Synthetic(samples=samples, shape=(2, 6, 6), batch_size=batch_size, **options))


def steps(module: DataModule, start: int, stop: int, **share: int) -> list[Batch]:
    stream = module.train_stream(seed=share.pop("seed", 0), device="cpu", **share)
    stream.seek(start, stop)
    batches = list(stream)
    assert len(batches) == len(stream) == stop - start
    return batches


def same(first: Batch, second: Batch) -> bool:
    return all(a is b is None or torch.equal(a, b) for a, b in zip(first, second, strict=True))


def joined(parts: list[Batch]) -> Batch:
    return Batch(*(torch.cat(p) for p in list(zip(*parts, strict=True))[:3]))


@settings(deadline=None, max_examples=25)
@given(
    world=st.sampled_from([1, 2, 3, 4]),
    per_rank=st.integers(1, 5),
    seed=st.integers(0, 2**31),
    start=st.integers(0, 40),
)
def test_ranks_share_the_global_batch(world: int, per_rank: int, seed: int, start: int) -> None:
    module = synthetic(batch_size=world * per_rank)
    whole = steps(module, start, start + 4, seed=seed)
    shares = [steps(module, start, start + 4, seed=seed, rank=r, world_size=world) for r in range(world)]
    for step, batch in enumerate(whole):
        assert same(batch, joined([share[step] for share in shares]))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31), start=st.integers(0, 30), length=st.integers(1, 12))
def test_seeking_equals_continuing(seed: int, start: int, length: int) -> None:
    module = synthetic()
    through = steps(module, 0, start + length, seed=seed)[start:]
    assert all(
        same(a, b) for a, b in zip(through, steps(module, start, start + length, seed=seed), strict=True)
    )


def test_an_epoch_reads_each_sample_once_in_an_order_of_its_own() -> None:
    module = synthetic(batch_size=9, samples=90)
    per_epoch = module.steps_per_epoch
    assert len(module.splits["train"]) == 65 and per_epoch == 7
    epochs = [torch.cat([b.index for b in steps(module, e * per_epoch, (e + 1) * per_epoch)]) for e in (0, 1)]
    for order in epochs:
        assert len(order.unique()) == 63 and np.isin(order, module.splits["train"]).all()
    assert not torch.equal(*epochs)
    assert torch.equal(epochs[0], torch.cat([b.index for b in steps(module, 0, per_epoch)]))
    assert not torch.equal(epochs[0], torch.cat([b.index for b in steps(module, 0, per_epoch, seed=1)]))


def test_augmentation_differs_between_epochs() -> None:
    module = synthetic(batch_size=65)
    first, second = steps(module, 0, 2)
    a, b = (batch.inputs[batch.index.argsort()] for batch in (first, second))
    changed = (a != b).flatten(1).any(1)
    assert changed.float().mean() > 0.8
    targets = [batch.targets[batch.index.argsort()] for batch in (first, second)]
    assert torch.equal(*targets)


def test_the_split_does_not_depend_on_the_training_seed_and_iterating_repeats() -> None:
    module = synthetic()
    stream = module.train_stream(seed=5, device="cpu")
    stream.seek(3, 6)
    assert all(same(a, b) for a, b in zip(stream, list(stream), strict=True))
    other = synthetic(split_seed=1)
    assert module.summary()["split_sha256"] != other.summary()["split_sha256"]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_reads_each_sample_once_over_the_ranks(world: int) -> None:
    module = synthetic(samples=101)
    parts = [list(module.batches("validation", rank=r, world_size=world, device="cpu")) for r in range(world)]
    seen = torch.cat([batch.index for part in parts for batch in part])
    assert sorted(seen.tolist()) == module.splits["validation"].tolist()
    once = list(module.batches("validation", device="cpu"))
    assert all(same(a, b) for a, b in zip(once, module.batches("validation", device="cpu"), strict=True))


def test_the_test_set_opens_when_told() -> None:
    module = synthetic()
    with pytest.raises(TestSetClosed):
        module.batches("test", device="cpu")
    module.open_test()
    assert sum(len(batch.index) for batch in module.batches("test", device="cpu")) == len(
        module.splits["test"]
    )


def test_unknown_split_and_uneven_ranks_are_the_users_mistakes() -> None:
    module = synthetic(batch_size=10)
    with pytest.raises(UserError, match="did you mean 'validation'"):
        module.batches("valdiation", device="cpu")
    with pytest.raises(UserError, match="multiple of 4"):
        module.train_stream(seed=0, rank=0, world_size=4, device="cpu")
    with pytest.raises(UserError, match="batch_size"):
        Synthetic(batch_size=0)


def test_a_batch_larger_than_the_set_shrinks_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    module = synthetic(batch_size=500)
    assert "`batch_size`=500 exceeds the 65 training samples" in caplog.text
    assert module.batch_size == 65 and module.steps_per_epoch == 1


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for label in "ab":
        (tmp_path / "set" / label).mkdir(parents=True)
        for i in range(24):
            pixels = rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / label / f"{i:03d}.png")
    return tmp_path / "set"


@pytest.mark.parametrize("augment", [CROP_AND_FLIP, {"random_resized_crop": {}, "horizontal_flip": {}}, None])
def test_workers_do_not_change_a_batch_nor_the_global_generator(folder: Path, augment: dict | None) -> None:
    def run(workers: int) -> tuple[list[Batch], list[Batch]]:
        module = ready(
            ImageFolder(
                root=folder,
                image_size=12,
                batch_size=8,
                storage="stream",
                num_workers=workers,
                augment=augment,
            )
        )
        stream = module.train_stream(seed=3, device="cpu")
        stream.seek(0, 7)
        next(iter(stream))  # an iteration left half-way must not leak into the next
        stream.seek(1, 6)
        found = list(stream), list(module.batches("validation", device="cpu"))
        module.teardown()
        return found

    state = torch.get_rng_state()
    for none, two in zip(run(0), run(2), strict=True):
        assert len(none) and all(same(a, b) for a, b in zip(none, two, strict=True))
    assert torch.equal(state, torch.get_rng_state())


def test_streaming_equals_memory(folder: Path) -> None:
    options = {
        "root": folder,
        "image_size": 12,
        "batch_size": 8,
        "augment": CROP_AND_FLIP,
        "normalization": [[0.5] * 3, [0.2] * 3],
    }
    memory, files = (ready(ImageFolder(storage=s, num_workers=0, **options)) for s in ("resident", "stream"))
    assert all(same(a, b) for a, b in zip(steps(memory, 0, 9), steps(files, 0, 9), strict=True))
    assert memory.summary()["split_sha256"] == files.summary()["split_sha256"]


def test_a_corrupt_file_met_by_a_worker_is_named_without_a_traceback(folder: Path) -> None:
    module = ready(
        ImageFolder(
            root=folder, image_size=12, batch_size=8, storage="stream", num_workers=1, normalization=None
        )
    )
    for path in folder.glob("a/*.png"):
        path.write_bytes(path.read_bytes()[: os.path.getsize(path) // 2])  # noqa: PTH202
    with pytest.raises(UserError, match=r"cannot read the image .*\.png") as caught:
        list(module.train_stream(seed=0, device="cpu"))
    assert "Traceback" not in str(caught.value)
    module.teardown()


def test_workers_end_with_the_module_and_come_back_when_asked(folder: Path) -> None:
    module = ready(ImageFolder(root=folder, image_size=12, batch_size=8, storage="stream", num_workers=2))
    stream = module.train_stream(seed=0, device="cpu")
    before = set(multiprocessing.active_children())
    first = list(stream)
    list(module.batches("validation", device="cpu"))
    unfinished = iter(stream)
    next(unfinished)
    workers = set(multiprocessing.active_children()) - before
    assert len(workers) == 4
    start = time.monotonic()
    module.teardown()
    assert not any(worker.is_alive() for worker in workers)
    assert time.monotonic() - start < 4  # five seconds is what the loader waits for a lost worker
    assert all(same(a, b) for a, b in zip(first, stream, strict=True))
    module.teardown()
    stream.close()


def test_a_random_crop_of_files_without_a_size_is_cut_as_in_memory(folder: Path) -> None:
    """`image_size: null` is the default: a crop is resized to the image's own size, however the files are held."""
    options = {
        "root": folder, "image_size": None, "batch_size": 8, "normalization": None, "num_workers": 0,
        "augment": {"random_resized_crop": {"scale": [0.1, 0.2]}},
    }  # fmt: skip
    memory, files = (ready(ImageFolder(storage=kind, **options)) for kind in ("resident", "stream"))
    for a, b in zip(steps(memory, 0, 3), steps(files, 0, 3), strict=True):
        assert torch.equal(a.index, b.index) and a.inputs.shape == b.inputs.shape == (8, 3, 20, 24)
        pairs = torch.stack([a.inputs.flatten(1), b.inputs.flatten(1)], dim=1)
        assert min(float(torch.corrcoef(pair)[0, 1]) for pair in pairs) > 0.95
    whole = next(iter(files.batches("validation", device="cpu")))
    assert whole.inputs.shape[1:] == (3, 20, 24)
