"""Due jobs for which no living worker of their queue has a handler are counted."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tests.support.job_table import JobTable

from roost import JobInsert
from roost._ops.control import pause_queue
from roost._ops.unknown_tasks import find_unknown_tasks
from roost._ops.workers import register_worker


def add_worker(table: JobTable, *tasks: str, queues: Sequence[str] = ("default",)) -> int:
    return table.run(
        register_worker(name="one", queues=queues, concurrency=1, stale_after=300, tasks=tasks)
    )


def found(table: JobTable, worker: int, *queues: str) -> dict[tuple[str, str], int]:
    unknown = table.run(find_unknown_tasks(worker, queues=queues or ("default",)))
    return {(each.queue, each.task): each.jobs for each in unknown}


def test_due_jobs_of_a_task_without_a_handler_are_counted(table: JobTable) -> None:
    worker = add_worker(table, "known")
    table.add_all([JobInsert("unknown", priority=n) for n in range(3)] + [JobInsert("known")] * 2)
    late = table.add("unknown")
    table.change(late, "scheduled_at = now() + interval '1 hour'")
    oldest = table.add("other")
    table.change(oldest, "scheduled_at = now() - interval '90 s', state = 'retryable'")
    [other, unknown] = table.run(find_unknown_tasks(worker, queues=["default"]))
    assert (unknown.task, unknown.jobs, other.task, other.jobs) == ("unknown", 3, "other", 1)
    assert 90 <= other.oldest_seconds < 120


def test_a_task_that_another_worker_of_the_queue_knows_is_known(table: JobTable) -> None:
    worker = add_worker(table)
    table.add("work")
    elsewhere = add_worker(table, "work", queues=["other"])
    assert found(table, worker) == {("default", "work"): 1}
    table.rows("update roost.workers set queues = $1::text[]", ["default"])
    assert found(table, worker) == {}
    table.rows("update roost.workers set expires_at = now() where id = $1::bigint", elsewhere)
    assert found(table, worker) == {("default", "work"): 1}


def test_each_queue_is_checked_by_its_oldest_living_worker(table: JobTable) -> None:
    elder = add_worker(table, queues=["a", "b"])
    younger = add_worker(table, queues=["b", "c"])
    for queue in ("a", "b", "c"):
        table.add(queue=queue)
    assert set(found(table, elder, "a", "b")) == {("a", "work"), ("b", "work")}
    assert set(found(table, younger, "b", "c")) == {("c", "work")}
    table.rows("update roost.workers set expires_at = now() where id = $1::bigint", elder)
    assert set(found(table, younger, "b", "c")) == {("b", "work"), ("c", "work")}


def test_paused_queues_and_blocked_and_ended_jobs_are_left_out(table: JobTable) -> None:
    worker = add_worker(table, queues=["default", "paused"])
    table.change(table.add("child"), "pending_parents = 1")
    table.change(table.add("ended"), "state = 'discarded', discarded_at = now()")
    table.add(queue="paused")
    table.run(pause_queue("paused"))
    assert found(table, worker, "default", "paused") == {}


def test_jobs_of_limited_tasks_are_found_too(table: JobTable) -> None:
    worker = add_worker(table, "known")
    for task in ("known", "unknown", "unknown"):
        table.change(table.add(task), "limited = true")
    assert found(table, worker) == {("default", "unknown"): 2}


@pytest.mark.parametrize("jobs", [5_000])
def test_the_count_is_bounded(table: JobTable, jobs: int) -> None:
    worker = add_worker(table)
    table.rows(
        "insert into roost.jobs (task) select 'work' from generate_series(1, $1::integer)", jobs
    )
    assert found(table, worker) == {("default", "work"): 1_000}
