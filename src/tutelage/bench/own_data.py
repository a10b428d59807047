"""Sets and models that users bring: streamed sets over a bare DataLoader, memory over a set's size, Hugging Face steps over their floor."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tutelage.bench.guided_step import peak_mib
from tutelage.bench.timing import Row, in_turn, row, until_decided

STREAMED, STEP, MEMORY = 0.95, 1.10, 16.0
"""Targets. The last: bytes at most, at the peak of reading, for each byte of a file; pandas holds each text as an object of its own."""


class Bare:
    """The Dataset that one writes by hand: each JPEG read at its place. Workers are spawned, so it must be importable."""

    def __init__(self, files: Any, labels: Any, count: int) -> None:
        self.files, self.labels, self.count = files, labels, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        import numpy as np
        import torch
        from PIL import Image

        shard, start, length = self.files.places[index].tolist()
        with self.files.shards[shard].open("rb") as file:
            file.seek(start)
            image = Image.open(io.BytesIO(file.read(length))).convert("RGB")
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div_(255), int(self.labels[index])


def rows(pairs: int = 5) -> list[Row]:
    """Measure each."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        return [
            *(_tar_files(root / f"shards{workers}", workers, pairs) for workers in (0, 2)),
            _folder(root / "folder", pairs),
            _datasets(pairs),
            *(_memory(root, kind) for kind in ("text", "table")),
            *(_step(root / "bert", method, pairs) for method in ("guided", "distilled")),
        ]


def _streamed(name: str, ours: Callable[[], object], theirs: Callable[[], object], pairs: int) -> Row:
    def measured(pairs: int) -> list[float]:
        return [b / a for a, b in in_turn(ours, theirs, pairs=pairs)]

    ratios = until_decided(measured, STREAMED, pairs=pairs)
    return row(f"samples a second, ours over a bare DataLoader: {name}", ratios, at_least=STREAMED)


def _tar_files(root: Path, workers: int, pairs: int, count: int = 1_000, pixels: int = 64) -> Row:
    """JPEG files in a tar file, decoded for every batch; by hand: a Dataset that reads each at its place, in a DataLoader."""
    import numpy as np
    import torch
    from PIL import Image

    from tutelage.data.webdataset import WebDataset

    root.mkdir()
    draw = np.random.default_rng(0)
    with tarfile.open(root / "all.tar", "w") as archive:
        for place in range(count):
            file = io.BytesIO()
            Image.fromarray(draw.integers(0, 255, (pixels, pixels, 3), dtype=np.uint8)).save(file, "JPEG")
            for ending, raw in (("jpg", file.getvalue()), ("cls", str(place % 10).encode())):
                info = tarfile.TarInfo(f"{place:05d}.{ending}")
                info.size = len(raw)
                archive.addfile(info, io.BytesIO(raw))
    data: Any = WebDataset(
        root=root, batch_size=50, image_size=pixels, storage="stream", num_workers=workers, normalization=None
    )
    data.prepare()
    data.setup()
    stream, files = data.train_stream(seed=0, device="cpu"), data.store.files

    bare: Any = Bare(files, data.store.labels, len(data.splits["train"]))
    loader = torch.utils.data.DataLoader(
        bare,
        batch_size=50,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    found = _streamed(
        f"JPEG in tar files, {workers} workers",
        lambda: [None for _ in stream],
        lambda: [None for _ in loader],
        pairs,
    )
    data.teardown()
    return found


def _folder(root: Path, pairs: int, count: int = 1_000, pixels: int = 64) -> Row:
    """JPEG files in a folder for each class, decoded for every batch; by hand: torchvision's folder in a DataLoader."""
    import numpy as np
    import torch
    import torchvision
    from PIL import Image

    from tutelage.data.image_folder import ImageFolder

    draw = np.random.default_rng(0)
    for place in range(count):
        path = root / str(place % 10) / f"{place:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 255, (pixels, pixels, 3), dtype=np.uint8)).save(path)
    data = ImageFolder(root=root, batch_size=50, storage="stream", num_workers=0, normalization=None)
    data.prepare()
    data.setup()
    stream = data.train_stream(seed=0, device="cpu")
    plain = torchvision.datasets.ImageFolder(str(root), torchvision.transforms.ToTensor())
    some = torch.utils.data.Subset(plain, range(len(data.splits["train"])))
    loader = torch.utils.data.DataLoader(some, batch_size=50, shuffle=True, drop_last=True)
    found = _streamed(
        "JPEG in a folder", lambda: [None for _ in stream], lambda: [None for _ in loader], pairs
    )
    data.teardown()
    return found


def _datasets(pairs: int, count: int = 12_000, width: int = 784) -> Row:
    """Rows of a set of the datasets library, fetched as they are due."""
    import datasets
    import numpy as np
    import torch

    from tutelage.data.own import Own

    draw = np.random.default_rng(0)
    columns = {"x": draw.normal(size=(count, width)).astype("float32"), "y": draw.integers(0, 10, count)}
    whole = datasets.Dataset.from_dict(columns).with_format("torch")
    data = Own(source=whole, batch_size=64, storage="stream")
    data.prepare()
    data.setup()
    stream = data.train_stream(seed=0, device="cpu")
    train = torch.utils.data.Subset(whole, data.splits["train"].tolist())
    loader = torch.utils.data.DataLoader(train, batch_size=64, shuffle=True, drop_last=True)
    return _streamed(
        "the datasets library", lambda: [None for _ in stream], lambda: [None for _ in loader], pairs
    )


def _memory(root: Path, kind: str, count: int = 30_000) -> Row:
    """The rise of resident memory while a file is read, over the file's size."""
    import numpy as np

    from tutelage.data.base import DataModule
    from tutelage.data.table import Table
    from tutelage.data.text_rows import TextRows

    def written(count: int) -> Path:
        draw = np.random.default_rng(count)
        if kind == "text":
            words = np.asarray([f"word{n}" for n in range(5_000)])
            header, cells = "text,label", (" ".join(draw.choice(words, 40)) for _ in range(count))
        else:
            header = ",".join([*(f"c{n}" for n in range(30)), "label"])
            cells = (",".join(f"{v:.4f}" for v in draw.normal(size=30)) for _ in range(count))
        path = root / f"{kind}{count}.csv"
        path.write_text("\n".join([header, *(f"{cell},{place % 2}" for place, cell in enumerate(cells))]))
        return path

    def read(path: Path) -> None:
        data: DataModule = (
            TextRows(root=path, batch_size=64)
            if kind == "text"
            else Table(root=path, target="label", batch_size=64)
        )
        data.prepare()
        data.setup()

    read(written(100))  # the libraries that read it come first
    path = written(count)
    risen = peak_mib(lambda: read(path))
    size = path.stat().st_size / 2**20
    if risen is None:
        return row(
            f"peak memory of reading over the file's size: {kind}", [0.0], note="this system does not tell"
        )
    note = f"{risen:.0f} MiB for a file of {size:.0f}"
    return row(
        f"peak memory of reading over the file's size: {kind}", [risen / size], at_most=MEMORY, note=note
    )


def _step(folder: Path, method: str, pairs: int, batch: int = 16, length: int = 64) -> Row:
    """A step of a small BERT under a larger one, over the larger one's forward and a step of transformers' own objects."""
    import torch
    import torch.nn.functional as F
    from transformers import AutoModelForSequenceClassification, BertConfig

    from tutelage.models.huggingface import hugging_face_model
    from tutelage.objectives.alignment import Alignment
    from tutelage.objectives.soft_targets import SoftTargets
    from tutelage.objectives.task import Task
    from tutelage.objectives.total import Objectives
    from tutelage.tasks import Batch, Classification

    sizes: dict[str, Any] = {
        "vocab_size": 2_000,
        "intermediate_size": 2048,
        "num_attention_heads": 8,
        "max_position_embeddings": length,
        "num_labels": 2,
    }
    small, large = (BertConfig(hidden_size=512, num_hidden_layers=depth, **sizes) for depth in (2, 4))
    for name, config in (("small", small), ("large", large)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "config.json").write_text(json.dumps(config.to_dict()))
    torch.manual_seed(0)
    ours, guide = (
        hugging_face_model(str(folder / name), (length,), 2, vocab_size=2_000) for name in ("small", "large")
    )
    theirs, bare = (
        AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
        for config in (small, large)
    )
    bare.eval()
    mask = torch.arange(length) < torch.randint(length // 2, length + 1, (batch, 1))
    tokens, targets = torch.randint(2_000, (batch, length)), torch.randint(2, (batch,))
    data = Batch(tokens, targets, torch.arange(batch), mask)
    example = Batch(tokens[:4], targets[:4], data.index[:4], mask[:4])
    second = Alignment(network="guide") if method == "guided" else SoftTargets(network="guide")
    total = Objectives(
        ours,
        {"task": Task(), "second": second},
        frozen={"guide": guide},
        task=Classification(2),
        example=example,
    )
    optimizers = [torch.optim.Adam(network.parameters(), 1e-4) for network in (ours, theirs)]

    def finish(loss: Any, optimizer: Any) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def floor() -> None:
        with torch.no_grad():
            said = bare(tokens, attention_mask=mask).logits
        logits = theirs(tokens, attention_mask=mask).logits
        loss = F.cross_entropy(logits, targets)
        if method == "distilled":
            loss = loss + 4 * F.kl_div(
                (logits / 2).log_softmax(1), (said / 2).softmax(1), reduction="batchmean"
            )
        finish(loss, optimizers[1])

    def measured(pairs: int) -> list[float]:
        times = in_turn(lambda: finish(total(data), optimizers[0]), floor, pairs=pairs, warmup=2)
        return [a / b for a, b in times]

    ratios = until_decided(measured, STEP, pairs=pairs)
    return row(
        f"{method} step over floor: Hugging Face's BERT of 2 layers under one of 4", ratios, at_most=STEP
    )
