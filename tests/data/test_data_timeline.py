"""When the rows of a table are: forms of dates, offsets, the step, rows that are missing, stand twice or out of order."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
import pytest

from tutelage.data import moments
from tutelage.data.timeline import Timeline, check_order, in_words, timeline
from tutelage.errors import UserError

HOURS = pd.date_range("2020-01-10 05:00", periods=300, freq="h")


def of(texts: Iterable[str | None], date_format: str | None = None) -> moments.Moments:
    texts = list(texts)
    return moments.read(
        texts, lines=np.arange(2, len(texts) + 2), where="t.csv: 'date'", date_format=date_format
    )


def line(dates: pd.DatetimeIndex, form: str = "%Y-%m-%d %H:%M:%S", step: str | None = None) -> Timeline:
    return timeline(of(dates.strftime(form)), where="t.csv", step=step)


def checked(texts: list[str], values: list[float] | None = None, words: str = "") -> None:
    column = np.arange(len(texts), dtype=float) if values is None else np.array(values)
    check_order(of(texts), column[:, None], lines=np.arange(2, len(texts) + 2), where="t.csv", words=words)


@pytest.mark.parametrize(
    "form",
    [
        "%Y-%m-%d %H:%M",
        "%Y-%m-%dT%H:%M:%S",
        "%Y-%m-%d %H:%M:%S.%f",
        "%Y/%-m/%-d %-H:%M",
        "%Y.%m.%d %H:%M",
        "%d/%m/%Y %H:%M",
        "%d.%m.%Y, %H:%M:%S",
        "%m/%d/%Y %I:%M %p",
        "%-m/%-d/%Y %-I:%M:%S %p",
        "%m-%d-%Y %H:%M",
        "%d-%b-%Y %H:%M",
        "%B %d, %Y %H:%M",
        "%Y-%m-%dT%H:%M:%SZ",
        "%Y-%m-%d %H:%M+00:00",
    ],
)
def test_dates_mean_the_same_in_every_form_that_leaves_nothing_open(form: str) -> None:
    found = of(HOURS.strftime(form))
    assert np.array_equal(found.clock, HOURS.to_numpy().astype("datetime64[us]"))
    assert np.array_equal(found.instants, found.clock.astype(np.int64))


@pytest.mark.parametrize(
    ("form", "date_format"),
    [
        ("%d/%m/%y %H:%M", "%d/%m/%y %H:%M"),
        ("%Y%m%d%H", "%Y%m%d%H"),
        ("%s", "unix"),
        ("%s000", "unix_ms"),
        ("%d/%m/%Y %H.%M.%S", "%d/%m/%Y %H.%M.%S"),
        ("%d/%m/%Y %H:%M+00:00", "%d/%m/%Y %H:%M%z"),
        ("%d/%m/%Y %H:%M+00:00", "%d/%m/%Y %H:%M"),
    ],
)
def test_a_format_is_heeded(form: str, date_format: str) -> None:
    found = of(HOURS.strftime(form), date_format)
    assert np.array_equal(found.clock, HOURS.to_numpy().astype("datetime64[us]"))


@pytest.mark.parametrize("mark", ["/", ".", "-"])
def test_day_and_month_are_asked_for_where_they_could_be_exchanged(mark: str) -> None:
    dates = pd.date_range("2020-01-02", periods=10)  # no day above 12
    with pytest.raises(UserError, match=r"day first or month first.*`date_format`='%d.%m.%Y' or '%m.%d.%Y'"):
        of(dates.strftime(f"%d{mark}%m{mark}%Y"))
    months = pd.date_range("2020-01-01", periods=12, freq="MS").strftime("%d/%m/%Y")
    with pytest.raises(
        UserError, match="day first or month first"
    ):  # twelve months, or the first days of January
        of(months)
    assert timeline(of(months, "%d/%m/%Y"), where="").step == "1 month"
    assert timeline(of(months, "%m/%d/%Y"), where="").step == "1 day"
    with pytest.raises(
        UserError, match=r"day comes first in '13/01/2020' .line 2. and second in '01/14/2020' .line 3."
    ):
        of(["13/01/2020", "01/14/2020"])
    with pytest.raises(
        UserError, match=r"first in '13/01/2020' .line 3. and second in '01/14/2020' .line 4."
    ):
        of(["12/12/2020", "13/01/2020", "01/14/2020"])  # a 12 may be either
    assert of(["05/05/2020"]).clock.tolist() == of(["2020-05-05"]).clock.tolist()


@pytest.mark.parametrize(
    ("texts", "date_format", "message"),
    [
        (["2020-01-01", None, None], None, "is empty in 2 of 3 rows, lines 3, 4"),
        (["1467331200", "1467334800"], None, r"holds numbers, \[1467331200\].*`date_format`=unix "),
        (["20200101", "20200102"], None, "`date_format`=%Y%m%d "),
        (["0.5", "1.0"], None, "holds numbers.*convert them"),
        (["2020-01-01", "2020-02-30"], None, "no day of the calendar: '2020-02-30' in line 3"),
        (["2020/1/1", "2020/2/30"], None, "no time of the calendar: '2020/2/30' in line 3"),
        (["2020/1/1 10:00", "2020/1/1 25:00"], None, "no time of the calendar"),
        (["13/1/2020 10:00 AM", "13/1/2020 13:00 PM"], None, "no time of the calendar"),
        (["2020/1/1", "1/2/2020"], None, "has not the form of the first, '2020/1/1': '1/2/2020' in line 3"),
        (
            ["01/02/20"],
            None,
            "a form that leaves nothing open: '01/02/20' in line 2; say which with `date_format`",
        ),
        (["01-Jan-20"], None, "leaves nothing open"),
        (["Monday"], None, "leaves nothing open"),
        (["10"], None, "holds numbers"),
        (["2020-01-01 00:00 CET"], None, "names of zones.*their offset"),
        (["2020-01-01 00:00+01:00", "2020-01-01 01:00"], None, "no offset from UTC, where others have one"),
        (["2020-01-01"], "%d/%m/%Y", r"not of the form `date_format`=%d/%m/%Y: '2020-01-01' in line 2"),
        (["2020-01-01"], "%Q", "is no format"),
        (["2020-01-01 00:00 CET"], "%Y-%m-%d %H:%M %Z", "names of zones"),
        (["2020-01-01"], "unix", "no number, as `date_format`=unix expects: '2020-01-01' in line 2"),
    ],
)
def test_texts_that_are_no_times_are_explained(texts: list, date_format: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        of(texts, date_format)


def test_the_end_of_a_day_may_be_hour_24() -> None:
    assert np.array_equal(of(["13.01.2020 24:00"]).clock, of(["2020-01-14 00:00"]).clock)


@pytest.mark.parametrize(
    ("freq", "form", "step"),
    [
        ("h", "%Y-%m-%d %H:%M", "1 hour"),
        ("15min", "%Y-%m-%d %H:%M", "15 minutes"),
        ("90min", "%Y-%m-%d %H:%M", "1.5 hours"),
        ("100ms", "%Y-%m-%d %H:%M:%S.%f", "0.1 seconds"),
        ("D", "%Y-%m-%d", "1 day"),
        ("2D", "%Y-%m-%d", "2 days"),
        ("W", "%Y-%m-%d", "7 days"),
        ("B", "%Y-%m-%d", "1 business day"),
        ("MS", "%Y-%m", "1 month"),
        ("ME", "%Y-%m-%d", "1 month"),
        ("BME", "%Y-%m-%d", "1 month"),
        ("QS", "%Y-%m-%d", "3 months"),
        ("YS", "%Y-%m-%d", "12 months"),
    ],
)
def test_the_step_is_found_and_missing_rows_are_counted(freq: str, form: str, step: str) -> None:
    dates = pd.date_range("2001-01-01", periods=120, freq=freq)
    whole, holed = line(dates, form), line(dates.delete(range(30, 47)).delete(60), form)
    assert whole.step == holed.step == step
    assert whole.missing == 0 and whole.positions.tolist() == list(range(120))
    assert holed.missing == 18 and holed.gaps.tolist() == [29, 59]
    assert holed.positions.tolist() == [*range(30), *range(47, 77), *range(78, 120)]


def test_daylight_saving_is_no_gap_where_offsets_are_written() -> None:
    for start in ("2020-10-20", "2020-03-20"):
        hours = pd.date_range(start, periods=400, freq="h", tz="Europe/Berlin")
        found = line(hours, "%Y-%m-%d %H:%M%z")
        assert found.step == "1 hour" and found.missing == 0
        clock = of(hours.strftime("%Y-%m-%d %H:%M%z")).clock  # of the wall: the calendar of the series
        assert np.array_equal(clock, hours.tz_localize(None).to_numpy().astype("datetime64[us]"))
        days = pd.date_range(start, periods=40, freq="D", tz="Europe/Berlin")
        assert line(days, "%Y-%m-%d %H:%M%z").step == "1 day"
        for dates, step in ((hours, "1h"), (days, "1D")):  # said: of the clock that keeps it
            assert line(dates, "%Y-%m-%d %H:%M%z", step=step).positions.tolist() == list(range(len(dates)))
    spring = pd.date_range("2020-03-20", periods=400, freq="h", tz="Europe/Berlin")
    assert line(spring, "%Y-%m-%d %H:%M").missing == 1


def test_offsets_have_hours_minutes_and_a_sign() -> None:
    texts = ["2020-01-01T05:30+05:30", "2019-12-31T20:30-03:30", "2020-01-01T00:00Z", "2020-01-01T05:45+0545"]
    assert set(of(texts).instants.tolist()) == {pd.Timestamp("2020-01-01").value // 1000}


def test_clocks_that_drift_or_start_anew_keep_their_step() -> None:
    late = HOURS + pd.to_timedelta(np.random.default_rng(0).integers(0, 60, 300), unit="s")
    assert line(late).step.startswith("about ") and line(late).missing == 0
    restart = HOURS[:100].append(HOURS[110:] + pd.Timedelta("30min"))
    found = line(restart)
    assert found.gaps.tolist() == [99] and found.step == "about 1 hour"


def test_a_step_may_be_said() -> None:
    sparse = HOURS[[0, 2, 4, 5, 7, 9, 11]]
    with pytest.raises(
        UserError, match=r"no common step.*2 hours \(5 times\), 1 hour \(1 times\).*`step`=row"
    ):
        line(sparse)
    assert line(sparse, step="1h").positions.tolist() == [0, 2, 4, 5, 7, 9, 11]
    assert (
        line(sparse, step="row").positions.tolist() == list(range(7))
        and line(sparse, step="row").missing == 0
    )
    days = pd.bdate_range("2020-01-01", periods=30)
    assert line(days, step="1D").missing == 12 and line(days, step="business day").missing == 0
    quarters = line(pd.date_range("2020-01-01", periods=9, freq="QS"), step="month")
    assert quarters.missing == 16 and quarters.positions.tolist() == list(range(0, 25, 3))
    for step, message in (
        ("hourly", "`step`='hourly' is no step: a duration such as 15min, 1h or 1D, or one of row"),
        ("0h", "is no step"),
        ("3h", "`step`=3h is longer than the time from 2020-01-10 09:00:00 to 2020-01-10 10:00:00"),
        ("month", "a month of two rows"),
        ("business day", "a Saturday, a Sunday or a day of two rows"),
    ):
        with pytest.raises(UserError, match=message):
            line(sparse, step=step)


def test_a_step_fits_that_half_of_the_rows_keep() -> None:
    assert line(HOURS[[0, 1, 2, 4, 6]]).positions.tolist() == [0, 1, 2, 4, 6]
    with pytest.raises(UserError, match="no common step"):
        line(HOURS[[0, 1, 2, 4, 6, 9]])


def test_rows_at_random_times_are_refused() -> None:
    random = HOURS[0] + pd.to_timedelta(np.random.default_rng(0).integers(1, 5000, 60).cumsum(), unit="s")
    with pytest.raises(UserError, match="no common step"):
        line(random)


def test_times_that_stand_twice_are_named_with_what_the_file_may_be() -> None:
    hours = list(HOURS.strftime("%Y-%m-%d %H:%M"))
    twice = [text for text in hours for _ in range(2)]
    for texts in (twice, hours + hours):
        with pytest.raises(
            UserError, match=r"300 of 300 times stand more than once, 2020-01-10 05:00, .*several series"
        ):
            checked(texts)
    with pytest.raises(UserError, match="which 'station' may tell apart"):
        checked(twice, words="'station'")
    with pytest.raises(UserError, match="with the same values: remove the rows that repeat others"):
        checked(twice, [float(row // 2) for row in range(600)])
    autumn = pd.date_range("2020-10-20", periods=400, freq="h", tz="Europe/Berlin").strftime("%Y-%m-%d %H:%M")
    with pytest.raises(
        UserError, match=r"1 of 399 times stand more than once, 2020-10-25 02:00: .*daylight saving"
    ):
        checked(list(autumn))
    with pytest.raises(UserError, match=r"time of day stands in a column of its own .`date`="):
        checked([text[:10] for text in hours])
    checked(hours)


def test_rows_out_of_order_are_named() -> None:
    texts = [f"2020-01-{day:02d}" for day in (1, 2, 4, 3, 5)]
    with pytest.raises(
        UserError, match=r"not in the order of time.*2020-01-03 in line 5 comes after 2020-01-04. Sort"
    ):
        checked(texts)
    with pytest.raises(UserError, match="the newest comes first"):
        checked([f"2020-01-{day:02d}" for day in range(9, 0, -1)])


@pytest.mark.parametrize(
    ("duration", "words"),
    [
        (86_400_000_000, "1 day"),
        (5_400_000_000, "1.5 hours"),
        (61_000_000, "61 seconds"),
        (250_000, "0.25 seconds"),
    ],
)
def test_durations_in_words(duration: int, words: str) -> None:
    assert in_words(duration) == words
