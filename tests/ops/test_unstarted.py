"""Jobs that a dead worker had claimed and never started use no attempt."""

from __future__ import annotations

import pytest
from tests.support.job_table import JobTable

from roost import JobInsert
from roost._ops.claim import ClaimedJob, claim_jobs
from roost._ops.control import cancel_job
from roost._ops.rescue import expire_workers, rescue_jobs
from roost._ops.workers import forget_worker, mark_started


def prefetch(
    table: JobTable, worker: int, *, slots: int, number: int = 1, soon: bool = False
) -> list[ClaimedJob]:
    """Claim all, ``slots`` of them to start at once."""
    claim = claim_jobs(
        worker_id=worker,
        queues=["default"],
        tasks=["work"],
        limit=100,
        slots=slots,
        prefetch_no=number,
        soon=soon,
    )
    return table.run(claim).jobs


def dies(table: JobTable) -> None:
    """Let all workers expire, and rescue their jobs."""
    table.rows("update roost.workers set expires_at = now() - interval '1 second'")
    table.run(expire_workers())
    with table.connection.transaction():
        table.run(rescue_jobs(limit=100, error_cap=20))


def fates(table: JobTable, jobs: list[int]) -> list[tuple[str, int]]:
    """Return state and attempts of each job."""
    return [(str(job.state), job.attempt) for job in map(table.get, jobs)]


def test_jobs_that_never_started_are_given_back_and_others_are_rescued(table: JobTable) -> None:
    jobs = table.add_all([JobInsert("work", max_attempts=1)] * 6)
    worker = table.add_worker()
    claimed = prefetch(table, worker, slots=2)
    assert [job.prefetch_no for job in claimed] == [None, None, 1, 1, 1, 1]
    assert table.run(mark_started(worker, claimed[3].place, flush=True)) is True
    dies(table)
    assert fates(table, jobs) == [("discarded", 1)] * 4 + [("available", 0)] * 2
    assert table.get(jobs[-1]).errors == []


def test_without_a_mark_only_jobs_that_were_claimed_for_slots_count_as_started(
    table: JobTable,
) -> None:
    jobs = table.add_all([JobInsert("work", max_attempts=1)] * 3)
    prefetch(table, table.add_worker(), slots=1)
    dies(table)
    assert fates(table, jobs) == [("discarded", 1)] + [("available", 0)] * 2


def test_the_mark_follows_the_claims_and_within_each_the_running_order(
    table: JobTable,
) -> None:
    worker = table.add_worker()
    late = table.add_all([JobInsert("work", priority=1)] * 2)
    first = prefetch(table, worker, slots=0)
    early = table.add_all([JobInsert("work", priority=0)] * 2)
    second = prefetch(table, worker, slots=0, number=2)
    assert [job.lease.job_id for job in first + second] == late + early
    table.run(mark_started(worker, second[0].place, flush=False))
    dies(table)
    assert fates(table, late + early) == [("retryable", 1)] * 3 + [("available", 0)]


def test_of_jobs_that_start_within_moments_only_last_attempts_are_marked(
    table: JobTable,
) -> None:
    last = table.add("work", max_attempts=1)
    more = table.add("work", max_attempts=2)
    claimed = prefetch(table, table.add_worker(), slots=0, soon=True)
    assert {job.lease.job_id: job.prefetch_no for job in claimed} == {last: 1, more: None}
    dies(table)
    assert fates(table, [last, more]) == [("available", 0), ("retryable", 1)]


def test_a_job_that_is_claimed_again_to_start_at_once_counts(table: JobTable) -> None:
    job_id = table.add("work", max_attempts=1)
    prefetch(table, table.add_worker(), slots=0)
    dies(table)
    prefetch(table, table.add_worker(), slots=1)
    dies(table)
    assert fates(table, [job_id]) == [("discarded", 1)]


def test_a_worker_that_removes_its_row_gives_back_what_it_did_not_start(table: JobTable) -> None:
    jobs = table.add_all([JobInsert("work")] * 2)
    worker = table.add_worker()
    prefetch(table, worker, slots=1)
    table.run(forget_worker(worker))
    assert fates(table, jobs) == [("executing", 1), ("available", 0)]
    assert table.run(mark_started(worker, (1, 0, 0, 0), flush=True)) is False


def test_a_job_with_a_cancel_request_is_left_to_the_rescue(table: JobTable) -> None:
    job_id = table.add("work")
    prefetch(table, table.add_worker(), slots=0)
    table.run(cancel_job(job_id))
    dies(table)
    assert table.get(job_id).state == "cancelled"


def test_a_locked_row_is_skipped(table: JobTable, dsn: str) -> None:
    jobs = table.add_all([JobInsert("work")] * 2)
    prefetch(table, table.add_worker(stale_after=-1), slots=0)
    with JobTable(dsn) as other, other.connection.transaction():
        other.rows("select id from roost.jobs where id = $1::bigint for update", jobs[0])
        assert table.run(expire_workers()) == ["tester"]
    assert fates(table, jobs) == [("executing", 1), ("available", 0)]


def test_a_dispatched_job_that_was_not_accepted_did_not_start(table: JobTable) -> None:
    job_id = table.add("work")
    worker = table.add_worker(stale_after=-1)
    table.change(job_id, f"state = 'executing', attempt = 1, lease_no = 1, worker_id = {worker}")
    table.rows("update roost.workers set dispatched_job_id = $1::bigint", job_id)
    table.run(expire_workers())
    assert fates(table, [job_id]) == [("available", 0)]


@pytest.mark.parametrize("slots", [0, 2, 5])
def test_the_jobs_come_in_running_order_however_many_start_at_once(
    table: JobTable, slots: int
) -> None:
    jobs = table.add_all([JobInsert("work", priority=number % 2) for number in range(5)])
    claimed = prefetch(table, table.add_worker(), slots=slots)
    assert [job.lease.job_id for job in claimed] == jobs[0::2] + jobs[1::2]
    assert [job.prefetch_no for job in claimed] == [None] * slots + [1] * (5 - slots)


def test_of_several_marks_the_first_that_is_not_of_an_earlier_claim_decides(
    table: JobTable,
) -> None:
    worker = table.add_worker()
    jobs: list[int] = []
    claims: list[list[ClaimedJob]] = []
    for number in range(1, 6):
        jobs += table.add_all([JobInsert("work", max_attempts=1)] * 2)
        claims.append(prefetch(table, worker, slots=0, number=number))
    marks = [
        *claims[1][0].place,  # one job of the second claim may have started
        *(4, -2_147_483_649, 0, 0),  # none of the fourth one
    ]
    assert table.run(mark_started(worker, marks, flush=True)) is True
    dies(table)
    started, unstarted = ("discarded", 1), ("available", 0)
    assert fates(table, jobs) == [
        *([started] * 2),  # all earlier claims
        *(started, unstarted),
        *([started] * 2),  # a claim between two marks
        *([unstarted] * 2),
        *([unstarted] * 2),  # claims after all marks
    ]
