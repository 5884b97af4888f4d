"""Cancel, retry, requeue and pause, in every state of a job, and the errors."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from tests.support.job_table import JobTable

from roost import DuplicateUniqueJobError, JobInsert, JobNotFoundError, Roost
from roost._model.encoding import encode_jobs
from roost._model.states import MOVES, Event, JobState
from roost._model.verdict import Lease, Verdict
from roost._ops import control
from roost._ops.dispatch import grant_credit
from roost._ops.enqueue import insert_dependent, insert_job
from roost._ops.read import list_queues, list_workers
from roost._ops.rescue import expire_workers, rescue_jobs
from roost._ops.settle import settle, settle_parents

ERROR = {"error": "ValueError: no", "trace": ""}
UNKNOWN = 987_654_321


def cancel(table: JobTable, job_id: int) -> bool:
    with table.connection.transaction():
        return table.run(control.cancel_job(job_id))


def retry(table: JobTable, job_id: int) -> bool:
    return table.run(control.retry_job(job_id))


def settle_as(table: JobTable, job_id: int, event: Event) -> None:
    """Write a verdict with the lease of the job's last claim."""
    [(worker, lease_no)] = table.rows(
        "select coalesce(worker_id, 0), lease_no from roost.jobs where id = $1::bigint", job_id
    )
    verdict = Verdict(
        Lease(job_id, worker, lease_no),
        event,
        delay=0.0 if event in (Event.RETRY, Event.SNOOZE) else None,
        error=ERROR if event in (Event.RETRY, Event.DISCARD) else None,
    )
    settled = table.run(settle([verdict], error_cap=20))
    if settled.parents:
        with table.connection.transaction():
            table.run(settle_parents(settled.parents, error_cap=20))


def end_its_worker(table: JobTable) -> None:
    table.rows("update roost.workers set expires_at = now() - interval '1 second'")
    table.run(expire_workers())
    with table.connection.transaction():
        table.run(rescue_jobs(limit=10, error_cap=20))


def rescue_discard(table: JobTable, job_id: int) -> None:
    table.change(job_id, "max_attempts = greatest(attempt, 1)")
    end_its_worker(table)


def rescue_cancel(table: JobTable, job_id: int) -> None:
    table.change(job_id, "cancel_requested = true")
    end_its_worker(table)


def release_cancel(table: JobTable, job_id: int) -> None:
    table.change(job_id, "cancel_requested = true")
    settle_as(table, job_id, Event.RELEASE)


def cancel_and_unwind(table: JobTable, job_id: int) -> None:
    cancel(table, job_id)
    settle_as(table, job_id, Event.CANCEL)


def fail_a_parent(table: JobTable, job_id: int) -> None:
    parent = table.add("parent")
    table.change(parent, "has_children = true")
    table.rows("insert into roost.dependencies values ($1::bigint, $2::bigint)", parent, job_id)
    if table.get(job_id).state == JobState.AVAILABLE:
        table.change(job_id, "pending_parents = 1")
    cancel(table, parent)


DRIVERS: Mapping[Event, Callable[[JobTable, int], object]] = {
    Event.CLAIM: lambda table, _: table.claim(table.add_worker()),
    Event.COMPLETE: lambda table, job_id: settle_as(table, job_id, Event.COMPLETE),
    Event.RETRY: lambda table, job_id: settle_as(table, job_id, Event.RETRY),
    Event.DISCARD: lambda table, job_id: settle_as(table, job_id, Event.DISCARD),
    Event.SNOOZE: lambda table, job_id: settle_as(table, job_id, Event.SNOOZE),
    Event.RELEASE: lambda table, job_id: settle_as(table, job_id, Event.RELEASE),
    Event.CANCEL: cancel_and_unwind,
    Event.RESCUE_RETRY: lambda table, _: end_its_worker(table),
    Event.RESCUE_DISCARD: rescue_discard,
    Event.RESCUE_CANCEL: rescue_cancel,
    Event.RELEASE_CANCEL: release_cancel,
    Event.PARENT_FAILED: fail_a_parent,
    Event.REVIVE: retry,
}


def arrange(table: JobTable, state: JobState) -> int:
    """Add a job and bring it to ``state``."""
    job_id = table.add()
    if state is JobState.AVAILABLE:
        return job_id
    if state is not JobState.CANCELLED:
        table.claim(table.add_worker())
    match state:
        case JobState.COMPLETED:
            settle_as(table, job_id, Event.COMPLETE)
        case JobState.RETRYABLE:
            settle_as(table, job_id, Event.RETRY)
        case JobState.DISCARDED:
            settle_as(table, job_id, Event.DISCARD)
        case JobState.CANCELLED:
            cancel(table, job_id)
    assert table.get(job_id).state == state
    return job_id


def test_the_table_of_moves_and_the_database_agree(table: JobTable) -> None:
    allowed = {(move.source, move.event): move for move in MOVES}
    driven = set()
    for source in JobState:
        for event, drive in DRIVERS.items():
            job_id = arrange(table, source)
            before = table.get(job_id)
            drive(table, job_id)
            after = table.get(job_id)
            move = allowed.get((source, event))
            if move is None:
                assert after.state == source, f"{event} in {source} is no move"
                assert after.attempt == before.attempt
            else:
                driven.add((source, event))
                assert after.state == move.target, f"{event} in {source}"
                assert after.attempt == before.attempt + move.attempt, f"{event} in {source}"
            table.rows("delete from roost.jobs")
            table.rows("delete from roost.dependencies")
            table.rows("delete from roost.workers")
    assert driven == {pair for pair in allowed if pair[0] is not None}


def test_an_enqueue_makes_the_moves_that_have_no_source(table: JobTable, dsn: str) -> None:
    parent = table.add()
    cancel(table, parent)
    with table.connection.transaction():
        [child] = table.run(insert_dependent(encode_jobs([JobInsert("work", depends_on=[parent])])))
    worker = table.add_worker()
    table.run(grant_credit(worker, 1, channel="channel-of-the-worker", tasks=["work"]))
    with JobTable(dsn) as listening:
        listening.rows("select pg_advisory_lock(hashtextextended('channel-of-the-worker', 0))")
        record = encode_jobs([JobInsert("work")])
        dispatched = table.run(insert_job(record, unique_key=None, dispatch=True))
    got = {
        table.get(table.add()).state: Event.ENQUEUE,
        table.get(dispatched).state: Event.DISPATCH,
        table.get(child).state: Event.PARENT_FAILED,
    }
    assert got == {move.target: move.event for move in MOVES if move.source is None}


@pytest.mark.parametrize("state", JobState)
def test_a_cancel_returns_whether_the_job_had_not_ended(table: JobTable, state: JobState) -> None:
    job_id = arrange(table, state)
    in_time = state in (JobState.AVAILABLE, JobState.EXECUTING, JobState.RETRYABLE)
    assert cancel(table, job_id) is in_time
    after = table.get(job_id)
    assert after.cancel_requested is (in_time or state is JobState.CANCELLED)
    if in_time and state is not JobState.EXECUTING:
        assert after.cancelled_at is not None
        assert cancel(table, job_id) is False


@pytest.mark.parametrize("state", JobState)
def test_a_retry_clears_ends_results_and_cancel_requests(table: JobTable, state: JobState) -> None:
    job_id = arrange(table, state)
    revived = state not in (JobState.AVAILABLE, JobState.EXECUTING)
    errors = table.get(job_id).errors
    assert retry(table, job_id) is revived
    after = table.get(job_id)
    assert after.errors == errors
    if revived:
        assert (after.completed_at, after.cancelled_at, after.discarded_at) == (None, None, None)
        assert (after.result, after.cancel_requested) == (None, False)
        assert after.max_attempts > after.attempt
        [claimed] = table.claim(table.add_worker()).jobs
        assert claimed.lease.job_id == job_id


def test_a_retry_of_a_used_up_job_gives_one_more_attempt(table: JobTable) -> None:
    job_id = table.add(max_attempts=1)
    for attempt in (1, 2):
        table.claim(table.add_worker())
        settle_as(table, job_id, Event.DISCARD)
        assert retry(table, job_id)
        assert table.get(job_id).max_attempts == attempt + 1


def test_a_cancel_works_again_after_a_retry(table: JobTable) -> None:
    job_id = arrange(table, JobState.EXECUTING)
    cancel_and_unwind(table, job_id)
    retry(table, job_id)
    table.claim(table.add_worker())
    settle_as(table, job_id, Event.COMPLETE)
    assert table.get(job_id).state == "completed"
    retry(table, job_id)
    assert cancel(table, job_id) is True
    assert table.get(job_id).state == "cancelled"


def test_a_requested_cancel_does_not_outlive_the_attempt(table: JobTable) -> None:
    for event, state in (
        (Event.RETRY, "cancelled"),
        (Event.SNOOZE, "cancelled"),
        (Event.RELEASE, "cancelled"),
        (Event.COMPLETE, "completed"),
        (Event.DISCARD, "discarded"),
    ):
        job_id = arrange(table, JobState.EXECUTING)
        cancel(table, job_id)
        settle_as(table, job_id, event)
        assert table.get(job_id).state == state
        assert (table.get(job_id).cancelled_at is None) is (state != "cancelled")


def test_no_cancel_is_lost_at_the_moment_of_a_claim(table: JobTable, sessions: Any) -> None:
    worker = table.add_worker()
    tables = sessions.open(), sessions.open()
    rng = random.Random(2)
    seen = set()
    for _ in range(200):
        job_id = table.add()
        gate = threading.Barrier(2)
        waits = rng.random() * 0.001, rng.random() * 0.001

        def claim(gate: Any = gate, wait: float = waits[0]) -> None:
            gate.wait()
            time.sleep(wait)
            tables[0].claim(worker)

        def stop(gate: Any = gate, wait: float = waits[1], job_id: int = job_id) -> bool:
            gate.wait()
            time.sleep(wait)
            return cancel(tables[1], job_id)

        claimed, stopped = sessions.in_thread(claim), sessions.in_thread(stop)
        claimed.result(10)
        assert stopped.result(10) is True
        job = table.get(job_id)
        seen.add(job.state)
        assert job.state == "cancelled" or (job.state, job.cancel_requested) == ("executing", True)
        table.rows("delete from roost.jobs")
    assert seen == {"cancelled", "executing"}, "the race was never close"


def test_an_unknown_id_is_an_error(table: JobTable) -> None:
    for verb in (cancel, retry, lambda table, job_id: table.run(control.state_of(job_id))):
        with pytest.raises(JobNotFoundError, match=str(UNKNOWN)):
            verb(table, UNKNOWN)
    with pytest.raises(JobNotFoundError):
        table.get(UNKNOWN)


def test_an_archived_job_can_be_read_and_retried_but_not_cancelled(table: JobTable) -> None:
    job_id = arrange(table, JobState.DISCARDED)
    before = table.get(job_id)
    table.archive()
    assert table.states() == {}
    assert table.get(job_id) == before
    assert table.run(control.state_of(job_id)) is JobState.DISCARDED
    assert cancel(table, job_id) is False
    assert retry(table, job_id) is True
    assert table.states() == {"available": 1}
    assert table.value("select count(*) from roost.jobs_archive") == 0
    [claimed] = table.claim(table.add_worker()).jobs
    settle_as(table, job_id, Event.COMPLETE)
    assert table.get(job_id).args == claimed.args()


def test_a_retry_of_a_job_whose_unique_key_is_taken_names_the_holder(table: JobTable) -> None:
    for archived in (False, True):
        old = table.add(unique_key="k")
        cancel(table, old)
        if archived:
            table.archive()
        holder = table.add(unique_key="k")
        with pytest.raises(DuplicateUniqueJobError) as caught:
            retry(table, old)
        assert (caught.value.unique_key, caught.value.existing_id) == ("k", holder)
        assert table.get(old).state == "cancelled"
        cancel(table, holder)
        assert retry(table, old) is True
        cancel(table, old)


def test_a_unique_key_that_is_taken_during_a_retry_is_reported_too(
    table: JobTable, sessions: Any, dsn: str
) -> None:
    old = table.add(unique_key="k")
    cancel(table, old)
    inserter = sessions.open()
    with Roost(dsn) as client:
        with inserter.connection.transaction():
            holder = inserter.add(unique_key="k")
            call = sessions.in_thread(lambda: client.retry(old))
            sessions.until_waiting()
        with pytest.raises(DuplicateUniqueJobError) as caught:
            call.result(10)
    assert caught.value.existing_id == holder
    assert table.get(old).state == "cancelled"


def test_one_taken_key_does_not_undo_a_batch_of_retries(table: JobTable, sessions: Any) -> None:
    worker = table.add_worker()
    jobs = [table.add(unique_key=f"k{n}", max_attempts=1) for n in range(5)]
    table.claim(worker)
    for job_id in jobs:
        settle_as(table, job_id, Event.DISCARD)
    table.add(unique_key="k1")
    inserter, reviver = sessions.open(), sessions.open()
    with inserter.connection.transaction():
        inserter.add(unique_key="k3")
        call = sessions.in_thread(lambda: reviver.run(control.revive_jobs(jobs)))
        sessions.until_waiting()
    assert call.result(10) == 3
    assert [table.get(job_id).state for job_id in jobs] == [
        "available", "discarded", "available", "discarded", "available",
    ]  # fmt: skip


def test_pages_of_discarded_jobs_are_bounded_and_take_a_key_once(table: JobTable) -> None:
    jobs = []
    for n in range(6):
        job_id = table.add(unique_key="same" if n in (1, 2) else None, queue="a" if n else "b")
        table.change(job_id, "state = 'discarded', discarded_at = now()")
        jobs.append(job_id)
    page = table.run(control.discarded_page(queue=None, task=None, after=0, limit=4))
    assert (page.ids, page.last) == ([jobs[0], jobs[1], jobs[3]], jobs[3])
    page = table.run(control.discarded_page(queue=None, task=None, after=jobs[3], limit=4))
    assert (page.ids, page.last) == (jobs[4:], None)
    page = table.run(control.discarded_page(queue="b", task="work", after=0, limit=4))
    assert page.ids == jobs[:1]
    assert table.run(control.discarded_page(queue=None, task="x", after=0, limit=4)).ids == []


def test_nothing_is_claimed_from_a_paused_queue_and_its_pause_is_listed(table: JobTable) -> None:
    worker = table.add_worker()
    table.add(queue="a")
    there = table.add(queue="b")
    table.run(control.pause_queue("a"))
    [first] = [queue.paused_at for queue in table.run(list_queues()) if queue.name == "a"]
    table.run(control.pause_queue("a"))
    [second] = [queue.paused_at for queue in table.run(list_queues()) if queue.name == "a"]
    assert first == second is not None
    claimed = table.claim(worker, queues=["a", "b"])
    assert [job.lease.job_id for job in claimed.jobs] == [there]
    assert claimed.next_due is None
    table.run(control.resume_queue("a"))
    assert len(table.claim(worker, queues=["a"]).jobs) == 1


def test_executing_jobs_of_a_paused_queue_end_are_cancelled_and_rescued(table: JobTable) -> None:
    for event, state in ((Event.COMPLETE, "completed"), (Event.RESCUE_RETRY, "retryable")):
        job_id = arrange(table, JobState.EXECUTING)
        table.run(control.pause_queue("default"))
        DRIVERS[event](table, job_id)
        assert table.get(job_id).state == state
        table.rows("delete from roost.jobs")
        table.run(control.resume_queue("default"))
    waiting = table.add()
    table.run(control.pause_queue("default"))
    assert cancel(table, waiting) is True


def test_queues_and_workers_are_counted_by_kind_of_job(table: JobTable) -> None:
    worker = table.add_worker("one")
    running = table.add()
    table.claim(worker)
    parent = table.add()
    with table.connection.transaction():
        table.run(insert_dependent(encode_jobs([JobInsert("work", depends_on=[parent])] * 2)))
    later = table.add()
    table.change(later, "scheduled_at = now() + interval '1 hour'")
    failed = table.add()
    table.change(failed, "state = 'retryable', scheduled_at = now() - interval '1 second'")
    waits = table.add()
    table.change(waits, "state = 'retryable', scheduled_at = now() + interval '1 hour'")
    lost = table.add()
    table.change(lost, "state = 'discarded', discarded_at = now()")
    oldest = table.add(priority=3)
    table.change(oldest, "scheduled_at = now() - interval '1 minute'")
    limited = table.add()
    table.change(limited, "limited = true")
    done = table.add(queue="done")
    table.change(done, "state = 'completed', completed_at = now()")
    table.add(queue="other")
    table.run(control.pause_queue("empty"))
    queues = {queue.name: queue for queue in table.run(list_queues())}
    assert set(queues) == {"default", "other", "empty"}
    default = queues["default"]
    figures = (default.available, default.scheduled, default.retryable)
    assert (*figures, default.blocked, default.executing) == (3, 1, 2, 2, 1)
    assert (default.discarded, default.capped) == (1, False)
    assert default.oldest_due_seconds is not None
    assert 60 <= default.oldest_due_seconds < 3600
    assert queues["empty"].oldest_due_seconds is None
    assert default.paused_at is None
    assert queues["empty"].paused_at is not None
    assert queues["other"].available == 1
    [info] = table.run(list_workers())
    assert (info.id, info.name, info.queues, info.concurrency) == (worker, "one", ["default"], 10)
    assert info.executing == 1
    assert info.started_at <= info.heartbeat_at < info.expires_at
    assert table.get(running).state == "executing"
    # The job is prefetched; then its worker records that it may start.
    table.change(running, "prefetch_no = 1")
    for started, counts in (("null", (0, 1)), ("'{1,1000,0,0}'", (1, 0))):
        table.rows(f"update roost.workers set prefetch_started = {started}")
        queues = {queue.name: queue for queue in table.run(list_queues())}
        assert (queues["default"].executing, queues["default"].prefetched) == counts
        [info] = table.run(list_workers())
        assert (info.executing, info.prefetched) == counts
