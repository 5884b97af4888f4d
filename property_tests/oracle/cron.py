"""The model of cron: the entries, and the ticks that become jobs.

Its time tables are periods since 1970, so ticks are computed by arithmetic: the machine's time
zones have whole hours, and its expressions fire each hour.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import attrs

from roost.exceptions import CronNotFoundError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PERIODS = {
    "* * * * * */4": 4,
    "* * * * *": 60,
    "*/5 * * * *": 300,
    "0 * * * *": 3600,
}
ON_TIME = timedelta(seconds=10)
MOST = 6
"""The most missed ticks to fire; Roost's own hundred would make the machine slow."""


@attrs.frozen
class Declared:
    """An entry as code declares it."""

    name: str
    expression: str
    zone: str | None
    misfire: str
    overlap: str


@attrs.define
class Entry:
    """A row of ``roost.cron``."""

    declared: Declared
    next_tick_at: datetime
    last_tick_at: datetime | None = None
    last_job_id: int | None = None
    paused_at: datetime | None = None


@attrs.define
class CronJob:
    """A job of an entry; ``tick`` is ``None`` if `CronModel.run_now` made it."""

    id: int
    entry: str
    tick: datetime | None
    state: str = "available"


@attrs.frozen
class Seen:
    """An entry as a worker has read it, with the ticks that it is about to fire."""

    declared: Declared
    due_at: datetime
    next_tick_at: datetime
    ticks: Sequence[datetime]


class CronModel:
    """Entries and jobs. A worker fires in two steps; other events may come between them."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.jobs: list[CronJob] = []

    def declare(self, declared: Sequence[Declared], read_at: datetime) -> None:
        """Declare entries; ``read_at`` is when the worker asked for the time."""
        for new in declared:
            first = next_after(read_at, new.expression)
            known = self.entries.get(new.name)
            if known is None:
                self.entries[new.name] = Entry(new, first)
                continue
            if (known.declared.expression, known.declared.zone) != (new.expression, new.zone):
                known.next_tick_at = first
            known.declared = new

    def read_due(self, names: Sequence[str], now: datetime) -> list[Seen]:
        """Return the due entries, with the ticks to fire for each."""
        return [
            Seen(
                entry.declared,
                entry.next_tick_at,
                next_after(now, entry.declared.expression),
                self._ticks(entry, now),
            )
            for name, entry in sorted(self.entries.items())
            if name in names and entry.paused_at is None and entry.next_tick_at <= now
        ]

    def fire(self, seen: Sequence[Seen]) -> list[int]:
        """Fire the entries that are still as they were read; return the new jobs' ids."""
        holds = [one for one in seen if self._still(one)]
        made = []
        for tick, name in sorted((tick, one.declared.name) for one in holds for tick in one.ticks):
            made.append(self._add(name, tick))
            entry = self.entries[name]
            entry.last_tick_at, entry.last_job_id = tick, made[-1]
        for one in holds:
            self.entries[one.declared.name].next_tick_at = one.next_tick_at
        return made

    def pause(self, name: str, now: datetime) -> None:
        """Pause an entry; a second pause keeps the first time."""
        entry = self._get(name)
        entry.paused_at = entry.paused_at or now

    def resume(self, name: str, now: datetime) -> None:
        """Resume an entry from the first tick after ``now``."""
        entry = self._get(name)
        if entry.paused_at is not None:
            entry.paused_at = None
            entry.next_tick_at = next_after(now, entry.declared.expression)

    def run_now(self, name: str) -> int:
        """Add a job outside the time table."""
        self._get(name)
        return self._add(name, None)

    def _ticks(self, entry: Entry, now: datetime) -> list[datetime]:
        last_job = [job for job in self.jobs if job.id == entry.last_job_id]
        overlap = entry.declared.overlap
        if overlap == "skip" and last_job and last_job[0].state in ("available", "executing"):
            return []
        period = PERIODS[entry.declared.expression]
        due = [entry.next_tick_at]
        while due[-1] + timedelta(seconds=period) <= now:
            due.append(due[-1] + timedelta(seconds=period))
        if entry.declared.misfire == "all" or now - due[0] <= ON_TIME:
            due = due[-MOST:]
        elif entry.declared.misfire == "skip":
            due = [tick for tick in due if tick > now - ON_TIME]
        else:
            due = due[-1:]
        return due[-1:] if overlap == "skip" else due

    def _still(self, seen: Seen) -> bool:
        entry = self.entries[seen.declared.name]
        return (
            entry.paused_at is None
            and entry.next_tick_at == seen.due_at
            and entry.declared.expression == seen.declared.expression
            and entry.declared.zone == seen.declared.zone
        )

    def _add(self, name: str, tick: datetime | None) -> int:
        self.jobs.append(CronJob(len(self.jobs) + 1, name, tick))
        return len(self.jobs)

    def _get(self, name: str) -> Entry:
        if name not in self.entries:
            raise CronNotFoundError(f"no cron entry is named {name!r}")
        return self.entries[name]


def next_after(moment: datetime, expression: str) -> datetime:
    """Return the first multiple of the period after ``moment``."""
    period = timedelta(seconds=PERIODS[expression])
    return moment + period - (moment - EPOCH) % period
