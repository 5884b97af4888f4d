"""Slots and the line in front of them: all synchronous, and the reason of a cancel is kept."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import anyio
import pytest

from roost._model.verdict import Lease
from roost._ops.claim import ClaimedJob
from roost._worker.running import LINGER, Reason, Running, RunningJob

pytestmark = pytest.mark.anyio

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def claimed(job_id: int) -> ClaimedJob:
    return ClaimedJob(
        lease=Lease(job_id, 1, 1),
        queue="default",
        task="work",
        args_text="{}",
        priority=0,
        attempt=1,
        max_attempts=20,
        scheduled_at=NOON,
        attempted_at=NOON,
        errors_text=None,
        unique_key=None,
        inserted_at=NOON,
        tags=None,
        timeout_seconds=None,
        cancel_requested=False,
        depends_on=None,
        metadata_text=None,
    )


async def test_jobs_move_from_the_line_into_free_slots_in_order() -> None:
    running = Running(2)
    running.admit([claimed(1), claimed(2), claimed(3)])
    assert (running.waiting, len(running), running.room(prefetch=0)) == (3, 0, -1)
    first, second = (
        running.start_next(now=anyio.current_time()),
        running.start_next(now=anyio.current_time()),
    )
    assert first is not None
    assert second is not None
    assert running.start_next(now=anyio.current_time()) is None
    assert [job.claimed.lease.job_id for job in running] == [1, 2]
    assert set(running.ids) == {1, 2, 3}
    assert running.room(prefetch=1) == 0
    running.finish(first)
    third = running.start_next(now=anyio.current_time())
    assert third is not None
    assert third.claimed.lease.job_id == 3
    assert (running.finished, running.waiting) == (1, 0)


async def test_the_line_can_be_given_up() -> None:
    running = Running(1)
    assert running.waiting_since == running.first_waiting_since == math.inf
    running.admit([claimed(1), claimed(2)])
    assert running.waiting_since <= anyio.current_time()
    assert running.first_waiting_since <= anyio.current_time()
    assert [job.lease.job_id for job in running.give_up_waiting()] == [1, 2]
    assert running.waiting == 0
    assert running.waiting_since == math.inf


async def test_the_line_moves_while_the_next_in_it_grows_old() -> None:
    running = Running(1)
    running.admit([claimed(1), claimed(2)])
    began = running.first_waiting_since
    running.start_next(now=began + 10)
    assert running.waiting_since == began + 10
    assert running.first_waiting_since == began


async def test_waiting_until_none_runs() -> None:
    running = Running(2)
    running.admit([claimed(1), claimed(2)])
    jobs = [
        running.start_next(now=anyio.current_time()),
        running.start_next(now=anyio.current_time()),
    ]
    async with anyio.create_task_group() as group:
        group.start_soon(running.wait_until_none_runs)
        for job in jobs:
            await anyio.lowlevel.checkpoint()
            assert job is not None
            running.finish(job)
    assert len(running) == 0
    await running.wait_until_none_runs()


async def test_the_first_reason_of_a_cancel_stays() -> None:
    job = RunningJob(claimed(1))
    job.cancel(Reason.USER)
    job.cancel(Reason.LEASE_LOST)
    job.limit(5)
    job.end_by(0)
    assert job.reason is Reason.USER
    assert job.scope.cancel_called


async def test_the_nearer_of_limit_and_grace_is_the_reason() -> None:
    now = anyio.current_time()
    short = RunningJob(claimed(1))
    short.limit(1)
    short.end_by(now + 100)
    assert short.reason is Reason.TIMEOUT
    assert short.scope.deadline < now + 50

    long = RunningJob(claimed(2))
    long.limit(100)
    long.end_by(now + 1)
    assert long.reason is Reason.SHUTDOWN
    assert long.scope.deadline == now + 1


async def test_a_limit_that_is_set_after_the_stop_began_does_not_stretch_the_grace() -> None:
    now = anyio.current_time()
    job = RunningJob(claimed(1))
    job.end_by(now + 1)
    job.limit(100)
    assert job.reason is Reason.SHUTDOWN
    assert job.scope.deadline == now + 1


async def test_only_a_stop_ends_the_wait_for_a_thread() -> None:
    job = RunningJob(claimed(1))
    assert job.lingering().deadline == math.inf
    job.end_by(7)
    assert job.linger is not None
    assert job.linger.deadline == 7 + LINGER
