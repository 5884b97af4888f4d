"""Cron schedules compared with a scan of the time line, and with cronsim, another cron parser.

The scan decides what is right: it looks at the wall clock at every minute (or second). It parses
nothing, because each expression is drawn together with the values of its fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import attrs
from cronsim import CronSim
from hypothesis import assume, given
from hypothesis import strategies as st

from roost._model.schedule import Schedule

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
SECOND = timedelta(seconds=1)
LORD_HOWE = "Australia/Lord_Howe"
MOST = 40
"""Ticks to compare."""

CHANGES = {
    "Europe/Berlin": ["2026-03-29T01:00Z", "2026-10-25T01:00Z"],
    "America/New_York": ["2026-03-08T07:00Z", "2026-11-01T06:00Z"],
    # Half an hour.
    LORD_HOWE: ["2026-04-04T15:00Z", "2026-10-03T15:30Z"],
    # A whole day: the date line was moved.
    "Pacific/Apia": ["2011-12-30T10:00Z", "2011-09-24T14:00Z"],
    # Standard time for Ramadan.
    "Africa/Casablanca": ["2024-03-10T02:00Z", "2024-04-14T02:00Z"],
    "UTC": ["2026-02-28T23:00Z"],
}


@attrs.frozen
class Field:
    """A field's text, and the values that it stands for."""

    text: str
    values: frozenset[int]


def one(value: int) -> Field:
    return Field(str(value), frozenset({value}))


def any_of(low: int, high: int) -> Field:
    return Field("*", frozenset(range(low, high + 1)))


DAYS, MONTHS, WEEKDAYS = any_of(1, 31), any_of(1, 12), any_of(0, 6)


@attrs.frozen
class Expression:
    """Fields in the order of an expression; seconds come last, if given."""

    fields: tuple[Field, ...]

    @property
    def text(self) -> str:
        return " ".join(field.text for field in self.fields)

    @property
    def is_fixed(self) -> bool:
        return not any(field.text.startswith("*") for field in self.fields[:2])

    def matches(self, wall: datetime) -> bool:
        minute, hour, day, month, weekday, *second = (field.values for field in self.fields)
        by_day, by_weekday = wall.day in day, wall.isoweekday() % 7 in weekday
        # As in cron: both must match if one of them begins with a star.
        either = not any(field.text.startswith("*") for field in (self.fields[2], self.fields[4]))
        return (
            wall.minute in minute
            and wall.hour in hour
            and wall.month in month
            and (by_day or by_weekday if either else by_day and by_weekday)
            and wall.second in (second[0] if second else {0})
        )


def fields(
    low: int, high: int, *, steps: tuple[int, ...] = (2, 5, 7, 11)
) -> st.SearchStrategy[Field]:
    """Return fields for values from ``low`` to ``high``."""
    values = st.integers(low, high)
    pairs = st.tuples(values, values).filter(lambda pair: pair[0] < pair[1])

    def spread(pair: tuple[int, int], step: int) -> Field:
        text = f"{pair[0]}-{pair[1]}" + (f"/{step}" if step > 1 else "")
        return Field(text, frozenset(range(pair[0], pair[1] + 1, step)))

    return st.one_of(
        st.just(any_of(low, high)),
        st.builds(one, values),
        st.builds(
            lambda step: Field(f"*/{step}", frozenset(range(low, high + 1, step))),
            st.sampled_from(steps),
        ),
        st.builds(spread, pairs, st.sampled_from((1, *steps))),
        st.builds(
            lambda chosen: Field(",".join(map(str, sorted(chosen))), frozenset(chosen)),
            st.sets(values, min_size=2, max_size=4),
        ),
    )


def expressions(*, seconds: bool = False) -> st.SearchStrategy[Expression]:
    """Return expressions of five fields, or of six with ``seconds``."""
    hour = fields(0, 23) | st.sampled_from([one(1), one(2), one(3)])  # near the changes
    day = st.just(DAYS) | fields(1, 31)
    weekday = st.just(WEEKDAYS) | fields(0, 6, steps=(2, 3))
    each = [fields(0, 59), hour, day, st.just(MONTHS), weekday]
    if seconds:
        each.append(fields(0, 59))
    return st.tuples(*each).map(Expression)


@attrs.frozen
class Place:
    """A zone, and a moment near one of its clock changes."""

    zone: str
    moment: datetime


def places(*, before: timedelta = 26 * HOUR) -> st.SearchStrategy[Place]:
    changes = [
        (zone, datetime.fromisoformat(change)) for zone in CHANGES for change in CHANGES[zone]
    ]
    distances = st.timedeltas(-before, 2 * HOUR)
    return st.builds(
        lambda change, distance: Place(change[0], change[1] + distance),
        st.sampled_from(changes),
        distances,
    )


def scan(
    expression: Expression, place: Place, *, step: timedelta, until: datetime
) -> list[datetime]:
    """Return every tick after the moment by checking each step of the time line."""
    zone = ZoneInfo(place.zone)

    def wall_at(at: datetime) -> datetime:
        return at.astimezone(zone).replace(tzinfo=None)

    begin = floor(place.moment, step)
    line = list(steps(begin + step, until, step))
    if not expression.is_fixed:
        return [at for at in line if expression.matches(wall_at(at))]
    # Fire once for each wall time: when it is first reached, or skipped. After a clock was set
    # back it shows times that were reached before.
    reached = max(wall_at(at) for at in (begin, *steps(floor(begin, MINUTE) - 25 * HOUR, begin)))
    found = []
    for at in line:
        wall = wall_at(at)
        if wall > reached:
            if any(expression.matches(time) for time in steps(reached + step, wall, step)):
                found.append(at)
            reached = wall
    return found


def floor(moment: datetime, step: timedelta) -> datetime:
    whole = moment.replace(microsecond=0)
    return whole if step == SECOND else whole.replace(second=0)


def steps(begin: datetime, end: datetime, step: timedelta = MINUTE) -> Iterator[datetime]:
    at = begin
    while at <= end:
        yield at
        at += step


def first_ticks(expression: Expression, place: Place, until: datetime) -> list[datetime]:
    schedule = Schedule(expression.text, place.zone)
    return list(islice(schedule.ticks(after=place.moment, until=until), MOST))


@given(expressions(), places())
def test_ticks_are_those_of_a_scan_of_the_minutes(expression: Expression, place: Place) -> None:
    until = place.moment + 2 * DAY
    found = scan(expression, place, step=MINUTE, until=until)
    assert first_ticks(expression, place, until) == found[:MOST]


@given(expressions(seconds=True), places(before=4 * MINUTE))
def test_ticks_are_those_of_a_scan_of_the_seconds(expression: Expression, place: Place) -> None:
    until = place.moment + 6 * MINUTE
    found = scan(expression, place, step=SECOND, until=until)
    assert first_ticks(expression, place, until) == found[:MOST]


@given(expressions(), places(), st.integers(1, 5))
def test_the_last_ticks_are_the_end_of_all_ticks(
    expression: Expression, place: Place, most: int
) -> None:
    schedule = Schedule(expression.text, place.zone)
    until = place.moment + 30 * HOUR
    every = list(schedule.ticks(after=until - 2 * HOUR, until=until))
    last = schedule.last_until(until, after=place.moment, limit=most)
    assert last[-len(every) :] == every[-most:] if every else len(last) <= most
    assert last == sorted(set(last))
    assert all(schedule.next_after(tick - SECOND) == tick for tick in last)


@given(expressions(), places())
def test_ticks_are_those_of_cronsim(expression: Expression, place: Place) -> None:
    begin = place.moment.astimezone(ZoneInfo(place.zone))
    # cronsim counts in whole hours, even if a clock changes by half an hour: see the next test.
    assume(expression.is_fixed or place.zone != LORD_HOWE)
    # If it begins in the second of two equal hours, cronsim takes it for the first.
    assume(not (expression.is_fixed and begin.fold))
    theirs = CronSim(expression.text, begin)
    ours = Schedule(expression.text, place.zone).ticks(
        after=place.moment, until=place.moment + 400 * DAY
    )
    for tick in islice(ours, 12):
        assert tick == next(theirs).astimezone(UTC)


def test_cronsim_is_wrong_when_a_clock_changes_by_half_an_hour() -> None:
    eleventh = Field("*/11", frozenset(range(0, 60, 11)))
    expression = Expression((eleventh, one(3), DAYS, MONTHS, WEEKDAYS))
    place = Place(LORD_HOWE, datetime.fromisoformat("2026-04-04T09:48Z"))
    expected = scan(expression, place, step=MINUTE, until=place.moment + DAY)
    zone = ZoneInfo(LORD_HOWE)
    assert f"{expected[0].astimezone(zone):%H:%M}" == "03:00"
    assert Schedule(expression.text, LORD_HOWE).next_after(place.moment) == expected[0]
    theirs = next(CronSim(expression.text, place.moment.astimezone(zone)))
    assert f"{theirs:%H:%M}" == "03:33", "cronsim was fixed: compare with it here too"
