"""Direct dispatch: an enqueue leases its job to an idle worker. No job is lost or run twice."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable

import anyio
import pytest
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working
from tests.worker.conftest import dispatch_job

from roost import AsyncRoost, HandlerRegistry, Job, Worker, job
from roost._ops.dispatch import Accepted, accept_dispatched, grant_credit
from roost._ops.query import Op
from roost._worker import dispatch, prefetch
from roost._worker.lanes.maintenance import LimitsLane
from roost._worker.state import WorkerState

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]


@pytest.fixture
def ran(registry: HandlerRegistry) -> Counter[int]:
    """Register the task ``tick`` and return how often each job of it has run."""
    ran: Counter[int] = Counter()

    @job("tick", registry=registry)
    async def tick(job: Job, text: str = "") -> None:
        ran[job.id] += 1

    return ran


def state_of(worker: Worker) -> WorkerState:
    """Return the state that the worker's lanes share."""
    assert worker._session is not None
    return worker._session.state


async def wait_for_credit(table: JobTable, count: int = 1) -> None:
    """Wait until ``count`` workers have an outstanding credit."""
    query = "select count(*) from roost.workers where credit is not null"
    await eventually(lambda: table.value(query) == count)


async def completed(table: JobTable, job_id: int) -> None:
    await eventually(lambda: table.get(job_id).state == "completed")


def was_dispatched(table: JobTable, job_id: int) -> bool:
    """Say whether the job was inserted with its lease, instead of claimed."""
    found = table.get(job_id)
    return found.attempted_at == found.inserted_at


async def test_an_idle_worker_is_dispatched_one_job_after_the_other(
    table: JobTable, client: AsyncRoost, ran: Counter[int], make_worker: MakeWorker
) -> None:
    async with working(make_worker(poll_interval=30)):
        for number in range(30):
            await wait_for_credit(table)
            job_id = await client.enqueue("tick", args={"text": "x" * 500 * number})
            await completed(table, job_id)
            assert was_dispatched(table, job_id)
            assert ran[job_id] == 1
            assert table.get(job_id).attempt == 1
    assert table.workers() == []


async def test_a_worker_with_one_slot_claims_the_next_job_when_the_slot_is_free(
    table: JobTable, client: AsyncRoost, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    gate = anyio.Event()

    @job("hold", registry=registry)
    async def hold() -> None:
        await gate.wait()

    worker = make_worker(poll_interval=30, concurrency=1)
    async with working(worker):
        await wait_for_credit(table)
        first = await client.enqueue("hold")
        await eventually(lambda: was_dispatched(table, first))
        second = await client.enqueue("hold")
        await eventually(lambda: state_of(worker).groups[0].jobs_may_wait)  # it was notified
        assert not table.get(second).attempted_at
        gate.set()
        await completed(table, second)
        await wait_for_credit(table)


async def test_a_job_dispatched_to_a_full_worker_is_released_at_once(
    table: JobTable,
    client: AsyncRoost,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # So that the job is not released for having waited too long.
    monkeypatch.setattr(prefetch, "MAX_PREFETCH_WAIT", 60.0)
    gate = anyio.Event()

    @job("hold", registry=registry)
    async def hold(wait: bool) -> None:
        if wait:
            await gate.wait()

    busy = make_worker(poll_interval=30, concurrency=1)
    async with working(busy):
        await wait_for_credit(table)
        table.add("hold", args={"wait": True})  # claimed, so the credit stays
        await eventually(lambda: table.states() == {"executing": 1})
        await eventually(lambda: len(state_of(busy).slots) == 1)
        job_id = await client.enqueue("hold", args={"wait": False})
        await eventually(lambda: table.get(job_id).state == "available")
        assert table.get(job_id).attempt == 0
        async with working(make_worker(poll_interval=30)):
            await completed(table, job_id)
            assert table.get(job_id).attempt == 1
        gate.set()


async def test_the_poll_finds_a_dispatched_job_whose_notification_was_lost(
    table: JobTable, ran: Counter[int], make_worker: MakeWorker
) -> None:
    async with working(make_worker(poll_interval=0.2)):
        await wait_for_credit(table)
        job_id = dispatch_job(table, "tick")
        await completed(table, job_id)
        await wait_for_credit(table)
    assert ran == {job_id: 1}


async def test_a_job_dispatched_while_the_listener_reconnects_is_found_afterwards(
    table: JobTable, client: AsyncRoost, ran: Counter[int], make_worker: MakeWorker
) -> None:
    async with working(make_worker(poll_interval=30, listen_reconnect_delay=0.3)):
        await wait_for_credit(table)
        terminate_listeners(table)
        job_id = dispatch_job(table, "tick")
        await completed(table, job_id)
        await wait_for_credit(table)
        other = await client.enqueue("tick")
        await completed(table, other)
        assert was_dispatched(table, other)
    assert ran == {job_id: 1, other: 1}


async def test_a_credit_is_not_consumed_while_the_worker_does_not_listen(
    table: JobTable, client: AsyncRoost, ran: Counter[int], make_worker: MakeWorker
) -> None:
    async with working(make_worker(poll_interval=0.2, listen_reconnect_delay=1.0)):
        await wait_for_credit(table)
        terminate_listeners(table)
        job_id = await client.enqueue("tick")
        assert not was_dispatched(table, job_id)
        await completed(table, job_id)
    assert ran == {job_id: 1}


async def test_a_forged_dispatch_starts_no_job_and_keeps_the_credit(
    table: JobTable, client: AsyncRoost, ran: Counter[int], make_worker: MakeWorker
) -> None:
    worker = make_worker(poll_interval=30)
    async with working(worker):
        await wait_for_credit(table)
        channel = table.value("select channel from roost.workers")
        [worker_id] = table.workers()
        number = state_of(worker).credit.number
        row = [7, "default", "tick", "{}", 0, 20, 0, 0, None, None, None, None, False]
        for payload in (
            "dispatched",
            json.dumps([worker_id, number, *row]),
            "watch",
            "[]",
            "dispatched",
        ):
            table.rows("select pg_notify($1::text, $2::text)", channel, payload)
        await eventually(lambda: state_of(worker).credit.watch_at < math.inf)
        await eventually(lambda: state_of(worker).credit.watch_at == math.inf)
        assert not state_of(worker).credit.needs_reconcile
        assert state_of(worker).credit.number == number
        assert table.value("select credit from roost.workers") == number
        job_id = await client.enqueue("tick")
        await completed(table, job_id)
        assert was_dispatched(table, job_id)
    assert ran == {job_id: 1}


async def test_a_flood_of_forged_dispatches_does_not_delay_jobs(
    table: JobTable,
    client: AsyncRoost,
    ran: Counter[int],
    make_worker: MakeWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reads: Counter[str] = Counter()

    def counted(worker_id: int, *, next_credit: int | None) -> Op[Accepted]:
        reads["accept"] += 1
        return accept_dispatched(worker_id, next_credit=next_credit)

    monkeypatch.setattr(dispatch, "accept_dispatched", counted)
    async with working(make_worker(poll_interval=30)):
        await wait_for_credit(table)
        channel = table.value("select channel from roost.workers")
        began = anyio.current_time()
        jobs = []
        for _ in range(10):
            table.rows(
                "select pg_notify($1::text, word || repeat(' ', n)) "
                "from generate_series(0, 500) as n, unnest(array['dispatched', 'watch']) as word",
                channel,
            )
            table.rows("select pg_notify($1::text, 'dispatched')", channel)
            jobs.append(await client.enqueue("tick"))
            jobs.append(table.add("tick"))
        for job_id in jobs:
            await completed(table, job_id)
        # One for each real dispatch, and one each 20 ms.
        assert reads["accept"] <= 2 + 10 + (anyio.current_time() - began) / 0.02
    assert ran == dict.fromkeys(jobs, 1)


async def test_a_job_dispatched_to_a_blocked_worker_is_run_once_by_another(
    table: JobTable, ran: Counter[int], registry: HandlerRegistry, make_worker: MakeWorker, dsn: str
) -> None:
    async with working(make_worker(poll_interval=30)):
        await wait_for_credit(table)
        # As a worker that listens and does not accept.
        with JobTable(dsn) as blocked:
            worker_id = table.add_worker("blocked")
            blocked.rows("select pg_advisory_lock(hashtextextended('blocked', 0))")
            table.run(grant_credit(worker_id, 1, channel="blocked", tasks=["tick"]))
            table.rows(
                "update roost.workers set heartbeat_at = now() + interval '1 minute' "
                "where id = $1::bigint",
                worker_id,
            )
            async with AsyncRoost(dsn, registry=registry) as client:
                job_id = await client.enqueue("tick")
            assert (
                table.value(
                    "select dispatched_job_id from roost.workers where id = $1::bigint", worker_id
                )
                == job_id
            )
            began = anyio.current_time()
            await completed(table, job_id)
            assert anyio.current_time() - began < 1
            # Its acceptance comes too late.
            accepted = table.run(accept_dispatched(worker_id, next_credit=2))
            assert (accepted.found, accepted.job) == (False, None)
    assert ran == {job_id: 1}
    assert table.get(job_id).attempt == 1
    assert table.column(job_id, "lease_no") == 2


async def test_a_stopping_worker_releases_the_job_dispatched_last(
    table: JobTable, ran: Counter[int], make_worker: MakeWorker
) -> None:
    async with working(make_worker(poll_interval=30)):
        await wait_for_credit(table)
        job_id = dispatch_job(table, "tick")
    assert (table.get(job_id).state, table.get(job_id).attempt) == ("available", 0)
    assert table.get(job_id).errors == []
    assert ran == {}


async def test_a_new_incarnation_grants_credit_of_its_own(
    table: JobTable, client: AsyncRoost, ran: Counter[int], make_worker: MakeWorker
) -> None:
    async with working(make_worker(poll_interval=30, heartbeat_interval=0.2)):
        await wait_for_credit(table)
        [first] = table.workers()
        table.rows("delete from roost.workers")
        await eventually(lambda: table.workers() not in ([], [first]))
        await wait_for_credit(table)
        job_id = await client.enqueue("tick")
        await completed(table, job_id)
        assert was_dispatched(table, job_id)
    assert ran == {job_id: 1}


async def test_a_dispatched_job_of_a_limited_task_is_released(
    table: JobTable,
    client: AsyncRoost,
    ran: Counter[int],
    make_worker: MakeWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def not_now(_: LimitsLane) -> None: ...

    monkeypatch.setattr(LimitsLane, "once", not_now)
    worker = make_worker(poll_interval=0.2)
    async with working(worker):
        await wait_for_credit(table)
        # As if the limit had been published just after the enqueue read the limits.
        state_of(worker).limited.names = frozenset({"tick"})
        job_id = await client.enqueue("tick")
        await eventually(lambda: table.get(job_id).state == "available")
        state_of(worker).limited.names = frozenset()
        await completed(table, job_id)
    assert ran == {job_id: 1}


async def test_a_dispatched_job_can_be_cancelled(
    table: JobTable, client: AsyncRoost, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("hold", registry=registry)
    async def hold() -> None:
        await anyio.sleep_forever()

    async with working(make_worker(poll_interval=30)):
        await wait_for_credit(table)
        job_id = await client.enqueue("hold")
        await client.cancel(job_id)
        await eventually(lambda: table.get(job_id).state == "cancelled")


async def test_jobs_enqueued_while_workers_come_and_go_run_once_each(
    table: JobTable,
    client: AsyncRoost,
    ran: Counter[int],
    make_worker: MakeWorker,
    caplog: pytest.LogCaptureFixture,
) -> None:
    jobs: list[int] = []

    async def produce(pause: float) -> None:
        for number in range(60):
            key = f"{pause} {number}" if number % 3 == 0 else None
            jobs.append(await client.enqueue("tick", unique_key=key))
            await anyio.sleep(pause)

    async with working(make_worker(poll_interval=30)), anyio.create_task_group() as producers:
        for pause in (0.0, 0.004, 0.013):
            producers.start_soon(produce, pause)
        for lives in (0.1, 0.2, 0.3):
            async with working(make_worker(poll_interval=30, concurrency=2)):
                terminate_listeners(table)
                await anyio.sleep(lives)
    async with working(make_worker(poll_interval=30)):
        await eventually(lambda: table.states() == {"completed": 180})
    assert ran == dict.fromkeys(jobs, 1)
    # A rescue counts the attempt. Only a worker that can not release its jobs in time needs one.
    if not any(message.endswith("it will be rescued") for message in caplog.messages):
        assert table.value("select max(attempt) from roost.jobs") == 1


def terminate_listeners(table: JobTable) -> None:
    """End the workers' listening connections, as a restart of the server would."""
    table.rows(
        "select pg_terminate_backend(pid) from pg_stat_activity "
        "where datname = current_database() and application_name like 'roost listen %'"
    )
