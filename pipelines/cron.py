"""Cron as Kubeflow Pipelines reads it: six fields, seconds first, in UTC.

Kubeflow Pipelines evaluates schedules by robfig/cron v1.2.0 (Go), whose rules are these:

- the fields are second, minute, hour, day of month, month, day of week (0 or SUN is Sunday; there is no 7);
- a field is a list (`1,15`) of numbers, names (`MON`, `jan`) and ranges (`MON-FRI`), each with a step if need be
  (`8-18/2`); `*` and `?` are all values, and `5/10` is 5 to the last by tens;
- where both days are restricted, a date that fits either of them will do; with a `*` or `?` in one, both must fit.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from itertools import islice
from typing import NamedTuple

from cytoloop.errors import ParamsError

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
YEARS = 5
"""How many years ahead a time is looked for; robfig/cron gives up there too."""


class Field(NamedTuple):
    """What one of the six fields may hold."""

    name: str
    least: int
    most: int
    names: tuple[str, ...] = ()


FIELDS = (
    Field("second", 0, 59),
    Field("minute", 0, 59),
    Field("hour", 0, 23),
    Field("day of month", 1, 31),
    Field("month", 1, 12, MONTHS),
    Field("day of week", 0, 6, WEEKDAYS),
)
ELEMENT = re.compile(r"(?P<all>[*?])(/(?P<every>\d+))?|(?P<first>\w+)(-(?P<last>\w+))?(/(?P<step>\d+))?")


@dataclass(frozen=True)
class Cron:
    """A schedule: the values of each field that fit."""

    text: str
    fields: tuple[frozenset[int], ...]
    both_days: bool
    """Whether day of month and day of week must fit both."""

    @classmethod
    def parse(cls, text: str) -> "Cron":
        """Read six fields; raises ParamsError that names the field, or says what five fields would do."""
        words = text.split()
        if len(words) == len(FIELDS) - 1:
            raise ParamsError(_five(words))
        if len(words) != len(FIELDS):
            raise ParamsError(
                f"cron {text!r}: {len(words)} field(s); allowed: six, {', '.join(f.name for f in FIELDS)}"
            )
        fields = tuple(_values(word, field) for word, field in zip(words, FIELDS, strict=True))
        return cls(text, fields, any(mark in words[place] for place in (3, 5) for mark in "*?"))

    def times(self, after: datetime) -> Iterator[datetime]:
        """The moments after the given one, in order, in UTC; ends where none comes for years (30 February)."""
        start = after.astimezone(UTC).replace(microsecond=0) + timedelta(seconds=1)
        day, year = start.date(), start.year
        clock = [time(h, m, s) for h in self._of(2) for m in self._of(1) for s in self._of(0)]
        while day.year <= year + YEARS:
            if self._fits(day.day, day.month, day.isoweekday() % 7):
                moments = (datetime.combine(day, moment, UTC) for moment in clock)
                for moment in (moment for moment in moments if moment >= start):
                    year = day.year
                    yield moment
            day += timedelta(days=1)

    def _of(self, place: int) -> list[int]:
        return sorted(self.fields[place])

    def _fits(self, day: int, month: int, weekday: int) -> bool:
        days = (day in self.fields[3], weekday in self.fields[5])
        return month in self.fields[4] and (all(days) if self.both_days else any(days))


def next_times(cron: Cron, count: int, after: datetime) -> list[str]:
    """The next moments for people, as `Mon 2025-12-01 03:00:00 UTC`; raises ParamsError where there is none."""
    times = [f"{moment:%a %Y-%m-%d %H:%M:%S} UTC" for moment in islice(cron.times(after), count)]
    if not times:
        raise ParamsError(f"cron {cron.text!r}: no such date in {YEARS} years; correct day of month and month")
    return times


def _five(words: list[str]) -> str:
    text = " ".join(words)
    return (
        f"cron {text!r} has five fields; Kubeflow Pipelines wants six, seconds first, and would take these for second "
        f"{words[0]} of minute {words[1]} of hour {words[2]} (* is every). For minute {words[0]} of hour {words[1]} "
        f"give '0 {text}'"
    )


def _values(word: str, field: Field) -> frozenset[int]:
    return frozenset(value for element in word.split(",") for value in _element(element, field))


def _element(element: str, field: Field) -> range:
    found = ELEMENT.fullmatch(element)
    if not found:
        raise _wrong(element, field)
    if found["all"]:
        first, last = field.least, field.most
    else:
        first = _number(found["first"], field)
        last = _number(found["last"], field) if found["last"] else field.most if found["step"] else first
    step = int(found["every"] or found["step"] or 1)
    if not field.least <= first <= last <= field.most or step < 1:
        raise _wrong(element, field)
    return range(first, last + 1, step)


def _number(word: str, field: Field) -> int:
    if word.lower() in field.names:
        return field.names.index(word.lower()) + field.least
    if not re.fullmatch(r"[0-9]+", word):
        raise _wrong(word, field)
    return int(word)


def _wrong(element: str, field: Field) -> ParamsError:
    names = f", {field.names[0].upper()} to {field.names[-1].upper()}" if field.names else ""
    return ParamsError(
        f"cron: {element!r} is no {field.name}; allowed: {field.least} to {field.most}{names}, ranges first-last, "
        "steps /n from 1 on, lists with commas, * or ?"
    )
