"""Whether a worker is notified of jobs or looks by itself; between the two no job is overlooked."""

from __future__ import annotations

import math
from collections.abc import Callable

import anyio
import pytest
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import HandlerRegistry, Worker, job
from roost._worker.alertness import (
    FEW,
    LOOK_GAP,
    MANY,
    MAX_LOOK_GAP,
    QUIET_WINDOWS,
    SHORT_SLEEP,
    WINDOW,
    Alertness,
)

MakeWorker = Callable[..., Worker]


def asleep() -> Alertness:
    """Return one that sleeps, and has settled down."""
    alertness = Alertness()
    alertness.looked(0, more=False, last=True, now=0.0)
    return alertness


def alertness_of(worker: Worker) -> Alertness:
    """Return what a running worker knows of its own sleep."""
    assert worker._session is not None
    return worker._session._runtime.alertness


def add_each(table: JobTable, count: int) -> None:
    """Add jobs, each in a transaction of its own."""
    for _ in range(count):
        table.add("tick")


def test_it_begins_asleep_and_looks_at_growing_gaps_until_all_have_seen_it() -> None:
    alertness = Alertness()
    gaps = []
    for number in range(4):
        gaps.append(alertness.gap)
        assert alertness.settling_down
        alertness.looked(0, more=False, last=number == 3, now=float(number))
    assert gaps == [LOOK_GAP, 2 * LOOK_GAP, 4 * LOOK_GAP, 8 * LOOK_GAP]
    assert alertness.gap == math.inf
    assert not alertness.settling_down


def test_many_notifications_in_a_window_are_too_many() -> None:
    alertness = asleep()
    for number in range(MANY):
        assert not alertness.should_turn
        alertness.heard(1, now=10 + number * WINDOW / MANY)
    assert alertness.should_turn


def test_many_notifications_over_several_windows_are_not() -> None:
    alertness = asleep()
    for number in range(10 * MANY):
        alertness.heard(1, now=10 + number * 1.1 * WINDOW / MANY)
    assert not alertness.should_turn


def test_awake_it_looks_all_the_time_until_it_finds_little_for_some_windows() -> None:
    alertness = asleep()
    alertness.wake(now=10.0)
    assert alertness.gap == LOOK_GAP
    now = 10.0
    for _ in range(20):
        alertness.looked(FEW, more=False, last=False, now=(now := now + 1.1 * WINDOW))
        assert not alertness.should_turn
    for number in range(QUIET_WINDOWS):
        assert not alertness.should_turn, number
        alertness.looked(0, more=False, last=False, now=(now := now + 1.1 * WINDOW))
    assert alertness.should_turn
    alertness.sleep(now=20.0)
    assert alertness.settling_down
    assert alertness.horizon is None


def test_awake_it_looks_less_often_while_it_finds_nothing() -> None:
    alertness = asleep()
    alertness.wake(now=10.0)
    gaps = []
    for found in (0, 0, 0, 0, 1, 0):
        gaps.append(alertness.gap)
        alertness.looked(found, more=False, last=False, now=10.0)
    assert gaps == [LOOK_GAP, 2 * LOOK_GAP, MAX_LOOK_GAP, MAX_LOOK_GAP, MAX_LOOK_GAP, LOOK_GAP]


def test_with_a_backlog_it_stays_awake() -> None:
    alertness = asleep()
    alertness.wake(now=10.0)
    for number in range(20):
        alertness.looked(1, more=True, last=False, now=10.0 + number)
    assert not alertness.should_turn


def test_who_is_woken_again_at_once_stays_awake_for_longer() -> None:
    alertness, now = asleep(), 10.0
    windows = []
    for pause in (0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, SHORT_SLEEP, 0.1):
        alertness.wake(now=(now := now + pause))
        windows.append(0)
        while not alertness.should_turn:
            alertness.looked(0, more=False, last=False, now=(now := now + 1.1 * WINDOW))
            windows[-1] += 1
        alertness.sleep(now=now)
    assert windows == [2, 4, 8, 16, 32, 64, 64, 2, 4]


def test_when_its_row_is_a_new_one_it_sleeps_and_settles_down_again() -> None:
    alertness = asleep()
    alertness.horizon = 7
    alertness.sleep(now=20.0)
    assert alertness.asleep
    assert alertness.horizon is None
    assert alertness.gap == LOOK_GAP


@pytest.mark.anyio
async def test_a_busy_worker_says_that_it_is_awake_and_an_idle_one_that_it_sleeps(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("tick", registry=registry)
    async def tick() -> None: ...

    def sleeps() -> bool:
        return table.value("select wants_notify from roost.workers") is True

    worker = make_worker(poll_interval=30)
    async with working(worker):
        assert sleeps()
        with anyio.fail_after(20):
            while sleeps():
                add_each(table, 100)
                await anyio.sleep(0.001)
        await eventually(lambda: table.states().keys() == {"completed"})
        await eventually(sleeps)
        # And it hears again, when nothing but a notification wakes it.
        # Other tests' transactions on the server count, too.
        await eventually(lambda: not alertness_of(worker).settling_down, within=30)
        job_id = table.add("tick")
        await eventually(lambda: table.get(job_id).state == "completed")


@pytest.mark.anyio
async def test_jobs_of_a_transaction_that_asked_too_early_who_sleeps_are_found(
    dsn: str, table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("tick", registry=registry)
    async def tick() -> None: ...

    with JobTable(dsn) as early:
        early.script("begin")
        # Nobody is there who sleeps, so nobody is notified at the commit.
        job_id = early.add("tick")
        worker = make_worker(poll_interval=30)
        async with working(worker):
            # It has looked several times, and could not see it.
            await eventually(lambda: alertness_of(worker).gap > 4 * LOOK_GAP)
            assert alertness_of(worker).settling_down
            assert table.states() == {}
            early.script("commit")
            await eventually(lambda: table.get(job_id).state == "completed")


@pytest.mark.anyio
async def test_bursts_and_pauses_lose_no_job(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    """Workers fall asleep and wake up while jobs come in; the poll is too slow to help."""

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
