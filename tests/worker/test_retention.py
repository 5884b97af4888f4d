"""A worker archives and deletes ended jobs after times that depend on their states."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import (
    AsyncRoost,
    DuplicateUniqueJobError,
    HandlerRegistry,
    JobNotFoundError,
    JobState,
    Worker,
    job,
)
from roost._worker.lanes import maintenance

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]
COLUMNS = {"completed": "completed_at", "discarded": "discarded_at", "cancelled": "cancelled_at"}


def ended(table: JobTable, state: str, *, hours: float) -> int:
    job_id = table.add("elsewhere")
    table.change(
        job_id, f"state = '{state}', {COLUMNS[state]} = now() - {hours} * interval '1 hour'"
    )
    return job_id


def ids(table: JobTable, name: str) -> set[int]:
    return {job_id for (job_id,) in table.rows(f"select id from roost.{name}")}


async def test_a_job_is_archived_first_and_deleted_later(
    table: JobTable, make_worker: MakeWorker
) -> None:
    young, old, oldest = (ended(table, "completed", hours=n) for n in (0.5, 2, 4))
    before = ended(table, "completed", hours=4)
    table.rows("update roost.jobs set scheduled_at = now() where id = $1::bigint", before)
    worker = make_worker(
        archive_after_seconds=3_600, delete_after_seconds=3 * 3_600, archive_interval=0.05
    )
    async with working(worker):
        await eventually(lambda: ids(table, "jobs_archive") == {old})
    assert ids(table, "jobs") == {young}
    assert oldest not in ids(table, "jobs_archive")


async def test_each_state_has_its_own_times(table: JobTable, make_worker: MakeWorker) -> None:
    jobs = {
        (state, hours): ended(table, state, hours=hours) for state in COLUMNS for hours in (2, 9)
    }
    worker = make_worker(
        archive_after_seconds={"discarded": 3_600, JobState.COMPLETED: 8 * 3_600},
        delete_after_seconds={JobState.COMPLETED: 3_600, "discarded": 8 * 3_600},
        archive_interval=0.05,
    )
    async with working(worker):
        await eventually(lambda: ids(table, "jobs_archive") == {jobs["discarded", 2]})
    # Nothing is said of cancelled jobs: they are kept.
    assert ids(table, "jobs") == {jobs["cancelled", 2], jobs["cancelled", 9]}


async def test_jobs_that_are_to_be_deleted_are_never_archived(
    table: JobTable, make_worker: MakeWorker
) -> None:
    table.script(
        "create table public.seen (id bigint);"
        "create function public.see() returns trigger language plpgsql as "
        "$$ begin insert into public.seen values (new.id); return new; end $$;"
        "create trigger see after insert on roost.jobs_archive "
        "for each row execute function public.see()"
    )
    for hours in (1, 2, 3):
        ended(table, "completed", hours=hours)
    kept = ended(table, "discarded", hours=1)
    worker = make_worker(
        archive_after_seconds=60, delete_after_seconds={"completed": 60}, archive_interval=0.05
    )
    async with working(worker):
        await eventually(lambda: ids(table, "jobs_archive") == {kept})
    assert ids(table, "jobs") == set()
    assert table.rows("select id from public.seen") == [(kept,)]


@pytest.mark.parametrize("setting", ["archive_after_seconds", "delete_after_seconds"])
async def test_more_jobs_than_one_batch_are_done_in_one_run(
    table: JobTable, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.setattr(maintenance, "ARCHIVE_BATCH", 3)
    for state in COLUMNS:
        for n in range(7):
            ended(table, state, hours=1 + n)
    # The second run would come after an hour.
    worker = make_worker(**{setting: 60}, archive_interval=3_600)
    async with working(worker):
        await eventually(lambda: table.states() == {})
    assert len(ids(table, "jobs_archive")) == (21 if setting == "archive_after_seconds" else 0)


async def test_a_client_that_waits_reads_the_result_of_a_job_that_is_deleted_at_once(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, client: AsyncRoost
) -> None:
    go = anyio.Event()

    @job("work", registry=registry)
    async def work() -> int:
        await go.wait()
        return 3

    results: list[object] = []

    async def wait() -> None:
        results.append((await client.wait_for(job_id)).result)

    job_id = await client.enqueue(work)
    async with working(make_worker(delete_after_seconds=0, archive_interval=0.01)):
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await eventually(lambda: table.column(job_id, "awaited"))
            go.set()
        unread = await client.enqueue(work)
        await eventually(lambda: unread not in ids(table, "jobs"))
    assert results == [3]
    with pytest.raises(JobNotFoundError):
        await client.wait_for(unread)
    assert ids(table, "jobs") == {job_id}


async def test_a_worker_that_keeps_no_completed_jobs_deletes_them_as_they_end(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, client: AsyncRoost
) -> None:
    go = anyio.Event()
    results: list[object] = []

    @job("work", registry=registry)
    async def work(n: int) -> int:
        await go.wait()
        if n == 0:
            raise ValueError
        return n

    @job("child", registry=registry)
    async def child() -> None: ...

    async def wait(job_id: int) -> None:
        results.append((await client.wait_for(job_id)).result)

    failed, parent, waited, _ = [await client.enqueue(work, args={"n": n}) for n in range(4)]
    await client.enqueue(child, depends_on=[parent])
    # No run of the maintenance deletes anything.
    worker = make_worker(delete_after_seconds={"completed": 0}, archive_interval=3_600)
    async with anyio.create_task_group() as group:
        group.start_soon(wait, waited)
        await eventually(lambda: table.column(waited, "awaited"))
        async with working(worker):
            go.set()
            await eventually(lambda: ids(table, "jobs") == {failed, waited})
    assert results == [2]
    assert table.states() == {"retryable": 1, "completed": 1}


async def test_a_job_that_is_deleted_as_it_ends_is_seen_and_holds_its_key(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, client: AsyncRoost
) -> None:
    @job("work", registry=registry)
    async def work() -> None: ...

    worker = make_worker(delete_after_seconds=0, archive_interval=3_600)
    async with working(worker), client.events(kinds=["finished"]) as events:
        job_id = await client.enqueue(work, unique_key="daily", unique_for=600)
        await eventually(lambda: table.states() == {})
        event = await events.receive(timeout=20)
    assert event is not None
    assert (event.job_id, event.state) == (job_id, "completed")
    with pytest.raises(DuplicateUniqueJobError):
        await client.enqueue(work, unique_key="daily", unique_for=600)
    again = await client.enqueue(work, unique_key="daily")
    assert ids(table, "jobs") == {again}


async def test_a_large_result_of_a_job_that_is_not_kept_is_not_written(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("work", registry=registry)
    async def work() -> str:
        return "x" * (1 << 20)

    table.add("work")
    async with working(make_worker(delete_after_seconds=0, archive_interval=3_600)):
        await eventually(lambda: table.states() == {})
