"""Each due tick makes one job, however many workers fire and wherever one stops."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from tests.support.cron_table import (
    START,
    CronTable,
    after,
    declaration,
    declare,
    entry,
    fire_due,
    minutes,
    seconds,
)
from tests.support.job_table import JobTable

from roost import CronEntry, CronInfo, CronNotFoundError, TaskDefaults
from roost._ops import cron
from roost._ops.cron import Fired, Own
from roost._ops.limits import publish_limits
from roost._ops.query import Op

NOON = START


def next_in(*names: str) -> Op[float | None]:
    return cron.next_in(Own(names=names, fingerprints=["" for _ in names]))


# The job of a tick.


def test_the_first_deployment_fires_no_past_tick(crons: CronTable) -> None:
    crons.clock(after(seconds=30))
    crons.declare(entry("0 * * * *"), entry("* * * * *", "minutes"), entry("@yearly", "years"))
    assert crons.fire("it", "minutes", "years") == []
    assert crons.entry("it").next_tick_at == after(hours=1)
    assert crons.entry("it").last_tick_at is None
    assert crons.entry("minutes").next_tick_at == after(minutes=1)


def test_a_deployment_at_a_tick_waits_for_the_next(crons: CronTable) -> None:
    crons.declare(entry())
    assert crons.entry("it").next_tick_at == after(minutes=1)
    assert crons.fire("it") == []


def test_a_due_tick_makes_a_job_with_all_that_was_declared(crons: CronTable) -> None:
    crons.declare(
        entry(
            args={"day": 1}, queue="reports", priority=3, max_attempts=2, timezone_name="Asia/Tokyo"
        ),
        tags=["night"],
        timeout_seconds=60,
    )
    crons.clock(after(minutes=1, seconds=2))
    [job_id] = crons.fire("it")
    job = crons.get(job_id)
    assert (job.task, job.args, job.queue) == ("work", {"day": 1}, "reports")
    assert (job.priority, job.max_attempts, job.attempt) == (3, 2, 0)
    assert (job.tags, job.timeout_seconds, job.state) == (["night"], 60, "available")
    assert (job.scheduled_at, job.inserted_at) == (after(minutes=1), after(minutes=1, seconds=2))
    assert job.metadata["cron"] == "it"
    assert crons.ticks("it") == minutes(1)
    seen = crons.entry("it")
    assert (seen.last_tick_at, seen.last_job_id) == (after(minutes=1), job_id)
    assert seen.next_tick_at == after(minutes=2)
    assert crons.fire("it") == []


def test_an_entry_is_listed_as_it_was_declared(crons: CronTable) -> None:
    crons.declare(
        entry(
            "@daily",
            args={"a": [1]},
            queue="q",
            priority=-1,
            max_attempts=5,
            timezone_name="Europe/Berlin",
            misfire="all",
            overlap="skip",
            jitter=1.5,
        )
    )
    assert crons.entry("it") == CronInfo(
        name="it",
        source="code",
        expression="@daily",
        description="At 00:00",
        timezone_name="Europe/Berlin",
        task="work",
        queue="q",
        args={"a": [1]},
        priority=-1,
        max_attempts=5,
        misfire="all",
        overlap="skip",
        jitter=1.5,
        run_on_start=False,
        args_from_code=False,
        next_tick_at=after(hours=10),
        last_tick_at=None,
        last_job_id=None,
        paused_at=None,
        stale=False,
    )


def test_the_job_of_a_limited_task_is_marked(crons: CronTable) -> None:
    crons.run(publish_limits({"work": TaskDefaults(max_concurrency=1)}))
    crons.declare(entry(), entry(name="other", task="other"))
    crons.clock(after(minutes=1))
    crons.fire("it", "other")
    crons.run(cron.run_now("it"))
    rows = crons.rows("select task, limited from roost.jobs order by task, id")
    assert rows == [("other", False), ("work", True), ("work", True)]


def test_only_the_entries_that_are_asked_for_are_fired(crons: CronTable) -> None:
    crons.declare(entry(), entry(name="unknown here"))
    crons.clock(after(minutes=1))
    assert len(crons.fire("it")) == 1
    assert len(crons.fire("it", "unknown here", "known nowhere")) == 1
    assert crons.ticks("unknown here") == minutes(1)


def test_more_than_a_batch_is_fired_in_several(crons: CronTable) -> None:
    names = [f"entry {number}" for number in range(150)]
    crons.declare(*(entry(name=name) for name in names))
    crons.clock(after(minutes=1))
    assert [len(crons.fire(*names)) for _ in range(3)] == [100, 50, 0]
    assert crons.states() == {"available": 150}


def test_the_seconds_until_the_next_tick_go_by_the_databases_clock(crons: CronTable) -> None:
    crons.declare(entry(), entry("0 0 1 1 *", "years"))
    crons.clock(after(seconds=59.75))
    assert crons.run(next_in("it", "years")) == 0.25
    assert (crons.run(next_in("years")) or 0) > 1e6
    crons.clock(after(seconds=61))
    assert crons.run(next_in("it", "years")) == -1
    crons.run(cron.pause("it"))
    crons.run(cron.pause("years"))
    assert crons.run(next_in("it", "years")) is None
    assert crons.run(next_in()) is None


# Exactly one job a tick.


def test_many_workers_make_one_job_for_each_tick(open_cron_table: Callable[[], CronTable]) -> None:
    names = [f"entry {number}" for number in range(6)]
    tables = [open_cron_table() for _ in range(8)]
    tables[0].declare(*(entry("* * * * * *", name) for name in names))
    rounds = 15
    together = threading.Barrier(len(tables))
    fired: list[int] = []

    def work(own: CronTable, asked: list[str]) -> None:
        for number in range(1, rounds + 1):
            together.wait(60)
            own.clock(after(seconds=number))
            for _ in range(2):
                fired.extend(own.fire(*asked))

    threads = [
        # In different orders, and some without one of the entries.
        threading.Thread(target=work, args=(own, [*names[at % 4 :], *names[: at % 3]]))
        for at, own in enumerate(tables)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Skipped entries have been fired by now: the last worker of each round reads after the others.
    tables[0].fire(*names)
    for name in names:
        assert sorted(tables[0].ticks(name)) == seconds(*range(1, rounds + 1))
    assert Counter(fired).most_common(1)[0][1] == 1


STATEMENTS = 2
"""The statements of `fire_due`: read the due entries, and fire their ticks."""


@pytest.mark.parametrize("in_transaction", [False, True])
@pytest.mark.parametrize("done", range(STATEMENTS + 1))
def test_a_worker_that_stops_between_two_statements_loses_and_doubles_no_tick(
    crons: CronTable, rival: CronTable, done: int, in_transaction: bool
) -> None:
    crons.declare(entry(), entry("*/2 * * * *", "other", misfire="all"))
    for each in (crons, rival):
        each.clock(after(minutes=2))
    if in_transaction:
        crons.script("begin")
    crons.stop_after(done, fire_due(["it", "other"]))
    if in_transaction:
        crons.script("rollback")
    rival.fire("it", "other")
    crons.fire("it", "other")
    assert rival.ticks("it") == minutes(2)
    assert rival.ticks("other") == minutes(2)


def test_firing_takes_as_many_statements_as_the_tests_stop_after(crons: CronTable) -> None:
    crons.declare(entry())
    crons.clock(after(minutes=1))
    operation = fire_due(["it"])
    query = next(operation)
    for _ in range(STATEMENTS - 1):
        query = operation.send(crons.connection.fetch(query))
    rows = crons.connection.fetch(query)
    with pytest.raises(StopIteration) as end:
        operation.send(rows)
    assert end.value.value == Fired([1], {"it"})


@pytest.mark.parametrize("done", range(3))
def test_a_declaration_that_stops_half_way_is_completed_by_the_next(
    crons: CronTable, done: int
) -> None:
    crons.stop_after(done, declare([declaration(entry())]))
    crons.clock(after(minutes=1))
    crons.declare(entry())
    crons.fire("it")
    crons.clock(after(minutes=2))
    crons.fire("it")
    assert crons.ticks("it") == (minutes(1, 2) if done == 2 else minutes(2))


def test_an_entry_that_changes_after_it_was_read_is_left_alone(
    crons: CronTable, rival: CronTable
) -> None:
    def declare_at_noon(one: CronEntry) -> None:
        rival.clock(NOON)
        rival.declare(one)

    changes: list[Callable[[], object]] = [
        lambda: rival.run(cron.pause("it")),
        lambda: rival.declare(entry("*/5 * * * *")),
        lambda: rival.declare(entry(timezone_name="Asia/Tokyo")),
        lambda: rival.fire("it"),
        # The clock is set back, so that the next tick is the same one.
        lambda: declare_at_noon(entry("*/1 * * * *")),
        lambda: declare_at_noon(entry(timezone_name="Asia/Tokyo")),
    ]
    for change in changes:
        crons.script("truncate roost.cron, roost.jobs restart identity")
        crons.clock(NOON)
        crons.declare(entry())
        for each in (crons, rival):
            each.clock(after(minutes=1))
        operation = fire_due(["it"])
        read = crons.connection.fetch(next(operation))
        assert len(read) == 1
        change()
        before = (crons.entry("it"), crons.ticks("it"))
        assert crons.finish(operation, operation.send(read)) == Fired([], set())
        assert (crons.entry("it"), crons.ticks("it")) == before


def test_a_locked_entry_is_skipped(crons: CronTable, rival: CronTable) -> None:
    crons.declare(entry(), entry(name="other"))
    for each in (crons, rival):
        each.clock(after(minutes=1))
    with rival.connection.transaction():
        rival.rows("select 1 from roost.cron where name = 'it' for update")
        crons.script("set lock_timeout = 1000")
        assert len(crons.fire("it", "other")) == 1
        declared = [declaration(entry()), declaration(entry(name="other"))]
        assert crons.run(cron.renew_declared(declared, worker="one")) == []
        assert crons.declare(entry(), worker="two") == {"it": "locked"}
    assert crons.ticks("other") == minutes(1)
    assert len(crons.fire("it", "other")) == 1
    assert crons.ticks("it") == minutes(1)


def test_a_clock_that_is_set_back_fires_no_tick_again(crons: CronTable) -> None:
    crons.declare(entry())
    for number in (1, 2, 0, 1, 2, 3):
        crons.clock(after(minutes=number))
        crons.fire("it")
    assert crons.ticks("it") == minutes(1, 2, 3)


def test_an_entry_that_a_worker_can_not_read_delays_no_others(crons: CronTable) -> None:
    crons.declare(entry(), entry(name="new syntax"), entry(name="new zone"))
    crons.rows("update roost.cron set expression = '0 0 # *' where name = 'new syntax'")
    crons.rows("update roost.cron set timezone = 'Mars/Olympus' where name = 'new zone'")
    crons.clock(after(minutes=1))
    due = crons.run(
        cron.read_due(Own(names=["new syntax", "it", "new zone"], fingerprints=[""] * 3))
    )
    assert sorted(due.unreadable) == ["new syntax", "new zone"]
    assert len(crons.fire("new syntax", "it", "new zone")) == 1
    assert crons.ticks("it") == minutes(1)
    assert crons.entry("new syntax").next_tick_at == after(minutes=1), "a newer worker may read it"


# Missed ticks.


@pytest.mark.parametrize(
    ("misfire", "fired"), [("skip", []), ("last", minutes(30)), ("all", minutes(*range(1, 31)))]
)
def test_missed_ticks_follow_the_misfire_policy(
    crons: CronTable, misfire: Any, fired: list[datetime]
) -> None:
    crons.declare(entry(misfire=misfire))
    crons.clock(after(minutes=30, seconds=30))
    crons.fire("it")
    assert crons.ticks("it") == fired
    assert crons.entry("it").last_tick_at == (fired[-1] if fired else None)
    assert crons.entry("it").next_tick_at == after(minutes=31)
    crons.clock(after(minutes=31))
    crons.fire("it")
    assert crons.ticks("it") == [*fired, after(minutes=31)]


def test_skipping_missed_ticks_keeps_the_tick_that_is_due_now(crons: CronTable) -> None:
    crons.declare(entry(misfire="skip"))
    crons.clock(after(minutes=30, seconds=5))
    crons.fire("it")
    assert crons.ticks("it") == minutes(30)


def test_all_missed_ticks_are_the_newest_hundred_at_most(crons: CronTable) -> None:
    crons.declare(entry(misfire="all"))
    crons.clock(after(days=10))
    assert len(crons.fire("it")) == cron.MAX_CATCH_UP == 100
    day_10 = 10 * 24 * 60
    assert crons.ticks("it") == minutes(*range(day_10 - 99, day_10 + 1))


@pytest.mark.parametrize("misfire", ["skip", "last", "all"])
def test_ticks_that_are_only_late_are_all_fired(crons: CronTable, misfire: Any) -> None:
    crons.declare(entry("* * * * * *", misfire=misfire))
    crons.clock(after(seconds=4))
    crons.fire("it")
    assert crons.ticks("it") == seconds(1, 2, 3, 4)


# Overlap and jitter.


@pytest.mark.parametrize("state", ["available", "retryable", "executing"])
def test_a_tick_is_skipped_while_the_last_job_has_not_ended(crons: CronTable, state: str) -> None:
    crons.declare(entry(overlap="skip"))
    crons.clock(after(minutes=1))
    [job_id] = crons.fire("it")
    crons.change(job_id, f"state = '{state}'")
    crons.clock(after(minutes=2))
    assert crons.fire("it") == []
    assert crons.entry("it").last_tick_at == after(minutes=1)
    assert crons.entry("it").next_tick_at == after(minutes=3)
    crons.change(job_id, "state = 'completed', completed_at = now()")
    crons.clock(after(minutes=3))
    crons.fire("it")
    assert crons.ticks("it") == minutes(1, 3)


@pytest.mark.parametrize("ended", ["discarded", "cancelled", "archived"])
def test_a_job_that_ended_in_any_way_does_not_skip_the_next_tick(
    crons: CronTable, ended: str
) -> None:
    crons.declare(entry(overlap="skip"))
    crons.clock(after(minutes=1))
    [job_id] = crons.fire("it")
    if ended == "archived":
        crons.rows("delete from roost.jobs")
    else:
        crons.change(job_id, f"state = '{ended}', {ended}_at = now()")
    crons.clock(after(minutes=2))
    assert len(crons.fire("it")) == 1


def test_without_overlap_several_ticks_make_one_job(crons: CronTable) -> None:
    crons.declare(
        entry("* * * * * *", overlap="skip"), entry(name="all", misfire="all", overlap="skip")
    )
    crons.clock(after(seconds=4))
    crons.fire("it")
    assert crons.ticks("it") == seconds(4)
    crons.clock(after(minutes=9))
    crons.fire("all")
    assert crons.ticks("all") == minutes(9)


def test_jobs_overlap_by_default(crons: CronTable) -> None:
    crons.declare(entry())
    for number in (1, 2, 3):
        crons.clock(after(minutes=number))
        crons.fire("it")
    assert crons.states() == {"available": 3}


def test_jitter_spreads_jobs_after_their_tick(crons: CronTable) -> None:
    crons.declare(entry(jitter=30, misfire="all"), entry(name="none", misfire="all"))
    crons.clock(after(minutes=100))
    crons.fire("it", "none")
    late = [
        job.scheduled_at - tick
        for tick, job in zip(
            crons.ticks("it") + crons.ticks("none"),
            [crons.get(job_id) for job_id in by_entry(crons, "it") + by_entry(crons, "none")],
            strict=True,
        )
    ]
    jittered, plain = late[:100], late[100:]
    assert all(timedelta(0) <= wait <= timedelta(seconds=30) for wait in jittered)
    assert len(set(jittered)) > 90
    assert min(jittered) < timedelta(seconds=10)
    assert max(jittered) > timedelta(seconds=20)
    assert set(plain) == {timedelta(0)}


def by_entry(crons: CronTable, name: str) -> list[int]:
    rows = crons.rows(
        "select id from roost.jobs where metadata ->> 'cron' = $1::text order by id", name
    )
    return [job_id for (job_id,) in rows]


# Pause, resume and run now.


def test_a_paused_entry_fires_nothing_and_makes_up_no_ticks(crons: CronTable) -> None:
    crons.declare(entry(misfire="all"))
    crons.clock(after(seconds=20))
    crons.run(cron.pause("it"))
    crons.clock(after(seconds=40))
    crons.run(cron.pause("it"))
    assert crons.entry("it").paused_at == after(seconds=20), "since the first time"
    crons.clock(after(minutes=10, seconds=30))
    assert crons.fire("it") == []
    crons.run(cron.resume("it"))
    assert crons.entry("it").paused_at is None
    assert crons.fire("it") == []
    crons.clock(after(minutes=11))
    crons.fire("it")
    assert crons.ticks("it") == minutes(11)


def test_a_resume_of_an_entry_that_is_not_paused_changes_nothing(crons: CronTable) -> None:
    crons.declare(entry(misfire="all"))
    crons.clock(after(minutes=2))
    crons.run(cron.resume("it"))
    assert len(crons.fire("it")) == 2


def test_a_resume_follows_a_schedule_that_changes_meanwhile(
    crons: CronTable, rival: CronTable
) -> None:
    crons.declare(entry())
    crons.run(cron.pause("it"))
    operation = cron.resume("it")
    read = crons.connection.fetch(next(operation))
    rival.declare(entry("*/5 * * * *"))
    crons.finish(operation, operation.send(read))
    assert (crons.entry("it").paused_at, crons.entry("it").next_tick_at) == (
        None,
        after(minutes=5),
    )


def test_running_now_leaves_the_schedule_unchanged(crons: CronTable) -> None:
    crons.declare(entry(args={"day": 1}, queue="q", priority=2, jitter=100), tags=["t"])
    crons.clock(after(seconds=30))
    before = crons.entry("it")
    job = crons.get(crons.run(cron.run_now("it")))
    assert (job.args, job.queue, job.priority, job.tags) == ({"day": 1}, "q", 2, ["t"])
    assert job.scheduled_at == after(seconds=30)
    assert job.metadata == {"cron": "it"}
    assert crons.entry("it") == before
    crons.run(cron.pause("it"))
    crons.run(cron.run_now("it"))
    assert crons.states() == {"available": 2}


@pytest.mark.parametrize("verb", [cron.pause, cron.resume, cron.run_now])
def test_an_unknown_name_is_an_error(crons: CronTable, verb: Callable[[str], Op[object]]) -> None:
    crons.declare(entry())
    with pytest.raises(CronNotFoundError, match="no cron entry is named 'that'") as error:
        crons.run(verb("that"))
    assert error.value.code == "roost.cron-not-found"


# Notifications.


def test_workers_are_notified_once_for_each_reason(crons: CronTable, dsn: str) -> None:
    with JobTable(dsn) as listener:
        listener.script("listen roost_cron; listen roost_jobs")
        crons.add_worker(queues=["default", "q"])

        crons.declare(entry(queue="q"), entry(name="two", queue="q"), entry(name="three"))
        assert [channel for channel, _ in listener.notifications()] == ["roost_cron"]
        crons.clock(after(minutes=1))
        crons.fire("it", "two", "three")
        assert sorted(listener.notifications()) == [("roost_jobs", "default"), ("roost_jobs", "q")]
        crons.fire("it", "two", "three")
        crons.run(cron.pause("it"))
        crons.run(cron.renew_declared([declaration(entry())], worker="one"))
        assert listener.notifications() == []
        crons.run(cron.resume("it"))
        assert [channel for channel, _ in listener.notifications()] == ["roost_cron"]
        crons.run(cron.run_now("it"))
        assert listener.notifications() == [("roost_jobs", "q")]


def test_operations_can_run_in_a_callers_transaction(crons: CronTable) -> None:
    crons.declare(entry())
    crons.script("begin")
    crons.run(cron.run_now("it"))
    crons.run(cron.pause("it"))
    crons.script("rollback")
    assert crons.states() == {}
    assert crons.entry("it").paused_at is None
