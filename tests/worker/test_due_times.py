"""Scheduled jobs start when they are due, also with a long poll interval."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import HandlerRegistry, JobInsert, Worker, job
from roost._worker.lanes import fetch

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]
HOUR = 3600.0
SOON = 5.0
"""Seconds. It takes milliseconds, and longer on a loaded machine."""


@pytest.fixture
def work(registry: HandlerRegistry) -> None:
    @job("work", registry=registry)
    async def work() -> None: ...


def due_in(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def lateness(table: JobTable, job_id: int) -> float:
    late = table.value(
        "select extract(epoch from attempted_at - scheduled_at)::float8 from roost.jobs "
        "where id = $1::bigint",
        job_id,
    )
    assert isinstance(late, float)
    return late


@pytest.mark.usefixtures("work")
async def test_nearer_jobs_are_started_by_a_worker_that_waits_for_later_ones(
    table: JobTable, make_worker: MakeWorker
) -> None:
    async with working(make_worker(poll_interval=HOUR)):
        # Each is due sooner than the one before, and is found while the worker waits for that one.
        ids = [
            table.add("work", scheduled_at=due_in(wait)) for wait in (300, 50, 2.8, 2.1, 1.4, 0.7)
        ]
        soon = ids[2:]
        await eventually(lambda: {table.get(i).state for i in soon} == {"completed"})
        late = [lateness(table, job_id) for job_id in soon]
        assert {table.get(i).state for i in ids[:2]} == {"available"}
    print(f"measured: started {max(late) * 1000:.0f} ms late at most")
    assert min(late) >= 0
    # The last would be 2.1 s late if it were found only with the first.
    assert max(late) < 1.5


@pytest.mark.usefixtures("work")
async def test_each_job_of_a_batch_starts_when_it_is_due(
    table: JobTable, make_worker: MakeWorker
) -> None:
    ids = table.add_all(
        [JobInsert("work", {}, scheduled_at=due_in(0.3 + 0.05 * number)) for number in range(12)]
    )
    async with working(make_worker(poll_interval=HOUR, concurrency=2)):
        await eventually(lambda: table.states() == {"completed": 12})
    assert max(lateness(table, job_id) for job_id in ids) < SOON


@pytest.mark.usefixtures("work")
async def test_a_job_that_was_not_announced_is_found_before_it_is_due(
    table: JobTable, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "MAX_POLL", 0.2)
    async with working(make_worker(poll_interval=HOUR)):
        ended = table.add("work")
        await eventually(lambda: table.get(ended).state == "completed")
        # As an enqueue of another process for a time beyond the horizon.
        job_id = table.value(
            "insert into roost.jobs (task, scheduled_at) "
            "values ('work', clock_timestamp() + interval '700 ms') returning id"
        )
        await eventually(lambda: table.get(job_id).state == "completed")
    assert 0 <= lateness(table, job_id) < SOON


def test_jobs_due_before_the_next_poll_are_announced(table: JobTable, dsn: str) -> None:
    with JobTable(dsn) as listener:
        listener.script("listen roost_jobs")
        table.add_worker(queues=[f"in {seconds}" for seconds in (30, 59, 61, 3600)])
        for seconds in (30, 59, 61, 3600):
            table.add("work", queue=f"in {seconds}", scheduled_at=due_in(seconds))
        assert {queue for _, queue in listener.notifications()} == {"in 30", "in 59"}
    # An enqueue may then take half a minute until it commits.
    assert fetch.MAX_POLL <= 60 / 2
