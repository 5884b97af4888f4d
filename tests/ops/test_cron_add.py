"""Entries that are added at run time: fired by task, replaced and removed while workers fire."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from tests.support.cron_table import (
    STALE_AFTER,
    CronTable,
    after,
    entry,
    fire_due,
    minutes,
)

from roost import CronDeclaredError
from roost._ops import cron
from roost._ops.cron import Own

WORK = Own(tasks=["work"])


def remove(crons: CronTable, name: str = "it") -> bool:
    return crons.run(cron.remove(name, stale_after=STALE_AFTER))


def test_a_worker_that_knows_the_task_fires_an_added_entry(crons: CronTable) -> None:
    crons.add_entry(entry(args={"tenant": 7}, queue="reports", priority=2))
    assert (crons.entry("it").source, crons.entry("it").next_tick_at) == (
        "database",
        after(minutes=1),
    )
    crons.clock(after(minutes=1))
    assert crons.fire("it", tasks=["other"]) == []
    assert crons.run(cron.next_in(WORK)) == 0
    assert crons.run(cron.next_in(Own(names=["it"], fingerprints=[""], tasks=["other"]))) is None
    [job_id] = crons.fire(tasks=["other", "work"])
    job = crons.get(job_id)
    assert (job.task, job.args, job.queue, job.priority) == ("work", {"tenant": 7}, "reports", 2)
    assert job.metadata["cron"] == "it"
    assert crons.ticks("it") == minutes(1)
    assert crons.run(cron.next_in(WORK)) == 60


def test_entries_of_unknown_tasks_do_not_delay_others(crons: CronTable) -> None:
    for number in range(120):
        crons.add_entry(entry(name=f"unknown {number}", task="unknown"))
    crons.clock(after(seconds=1))
    crons.add_entry(entry())
    crons.clock(after(minutes=1))
    assert len(crons.fire(tasks=["work"])) == 1


def test_entries_that_are_left_out_do_not_delay_others(crons: CronTable) -> None:
    names = [f"bad {number}" for number in range(120)]
    for name in names:
        crons.add_entry(entry(name=name))
    crons.add_entry(entry("*/2 * * * *"))
    crons.clock(after(minutes=2))
    due = crons.run(cron.read_due(Own(tasks=["work"], left_out=names)))
    assert [one.name for one in due.entries] == ["it"]
    assert crons.run(cron.next_in(Own(tasks=["work"], left_out=[*names, "it"]))) is None


def test_more_than_a_batch_is_fired_oldest_first(crons: CronTable) -> None:
    for number in range(150):
        crons.add_entry(entry(name=f"entry {number:03}"))
    crons.clock(after(minutes=1))
    assert [len(crons.fire(tasks=["work"])) for _ in range(3)] == [100, 50, 0]


@pytest.mark.parametrize("change", [{"expression": "*/2 * * * *"}, {"timezone_name": "Asia/Tokyo"}])
def test_a_replaced_schedule_starts_from_now(crons: CronTable, change: dict[str, Any]) -> None:
    crons.add_entry(entry(misfire="all"))
    crons.clock(after(minutes=5, seconds=1))
    crons.add_entry(entry(misfire="all", **change))
    assert crons.fire(tasks=["work"]) == []
    assert crons.entry("it").next_tick_at == after(minutes=6)


def test_a_replacement_with_the_same_schedule_keeps_its_next_tick_and_its_pause(
    crons: CronTable,
) -> None:
    crons.add_entry(entry(misfire="all"))
    crons.clock(after(minutes=2, seconds=1))
    crons.add_entry(entry(misfire="all", args={"new": True}, task="new"))
    assert len(crons.fire(tasks=["work", "new"])) == 2
    assert (crons.get(1).args, crons.get(1).task) == ({"new": True}, "new")
    crons.run(cron.pause("it"))
    crons.add_entry(entry("*/2 * * * *"))
    assert crons.entry("it").paused_at is not None


def test_the_name_of_an_entry_of_the_code_is_refused(crons: CronTable) -> None:
    crons.declare(entry(queue="code"))
    with pytest.raises(CronDeclaredError, match="code declares the cron entry 'it'") as refused:
        crons.add_entry(entry(queue="tenant"))
    assert refused.value.code == "roost.cron-declared"
    assert (crons.entry("it").queue, crons.entry("it").source) == ("code", "code")
    with pytest.raises(CronDeclaredError, match="a running worker declares the cron entry 'it'"):
        remove(crons)
    # A refusal leaves the caller's transaction usable.
    crons.script("begin")
    with pytest.raises(CronDeclaredError):
        crons.add_entry(entry())
    with pytest.raises(CronDeclaredError):
        remove(crons)
    crons.add_entry(entry(name="other"))
    crons.script("commit")
    assert crons.entry("other").source == "database"


def test_an_entry_whose_code_is_gone_can_be_removed_and_its_name_taken(crons: CronTable) -> None:
    crons.declare(entry())
    crons.clock(after(seconds=STALE_AFTER + 1))
    with pytest.raises(CronDeclaredError, match="remove the entry first"):
        crons.add_entry(entry())
    assert remove(crons)
    assert not remove(crons)
    assert crons.rows("select 1 from roost.cron_declarations") == []
    crons.add_entry(entry())
    assert crons.entry("it").source == "database"
    assert remove(crons)
    assert crons.entries() == []


def test_an_added_entry_is_stale_while_no_living_worker_knows_its_task(crons: CronTable) -> None:
    crons.add_entry(entry())
    assert crons.entry("it").stale
    worker_id = crons.add_worker()
    crons.rows(
        "update roost.workers set known_tasks = array['work'], "
        "expires_at = now() + interval '1 day' where id = $1::bigint",
        worker_id,
    )
    assert not crons.entry("it").stale
    crons.rows("update roost.workers set fires_cron = false where id = $1::bigint", worker_id)
    assert crons.entry("it").stale


# While workers fire.


def test_an_entry_that_is_added_or_removed_belongs_to_the_callers_transaction(
    crons: CronTable, rival: CronTable
) -> None:
    crons.add_entry(entry())
    for each in (crons, rival):
        each.clock(after(minutes=1))
    rival.script("begin")
    assert remove(rival)
    rival.add_entry(entry(name="new"))
    crons.script("set lock_timeout = 1000")
    assert crons.fire(tasks=["work"]) == [], "a locked entry is not waited for"
    rival.script("rollback")
    assert len(crons.fire(tasks=["work"])) == 1
    assert [one.name for one in crons.entries()] == ["it"]
    rival.script("begin")
    assert remove(rival)
    rival.script("commit")
    crons.clock(after(minutes=2))
    assert crons.fire(tasks=["work"]) == []


def test_an_entry_that_is_changed_after_it_was_read_fires_as_it_is_now(
    crons: CronTable, rival: CronTable
) -> None:
    def remove_and_add() -> None:
        remove(rival)
        rival.add_entry(entry())

    changes: list[tuple[Callable[[], object], list[Any]]] = [
        (lambda: remove(rival), []),
        (lambda: rival.add_entry(entry("*/5 * * * *")), []),
        (lambda: rival.add_entry(entry(timezone_name="Asia/Tokyo")), []),
        (lambda: rival.add_entry(entry(args={"new": 1})), [{"new": 1}]),
        (remove_and_add, []),
    ]
    for change, args in changes:
        crons.script("truncate roost.cron, roost.jobs restart identity")
        crons.clock(after(minutes=0))
        crons.add_entry(entry(args={"old": 1}))
        for each in (crons, rival):
            each.clock(after(minutes=1))
        operation = fire_due([], tasks=["work"])
        query = operation.send(crons.connection.fetch(next(operation)))
        change()
        crons.finish(operation, query)
        assert [made for (made,) in crons.rows("select args::text from roost.jobs")] == [
            str(one).replace("'", '"') for one in args
        ]


def test_a_replacement_waits_for_a_firing_and_then_follows_it(
    crons: CronTable, rival: CronTable
) -> None:
    crons.add_entry(entry(args={"old": 1}))
    for each in (crons, rival):
        each.clock(after(minutes=1))
    rival.script("begin")
    assert len(rival.fire(tasks=["work"])) == 1
    crons.script("set lock_timeout = 100")
    with pytest.raises(Exception, match="lock"):
        crons.add_entry(entry("*/2 * * * *"))
    rival.script("commit")
    crons.add_entry(entry("*/2 * * * *"))
    assert crons.entry("it").next_tick_at == after(minutes=2)
    assert crons.ticks("it") == minutes(1)
    crons.clock(after(minutes=2))
    crons.fire(tasks=["work"])
    assert crons.ticks("it") == minutes(1, 2)


def test_many_tenants_with_one_schedule_are_computed_once(
    crons: CronTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(50):
        crons.add_entry(entry("0 * * * *", name=f"tenant {number}"))
    computed: list[object] = []
    to_fire = cron._to_fire

    def counted(*args: Any, **times: Any) -> Any:
        computed.append(args)
        return to_fire(*args, **times)

    monkeypatch.setattr(cron, "_to_fire", counted)
    crons.clock(after(hours=1) + timedelta(seconds=1))
    assert len(crons.fire(tasks=["work"])) == 50
    assert len(computed) == 1
