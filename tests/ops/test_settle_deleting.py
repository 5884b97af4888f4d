"""A settle that keeps no completed jobs deletes them, under the same lease as any verdict."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support.job_table import JobTable

from roost import JobInsert, JobNotFoundError, UnknownParentError
from roost._model.encoding import encode_jobs
from roost._model.states import Event
from roost._model.verdict import Verdict
from roost._ops.claim import ClaimedJob
from roost._ops.control import cancel_job, retry_job
from roost._ops.enqueue import insert_job
from roost._ops.read import await_outcome
from roost._ops.settle import complete_now, settle, settle_parents


@pytest.fixture
def other(dsn: str) -> Iterator[JobTable]:
    """Return a second session, whose transactions hold locks."""
    with JobTable(dsn) as other:
        yield other


def claim(table: JobTable, count: int = 1, **fields: object) -> list[ClaimedJob]:
    table.add_all([JobInsert("work", **fields) for _ in range(count)])  # type: ignore[arg-type]
    return list(table.claim(table.add_worker(), limit=count).jobs)


def completed(job: ClaimedJob, result: str | None = None) -> Verdict:
    return Verdict(job.lease, Event.COMPLETE, result=result)


def add_child(session: JobTable, parent: int) -> int:
    record = encode_jobs([JobInsert("child", depends_on=[parent])])
    return session.run(insert_job(record, unique_key=None, has_parents=True))


def test_a_completed_job_is_gone_and_others_stay(table: JobTable) -> None:
    first, second, third = claim(table, 3)
    failed = Verdict(third.lease, Event.RETRY, delay=5.0, error={"error": "no", "trace": ""})
    assert (
        table.settle(completed(first, "1"), completed(second), failed, keep_completed=False) == []
    )
    assert table.rows("select id, state from roost.jobs") == [(third.lease.job_id, "retryable")]
    with pytest.raises(JobNotFoundError):
        table.get(first.lease.job_id)


@pytest.mark.parametrize("wrong", ["job_id", "worker_id", "lease_no"])
def test_a_late_completion_deletes_nothing(table: JobTable, wrong: str) -> None:
    [job] = claim(table)
    lease = job.lease._replace(**{wrong: 99})
    assert table.settle(Verdict(lease, Event.COMPLETE), keep_completed=False) == [lease]
    assert table.get(job.lease.job_id).state == "executing"


def test_a_repeated_completion_is_reported_as_lost(table: JobTable) -> None:
    jobs = claim(table, 2)
    verdicts = [completed(job) for job in jobs]
    assert table.settle(*verdicts, keep_completed=False) == []
    assert table.settle(*verdicts, keep_completed=False) == [job.lease for job in jobs]


def test_of_two_leases_of_one_job_only_the_one_that_holds_deletes(table: JobTable) -> None:
    [job] = claim(table)
    older = job.lease
    table.settle(Verdict(older, Event.RELEASE))
    [again] = table.claim(older.worker_id).jobs
    verdicts = (Verdict(older, Event.COMPLETE), completed(again))
    assert table.settle(*verdicts, keep_completed=False) == [older]
    assert table.states() == {}


def test_the_deletion_frees_the_unique_key(table: JobTable) -> None:
    [job] = claim(table, unique_key="one")
    table.settle(completed(job), keep_completed=False)
    assert table.add(unique_key="one") > job.lease.job_id


def test_a_job_that_a_client_waits_for_keeps_its_result(table: JobTable) -> None:
    table.script("listen roost_finished")
    waited, unwatched = claim(table, 2)
    assert table.run(await_outcome(waited.lease.job_id)) is None
    verdicts = (completed(waited, "[7]"), completed(unwatched, "8"))
    assert table.settle(*verdicts, keep_completed=False) == []
    assert table.notifications() == [("roost_finished", str(waited.lease.job_id))]
    outcome = table.run(await_outcome(waited.lease.job_id))
    assert outcome is not None
    assert outcome.result == [7]
    assert table.states() == {"completed": 1}


def test_a_limited_job_makes_room(table: JobTable) -> None:
    [job] = claim(table)
    table.change(job.lease.job_id, "limited = true")
    table.rows("update roost.workers set wants_notify = true")
    table.script("listen roost_room")
    table.settle(completed(job), keep_completed=False)
    assert table.notifications() == [("roost_room", "work")]


def test_a_requested_cancel_comes_too_late_for_a_handler_that_returned(table: JobTable) -> None:
    [job] = claim(table)
    with table.connection.transaction():
        assert table.run(cancel_job(job.lease.job_id))
    assert table.settle(completed(job), keep_completed=False) == []
    assert table.states() == {}


def test_a_parent_releases_its_children_before_it_is_gone(table: JobTable) -> None:
    [job] = claim(table)
    with table.connection.transaction():
        child = add_child(table, job.lease.job_id)
    settled = table.run(settle([completed(job)], error_cap=1, keep_completed=False))
    assert settled.parents == [completed(job)]
    with table.connection.transaction():
        table.run(settle_parents(settled.parents, error_cap=1, keep_completed=False))
    assert table.rows("select id, pending_parents from roost.jobs") == [(child, 0)]
    assert table.rows("select * from roost.dependencies") == []


def test_a_child_of_a_deleted_job_is_refused(table: JobTable) -> None:
    [job] = claim(table)
    table.settle(completed(job), keep_completed=False)
    with table.connection.transaction(), pytest.raises(UnknownParentError):
        add_child(table, job.lease.job_id)


def test_an_enqueue_of_a_child_holds_the_deletion_back(table: JobTable, other: JobTable) -> None:
    first, second = claim(table, 2)
    with other.connection.transaction():
        child = add_child(other, first.lease.job_id)
        settled = table.run(
            settle([completed(first), completed(second)], error_cap=1, keep_completed=False)
        )
        assert settled.busy == [completed(first)]
    assert table.rows("select id from roost.jobs order by id") == [(first.lease.job_id,), (child,)]
    settled = table.run(settle([completed(first)], error_cap=1, keep_completed=False))
    assert settled.parents == [completed(first)]


def test_an_enqueue_of_a_child_waits_for_the_deletion(table: JobTable, other: JobTable) -> None:
    [job] = claim(table)
    other.script("set lock_timeout = '50ms'")
    with table.connection.transaction():
        table.settle(completed(job), keep_completed=False)
        # A key share lock is all that a parent needs: it waits, and then the parent is gone.
        with pytest.raises(Exception, match="lock timeout"), other.connection.transaction():
            add_child(other, job.lease.job_id)
    with pytest.raises(UnknownParentError), other.connection.transaction():
        add_child(other, job.lease.job_id)


def test_a_cancel_or_retry_that_holds_the_row_is_not_lost(table: JobTable, other: JobTable) -> None:
    [job] = claim(table)
    job_id = job.lease.job_id
    with other.connection.transaction():
        assert other.run(cancel_job(job_id))
        settled = table.run(settle([completed(job)], error_cap=1, keep_completed=False))
        assert settled.busy == [completed(job)]
    table.settle(completed(job), keep_completed=False)
    with pytest.raises(JobNotFoundError):
        table.run(retry_job(job_id))


def test_a_client_that_begins_to_wait_at_the_same_moment_gets_the_result_or_an_error(
    table: JobTable, other: JobTable
) -> None:
    [job] = claim(table)
    with other.connection.transaction():
        assert other.run(await_outcome(job.lease.job_id)) is None
        # Its mark is not committed yet: the row is passed over.
        settled = table.run(settle([completed(job, "3")], error_cap=1, keep_completed=False))
        assert settled.busy == [completed(job, "3")]
    table.settle(completed(job, "3"), keep_completed=False)
    outcome = table.run(await_outcome(job.lease.job_id))
    assert outcome is not None
    assert outcome.result == 3


def test_a_handler_that_completes_its_own_job_keeps_it(table: JobTable) -> None:
    [job] = claim(table)
    with table.connection.transaction():
        table.run(complete_now(job.lease, "5"))
    assert table.get(job.lease.job_id).result == 5
    assert table.settle(completed(job), keep_completed=False) == [job.lease]
