"""Limits by key are exact for each key over all workers, and no key waits for another."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.ops.conftest import Sessions
from tests.support.job_table import JobTable
from tests.support.limits_by_key import claim, end, ids_of, of, publish, tenants

from roost import JobInsert, TaskDefaults
from roost._model.encoding import encode_jobs
from roost._model.states import Event
from roost._model.verdict import Verdict
from roost._ops import control
from roost._ops.claim import Claimed, claim_limited_jobs
from roost._ops.enqueue import insert_dependent, insert_jobs, insert_unique
from roost._ops.limits import (
    KeyPlace,
    count_start_now,
    publish_limits,
    revisit_keys,
    set_limit,
)
from roost._ops.query import Op
from roost._ops.rescue import expire_workers, rescue_jobs
from roost._ops.settle import settle, settle_parents
from roost._ops.workers import release_unheld
from roost._sql import statements

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("most", [1, 3])
def test_each_key_has_its_own_room_over_all_workers(
    table: JobTable, sessions: Any, most: int
) -> None:
    publish(table, max_concurrency=most)
    table.add_all([of(n % 7, queue=f"q{n % 2}") for n in range(420)])
    running: Counter[int] = Counter()
    peak: Counter[int] = Counter()
    together = done = 0
    count = threading.Lock()

    def work(session: JobTable, worker: int) -> None:
        nonlocal together, done
        while done < 420:
            jobs = claim(session, worker, limit=5, queues=["q0", "q1"]).jobs
            with count:
                running.update(tenants(jobs))
                together = max(together, running.total())
                for tenant, number in running.items():
                    peak[tenant] = max(peak[tenant], number)
            for claimed in jobs:
                # Counted as ended before it is, so that the count is never too high.
                with count:
                    running.subtract(tenants([claimed]))
                    done += 1
                end(session, claimed)

    calls = []
    for _ in range(3):
        session, worker = sessions.open(), table.add_worker()
        calls.append(
            sessions.in_thread(lambda session=session, worker=worker: work(session, worker))
        )
    for call in calls:
        call.result(60)
    assert max(peak.values()) <= most
    assert together > most, "no two keys ran side by side"
    assert table.states() == {"completed": 420}
    assert table.value("select max(attempt) from roost.jobs") == 1


def test_each_key_has_its_own_rate_over_all_workers(table: JobTable, sessions: Any) -> None:
    publish(table, rate_per_minute=40)
    table.add_all([of(n % 3) for n in range(180)])

    def work(session: JobTable, worker: int) -> list[Any]:
        taken: list[Any] = []
        misses = 0
        while misses < 3:
            jobs = claim(session, worker, limit=7).jobs
            end(session, *jobs)
            taken += tenants(jobs)
            misses += not jobs
        return taken

    calls = []
    for _ in range(3):
        session, worker = sessions.open(), table.add_worker()
        calls.append(
            sessions.in_thread(lambda session=session, worker=worker: work(session, worker))
        )
    started = Counter(tenant for call in calls for tenant in call.result(60))
    assert started == {0: 40, 1: 40, 2: 40}


def test_a_rate_of_a_key_leaves_room_again_after_a_minute(table: JobTable) -> None:
    worker = table.add_worker()
    publish(table, rate_per_minute=1)
    table.add_all([of("a"), of("a"), of("b")])
    claimed = claim(table, worker)
    assert sorted(tenants(claimed.jobs)) == ["a", "b"]
    assert claimed.next_due == pytest.approx(61, abs=1)
    end(table, *claimed.jobs)
    assert claim(table, worker).jobs == []
    for relation in ("starts set started_at = started_at", "ready_keys set ready_at = ready_at"):
        table.rows(f"update roost.{relation} - interval '61 seconds'")
    assert tenants(claim(table, worker).jobs) == ["a"]
    assert table.value("select count(*) from roost.starts") == 1, "old starts are forgotten"


def test_the_jobs_of_a_key_start_one_by_one_in_their_order_over_all_queues(
    table: JobTable,
) -> None:
    worker = table.add_worker()
    publish(table, max_concurrency=1)
    jobs = [
        table.add(args={"tenant": "a"}, queue=queue, priority=priority)
        for queue, priority in (("a", 5), ("b", 1), ("a", 2), ("b", 1), ("a", 1))
    ]
    started = []
    for _ in range(6):
        claimed = claim(table, worker, queues=["a", "b"])
        started += ids_of(claimed)
        assert claim(table, worker, queues=["a", "b"]).jobs == []
        end(table, *claimed.jobs)
    assert started == [jobs[1], jobs[3], jobs[4], jobs[2], jobs[0]]


def test_a_retry_lets_later_jobs_of_its_key_pass(table: JobTable) -> None:
    worker = table.add_worker()
    publish(table, max_concurrency=1)
    first, second = (table.add(args={"tenant": "a"}) for _ in range(2))
    [claimed] = claim(table, worker).jobs
    table.run(settle([Verdict(claimed.lease, Event.RETRY, delay=60.0)], error_cap=20))
    assert ids_of(claim(table, worker)) == [second]
    assert table.column(first, "state") == "retryable"


def test_no_key_starves_another(table: JobTable) -> None:
    worker = table.add_worker()
    publish(table, max_concurrency=5)
    for _ in range(300):
        table.add(args={"tenant": "large"})
    for n in range(40):
        table.add(args={"tenant": n})
    served: Counter[Any] = Counter()
    claims = 0
    while len(served) < 41:
        jobs = claim(table, worker, limit=5).jobs
        claims += 1
        served.update(tenants(jobs))
        end(table, *jobs)
    assert claims <= 12, served
    assert served["large"] > 0


def test_keys_take_turns_where_a_claim_has_room_for_fewer(table: JobTable) -> None:
    worker = table.add_worker()
    publish(table, max_concurrency=2)
    table.add_all([of("large")] * 30 + [of(n) for n in range(15)])
    served: list[Any] = []
    for _ in range(18):
        jobs = claim(table, worker, limit=1).jobs
        served += tenants(jobs)
        end(table, *jobs)
    assert set(served) == {"large", *range(15)}, served


def test_locked_jobs_of_many_keys_do_not_keep_out_others(table: JobTable, sessions: Any) -> None:
    worker, other = table.add_worker(), sessions.open()
    publish(table, max_concurrency=2)
    locked = table.add_all([of(f"locked {n}") for n in range(60)])
    table.add_all([of(n) for n in range(30)])
    with other.connection.transaction():
        other.rows("select from roost.jobs where id = any ($1::bigint[]) for update", locked)
        served: list[Any] = []
        for _ in range(90):
            served += tenants(claim(table, worker, limit=1).jobs)
        assert sorted(served) == list(range(30))


def test_a_full_key_with_many_jobs_does_not_keep_out_others(table: JobTable) -> None:
    worker = table.add_worker()
    publish(table, max_concurrency=1)
    table.add_all([of("full")] * 5_000)
    assert tenants(claim(table, worker).jobs) == ["full"]
    table.add_all([of(n) for n in range(30)])
    claims = [claim(table, worker, limit=10) for _ in range(4)]
    assert sorted(tenant for each in claims for tenant in tenants(each.jobs)) == list(range(30))
    assert claims[-1].next_due is None, "a full key waits for the end of its job"


@pytest.mark.parametrize(
    "event", [Event.COMPLETE, Event.CANCEL, Event.DISCARD, Event.RELEASE, Event.SNOOZE, Event.RETRY]
)
def test_each_end_of_a_job_gives_its_key_room(table: JobTable, event: Event) -> None:
    worker = table.add_worker()
    publish(table, max_concurrency=1)
    table.add_all([of("a"), of("a")])
    [first] = claim(table, worker).jobs
    assert claim(table, worker).jobs == []
    end(table, first, event=event)
    [second] = claim(table, worker).jobs
    if event is Event.RELEASE:
        assert second.lease.job_id == first.lease.job_id, "it keeps its place"
    else:
        assert second.lease.job_id != first.lease.job_id


def test_a_job_that_is_deleted_at_its_end_gives_its_key_room(table: JobTable) -> None:
    worker = table.add_worker()
    publish(table, max_concurrency=1)
    table.add_all([of("a"), of("a")])
    [first] = claim(table, worker).jobs
    verdict = Verdict(first.lease, Event.COMPLETE)
    assert not table.run(settle([verdict], error_cap=20, keep_completed=False)).lost
    assert table.states() == {"available": 1}
    assert len(claim(table, worker).jobs) == 1


def test_the_end_of_a_job_with_children_gives_its_key_room(table: JobTable) -> None:
    worker = table.add_worker()
    publish(table, max_concurrency=1)
    parent = table.add(args={"tenant": "a"})
    with table.connection.transaction():
        children = [JobInsert("work", {"tenant": "a"}, depends_on=[parent])] * 2
        table.run(insert_dependent(encode_jobs(children)))
    [claimed] = claim(table, worker).jobs
    with table.connection.transaction():
        table.run(settle_parents([Verdict(claimed.lease, Event.COMPLETE)], error_cap=20))
    assert len(claim(table, worker).jobs) == 1


def test_a_dead_worker_and_a_lost_claim_give_their_keys_room(table: JobTable) -> None:
    worker, dead = table.add_worker(), table.add_worker(stale_after=0.0)
    publish(table, max_concurrency=1)
    table.add_all([of("a")] * 3)
    claim(table, dead)
    assert claim(table, worker).jobs == []
    table.run(expire_workers())
    with table.connection.transaction():
        assert len(table.run(rescue_jobs(limit=10, error_cap=20))) == 1
    assert len(claim(table, worker).jobs) == 1
    with table.connection.transaction():
        table.run(release_unheld(worker, held=()))
    assert len(claim(table, worker).jobs) == 1


def test_a_cancelled_waiting_job_is_not_claimed_and_takes_no_room(table: JobTable) -> None:
    worker = table.add_worker()
    publish(table, max_concurrency=1)
    first, second = (table.add(args={"tenant": "a"}) for _ in range(2))
    with table.connection.transaction():
        table.run(control.cancel_job(first))
    assert ids_of(claim(table, worker)) == [second]
    with table.connection.transaction():
        table.run(control.retry_job(first))
    assert claim(table, worker).jobs == []


def test_a_claim_says_when_the_next_job_of_a_key_is_due(table: JobTable) -> None:
    worker = table.add_worker()
    publish(table, max_concurrency=2)
    later = datetime.now(UTC) + timedelta(seconds=50)
    job_id = table.add(args={"tenant": "a"}, scheduled_at=later, priority=-1)
    table.add(args={"tenant": "a"}, scheduled_at=later + timedelta(seconds=50))
    assert claim(table, worker).next_due == pytest.approx(50, abs=2)
    table.add(args={"tenant": "a"})
    claimed = claim(table, worker)
    assert len(claimed.jobs) == 1
    assert claimed.next_due == pytest.approx(50, abs=2)
    table.change(job_id, "scheduled_at = now()")
    table.rows("update roost.ready_keys set ready_at = now()")
    assert ids_of(claim(table, worker)) == [job_id]


def test_workers_claim_from_their_own_queues_only(table: JobTable) -> None:
    worker = table.add_worker()
    publish(table, max_concurrency=2)
    table.add_all([of("a", queue="x"), of("a", queue="y"), of("b", queue="y")])
    assert len(claim(table, worker, queues=["x"]).jobs) == 1
    assert claim(table, worker, queues=["x"]).jobs == []
    assert sorted(tenants(claim(table, worker, queues=["y"]).jobs)) == ["a", "b"]


def test_room_in_a_key_is_for_its_jobs_in_any_queue(table: JobTable) -> None:
    worker = table.add_worker()
    publish(table, max_concurrency=1)
    table.add_all([of("a", queue="x"), of("a", queue="y"), of("a", queue="y")])
    [first] = claim(table, worker, queues=["x"]).jobs
    assert claim(table, worker, queues=["y"]).jobs == []
    end(table, first)
    # The worker of the other queue reads the request first.
    assert claim(table, worker, queues=["x"]).jobs == []
    [second] = claim(table, worker, queues=["y"]).jobs
    assert claim(table, worker, queues=["y"]).jobs == []
    end(table, second)
    assert len(claim(table, worker, queues=["y"]).jobs) == 1


def test_a_paused_queue_gives_no_jobs_until_it_is_resumed(table: JobTable) -> None:
    worker = table.add_worker()
    publish(table, max_concurrency=1)
    table.add_all([of("a", queue="x"), of("a", queue="y")])
    table.run(control.pause_queue("x"))
    [claimed] = claim(table, worker, queues=["x", "y"]).jobs
    assert claimed.queue == "y"
    end(table, claimed)
    answer = claim(table, worker, queues=["x", "y"])
    assert (answer.jobs, answer.next_due) == ([], None)
    table.run(control.resume_queue("x"))
    assert len(claim(table, worker, queues=["x", "y"]).jobs) == 1


def test_keyed_and_other_limited_jobs_keep_the_order_of_priorities(table: JobTable) -> None:
    worker = table.add_worker()
    publish(table, max_concurrency=5)
    table.run(publish_limits({"slow": TaskDefaults(max_concurrency=5)}))
    table.add_all([of("a", priority=1), JobInsert("slow"), JobInsert("free", priority=-1)])
    tasks = ["work", "slow"]
    with table.connection.transaction():
        first = table.run(
            claim_limited_jobs(
                worker_id=worker, queues=["default"], limited=tasks, tasks=["free"], limit=2
            )
        )
    assert [job.task for job in first.jobs] == ["slow"]
    assert first.next_due == pytest.approx(0, abs=0.1), "there is room for the other"
    with table.connection.transaction():
        then = table.run(
            claim_limited_jobs(
                worker_id=worker, queues=["default"], limited=tasks, tasks=["free"], limit=2
            )
        )
    assert [job.task for job in then.jobs] == ["work"]


def test_a_worker_without_a_row_claims_nothing_and_uses_no_start(table: JobTable) -> None:
    publish(table, rate_per_minute=1)
    table.add_all([of("a")])
    claimed = claim(table, 12345)
    assert (claimed.jobs, claimed.alive) == ([], False)
    assert len(claim(table, table.add_worker()).jobs) == 1


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read"])
def test_producers_do_not_wait_and_their_jobs_are_found(
    table: JobTable, sessions: Any, isolation: str
) -> None:
    """Two transactions insert jobs of the same keys, in opposite order, while jobs are claimed."""
    worker = table.add_worker()
    publish(table, max_concurrency=9)
    first, second = sessions.open(), sessions.open()
    with first.connection.transaction():
        first.script(f"set transaction isolation level {isolation}")
        first.add_all([of("a"), of("b")])
        with second.connection.transaction():
            second.script(f"set transaction isolation level {isolation}")
            second.add_all([of("b"), of("a")])
            table.add_all([of("a")])
            assert tenants(claim(table, worker).jobs) == ["a"]
            assert claim(table, worker).jobs == []
        assert sorted(tenants(claim(table, worker).jobs)) == ["a", "b"]
        assert claim(table, worker).jobs == []
    assert sorted(tenants(claim(table, worker).jobs)) == ["a", "b"]


def test_an_end_that_is_not_committed_gives_no_room_and_is_not_missed(
    table: JobTable, sessions: Any
) -> None:
    worker = table.add_worker()
    publish(table, max_concurrency=1)
    table.add_all([of("a")] * 2)
    [first] = claim(table, worker).jobs
    settling = sessions.open()
    with settling.connection.transaction():
        end(settling, first)
        assert claim(table, worker).jobs == []
    assert len(claim(table, worker).jobs) == 1


@pytest.mark.parametrize(
    ("change", "options"),
    [
        ("another key", {"args": {"tenant": "full"}}),
        ("a later time", {"args": {"tenant": "free"}, "schedule_in": 60}),
        ("another queue", {"args": {"tenant": "free"}, "queue": "other"}),
    ],
)
def test_a_job_that_is_replaced_while_it_is_claimed_is_claimed_as_it_is_then(
    table: JobTable, sessions: Sessions, change: str, options: dict[str, Any]
) -> None:
    publish(table, max_concurrency=1)
    worker, producer = table.add_worker(), sessions.open()
    table.run(insert_jobs(encode_jobs([of("full")])))
    [running] = claim(table, worker).jobs
    [job_id] = table.run(insert_jobs(encode_jobs([of("free", unique_key="k")])))

    def replace() -> None:
        replaced = encode_jobs([JobInsert("work", unique_key="k", **options)])
        assert producer.run(insert_unique(replaced, "replace")) == [job_id]

    claiming = claim_limited_jobs(
        worker_id=worker, queues=["default"], limited=["work"], tasks=["work"], limit=10
    )
    with table.connection.transaction():
        claimed = table.run(with_a_change(claiming, before="claim_limited_jobs", change=replace))
    assert claimed.jobs == []
    assert table.get(job_id).state == "available"
    # It is found when it may start.
    if change == "another key":
        assert claim(table, worker).jobs == []
        end(table, running)
    elif change == "a later time":
        table.change(job_id, "scheduled_at = now()")
        table.value("select roost.wake_key('work', 'free', 'default')")
    assert ids_of(claim(table, worker, queues=["default", "other"])) == [job_id]


def with_a_change(
    operation: Op[Claimed], *, before: str, change: Callable[[], None]
) -> Op[Claimed]:
    """Run an operation, and make a change before the statement of that name."""
    query = next(operation)
    while True:
        if query.statement.name.endswith(before):
            change()
        rows = yield query
        try:
            query = operation.send(rows)
        except StopIteration as ended:
            claimed: Claimed = ended.value
            return claimed


def test_a_lost_request_is_made_up_for(table: JobTable) -> None:
    worker = table.add_worker()
    publish(table, max_concurrency=1)
    table.add_all([of(n) for n in range(5)])
    table.rows("delete from roost.key_wakes")
    assert claim(table, worker).jobs == []
    place = KeyPlace()
    found = 0
    for _ in range(4):
        place = table.run(revisit_keys(place, limit=2))
        found += len(claim(table, worker).jobs)
    assert found == 5
    assert place == KeyPlace(), "it begins again"


def test_a_raised_or_lifted_limit_is_seen_by_full_keys(table: JobTable) -> None:
    worker = table.add_worker()
    publish(table, max_concurrency=1, rate_per_minute=2)
    table.add_all([of(tenant) for tenant in "aabb" for _ in range(3)])
    assert len(claim(table, worker).jobs) == 2
    table.run(set_limit("work", max_concurrency=2, rate_per_minute=None))
    assert len(claim(table, worker).jobs) == 2
    table.run(set_limit("work", max_concurrency=9, rate_per_minute=3))
    assert len(claim(table, worker).jobs) == 2
    publish(table)
    table.rows("select roost.clear_limit('work')")
    assert len(claim(table, worker).jobs) == 6


def test_a_late_start_is_counted_again_for_its_own_key(table: JobTable) -> None:
    publish(table, rate_per_minute=1)
    table.add_all([of("a"), of("b")])
    jobs = claim(table, table.add_worker()).jobs
    before = table.value("select min(started_at) from roost.starts")
    [b] = [job for job in jobs if tenants([job]) == ["b"]]
    assert table.run(count_start_now(b.lease)) is True
    assert table.rows("select limit_key, started_at = $1 from roost.starts order by 1", before) == [
        ("a", True),
        ("b", False),
    ]
    assert table.run(count_start_now(b.lease)) is False


def test_the_plans_stay_cheap_with_many_keys_and_jobs(table: JobTable) -> None:
    """Generic plans read a few pages for each key, whatever the number of keys and of jobs."""
    worker = table.add_worker()
    publish(table, max_concurrency=2, rate_per_minute=9)
    columns = "insert into roost.jobs (task, limited, limit_key, priority"
    table.rows(f"{columns}) select 'work', true, n % 2000, n % 3 from generate_series(1, 20000) n")
    table.rows(f"{columns}) select 'work', true, 'large', 0 from generate_series(1, 20000)")
    table.rows(
        "insert into roost.key_wakes (task, limit_key, queue, ready_at) "
        "select distinct task, limit_key, queue, now() from roost.jobs"
    )
    table.rows(
        f"{columns}, state, completed_at) "
        "select 'work', true, n % 2000, 0, 'completed', now() from generate_series(1, 50000) n"
    )
    table.rows(
        "insert into roost.starts "
        "select 'work', now() - interval '2 seconds', n % 2000 from generate_series(1, 4000) n"
    )
    for _ in range(25):
        claim(table, worker, limit=10)
    assert table.value("select count(*) from roost.key_wakes") == 0
    table.script("vacuum analyze")
    table.script("set plan_cache_mode = force_generic_plan")
    queues, tasks = "array['default']", "array['work']"
    keys = "(select array_agg(limit_key) from (select * from roost.ready_keys limit 30) as first)"
    visited = table.value(f"select {keys}")
    of_task = f"array_fill('work'::text, array[{len(visited)}])"
    quoted = "array[" + ", ".join(f"'{key}'" for key in visited) + "]"
    [[ids]] = table.rows("select array_agg(id) from (select id from roost.jobs limit 10) as first")
    waiting = f"array{ids}"
    for name, parameters, most in (
        ("drain_key_wakes", tasks, 200),
        ("ready_jobs", f"{queues}, {tasks}, 10, 30", 1_500),
        ("settle_keys", f"{queues}, {of_task}, {quoted}, '{{}}', {waiting}", 1_500),
        ("next_ready_key", f"{queues}, {tasks}", 50),
        ("revisit_keys", "'', '', '', 100", 1_000),
    ):
        table.script(f"prepare {name} as {statements('limits_by_key')[name].text.rstrip(';')}")
        explain = "explain (analyze, buffers, timing off)"
        rows = table.rows(f"{explain} execute {name}({parameters})")
        plan = [row[0] for row in rows]
        text = "\n".join(plan)
        for relation in ("jobs", "ready_keys"):
            assert f"Seq Scan on {relation}" not in text, text
        assert "JIT" not in text, text
        hits = re.search(r"shared hit=(\d+)", text)
        assert hits is not None
        assert int(hits[1]) < most, text
