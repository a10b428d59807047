"""What the texts of a column of time mean: formats, day or month first, offsets from UTC (no torch)."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tutelage.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

EPOCHS = {"unix": "s", "unix_ms": "ms"}
"""Formats of time that count from 1970 in UTC."""
_OFFSETS_WANTED = "write the times in UTC, or with their offset (+02:00)"
_ASK = "say which with `date_format`, such as '%d/%m/%Y %H:%M'"

_TIME = (
    r"(?:[ T,]+(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2}(?:\.\d+)?))?"
    r"(?:\s*(?P<half>[AaPp])\.?[Mm]\.?)?)?"
)
_YEAR_FIRST = rf"(?P<year>\d{{4}})[-/.](?P<month>\d{{1,2}})(?:[-/.](?P<day>\d{{1,2}}))?{_TIME}"
_YEAR_LAST = rf"(?P<day>\d{{1,2}})[-/.](?P<month>\d{{1,2}})[-/.](?P<year>\d{{4}}){_TIME}"
_STRICT = r"\d{4}-\d{2}-\d{2}(?:[ T]\d{2}:\d{2}(?::\d{2}(?:\.\d{1,6})?)?)?"
_OFFSET = r"(?P<text>.*\d:\d{2}(?::\d{2}(?:\.\d+)?)?)\s*(?P<offset>Z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)"
_ZONE = re.compile(r"\d:\d{2}.*\s[A-Za-z][A-Za-z_/]{1,30}$")
_ENGLISH = re.compile(r"jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec", re.IGNORECASE)
_LIKELY = {4: "%Y", 6: "%Y%m", 8: "%Y%m%d", 10: "unix", 12: "%Y%m%d%H%M", 13: "unix_ms", 14: "%Y%m%d%H%M%S"}
"""The format that a whole number of so many digits probably has."""


def looks_like_time(text: str) -> bool:
    """Say whether a text has the form of a date in digits, with or without a time."""
    return any(re.fullmatch(form, text.strip()) for form in (_YEAR_FIRST, _YEAR_LAST, _STRICT))


@dataclasses.dataclass(frozen=True)
class Moments:
    """instants: (rows,) microseconds since 1970, of UTC where the texts say their offset. clock: (rows,) datetime64[us], what clocks read.

    texts: as in the file. has_offset: whether one reading of the clock may be two moments.
    """

    instants: np.ndarray
    clock: np.ndarray
    texts: list[str]
    has_offset: bool


def read(
    texts: Sequence[str | None], *, lines: np.ndarray, where: str, date_format: str | None = None
) -> Moments:
    """Read the texts of a column of time; `lines` and `where` (file and column) are for messages.

    date_format: of strptime, or one of `EPOCHS`; by default ISO 8601, year first, or day and month as numbers prove it, or months in
    words. Raises UserError for empty ones, for texts of another form than the first, and where day and month could be exchanged.
    """
    import pandas as pd

    empty = np.flatnonzero([text is None for text in texts])
    if empty.size:
        raise UserError(
            f"{where} is empty in {empty.size} of {len(texts)} rows, {_some(lines[empty], 'line')}: fill them in, or remove the rows"
        )
    known = [text or "" for text in texts]
    column = pd.Series(known, dtype=object)
    if date_format in EPOCHS:
        numbers = pd.to_numeric(column, errors="coerce")
        _refuse(numbers.isna(), column, lines, where, f"no number, as `date_format`={date_format} expects")
        scale = 1_000_000 if date_format == "unix" else 1_000
        instants = np.round(numbers.to_numpy(dtype=np.float64) * scale).astype(np.int64)
        return Moments(instants, instants.astype("datetime64[us]"), known, has_offset=True)
    if date_format is None and column.str.fullmatch(r"[+-]?\d+(?:\.\d+)?").all():
        likely = _LIKELY.get(len(known[0].partition(".")[0]))
        hint = f"; `date_format`={likely} if that is what they are" if likely else ": convert them"
        raise UserError(
            f"{where} holds numbers, [{known[0]}] to begin with, where dates such as 2016-07-01 00:00 are expected{hint}"
        )
    bare, offsets = _offsets(column, lines, where)
    if date_format is not None:
        clock = _by_format(bare if "%z" not in date_format else column, date_format, lines, where)
        if "%z" in date_format and offsets is not None:
            clock = clock + offsets
    else:
        clock = _by_form(bare, lines, where)
    instants = clock.astype("datetime64[us]").astype(np.int64)
    if offsets is not None:
        instants = instants - offsets.astype(np.int64)
    return Moments(instants, clock, known, has_offset=offsets is not None)


def _some(lines: Sequence[int] | np.ndarray, noun: str, limit: int = 3) -> str:
    shown = ", ".join(map(str, lines[:limit]))
    return f"{noun}{'s' if len(lines) > 1 else ''} {shown}{', ...' if len(lines) > limit else ''}"


def _refuse(wrong: pd.Series, column: pd.Series, lines: np.ndarray, where: str, what: str) -> None:
    places = np.flatnonzero(wrong.to_numpy(dtype=bool))
    if places.size:
        raise UserError(
            f"{where} holds in {places.size} of {len(column)} rows {what}: '{column.iloc[places[0]]}' in line {lines[places[0]]} to "
            "begin with"
        )


def _offsets(column: pd.Series, lines: np.ndarray, where: str) -> tuple[pd.Series, np.ndarray | None]:
    """Return the texts without their offsets from UTC, and these as timedelta64[us]; None where no text has one."""
    parts = column.str.extract(f"^{_OFFSET}$")
    there = parts["offset"].notna()
    if not there.any():
        return column, None
    _refuse(~there, column, lines, where, "no offset from UTC, where others have one")
    numbers = parts["offset"].replace({"Z": "+00", "UTC": "+00", "GMT": "+00"}).str.replace(":", "")
    hours, minutes = numbers.str[1:3].astype(int), numbers.str[3:5].replace({"": "0"}).astype(int)
    sign = np.where(numbers.str[0] == "-", -1, 1)
    total = sign * (hours * 60 + minutes).to_numpy(dtype=np.int64)
    return parts["text"], (total * 60_000_000).astype("timedelta64[us]")


def _by_format(column: pd.Series, date_format: str, lines: np.ndarray, where: str) -> np.ndarray:
    import pandas as pd

    if "%Z" in date_format:
        raise UserError(f"`date_format`={date_format!r}: names of zones are not read; {_OFFSETS_WANTED}")
    try:
        found = pd.to_datetime(column, format=date_format, errors="coerce", utc="%z" in date_format)
    except ValueError as error:
        raise UserError(f"`date_format`={date_format!r} is no format: {error}") from error
    _refuse(found.isna(), column, lines, where, f"what is not of the form `date_format`={date_format}")
    return _microseconds(found.dt.tz_localize(None))


def _by_form(column: pd.Series, lines: np.ndarray, where: str) -> np.ndarray:
    import pandas as pd

    if column.str.fullmatch(_STRICT).all():
        found = pd.to_datetime(column, format="ISO8601", errors="coerce")
        _refuse(found.isna(), column, lines, where, "no day of the calendar")
        return _microseconds(found)
    first = column.iloc[0]
    for form in (_YEAR_FIRST, _YEAR_LAST):
        if re.fullmatch(form, first):
            parts = column.str.extract(f"^{form}$")
            _refuse(
                parts["year"].isna(), column, lines, where, f"what has not the form of the first, '{first}'"
            )
            if form == _YEAR_LAST:
                parts = _day_and_month(parts, column, lines, where)
            return _assembled(parts, column, lines, where)
    # days and months as numbers would be guessed; a year of two digits never is
    if _ENGLISH.search(first) and (guess := pd.tseries.api.guess_datetime_format(first)):
        return _by_format(column, guess, lines, where)
    if _ZONE.search(first) and not re.search(r"[AaPp]\.?[Mm]\.?$", first):
        raise UserError(f"{where} has names of zones, '{first}' to begin with: {_OFFSETS_WANTED}")
    raise UserError(
        f"{where} holds no dates of a form that leaves nothing open: '{first}' in line {lines[0]}; {_ASK}"
    )


def _day_and_month(parts: pd.DataFrame, column: pd.Series, lines: np.ndarray, where: str) -> pd.DataFrame:
    first, second = (parts[name].astype(int) for name in ("day", "month"))
    if (first > 12).any() and (second > 12).any():
        raise UserError(
            f"{where}: the day comes first in '{column[first > 12].iloc[0]}' (line {lines[first > 12][0]}) and second in "
            f"'{column[second > 12].iloc[0]}' (line {lines[second > 12][0]}): write all dates in one form"
        )
    if (second > 12).any():
        return parts.rename(columns={"day": "month", "month": "day"})
    if not (first > 12).any() and (first != second).any():
        text = column[first != second].iloc[0]
        raise UserError(
            f"{where} is day first or month first, nothing in the file says which ('{text}'): "
            f"`date_format`={_format_of(text, '%d', '%m')!r} or {_format_of(text, '%m', '%d')!r}"
        )
    return parts


def _format_of(text: str, first: str, second: str) -> str:
    date, gap, time = re.fullmatch(r"([^ T,]*)([ T,]*)(.*)", text).groups()  # type: ignore[union-attr]
    mark = re.sub(r"\d", "", date)[0]
    half = bool(re.search("[AaPp]", time))
    clock = ":".join(["%I" if half else "%H", "%M", "%S"][: time.count(":") + 1]) if time else ""
    return f"{first}{mark}{second}{mark}%Y{gap}{clock}{' %p' if half else ''}"


def _assembled(parts: pd.DataFrame, column: pd.Series, lines: np.ndarray, where: str) -> np.ndarray:
    import pandas as pd

    number = {
        name: pd.to_numeric(parts[name]).fillna(1 if name == "day" else 0).to_numpy(dtype=np.float64)
        for name in ("year", "month", "day", "hour", "minute", "second")
    }
    half = parts["half"].str.lower()
    twelve = half.notna().to_numpy()
    hour = np.where(twelve, number["hour"] % 12 + 12 * (half == "p").to_numpy(), number["hour"])
    seconds = hour * 3600 + number["minute"] * 60 + number["second"]
    days = pd.to_datetime(
        pd.DataFrame({name: number[name].astype(int) for name in ("year", "month", "day")}), errors="coerce"
    )
    # 24:00 is the end of a day (ISO 8601)
    wrong = (number["minute"] > 59) | (number["second"] >= 60) | (seconds > 86400)
    wrong |= twelve & ((number["hour"] < 1) | (number["hour"] > 12))
    _refuse(days.isna() | wrong, column, lines, where, "no time of the calendar")
    return _microseconds(days) + np.round(seconds * 1e6).astype("timedelta64[us]")


def _microseconds(column: pd.Series) -> np.ndarray:
    return column.to_numpy().astype("datetime64[us]")
