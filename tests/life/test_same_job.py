"""A job is claimed again by the worker in which its earlier attempt still runs: one at a time."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import anyio
import pytest
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import AsyncRoost, HandlerRegistry, Worker, current_job, job
from roost._worker.state import WorkerState

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]

OFTEN = {"heartbeat_interval": 0.05, "orphan_reaper_interval": 0.05, "poll_interval": 0.05}


class Attempts:
    """The attempts of a job that run, and the most that ran at once."""

    def __init__(self) -> None:
        self.running: list[int] = []
        self.started: list[int] = []
        self.ended: list[int] = []
        self.most = 0
        self._lock = threading.Lock()

    @contextmanager
    def one(self) -> Iterator[int]:
        attempt = current_job().attempt
        with self._lock:
            self.started.append(attempt)
            self.running.append(attempt)
            self.most = max(self.most, len(self.running))
        try:
            yield attempt
        finally:
            with self._lock:
                self.running.remove(attempt)
                self.ended.append(attempt)


def state_of(worker: Worker) -> WorkerState:
    assert worker._session is not None
    return worker._session.state


def parked(worker: Worker) -> int:
    return len(state_of(worker).slots._parked)


def is_leased_anew(table: JobTable, job_id: int) -> bool:
    return table.get(job_id).state == "executing" and table.column(job_id, "lease_no") == 2


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_thread_whose_lease_was_lost_ends_before_the_next_attempt_starts(
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
    concurrency: int,
) -> None:
    attempts, go_on = Attempts(), threading.Event()

    @job("work", registry=registry)
    def work() -> str:
        with attempts.one() as attempt:
            go_on.wait(20)
            return f"by {attempt}"

    @job("other", registry=registry)
    async def other() -> None: ...

    job_id = table.add()
    worker = make_worker(concurrency=concurrency, prefetch=1, **OFTEN)
    async with working(worker):
        await eventually(lambda: attempts.running == [1])
        table.rows("delete from roost.workers")
        await eventually(lambda: is_leased_anew(table, job_id))
        if concurrency == 2:
            # The thread holds one slot. The parked attempt has none, so the other slot is free.
            await eventually(lambda: parked(worker) == 1)
            assert len(state_of(worker).slots) == 1
            other_id = table.add("other")
            await eventually(lambda: table.get(other_id).state == "completed")
        assert attempts.started == [1]
        go_on.set()
        await eventually(lambda: table.get(job_id).state == "completed")
        await eventually(lambda: len(state_of(worker).slots) == 0)
    done = table.get(job_id)
    assert (attempts.most, attempts.started) == (1, [1, 2])
    assert (done.result, done.attempt) == ("by 2", 2)
    assert table.workers() == []


async def test_a_slow_clean_up_ends_before_the_next_attempt_starts(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    attempts, go_on = Attempts(), anyio.Event()

    @job("work", registry=registry)
    async def work() -> None:
        with attempts.one() as attempt:
            if attempt == 1:
                try:
                    await anyio.sleep_forever()
                finally:
                    with anyio.move_on_after(20, shield=True):
                        await go_on.wait()

    job_id = table.add()
    worker = make_worker(concurrency=2, **OFTEN)
    async with working(worker):
        await eventually(lambda: attempts.running == [1])
        table.rows("delete from roost.workers")
        await eventually(lambda: parked(worker) == 1)
        assert attempts.started == [1]
        go_on.set()
        await eventually(lambda: table.get(job_id).state == "completed")
    assert (attempts.most, attempts.started) == (1, [1, 2])
    assert table.get(job_id).attempt == 2


@asynccontextmanager
async def retried_while_it_runs(
    table: JobTable, worker: Worker, client: AsyncRoost, go_on: anyio.Event
) -> AsyncIterator[tuple[int, Attempts]]:
    """Yield a job and its attempts. It has completed itself, still runs, and was retried."""
    attempts = Attempts()

    @job("work", registry=worker._registry)
    async def work() -> None:
        with attempts.one() as attempt:
            if attempt == 1:
                async with client.transaction() as connection:
                    await client.complete_current_job(connection)
                await go_on.wait()

    job_id = table.add()
    async with working(worker):
        await eventually(lambda: table.get(job_id).state == "completed")
        assert await client.retry(job_id)
        await eventually(lambda: parked(worker) == 1)
        yield job_id, attempts


async def test_a_job_that_completed_itself_and_was_retried_waits_for_its_first_attempt(
    table: JobTable, client: AsyncRoost, make_worker: MakeWorker, registry: HandlerRegistry
) -> None:
    go_on = anyio.Event()
    worker = make_worker(**OFTEN)
    async with retried_while_it_runs(table, worker, client, go_on) as (job_id, attempts):
        assert attempts.started == [1]
        go_on.set()
        await eventually(lambda: table.get(job_id).state == "completed")
    assert (attempts.most, attempts.started) == (1, [1, 2])


async def test_a_parked_attempt_can_be_cancelled(
    table: JobTable, client: AsyncRoost, make_worker: MakeWorker, registry: HandlerRegistry
) -> None:
    go_on = anyio.Event()
    worker = make_worker(**OFTEN)
    async with retried_while_it_runs(table, worker, client, go_on) as (job_id, attempts):
        assert await client.cancel(job_id)
        await eventually(lambda: table.get(job_id).state == "cancelled")
        assert attempts.running == [1]
        go_on.set()
        await eventually(lambda: attempts.ended == [1])
    assert attempts.started == [1]


async def test_a_stop_releases_a_parked_attempt(
    table: JobTable, client: AsyncRoost, make_worker: MakeWorker, registry: HandlerRegistry
) -> None:
    go_on = anyio.Event()
    worker = make_worker(shutdown_timeout=10, **OFTEN)
    async with retried_while_it_runs(table, worker, client, go_on) as (job_id, attempts):
        worker.request_stop()
        await eventually(lambda: table.get(job_id).state == "available")
        assert attempts.running == [1]
        go_on.set()
    assert attempts.started == [1]
    assert table.get(job_id).attempt == 1  # the attempt that completed itself


async def test_a_parked_attempt_that_loses_its_lease_never_starts(
    table: JobTable, client: AsyncRoost, make_worker: MakeWorker, registry: HandlerRegistry
) -> None:
    go_on = anyio.Event()
    worker = make_worker(**OFTEN)
    async with retried_while_it_runs(table, worker, client, go_on) as (job_id, attempts):
        [before] = table.workers()
        table.rows("delete from roost.workers")
        await eventually(lambda: table.workers() not in ([], [before]))
        await eventually(lambda: table.get(job_id).state == "completed")
    # The first was interrupted, the second never began, the third ran.
    assert (attempts.most, attempts.started) == (1, [1, 3])
