"""Times and splits of rows: every rule at its boundary, every message as it stands, and splits by slow versions."""

from __future__ import annotations

import datetime as dt
import itertools

import numpy as np
import pytest

from expected import refused
from tutelage.data import moments, row_splits, splits, timeline
from tutelage.data.moments import Moments

HOUR = 3_600_000_000
DAY = 24 * HOUR


def times(instants, has_offset=False, texts=None):
    """Give moments at whole microseconds since 1970."""
    found = np.array(instants, dtype=np.int64)
    return Moments(
        found,
        found.astype("datetime64[us]"),
        texts or [f"t{place}" for place in range(len(found))],
        has_offset,
    )


def dates(*texts, **more):
    return times(np.array(texts, dtype="datetime64[us]").astype(np.int64), **more)


def found(at, **more):
    one = timeline.timeline(at, where="f", **more)
    return one.positions.tolist(), one.step


@pytest.mark.parametrize(("at", "positions", "step"), [
    ([], [], "unknown"), ([5], [0], "unknown"),
    ([0, HOUR, 2 * HOUR], [0, 1, 2], "1 hour"), ([7, 7 + HOUR, 7 + 3 * HOUR], [0, 1, 3], "1 hour"),
    ([0, HOUR, 2 * HOUR, 4 * HOUR, 6 * HOUR], [0, 1, 2, 4, 6], "1 hour"),  # behind half of the rows others are missing
    ([0, 100, 205, 295], [0, 1, 2, 3], "about 0.0001 seconds"),
])  # fmt: skip
def test_the_step_of_times(at, positions, step):
    assert found(times(at)) == (positions, step)


@pytest.mark.parametrize(("texts", "positions", "step"), [
    (("2020-01-31", "2020-02-29", "2020-03-31"), [0, 1, 2], "1 month"), (("2020-01-31", "2020-03-31", "2020-05-31"), [0, 1, 2], "2 months"),
    (("2020-01-31", "2020-02-29", "2020-04-30", "2020-05-31"), [0, 1, 3, 4], "1 month"),
    (("2021-01-07", "2021-01-08", "2021-01-11", "2021-01-12"), [0, 1, 2, 3], "1 business day"),
    (("2021-01-07", "2021-01-08", "2021-01-11", "2021-01-13"), [0, 1, 2, 4], "1 business day"),
    (("2021-01-08", "2021-01-09", "2021-01-10"), [0, 1, 2], "1 day"),
])  # fmt: skip
def test_the_step_of_dates(texts, positions, step):
    assert found(dates(*texts)) == (positions, step)


@pytest.mark.parametrize(("distances", "steps"), [
    ([100, 100, 109, 91], [1, 1, 1, 1]), ([100, 100, 110, 90], [1, 1, 1, 1]), ([100, 100, 111], [1, 1, 2]), ([100, 100, 89], None),
    ([100, 100, 160, 250, 349], [1, 1, 2, 2, 3]), ([100, 0, 100], None),
])  # fmt: skip
def test_rows_keep_their_step_within_a_tenth(distances, steps):
    clock = np.concatenate([[3], 3 + np.cumsum(distances)])
    one = timeline._uneven(clock, 100)
    assert (None if one is None else np.diff(one.positions).tolist()) == steps
    assert one is None or (one.positions[0] == 0 and one.step == "0.0001 seconds")
    assert timeline._uneven(np.array([0, 0, 0])) is None
    assert timeline._uneven(np.array([0, 9, 20, 32]), 10).positions.tolist() == [
        0,
        1,
        2,
        4,
    ]  # 9 and 11 to the last bit
    assert timeline._uneven(np.array([0, 8, 20]), 10) is None
    for clock in ([0, 5, 5, 10], [5, 0, 5], [0, 0]):
        assert timeline._even(np.array(clock)) is None


def test_missing_rows_are_counted():
    one = timeline.Timeline(np.array([0, 1, 4, 5, 7]), "1 hour")
    assert one.gaps.tolist() == [1, 3] and one.missing == 3


def test_a_clock_with_offsets_may_be_the_even_one():
    local = times([0, DAY, 2 * DAY - HOUR], has_offset=True)
    local.clock[:] = np.array([0, DAY, 2 * DAY]).astype("datetime64[us]")
    assert found(local) == ([0, 1, 2], "1 day")
    assert found(Moments(local.instants, local.clock, local.texts, False))[1] != "1 day"


def test_rows_without_a_common_step_are_told_their_distances():
    at = np.cumsum([0, 1, 3.3, 1, 50.7, 1, 20.9, 90.1, 44.3]) * HOUR
    said = refused(timeline.timeline, times(at.round()), where="f")
    assert said == (
        "f: the rows have no common step, from one to the next it is 1 hour (3 times), 198 minutes (1 times), 1254 minutes (1 times), .... "
        "Bring them to one step, say it (`step`=1h: rows are then missing), or let each row be a step whatever its time: `step`=row"
    )

    few = refused(timeline.timeline, times(np.cumsum([0, 60, 150, 222, 60, 150]) * (HOUR // 60)), where="f")
    assert few.startswith(
        "f: the rows have no common step, from one to the next it is 1 hour (2 times), 2.5 hours (2 times), 222 minutes (1 times). Bring "
    )


@pytest.mark.parametrize(("step", "at", "outcome"), [
    ("row", times([0, 5, 6]), ([0, 1, 2], "row")),
    ("month", dates("2020-01-31", "2020-03-01"), ([0, 2], "1 month")),
    ("month", dates("2020-01-01", "2020-01-31"), "f: the rows are not a month apart, as `step` says: there is a month of two rows"),
    ("business day", dates("2021-01-08", "2021-01-11"), ([0, 1], "1 business day")),
    ("business day", dates("2021-01-08", "2021-01-09"),
     "f: the rows are not a business day apart, as `step` says: there is a Saturday, a Sunday or a day of two rows"),
    ("business day", dates("2021-01-08 01:00", "2021-01-08 02:00"),
     "f: the rows are not a business day apart, as `step` says: there is a Saturday, a Sunday or a day of two rows"),
    ("1h", times([0, HOUR, 4 * HOUR]), ([0, 1, 4], "1 hour")),
    ("2h", times([0, 2 * HOUR, 3 * HOUR]), "f: `step`=2h is longer than the time "
                                                                                                       "from t1 to t2"),
    ("0h", times([0, 1]), "`step`='0h' is no step: a duration such as 15min, 1h or 1D, or one of row, business day, month"),
    ("soon", times([0, 1]), "`step`='soon' is no step: a duration such as 15min, 1h or 1D, or one of row, business day, month"),
    ("NaT", times([0, 1]), "`step`='NaT' is no step: a duration such as 15min, 1h or 1D, or one of row, business day, month"),
])  # fmt: skip
def test_a_step_that_is_said(step, at, outcome):
    if isinstance(outcome, str):
        assert refused(timeline.timeline, at, where="f", step=step) == outcome
    else:
        assert found(at, step=step) == outcome


@pytest.mark.parametrize(("duration", "words"), [
    (DAY, "1 day"), (DAY // 2, "12 hours"), (3 * DAY // 2, "1.5 days"), (DAY // 4, "6 hours"), (HOUR // 2, "30 minutes"),
    (3 * HOUR // 2, "1.5 hours"),
    (1_000_000, "1 second"), (500_000, "0.5 seconds"), (1_250_000, "1.25 seconds"), (61_000_000, "61 seconds"), (90_000_000, "1.5 minutes"),
])  # fmt: skip
def test_a_duration_in_words(duration, words):
    assert timeline.in_words(duration) == words


def order(at, values=None, words=""):
    rows = np.array(values if values is not None else range(len(at.instants)), dtype=float).reshape(
        len(at.instants), -1
    )
    return timeline.check_order(at, rows, lines=np.arange(2, 2 + len(at.instants)), where="f", words=words)


def test_times_in_order_are_fine_and_others_are_told():
    order(times([1, 2, 3]))
    future = "f: the rows are not in the order of time, so a split in time would train on the future: "
    assert (
        refused(order, times([1, 3, 2, 4]))
        == future + "t2 in line 4 comes after t1. Sort them, one series a file"
    )
    assert refused(order, times([3, 2, 1])) == (
        future
        + "t1 in line 3 comes after t0 (the newest comes first: turn the rows around). Sort them, one series a file"
    )
    assert "turn the rows around" not in refused(order, times([3, 2, 4, 1]))


AUTUMN = [f"2020-10-25 {hour:02}:00" for hour in range(24)] + ["2020-10-25 02:00"]
MANY = [f"2020-09-{day:02} {hour:02}:00" for day in range(1, 31) for hour in range(24)]
SERIES = "several series (stations, items) in one table"
ONE_EACH = "? One series a column, or one file each"
PUT_BACK = "a clock that was put back at the end of daylight saving? Write the times in UTC, or with their offset (+02:00)"


@pytest.mark.parametrize(("at", "values", "words", "said"), [
    (dates("2020-01-01", "2020-01-01", "2020-01-02"),
     [1, 1, 2], "", "1 of 2 times stand more than once, t0: each time with the same values: "
                                                                     "remove the rows that repeat others"),
    (dates("2020-01-01", "2020-01-01", "2020-01-02"),
     [1, 1, 2], "`a`", "1 of 2 times stand more than once, t0: " + SERIES + ", which `a` may "
     "tell apart, or the time of day stands in a column of its own (`date`=[<day>,<time>])" + ONE_EACH),
    (dates("2020-01-01", "2020-01-01", "2020-01-02"), [1, 3, 2], "", "1 of 2 times stand more than once, t0: " + SERIES +
     ", or the time of day stands in a column of its own (`date`=[<day>,<time>])" + ONE_EACH),
    (times([1, 1, 2, 2, 3, 3, 4, 4]), None, "", "4 of 4 times stand more than once, t0, t2, t4, ...: " + SERIES + ONE_EACH),
    (times([1, 1, 2, 2, 3, 3]), None, "", "3 of 3 times stand more than once, t0, t2, t4: " + SERIES + ONE_EACH),
    (dates(*MANY, *AUTUMN), None, "", f"1 of 744 times stand more than once, t722: {PUT_BACK}"),
    (dates(*MANY, *AUTUMN, has_offset=True), None, "", f"1 of 744 times stand more than once, t722: {SERIES}{ONE_EACH}"),
    (dates(*AUTUMN), None, "", f"1 of 24 times stand more than once, t2: {SERIES}{ONE_EACH}"),
    (dates(*MANY, *AUTUMN[:-1], "2020-10-25 04:00"), None, "", f"1 of 744 times stand more than once, t724: {SERIES}{ONE_EACH}"),
    (dates(*[t.replace("-09-", "-06-") for t in MANY], *[t.replace("-10-", "-07-") for t in AUTUMN]), None, "",
     f"1 of 744 times stand more than once, t722: {SERIES}{ONE_EACH}"),
])  # fmt: skip
def test_times_that_stand_twice_are_told_with_what_they_may_be(at, values, words, said):
    assert refused(order, at, values, words) == f"f: {said}"


@pytest.mark.parametrize("distinct", [31, 30])
def test_a_clock_is_put_back_on_few_days_of_many(distinct):
    hours = [f"2020-10-{1 + place // 24:02} {place % 24:02}:00" for place in range(distinct)]
    assert (PUT_BACK in refused(order, dates(*hours, "2020-10-01 02:00"))) == (distinct > 30)


# --- what texts mean ------------------------------------------------------------------------------------------


def read(*texts, **more):
    return moments.read(list(texts), lines=np.arange(2, 2 + len(texts)), where="f", **more)


@pytest.mark.parametrize(("text", "hour", "minute", "second"), [
    ("2020/3/4 5:06", 5, 6, 0), ("2020/3/4 12:06 AM", 0, 6, 0), ("2020/3/4 12:06 pm", 12, 6, 0), ("2020/3/4 1:06 p.m.", 13, 6, 0),
    ("2020/3/4 11:59:59.25 PM", 23, 59, 59.25), ("2020/3/4", 0, 0, 0), ("2020/3/4 24:00", 24, 0, 0), ("2020/3/4T23:59:59", 23, 59, 59),
    ("4.3.2020 05:06", 5, 6, 0),
])  # fmt: skip
def test_clocks_of_all_forms(text, hour, minute, second):
    others = ("13.3.2020 00:00",) if text.startswith("4.") else ()
    expected = dt.datetime(2020, 3, 4) + dt.timedelta(hours=hour, minutes=minute, seconds=second)
    found = read(text, *others)
    assert found.clock[0].item() == expected and not found.has_offset
    assert found.instants[0] == (expected - dt.datetime(1970, 1, 1)) // dt.timedelta(microseconds=1)


@pytest.mark.parametrize("text",
 ["2020/3/4 24:01", "2020/3/4 5:60", "2020/3/4 5:06:60", "2020/3/4 0:06 AM", "2020/3/4 13:06 PM", "2020/2/30 1:00",
                                  "2020/13/1 1:00"])  # fmt: skip
def test_no_time_of_the_calendar(text):
    assert (
        refused(read, text)
        == f"f holds in 1 of 1 rows no time of the calendar: '{text}' in line 2 to begin with"
    )


@pytest.mark.parametrize(("text", "minutes"), [("2020-01-01 00:00Z", 0), ("2020-01-01 00:00 UTC", 0), ("2020-01-01 00:00+05", 300),
                                               ("2020-01-01 00:00+05:30", 330), ("2020-01-01 00:00-0130", -90)])  # fmt: skip
def test_offsets_from_utc(text, minutes):
    found = read(text)
    start = (dt.datetime(2020, 1, 1) - dt.datetime(1970, 1, 1)) // dt.timedelta(microseconds=1)
    assert found.has_offset and found.instants[0] == start - minutes * 60_000_000
    assert found.clock[0].item() == dt.datetime(2020, 1, 1)


@pytest.mark.parametrize(("texts", "more", "said"), [
    (("2020-01-01", None, "x", None), {}, "f is empty in 2 of 4 rows, lines 3, 5: fill them in, or remove the rows"),
    ((None, "x"), {}, "f is empty in 1 of 2 rows, line 2: fill them in, or remove the rows"),
    ((None,) * 3, {}, "f is empty in 3 of 3 rows, lines 2, 3, 4: fill them in, or remove the rows"),
    ((None,) * 4, {}, "f is empty in 4 of 4 rows, lines 2, 3, 4, ...: fill them in, or remove the rows"),
    (("20200101", "20200102"), {}, "f holds numbers, [20200101] to begin with, where dates such as 2016-07-01 00:00 are expected; "
                                   "`date_format`=%Y%m%d if that is what they are"),
    (("1.5", "2.5"), {}, "f holds numbers, [1.5] to begin with, where dates such as 2016-07-01 00:00 are expected: convert them"),
    (("1", "x"), {"date_format": "unix"}, "f holds in 1 of 2 rows no number, as `date_format`=unix expects: 'x' in line 3 to begin with"),
    (("2020-01-01 00:00Z", "2020-01-01 01:00"), {},
     "f holds in 1 of 2 rows no offset from UTC, where others have one: '2020-01-01 01:00' in line 3 to begin with"),
    (("13/1/2020", "1/13/2020"), {},
     "f: the day comes first in '13/1/2020' (line 2) and second in '1/13/2020' (line 3): write all dates in one "
                                     "form"),
    (("2/2/2020", "1/2/2020 3:04 PM"), {}, "f is day first or month first, nothing in the file says which ('1/2/2020 3:04 PM'): "
                                           "`date_format`='%d/%m/%Y %I:%M %p' or '%m/%d/%Y %I:%M %p'"),
    (("2.1.2020T03:04:05",), {}, "f is day first or month first, nothing in the file says which ('2.1.2020T03:04:05'): "
                                 "`date_format`='%d.%m.%YT%H:%M:%S' or '%m.%d.%YT%H:%M:%S'"),
    (("1-2-2020",), {},
     "f is day first or month first, nothing in the file says which ('1-2-2020'): `date_format`='%d-%m-%Y' or '%m-%d-%Y'"),
    *(((text, "3/3/2020"), {}, f"f is day first or month first, nothing in the file says which ('{text}'): "
                               "`date_format`='%d/%m/%Y' or '%m/%d/%Y'") for text in ("12/5/2020", "5/12/2020")),
    (("2020/1/1", "1/1/2020"), {},
     "f holds in 1 of 2 rows what has not the form of the first, '2020/1/1': '1/1/2020' in line 3 to begin with"),
    (("2020-02-30",), {}, "f holds in 1 of 1 rows no day of the calendar: '2020-02-30' in line 2 to begin with"),
    (("2020-01-01 1:00 Europe/Berlin",), {},
     "f has names of zones, '2020-01-01 1:00 Europe/Berlin' to begin with: write the times in UTC, or "
                                             "with their offset (+02:00)"),
    *(((text,), {}, f"f holds no dates of a form that leaves nothing open: '{text}' in line 2; say which with `date_format`, such as "
                    "'%d/%m/%Y %H:%M'") for text in ("07 05 2020", "1 Jan 20", "Jan 5 10:00", "maybe 2020", "1:00 pm on 5 Jan 2020 PM")),
    (("soon",), {}, "f holds no dates of a form that leaves nothing open: 'soon' in line 2; say which with `date_format`, such as "
                    "'%d/%m/%Y %H:%M'"),
    (("1.1.2020",), {"date_format": "%d/%m/%Y"},
     "f holds in 1 of 1 rows what is not of the form `date_format`=%d/%m/%Y: '1.1.2020' in line 2 to "
                                                 "begin with"),
    (("1.1.2020 CET",), {"date_format": "%d.%m.%Y %Z"},
     "`date_format`='%d.%m.%Y %Z': names of zones are not read; write the times in UTC, or "
                                                        "with their offset (+02:00)"),
])  # fmt: skip
def test_texts_that_leave_something_open(texts, more, said):
    assert refused(read, *texts, **more) == said


@pytest.mark.parametrize(("texts", "month"), [(("1/13/2020", "2/2/2020"), 1), (("13/1/2020", "2/2/2020"), 1), (("2/2/2020", "3/3/2020"), 2),
                                              (("12/13/2020",), 12), (("13/12/2020",), 12)])  # fmt: skip
def test_day_and_month_as_the_numbers_prove_it(texts, month):
    assert read(*texts).clock[0].item().month == month


def test_seconds_and_milliseconds_since_1970():
    found = read("1.5", "2", date_format="unix")
    assert found.instants.tolist() == [1_500_000, 2_000_000] and found.has_offset
    assert read("1.5", date_format="unix_ms").instants.tolist() == [1500]


def test_offsets_in_a_form_of_one_s_own_are_heeded():
    found = read("1.1.2020 10:00 +0100", "1.1.2020 10:00 -0230", date_format="%d.%m.%Y %H:%M %z")
    first, second = found.instants.tolist()
    assert (
        second - first == 3.5 * 3600 * 1_000_000
        and str(read("1.1.2020", date_format="%d.%m.%Y").clock[0])[:10] == "2020-01-01"
    )


def test_offsets_are_heeded_whether_or_not_the_form_says_where_they_stand():
    utc = (dt.datetime(2020, 1, 1, 9) - dt.datetime(1970, 1, 1)) // dt.timedelta(microseconds=1)
    plain = read("1.1.2020 10:00+01:00", date_format="%d.%m.%Y %H:%M")
    assert (
        plain.clock[0].item() == dt.datetime(2020, 1, 1, 10) and plain.instants[0] == utc and plain.has_offset
    )
    hours = read("20200101 10 +0100", date_format="%Y%m%d %H %z")  # no minutes by which an offset is known
    assert hours.clock[0].item() == dt.datetime(2020, 1, 1, 9) and hours.instants[0] == utc


# --- splits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "count"), [(0, 0), (0.0, 0), (0.1, 1), (0.05, None), (0.5, 5), (0.94, 9), (0.96, None), (1, 1),
(9, 9), (10, None),
                                             (2.0, 2), (2.5, None), (1.0, None), (-1, None), (True, None), ("3", None)])  # fmt: skip
def test_a_fraction_or_a_number_of_samples(size, count):
    if count is not None:
        assert splits.requested_count(size, 10, name="test") == count
        return
    said = refused(splits.requested_count, size, 10, name="test")
    asked = round(size * 10) if isinstance(size, float) and 0 < size < 1 else size
    if isinstance(size, bool | str) or size < 0 or size in (2.5, 1.0):
        assert said == f"test must be a fraction below 1 or a whole number of samples, got {size!r}"
    else:
        assert said == f"test={size} would take {asked} of 10 samples: choose from 1 to 9"


@pytest.mark.parametrize("seed", range(6))
def test_shares_are_those_of_the_largest_remainders(seed):
    draw = np.random.default_rng(seed)
    sizes = draw.integers(1, 30, size=5)
    total = int(draw.integers(0, sizes.sum() + 1))
    found = splits.share_out(total, sizes)
    exact = [total * int(size) / int(sizes.sum()) for size in sizes]
    slow = [int(share) for share in exact]
    for place in sorted(range(5), key=lambda one: int(exact[one]) - exact[one])[: total - sum(slow)]:
        slow[place] += 1
    assert found.tolist() == slow and found.sum() == total and (found <= sizes).all()


def test_uniform_numbers_and_orders_for_ever():
    assert splits.uniform(3, 7).tolist() == [0.625095466604667, 0.8972138009695755, 0.7756856902451935]
    assert (
        splits.shuffled(np.arange(10, 16), 7).tolist()
        == (10 + np.argsort(np.random.PCG64(7).random_raw(6))).tolist()
    )
    assert splits.derive_seed("a", 1) != splits.derive_seed("a", 2) and 0 <= splits.derive_seed("a") < 2**63


@pytest.mark.parametrize("labels", [None, np.array([0, 1, 1, 2, 1, 0, 2, 2, 1, 1, 0, 1, 2, 1])])
@pytest.mark.parametrize("size", [0, 1, 5, 0.3])
def test_what_is_held_out_is_the_first_of_a_random_order(labels, size):
    indices = np.array([13, 0, 5, 7, 2, 9, 11, 1])
    rest, held = splits.hold_out(indices, size, seed=3, name="test", labels=labels)
    count = splits.requested_count(size, 8, name="test")
    order = splits.shuffled(indices, splits.derive_seed("hold_out", "test", 3)).tolist()
    if labels is None:
        slow = order[:count]
    else:
        classes = sorted({int(labels[one]) for one in indices})
        shares = splits.share_out(
            count, np.array([sum(labels[one] == c for one in indices) for c in classes])
        )
        slow = [
            one
            for c, k in zip(classes, shares, strict=True)
            for one in [o for o in order if labels[o] == c][:k]
        ]
    assert held.tolist() == sorted(slow) and rest.tolist() == sorted(set(indices.tolist()) - set(slow))
    if count:
        kept = splits.limit(indices, count, seed=3, labels=labels)
        assert len(kept) == count and set(kept) <= set(indices) and (np.diff(kept) > 0).all()


@pytest.mark.parametrize("count", [0, 9, -1])
def test_more_than_there_are_cannot_be_kept(count):
    said = refused(splits.limit, np.arange(8), count, seed=0)
    assert said == f"train_size={count}, but the training split has 8 samples"
    assert len(splits.limit(np.arange(8), 8, seed=0)) == 8 and len(splits.limit(np.arange(8), 1, seed=0)) == 1


def test_so_many_of_each_class_a_smaller_choice_within_a_larger():
    labels = np.array([0, 1, 0, 1, 1, 0, 2, 2, 2, 1])
    chosen = [splits.take_per_class(np.arange(10), labels, count, seed=1) for count in (1, 2, 3)]
    assert [np.bincount(labels[one]).tolist() for one in chosen] == [[1] * 3, [2] * 3, [3] * 3]
    assert set(chosen[0]) < set(chosen[1]) < set(chosen[2]) and all(
        (np.diff(one) > 0).all() for one in chosen
    )
    for wrong in (0, 4):
        said = refused(splits.take_per_class, np.arange(10), labels, wrong, seed=1)
        assert said == f"`per_class`={wrong}: class 0 has 3 training samples; choose from 1 to 3"


def test_an_index_is_in_one_split_once():
    splits.check_disjoint({"train": np.array([0, 1]), "test": np.array([2])})
    said = "the test split holds an index twice: a split must name each of its samples once"
    assert refused(splits.check_disjoint, {"train": np.array([0]), "test": np.array([2, 2])}) == said
    said = "2 samples lie in both train and test, the first with index 1: no sample may be in two splits"
    assert refused(splits.check_disjoint, {"train": np.array([0, 1, 3]), "test": np.array([3, 1])}) == said


@pytest.mark.parametrize("width", [1, 7, 8, 9, 24])
def test_rows_of_equal_bytes_have_equal_numbers(width):
    rows = np.random.default_rng(0).integers(0, 3, size=(5000, width), dtype=np.uint8)
    if width > 2:
        rows[:, : width - 2] = 7
    numbers = splits.content_numbers(rows)
    by_bytes = {}
    for row, number in zip(rows, numbers.tolist(), strict=True):
        assert by_bytes.setdefault(row.tobytes(), number) == number
    assert len(set(by_bytes.values())) == len(by_bytes)


def test_samples_of_a_later_split_that_an_earlier_one_has():
    numbers = np.array([0, 1, 1, 2, 0, 3, 3])
    parts = {"train": np.array([0, 1]), "validation": np.array([2, 3]), "test": np.array([4, 5, 6])}
    assert splits.repeated_samples(numbers, parts) == {"validation in train": 1, "test in train": 1}


def how(**more):
    return row_splits.How(**{"validation": 0.25, "test": 2, "seed": 0, **more})


@pytest.mark.parametrize(("more", "official", "said"), [
    ({"fold": 0, "times": np.arange(9)}, {}, "`fold` makes the test from the rows, where these data have `time`: give one of the two"),
    ({"fold": 0}, {"test": np.array([1])},
     "`fold` makes the test from the rows, where these data have a test file of its own: give one of the two"),
    ({"groups": np.arange(9), "times": np.arange(9)}, {},
     "give `group` or `time`: rows of a group lie at different times, so that no split keeps both"),
    ({"fold": 5}, {}, "`fold` must be 0 to 4, of `folds`=5, got 5"), ({"fold": -1}, {}, "`fold` must be 0 to 4, of `folds`=5, got -1"),
    ({"fold": 0, "folds": 1}, {}, "`folds` must be from 2 to the number of rows, got 1 of 9"),
    ({"fold": 0, "folds": 10}, {}, "`folds` must be from 2 to the number of rows, got 10 of 9"),
    ({"fold": 0, "groups": np.array([0, 0, 1, 1, 2, 2, 3, 3, 3])}, {}, "`folds`=5, but `group` has 4 groups only"),
    ({"times": np.array([1, 2, 3, 3, 3, 3, 3, 3, 3]), "validation": 0.5}, {},
     "`time`: too many rows have the latest time, so that none would be left beside `validation`"),
    ({"groups": np.zeros(9, int)}, {}, "`group`: there are too few groups left to hold out `test`"),
])  # fmt: skip
def test_ways_of_splitting_that_exclude_each_other(more, official, said):
    if "validation" in more:  # the last time is held out whole, of what is left nothing else is there
        more = {**more, "times": np.array([2, 2, 2, 2, 2, 2, 2, 3, 3])}
    assert refused(row_splits.split, np.arange(9), official, None, how(**more)) == said


@pytest.mark.parametrize("fold", range(3))
@pytest.mark.parametrize("labels", [None, np.array([0] * 7 + [1] * 4 + [2] * 2)])
def test_folds_are_dealt_out(fold, labels):
    rows = np.arange(13)
    every = [row_splits.split(rows, {}, labels, how(fold=one, folds=3)) for one in range(3)]
    tests = [one["test"] for one in every]
    assert sorted(np.concatenate(tests).tolist()) == rows.tolist()
    assert sorted(map(len, tests)) == [4, 4, 5]
    for one in every:
        assert sorted(np.concatenate(list(one.values())).tolist()) == rows.tolist()
        assert len(one["validation"]) == round(0.25 * (13 - len(one["test"])))
    if labels is not None:
        counts = np.array([np.bincount(labels[one], minlength=3) for one in tests])
        assert (np.ptp(counts, axis=0) <= 1).all()


def test_folds_of_groups_are_as_equal_as_these_allow():
    groups = np.repeat([4, 9, 2, 7, 5], [6, 5, 4, 2, 1])
    every = [
        row_splits.split(np.arange(18), {}, None, how(fold=one, folds=3, groups=groups, validation=1))["test"]
        for one in range(3)
    ]
    assert sorted(map(len, every)) == [6, 6, 6]  # the largest first, each into the emptiest
    assert all(set(groups[a]).isdisjoint(groups[b]) for a, b in itertools.combinations(every, 2))


def test_one_group_is_left_whatever_is_asked():
    rows, groups = np.arange(10), np.repeat([0, 1], [1, 9])
    found = [row_splits._hold_out(rows, 6, "test", None, how(groups=groups, seed=seed)) for seed in range(6)]
    assert {(len(kept), len(held)) for kept, held in found} == {(1, 9), (9, 1)}


@pytest.mark.parametrize(
    ("test", "rows"), [(1, {2, 4}), (5, {4, 6}), (6, {6}), (11, {10, 12}), (15, {12, 14, 16})]
)
def test_whole_groups_come_nearest_to_what_is_asked(test, rows):
    groups = np.repeat(range(9), 2)
    found = row_splits.split(np.arange(18), {}, None, how(test=test, validation=1, groups=groups))
    held = found["test"]
    assert abs(len(held) - test) <= 1 and len(held) in rows and len(held) >= 2
    assert all(set(groups[a]).isdisjoint(groups[b]) for a, b in itertools.combinations(found.values(), 2))


@pytest.mark.parametrize(("test", "held"), [(1, [6, 7]), (2, [6, 7]), (3, [2, 6, 7])])
def test_the_latest_rows_are_the_test_and_rows_of_one_time_stay_together(test, held):
    at = np.array([1, 3, 5, 2, 4, 0, 9, 9])
    found = row_splits.split(np.arange(8), {}, None, how(test=test, validation=1, times=at))
    assert found["test"].tolist() == held
    assert found["validation"].tolist() == [max(set(range(8)) - set(held), key=lambda row: at[row])]


def test_parts_that_are_given_are_taken():
    official = {"train": np.array([0, 1, 2, 3, 9]), "test": np.array([5, 4, 99])}
    found = row_splits.split(np.arange(10), official, None, how())
    assert found["test"].tolist() == [4, 5] and len(found["validation"]) == 1
    assert sorted([*found["train"], *found["validation"]]) == [0, 1, 2, 3, 9]
