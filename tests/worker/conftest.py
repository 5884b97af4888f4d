"""Workers on the test's database, with the test's registry."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest
from tests.support.job_table import JobTable
from tests.support.queue_load import Running

from roost import AsyncRoost, HandlerRegistry, Worker, job

_DISPATCH = """
with taken as (
    update roost.workers
    set credit = null,
        dispatched_job_id = nextval('roost.jobs_id_seq')
    where credit is not null
    returning id, dispatched_job_id
)
insert into roost.jobs (
    id, task, args, state, attempt, lease_no, worker_id, attempted_at, scheduled_at, inserted_at
)
overriding system value
select dispatched_job_id, $1::text, '{}', 'executing', 1, 1, id,
    statement_timestamp(), statement_timestamp(), statement_timestamp()
from taken
returning id
"""


def dispatch_job(table: JobTable, task: str) -> int:
    """Dispatch a job to the worker with a credit, as an enqueue does, without a notification.

    :returns: the job's id.
    """
    job_id: int = table.value(_DISPATCH, task)
    return job_id


@pytest.fixture
async def client(dsn: str, registry: HandlerRegistry) -> AsyncIterator[AsyncRoost]:
    """Yield a client in the test's own process."""
    async with AsyncRoost(dsn, registry=registry) as client:
        yield client


@pytest.fixture
def make_worker(dsn: str, registry: HandlerRegistry) -> Callable[..., Worker]:
    """Return a function that makes a worker with the given options."""

    def make(**options: Any) -> Worker:
        return Worker(dsn, registry=registry, **options)

    return make


@pytest.fixture
def running(registry: HandlerRegistry) -> Running:
    """Register ``quick``, ``thread``, ``gated`` and ``limited``; return what is counted of them."""
    running = Running()

    @job("quick", registry=registry)
    async def quick(queue: str) -> None:
        with running.one(queue, "all"):
            await anyio.sleep(0.002)

    @job("thread", registry=registry)
    def thread(queue: str) -> None:
        with running.one(queue, "all"):
            threading.Event().wait(0.002)

    @job("limited", max_concurrency=3, registry=registry)
    async def limited(queue: str) -> None:
        with running.one(queue, "all", "limited"):
            await anyio.sleep(0.002)

    return running


@pytest.fixture
def gate(registry: HandlerRegistry, running: Running) -> anyio.Event:
    """Register ``gated`` and return the event that its jobs wait for."""
    gate = anyio.Event()

    @job("gated", registry=registry)
    async def gated(queue: str) -> None:
        with running.one(queue, "all"):
            await gate.wait()

    return gate
