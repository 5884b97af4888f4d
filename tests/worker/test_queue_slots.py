"""Queues with slots of their own: each has a limit, and none waits for another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.queue_load import Running, some
from tests.support.working import working

from roost import AsyncRoost, HandlerRegistry, Worker, job
from roost._worker import prefetch as prefetch_module

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]


@pytest.mark.parametrize("prefetch", [None, 0, 5])
async def test_no_queue_has_more_jobs_at_once_than_slots(
    table: JobTable, running: Running, make_worker: MakeWorker, prefetch: int | None
) -> None:
    for task in ("quick", "thread", "limited"):
        for queue, count in (("web", 60), ("bulk", 90)):
            table.add_all(some(task, queue, count))
    worker = make_worker(queues={"web": 4, "bulk": 2}, prefetch=prefetch, poll_interval=0.05)
    async with working(worker):
        for _ in range(20):  # more arrive while others run
            table.add_all(some("quick", "web", 3) + some("quick", "bulk", 3))
            await anyio.sleep(0.01)
        await eventually(lambda: table.states() == {"completed": 570}, within=60)
    assert (running.most["web"], running.most["bulk"]) == (4, 2)
    assert running.most["limited"] <= 3
    assert table.value("select max(attempt) from roost.jobs") == 1


async def test_without_a_concurrency_all_slots_are_used_at_once(
    table: JobTable, running: Running, gate: anyio.Event, make_worker: MakeWorker
) -> None:
    table.add_all(some("gated", "web", 9) + some("gated", "bulk", 9))
    worker = make_worker(queues={"web": 4, "bulk": 2}, prefetch=0)
    async with working(worker):
        await eventually(lambda: running.now == {"web": 4, "bulk": 2, "all": 6})
        assert table.states() == {"executing": 6, "available": 12}
        [[concurrency]] = table.rows("select concurrency from roost.workers")
        assert concurrency == 6
        gate.set()


async def test_unused_slots_are_not_lent(
    table: JobTable, running: Running, gate: anyio.Event, make_worker: MakeWorker
) -> None:
    table.add_all(some("gated", "bulk", 5))
    async with working(make_worker(queues={"web": 8, "bulk": 1}, prefetch=0, poll_interval=0.02)):
        await eventually(lambda: running.now["bulk"] == 1)
        await anyio.sleep(0.1)  # sleeps: five polls
        assert table.states() == {"executing": 1, "available": 4}
        gate.set()
        await eventually(lambda: table.states() == {"completed": 5})


async def test_a_full_queue_delays_no_other(
    table: JobTable,
    client: AsyncRoost,
    running: Running,
    gate: anyio.Event,
    make_worker: MakeWorker,
) -> None:
    table.add_all(some("gated", "bulk", 400))
    async with working(make_worker(queues={"web": 2, "bulk": 2}, poll_interval=30)):
        await eventually(lambda: running.now["bulk"] == 2)
        for number in range(1, 21):
            await client.enqueue("quick", args={"queue": "web"}, queue="web")
            await eventually(lambda number=number: running.ended.count("web") == number)  # type: ignore[misc]
        assert running.ended.count("bulk") == 0
        table.rows("delete from roost.jobs where state = 'available'")
        gate.set()


@pytest.mark.parametrize("prefetch", [None, 0, 4])
async def test_under_a_smaller_concurrency_queues_take_turns(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, prefetch: int | None
) -> None:
    running = Running()

    @job("refill", registry=registry)
    async def refill(queue: str) -> None:
        with running.one(queue, "all"):
            table.add("refill", queue=queue, args={"queue": queue})
            await anyio.sleep(0.001)

    for queue in ("a", "b", "c"):
        table.add_all(some("refill", queue, 30))
    queues = {"a": 4, "b": 4, "c": 1}
    async with working(make_worker(queues=queues, concurrency=3, prefetch=prefetch)):
        # Each gets turns. How many depends on the duration of a claim.
        await eventually(lambda: min(Counter(running.ended)[queue] for queue in queues) > 30)
    assert running.most["all"] == 3
    assert running.most["c"] == 1


async def test_a_queue_gets_a_slot_while_another_has_prefetched(
    table: JobTable,
    running: Running,
    make_worker: MakeWorker,
) -> None:
    table.add_all(some("quick", "bulk", 2_000))
    async with working(make_worker(queues={"web": 1, "bulk": 1}, concurrency=1, poll_interval=30)):
        await eventually(lambda: running.ended.count("bulk") > 200)
        before = len(running.ended)
        table.add_all(some("quick", "web", 5))
        await eventually(lambda: running.ended.count("web") == 5)
        # A web job waits for the claim that brings it and for one bulk job, not for all of them.
        assert len(running.ended) - before < 1_500
        table.rows("delete from roost.jobs where state = 'available'")


async def test_producers_dispatch_only_jobs_of_queues_with_a_free_slot(
    table: JobTable,
    client: AsyncRoost,
    running: Running,
    gate: anyio.Event,
    make_worker: MakeWorker,
) -> None:
    def was_dispatched(job_id: int) -> bool:
        found = table.get(job_id)
        return found.attempted_at == found.inserted_at

    def accepted_queues() -> list[str] | None:
        rows = table.rows(
            "select credit_queues from roost.workers where credit is not null and queues <> '{}'"
        )
        return rows[0][0] if rows else ["no credit"]

    async with working(make_worker(queues={"web": 2, "bulk": 1}, poll_interval=30)):
        await eventually(lambda: accepted_queues() is None)
        held = await client.enqueue("gated", args={"queue": "bulk"}, queue="bulk")
        assert was_dispatched(held)
        await eventually(lambda: accepted_queues() == ["web"])
        waiting = await client.enqueue("quick", args={"queue": "bulk"}, queue="bulk")
        assert table.get(waiting).state == "available"
        assert was_dispatched(await client.enqueue("quick", args={"queue": "web"}, queue="web"))
        await eventually(lambda: running.ended.count("web") == 1)
        gate.set()
        await eventually(lambda: table.states() == {"completed": 3})
        assert running.most["bulk"] == 1


async def test_a_paused_queue_stops_no_other(
    table: JobTable, client: AsyncRoost, running: Running, make_worker: MakeWorker
) -> None:
    async with working(make_worker(queues={"web": 2, "bulk": 2}, poll_interval=30)):
        await client.pause_queue("bulk")
        table.add_all(some("quick", "bulk", 5) + some("quick", "web", 5))
        await eventually(lambda: running.ended.count("web") == 5)
        assert running.ended.count("bulk") == 0
        await client.resume_queue("bulk")
        await eventually(lambda: running.ended.count("bulk") == 5)


async def test_jobs_prefetched_behind_the_slots_of_one_queue_are_released(
    table: JobTable,
    running: Running,
    gate: anyio.Event,
    make_worker: MakeWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prefetch_module, "MAX_PREFETCH_WAIT", 0.1)
    table.add_all(some("gated", "bulk", 6))
    worker = make_worker(queues={"web": 1, "bulk": 1}, prefetch=5, poll_interval=0.02)
    async with working(worker):
        await eventually(lambda: table.states() == {"executing": 6})
        await eventually(lambda: table.states() == {"executing": 1, "available": 5})
        table.add_all(some("quick", "web", 3))
        await eventually(lambda: running.ended.count("web") == 3)
        gate.set()
        await eventually(lambda: table.states() == {"completed": 9})


async def test_run_once_drains_every_queue_within_its_slots(
    table: JobTable, running: Running, make_worker: MakeWorker
) -> None:
    for queue in ("web", "bulk"):
        for task in ("quick", "limited"):
            table.add_all(some(task, queue, 50))
    assert await make_worker(queues={"web": 3, "bulk": 1}).run_once() == 200
    assert table.states() == {"completed": 200}
    assert (running.most["web"], running.most["bulk"]) == (3, 1)


async def test_prefetched_jobs_of_a_killed_worker_use_no_attempt_in_any_queue(
    table: JobTable,
    running: Running,
    gate: anyio.Event,
    make_worker: MakeWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prefetch_module, "MAX_PREFETCH_WAIT", 60.0)

    def row(worker: int) -> Any:
        return table.value("select prefetch_started from roost.workers where id = $1", worker)

    async with working(make_worker(queues={"a": 1, "b": 1}, prefetch=4, poll_interval=30)):
        # The first of each queue are held, then those behind it start and are held, too.
        table.add_all(some("quick", "a", 1) + some("gated", "a", 4, max_attempts=1))
        table.add_all(some("quick", "b", 1) + some("gated", "b", 4, max_attempts=1))
        await eventually(lambda: running.now["all"] == 2 and len(running.ended) == 2)
        await eventually(lambda: table.states() == {"executing": 8, "completed": 2})
        [worker] = table.workers()
        unstarted = table.value(
            "select count(*) from roost.jobs as job join roost.workers as worker "
            "on worker.id = job.worker_id where job.state = 'executing' and roost.is_unstarted("
            "job.prefetch_no, job.priority, job.scheduled_at, job.id, worker.prefetch_started)"
        )
        assert unstarted == 6, row(worker)
        gate.set()
        await eventually(lambda: table.states() == {"completed": 10})
