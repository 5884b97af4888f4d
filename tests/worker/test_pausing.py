"""After `pause_queue` has returned, no job of the queue starts on any worker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working
from tests.worker.conftest import dispatch_job

from roost import (
    AsyncRoost,
    HandlerRegistry,
    Hooks,
    Job,
    JobInsert,
    PauseNotConfirmedError,
    Roost,
    Worker,
    job,
)
from roost._ops.claim import Claimed
from roost._worker import prefetch as prefetch_module
from roost._worker.claimer import Claimer
from roost._worker.lanes.control import PauseLane

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]
QUEUE = "default"


@pytest.fixture
def started(registry: HandlerRegistry) -> list[int]:
    """Register ``work``, which ends at once, and return the ids of its jobs that have started."""
    started: list[int] = []

    @job("work", registry=registry)
    async def work(job: Job) -> None:
        started.append(job.id)

    return started


@pytest.fixture
def gate(registry: HandlerRegistry) -> anyio.Event:
    """Register ``stuck`` and return the event that its jobs wait for."""
    gate = anyio.Event()

    @job("stuck", registry=registry)
    async def stuck() -> None:
        await gate.wait()

    return gate


@asynccontextmanager
async def paused(client: AsyncRoost, table: JobTable, started: list[int]) -> AsyncIterator[None]:
    """Pause the queue, and check at the end of the block that no job has started in it."""
    await client.pause_queue(QUEUE)
    before = list(started)
    yield
    await anyio.sleep(0.2)  # sleeps: a job that was wrongly let through would start
    assert started == before
    assert (
        table.value("select count(*) from roost.jobs where attempt > 0 and state = 'available'")
        == 0
    )


async def test_prefetched_jobs_of_a_paused_queue_are_released_with_their_attempt(
    table: JobTable,
    client: AsyncRoost,
    make_worker: MakeWorker,
    started: list[int],
    gate: anyio.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prefetch_module, "MAX_PREFETCH_WAIT", 60.0)
    table.add("stuck", priority=-1)
    table.add_all([JobInsert("work", max_attempts=1)] * 5)
    async with working(make_worker(concurrency=1, prefetch=5, poll_interval=30)):
        await eventually(lambda: table.states() == {"executing": 6})
        async with paused(client, table, started):
            assert table.states() == {"executing": 1, "available": 5}
            gate.set()
            await eventually(lambda: table.states() == {"completed": 1, "available": 5})
        await client.resume_queue(QUEUE)
        await eventually(lambda: table.states() == {"completed": 6})


async def test_jobs_of_a_claim_in_flight_are_released_by_a_pause(
    table: JobTable,
    client: AsyncRoost,
    make_worker: MakeWorker,
    started: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    claim, go_on = Claimer.claim, anyio.Event()

    async def late(claims: Claimer, limit: int, **options: Any) -> Claimed:
        claimed = await claim(claims, limit, **options)
        if claimed.jobs:
            await go_on.wait()  # its answer has not arrived
        return claimed

    monkeypatch.setattr(Claimer, "claim", late)
    async with working(make_worker(poll_interval=30)):
        table.add_all([JobInsert("work", max_attempts=1)] * 3)
        await eventually(lambda: table.states() == {"executing": 3})
        async with paused(client, table, started):
            go_on.set()
            await eventually(lambda: table.states() == {"available": 3})
        await client.resume_queue(QUEUE)
        await eventually(lambda: table.states() == {"completed": 3})


async def test_a_dispatched_job_of_a_paused_queue_is_released(
    table: JobTable, client: AsyncRoost, make_worker: MakeWorker, started: list[int]
) -> None:
    async with working(make_worker(poll_interval=0.1)):
        await eventually(lambda: table.value("select credit from roost.workers") is not None)
        async with paused(client, table, started):
            # As an enqueue that consumes the credit before the pause and commits after it.
            job_id = dispatch_job(table, "work")
            await eventually(lambda: table.get(job_id).state == "available")
        await client.resume_queue(QUEUE)
        await eventually(lambda: table.get(job_id).state == "completed")


async def test_a_job_whose_hook_still_runs_is_released_by_a_pause(
    table: JobTable, client: AsyncRoost, make_worker: MakeWorker, started: list[int]
) -> None:
    hooked, go_on = anyio.Event(), anyio.Event()

    async def before(_: Job, *, ctx: dict[str, Any]) -> None:
        hooked.set()
        await go_on.wait()

    job_id = table.add("work", max_attempts=1)
    async with working(make_worker(hooks=Hooks(before_job=before))):
        await hooked.wait()
        async with paused(client, table, started):
            go_on.set()
            await eventually(lambda: table.get(job_id).state == "available")
        await client.resume_queue(QUEUE)
        await eventually(lambda: table.get(job_id).state == "completed")
        assert table.get(job_id).attempt == 1


async def test_workers_that_do_not_listen_confirm_a_pause(
    table: JobTable, client: AsyncRoost, make_worker: MakeWorker, started: list[int]
) -> None:
    async with working(make_worker(listen_reconnect_delay=30, poll_interval=0.05)):
        table.rows(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and application_name like 'roost listen %'"
        )
        await eventually(lambda: table.connections("roost listen %") == 0)
        async with paused(client, table, started):
            table.add("work")
        await client.resume_queue(QUEUE)
        await eventually(lambda: len(started) == 1)


async def test_a_stopping_worker_confirms_a_pause_while_its_jobs_end(
    table: JobTable,
    client: AsyncRoost,
    make_worker: MakeWorker,
    started: list[int],
    gate: anyio.Event,
) -> None:
    worker = make_worker(concurrency=1)
    table.add("stuck")
    async with working(worker):
        await eventually(lambda: table.states() == {"executing": 1})
        worker.request_stop()
        async with paused(client, table, started):
            gate.set()


async def test_a_new_incarnation_confirms_the_pauses_that_it_finds(
    table: JobTable, client: AsyncRoost, make_worker: MakeWorker, started: list[int]
) -> None:
    await client.pause_queue(QUEUE)
    async with working(make_worker(heartbeat_interval=0.1)):
        await client.pause_queue(QUEUE)
        [first] = table.workers()
        table.rows("delete from roost.workers")
        await eventually(lambda: table.workers() not in ([], [first]))
        async with paused(client, table, started):
            table.add("work")


async def test_the_error_names_workers_that_have_not_confirmed_a_pause(
    table: JobTable, client: AsyncRoost, dsn: str
) -> None:
    table.add_worker("frozen")
    table.add_worker("expired", stale_after=-1)
    table.add_worker("elsewhere", queues=["other"])
    for pause in (client.pause_queue, in_a_thread(dsn)):
        with pytest.raises(PauseNotConfirmedError, match="frozen") as caught:
            await pause(QUEUE, timeout=0.05)
        assert (caught.value.queue, caught.value.workers) == (QUEUE, ["frozen"])
        assert table.value("select paused_at from roost.queues") is not None
    await client.pause_queue("unknown")


async def test_a_job_that_pauses_its_own_queue_is_the_last_of_a_drain(
    table: JobTable, client: AsyncRoost, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    ran: list[int] = []

    @job("last", registry=registry)
    async def last(job: Job) -> None:
        ran.append(job.id)
        await client.pause_queue(QUEUE)

    first, *_ = table.add_all([JobInsert("last", max_attempts=1)] * 5)
    await make_worker(concurrency=1, prefetch=3).run_once()
    assert ran == [first]
    assert table.states() == {"completed": 1, "available": 4}
    assert table.value("select max(attempt) from roost.jobs where state = 'available'") == 0


async def test_a_resume_that_is_read_late_costs_no_start_of_a_rate(
    table: JobTable,
    client: AsyncRoost,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[int] = []

    @job("rated", rate_per_minute=1, registry=registry)
    async def rated(job: Job) -> None:
        started.append(job.id)

    read, reads = PauseLane.once, anyio.Event()

    async def late(lane: PauseLane) -> None:
        if client_resumed:
            await reads.wait()
        await read(lane)

    client_resumed = False
    monkeypatch.setattr(PauseLane, "once", late)
    async with working(make_worker(poll_interval=0.02)):
        await client.pause_queue(QUEUE)
        job_id = table.add("rated")
        client_resumed = True
        await client.resume_queue(QUEUE)
        await anyio.sleep(0.2)  # sleeps: ten times as long as a poll, which finds the job
        assert table.value("select count(*) from roost.starts") == 0
        reads.set()
        await eventually(lambda: started == [job_id])


async def test_no_job_starts_while_its_queue_is_paused_again_and_again(
    table: JobTable,
    client: AsyncRoost,
    dsn: str,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
    started: list[int],
) -> None:
    @job("chain", registry=registry)
    async def chain(job: Job) -> None:
        started.append(job.id)
        await client.enqueue("chain")

    table.add_all([JobInsert("chain")] * 40)
    workers = [make_worker(concurrency=4), make_worker(concurrency=2, prefetch=10)]
    async with working(*workers):
        for pause in (client.pause_queue, in_a_thread(dsn)) * 5:
            started.clear()
            await eventually(lambda: len(started) > 20)
            await pause(QUEUE)
            started.clear()
            await anyio.sleep(0.05)  # sleeps: a job that was wrongly let through would start
            assert started == []
            await client.resume_queue(QUEUE)
        await client.pause_queue(QUEUE)
    assert table.value("select count(*) from roost.jobs where state = 'executing'") == 0
    assert table.value("select max(attempt) from roost.jobs where state = 'completed'") == 1


def in_a_thread(dsn: str) -> Callable[..., Any]:
    """Return `Roost.pause_queue` as an async function."""

    async def pause(queue: str, *, timeout: float = 10.0) -> None:
        def call() -> None:
            with Roost(dsn) as client:
                client.pause_queue(queue, timeout=timeout)

        await anyio.to_thread.run_sync(call)

    return pause
