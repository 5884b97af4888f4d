"""Compute the ticks of a cron expression: croniter parses it, this module handles time zones.

Clock changes are handled as in Debian's cron (manual cron(8), and cronsim). An expression whose
minute or hour begins with ``*`` follows real time: it fires in each real hour, so twice in a
repeated hour and never in a skipped one. Any other expression is a time of day: it fires once, at
the first of two equal times, and immediately after the gap that skipped it.

croniter gets naive local times only, since it handles zones wrongly, and some of its readings are
corrected: a range of one value (``28-28``) is that value and not every day, a range that wraps
around keeps its step (``22-3/2``), and a day field that begins with ``*`` restricts together with
the other one.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import attrs
from croniter import (  # type: ignore[import-untyped]  # it comes without types
    CroniterBadCronError,
    CroniterBadDateError,
    croniter,
)

from roost.exceptions import InvalidSettingError

FIELDS = ("minute", "hour", "day of month", "month", "day of week", "second")
_SECOND, _DAY = timedelta(seconds=1), timedelta(days=1)
_FEW = 16
"""Most ticks of a time span that are enumerated; a span with more is halved."""
_RANGE = re.compile(r"(\w+)-(\w+)(?:/(\d+))?")
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
_MONTH, _WEEKDAY = 3, 4


@attrs.frozen
class Schedule:
    """The ticks of a cron expression.

    :param expression: five fields, or six with seconds last; or ``@daily`` and similar names.
    :param timezone_name: an IANA name; ``None``: UTC.
    :raises InvalidSettingError: one of them is not valid; the message names the field.
    """

    expression: str
    timezone_name: str | None = None
    _text: str = attrs.field(init=False, repr=False)
    _zone: ZoneInfo = attrs.field(init=False, repr=False)
    _is_fixed: bool = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        zone = _zone(self.timezone_name)
        fields = fields_of(self.expression)
        _check_fields(self.expression, fields)
        text = " ".join(map(_without_ranges, range(len(fields)), fields))
        _check_that_it_fires(self.expression, text)
        set_once = object.__setattr__
        set_once(self, "_zone", zone)
        set_once(self, "_is_fixed", not any(field.startswith("*") for field in fields[:2]))
        set_once(self, "_text", text)

    @property
    def zone(self) -> ZoneInfo:
        """The time zone of the expression."""
        return self._zone

    def next_after(self, moment: datetime) -> datetime:
        """Return the first tick after ``moment`` (aware), in UTC."""
        find = self._next_time_of_day if self._is_fixed else self._next_real_time
        return find(moment.astimezone(UTC).replace(microsecond=0))

    def ticks(self, *, after: datetime, until: datetime) -> Iterator[datetime]:
        """Yield the ticks after ``after`` up to and including ``until``, in UTC, oldest first."""
        tick = self.next_after(after)
        while tick <= until:
            yield tick
            tick = self.next_after(tick)

    def last_until(self, until: datetime, *, after: datetime, limit: int = 1) -> list[datetime]:
        """Return the newest ``limit`` ticks after ``after`` up to ``until``, oldest first.

        Halves the time span and searches the newer half first, so that neither a long span nor a
        short period is expensive.
        """
        if limit <= 0:
            return []
        oldest = list(itertools.islice(self.ticks(after=after, until=until), _FEW))
        if len(oldest) < _FEW:
            return oldest[-limit:]
        middle = after + (until - after) / 2
        newer = self.last_until(until, after=middle, limit=limit)
        return self.last_until(middle, after=after, limit=limit - len(newer)) + newer

    def _next_time_of_day(self, moment: datetime) -> datetime:
        # Wall times in order are instants in order; those in a gap are all the gap's end.
        for wall in self._wall_times(self._first_pass(moment)):
            tick = self._after_gap(wall)
            if tick > moment:
                return tick
        raise AssertionError("croniter's times have no end")

    def _first_pass(self, moment: datetime) -> datetime:
        """Return the wall time of ``moment``; in repeated time, that of the repetition's end."""
        local = moment.astimezone(self._zone)
        wall = local.replace(tzinfo=None, fold=0)
        if not local.fold:
            return wall
        # The repeated times have fired before; skip them, since there may be thousands.
        offset = self._offset(moment - _DAY)
        change = self._first_change(moment - _DAY, moment, offset)
        return wall if change is None else change.replace(tzinfo=None) + offset - _SECOND

    def _next_real_time(self, moment: datetime) -> datetime:
        offset = self._offset(moment)
        while True:
            wall = next(self._wall_times(moment.replace(tzinfo=None) + offset))
            tick = (wall - offset).replace(tzinfo=UTC)
            change = self._first_change(moment, tick, offset)
            if change is None:
                return tick
            # The clock changed in between: continue with the new offset, from that second on.
            moment, offset = change - _SECOND, self._offset(change)

    def _wall_times(self, after: datetime) -> Iterator[datetime]:
        times: Any = croniter(self._text, after, ret_type=datetime, implement_cron_bug=True)
        while True:
            yield times.get_next()

    def _after_gap(self, wall: datetime) -> datetime:
        """Return the instant of a wall time, or the end of the gap that skips it."""
        tick = wall.replace(tzinfo=self._zone, fold=0).astimezone(UTC)
        if tick.astimezone(self._zone).replace(tzinfo=None, fold=0) == wall:
            return tick
        # With fold=0 a time in a gap is read with the offset before the gap, so it is after it.
        change = self._first_change(tick - _DAY, tick, self._offset(tick - _DAY))
        return tick if change is None else change

    def _offset(self, moment: datetime) -> timedelta:
        offset = moment.astimezone(self._zone).utcoffset()
        return timedelta(0) if offset is None else offset

    def _first_change(self, begin: datetime, end: datetime, offset: timedelta) -> datetime | None:
        """Return the first second in (begin, end] that has another offset, or ``None``."""
        low = begin
        # A day at a time: no zone changes its clock and changes it back within a day.
        while low < end:
            high = min(low + _DAY, end)
            if self._offset(high) != offset:
                while high - low > _SECOND:
                    middle = low + timedelta(seconds=(high - low) // _SECOND // 2)
                    if self._offset(middle) == offset:
                        low = middle
                    else:
                        high = middle
                return high
            low = high
        return None


@functools.lru_cache(maxsize=16_384)
def schedule_of(expression: str, timezone_name: str | None) -> Schedule:
    """Return a `Schedule`, cached: creating one takes about a millisecond.

    The cache holds the schedules of many tenants.
    """
    return Schedule(expression, timezone_name)


def fields_of(expression: str) -> list[str]:
    if not isinstance(expression, str) or not expression.strip():
        raise InvalidSettingError(f"a cron expression must be text, not {expression!r}")
    text = expression.strip().lower()
    return _NAMED.get(text, text).split()


_NAMED = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


def _check_fields(expression: str, fields: Sequence[str]) -> None:
    if len(fields) == 1 and fields[0].startswith("@"):
        raise InvalidSettingError(
            f"cron expression {expression!r} is not one of {', '.join(sorted(_NAMED))}"
        )
    if len(fields) not in (5, 6):
        raise InvalidSettingError(
            f"cron expression {expression!r} has {len(fields)} fields, not 5 (minute, hour, day of "
            "month, month, day of week) or 6 (second last)"
        )
    for index, (name, field) in enumerate(zip(FIELDS, fields, strict=False)):
        alone = ["*"] * len(fields)
        alone[index] = field
        # croniter's h and r are a hash and a random number, different in each process.
        if re.fullmatch(r"[hr](\(.*\))?(/\d+)?", field) or not croniter.is_valid(" ".join(alone)):
            raise InvalidSettingError(
                f"cron expression {expression!r}: {field!r} is not a valid {name}"
            )
    if re.search("#|l", fields[_WEEKDAY]) and fields[2][0] not in "*?":
        # croniter ignores the days of the month; by cron's rule either field may match.
        raise InvalidSettingError(
            f"cron expression {expression!r}: the day of week {fields[_WEEKDAY]!r} can't be "
            f"combined with the day of month {fields[2]!r}"
        )


def _check_that_it_fires(expression: str, text: str) -> None:
    try:
        croniter(text, datetime(2000, 1, 1), implement_cron_bug=True).get_next()  # noqa: DTZ001
    except CroniterBadDateError:
        raise InvalidSettingError(f"cron expression {expression!r} never fires") from None
    except (CroniterBadCronError, ValueError) as error:
        raise InvalidSettingError(f"cron expression {expression!r}: {error}") from error


def _without_ranges(index: int, field: str) -> str:
    """Return the field with each range written out, since croniter misreads some."""
    return ",".join(_written_out(index, term) for term in field.split(","))


def _written_out(index: int, term: str) -> str:
    match = _RANGE.fullmatch(term)
    if match is None:
        return term
    first, last = (_number(index, text) for text in match.group(1, 2))
    step = int(match[3] or 1)
    low, high = croniter.RANGES[index]
    if index == _WEEKDAY and first == high + 1:  # 7 is Sunday too
        first, last = 0, last % 7
    span = high - low + 1
    if last < first:
        last += span
    values = (low + (value - low) % span for value in range(first, last + 1, step))
    return ",".join(map(str, dict.fromkeys(values)))


def _number(index: int, text: str) -> int:
    if index == _MONTH and text in _MONTHS:
        return _MONTHS.index(text) + 1
    if index == _WEEKDAY and text in _DAYS:
        return _DAYS.index(text)
    return int(text)


def _zone(name: str | None) -> ZoneInfo:
    try:
        return ZoneInfo("UTC" if name is None else name)
    except (LookupError, ValueError, OSError, TypeError):
        raise InvalidSettingError(
            f"timezone {name!r} is not an IANA name such as 'Europe/Berlin'"
        ) from None
