"""`AsyncRoost` stores every field, on a bounded number of connections."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import anyio
import pytest
from pydantic import BaseModel
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable

from roost import (
    AsyncRoost,
    ClosedError,
    DatabaseUnavailableError,
    HandlerRegistry,
    InvalidJobError,
    InvalidSettingError,
    JobInsert,
    JobNotFoundError,
    UnknownTaskError,
    job,
)

pytestmark = pytest.mark.anyio


async def test_every_field_is_stored(client: AsyncRoost) -> None:
    parent = await client.enqueue("parent")
    due = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    job_id = await client.enqueue(
        "work",
        args={"a": [1, None, {"b": "c"}]},
        queue="mail",
        priority=-5,
        max_attempts=3,
        scheduled_at=due,
        unique_key="order 7",
        tags=["x", "y"],
        timeout_seconds=60,
        depends_on=[parent],
        metadata={"trace": "abc"},
    )
    row = await client.get(job_id)
    assert row.model_dump(exclude={"inserted_at"}) == {
        "id": job_id,
        "task": "work",
        "args": {"a": [1, None, {"b": "c"}]},
        "state": "available",
        "queue": "mail",
        "priority": -5,
        "attempt": 0,
        "max_attempts": 3,
        "scheduled_at": due,
        "attempted_at": None,
        "completed_at": None,
        "cancelled_at": None,
        "discarded_at": None,
        "errors": [],
        "unique_key": "order 7",
        "tags": ["x", "y"],
        "timeout_seconds": 60,
        "cancel_requested": False,
        "result": None,
        "depends_on": [parent],
        "metadata": {"trace": "abc"},
    }
    assert row.scheduled_at.tzinfo is UTC


async def test_a_job_is_a_read_only_view(client: AsyncRoost) -> None:
    row = await client.get(await client.enqueue("work"))
    with pytest.raises(ValueError, match="frozen"):
        row.state = "completed"


async def test_an_unknown_id_is_a_typed_error(client: AsyncRoost) -> None:
    with pytest.raises(JobNotFoundError, match="987654"):
        await client.get(987654)


class Line(BaseModel):
    price: Decimal
    at: datetime


class Order(BaseModel):
    number: UUID
    lines: list[Line]


async def test_models_and_dicts_of_rich_values_are_stored_the_same(client: AsyncRoost) -> None:
    at = datetime(2026, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))
    number = uuid4()
    model = Order(number=number, lines=[Line(price=Decimal("1.10"), at=at)])
    values = {"number": number, "lines": [{"price": Decimal("1.10"), "at": at}]}
    rows = [await client.get(await client.enqueue("work", args=args)) for args in (model, values)]
    assert rows[0].args == rows[1].args
    assert rows[0].args["number"] == str(number)
    assert rows[0].args["lines"][0]["price"] == "1.10"
    assert Order.model_validate(rows[1].args) == model
    await client.enqueue_many([JobInsert("work", args=model, queue="many")])


ZONES = [
    UTC,
    timezone(timedelta(hours=-9, minutes=-30)),
    ZoneInfo("America/New_York"),
    ZoneInfo("Asia/Kathmandu"),
]


@pytest.mark.parametrize("zone", ZONES, ids=str)
async def test_a_time_of_any_zone_is_the_same_instant(client: AsyncRoost, zone: Any) -> None:
    instant = datetime(2030, 11, 3, 5, 30, tzinfo=UTC)
    row = await client.get(await client.enqueue("work", scheduled_at=instant.astimezone(zone)))
    assert row.scheduled_at == instant
    assert row.scheduled_at.tzinfo is UTC


async def test_both_hours_of_the_fall_back_are_distinguished(client: AsyncRoost) -> None:
    zone = ZoneInfo("America/New_York")
    local = datetime(2030, 11, 3, 1, 30, tzinfo=zone)
    first = await client.get(await client.enqueue("work", scheduled_at=local))
    second = await client.get(await client.enqueue("work", scheduled_at=local.replace(fold=1)))
    assert second.scheduled_at - first.scheduled_at == timedelta(hours=1)


async def test_the_earliest_and_latest_times_are_read_back(client: AsyncRoost) -> None:
    for edge in (datetime(2, 1, 2, tzinfo=UTC), datetime(9998, 12, 30, tzinfo=UTC)):
        assert (
            await client.get(await client.enqueue("work", scheduled_at=edge))
        ).scheduled_at == edge
    for beyond in (datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)):
        with pytest.raises(InvalidJobError, match="scheduled_at"):
            await client.enqueue("work", scheduled_at=beyond)


@pytest.fixture
def declared(registry: HandlerRegistry) -> Callable[..., Any]:
    @job(
        "declared", queue="slow", priority=7, max_attempts=3, tags=["a"], timeout_seconds=9,
        registry=registry,
    )  # fmt: skip
    async def declared(n: int = 0) -> int:
        return n

    return declared


async def test_a_tasks_defaults_are_applied_by_name_and_by_function(
    client: AsyncRoost, declared: Callable[..., Any]
) -> None:
    ids = [await client.enqueue(declared), await client.enqueue("declared")]
    for row in [await client.get(job_id) for job_id in ids]:
        assert row.task == "declared"
        assert (row.queue, row.priority, row.max_attempts) == ("slow", 7, 3)
        assert (row.tags, row.timeout_seconds) == (["a"], 9)


async def test_explicit_keywords_win_also_when_they_equal_the_signatures_default(
    client: AsyncRoost, table: JobTable, declared: Callable[..., Any]
) -> None:
    job_id = await client.enqueue(
        declared, queue="default", priority=0, max_attempts=20, tags=[], timeout_seconds=1
    )
    row = await client.get(job_id)
    assert (row.queue, row.priority, row.max_attempts) == ("default", 0, 20)
    assert (row.tags, row.timeout_seconds) == ([], 1)
    explicit = JobInsert("declared", queue="default", priority=0, max_attempts=20)
    await client.enqueue_many([explicit, JobInsert("declared")])
    rows = table.rows("select queue, priority, max_attempts from roost.jobs order by id")
    assert list(rows)[1:] == [("default", 0, 20), ("slow", 7, 3)]


async def test_a_function_that_is_not_a_task_is_refused(
    client: AsyncRoost, table: JobTable
) -> None:
    with pytest.raises(UnknownTaskError, match="decorate it"):
        await client.enqueue(len)
    assert table.states() == {}


async def test_a_task_that_only_workers_know_can_be_enqueued(client: AsyncRoost) -> None:
    assert (await client.get(await client.enqueue("elsewhere"))).task == "elsewhere"


@pytest.mark.parametrize("task", ["", "x" * 201, "a\0b", None, 5, [], {}])
async def test_a_task_that_can_not_be_named_is_refused(
    client: AsyncRoost, table: JobTable, task: Any
) -> None:
    with pytest.raises(InvalidJobError, match="task"):
        await client.enqueue(task)
    with pytest.raises(InvalidJobError, match="task"):
        await client.enqueue_many([JobInsert(task)])
    assert table.states() == {}


async def test_ten_thousand_jobs_are_one_statement_and_all_or_none(
    client: AsyncRoost, table: JobTable
) -> None:
    jobs = [JobInsert("work", args={"n": n}, unique_key=f"key {n % 9_000}") for n in range(10_000)]
    await client.enqueue("warm up")
    before = table.value(COMMITS)
    assert await client.enqueue_many(jobs) == 10_000
    # Duplicates are left out, and counted as submitted.
    assert table.states() == {"available": 9_001}
    assert table.value("select count(distinct xmin::text) from roost.jobs where task = 'work'") == 1
    assert table.value(COMMITS) - before < 50
    with pytest.raises(InvalidJobError, match="job 9999 of the batch"):
        await client.enqueue_many([*jobs[:9_999], JobInsert("work", args={"a": object()})])
    assert table.states() == {"available": 9_001}


COMMITS = "select xact_commit from pg_stat_database where datname = current_database()"


async def test_no_jobs_are_no_statement(client: AsyncRoost, table: JobTable) -> None:
    assert await client.enqueue_many([]) == 0
    assert table.connections("roost") == 0


async def test_a_single_job_or_another_object_is_refused_as_several(
    client: AsyncRoost, table: JobTable
) -> None:
    wrong: list[Any] = [JobInsert("work"), [JobInsert("work"), None], [5], "work", None, 5]
    for jobs in wrong:
        with pytest.raises(InvalidJobError, match="list of JobInsert"):
            await client.enqueue_many(jobs)
    assert table.states() == {}


async def test_jobs_of_an_iterator_are_not_lost(client: AsyncRoost, table: JobTable) -> None:
    made: Any = (JobInsert("work") for _ in range(3))
    assert await client.enqueue_many(made) == 3
    assert table.states() == {"available": 3}


async def test_twenty_first_enqueues_at_once_share_one_pool(
    client: AsyncRoost, table: JobTable
) -> None:
    ids: list[int] = []
    most = 0

    async def enqueue() -> None:
        nonlocal most
        ids.append(await client.enqueue("work"))
        most = max(most, table.connections("roost"))

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(enqueue)
    assert len(set(ids)) == 20
    assert 1 <= most <= 10
    await client.close()
    await eventually(lambda: table.connections("roost") == 0)


async def test_nothing_is_connected_before_the_first_call(dsn: str, table: JobTable) -> None:
    async with AsyncRoost(dsn):
        assert table.connections("roost") == 0


async def test_a_closed_client_refuses_every_call(client: AsyncRoost) -> None:
    await client.enqueue("work")
    await client.close()
    await client.close()
    for call in (
        lambda: client.enqueue("work"),
        lambda: client.enqueue_many([JobInsert("work")]),
        lambda: client.get(1),
        client.setup_schema,
    ):
        with pytest.raises(ClosedError):
            await call()
    with pytest.raises(ClosedError):
        async with client.transaction():
            pass


async def test_a_cancelled_call_leaves_the_client_usable(
    client: AsyncRoost, table: JobTable
) -> None:
    for milliseconds in range(20):
        with anyio.move_on_after(milliseconds / 4_000):
            await client.enqueue("work")
    assert await client.enqueue("work") > 0
    await eventually(lambda: table.connections("roost") <= 10)


async def test_a_database_that_can_not_be_reached_is_a_typed_error() -> None:
    async with AsyncRoost("postgresql://127.0.0.1:1/none?connect_timeout=2") as client:
        with pytest.raises(DatabaseUnavailableError):
            await client.enqueue("work")


@pytest.mark.parametrize("dsn", ["mysql://localhost/db", "postgresql+nonesuch://localhost/db"])
async def test_a_dsn_of_another_kind_is_refused_at_once(dsn: str) -> None:
    with pytest.raises(InvalidSettingError):
        AsyncRoost(dsn)


async def test_the_worker_of_a_client_has_its_registry(
    client: AsyncRoost, declared: Callable[..., Any]
) -> None:
    job_id = await client.enqueue(declared, args={"n": 5})
    assert await client.worker(queues=["slow"]).run_once() == 1
    assert (await client.get(job_id)).result == 5
