"""Each due tick makes one job, whoever fires, whenever they stop; the database's clock decides."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
from tests.support.cron_table import CLOCK, STALE_AFTER, START, CronTable, declaration
from tests.support.job_table import JobTable

from roost import CronEntry, CronInfo, CronNotFoundError, TaskDefaults
from roost._ops import cron
from roost._ops.cron import Fired
from roost._ops.limits import publish_limits
from roost._ops.query import Op

NOON = START


def entry(expression: str = "* * * * *", name: str = "it", **options: Any) -> CronEntry:
    return CronEntry(name, expression, options.pop("task", "work"), **options)


@pytest.fixture
def make_hand(dsn: str) -> Iterator[Callable[[], CronTable]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(CLOCK)
    with ExitStack() as hands:
        yield lambda: hands.enter_context(CronTable(dsn))


@pytest.fixture
def hand(make_hand: Callable[[], CronTable]) -> CronTable:
    return make_hand()


@pytest.fixture
def rival(make_hand: Callable[[], CronTable]) -> CronTable:
    return make_hand()


def after(**delta: float) -> datetime:
    return NOON + timedelta(**delta)


def minutes(*numbers: int) -> list[datetime]:
    return [after(minutes=number) for number in numbers]


def seconds(*numbers: int) -> list[datetime]:
    return [after(seconds=number) for number in numbers]


# What a tick makes.


def test_the_first_deployment_fires_no_past_tick(hand: CronTable) -> None:
    hand.clock(after(seconds=30))
    hand.declare(entry("0 * * * *"), entry("* * * * *", "minutes"), entry("@yearly", "years"))
    assert hand.fire("it", "minutes", "years") == []
    assert hand.entry("it").next_tick_at == after(hours=1)
    assert hand.entry("it").last_tick_at is None
    assert hand.entry("minutes").next_tick_at == after(minutes=1)


def test_a_deployment_at_a_tick_waits_for_the_next(hand: CronTable) -> None:
    hand.declare(entry())
    assert hand.entry("it").next_tick_at == after(minutes=1)
    assert hand.fire("it") == []


def test_a_due_tick_makes_a_job_with_all_that_was_declared(hand: CronTable) -> None:
    hand.declare(
        entry(
            args={"day": 1}, queue="reports", priority=3, max_attempts=2, timezone_name="Asia/Tokyo"
        ),
        tags=["night"],
        timeout_seconds=60,
    )
    hand.clock(after(minutes=1, seconds=2))
    [job_id] = hand.fire("it")
    job = hand.get(job_id)
    assert (job.task, job.args, job.queue) == ("work", {"day": 1}, "reports")
    assert (job.priority, job.max_attempts, job.attempt) == (3, 2, 0)
    assert (job.tags, job.timeout_seconds, job.state) == (["night"], 60, "available")
    assert (job.scheduled_at, job.inserted_at) == (after(minutes=1), after(minutes=1, seconds=2))
    assert job.metadata["cron"] == "it"
    assert hand.ticks("it") == minutes(1)
    seen = hand.entry("it")
    assert (seen.last_tick_at, seen.last_job_id) == (after(minutes=1), job_id)
    assert seen.next_tick_at == after(minutes=2)
    assert hand.fire("it") == []


def test_an_entry_is_listed_as_it_was_declared(hand: CronTable) -> None:
    hand.declare(
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
    assert hand.entry("it") == CronInfo(
        name="it",
        expression="@daily",
        timezone_name="Europe/Berlin",
        task="work",
        queue="q",
        args={"a": [1]},
        priority=-1,
        max_attempts=5,
        misfire="all",
        overlap="skip",
        jitter=1.5,
        next_tick_at=after(hours=10),
        last_tick_at=None,
        last_job_id=None,
        paused_at=None,
        stale=False,
    )


def test_the_job_of_a_limited_task_is_marked(hand: CronTable) -> None:
    hand.run(publish_limits({"work": TaskDefaults(max_concurrency=1)}))
    hand.declare(entry(), entry(name="other", task="other"))
    hand.clock(after(minutes=1))
    hand.fire("it", "other")
    hand.run(cron.run_now("it"))
    rows = hand.rows("select task, limited from roost.jobs order by task, id")
    assert rows == [("other", False), ("work", True), ("work", True)]


def test_only_the_entries_that_are_asked_for_are_fired(hand: CronTable) -> None:
    hand.declare(entry(), entry(name="unknown here"))
    hand.clock(after(minutes=1))
    assert len(hand.fire("it")) == 1
    assert len(hand.fire("it", "unknown here", "known nowhere")) == 1
    assert hand.ticks("unknown here") == minutes(1)


def test_more_than_a_batch_is_fired_in_several(hand: CronTable) -> None:
    names = [f"entry {number}" for number in range(150)]
    hand.declare(*(entry(name=name) for name in names))
    hand.clock(after(minutes=1))
    assert [len(hand.fire(*names)) for _ in range(3)] == [100, 50, 0]
    assert hand.states() == {"available": 150}


def test_the_seconds_until_the_next_tick_go_by_the_databases_clock(hand: CronTable) -> None:
    hand.declare(entry(), entry("0 0 1 1 *", "years"))
    hand.clock(after(seconds=59.75))
    assert hand.run(cron.next_in(["it", "years"])) == 0.25
    assert (hand.run(cron.next_in(["years"])) or 0) > 1e6
    hand.clock(after(seconds=61))
    assert hand.run(cron.next_in(["it", "years"])) == -1
    hand.run(cron.pause("it"))
    hand.run(cron.pause("years"))
    assert hand.run(cron.next_in(["it", "years"])) is None
    assert hand.run(cron.next_in([])) is None


# Exactly one.


def test_many_workers_make_one_job_for_each_tick(make_hand: Callable[[], CronTable]) -> None:
    names = [f"entry {number}" for number in range(6)]
    hands = [make_hand() for _ in range(8)]
    hands[0].declare(*(entry("* * * * * *", name) for name in names))
    rounds = 15
    together = threading.Barrier(len(hands))
    fired: list[int] = []

    def work(own: CronTable, asked: list[str]) -> None:
        for number in range(1, rounds + 1):
            together.wait(60)
            own.clock(after(seconds=number))
            for _ in range(2):
                fired.extend(own.fire(*asked))

    threads = [
        # In different orders, and not all know all.
        threading.Thread(target=work, args=(own, [*names[at % 4 :], *names[: at % 3]]))
        for at, own in enumerate(hands)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Whoever was passed over is fired by now: the last look of each round comes after the others'.
    hands[0].fire(*names)
    for name in names:
        assert sorted(hands[0].ticks(name)) == seconds(*range(1, rounds + 1))
    assert Counter(fired).most_common(1)[0][1] == 1


STATEMENTS = 2
"""What `fire_due` says to the database: what is due, and the ticks."""


@pytest.mark.parametrize("in_transaction", [False, True])
@pytest.mark.parametrize("done", range(STATEMENTS + 1))
def test_a_worker_that_stops_between_two_statements_loses_and_doubles_no_tick(
    hand: CronTable, rival: CronTable, done: int, in_transaction: bool
) -> None:
    hand.declare(entry(), entry("*/2 * * * *", "other", misfire="all"))
    for each in (hand, rival):
        each.clock(after(minutes=2))
    if in_transaction:
        hand.script("begin")
    hand.stop_after(done, cron.fire_due(["it", "other"]))
    if in_transaction:
        hand.script("rollback")
    rival.fire("it", "other")
    hand.fire("it", "other")
    assert rival.ticks("it") == minutes(2)
    assert rival.ticks("other") == minutes(2)


def test_firing_takes_as_many_statements_as_the_tests_stop_after(hand: CronTable) -> None:
    hand.declare(entry())
    hand.clock(after(minutes=1))
    operation = cron.fire_due(["it"])
    query = next(operation)
    for _ in range(STATEMENTS - 1):
        query = operation.send(hand.connection.fetch(query))
    rows = hand.connection.fetch(query)
    with pytest.raises(StopIteration) as end:
        operation.send(rows)
    assert end.value.value == Fired([1], [])


@pytest.mark.parametrize("done", range(3))
def test_a_declaration_that_stops_half_way_is_completed_by_the_next(
    hand: CronTable, done: int
) -> None:
    hand.stop_after(done, cron.declare([declaration(entry())]))
    hand.clock(after(minutes=1))
    hand.declare(entry())
    hand.fire("it")
    hand.clock(after(minutes=2))
    hand.fire("it")
    assert hand.ticks("it") == (minutes(1, 2) if done == 2 else minutes(2))


def test_an_entry_that_changes_after_it_was_read_is_left_alone(
    hand: CronTable, rival: CronTable
) -> None:
    def declare_at_noon(one: CronEntry) -> None:
        rival.clock(NOON)
        rival.declare(one)

    changes: list[Callable[[], object]] = [
        lambda: rival.run(cron.pause("it")),
        lambda: rival.declare(entry("*/5 * * * *")),
        lambda: rival.declare(entry(timezone_name="Asia/Tokyo")),
        lambda: rival.fire("it"),
        # The next tick is the same, by a clock that was set back.
        lambda: declare_at_noon(entry("*/1 * * * *")),
        lambda: declare_at_noon(entry(timezone_name="Asia/Tokyo")),
    ]
    for change in changes:
        hand.script("truncate roost.cron, roost.jobs restart identity")
        hand.clock(NOON)
        hand.declare(entry())
        for each in (hand, rival):
            each.clock(after(minutes=1))
        operation = cron.fire_due(["it"])
        read = hand.connection.fetch(next(operation))
        assert len(read) == 1
        change()
        before = (hand.entry("it"), hand.ticks("it"))
        assert hand.finish(operation, operation.send(read)) == Fired([], [])
        assert (hand.entry("it"), hand.ticks("it")) == before


def test_a_locked_entry_is_skipped(hand: CronTable, rival: CronTable) -> None:
    hand.declare(entry(), entry(name="other"))
    for each in (hand, rival):
        each.clock(after(minutes=1))
    with rival.connection.transaction():
        rival.rows("select 1 from roost.cron where name = 'it' for update")
        hand.script("set lock_timeout = 1000")
        assert len(hand.fire("it", "other")) == 1
        hand.run(cron.renew_declared(["it", "other"]))
    assert hand.ticks("other") == minutes(1)
    assert len(hand.fire("it", "other")) == 1
    assert hand.ticks("it") == minutes(1)


def test_a_clock_that_is_set_back_fires_no_tick_again(hand: CronTable) -> None:
    hand.declare(entry())
    for number in (1, 2, 0, 1, 2, 3):
        hand.clock(after(minutes=number))
        hand.fire("it")
    assert hand.ticks("it") == minutes(1, 2, 3)


def test_an_entry_that_a_worker_can_not_read_delays_no_others(hand: CronTable) -> None:
    hand.declare(entry(), entry(name="new syntax"), entry(name="new zone"))
    hand.rows("update roost.cron set expression = '0 0 # *' where name = 'new syntax'")
    hand.rows("update roost.cron set timezone = 'Mars/Olympus' where name = 'new zone'")
    hand.clock(after(minutes=1))
    fired = hand.run(cron.fire_due(["new syntax", "it", "new zone"]))
    assert len(fired.job_ids) == 1
    assert sorted(fired.unreadable) == ["new syntax", "new zone"]
    assert hand.ticks("it") == minutes(1)
    assert hand.entry("new syntax").next_tick_at == after(minutes=1), "a newer worker may read it"


# Declared again.


@pytest.mark.parametrize("change", [{"expression": "*/2 * * * *"}, {"timezone_name": "Asia/Tokyo"}])
def test_a_changed_schedule_starts_from_now(hand: CronTable, change: dict[str, Any]) -> None:
    hand.declare(entry(misfire="all"))
    hand.clock(after(minutes=5, seconds=1))
    hand.declare(entry(misfire="all", **change))
    assert hand.fire("it") == []
    assert hand.entry("it").next_tick_at == after(minutes=6)


def test_an_unchanged_schedule_keeps_its_next_tick(hand: CronTable) -> None:
    hand.declare(entry(misfire="all"))
    hand.clock(after(minutes=2, seconds=1))
    hand.declare(entry(misfire="all", args={"new": True}, queue="new", priority=1))
    assert len(hand.fire("it")) == 2
    assert hand.ticks("it") == minutes(1, 2)
    assert (hand.get(1).args, hand.get(1).queue, hand.get(1).priority) == ({"new": True}, "new", 1)


def test_a_declaration_keeps_a_pause(hand: CronTable) -> None:
    hand.declare(entry())
    hand.run(cron.pause("it"))
    hand.declare(entry("*/2 * * * *"))
    assert hand.entry("it").paused_at == NOON


def test_an_entry_that_no_worker_declares_is_stale_and_does_not_fire_until_one_does(
    hand: CronTable,
) -> None:
    hand.declare(entry(), entry(name="gone"))
    hand.clock(after(seconds=STALE_AFTER))
    assert not hand.entry("gone").stale
    hand.run(cron.renew_declared(["it"]))
    hand.clock(after(seconds=STALE_AFTER + 1))
    assert (hand.entry("it").stale, hand.entry("gone").stale) == (False, True)
    hand.fire("it")
    assert hand.ticks("gone") == []
    hand.declare(entry(name="gone"))
    assert not hand.entry("gone").stale
    hand.fire("gone")
    assert hand.ticks("gone") == minutes(3), "missed, as if all workers had been away"


# Ticks that nobody was there to fire.


@pytest.mark.parametrize(
    ("misfire", "fired"), [("skip", []), ("last", minutes(30)), ("all", minutes(*range(1, 31)))]
)
def test_missed_ticks_follow_the_misfire_policy(
    hand: CronTable, misfire: Any, fired: list[datetime]
) -> None:
    hand.declare(entry(misfire=misfire))
    hand.clock(after(minutes=30, seconds=30))
    hand.fire("it")
    assert hand.ticks("it") == fired
    assert hand.entry("it").last_tick_at == (fired[-1] if fired else None)
    assert hand.entry("it").next_tick_at == after(minutes=31)
    hand.clock(after(minutes=31))
    hand.fire("it")
    assert hand.ticks("it") == [*fired, after(minutes=31)]


def test_skipping_missed_ticks_keeps_the_tick_that_is_due_now(hand: CronTable) -> None:
    hand.declare(entry(misfire="skip"))
    hand.clock(after(minutes=30, seconds=5))
    hand.fire("it")
    assert hand.ticks("it") == minutes(30)


def test_all_missed_ticks_are_the_newest_hundred_at_most(hand: CronTable) -> None:
    hand.declare(entry(misfire="all"))
    hand.clock(after(days=10))
    assert len(hand.fire("it")) == cron.MAX_CATCH_UP == 100
    day_10 = 10 * 24 * 60
    assert hand.ticks("it") == minutes(*range(day_10 - 99, day_10 + 1))


@pytest.mark.parametrize("misfire", ["skip", "last", "all"])
def test_ticks_that_are_only_late_are_all_fired(hand: CronTable, misfire: Any) -> None:
    hand.declare(entry("* * * * * *", misfire=misfire))
    hand.clock(after(seconds=4))
    hand.fire("it")
    assert hand.ticks("it") == seconds(1, 2, 3, 4)


# Overlap and jitter.


@pytest.mark.parametrize("state", ["available", "retryable", "executing"])
def test_a_tick_is_skipped_while_the_last_job_has_not_ended(hand: CronTable, state: str) -> None:
    hand.declare(entry(overlap="skip"))
    hand.clock(after(minutes=1))
    [job_id] = hand.fire("it")
    hand.change(job_id, f"state = '{state}'")
    hand.clock(after(minutes=2))
    assert hand.fire("it") == []
    assert hand.entry("it").last_tick_at == after(minutes=1)
    assert hand.entry("it").next_tick_at == after(minutes=3)
    hand.change(job_id, "state = 'completed', completed_at = now()")
    hand.clock(after(minutes=3))
    hand.fire("it")
    assert hand.ticks("it") == minutes(1, 3)


@pytest.mark.parametrize("ended", ["discarded", "cancelled", "archived"])
def test_a_job_that_ended_in_any_way_does_not_skip_the_next_tick(
    hand: CronTable, ended: str
) -> None:
    hand.declare(entry(overlap="skip"))
    hand.clock(after(minutes=1))
    [job_id] = hand.fire("it")
    if ended == "archived":
        hand.rows("delete from roost.jobs")
    else:
        hand.change(job_id, f"state = '{ended}', {ended}_at = now()")
    hand.clock(after(minutes=2))
    assert len(hand.fire("it")) == 1


def test_without_overlap_several_ticks_make_one_job(hand: CronTable) -> None:
    hand.declare(
        entry("* * * * * *", overlap="skip"), entry(name="all", misfire="all", overlap="skip")
    )
    hand.clock(after(seconds=4))
    hand.fire("it")
    assert hand.ticks("it") == seconds(4)
    hand.clock(after(minutes=9))
    hand.fire("all")
    assert hand.ticks("all") == minutes(9)


def test_jobs_overlap_by_default(hand: CronTable) -> None:
    hand.declare(entry())
    for number in (1, 2, 3):
        hand.clock(after(minutes=number))
        hand.fire("it")
    assert hand.states() == {"available": 3}


def test_jitter_spreads_jobs_after_their_tick(hand: CronTable) -> None:
    hand.declare(entry(jitter=30, misfire="all"), entry(name="none", misfire="all"))
    hand.clock(after(minutes=100))
    hand.fire("it", "none")
    late = [
        job.scheduled_at - tick
        for tick, job in zip(
            hand.ticks("it") + hand.ticks("none"),
            [hand.get(job_id) for job_id in by_entry(hand, "it") + by_entry(hand, "none")],
            strict=True,
        )
    ]
    jittered, plain = late[:100], late[100:]
    assert all(timedelta(0) <= wait <= timedelta(seconds=30) for wait in jittered)
    assert len(set(jittered)) > 90
    assert min(jittered) < timedelta(seconds=10)
    assert max(jittered) > timedelta(seconds=20)
    assert set(plain) == {timedelta(0)}


def by_entry(hand: CronTable, name: str) -> list[int]:
    rows = hand.rows(
        "select id from roost.jobs where metadata ->> 'cron' = $1::text order by id", name
    )
    return [job_id for (job_id,) in rows]


# By hand.


def test_a_paused_entry_fires_nothing_and_makes_up_no_ticks(hand: CronTable) -> None:
    hand.declare(entry(misfire="all"))
    hand.clock(after(seconds=20))
    hand.run(cron.pause("it"))
    hand.clock(after(seconds=40))
    hand.run(cron.pause("it"))
    assert hand.entry("it").paused_at == after(seconds=20), "since the first time"
    hand.clock(after(minutes=10, seconds=30))
    assert hand.fire("it") == []
    hand.run(cron.resume("it"))
    assert hand.entry("it").paused_at is None
    assert hand.fire("it") == []
    hand.clock(after(minutes=11))
    hand.fire("it")
    assert hand.ticks("it") == minutes(11)


def test_a_resume_of_an_entry_that_is_not_paused_changes_nothing(hand: CronTable) -> None:
    hand.declare(entry(misfire="all"))
    hand.clock(after(minutes=2))
    hand.run(cron.resume("it"))
    assert len(hand.fire("it")) == 2


def test_a_resume_follows_a_schedule_that_changes_meanwhile(
    hand: CronTable, rival: CronTable
) -> None:
    hand.declare(entry())
    hand.run(cron.pause("it"))
    operation = cron.resume("it")
    read = hand.connection.fetch(next(operation))
    rival.declare(entry("*/5 * * * *"))
    hand.finish(operation, operation.send(read))
    assert (hand.entry("it").paused_at, hand.entry("it").next_tick_at) == (None, after(minutes=5))


def test_running_now_leaves_the_schedule_unchanged(hand: CronTable) -> None:
    hand.declare(entry(args={"day": 1}, queue="q", priority=2, jitter=100), tags=["t"])
    hand.clock(after(seconds=30))
    before = hand.entry("it")
    job = hand.get(hand.run(cron.run_now("it")))
    assert (job.args, job.queue, job.priority, job.tags) == ({"day": 1}, "q", 2, ["t"])
    assert job.scheduled_at == after(seconds=30)
    assert job.metadata == {"cron": "it"}
    assert hand.entry("it") == before
    hand.run(cron.pause("it"))
    hand.run(cron.run_now("it"))
    assert hand.states() == {"available": 2}


@pytest.mark.parametrize("verb", [cron.pause, cron.resume, cron.run_now])
def test_an_unknown_name_is_an_error(hand: CronTable, verb: Callable[[str], Op[object]]) -> None:
    hand.declare(entry())
    with pytest.raises(CronNotFoundError, match="no cron entry is named 'that'") as error:
        hand.run(verb("that"))
    assert error.value.code == "roost.cron-not-found"


# Who is told.


def test_workers_are_notified_once_for_each_reason(hand: CronTable, dsn: str) -> None:
    with JobTable(dsn) as listener:
        listener.script("listen roost_cron; listen roost_jobs")
        hand.add_worker(queues=["default", "q"])

        hand.declare(entry(queue="q"), entry(name="two", queue="q"), entry(name="three"))
        assert [channel for channel, _ in listener.heard()] == ["roost_cron"]
        hand.clock(after(minutes=1))
        hand.fire("it", "two", "three")
        assert sorted(listener.heard()) == [("roost_jobs", "default"), ("roost_jobs", "q")]
        hand.fire("it", "two", "three")
        hand.run(cron.pause("it"))
        hand.run(cron.renew_declared(["it"]))
        assert listener.heard() == []
        hand.run(cron.resume("it"))
        assert [channel for channel, _ in listener.heard()] == ["roost_cron"]
        hand.run(cron.run_now("it"))
        assert listener.heard() == [("roost_jobs", "q")]


def test_operations_can_run_in_a_callers_transaction(hand: CronTable) -> None:
    hand.declare(entry())
    hand.script("begin")
    hand.run(cron.run_now("it"))
    hand.run(cron.pause("it"))
    hand.script("rollback")
    assert hand.states() == {}
    assert hand.entry("it").paused_at is None
