"""Queues are started, stopped and resized while a worker runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.queue_load import Running, some
from tests.support.working import working

from roost import (
    AsyncRoost,
    DatabaseUnavailableError,
    HandlerRegistry,
    InvalidSettingError,
    Worker,
    WorkerNotRunningError,
    job,
)
from roost._ops.claim import Claimed
from roost._worker import prefetch as prefetch_module
from roost._worker.claimer import Claimer
from roost._worker.database import Database

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]
SLOTS = {"web": 2, "bulk": 1}


def row(table: JobTable) -> tuple[list[str], int]:
    """Return the queues and the concurrency in the worker's row."""
    [[queues, concurrency]] = table.rows("select queues, concurrency from roost.workers")
    return sorted(queues), concurrency


async def test_a_started_queue_is_served_with_its_slots(
    table: JobTable, running: Running, gate: anyio.Event, make_worker: MakeWorker
) -> None:
    table.add_all(some("gated", "late", 5))
    worker = make_worker(queues=SLOTS, prefetch=0, poll_interval=30)
    async with working(worker):
        await worker.start_queue("late", 3)
        assert row(table) == (["bulk", "late", "web"], 6)
        await eventually(lambda: running.now["late"] == 3)
        table.add_all(some("gated", "web", 5) + some("gated", "bulk", 5))
        await eventually(lambda: running.now == {"late": 3, "web": 2, "bulk": 1, "all": 6})
        gate.set()
        await eventually(lambda: table.states() == {"completed": 15})
        assert running.most == {"late": 3, "web": 2, "bulk": 1, "all": 6}


async def test_a_started_queue_shares_the_slots_of_a_list(
    table: JobTable, running: Running, gate: anyio.Event, make_worker: MakeWorker
) -> None:
    worker = make_worker(queues=["web"], concurrency=2, prefetch=0, poll_interval=30)
    async with working(worker):
        await worker.start_queue("late")
        assert row(table) == (["late", "web"], 2)
        table.add_all(some("gated", "late", 3))
        await eventually(lambda: running.now["late"] == 2)
        await worker.stop_queue("late")
        assert row(table) == (["web"], 2)
        gate.set()
        await eventually(lambda: table.states() == {"completed": 2, "available": 1})
        table.add_all(some("quick", "web", 3))
        await eventually(lambda: table.states() == {"completed": 5, "available": 1})


async def test_after_a_stop_running_jobs_go_on_and_prefetched_ones_are_released(
    table: JobTable,
    running: Running,
    gate: anyio.Event,
    make_worker: MakeWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prefetch_module, "MAX_PREFETCH_WAIT", 60.0)
    table.add_all(some("gated", "bulk", 4, max_attempts=1))
    worker = make_worker(queues=SLOTS, prefetch=3, poll_interval=0.02)
    async with working(worker):
        await eventually(lambda: table.states() == {"executing": 4} and running.now["bulk"] == 1)
        await worker.stop_queue("bulk")
        assert table.states() == {"executing": 1, "available": 3}
        assert table.value("select count(*) from roost.jobs where attempt = 1") == 1
        assert row(table) == (["web"], 2)
        table.add_all(some("quick", "web", 3))
        await eventually(lambda: running.ended.count("web") == 3)
        gate.set()
        await eventually(lambda: table.states() == {"completed": 4, "available": 3})
        await anyio.sleep(0.1)  # sleeps: five polls
        assert table.states() == {"completed": 4, "available": 3}
        await worker.start_queue("bulk", 2)
        await eventually(lambda: table.states() == {"completed": 7})


async def test_a_queue_can_be_started_again_while_its_jobs_still_run(
    table: JobTable, running: Running, gate: anyio.Event, make_worker: MakeWorker
) -> None:
    table.add_all(some("gated", "web", 5))
    worker = make_worker(queues=SLOTS, prefetch=0, poll_interval=30)
    async with working(worker):
        await eventually(lambda: running.now["web"] == 2)
        await worker.stop_queue("web")
        await worker.start_queue("web", 3)
        await eventually(lambda: running.now["web"] == 3)  # the two that ran, and one more
        gate.set()
        await eventually(lambda: table.states() == {"completed": 5})
        assert running.most["web"] == 3


async def test_more_slots_start_jobs_at_once_and_fewer_let_running_ones_end(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    gates: list[anyio.Event] = []

    @job("numbered", registry=registry)
    async def numbered() -> None:
        gates.append(anyio.Event())
        await gates[-1].wait()

    def completed() -> int:
        return table.states().get("completed", 0)

    for _ in range(6):
        table.add("numbered", queue="bulk")
    worker = make_worker(queues=SLOTS, prefetch=0, poll_interval=30)
    async with working(worker):
        await eventually(lambda: len(gates) == 1)
        await worker.resize_queue("bulk", 4)
        await eventually(lambda: len(gates) == 4)
        assert row(table) == (["bulk", "web"], 6)
        await worker.resize_queue("bulk", 1)
        for number in range(3):
            gates[number].set()
            await eventually(lambda number=number: completed() == number + 1)  # type: ignore[misc]
            assert len(gates) == 4
        gates[3].set()
        await eventually(lambda: len(gates) == 5)
        gates[4].set()
        await eventually(lambda: len(gates) == 6)
        gates[5].set()
        await eventually(lambda: table.states() == {"completed": 6})


async def test_slots_of_all_queues_may_be_more_than_a_row_can_say(
    table: JobTable, running: Running, make_worker: MakeWorker
) -> None:
    most = 2**31 - 1
    worker = make_worker(queues={"web": 1, "bulk": most}, poll_interval=30)
    async with working(worker):
        await worker.resize_queue("web", most)
        await worker.start_queue("late", most)
        assert row(table) == (["bulk", "late", "web"], most)
        table.add_all(some("quick", "late", 2))
        await eventually(lambda: table.states() == {"completed": 2})


async def test_a_worker_with_more_running_jobs_than_slots_claims_no_limited_jobs(
    table: JobTable, running: Running, gate: anyio.Event, make_worker: MakeWorker
) -> None:
    worker = make_worker(queues={"web": 4}, prefetch=10, poll_interval=30)
    async with working(worker):
        table.add_all(some("gated", "web", 4))
        await eventually(lambda: running.now["web"] == 4)
        await worker.resize_queue("web", 1)
        table.add_all(some("limited", "web", 5) + some("quick", "web", 5))
        await eventually(lambda: table.states() == {"executing": 9, "available": 5})
        gate.set()
        await eventually(lambda: table.states() == {"completed": 14})


@pytest.mark.parametrize("queues", [SLOTS, ["web", "bulk"]])
async def test_jobs_of_a_claim_in_flight_are_released_when_their_queue_is_stopped(
    table: JobTable,
    running: Running,
    make_worker: MakeWorker,
    monkeypatch: pytest.MonkeyPatch,
    queues: Any,
) -> None:
    claim, go_on = Claimer.claim, anyio.Event()

    async def late(claims: Claimer, limit: int, **options: Any) -> Claimed:
        claimed = await claim(claims, limit, **options)
        if claimed.jobs:
            await go_on.wait()  # its answer has not arrived
        return claimed

    monkeypatch.setattr(Claimer, "claim", late)
    worker = make_worker(queues=queues, prefetch=0, poll_interval=30)
    async with working(worker):
        table.add_all(some("quick", "bulk", 1, max_attempts=1))
        await eventually(lambda: table.states() == {"executing": 1})
        await worker.stop_queue("bulk")
        go_on.set()
        await eventually(lambda: table.states() == {"available": 1})
        assert running.ended == []
        table.add_all(some("quick", "web", 3))
        await eventually(lambda: running.ended == ["web"] * 3)
        assert table.value("select attempt from roost.jobs where queue = 'bulk'") == 0
        await worker.start_queue("bulk", None if isinstance(queues, list) else 1)
        await eventually(lambda: table.states() == {"completed": 4})


async def test_queues_change_all_the_time_and_no_job_is_lost_or_run_twice(
    table: JobTable, running: Running, make_worker: MakeWorker
) -> None:
    table.add_all(some("quick", "web", 300) + some("quick", "bulk", 300))
    worker = make_worker(queues=SLOTS, poll_interval=0.05)
    async with working(worker):
        for _ in range(10):
            await worker.stop_queue("bulk")
            await worker.resize_queue("web", 3)
            await worker.start_queue("bulk", 2)
            await worker.resize_queue("web", 1)
        await eventually(lambda: table.states() == {"completed": 600}, within=60)
    assert running.most["web"] <= 3
    assert running.most["bulk"] <= 2
    assert len(running.ended) == 600
    assert table.value("select max(attempt) from roost.jobs") == 1


async def test_a_started_queue_can_be_paused_at_once(
    table: JobTable, client: AsyncRoost, running: Running, make_worker: MakeWorker
) -> None:
    worker = make_worker(queues=SLOTS, poll_interval=0.02)
    async with working(worker):
        await worker.start_queue("late", 2)
        await client.pause_queue("late", timeout=10)
        table.add_all(some("quick", "late", 3))
        await anyio.sleep(0.1)  # sleeps: five polls
        assert table.states() == {"available": 3}
        await client.resume_queue("late")
        await eventually(lambda: table.states() == {"completed": 3})


async def test_a_paused_queue_starts_paused(
    table: JobTable, client: AsyncRoost, running: Running, make_worker: MakeWorker
) -> None:
    worker = make_worker(queues=SLOTS, poll_interval=0.02)
    async with working(worker):
        await client.pause_queue("bulk", timeout=10)
        await worker.stop_queue("bulk")
        table.add_all(some("quick", "bulk", 3))
        await worker.start_queue("bulk", 2)
        await client.pause_queue("bulk", timeout=10)  # this worker confirms it again
        await anyio.sleep(0.1)  # sleeps: five polls
        assert table.states() == {"available": 3}
        await client.resume_queue("bulk")
        await eventually(lambda: table.states() == {"completed": 3})


async def test_a_job_that_was_dispatched_before_a_stop_is_released(
    table: JobTable, client: AsyncRoost, running: Running, make_worker: MakeWorker
) -> None:
    worker = make_worker(queues=SLOTS, poll_interval=30)
    async with working(worker):
        await eventually(
            lambda: table.value("select count(*) from roost.workers where credit is not null") == 1
        )
        assert worker._session is not None
        stop = worker._session.queues._close
        state = worker._session.state
        stop(state.group_of("bulk"), "bulk")  # type: ignore[arg-type]  # its row is not written yet
        job_id = await client.enqueue("quick", args={"queue": "bulk"}, queue="bulk")
        await eventually(lambda: table.get(job_id).state == "available")
        assert (table.get(job_id).attempt, running.ended) == (0, [])


async def test_every_queue_can_be_stopped(
    table: JobTable, running: Running, make_worker: MakeWorker
) -> None:
    worker = make_worker(queues=SLOTS, poll_interval=0.02)
    table.add_all(some("quick", "web", 1))
    async with working(worker):
        await eventually(lambda: table.states() == {"completed": 1})
        for queue in SLOTS:
            await worker.stop_queue(queue)
        assert row(table) == ([], 0)
        table.add_all(some("quick", "web", 3))
        await anyio.sleep(0.1)  # sleeps: five polls
        assert table.states() == {"completed": 1, "available": 3}
        await worker.start_queue("web", 1)
        await eventually(lambda: table.states() == {"completed": 4})


async def test_the_next_run_begins_with_the_settings(
    table: JobTable, running: Running, make_worker: MakeWorker
) -> None:
    worker = make_worker(queues=SLOTS)
    async with working(worker):
        await worker.stop_queue("bulk")
        await worker.resize_queue("web", 9)
    async with working(worker):
        assert row(table) == (["bulk", "web"], 3)


async def test_a_queue_that_was_started_is_served_after_the_worker_lost_its_row(
    table: JobTable, running: Running, make_worker: MakeWorker
) -> None:
    worker = make_worker(queues=SLOTS, poll_interval=0.05)
    async with working(worker):
        table.rows("delete from roost.workers")
        await worker.start_queue("late", 4)
        assert row(table)[0] == ["bulk", "late", "web"]
        await eventually(lambda: row(table)[1] in (3, 7))
        table.add_all(some("quick", "late", 3))
        await eventually(lambda: table.states() == {"completed": 3})


async def test_the_row_is_written_later_when_the_database_was_away(
    table: JobTable,
    running: Running,
    make_worker: MakeWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    call = Database.call_for_heartbeat
    away = True

    async def fail(database: Database, operation: Any, **options: Any) -> Any:
        if away and operation.__name__ == "set_queues":
            operation.close()
            raise DatabaseUnavailableError("away")
        return await call(database, operation, **options)

    monkeypatch.setattr(Database, "call_for_heartbeat", fail)
    worker = make_worker(queues=SLOTS, heartbeat_interval=0.05)
    async with working(worker):
        with pytest.raises(DatabaseUnavailableError):
            await worker.start_queue("late", 1)
        await worker.stop_queue("bulk")
        assert row(table) == (["bulk", "web"], 3)
        away = False
        await eventually(lambda: row(table) == (["web"], 2))
        table.add_all(some("quick", "late", 1))
        table.add_all(some("quick", "web", 1))
        await eventually(lambda: table.states() == {"completed": 1, "available": 1})


async def test_what_can_not_be_changed_is_refused(
    table: JobTable, make_worker: MakeWorker, registry: HandlerRegistry
) -> None:
    worker = make_worker(queues=SLOTS)
    for call in (
        worker.start_queue("late", 1),
        worker.stop_queue("web"),
        worker.resize_queue("web", 1),
    ):
        with pytest.raises(WorkerNotRunningError):
            await call
    async with working(worker):
        for name, slots, message in (
            ("web", 1, "serves the queue 'web' already"),
            ("late", None, "must be a whole number"),
            ("late", 0, "must be a whole number"),
            ("", 1, "a queue"),
        ):
            with pytest.raises(InvalidSettingError, match=message):
                await worker.start_queue(name, slots)
        with pytest.raises(InvalidSettingError, match="does not serve the queue 'late'"):
            await worker.stop_queue("late")
        with pytest.raises(InvalidSettingError, match="does not serve the queue 'late'"):
            await worker.resize_queue("late", 1)
        with pytest.raises(InvalidSettingError, match="must be a whole number"):
            await worker.resize_queue("web", 0)
        assert row(table) == (["bulk", "web"], 3)
    shared = make_worker(queues=["web"])
    async with working(shared):
        with pytest.raises(InvalidSettingError, match="share its concurrency"):
            await shared.start_queue("late", 1)
        with pytest.raises(InvalidSettingError, match="share its concurrency"):
            await shared.resize_queue("web", 1)
