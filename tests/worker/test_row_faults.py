"""A lane skips and logs a row that it can't read or write. The worker and other jobs continue."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import HandlerRegistry, Worker, cron, job

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]
LARGEST = 2_147_483_647


@pytest.mark.parametrize("assignments", [f"attempt = {LARGEST}", f"lease_no = {LARGEST}"])
@pytest.mark.parametrize("limited", [False, True])
async def test_a_job_whose_counters_are_at_their_maximum_runs(
    table: JobTable, dsn: str, assignments: str, limited: bool
) -> None:
    registry = HandlerRegistry()
    ran: list[int] = []

    @job("work", registry=registry, max_concurrency=5 if limited else None)
    async def work(n: int) -> None:
        ran.append(n)
        if n == 0:
            raise LookupError

    first = table.add("work", args={"n": 0})
    table.change(first, assignments)
    table.add("work", args={"n": 1})
    async with working(Worker(dsn, registry=registry)):
        await eventually(lambda: set(ran) == {0, 1})
        await eventually(lambda: table.get(first).state in ("retryable", "discarded"))
    revived = table.rows("select max_attempts >= attempt from roost.jobs where id = $1", first)
    assert revived == [(True,)] or table.get(first).attempt == LARGEST


async def test_a_cron_entry_that_cannot_be_fired_stops_no_other(
    table: JobTable, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    registry = HandlerRegistry()
    for name in ("good", "bad", "better"):

        async def beat() -> None: ...

        beat.__name__ = beat.__qualname__ = name
        cron("* * * * * *", name=name, handler_registry=registry)(beat)
    table.script("alter table roost.jobs add check (task <> 'bad')")
    with caplog.at_level(logging.ERROR, logger="roost.worker.cron"):
        async with working(Worker(dsn, registry=registry, queues=["other"])):
            for name in ("good", "better"):
                await eventually(lambda name=name: has_fired(table, name))  # type: ignore[misc]
    assert not has_fired(table, "bad")
    assert "'bad'" in caplog.text
    assert "'good'" not in caplog.text


async def test_a_cron_entry_that_cannot_be_declared_stops_no_other(
    table: JobTable, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    registry = HandlerRegistry()
    for name in ("good", "bad"):

        async def beat() -> None: ...

        cron("* * * * * *", name=name, handler_registry=registry)(beat)
    table.script("alter table roost.cron add check (name <> 'bad')")
    with caplog.at_level(logging.ERROR, logger="roost.worker.cron"):
        async with working(Worker(dsn, registry=registry, queues=["other"])):
            await eventually(lambda: has_fired(table, "good"))
    assert "'bad'" in caplog.text


async def test_maintenance_that_the_database_refuses_does_not_end_the_worker(
    table: JobTable, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    registry = HandlerRegistry()
    ran: list[int] = []

    @job("work", registry=registry)
    async def work(n: int) -> None:
        ran.append(n)

    table.script("alter table roost.jobs_archive add constraint nothing_fits check (false)")
    worker = Worker(dsn, registry=registry, archive_after_seconds=0.0, archive_interval=0.05)
    with caplog.at_level(logging.ERROR, logger="roost.worker.archive"):
        async with working(worker):
            table.add("work", args={"n": 1})
            await eventually(lambda: caplog.text.count("nothing_fits") >= 2)
            table.add("work", args={"n": 2})
            await eventually(lambda: ran == [1, 2])


def has_fired(table: JobTable, name: str) -> bool:
    found: bool = table.value(
        "select exists (select from roost.jobs where metadata ->> 'cron' = $1::text)", name
    )
    return found
