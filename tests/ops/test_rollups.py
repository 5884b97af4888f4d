"""Roll-ups are added, merged by the hour and deleted; an overview reads their sums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest
from tests.ops.conftest import Sessions
from tests.support.job_table import JobTable

from roost._model.histogram import count_buckets, decode
from roost._model.overview import MAX_SHOWN
from roost._model.tally import Outcome, Series, Tally
from roost._ops.rollups import (
    Counted,
    delete_rollups,
    encode_rollups,
    merge_hours,
    merge_minutes,
    overview,
    write_rollups,
)


def bucket_of(seconds: float) -> int:
    [bucket] = count_buckets([seconds])
    return bucket


def counted(
    task: str = "work",
    *,
    number: int = 1,
    outcome: Outcome = "completed",
    queue: str = "default",
    wait: float = 0.5,
    run: float = 2.0,
) -> Counted:
    tally = Tally()
    for _ in range(number):
        tally.samples.append((Series(queue, task), wait, run))
    tally.fold()
    return Counted(queue, task, outcome, tally)


def write(
    table: JobTable, *rollups: Counted, worker: int = 1, batch: int = 1, age: float = 0.0
) -> float:
    return table.run(write_rollups(worker, encode_rollups(rollups), batch=batch, age=age))


def shift(table: JobTable, by: str) -> None:
    """Make all rows older."""
    table.rows(f"update roost.rollups set minute = minute - interval '{by}'")


def rows(table: JobTable) -> list[Mapping[str, Any]]:
    found = table.rows(
        "select minute, worker_id, task, outcome, count, wait::text, run::text "
        "from roost.rollups order by minute, task, id"
    )
    return [
        {
            "minute": minute,
            "worker_id": worker_id,
            "task": task,
            "outcome": outcome,
            "count": count,
            "wait": decode(wait),
            "run": decode(run),
        }
        for minute, worker_id, task, outcome, count, wait, run in found
    ]


def total(found: Iterable[Mapping[str, Any]]) -> int:
    return sum(row["count"] for row in found)


def test_a_row_has_the_minute_of_the_middle_of_its_time(table: JobTable) -> None:
    second = write(table, counted(number=3), age=3_600.0)
    [row] = rows(table)
    now: datetime = table.value("select now()")
    assert 0 <= second < 60
    assert row["minute"].second == 0
    assert now - timedelta(seconds=3_680) <= row["minute"] <= now - timedelta(seconds=3_590)
    assert (row["worker_id"], row["outcome"], row["count"]) == (1, "completed", 3)
    assert row["wait"] == {bucket_of(0.5): 3}
    assert row["run"] == {bucket_of(2.0): 3}


def test_a_batch_is_not_written_twice(table: JobTable) -> None:
    content = encode_rollups([counted()])
    for batch, unsure in ((1, False), (1, True), (2, True)):
        table.run(write_rollups(1, content, batch=batch, age=0, unsure=unsure))
    assert len(rows(table)) == 2
    table.run(write_rollups(2, content, batch=1, age=0, unsure=True))  # another worker's first
    assert len(rows(table)) == 3


def test_the_minutes_of_a_past_hour_are_merged(table: JobTable) -> None:
    for worker in (1, 2):
        for n in range(3):
            write(
                table,
                counted("a", number=2),
                counted("a", run=8.0),
                counted("b", outcome="retried"),
                worker=worker,
                age=60.0 * n,
            )
    kept = total(rows(table))
    assert table.run(merge_hours(limit=1_000)) == 0  # they are too new
    shift(table, "4 hours")
    merged = 0
    while step := table.run(merge_hours(limit=1_000)):
        merged += step
    assert merged == 18
    left = rows(table)
    assert total(left) == kept
    assert {row["worker_id"] for row in left} == {None}
    # Minutes on both sides of an hour give one row for each hour.
    hours = {row["minute"] for row in left}
    assert all(hour.minute == 0 for hour in hours)
    assert len(left) == 2 * len(hours) <= 4
    by_bucket: Counter[int] = Counter()
    for row in left:
        if row["task"] == "a":
            by_bucket.update(row["run"])
    assert by_bucket == {bucket_of(2.0): 12, bucket_of(8.0): 6}
    sums = table.rows("select sum(run_seconds), sum(wait_seconds) from roost.rollups")
    assert sums == [(12 * 2.0 + 6 * 8.0 + 6 * 2.0, 24 * 0.5)]


def test_a_minute_of_several_workers_is_merged(table: JobTable) -> None:
    for worker in (1, 2, 3):
        write(table, counted("a", number=2), counted("b"), worker=worker)
    assert table.run(merge_minutes()) == 0  # it is too new
    shift(table, "15 minutes")
    write(table, counted("a", number=5), worker=1)
    shift(table, "15 minutes")
    assert table.run(merge_minutes()) == 6
    assert table.run(merge_minutes()) == 0  # one worker alone has written the other minute
    left = rows(table)
    assert {(row["task"], row["worker_id"], row["count"]) for row in left} == {
        ("a", 1, 5),
        ("a", None, 6),
        ("b", None, 3),
    }
    write(table, counted("b"), worker=2)
    table.rows("update roost.rollups set minute = (select min(minute) from roost.rollups)")
    assert table.run(merge_minutes()) == 4  # one row came late
    shift(table, "4 hours")
    assert table.run(merge_hours(limit=10)) == 2
    assert sorted((row["task"], row["count"]) for row in rows(table)) == [("a", 11), ("b", 4)]
    assert table.run(merge_hours(limit=10)) == 0


def test_a_merge_is_bounded(table: JobTable) -> None:
    for n in range(5):
        write(table, counted(f"t{n}"), batch=n)
    shift(table, "4 hours")
    assert [table.run(merge_hours(limit=2)) for _ in range(4)] == [2, 2, 1, 0]
    assert total(rows(table)) == 5


def test_attempts_without_times_are_merged(table: JobTable) -> None:
    tally = Tally(count=3)
    write(table, Counted("q", "t", "crashed", tally))
    shift(table, "4 hours")
    assert table.run(merge_hours(limit=10)) == 1
    [row] = rows(table)
    assert (row["count"], row["wait"], row["run"]) == (3, {}, {})


def test_two_workers_do_not_merge_at_the_same_time(table: JobTable, sessions: Sessions) -> None:
    write(table, counted())
    shift(table, "4 hours")
    other = sessions.open()
    other.rows("begin")
    assert other.run(merge_hours(limit=10)) == 1
    assert table.run(merge_hours(limit=10)) == 0
    other.rows("commit")
    assert table.run(merge_hours(limit=10)) == 0
    assert total(rows(table)) == 1


def test_old_rows_are_deleted(table: JobTable) -> None:
    write(table, *[counted(f"t{n}") for n in range(3)])
    shift(table, "15 days")
    write(table, counted("new"))
    shift(table, "13 days")
    table.rows("update roost.rollups set minute = minute + interval '13 days' where task <> 'new'")
    assert [table.run(delete_rollups(limit=2)) for _ in range(3)] == [2, 1, 0]
    assert [row["task"] for row in rows(table)] == ["new"]


def test_an_overview_of_nothing_is_empty(table: JobTable) -> None:
    seen = table.run(overview())
    assert (seen.queues, seen.workers, seen.by_queue, seen.by_task) == ([], [], {}, {})
    assert (seen.total.day.attempts, seen.total.day.by_outcome) == (0, {})
    assert seen.total.minute.wait.p50 is None


def place(table: JobTable, back: str) -> None:
    """Put the rows that are still at their own time ``back`` before the end of the windows."""
    table.rows(
        "update roost.rollups set worker_id = 2, "
        f"minute = date_trunc('minute', now() - interval '20 seconds') - interval '{back}' "
        "where worker_id = 1"
    )


def test_an_overview_adds_up_the_windows(table: JobTable) -> None:
    for back, number in (
        ("1 minute", 60),
        ("2 minutes", 30),
        ("60 minutes", 10),
        ("61 minutes", 5),
        ("22 hours", 3),
    ):
        write(table, counted("a", number=number, run=1.1))
        place(table, back)
    write(table, counted("b", outcome="retried", queue="slow", run=100.0))
    place(table, "1 minute")
    write(table, Counted("slow", "b", "crashed", Tally(count=2)))
    place(table, "1 minute")
    write(table, counted("b", outcome="released", queue="slow", run=9_000.0))
    place(table, "1 minute")
    write(table, counted("a", number=1_000))
    place(table, "25 hours")
    write(table, counted("a", number=7))
    place(table, "0 minutes")  # this minute is not over
    table.add_worker("here")
    table.add("a")
    seen = table.run(overview())
    minute, hour, day = seen.total.minute, seen.total.hour, seen.total.day
    assert (minute.attempts, hour.attempts, day.attempts) == (64, 111, 119)
    assert minute.by_outcome == {"completed": 60, "retried": 1, "crashed": 2, "released": 1}
    assert (minute.failures, minute.seconds) == (3, 60.0)
    assert hour.seconds == 3600.0 + (seen.at - seen.until).total_seconds()
    assert minute.per_second == pytest.approx(64 / 60)
    assert 23 * 3600 <= day.seconds <= 24 * 3600 + 80
    assert minute.run.p50 is not None
    assert 1.0 <= minute.run.p50 <= 1.25
    # The released attempt is in no percentile.
    assert minute.run.p99 is not None
    assert minute.run.p99 < 130
    assert list(seen.by_task) == ["a", "b"]
    assert seen.by_task["a"].day.attempts == 115
    assert seen.by_queue["slow"].minute.failures == 3
    assert seen.by_queue["slow"].hour.wait.p50 == pytest.approx(0.5, rel=0.25)
    assert seen.until <= seen.at - timedelta(seconds=20)
    assert [worker.name for worker in seen.workers] == ["here"]
    assert [queue.available for queue in seen.queues] == [1]


def test_an_overview_has_the_busiest_tasks_only(table: JobTable) -> None:
    write(table, *[counted(f"t{n}", number=n + 1) for n in range(MAX_SHOWN + 3)])
    place(table, "1 minute")
    seen = table.run(overview())
    assert list(seen.by_task) == [f"t{n}" for n in reversed(range(3, MAX_SHOWN + 3))]
    assert seen.total.minute.attempts == sum(range(1, MAX_SHOWN + 4))
