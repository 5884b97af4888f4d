"""A claim takes what is due, in order, once, and says when to come again."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from tests.support.job_table import JobTable

from roost import JobInsert
from roost._model.verdict import Lease
from roost._ops.claim import Position, claim_jobs


@pytest.fixture
def worker(table: JobTable) -> int:
    return table.add_worker()


@pytest.fixture
def rival(dsn: str, table: JobTable) -> Iterator[JobTable]:
    """A second connection, of another worker."""
    with JobTable(dsn) as rival:
        yield rival


@contextmanager
def rolled_back(table: JobTable) -> Iterator[None]:
    """Undo what is done inside."""
    with table.connection.raw.transaction(force_rollback=True):
        yield


def later(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def test_the_times_of_a_claimed_job_are_exact(table: JobTable, worker: int) -> None:
    dice, first = random.Random(1), datetime(1970, 1, 1, tzinfo=UTC)
    moments = (first + timedelta(microseconds=dice.randrange(10**15)) for _ in range(300))
    table.add_all([JobInsert("work", scheduled_at=moment) for moment in moments])
    # As if it were so late already.
    table.script("update roost.jobs set inserted_at = scheduled_at + interval '200 years'")
    for claimed in table.claim(worker, limit=300).jobs:
        job, row = claimed.job(), table.get(claimed.lease.job_id)
        assert (job.scheduled_at, job.attempted_at) == (row.scheduled_at, row.attempted_at)
        assert job.inserted_at == row.inserted_at


def test_jobs_of_a_queue_come_in_order_of_priority_time_and_id(
    table: JobTable, worker: int
) -> None:
    past = datetime(2026, 1, 1, tzinfo=UTC)
    later, much_later = past + timedelta(seconds=1), past + timedelta(seconds=2)
    by_time = {moment: table.add(scheduled_at=moment) for moment in (much_later, past, later)}
    expected = [
        *(by_time[past], by_time[later], by_time[much_later]),
        table.add(scheduled_at=much_later),
        table.add(priority=2_000_000_000),
    ]
    expected.insert(0, table.add(priority=-2_000_000_000))
    for limit in (1, 2, 3, 10):
        with rolled_back(table):
            claimed = table.claim(worker, limit=limit)
            assert [job.lease.job_id for job in claimed.jobs] == expected[:limit]
    taken: list[int] = []
    while jobs := table.claim(worker, limit=2).jobs:
        taken += [job.lease.job_id for job in jobs]
    assert taken == expected


def test_the_lowest_and_the_highest_priority_are_claimed(table: JobTable, worker: int) -> None:
    ends = [table.add(), table.add()]
    for job_id, priority in zip(ends, (-(2**31), 2**31 - 1), strict=True):
        table.change(job_id, f"priority = {priority}")
    assert [job.lease.job_id for job in table.claim(worker).jobs] == ends


def test_queues_of_one_priority_are_served_in_the_order_in_which_they_are_passed(
    table: JobTable, worker: int
) -> None:
    past = datetime(2026, 1, 1, tzinfo=UTC)
    ids = [
        table.add(queue=queue, scheduled_at=past + timedelta(seconds=n))
        for n, queue in enumerate("abab")
    ]
    best, worst = table.add(queue="b", priority=-1), table.add(queue="a", priority=1)
    for queues, turns in ("ab", [*ids[::2], *ids[1::2]]), ("ba", [*ids[1::2], *ids[::2]]):
        for limit in range(1, 7):
            with rolled_back(table):
                claimed = table.claim(worker, queues=list(queues), limit=limit)
            # Whatever was taken comes in the order in which it starts: by priority, time and id.
            expected = [best, *sorted(turns[: limit - 1]), worst][:limit]
            assert [job.lease.job_id for job in claimed.jobs] == expected


def test_a_claim_behind_others_serves_queues_in_the_order_of_the_positions(
    table: JobTable, worker: int
) -> None:
    ids = table.add_all([JobInsert("work", queue=queue) for queue in "aabb"])
    first = datetime(2026, 1, 1, tzinfo=UTC)
    after = [Position(queue, 0, first, 0) for queue in "ba"]
    for taken in (ids[2:], ids[:2]):
        claimed = table.claim(worker, queues=["a", "b"], limit=2, after=after)
        assert [job.lease.job_id for job in claimed.jobs] == taken


def test_a_claim_changes_the_row_and_returns_its_public_columns(
    table: JobTable, worker: int
) -> None:
    job_id = table.add(
        args={"a": [1, {"b": None}]},
        priority=3,
        max_attempts=4,
        unique_key="key",
        tags=["x", "y"],
        timeout_seconds=9,
        metadata={"trace": "1"},
    )
    [claimed] = table.claim(worker).jobs
    assert claimed.lease == Lease(job_id, worker, 1)
    assert claimed.args() == {"a": [1, {"b": None}]}
    assert (claimed.attempt, claimed.max_attempts, claimed.timeout_seconds) == (1, 4, 9)
    row = table.get(job_id)
    assert claimed.job() == row
    assert row.state == "executing"
    assert row.attempted_at is not None
    assert table.column(job_id, "worker_id") == worker


def test_every_claim_is_another_lease(table: JobTable, worker: int) -> None:
    job_id = table.add()
    for number in (1, 2, 3):
        [claimed] = table.claim(worker).jobs
        assert claimed.lease.lease_no == number
        table.change(job_id, "state = 'available', attempt = 0")


def test_retryable_jobs_are_claimed_like_available_ones(table: JobTable, worker: int) -> None:
    job_id = table.add()
    table.change(job_id, "state = 'retryable', attempt = 2")
    [claimed] = table.claim(worker).jobs
    assert claimed.attempt == 3


@pytest.mark.parametrize("state", ["executing", "completed", "discarded", "cancelled"])
def test_no_other_state_is_claimed(table: JobTable, worker: int, state: str) -> None:
    table.change(table.add(), f"state = '{state}'")
    assert table.claim(worker).jobs == []


def test_future_jobs_stay_and_the_claim_says_when_they_are_due(
    table: JobTable, worker: int
) -> None:
    table.add(scheduled_at=later(100), priority=-1)
    table.add(scheduled_at=later(50), priority=7)
    table.add(scheduled_at=later(20), queue="other")
    claimed = table.claim(worker)
    assert claimed.jobs == []
    assert claimed.next_due is not None
    assert 45 < claimed.next_due <= 50


def test_a_retry_that_waits_counts_as_due_then(table: JobTable, worker: int) -> None:
    table.change(table.add(), "state = 'retryable', scheduled_at = now() + interval '30 s'")
    claimed = table.claim(worker)
    assert claimed.next_due is not None
    assert 25 < claimed.next_due <= 30


def test_an_empty_queue_has_no_next_time(table: JobTable, worker: int) -> None:
    claimed = table.claim(worker)
    assert (claimed.jobs, claimed.next_due, claimed.alive) == ([], None, True)


def test_future_jobs_at_one_priority_do_not_hide_due_ones_at_the_next(
    table: JobTable, worker: int
) -> None:
    table.add_all([JobInsert("work", priority=-1, scheduled_at=later(100))] * 20)
    due = table.add(priority=5)
    assert [job.lease.job_id for job in table.claim(worker).jobs] == [due]


def test_jobs_of_unknown_tasks_are_skipped_and_hide_no_others(table: JobTable, worker: int) -> None:
    unknown = [table.add("new", priority=-1) for _ in range(20)]
    known = table.add("old")
    claimed = table.claim(worker, tasks=["old", "older"], limit=5)
    assert [job.lease.job_id for job in claimed.jobs] == [known]
    for job_id in unknown:
        assert (table.get(job_id).state, table.get(job_id).attempt) == ("available", 0)
        assert table.column(job_id, "lease_no") == 0


def test_blocked_jobs_are_not_claimed(table: JobTable, worker: int) -> None:
    job_id = table.add()
    table.change(job_id, "pending_parents = 1")
    assert table.claim(worker).jobs == []


def test_a_worker_without_a_row_claims_nothing(table: JobTable, worker: int) -> None:
    job_id = table.add()
    claimed = table.claim(worker + 1)
    assert (claimed.jobs, claimed.alive) == ([], False)
    assert table.get(job_id).state == "available"


def test_a_worker_that_is_being_expired_claims_nothing(
    table: JobTable, rival: JobTable, worker: int
) -> None:
    job_id = table.add()
    rival.rows("delete from roost.workers")
    assert table.claim(worker).alive is False
    assert table.get(job_id).attempt == 0


def test_a_claim_skips_rows_that_another_has_locked_and_is_still_full(
    table: JobTable, rival: JobTable, worker: int
) -> None:
    other = table.add_worker("other")
    ids = table.add_all([JobInsert("work")] * 10 + [JobInsert("work", priority=1)] * 10)
    with rival.connection.transaction():
        first = rival.claim(other, limit=10).jobs
        second = table.claim(worker, limit=6).jobs
        third = table.claim(worker, limit=10).jobs
    taken = [[job.lease.job_id for job in jobs] for jobs in (first, second, third)]
    assert taken == [ids[:10], ids[10:16], ids[16:]]


def test_a_claim_that_shares_a_priority_over_queues_is_still_full_during_another(
    table: JobTable, rival: JobTable, worker: int
) -> None:
    other = table.add_worker("other")
    ids = table.add_all([JobInsert("work", queue=queue) for queue in "a" * 10 + "b" * 10])
    with rival.connection.transaction():
        first = rival.claim(other, limit=8, queues=["a", "b"]).jobs
        second = table.claim(worker, limit=8, queues=["a", "b"]).jobs
    taken = [job.lease.job_id for job in (*first, *second)]
    assert taken == ids[:16]


def test_a_claim_that_was_rolled_back_leaves_its_jobs_to_others(
    table: JobTable, rival: JobTable, worker: int
) -> None:
    job_id = table.add()
    with rolled_back(rival):
        assert len(rival.claim(worker).jobs) == 1
    [claimed] = table.claim(worker).jobs
    assert (claimed.lease.job_id, claimed.attempt, claimed.lease.lease_no) == (job_id, 1, 1)


def test_a_claimed_job_carries_its_cancel_request(table: JobTable, worker: int) -> None:
    table.change(table.add(), "cancel_requested = true")
    [claimed] = table.claim(worker).jobs
    assert claimed.cancel_requested


def test_the_same_queue_twice_brings_each_job_once(table: JobTable, worker: int) -> None:
    ids = table.add_all([JobInsert("work")] * 3)
    claimed = table.claim(worker, queues=["default", "default"])
    assert [job.lease.job_id for job in claimed.jobs] == ids


def test_the_first_jobs_in_order_start_at_once_also_of_two_queues(table: JobTable) -> None:
    worker = table.add_worker(queues=["mail", "media"])
    later = table.add(queue="mail")
    first = table.add(queue="media")
    table.change(first, "scheduled_at = scheduled_at - interval '1 second'")
    claimed = table.run(
        claim_jobs(
            worker_id=worker, queues=["mail", "media"], tasks=["work"], limit=2, slots=1,
            prefetch_no=7,
        )
    )  # fmt: skip
    assert [job.lease.job_id for job in claimed.jobs] == [first, later]
    assert [job.prefetch_no for job in claimed.jobs] == [None, 7]
