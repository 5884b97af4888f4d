"""Declare cron entries, and fire the ticks that are due."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import attrs

from roost._model.codec import decode, encode
from roost._model.cron import CronInfo
from roost._model.job import JobInsert
from roost._model.schedule import Schedule, schedule_of
from roost._ops.query import Op, Query
from roost._ops.read import utc
from roost._sql import statements
from roost.exceptions import CronNotFoundError, InvalidSettingError

_SQL = statements("cron")

MAX_CATCH_UP = 100
"""The most missed ticks that ``misfire="all"`` fires; older ones are dropped."""
ON_TIME = timedelta(seconds=10)
"""A due tick of at most this age is not missed: it is fired whatever ``misfire`` says."""


@attrs.frozen
class Declaration:
    """A cron entry as code declares it, with its task's defaults filled in."""

    name: str
    schedule: Schedule
    job: JobInsert
    misfire: str
    overlap: str
    jitter: float


@attrs.frozen
class Fired:
    """The result of `fire_due`.

    :param job_ids: the new jobs.
    :param unreadable: due entries whose expression or time zone this worker can't read. They were
        not changed.
    """

    job_ids: list[int]
    unreadable: list[str]


def declare(entries: Sequence[Declaration]) -> Op[None]:
    """Insert or update the entries. A new one, or one with a new schedule, starts after now."""
    now = (yield Query(_SQL["now"]))[0][0]
    records: list[dict[str, Any]] = [
        {
            "name": entry.name,
            "expression": entry.schedule.expression,
            "timezone": entry.schedule.timezone_name,
            "task": entry.job.task,
            "queue": entry.job.queue,
            "args": entry.job.args,
            "priority": entry.job.priority,
            "max_attempts": entry.job.max_attempts,
            "tags": entry.job.tags,
            "timeout_seconds": entry.job.timeout_seconds,
            "misfire": entry.misfire,
            "overlap": entry.overlap,
            "jitter": entry.jitter,
            "next_tick_at": entry.schedule.next_after(now),
        }
        for entry in entries
    ]
    yield Query(_SQL["declare"], (encode(records),))


def renew_declared(names: Sequence[str]) -> Op[None]:
    """Record that code still declares these entries."""
    yield Query(_SQL["renew_declared"], (list(names),))


def fire_due(names: Sequence[str]) -> Op[Fired]:
    """Insert the jobs of the due ticks of ``names``, and move the entries on.

    Exactly one worker fires a tick: one statement inserts the jobs and moves the entry on, and it
    does nothing if another worker was faster. Ticks are due by the database's clock.
    """
    due = yield Query(_SQL["due"], (list(names),))
    seen: list[tuple[str, str, str | None, datetime, datetime]] = []
    ticks: list[tuple[str, datetime, float]] = []
    unreadable = []
    for name, expression, zone, misfire, overlap, jitter, due_at, now, busy in due:
        try:
            schedule = schedule_of(expression, zone)
            upcoming = schedule.next_after(now)
            to_fire = [] if busy else _to_fire(schedule, misfire, due_at=due_at, now=now)
        except (InvalidSettingError, ValueError, ArithmeticError):
            # The row was written by hand, or this Roost or its time zone data is older.
            unreadable.append(name)
            continue
        seen.append((name, expression, zone, due_at, upcoming))
        if overlap == "skip":
            to_fire = to_fire[-1:]
        ticks += [(name, tick, random.uniform(0, jitter)) for tick in to_fire]  # noqa: S311  (spreads load)
    job_ids: list[int] = []
    if seen:
        columns = (*_columns(seen, 5), *_columns(ticks, 3))
        job_ids = [job_id for (job_id,) in (yield Query(_SQL["fire"], columns))]
    return Fired(job_ids, unreadable)


def _columns(rows: Sequence[tuple[object, ...]], width: int) -> list[list[object]]:
    return [[row[column] for row in rows] for column in range(width)]


def next_in(names: Sequence[str]) -> Op[float | None]:
    """Return the seconds until the first of ``names`` is due; ``None``: all are paused."""
    rows = yield Query(_SQL["next_in"], (list(names),))
    seconds: float | None = rows[0][0]
    return seconds


def list_entries(*, stale_after: float) -> Op[list[CronInfo]]:
    """Return all entries in the table.

    :param stale_after: seconds without a declaration after which an entry counts as stale.
    """
    rows = yield Query(_SQL["list_entries"], (stale_after,))
    return [
        CronInfo(
            name=name,
            expression=expression,
            timezone_name=zone,
            task=task,
            queue=queue,
            args=decode(args),
            priority=priority,
            max_attempts=max_attempts,
            misfire=misfire,
            overlap=overlap,
            jitter=jitter,
            next_tick_at=utc(next_tick_at),
            last_tick_at=_utc(last_tick_at),
            last_job_id=last_job_id,
            paused_at=_utc(paused_at),
            stale=stale,
        )
        for (
            name,
            expression,
            zone,
            task,
            queue,
            args,
            priority,
            max_attempts,
            misfire,
            overlap,
            jitter,
            next_tick_at,
            last_tick_at,
            last_job_id,
            paused_at,
            stale,
        ) in rows
    ]


def pause(name: str) -> Op[None]:
    """Pause the entry: it fires no ticks.

    :raises CronNotFoundError: no entry has that name.
    """
    if not (yield Query(_SQL["pause"], (name,))):
        raise _not_found(name)


def resume(name: str) -> Op[None]:
    """Undo `pause`; the entry fires again from the next tick after now.

    :raises CronNotFoundError: no entry has that name.
    """
    while True:
        rows = yield Query(_SQL["schedule_of"], (name,))
        if not rows:
            raise _not_found(name)
        expression, zone, paused_at, now = rows[0]
        if paused_at is None:
            return
        first = schedule_of(expression, zone).next_after(now)
        if (yield Query(_SQL["resume"], (name, expression, zone, first))):
            return
        # The entry has changed since it was read: read it again.


def run_now(name: str) -> Op[int]:
    """Enqueue the entry's job once, now, and return its id.

    :raises CronNotFoundError: no entry has that name.
    """
    rows = yield Query(_SQL["run_now"], (name,))
    if not rows:
        raise _not_found(name)
    job_id: int = rows[0][0]
    return job_id


def _to_fire(
    schedule: Schedule, misfire: str, *, due_at: datetime, now: datetime
) -> list[datetime]:
    """Return the ticks from ``due_at`` to ``now`` that are fired."""
    before = due_at - timedelta(microseconds=1)
    if misfire == "all" or now - due_at <= ON_TIME:
        return schedule.last_until(now, after=before, limit=MAX_CATCH_UP)
    if misfire == "skip":
        return list(schedule.ticks(after=max(before, now - ON_TIME), until=now))
    return schedule.last_until(now, after=before)


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else utc(moment)


def _not_found(name: str) -> CronNotFoundError:
    return CronNotFoundError(f"no cron entry is named {name!r}")
