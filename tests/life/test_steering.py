"""Dependencies, limits, pauses, cancels and changes take effect at once, not at the next poll."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import AsyncRoost, HandlerRegistry, JobInsert, UnknownParentError, Worker, job

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]

NEVER = 300.0
"""A poll that no test waits for."""


async def test_children_start_when_their_parents_have_ended(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, client: AsyncRoost
) -> None:
    order: list[str] = []

    @job("step", registry=registry)
    async def step(name: str) -> None:
        order.append(name)

    async with working(make_worker(poll_interval=NEVER), make_worker(poll_interval=NEVER)):
        async with client.transaction() as conn:
            top = await client.enqueue("step", args={"name": "top"}, conn=conn)
            middle = [
                await client.enqueue("step", args={"name": "mid"}, depends_on=[top], conn=conn)
                for _ in range(3)
            ]
            await client.enqueue("step", args={"name": "end"}, depends_on=middle, conn=conn)
        await eventually(lambda: table.states() == {"completed": 5})
    assert order == ["top", "mid", "mid", "mid", "end"]


async def test_a_failure_cancels_the_jobs_descendants_and_no_others(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, client: AsyncRoost
) -> None:
    @job("fail", max_attempts=1, registry=registry)
    async def fail() -> None:
        raise ValueError("no")

    @job("work", registry=registry)
    async def work() -> None: ...

    parent = await client.enqueue("fail", scheduled_at=datetime.now(UTC) + timedelta(seconds=0.3))
    chain = [parent]
    for _ in range(5):
        chain.append(await client.enqueue("work", depends_on=[chain[-1]]))
    unrelated = await client.enqueue("work")
    worker = make_worker(poll_interval=NEVER, archive_after_seconds=0, archive_interval=0.01)
    async with working(worker):
        await eventually(lambda: table.states() == {})
    assert table.get(parent).state == "discarded"
    assert {table.get(child).state for child in chain[1:]} == {"cancelled"}
    assert f"job {parent} was discarded" in table.get(chain[1]).errors[0]["error"]
    assert table.get(unrelated).state == "completed"


async def test_an_unknown_parent_leaves_the_caller_s_transaction_usable(
    table: JobTable, client: AsyncRoost
) -> None:
    async with client.transaction() as conn:
        with pytest.raises(UnknownParentError):
            await client.enqueue("work", depends_on=[4711], conn=conn)
        with pytest.raises(UnknownParentError):
            await client.enqueue_many([JobInsert("work", depends_on=[4711])], conn=conn)
        await client.enqueue("work", conn=conn)
    assert table.states() == {"available": 1}


async def test_a_locked_child_delays_only_the_verdict_of_its_parent(
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
    client: AsyncRoost,
    other: JobTable,
) -> None:
    @job("work", registry=registry)
    async def work() -> None: ...

    async with client.transaction() as conn:
        parents = [await client.enqueue("work", conn=conn) for _ in range(2)]
        held = await client.enqueue("work", depends_on=[parents[0]], conn=conn)
        free = await client.enqueue("work", depends_on=[parents[1]], conn=conn)
    async with working(make_worker(poll_interval=NEVER)):
        with other.connection.transaction():
            # As an enqueue of one of its children does, in a transaction that stays open.
            other.rows("select from roost.jobs where id = $1::bigint for share", held)
            others = [await client.enqueue("work") for _ in range(10)]
            await eventually(
                lambda: all(table.get(job_id).state == "completed" for job_id in others)
            )
            await eventually(lambda: table.get(free).state == "completed")
            assert table.get(held).attempt == 0
        await eventually(lambda: table.get(held).state == "completed")
    assert all(table.get(job_id).attempt == 1 for job_id in (*parents, held, free))


async def test_a_locked_child_delays_no_rescue_of_other_orphans(
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
    client: AsyncRoost,
    other: JobTable,
) -> None:
    @job("elsewhere", registry=HandlerRegistry())
    async def elsewhere() -> None: ...

    parent = await client.enqueue("elsewhere", max_attempts=1)
    child = await client.enqueue("elsewhere", depends_on=[parent])
    orphans = [parent, *table.add_all([JobInsert("elsewhere", max_attempts=1)] * 5)]
    for job_id in orphans:
        table.change(job_id, "state = 'executing', attempt = 1, worker_id = 999")
    with other.connection.transaction():
        other.rows("select from roost.jobs where id = $1::bigint for share", child)
        async with working(make_worker(orphan_reaper_interval=0.05)):
            await eventually(lambda: table.states().get("discarded") == 5)
            assert table.get(parent).state == "executing"
    async with working(make_worker(orphan_reaper_interval=0.05)):
        await eventually(lambda: table.states() == {"discarded": 6, "cancelled": 1})


async def test_ten_thousand_children_start_at_once_and_none_early(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, client: AsyncRoost
) -> None:
    returned: list[float] = []
    early: list[int] = []
    first: list[float] = []
    go_on = anyio.Event()

    @job("parent", registry=registry)
    async def parent() -> None:
        await go_on.wait()
        returned.append(anyio.current_time())

    @job("child", registry=registry)
    async def child() -> None:
        if not returned:
            early.append(1)
        if not first:
            first.append(anyio.current_time())

    parent_id = await client.enqueue(parent)
    await client.enqueue_many([JobInsert("child", depends_on=[parent_id])] * 10_000)
    async with working(make_worker(poll_interval=NEVER, shutdown_timeout=5)):
        await eventually(lambda: table.get(parent_id).state == "executing")
        go_on.set()
        await eventually(lambda: bool(first))
    assert early == []
    print(f"first child after {first[0] - returned[0]:.3f} s")


async def test_a_limited_job_starts_when_another_ends_or_is_due(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, client: AsyncRoost
) -> None:
    running = peak = 0

    @job("work", max_concurrency=2, registry=registry)
    async def work() -> None:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await anyio.sleep(0.01)
        running -= 1

    workers = [make_worker(poll_interval=NEVER, queues=["a", "b"]) for _ in range(3)]
    async with working(*workers):
        for n in range(40):
            await client.enqueue(work, queue="ab"[n % 2], priority=n % 3)
        await eventually(lambda: table.states() == {"completed": 40})
        late = await client.enqueue(
            work, queue="a", scheduled_at=datetime.now(UTC) + timedelta(seconds=0.3)
        )
        await eventually(lambda: table.get(late).state == "completed")
    assert peak == 2
    found = table.get(late)
    assert found.attempted_at is not None
    assert (found.attempted_at - found.scheduled_at).total_seconds() < 5


def limited(worker: Worker) -> frozenset[str]:
    """Return the limited tasks that a running worker knows of."""
    assert worker._session is not None
    return worker._session.state.limited.names


async def test_a_limit_published_by_a_second_worker_holds_for_the_first(
    table: JobTable, registry: HandlerRegistry, dsn: str, client: AsyncRoost
) -> None:
    running = peak = 0

    async def work() -> None:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await anyio.sleep(0.02)
        running -= 1

    registry.register("work", work)
    newer = HandlerRegistry()
    job("work", max_concurrency=1, registry=newer)(work)
    old = Worker(dsn, registry=registry, concurrency=5, orphan_reaper_interval=0.1)
    new = Worker(dsn, registry=newer, concurrency=5, orphan_reaper_interval=0.1)
    async with working(old):
        await eventually(lambda: table.workers() != [])
        async with working(new):
            await eventually(lambda: limited(old) == {"work"})
            await client.enqueue_many([JobInsert("work")] * 20)
            await eventually(lambda: table.states() == {"completed": 20})
    assert peak == 1


async def test_a_paused_queue_starts_no_job_and_a_resume_starts_them_at_once(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, client: AsyncRoost
) -> None:
    @job("work", registry=registry)
    async def work() -> None: ...

    await client.pause_queue("default")
    job_id, doomed = await client.enqueue(work), await client.enqueue(work)
    async with working(make_worker(poll_interval=0.02)):
        assert await client.cancel(doomed) is True
        await anyio.sleep(0.2)  # sleeps: ten polls
        assert table.get(job_id).state == "available"
        assert await make_worker().run_once() == 0
    async with working(make_worker(poll_interval=NEVER)):
        began = anyio.current_time()
        await client.resume_queue("default")
        await eventually(lambda: table.get(job_id).state == "completed")
        assert anyio.current_time() - began < 5
        [queue] = await client.list_queues()
        assert (queue.name, queue.paused_at, queue.available) == ("default", None, 0)


async def test_a_running_job_is_cancelled_at_once(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, client: AsyncRoost
) -> None:
    running = anyio.Event()

    @job("work", registry=registry)
    async def work() -> None:
        running.set()
        await anyio.sleep_forever()

    parent = await client.enqueue(work)
    child = await client.enqueue(work, depends_on=[parent])
    async with working(make_worker(poll_interval=NEVER)):
        await running.wait()
        [info] = await client.list_workers()
        assert info.executing == 1
        began = time.monotonic()
        assert await client.cancel(parent) is True
        await eventually(lambda: table.get(parent).state == "cancelled")
        assert time.monotonic() - began < 5
        assert table.get(child).state == "cancelled"
        assert await client.cancel(parent) is False


async def test_no_cancel_is_lost_while_jobs_start(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, client: AsyncRoost
) -> None:
    finished: list[int] = []

    @job("work", registry=registry)
    async def work(n: int) -> None:
        await anyio.sleep(5)  # sleeps: cut short by the cancel
        finished.append(n)

    async def cancel_at_once(n: int, done: list[Any]) -> None:
        job_id = await client.enqueue(work, args={"n": n})
        await anyio.sleep(n % 7 * 0.001)
        done.append(await client.cancel(job_id))

    done: list[bool] = []
    async with working(make_worker(poll_interval=NEVER, concurrency=150)):
        async with anyio.create_task_group() as group:
            for n in range(150):
                group.start_soon(cancel_at_once, n, done)
        await eventually(lambda: table.states() == {"cancelled": 150})
    assert done == [True] * 150
    assert finished == []


async def test_changed_jobs_start_at_once(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, client: AsyncRoost
) -> None:
    ran: list[tuple[str, int]] = []

    @job("work", registry=registry)
    async def work(name: str, size: int = 0) -> None:
        ran.append((name, size))

    later = datetime.now(UTC) + timedelta(days=1)
    now, changed, moved, dropped = [
        await client.enqueue("work", args={"name": name}, scheduled_at=later)
        for name in ("now", "changed", "moved", "dropped")
    ]
    worker = make_worker(poll_interval=NEVER, queues=["default", "other"])
    async with working(worker):
        assert await client.run_now(now)
        await eventually(lambda: ran == [("now", 0)])
        assert await client.update_job(changed, args={"name": "changed", "size": 2}, schedule_in=0)
        await eventually(lambda: ran[1:] == [("changed", 2)])
        async with client.transaction() as conn:
            assert await client.delete(dropped, conn=conn)
            assert await client.update_job(moved, queue="other", conn=conn)
            assert await client.run_now(moved, conn=conn)
        await eventually(lambda: ran[2:] == [("moved", 0)])
        await eventually(lambda: table.states() == {"completed": 3})
