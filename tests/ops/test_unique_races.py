"""Two calls with one unique key at once: each waits for the other, and sees how it ended."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.ops.conftest import Sessions
from tests.support.job_table import JobTable

from roost import DuplicateUniqueJobError, JobInsert
from roost._model.encoding import encode_jobs
from roost._model.unique import BulkOnConflict
from roost._model.verdict import Returned, judge
from roost._ops.enqueue import insert_job, insert_unique
from roost._ops.settle import settle
from roost.exceptions import DatabaseError


def enqueue(table: JobTable, on_conflict: BulkOnConflict, **fields: Any) -> int | None:
    """Enqueue one job with the key "k" by the statement for options."""
    job = JobInsert("work", **{"unique_key": "k", **fields})
    [job_id] = table.run(insert_unique(encode_jobs([job]), on_conflict))
    return job_id


def complete(table: JobTable, claimed: Any) -> None:
    verdicts = [
        judge(
            Returned(None),
            lease=job.lease,
            attempt=job.attempt,
            max_attempts=job.max_attempts,
            retry=lambda attempt: 0.0,
        )
        for job in claimed.jobs
    ]
    while verdicts:
        # As the settle lane: a replace that met the claim holds the row until its statement ends.
        settled = table.run(settle(verdicts, error_cap=20))
        assert settled.lost == []
        verdicts = settled.busy


@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_a_replace_waits_for_a_claim(sessions: Sessions, table: JobTable, ending: str) -> None:
    first = enqueue(table, "skip", args={"n": 1})
    claimer, producer = sessions.open(), sessions.open()
    worker_id = claimer.add_worker()
    claimer.script("begin")
    assert len(claimer.claim(worker_id).jobs) == 1
    replacing = sessions.in_thread(lambda: enqueue(producer, "replace", args={"n": 2}))
    sessions.until_waiting()
    claimer.script(ending)
    if ending == "commit":
        with pytest.raises(DuplicateUniqueJobError, match="is running"):
            replacing.result(timeout=20)
    else:
        assert replacing.result(timeout=20) == first
    assert table.get(first or 0).args == {"n": 1 if ending == "commit" else 2}


def test_a_replace_with_waiting_inserts_beside_a_job_that_was_just_claimed(
    sessions: Sessions, table: JobTable
) -> None:
    first = enqueue(table, "skip", args={"n": 1})
    claimer, producer = sessions.open(), sessions.open()
    worker_id = claimer.add_worker()
    claimer.script("begin")
    assert len(claimer.claim(worker_id).jobs) == 1
    replacing = sessions.in_thread(
        lambda: enqueue(producer, "replace", args={"n": 2}, unique_while="waiting")
    )
    sessions.until_waiting()
    claimer.script("commit")
    second = replacing.result(timeout=20)
    assert second != first
    assert [table.get(job_id or 0).args["n"] for job_id in (first, second)] == [1, 2]


def test_a_claim_skips_a_job_that_is_replaced_and_is_announced_again(
    sessions: Sessions, table: JobTable
) -> None:
    first = enqueue(table, "skip", args={"n": 1})
    producer = sessions.open()
    worker_id = table.add_worker()
    table.script("listen roost_jobs")
    producer.script("begin")
    assert enqueue(producer, "replace", args={"n": 2}) == first
    assert table.claim(worker_id).jobs == []
    producer.script("commit")
    assert table.notifications() == [("roost_jobs", "default")]
    [job] = table.claim(worker_id).jobs
    assert job.job().args == {"n": 2}


@pytest.mark.parametrize("ending", ["commit", "rollback"])
@pytest.mark.parametrize("on_conflict", ["return", "replace"])
def test_a_call_waits_for_an_uncommitted_job(
    sessions: Sessions, table: JobTable, on_conflict: BulkOnConflict, ending: str
) -> None:
    one, two = sessions.open(), sessions.open()
    one.script("begin")
    first = enqueue(one, "skip")
    second = sessions.in_thread(lambda: enqueue(two, on_conflict))
    sessions.until_waiting()
    one.script(ending)
    assert (second.result(timeout=20) == first) is (ending == "commit")
    assert table.states() == {"available": 1}


@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_two_calls_with_unique_for_follow_one_another(
    sessions: Sessions, table: JobTable, ending: str
) -> None:
    """Also if the first job has ended when the second call goes on."""
    one, two = sessions.open(), sessions.open()
    one.script("begin")
    first = enqueue(one, "skip", unique_for=60)
    one.change(first or 0, "state = 'completed', completed_at = now()")
    second = sessions.in_thread(lambda: enqueue(two, "return", unique_for=60))
    sessions.until_waiting()
    one.script(ending)
    assert (second.result(timeout=20) == first) is (ending == "commit")
    assert len(table.rows("select from roost.jobs")) == 1


def test_a_settle_is_not_lost_when_a_call_takes_the_key(
    sessions: Sessions, table: JobTable
) -> None:
    """The mark locks a running job's row; a settle skips it, and writes it afterwards."""
    enqueue(table, "skip")
    claimed = table.claim(table.add_worker())
    producer = sessions.open()
    producer.script("begin")
    second = enqueue(producer, "skip", unique_while="waiting")
    assert second is not None
    producer.script("commit")
    complete(table, claimed)
    assert table.states() == {"available": 1, "completed": 1}


def test_two_bulks_in_opposite_orders_do_not_deadlock(dsn: str, table: JobTable) -> None:
    keys = [f"k{number}" for number in range(50)]
    barrier = threading.Barrier(4)

    def bulk(own: list[str], on_conflict: BulkOnConflict) -> int:
        records = encode_jobs([JobInsert("work", unique_key=key, unique_for=60) for key in own])
        with JobTable(dsn) as mine:
            for _ in range(10):
                barrier.wait(timeout=30)
                ids = mine.run(insert_unique(records, on_conflict))
                assert len(set(ids)) == len(keys)
        return len(ids)

    with ThreadPoolExecutor(4) as threads:
        orders: list[tuple[list[str], BulkOnConflict]] = [
            (keys, "return"),
            (keys[::-1], "replace"),
            (keys, "replace"),
            (keys[::-1], "return"),
        ]
        futures = [threads.submit(bulk, *order) for order in orders]
        assert [future.result(timeout=60) for future in futures] == [50] * 4
    assert table.states() == {"available": 50}


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
@pytest.mark.parametrize("on_conflict", ["return", "replace"])
def test_an_older_snapshot_gets_an_error_and_no_wrong_answer(
    sessions: Sessions, table: JobTable, on_conflict: BulkOnConflict, level: str
) -> None:
    old = sessions.open()
    changes: list[Callable[[], object]] = [
        lambda: enqueue(table, "skip", args={"n": 1}),
        lambda: table.claim(table.add_worker()),
    ]
    for change in changes:
        old.script(f"begin isolation level {level}")
        old.value("select count(*) from roost.jobs")
        change()
        with pytest.raises(DatabaseError) as caught:
            enqueue(old, on_conflict, args={"n": 2})
        assert caught.value.sqlstate == "40001"
        old.script("rollback")
        [[args]] = table.rows("select args::text from roost.jobs")
        assert args == '{"n": 1}'


@pytest.mark.timing
def test_replaces_race_with_three_claiming_workers(dsn: str, table: JobTable) -> None:
    """No event is lost, no running job is touched, and what runs last is the last event."""
    seen: list[list[int]] = [[] for _ in range(3)]
    done = threading.Event()

    def work(number: int) -> None:
        with JobTable(dsn) as mine:
            worker_id = mine.add_worker()
            while True:
                # Before the claim, so that the last claim comes after the last event.
                finished = done.is_set()
                claimed = mine.claim(worker_id, limit=1)
                for job in claimed.jobs:
                    args = job.job().args
                    seen[number].append(args["n"])
                    assert mine.get(job.lease.job_id).args == args
                complete(mine, claimed)
                if finished and not claimed.jobs:
                    return

    with ThreadPoolExecutor(3) as threads:
        futures = [threads.submit(work, number) for number in range(3)]
        events: dict[int, int | None] = {}
        for number in range(1, 201):
            fields: dict[str, Any] = {"args": {"n": number}, "unique_while": "waiting"}
            events[number] = enqueue(table, "replace", **fields)
        done.set()
        for future in futures:
            future.result(timeout=60)
    ran = sorted(number for each in seen for number in each)
    # Each job ran once, with the last event that went into it.
    last_of = {job_id: number for number, job_id in events.items()}
    assert ran == sorted(last_of.values())
    assert ran[-1] == 200
    assert table.states() == {"completed": len(last_of)}


def test_return_races_with_the_end_of_the_job(dsn: str, table: JobTable) -> None:
    """Each answer is the id of a job that was active during the call."""
    stop = threading.Event()

    def finish() -> int:
        ended = 0
        with JobTable(dsn) as mine:
            while not stop.is_set():
                ended += len(
                    mine.rows(
                        "update roost.jobs set state = 'completed', completed_at = now() "
                        "where state = 'available' returning id"
                    )
                )
        return ended

    with ThreadPoolExecutor(1) as threads:
        finishing = threads.submit(finish)
        try:
            for number in range(200):
                job_id = (
                    enqueue(table, "return")
                    if number % 2
                    else table.run(
                        insert_job(
                            encode_jobs([JobInsert("work", unique_key="k")]),
                            unique_key="k",
                            return_holder=True,
                        )
                    )
                )
                assert job_id is not None
                last = table.value("select max(id) from roost.jobs")
                assert job_id == last
        finally:
            stop.set()
        assert finishing.result(timeout=20) > 0
