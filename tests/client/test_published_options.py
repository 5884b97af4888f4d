"""Options of ``@job`` hold for an enqueue by a client that has not imported the task."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import AsyncRoost, HandlerRegistry, JobInsert, Roost, job

pytestmark = pytest.mark.anyio

DECLARED: dict[str, Any] = {
    "queue": "mail",
    "priority": -3,
    "max_attempts": 4,
    "tags": ["a", "b"],
    "timeout_seconds": 90,
}
USUAL: dict[str, Any] = {
    "queue": "default",
    "priority": 0,
    "max_attempts": 20,
    "tags": [],
    "timeout_seconds": None,
}


@pytest.fixture
def registry(registry: HandlerRegistry) -> HandlerRegistry:
    """Return the registry of the worker."""

    @job("send", registry=registry, **{**DECLARED, "tags": tuple(DECLARED["tags"])})
    async def send(n: int = 0) -> int:
        return n

    return registry


@pytest.fixture
async def published(anyio_backend: object, dsn: str, registry: HandlerRegistry) -> None:
    """Run a worker that knows the task, so that its options are published."""
    async with AsyncRoost(dsn, registry=registry) as client:
        await client.worker().run_once()


def options(table: JobTable, job_id: int) -> dict[str, Any]:
    return table.get(job_id).model_dump(include=set(DECLARED))


PASSED: list[dict[str, Any]] = [
    {"queue": "default"},
    {"priority": 0},
    {"max_attempts": 20},
    {"tags": []},
    {"tags": ["c"]},
    {"timeout_seconds": 5},
]
"""Each one wins, also where it equals the usual default."""


@pytest.mark.usefixtures("published")
async def test_what_was_not_passed_is_filled(dsn: str, table: JobTable) -> None:
    async with AsyncRoost(dsn, registry=HandlerRegistry()) as client:
        assert options(table, await client.enqueue("send")) == DECLARED
        assert options(table, await client.enqueue("other")) == USUAL
        for passed in PASSED:
            expected = {**DECLARED, **passed}
            assert options(table, await client.enqueue("send", **passed)) == expected
            async with client.transaction() as conn:
                job_id = await client.enqueue("send", conn=conn, **passed)
            assert options(table, job_id) == expected


@pytest.mark.usefixtures("published")
async def test_jobs_of_a_bulk_are_filled(dsn: str, table: JobTable) -> None:
    async with AsyncRoost(dsn, registry=HandlerRegistry()) as client:
        jobs = [JobInsert("send", **passed) for passed in PASSED]
        for job_id, passed in zip(await client.enqueue_all(jobs), PASSED, strict=True):
            assert job_id is not None
            assert options(table, job_id) == {**DECLARED, **passed}
        similar = [JobInsert("send", {"n": n}, priority=5) for n in range(150)]
        for job_id in await client.enqueue_all([*similar]):
            assert job_id is not None
            assert options(table, job_id) == {**DECLARED, "priority": 5}
        assert await client.enqueue_many([*similar]) == 150
        different = [JobInsert("send", {"n": 1}), JobInsert("other", {"n": 2})]
        assert await client.enqueue_many(different) == 2
    assert table.rows(
        "select task, queue, priority, count(*) from roost.jobs where id > ("
        "   select max(id) - 152 from roost.jobs) group by 1, 2, 3 order by 1, 3"
    ) == [("other", "default", 0, 1), ("send", "mail", -3, 1), ("send", "mail", 5, 150)]


@pytest.mark.usefixtures("published")
async def test_known_tasks_of_the_same_bulk_are_not_filled(dsn: str, table: JobTable) -> None:
    newer = HandlerRegistry()

    @job("send", registry=newer)  # it has no options any more
    async def send(n: int = 0) -> int:
        return n

    async with AsyncRoost(dsn, registry=newer) as client:
        first, second = await client.enqueue_all([JobInsert("send"), JobInsert("unknown")])
        assert first is not None
        assert second is not None
        assert options(table, first) == USUAL
        assert options(table, second) == USUAL
        assert options(table, await client.enqueue("send")) == USUAL


@pytest.mark.usefixtures("published")
async def test_children_are_filled(dsn: str, table: JobTable) -> None:
    async with AsyncRoost(dsn, registry=HandlerRegistry()) as client:
        parent = await client.enqueue("send")
        child = await client.enqueue("send", depends_on=[parent])
        assert options(table, child) == DECLARED
        jobs = [JobInsert("send", depends_on=[child]), JobInsert("send", priority=1)]
        first, second = await client.enqueue_all(jobs)
        assert first is not None
        assert second is not None
        assert options(table, first) == DECLARED
        assert options(table, second) == {**DECLARED, "priority": 1}


@pytest.mark.usefixtures("published")
def test_the_blocking_client_and_sql_fill_too(dsn: str, table: JobTable) -> None:
    with Roost(dsn, registry=HandlerRegistry()) as client:
        assert options(table, client.enqueue("send")) == DECLARED
    assert options(table, table.value("select roost.enqueue('send')")) == DECLARED
    assert options(table, table.value("select roost.enqueue('other')")) == USUAL
    query = "select roost.enqueue('send', queue => 'default', priority => 0, max_attempts => 20)"
    expected = {**DECLARED, "queue": "default", "priority": 0, "max_attempts": 20}
    assert options(table, table.value(query)) == expected
    query = "select roost.enqueue('send', tags => '{}', timeout_seconds => 5)"
    expected = {**DECLARED, "tags": [], "timeout_seconds": 5}
    assert options(table, table.value(query)) == expected


async def test_a_waiting_worker_of_the_filled_queue_gets_the_job(
    dsn: str, registry: HandlerRegistry
) -> None:
    worker = AsyncRoost(dsn, registry=registry)
    producer = AsyncRoost(dsn, registry=HandlerRegistry())
    async with (
        worker,
        producer,
        working(worker.worker(queues=["mail"], poll_interval=60.0)),
    ):
        for _ in range(3):
            job_id = await producer.enqueue("send", args={"n": 7})
            outcome = await producer.wait_for(job_id, timeout=20, poll_interval=60)
            assert outcome.result == 7


async def test_both_clients_list_the_task(
    published: None, dsn: str, registry: HandlerRegistry
) -> None:
    async with AsyncRoost(dsn) as client:
        [task] = await client.list_tasks()
    assert (task.name, task.workers, task.queues) == ("send", 0, [])
    assert task.options == {
        name: list(value) if name == "tags" else value for name, value in DECLARED.items()
    }
    assert task.args_schema is not None
    assert task.args_schema["properties"]["n"]["default"] == 0
    with Roost(dsn) as blocking:
        assert blocking.list_tasks() == [task]
