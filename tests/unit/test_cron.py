"""Cron as Kubeflow Pipelines reads it (robfig/cron v1.2.0). July 2012 began on a Sunday."""

from datetime import UTC, datetime, timedelta, timezone
from itertools import islice

import pytest

from cytoloop.errors import ParamsError
from pipelines.cron import Cron, next_times


def following(text: str, after: str, count: int = 1) -> list[str]:
    moments = Cron.parse(text).times(datetime.fromisoformat(after).replace(tzinfo=UTC))
    return [f"{moment:%Y-%m-%dT%H:%M:%S}" for moment in islice(moments, count)]


@pytest.mark.parametrize(
    ("text", "after", "expected"),
    [
        ("0 0 3 * * *", "2025-01-01T02:59:59", "2025-01-01T03:00:00"),
        ("0 0 3 * * *", "2025-01-01T03:00:00", "2025-01-02T03:00:00"),  # later, never now
        ("0 0 3 * * ?", "2024-02-28T12:00:00", "2024-02-29T03:00:00"),
        ("0 0 0 29 feb ?", "2012-07-09T23:35:00", "2016-02-29T00:00:00"),
        ("0 0 0 9 Apr-Oct ?", "2012-07-09T23:35:00", "2012-08-09T00:00:00"),
        ("0 0 0 * FEB Mon", "2012-07-09T23:35:00", "2013-02-04T00:00:00"),
        ("0 0 0 ? Feb MON/2", "2012-07-09T23:35:00", "2013-02-01T00:00:00"),  # Monday, Wednesday, Friday
        ("15/35 20-35/15 1/2 * * *", "2012-07-09T23:35:51", "2012-07-10T01:20:15"),
        ("0 0,30 8-18/2 ? * MON-FRI", "2012-07-06T18:30:00", "2012-07-09T08:00:00"),
        ("0 * * * * *", "2012-12-31T23:59:45", "2013-01-01T00:00:00"),
        ("59 59 23 31 12 *", "2025-12-31T23:59:58", "2025-12-31T23:59:59"),
        ("00 05 08 * * SUN", "2012-07-01T08:05:00", "2012-07-08T08:05:00"),
    ],
)
def test_the_next_time(text, after, expected):
    assert following(text, after) == [expected]


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("0 0 0 1,15 * SUN", [1, 8, 15, 22, 29]),  # both restricted: either will do
        ("0 0 0 15 * *", [15]),
        ("0 0 0 ? * SUN", [1, 8, 15, 22, 29]),
        ("0 0 0 */2 * SUN", [1, 15, 29]),  # a star with a step is a star still: both must fit
        ("0 0 0 10 * */3", []),  # Sunday, Wednesday, Saturday; the 10th was a Tuesday
    ],
)
def test_two_kinds_of_days(text, days):
    found = following(text, "2012-06-30T23:59:59", 6)
    assert [int(moment[8:10]) for moment in found if moment.startswith("2012-07")] == days


def test_fire_times_are_utc_whatever_the_clock_says():
    noon_in_kolkata = datetime(2025, 1, 1, 12, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    assert next_times(Cron.parse("0 0 7 * * *"), 2, noon_in_kolkata) == [
        "Wed 2025-01-01 07:00:00 UTC",
        "Thu 2025-01-02 07:00:00 UTC",
    ]


def test_five_fields_are_refused_with_what_they_would_do():
    with pytest.raises(ParamsError, match=r"second 0 of minute 3 of hour .*give '0 0 3"):
        Cron.parse("0 3 * * *")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("* * * *", "4 field"),
        ("@daily", "1 field"),
        ("60 * * * * *", "'60' is no second"),
        ("0 60 * * * *", "no minute"),
        ("0 0 24 * * *", "no hour"),
        ("0 0 0 0 * *", "no day of month"),
        ("0 0 0 * 13 *", "no month"),
        ("0 0 0 * FOO *", "no month"),
        ("0 0 0 * * 7", "no day of week"),
        ("0 0 0 * * SAT-SUN", "no day of week"),
        ("0 0/0 * * * *", "no minute"),
        ("0 5-1 * * * *", "no minute"),
        ("0 1,,2 * * * *", "'' is no minute"),
        ("0 -1 * * * *", "no minute"),
        ("0 *-5 * * * *", "no minute"),
        ("0 0 0 L * *", "no day of month"),
    ],
)
def test_what_no_schedule_is(text, named):
    with pytest.raises(ParamsError, match=named):
        Cron.parse(text)


def test_a_date_that_never_comes_is_told():
    with pytest.raises(ParamsError, match="no such date"):
        next_times(Cron.parse("0 0 0 30 FEB ?"), 3, datetime(2025, 1, 1, tzinfo=UTC))
