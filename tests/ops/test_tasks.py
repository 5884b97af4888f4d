"""Published options of tasks: newer code wins, and older code only when no newer worker lives."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.support.job_table import JobTable

from roost import TaskInfo
from roost._ops.limits import set_limit
from roost._ops.tasks import list_tasks, publish_tasks
from roost._ops.workers import register_worker

OLD: dict[str, Any] = {"queue": "old"}
NEW: dict[str, Any] = {"queue": "new", "priority": 3}


def publish(table: JobTable, worker: int, options: dict[str, Any], task: str = "work") -> None:
    table.run(publish_tasks(worker, {task: options}))


def published(table: JobTable, task: str = "work") -> Any:
    return table.value(
        "select options -> 'queue' #>> '{}' from roost.tasks where name = $1::text", task
    )


def end(table: JobTable, worker: int) -> None:
    table.rows(
        "update roost.workers set expires_at = now() - interval '1 s' where id = $1::bigint", worker
    )


def test_newer_code_wins_while_older_workers_live(table: JobTable) -> None:
    older, newer = table.add_worker(), table.add_worker()
    publish(table, older, OLD)
    publish(table, newer, NEW)
    assert published(table) == "new"
    publish(table, older, OLD)
    assert published(table) == "new"


def test_a_restarted_older_worker_changes_nothing_while_a_newer_one_lives(table: JobTable) -> None:
    publish(table, table.add_worker(), OLD)
    first, second = table.add_worker(), table.add_worker()
    publish(table, first, NEW)
    publish(table, second, NEW)
    publish(table, first, NEW)
    restarted = table.add_worker()
    end(table, second)  # the one that declared them last
    publish(table, restarted, OLD)
    assert published(table) == "new"
    end(table, first)
    publish(table, restarted, OLD)
    assert published(table) == "old"


def test_code_that_was_taken_back_can_come_again(table: JobTable) -> None:
    for _ in range(25):
        for options in (OLD, NEW):
            worker = table.add_worker()
            publish(table, worker, options)
            assert published(table) == options["queue"]
            end(table, worker)
    for n in range(30):
        publish(table, table.add_worker(), {"queue": f"q{n}"})
        assert published(table) == f"q{n}"
    assert table.value("select cardinality(replaced) from roost.tasks") == 20


def test_options_that_are_a_part_of_newer_ones_are_other_options(table: JobTable) -> None:
    publish(table, table.add_worker(), {"queue": "a", "priority": 1})
    publish(table, table.add_worker(), {"queue": "b"})
    publish(table, table.add_worker(), {"queue": "a"})
    assert published(table) == "a"


def test_without_a_change_no_row_is_written(table: JobTable) -> None:
    worker = table.add_worker()
    publish(table, worker, OLD)
    before = table.value("select xmin::text || xmax::text from roost.tasks")
    publish(table, worker, OLD)
    assert table.value("select xmin::text || xmax::text from roost.tasks") == before


def test_many_workers_publish_at_once(dsn: str, table: JobTable) -> None:
    tasks = [f"task {n}" for n in range(50)]
    workers = [table.add_worker() for _ in range(16)]

    def start(worker: int) -> None:
        options = NEW if worker % 2 else OLD
        order = tasks if worker % 4 else tasks[::-1]
        with JobTable(dsn) as own:
            for _ in range(5):
                own.run(publish_tasks(worker, dict.fromkeys(order, options)))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(start, workers))
    assert table.value("select count(*) from roost.tasks") == len(tasks)
    assert set(table.rows("select options ->> 'queue' from roost.tasks")) <= {("old",), ("new",)}


def schema(table: JobTable) -> Any:
    return table.value("select args_schema ->> 'title' from roost.tasks where name = 'work'")


def test_the_schema_of_the_worker_that_started_last_counts(table: JobTable) -> None:
    first, second = table.add_worker(), table.add_worker()
    for worker, title in ((first, "one"), (second, "two"), (first, "one")):
        table.run(publish_tasks(worker, {"work": OLD}, {"work": f'{{"title": "{title}"}}'}))
    assert schema(table) == "two"
    third = table.add_worker()
    table.run(publish_tasks(third, {"work": NEW}))
    assert schema(table) is None


def test_tasks_are_listed_with_their_limits_and_the_workers_that_know_them(table: JobTable) -> None:
    one, two, dead = (
        table.run(
            register_worker(
                name="w", queues=queues, concurrency=1, stale_after=stale_after, tasks=["a", "b"]
            )
        )
        for queues, stale_after in ((["x", "y"], 100), (["y", "z"], 100), (["dead"], -1))
    )
    assert one < two < dead
    table.run(publish_tasks(one, {"a": NEW, "gone": {}}, {"a": '{"type": "object"}'}))
    table.run(set_limit("a", max_concurrency=3, rate_per_minute=None))
    known, gone = table.run(list_tasks())
    assert known == TaskInfo(
        name="a",
        options=NEW,
        args_schema={"type": "object"},
        max_concurrency=3,
        rate_per_minute=None,
        limit_by=None,
        workers=2,
        queues=["x", "y", "z"],
    )
    assert (gone.name, gone.options, gone.args_schema) == ("gone", {}, None)
    assert (gone.workers, gone.queues) == (0, [])
