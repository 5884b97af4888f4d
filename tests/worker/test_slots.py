"""Slots, prefetched jobs and parked attempts, and the reasons of a cancel."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from time import monotonic

import anyio
import pytest

from roost._model.verdict import Lease
from roost._ops.claim import ClaimedJob
from roost._worker.running_job import UNINTERRUPTIBLE_GRACE, Reason, RunningJob
from roost._worker.slot_group import SlotGroup
from roost._worker.slots import Slots

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
    group = slots.group_of("default")
    assert (slots.prefetched, len(slots), slots.room(group, 0)) == (3, 0, -1)
    first, second = (
        slots.start_next(now=monotonic()),
        slots.start_next(now=monotonic()),
    )
    assert first is not None
    assert second is not None
    assert slots.start_next(now=monotonic()) is None
    assert [job.claimed.lease.job_id for job in slots] == [1, 2]
    assert set(slots.job_ids) == {1, 2, 3}
    assert slots.room(group, 1) == 0
    slots.finish(first)
    third = slots.start_next(now=monotonic())
    assert third is not None
    assert third.claimed.lease.job_id == 3
    assert (slots.finished, slots.prefetched) == (1, 0)


async def test_prefetched_jobs_can_be_drained() -> None:
    slots = Slots(1)
    group = slots.group_of("default")
    assert group.moved_at == group.first_claimed_at == math.inf
    slots.put([claimed(1), claimed(2)])
    assert group.moved_at <= monotonic()
    assert group.first_claimed_at <= monotonic()
    assert [job.lease.job_id for job in slots.drain_prefetched()] == [1, 2]
    assert slots.prefetched == 0
    assert group.moved_at == math.inf


async def test_prefetched_jobs_start_while_the_next_one_waits() -> None:
    slots = Slots(1)
    slots.put([claimed(1), claimed(2)])
    group = slots.group_of("default")
    began = group.first_claimed_at
    slots.start_next(now=began + 10)
    assert group.moved_at == began + 10
    assert group.first_claimed_at == began


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
    job = RunningJob(claimed(1), SlotGroup(1))
    assert job.reason is None
    await run_until_cancelled(job)
    job.cancel(Reason.LEASE_LOST)
    assert job.reason is Reason.USER


async def test_the_reason_is_timeout_if_the_timeout_came_first() -> None:
    job = RunningJob(claimed(1), SlotGroup(1))
    with job.time_out_after(0.001):
        await anyio.sleep_forever()
    job.cancel(Reason.SHUTDOWN)
    assert job.reason is Reason.TIMEOUT


async def test_a_timeout_that_comes_after_a_cancel_is_not_the_reason() -> None:
    job = RunningJob(claimed(1), SlotGroup(1))
    job.cancel(Reason.SHUTDOWN)
    with job.time_out_after(0.001):
        await anyio.sleep_forever()
    assert job.reason is Reason.SHUTDOWN


async def test_a_cancel_after_the_handler_has_ended_is_ignored() -> None:
    job = RunningJob(claimed(1), SlotGroup(1))
    job.handler_ended = True
    job.cancel(Reason.USER)
    assert job.reason is None


async def test_only_a_stop_ends_the_wait_for_a_thread() -> None:
    job = RunningJob(claimed(1), SlotGroup(1))
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
    slots.mark(jobs[:2], ahead=0)
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
    slots.mark([jobs[2]], ahead=9)
    assert slots.drain_prefetched({"other"}) == [other]
    assert slots.group_of("default").marked == 2
    assert start_all(slots) == [1]
    assert slots.drain_prefetched() == jobs[2:]
    assert slots.group_of("default").marked == 0
    slots.mark([jobs[3]], ahead=0)  # its answer came late
    later = prefetched(9, number=2)
    slots.put([later])
    slots.mark([jobs[3]], ahead=0)
    assert slots.group_of("default").marked == 0


async def test_jobs_claimed_for_free_slots_need_no_mark() -> None:
    slots = Slots(2)
    slots.put([claimed(1), prefetched(2)])
    assert start_all(slots) == [1]


def of(queue: str, *job_ids: int, number: int | None = None) -> list[ClaimedJob]:
    return [claimed(job_id)._replace(queue=queue, prefetch_no=number) for job_id in job_ids]


def room(slots: Slots, queue: str, prefetch: int = 0) -> int:
    return slots.room(slots.group_of(queue), prefetch)


def test_each_queue_starts_no_more_jobs_than_it_has_slots() -> None:
    slots = Slots(None, {"web": 2, "bulk": 1})
    assert slots.concurrency == 3
    slots.put(of("bulk", 1, 2, 3) + of("web", 4, 5, 6))
    assert sorted(start_all(slots)) == [1, 4, 5]
    assert (room(slots, "web"), room(slots, "bulk")) == (-1, -2)
    assert (room(slots, "web", 3), room(slots, "bulk", 3)) == (2, 1)
    for running in list(slots):
        if running.claimed.queue == "bulk":
            slots.finish(running)
    assert start_all(slots) == [2]
    assert (slots.group_of("bulk").running, slots.group_of("web").running) == (1, 2)


def test_a_free_slot_of_one_queue_is_no_room_for_another() -> None:
    slots = Slots(None, {"web": 2, "bulk": 1})
    slots.put(of("bulk", 1))
    start_all(slots)
    assert (room(slots, "web"), room(slots, "bulk")) == (2, 0)
    assert slots.free_slots(slots.group_of("web")) == 2


def test_under_a_smaller_concurrency_queues_take_turns_at_free_slots() -> None:
    slots = Slots(2, {"a": 2, "b": 2})
    assert slots.is_capped
    slots.put(of("a", 1, 2, 3, 4) + of("b", 5, 6, 7, 8))
    started = start_all(slots)
    while len(slots):
        slots.finish(next(iter(slots)))
        started += start_all(slots)
    assert started == [1, 5, 2, 6, 3, 7, 4, 8]


def test_jobs_that_wait_for_a_shared_slot_leave_no_room_for_others() -> None:
    slots = Slots(2, {"a": 2, "b": 2})
    slots.put(of("a", 1))
    assert (room(slots, "a"), room(slots, "b")) == (1, 1)
    slots.put(of("b", 2))
    assert (room(slots, "a"), room(slots, "b")) == (0, 0)
    start_all(slots)
    assert (room(slots, "a", 1), room(slots, "b", 1)) == (1, 1)


def test_slots_that_one_queue_reserves_are_left_free_by_others_under_a_smaller_concurrency() -> (
    None
):
    slots = Slots(2, {"a": 2, "b": 2})
    slots.group_of("a").reserved = 1
    slots.put(of("b", 1, 2))
    assert start_all(slots) == [1]
    assert slots.free_slots(slots.group_of("a")) == 1
    slots.group_of("a").reserved = 0
    assert start_all(slots) == [2]


def test_a_queue_can_get_more_slots_and_fewer() -> None:
    slots = Slots(None, {"web": 1})
    slots.put(of("web", 1, 2, 3))
    assert start_all(slots) == [1]
    slots.resize("web", 2)
    assert start_all(slots) == [2]
    slots.resize("web", 1)
    assert (slots.concurrency, room(slots, "web")) == (1, -2)
    slots.finish(next(iter(slots)))
    assert start_all(slots) == []
    slots.resize("late", 4)
    assert (slots.concurrency, room(slots, "late")) == (5, 4)
    slots.resize("web", 0)
    slots.finish(next(iter(slots)))
    assert start_all(slots) == []
    assert slots.concurrency == 4


def test_a_queue_has_no_more_slots_than_the_concurrency() -> None:
    slots = Slots(2, {"web": 8})
    slots.put(of("web", 1, 2, 3))
    assert start_all(slots) == [1, 2]


def is_unstarted(marks: list[int], job: ClaimedJob) -> bool:
    """Say what roost.is_unstarted says of the job."""
    assert job.prefetch_no is not None
    for first in range(0, len(marks), 4):
        if marks[first] >= job.prefetch_no:
            return job.place > tuple(marks[first : first + 4])
    return True


def test_marks_say_of_each_queue_which_prefetched_jobs_have_not_started() -> None:
    slots = Slots(None, {"a": 2, "b": 2})
    a1, b2, a3, b4 = (
        of("a", 1, 2, 3, number=1),
        of("b", 4, 5, 6, number=2),
        of("a", 7, 8, number=3),
        of("b", 9, number=4),
    )
    slots.put(a1 + b2 + a3 + b4)
    jobs = slots.to_mark(ahead=0)
    assert jobs == a1[:2] + b2[:2]
    marks = slots.marks(jobs)
    all_jobs = a1 + b2 + a3 + b4
    assert [job for job in all_jobs if not is_unstarted(marks, job)] == jobs
    slots.mark(jobs, ahead=0)
    assert sorted(start_all(slots)) == [1, 2, 4, 5]
    for running in list(slots):
        if running.claimed.queue == "b":
            slots.finish(running)
    jobs = slots.to_mark(ahead=0)
    assert jobs == [b2[2], b4[0]]
    marks = slots.marks(jobs)
    started = [*a1[:2], *b2, *b4]
    assert [job for job in all_jobs if not is_unstarted(marks, job)] == started
    slots.mark(jobs, ahead=0)
    # A claim whose answer is not here yet.
    assert is_unstarted(marks, of("a", 10, number=5)[0])


def test_a_worker_with_one_group_writes_one_mark() -> None:
    slots = Slots(2)
    jobs = [prefetched(number) for number in range(1, 6)]
    slots.put(jobs)
    marked = slots.to_mark(ahead=1)
    assert slots.marks(marked) == list(jobs[2].place)
