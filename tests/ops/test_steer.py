"""Waiting jobs are changed and deleted, also in the moment in which they are claimed."""

from __future__ import annotations

from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.ops.test_dependencies import add_child, dependencies, end, start
from tests.support.job_table import JobTable

from roost import (
    DuplicateUniqueJobError,
    HandlerRegistry,
    InvalidJobError,
    Job,
    JobBlockedError,
    JobInsert,
    JobLockedError,
    JobNotFoundError,
    JobState,
    Roost,
    UnknownParentError,
)
from roost._model.job_changes import encode_changes
from roost._model.states import Event
from roost._ops import steer
from roost._ops.control import cancel_job
from roost._ops.query import Op

LATER = datetime(2030, 1, 1, tzinfo=UTC)
UNKNOWN = 10**9


def verb(table: JobTable, operation: Op[Any]) -> Any:
    """Run a verb as a client does."""
    with table.connection.transaction():
        return table.run(steer.bounded(operation, borrowed=None))


def update(job_id: int, **changes: Any) -> Op[bool]:
    return steer.update(job_id, encode_changes(changes, HandlerRegistry()))


VERBS: dict[str, Any] = {
    "run_now": steer.run_now,
    "reschedule": lambda job_id: steer.reschedule(job_id, LATER, None),
    "update": lambda job_id: update(job_id, priority=7),
    "delete": steer.delete,
    "cancel": cancel_job,
}


def due_in(table: JobTable, job_id: int) -> float:
    return float(
        table.value(
            "select extract(epoch from scheduled_at - now())::float8 from roost.jobs "
            "where id = $1::bigint",
            job_id,
        )
    )


def test_a_scheduled_job_is_due_now(table: JobTable) -> None:
    scheduled = table.add(scheduled_at=LATER)
    worker = table.add_worker()
    assert table.claim(worker).jobs == []
    assert verb(table, steer.run_now(scheduled)) is True
    [claimed] = table.claim(worker).jobs
    assert (claimed.lease.job_id, claimed.attempt) == (scheduled, 1)


def test_a_job_that_waits_for_its_retry_or_was_snoozed_is_due_now(table: JobTable) -> None:
    worker = table.add_worker()
    for event in (Event.RETRY, Event.SNOOZE):
        job_id = table.add()
        end(table, start(table, job_id, worker), event)
        table.change(job_id, "scheduled_at = now() + interval '1 hour'")
        before = table.get(job_id)
        assert verb(table, steer.run_now(job_id)) is True
        after = table.get(job_id)
        same = {"state", "attempt", "max_attempts", "errors"}
        assert before.model_dump(include=same) == after.model_dump(include=same)
        [claimed] = table.claim(worker).jobs
        assert claimed.lease.job_id == job_id


@pytest.mark.parametrize("name", ["run_now", "reschedule", "update"])
def test_a_job_that_runs_or_has_ended_is_left_alone(table: JobTable, name: str) -> None:
    worker = table.add_worker()
    running = table.add()
    lease = start(table, running, worker)
    before = table.get(running)
    assert verb(table, VERBS[name](running)) is False
    assert table.get(running) == before
    end(table, lease)
    before = table.get(running)
    assert verb(table, VERBS[name](running)) is False
    table.archive()
    assert verb(table, VERBS[name](running)) is False
    assert table.get(running) == before


def test_a_job_that_is_due_is_not_due_again(table: JobTable) -> None:
    job_id = table.add()
    before = table.get(job_id)
    assert verb(table, steer.run_now(job_id)) is False
    assert table.get(job_id) == before


@pytest.mark.parametrize("name", [*VERBS])
def test_an_unknown_id_is_an_error(table: JobTable, name: str) -> None:
    with pytest.raises(JobNotFoundError, match=str(UNKNOWN)):
        verb(table, VERBS[name](UNKNOWN))


def test_a_blocked_job_can_not_run_now(table: JobTable) -> None:
    one, two = table.add(), table.add()
    child = add_child(table, one, two, scheduled_at=LATER)
    with pytest.raises(JobBlockedError) as caught:
        verb(table, steer.run_now(child))
    assert (caught.value.job_id, caught.value.parents) == (child, [one, two])
    assert table.get(child).scheduled_at == LATER
    end(table, start(table, one, table.add_worker()))
    with pytest.raises(JobBlockedError) as caught:
        verb(table, steer.run_now(child))
    assert caught.value.parents == [two]


def test_a_blocked_job_is_rescheduled_and_changed(table: JobTable) -> None:
    worker = table.add_worker()
    parent = table.add()
    child = add_child(table, parent, scheduled_at=LATER)
    assert verb(table, steer.reschedule(child, None, 0.0)) is True
    assert verb(table, update(child, priority=4)) is True
    [claimed] = table.claim(worker).jobs
    assert claimed.lease.job_id == parent
    end(table, claimed)
    [claimed] = table.claim(worker).jobs
    assert (claimed.lease.job_id, claimed.priority) == (child, 4)


def test_a_job_is_rescheduled_to_a_time_or_by_seconds(table: JobTable) -> None:
    job_id = table.add()
    assert verb(table, steer.reschedule(job_id, LATER, None)) is True
    assert table.get(job_id).scheduled_at == LATER
    assert verb(table, steer.reschedule(job_id, None, 90.0)) is True
    assert 85 < due_in(table, job_id) <= 90


def test_only_what_is_passed_changes(table: JobTable) -> None:
    job_id = table.add(
        args={"a": 1}, queue="q", priority=1, max_attempts=3, scheduled_at=LATER, unique_key="k",
        tags=["t"], timeout_seconds=5, metadata={"m": 1},
    )  # fmt: skip
    before = table.get(job_id)
    for changes in (
        {"args": {"b": [2]}},
        {"queue": "other"},
        {"priority": -5},
        {"max_attempts": 9},
        {"scheduled_at": LATER + timedelta(days=1)},
        {"tags": ["u", "v"]},
        {"tags": None},
        {"timeout_seconds": 7},
        {"timeout_seconds": None},
        {"metadata": {"n": None}},
        {"metadata": None},
        {"args": {}, "queue": "third", "priority": 0, "tags": ["w"]},
    ):
        assert verb(table, update(job_id, **changes)) is True
        plain: dict[str, Any] = {"tags": [], "metadata": {}}
        shown = {
            name: plain.get(name) if value is None else value for name, value in changes.items()
        }
        expected = Job.model_validate({**before.model_dump(), **shown})
        if "timeout_seconds" in changes and changes["timeout_seconds"] is None:
            expected = expected.model_copy(update={"timeout_seconds": None})
        assert table.get(job_id) == expected
        before = expected


def test_a_job_keeps_at_least_one_more_attempt(table: JobTable) -> None:
    worker = table.add_worker()
    job_id = table.add()
    for _ in range(3):
        end(table, start(table, job_id, worker), Event.RETRY)
        table.change(job_id, "scheduled_at = now()")
    assert verb(table, update(job_id, max_attempts=1)) is True
    assert (table.get(job_id).attempt, table.get(job_id).max_attempts) == (3, 4)


def test_the_workers_of_the_queue_are_notified(table: JobTable) -> None:
    for queue in ("default", "other"):
        table.add_worker(queues=[queue])
    table.script("listen roost_jobs")
    later, blocked_by = table.add(scheduled_at=LATER), table.add(task="elsewhere")
    blocked = add_child(table, blocked_by)
    table.notifications()
    verb(table, steer.run_now(later))
    assert table.notifications() == [("roost_jobs", "default")]
    verb(table, steer.reschedule(later, LATER, None))
    verb(table, update(blocked, queue="other"))
    assert table.notifications() == []
    verb(table, steer.reschedule(later, None, 30.0))
    assert table.notifications() == [("roost_jobs", "default")]
    verb(table, update(later, queue="other"))
    assert table.notifications() == [("roost_jobs", "other")]


# Deletion


@pytest.mark.parametrize("state", [state for state in JobState if state is not JobState.EXECUTING])
def test_a_job_that_does_not_run_is_deleted(table: JobTable, state: JobState) -> None:
    worker = table.add_worker()
    job_id, other = table.add(unique_key="k"), table.add(queue="elsewhere")
    events = {
        JobState.COMPLETED: Event.COMPLETE,
        JobState.DISCARDED: Event.DISCARD,
        JobState.RETRYABLE: Event.RETRY,
    }
    if state in events:
        end(table, start(table, job_id, worker), events[state])
    elif state is JobState.CANCELLED:
        verb(table, cancel_job(job_id))
    assert table.get(job_id).state == state
    assert verb(table, steer.delete(job_id)) is True
    with pytest.raises(JobNotFoundError):
        table.get(job_id)
    with pytest.raises(JobNotFoundError):
        verb(table, steer.delete(job_id))
    assert table.get(other).state == "available"
    assert table.add(unique_key="k")  # the key is free


def test_an_archived_job_is_deleted(table: JobTable) -> None:
    job_id = table.add()
    verb(table, cancel_job(job_id))
    assert table.archive() == 1
    assert verb(table, steer.delete(job_id)) is True
    with pytest.raises(JobNotFoundError):
        table.get(job_id)


@pytest.mark.parametrize("archived", [False, True])
def test_a_deleted_job_no_longer_holds_its_key(table: JobTable, dsn: str, archived: bool) -> None:
    with Roost(dsn) as client:
        options: dict[str, Any] = {"unique_key": "k", "unique_for": 3_600}
        first = client.enqueue("work", **options)
        end(table, start(table, first, table.add_worker()))
        if archived:
            assert table.archive() == 1
        with pytest.raises(DuplicateUniqueJobError):
            client.enqueue("work", **options)
        assert client.delete(first)
        assert client.enqueue("work", **options) > first


def test_an_enqueue_that_meets_a_deletion_is_no_deadlock(
    table: JobTable, sessions: Any, dsn: str
) -> None:
    with Roost(dsn) as client:
        options: dict[str, Any] = {"unique_key": "k", "unique_for": 3_600}
        first = client.enqueue("work", **options)
        other = sessions.open()
        with other.connection.transaction():
            assert other.run(steer.delete(first)) is True
            again = sessions.in_thread(
                lambda: client.enqueue("work", on_conflict="replace", **options)
            )
            sessions.until_waiting()
        assert again.result(20) > first
    assert table.states() == {"available": 1}


def test_a_running_job_is_not_deleted(table: JobTable) -> None:
    job_id = table.add()
    child = add_child(table, job_id)
    lease = start(table, job_id, table.add_worker())
    assert verb(table, steer.delete(job_id)) is False
    assert dependencies(table) == 1
    end(table, lease)
    assert table.get(child).state == "available"
    assert table.column(child, "pending_parents") == 0


def test_the_jobs_that_wait_for_a_deleted_one_are_cancelled_with_their_subtree(
    table: JobTable,
) -> None:
    parent, other = table.add(), table.add()
    child, cousin = add_child(table, parent, other), add_child(table, other)
    grandchild = add_child(table, child)
    assert verb(table, steer.delete(parent)) is True
    assert [table.get(each).state for each in (child, grandchild)] == ["cancelled"] * 2
    assert table.get(cousin).state == "available"
    [error] = table.get(child).errors
    assert error["error"] == f"ParentFailed: job {parent} was deleted"
    [error] = table.get(grandchild).errors
    assert error["error"] == f"ParentFailed: job {child} was cancelled"
    worker = table.add_worker()
    end(table, start(table, other, worker))
    [claimed] = table.claim(worker).jobs
    assert claimed.lease.job_id == cousin
    assert dependencies(table) == 0


def test_a_deleted_child_leaves_no_dependency(table: JobTable) -> None:
    one, two = table.add(), table.add()
    child, other = add_child(table, one, two), add_child(table, one)
    assert verb(table, steer.delete(child)) is True
    assert dependencies(table) == 1
    end(table, start(table, one, table.add_worker()))
    assert table.column(other, "pending_parents") == 0


def test_a_waiting_client_is_notified_of_a_deletion(table: JobTable) -> None:
    table.script("listen roost_finished")
    awaited, other = table.add(), table.add()
    table.change(awaited, "awaited = true")
    verb(table, steer.delete(other))
    assert table.notifications() == []
    verb(table, steer.delete(awaited))
    assert table.notifications() == [("roost_finished", str(awaited))]


# Races


@pytest.mark.parametrize("name", ["reschedule", "update", "delete"])
def test_a_verb_waits_for_a_claim_and_then_leaves_the_job_alone(
    table: JobTable, sessions: Any, name: str
) -> None:
    job_id = table.add(args={"a": 1})
    worker = table.add_worker()
    claiming = sessions.open()
    with claiming.connection.transaction():
        [claimed] = claiming.claim(worker).jobs
        called = sessions.in_thread(lambda: verb(table, VERBS[name](job_id)))
        sessions.until_waiting()
    assert called.result(20) is False
    assert table.get(job_id).state == "executing"
    assert end(table, claimed) == []


def test_a_job_that_is_being_claimed_is_not_made_due_again(table: JobTable, sessions: Any) -> None:
    job_id = table.add()
    claiming = sessions.open()
    worker = table.add_worker()
    with claiming.connection.transaction():
        [_] = claiming.claim(worker).jobs
        # It is due, so there is nothing to wait for.
        assert verb(table, steer.run_now(job_id)) is False


def test_a_claim_finds_a_job_when_it_has_been_made_due(table: JobTable, sessions: Any) -> None:
    job_id = table.add(scheduled_at=LATER)
    worker = table.add_worker()
    other = sessions.open()
    with other.connection.transaction():
        assert other.run(steer.run_now(job_id)) is True
        assert table.claim(worker).jobs == []
        again = sessions.in_thread(lambda: verb(table, steer.run_now(job_id)))
        sessions.until_waiting()
    assert again.result(20) is False
    assert len(table.claim(worker).jobs) == 1


@pytest.mark.parametrize("name", ["reschedule", "update", "delete"])
def test_a_claim_passes_over_a_job_that_is_being_changed(
    table: JobTable, sessions: Any, name: str
) -> None:
    job_id = table.add(args={"a": 1})
    worker = table.add_worker()
    other = sessions.open()
    with other.connection.transaction():
        assert other.run(VERBS[name](job_id)) is True
        assert table.claim(worker).jobs == []
    claimed = table.claim(worker).jobs
    assert [each.priority for each in claimed] == ([7] if name == "update" else [])


def test_a_claim_sees_all_of_an_update_or_nothing(table: JobTable, sessions: Any) -> None:
    """Changes and claims at once: each job runs with the args and the priority of one side."""
    jobs = table.add_all([JobInsert("work", args={"new": False}, priority=5)] * 300)
    worker = table.add_worker()
    claiming = [sessions.open() for _ in range(2)]
    claims: list[Future[Any]] = [
        sessions.in_thread(
            lambda session=session: [
                claimed for _ in range(60) for claimed in session.claim(worker, limit=3).jobs
            ]
        )
        for session in claiming
    ]
    answers = {
        job_id: verb(table, update(job_id, args={"new": True}, priority=6, timeout_seconds=9))
        for job_id in reversed(jobs)
    }
    seen = [claimed for claim in claims for claimed in claim.result(60)]
    rest = [claimed for _ in range(100) for claimed in table.claim(worker, limit=5).jobs]
    new = {
        claimed.lease.job_id
        for claimed in (*seen, *rest)
        if (claimed.args(), claimed.priority, claimed.timeout_seconds) == ({"new": True}, 6, 9)
    }
    old = {
        claimed.lease.job_id
        for claimed in (*seen, *rest)
        if (claimed.args(), claimed.priority, claimed.timeout_seconds) == ({"new": False}, 5, None)
    }
    assert len(seen) + len(rest) == len(new) + len(old) == len(jobs)
    assert new == {job_id for job_id, changed in answers.items() if changed}


def test_a_deleted_job_never_runs_and_a_running_one_is_never_deleted(
    table: JobTable, sessions: Any
) -> None:
    jobs = table.add_all([JobInsert("work")] * 300)
    worker = table.add_worker()
    claiming = [sessions.open() for _ in range(2)]
    claims: list[Future[Any]] = [
        sessions.in_thread(
            lambda session=session: [
                claimed.lease.job_id
                for _ in range(60)
                for claimed in session.claim(worker, limit=3).jobs
            ]
        )
        for session in claiming
    ]
    deleted = {job_id for job_id in reversed(jobs) if verb(table, steer.delete(job_id))}
    claimed = {job_id for claim in claims for job_id in claim.result(60)}
    assert claimed.isdisjoint(deleted)
    assert claimed | deleted == set(jobs)
    assert {job_id for (job_id,) in table.rows("select id from roost.jobs")} == claimed


def test_a_child_that_is_enqueued_while_its_parent_is_deleted_is_refused_or_cancelled(
    table: JobTable, sessions: Any
) -> None:
    first, second = table.add(), table.add()
    other = sessions.open()
    with other.connection.transaction():
        other.run(steer.delete(first))
        enqueued = sessions.in_thread(lambda: add_child(table, first))
        sessions.until_waiting()
    with pytest.raises(UnknownParentError):
        enqueued.result(20)
    with other.connection.transaction():
        child = add_child(other, second)
        deleted = sessions.in_thread(lambda: verb(table, steer.delete(second)))
        sessions.until_waiting()
    assert deleted.result(20) is True
    assert table.get(child).state == "cancelled"


def test_a_parent_that_ends_while_its_child_is_deleted_is_no_deadlock(
    table: JobTable, sessions: Any
) -> None:
    worker = table.add_worker()
    parent = table.add()
    child, other_child = add_child(table, parent), add_child(table, parent)
    lease = start(table, parent, worker)
    other = sessions.open()
    with other.connection.transaction():
        assert other.run(steer.delete(child)) is True
        ended = sessions.in_thread(lambda: end(table, lease))
        sessions.until_waiting()
    if ended.result(20):  # the child was locked for too long
        assert end(table, lease) == []
    assert table.get(parent).state == "completed"
    assert table.column(other_child, "pending_parents") == 0
    assert dependencies(table) == 0


@pytest.mark.parametrize("name", [*VERBS])
def test_a_locked_job_is_waited_for_a_bounded_time(
    table: JobTable, sessions: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(steer, "LOCK_WAIT", 50)
    job_id = table.add(scheduled_at=LATER)
    other = sessions.open()
    with other.connection.transaction():
        other.rows("select from roost.jobs where id = $1::bigint for update", job_id)
        with pytest.raises(JobLockedError, match="pg_stat_activity") as caught:
            verb(table, VERBS[name](job_id))
    assert caught.value.code == "roost.job-locked"
    assert verb(table, VERBS[name](job_id)) is True


def test_the_caller_gets_its_settings_back(table: JobTable) -> None:
    settings = "select current_setting('lock_timeout'), current_setting('plan_cache_mode')"
    job_id = table.add()
    with table.connection.transaction():
        table.script("set local lock_timeout = '7s'")
        before = table.rows(settings)
        table.run(steer.bounded(update(job_id, priority=1), borrowed=steer.ChangePoint()))
        assert table.rows(settings) == before
        with pytest.raises(InvalidJobError):
            table.run(steer.bounded(_failing(), borrowed=steer.ChangePoint()))


def _failing() -> Op[None]:
    raise InvalidJobError("no")
    yield
