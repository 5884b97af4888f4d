"""Declare, add and change cron entries, and fire the ticks that are due."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, TypeAlias

import attrs

from roost._model.codec import decode, encode
from roost._model.cron import CronEntry, CronInfo, make_args
from roost._model.cron_words import describe
from roost._model.job import JobInsert
from roost._model.schedule import Schedule, schedule_of
from roost._model.telemetry import CARRIER, NO_CARRIER
from roost._ops.query import Op, Query
from roost._ops.read import utc
from roost._sql import statements
from roost.exceptions import CronDeclaredError, CronNotFoundError, InvalidSettingError

_SQL = statements("cron")

MAX_CATCH_UP = 100
"""The most missed ticks that ``misfire="all"`` fires; older ones are dropped."""
ON_TIME = timedelta(seconds=10)
"""A due tick of at most this age is not missed: it is fired whatever ``misfire`` says."""


@attrs.frozen
class Declaration:
    """A cron entry as code declares it, with its task's defaults filled in.

    :param args_from: what identifies the function that makes the args, if one does.
    """

    name: str
    schedule: Schedule
    job: JobInsert
    misfire: str
    overlap: str
    jitter: float
    run_on_start: bool = False
    args_from: str | None = None

    def record(self) -> dict[str, Any]:
        """Return the columns that code decides."""
        return {
            "name": self.name,
            "expression": self.schedule.expression,
            "timezone": self.schedule.timezone_name,
            "task": self.job.task,
            "queue": self.job.queue,
            "args": self.job.args,
            "priority": self.job.priority,
            "max_attempts": self.job.max_attempts,
            "tags": self.job.tags,
            "timeout_seconds": self.job.timeout_seconds,
            "misfire": self.misfire,
            "overlap": self.overlap,
            "jitter": self.jitter,
            "run_on_start": self.run_on_start,
            "args_from_code": self.args_from is not None,
        }

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that the code decides: equal code has equal fingerprints everywhere."""
        plain = decode(encode([self.record(), self.args_from]))
        text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@attrs.frozen
class Own:
    """What one worker may fire.

    :param names: the entries that its code declares.
    :param fingerprints: of these declarations, in the same order.
    :param tasks: the tasks that it knows: of these it fires the entries that `add` has added.
    :param left_out: names of entries that are not read.
    """

    names: Sequence[str] = ()
    fingerprints: Sequence[str] = ()
    tasks: Sequence[str] = ()
    left_out: Sequence[str] = ()

    def params(self) -> tuple[object, ...]:
        """Return the parameters of the statements ``due`` and ``next_in``."""
        columns = (self.names, self.fingerprints, self.tasks, self.left_out)
        return tuple(list(column) for column in columns)


@attrs.frozen
class DueEntry:
    """A due entry as it was read, with the ticks to fire.

    :param start_at: when the entry began to be served, if it runs on start.
    :param args_from_code: whether a function of the code makes the args of ``ticks``.
    :param upcoming: the next tick after those.
    """

    name: str
    expression: str
    timezone: str | None
    jitter: float
    next_tick_at: datetime
    start_at: datetime | None
    args_from_code: bool
    ticks: Sequence[datetime]
    upcoming: datetime


@attrs.frozen
class Due:
    """The result of `read_due`.

    :param unreadable: due entries whose expression or time zone this worker can't read.
    """

    entries: list[DueEntry]
    unreadable: list[str]


@attrs.frozen
class Fired:
    """The result of `fire`.

    :param job_ids: the new jobs.
    :param names: the entries that moved on. The others have changed, or another worker is firing
        them.
    """

    job_ids: list[int]
    names: set[str]


MadeArgs: TypeAlias = Mapping[str, Sequence[str]]
"""For each entry whose args code makes: the args of each of its ticks, as JSON text."""


def declare(
    entries: Sequence[Declaration], *, worker: str, stale_after: float
) -> Op[dict[str, str]]:
    """Insert or update the entries. A new one, or one with a new schedule, starts after now.

    An entry follows the declaration that was first seen last of those that living workers have.

    :param worker: identifies the declaring worker, so that it can renew and withdraw them.
    :param stale_after: seconds after which a declaration counts as gone if it is not renewed.
    :returns: what became of each entry; see ``declare_cron.sql``.
    """
    now = (yield Query(_SQL["now"]))[0][0]
    records = [
        {
            **entry.record(),
            "fingerprint": entry.fingerprint,
            "next_tick_at": entry.schedule.next_after(now),
        }
        for entry in entries
    ]
    rows = yield Query(_SQL["declare"], (encode(records), worker, stale_after))
    return dict(rows)


def renew_declared(entries: Sequence[Declaration], *, worker: str) -> Op[list[str]]:
    """Record that ``worker`` still declares these entries; return those to declare again."""
    names = [entry.name for entry in entries]
    fingerprints = [entry.fingerprint for entry in entries]
    rows = yield Query(_SQL["renew_declared"], (worker, names, fingerprints))
    return [name for (name,) in rows]


def not_in_force(entries: Sequence[Declaration]) -> Op[list[str]]:
    """Return the names of those that show another declaration, or are gone. Writes nothing."""
    names = [entry.name for entry in entries]
    fingerprints = [entry.fingerprint for entry in entries]
    rows = yield Query(_SQL["not_in_force"], (names, fingerprints))
    return [name for (name,) in rows]


def withdraw(names: Sequence[str], *, worker: str) -> Op[None]:
    """Record that ``worker`` no longer declares these entries, and wake the other workers."""
    yield Query(_SQL["withdraw"], (worker, list(names)))


def read_due(own: Own) -> Op[Due]:
    """Return the entries that are due by the database's clock, a hundred at most, oldest first."""
    rows = yield Query(_SQL["due"], own.params())
    entries: list[DueEntry] = []
    unreadable = []
    # Many tenants have the same schedule.
    known: dict[tuple[object, ...], tuple[list[datetime], datetime]] = {}
    for name, expression, zone, misfire, overlap, jitter, due_at, start_at, made, now, busy in rows:
        key = (expression, zone, misfire, overlap, due_at, start_at, busy)
        try:
            if key not in known:
                schedule = schedule_of(expression, zone)
                ticks = _to_fire(schedule, misfire, due_at=due_at, now=now, start_at=start_at)
                if overlap == "skip":
                    ticks = [] if busy else ticks[-1:]
                known[key] = ticks, (due_at if due_at > now else schedule.next_after(now))
        except (InvalidSettingError, ValueError, ArithmeticError):
            # The row was written by hand, or this Roost or its time zone data is older.
            unreadable.append(name)
            continue
        ticks, upcoming = known[key]
        entries.append(
            DueEntry(
                name,
                expression,
                zone,
                jitter,
                due_at,
                start_at,
                made,
                ticks=ticks,
                upcoming=upcoming,
            )
        )
    return Due(entries, unreadable)


def fire(entries: Sequence[DueEntry], made: MadeArgs, fingerprints: Mapping[str, str]) -> Op[Fired]:
    """Insert the jobs of the entries' ticks, and move the entries on.

    Exactly one worker fires a tick: one statement inserts the jobs and moves the entry on, and it
    does nothing if another worker was faster.

    :param made: the args that the worker's code has made.
    :param fingerprints: of the worker's own declarations, by name.
    """
    seen = [
        (
            entry.name,
            entry.expression,
            entry.timezone,
            entry.next_tick_at,
            entry.start_at,
            fingerprints[entry.name] if entry.args_from_code else None,
            entry.upcoming,
        )
        for entry in entries
    ]
    ticks = [
        (entry.name, tick, random.uniform(0, entry.jitter), args)  # noqa: S311  (spreads load)
        for entry in entries
        for tick, args in zip(
            entry.ticks,
            made[entry.name] if entry.args_from_code else [None] * len(entry.ticks),
            strict=True,
        )
    ]
    rows = yield Query(_SQL["fire"], (*_columns(seen, 7), *_columns(ticks, 4)))
    return Fired(
        job_ids=[job_id for _, job_id in rows if job_id is not None],
        names={name for name, _ in rows},
    )


def _columns(rows: Sequence[tuple[object, ...]], width: int) -> list[list[object]]:
    return [[row[column] for row in rows] for column in range(width)]


def next_in(own: Own) -> Op[float | None]:
    """Return the seconds until the first entry is due; ``None``: all are paused, or none exist."""
    rows = yield Query(_SQL["next_in"], own.params())
    seconds: float | None = rows[0][0]
    return seconds


def add(entry: CronEntry, job: Mapping[str, object]) -> Op[None]:
    """Add an entry that no code declares, or replace it if it was added before.

    The next tick is computed again only if the schedule has changed. A pause stays.

    :param job: the columns of the entry's job, checked and with its task's defaults.
    :raises CronDeclaredError: code declares an entry of that name.
    """
    now = (yield Query(_SQL["now"]))[0][0]
    record = {
        **job,
        "name": entry.name,
        "expression": entry.expression,
        "timezone": entry.timezone_name,
        "misfire": entry.misfire,
        "overlap": entry.overlap,
        "jitter": entry.jitter,
        "next_tick_at": entry.next_after(now),
    }
    if not (yield Query(_SQL["add"], (encode(record),)))[0][0]:
        raise CronDeclaredError(
            f"code declares the cron entry {entry.name!r}: take another name, or change the code. "
            "If that code is gone, remove the entry first"
        )


def remove(name: str, *, stale_after: float) -> Op[bool]:
    """Remove an entry. Its jobs stay.

    :returns: ``False`` if no entry has that name.
    :raises CronDeclaredError: the code of a living worker declares it.
    """
    outcome = (yield Query(_SQL["remove"], (name, stale_after)))[0][0]
    if outcome == "declared":
        raise CronDeclaredError(
            f"the code of a running worker declares the cron entry {name!r}: remove it from the "
            "code, or pause it"
        )
    return outcome is not None


def list_entries(*, stale_after: float) -> Op[list[CronInfo]]:
    """Return all entries in the table.

    :param stale_after: seconds after which a declaration counts as gone if it is not renewed.
    """
    rows = yield Query(_SQL["list_entries"], (stale_after,))
    return [
        CronInfo(
            name=name,
            source=source,
            expression=expression,
            description=describe(expression),
            timezone_name=zone,
            task=task,
            queue=queue,
            args=decode(args),
            priority=priority,
            max_attempts=max_attempts,
            misfire=misfire,
            overlap=overlap,
            jitter=jitter,
            run_on_start=run_on_start,
            args_from_code=args_from_code,
            next_tick_at=utc(next_tick_at),
            last_tick_at=_utc(last_tick_at),
            last_job_id=last_job_id,
            paused_at=_utc(paused_at),
            stale=stale,
        )
        for (
            name,
            source,
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
            run_on_start,
            args_from_code,
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


def run_now(
    name: str, entry: CronEntry | None = None, *, carrier: Mapping[str, str] = NO_CARRIER
) -> Op[int]:
    """Enqueue the entry's job once, now, and return its id.

    :param entry: the entry as this process's code declares it, whose function makes the args.
    :param carrier: the headers of the job's trace, for its metadata.
    :raises CronNotFoundError: no entry has that name.
    :raises InvalidSettingError: the args are made by code that this process has not; or the
        function failed.
    """
    made = None
    if entry is not None and callable(entry.args):
        now = (yield Query(_SQL["now"]))[0][0]
        made = make_args(entry, entry.args, now)
    rows = yield Query(_SQL["run_now"], (name, made, encode({CARRIER: carrier} if carrier else {})))
    if not rows:
        if (yield Query(_SQL["schedule_of"], (name,))):
            raise InvalidSettingError(
                f"a function of the code makes the args of cron entry {name!r}: run it from a "
                "process that has imported that code"
            )
        raise _not_found(name)
    job_id: int = rows[0][0]
    return job_id


def _to_fire(
    schedule: Schedule,
    misfire: str,
    *,
    due_at: datetime,
    now: datetime,
    start_at: datetime | None,
) -> list[datetime]:
    """Return the ticks from ``due_at`` to ``now`` that are fired, oldest first; a start is one."""
    before = due_at - timedelta(microseconds=1)
    starts = [] if start_at is None else [start_at]
    if due_at > now:
        return starts
    if misfire == "all" or now - due_at <= ON_TIME:
        due = schedule.last_until(now, after=before, limit=MAX_CATCH_UP)
    elif misfire == "skip" or starts:
        # The job of the start stands for the last missed tick.
        due = list(schedule.ticks(after=max(before, now - ON_TIME), until=now))
    else:
        due = schedule.last_until(now, after=before)
    return sorted({*due, *starts})


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else utc(moment)


def _not_found(name: str) -> CronNotFoundError:
    return CronNotFoundError(f"no cron entry is named {name!r}")
