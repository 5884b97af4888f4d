"""A worker starts jobs of limited tasks as soon as the limit allows, and never prefetches them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import HandlerRegistry, Hooks, Job, JobInsert, SnoozeJob, Worker, job
from roost._ops.control import cancel_job
from roost._worker import prefetch as prefetch_module
from roost._worker.lanes import execute

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]

SOON = 10.0
"""Seconds. It takes milliseconds, and longer on a loaded machine; the poll comes after 30 s."""


@pytest.mark.parametrize("end", ["completes", "fails", "snoozes", "is cancelled"])
@pytest.mark.parametrize("queues", [("b",), ("b", "a")], ids=["b", "both"])
async def test_the_end_of_a_limited_job_starts_the_next_in_another_queue_by_another_worker(
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
    queues: tuple[str, ...],
    end: str,
) -> None:
    go_on = anyio.Event()

    @job("work", max_concurrency=1, max_attempts=1, registry=registry)
    async def work(end: str) -> None:
        if end:
            await go_on.wait()
        if end == "fails":
            raise ValueError(end)
        if end == "snoozes":
            raise SnoozeJob(100)

    async with working(
        make_worker(queues=("a",), poll_interval=30), make_worker(queues=queues, poll_interval=30)
    ):
        first = table.add("work", queue="a", args={"end": end}, max_attempts=1)
        await eventually(lambda: table.get(first).state == "executing")
        second = table.add("work", queue="b", args={"end": ""})
        await anyio.sleep(0.3)  # sleeps: until the second worker has polled in vain
        assert table.get(second).state == "available"
        if end == "is cancelled":
            table.run(cancel_job(first))
        go_on.set()
        await eventually(lambda: table.get(second).state == "completed", within=SOON)


async def test_limited_jobs_are_claimed_for_free_slots_only(
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prefetch_module, "MAX_PREFETCH_WAIT", 60.0)
    gate = anyio.Event()
    started = 0

    @job("limited", rate_per_minute=100, registry=registry)
    async def limited() -> None:
        nonlocal started
        started += 1
        await gate.wait()

    @job("free", registry=registry)
    async def free() -> None: ...

    table.add_all([JobInsert("limited", priority=-1)] * 8)
    table.add_all([JobInsert("free")] * 3)
    async with working(make_worker(concurrency=2, prefetch=5, poll_interval=0.05)):
        await eventually(lambda: started == 2)
        # Only jobs of other tasks are prefetched.
        await eventually(lambda: table.states() == {"executing": 5, "available": 6})
        await anyio.sleep(0.3)  # sleeps: six times as long as a poll
        assert table.states() == {"executing": 5, "available": 6}
        assert table.value("select count(*) from roost.starts") == 2
        async with working(make_worker(concurrency=6, poll_interval=0.05)):
            await eventually(lambda: started == 8)
            gate.set()
            await eventually(lambda: table.states() == {"completed": 11})


async def test_limited_jobs_start_while_prefetched_jobs_fill_the_slots(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    limited_done = 0

    @job("chain", registry=registry)
    async def chain() -> None:
        if limited_done < 20:
            table.add("chain", priority=1)
        await anyio.sleep(0.003)

    @job("limited", max_concurrency=2, registry=registry)
    async def limited() -> None:
        nonlocal limited_done
        await anyio.sleep(0.001)
        limited_done += 1

    table.add_all([JobInsert("chain", priority=1)] * 30)
    async with working(make_worker(concurrency=2, prefetch=10, poll_interval=30)):
        await eventually(lambda: table.value("select max(id) from roost.jobs") > 60)
        table.add_all([JobInsert("limited")] * 20)
        await eventually(lambda: limited_done == 20, within=SOON)
        await eventually(lambda: table.states().keys() == {"completed"})


async def test_a_rate_limited_task_reaches_its_rate_with_prefetching(
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prefetch_module, "MAX_PREFETCH_WAIT", 0.1)

    @job("work", rate_per_minute=12, registry=registry)
    async def work() -> None:
        await anyio.sleep(0.2)  # sleeps: longer than a prefetched job may wait

    table.add_all([JobInsert("work")] * 40)
    async with working(make_worker(concurrency=2, prefetch=20, poll_interval=0.1)):
        await eventually(lambda: table.states() == {"completed": 12, "available": 28})
        assert table.value("select max(lease_no) from roost.jobs") == 1


async def test_a_start_after_a_slow_hook_is_counted_when_it_happens(
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(execute, "MAX_START_DELAY", 0.2)
    counted: list[float] = []

    @job("work", rate_per_minute=1, registry=registry)
    async def work() -> None:
        counted.extend(
            row[0]
            for row in table.rows(
                "select extract(epoch from starts.started_at - job.attempted_at)::float8 "
                "from roost.starts cross join roost.jobs as job where job.state = 'executing'"
            )
        )

    async def slow(_: Job, *, ctx: dict[str, Any]) -> None:
        await anyio.sleep(0.4)  # sleeps: longer than a start may be delayed

    table.add_all([JobInsert("work")] * 2)
    async with working(make_worker(hooks=Hooks(before_job=slow), poll_interval=0.1)):
        await eventually(lambda: table.states() == {"completed": 1, "available": 1})
    [after] = counted
    assert after >= 0.4


async def test_a_job_whose_start_is_no_longer_counted_is_released(
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(execute, "MAX_START_DELAY", 0.2)
    attempts: list[int] = []

    @job("work", rate_per_minute=1, max_attempts=1, registry=registry)
    async def work(job: Job) -> None:
        attempts.append(table.column(job.id, "lease_no"))

    async def forget(job: Job, *, ctx: dict[str, Any]) -> None:
        if table.column(job.id, "lease_no") == 1:
            await anyio.sleep(0.4)  # sleeps: longer than a start may be delayed
            table.rows("delete from roost.starts")  # as after a minute

    job_id = table.add("work", max_attempts=1)
    async with working(make_worker(hooks=Hooks(before_job=forget), poll_interval=0.1)):
        await eventually(lambda: table.get(job_id).state == "completed")
    assert attempts == [2]
    assert table.get(job_id).attempt == 1
