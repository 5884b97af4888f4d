"""Limits are exact over all workers, whenever they were published."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.support.conformance.cases import until
from tests.support.job_table import JobTable

from roost import JobInsert, TaskDefaults
from roost._model.encoding import encode_jobs
from roost._model.states import Event
from roost._model.verdict import Verdict
from roost._ops import control
from roost._ops.claim import Claimed, ClaimedJob, claim_jobs, claim_limited_jobs
from roost._ops.enqueue import insert_dependent
from roost._ops.limits import count_start_now, limited_tasks, mark_limited_jobs, publish_limits
from roost._ops.rescue import expire_workers, rescue_jobs
from roost._ops.settle import settle, settle_parents
from roost._ops.workers import release_unheld
from roost._sql import statements

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


def publish(session: JobTable, task: str = "work", **limits: int) -> None:
    session.run(publish_limits({task: TaskDefaults(**limits)}))  # type: ignore[arg-type]  # only whole numbers
    session.run(mark_limited_jobs())


def mark_until_all_are(session: JobTable) -> None:
    """Mark jobs until no transaction on the server can have missed the limit."""

    def all_are() -> bool:
        session.run(mark_limited_jobs())
        return session.value("select all_marked from roost.limits") is True

    until(all_are, within=30)


def claim(
    session: JobTable,
    worker: int,
    *,
    limit: int = 100,
    tasks: Sequence[str] = ("work",),
    queues: Sequence[str] = ("default",),
) -> Claimed:
    """Claim limited jobs."""
    with session.connection.transaction():
        return session.run(
            claim_limited_jobs(
                worker_id=worker, queues=queues, limited=list(tasks), tasks=tasks, limit=limit
            )
        )


def complete(session: JobTable, *jobs: ClaimedJob, event: Event = Event.COMPLETE) -> None:
    delay = 0.0 if event in (Event.SNOOZE, Event.RETRY) else None
    settled = session.run(
        settle([Verdict(job.lease, event, delay=delay) for job in jobs], error_cap=20)
    )
    assert not settled.lost


def ids_of(claimed: Claimed) -> list[int]:
    return [job.lease.job_id for job in claimed.jobs]


def test_no_more_jobs_execute_at_once_than_allowed_over_all_workers(
    table: JobTable, sessions: Any
) -> None:
    publish(table, max_concurrency=3)
    table.add_all([JobInsert("work", queue=f"q{n % 2}", priority=n % 3) for n in range(600)])
    running, peak, count = 0, 0, threading.Lock()
    done = 0

    def work(session: JobTable, worker: int) -> None:
        nonlocal running, peak, done
        while done < 600:
            jobs = claim(session, worker, limit=2, queues=["q0", "q1"]).jobs
            with count:
                running += len(jobs)
                peak = max(peak, running)
            for job in jobs:
                # Counted as ended before it is, so that the count is never too high.
                with count:
                    running -= 1
                    done += 1
                complete(session, job)

    calls = []
    for _ in range(4):
        session, worker = sessions.open(), table.add_worker()
        calls.append(
            sessions.in_thread(lambda session=session, worker=worker: work(session, worker))
        )
    for call in calls:
        call.result(60)
    assert peak <= 3
    assert peak > 1, "nothing ran side by side"
    assert table.states() == {"completed": 600}
    assert table.value("select max(attempt) from roost.jobs") == 1


def test_no_more_are_started_in_a_minute_than_allowed(table: JobTable, sessions: Any) -> None:
    publish(table, rate_per_minute=500)
    table.add_all([JobInsert("work")] * 700)

    def work(session: JobTable, worker: int) -> int:
        taken = misses = 0
        while misses < 3:
            jobs = claim(session, worker, limit=7).jobs
            complete(session, *jobs)
            taken += len(jobs)
            misses += not jobs
        return taken

    calls = []
    for _ in range(4):
        session, worker = sessions.open(), table.add_worker()
        calls.append(
            sessions.in_thread(lambda session=session, worker=worker: work(session, worker))
        )
    taken = [call.result(60) for call in calls]
    assert sum(taken) == 500
    assert sum(1 for n in taken if n) > 1, "only one claimed"


def test_a_rate_counts_snoozes_retries_and_archived_jobs(table: JobTable) -> None:
    worker = table.add_worker()
    publish(table, rate_per_minute=3)
    table.add()
    for event in (Event.SNOOZE, Event.SNOOZE, Event.COMPLETE):
        complete(table, *claim(table, worker).jobs, event=event)
    table.archive()
    table.add()
    claimed = claim(table, worker)
    assert claimed.jobs == []
    assert claimed.next_due is not None
    assert 59 < claimed.next_due < 61.1


def test_a_rate_leaves_room_again_a_minute_after_the_first_start(table: JobTable) -> None:
    worker = table.add_worker()
    publish(table, rate_per_minute=2)
    table.add_all([JobInsert("work")] * 4)
    assert len(claim(table, worker).jobs) == 2
    table.rows("update roost.starts set started_at = started_at - interval '30 seconds'")
    claimed = claim(table, worker)
    assert claimed.next_due == pytest.approx(31, abs=1)
    table.rows("update roost.starts set started_at = started_at - interval '31 seconds'")
    assert len(claim(table, worker).jobs) == 2
    assert table.value("select count(*) from roost.starts") == 2, "old starts are forgotten"


def test_the_claim_that_uses_up_a_rate_says_when_there_is_room_again(table: JobTable) -> None:
    worker = table.add_worker()
    publish(table, rate_per_minute=2)
    table.add_all([JobInsert("work")] * 4)
    claimed = claim(table, worker)
    assert len(claimed.jobs) == 2
    assert claimed.next_due == pytest.approx(61, abs=1)


def test_a_claim_says_when_the_next_limited_job_is_due(table: JobTable) -> None:
    worker = table.add_worker()
    publish(table, max_concurrency=2)
    for seconds in (500, 5, 50):
        job_id = table.add(priority=seconds)
        table.change(job_id, f"scheduled_at = now() + interval '{seconds} seconds'")
    claimed = claim(table, worker)
    assert claimed.jobs == []
    assert claimed.next_due == pytest.approx(5, abs=1)


def test_unlimited_tasks_are_not_affected(table: JobTable) -> None:
    worker = table.add_worker()
    publish(table, "slow", max_concurrency=1)
    table.add_all([JobInsert("slow", priority=-1)] * 50 + [JobInsert("work")] * 5)
    assert [job.task for job in table.claim(worker).jobs] == ["work"] * 5
    assert claim(table, worker, tasks=["slow", "work"]).jobs[0].task == "slow"
    assert table.run(limited_tasks()) == {"slow"}


def test_two_limited_tasks_do_not_share_their_room(table: JobTable) -> None:
    worker = table.add_worker()
    publish(table, "a", max_concurrency=1)
    publish(table, "b", max_concurrency=2)
    table.add_all([JobInsert(task) for task in "aabbb"])
    claimed = claim(table, worker, tasks=["a", "b"])
    assert sorted(job.task for job in claimed.jobs) == ["a", "b", "b"]
    assert claim(table, worker, tasks=["a", "b"]).jobs == []


def test_limited_and_unlimited_jobs_keep_one_order(table: JobTable) -> None:
    worker = table.add_worker()
    publish(table, "slow", max_concurrency=10)
    tasks = ["slow", "work"]
    jobs = [table.add(tasks[n % 2], priority=priority) for n, priority in enumerate((3, 1, 0, 2))]
    claimed = claim(table, worker, tasks=tasks, limit=2)
    assert ids_of(claimed) == [jobs[2]], "of the first two, the limited one"
    rest = table.run(claim_jobs(worker_id=worker, queues=["default"], tasks=["work"], limit=1))
    assert ids_of(rest) == [jobs[1]]


def test_a_backlog_in_one_queue_does_not_keep_out_limited_jobs_of_another(
    table: JobTable,
) -> None:
    worker = table.add_worker()
    publish(table, "slow", max_concurrency=10)
    table.add_all([JobInsert("work", queue="bulk", scheduled_at=LONG_AGO)] * 20)
    behind_the_backlog = table.add("slow", queue="bulk")
    limited = [table.add("slow", queue="web") for _ in range(3)]
    queues, tasks = ["bulk", "web"], ["slow", "work"]
    claimed = claim(table, worker, queues=queues, tasks=tasks, limit=4)
    assert ids_of(claimed) == limited[:2], "two of the first four are the backlog's"
    rest = claim(table, worker, queues=queues, tasks=tasks, limit=50)
    assert ids_of(rest) == [behind_the_backlog, limited[2]]


def test_a_better_priority_comes_first_in_any_queue(table: JobTable) -> None:
    worker = table.add_worker()
    publish(table, "slow", max_concurrency=10)
    table.add_all([JobInsert("work", queue="bulk", priority=-1)] * 3)
    table.add("slow", queue="web")
    queues, tasks = ["bulk", "web"], ["slow", "work"]
    assert claim(table, worker, queues=queues, tasks=tasks, limit=3).jobs == []
    assert len(claim(table, worker, queues=queues, tasks=tasks, limit=4).jobs) == 1


def test_the_first_jobs_in_order_take_the_room_of_a_task(table: JobTable) -> None:
    worker = table.add_worker()
    publish(table, max_concurrency=2)
    jobs = [table.add(queue=queue, priority=priority) for queue, priority in (
        ("a", 5), ("b", 1), ("a", 2), ("b", 9)
    )]  # fmt: skip
    claimed = claim(table, worker, queues=["a", "b"])
    assert ids_of(claimed) == [jobs[1], jobs[2]]


def test_a_dead_worker_gives_its_room_back(table: JobTable) -> None:
    worker, dead = table.add_worker(), table.add_worker(stale_after=0.0)
    publish(table, max_concurrency=1)
    table.add_all([JobInsert("work")] * 2)
    assert len(claim(table, dead).jobs) == 1
    assert claim(table, worker).jobs == []
    table.run(expire_workers())
    with table.connection.transaction():
        assert len(table.run(rescue_jobs(limit=10, error_cap=20))) == 1
    assert len(claim(table, worker).jobs) == 1


def test_a_worker_without_a_row_claims_nothing_and_uses_no_start(table: JobTable) -> None:
    publish(table, rate_per_minute=1)
    table.add()
    claimed = claim(table, 12345)
    assert (claimed.jobs, claimed.alive) == ([], False)
    assert len(claim(table, table.add_worker()).jobs) == 1


def test_a_paused_queue_gives_no_limited_jobs(table: JobTable) -> None:
    publish(table, max_concurrency=5)
    table.add()
    table.run(control.pause_queue("default"))
    assert claim(table, table.add_worker()).jobs == []


def test_a_claim_waits_for_the_one_before_it(table: JobTable, sessions: Any) -> None:
    publish(table, max_concurrency=1)
    table.add_all([JobInsert("work")] * 2)
    worker, first, second = table.add_worker(), sessions.open(), sessions.open()
    with first.connection.transaction():
        assert len(claim(first, worker).jobs) == 1
        call = sessions.in_thread(lambda: claim(second, worker))
        sessions.until_waiting()
        table.add("other")
        assert len(table.claim(worker, tasks=["other"]).jobs) == 1, "others don't wait"
    assert call.result(10).jobs == []


def test_a_new_limit_marks_the_jobs_that_exist(table: JobTable) -> None:
    worker = table.add_worker()
    waiting, retryable, running = table.add(), table.add(), table.add()
    for claimed in table.claim(worker).jobs:
        if claimed.lease.job_id == retryable:
            table.run(settle([Verdict(claimed.lease, Event.RETRY, delay=0.0)], error_cap=20))
        elif claimed.lease.job_id == waiting:
            complete(table, claimed, event=Event.RELEASE)
    ended = table.add()
    with table.connection.transaction():
        table.run(control.cancel_job(ended))
    publish(table, max_concurrency=1)
    table.run(mark_limited_jobs())
    assert all(table.column(job_id, "limited") for job_id in (waiting, retryable, running))
    mark_until_all_are(table)
    assert table.claim(worker).jobs == []
    assert claim(table, worker).jobs == [], "the running one takes the room"
    assert table.run(control.retry_job(ended)) is True
    assert table.column(ended, "limited") is True


def test_a_job_that_could_not_be_marked_is_marked_later(table: JobTable, sessions: Any) -> None:
    job_id = table.add()
    holder = sessions.open()
    with holder.connection.transaction():
        holder.rows("select from roost.jobs where id = $1::bigint for update", job_id)
        publish(table, max_concurrency=1)
        table.run(mark_limited_jobs())
        table.run(mark_limited_jobs())
    assert table.column(job_id, "limited") is False
    assert table.value("select all_marked from roost.limits") is False
    assert table.run(mark_limited_jobs()) == 1
    assert table.column(job_id, "limited") is True


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_jobs_of_transactions_that_were_open_are_marked(
    table: JobTable, sessions: Any, isolation: str, when: str
) -> None:
    """The transaction began before the limit was published, and enqueues before or after that."""
    producer, marker = sessions.open(), sessions.open()
    with producer.connection.transaction():
        producer.script(f"set transaction isolation level {isolation}")
        producer.rows("select count(*) from roost.limits")
        if when == "before":
            job_id = producer.add()
        publish(marker, max_concurrency=1)
        if when == "after":
            job_id = producer.add()
        for _ in range(3):
            assert marker.run(mark_limited_jobs()) == 0
    sees_the_limit = when == "after" and isolation == "read committed"
    assert table.column(job_id, "limited") is sees_the_limit
    assert marker.run(mark_limited_jobs()) == (not sees_the_limit)
    assert table.column(job_id, "limited") is True
    mark_until_all_are(marker)


def test_a_lifted_limit_lets_the_marked_jobs_run(table: JobTable) -> None:
    worker = table.add_worker()
    publish(table, max_concurrency=1, rate_per_minute=1)
    table.add_all([JobInsert("work")] * 20)
    assert len(claim(table, worker).jobs) == 1
    publish(table)
    table.add()
    claimed = claim(table, worker)
    assert len(claimed.jobs) == 20
    assert claimed.next_due is None
    publish(table, max_concurrency=30)
    table.add_all([JobInsert("work")] * 20)
    assert len(claim(table, worker).jobs) == 9


def test_children_are_marked_when_they_are_released(table: JobTable) -> None:
    worker = table.add_worker()
    parent = table.add("parent")
    with table.connection.transaction():
        [child] = table.run(insert_dependent(encode_jobs([JobInsert("work", depends_on=[parent])])))
    publish(table, max_concurrency=1)
    [claimed] = table.claim(worker, tasks=["parent"]).jobs
    with table.connection.transaction():
        table.run(settle_parents([Verdict(claimed.lease, Event.COMPLETE)], error_cap=20))
    assert table.column(child, "limited") is True
    assert ids_of(claim(table, worker)) == [child]


ROOM = ("roost_room", "work")
"""The notification when a job of the task ends: a job of any queue may start."""


@pytest.fixture
def listener(sessions: Any) -> JobTable:
    """Return a connection that listens for jobs and for room."""
    listener: JobTable = sessions.open()
    listener.script("listen roost_jobs; listen roost_room")
    return listener


@pytest.mark.parametrize(
    "event", [Event.COMPLETE, Event.CANCEL, Event.DISCARD, Event.RELEASE, Event.SNOOZE, Event.RETRY]
)
def test_the_end_of_a_limited_job_is_announced_whatever_the_queue(
    table: JobTable, listener: JobTable, event: Event
) -> None:
    publish(table, max_concurrency=1)
    table.add_worker(queues=["other"])
    table.add()
    [job] = claim(table, table.add_worker()).jobs
    listener.notifications()
    complete(table, job, event=event)
    assert ROOM in listener.notifications()


def test_the_end_of_a_limited_job_is_announced_when_it_has_children(
    table: JobTable, listener: JobTable
) -> None:
    publish(table, max_concurrency=1)
    parent = table.add()
    with table.connection.transaction():
        child = encode_jobs([JobInsert("other", depends_on=[parent])])
        table.run(insert_dependent(child))
    [job] = claim(table, table.add_worker()).jobs
    listener.notifications()
    with table.connection.transaction():
        verdict = Verdict(job.lease, Event.COMPLETE)
        assert table.run(settle_parents([verdict], error_cap=20)).lost == []
    assert ROOM in listener.notifications()


def test_room_of_a_dead_worker_or_a_lost_claim_is_announced(
    table: JobTable, listener: JobTable
) -> None:
    publish(table, max_concurrency=1)
    table.add_worker(queues=["other"])
    table.add()
    worker = table.add_worker()
    claim(table, worker)
    with table.connection.transaction():
        table.run(release_unheld(worker, held=()))
    assert ROOM in listener.notifications()
    claim(table, worker)
    table.rows("delete from roost.workers where id = $1::bigint", worker)
    with table.connection.transaction():
        table.run(rescue_jobs(limit=10, error_cap=20))
    assert ROOM in listener.notifications()


def test_a_limit_that_is_raised_or_lifted_is_announced(table: JobTable, listener: JobTable) -> None:
    table.add_worker()
    publish(table, max_concurrency=1)
    changes: list[dict[str, int]] = [{"max_concurrency": 2}, {}]
    for limits in changes:
        listener.notifications()
        publish(table, "work", **limits)
        assert listener.notifications() == [ROOM]
        publish(table, "work", **limits)
        assert listener.notifications() == [], "nothing has changed"


def test_room_is_announced_only_while_a_worker_wants_notifications(
    table: JobTable, listener: JobTable
) -> None:
    publish(table, max_concurrency=1)
    table.add()
    worker = table.add_worker()
    [job] = claim(table, worker).jobs
    table.rows("update roost.workers set wants_notify = false")
    listener.notifications()
    complete(table, job)
    assert listener.notifications() == []


def test_a_start_that_comes_late_is_counted_again(table: JobTable) -> None:
    publish(table, rate_per_minute=2)
    jobs = [table.add() for _ in range(3)]
    worker = table.add_worker()
    claimed = claim(table, worker).jobs
    assert ids_of(Claimed(claimed, None, alive=True)) == jobs[:2]
    late = table.value("select min(started_at) from roost.starts")
    for number, job in enumerate(claimed, start=1):
        assert table.run(count_start_now(job.lease)) is True
        count = "select count(*) from roost.starts where started_at > $1::timestamptz"
        assert table.value(count, late) == number, "each moves a start of its own"
    assert table.run(count_start_now(claimed[0].lease)) is False, "it has been moved already"
    assert table.value("select count(*) from roost.starts") == 2
    assert claim(table, worker).jobs == []


def test_a_start_outside_the_window_or_never_counted_is_not_counted_again(
    table: JobTable,
) -> None:
    publish(table, rate_per_minute=2)
    table.add()
    worker = table.add_worker()
    [job] = claim(table, worker).jobs
    before = "started_at = started_at - interval '60 seconds'"
    table.rows(f"update roost.starts set {before}")
    table.change(job.lease.job_id, "attempted_at = attempted_at - interval '60 seconds'")
    assert table.run(count_start_now(job.lease)) is False
    table.rows("delete from roost.starts")
    assert table.run(count_start_now(job.lease)) is False
    publish(table, max_concurrency=2)
    assert table.run(count_start_now(job.lease)) is True, "without a rate nothing is counted"
    complete(table, job)
    assert table.run(count_start_now(job.lease)) is False, "the lease is gone"


def test_the_plans_stay_cheap_on_a_large_table(table: JobTable) -> None:
    """A generic plan walks no finished row, and costs far less than the JIT starts at (100,000)."""
    worker = table.add_worker()
    publish(table, "slow", max_concurrency=1000, rate_per_minute=9000)
    table.rows(
        "insert into roost.jobs (task, state, completed_at, limited) "
        "select 'slow', 'completed', now(), true from generate_series(1, 100000)"
    )
    table.rows(
        "insert into roost.jobs (task, limited, priority) "
        "select 'slow', true, n % 5 from generate_series(1, 10000) n"
    )
    table.rows("insert into roost.jobs (task) select 'work' from generate_series(1, 5000)")
    table.rows("insert into roost.starts select 'slow', now() from generate_series(1, 3000)")
    table.rows("analyze")
    table.script("set plan_cache_mode = force_generic_plan")
    queues, tasks, both = "array['default']", "array['slow']", "array['slow', 'work']"
    for name, parameters in (
        ("lock_limits", f"{queues}, {tasks}"),
        ("claim_limited_jobs", f"{worker}, {queues}, {tasks}, {both}, 10, '{{}}', '{{}}'"),
    ):
        table.script(f"prepare {name} as {statements('limits')[name].text}")
        execute = f"execute {name}({parameters})"
        plan = [row[0] for row in table.rows(f"explain (analyze, buffers, timing off) {execute}")]
        text = "\n".join(plan)
        assert "Seq Scan on jobs" not in text, text
        assert "JIT" not in text, text
        cost = re.search(r"cost=[\d.]+\.\.([\d.]+)", plan[0])
        assert cost is not None
        assert float(cost[1]) < 50_000, text
        hits = re.search(r"shared hit=(\d+)", text)
        assert hits is not None
        assert int(hits[1]) < 1_000, text
