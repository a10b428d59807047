"""Columns of tables as targets, features and numbers: every rule at its boundary, every message and note as it stands."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from expected import refused
from tutelage.data import column_cells, csv_cells, image_depth, row_targets, series_file
from tutelage.data.column_features import Category, Encoding, Number, learn
from tutelage.data.frame import Frame


def targets(columns, names=None, **more):
    table = pd.DataFrame(columns)
    return row_targets.read(Frame(table, {}, []), names or list(table.columns), root="f", **more)


VALUES = "data.task=regression takes it as values"


@pytest.mark.parametrize(("cells", "more", "task", "values", "classes", "note"), [
    (["b", "a", " b"], {}, "classification", [1, 0, 1], ["a", "b"], "the target 'y' is taken as 2 classes: a, b"),
    ([2.0, 0.0, 1.0, 0.0], {}, "classification", [2, 0, 1, 0], ["0", "1", "2"], f"the target 'y' is taken as 3 classes: 0, 1, 2; {VALUES}"),
    ([True, False], {}, "classification", [1, 0], ["false", "true"], "the target 'y' is taken as 2 classes: false, true"),
    ([1.5, 2.0, 2.0], {}, "regression", [[1.5], [2.0], [2.0]], None,
     "the target 'y' from 1.5 to 2 is taken as values (regression); data.task=classification takes classes"),
    ([1.5, 2.0, 2.0, 1.5], {"task": "classification"}, "classification", [0, 1, 1, 0], ["1.5", "2"],
     f"the target 'y' is taken as 2 classes: 1.5, 2; {VALUES}"),
    (["c", "a", "b"], {"classes": ["b", "a"]}, "classification", [-1, 1, 0], ["b", "a"],
     "the target 'y' is taken as 2 classes: b, a; 1 rows of other classes are left out"),
    ([2.0, 0.0, 1.0], {"classes": [2, 1]}, "classification", [0, -1, 1], ["2", "1"],
     f"the target 'y' is taken as 2 classes: 2, 1; {VALUES}; 1 rows of other classes are left out"),
    (["b", "a"], {"known": ["a", "c", "b"]}, "classification", [2, 0], ["a", "c", "b"], "the target 'y' is taken as 3 classes: a, c, b"),
    (["b", "a"], {"task": "binary"}, "binary", [1, 0], ["a", "b"], "the target 'y' is taken as 2 classes: a, b"),
    ([10.0, 9.0, 10.0], {}, "classification", [1, 0, 1], ["9", "10"], f"the target 'y' is taken as 2 classes: 9, 10; {VALUES}"),
    (list("abcdefgh") * 2, {}, "classification",
     [*range(8)] * 2, list("abcdefgh"), "the target 'y' is taken as 8 classes: a, b, c, d, e, f, g, h"),
    (list("abcdefghi") * 2, {}, "classification", [*range(9)] * 2, list("abcdefghi"),
     "the target 'y' is taken as 9 classes: a, b, c, d, e, f, g, h and 1 more"),
])  # fmt: skip
def test_one_column_as_a_target(cells, more, task, values, classes, note):
    found = targets({"y": cells}, **more)
    assert (found.task, found.values.tolist(), found.classes, found.note) == (task, values, classes, note)
    assert found.values.dtype == (np.float64 if task == "regression" else np.int64)


@pytest.mark.parametrize(("different", "task"), [(20, "classification"), (21, "regression")])
def test_few_whole_numbers_are_classes(different, task):
    assert targets({"y": [float(one) for one in range(different)] * 2}).task == task


@pytest.mark.parametrize(("columns", "task", "note"), [
    ({"a": [0, 1, 1], "b": [1, 0, 1]}, "multi_label", "2 labels of 0 and 1: several may hold at once (multi-label)"),
    ({"a": [0, 1, 2], "b": [1.5, 0, 1]}, "regression", "the target 'a' from 0 to 2, 'b' from 0 to 1.5 is taken as values (regression); "
                                                       "data.task=classification takes classes"),
])  # fmt: skip
def test_several_columns_as_targets(columns, task, note):
    found = targets(columns)
    assert (found.task, found.note) == (task, note)
    assert found.values.tolist() == np.array(list(columns.values()), dtype=float).T.tolist()
    assert found.classes == (list(columns) if task == "multi_label" else None)


MANY = [f"w{place}" for place in range(21)]


@pytest.mark.parametrize(("columns", "more", "said"), [
    ({"y": ["a"]}, {"names": []}, "`target` must name the column to predict; known: y"),
    ({"y": ["a", None, "b", None]}, {},
     "f: the target 'y' is empty in 2 of 4 rows, the first of them row 2: remove these rows, or fill them in"),
    ({"y": [1.0, np.inf]}, {}, "f: the target 'y' holds infinite values"),
    ({"y": ["a", "b"]}, {"task": "regression"}, "f: the target 'y' holds words such as 'a', no numbers: task=classification takes them"),
    ({"y": [1.5, 1.5]}, {}, "f: the target 'y' is 1.5 in every row: there is nothing to predict"),
    ({"y": [0, 2]}, {"task": "multi_label"}, "f: a label is 0 or 1, the column 'y' holds '2'"),
    ({"a": [0, 1],
     "b": [0, 1]}, {"task": "binary"}, "`target`=['a', 'b']: one column holds the classes; several are task=multi_label (each 0 "
                                                     "or 1) or task=regression"),
    ({"y": ["a", "d"]}, {"known": ["a", "b"]}, "f: the target 'y' has classes that the network does not know: d; it knows a, b. "
                                               "data.classes=[...] keeps some"),
    ({"y": ["a", "b"]}, {"classes": ["a", "x"]}, "`classes`: class 'x' does not exist; known: a, b"),
    ({"y": ["a", "b"]}, {"classes": ["a", "a"]}, "`classes`: class 'a' occurs twice"),
    ({"y": ["a", "a"]}, {}, "f: the target 'y' holds one class only, 'a': there is nothing to tell apart"),
    ({"y": MANY}, {}, "f: the target 'y' holds 21 different values in 21 rows, which are no classes; choose another column as `target`"),
    ({"y": MANY + MANY[:-1]}, {}, "f: the target 'y' holds 21 different values in 41 rows, which are no classes; choose another column as "
                                  "`target`"),
    ({"y": [one + 0.5 for one in range(21)]}, {"task": "classification"},
     f"f: the target 'y' holds 21 different values in 21 rows, which are no classes; {VALUES.replace('it', 'them')}"),
    ({"y": ["a", "b", "c"]}, {"task": "binary"}, "f: task=binary needs two classes, the target 'y' has 3: a, b, c"),
])  # fmt: skip
def test_what_is_no_target(columns, more, said):
    if more.get("names") == []:
        table = Frame(pd.DataFrame(columns), {}, [])
        assert refused(row_targets.read, table, [], root="f") == said
        return
    assert refused(targets, columns, **more) == said


def test_so_many_classes_of_twice_as_many_rows_and_any_number_that_is_asked_for():
    assert len(targets({"y": MANY * 2}).classes) == 21
    assert len(targets({"y": MANY}, classes=MANY).classes) == 21


# --- features -------------------------------------------------------------------------------------------------


def test_columns_are_learnt_on_the_training_rows_alone(monkeypatch):
    table = pd.DataFrame({
        "n": [1.0, 3.0, np.nan, 100.0, np.inf], "w": ["b", "a", None, "c", "b"], "k": [7.0, 7.0, 7.0, 8.0, 8.0],
     "e": [np.nan, np.nan, np.nan, 1, 1],
        "g": [2.0, np.nan, 2.0, 5.0, np.nan], "i": [1.0, 2.0, np.inf, 0.0, 1.0],
    })  # fmt: skip
    encoding, notes = learn(
        table, ["n", "w", "k", "e", "g", "i"], np.array([0, 1, 2]), categories=(), root="f"
    )
    assert encoding.columns == (
        Number("n", 2.0, 1.0, True), Category("w", ("", "a", "b")), Number("g", 2.0, 1.0, True), Number("i", 1.5, 0.5, True),
    )  # fmt: skip
    assert notes == [
        "infinite values of the column 'i' count as empty",
        "columns that are the same in all training rows are left out: k, e",
    ]
    assert encoding.names == [
        "n",
        "n is empty",
        "w=empty",
        "w=a",
        "w=b",
        "g",
        "g is empty",
        "i",
        "i is empty",
    ]
    features, unknown = encoding.apply(table, "f")
    assert encoding.apply(table[:3], "f")[1] == {}
    assert features.tolist() == [
        [-1, 0, 0, 0, 1, 0, 0, -1, 0], [1, 0, 0, 1, 0, 0, 1, 1, 0], [0, 1, 1, 0, 0, 0, 0, 0, 1], [98, 0, 0, 0, 0, 3, 0, -3, 0],
        [0, 1, 0, 0, 1, 0, 1, -1, 0],
    ]  # fmt: skip
    assert {name: rows.tolist() for name, rows in unknown.items()} == {
        "w": [False, False, False, True, False]
    }
    monkeypatch.setattr("tutelage.data.memory.room_bytes", lambda: 4 * 9 * 5)
    assert encoding.apply(table, "f")[0].shape == (5, 9)
    monkeypatch.setattr("tutelage.data.memory.room_bytes", lambda: 4 * 9 * 5 - 1)
    said = "5 rows of 9 features need 0.0 GB of memory, where 0.0 GB are all there is: leave columns of many categories out"
    assert refused(encoding.apply, table, "f") == said
    monkeypatch.undo()
    assert (
        refused(encoding.apply, table.assign(n="x"), "g")
        == "g: the column 'n' held numbers in training, and holds words here"
    )


def learnt(columns, **more):
    table = pd.DataFrame(columns)
    return learn(table, list(table.columns), np.arange(len(table)), **{"categories": (), "root": "f", **more})


@pytest.mark.parametrize(
    ("words", "rows", "fine"),
    [(20, 20, True), (21, 21, False), (21, 41, False), (21, 42, True), (22, 43, False)],
)
def test_words_that_name_single_rows_are_no_feature(words, rows, fine):
    cells = [f"w{place % words}" for place in range(rows)]
    if fine:
        assert learnt({"w": cells})[0].columns[0].width == words
        return
    assert refused(learnt, {"w": cells, "v": cells}) == (
        f"f: words that hardly occur twice tell nothing of new rows: w ({words} in {rows} rows), v ({words} in {rows} rows). Leave these "
        "columns out: `without`=[w,v], or keep them: `categories`=[w,v]"
    )
    assert learnt({"w": cells}, categories=["w"])[0].columns[0].width == words


def test_a_column_of_dates_is_offered_as_time():
    for form in ("2024-01-{:02d}", "{}.3.2024 12:30", "2024/3/{}"):
        days = [form.format(day) for day in range(1, 29)]
        assert refused(learnt, {"day": days}).endswith(
            "; `time`=day leaves it out, too, and makes the latest rows the test"
        )
    assert "`time`" not in refused(
        learnt, {"day": [*days[:-1], "never"], "code": [f"2024-{n:05d}" for n in range(28)]}
    )


@pytest.mark.parametrize(("columns", "said"), [
    ({"a": [1.0, 1.0]}, "f: no column is left to predict from"),
    ({"a": [[1], [2]]}, "f: the column 'a' holds list objects, no features: `without`=[a] leaves it out"),
    ({"a": [{"bytes": b""}, None]}, "f: the column 'a' holds pictures, no features: `without`=[a] leaves it out; data=huggingface "
                                    "data.image=a reads them"),
    *(({"a": [odd, None]}, f"f: the column 'a' holds {type(odd).__name__} objects, no features: `without`=[a] leaves it out")
      for odd in ({"path": "x"}, ["bytes"])),
    ({"a": pd.to_datetime(["2020-01-01", "2020-01-02"])},
     "f: the column 'a' holds times, no features: `without`=[a] leaves it out, `time`=a "
                                                          "splits by it"),
])  # fmt: skip
def test_what_is_no_feature(columns, said):
    assert refused(learnt, columns) == said


@pytest.mark.parametrize(("scale", "varies"), [(1e-13, False), (1e-11, True)])
def test_a_rounding_error_is_no_deviation(scale, varies):
    cells = [1.0 - scale, 1.0 + scale, np.nan]
    (one,) = learnt({"a": cells})[0].columns
    assert (one.deviation == 1.0) != varies and one.indicator


def test_numbers_as_words_are_written_shortly():
    encoding, _ = learnt({"a": [1.0, 2.5, 1.0]}, categories=["a"])
    assert encoding == Encoding((Category("a", ("1", "2.5")),))


# --- cells ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cells", "kept", "notes"), [
    ([True, False], [True, False], []), ([1, 2], [1.0, 2.0], []), (["1", " 2.5 ", None], [1.0, 2.5, None],
     ["the numbers of the column 'c' are written as text: taken as numbers"]),
    (["a", " b ", None, "-"], ["a", "b", None, None], []), ([None, None], [None, None], []), ([1, True, None], [1.0, 1.0, None], []),
    ([True, None], [1.0, None], []), ([Decimal("1.5"), None], [1.5, None], []), (["a", "b", "1"], ["a", "b", "1"], []),
    (["a", "b", "c", "1", "2"], ["a", "b", "c", "1", "2"], []), (["x", None, "y"], ["x", None, "y"], []),
])  # fmt: skip
def test_the_cells_of_a_column(cells, kept, notes):
    said: list[str] = []
    found = column_cells.plain("f", "c", pd.Series(cells), ["-"], said)
    assert [None if pd.isna(cell) else cell for cell in found] == kept and said == notes
    assert (
        not (set(map(type, kept)) <= {float, type(None)} and float in map(type, kept))
        or found.dtype == "float64"
    )


@pytest.mark.parametrize(("cells", "said"), [
    (["1", "2", "x"], "2 numbers with 1 texts ('x' in row 3)"), (["x", "1"], "1 numbers with 1 texts ('x' in row 1)"),
    (["x", "1", "y", "2", "3", "x"], "3 numbers with 3 texts ('x' in row 1 and 1 others)"),
])  # fmt: skip
def test_numbers_and_texts_in_one_column(cells, said):
    assert refused(column_cells.plain, "f", "c", pd.Series(cells), [], []) == (
        f"f: the column 'c' mixes {said}: say that it stands for an empty cell (`empty`=['x']), mend the file, or leave the column out "
        "(`without`=[c])"
    )


def sign(*columns):
    return csv_cells.decimal_sign(
        Path("f"), [pd.Series(cells, dtype=object) for cells in columns], list("abc")[: len(columns)]
    )


@pytest.mark.parametrize(("columns", "found"), [
    ([["1", "-2"]], "point"), ([["1.5", "2"]], "point"), ([["1,5", "2"]], "comma"), ([["1,234", "1"], ["1.5"]], "point"),
    ([["1,234", "1"], ["1,5"]], "comma"), ([["1.234"], ["7", None]], "f: is '1.234' of the column 'a' about one or above a thousand? Set "
                                                                     "`decimal`=point or `decimal`=comma"),
    ([["1", "2,345"], ["1.234"]], "f: is '2,345' of the column 'a' about one or above a thousand? Set `decimal`=point or `decimal`=comma"),
    ([["3", "1.5"],
     ["2", "1,5"]], "f: the decimal sign is a point in '1.5' of the column 'a' and a comma in '1,5' of the column 'b': leave "
                                   "columns out with `columns`, or write all numbers in one way"),
])  # fmt: skip
def test_the_decimal_sign_of_a_file(columns, found):
    if found in ("point", "comma"):
        assert sign(*columns) == found
    else:
        assert refused(sign, *columns) == found


@pytest.mark.parametrize(("text", "decimal", "number"), [("1.5", "point", 1.5), ("1,234.5", "point", 1234.5), ("1,5", "comma", 1.5),
                                                         ("1.234,5", "comma", 1234.5), ("-7", "comma", -7.0),
    ("1,5", "point", None)])  # fmt: skip
def test_a_number_with_its_decimal_sign(text, decimal, number):
    cells = pd.Series([text], dtype=object)
    if number is None:
        with pytest.raises(ValueError):
            csv_cells.parsed(cells, decimal)
    else:
        assert csv_cells.parsed(cells, decimal).tolist() == [number]


def test_cells_are_cleaned():
    cells = pd.Series([" 1 234 567 ", "−5", "True", "False", "12 34", "a b"])
    assert csv_cells.cleaned(cells).tolist() == ["1234567", "-5", "1", "0", "12 34", "a b"]


def width(*body, filled=None, delimiter=","):
    lines = list(body)
    return csv_cells.of_one_width(
        Path("f"), lines, filled or list(range(1, len(lines) + 1)), lines[0].split(delimiter), delimiter
    )


@pytest.mark.parametrize(("body", "header"), [
    (("a,b", "1,2"), ["a", "b"]), (("a,b", "1,2,", "3,4, "), ["a", "b", ""]), (("a,b", '1,"2,3"'), ["a", "b"]),
    (("a,b", '1,"2', '3"'), ["a", "b"]),
])  # fmt: skip
def test_rows_as_wide_as_their_header(body, header):
    assert width(*body) == header


NAMES = "the header names 2 columns, "
DECIMAL = "a column without a name needs one, and decimal commas need ';' between the columns, or quotes"


@pytest.mark.parametrize(("body", "said"), [
    (("a,b", "1,2", "3"), "1 of 2 rows have another number of cells, first line 5 with 1: was the file cut off?"),
    (("a,b", "1", "3,4"), f"1 of 2 rows have another number of cells, first line 3 with 1: {DECIMAL}"),
    (("a,b", "1,2,3", "4,5,6"), f"2 of 2 rows have another number of cells, first line 3 with 3: {DECIMAL}"),
    (("a,b", "1,2,", "3,4"), f"1 of 2 rows have another number of cells, first line 3 with 3: {DECIMAL}"),
    (("a,b", '1,"2', '3"', "7"), "1 of 2 rows have another number of cells, first row 2 with 1: was the file cut off?"),
])  # fmt: skip
def test_rows_of_another_width(body, said):
    assert refused(width, *body, filled=[1, 3, 5, 6][: len(body)]) == f"f: {NAMES}{said}"


@pytest.mark.parametrize(("column", "note"), [
    ([-999, 1, 2], "1 cells of the column 'c' hold -999 and are taken for numbers; if it stands for a missing value, leave them empty"),
    ([-9999, -9999, np.nan, 5],
     "2 cells of the column 'c' hold -9999 and are taken for numbers; if it stands for a missing value, leave them empty"),
    ([-999, -500, 1], None), ([-999, -499.5, 1], None),
    ([-999, -499, 1], "1 cells of the column 'c' hold -999 and are taken for numbers; if it stands for a missing "
                                               "value, leave them empty"),
    ([-99, 1, 2], None), ([-999, -999], None), ([np.nan, np.nan], None), ([999, 1], None),
])  # fmt: skip
def test_numbers_that_often_stand_for_a_missing_one(column, note):
    assert series_file._sentinels(np.array([column], dtype=float).T, ["c"]) == (
        [] if note is None else [note]
    )


def label(name, values, positions=None, words=()):
    table = SimpleNamespace(
        names=[name], values=np.array([values], dtype=float).T, words=dict.fromkeys(words, "x")
    )
    return series_file._is_label(
        table, 0, np.array(positions if positions is not None else range(len(values)))
    )


def test_a_column_that_counts_is_no_series():
    few = series_file._FEW_ROWS
    assert label("n", range(few)) and label("n", range(5, 5 + few)) and not label("n", range(few - 1))
    assert not label("n", [2 * one for one in range(few)])
    gaps = [*range(few - 1), few + 3]
    assert label("n", gaps, gaps) and not label("n", gaps)
    for bare in ("", "Unnamed: 0", "Unnamed: 0.1"):
        assert label(bare, [3, 1, 2]) and label(bare, [np.nan, np.nan]) and not label(bare, [1.5, 2])
        assert label(bare, [np.nan, 2])
    assert not label("Unnamed: x", [3, 1, 2]) and not label("", [1, 2], words=[""])
    assert series_file._said_of("", np.array([np.nan])) == "a column without a name is empty: left out"
    assert (
        series_file._said_of("", np.array([1.0]))
        == "a column without a name holds whole numbers, an index: left out"
    )
    assert (
        series_file._said_of("n", np.array([1.0]))
        == "the column 'n' counts the rows and is left out; `columns` takes it all the same"
    )


@pytest.mark.parametrize(("values", "white", "outcome"), [
    ([0, 5], 5.0, 1.0), ([0, 2], 8.0, 0.25), ([1, 4], 4.0, 1.0),
    ([0, 5], 4.9, "its values lie between 0 and 5, white is 4.9: set `white` to the "
                                                                            "largest of the set"),
    ([-0.5, 1], 2.0, "its values lie between -0.5 and 1, white is 2: set `white` to the largest of the set"),
    ([np.nan, 1], 2.0, "it holds values that are no numbers (NaN)"),
    *((values, None, f"it holds numbers of 32 bits from 0 to {values[1]:g}, without a known range: set `white` to what means white in all "
                     f"images ({likely}, say), or save it with 8 or 16 bits")
      for values, likely in (([0, 1.0], 1), ([0, 0.5], 1), ([0, 1.5], 3), ([0, 255], 255), ([0, 256], 511), ([0, 4095], 4095),
    ([0, np.inf], 65535))),
])  # fmt: skip
def test_the_range_of_deep_images(values, white, outcome):
    if isinstance(outcome, float):
        assert image_depth._largest(np.array(values, dtype=float), white) == outcome
        return
    with pytest.raises(ValueError) as error:
        image_depth._largest(np.array(values, dtype=float), white)
    assert str(error.value) == outcome


@pytest.mark.parametrize(("mode", "kind", "bits", "args", "is_deep"), [
    ("I", "PNG", None, [], True), ("F", "TIFF", None, [], True), ("I;16B", "TIFF", None, [], True), ("L", "PNG", None, ["L"], False),
    ("RGB", "TIFF", (8, 8, 8), [], False), ("RGB", "TIFF", (9, 8, 8), [], True), ("RGB", "TIFF", (16,) * 3, [], True),
    ("RGB", "TIFF", None, [], False),
    ("RGB", "PPM", None, [("RGB", 255)], False), ("RGB", "PPM", None, [("RGB", 256)], True), ("RGB", "PPM", None, [("RGB", 65535)], True),
    ("RGB", "PPM", None, [("RGB", 65536)], False), ("RGB", "PPM", None, ["RGB"], False), ("RGB", "PNG", None, ["RGB;16B"], True),
    ("RGB", "PNG", None, [("RGB;16B", 0)], True), ("RGB", "PNG", None, [None], False), ("RGB", "PNG", None, [()], False),
])  # fmt: skip
def test_more_than_eight_bits_a_value(mode, kind, bits, args, is_deep):
    tags = {} if bits is None else {image_depth._BITS: bits}
    image = SimpleNamespace(
        mode=mode, format=kind, tag_v2=tags, tile=[SimpleNamespace(args=one) for one in args]
    )
    assert image_depth.is_deep(image) == is_deep


@pytest.mark.parametrize(("raw", "text", "notes"), [
    ("é,b\r\n1,2\r3,4".encode(), "é,b\n1,2\n3,4", []), ("\ufeffa,b".encode(), "a,b", []),
    ("a\né".encode("cp1252"), "a\né", ["the file is not UTF-8 (line 2): read as Windows-1252, which names of columns may show"]),
    ("a,é".encode("utf-16"), "a,é", ["the file is UTF-16"]), ("a,é".encode("utf-32"), "a,é", ["the file is UTF-32"]),
    (b"\xff\xfea", None, "begins as utf-16-le and is not: save it as UTF-8"),
    (b"PK\x03\x04", None, "is no CSV file, but holds binary data (a workbook, Parquet?): save it as text in UTF-8"),
    (b"a\0b", None, "is no CSV file, but holds binary data (a workbook, Parquet?): save it as text in UTF-8"),
])  # fmt: skip
def test_the_text_of_a_file(tmp_path, raw, text, notes):
    path = tmp_path / "a.csv"
    path.write_bytes(raw)
    if text is None:
        assert refused(csv_cells.text_of, path) == f"{path} {notes}"
    else:
        assert csv_cells.text_of(path) == (text, notes)
