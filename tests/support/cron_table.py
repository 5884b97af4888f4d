"""Declare, fire and read cron entries in a test, by a clock that the test sets.

Roost's statements and functions say ``now()`` without a schema. Functions of these names in a
schema of their own, before Postgres's in the search path, return the time that `CronTable.clock`
set.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import attrs
from tests.support.job_table import JobTable

from roost._model.cron import CronEntry, CronInfo, source_text
from roost._ops import cron
from roost._ops.cron import Declaration, Fired, Own
from roost._ops.query import Op, Query

T = TypeVar("T")

START = datetime(2026, 6, 1, 12, tzinfo=UTC)
STALE_AFTER = 180.0
CLOCK = """
create schema if not exists clock;
create or replace function clock.now() returns timestamptz stable language sql
    as $$ select coalesce(
        nullif(current_setting('clock.now', true), '')::timestamptz, pg_catalog.now()
    ) $$;
create or replace function clock.statement_timestamp() returns timestamptz stable language sql
    as $$ select clock.now() $$;
create or replace function clock.clock_timestamp() returns timestamptz stable language sql
    as $$ select clock.now() $$;
do $$
declare
    function regprocedure;
begin
    for function in
        select oid from pg_proc
        where pronamespace = 'roost'::regnamespace and proconfig is not null
    loop
        execute format('alter function %s set search_path = clock, pg_catalog, pg_temp', function);
    end loop;
end $$;
"""


class CronTable(JobTable):
    """The cron entries of one database, and their jobs. The clock begins at `START`.

    :param dsn: a database with Roost's schema, and with the functions of `CLOCK`.
    """

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn)
        self.script("set search_path = clock, pg_catalog")
        self.clock(START)

    def clock(self, now: datetime) -> None:
        """Set the clock of this connection."""
        self.rows("select set_config('clock.now', $1::text, false)", now.isoformat())

    def declare(self, *entries: CronEntry, worker: str = "one", **job: Any) -> dict[str, str]:
        """Declare entries as a starting worker does; ``job`` are defaults of the task."""
        return self.run(declare([declaration(entry, **job) for entry in entries], worker=worker))

    def add_entry(self, entry: CronEntry) -> None:
        """Add an entry that no code declares."""
        columns = {
            "task": entry.task,
            "args": entry.args,
            "queue": entry.queue,
            "priority": entry.priority,
            "max_attempts": entry.max_attempts,
        }
        self.run(cron.add(entry, columns))

    def fire(self, *names: str, tasks: Sequence[str] = ()) -> list[int]:
        """Fire what is due, and return the ids of the new jobs.

        :param names: of the entries of the code.
        :param tasks: also of these tasks what `add` has added.
        """
        return self.run(fire_due(names, tasks=tasks)).job_ids

    def stop_after(self, statements: int, operation: Op[object]) -> None:
        """Run a number of an operation's statements, as a worker that dies after them."""
        try:
            query = next(operation)
            for _ in range(statements):
                query = operation.send(self.connection.fetch(query))
        except StopIteration:
            pass
        finally:
            operation.close()

    def finish(self, operation: Op[T], query: Query) -> T:
        """Run the rest of an operation, beginning with ``query``, and return its value."""
        try:
            while True:
                query = operation.send(self.connection.fetch(query))
        except StopIteration as stop:
            value: T = stop.value
            return value

    def entries(self) -> list[CronInfo]:
        """Return all entries."""
        return self.run(cron.list_entries(stale_after=STALE_AFTER))

    def entry(self, name: str) -> CronInfo:
        """Return one entry."""
        return next(entry for entry in self.entries() if entry.name == name)

    def ticks(self, name: str) -> list[datetime]:
        """Return the fired ticks of an entry, in the order of their jobs."""
        rows: Sequence[tuple[datetime]] = self.rows(
            "select (metadata ->> 'tick')::timestamptz from roost.jobs "
            "where metadata ->> 'cron' = $1::text and metadata ? 'tick' order by id",
            name,
        )
        return [tick.astimezone(UTC) for (tick,) in rows]


def declare(entries: Sequence[Declaration], *, worker: str = "one") -> Op[dict[str, str]]:
    """Return the operation with which a worker declares entries."""
    return cron.declare(entries, worker=worker, stale_after=STALE_AFTER)


def fire_due(names: Sequence[str], *, tasks: Sequence[str] = ()) -> Op[Fired]:
    """Read and fire what is due, as a worker does whose entries have no functions."""
    own = Own(names=list(dict.fromkeys(names)), fingerprints=["" for _ in set(names)], tasks=tasks)
    due = yield from cron.read_due(own)
    return (yield from cron.fire(due.entries, {}, {})) if due.entries else Fired([], set())


def declaration(entry: CronEntry, **job: Any) -> Declaration:
    """Return the declaration that a worker makes of an entry."""
    fields: dict[str, Any] = {
        "queue": entry.queue,
        "priority": entry.priority,
        "max_attempts": entry.max_attempts,
    }
    return Declaration(
        name=entry.name,
        schedule=entry.schedule(),
        job=attrs.evolve(entry.job(), **(fields | job)),
        misfire=entry.misfire,
        overlap=entry.overlap,
        jitter=entry.jitter,
        run_on_start=entry.run_on_start,
        args_from=source_text(entry.args) if callable(entry.args) else None,
    )


def entry(expression: str = "* * * * *", name: str = "it", **options: Any) -> CronEntry:
    """Return an entry of the task ``work``."""
    return CronEntry(name, expression, options.pop("task", "work"), **options)


def after(**delta: float) -> datetime:
    """Return a time after `START`."""
    return START + timedelta(**delta)


def minutes(*numbers: int) -> list[datetime]:
    """Return times that many minutes after `START`."""
    return [after(minutes=number) for number in numbers]


def seconds(*numbers: int) -> list[datetime]:
    """Return times that many seconds after `START`."""
    return [after(seconds=number) for number in numbers]
