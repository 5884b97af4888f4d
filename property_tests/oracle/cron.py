"""The model of cron: the entries, and the ticks that become jobs.

Its time tables are periods since 1970, so ticks are computed by arithmetic: the machine's time
zones have whole hours, and its expressions fire each hour.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import attrs

from roost.exceptions import CronDeclaredError, CronNotFoundError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PERIODS = {
    "* * * * * */4": 4,
    "* * * * *": 60,
    "*/5 * * * *": 300,
    "0 * * * *": 3600,
}
ON_TIME = timedelta(seconds=10)
STALE_AFTER = timedelta(seconds=180)
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
    run_on_start: bool = False


@attrs.define
class Entry:
    """A row of ``roost.cron``.

    :param order: the declarations of its code, in the order in which they were first seen; ``None``
        for an entry that was added at run time.
    """

    declared: Declared
    next_tick_at: datetime
    order: list[Declared] | None = None
    start_at: datetime | None = None
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
    start_at: datetime | None
    next_tick_at: datetime
    ticks: Sequence[datetime]


class CronModel:
    """Entries and jobs. A worker fires in two steps; other events may come between them."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.jobs: list[CronJob] = []
        self.declarations: dict[tuple[str, str], tuple[Declared, datetime]] = {}

    def declare(
        self, declared: Sequence[Declared], read_at: datetime, *, now: datetime, worker: str
    ) -> None:
        """Declare entries; ``read_at`` is when the worker asked for the time."""
        for new in declared:
            first = next_after(read_at, new.expression)
            known = self.entries.get(new.name)
            if known is None:
                start = now if new.run_on_start else None
                self.entries[new.name] = Entry(new, first, order=[new], start_at=start)
                self.declarations[new.name, worker] = new, now
                continue
            if known.order is None:
                continue
            starts = new.run_on_start and not self._living(new.name, now)
            for key, (_, at) in list(self.declarations.items()):
                if key[0] == new.name and at < now - STALE_AFTER:
                    del self.declarations[key]
            self.declarations[new.name, worker] = new, now
            order = known.order if new in known.order else [*known.order, new]
            newest = max(self._living(new.name, now), key=order.index)
            if newest != new or not (starts or known.declared != new):
                continue
            if (known.declared.expression, known.declared.zone) != (new.expression, new.zone):
                known.next_tick_at = first
            if starts:
                known.start_at = now
            known.declared, known.order = new, order

    def renew(self, declared: Sequence[Declared], *, now: datetime, worker: str) -> list[str]:
        """Renew declarations; return the names that must be declared again."""
        again = []
        for own in declared:
            key = own.name, worker
            if key in self.declarations:
                self.declarations[key] = self.declarations[key][0], now
            entry = self.entries.get(own.name)
            in_force = entry is not None and entry.order is not None and entry.declared == own
            if key not in self.declarations or not in_force:
                again.append(own.name)
        return sorted(again)

    def withdraw(self, worker: str) -> None:
        """End a worker's declarations."""
        for key in [key for key in self.declarations if key[1] == worker]:
            del self.declarations[key]

    def add(self, new: Declared, now: datetime) -> None:
        """Add an entry that no code declares, or replace it."""
        first = next_after(now, new.expression)
        known = self.entries.get(new.name)
        if known is None:
            self.entries[new.name] = Entry(new, first)
            return
        if known.order is not None:
            raise CronDeclaredError
        if (known.declared.expression, known.declared.zone) != (new.expression, new.zone):
            known.next_tick_at = first
        known.declared = new

    def remove(self, name: str, now: datetime) -> bool:
        """Remove an entry that no living worker declares."""
        if name in self.entries and self._living(name, now):
            raise CronDeclaredError
        self.declarations = {
            key: value for key, value in self.declarations.items() if key[0] != name
        }
        return self.entries.pop(name, None) is not None

    def is_stale(self, name: str, now: datetime) -> bool:
        """Say whether no worker fires the entry. No worker is registered, so no task is known."""
        return self.entries[name].order is None or not self._living(name, now)

    def _living(self, name: str, now: datetime) -> list[Declared]:
        return [
            declared
            for (declared_name, _), (declared, at) in self.declarations.items()
            if declared_name == name and at >= now - STALE_AFTER
        ]

    def read_due(self, names: Sequence[str], now: datetime) -> list[Seen]:
        """Return the due entries of these names and the added ones, with the ticks to fire."""
        return [
            Seen(
                entry.declared,
                entry.next_tick_at,
                entry.start_at,
                entry.next_tick_at
                if entry.next_tick_at > now
                else next_after(now, entry.declared.expression),
                self._ticks(entry, now),
            )
            for name, entry in sorted(self.entries.items())
            if (name in names or entry.order is None)
            and entry.paused_at is None
            and (entry.next_tick_at <= now or entry.start_at is not None)
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
            entry = self.entries[one.declared.name]
            entry.next_tick_at, entry.start_at = one.next_tick_at, None
        return made

    def pause(self, name: str, now: datetime) -> None:
        """Pause an entry; a second pause keeps the first time."""
        entry = self._get(name)
        entry.paused_at = entry.paused_at or now

    def resume(self, name: str, now: datetime) -> None:
        """Resume an entry from the first tick after ``now``."""
        entry = self._get(name)
        if entry.paused_at is not None:
            entry.paused_at = entry.start_at = None
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
        starts = [] if entry.start_at is None else [entry.start_at]
        if entry.next_tick_at > now:
            return starts
        period = PERIODS[entry.declared.expression]
        due = [entry.next_tick_at]
        while due[-1] + timedelta(seconds=period) <= now:
            due.append(due[-1] + timedelta(seconds=period))
        if entry.declared.misfire == "all" or now - due[0] <= ON_TIME:
            due = due[-MOST:]
        elif entry.declared.misfire == "skip" or starts:
            due = [tick for tick in due if tick > now - ON_TIME]
        else:
            due = due[-1:]
        due = sorted({*due, *starts})
        return due[-1:] if overlap == "skip" else due

    def _still(self, seen: Seen) -> bool:
        entry = self.entries.get(seen.declared.name)
        return (
            entry is not None
            and entry.paused_at is None
            and entry.start_at == seen.start_at
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
