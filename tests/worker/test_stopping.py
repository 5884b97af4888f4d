"""Every way to end a worker is an ordered stop: no job is lost, and no attempt is used."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import anyio
import anyio.abc
import anyio.from_thread
import pytest
import trio
from anyio import to_thread
from anyio.lowlevel import checkpoint
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import (
    DatabaseError,
    DatabaseUnavailableError,
    HandlerRegistry,
    JobInsert,
    Worker,
    job,
)
from roost._ops.claim import Claimed
from roost._ops.workers import release_unheld
from roost._worker import claimer
from roost._worker.claimer import Claimer
from roost._worker.running_job import Reason, RunningJob

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]


class Jobs:
    """Handlers that are at different stages when the worker stops."""

    def __init__(self, registry: HandlerRegistry) -> None:
        self.started = 0
        self.interrupted = 0
        self.go_on = anyio.Event()
        registry.register("endless", self.endless)
        registry.register("ends", self.ends)
        registry.register("quick", self.quick)

    async def endless(self) -> None:
        self.started += 1
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            self.interrupted += 1
            raise

    async def ends(self) -> str:
        """Wait until the stop has begun, and return within the grace."""
        self.started += 1
        await self.go_on.wait()
        return "in time"

    async def quick(self) -> None:
        await checkpoint()


@pytest.fixture
def jobs(registry: HandlerRegistry) -> Jobs:
    return Jobs(registry)


def was_released(table: JobTable, *ids: int) -> bool:
    return all(
        (row.state, row.attempt, row.errors) == ("available", 0, [])
        for row in (table.get(job_id) for job_id in ids)
    )


async def test_start_returns_when_the_worker_is_ready(
    table: JobTable, jobs: Jobs, make_worker: MakeWorker
) -> None:
    worker = make_worker()
    async with anyio.create_task_group() as group:
        await group.start(worker.run)
        assert len(table.workers()) == 1
        worker.request_stop()
    assert table.workers() == []


async def test_a_requested_stop_gives_running_jobs_their_grace(
    table: JobTable, jobs: Jobs, make_worker: MakeWorker
) -> None:
    finishing, endless = table.add("ends"), table.add("endless")
    worker = make_worker(concurrency=2, shutdown_timeout=4.0, prefetch=5)
    waiting = [table.add("endless", priority=1) for _ in range(3)]
    async with working(worker):
        await eventually(lambda: jobs.started == 2)
        worker.request_stop()
        # Jobs that had not started are released before the grace ends.
        await eventually(lambda: was_released(table, *waiting), within=3.5)
        jobs.go_on.set()
        await eventually(lambda: table.get(finishing).state == "completed", within=3.5)
    assert table.get(finishing).result == "in time"
    assert was_released(table, endless)
    assert jobs.interrupted == 1
    assert jobs.started == 2


async def test_a_second_request_ends_the_grace_at_once(
    table: JobTable, jobs: Jobs, make_worker: MakeWorker
) -> None:
    endless = table.add("endless")
    worker = make_worker(shutdown_timeout=1000)
    with anyio.fail_after(5):
        async with working(worker):
            await eventually(lambda: jobs.started == 1)
            worker.request_stop()  # and a second time at the end of the block
    assert was_released(table, endless)


@pytest.mark.parametrize("way", ["run", "run_once"])
@pytest.mark.parametrize("requests", [1, 2])
async def test_a_stop_requested_before_a_run_ends_only_that_run(
    table: JobTable, jobs: Jobs, make_worker: MakeWorker, way: str, requests: int
) -> None:
    job_id = table.add("quick")
    worker = make_worker()
    for _ in range(requests):
        worker.request_stop()
    await getattr(worker, way)()
    assert was_released(table, job_id)
    assert table.workers() == []
    assert await worker.run_once() == 1


async def test_a_stop_requested_before_the_first_step_is_not_lost(
    table: JobTable, jobs: Jobs, make_worker: MakeWorker
) -> None:
    job_id = table.add("quick")
    worker = make_worker()
    async with anyio.create_task_group() as group:
        group.start_soon(worker.run)
        worker.request_stop()
    assert was_released(table, job_id)
    async with working(worker):
        await eventually(lambda: table.get(job_id).state == "completed")


async def test_a_stop_requested_before_the_first_step_does_not_block_start(
    table: JobTable, jobs: Jobs, make_worker: MakeWorker
) -> None:
    worker = make_worker()
    worker.request_stop()
    async with anyio.create_task_group() as group:
        await group.start(worker.run)


@pytest.mark.parametrize("first", ["task", "scope"])
async def test_a_second_cancel_ends_the_grace(
    table: JobTable, jobs: Jobs, make_worker: MakeWorker, anyio_backend_name: str, first: str
) -> None:
    if anyio_backend_name == "trio":
        pytest.skip("trio has no cancel of a task")
    endless = table.add("endless")
    scope = anyio.CancelScope()

    async def run() -> None:
        with scope:
            await make_worker(shutdown_timeout=1000).run()

    task = asyncio.create_task(run())
    await eventually(lambda: jobs.started == 1)
    if first == "task":
        task.cancel()
    else:
        scope.cancel()
    await anyio.sleep(0.2)  # sleeps: the worker gives no sign that it has received the first cancel
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 5)
    assert task.cancelled()
    assert was_released(table, endless)
    assert table.workers() == []


async def test_three_cancels_leave_no_lease_or_connection(
    table: JobTable, jobs: Jobs, make_worker: MakeWorker, anyio_backend_name: str
) -> None:
    if anyio_backend_name == "trio":
        pytest.skip("trio has no cancel of a task")
    endless = table.add("endless")
    task = asyncio.create_task(make_worker(shutdown_timeout=1000).run())
    await eventually(lambda: jobs.started == 1)
    for _ in range(3):
        task.cancel()
        await checkpoint()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 5)
    assert was_released(table, endless)
    assert table.workers() == []


async def test_a_callback_of_the_event_loop_may_request_the_stop(
    make_worker: MakeWorker, table: JobTable, jobs: Jobs, anyio_backend_name: str
) -> None:
    job_id = table.add("endless")
    worker = make_worker(shutdown_timeout=0)
    async with anyio.create_task_group() as group:
        await group.start(worker.run)
        await eventually(lambda: jobs.started == 1)
        if anyio_backend_name == "trio":
            trio.lowlevel.current_trio_token().run_sync_soon(worker.request_stop)
        else:
            asyncio.get_running_loop().call_soon(worker.request_stop)
    assert was_released(table, job_id)


async def test_without_grace_every_job_is_released_at_once(
    table: JobTable, jobs: Jobs, make_worker: MakeWorker
) -> None:
    ids = table.add_all([JobInsert("endless")] * 4)
    with anyio.fail_after(5):
        async with working(make_worker(shutdown_timeout=0)):
            await eventually(lambda: jobs.started == 4)
    assert was_released(table, *ids)


async def test_no_job_starts_after_a_stop_is_requested(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    worker = make_worker(concurrency=1, prefetch=20)
    ran: list[int] = []

    @job("stop", registry=registry)
    async def stop() -> None:
        if not ran:
            worker.request_stop()
        ran.append(1)

    table.add_all([JobInsert("stop")] * 50)
    await worker.run()
    assert len(ran) == 1
    assert table.states() == {"completed": 1, "available": 49}
    assert table.value("select max(attempt) from roost.jobs where state = 'available'") == 0


@pytest.mark.parametrize("way", ["run", "run_once"])
async def test_a_stop_releases_jobs_of_a_claim_whose_answer_was_lost(
    table: JobTable,
    jobs: Jobs,
    make_worker: MakeWorker,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    job_id = table.add("quick")
    worker = make_worker()
    claim = Claimer.claim

    async def lose(self: Claimer, limit: int, **options: Any) -> Claimed:
        claimed = await claim(self, limit, **options)
        assert [job.lease.job_id for job in claimed.jobs] == [job_id]
        worker.request_stop()
        raise DatabaseUnavailableError("the answer is lost")

    def fail_once(*_: object, **__: object) -> None:
        monkeypatch.setattr(claimer, "release_unheld", release_unheld)
        raise DatabaseUnavailableError("nor is it reached the first time")

    monkeypatch.setattr(Claimer, "claim", lose)
    monkeypatch.setattr(claimer, "release_unheld", fail_once)
    await getattr(worker, way)()
    left = table.get(job_id)
    assert (left.state, left.attempt, left.errors) == ("available", 0, [])
    assert table.workers() == []


async def test_a_cancel_of_an_outer_scope_is_an_ordered_stop(
    table: JobTable, jobs: Jobs, make_worker: MakeWorker
) -> None:
    finishing, endless = table.add("ends"), table.add("endless")
    async with anyio.create_task_group() as group:
        await group.start(make_worker(shutdown_timeout=0.3).run)
        await eventually(lambda: jobs.started == 2)
        group.cancel_scope.cancel()
        jobs.go_on.set()
    assert group.cancel_scope.cancelled_caught
    assert table.get(finishing).result == "in time"
    assert was_released(table, endless)
    assert table.workers() == []


async def test_a_deadline_of_an_outer_scope_is_an_ordered_stop(
    table: JobTable, jobs: Jobs, make_worker: MakeWorker
) -> None:
    endless = table.add("endless")
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            await group.start(make_worker(shutdown_timeout=0.1).run)
            await eventually(lambda: jobs.started == 1)
            scope.deadline = anyio.current_time() + 0.05
    assert scope.cancelled_caught
    assert jobs.interrupted == 1
    assert was_released(table, endless)


async def test_a_native_cancel_is_an_ordered_stop(
    table: JobTable,
    jobs: Jobs,
    make_worker: MakeWorker,
    anyio_backend_name: str,
) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("asyncio's own task.cancel()")
    finishing, endless = table.add("ends"), table.add("endless")
    task = asyncio.create_task(make_worker(shutdown_timeout=0.3).run())
    await eventually(lambda: jobs.started == 2)
    task.cancel()
    await checkpoint()
    jobs.go_on.set()
    await asyncio.wait([task])
    assert task.cancelled()
    assert table.get(finishing).result == "in time"
    assert was_released(table, endless)
    assert table.workers() == []


async def test_repeated_native_cancels_do_not_break_the_order(
    table: JobTable,
    jobs: Jobs,
    make_worker: MakeWorker,
    anyio_backend_name: str,
) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("asyncio's own task.cancel()")
    ids = table.add_all([JobInsert("endless")] * 4)
    task = asyncio.create_task(make_worker(shutdown_timeout=0.2).run())
    await eventually(lambda: jobs.started == 4)
    while not task.done():
        task.cancel()
        await anyio.sleep(0.01)
    assert task.cancelled()
    assert was_released(table, *ids)


async def test_a_stop_during_the_start_ends_it(
    table: JobTable, jobs: Jobs, make_worker: MakeWorker
) -> None:
    worker = make_worker(startup_max_retries=1000, startup_retry_delay=100)
    with table.connection.transaction(), JobTable(table.connection.raw.info.dsn) as eye:
        table.rows("lock table roost.migrations")
        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                group.start_soon(worker.run)
                await eventually(lambda: eye.connections("roost worker %") == 1)
                worker.request_stop()
    await eventually(lambda: table.connections("roost worker %") == 0)


async def test_a_crashed_lane_is_an_ordered_stop(
    table: JobTable, jobs: Jobs, make_worker: MakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    finishing, endless = table.add("ends"), table.add("endless")
    worker = make_worker(heartbeat_interval=0.05, shutdown_timeout=1)

    async def break_the_heartbeat() -> None:
        await eventually(lambda: jobs.started == 2)
        # In a thread: the worker may be in a transaction.
        broken = "alter table roost.workers drop column heartbeat_at"
        await to_thread.run_sync(table.script, broken)
        await eventually(lambda: any("worker crashed" in message for message in caplog.messages))
        jobs.go_on.set()

    async with anyio.create_task_group() as group:
        group.start_soon(break_the_heartbeat)
        with pytest.raises(DatabaseError, match="heartbeat_at") as caught:
            await worker.run()
    assert caught.value.sqlstate == "42703"
    assert table.get(finishing).result == "in time"
    assert was_released(table, endless)
    await eventually(lambda: table.connections("roost worker %") == 0)
    await eventually(lambda: table.connections("roost listen %") == 0)


async def test_a_sync_handler_is_waited_for_within_the_grace(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    started, go_on = threading.Event(), threading.Event()

    @job("blocking", registry=registry)
    def blocking() -> str:
        started.set()
        assert go_on.wait(timeout=10)
        return "in time"

    job_id = table.add("blocking")
    worker = make_worker(shutdown_timeout=5)
    async with working(worker):
        await eventually(started.is_set)
        worker.request_stop()
        go_on.set()
        await eventually(lambda: table.get(job_id).state == "completed")
    assert table.get(job_id).result == "in time"


async def test_a_sync_handler_that_checks_for_cancels_is_interrupted_and_released(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    started = threading.Event()

    @job("polite", registry=registry)
    def polite() -> None:
        started.set()
        while True:
            anyio.from_thread.check_cancelled()
            threading.Event().wait(0.005)

    job_id = table.add("polite")
    async with working(make_worker(shutdown_timeout=0.1)):
        await eventually(started.is_set)
    assert was_released(table, job_id)


async def test_a_sync_handler_that_does_not_end_keeps_its_lease(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    started, go_on = threading.Event(), threading.Event()

    @job("stuck", registry=registry)
    def stuck() -> None:
        started.set()
        go_on.wait(timeout=20)

    job_id = table.add("stuck")
    try:
        with anyio.fail_after(10):
            async with working(make_worker(shutdown_timeout=0.1)):
                await eventually(started.is_set)
        # Its end may not be recorded: it still runs, and is rescued when the lease expires.
        assert table.get(job_id).state == "executing"
    finally:
        go_on.set()


async def test_the_heartbeat_goes_on_during_the_grace(
    table: JobTable, jobs: Jobs, make_worker: MakeWorker
) -> None:
    table.add("endless")
    worker = make_worker(heartbeat_interval=0.05, shutdown_timeout=30)
    async with working(worker):
        await eventually(lambda: jobs.started == 1)
        worker.request_stop()
        before = table.value("select heartbeat_at from roost.workers")
        await eventually(lambda: table.value("select heartbeat_at from roost.workers") > before)


async def test_a_stopped_worker_leaves_no_connection(
    table: JobTable, jobs: Jobs, make_worker: MakeWorker
) -> None:
    table.add_all([JobInsert("quick")] * 100)
    async with working(make_worker()):
        await eventually(lambda: table.states() == {"completed": 100})
        assert table.connections("roost listen %") == 1
    await eventually(lambda: table.connections("roost %") == 1)


async def test_the_result_of_a_thread_that_ends_after_the_grace_is_kept(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    started, go_on = threading.Event(), threading.Event()

    @job("late", registry=registry)
    def late() -> str:
        started.set()
        assert go_on.wait(timeout=10)
        return "done"

    job_id = table.add("late")
    worker = make_worker(shutdown_timeout=0)
    async with working(worker):
        await eventually(started.is_set)
        worker.request_stop()
        await anyio.sleep(0.05)
        go_on.set()
    assert (table.get(job_id).state, table.get(job_id).result) == ("completed", "done")


async def test_a_sync_handler_that_is_cancelled_before_its_thread_starts_never_runs(
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran: list[int] = []
    worker = make_worker(shutdown_timeout=0)
    time_out_after = RunningJob.time_out_after

    def limit_and_stop(self: RunningJob, seconds: float) -> anyio.CancelScope:
        worker.request_stop()
        self.cancel(Reason.SHUTDOWN)
        return time_out_after(self, seconds)

    monkeypatch.setattr(RunningJob, "time_out_after", limit_and_stop)

    @job("sync", registry=registry)
    def sync() -> None:
        ran.append(1)

    job_id = table.add("sync", timeout_seconds=100)
    await worker.run()
    assert ran == []
    assert was_released(table, job_id)
