"""Children start after their parents, none is forgotten, and a failure cancels all of them."""

from __future__ import annotations

import functools
import itertools
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tests.support.job_table import JobTable

from roost import DuplicateUniqueJobError, InvalidJobError, JobInsert, UnknownParentError
from roost._model.encoding import encode_jobs
from roost._model.states import Event
from roost._model.verdict import Verdict
from roost._ops.claim import ClaimedJob
from roost._ops.control import cancel_job, retry_job
from roost._ops.dependencies import LOCK_NOT_AVAILABLE
from roost._ops.enqueue import insert_dependent, insert_job
from roost._ops.rescue import expire_workers, rescue_jobs
from roost._ops.settle import settle, settle_parents
from roost.exceptions import DatabaseUnavailableError

ERROR = {"error": "ValueError: no", "trace": ""}


def add_child(session: JobTable, *parents: int, task: str = "work", **fields: Any) -> int:
    """Enqueue one child, in a transaction or in the one that is open."""
    job = JobInsert(task, depends_on=list(parents), **fields)
    with session.connection.transaction():
        return session.run(
            insert_job(encode_jobs([job]), unique_key=job.unique_key, has_parents=bool(parents))
        )


def start(session: JobTable, job_id: int, worker: int) -> ClaimedJob:
    """Claim this job."""
    for claimed in session.claim(worker, limit=1000).jobs:
        if claimed.lease.job_id == job_id:
            return claimed
    raise AssertionError("it can't be claimed")


def end(session: JobTable, claimed: ClaimedJob, event: Event = Event.COMPLETE) -> list[Verdict]:
    """Write a verdict as the settle lane does, and return it if it could not be written yet."""
    error = ERROR if event in (Event.DISCARD, Event.RETRY) else None
    verdict = Verdict(claimed.lease, event, error=error, delay=0 if error else None)
    first = session.run(settle([verdict], error_cap=20))
    assert not first.lost
    if not first.parents:
        return first.busy
    try:
        with session.connection.transaction():
            second = session.run(settle_parents(first.parents, error_cap=20))
    except DatabaseUnavailableError as error:
        if error.sqlstate != LOCK_NOT_AVAILABLE:
            raise
        return first.parents
    assert not second.lost
    return second.busy


def claimable(session: JobTable, worker: int) -> set[int]:
    return {claimed.lease.job_id for claimed in session.claim(worker, limit=1000).jobs}


def dependencies(session: JobTable) -> int:
    count: int = session.value("select count(*) from roost.dependencies")
    return count


def errors_of(session: JobTable, job_id: int) -> list[str]:
    return [record["error"] for record in session.get(job_id).errors]


def test_a_child_waits_until_all_its_parents_are_completed(table: JobTable) -> None:
    worker = table.add_worker()
    first, second = table.add(), table.add()
    child = add_child(table, first, second, first)
    assert table.get(child).depends_on == [first, second, first]
    running = {job.lease.job_id: job for job in table.claim(worker).jobs}
    assert set(running) == {first, second}
    end(table, running[first])
    assert claimable(table, worker) == set()
    end(table, running[second])
    assert claimable(table, worker) == {child}
    assert dependencies(table) == 0


def test_a_parent_that_is_retried_keeps_its_children_waiting(table: JobTable) -> None:
    worker = table.add_worker()
    parent = table.add()
    child = add_child(table, parent)
    end(table, start(table, parent, worker), Event.RETRY)
    again = start(table, parent, worker)
    assert claimable(table, worker) == set()
    end(table, again)
    assert claimable(table, worker) == {child}


@pytest.mark.parametrize("event", [Event.DISCARD, Event.CANCEL])
def test_a_parent_that_fails_cancels_all_descendants(table: JobTable, event: Event) -> None:
    worker = table.add_worker()
    chain = [table.add()]
    for _ in range(50):
        chain.append(add_child(table, chain[-1]))
    end(table, start(table, chain[0], worker), event)
    how = "discarded" if event is Event.DISCARD else "cancelled"
    assert errors_of(table, chain[1]) == [f"ParentFailed: job {chain[0]} was {how}"]
    for parent, child in itertools.pairwise(chain[1:]):
        assert table.get(child).state == "cancelled"
        assert table.get(child).cancelled_at is not None
        assert errors_of(table, child) == [f"ParentFailed: job {parent} was cancelled"]
    assert dependencies(table) == 0


def test_a_diamond_is_released_once_and_cancelled_once(table: JobTable) -> None:
    worker = table.add_worker()
    for event, state in ((Event.COMPLETE, "available"), (Event.DISCARD, "cancelled")):
        top = table.add()
        left, right = add_child(table, top), add_child(table, top)
        bottom = add_child(table, left, right)
        if event is Event.COMPLETE:
            end(table, start(table, top, worker))
            for claimed in table.claim(worker).jobs:
                assert table.get(bottom).state == "available"
                assert claimed.lease.job_id in (left, right)
                end(table, claimed)
        else:
            end(table, start(table, top, worker), event)
            assert errors_of(table, bottom) == [f"ParentFailed: job {left} was cancelled"]
        assert table.get(bottom).state == state
        assert table.column(bottom, "pending_parents") == 0
        claimable(table, worker)


def test_one_of_two_parents_fails_and_the_other_completes_later(table: JobTable) -> None:
    worker = table.add_worker()
    bad, good = table.add(), table.add()
    child = add_child(table, bad, good)
    running = {job.lease.job_id: job for job in table.claim(worker).jobs}
    end(table, running[bad], Event.DISCARD)
    assert table.get(child).state == "cancelled"
    end(table, running[good])
    assert table.get(child).state == "cancelled"
    assert len(errors_of(table, child)) == 1


def test_an_unknown_parent_is_refused_and_the_transaction_stays_usable(table: JobTable) -> None:
    known = table.add()
    with table.connection.transaction():
        before = table.add()
        with pytest.raises(UnknownParentError, match="987654321"):
            table.run(
                insert_job(
                    encode_jobs([JobInsert("work", depends_on=[known, 987654321])]),
                    unique_key=None,
                    has_parents=True,
                )
            )
        after = table.add()
    assert [table.get(job_id).state for job_id in (before, after)] == ["available"] * 2
    assert table.states() == {"available": 3}
    with pytest.raises(UnknownParentError):
        add_child(table, 2**63 - 1)


def test_a_parent_may_be_inserted_in_the_same_transaction(table: JobTable) -> None:
    with table.connection.transaction():
        parent = table.add()
        child = add_child(table, parent)
    worker = table.add_worker()
    assert claimable(table, worker) == {parent}
    assert table.column(child, "pending_parents") == 1


@pytest.mark.parametrize("commits", [True, False])
def test_an_enqueue_waits_for_a_parent_that_is_not_committed_yet(
    table: JobTable, sessions: Any, commits: bool
) -> None:
    other, third = sessions.open(), sessions.open()
    transaction = other.connection.transaction()
    transaction.__enter__()
    parent = other.add()
    child = sessions.in_thread(lambda: add_child(third, parent))
    sessions.until_waiting()
    assert not child.done()
    if commits:
        transaction.__exit__(None, None, None)
        assert table.column(child.result(10), "pending_parents") == 1
    else:
        other.script("rollback")
        with pytest.raises(UnknownParentError):
            child.result(10)
        assert table.states() == {}


def test_an_enqueue_waits_for_a_parent_that_is_ending(table: JobTable, sessions: Any) -> None:
    worker = table.add_worker()
    for event, state, pending in (
        (Event.COMPLETE, "available", 0),
        (Event.DISCARD, "cancelled", 0),
    ):
        parent = table.add()
        claimed = start(table, parent, worker)
        settler, enqueuer = sessions.open(), sessions.open()
        with settler.connection.transaction():
            verdict = Verdict(claimed.lease, event, error=ERROR if event != "complete" else None)
            settler.run(settle([verdict], error_cap=20))
            child = sessions.in_thread(functools.partial(add_child, enqueuer, parent))
            sessions.until_waiting()
        child_id = child.result(10)
        assert table.get(child_id).state == state
        assert table.column(child_id, "pending_parents") == pending
        claimable(table, worker)


def test_a_child_enqueued_during_the_settle_is_settled_with_its_parent(
    table: JobTable, sessions: Any
) -> None:
    worker = table.add_worker()
    parent = table.add()
    claimed = start(table, parent, worker)
    enqueuer = sessions.open()
    with enqueuer.connection.transaction():
        child = add_child(enqueuer, parent)
        assert [v.lease for v in end(table, claimed)] == [claimed.lease]  # busy
    assert end(table, claimed) == []
    assert claimable(table, worker) == {child}


def test_no_child_is_lost_or_early_when_its_parent_ends_at_the_same_moment(
    table: JobTable, sessions: Any
) -> None:
    worker = table.add_worker()
    enqueuer, settler = sessions.open(), sessions.open()
    rng = random.Random(1)
    blocked = free = 0
    for _ in range(300):
        parent = table.add()
        [claimed] = [job for job in settler.claim(worker).jobs if job.lease.job_id == parent]
        gate = threading.Barrier(2)
        pauses = rng.random() * 0.002, rng.random() * 0.002

        def enqueue(parent: int = parent, gate: Any = gate, pause: float = pauses[0]) -> int:
            gate.wait()
            time.sleep(pause)
            return add_child(enqueuer, parent)

        def finish(
            claimed: ClaimedJob = claimed, gate: Any = gate, pause: float = pauses[1]
        ) -> None:
            gate.wait()
            time.sleep(pause)
            while end(settler, claimed):
                pass

        child, done = sessions.in_thread(enqueue), sessions.in_thread(finish)
        # While the parent executes the child can't be claimed.
        child_id = child.result(10)
        done.result(10)
        was_blocked = table.column(parent, "has_children")
        blocked, free = blocked + was_blocked, free + (not was_blocked)
        assert table.get(parent).state == "completed"
        started = start(table, child_id, worker)
        assert table.get(child_id).attempted_at >= table.get(parent).completed_at  # type: ignore[operator]  # both ended
        end(table, started)
    assert blocked > 10, "the race was never close"
    assert free > 10, "the race was never close"
    assert dependencies(table) == 0


def test_many_children_are_enqueued_at_once_under_one_parent(
    table: JobTable, sessions: Any
) -> None:
    worker = table.add_worker()
    parent = table.add()
    tables = [sessions.open() for _ in range(8)]

    def enqueue(session: JobTable) -> list[int]:
        return [add_child(session, parent) for _ in range(10)]

    calls = [sessions.in_thread(lambda session=session: enqueue(session)) for session in tables]
    children = {child for call in calls for child in call.result(20)}
    assert len(children) == 80
    end(table, start(table, parent, worker))
    assert claimable(table, worker) == children


def test_two_open_transactions_may_add_children_to_one_parent(
    table: JobTable, sessions: Any
) -> None:
    parent = table.add()
    add_child(table, parent)  # the first child marks the parent; later ones take a share lock
    one, two = sessions.open(), sessions.open()
    with one.connection.transaction(), two.connection.transaction():
        add_child(one, parent)
        add_child(two, parent)
    assert dependencies(table) == 3


def test_a_locked_parent_does_not_delay_the_settles_of_others(
    table: JobTable, sessions: Any
) -> None:
    worker = table.add_worker()
    parent, bystander = table.add(), table.add()
    running = table.claim(worker).jobs
    enqueuer = sessions.open()
    with enqueuer.connection.transaction():
        add_child(enqueuer, parent)
        verdicts = [Verdict(job.lease, Event.COMPLETE) for job in running]
        settled = table.run(settle(verdicts, error_cap=20))
        assert [v.lease.job_id for v in settled.busy] == [parent]
        assert table.get(bystander).state == "completed"


def test_a_locked_child_delays_only_its_parent(table: JobTable, sessions: Any) -> None:
    """An open transaction that adds a grandchild has locked the child that is to be released."""
    worker = table.add_worker()
    held, free = table.add(), table.add()
    child, other = add_child(table, held), add_child(table, free)
    verdicts = [Verdict(job.lease, Event.COMPLETE) for job in table.claim(worker).jobs]
    enqueuer = sessions.open()
    with enqueuer.connection.transaction():
        grandchild = add_child(enqueuer, child)
        began = time.monotonic()
        of = {v.lease.job_id: v for v in table.run(settle(verdicts, error_cap=20)).parents}
        with pytest.raises(DatabaseUnavailableError) as caught, table.connection.transaction():
            table.run(settle_parents([of[held]], error_cap=20))
        assert caught.value.sqlstate == "55P03"
        assert time.monotonic() - began < 5
        with table.connection.transaction():
            table.run(settle_parents([of[free]], error_cap=20))
        assert claimable(table, worker) == {other}
    left = [verdict for verdict in verdicts if verdict.lease.job_id == held]
    with table.connection.transaction():
        table.run(settle_parents(left, error_cap=20))
    assert claimable(table, worker) == {child}
    assert table.column(grandchild, "pending_parents") == 1


def test_an_archived_parent_counts_as_it_ended(table: JobTable) -> None:
    worker = table.add_worker()
    good = table.add()
    end(table, start(table, good, worker))
    bad = table.add()
    end(table, start(table, bad, worker), Event.DISCARD)
    assert table.archive() == 2
    assert table.states() == {}
    child, doomed = add_child(table, good), add_child(table, good, bad)
    assert claimable(table, worker) == {child}
    assert table.get(doomed).state == "cancelled"
    assert errors_of(table, doomed) == [f"ParentFailed: job {bad} was discarded"]
    assert table.get(doomed).cancelled_at is not None


def test_a_child_of_a_failed_parent_is_inserted_cancelled(table: JobTable) -> None:
    parent = table.add()
    with table.connection.transaction():
        table.run(cancel_job(parent))
    child = add_child(table, parent, unique_key="k")
    assert table.get(child).state == "cancelled"
    assert add_child(table, child, unique_key="k") > child  # the key is free
    assert dependencies(table) == 0


def test_the_children_of_an_instantly_archived_parent_are_released(table: JobTable) -> None:
    worker = table.add_worker()
    parent = table.add()
    child = add_child(table, parent)
    end(table, start(table, parent, worker))
    table.archive()
    assert claimable(table, worker) == {child}


def test_a_batch_may_mix_children_and_others(table: JobTable) -> None:
    worker = table.add_worker()
    parent, failed = table.add(), table.add()
    with table.connection.transaction():
        table.run(cancel_job(failed))
    jobs = [
        JobInsert("work"),
        JobInsert("work", depends_on=[parent]),
        JobInsert("work", depends_on=[parent, failed]),
        JobInsert("work", unique_key="k", depends_on=[parent]),
        JobInsert("work", unique_key="k"),
    ]
    with table.connection.transaction():
        ids = table.run(insert_dependent(encode_jobs(jobs)))
    assert ids == sorted(ids)
    assert len(ids) == 4
    assert claimable(table, worker) == {parent, ids[0]}
    assert [table.get(job_id).state for job_id in ids[1:]] == [
        "available",
        "cancelled",
        "available",
    ]
    assert dependencies(table) == 2


def test_a_blocked_child_holds_its_unique_key(table: JobTable) -> None:
    worker = table.add_worker()
    parent = table.add()
    child = add_child(table, parent, unique_key="k")
    with pytest.raises(DuplicateUniqueJobError) as caught:
        add_child(table, parent, unique_key="k")
    assert caught.value.existing_id == child
    assert dependencies(table) == 1
    end(table, start(table, parent, worker), Event.DISCARD)
    assert add_child(table, table.add(), unique_key="k") > child


def test_a_cancelled_child_is_not_released_by_its_parent(table: JobTable) -> None:
    worker = table.add_worker()
    parent = table.add()
    child = add_child(table, parent)
    grandchild = add_child(table, child)
    with table.connection.transaction():
        assert table.run(cancel_job(child)) is True
    assert table.get(child).errors == []
    assert table.get(grandchild).state == "cancelled"
    end(table, start(table, parent, worker))
    assert claimable(table, worker) == set()
    assert dependencies(table) == 0


def test_a_retried_child_waits_for_its_parent_again(table: JobTable) -> None:
    worker = table.add_worker()
    parent = table.add()
    child = add_child(table, parent)
    with table.connection.transaction():
        table.run(cancel_job(child))
    with table.connection.transaction():
        assert table.run(retry_job(child)) is True
    assert claimable(table, worker) == {parent}
    assert table.column(child, "pending_parents") == 1


@pytest.mark.parametrize("event", [Event.COMPLETE, Event.DISCARD])
def test_a_retried_child_follows_the_end_of_its_parent(table: JobTable, event: Event) -> None:
    worker = table.add_worker()
    parent = table.add()
    child = add_child(table, parent)
    with table.connection.transaction():
        table.run(cancel_job(child))
    with table.connection.transaction():
        table.run(retry_job(child))
    end(table, start(table, parent, worker), event)
    if event is Event.COMPLETE:
        assert claimable(table, worker) == {child}
    else:
        assert table.get(child).state == "cancelled"


def test_a_child_of_a_failed_parent_is_not_retried_before_it(table: JobTable) -> None:
    worker = table.add_worker()
    parent = table.add()
    child = add_child(table, parent)
    end(table, start(table, parent, worker), Event.DISCARD)
    with (
        pytest.raises(InvalidJobError, match=f"job {parent}, which was discarded"),
        table.connection.transaction(),
    ):
        table.run(retry_job(child))
    assert table.get(child).state == "cancelled"
    with table.connection.transaction():
        table.run(retry_job(parent))
    with table.connection.transaction():
        assert table.run(retry_job(child)) is True
    assert claimable(table, worker) == {parent}


def test_a_rescue_that_discards_a_parent_cancels_its_children(table: JobTable) -> None:
    worker = table.add_worker(stale_after=0.0)
    parent = table.add(max_attempts=1)
    child = add_child(table, parent)
    start(table, parent, worker)
    table.run(expire_workers())
    with table.connection.transaction():
        table.run(rescue_jobs(limit=10, error_cap=20))
    assert table.get(parent).state == "discarded"
    assert errors_of(table, child) == [f"ParentFailed: job {parent} was discarded"]


def test_two_parents_that_end_at_the_same_time_release_their_children_once(
    table: JobTable, sessions: Any
) -> None:
    worker = table.add_worker()
    tables = [sessions.open(), sessions.open()]
    for _ in range(30):
        parents = [table.add(), table.add()]
        children = [add_child(table, *parents) for _ in range(5)]
        running = [job for job in table.claim(worker).jobs if job.lease.job_id in parents]
        gate = threading.Barrier(2)

        def finish(session: JobTable, claimed: ClaimedJob, gate: Any = gate) -> None:
            gate.wait()
            while end(session, claimed):
                pass

        calls = [
            sessions.in_thread(lambda pair=pair: finish(*pair))
            for pair in zip(tables, running, strict=True)
        ]
        for call in calls:
            call.result(10)
        assert claimable(table, worker) == set(children)


def measure(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def in_transaction(session: JobTable, operation: Any) -> Any:
    with session.connection.transaction():
        return session.run(operation)


def ids_of(jobs: Sequence[ClaimedJob]) -> list[int]:
    return [job.lease.job_id for job in jobs]


def test_ten_thousand_children_start_with_their_parent_s_end(table: JobTable) -> None:
    worker = table.add_worker()
    parent = table.add()
    records = encode_jobs([JobInsert("work", depends_on=[parent])] * 10_000)
    enqueued = measure(lambda: in_transaction(table, insert_dependent(records)))
    claimed = start(table, parent, worker)
    assert claimable(table, worker) == set()
    released = measure(lambda: end(table, claimed))
    first = table.claim(worker, limit=10)
    assert len(first.jobs) == 10
    print(f"10 k children: enqueued in {enqueued:.3f} s, released in {released:.3f} s")
