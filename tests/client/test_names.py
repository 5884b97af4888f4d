"""Invalid names and ids are refused by every verb and declaration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from tests.support.job_table import JobTable

from roost import (
    CronEntry,
    HandlerRegistry,
    InvalidJobError,
    InvalidSettingError,
    JobInsert,
    JobNotFoundError,
    JobTimeoutError,
    Roost,
    TaskDefaults,
    Worker,
    cron,
    job,
)

BAD = [
    "",
    " ",
    "\t",
    "  \u3000 ",
    "two\nlines",
    "two\rlines",
    "a\x1b[31m",
    "a\x7f",
    "a\u2028b",
    "\x85",
]
GOOD = [
    "a b",
    " padded ",
    "größe",
    "日本語",
    "family \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "a\u00a0b",
]

ENTRY_POINTS: dict[str, Callable[[Roost, str], object]] = {
    "task": lambda client, name: client.enqueue(name),
    "queue": lambda client, name: client.enqueue("work", queue=name),
    "unique_key": lambda client, name: client.enqueue("work", unique_key=name),
    "tags": lambda client, name: client.enqueue("work", tags=["good", name]),
    "one of many": lambda client, name: client.enqueue_many(
        [JobInsert("work"), JobInsert("work", queue=name)]
    ),
    "many homogeneous": lambda client, name: client.enqueue_many([JobInsert(name)] * 3),
    "many keys": lambda client, name: client.enqueue_all([JobInsert("work", unique_key=name)]),
    "pause": lambda client, name: client.pause_queue(name),
    "resume": lambda client, name: client.resume_queue(name),
    "requeue": lambda client, name: client.requeue_discarded(queue=name),
    "job": lambda _, name: job(name, registry=HandlerRegistry())(lambda: None),
    "job's queue": lambda _, name: TaskDefaults(queue=name),
    "job's tags": lambda _, name: TaskDefaults(tags=(name,)),
    "cron's name": lambda _, name: CronEntry(name, "@daily", "task"),
    "cron's queue": lambda _, name: cron("@daily", queue=name, handler_registry=HandlerRegistry())(
        lambda: None
    ),
    "worker": lambda _, name: Worker("postgresql://", queues=[name]),
}


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_a_name_that_is_blank_or_not_one_line_is_refused(
    dsn: str, table: JobTable, entry_point: str
) -> None:
    with Roost(dsn) as client:
        for name in BAD:
            with pytest.raises((InvalidJobError, InvalidSettingError)):
                ENTRY_POINTS[entry_point](client, name)
        assert table.states() == {}
        assert table.connections("roost") == 0  # before the database was used
        for name in GOOD:
            ENTRY_POINTS[entry_point](client, name)


def test_the_function_in_sql_refuses_the_same(dsn: str, table: JobTable) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        for column in ("task", "queue", "unique_key", "tags"):
            for name in ("", " ", "two\nlines", "a\x1b[31m", "a\x7f"):
                values: dict[str, Any] = {
                    "task": "work",
                    column: [name] if column == "tags" else name,
                }
                named = ", ".join(f"{each} => %({each})s" for each in values)
                with pytest.raises(psycopg.errors.CheckViolation):
                    conn.execute(f"select roost.enqueue({named})".encode(), values)
        for name in GOOD:
            conn.execute("select roost.enqueue(%s, queue => %s)", (name, name))
    assert table.states() == {"available": len(GOOD)}


@pytest.mark.parametrize("job_id", [2**63, 10**30, -(2**70)])
def test_an_id_out_of_the_databases_range_is_not_found(dsn: str, job_id: int) -> None:
    with Roost(dsn) as client:
        for verb in (client.get, client.status, client.cancel, client.retry, client.wait_for):
            with pytest.raises(JobNotFoundError):
                verb(job_id)
        for verb in (client.get, client.wait_for):
            with pytest.raises(InvalidJobError):
                verb("7")  # type: ignore[arg-type]  # what is tested
        with pytest.raises((JobNotFoundError, JobTimeoutError)):
            client.wait_for(2**63 - 1, timeout=0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"concurrency": 2**31},
        {"prefetch": 2**40},
        {"error_cap": 2**31},
        {"archive_after_seconds": 1e12},
        {"result_ttl_seconds": 1e300},
        {"orphan_stale_after": 1e11},
        {"poll_interval": 1e20},
        {"shutdown_timeout": 10**30},
    ],
)
def test_a_setting_out_of_the_databases_range_is_refused(
    wrong: dict[str, Any],
) -> None:
    with pytest.raises(InvalidSettingError, match=next(iter(wrong))):
        Worker("postgresql://", **wrong)


@pytest.mark.parametrize("limit", ["rate_per_minute", "max_concurrency"])
def test_a_limit_out_of_the_databases_range_is_refused(limit: str) -> None:
    with pytest.raises(InvalidSettingError, match=limit):
        TaskDefaults(**{limit: 2**31})  # type: ignore[arg-type]
