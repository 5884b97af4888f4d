"""Rows that an enqueue inserts, duplicates that it leaves out, and its notifications."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest
from tests.ops.conftest import Sessions
from tests.support.job_table import JobTable

from roost import DuplicateUniqueJobError, JobInsert
from roost._model.encoding import encode_batch, encode_jobs
from roost._ops.enqueue import insert_batch, insert_homogeneous, insert_job, insert_jobs
from roost._ops.workers import set_wants_notify


@pytest.fixture
def rival(dsn: str, table: JobTable) -> Iterator[JobTable]:
    with JobTable(dsn) as rival:
        yield rival


def insert(table: JobTable, key: str | None = "key", task: str = "work") -> int:
    record = encode_jobs([JobInsert(task, unique_key=key)])
    return table.run(insert_job(record, unique_key=key))


def test_ids_come_in_the_order_of_the_jobs(table: JobTable) -> None:
    ids = table.add_all([JobInsert("work", args={"n": n}) for n in range(2_000)])
    assert ids == sorted(ids)
    rows = table.rows("select id, (args ->> 'n')::int from roost.jobs order by id")
    assert list(rows) == list(zip(ids, range(2_000), strict=True))


def test_a_field_that_is_left_out_has_the_documented_default(table: JobTable) -> None:
    before = table.value("select clock_timestamp()")
    job_id = table.add("work")
    row = table.get(job_id)
    assert row.model_dump(exclude={"id", "scheduled_at", "inserted_at"}) == {
        "queue": "default",
        "task": "work",
        "args": {},
        "state": "available",
        "priority": 0,
        "attempt": 0,
        "max_attempts": 20,
        "attempted_at": None,
        "completed_at": None,
        "cancelled_at": None,
        "discarded_at": None,
        "errors": [],
        "unique_key": None,
        "tags": [],
        "timeout_seconds": None,
        "cancel_requested": False,
        "result": None,
        "depends_on": [],
        "metadata": {},
    }
    assert before <= row.scheduled_at == row.inserted_at


def test_a_job_of_a_long_transaction_is_due_at_its_enqueue(
    table: JobTable, rival: JobTable
) -> None:
    with table.connection.transaction():
        began = table.value("select now()")
        rival.value("select pg_sleep(0.05)")
        job_id = table.add()
    assert table.get(job_id).inserted_at - began >= timedelta(seconds=0.05)


def test_a_second_active_job_of_a_key_is_refused_with_the_id_of_the_first(table: JobTable) -> None:
    first = insert(table)
    with table.connection.transaction():
        with pytest.raises(DuplicateUniqueJobError) as caught:
            insert(table)
        other = insert(table, "other")  # the transaction stays usable
    assert (caught.value.unique_key, caught.value.existing_id) == ("key", first)
    assert table.get(other).unique_key == "other"
    assert table.states() == {"available": 2}


@pytest.mark.parametrize("state", ["available", "executing", "retryable"])
def test_the_key_is_taken_while_the_job_is_active(table: JobTable, state: str) -> None:
    table.change(insert(table), f"state = '{state}'")
    with pytest.raises(DuplicateUniqueJobError):
        insert(table)


@pytest.mark.parametrize("state", ["completed", "discarded", "cancelled"])
def test_the_key_is_free_after_each_terminal_state(table: JobTable, state: str) -> None:
    for _ in range(3):
        table.change(insert(table), f"state = '{state}'")
    assert table.states() == {state: 3}


def test_a_bulk_insert_leaves_duplicates_out(table: JobTable) -> None:
    insert(table, "taken")
    keys = ["a", "taken", None, "a", "b", None]
    ids = table.add_all([JobInsert("work", unique_key=key) for key in keys])
    assert len(ids) == 4
    stored = [table.get(job_id).unique_key for job_id in ids]
    assert stored == ["a", None, "b", None]


@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_fifty_enqueues_wait_for_an_uncommitted_first_one(
    dsn: str, table: JobTable, ending: Literal["commit", "rollback"]
) -> None:
    barrier = threading.Barrier(51)

    def enqueue() -> int | DuplicateUniqueJobError:
        with JobTable(dsn) as own:
            barrier.wait(timeout=30)
            try:
                return insert(own)
            except DuplicateUniqueJobError as error:
                return error

    raw = table.connection.raw
    raw.execute(b"begin")
    first = insert(table)
    with JobTable(dsn) as eye, ThreadPoolExecutor(50) as threads:
        futures: list[Future[int | DuplicateUniqueJobError]] = [
            threads.submit(enqueue) for _ in range(50)
        ]
        barrier.wait(timeout=30)
        wait_for(lambda: eye.value(WAITING) == 50)
        raw.execute(ending.encode())
        outcomes = [future.result(timeout=30) for future in futures]
    inserted = [outcome for outcome in outcomes if isinstance(outcome, int)]
    refused = [outcome for outcome in outcomes if not isinstance(outcome, int)]
    [[job_id]] = table.rows("select id from roost.jobs")
    if ending == "commit":
        assert (inserted, job_id) == ([], first)
    else:
        assert inserted == [job_id]
        assert job_id != first
    assert {error.existing_id for error in refused} == {job_id}
    assert len(inserted) + len(refused) == 50


WAITING = """
select count(*) from pg_stat_activity
where datname = current_database() and wait_event_type = 'Lock'
"""


def wait_for(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(3_000):
        if condition():
            return
        pause.wait(0.005)
    raise TimeoutError


def test_enqueues_that_race_with_an_end_have_only_documented_outcomes(
    dsn: str, table: JobTable
) -> None:
    """The holder of the key may end between the refused insert and the read of its id."""
    done = threading.Event()

    def keep_ending() -> None:
        with JobTable(dsn) as own:
            while not done.is_set():
                own.rows("update roost.jobs set state = 'completed' where state = 'available'")

    def enqueue() -> int:
        inserted = 0
        with JobTable(dsn) as own:
            for _ in range(100):
                try:
                    insert(own)
                except DuplicateUniqueJobError:
                    continue
                inserted += 1
        return inserted

    with ThreadPoolExecutor(5) as threads:
        ending = threads.submit(keep_ending)
        total = sum(threads.map(lambda _: enqueue(), range(4)))
        done.set()
        ending.result(timeout=30)
    assert table.value("select count(*) from roost.jobs") == total > 0


def announced_queues(listener: JobTable) -> list[str]:
    """Return the queues that were announced so far."""
    return [queue for _, queue in listener.notifications()]


def test_each_queue_is_notified_once_of_jobs_that_are_due_soon(
    table: JobTable, rival: JobTable
) -> None:
    rival.rows("listen roost_jobs")
    table.add_worker(queues=["a", "b", "c", "d"])
    soon, late = (datetime.now(UTC) + timedelta(seconds=wait) for wait in (30, 3_000))
    table.add_all(
        [JobInsert("work", queue="a")] * 50
        + [JobInsert("work", queue="b"), JobInsert("work", queue="c", scheduled_at=soon)]
        + [JobInsert("work", queue="d", scheduled_at=late)]
    )
    assert sorted(announced_queues(rival)) == ["a", "b", "c"]


def test_nothing_is_notified_before_the_commit_or_after_a_rollback(
    table: JobTable, rival: JobTable
) -> None:
    rival.rows("listen roost_jobs")
    table.add_worker(queues=["a"])
    raw = table.connection.raw
    raw.execute(b"begin")
    table.add(queue="a")
    assert announced_queues(rival) == []
    raw.execute(b"commit")
    assert announced_queues(rival) == ["a"]
    raw.execute(b"begin")
    table.add(queue="a")
    raw.execute(b"rollback")
    assert announced_queues(rival) == []


def test_a_queue_is_notified_only_if_a_living_worker_of_it_wants_that(
    table: JobTable, rival: JobTable
) -> None:
    rival.rows("listen roost_jobs")
    table.add()
    assert announced_queues(rival) == []
    table.add_worker("elsewhere", queues=["other"])
    table.add_worker("dead", stale_after=-1)
    worker = table.add_worker("here")
    table.add()
    assert announced_queues(rival) == ["default"]
    table.run(set_wants_notify(worker, wants_notify=False))
    table.add()
    assert announced_queues(rival) == []
    table.run(set_wants_notify(worker, wants_notify=True))
    table.add()
    assert announced_queues(rival) == ["default"]


def test_a_transaction_with_an_old_snapshot_always_notifies(
    table: JobTable, rival: JobTable
) -> None:
    rival.rows("listen roost_jobs")
    raw = table.connection.raw
    raw.execute(b"begin isolation level repeatable read")
    raw.execute(b"select 1")
    rival.add_worker()  # this transaction never sees it
    table.add()
    raw.execute(b"commit")
    assert announced_queues(rival) == ["default"]


def test_a_worker_that_asks_for_notifications_during_the_transaction_gets_the_next(
    table: JobTable, rival: JobTable
) -> None:
    rival.rows("listen roost_jobs")
    raw = table.connection.raw
    raw.execute(b"begin")
    table.rows("select 1")
    rival.add_worker()
    table.add()
    raw.execute(b"commit")
    assert announced_queues(rival) == ["default"]


def test_a_duplicate_notifies_nothing(table: JobTable, rival: JobTable) -> None:
    table.add_worker()
    insert(table)
    rival.rows("listen roost_jobs")
    with pytest.raises(DuplicateUniqueJobError):
        insert(table)
    assert announced_queues(rival) == []


def test_the_longest_queue_name_fits_a_notification(table: JobTable, rival: JobTable) -> None:
    rival.rows("listen roost_jobs")
    name = "\N{HATCHING CHICK}" * 200
    table.add_worker(queues=[name])
    table.add(queue=name)
    assert announced_queues(rival) == [name]


def test_each_job_of_a_homogeneous_batch_gets_its_own_id_or_none(table: JobTable) -> None:
    taken = table.add(unique_key="taken")
    keys = [None, "a", "taken", "b", "a", None, "b", None]
    jobs = [JobInsert("work", {"n": n}, unique_key=key) for n, key in enumerate(keys)]
    batch = encode_batch(jobs)
    assert batch.homogeneous
    ids = table.run(insert_homogeneous(batch.text, keys=keys))
    assert [job_id is None for job_id in ids] == [
        *(False, False, True, False),
        *(True, False, True, False),
    ]
    for n, job_id in enumerate(ids):
        if job_id is not None:
            assert job_id > taken
            assert table.get(job_id).args == {"n": n}
            assert table.get(job_id).unique_key == keys[n]


@pytest.mark.parametrize("count", [99, 100, 250])
def test_a_batch_of_any_size_leaves_out_taken_keys_and_keeps_the_first_of_one_key(
    table: JobTable, count: int
) -> None:
    taken = table.add(unique_key="key 70")
    keys = [f"key {n if n != 90 else 3}" for n in range(count)]
    jobs = [JobInsert("work", {"n": n}, unique_key=key) for n, key in enumerate(keys)]
    ids = table.run(insert_homogeneous(encode_batch(jobs).text, keys=keys))
    assert [n for n, job_id in enumerate(ids) if job_id is None] == [70, 90]
    assert len(table.rows("select from roost.jobs where id > $1::bigint", taken)) == count - 2
    for n, job_id in enumerate(ids):
        if job_id is not None:
            assert table.column(job_id, "args") == {"n": n}
    # Now all keys are taken.
    assert set(table.run(insert_homogeneous(encode_batch(jobs).text, keys=keys))) == {None}
    assert table.run(insert_batch(encode_batch(jobs))) == []


def test_a_large_batch_waits_for_a_key_that_another_transaction_has_taken(
    table: JobTable, sessions: Sessions
) -> None:
    rival = sessions.open()
    jobs = [JobInsert("work", unique_key=f"key {n}") for n in range(200)]
    for end, kept in (("rollback", 200), ("commit", 199)):
        rival.script("begin")
        rival.add(unique_key="key 150")
        waiting = sessions.in_thread(lambda: table.run(insert_batch(encode_batch(jobs))))
        sessions.until_waiting()
        rival.script(end)
        assert len(waiting.result(10)) == kept
        rival.rows("delete from roost.jobs")


def test_a_large_batch_with_duplicates_is_undone_with_its_transaction(table: JobTable) -> None:
    jobs = [JobInsert("work", unique_key=f"key {n % 150}") for n in range(200)]
    table.script("begin")
    assert len(table.run(insert_batch(encode_batch(jobs)))) == 150
    assert table.states() == {"available": 150}
    table.script("rollback")
    assert table.states() == {}


@pytest.mark.parametrize("keys", [False, True])
def test_a_large_batch_notifies_once_and_one_without_inserts_does_not(
    table: JobTable, rival: JobTable, keys: bool
) -> None:
    table.add_worker()
    rival.rows("listen roost_jobs")
    jobs = [JobInsert("work", unique_key=f"key {n}" if keys else None) for n in range(200)]
    batch = encode_batch(jobs)
    table.run(insert_batch(batch))
    assert announced_queues(rival) == ["default"]
    table.run(insert_batch(batch))
    assert announced_queues(rival) == ([] if keys else ["default"])


def test_jobs_of_a_homogeneous_batch_are_stored_as_others_are(table: JobTable) -> None:
    job = JobInsert(
        "work",
        {"n": 1},
        queue="q",
        priority=3,
        max_attempts=4,
        scheduled_at=datetime.now(UTC) + timedelta(hours=1),
        unique_key="key",
        tags=["a", "b"],
        timeout_seconds=5,
        metadata={"trace": "x"},
    )
    records = encode_jobs([job])
    [first] = table.run(insert_jobs(records))
    table.rows("update roost.jobs set unique_key = null")
    [second] = table.run(insert_batch(encode_batch([job])))
    table.rows("update roost.jobs set unique_key = null")
    stored, stored_by_batch = (
        table.get(job_id).model_copy(update={"id": 0, "inserted_at": None})
        for job_id in (first, second)
    )
    assert stored == stored_by_batch
