"""A worker starts a due job at once: it is notified, or wakes at the job's due time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import anyio
import pytest
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import HandlerRegistry, SnoozeJob, Worker, fixed, job

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]

SOON = 5.0
"""Seconds. It takes milliseconds, and longer on a loaded machine; the poll comes after 30 s."""


async def test_an_idle_worker_is_notified_of_every_burst(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("tick", registry=registry)
    async def tick() -> None: ...

    async with working(make_worker(poll_interval=30)):
        for count in range(60):
            for _ in range(count % 3 + 1):
                table.add("tick")
            await anyio.sleep(0.002 * (count % 4))
        await eventually(lambda: table.states().keys() == {"completed"})
    late = table.value(
        "select percentile_disc(0.99) within group "
        "(order by extract(epoch from attempted_at - inserted_at))::float8 from roost.jobs"
    )
    assert late < SOON


async def test_a_job_enqueued_while_another_ends_is_started(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("chain", registry=registry)
    async def chain(left: int) -> None:
        if left:
            table.add("chain", args={"left": left - 1})

    table.add("chain", args={"left": 100})
    async with working(make_worker(poll_interval=30, concurrency=1)):
        await eventually(lambda: table.states() == {"completed": 101})


async def test_a_scheduled_job_starts_when_it_is_due(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("later", registry=registry)
    async def later() -> None: ...

    async with working(make_worker(poll_interval=30)):
        await idle(table, "later")
        job_id = table.add("later", scheduled_at=datetime.now(UTC) + timedelta(seconds=0.3))
        table.add("later")
        await eventually(lambda: table.get(job_id).state == "completed")
    late = lateness(table, job_id)
    assert 0 <= late < SOON


async def test_a_job_scheduled_before_the_worker_started_runs_when_it_is_due(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("later", registry=registry)
    async def later() -> None: ...

    job_id = table.add("later", scheduled_at=datetime.now(UTC) + timedelta(seconds=0.4))
    async with working(make_worker(poll_interval=30)):
        await eventually(lambda: table.get(job_id).state == "completed")
    assert 0 <= lateness(table, job_id) < SOON


async def test_the_only_scheduled_job_starts_when_it_is_due(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("later", registry=registry)
    async def later() -> None: ...

    async with working(make_worker(poll_interval=30)):
        await idle(table, "later")
        job_id = table.add("later", scheduled_at=datetime.now(UTC) + timedelta(seconds=0.3))
        await eventually(lambda: table.get(job_id).state == "completed")
    assert 0 <= lateness(table, job_id) < SOON


async def test_a_retry_starts_when_its_wait_is_over(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("flaky", registry=registry)
    async def flaky() -> None:
        if table.get(job_id).attempt == 1:
            raise RuntimeError("once")

    job_id = table.add("flaky")
    async with working(make_worker(poll_interval=30, retry_strategy=fixed(0.3))):
        await eventually(lambda: table.get(job_id).state == "completed")
    assert table.get(job_id).attempt == 2
    assert 0 <= lateness(table, job_id) < SOON


async def test_a_snoozed_job_starts_when_its_sleep_is_over(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    snoozed = False

    @job("sleepy", registry=registry)
    async def sleepy() -> None:
        nonlocal snoozed
        if not snoozed:
            snoozed = True
            raise SnoozeJob(0.3)

    job_id = table.add("sleepy")
    async with working(make_worker(poll_interval=30)):
        await eventually(lambda: table.get(job_id).state == "completed")
    assert table.get(job_id).attempt == 1
    assert table.get(job_id).errors == []
    assert 0 <= lateness(table, job_id) < SOON


async def test_a_poll_finds_jobs_without_a_notification(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("quiet", registry=registry)
    async def quiet() -> None: ...

    async with working(make_worker(poll_interval=0.05)):
        table.rows("insert into roost.jobs (task) values ('quiet')")  # no worker is notified
        await eventually(lambda: table.states() == {"completed": 1})


async def test_a_failed_claim_is_repeated_soon(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("work", registry=registry)
    async def work() -> None: ...

    async with working(make_worker(poll_interval=30, heartbeat_interval=100)):
        await idle(table, "work")
        with table.connection.transaction():
            # The claim waits for this lock until its connection is terminated.
            table.rows("select id from roost.workers for update")
            with JobTable(table.connection.raw.info.dsn) as other:
                other.add("work")
                await eventually(lambda: blocked(other) == 1)
                other.rows(
                    "select pg_terminate_backend(pid) from pg_stat_activity "
                    "where wait_event_type = 'Lock' and datname = current_database()"
                )
                await eventually(lambda: blocked(other) == 0)
        await eventually(lambda: table.states().keys() == {"completed"})


async def test_a_claim_that_lost_the_race_for_one_priority_claims_the_next(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("work", registry=registry)
    async def work() -> None: ...

    urgent = [table.add("work", priority=0) for _ in range(4)]
    normal = [table.add("work", priority=1) for _ in range(4)]
    with table.connection.transaction():
        # As another worker's claim that is about to commit.
        table.rows("select id from roost.jobs where id = any ($1::bigint[]) for update", urgent)
        with JobTable(table.connection.raw.info.dsn) as other:
            async with working(make_worker(poll_interval=30, concurrency=4)):
                await eventually(
                    lambda: {other.get(job_id).state for job_id in normal} == {"completed"},
                )


def lateness(table: JobTable, job_id: int) -> float:
    late = table.value(
        "select extract(epoch from attempted_at - scheduled_at)::float8 from roost.jobs "
        "where id = $1::bigint",
        job_id,
    )
    assert isinstance(late, float)
    return late


async def idle(table: JobTable, task: str) -> None:
    """Wait until the worker has ended a job and its next claim found none."""
    for _ in range(2):
        job_id = table.add(task)
        await eventually(lambda: table.get(job_id).state == "completed")  # noqa: B023
    await eventually(lambda: table.value(BUSY) == 0)


BUSY = """
select count(*) from pg_stat_activity
where datname = current_database()
    and application_name like 'roost worker %'
    and (state <> 'idle' or now() - state_change < interval '30 ms')
"""


def blocked(table: JobTable) -> int:
    count = table.value(
        "select count(*) from pg_stat_activity "
        "where wait_event_type = 'Lock' and datname = current_database()"
    )
    assert isinstance(count, int)
    return count
