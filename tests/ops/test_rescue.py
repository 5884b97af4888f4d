"""Rows of dead workers are removed, and their jobs are rescued."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import pytest
from tests.support.job_table import JobTable

from roost import JobInsert
from roost._ops.rescue import Rescued, expire_workers, rescue_jobs
from roost._ops.workers import forget_worker


@pytest.fixture
def rival(dsn: str, table: JobTable) -> Iterator[JobTable]:
    with JobTable(dsn) as rival:
        yield rival


def rescue(table: JobTable, *, limit: int = 100, error_cap: int = 20) -> list[Rescued]:
    with table.connection.transaction():
        return table.run(rescue_jobs(limit=limit, error_cap=error_cap))


def test_only_expired_workers_are_removed(table: JobTable) -> None:
    alive, dead = table.add_worker("alive"), table.add_worker("dead")
    table.rows(
        "update roost.workers set expires_at = now() - interval '1 ms' where id = $1::bigint", dead
    )
    assert table.run(expire_workers()) == ["dead"]
    assert table.workers() == [alive]
    assert table.run(expire_workers()) == []


def test_a_claim_under_way_keeps_its_worker_from_being_expired(
    table: JobTable, rival: JobTable
) -> None:
    worker = table.add_worker()
    table.add()
    table.rows("update roost.workers set expires_at = now() - interval '1 s'")
    with table.connection.transaction():
        table.claim(worker)
        assert rival.run(expire_workers()) == []
    assert rival.run(expire_workers()) == ["tester"]
    assert [job.state for job in rescue(rival)] == ["retryable"]


def test_jobs_of_a_worker_without_a_row_are_rescued_with_a_record(table: JobTable) -> None:
    worker = table.add_worker()
    job_id = table.add()
    table.claim(worker)
    assert rescue(table) == []
    table.run(forget_worker(worker))
    [rescued] = rescue(table)
    assert (rescued.job_id, rescued.state) == (job_id, "retryable")
    row = table.get(job_id)
    assert (row.state, row.attempt) == ("retryable", 1)
    [error] = row.errors
    assert error["attempt"] == 1
    assert error["error"].startswith(f"WorkerCrash: worker {worker} ")
    assert set(error) == {*("attempt", "at", "started_at", "worker_id", "worker", "error", "trace")}
    assert (error["worker_id"], error["worker"]) == (worker, None)
    assert datetime.fromisoformat(error["started_at"]) == row.attempted_at
    # It is due at once.
    [claimed] = table.claim(table.add_worker()).jobs
    assert (claimed.attempt, claimed.lease.lease_no) == (2, 2)
    assert rescue(table) == []


def test_a_crash_of_the_last_attempt_discards_the_job(table: JobTable) -> None:
    job_id = table.add(max_attempts=1)
    table.claim(table.add_worker())
    table.rows("delete from roost.workers")
    [rescued] = rescue(table)
    assert rescued.state == "discarded"
    row = table.get(job_id)
    assert (row.state, row.attempt, len(row.errors)) == ("discarded", 1, 1)
    assert row.discarded_at is not None
    assert row.cancelled_at is None


def test_a_job_whose_cancel_was_requested_is_cancelled(table: JobTable) -> None:
    job_id = table.add()
    table.claim(table.add_worker())
    table.change(job_id, "cancel_requested = true")
    table.rows("delete from roost.workers")
    [rescued] = rescue(table)
    assert rescued.state == "cancelled"
    assert table.get(job_id).cancelled_at is not None
    assert table.get(job_id).discarded_at is None


@pytest.mark.parametrize("cap", [1, 4])
def test_crash_records_keep_to_the_cap(table: JobTable, cap: int) -> None:
    job_id = table.add()
    for _ in range(6):
        table.claim(table.add_worker())
        table.rows("delete from roost.workers")
        rescue(table, error_cap=cap)
    errors = table.get(job_id).errors
    assert [error["attempt"] for error in errors] == list(range(7 - cap, 7))


def test_a_rescue_is_bounded_and_goes_on(table: JobTable) -> None:
    table.add_all([JobInsert("work")] * 7)
    table.claim(table.add_worker())
    table.rows("delete from roost.workers")
    assert [len(rescue(table, limit=3)) for _ in range(4)] == [3, 3, 1, 0]


def test_two_rescues_share_the_orphans(table: JobTable, rival: JobTable) -> None:
    ids = table.add_all([JobInsert("work")] * 6)
    table.claim(table.add_worker())
    table.rows("delete from roost.workers")
    with rival.connection.transaction():
        first = rival.run(rescue_jobs(limit=4, error_cap=20))
        second = rescue(table)
    assert sorted(job.job_id for job in [*first, *second]) == ids
    assert len(first) == 4


def test_a_long_attempt_of_a_living_worker_is_not_rescued(table: JobTable) -> None:
    job_id = table.add()
    table.claim(table.add_worker())
    table.change(job_id, "attempted_at = now() - interval '1 year'")
    assert rescue(table) == []


def test_a_rescue_notifies_the_queue(table: JobTable, rival: JobTable) -> None:
    table.add()
    table.claim(table.add_worker())
    table.rows("delete from roost.workers")
    rival.rows("listen roost_jobs")
    table.add_worker("another")
    rescue(table)
    assert rival.notifications() == [("roost_jobs", "default")]
