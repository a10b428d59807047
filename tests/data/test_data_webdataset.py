"""Tar files of images give the samples, and the batches at every step, of the same images in a folder."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tutelage.data.image_folder import ImageFolder
from tutelage.data.webdataset import WebDataset
from tutelage.errors import UserError


def png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file, "png")
    return file.getvalue()


def shard(path: Path, samples: list[tuple[str, dict[str, bytes]]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for key, parts in samples:
            for ending, raw in parts.items():
                info = tarfile.TarInfo(f"{key}.{ending}")
                info.size = len(raw)
                archive.addfile(info, io.BytesIO(raw))


def shards(folder: Path, count: int = 24, name: str = "", start: int = 0) -> Path:
    for number in range(3):
        each = range(start + number * count // 3, start + (number + 1) * count // 3)
        shard(
            folder / f"{name}{number:04d}.tar",
            [(f"{i:03d}", {"png": png(i), "cls": b"cat" if i % 2 else b"dog"}) for i in each],
        )
    return folder


def loaded(kind: type[ImageFolder], root: Path, **options: Any) -> ImageFolder:
    data = kind(**{"root": root, "batch_size": 4, "num_workers": 0, **options})
    data.prepare()
    data.setup()
    return data


@pytest.mark.parametrize("storage", ["stream", "resident"])
def test_batches_are_those_of_the_images_in_a_folder(tmp_path: Path, storage: str) -> None:
    for i in range(24):
        path = tmp_path / "folder" / ("cat" if i % 2 else "dog") / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i))
    tars = loaded(WebDataset, shards(tmp_path / "tars"), storage=storage)
    folder = loaded(ImageFolder, tmp_path / "folder", storage=storage)
    assert tars.facts["classes"] == folder.facts["classes"] == ["cat", "dog"]

    def images(data: ImageFolder) -> dict[bytes, int]:
        mean, deviation = (torch.tensor(part).view(1, -1, 1, 1) for part in data.normalization or ())
        data.open_test()
        batches = [batch for split in data.splits for batch in data.batches(split, device="cpu")]
        return {
            (image * deviation + mean).mul(255).round().byte().numpy().tobytes(): int(label)
            for batch in batches
            for image, label in zip(batch.inputs, batch.targets, strict=True)
        }

    assert images(tars) == images(folder) and len(images(tars)) == 24
    stream = tars.train_stream(seed=0, device="cpu")
    stream.seek(0, 9)
    batches = list(stream)
    stream.seek(7, 8)
    torch.testing.assert_close(next(iter(stream)).inputs, batches[7].inputs)


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_read_a_stream_without_overlap_also_after_resuming_with_another_number(
    tmp_path: Path, ranks: int
) -> None:
    data = loaded(WebDataset, shards(tmp_path), storage="stream", batch_size=8, validation=0.2, test=0.2)

    def steps(first: int, last: int, rank: int = 0, world_size: int = 1) -> list[Any]:
        stream = data.train_stream(seed=3, rank=rank, world_size=world_size, device="cpu")
        stream.seek(first, last)
        return list(stream)

    whole = steps(0, 6)  # three epochs
    later = [steps(3, 6, rank, ranks) for rank in range(ranks)]  # as if one process had trained so far
    for step, batch in enumerate(whole[3:]):
        parts = [share[step] for share in later]
        assert torch.equal(torch.cat([part.index for part in parts]), batch.index)
        assert torch.equal(torch.cat([part.inputs for part in parts]), batch.inputs)
        assert len(set(batch.index.tolist())) == 8
    seen = [set(torch.cat([one.index for one in data.batches("validation", rank=r, world_size=ranks, device="cpu")]).tolist())
            for r in range(ranks)]  # fmt: skip
    assert sum(map(len, seen)) == len(set.union(*seen)) == len(data.splits["validation"])


def test_another_number_of_ranks_is_another_run() -> None:
    from tutelage.config.planner import plan_of

    words = ["data=digits", "hardware=ddp_cpu"]
    assert len({plan_of([*words, f"hardware.devices={ranks}"]).identity for ranks in (2, 4)}) == 2


def test_shards_say_their_part_and_the_library_s_own_writer_is_read(tmp_path: Path) -> None:
    import webdataset

    for part, count in (("train", 12), ("test", 5)):
        with webdataset.TarWriter(str(tmp_path / f"{part}-0000.tar")) as writer:
            for i in range(count):
                writer.write({"__key__": f"{part}{i}", "png": png(i + 100 * count), "json": {"label": i % 3}})
    data = loaded(WebDataset, tmp_path, label="json")
    assert data.facts["classes"] == ["0", "1", "2"] and len(data.splits["test"]) == 5


@pytest.mark.parametrize("storage", ["stream", "resident"])
def test_names_that_are_no_utf8_and_every_ending_of_pillow_s_are_images(
    tmp_path: Path, storage: str, caplog: pytest.LogCaptureFixture
) -> None:
    jpeg, mask = io.BytesIO(), {"seg.png": png(99)}
    Image.new("RGB", (8, 8), "red").save(jpeg, "jpeg")
    odd = [(f"caf\udce9{i}", {"jfif": jpeg.getvalue(), "cls": b"cat"} | mask) for i in range(8)]
    even = [(f"{i}", {"png": png(i), "jfif": b"not looked at", "cls": b"dog"}) for i in range(8)]
    shard(tmp_path / "set" / "0.tar", [*odd, *even, ("gon\udce9", {"cls": b"dog"})])
    data = loaded(WebDataset, tmp_path / "set", storage=storage)
    summary = data.summary()
    assert sum(summary["sizes"].values()) == 16 and summary["classes"] == ["cat", "dog"]
    assert r"0.tar:gon\xe9 (cls)" in summary["left_out"][0]
    shard(tmp_path / "bad" / "0.tar", [*odd, ("\udce4", {"jfif": b"cut", "cls": b"dog"})])
    with caplog.at_level("DEBUG", "tutelage"), pytest.raises(UserError, match=r"0\.tar:\\xe4"):
        loaded(WebDataset, tmp_path / "bad", storage=storage)
    (str(summary) + caplog.text).encode()  # they can be written and printed


def test_changed_shards_are_other_data(tmp_path: Path) -> None:
    first = loaded(WebDataset, shards(tmp_path)).fingerprint
    shards(tmp_path, start=1)
    assert loaded(WebDataset, tmp_path).fingerprint != first


COW = [("a", {"png": png(0), "cls": b"cow"})]
NOTHING = [(str(i), {"png": b"nothing", "cls": b"1"}) for i in range(9)]


@pytest.mark.parametrize(
    "make, options, said",
    [(lambda folder: None, {}, "holds no .tar files"),
     (shards, {"label": "txt"}, r"a class in a .txt file; there is 0000.tar:000 \(cls, png\)"),
     (lambda folder: (folder / "a.tar").write_bytes(b"no tar file at all"), {}, "is no whole tar file"),
     (lambda folder: (shards(folder, name="train-"), shard(folder / "x.tar", [])), {}, "x.tar is not: name all so"),
     (lambda folder: (shards(folder, name="train-"), shard(folder / "test.tar", COW)), {}, "'cow' is in no training"),
     (lambda folder: shard(folder / "a.tar", NOTHING), {}, "cannot read")],
)  # fmt: skip
def test_a_mistake_is_one_message_before_training(
    tmp_path: Path, make: Any, options: dict[str, Any], said: str
) -> None:
    make(tmp_path)
    with pytest.raises(UserError, match=said):
        loaded(WebDataset, tmp_path, **options)
