"""``run_once`` runs the due jobs, counts them, and ends, also when they fail or enqueue others."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import anyio
import pytest
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable

from roost import HandlerRegistry, JobInsert, SnoozeJob, Worker, fixed, job

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]


async def test_run_once_runs_and_counts_all_due_jobs(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("work", registry=registry)
    async def work() -> None: ...

    table.add_all([JobInsert("work")] * 1_234)
    future = table.add("work", scheduled_at=datetime.now(UTC) + timedelta(hours=1))
    unknown = table.add("unknown")
    worker = make_worker()
    assert await worker.run_once() == 1_234
    assert table.states() == {"completed": 1_234, "available": 2}
    assert (table.get(future).attempt, table.get(unknown).attempt) == (0, 0)
    assert table.workers() == []
    assert await worker.run_once() == 0


async def test_run_once_runs_jobs_that_its_jobs_enqueue(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("tree", registry=registry)
    async def tree(depth: int) -> None:
        if depth:
            table.add("tree", args={"depth": depth - 1})
            table.add("tree", args={"depth": depth - 1})

    table.add("tree", args={"depth": 6})
    assert await make_worker().run_once() == 2**7 - 1
    assert table.states() == {"completed": 2**7 - 1}


HELD_UP = """
    create schema held;
    create function held.now() returns timestamptz language plpgsql as $$
    begin
        -- Holds up only the claim, which has its snapshot already.
        if current_query() like '%with recursive head (queue, turn, priority)%' then
            perform pg_advisory_xact_lock_shared(1);
        end if;
        return pg_catalog.now();
    end
    $$;
"""


async def test_run_once_sees_jobs_enqueued_during_a_claim(
    dsn: str, table: JobTable, registry: HandlerRegistry
) -> None:
    started, locked, go_on = anyio.Event(), anyio.Event(), anyio.Event()

    @job("parent", registry=registry)
    async def parent() -> None:
        started.set()
        await go_on.wait()
        eye.add("child")

    @job("waker", registry=registry)
    async def waker() -> None:
        await locked.wait()

    @job("child", registry=registry)
    async def child() -> None: ...

    table.script(HELD_UP)
    # A job that is not due yet: without it, an empty claim does not call now().
    table.add("child", scheduled_at=datetime.now(UTC) + timedelta(hours=1))
    parent_id = table.add("parent")
    table.add("waker")

    async def hold_a_claim_up() -> None:
        await started.wait()
        with table.connection.transaction():
            table.rows("select pg_advisory_xact_lock(1)")
            locked.set()  # a job ends, and the drain claims again
            await eventually(lambda: waiting_for_locks(eye) == 1)
            go_on.set()
            await eventually(lambda: eye.get(parent_id).state == "completed")
            await anyio.sleep(0.05)  # the worker is notified of that, too

    path = f"{'&' if '?' in dsn else '?'}options=-csearch_path%3Dheld,pg_catalog"
    with JobTable(dsn) as eye:
        async with anyio.create_task_group() as group:
            group.start_soon(hold_a_claim_up)
            assert await Worker(dsn + path, registry=registry).run_once() == 3


def waiting_for_locks(table: JobTable) -> int:
    count = table.value(
        "select count(*) from pg_stat_activity "
        "where wait_event_type = 'Lock' and datname = current_database()"
    )
    assert isinstance(count, int)
    return count


async def test_run_once_runs_a_job_with_a_snooze_of_zero_once(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    runs: list[str] = []

    @job("snooze", registry=registry)
    async def snooze() -> None:
        runs.append("snooze")
        raise SnoozeJob(0)

    @job("work", registry=registry)
    async def work() -> None:
        runs.append("work")

    snoozed = table.add("snooze", priority=-1)
    table.add("work")
    with anyio.fail_after(10):
        assert await make_worker(concurrency=1).run_once() == 2
    assert sorted(runs) == ["snooze", "work"]
    row = table.get(snoozed)
    assert (row.state, row.attempt, row.errors) == ("available", 0, [])


async def test_run_once_runs_a_job_with_a_retry_delay_of_zero_once(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("fails", registry=registry)
    async def fails() -> None:
        raise RuntimeError

    job_id = table.add("fails")
    with anyio.fail_after(10):
        assert await make_worker(retry_strategy=fixed(0)).run_once() == 1
    row = table.get(job_id)
    assert (row.attempt, len(row.errors)) == (1, 1)
    assert row.state in ("available", "retryable")


async def test_scheduled_jobs_do_not_keep_a_drain_busy(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    claims = 0

    @job("long", registry=registry)
    async def long() -> None:
        nonlocal claims
        before = table.value(CLAIMS)
        await anyio.sleep(0.3)  # sleeps: while the drain has nothing to do
        claims = table.value(CLAIMS) - before

    table.add("long")
    table.add("long", scheduled_at=datetime.now(UTC) + timedelta(hours=1))
    assert await make_worker().run_once() == 1
    assert claims < 20


CLAIMS = "select xact_commit from pg_stat_database where datname = current_database()"


async def test_a_stop_releases_jobs_that_have_not_started(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    worker = make_worker(concurrency=1, prefetch=5)

    @job("stop", registry=registry)
    async def stop() -> None:
        worker.request_stop()

    table.add_all([JobInsert("stop")] * 10)
    assert await worker.run_once() == 1
    assert table.states() == {"completed": 1, "available": 9}
    assert table.value("select max(attempt) from roost.jobs where state = 'available'") == 0


async def test_a_cancel_interrupts_and_releases_the_job(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    started = anyio.Event()

    @job("long", registry=registry)
    async def long() -> None:
        started.set()
        await anyio.sleep_forever()

    job_id = table.add("long")
    async with anyio.create_task_group() as group:
        group.start_soon(make_worker(shutdown_timeout=0.05).run_once)
        await started.wait()
        group.cancel_scope.cancel()
    row = table.get(job_id)
    assert (row.state, row.attempt, row.errors) == ("available", 0, [])
    assert table.workers() == []


async def test_two_drains_share_the_work(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("work", registry=registry)
    async def work() -> None:
        await anyio.sleep(0.001)

    table.add_all([JobInsert("work")] * 300)
    counts: list[int] = []

    async def drain() -> None:
        counts.append(await make_worker().run_once())

    async with anyio.create_task_group() as group:
        group.start_soon(drain)
        group.start_soon(drain)
    assert sum(counts) == 300
    assert table.value("select count(*) from roost.jobs where attempt <> 1") == 0
