"""Sets of the datasets library, from the disk and without a network: tables, texts and images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tutelage.data.huggingface import load
from tutelage.errors import UserError


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


def loaded(**options: Any) -> Any:
    data = load(**{"batch_size": 4, **options})
    data.prepare()
    data.setup()
    return data


def reviews() -> Any:
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    features = Features({"sentence": Value("string"), "label": ClassLabel(names=["bad", "good"])})
    rows = {"sentence": ["dull film", "fine film"] * 10, "label": [0, 1] * 10}
    return DatasetDict(
        {part: Dataset.from_dict(rows, features=features) for part in ("train", "validation", "test")}
    )


def test_texts_with_classes_by_name_in_the_parts_that_a_set_has(tmp_path: Path) -> None:
    reviews().save_to_disk(str(tmp_path / "set"))
    data = loaded(root=tmp_path / "set", text="sentence", target="label", length=5)
    assert data.facts["classes"] == ["bad", "good"] and {
        n: len(s) for n, s in data.splits.items()
    } == dict.fromkeys(data.splits, 20)
    assert data.input_shape == (2,) and sorted(data.entries[2:]) == ["dull", "film", "fine"]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_table_in_any_file(tmp_path: Path, ending: str) -> None:
    frame = pd.DataFrame({"x": np.arange(30.0), "kind": ["a", "b", "c"] * 10, "y": np.arange(30.0) ** 2 / 7})
    path = tmp_path / f"rows.{ending}"
    {"csv": lambda: frame.to_csv(path, index=False), "parquet": lambda: frame.to_parquet(path),
     "jsonl": lambda: frame.to_json(path, orient="records", lines=True)}[ending]()  # fmt: skip
    data = loaded(root=path, target="y")
    assert data.task.name == "regression" and data.facts["features"] == ["x", "kind=a", "kind=b", "kind=c"]


def test_images(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Image

    pixels = np.random.default_rng(0).integers(0, 256, (20, 6, 6, 3), dtype=np.uint8)
    features = Features({"img": Image(), "label": ClassLabel(names=["cat", "dog"])})
    from PIL import Image as Pillow

    Dataset.from_dict(
        {"img": [Pillow.fromarray(x) for x in pixels], "label": [i % 2 for i in range(20)]}, features=features
    ).save_to_disk(str(tmp_path / "set"))
    data = loaded(root=tmp_path / "set", image="img", normalization=None)
    assert data.facts["classes"] == ["cat", "dog"] and data.input_shape == (3, 6, 6)
    torch.testing.assert_close(data.store.images, torch.from_numpy(pixels).permute(0, 3, 1, 2))


def test_images_whose_classes_are_plain_values(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict, Features, Image, Value
    from PIL import Image as Pillow

    pictures = [Pillow.new("RGB", (4, 4), (i, 0, 0)) for i in range(6)]

    def saved(name: str, train: list[str], test: list[str]) -> Path:
        features = Features({"img": Image(), "label": Value("string")})
        parts = {
            part: Dataset.from_dict({"img": pictures[: len(said)], "label": said}, features=features)
            for part, said in (("train", train), ("test", test))
        }
        DatasetDict(parts).save_to_disk(str(tmp_path / name))
        return tmp_path / name

    ten = saved("numbers", ["10", "9", "9", "10", "x", "x"], ["x", "10"])
    data = loaded(root=ten, image="img", normalization=None, validation=1, batch_size=2)
    assert data.facts["classes"] == ["9", "10", "x"]  # numbers in their order, then names
    assert data.store.labels.tolist() == [1, 0, 0, 1, 2, 2, 2, 1]
    with pytest.raises(UserError, match="2 rows of 'test' have no known class in 'label'"):
        loaded(root=saved("other", ["a", "b"] * 3, ["a", "c", "c"]), image="img")


@pytest.mark.parametrize(
    "options, said",
    [({}, "either `root`, a local folder or file, or `name`"), ({"name": "nobody/nothing", "target": "y"}, "without a network"),
     ({"root": "nowhere", "target": "y"}, "no file or folder nowhere"), ({"root": "set", "text": "a", "image": "b"}, "not both"),
     ({"root": "set", "text": "words", "target": "label"}, "has no column 'words'"), ({"root": "set"}, "`target` must name"),
     ({"root": "set", "image": "picture"}, "has no column 'picture'"), ({"root": "set", "target": "label", "length": 5}, "length")],
)  # fmt: skip
def test_a_mistake_is_one_message_before_training(
    tmp_path: Path, monkeypatch: Any, options: Any, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    reviews().save_to_disk("set")
    with pytest.raises(UserError, match=said):
        loaded(**options)


@pytest.mark.parametrize("target", [["a", "b"], []])
def test_images_have_one_column_of_classes(target: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="of images is one column, of classes"):
        load(root=str(tmp_path), image="picture", target=target)


@pytest.mark.parametrize("form", ["parquet", "saved"])
def test_the_index_that_pandas_adds_is_no_input(tmp_path: Path, form: str, caplog: Any) -> None:
    """It numbers the rows of a table from which some were taken, often class by class."""
    import datasets

    caplog.set_level("INFO")
    frame = pd.DataFrame({"a": np.arange(30.0) ** 2, "y": ["u", "v"] * 15}).sample(frac=1, random_state=0)
    if form == "parquet":
        root = tmp_path / "rows.parquet"
        frame.to_parquet(root)
    else:
        root = tmp_path / "rows"
        datasets.DatasetDict(
            {part: datasets.Dataset.from_pandas(frame) for part in ("train", "test")}
        ).save_to_disk(str(root))
    assert loaded(root=root, target="y").facts["features"] == ["a"]
    assert caplog.text.count("the column '__index_level_0__', which numbers the rows, is left out") == 1
