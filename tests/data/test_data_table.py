"""Tables: what a network sees, what the target asks for, how rows are split, and what is refused before training."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import torch

from tutelage.cli.main import main
from tutelage.data.frame import read
from tutelage.data.streams import ArrayStore
from tutelage.data.table import Embedded, Table
from tutelage.errors import UserError
from tutelage.tasks import Binary, Classification, MultiLabel, Regression

ROWS = 60


def people(rows: int = ROWS, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    age = random.integers(20, 80, rows).astype(float)
    age[::10] = np.nan
    return pd.DataFrame(
        {
            "age": age,
            "colour": random.choice(["red", "green", "blue"], rows),
            "member": random.random(rows) > 0.5,
            "site": random.choice(["a", "b", "c", "d", "e", "f"], rows),
            "year": random.integers(2000, 2020, rows),
            "score": random.normal(size=rows) * 50 + 100,
            "outcome": random.choice(["ill", "well"], rows, p=[0.2, 0.8]),
        }
    )


def write(folder: Path, frame: pd.DataFrame | str, name: str = "people.csv") -> Path:
    path = folder / name
    if isinstance(frame, str):
        path.write_text(frame)
    elif name.endswith("parquet"):
        frame.to_parquet(path)
    elif name.endswith("jsonl"):
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False)
    return path


def loaded(root: Path | None, **options: Any) -> Table:
    data = Table(**{"root": root, "target": "outcome", "batch_size": 8, **options})
    data.prepare()
    data.setup()
    return data


def test_numbers_are_scaled_and_words_known_by_the_training_rows_alone(tmp_path: Path) -> None:
    frame = people()
    data = loaded(write(tmp_path, frame))
    train = data.splits["train"]
    names = data.facts["features"]
    assert names == ["age", "age is empty", "colour=blue", "colour=green", "colour=red", "member", *(f"site={x}" for x in "abcdef"),
                     "year", "score"]  # fmt: skip
    inputs = data.store.inputs.double().numpy()  # type: ignore[attr-defined]
    for name in ("year", "score", "age"):
        own = frame[name].iloc[train]
        there = frame[name].notna().to_numpy()
        expected = (frame[name] - own.mean()) / own.std(ddof=0)
        np.testing.assert_allclose(inputs[there, names.index(name)], expected[there], atol=1e-5)
    empty = frame["age"].isna().to_numpy()
    np.testing.assert_array_equal(inputs[:, names.index("age is empty")], empty)
    assert (inputs[empty, names.index("age")] == 0).all()
    np.testing.assert_array_equal(inputs[:, names.index("colour=red")], frame["colour"] == "red")


@pytest.mark.parametrize("name", ["people.csv", "people.parquet", "people.jsonl", "people.csv.gz"])
def test_every_kind_of_file_gives_the_same_numbers(tmp_path: Path, name: str) -> None:
    first, second = loaded(write(tmp_path, people(), "first.csv")), loaded(write(tmp_path, people(), name))
    torch.testing.assert_close(first.store.inputs, second.store.inputs)  # type: ignore[attr-defined]
    assert first.facts["features"] == second.facts["features"]
    assert first.summary()["split_sha256"] == second.summary()["split_sha256"]


def test_a_file_of_another_country_gives_the_same_numbers(tmp_path: Path) -> None:
    people().to_csv(tmp_path / "a.csv", index=False, sep=";", decimal=",")
    first, second = loaded(write(tmp_path, people())), loaded(tmp_path / "a.csv")
    torch.testing.assert_close(first.store.inputs, second.store.inputs)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "target, task, kind, outputs, classes",
    [("outcome", None, Classification, 2, ["ill", "well"]), ("outcome", "binary", Binary, 1, ["ill", "well"]),
     ("score", None, Regression, 1, None), ("member", None, Classification, 2, ["false", "true"]),
     ("year", None, Classification, 20, [str(year) for year in range(2000, 2020)]), ("year", "regression", Regression, 1, None),
     (["score", "year"], None, Regression, 2, None), (["member", "flag"], None, MultiLabel, 2, ["member", "flag"])],
)  # fmt: skip
def test_the_target_decides_the_task_unless_it_is_named(
    tmp_path: Path, target: Any, task: str | None, kind: type, outputs: int, classes: list[str] | None
) -> None:
    frame = people(600)
    frame["flag"] = (frame["score"] > 100).astype(int)
    data = loaded(write(tmp_path, frame), target=target, task=task)
    assert (
        type(data.task) is kind and data.task.output_size == outputs and data.facts.get("classes") == classes
    )


def test_a_regression_s_errors_are_in_the_unit_of_the_file(tmp_path: Path) -> None:
    frame = people()
    data = loaded(write(tmp_path, frame), target="score")
    rows = data.splits["validation"]
    batch = next(iter(data.batches("validation", device="cpu")))
    metrics = data.task.metrics()
    metrics.update(torch.zeros(len(batch.targets), 1), batch)  # the mean of the training rows
    wrong = frame["score"].to_numpy()[rows] - frame["score"].to_numpy()[data.splits["train"]].mean()
    assert metrics.compute()["mae"] == pytest.approx(np.abs(wrong).mean(), rel=1e-5)


def test_rows_of_a_group_lie_in_one_split_and_the_latest_are_the_test(tmp_path: Path) -> None:
    frame = people(200)
    frame["patient"] = np.arange(200) // 5
    path = write(tmp_path, frame)
    grouped = loaded(path, group="patient")
    parts = [set(frame["patient"].iloc[part]) for part in grouped.splits.values()]
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    assert abs(len(grouped.splits["test"]) - 40) <= 5 and not any(
        "patient" in name for name in grouped.facts["features"]
    )
    latest = loaded(path, time="year")
    train, validation, test = (frame["year"].iloc[part] for part in latest.splits.values())
    assert train.max() < validation.min() and validation.max() < test.min()


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("%Y-%m-%d", {}),
        ("%d.%m.%Y", {}),
        ("%m/%d/%Y", {}),
        ("%d %B %Y", {}),
        ("%y%j", {"date_format": "%y%j"}),
    ],
)
def test_dates_are_read_as_those_of_series(tmp_path: Path, form: str, options: dict[str, str]) -> None:
    frame = people(200)
    days = pd.Series(pd.date_range("2020-01-15", periods=200, freq="5D")).sample(frac=1, random_state=0)
    frame["visit"] = ["d" * ("date_format" in options) + text for text in days.dt.strftime(form)]
    if options:  # or they were numbers, which are in their own order
        options = {"date_format": f"d{form}"}
    latest = loaded(write(tmp_path, frame), time="visit", **options)
    train, validation, test = (days.iloc[part] for part in latest.splits.values())
    assert train.max() < validation.min() and validation.max() < test.min()


@pytest.mark.parametrize("group", [None, "site"])
def test_folds_hold_every_row_once(tmp_path: Path, group: str | None) -> None:
    frame = people(203)
    frame["site"] = np.arange(203) % 19
    path = write(tmp_path, frame)
    folds = [loaded(path, fold=fold, group=group) for fold in range(5)]
    tests = [data.splits["test"] for data in folds]
    np.testing.assert_array_equal(np.sort(np.concatenate(tests)), np.arange(203))
    if group is None:  # class by class
        shares = [frame["outcome"].iloc[test].eq("ill").mean() for test in tests]
        assert max(shares) - min(shares) < 0.03 and {len(test) for test in tests} == {40, 41}
    else:
        assert not set(frame["site"].iloc[tests[0]]) & set(frame["site"].iloc[tests[1]])


def test_classes_drawn_as_often_and_the_same_after_resuming(tmp_path: Path) -> None:
    data = loaded(write(tmp_path, people(400)), sampling="balanced", batch_size=32)
    stream = data.train_stream(seed=0, device="cpu")
    stream.seek(0, 200)
    batches = list(stream)
    share = torch.cat([batch.targets for batch in batches]).double().mean()
    assert share == pytest.approx(0.5, abs=0.03)
    stream.seek(150, 151)
    torch.testing.assert_close(next(iter(stream)).index, batches[150].index)


def test_parts_in_files_of_their_own_are_taken(tmp_path: Path) -> None:
    for name, rows in (("train", 40), ("dev", 10), ("test", 12)):
        write(tmp_path, people(rows, seed=rows), f"{name}.csv")
    data = loaded(tmp_path)
    assert {name: len(part) for name, part in data.splits.items()} == {
        "train": 40,
        "validation": 10,
        "test": 12,
    }
    with pytest.raises(UserError, match="`fold` makes the test from the rows"):
        loaded(tmp_path, fold=0)


def test_words_that_no_training_row_has_are_counted_and_none_of_the_known(
    tmp_path: Path, caplog: Any
) -> None:
    write(tmp_path, people(40), "train.csv")
    other = people(20, seed=1)
    other.loc[:4, "colour"] = "ultraviolet"
    write(tmp_path, other, "test.csv")
    data = loaded(tmp_path)
    assert data.facts["unknown_categories"] == {"colour": {"test": 5}} and "5 test rows" in caplog.text
    inputs = data.store.inputs[data.splits["test"][:5]]  # type: ignore[attr-defined]
    assert inputs[:, [n.startswith("colour") for n in data.facts["features"]]].sum() == 0


def test_empty_cells_of_a_column_that_has_none_in_training_are_its_mean_and_said(
    tmp_path: Path, caplog: Any
) -> None:
    write(tmp_path, people(40), "train.csv")
    other = people(20, seed=1)
    other.loc[:2, "score"] = np.nan
    write(tmp_path, other, "test.csv")
    data = loaded(tmp_path)
    assert "column 'score' is empty in 3 test rows, and in no training row" in caplog.text
    assert isinstance(data.store, ArrayStore)
    inputs = data.store.inputs[data.splits["test"][:4], data.facts["features"].index("score")]
    assert inputs[:3].tolist() == [0.0] * 3 and inputs[3] != 0


@pytest.mark.parametrize("name", get_args(Embedded))
def test_scikit_learn_s_tables_are_there_by_name(name: str) -> None:
    data = loaded(None, dataset=name, target=None, batch_size=4)
    assert isinstance(data.task, Regression if name in ("diabetes", "linnerud") else Classification)


CSV = "a,b,y\n" + "".join(f"{i},{i % 7},{'no' if i % 3 else 'yes'}\n" for i in range(30))
MISTAKES: dict[str, tuple[str, dict[str, Any], str]] = {
    "no target": (CSV, {"target": None}, "`target` must name the column to predict; known: a, b, y"),
    "missing column": (CSV, {"target": "yy"}, "has no column 'yy' .*did you mean 'y'"),
    "missing input": (CSV, {"target": "y", "columns": ["a", "bb"]}, "has no column 'bb' .*did you mean 'b'"),
    "duplicate column": (CSV.replace("a,b,y", "a,a,y"), {"target": "y"}, "more than one column named 'a'"),
    "empty targets": (CSV.replace(",yes", ","), {"target": "y"}, "target 'y' is empty in 10 of 30 rows, the first of them row 1"),
    "one class": (CSV.replace("yes", "no"), {"target": "y"}, "holds one class only, 'no'"),
    "constant value": ("a,y\n" + "1,2.5\n3,2.5\n" * 9, {"target": "y"}, "is 2.5 in every row: there is nothing to predict"),
    "mixed types": (CSV.replace("\n4,4,", "\nfour,4,"), {"target": "y"}, "column 'a' mixes 29 numbers with 1 texts \\('four' in row 5\\)"),
    "texts as values": (CSV, {"target": "y", "task": "regression"}, "holds words such as 'yes'"),
    "too many classes": ("a,y\n" + "".join(f"{i},w{i}\n" for i in range(40)), {"target": "y"}, "40 different values in 40 rows"),
    "names of rows": ("n,y\n" + "".join(f"w{i},{i % 2}\n" for i in range(60)), {"target": "y"}, "`without`=\\[n\\].*`categories`=\\[n\\]"),
    "binary of three": (CSV, {"target": "b", "task": "binary"}, "needs two classes, the target 'b' has 7"),
    "no such task": (CSV, {"target": "y", "task": "regresion"}, "did you mean 'regression'"),
    "no such class": (CSV, {"target": "y", "classes": ["yes", "never"]}, "class 'never' does not exist"),
    "fold beyond": (CSV, {"target": "y", "fold": 5}, "`fold` must be 0 to 4"),
    "group and time": (CSV, {"target": "y", "group": "a", "time": "b"}, "give `group` or `time`"),
    "no inputs": ("y\n" + "1\n0\n" * 9, {"target": "y"}, "no column is left to predict from"),
    "no rows": ("a,y\n", {"target": "y"}, "a header and no rows"),
    "comma left open": ('a,y\n"1,234",1\n"5,678",0\n' * 1, {"target": "y"}, "about one or above a thousand"),
    "identifiers as inputs": (CSV.replace("\n", f"\n{10**16}").removesuffix(str(10**16)), {"target": "y"},
                              "column 'a' holds whole numbers of so many digits .*`without`=\\[a\\].*`categories`=\\[a\\]"),
    "numbers beyond squares": (CSV.replace("\n4,", "\n4e300,"), {"target": "y"}, "column 'a' holds numbers beyond 1e\\+150"),
    "one column twice": (CSV, {"target": ["a", "a"]}, "`target` names the column 'a' more than once"),
    "the target as input": (CSV, {"target": "y", "columns": ["a", "y"]}, "`columns` names 'y', which is no input: it is the target"),
    "comments above": ("# of 2020\n" + CSV, {"target": "y"}, "the header names 1 columns, .*is the header not the first line\\?"),
    "two sources": (CSV, {"target": "y", "dataset": "iris"}, "give either `root`, a file, or `dataset`"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_message_before_training(tmp_path: Path, name: str) -> None:
    text, options, said = MISTAKES[name]
    with pytest.raises(UserError, match=said):
        loaded(write(tmp_path, text), **options)


def test_numbers_written_as_text_are_numbers_and_said(tmp_path: Path, caplog: Any) -> None:
    frame = people()
    frame["outcome"] = np.where(frame["outcome"] == "ill", "1", "0")
    caplog.set_level("INFO")
    data = loaded(write(tmp_path, frame, "people.parquet"))
    assert data.facts["classes"] == ["0", "1"] and "'outcome' are written as text" in caplog.text


NAMES = {
    "large numbers": [str(2**60 + i) for i in range(4)],
    "larger than 64 bits": [str(10**25 + i) for i in range(4)],
    "seven digits": [str(1234560 + i) for i in range(4)],
    "close values": ["1.0000001", "1.0000002", "1.0000003", "1.0000004"],
}


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("form", ["csv", "parquet", "jsonl"])
def test_numbers_that_name_things_keep_every_digit(tmp_path: Path, kind: str, form: str) -> None:
    """As classes, as categories and as groups."""
    names = NAMES[kind] * 15
    cells: Any = [float(n) if "." in n else int(n) for n in names]
    if kind == "larger than 64 bits":
        if form == "jsonl":
            return  # pandas reads no such numbers there
        cells = names
    frame = pd.DataFrame({"a": np.arange(60.0) ** 2, "b": np.repeat(range(2), 30), "code": cells})
    path = write(tmp_path, frame, f"codes.{form}")
    data = loaded(path, target="code", task="classification", test=12)
    assert data.facts["classes"] == NAMES[kind]
    data = loaded(path, target="b", categories=["code"])
    assert data.facts["features"] == ["a", *(f"code={name}" for name in NAMES[kind])]
    assert data.store.inputs[:, 1:].sum(1).tolist() == [1.0] * 60
    data = loaded(path, target="b", group="code", test=0.25, validation=0.3)
    groups = [{names[row] for row in rows} for rows in data.splits.values()]
    assert sum(map(len, groups)) == len(set().union(*groups)) == 4


@pytest.mark.parametrize("form", ["csv", "parquet", "jsonl"])
def test_an_empty_cell_costs_no_digit(tmp_path: Path, form: str) -> None:
    """pandas makes float64 of whole numbers with an empty cell between them: 2**53 and 2**53 + 1 were one category."""
    codes = pd.array([2**53, 2**53 + 1, None] * 20, dtype="Int64")
    frame = pd.DataFrame(
        {"a": np.arange(60.0) ** 2, "b": [0, 1] * 30, "code": codes, "size": [1e17, 2e17, None] * 20}
    )
    path = write(tmp_path, frame, f"codes.{form}")
    columns = read(path).columns
    assert columns["code"].tolist() == ["9007199254740992", "9007199254740993", None] * 20
    assert columns["size"].dtype == np.float64
    data = loaded(path, target="b", columns=["a", "code"])
    codes_of = [name for name in data.facts["features"] if name.startswith("code=900")]
    assert len(codes_of) == 2


def test_a_number_has_one_name_in_every_form_of_file(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": range(60), "code": np.asarray([0.1, 0.25, 1e-5] * 20, dtype="float32")})
    found = [
        loaded(write(tmp_path, frame, name), target="code", task="classification", batch_size=4).facts[
            "classes"
        ]
        for name in ("codes.parquet", "codes.csv")
    ]
    assert found[0] == found[1] == ["1e-05", "0.1", "0.25"]


def test_texts_of_digits_with_zeros_before_them_stay_texts(tmp_path: Path, caplog: Any) -> None:
    frame = pd.DataFrame({"a": range(60), "zip": ["02139", "2139", "02140"] * 20, "y": ["007", "7"] * 30})
    caplog.set_level("INFO")
    data = loaded(write(tmp_path, frame, "zip.parquet"), target="y")
    assert data.facts["classes"] == ["7", "007"]
    assert data.facts["features"] == ["a", "zip=02139", "zip=02140", "zip=2139"]
    assert "the digits of the column 'zip' are taken as words" in caplog.text


def test_an_index_is_no_input_unless_it_has_a_name(tmp_path: Path, caplog: Any) -> None:
    """What pandas writes of the rows that were left: numbers without a name, once or twice; a named index of Parquet is a column."""
    caplog.set_level("INFO")
    frame = people().sample(40, random_state=1)
    plain = loaded(write(tmp_path, frame))
    for twice in (False, True):
        path = tmp_path / "indexed.csv"
        (pd.read_csv(path) if twice else frame).to_csv(path)
        assert torch.equal(loaded(path).store.inputs, plain.store.inputs)
    assert "first column, which has no name and numbers the rows" in caplog.text
    assert "'Unnamed: 0', which numbers the rows" in caplog.text
    frame.to_parquet(tmp_path / "unnamed.parquet")
    assert torch.equal(loaded(tmp_path / "unnamed.parquet").store.inputs, plain.store.inputs)
    assert "the index is read" not in caplog.text
    frame.set_index(["site", "year"]).to_parquet(tmp_path / "indexed.parquet")
    data = loaded(tmp_path / "indexed.parquet", columns=["age", "colour", "member", "site", "year", "score"])
    assert torch.equal(data.store.inputs, plain.store.inputs)
    assert "the index is read as columns: site, year" in caplog.text


@pytest.mark.parametrize("odd", [[1, 2], {"k": 1}])
def test_what_is_no_word_or_number_is_neither_target_nor_input(tmp_path: Path, odd: Any) -> None:
    path = write(tmp_path, pd.DataFrame({"a": range(60), "odd": [odd] * 60, "y": [0, 1] * 30}), "odd.parquet")
    with pytest.raises(UserError, match=r"column 'odd' holds .*no features: `without`=\[odd\]"):
        loaded(path, target="y")
    with pytest.raises(UserError, match=r"target 'odd' holds .*objects .*where a word or a number a row"):
        loaded(path, target="odd")


def test_a_run_is_judged_on_another_file_as_it_was_trained(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, people(120))
    other = people(50, seed=3)
    kept = other[other["outcome"] == "well"][other.columns[::-1]]  # a part of the classes, in other columns
    write(tmp_path, kept, "later.csv")
    words = ["data=table", "data.root=people.csv", "data.target=outcome", "model.depth=1", "model.width=8", "logger=none",
             "fit.max_steps=4", "fit.validate_every_steps=2", "fit.monitor=f1",
             "fit.metrics=[f1,confusion_matrix,class_accuracy]"]  # fmt: skip
    assert main(["train", *words]) == 0
    (run,) = (tmp_path / "runs" / "adhoc").iterdir()
    from tutelage import load_run
    from tutelage.runs.records import read_json

    result = read_json(run / "result.json")
    assert result["selection"]["monitor"] == "f1" and "class_accuracy/ill" in result["metrics"]["test"]
    assert np.sum(result["arrays"]["test"]["confusion_matrix"]) == 24
    capsys.readouterr()
    assert main(["evaluate", str(run), "data.root=later.csv"]) == 0
    line = capsys.readouterr().out
    assert main(["evaluate", str(run), "data.root=later.csv", "split=train"]) == 2
    trained = load_run(run)
    encoding = trained.data.encoding  # type: ignore[attr-defined]
    inputs = torch.from_numpy(encoding.apply(pd.read_csv(tmp_path / "later.csv"), "")[0])
    right = (trained.network(inputs).argmax(1) == 1).double().mean()  # "well" is the second class
    assert f"accuracy {right:.4f}" in line
