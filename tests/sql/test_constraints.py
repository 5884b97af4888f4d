"""A row that a worker or a client could not read, or add to, does not come into a table.

The clients refuse such values before; these rows are written by hand, behind their backs.
"""

from __future__ import annotations

import pytest
from tests.support.job_table import JobTable

from roost import DatabaseError

INFINITE = ["'infinity'", "'-infinity'", "'0044-03-15 BC'", "'0001-06-01Z'", "'9999-01-01Z'"]
TIMES = {
    "jobs": ["scheduled_at", "inserted_at", "attempted_at", "completed_at", "discarded_at"],
    "jobs_archive": ["scheduled_at", "inserted_at", "cancelled_at", "archived_at"],
    "workers": ["started_at", "heartbeat_at", "expires_at"],
    "queues": ["paused_at"],
    "starts": ["started_at"],
    "cron": ["next_tick_at", "start_at", "last_tick_at", "paused_at", "inserted_at"],
}
VALUES = [
    *[("jobs", "errors", value) for value in ("'{}'", "'3'", "'[3]'", "'[[]]'", "'[{}, null]'")],
    *[("jobs", column, value) for column in ("args", "metadata") for value in ("'[]'", "'null'")],
    *[("jobs", column, "'-1'") for column in ("attempt", "lease_no", "pending_parents")],
    *[("jobs", column, "'0'") for column in ("max_attempts", "timeout_seconds")],
    *[("jobs", column, "''") for column in ("queue", "task", "unique_key")],
    *[("jobs", column, "repeat('x', 201)") for column in ("queue", "task")],
    ("jobs", "unique_key", "repeat('x', 501)"),
    ("jobs", "state", "'running'"),
    *[("jobs", "tags", value) for value in ("'{a,NULL}'", "'{{a},{b}}'")],
    *[("jobs", "depends_on", value) for value in ("'{1,NULL}'", "'{{1},{2}}'")],
    *[("cron", "jitter", value) for value in ("'NaN'", "'infinity'", "1e300", "-1")],
    ("cron", "args", "'[]'"),
    ("cron", "max_attempts", "0"),
    *[("limits", f"{by}_rate_per_minute", "0") for by in ("declared", "set")],
    *[("limits", f"{by}_max_concurrency", "-1") for by in ("declared", "set")],
]
ROWS = {
    "jobs": "insert into roost.jobs (task) values ('work')",
    "jobs_archive": "with moved as (insert into roost.jobs (task) values ('work') returning *) "
    "insert into roost.jobs_archive (id, scheduled_at, inserted_at, lease_no, priority, attempt, "
    "max_attempts, pending_parents, cancel_requested, has_children, limited, state, queue, task, "
    "args) select id, scheduled_at, inserted_at, lease_no, priority, attempt, max_attempts, "
    "pending_parents, cancel_requested, has_children, limited, state, queue, task, args from moved",
    "workers": "insert into roost.workers (name, queues, concurrency, expires_at) "
    "values ('w', '{default}', 1, now())",
    "queues": "insert into roost.queues (name) values ('q')",
    "starts": "insert into roost.starts (task, started_at) values ('work', now())",
    "limits": "insert into roost.limits (task) values ('work')",
    "cron": "insert into roost.cron (name, source, expression, task, queue, args, priority, "
    "max_attempts, misfire, overlap, jitter, next_tick_at) "
    "values ('c', 'code', '* * * * *', 'work', 'default', '{}', 0, 1, 'skip', 'skip', 0, now())",
}


def refused(table: JobTable, relation: str, column: str, value: str) -> None:
    table.rows(ROWS[relation])
    with pytest.raises(DatabaseError) as caught:
        table.rows(f"update roost.{relation} set {column} = {value}")
    assert caught.value.sqlstate == "23514"


@pytest.mark.parametrize("value", INFINITE)
@pytest.mark.parametrize(("relation", "column"), [(r, c) for r in TIMES for c in TIMES[r]])
def test_a_time_that_python_can_not_represent_is_refused(
    table: JobTable, relation: str, column: str, value: str
) -> None:
    refused(table, relation, column, value)


@pytest.mark.parametrize(("relation", "column", "value"), VALUES)
def test_a_value_that_no_worker_can_use_is_refused(
    table: JobTable, relation: str, column: str, value: str
) -> None:
    refused(table, relation, column, value)


def test_every_time_in_the_schema_is_bounded(table: JobTable) -> None:
    unbounded = table.rows(
        """
        select c.relname::text, a.attname::text
        from pg_attribute as a
        join pg_class as c on c.oid = a.attrelid and c.relkind = 'r'
        where c.relnamespace = 'roost'::regnamespace
            and c.relname <> 'migrations'
            and a.atttypid = 'timestamptz'::regtype
        """
    )
    assert unbounded == []
