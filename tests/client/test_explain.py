"""Clients say why a job does not run, in situations that the verbs bring about."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import (
    AsyncRoost,
    Explanation,
    ExplanationReason,
    HandlerRegistry,
    JobInsert,
    JobNotFoundError,
    RetryJob,
    Roost,
    job,
)

pytestmark = pytest.mark.anyio
R = ExplanationReason
Why = Callable[[int], Any]


class Gate:
    """Holds the handlers of the task ``held`` until it is opened."""

    def __init__(self) -> None:
        self.opened = anyio.Event()
        self.started: set[int] = set()

    async def until_started(self, count: int) -> None:
        await eventually(lambda: len(self.started) >= count)


@pytest.fixture
async def gate(anyio_backend: object, registry: HandlerRegistry) -> AsyncIterator[Gate]:
    """Yield the gate of two tasks: ``held``, and ``stubborn``, which no cancel ends."""
    gate = Gate()

    @job("held", registry=registry)
    async def held(n: int = 0, tenant: str = "") -> None:
        gate.started.add(n)
        await gate.opened.wait()

    @job("stubborn", registry=registry)
    async def stubborn() -> None:
        gate.started.add(0)
        with anyio.CancelScope(shield=True):
            await gate.opened.wait()

    yield gate
    gate.opened.set()


@pytest.fixture
async def why(client: AsyncRoost, dsn: str) -> AsyncIterator[Why]:
    """Yield a call that asks both clients, which must agree."""
    with Roost(dsn) as blocking:

        async def ask(job_id: int) -> Explanation:
            found = await client.explain(job_id)
            same = await anyio.to_thread.run_sync(partial(blocking.explain, job_id))
            assert (same.reason, same.state) == (found.reason, found.state)
            assert [each.reason for each in same.also] == [each.reason for each in found.also]
            return found

        yield ask


def test_both_clients_have_the_verb_with_the_same_parameters() -> None:
    assert inspect.signature(Roost.explain) == inspect.signature(AsyncRoost.explain)


async def test_an_unknown_job_is_an_error(client: AsyncRoost) -> None:
    with pytest.raises(JobNotFoundError):
        await client.explain(10**9)


async def test_ended_jobs(
    client: AsyncRoost, table: JobTable, registry: HandlerRegistry, why: Why
) -> None:
    @job("good", registry=registry)
    async def good() -> None:
        pass

    @job("bad", registry=registry)
    async def bad() -> None:
        raise ValueError("no such user")

    completed = await client.enqueue("good")
    discarded = await client.enqueue("bad", max_attempts=1)
    cancelled = await client.enqueue("good")
    await client.cancel(cancelled)
    await client.worker().run_once()
    found = await why(completed)
    assert (found.reason, found.state) == (R.ENDED, "completed")
    assert not found.data["archived"]
    found = await why(discarded)
    assert (found.reason, found.state) == (R.ENDED, "discarded")
    assert "attempt 1 of 1" in found.message
    assert "no such user" in found.message
    assert (await why(cancelled)).message.startswith("It was cancelled at")
    table.archive(after=-1)
    found = await why(completed)
    assert (found.reason, found.data["archived"]) == (R.ENDED, True)


async def test_jobs_that_run_or_wait_in_their_worker(
    client: AsyncRoost, gate: Gate, why: Why
) -> None:
    first, second, third = [
        await client.enqueue("held", args={"n": n}, queue="q") for n in range(3)
    ]
    async with working(client.worker(queues=["q"], concurrency=1, prefetch=1)):
        await gate.until_started(1)
        found = await why(first)
        assert found.reason is R.RUNNING
        assert "attempt 1 of 20" in found.message
        [worker] = await client.list_workers()
        assert found.data["worker_id"] == worker.id
        with anyio.fail_after(30):
            while (found := await why(second)).reason is not R.PREFETCHED:
                await anyio.sleep(0.01)  # sleeps: polls what the client answers
        assert worker.name in found.message
        # Jobs whose wait in the worker is long are released.
        found = await why(third)
        assert found.reason is R.SLOTS_TAKEN
        assert found.data["slots"] == 1
        assert found.data["in_front"] in (0, 1)
        gate.opened.set()


async def test_a_cancel_that_the_handler_does_not_follow(
    client: AsyncRoost, gate: Gate, why: Why
) -> None:
    job_id = await client.enqueue("stubborn")
    async with working(client.worker(poll_interval=0.1)):
        await gate.until_started(1)
        assert (await why(job_id)).reason is R.RUNNING
        await client.cancel(job_id)
        found = await why(job_id)
        assert (found.reason, found.state) == (R.CANCEL_REQUESTED, "executing")
        gate.opened.set()


async def test_jobs_of_silent_dead_and_removed_workers(
    client: AsyncRoost, table: JobTable, why: Why
) -> None:
    job_id = await client.enqueue("work")
    worker = table.add_worker("host:1", stale_after=300)
    assert table.claim(worker).jobs
    assert (await why(job_id)).reason is R.RUNNING
    table.rows(
        "update roost.workers set heartbeat_at = now() - interval '200 s', "
        "expires_at = now() + interval '100 s'"
    )
    found = await why(job_id)
    assert found.reason is R.WORKER_SILENT
    assert found.data["heartbeat_at"] < found.data["expires_at"]
    assert found.expected_at is not None
    table.rows("update roost.workers set expires_at = now() - interval '1 s'")
    found = await why(job_id)
    assert found.reason is R.WORKER_DEAD
    assert "host:1" in found.message
    assert found.expected_at is None  # no worker is alive
    table.add_worker("host:2")
    assert (await why(job_id)).expected_at is not None
    table.rows("delete from roost.workers where id = $1::bigint", worker)
    found = await why(job_id)
    assert (found.reason, found.data["worker"]) == (R.WORKER_DEAD, None)
    await client.cancel(job_id)
    assert [other.reason for other in (await why(job_id)).also] == [R.CANCEL_REQUESTED]


async def test_a_job_that_waits_for_others(client: AsyncRoost, table: JobTable, why: Why) -> None:
    parents = [await client.enqueue("work") for _ in range(2)]
    job_id = await client.enqueue("work", depends_on=parents, schedule_in=3600)
    table.claim(table.add_worker(), limit=1)
    found = await why(job_id)
    assert found.reason is R.BLOCKED
    assert found.data == {
        "pending_parents": 2,
        "parents": [
            {"id": parents[0], "state": "executing"}, {"id": parents[1], "state": "available"},
        ],
    }  # fmt: skip
    assert found.also[0].reason is R.SCHEDULED


async def test_a_job_that_is_due_later(
    client: AsyncRoost, registry: HandlerRegistry, why: Why
) -> None:
    @job("late", registry=registry)
    async def late() -> None:
        raise RetryJob("not yet", in_=3600)

    job_id = await client.enqueue("late", schedule_in=timedelta(hours=2))
    found = await why(job_id)
    assert found.reason is R.SCHEDULED
    assert found.expected_at == (await client.get(job_id)).scheduled_at
    await client.run_now(job_id)
    await client.worker().run_once()
    found = await why(job_id)
    assert (found.reason, found.state) == (R.RETRY_SCHEDULED, "retryable")
    assert "not yet" in found.message
    assert found.expected_at == (await client.get(job_id)).scheduled_at


async def test_a_paused_queue(client: AsyncRoost, gate: Gate, why: Why) -> None:
    async with working(client.worker()):
        await client.pause_queue("default")
        job_id = await client.enqueue("held")
        found = await why(job_id)
        assert (found.reason, found.also) == (R.QUEUE_PAUSED, [])
        assert found.data["unconfirmed_workers"] == []
        [queue] = await client.list_queues()
        assert queue.paused_at is not None
        assert found.data["paused_at"] == queue.paused_at.isoformat()
        await client.resume_queue("default")
        await gate.until_started(1)
        gate.opened.set()
    await client.pause_queue("default")
    job_id = await client.enqueue("held")
    assert [other.reason for other in (await why(job_id)).also] == [R.NO_WORKER]


async def test_a_queue_without_workers_and_a_task_that_they_do_not_know(
    client: AsyncRoost, gate: Gate, why: Why
) -> None:
    job_id = await client.enqueue("held", queue="mial")
    assert "no worker is alive" in (await why(job_id)).message
    other_id = await client.enqueue("other", queue="mail")
    async with working(client.worker(queues=["mail"])):
        found = await why(job_id)
        assert (found.reason, found.data["served_queues"]) == (R.NO_WORKER, ["mail"])
        found = await why(other_id)
        [worker] = await client.list_workers()
        assert (found.reason, found.data["workers"]) == (R.UNKNOWN_TASK, [worker.id])


async def test_a_worker_that_is_being_stopped(
    client: AsyncRoost, gate: Gate, table: JobTable, why: Why
) -> None:
    running = await client.enqueue("held")
    worker = client.worker(heartbeat_interval=100)
    async with working(worker):
        await gate.until_started(1)
        worker.request_stop()
        await eventually(lambda: bool(table.value("select stopping from roost.workers")))
        # Not by enqueue, which could dispatch it to the worker.
        [job_id] = await client.enqueue_all([JobInsert("held", {"n": 1})])
        assert job_id is not None
        found = await why(job_id)
        assert found.reason is R.WORKERS_STOPPING
        assert len(found.data["workers"]) == 1
        found = await why(running)
        assert found.reason is R.RUNNING
        assert "being stopped" in found.message
        gate.opened.set()


@pytest.mark.parametrize("by_key", [False, True])
async def test_a_limit_of_jobs_at_once(
    client: AsyncRoost, table: JobTable, registry: HandlerRegistry, why: Why, by_key: bool
) -> None:
    opened = anyio.Event()

    @job("crm", registry=registry, max_concurrency=1, limit_by="tenant" if by_key else None)
    async def crm(tenant: str) -> None:
        await opened.wait()

    async with working(client.worker()):
        first = await client.enqueue("crm", args={"tenant": "acme"})
        await eventually(lambda: table.get(first).state == "executing")
        second, third = [await client.enqueue("crm", args={"tenant": "acme"}) for _ in range(2)]
        found = await why(third)
        assert found.reason is R.CONCURRENCY_LIMIT
        assert found.data["executing_ids"] == [first]
        assert found.data["in_front"] == 1
        assert found.data["limit_key"] == ("acme" if by_key else None)
        assert "set_limit" not in found.message
        await client.set_limit("crm", max_concurrency=1)
        assert "(by set_limit)" in (await why(second)).message
        opened.set()


async def test_a_limit_of_starts_in_a_minute(
    client: AsyncRoost, table: JobTable, registry: HandlerRegistry, why: Why
) -> None:
    @job("sms", registry=registry, rate_per_minute=2)
    async def sms() -> None:
        pass

    await client.enqueue_many([JobInsert("sms")] * 2)
    async with working(client.worker()):
        await eventually(lambda: table.states() == {"completed": 2})
        job_id = await client.enqueue("sms")
        found = await why(job_id)
        assert (found.reason, found.data["started"]) == (R.RATE_LIMIT, 2)
        starts = [each.attempted_at for each in await client.list_jobs(states=["completed"])]
        assert found.expected_at == min(at for at in starts if at) + timedelta(seconds=61)


async def test_slots_that_a_queue_has_of_its_own(client: AsyncRoost, gate: Gate, why: Why) -> None:
    async with working(client.worker(queues={"a": 1, "b": 1}, prefetch=0)):
        await client.enqueue("held", queue="a")
        await gate.until_started(1)
        low = await client.enqueue("held", queue="a", priority=5)
        high = await client.enqueue("held", queue="a")
        await client.enqueue("held", queue="a", schedule_in=60)
        found = await why(low)
        assert (found.reason, found.data["slots"], found.data["in_front"]) == (R.SLOTS_TAKEN, 1, 1)
        assert (await why(high)).data["in_front"] == 0
        gate.opened.set()


async def test_jobs_of_other_limited_tasks_are_in_front_if_their_limit_has_room(
    client: AsyncRoost, registry: HandlerRegistry, gate: Gate, why: Why
) -> None:
    for task, most in (("wide", 10), ("narrow", 2)):
        job(task, registry=registry, max_concurrency=most)(lambda: None)
    async with working(client.worker(concurrency=1, prefetch=0)):
        await client.enqueue("held")
        await gate.until_started(1)
        await client.enqueue_many([JobInsert("wide", priority=-1)] * 4)
        await client.enqueue_many([JobInsert("narrow")] * 4)
        await client.enqueue("wide", schedule_in=60)
        last = await client.enqueue("held")
        await client.enqueue("wide")
        found = await why(last)
        assert (found.reason, found.data["in_front"]) == (R.SLOTS_TAKEN, 4 + 2)
        await client.set_limit("wide", max_concurrency=3)
        assert (await why(last)).data["in_front"] == 3 + 2
        gate.opened.set()


async def test_a_job_whose_row_is_locked(
    client: AsyncRoost, gate: Gate, dsn: str, why: Why
) -> None:
    job_id = await client.enqueue("held")
    with JobTable(dsn) as other, other.connection.transaction():
        other.rows("select from roost.jobs where id = $1::bigint for update", job_id)
        async with working(client.worker()):
            found = await why(job_id)
            assert (found.reason, found.data["in_front"]) == (R.STARTS_SOON, 0)
            [worker] = await client.list_workers()
            assert found.data["worker_id"] == worker.id
