"""Workers on the test's database, with the test's registry."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.support.job_table import JobTable

from roost import AsyncRoost, HandlerRegistry, Worker

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
