"""CSV files as the world writes them: encodings, delimiters, decimals, row numbers, cells that are empty or missing."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from tutelage.data import csv_table
from tutelage.data.csv_table import read
from tutelage.errors import UserError

DAYS = [f"2020-01-{day:02d}" for day in range(1, 11)]
VALUES = [0.5, 1234.25, -7.0, 999.75, 1000000.5, 3.0, 12345.0, 0.0, 1.125, 20.0]


def written(
    path: Path, cells: list[str], *, mark: str = ",", head: str = "date,a", encoding: str = "utf-8"
) -> Path:
    rows = [head.replace(",", mark), *(f"{day}{mark}{cell}" for day, cell in zip(DAYS, cells, strict=False))]
    path.write_bytes(("\n".join(rows) + "\n").encode(encoding))
    return path


def german(value: float) -> str:
    return f"{value:,}".translate(str.maketrans(",.", ".,"))


@pytest.mark.parametrize(
    ("mark", "cell"),
    [
        (",", str),
        (";", str),
        ("\t", str),
        ("|", str),
        (";", lambda v: str(v).replace(".", ",")),
        (",", lambda v: '"' + str(v).replace(".", ",") + '"'),
        (",", lambda v: f'"{v:,}"'),
        ("\t", lambda v: f"{v:,}"),
        (";", german),
        (",", lambda v: f'"{german(v)}"'),
        (";", lambda v: german(v).replace(".", "\u202f").replace("-", "−")),
        ("|", lambda v: f"{v:,}".replace(",", "'")),
        (",", lambda v: f' "{v}"'),
        (";", lambda v: f"{v:.12e}".replace(".", ",")),
    ],
)
def test_numbers_are_the_same_however_they_are_written(tmp_path: Path, mark: str, cell) -> None:
    table = read(written(tmp_path / "t.csv", list(map(cell, VALUES)), mark=mark))
    assert table.names == ["a"] and table.moments == DAYS and not table.words
    assert table.values[:, 0].tolist() == VALUES


@pytest.mark.parametrize(
    ("mark", "cells"),
    [
        (",", ['"1,234"', '"999"', '"12,345"']),
        (";", ["1.234", "999", "12.345"]),
        (";", ["1,234", "1,235", "1,236"]),
        ("\t", ["1.234", "999", ""]),
    ],
)
def test_a_cell_that_may_be_thousands_or_thousandths_is_asked_for(
    tmp_path: Path, mark: str, cells: list[str]
) -> None:
    path = written(tmp_path / "t.csv", cells, mark=mark)
    with pytest.raises(
        UserError, match=r"about one or above a thousand\? Set `decimal`=point or `decimal`=comma"
    ):
        read(path)
    plain = [cell.strip('"') for cell in cells]
    for decimal, sign, group in (("point", ".", ","), ("comma", ",", ".")):
        expected = [float(cell.replace(group, "").replace(sign, ".") or "nan") for cell in plain]
        assert np.array_equal(read(path, decimal=decimal).values[:, 0], expected, equal_nan=True)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1.234", "0.512"], [1.234, 0.512]),  # no group of thousands begins with 0
        (["1013.250", "1.234"], [1013.25, 1.234]),
        (["1.234.567", "1.234"], [1234567.0, 1234.0]),
        (["1.234", "1,5"], [1234.0, 1.5]),
    ],
)
def test_one_cell_that_proves_the_decimal_sign_decides_for_the_file(
    tmp_path: Path, cells: list[str], expected: list[float]
) -> None:
    assert read(written(tmp_path / "t.csv", cells, mark=";")).values[:, 0].tolist() == expected


def test_a_file_of_two_decimal_signs_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", ["1,5;2.5", "2,5;3.5"], mark=";", head="date;a;b")
    with pytest.raises(
        UserError, match=r"a point in '2.5' of the column 'b' and a comma in '1,5' of the column 'a'"
    ):
        read(path)
    assert read(path, columns=["a"]).values[:, 0].tolist() == [1.5, 2.5]


@pytest.mark.parametrize(
    ("encoding", "note"),
    [("utf-8-sig", None), ("utf-16", "UTF-16"), ("utf-32", "UTF-32"), ("cp1252", r"not UTF-8 \(line 1\)")],
)
def test_encodings(tmp_path: Path, encoding: str, note: str | None) -> None:
    table = read(written(tmp_path / "t.csv", ["1.5", "2.5"], head="date,Wärme in °C", encoding=encoding))
    assert table.names == ["Wärme in °C"] and table.values[:, 0].tolist() == [1.5, 2.5]
    assert bool(table.notes) == bool(note)
    if note:
        with pytest.raises(AssertionError, match=note):
            raise AssertionError(table.notes)


@pytest.mark.parametrize("ending", ["\r\n", "\r", "\n\n"])
def test_ends_of_lines(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(ending.join(["date,a", "2020-01-01,1", "2020-01-02,2", ""]).encode())
    table = read(path)
    assert table.values[:, 0].tolist() == [1, 2] and table.moments == DAYS[:2]
    assert table.lines.tolist() == ([3, 5] if ending == "\n\n" else [2, 3])


def test_compressed_files(tmp_path: Path) -> None:
    plain = written(tmp_path / "t.csv", ["1.5", "2.5"])
    packed = tmp_path / "t.csv.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert np.array_equal(read(packed).values, read(plain).values)
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(UserError, match="cannot be unpacked"):
        read(packed)


def test_cells_that_are_empty(tmp_path: Path) -> None:
    cells = ["1", "", "?", "-", "NA", "nan", "--", "null", "N/A", "2"]
    for mark in (",", ";"):
        values = read(written(tmp_path / "t.csv", cells, mark=mark)).values[:, 0]
        assert np.isnan(values).tolist() == [False, *[True] * 8, False]


def test_rows_of_nothing_are_left_out_and_said(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("date,a\n2020-01-01,1\n,\n2020-01-02,2\n,\n")
    table = read(path)
    assert table.lines.tolist() == [2, 4] and table.notes == ["2 rows without a single value are left out"]
    path.write_text("\ndate,a,b\n\n2020-01-01,1,x\n \n2020-01-02,2,y\n")
    assert read(path).lines.tolist() == [4, 6] and read(path).words == {"b": "'x' in line 4"}
    path.write_text(
        'date,a,b\n2020-01-01,1,"x\ny"\n2020-01-02,2,z\n'
    )  # lines that no row begins with: rows are counted
    assert read(path, columns=["a"]).lines.tolist() == [2, 3]


def test_a_delimiter_at_the_end_of_every_row_is_an_empty_column(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("date,a\n2020-01-01,1,\n2020-01-02,2,\n")
    table = read(path)
    assert (
        table.names == ["a", ""]
        and table.values[:, 0].tolist() == [1, 2]
        and np.isnan(table.values[:, 1]).all()
    )


def test_the_time_may_be_an_index_without_a_name_or_several_columns(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(",a\n2020-01-01,1\n2020-01-02,2\n")
    table = read(path)
    assert table.moments == DAYS[:2] and table.names == ["a"] and "without a name" in table.notes[0]
    path.write_text("Date;Time;a\n2020-01-01;10:00;1\n2020-01-01;11:00;2\n")
    assert read(path, date=["Date", "Time"]).moments == ["2020-01-01 10:00", "2020-01-01 11:00"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"date,a\n", "a header and no rows"),
        (b"date,a\n,\n", "no rows that hold anything"),
        (b"PK\x03\x04...", "binary data"),
        (b"date\0,a", "binary data"),
        (b"\xff\xfed", "begins as utf-16"),
        (b"Datum,a\n2020-01-01,1\n", "no column 'date'.*known: Datum, a; `date` names"),
        (b"# a remark\nstation,4\ndate,a\n2020-01-01,1\n", "its header is not the first line, but number 3"),
        (
            b"date,a\n2020-01-01,1\n2020-01-02",
            r"names 2 columns, 1 of 2 rows .* line 3 with 1: was the file cut off",
        ),
        (b"date,a\n1,2020-01-01,1\n2,2020-01-02,2\n", "a column without a name needs one"),
        (b"date,a\n2020-01-01,1,5\n2020-01-02,2\n", "decimal commas need ';'"),
        (b"date,a,a\n2020-01-01,1,2\n", "more than one column named 'a'"),
        (b"date a\n2020-01-01 1\n", "no column 'date'"),
    ],
)
def test_what_is_no_such_table_is_explained(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read(path)


def test_words_are_named_with_their_first_place(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("date,a,b\n2020-01-01,1,2\n2020-01-02,x,3\n2020-01-03,y,4 %\n")
    assert read(path).words == {"a": "'x' in line 3", "b": "'4 %' in line 4"}
    assert read(path, columns=["a"]).words == {"a": "'x' in line 3"}
    with pytest.raises(
        UserError, match=r"`decimal` must be one of point, comma or nothing .null., got 'dot'"
    ):
        read(path, decimal="dot")


def test_a_plain_file_is_read_by_pandas_to_the_last_bit(tmp_path: Path) -> None:
    import pandas as pd

    values = np.random.default_rng(0).normal(size=(500, 3)) * 10.0 ** np.arange(-6, 9, 5)
    frame = pd.DataFrame(values, columns=["a", "b", "c"])
    frame.insert(0, "date", pd.date_range("2020-01-01", periods=500, freq="h"))
    frame.to_csv(tmp_path / "t.csv", index=False)
    plain = pd.read_csv(tmp_path / "t.csv")[["a", "b", "c"]].to_numpy()
    assert np.array_equal(csv_table.read(tmp_path / "t.csv").values, plain)
