"""Jobs are archived, and results expire, by the latest end and in bounded batches."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.job_table import JobTable

from roost import DuplicateUniqueJobError, JobNotFoundError, JobState
from roost._ops import control
from roost._ops.archive import archive_jobs, delete_archived_jobs, delete_jobs, forget_results

ENDS = {"completed": "completed_at", "discarded": "discarded_at", "cancelled": "cancelled_at"}


def ended(table: JobTable, state: str, seconds: int, *, result: str | None = None) -> int:
    """Add a job that ended that many seconds ago."""
    job_id = table.add()
    assignments = f"state = '{state}', {ENDS[state]} = now() - interval '{seconds} seconds'"
    table.change(job_id, assignments + (f", result = '{result}'" if result else ""))
    return job_id


def archived(table: JobTable) -> set[int]:
    return {job_id for (job_id,) in table.rows("select id from roost.jobs_archive")}


def test_only_jobs_that_ended_long_enough_ago_are_archived(table: JobTable) -> None:
    old = {ended(table, state, 100) for state in ENDS}
    young = {ended(table, state, 10) for state in ENDS}
    waiting = table.add()
    table.change(waiting, "inserted_at = now() - interval '1 day'")
    before = {job_id: table.get(job_id) for job_id in old}
    assert table.archive(after=50, limit=100) == 3
    assert archived(table) == old
    assert {job_id for (job_id,) in table.rows("select id from roost.jobs")} == {*young, waiting}
    assert {job_id: table.get(job_id) for job_id in old} == before


def test_the_latest_end_counts(table: JobTable) -> None:
    """A retried job may still have the time of its first end, which must not count."""
    job_id = ended(table, "completed", 10)
    table.change(job_id, "cancelled_at = now() - interval '1 day'")
    assert table.archive(after=50, limit=100) == 0
    again = ended(table, "discarded", 100)
    assert table.run(control.retry_job(again)) is True
    assert table.archive(after=50, limit=100) == 0


def test_a_batch_takes_the_oldest_and_no_more_than_asked(table: JobTable) -> None:
    jobs = [ended(table, "completed", 100 + n) for n in range(10)]
    assert table.archive(after=0, limit=4) == 4
    assert archived(table) == set(jobs[-4:])
    assert table.archive(after=0, limit=4) == 4
    assert table.archive(after=0, limit=4) == 2
    assert table.archive(after=0, limit=4) == 0


def test_two_archivers_work_side_by_side(table: JobTable, sessions: Any) -> None:
    for n in range(6):
        ended(table, "completed", 100 + n)
    other = sessions.open()
    with other.connection.transaction():
        assert other.archive(after=0, limit=3) == 3
        assert table.archive(after=0, limit=3) == 3
    assert len(archived(table)) == 6


@pytest.mark.parametrize("state", sorted(ENDS))
def test_only_jobs_of_the_state_are_archived_or_deleted(table: JobTable, state: str) -> None:
    jobs = {each: ended(table, each, 100) for each in ENDS}
    assert table.run(archive_jobs(JobState(state), after=50, limit=10)).jobs == 1
    assert archived(table) == {jobs[state]}
    assert delete(table, JobState(state)) == (0, 1)
    for each in ENDS:
        if each != state:
            assert delete(table, JobState(each)) == (1, 0)
    assert archived(table) == set()
    assert table.states() == {}


def delete(table: JobTable, state: JobState, *, after: float = 50) -> tuple[int, int]:
    """Return how many live and archived jobs were deleted."""
    return (
        table.run(delete_jobs(state, after=after, limit=10)).jobs,
        table.run(delete_archived_jobs(state, after=after, limit=10)).jobs,
    )


def test_only_jobs_that_ended_long_enough_ago_are_deleted(table: JobTable) -> None:
    old, young, archived_young = (ended(table, "completed", n) for n in (100, 10, 20))
    table.change(archived_young, "completed_at = now() - interval '90 seconds'")
    table.archive(after=80, limit=10)
    running = table.add()
    assert archived(table) == {old, archived_young}
    assert delete(table, JobState.COMPLETED, after=95) == (0, 1)
    assert {table.get(job_id).id for job_id in (young, archived_young, running)}
    with pytest.raises(JobNotFoundError):
        table.get(old)


def test_a_job_that_a_client_waits_for_is_kept_for_a_minute(table: JobTable) -> None:
    read, fresh, past = (ended(table, "completed", n) for n in (10, 10, 61))
    for job_id in (fresh, past):
        table.change(job_id, "awaited = true")
    assert delete(table, JobState.COMPLETED, after=0) == (2, 0)
    assert table.get(fresh).state == "completed"
    for job_id in (read, past):
        with pytest.raises(JobNotFoundError):
            table.get(job_id)


@pytest.mark.parametrize("batch", [archive_jobs, delete_jobs, delete_archived_jobs])
def test_each_batch_begins_where_the_one_before_ended(table: JobTable, batch: Any) -> None:
    for n in range(7):
        ended(table, "completed", 100 + n // 2)
    if batch is delete_archived_jobs:
        table.archive(limit=10)
    since, sizes = None, []
    for _ in range(4):
        done = table.run(batch(JobState.COMPLETED, after=0, limit=3, since=since))
        assert since is None or done.last is None or done.last >= since
        since = done.last
        sizes.append(done.jobs)
    assert sizes == [3, 3, 1, 0]
    assert since is None


def test_a_locked_job_is_neither_archived_nor_deleted(table: JobTable, sessions: Any) -> None:
    held, free = (ended(table, "completed", n) for n in (101, 100))
    other = sessions.open()
    with other.connection.transaction():
        other.rows("select from roost.jobs where id = $1::bigint for update", held)
        assert delete(table, JobState.COMPLETED) == (1, 0)
        assert table.archive() == 0
    assert table.states() == {"completed": 1}
    with pytest.raises(JobNotFoundError):
        table.get(free)
    assert table.archive() == 1
    with other.connection.transaction():
        other.rows("select from roost.jobs_archive where id = $1::bigint for update", held)
        assert delete(table, JobState.COMPLETED) == (0, 0)
    assert delete(table, JobState.COMPLETED) == (0, 1)


def test_a_retry_at_the_same_moment_is_first_or_finds_no_job(
    table: JobTable, sessions: Any
) -> None:
    job_id = ended(table, "discarded", 100)
    other = sessions.open()
    with other.connection.transaction():
        assert other.run(delete_jobs(JobState.DISCARDED, after=50, limit=10)).jobs == 1
        retried = sessions.in_thread(lambda: table.run(control.retry_job(job_id)))
        sessions.until_waiting()
    with pytest.raises(JobNotFoundError):
        retried.result(20)
    again = ended(table, "discarded", 100)
    with other.connection.transaction():
        assert other.run(control.retry_job(again)) is True
        assert delete(table, JobState.DISCARDED) == (0, 0)
    assert table.get(again).state == "available"


def test_results_of_live_and_archived_jobs_expire(table: JobTable) -> None:
    live, moved = (ended(table, "completed", 100, result="1") for _ in range(2))
    table.change(live, "completed_at = now() - interval '60 seconds'")
    assert table.archive(after=80, limit=10) == 1
    young = ended(table, "completed", 10, result="2")
    assert table.run(forget_results(after=50, limit=10)) == 1
    assert [table.get(job_id).result for job_id in (live, moved, young)] == [None, None, 2]
    assert table.get(live).state == table.get(moved).state == "completed"
    assert table.run(forget_results(after=50, limit=10)) == 0


def test_results_expire_in_bounded_batches(table: JobTable) -> None:
    for _ in range(5):
        ended(table, "completed", 100, result="1")
    assert [table.run(forget_results(after=0, limit=2)) for _ in range(4)] == [2, 2, 1, 0]


def test_the_archive_has_every_column_of_the_live_table(table: JobTable) -> None:
    columns = (
        "select column_name::text, data_type::text from information_schema.columns "
        "where table_schema = 'roost' and table_name = $1::text and column_name <> 'archived_at'"
    )
    assert set(table.rows(columns, "jobs")) == set(table.rows(columns, "jobs_archive"))


def test_nothing_is_lost_on_the_way_to_the_archive_and_back(table: JobTable) -> None:
    job_id = table.add(
        args={"a": [1]}, priority=3, max_attempts=7, unique_key="k", tags=["t"],
        timeout_seconds=9, metadata={"m": 1}, queue="q",
    )  # fmt: skip
    table.change(
        job_id,
        "state = 'completed', completed_at = now(), attempted_at = now(), attempt = 2, "
        "lease_no = 5, "
        "errors = '[{\"error\": \"x\"}]', result = '{\"r\": 1}', depends_on = '{1,2}'",
    )
    query = "select to_jsonb(j) - 'archived_at' from {} as j where id = $1::bigint"
    before = table.value(query.format("roost.jobs"), job_id)
    table.archive(after=0, limit=1)
    assert table.value(query.format("roost.jobs_archive"), job_id) == before
    table.add(unique_key="k")
    with pytest.raises(DuplicateUniqueJobError):
        table.run(control.retry_job(job_id))
    back = table.get(job_id)
    assert (back.state, back.result, back.depends_on) == ("completed", {"r": 1}, [1, 2])
    assert (back.metadata, back.tags, back.unique_key) == ({"m": 1}, ["t"], "k")
