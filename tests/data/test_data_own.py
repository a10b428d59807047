"""Data of one's own by a dotted path: arrays, torch data sets, a LightningDataModule, DataLoaders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from tutelage.cli.main import main
from tutelage.data.own import Own
from tutelage.data.streams import ArrayStore
from tutelage.errors import UserError
from tutelage.tasks import Binary, Classification, MultiLabel, Regression

N = 40
INPUTS = torch.randn(N, 3, generator=torch.Generator().manual_seed(0))
TARGETS = (INPUTS[:, 0] > 0).long()


class Broken(Dataset[Any]):
    """What says nothing of why it fails."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> Any:
        raise ValueError


class Squares(Dataset[Any]):
    def __init__(self, count: int = N) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return {"inputs": torch.full((3,), float(index)), "targets": index % 2}


class Module(pl.LightningDataModule):
    def setup(self, stage: str | None = None) -> None:
        self.data = TensorDataset(INPUTS, TARGETS)

    def train_dataloader(self) -> Any:
        return DataLoader(self.data, batch_size=7, shuffle=True)

    def test_dataloader(self) -> Any:
        return DataLoader(TensorDataset(INPUTS + 1, TARGETS), batch_size=7)


LightningDataModule = type("LightningDataModule", (), {"prepare_data": lambda self: None})  # of `lightning`
Theirs = type("Theirs", (LightningDataModule,), {k: v for k, v in vars(Module).items() if callable(v)})


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield from zip(INPUTS, TARGETS, strict=True)


def loaded(source: Any, **options: Any) -> Own:
    data = Own(**{"source": source, "batch_size": 8, **options})
    data.setup()
    return data


SOURCES: dict[str, Any] = {
    "arrays": lambda: (INPUTS.numpy(), TARGETS.numpy()),
    "tensors": lambda: (INPUTS, TARGETS),
    "data set": lambda: TensorDataset(INPUTS, TARGETS),
    "data set of dictionaries": Squares,
    "loader": lambda: DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=3),
    "module": Module,
    "module of lightning": Theirs,
    "parts": lambda: {"train": (INPUTS, TARGETS), "test": (INPUTS + 1, TARGETS)},
    "pair of loaders": lambda: [DataLoader(TensorDataset(INPUTS + k, TARGETS)) for k in range(2)],
    "three": lambda: [TensorDataset(INPUTS + k, TARGETS) for k in range(3)],
}


@pytest.mark.parametrize("storage", ["resident", "stream"])
@pytest.mark.parametrize("name", SOURCES)
def test_every_kind_of_source_is_split_and_read(name: str, storage: str) -> None:
    data = loaded(SOURCES[name](), storage=storage)
    assert type(data.task) is Classification and data.input_shape == (3,)
    of_parts = {"module": 2, "module of lightning": 2, "parts": 2, "pair of loaders": 2, "three": 3}.get(
        name, 1
    )
    assert sum(map(len, data.splits.values())) == N * of_parts
    if of_parts > 1:
        assert len(data.splits["test"]) == N
    data.open_test()
    batch = next(iter(data.batches("test", device="cpu")))
    assert batch.inputs.dtype == torch.float32 and batch.targets.dtype == torch.int64
    if of_parts == 2:
        torch.testing.assert_close(batch.inputs, INPUTS[: len(batch.inputs)] + 1)


@pytest.mark.parametrize("storage", ["resident", "stream"])
def test_batches_are_a_function_of_the_step(storage: str) -> None:
    stream = loaded(Squares(), storage=storage).train_stream(seed=3, device="cpu")
    stream.seek(0, 9)
    batches = list(stream)
    stream.seek(5, 6)
    (again,) = stream
    torch.testing.assert_close(again.inputs, batches[5].inputs)
    torch.testing.assert_close(again.inputs[:, 0].long(), again.index)


@pytest.mark.parametrize(
    "targets, task, kind, outputs",
    [(TARGETS, "binary", Binary, 1), (INPUTS[:, 0], None, Regression, 1), (INPUTS[:, :2], None, Regression, 2),
     ((INPUTS > 0).long(), "multi_label", MultiLabel, 3), (TARGETS.float(), "classification", Classification, 2)],
)  # fmt: skip
def test_the_task_is_that_of_the_targets_or_the_one_named(
    targets: Any, task: Any, kind: type, outputs: int
) -> None:
    data = loaded((INPUTS, targets), task=task)
    assert type(data.task) is kind and data.task.output_size == outputs
    batch = next(iter(data.batches("train", device="cpu")))
    assert torch.isfinite(data.task.loss(torch.zeros(len(batch.inputs), outputs), batch))


@pytest.mark.parametrize("form", [np.asarray, pd.Series, lambda words: np.asarray(words, dtype=object)])
def test_words_are_classes_by_their_names_in_every_part(form: Any) -> None:
    words = np.asarray(["b", "c", "a"])[np.arange(N) % 3]
    parts = {"train": (INPUTS[:30], form(words[:30])), "test": (INPUTS[30:], form(words[30:]))}
    for source in ((INPUTS, form(words)), parts):
        data = loaded(source)
        assert data.facts["classes"] == data.task.class_names == ["a", "b", "c"]
        assert isinstance(data.store, ArrayStore)
        assert data.store.targets.tolist() == np.searchsorted(["a", "b", "c"], words).tolist()


def test_columns_of_zeros_and_ones_are_labels_as_in_tables() -> None:
    assert isinstance(loaded((INPUTS, (INPUTS > 0).float())).task, MultiLabel)


def test_tokens_keep_their_numbers() -> None:
    data = loaded((torch.arange(N * 4).reshape(N, 4) % 11, TARGETS))
    assert (
        data.vocab_size == 11 and next(iter(data.batches("train", device="cpu"))).inputs.dtype == torch.int64
    )


@pytest.mark.parametrize(
    "source, options, said",
    [((INPUTS, TARGETS[:-1]), {}, "gives 40 inputs and 39 targets"), (Stream(), {}, "IterableDataset.*data=webdataset"),
     (3, {}, "must give .*arrays"), ((INPUTS, torch.zeros(N).long()), {}, "one class only"),
     ((INPUTS, torch.full((N,), torch.nan)), {}, "40 of 40 targets hold values that are no finite"),
     ((INPUTS / 0, TARGETS), {}, "40 of 40 inputs hold"), ((INPUTS, INPUTS), {"task": "classification"}, "takes targets"),
     ({"train": (INPUTS, TARGETS), "tset": (INPUTS, TARGETS)}, {}, "part 'tset'; did you mean 'test'"),
     ((INPUTS, TARGETS), {"task": "classify"}, "did you mean 'classification'"),
     ([[torch.zeros(i), 0] for i in range(5)], {}, "cannot be put into one tensor"), ((INPUTS, TARGETS), {"outputs": 1}, "one class only"),
     ((INPUTS, torch.ones(N).long()), {}, "one class only"), ((INPUTS, np.asarray(["a"] * N)), {}, "one class only"),
     ((INPUTS, np.asarray(["a", "b"] * 20)), {"task": "regression"}, "that are words, such as 'a', are no regression"),
     ((np.asarray([["a"]] * N), TARGETS), {}, "its inputs are numpy arrays of <U1, such as .*'a'.*data=table"),
     ((INPUTS, np.asarray([{}] * N)), {}, "its targets are numpy arrays of object"),
     ((TARGETS[:, None] - 2, TARGETS), {}, "as tokens, .*to -2"),
     ([{"u": INPUTS[0], "v": 1}] * 5, {}, "got one of u, v"),
     (Squares(0), {}, "`?source`? gives no samples"), (Squares(0), {"storage": "stream"}, "gives no samples"),
     ((INPUTS[:0], TARGETS[:0]), {}, "gives no samples"), (Broken(), {}, "cannot be put into one tensor: ValueError:. They"),
     ({"train": Squares(), "validation": Squares(0), "test": Squares()}, {}, "gives no samples for validation")],
)  # fmt: skip
def test_a_mistake_is_one_message_before_training(source: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        loaded(source, **options)


def test_a_function_of_one_s_own_folder_in_three_lines(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_arrays.py").write_text(
        "import numpy as np\n\ndef load(rows=60):\n    x = np.random.default_rng(0).normal(size=(rows, 5))\n    return x, x[:, :1] ** 2\n"
    )
    words = ["data=own", "data.source._target_=my_arrays.load", "+data.source.rows=80", "model.depth=1", "model.width=8",
             "logger=none", "fit.max_steps=4", "fit.validate_every_steps=2", "fit.monitor=r2"]  # fmt: skip
    assert main(["train", *words]) == 0
    assert "r2" in capsys.readouterr().out
