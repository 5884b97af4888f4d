"""Slots and the line in front of them: all synchronous, and the reason of a cancel is kept."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from time import monotonic

import anyio
import pytest

from roost._model.verdict import Lease
from roost._ops.claim import ClaimedJob
from roost._worker.running import LINGER, Reason, Running, RunningJob

pytestmark = pytest.mark.anyio

NOON = int(datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()) * 1_000_000


def claimed(job_id: int, *, lease_no: int = 1) -> ClaimedJob:
    return ClaimedJob(
        lease=Lease(job_id, 1, lease_no),
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
        running.start_next(now=monotonic()),
        running.start_next(now=monotonic()),
    )
    assert first is not None
    assert second is not None
    assert running.start_next(now=monotonic()) is None
    assert [job.claimed.lease.job_id for job in running] == [1, 2]
    assert set(running.ids) == {1, 2, 3}
    assert running.room(prefetch=1) == 0
    running.finish(first)
    third = running.start_next(now=monotonic())
    assert third is not None
    assert third.claimed.lease.job_id == 3
    assert (running.finished, running.waiting) == (1, 0)


async def test_the_line_can_be_given_up() -> None:
    running = Running(1)
    assert running.waiting_since == running.first_waiting_since == math.inf
    running.admit([claimed(1), claimed(2)])
    assert running.waiting_since <= monotonic()
    assert running.first_waiting_since <= monotonic()
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


def test_an_attempt_waits_until_the_one_before_has_ended_and_is_then_the_next() -> None:
    running = Running(2)
    running.admit([claimed(1)])
    first = running.start_next(now=monotonic())
    assert first is not None
    running.admit([claimed(1, lease_no=2), claimed(2), claimed(3)])
    other = running.start_next(now=monotonic())
    assert other is not None
    assert other.claimed.lease.job_id == 2
    assert running.start_next(now=monotonic()) is None
    assert (len(running), running.waiting) == (2, 1)
    assert Lease(1, 1, 2) in running.leases
    running.finish(first)
    second = running.start_next(now=monotonic())
    assert second is not None
    assert second.claimed.lease == Lease(1, 1, 2)
    assert running.get(1) is second


def test_of_parked_attempts_of_one_job_only_the_newest_can_start() -> None:
    running = Running(3)
    running.admit([claimed(1, lease_no=2)])
    first = running.start_next(now=monotonic())
    assert first is not None
    # The same one again, an older one, a newer one, and what that made obsolete.
    running.admit([claimed(1, lease_no=number) for number in (2, 1, 4, 3)])
    assert running.start_next(now=monotonic()) is None
    assert {lease.lease_no for lease in running.leases} == {2, 4}
    running.finish(first)
    second = running.start_next(now=monotonic())
    assert second is not None
    running.finish(second)
    assert running.start_next(now=monotonic()) is None


def test_parked_attempts_can_be_given_up_one_by_one_or_all() -> None:
    running = Running(4)
    running.admit([claimed(1), claimed(2), claimed(3)])
    started = [running.start_next(now=monotonic()) for _ in range(3)]
    running.admit([claimed(1, lease_no=2), claimed(2, lease_no=2), claimed(3, lease_no=2)])
    assert running.start_next(now=monotonic()) is None
    assert running.give_up_parked(Lease(1, 1, 1)) == []
    assert [job.lease for job in running.give_up_parked(Lease(1, 1, 2))] == [Lease(1, 1, 2)]
    assert len(running.give_up_parked()) == 2
    for job in started:
        assert job is not None
        running.finish(job)
    assert running.start_next(now=monotonic()) is None
    assert list(running.leases) == []


async def test_waiting_until_none_runs() -> None:
    running = Running(2)
    running.admit([claimed(1), claimed(2)])
    jobs = [
        running.start_next(now=monotonic()),
        running.start_next(now=monotonic()),
    ]
    async with anyio.create_task_group() as group:
        group.start_soon(running.wait_until_none_runs)
        for job in jobs:
            await anyio.lowlevel.checkpoint()
            assert job is not None
            running.finish(job)
    assert len(running) == 0
    await running.wait_until_none_runs()


async def run_until_cancelled(job: RunningJob) -> None:
    async with anyio.create_task_group() as group:
        task = job.task = group.create_task(anyio.sleep_forever())
        await anyio.lowlevel.checkpoint()
        job.cancel(Reason.USER)
    assert task.status is anyio.TaskHandle.Status.CANCELLED


async def test_the_first_reason_of_a_cancel_stays() -> None:
    job = RunningJob(claimed(1))
    assert job.reason is None
    await run_until_cancelled(job)
    job.cancel(Reason.LEASE_LOST)
    assert job.reason is Reason.USER


async def test_a_timeout_is_the_reason_if_it_was_the_first() -> None:
    job = RunningJob(claimed(1))
    with job.limited_to(0.001):
        await anyio.sleep_forever()
    job.cancel(Reason.SHUTDOWN)
    assert job.reason is Reason.TIMEOUT


async def test_a_timeout_that_comes_after_a_cancel_is_not_the_reason() -> None:
    job = RunningJob(claimed(1))
    job.cancel(Reason.SHUTDOWN)
    with job.limited_to(0.001):
        await anyio.sleep_forever()
    assert job.reason is Reason.SHUTDOWN


async def test_a_cancel_of_a_handler_that_has_ended_comes_too_late() -> None:
    job = RunningJob(claimed(1))
    job.ended = True
    job.cancel(Reason.USER)
    assert job.reason is None


async def test_only_a_stop_ends_the_wait_for_a_thread() -> None:
    job = RunningJob(claimed(1))
    assert job.lingering().deadline == math.inf
    job.end_by(7)
    assert job.linger is not None
    assert job.linger.deadline == 7 + LINGER


def prefetched(job_id: int, *, number: int = 1, max_attempts: int = 20) -> ClaimedJob:
    return claimed(job_id)._replace(prefetch_no=number, max_attempts=max_attempts)


def start_all(running: Running) -> list[int]:
    """Start what may start, and return the ids."""
    started = []
    while (job := running.start_next(now=monotonic())) is not None:
        started.append(job.claimed.lease.job_id)
    return started


async def test_a_prefetched_job_starts_only_when_it_is_written_that_it_may_have() -> None:
    running = Running(2)
    line = [prefetched(number) for number in range(1, 6)]
    running.admit(line)
    assert start_all(running) == []
    with anyio.fail_after(5):
        await running.cover_wake.wait()
    assert running.to_cover(ahead=0) == line[:2], "those that free slots wait for"
    running.cover(line[1], ahead=0)
    assert start_all(running) == [1, 2]
    assert running.to_cover(ahead=0) == []
    assert running.to_cover(ahead=2) == line[2:4]


async def test_a_job_on_its_last_attempt_is_never_covered_ahead() -> None:
    running = Running(1)
    line = [prefetched(1, max_attempts=1), prefetched(2), prefetched(3, max_attempts=1)]
    running.admit(line)
    assert running.to_cover(ahead=9) == line[:2]


async def test_what_leaves_the_line_unstarted_takes_its_cover_along() -> None:
    running = Running(1)
    line = [prefetched(number) for number in range(1, 5)]
    other = line[1]._replace(queue="other")
    running.admit([line[0], other, *line[2:]])
    running.cover(line[2], ahead=9)
    assert running.give_up_waiting({"other"}) == [other]
    assert running.covered == 2
    assert start_all(running) == [1]
    assert running.give_up_waiting() == line[2:]
    assert running.covered == 0
    running.cover(line[3], ahead=0)  # its answer came late
    later = prefetched(9, number=2)
    running.admit([later])
    running.cover(line[3], ahead=0)
    assert running.covered == 0


async def test_jobs_that_were_claimed_for_slots_need_no_cover() -> None:
    running = Running(2)
    running.admit([claimed(1), prefetched(2)])
    assert start_all(running) == [1]
