"""Tables that may slow a worker down, prepared once and cloned for every round."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote, urlsplit

import attrs
import psycopg
from bench.draining import TASK

from roost import Roost

OTHER = "bench.other"
"""The task of jobs that no worker here knows."""


@attrs.frozen(kw_only=True)
class Situation:
    """One row of the scale table.

    :param target: the least share of the rate on an empty table.
    :param before: SQL that inserts the rows that may slow the worker down, `big` of them.
    :param share: how many times the usual number of jobs is drained.
    :param queues: the number of queues that the jobs are spread over evenly.
    :param priorities: the number of priorities that the jobs are spread over evenly.
    :param snapshot: whether a snapshot from before the drain is held open all the time.
    """

    name: str
    title: str
    target: float | None = None
    before: str = ""
    big: int = 0
    share: int = 1
    queues: int = 1
    priorities: int = 1
    snapshot: bool = False
    max_concurrency: int | None = None
    rate_per_minute: int | None = None

    def queue_names(self) -> list[str]:
        """Return the queues that the worker serves."""
        return ["default"] if self.queues == 1 else [f"q{n}" for n in range(self.queues)]


FINISHED = """
insert into roost.jobs (
    queue, task, args, state, attempt, lease_no, worker_id, scheduled_at, attempted_at, completed_at
)
select 'default', 'bench.noop', '{"to": "somebody@example.org", "template": 17}', 'completed', 1, 1,
    1, now() - interval '1 day' + i * interval '10 milliseconds',
    now() - interval '1 day' + i * interval '10 milliseconds',
    now() - interval '1 day' + i * interval '10 milliseconds'
from generate_series(1, @big) as i;
"""

FUTURE = """
insert into roost.jobs (queue, task, args, priority, scheduled_at)
select 'default', 'bench.noop', '{"to": "somebody@example.org", "template": 17}', @priority,
    now() + interval '3 hours' + i * interval '10 milliseconds'
from generate_series(1, @big) as i;
"""

# The parent is due in three hours, so nothing ends that could release them.
BLOCKED = """
with parent as (
    insert into roost.jobs (queue, task, scheduled_at, has_children)
    values ('default', 'bench.other', now() + interval '3 hours', true)
    returning id
),
child as (
    insert into roost.jobs (queue, task, priority, scheduled_at, pending_parents, depends_on)
    select 'default', 'bench.noop', -5, now() - interval '1 day' + i * interval '1 millisecond', 1,
        array[parent.id]
    from parent
    cross join generate_series(1, @big) as i
    returning id
)
insert into roost.dependencies (parent_id, child_id)
select parent.id, child.id
from parent
cross join child;
"""

LIMITED_JOBS = """
insert into roost.limits (
    task, declared_rate_per_minute, declared_max_concurrency, snapshots_gone, all_marked
)
values ('bench.limited', @rate, @at_once, true, true);
insert into roost.jobs (queue, task, priority, scheduled_at, limited)
select 'default', 'bench.limited', -5, now() - interval '1 day' + i * interval '1 millisecond', true
from generate_series(1, @big) as i;
"""

# Another worker's job, which runs during the whole trial.
AT_ITS_LIMIT = """
with worker as (
    insert into roost.workers (name, queues, concurrency, expires_at)
    values ('another', '{default}', 1, now() + interval '1 day')
    returning id
)
insert into roost.jobs (
    queue, task, limited, state, attempt, lease_no, worker_id, attempted_at, scheduled_at
)
select 'default', 'bench.limited', true, 'executing', 1, 1, worker.id, now(), now()
from worker;
"""

# In the future, so that the full minute lasts the whole round on any machine.
STARTED = """
insert into roost.starts (task, started_at)
values ('bench.limited', now() + interval '1 hour');
"""


def situations(*, quick: bool) -> list[Situation]:
    """Return the lines of the table.

    :param quick: a hundredth of the rows, to see whether all of it works.
    """
    million, many = (10_000, 1_000) if quick else (1_000_000, 100_000)
    rated = LIMITED_JOBS.replace("@rate", "1").replace("@at_once", "null") + STARTED
    busy = LIMITED_JOBS.replace("@rate", "null").replace("@at_once", "1") + AT_ITS_LIMIT
    return [
        Situation(
            name="finished",
            title=f"{million:,} finished rows",
            target=0.8,
            before=FINISHED,
            big=million,
        ),
        Situation(
            name="future-same",
            title=f"{million:,} future jobs, same priority",
            target=0.8,
            before=FUTURE.replace("@priority", "0"),
            big=million,
        ),
        Situation(
            name="future-better",
            title=f"{million:,} future jobs, better priority",
            target=0.8,
            before=FUTURE.replace("@priority", "-5"),
            big=million,
        ),
        Situation(
            name="blocked",
            title=f"{many:,} blocked children",
            target=0.8,
            before=BLOCKED,
            big=many,
        ),
        Situation(
            name="limited",
            title=f"{many:,} jobs of a task at max_concurrency",
            target=0.8,
            before=busy,
            big=many,
            max_concurrency=1,
        ),
        Situation(
            name="rated",
            title=f"{many:,} jobs of a task at rate_per_minute",
            target=0.8,
            before=rated,
            big=many,
            rate_per_minute=1,
        ),
        Situation(
            name="mixed", title="20 queues x 5 priorities", target=0.7, queues=20, priorities=5
        ),
        Situation(name="longer", title="5 times as many jobs", share=5),
        Situation(
            name="snapshot",
            title="5 times as many jobs, old snapshot open",
            target=0.5,
            share=5,
            snapshot=True,
        ),
    ]


EMPTY = Situation(name="empty", title="empty table")


@contextmanager
def prepared(server_dsn: str, situation: Situation, *, jobs: int) -> Iterator[str]:
    """Yield the name of a template database with the situation and the jobs; drop it afterwards.

    It is vacuumed and analysed, as autovacuum would have done by the time that so much stands in a
    table.
    """
    name = f"roost_bench_{os.getpid()}_{situation.name.replace('-', '_')}"
    _run(server_dsn, f'create database "{name}" template template0')
    try:
        dsn = dsn_for(server_dsn, name)
        with Roost(dsn) as client:
            client.setup_schema()
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(situation.before.replace("@big", str(situation.big)).encode())
            put_in(conn, situation, jobs=jobs * situation.share)
            conn.execute("vacuum analyze")
        yield name
    finally:
        _run(server_dsn, f'drop database if exists "{name}" with (force)')


# Due by now, one after the other, and mixed as they would be if many clients had sent them.
JOBS = f"""
insert into roost.jobs (queue, task, args, priority, scheduled_at)
select (%(queues)s::text[])[1 + i %% cardinality(%(queues)s::text[])], '{TASK}',
    '{{}}', (i / cardinality(%(queues)s::text[])) %% %(priorities)s,
    now() - interval '1 hour' + i * interval '1 millisecond'
from generate_series(0, %(jobs)s - 1) as i
"""


def put_in(conn: psycopg.Connection, situation: Situation, *, jobs: int) -> None:
    """Insert the jobs that are to be drained."""
    given = {
        "queues": situation.queue_names(),
        "priorities": situation.priorities,
        "jobs": jobs,
    }
    conn.execute(JOBS.encode(), given)


@contextmanager
def clone(server_dsn: str, template: str) -> Iterator[str]:
    """Yield the DSN of a copy of a template database, checkpointed; drop it afterwards."""
    name = f"{template}_copy"
    _run(server_dsn, f'create database "{name}" template "{template}" strategy file_copy')
    try:
        _run(server_dsn, "checkpoint")
        yield dsn_for(server_dsn, name)
    finally:
        _run(server_dsn, f'drop database if exists "{name}" with (force)')


@attrs.frozen
class Start:
    """What stood in a database before the drain."""

    rows: int
    waiting: int
    last_id: int
    transaction: int

    @classmethod
    def of(cls, conn: psycopg.Connection) -> Start:
        """Look."""
        row = conn.execute(
            f"select count(*), count(*) filter (where {_DUE}), coalesce(max(id), 0),"
            " pg_current_xact_id()::text from roost.jobs"
        ).fetchone()
        assert row is not None
        return cls(row[0], row[1], row[2], int(row[3]))


_DUE = f"task = '{TASK}' and state = 'available' and scheduled_at <= now() and pending_parents = 0"


def check(conn: psycopg.Connection, start: Start, *, drained: int) -> None:
    """Raise unless every drained job is complete after one attempt, and no other row was touched.

    Jobs that others have inserted since must be counted in `start`, as if they had been there.
    """
    row = conn.execute(
        f"""
        select count(*),
            count(*) filter (where touched and not done and not unstarted),
            count(*) filter (where touched and done),
            count(*) filter (where {_DUE})
        from (
            select *,
                xmin::text::bigint >= %(first)s as touched,
                -- Inserted since, or released by a worker that was stopped.
                task = '{TASK}' and state = 'available' and attempt = 0
                    and (id > %(last)s or lease_no > 0) as unstarted,
                task = '{TASK}' and state = 'completed' and attempt = 1 as done
            from roost.jobs
        ) as job
        """.encode(),
        {"first": start.transaction, "last": start.last_id},
    ).fetchone()
    expected = (start.rows, 0, drained, start.waiting - drained)
    if row != expected:
        raise RuntimeError(
            "all rows, touched but not completed once, completed once, left:"
            f" {row} instead of {expected}"
        )


def dsn_for(server_dsn: str, database: str) -> str:
    """Return the DSN of another database on the same server."""
    parts = urlsplit(server_dsn)
    # Not urlunsplit: it drops the // of an empty host.
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{parts.netloc}/{quote(database, safe='')}{query}"


def _run(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(statement.encode())
