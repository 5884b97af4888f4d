"""A worker is notified of jobs or polls for them. No job is lost when it changes its mode."""

from __future__ import annotations

import math
from collections.abc import Callable

import anyio
import pytest
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import HandlerRegistry, Worker, job
from roost._worker.notify_mode import (
    FEW,
    MANY,
    MAX_POLL_INTERVAL,
    POLL_INTERVAL,
    QUIET_WINDOWS,
    SHORT_NOTIFIED,
    WINDOW,
    NotifyMode,
)

MakeWorker = Callable[..., Worker]


def notified() -> NotifyMode:
    """Return a mode that wants notifications and no longer awaits older transactions."""
    mode = NotifyMode()
    mode.record_poll(0, more=False, last=True, now=0.0)
    return mode


def mode_of(worker: Worker) -> NotifyMode:
    """Return the notify mode of a running worker."""
    assert worker._session is not None
    return worker._session.state.notify_mode


def add_each(table: JobTable, count: int) -> None:
    """Add jobs, each in a transaction of its own."""
    for _ in range(count):
        table.add("tick")


def test_a_new_worker_is_notified_and_polls_at_growing_intervals() -> None:
    mode = NotifyMode()
    intervals = []
    for number in range(4):
        intervals.append(mode.poll_interval)
        assert mode.awaiting_older_transactions
        mode.record_poll(0, more=False, last=number == 3, now=float(number))
    assert intervals == [POLL_INTERVAL, 2 * POLL_INTERVAL, 4 * POLL_INTERVAL, 8 * POLL_INTERVAL]
    assert mode.poll_interval == math.inf
    assert not mode.awaiting_older_transactions


def test_many_notifications_in_a_window_are_too_many() -> None:
    mode = notified()
    for number in range(MANY):
        assert not mode.should_change
        mode.record_notifications(1, now=10 + number * WINDOW / MANY)
    assert mode.should_change


def test_many_notifications_over_several_windows_are_not_too_many() -> None:
    mode = notified()
    for number in range(10 * MANY):
        mode.record_notifications(1, now=10 + number * 1.1 * WINDOW / MANY)
    assert not mode.should_change


def test_a_worker_polls_until_it_finds_few_jobs_for_some_windows() -> None:
    mode = notified()
    mode.start_polling(now=10.0)
    assert mode.poll_interval == POLL_INTERVAL
    now = 10.0
    for _ in range(20):
        mode.record_poll(FEW, more=False, last=False, now=(now := now + 1.1 * WINDOW))
        assert not mode.should_change
    for number in range(QUIET_WINDOWS):
        assert not mode.should_change, number
        mode.record_poll(0, more=False, last=False, now=(now := now + 1.1 * WINDOW))
    assert mode.should_change
    mode.start_being_notified(now=20.0)
    assert mode.awaiting_older_transactions
    assert mode.xid_horizon is None


def test_a_worker_polls_less_often_while_it_finds_nothing() -> None:
    mode = notified()
    mode.start_polling(now=10.0)
    intervals = []
    for found in (0, 0, 0, 0, 1, 0):
        intervals.append(mode.poll_interval)
        mode.record_poll(found, more=False, last=False, now=10.0)
    assert intervals == [
        POLL_INTERVAL,
        2 * POLL_INTERVAL,
        MAX_POLL_INTERVAL,
        MAX_POLL_INTERVAL,
        MAX_POLL_INTERVAL,
        POLL_INTERVAL,
    ]


def test_a_worker_with_a_backlog_continues_to_poll() -> None:
    mode = notified()
    mode.start_polling(now=10.0)
    for number in range(20):
        mode.record_poll(1, more=True, last=False, now=10.0 + number)
    assert not mode.should_change


def test_a_worker_polls_longer_after_a_short_time_with_too_many_notifications() -> None:
    mode, now = notified(), 10.0
    windows = []
    for pause in (0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, SHORT_NOTIFIED, 0.1):
        mode.start_polling(now=(now := now + pause))
        windows.append(0)
        while not mode.should_change:
            mode.record_poll(0, more=False, last=False, now=(now := now + 1.1 * WINDOW))
            windows[-1] += 1
        mode.start_being_notified(now=now)
    assert windows == [2, 4, 8, 16, 32, 64, 64, 2, 4]


def test_a_new_incarnation_is_notified_and_awaits_older_transactions() -> None:
    mode = notified()
    mode.xid_horizon = 7
    mode.start_being_notified(now=20.0)
    assert mode.wants_notify
    assert mode.xid_horizon is None
    assert mode.poll_interval == POLL_INTERVAL


@pytest.mark.anyio
async def test_a_busy_worker_polls_and_an_idle_one_wants_notifications(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("tick", registry=registry)
    async def tick() -> None: ...

    def wants_notify() -> bool:
        return table.value("select wants_notify from roost.workers") is True

    worker = make_worker(poll_interval=30)
    async with working(worker):
        assert wants_notify()
        with anyio.fail_after(20):
            while wants_notify():
                add_each(table, 100)
                await anyio.sleep(0.001)
        await eventually(lambda: table.states().keys() == {"completed"})
        await eventually(wants_notify)
        # Only a notification wakes it now.
        # Other tests' transactions on the server count, too.
        await eventually(lambda: not mode_of(worker).awaiting_older_transactions, within=30)
        job_id = table.add("tick")
        await eventually(lambda: table.get(job_id).state == "completed")


@pytest.mark.anyio
async def test_jobs_of_a_transaction_that_read_the_workers_too_early_are_found(
    dsn: str, table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("tick", registry=registry)
    async def tick() -> None: ...

    with JobTable(dsn) as early:
        early.script("begin")
        # No worker wants notifications yet, so the commit sends none.
        job_id = early.add("tick")
        worker = make_worker(poll_interval=30)
        async with working(worker):
            # It has polled several times, and could not see the job.
            await eventually(lambda: mode_of(worker).poll_interval > 4 * POLL_INTERVAL)
            assert mode_of(worker).awaiting_older_transactions
            assert table.states() == {}
            early.script("commit")
            await eventually(lambda: table.get(job_id).state == "completed")


@pytest.mark.anyio
async def test_bursts_and_pauses_lose_no_job(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    """Workers change between polling and notifications while jobs are added.

    The poll interval is longer than the test may take.
    """

    @job("tick", registry=registry)
    async def tick() -> None: ...

    async with working(make_worker(poll_interval=30)), working(make_worker(poll_interval=30)):
        for pause in (0.0, 0.3, 0.45, 0.5, 0.55, 0.6, 0.7):
            for _ in range(15):
                add_each(table, 20)
                await anyio.sleep(0.003)
            await anyio.sleep(pause)
            table.add("tick")
            await eventually(lambda: table.states().keys() == {"completed"})
