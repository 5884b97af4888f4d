"""A worker whose lease has expired stops its jobs, writes no verdict, and registers anew."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import anyio
import pytest
from anyio import to_thread
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.proxy import Proxy
from tests.support.working import working

from roost import AsyncRoost, HandlerRegistry, Worker, job
from roost._ops.control import cancel_job
from roost._ops.rescue import rescue_jobs

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]
Proxied = Callable[[], AbstractAsyncContextManager[tuple[Proxy, str]]]


class Sleeper:
    """A handler that sleeps in its first call and returns at once in later ones."""

    def __init__(self) -> None:
        self.started = 0
        self.interrupted = 0

    async def __call__(self) -> str:
        self.started += 1
        if self.started > 1:
            return "again"
        try:
            await anyio.sleep(60)  # sleeps: until it is interrupted
        except BaseException:
            self.interrupted += 1
            raise
        return "never"


def add_orphan(table: JobTable) -> int:
    """Add a job for a worker's first rescue, so that a test can wait until that rescue is over."""
    job_id = table.add("of another worker")
    table.change(job_id, "state = 'executing', attempt = 1, worker_id = 0")
    return job_id


async def test_a_worker_whose_row_is_gone_stops_its_jobs_and_registers_anew(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    sleeper = Sleeper()
    registry.register("sleep", sleeper)
    job_id = table.add("sleep")
    async with working(make_worker(heartbeat_interval=0.05, orphan_reaper_interval=0.05)):
        await eventually(lambda: sleeper.started == 1)
        [before] = table.workers()
        table.rows("delete from roost.workers")
        await eventually(lambda: table.get(job_id).state == "completed")
        [after] = table.workers()
    assert after > before
    assert sleeper.interrupted == 1
    done = table.get(job_id)
    assert (done.result, done.attempt) == ("again", 2)
    assert [error["error"].split(":")[0] for error in done.errors] == ["WorkerCrash"]


async def test_an_attempt_without_its_lease_gets_no_verdict(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    sleeper = Sleeper()
    registry.register("sleep", sleeper)
    job_id = table.add("sleep", timeout_seconds=50)
    orphan = add_orphan(table)
    async with working(make_worker(heartbeat_interval=0.05, orphan_reaper_interval=100)):
        await eventually(lambda: sleeper.started == 1)
        await eventually(lambda: table.get(orphan).state == "retryable")  # the first rescue
        table.rows("delete from roost.workers")
        await eventually(lambda: sleeper.interrupted == 1 and len(table.workers()) == 1)
    # No worker has rescued it, and the worker that ran it no longer had its lease.
    left = table.get(job_id)
    assert (left.state, left.attempt, left.errors) == ("executing", 1, [])


async def test_a_stop_after_the_leases_are_lost_releases_no_job(
    dsn: str, table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    sleeper = Sleeper()
    registry.register("sleep", sleeper)
    job_id = table.add("sleep")
    orphan = add_orphan(table)
    with JobTable(dsn) as holder, holder.connection.transaction():
        async with working(make_worker(heartbeat_interval=0.05, orphan_reaper_interval=100)):
            await eventually(lambda: sleeper.started == 1)
            await eventually(lambda: table.get(orphan).state == "retryable")  # the first rescue
            # A stop revokes the outstanding credit.
            await eventually(lambda: table.value("select credit from roost.workers") is not None)
            # No worker can register until the transaction ends: this locks the ids of the rows.
            await to_thread.run_sync(holder.rows, "alter sequence roost.workers_id_seq no cycle")
            table.rows("delete from roost.workers")
            await eventually(lambda: sleeper.interrupted == 1)
        left = table.get(job_id)
    assert (left.state, left.attempt, left.errors) == ("executing", 1, [])


async def test_a_worker_that_cannot_renew_in_time_stops_its_jobs_for_a_rescue(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    sleeper = Sleeper()
    registry.register("sleep", sleeper)
    job_id = table.add("sleep")
    worker = make_worker(heartbeat_interval=0.1, orphan_stale_after=0.5, orphan_reaper_interval=100)
    orphan = add_orphan(table)
    async with working(worker):
        await eventually(lambda: sleeper.started == 1)
        await eventually(lambda: table.get(orphan).state == "retryable")  # the first rescue
        [before] = table.workers()
        with table.connection.transaction():
            # With its row locked, the worker can't renew it, and no rescue can expire it.
            table.rows("select id from roost.workers for update")
            await eventually(lambda: sleeper.interrupted == 1)
            assert table.get(job_id).state == "executing"
        # It registers anew: with its old row, the job would seem to be held.
        await eventually(lambda: table.workers() not in ([], [before]))
        with table.connection.transaction():
            rescued = table.run(rescue_jobs(limit=10, error_cap=20))
        assert [job.job_id for job in rescued] == [job_id]
        await eventually(lambda: table.get(job_id).state == "completed")
    assert table.get(job_id).result == "again"


async def test_a_claim_answered_after_the_worker_expired_starts_no_job(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    ran: list[int] = []

    @job("work", registry=registry)
    async def work() -> None:
        ran.append(1)

    async with working(make_worker(heartbeat_interval=0.1, poll_interval=0.05)):
        for _ in range(20):
            table.add("work")
            table.rows("delete from roost.workers")
            await eventually(lambda: len(table.workers()) == 1)
        await eventually(
            lambda: table.value("select count(*) from roost.jobs where state = 'available'") == 0
        )
    table.rows("delete from roost.workers")
    # Each job that ran is written; the others wait for a rescue.
    assert table.states().get("completed", 0) == len(ran)


async def test_a_worker_keeps_its_leases_while_everything_else_waits_for_a_lock(
    dsn: str, table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    sleeper = Sleeper()
    registry.register("sleep", sleeper)

    gate = anyio.Event()

    @job("short", registry=registry)
    async def short() -> None:
        await gate.wait()

    job_id, orphan = table.add("sleep"), add_orphan(table)
    table.add("short")
    worker = make_worker(
        heartbeat_interval=0.1,
        orphan_stale_after=1.5,
        orphan_reaper_interval=0.05,
        poll_interval=0.05,
    )
    async with working(worker):
        await eventually(lambda: sleeper.started == 1)
        await eventually(lambda: table.get(orphan).state == "retryable")
        [before] = table.workers()
        with JobTable(dsn) as holder, holder.connection.transaction():
            # As `create index` does. In a thread: the worker may be in a transaction.
            await to_thread.run_sync(holder.rows, "lock table roost.jobs in share mode")
            gate.set()
            # A claim, a rescue and a settle wait for it, each on a connection.
            await eventually(lambda: waiting_for_a_lock(table) >= 3)
            await anyio.sleep(3)  # sleeps: twice as long as the worker may be silent
        assert (sleeper.started, sleeper.interrupted) == (1, 0)
        assert table.workers() == [before]
        table.run(cancel_job(job_id))
        await eventually(lambda: sleeper.interrupted == 1)
    assert table.get(job_id).errors == []


def waiting_for_a_lock(table: JobTable) -> int:
    """Return how many of the worker's statements wait for a lock."""
    waiting: int = table.value(
        "select count(*) from pg_stat_activity where datname = current_database()"
        " and application_name like 'roost worker %' and wait_event_type = 'Lock'"
    )
    return waiting


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
async def test_a_handler_in_a_transaction_ends_with_the_lease_when_the_database_is_silent(
    proxied: Proxied,
    table: JobTable,
    registry: HandlerRegistry,
    driver: str,
    anyio_backend_name: str,
) -> None:
    if (driver, anyio_backend_name) == ("asyncpg", "trio"):
        pytest.skip("asyncpg is asyncio's only")
    ended: list[float] = []
    async with proxied() as (proxy, through), AsyncRoost(through, driver=driver) as roost:

        @job("transact", registry=registry)
        async def transact() -> None:
            try:
                async with roost.transaction() as connection:
                    await connection.execute("select 1")
                    proxy.swallow()
                    await connection.execute("select 1")
            finally:
                ended.append(anyio.current_time())

        table.add("transact")
        worker = Worker(
            through,
            registry=registry,
            driver=driver,
            heartbeat_interval=0.4,
            orphan_stale_after=2,
            shutdown_timeout=0,
        )
        async with anyio.create_task_group() as group:
            await group.start(worker.run)
            began = anyio.current_time()
            await eventually(lambda: bool(ended))
            # The lease of 2 s, and room for a loaded machine; a rollback was waited for 5 s more.
            assert ended[0] - began < 5
            worker.request_stop()
            worker.request_stop()


async def test_the_loss_of_the_leases_is_logged_once(
    table: JobTable, make_worker: MakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    async with working(make_worker(heartbeat_interval=0.1, orphan_stale_after=0.5)):
        [before] = table.workers()
        with table.connection.transaction():
            table.rows("select id from roost.workers for update")
            await anyio.sleep(1.5)  # sleeps: it was logged ten times a second
        await eventually(lambda: table.workers() not in ([], [before]))
    logged = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert sum("have run out" in message for message in logged) == 1


async def test_long_jobs_of_a_live_worker_are_not_rescued(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    runs: list[int] = []

    @job("long", registry=registry)
    async def long() -> None:
        runs.append(1)
        await anyio.sleep(4)  # sleeps: twice as long as a worker may be silent

    job_id = table.add("long")
    often = {
        "heartbeat_interval": 0.1,
        "orphan_stale_after": 2,
        "orphan_reaper_interval": 0.05,
    }
    async with working(make_worker(**often), make_worker(**often)):
        await eventually(lambda: table.get(job_id).state == "completed")
    assert runs == [1]
    assert (table.get(job_id).attempt, table.get(job_id).errors) == (1, [])
