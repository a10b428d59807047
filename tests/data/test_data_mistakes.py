"""The same mistakes in every kind of data that a file of rows can be: one message each, before training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tutelage.config.compose import compose
from tutelage.engine.data_sets import build_data
from tutelage.errors import UserError

Write = Callable[[pd.DataFrame, Path], Any]
FILES: dict[str, Write] = {
    "csv": lambda frame, path: frame.to_csv(path, index=False),
    "parquet": lambda frame, path: frame.to_parquet(path),
    "jsonl": lambda frame, path: frame.to_json(path, orient="records", lines=True),
}
TEXTS = ["data.text=words", "data.target=label"]
KINDS: dict[str, list[str]] = {
    "table": ["data=table", "data.target=label", "data.without=[words]"],
    "text_classification": ["data=text_classification", *TEXTS],
    "huggingface, a table": ["data=huggingface", "data.target=label", "+data.without=[words]"],
    "huggingface, texts": ["data=huggingface", *TEXTS],
}


def people(rows: int = 60) -> pd.DataFrame:
    number = np.arange(rows)
    words = [f"{('good', 'bad')[n % 2]} film {n % 7}" for n in number]
    label = np.where(number % 2, "no", "yes").astype(object)
    return pd.DataFrame({"a": number / 3, "b": number % 5, "words": words, "label": label})


def changed(**columns: Any) -> pd.DataFrame:
    return people().assign(**columns)


def holed(column: str, value: Any = None) -> pd.DataFrame:
    frame = people()
    frame.loc[[3, 8], column] = value
    return frame


ROWS: dict[str, tuple[Callable[[], pd.DataFrame], list[str], str]] = {
    "no such target": (people, ["data.target=lable"], "has no column 'lable' .*did you mean 'label'"),
    "empty targets": (lambda: holed("label"), [], "target 'label' is empty in 2 of 60 rows, the first of them row 4"),
    "NaN among values": (lambda: holed("label", np.nan).replace({"yes": 0.5, "no": 2.5}), [], "is empty in 2 of 60 rows, .*row 4"),
    "one class": (lambda: changed(label="yes"), [], "holds one class only, 'yes'"),
    "no such class": (people, ["data.classes=[yes,maybe]"], "class 'maybe' does not exist"),
    "words as values": (people, ["data.task=regression"], "holds words such as"),
    "a setting's typo": (people, ["data.taget=label"], "did you mean 'data.target'"),
    "a number's typo": (people, ["data.batch_size=0"], "batch_size"),
    "no dates": (lambda: changed(when="soon"), ["data.time=when"], "'when' .* holds no dates of a form that leaves nothing open: 'soon'"),
    "day or month first": (lambda: changed(when="01.02.2021"), ["data.time=when"], "day first or month first, nothing .*data.date_format"),
    "format of numbers": (people, ["data.time=a", "data.date_format=%Y"], "holds numbers, which are in their own order"),
    "format of nothing": (people, ["data.date_format=%Y"], "name that column"),
    "group missing": (people, ["data.group=patient"], "has no column 'patient'"),
    "a model's typo": (people, ["model.witdh=3"], "did you mean 'model.width'"),
}  # fmt: skip
OPEN = {
    "data.classes": "classes",
    "data.task": "task",
    "data.group": "group",
    "data.time": "time",
    "data.date_format": "date_format",
}  # of the datasets library with a plus


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mistake", ROWS)
def test_a_mistake_is_one_message_whatever_holds_the_rows(mistake: str, kind: str, tmp_path: Path) -> None:
    make, words, said = ROWS[mistake]
    file = [*FILES][([*KINDS].index(kind) + [*ROWS].index(mistake)) % 3]  # each of them for each kind
    FILES[file](make(), tmp_path / f"rows.{file}")
    if "huggingface" in kind:
        words = [f"+{word}" if word.partition("=")[0] in OPEN else word for word in words]
    model = ["model=lstm", "model.width=8"] if "text" in kind else ["model=fcn", "model.width=8"]
    given = [*KINDS[kind], f"data.root={tmp_path / f'rows.{file}'}", *model, "logger=none", *words]
    with pytest.raises(UserError, match=said) as caught:
        build_data(compose(given)).setup()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if "text" in kind])
def test_an_empty_text_is_named_by_its_row(kind: str, file: str, tmp_path: Path) -> None:
    cell = {"csv": "  ", "parquet": "", "jsonl": None}[file]
    FILES[file](holed("words", cell), tmp_path / f"rows.{file}")
    with pytest.raises(UserError, match="the text is empty in 2 of 60 rows, the first of them row 4"):
        build_data(
            compose([*KINDS[kind], f"data.root={tmp_path / f'rows.{file}'}", "model=lstm", "logger=none"])
        )


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("kind", KINDS)
def test_numbers_written_as_text_are_numbers(kind: str, file: str, tmp_path: Path) -> None:
    number = np.arange(60) % 3
    FILES[file](changed(label=[f" {n} " for n in number]), tmp_path / f"rows.{file}")
    data = build_data(
        compose([*KINDS[kind], f"data.root={tmp_path / f'rows.{file}'}", "model=lstm", "logger=none"])
    )
    assert data.task.name == "classification" and data.facts["classes"] == ["0", "1", "2"]
