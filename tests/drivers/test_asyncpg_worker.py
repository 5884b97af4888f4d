"""Client and worker run every feature on asyncpg, with the same SQL and operations."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import (
    AsyncRoost,
    CancelJob,
    DuplicateUniqueJobError,
    HandlerRegistry,
    InvalidSettingError,
    JobFailed,
    JobInsert,
    JobNotFoundError,
    SnoozeJob,
    Worker,
    cron,
    current_job,
    job,
)

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="asyncio+uvloop"),
        pytest.param(("trio", {}), id="trio", marks=pytest.mark.skip("asyncpg is asyncio's only")),
    ],
)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    """Run each test on the loops of asyncio."""
    backend: tuple[str, dict[str, object]] = request.param
    return backend


@pytest.fixture
async def client(dsn: str, registry: HandlerRegistry) -> AsyncIterator[AsyncRoost]:
    """Yield a client on asyncpg."""
    async with AsyncRoost(dsn, registry=registry, driver="asyncpg") as client:
        yield client


@pytest.fixture
def make_worker(client: AsyncRoost) -> Callable[..., Worker]:
    """Return a function that makes a worker of the given options, on the client's driver."""

    def make(**options: Any) -> Worker:
        worker = client.worker(**options)
        assert worker._driver.name == "asyncpg"
        return worker

    return make


async def test_a_dsn_chooses_asyncpg_for_client_and_worker(
    dsn: str, table: JobTable, registry: HandlerRegistry
) -> None:
    @job("add", registry=registry)
    async def add(a: int, b: int) -> int:
        await anyio.lowlevel.checkpoint()
        return a + b

    named = dsn.replace("postgresql://", "postgresql+asyncpg://")
    async with AsyncRoost(named, registry=registry) as client:
        await client.setup_schema()
        job_id = await client.enqueue(add, args={"a": 2, "b": 3})
        async with working(Worker(named, registry=registry)):
            outcome = await client.wait_for(job_id, poll_interval=30)
        assert (outcome.state, outcome.result) == ("completed", 5)
        async with client.transaction() as conn:
            assert type(conn).__module__.startswith("asyncpg")


async def test_the_schema_is_made(empty_dsn: str, registry: HandlerRegistry) -> None:
    async with AsyncRoost(empty_dsn, registry=registry, driver="asyncpg") as client:
        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(client.setup_schema)
        await client.enqueue("work")


async def test_every_field_of_a_job_comes_back(client: AsyncRoost, table: JobTable) -> None:
    parent = await client.enqueue("parent")
    job_id = await client.enqueue(
        "work",
        args={"text": "grüß 🐓", "none": None},
        queue="q",
        priority=-3,
        max_attempts=7,
        unique_key="k",
        tags=["a", "b"],
        timeout_seconds=9,
        depends_on=[parent],
        metadata={"trace": 1},
    )
    job = await client.get(job_id)
    assert job == table.get(job_id)
    assert job.scheduled_at.tzinfo is not None
    with pytest.raises(DuplicateUniqueJobError) as refusal:
        await client.enqueue("work", unique_key="k")
    assert refusal.value.existing_id == job_id
    assert await client.enqueue_many([JobInsert("work", unique_key=key) for key in "klm"]) == 3
    assert table.value("select count(*) from roost.jobs") == 4
    with pytest.raises(JobNotFoundError):
        await client.get(10**15)


async def test_retries_snoozes_and_discards(
    client: AsyncRoost, table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    seen: list[str] = []

    @job("uneven", registry=registry)
    def uneven(kind: str) -> str:
        seen.append(kind)
        if kind == "bad" or seen.count(kind) == 1:
            raise SnoozeJob(0) if kind == "sleepy" else ValueError("on \0 purpose")
        return kind

    jobs = {
        kind: await client.enqueue(uneven, args={"kind": kind}, max_attempts=2)
        for kind in ("bad", "sleepy", "second time")
    }
    async with working(make_worker(retry_strategy=lambda attempt: 0.01, poll_interval=0.05)):
        with pytest.raises(JobFailed, match="on"):
            await client.wait_for(jobs["bad"])
        for kind in ("sleepy", "second time"):
            assert (await client.wait_for(jobs[kind])).result == kind
    assert [table.get(job_id).attempt for job_id in jobs.values()] == [2, 1, 2]
    assert [len(table.get(job_id).errors) for job_id in jobs.values()] == [2, 0, 1]


async def test_a_running_job_is_cancelled_at_once(
    client: AsyncRoost, table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    started = anyio.Event()

    @job("long", registry=registry)
    async def long() -> None:
        started.set()
        await anyio.sleep_forever()

    job_id = await client.enqueue(long)
    async with working(make_worker(poll_interval=30)):
        await started.wait()
        with anyio.fail_after(10):
            await client.cancel(job_id)
            outcome = await client.wait_for(job_id, poll_interval=30, raise_on_failure=False)
    assert outcome.state == "cancelled"
    await client.retry(job_id)
    assert (await client.get(job_id)).state == "available"


async def test_dependents_wait_for_their_parent_and_are_cancelled_with_it(
    client: AsyncRoost, table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    order: list[str] = []

    @job("step", registry=registry)
    async def step(name: str) -> None:
        order.append(name)
        if name == "bad":
            raise ValueError

    good = await client.enqueue(step, args={"name": "good"}, priority=5)
    child = await client.enqueue(step, args={"name": "child"}, depends_on=[good])
    bad = await client.enqueue(step, args={"name": "bad"}, max_attempts=1)
    fallen = await client.enqueue(step, args={"name": "fallen"}, depends_on=[bad, good])
    assert await make_worker().run_once() == 3
    assert order == ["bad", "good", "child"]
    assert (await client.get(child)).state == "completed"
    assert (await client.get(fallen)).state == "cancelled"


async def test_limits_hold(
    client: AsyncRoost, table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    running = peak = 0

    @job("one at a time", max_concurrency=1, registry=registry)
    async def alone() -> None:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await anyio.sleep(0.005)
        running -= 1

    @job("rare", rate_per_minute=3, registry=registry)
    async def rare() -> None: ...

    await client.enqueue_many([JobInsert("one at a time"), JobInsert("rare")] * 5)
    async with working(make_worker(concurrency=5), make_worker(concurrency=5)):
        await eventually(lambda: table.states().get("completed") == 8)
    assert peak == 1
    assert table.states() == {"completed": 8, "available": 2}


async def test_cron_fires_and_is_listed(
    client: AsyncRoost, table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @cron("0 3 * * *", name="nightly", timezone="Europe/Berlin", handler_registry=registry)
    async def nightly() -> str:
        return "done"

    async with working(make_worker()):
        await eventually(lambda: table.value("select count(*) from roost.cron") == 1)
        job_id = await client.run_cron_now("nightly")
        assert (await client.wait_for(job_id)).result == "done"
        [entry] = await client.list_cron()
        assert entry.name == "nightly"
        await client.pause_cron("nightly")
        assert [worker.name for worker in await client.list_workers()]


async def test_queues_pause_and_finished_jobs_are_archived(
    client: AsyncRoost, table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("work", registry=registry)
    async def work() -> int:
        return 7

    job_id = await client.enqueue(work)
    await client.pause_queue("default")
    assert [queue.name for queue in await client.list_queues()] == ["default"]
    assert await make_worker().run_once() == 0
    await client.resume_queue("default")
    async with working(make_worker(archive_after_seconds=0, archive_interval=0.05)):
        assert (await client.wait_for(job_id)).result == 7
        await eventually(lambda: table.value("select count(*) from roost.jobs") == 0)
    assert (await client.get(job_id)).result == 7


async def test_a_stop_hands_running_jobs_back(
    client: AsyncRoost, table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    started = anyio.Event()

    @job("long", registry=registry)
    async def long() -> None:
        started.set()
        await anyio.sleep_forever()

    job_id = await client.enqueue(long)
    async with working(make_worker(shutdown_timeout=0.01)):
        await started.wait()
    assert (table.get(job_id).state, table.get(job_id).attempt) == ("available", 0)
    assert table.workers() == []
    await eventually(lambda: table.connections("roost worker %") == 0)
    await eventually(lambda: table.connections("roost listen %") == 0)


async def test_a_worker_survives_the_loss_of_its_connections(
    client: AsyncRoost, table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    runs: dict[int, int] = {}

    @job("work", registry=registry)
    async def work(n: int) -> None:
        runs[n] = runs.get(n, 0) + 1
        if n % 10 == 0:
            table.rows(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database()"
                " and application_name similar to 'roost (worker|listen) %'"
            )

    async with working(make_worker(concurrency=3, poll_interval=0.1, listen_reconnect_delay=0.01)):
        for n in range(50):
            await client.enqueue(work, args={"n": n})
        with anyio.fail_after(60):
            await eventually(lambda: table.states() == {"completed": 50}, within=60)
        # No poll is due this soon, so the cancel came through the reopened listening connection.
        await eventually(lambda: table.connections("roost listen %") == 1)
    assert runs == dict.fromkeys(range(50), 1)


async def test_a_cancelled_client_leaves_no_connection(dsn: str, table: JobTable) -> None:
    client = AsyncRoost(dsn, driver="asyncpg")
    for milliseconds in range(20):
        with anyio.move_on_after(milliseconds / 1000):
            await client.enqueue("work")
    await client.close()
    await eventually(lambda: table.connections("roost") == 0)


@pytest.mark.parametrize("anyio_backend", ["trio"])
class TestUnderTrio:
    """Under trio the first use raises a clear error, and nothing hangs."""

    async def test_a_client_refuses(self, dsn: str) -> None:
        client = AsyncRoost(dsn, driver="asyncpg")
        with pytest.raises(InvalidSettingError, match=r"asyncio only.*driver='psycopg'"):
            await client.enqueue("work")
        with pytest.raises(InvalidSettingError, match="asyncio only"):
            async with client.transaction():
                pytest.fail("a transaction on trio")
        await client.close()

    async def test_a_worker_refuses(self, dsn: str, registry: HandlerRegistry) -> None:
        with pytest.raises(InvalidSettingError, match=r"asyncio only.*driver='psycopg'"):
            await Worker(dsn, registry=registry, driver="asyncpg").run()

    async def test_a_dsn_for_asyncpg_works_with_psycopg_too(
        self, dsn: str, registry: HandlerRegistry
    ) -> None:
        named = dsn.replace("postgresql://", "postgresql+asyncpg://")
        async with AsyncRoost(named, driver="psycopg") as client:
            await client.enqueue("work")


async def test_a_handler_reports_its_progress_and_decides_about_its_job(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, client: AsyncRoost
) -> None:
    seen: list[Any] = []

    @job("report", registry=registry)
    async def report() -> None:
        running = current_job()
        await running.progress(1, total=2)
        await running.update_metadata({"ü": ["\\", None]})
        seen.append((await client.get(running.id)).metadata)
        running.progress_nowait(2)
        raise CancelJob("not wanted")

    job_id = table.add("report", metadata={"trace": 1})
    await make_worker().run_once()
    progress = {"value": 1, "total": 2, "message": None}
    assert seen == [{"trace": 1, "progress": progress, "ü": ["\\", None]}]
    after = table.get(job_id)
    assert (after.state, after.errors[0]["error"]) == ("cancelled", "CancelJob: not wanted")
    assert after.metadata["progress"] == {"value": 2, "total": None, "message": None}
