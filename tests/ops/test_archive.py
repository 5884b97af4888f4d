"""Jobs are archived, and results expire, by the latest end and in bounded batches."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.job_table import JobTable

from roost import DuplicateUniqueJobError
from roost._ops import control
from roost._ops.archive import archive_jobs, forget_results

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
    assert table.run(archive_jobs(after=50, limit=100)) == 3
    assert archived(table) == old
    assert {job_id for (job_id,) in table.rows("select id from roost.jobs")} == {*young, waiting}
    assert {job_id: table.get(job_id) for job_id in old} == before


def test_the_latest_end_counts(table: JobTable) -> None:
    """A retried job may still have the time of its first end, which must not count."""
    job_id = ended(table, "completed", 10)
    table.change(job_id, "cancelled_at = now() - interval '1 day'")
    assert table.run(archive_jobs(after=50, limit=100)) == 0
    again = ended(table, "discarded", 100)
    assert table.run(control.retry_job(again)) is True
    assert table.run(archive_jobs(after=50, limit=100)) == 0


def test_a_batch_takes_the_oldest_and_no_more_than_asked(table: JobTable) -> None:
    jobs = [ended(table, "completed", 100 + n) for n in range(10)]
    assert table.run(archive_jobs(after=0, limit=4)) == 4
    assert archived(table) == set(jobs[-4:])
    assert table.run(archive_jobs(after=0, limit=4)) == 4
    assert table.run(archive_jobs(after=0, limit=4)) == 2
    assert table.run(archive_jobs(after=0, limit=4)) == 0


def test_two_archivers_work_side_by_side(table: JobTable, sessions: Any) -> None:
    for n in range(6):
        ended(table, "completed", 100 + n)
    other = sessions.open()
    with other.connection.transaction():
        assert other.run(archive_jobs(after=0, limit=3)) == 3
        assert table.run(archive_jobs(after=0, limit=3)) == 3
    assert len(archived(table)) == 6


def test_results_of_live_and_archived_jobs_expire(table: JobTable) -> None:
    live, moved = (ended(table, "completed", 100, result="1") for _ in range(2))
    table.change(live, "completed_at = now() - interval '60 seconds'")
    assert table.run(archive_jobs(after=80, limit=10)) == 1
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
    table.run(archive_jobs(after=0, limit=1))
    assert table.value(query.format("roost.jobs_archive"), job_id) == before
    table.add(unique_key="k")
    with pytest.raises(DuplicateUniqueJobError):
        table.run(control.retry_job(job_id))
    back = table.get(job_id)
    assert (back.state, back.result, back.depends_on) == ("completed", {"r": 1}, [1, 2])
    assert (back.metadata, back.tags, back.unique_key) == ({"m": 1}, ["t"], "k")
