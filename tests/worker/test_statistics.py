"""A worker counts each finished attempt once, with the outcome that the database has given it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import (
    AsyncRoost,
    CancelJob,
    DiscardJob,
    HandlerRegistry,
    RetryJob,
    SnoozeJob,
    Worker,
    job,
)
from roost._model.states import Event
from roost._model.tally import Outcome
from roost._model.verdict import Lease, Verdict
from roost._ops.rollups import Counted
from roost._ops.settle import Settled
from roost._worker import loop_watch
from roost._worker.loop_lag import LoopLag
from roost._worker.session import Session
from roost._worker.slots import Slots
from roost._worker.state import WorkerState
from roost._worker.statistics import MAX_SERIES, OTHER, Statistics

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., "KeptWorker"]


class KeptWorker(Worker):
    """A worker whose state can be read after its run."""

    last: Session

    def _new_session(self) -> Session:
        self.last = super()._new_session()
        return self.last


@pytest.fixture
def make_worker(dsn: str, registry: HandlerRegistry) -> MakeWorker:
    def make(**options: Any) -> KeptWorker:
        return KeptWorker(dsn, registry=registry, **options)

    return make


def state_of(worker: KeptWorker) -> WorkerState:
    return worker.last.state


def counted(worker: KeptWorker) -> dict[tuple[str, Outcome], int]:
    """Return the number of attempts by task and outcome."""
    return {
        (one.task, one.outcome): one.tally.count for one in state_of(worker).statistics.totals()
    }


def verdict(
    statistics: Statistics, job_id: int, event: Event, *, completed: bool = False
) -> Verdict:
    sample = (statistics.series_of("q", "t"), 0.5, 0.25)
    return Verdict(Lease(job_id, 1, 1), event, completed=completed, sample=sample)


def by_outcome(statistics: Statistics) -> dict[Outcome, int]:
    return {one.outcome: one.tally.count for one in statistics.totals()}


async def test_each_way_to_end_is_counted(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("end", registry=registry)
    async def end(how: str) -> None:
        await anyio.lowlevel.checkpoint()
        match how:
            case "retry":
                raise RetryJob(in_=1000)
            case "discard":
                raise DiscardJob
            case "cancel":
                raise CancelJob
            case "snooze":
                raise SnoozeJob(1000)

    for how, number in (("return", 3), ("retry", 2), ("discard", 1), ("cancel", 1), ("snooze", 1)):
        for _ in range(number):
            table.add("end", args={"how": how})
    worker = make_worker()
    assert await worker.run_once() == 8
    assert counted(worker) == {
        ("end", "completed"): 3,
        ("end", "retried"): 2,
        ("end", "discarded"): 1,
        ("end", "cancelled"): 1,
        ("end", "snoozed"): 1,
    }
    assert state_of(worker).statistics.started == 8


async def test_waits_begin_when_a_job_is_due_and_end_when_it_starts(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("work", registry=registry)
    async def work() -> None:
        await anyio.sleep(0.2)  # sleeps: this is measured

    late = table.add("work")
    past = "now() - interval '100 seconds'"
    table.change(late, f"scheduled_at = {past}, inserted_at = {past}")
    worker = make_worker()
    await worker.run_once()
    [one] = state_of(worker).statistics.totals()
    assert (one.queue, one.task, one.outcome, one.tally.count) == (
        "default",
        "work",
        "completed",
        1,
    )
    assert 100 <= one.tally.wait_seconds < 160
    assert 0.2 <= one.tally.run_seconds < 60
    assert sum(one.tally.wait.values()) == sum(one.tally.run.values()) == 1


async def test_a_job_that_was_scheduled_in_the_past_waits_from_its_enqueue(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("work", registry=registry)
    async def work() -> None: ...

    table.change(table.add("work"), "scheduled_at = now() - interval '1 day'")
    worker = make_worker()
    await worker.run_once()
    [one] = state_of(worker).statistics.totals()
    assert one.tally.wait_seconds < 3600


async def test_an_interrupted_attempt_is_released_and_an_unstarted_job_is_not_counted(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    started = anyio.Event()

    @job("hang", registry=registry)
    async def hang() -> None:
        started.set()
        await anyio.sleep_forever()

    for _ in range(3):
        table.add("hang")
    worker = make_worker(concurrency=1, prefetch=2, shutdown_timeout=0)
    async with working(worker):
        await started.wait()
        await eventually(lambda: state_of(worker).slots.prefetched == 2)
    assert counted(worker) == {("hang", "released"): 1}
    assert state_of(worker).statistics.started == 1
    assert table.states() == {"available": 3}


async def test_a_job_that_is_cancelled_before_its_start_is_not_counted(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("work", registry=registry)
    async def work() -> None:
        raise AssertionError

    job_id = table.add("work")
    table.change(job_id, "cancel_requested = true")
    worker = make_worker()
    await worker.run_once()
    assert table.get(job_id).state == "cancelled"
    assert counted(worker) == {}


async def test_a_lost_attempt_is_lost_and_its_rescue_is_counted(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    starts = []

    @job("sleep", registry=registry)
    async def sleep() -> None:
        starts.append(1)
        if len(starts) == 1:
            await anyio.sleep_forever()

    job_id = table.add("sleep")
    worker = make_worker(heartbeat_interval=0.05, orphan_reaper_interval=0.05)
    async with working(worker):
        await eventually(lambda: len(starts) == 1)
        table.rows("delete from roost.workers")
        await eventually(lambda: table.get(job_id).state == "completed")
    assert counted(worker) == {
        ("sleep", "lost"): 1,
        ("sleep", "crashed"): 1,
        ("sleep", "completed"): 1,
    }
    statistics = state_of(worker).statistics
    assert (statistics.lost, statistics.rescued, statistics.started) == (1, 1, 2)


def test_a_verdict_that_was_not_written_is_lost() -> None:
    statistics = Statistics()
    late = verdict(statistics, 1, Event.COMPLETE)
    written = verdict(statistics, 2, Event.COMPLETE)
    statistics.settled(Settled([late], [], []), [late, written])
    assert by_outcome(statistics) == {"completed": 1, "lost": 1}


def test_a_verdict_that_an_unanswered_try_has_written_is_not_lost() -> None:
    statistics = Statistics()
    late = verdict(statistics, 1, Event.RETRY)
    statistics.settled(Settled([late], [], []), [late], unsure={late.lease})
    assert by_outcome(statistics) == {"retried": 1}


def test_a_job_that_its_handler_has_completed_is_completed() -> None:
    statistics = Statistics()
    own = verdict(statistics, 1, Event.RETRY, completed=True)
    statistics.settled(Settled([own], [], []), [own])
    assert by_outcome(statistics) == {"completed": 1}


def test_a_job_that_was_cancelled_instead_of_retried_is_cancelled() -> None:
    statistics = Statistics()
    sent = [verdict(statistics, 1, Event.RETRY), verdict(statistics, 2, Event.DISCARD)]
    statistics.settled(Settled([], [], [], failed=[1, 2]), sent)
    assert by_outcome(statistics) == {"cancelled": 1, "discarded": 1}


def test_more_tasks_than_the_limit_are_counted_together() -> None:
    statistics = Statistics()
    for n in range(MAX_SERIES + 10):
        series = statistics.series_of("q", f"task {n}")
        series.started += 1
        statistics.count((series, 0.1, 0.1), "completed")
    assert len(list(statistics)) == MAX_SERIES + 1
    others = [one for one in statistics.totals() if one.task == OTHER]
    assert [(one.queue, one.tally.count) for one in others] == [(OTHER, 10)]
    assert statistics.started == MAX_SERIES + 10


def test_what_is_taken_for_a_roll_up_stays_in_the_totals() -> None:
    statistics = Statistics()
    series = statistics.series_of("q", "t")
    statistics.count((series, 0.5, 0.25), "completed")
    [taken] = statistics.take_fresh()
    assert (taken.queue, taken.task, taken.outcome, taken.tally.count) == ("q", "t", "completed", 1)
    assert statistics.take_fresh() == []
    statistics.count((series, 0.5, 0.25), "completed")
    [total] = statistics.totals()
    assert isinstance(total, Counted)
    assert (total.tally.count, total.tally.wait_seconds, total.tally.run_seconds) == (2, 1.0, 0.5)
    assert total.tally.run == {73: 2}
    assert [one.tally.count for one in statistics.take_fresh()] == [1]


async def test_the_row_says_where_a_worker_runs_and_how_busy_it_is(
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
    client: AsyncRoost,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop_watch, "INTERVAL", 0.05)
    gate = anyio.Event()

    @job("wait", registry=registry)
    async def wait() -> None:
        await gate.wait()

    for _ in range(3):
        table.add("wait", queue="a")
    worker = make_worker(queues={"a": 1, "b": 2}, prefetch=2, heartbeat_interval=0.05)
    async with working(worker):
        with anyio.fail_after(20):
            while True:
                [info] = await client.list_workers()
                if (info.running, info.waiting) == (1, 2):
                    break
        assert (info.host, info.pid) == (socket.gethostname(), os.getpid())
        assert info.slots == {"a": 1, "b": 2}
        await worker.resize_queue("a", 3)
        await worker.start_queue("c", 4)
        [info] = await client.list_workers()
        assert info.slots == {"a": 3, "b": 2, "c": 4}
        await worker.stop_queue("b")
        [info] = await client.list_workers()
        assert info.slots == {"a": 3, "c": 4}
        state_of(worker).loop_lag.record(7.5)
        with anyio.fail_after(20):
            while info.loop_lag != 7.5:
                [info] = await client.list_workers()
            while info.loop_lag == 7.5:  # the next heartbeat has a lag of its own
                [info] = await client.list_workers()
        gate.set()


async def test_queues_that_share_slots_have_none_of_their_own(
    make_worker: MakeWorker, client: AsyncRoost
) -> None:
    async with working(make_worker()):
        [info] = await client.list_workers()
    assert (info.slots, info.running, info.waiting) == (None, 0, 0)


async def test_the_lag_of_the_loop_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_watch, "INTERVAL", 0.02)
    lag = LoopLag()
    async with anyio.create_task_group() as group:
        group.start_soon(loop_watch.LoopWatch(Slots(1), lag).run)
        await anyio.sleep(0.05)  # sleeps: until the watch waits
        until = anyio.current_time() + 0.3
        while anyio.current_time() < until:
            pass
        await eventually(lambda: lag.worst > 0.2)
        group.cancel_scope.cancel()
    assert lag.take_worst() >= 0.25
    assert lag.worst == 0.0
