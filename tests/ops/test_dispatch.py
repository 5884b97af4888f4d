"""An enqueue of one job dispatches it to a worker that has granted a credit, where that is safe."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
from tests.ops.conftest import Sessions
from tests.support.conformance.cases import until
from tests.support.job_table import JobTable

from roost import JobInsert
from roost._model.encoding import encode_jobs
from roost._model.job import TaskDefaults
from roost._model.states import Event
from roost._model.verdict import Lease, Verdict
from roost._ops.claim import ClaimedJob
from roost._ops.control import pause_queue
from roost._ops.dispatch import (
    DISPATCHED,
    WATCH,
    accept_dispatched,
    grant_credit,
    revoke_credit,
    take_unaccepted,
)
from roost._ops.enqueue import insert_job
from roost._ops.limits import publish_limits
from roost._ops.rescue import expire_workers
from roost._ops.workers import release_unheld, renew_worker, set_wants_notify
from roost.exceptions import DatabaseError, DuplicateUniqueJobError

NUMBER = 7


@attrs.frozen
class Receiver:
    """A worker that has granted a credit for the task ``work``, and its listening connection."""

    worker_id: int
    channel: str
    listening: JobTable

    def notifications(self) -> list[str]:
        """Return the payloads that have arrived on its channel."""
        return [
            payload
            for channel, payload in self.listening.notifications()
            if channel == self.channel
        ]

    def grant_credit(self, table: JobTable) -> bool:
        """Grant the next credit."""
        return table.run(
            grant_credit(self.worker_id, NUMBER + 1, channel=self.channel, tasks=["work"])
        )

    def accept(self, table: JobTable) -> ClaimedJob:
        """Accept the job that was dispatched to it."""
        accepted = table.run(accept_dispatched(self.worker_id, next_credit=None))
        assert accepted.found
        assert accepted.job is not None
        return accepted.job

    def credit(self, table: JobTable) -> int | None:
        """Return the number of the credit in its row."""
        number: int | None = table.value(
            "select credit from roost.workers where id = $1::bigint", self.worker_id
        )
        return number


@pytest.fixture
def make_receiver(sessions: Sessions, table: JobTable) -> Callable[..., Receiver]:
    """Return a function that adds a worker with a credit."""

    def make(name: str = "tester", *, lives: bool = True, **fields: Any) -> Receiver:
        worker_id = table.add_worker(name, **fields)
        channel = f"roost_worker_{worker_id}"
        listening = sessions.open()
        listening.rows(f"listen {channel}")
        listening.rows("listen roost_jobs")
        if lives:
            listening.rows("select pg_advisory_lock(hashtextextended($1::text, 0))", channel)
        table.run(grant_credit(worker_id, NUMBER, channel=channel, tasks=["other", "work"]))
        return Receiver(worker_id, channel, listening)

    return make


@pytest.fixture
def receiver(make_receiver: Callable[..., Receiver]) -> Receiver:
    """Return a worker with a credit."""
    return make_receiver()


def enqueue(table: JobTable, task: str = "work", **fields: Any) -> int:
    """Enqueue one job, as a client does in a transaction of its own."""
    job = JobInsert(task, **fields)
    return table.run(insert_job(encode_jobs([job]), unique_key=job.unique_key, dispatch=True))


def test_a_dispatched_job_is_leased_to_the_worker_and_announced_to_it(
    table: JobTable, receiver: Receiver
) -> None:
    job_id = enqueue(
        table,
        args={"to": "ü", "n": [1, 2.5, None]},
        queue="default",
        priority=3,
        max_attempts=4,
        tags=["a", 'b"c'],
        timeout_seconds=30,
        metadata={"trace": "x"},
    )
    assert receiver.notifications() == [DISPATCHED]
    assert receiver.credit(table) is None
    job = receiver.accept(table)
    assert job.lease == Lease(job_id, receiver.worker_id, 1)
    assert job.job() == table.get(job_id)
    assert table.get(job_id).state == "executing"
    assert table.get(job_id).attempt == 1
    # The lease is valid like that of a claim.
    assert table.settle(Verdict(job.lease, Event.RELEASE)) == []
    assert (table.get(job_id).state, table.get(job_id).attempt) == ("available", 0)


def test_a_credit_is_for_one_job(table: JobTable, receiver: Receiver) -> None:
    enqueue(table)
    enqueue(table)
    assert table.states() == {"executing": 1, "available": 1}
    assert len(receiver.notifications()) == 1


def test_an_enqueue_in_a_transaction_consumes_no_credit(
    table: JobTable, receiver: Receiver
) -> None:
    table.run(insert_job(encode_jobs([JobInsert("work")]), unique_key=None))
    assert table.states() == {"available": 1}
    assert receiver.credit(table) == NUMBER


@pytest.mark.parametrize(
    "fields",
    [
        {"due_in": timedelta(hours=1)},
        {"due_in": timedelta(seconds=30)},
        {"max_attempts": 1},
        {"task": "unknown"},
        {"queue": "elsewhere"},
    ],
)
def test_a_job_that_could_not_start_now_or_has_one_attempt_is_not_dispatched(
    table: JobTable, receiver: Receiver, fields: dict[str, Any]
) -> None:
    if "due_in" in fields:
        fields = {"scheduled_at": datetime.now(UTC) + fields["due_in"]}
    job_id = enqueue(table, **fields)
    assert table.get(job_id).state == "available"
    assert receiver.credit(table) == NUMBER


def test_a_scheduled_job_that_is_due_is_dispatched(table: JobTable, receiver: Receiver) -> None:
    job_id = enqueue(table, scheduled_at=datetime.now(UTC) - timedelta(hours=1))
    assert receiver.accept(table).job() == table.get(job_id)


def pause(table: JobTable, _: Receiver) -> None:
    table.run(pause_queue("default"))


def limit(table: JobTable, _: Receiver) -> None:
    table.run(publish_limits({"work": TaskDefaults(max_concurrency=1)}))


def expire(table: JobTable, receiver: Receiver) -> None:
    table.run(renew_worker(receiver.worker_id, stale_after=-1))


def hang_up(_: JobTable, receiver: Receiver) -> None:
    receiver.listening.rows("select pg_advisory_unlock_all()")


def fix_the_snapshot(table: JobTable, _: Receiver) -> None:
    table.rows("set default_transaction_isolation = 'repeatable read'")


@pytest.mark.parametrize("change", [pause, limit, expire, hang_up, fix_the_snapshot])
def test_a_worker_that_can_not_run_the_job_gets_no_dispatch(
    table: JobTable, receiver: Receiver, change: Callable[[JobTable, Receiver], None]
) -> None:
    change(table, receiver)
    job_id = enqueue(table)
    assert table.get(job_id).state == "available"
    assert receiver.credit(table) == NUMBER
    assert receiver.notifications() == []


def test_a_worker_that_does_not_get_the_job_is_notified_of_it(
    table: JobTable, receiver: Receiver
) -> None:
    enqueue(table, max_attempts=1)
    assert receiver.listening.notifications() == [("roost_jobs", "default")]


def test_a_living_worker_is_preferred_to_a_dead_one_with_a_later_heartbeat(
    table: JobTable, make_receiver: Callable[..., Receiver]
) -> None:
    living, dead = make_receiver("living"), make_receiver("dead", lives=False)
    table.rows(
        "update roost.workers set heartbeat_at = now() + interval '1 second' where id = $1::bigint",
        dead.worker_id,
    )
    enqueue(table)
    assert len(living.notifications()) == 1
    assert dead.credit(table) == NUMBER


def test_a_job_with_a_unique_key_is_dispatched_and_a_duplicate_consumes_no_credit(
    table: JobTable, receiver: Receiver
) -> None:
    job_id = enqueue(table, unique_key="once")
    assert receiver.accept(table).job() == table.get(job_id)
    assert receiver.notifications() == [DISPATCHED]
    assert receiver.grant_credit(table)
    with pytest.raises(DuplicateUniqueJobError):
        enqueue(table, unique_key="once")
    assert receiver.credit(table) == NUMBER + 1
    assert receiver.notifications() == []


def test_an_enqueue_that_waits_for_a_unique_key_does_not_lock_the_workers_row(
    table: JobTable, receiver: Receiver, sessions: Sessions
) -> None:
    rival, heart = sessions.open(), sessions.open()
    rival.script("begin")
    rival.run(insert_job(encode_jobs([JobInsert("work", unique_key="k")]), unique_key="k"))
    waiting = sessions.in_thread(lambda: enqueue(table, unique_key="k"))
    sessions.until_waiting()
    heart.script("set lock_timeout = '1s'")
    assert heart.run(renew_worker(receiver.worker_id, stale_after=60))
    rival.script("rollback")
    assert heart.get(waiting.result(10)).state == "executing"
    assert len(receiver.notifications()) == 1


def test_an_enqueue_does_not_wait_for_a_worker_whose_row_is_locked(
    table: JobTable, receiver: Receiver, sessions: Sessions
) -> None:
    rival = sessions.open()
    rival.script("begin")
    rival.run(renew_worker(receiver.worker_id, stale_after=60))
    table.script("set lock_timeout = '1s'")
    job_id = enqueue(table)
    assert table.get(job_id).state == "available"
    rival.script("commit")
    assert receiver.credit(table) == NUMBER


@pytest.mark.parametrize("length", [0, 7_600, 1_000_000])
def test_a_job_of_any_size_is_dispatched_and_its_notification_does_not_contain_it(
    table: JobTable, receiver: Receiver, length: int
) -> None:
    job_id = enqueue(table, args={"text": "ü" * length})
    assert receiver.notifications() == [DISPATCHED]
    assert receiver.accept(table).job() == table.get(job_id)


def test_a_dispatched_job_is_accepted_once_and_together_with_the_next_credit(
    table: JobTable, receiver: Receiver
) -> None:
    claimed = table.add()
    table.claim(receiver.worker_id)
    nothing = table.run(accept_dispatched(receiver.worker_id, next_credit=NUMBER + 1))
    assert (nothing.credit, nothing.found, nothing.job) == (NUMBER, False, None)
    dispatched = enqueue(table)
    assert table.run(accept_dispatched(receiver.worker_id + 1, next_credit=1)).credit is None
    assert not receiver.grant_credit(table), "a dispatched job is accepted first"
    accepted = table.run(accept_dispatched(receiver.worker_id, next_credit=NUMBER + 1))
    assert accepted.job is not None
    assert (accepted.credit, accepted.job.lease.job_id) == (NUMBER + 1, dispatched)
    assert receiver.credit(table) == NUMBER + 1
    again = table.run(accept_dispatched(receiver.worker_id, next_credit=NUMBER + 2))
    assert (again.credit, again.found, again.job) == (NUMBER + 1, False, None)
    assert table.get(claimed).state == "executing"


def test_a_job_whose_lease_is_lost_is_not_accepted(table: JobTable, receiver: Receiver) -> None:
    job_id = enqueue(table)
    table.change(job_id, "state = 'available', attempt = 0")
    accepted = table.run(accept_dispatched(receiver.worker_id, next_credit=NUMBER + 1))
    assert (accepted.credit, accepted.found, accepted.job) == (NUMBER + 1, True, None)


def test_an_accepted_job_carries_its_cancel_request(table: JobTable, receiver: Receiver) -> None:
    job_id = enqueue(table)
    table.change(job_id, "cancel_requested = true")
    assert receiver.accept(table).cancel_requested


def take(table: JobTable, worker_id: int, **options: Any) -> list[int]:
    """Take over unaccepted jobs, as another worker does, and return their ids."""
    given = {"queues": ["default"], "tasks": ["work"], "limit": 5, "after": 0.0, **options}
    return [job.lease.job_id for job in table.run(take_unaccepted(worker_id, **given))]


def test_two_other_workers_are_asked_to_watch(
    table: JobTable, make_receiver: Callable[..., Receiver]
) -> None:
    receivers = [make_receiver(f"worker {number}") for number in range(4)]
    make_receiver("elsewhere", queues=["elsewhere"])
    enqueue(table)
    received = [receiver.notifications() for receiver in receivers]
    assert sorted(received) == [[], [DISPATCHED], [WATCH], [WATCH]]


def test_an_unaccepted_job_is_taken_over_under_a_new_lease(
    table: JobTable, receiver: Receiver
) -> None:
    job_id, other = enqueue(table), table.add_worker("other")
    [taken] = table.run(
        take_unaccepted(other, queues=["default"], tasks=["work"], limit=5, after=0)
    )
    assert taken.lease == Lease(job_id, other, 2)
    assert taken.job() == table.get(job_id)
    assert table.get(job_id).attempt == 1
    late = table.run(accept_dispatched(receiver.worker_id, next_credit=NUMBER + 1))
    assert (late.credit, late.found, late.job) == (None, False, None)
    assert receiver.grant_credit(table)


@pytest.mark.parametrize(
    "options", [{"after": 60}, {"queues": ["q"]}, {"tasks": ["other"]}, {"limit": 0}]
)
def test_an_unaccepted_job_is_not_taken_over_by_a_worker_that_may_not_run_it(
    table: JobTable, receiver: Receiver, options: dict[str, Any]
) -> None:
    job_id, other = enqueue(table), table.add_worker("other")
    assert take(table, other, **options) == []
    assert receiver.accept(table).lease.job_id == job_id


@pytest.mark.parametrize("change", [pause, hang_up])
def test_an_unaccepted_job_is_not_taken_over_while_its_worker_may_have_accepted_it(
    table: JobTable, receiver: Receiver, change: Callable[[JobTable, Receiver], None]
) -> None:
    enqueue(table)
    change(table, receiver)
    assert take(table, table.add_worker("other")) == []


def test_an_accepted_job_is_not_taken_over(table: JobTable, receiver: Receiver) -> None:
    enqueue(table)
    receiver.accept(table)
    assert take(table, table.add_worker("other")) == []


def test_a_worker_without_a_row_takes_nothing_over(table: JobTable, receiver: Receiver) -> None:
    job_id = enqueue(table)
    assert take(table, 12345) == []
    assert receiver.accept(table).lease.job_id == job_id


def test_one_of_two_workers_gets_a_job_that_both_want(
    table: JobTable, receiver: Receiver, sessions: Sessions
) -> None:
    job_id, other = enqueue(table), table.add_worker("other")
    rival = sessions.open()
    rival.script("begin")
    assert rival.run(accept_dispatched(receiver.worker_id, next_credit=None)).job is not None
    assert take(table, other) == []  # and waits for no lock
    rival.script("rollback")
    rival.script("begin")
    assert take(rival, other) == [job_id]
    accepting = sessions.in_thread(
        lambda: receiver.listening.run(accept_dispatched(receiver.worker_id, next_credit=None))
    )
    sessions.until_waiting()
    rival.script("commit")
    assert accepting.result(10).job is None


def test_giving_jobs_back_revokes_the_credit(table: JobTable, receiver: Receiver) -> None:
    job_id = enqueue(table)
    with table.connection.transaction():
        assert table.run(release_unheld(receiver.worker_id, held=[])) == [job_id]
    assert receiver.credit(table) is None
    assert (table.get(job_id).state, table.get(job_id).attempt) == ("available", 0)
    enqueue(table)
    assert table.states() == {"available": 2}


def test_a_credit_is_either_revoked_or_consumed(
    table: JobTable, receiver: Receiver, sessions: Sessions
) -> None:
    assert table.run(revoke_credit(receiver.worker_id))
    assert not table.run(revoke_credit(receiver.worker_id))
    assert receiver.grant_credit(table)
    table.script("begin")
    job_id = enqueue(table)
    withdrawn = sessions.in_thread(
        lambda: receiver.listening.run(revoke_credit(receiver.worker_id))
    )
    sessions.until_waiting()
    table.script("commit")
    assert withdrawn.result(10)
    assert table.get(job_id).state == "executing"
    assert table.value("select dispatched_job_id from roost.workers") is None


def test_a_worker_is_not_expired_while_a_job_is_dispatched_to_it(
    table: JobTable, receiver: Receiver, sessions: Sessions
) -> None:
    rival = sessions.open()
    table.run(renew_worker(receiver.worker_id, stale_after=0.2))
    table.script("begin")
    job_id = enqueue(table)
    until(lambda: rival.value("select expires_at < now() from roost.workers"))
    assert rival.run(expire_workers()) == []
    table.script("commit")
    assert rival.run(expire_workers()) == ["tester"]
    given_back = table.get(job_id)
    assert (given_back.state, given_back.attempt) == ("available", 0), "it was not accepted"


def test_a_polling_worker_may_grant_a_credit_and_gets_no_other_notification(
    table: JobTable, receiver: Receiver
) -> None:
    table.run(set_wants_notify(receiver.worker_id, wants_notify=False))
    first, second = enqueue(table), enqueue(table)
    assert [channel for channel, _ in receiver.listening.notifications()] == [receiver.channel]
    assert [table.get(job_id).state for job_id in (first, second)] == ["executing", "available"]


def test_another_worker_is_notified_where_the_credit_of_a_polling_one_is_locked(
    table: JobTable, receiver: Receiver, sessions: Sessions
) -> None:
    rival = sessions.open()
    table.run(set_wants_notify(receiver.worker_id, wants_notify=False))
    table.add_worker("sleeper")
    rival.script("begin")
    rival.run(renew_worker(receiver.worker_id, stale_after=60))
    job_id = enqueue(table)
    rival.script("commit")
    assert receiver.listening.notifications() == [("roost_jobs", "default")]
    assert table.get(job_id).state == "available"


def test_a_dispatch_notifies_no_other_worker_of_the_queue(
    table: JobTable, receiver: Receiver
) -> None:
    enqueue(table)
    assert {channel for channel, _ in receiver.listening.notifications()} == {receiver.channel}


def test_an_error_restores_the_credit(table: JobTable, receiver: Receiver) -> None:
    table.rows("alter table roost.jobs add constraint never check (task <> 'work') not valid")
    with pytest.raises(DatabaseError, match="never"):
        enqueue(table)
    assert receiver.credit(table) == NUMBER
