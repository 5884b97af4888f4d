"""Limits are changed in the database while workers run, and survive deploys."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import psycopg
import pytest
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import (
    AsyncRoost,
    DatabaseError,
    HandlerRegistry,
    InvalidSettingError,
    JobInsert,
    LimitInfo,
    Roost,
    UnknownTaskError,
    Worker,
    job,
)

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]
SOON = 10.0
"""Seconds. It takes milliseconds; the worker reads the limits by itself every 30 s."""


@pytest.fixture
async def roost(dsn: str, registry: HandlerRegistry) -> AsyncIterator[AsyncRoost]:
    """Return a client of the test's database and registry."""
    async with AsyncRoost(dsn, registry=registry) as roost:
        yield roost


@pytest.fixture
def gates(registry: HandlerRegistry) -> dict[str, anyio.Event]:
    """Register a task with a limit and one without; each job waits for the event ``end``."""
    end: dict[str, anyio.Event] = {}

    async def wait() -> None:
        await end.setdefault("end", anyio.Event()).wait()

    @job("limited", max_concurrency=2, registry=registry)
    async def limited() -> None:
        await wait()

    @job("free", registry=registry)
    async def free() -> None:
        await wait()

    return end


def limit_of(limits: list[LimitInfo], task: str) -> LimitInfo:
    [found] = [each for each in limits if each.task == task]
    return found


async def test_a_raised_limit_starts_waiting_jobs_at_once(
    table: JobTable, roost: AsyncRoost, make_worker: MakeWorker, gates: dict[str, anyio.Event]
) -> None:
    await roost.enqueue_many([JobInsert("limited")] * 5)
    async with working(make_worker(concurrency=8, poll_interval=30)):
        await eventually(lambda: table.states() == {"executing": 2, "available": 3})
        await roost.set_limit("limited", max_concurrency=4)
        await eventually(lambda: table.states() == {"executing": 4, "available": 1}, within=SOON)
        limit = limit_of(await roost.list_limits(), "limited")
        assert (limit.max_concurrency, limit.declared_max_concurrency) == (4, 2)
        assert (limit.set_max_concurrency, limit.set_rate_per_minute) == (4, None)
        assert (limit.executing, limit.started) == (4, 0)
        gates["end"].set()
        await eventually(lambda: table.states() == {"completed": 5})


async def test_a_lowered_limit_holds_for_the_next_jobs(
    table: JobTable, roost: AsyncRoost, make_worker: MakeWorker, registry: HandlerRegistry
) -> None:
    running = peak = 0
    first = anyio.Event()

    @job("work", max_concurrency=4, registry=registry)
    async def work(*, waits: bool) -> None:
        nonlocal running, peak
        if waits:
            await first.wait()
            return
        running += 1
        peak = max(peak, running)
        await anyio.sleep(0.005)
        running -= 1

    await roost.enqueue_many([JobInsert("work", {"waits": True})] * 4)
    async with working(make_worker(concurrency=8, poll_interval=30)):
        await eventually(lambda: table.states() == {"executing": 4})
        await roost.set_limit(work, max_concurrency=1)
        await roost.enqueue_many([JobInsert("work", {"waits": False})] * 10)
        first.set()
        await eventually(lambda: table.states() == {"completed": 14}, within=SOON)
    assert peak == 1


async def test_a_task_without_a_limit_in_code_is_limited_at_once(
    table: JobTable, roost: AsyncRoost, make_worker: MakeWorker, gates: dict[str, anyio.Event]
) -> None:
    async with working(make_worker(concurrency=8, prefetch=0, poll_interval=30)):
        await roost.enqueue("free")
        await eventually(lambda: table.states() == {"executing": 1})
        await roost.set_limit("free", max_concurrency=2)
        await roost.enqueue_many([JobInsert("free")] * 4)
        await eventually(lambda: table.states() == {"executing": 2, "available": 3}, within=SOON)
        gates["end"].set()
        await eventually(lambda: table.states() == {"completed": 5}, within=SOON)


async def test_waiting_jobs_of_a_newly_limited_task_start_within_its_limit(
    table: JobTable, roost: AsyncRoost, make_worker: MakeWorker, gates: dict[str, anyio.Event]
) -> None:
    await roost.enqueue_many([JobInsert("free")] * 6)
    async with working(make_worker(concurrency=1, prefetch=4, poll_interval=30)):
        await eventually(lambda: table.states() == {"executing": 5, "available": 1})
        await roost.set_limit("free", max_concurrency=1)
        await eventually(lambda: table.states() == {"executing": 1, "available": 5}, within=SOON)
        async with working(make_worker(concurrency=8, poll_interval=30)):
            marked = "select count(*) from roost.jobs where limited"
            await eventually(lambda: table.value(marked) == 6, within=SOON)
            assert table.states() == {"executing": 1, "available": 5}
            gates["end"].set()
            await eventually(lambda: table.states() == {"completed": 6}, within=SOON)


async def test_what_was_set_survives_a_deploy_until_it_is_cleared(
    table: JobTable, roost: AsyncRoost, make_worker: MakeWorker, registry: HandlerRegistry
) -> None:
    @job("work", max_concurrency=2, rate_per_minute=100, registry=registry)
    async def work() -> None: ...

    await make_worker().run_once()
    await roost.set_limit("work", max_concurrency=7)

    def declare(**limits: Any) -> None:
        job("work", registry=registry, **limits)(work)

    for limits in ({"max_concurrency": 3, "rate_per_minute": 50}, {}, {"rate_per_minute": 9}):
        declare(**limits)
        await make_worker().run_once()
        limit = limit_of(await roost.list_limits(), "work")
        assert (limit.max_concurrency, limit.rate_per_minute) == (7, limits.get("rate_per_minute"))
        assert limit.declared_max_concurrency == limits.get("max_concurrency")
    assert await roost.clear_limit(work) is True
    assert await roost.clear_limit(work) is False
    limit = limit_of(await roost.list_limits(), "work")
    assert (limit.max_concurrency, limit.rate_per_minute) == (None, 9)
    declare()
    await make_worker().run_once()
    assert await roost.list_limits() == []


async def test_a_limit_that_is_not_passed_stays(table: JobTable, roost: AsyncRoost) -> None:
    await roost.set_limit("work", max_concurrency=3)
    await roost.set_limit("work", rate_per_minute=60)
    await roost.set_limit("work", max_concurrency=5)
    [limit] = await roost.list_limits()
    assert (limit.max_concurrency, limit.rate_per_minute) == (5, 60)


async def test_a_limit_is_set_in_the_callers_transaction(
    table: JobTable, roost: AsyncRoost
) -> None:
    async with roost.transaction() as conn:
        await roost.set_limit("work", max_concurrency=3, conn=conn)
        raise psycopg.Rollback
    assert await roost.list_limits() == []
    async with roost.transaction() as conn:
        await roost.set_limit("work", max_concurrency=3, conn=conn)
    assert len(await roost.list_limits()) == 1


async def test_the_blocking_client_and_sql_set_limits(table: JobTable, dsn: str) -> None:
    with Roost(dsn) as blocking:
        blocking.set_limit("work", max_concurrency=3)
        table.rows("select roost.set_limit('work', rate_per_minute => 60)")
        [limit] = blocking.list_limits()
        assert (limit.max_concurrency, limit.rate_per_minute) == (3, 60)
        assert table.value("select roost.clear_limit('work')") is True
        assert blocking.list_limits() == []
        assert blocking.clear_limit("work") is False


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({}, "pass max_concurrency, rate_per_minute or both"),
        ({"max_concurrency": 0}, "max_concurrency must be a whole number ≥ 1"),
        ({"rate_per_minute": -3}, "rate_per_minute must be a whole number ≥ 1"),
        ({"max_concurrency": 2.5}, "max_concurrency must be a whole number ≥ 1"),
        ({"rate_per_minute": 2**31}, "rate_per_minute must be a whole number ≥ 1"),
    ],
)
async def test_bad_limits_are_refused(
    table: JobTable, roost: AsyncRoost, limits: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidSettingError, match=message):
        await roost.set_limit("work", **limits)
    assert await roost.list_limits() == []


async def test_bad_tasks_are_refused(table: JobTable, roost: AsyncRoost) -> None:
    with pytest.raises(InvalidSettingError, match="task must have 1 to 200 characters"):
        await roost.set_limit("", max_concurrency=1)
    with pytest.raises(UnknownTaskError):
        await roost.clear_limit(lambda: None)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("set_limit('work')", "pass max_concurrency, rate_per_minute or both"),
        ("set_limit('work', 0)", "max_concurrency must be 1 or more"),
        ("set_limit('work', rate_per_minute => 0)", "rate_per_minute must be 1 or more"),
        ("set_limit('', 1)", "task must have 1 to 200 characters"),
        ("set_limit(null, 1)", "task must have 1 to 200 characters"),
        (r"set_limit(e'a\nb', 1)", "task must be one line"),
    ],
)
def test_bad_limits_are_refused_in_sql(table: JobTable, call: str, message: str) -> None:
    with pytest.raises(DatabaseError, match=message):
        table.rows(f"select roost.{call}")
