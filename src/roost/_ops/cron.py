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
from roost._model.schedule import Schedule
from roost._ops.inspect import utc
from roost._ops.query import Op, Query
from roost._sql import statements
from roost.exceptions import CronNotFoundError

_SQL = statements("cron")

MAX_CATCH_UP = 100
"""Ticks that ``misfire="all"`` fires at once, the newest."""
ON_TIME = timedelta(seconds=10)
"""A tick that is fired so late was not missed."""


@attrs.frozen
class Declaration:
    """An entry as code declares it, its task's defaults filled in."""

    name: str
    schedule: Schedule
    job: JobInsert
    misfire: str
    overlap: str
    jitter: float


def declare(entries: Sequence[Declaration]) -> Op[None]:
    """Make the entries known. A new one, or one with another time table, starts after now."""
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
    """Say that code still declares these entries."""
    yield Query(_SQL["renew_declared"], (list(names),))


def fire_due(names: Sequence[str]) -> Op[list[int]]:
    """Insert the jobs of the ticks of ``names`` that are due, and return their ids.

    Must run inside a transaction: an entry is locked, its jobs inserted and its next tick set, or
    none of it. So each tick is fired once, by whichever worker comes first, and the database's
    clock says when.
    """
    ids: list[int] = []
    for name, expression, zone, misfire, jitter, due_at, now, busy in (
        yield Query(_SQL["take_due"], (list(names),))
    ):
        schedule = Schedule(expression, zone)
        ticks = [] if busy else _to_fire(schedule, misfire, due_at=due_at, now=now)
        delays = [random.uniform(0, jitter) for _ in ticks]  # noqa: S311  (spreads load)
        rows = yield Query(_SQL["fire"], (name, ticks, delays, schedule.next_after(now)))
        ids += [job_id for (job_id,) in rows]
    return ids


def next_in(names: Sequence[str]) -> Op[float | None]:
    """Return the seconds until the first of ``names`` is due; ``None``: all are paused."""
    rows = yield Query(_SQL["next_in"], (list(names),))
    seconds: float | None = rows[0][0]
    return seconds


def list_entries(*, stale_after: float) -> Op[list[CronInfo]]:
    """Return every entry that was ever declared and not removed."""
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
    """Let the entry fire nothing.

    :raises CronNotFoundError: no entry has that name.
    """
    if not (yield Query(_SQL["pause"], (name,))):
        raise _not_found(name)


def resume(name: str) -> Op[None]:
    """Undo `pause`; the next tick after now is the first.

    Must run inside a transaction.

    :raises CronNotFoundError: no entry has that name.
    """
    rows = yield Query(_SQL["schedule_of"], (name,))
    if not rows:
        raise _not_found(name)
    expression, zone, paused_at, now = rows[0]
    if paused_at is not None:
        yield Query(_SQL["resume"], (name, Schedule(expression, zone).next_after(now)))


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
    """Return which of the ticks from ``due_at`` to ``now`` to fire."""
    before = due_at - timedelta(microseconds=1)
    if misfire == "all":
        return schedule.last_until(now, after=before, most=MAX_CATCH_UP)
    last = schedule.last_until(now, after=before)
    if misfire == "skip":
        return [tick for tick in last if now - tick <= ON_TIME]
    return last


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else utc(moment)


def _not_found(name: str) -> CronNotFoundError:
    return CronNotFoundError(f"no cron entry is named {name!r}")
