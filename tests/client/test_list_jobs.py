"""Clients list jobs page by page."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest
from tests.support.job_table import JobTable

from roost import AsyncRoost, HandlerRegistry, InvalidJobError, JobInsert, Roost, job

LATER = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def blocking(dsn: str, registry: HandlerRegistry) -> Iterator[Roost]:
    with Roost(dsn, registry=registry) as client:
        yield client


def test_both_clients_have_the_verb_with_the_same_parameters() -> None:
    assert inspect.signature(Roost.list_jobs) == inspect.signature(AsyncRoost.list_jobs)


@pytest.mark.anyio
async def test_pages_follow_one_another_over_both_tables(
    client: AsyncRoost, table: JobTable
) -> None:
    inserts = [JobInsert("work", {"n": n}, queue="even" if n % 2 == 0 else "odd") for n in range(9)]
    ids = [job_id for job_id in await client.enqueue_all(inserts) if job_id is not None]
    for job_id in ids[::4]:
        table.change(job_id, "state = 'completed', completed_at = now() - interval '1 hour'")
    assert table.archive() == 3
    first = await client.list_jobs(limit=4)
    second = await client.list_jobs(limit=4, after=first[-1].id)
    third = await client.list_jobs(limit=4, after=second[-1].id)
    assert [job.id for job in (*first, *second, *third)] == ids[::-1]
    assert await client.list_jobs(limit=4, after=third[-1].id) == []
    assert [job.args["n"] for job in await client.list_jobs(queues=["odd"])] == [7, 5, 3, 1]
    assert [job.id for job in await client.list_jobs(states=["completed"])] == ids[::4][::-1]
    assert await client.list_jobs(ids=[]) == []
    assert first[0] == await client.get(ids[-1])


def test_the_blocking_client_lists_the_same(blocking: Roost) -> None:
    ids = [blocking.enqueue("work", tags=[f"t{n}"]) for n in range(3)]
    assert [job.id for job in blocking.list_jobs()] == ids[::-1]
    assert [job.id for job in blocking.list_jobs(tags=["t1"], limit=1)] == ids[1:2]
    assert blocking.list_jobs(after=ids[0]) == []


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"limit": 0}, InvalidJobError),
        ({"limit": 1_001}, InvalidJobError),
        ({"limit": True}, InvalidJobError),
        ({"after": 0}, InvalidJobError),
        ({"after": "7"}, InvalidJobError),
        ({"states": ["done"]}, InvalidJobError),
        ({"finished_after": datetime(2026, 1, 1)}, InvalidJobError),  # noqa: DTZ001  (naive)
        ({"queue": "mail"}, TypeError),
    ],
    ids=str,
)
@pytest.mark.anyio
async def test_bad_input_is_refused_before_the_database_is_used(
    given: dict[str, Any], error: type[Exception]
) -> None:
    async with AsyncRoost("postgresql://nobody@127.0.0.1:1/none") as unreachable:
        with pytest.raises(error):
            await unreachable.list_jobs(**given)


@pytest.mark.anyio
async def test_jobs_that_stay_are_on_one_page_while_others_end_and_are_archived(
    client: AsyncRoost, table: JobTable, registry: HandlerRegistry
) -> None:
    @job("work", registry=registry)
    async def work() -> None:
        pass

    stay: list[int | None] = []
    stay += await client.enqueue_all([JobInsert("work", scheduled_at=LATER)] * 30)
    await client.enqueue_many([JobInsert("work")] * 200)
    stay += await client.enqueue_all([JobInsert("work", scheduled_at=LATER)] * 30)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            await tasks.start(client.worker(run_cron=False).run)
            while len(table.rows("select from roost.jobs_archive")) < 200:
                found: list[int] = []
                while page := await client.list_jobs(limit=7, after=found[-1] if found else None):
                    found += [each.id for each in page]
                    table.archive(limit=2)
                assert found == sorted(set(found), reverse=True)
                assert set(stay) <= set(found)
            tasks.cancel_scope.cancel()
