"""An entry follows the newest code that a living worker has, wherever old and new workers start."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from tests.support.cron_table import (
    STALE_AFTER,
    START,
    CronTable,
    after,
    declaration,
    entry,
    minutes,
)

from roost import CronEntry
from roost._ops import cron
from roost._ops.cron import Own

NOON = START
OLD = entry(queue="old")
NEW = entry(queue="new")


def queue(crons: CronTable) -> str:
    return crons.entry("it").queue


def stop(crons: CronTable, worker: str) -> None:
    crons.run(cron.withdraw(["it"], worker=worker))


def renew(crons: CronTable, worker: str, own: CronEntry) -> list[str]:
    return crons.run(cron.renew_declared([declaration(own)], worker=worker))


# Declarations.


@pytest.mark.parametrize("change", [{"expression": "*/2 * * * *"}, {"timezone_name": "Asia/Tokyo"}])
def test_a_changed_schedule_starts_from_now(crons: CronTable, change: dict[str, Any]) -> None:
    crons.declare(entry(misfire="all"))
    crons.clock(after(minutes=5, seconds=1))
    crons.declare(entry(misfire="all", **change))
    assert crons.fire("it") == []
    assert crons.entry("it").next_tick_at == after(minutes=6)


def test_an_unchanged_schedule_keeps_its_next_tick(crons: CronTable) -> None:
    crons.declare(entry(misfire="all"))
    crons.clock(after(minutes=2, seconds=1))
    crons.declare(entry(misfire="all", args={"new": True}, queue="new", priority=1))
    assert len(crons.fire("it")) == 2
    assert crons.ticks("it") == minutes(1, 2)
    assert (crons.get(1).args, crons.get(1).queue, crons.get(1).priority) == (
        {"new": True},
        "new",
        1,
    )


def test_a_declaration_keeps_a_pause(crons: CronTable) -> None:
    crons.declare(entry())
    crons.run(cron.pause("it"))
    crons.declare(entry("*/2 * * * *"))
    assert crons.entry("it").paused_at == NOON


def test_an_entry_that_no_worker_declares_is_stale_and_does_not_fire_until_one_does(
    crons: CronTable,
) -> None:
    crons.declare(entry(), entry(name="gone"))
    crons.clock(after(seconds=STALE_AFTER))
    assert not crons.entry("gone").stale
    crons.run(cron.renew_declared([declaration(entry())], worker="one"))
    crons.clock(after(seconds=STALE_AFTER + 1))
    assert (crons.entry("it").stale, crons.entry("gone").stale) == (False, True)
    crons.fire("it")
    assert crons.ticks("gone") == []
    crons.declare(entry(name="gone"))
    assert not crons.entry("gone").stale
    crons.fire("gone")
    assert crons.ticks("gone") == minutes(3), "missed, as if all workers had been away"


# Newest code wins.


def test_a_restarted_old_worker_does_not_set_an_entry_back(crons: CronTable) -> None:
    assert crons.declare(OLD, worker="old") == {"it": "in force"}
    assert crons.declare(NEW, worker="new") == {"it": "in force"}
    assert crons.declare(OLD, worker="old again") == {"it": "superseded"}
    assert queue(crons) == "new"
    assert crons.declare(NEW, worker="new again") == {"it": "in force"}
    assert queue(crons) == "new"


def test_new_code_wins_in_every_order_of_restarts(crons: CronTable) -> None:
    workers = {"old 1": OLD, "old 2": OLD, "new 1": NEW, "new 2": NEW}
    for order in itertools.permutations(workers):
        crons.script("truncate roost.cron, roost.cron_declarations")
        crons.declare(OLD, worker="first")
        living = {"first"}
        for worker in order:
            crons.declare(workers[worker], worker=worker)
            living.add(worker)
            assert (queue(crons) == "new") is any(name.startswith("new") for name in living)


def test_old_code_wins_when_the_last_worker_with_new_code_has_stopped(crons: CronTable) -> None:
    crons.declare(OLD, worker="old")
    crons.declare(NEW, worker="new 1")
    crons.declare(NEW, worker="new 2")
    stop(crons, "new 1")
    assert renew(crons, "old", OLD) == ["it"], "another declaration is in force"
    assert crons.declare(OLD, worker="old") == {"it": "superseded"}
    stop(crons, "new 2")
    assert crons.declare(OLD, worker="old") == {"it": "in force"}
    assert queue(crons) == "old"
    assert renew(crons, "old", OLD) == []
    assert crons.declare(NEW, worker="new 3") == {"it": "in force"}, "it was seen later"


def test_the_declarations_of_a_killed_worker_end_by_themselves(crons: CronTable) -> None:
    crons.declare(OLD, worker="old")
    crons.declare(NEW, worker="new")
    crons.clock(after(seconds=STALE_AFTER))
    assert renew(crons, "old", OLD) == ["it"]
    assert crons.declare(OLD, worker="old") == {"it": "superseded"}
    crons.clock(after(seconds=STALE_AFTER + 1))
    assert crons.declare(OLD, worker="old") == {"it": "in force"}
    assert crons.rows("select worker from roost.cron_declarations") == [("old",)]


def test_after_all_have_stopped_old_code_is_still_older(crons: CronTable) -> None:
    crons.declare(OLD, worker="old")
    crons.declare(NEW, worker="new")
    for worker in ("old", "new"):
        stop(crons, worker)
    assert crons.entry("it").stale
    assert crons.declare(OLD, worker="rolled back") == {"it": "in force"}
    assert crons.declare(NEW, worker="new again") == {"it": "in force"}
    assert crons.declare(OLD, worker="rolled back") == {"it": "superseded"}


def test_two_deployments_at_once_end_the_same_on_each_worker(
    open_cron_table: Callable[[], CronTable],
) -> None:
    tables = [open_cron_table() for _ in range(6)]
    together = threading.Barrier(len(tables))
    for attempt in range(15):
        tables[0].script("truncate roost.cron, roost.cron_declarations")
        codes = [entry(queue=f"code {number % 3}") for number in range(len(tables))]

        def start(number: int, codes: list[CronEntry] = codes) -> None:
            together.wait(60)
            # Locked entries are declared again, as a worker does.
            while tables[number].declare(codes[number], worker=str(number)) == {"it": "locked"}:
                pass

        threads = [threading.Thread(target=start, args=(number,)) for number in range(len(tables))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        winner = queue(tables[0])
        [seen] = tables[0].rows("select cardinality(fingerprints) from roost.cron")
        assert seen == (3,), f"attempt {attempt}"
        outcomes = [
            table.declare(code, worker=str(number))["it"]
            for number, (table, code) in enumerate(zip(tables, codes, strict=True))
        ]
        assert queue(tables[0]) == winner
        assert [outcome == "in force" for outcome in outcomes] == [
            code.queue == winner for code in codes
        ]


def test_equal_code_has_equal_fingerprints(crons: CronTable) -> None:
    one, same = entry(args={"a": 1, "b": [2]}), entry(args={"b": [2], "a": 1})
    assert declaration(one).fingerprint == declaration(same).fingerprint
    different: list[dict[str, Any]] = [
        {"expression": "*/2 * * * *"},
        {"timezone_name": "UTC"},
        {"task": "other"},
        {"args": {"a": 1}},
        {"queue": "q"},
        {"priority": 1},
        {"max_attempts": 2},
        {"misfire": "all"},
        {"overlap": "skip"},
        {"jitter": 1.0},
        {"run_on_start": True},
        {"args": lambda tick: {"a": tick.day}},
        {"args": lambda tick: {"b": tick.day}},
    ]
    found = {declaration(entry(**options)).fingerprint for options in different}
    found |= {declaration(entry()).fingerprint, declaration(entry(), tags=["t"]).fingerprint}
    assert len(found) == len(different) + 2


def test_code_that_declares_another_value_at_each_start_does_not_fill_the_row(
    crons: CronTable,
) -> None:
    for number in range(105):
        assert crons.declare(entry(args={"at": number})) == {"it": "in force"}
    assert crons.entry("it").args == {"at": 104}
    [(seen,)] = crons.rows("select cardinality(fingerprints) from roost.cron")
    assert seen == 100


def test_an_entry_that_was_added_at_run_time_is_not_taken_over_by_code(crons: CronTable) -> None:
    crons.add_entry(entry(queue="tenant"))
    assert crons.declare(OLD, entry(name="other")) == {"it": "taken", "other": "in force"}
    assert (queue(crons), crons.entry("it").source) == ("tenant", "database")
    crons.clock(after(minutes=1))
    assert crons.fire("it") == [], "the code's worker does not know its task"
    assert crons.run(cron.remove("it", stale_after=STALE_AFTER))
    assert renew(crons, "one", OLD) == ["it"]
    assert crons.declare(OLD) == {"it": "in force"}


# Run on start.


STARTS = entry("0 * * * *", run_on_start=True)


def test_a_start_makes_one_job_for_all_workers(crons: CronTable) -> None:
    crons.clock(after(seconds=30))
    crons.declare(STARTS, worker="one")
    crons.declare(STARTS, worker="two")
    crons.declare(STARTS, worker="one")
    assert len(crons.fire("it")) == 1
    assert crons.fire("it") == []
    crons.declare(STARTS, worker="three")
    assert crons.fire("it") == []
    assert crons.ticks("it") == [after(seconds=30)]
    assert crons.entry("it").next_tick_at == after(hours=1)
    assert crons.entry("it").last_job_id == 1


def test_a_worker_that_dies_before_it_fires_leaves_the_start_to_another(
    crons: CronTable, rival: CronTable
) -> None:
    crons.declare(STARTS, worker="one")
    rival.declare(STARTS, worker="two")
    assert len(rival.fire("it")) == 1
    assert crons.fire("it") == []


def test_it_starts_again_after_all_workers_have_stopped(crons: CronTable) -> None:
    crons.declare(STARTS, worker="one")
    crons.declare(STARTS, worker="two")
    crons.fire("it")
    stop(crons, "one")
    crons.clock(after(seconds=10))
    crons.declare(STARTS, worker="three")
    assert crons.fire("it") == []
    stop(crons, "two")
    stop(crons, "three")
    crons.clock(after(seconds=20))
    crons.declare(STARTS, worker="four")
    assert len(crons.fire("it")) == 1
    crons.clock(after(seconds=20 + STALE_AFTER + 1))
    crons.declare(STARTS, worker="four")
    assert len(crons.fire("it")) == 1, "all were killed, or away"


def test_a_start_is_not_made_up_after_a_pause(crons: CronTable) -> None:
    crons.declare(STARTS)
    crons.run(cron.pause("it"))
    assert crons.fire("it") == []
    crons.run(cron.resume("it"))
    assert crons.fire("it") == []


@pytest.mark.parametrize(
    ("misfire", "overlap", "fired"),
    [
        ("last", "allow", [after(minutes=9.5)]),
        ("skip", "allow", [after(minutes=9.5)]),
        ("all", "allow", [*minutes(*range(1, 10)), after(minutes=9.5)]),
        ("all", "skip", [after(minutes=9.5)]),
    ],
)
def test_a_start_stands_for_the_last_missed_tick(
    crons: CronTable, misfire: Any, overlap: Any, fired: list[datetime]
) -> None:
    starts = entry(misfire=misfire, overlap=overlap, run_on_start=True)
    crons.declare(starts)
    crons.fire("it")
    crons.rows("update roost.jobs set state = 'completed', completed_at = now()")
    stop(crons, "one")
    crons.clock(after(minutes=9.5))
    crons.declare(starts)
    crons.fire("it")
    assert crons.ticks("it")[1:] == fired
    assert crons.entry("it").next_tick_at == after(minutes=10)


# Args that code makes.


def by_day(tick: datetime) -> dict[str, Any]:
    return {"day": tick.day}


def by_month(tick: datetime) -> dict[str, Any]:
    return {"month": tick.month}


def test_only_workers_with_the_code_in_force_fire_an_entry_whose_args_it_makes(
    crons: CronTable, rival: CronTable
) -> None:
    old, new = entry(args=by_day), entry(args=by_month)

    def due(own: CronEntry) -> Own:
        return Own(names=["it"], fingerprints=[declaration(own).fingerprint])

    crons.declare(old, worker="old")
    crons.clock(after(minutes=1))
    read = crons.run(cron.read_due(due(old))).entries
    assert [(one.args_from_code, one.ticks) for one in read] == [(True, minutes(1))]
    rival.clock(after(minutes=1))
    rival.declare(new, worker="new")
    prints = {"it": declaration(old).fingerprint}
    made = {"it": ['{"day": 1}']}
    assert crons.run(cron.fire(read, made, prints)).names == set(), "it has changed since"
    assert crons.run(cron.read_due(due(old))).entries == []
    assert crons.run(cron.next_in(due(old))) is None
    read = crons.run(cron.read_due(due(new))).entries
    prints = {"it": declaration(new).fingerprint}
    [job_id] = crons.run(cron.fire(read, {"it": ['{"month": 6}']}, prints)).job_ids
    assert crons.get(job_id).args == {"month": 6}
    assert (crons.entry("it").args, crons.entry("it").args_from_code) == ({}, True)
