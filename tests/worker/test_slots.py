"""Slots, prefetched jobs and parked attempts, and the reasons of a cancel."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from time import monotonic

import anyio
import pytest

from roost._model.verdict import Lease
from roost._ops.claim import ClaimedJob
from roost._worker.slots import UNINTERRUPTIBLE_GRACE, Reason, RunningJob, Slots

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


async def test_prefetched_jobs_move_into_free_slots_in_order() -> None:
    slots = Slots(2)
    slots.put([claimed(1), claimed(2), claimed(3)])
    assert (slots.prefetched, len(slots), slots.room(prefetch=0)) == (3, 0, -1)
    first, second = (
        slots.start_next(now=monotonic()),
        slots.start_next(now=monotonic()),
    )
    assert first is not None
    assert second is not None
    assert slots.start_next(now=monotonic()) is None
    assert [job.claimed.lease.job_id for job in slots] == [1, 2]
    assert set(slots.job_ids) == {1, 2, 3}
    assert slots.room(prefetch=1) == 0
    slots.finish(first)
    third = slots.start_next(now=monotonic())
    assert third is not None
    assert third.claimed.lease.job_id == 3
    assert (slots.finished, slots.prefetched) == (1, 0)


async def test_prefetched_jobs_can_be_drained() -> None:
    slots = Slots(1)
    assert slots.moved_at == slots.first_claimed_at == math.inf
    slots.put([claimed(1), claimed(2)])
    assert slots.moved_at <= monotonic()
    assert slots.first_claimed_at <= monotonic()
    assert [job.lease.job_id for job in slots.drain_prefetched()] == [1, 2]
    assert slots.prefetched == 0
    assert slots.moved_at == math.inf


async def test_prefetched_jobs_start_while_the_next_one_waits() -> None:
    slots = Slots(1)
    slots.put([claimed(1), claimed(2)])
    began = slots.first_claimed_at
    slots.start_next(now=began + 10)
    assert slots.moved_at == began + 10
    assert slots.first_claimed_at == began


def test_an_attempt_starts_next_after_the_earlier_one_has_ended() -> None:
    slots = Slots(2)
    slots.put([claimed(1)])
    first = slots.start_next(now=monotonic())
    assert first is not None
    slots.put([claimed(1, lease_no=2), claimed(2), claimed(3)])
    other = slots.start_next(now=monotonic())
    assert other is not None
    assert other.claimed.lease.job_id == 2
    assert slots.start_next(now=monotonic()) is None
    assert (len(slots), slots.prefetched) == (2, 1)
    assert Lease(1, 1, 2) in slots.leases
    slots.finish(first)
    second = slots.start_next(now=monotonic())
    assert second is not None
    assert second.claimed.lease == Lease(1, 1, 2)
    assert slots.get(Lease(1, 1, 2)) is second


def test_of_parked_attempts_of_one_job_only_the_newest_can_start() -> None:
    slots = Slots(3)
    slots.put([claimed(1, lease_no=2)])
    first = slots.start_next(now=monotonic())
    assert first is not None
    # The same attempt again, an older one, a newer one, and one that the newer one made obsolete.
    slots.put([claimed(1, lease_no=number) for number in (2, 1, 4, 3)])
    assert slots.start_next(now=monotonic()) is None
    assert {lease.lease_no for lease in slots.leases} == {2, 4}
    slots.finish(first)
    second = slots.start_next(now=monotonic())
    assert second is not None
    slots.finish(second)
    assert slots.start_next(now=monotonic()) is None


def test_parked_attempts_can_be_drained_one_by_one_or_all() -> None:
    slots = Slots(4)
    slots.put([claimed(1), claimed(2), claimed(3)])
    started = [slots.start_next(now=monotonic()) for _ in range(3)]
    slots.put([claimed(1, lease_no=2), claimed(2, lease_no=2), claimed(3, lease_no=2)])
    assert slots.start_next(now=monotonic()) is None
    assert slots.drain_parked(Lease(1, 1, 1)) == []
    assert [job.lease for job in slots.drain_parked(Lease(1, 1, 2))] == [Lease(1, 1, 2)]
    assert len(slots.drain_parked()) == 2
    for job in started:
        assert job is not None
        slots.finish(job)
    assert slots.start_next(now=monotonic()) is None
    assert list(slots.leases) == []


async def test_wait_until_none_runs_returns_when_every_slot_is_free() -> None:
    slots = Slots(2)
    slots.put([claimed(1), claimed(2)])
    jobs = [
        slots.start_next(now=monotonic()),
        slots.start_next(now=monotonic()),
    ]
    async with anyio.create_task_group() as group:
        group.start_soon(slots.wait_until_none_runs)
        for job in jobs:
            await anyio.lowlevel.checkpoint()
            assert job is not None
            slots.finish(job)
    assert len(slots) == 0
    await slots.wait_until_none_runs()


async def run_until_cancelled(job: RunningJob) -> None:
    async with anyio.create_task_group() as group:
        task = job.task = group.create_task(anyio.sleep_forever())
        await anyio.lowlevel.checkpoint()
        job.cancel(Reason.USER)
    assert task.status is anyio.TaskHandle.Status.CANCELLED


async def test_the_first_reason_of_a_cancel_is_kept() -> None:
    job = RunningJob(claimed(1))
    assert job.reason is None
    await run_until_cancelled(job)
    job.cancel(Reason.LEASE_LOST)
    assert job.reason is Reason.USER


async def test_the_reason_is_timeout_if_the_timeout_came_first() -> None:
    job = RunningJob(claimed(1))
    with job.time_out_after(0.001):
        await anyio.sleep_forever()
    job.cancel(Reason.SHUTDOWN)
    assert job.reason is Reason.TIMEOUT


async def test_a_timeout_that_comes_after_a_cancel_is_not_the_reason() -> None:
    job = RunningJob(claimed(1))
    job.cancel(Reason.SHUTDOWN)
    with job.time_out_after(0.001):
        await anyio.sleep_forever()
    assert job.reason is Reason.SHUTDOWN


async def test_a_cancel_after_the_handler_has_ended_is_ignored() -> None:
    job = RunningJob(claimed(1))
    job.handler_ended = True
    job.cancel(Reason.USER)
    assert job.reason is None


async def test_only_a_stop_ends_the_wait_for_a_thread() -> None:
    job = RunningJob(claimed(1))
    ended = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(job.wait_uninterrupted, ended.wait)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
        # A cancel does not end the wait. The stop does.
        assert job.uninterrupted is not None
        job.end_by(anyio.current_time() - UNINTERRUPTIBLE_GRACE)
    assert not ended.is_set()


def prefetched(job_id: int, *, number: int = 1, max_attempts: int = 20) -> ClaimedJob:
    return claimed(job_id)._replace(prefetch_no=number, max_attempts=max_attempts)


def start_all(slots: Slots) -> list[int]:
    """Start all jobs that may start, and return their ids."""
    started = []
    while (job := slots.start_next(now=monotonic())) is not None:
        started.append(job.claimed.lease.job_id)
    return started


async def test_a_prefetched_job_starts_only_after_its_mark_is_written() -> None:
    slots = Slots(2)
    jobs = [prefetched(number) for number in range(1, 6)]
    slots.put(jobs)
    assert start_all(slots) == []
    with anyio.fail_after(5):
        await slots.mark_wake.wait()
    assert slots.to_mark(ahead=0) == jobs[:2], "those that free slots wait for"
    slots.mark(jobs[1], ahead=0)
    assert start_all(slots) == [1, 2]
    assert slots.to_mark(ahead=0) == []
    assert slots.to_mark(ahead=2) == jobs[2:4]


async def test_a_job_on_its_last_attempt_is_never_marked_ahead() -> None:
    slots = Slots(1)
    jobs = [prefetched(1, max_attempts=1), prefetched(2), prefetched(3, max_attempts=1)]
    slots.put(jobs)
    assert slots.to_mark(ahead=9) == jobs[:2]


async def test_draining_a_marked_job_removes_its_mark() -> None:
    slots = Slots(1)
    jobs = [prefetched(number) for number in range(1, 5)]
    other = jobs[1]._replace(queue="other")
    slots.put([jobs[0], other, *jobs[2:]])
    slots.mark(jobs[2], ahead=9)
    assert slots.drain_prefetched({"other"}) == [other]
    assert slots.marked == 2
    assert start_all(slots) == [1]
    assert slots.drain_prefetched() == jobs[2:]
    assert slots.marked == 0
    slots.mark(jobs[3], ahead=0)  # its answer came late
    later = prefetched(9, number=2)
    slots.put([later])
    slots.mark(jobs[3], ahead=0)
    assert slots.marked == 0


async def test_jobs_claimed_for_free_slots_need_no_mark() -> None:
    slots = Slots(2)
    slots.put([claimed(1), prefetched(2)])
    assert start_all(slots) == [1]
