"""Workers and cron entries that change while they run: added ones, newer code, made args."""

from __future__ import annotations

import logging
from collections import Counter
from datetime import datetime
from typing import Any

import pytest
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import AsyncRoost, HandlerRegistry, Worker, cron, job
from roost._worker.lanes import cron as cron_lane

pytestmark = pytest.mark.anyio

EACH_SECOND = "* * * * * *"
NEVER_TODAY = "0 0 29 2 *"


async def beat() -> None: ...


def worker_of(dsn: str, registry: HandlerRegistry) -> Worker:
    return Worker(dsn, registry=registry, queues=["no jobs"], poll_interval=30)


def declaring(expression: str = NEVER_TODAY, **options: Any) -> HandlerRegistry:
    registry = HandlerRegistry()
    cron(expression, name="it", handler_registry=registry, **options)(beat)
    return registry


def knowing(*tasks: str) -> HandlerRegistry:
    registry = HandlerRegistry()
    for task in tasks:

        @job(task, registry=registry)
        async def handle() -> None: ...

    return registry


def ticks(table: JobTable) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for name, tick in table.rows(
        "select metadata ->> 'cron', "
        "extract(epoch from (metadata ->> 'tick')::timestamptz)::bigint "
        "from roost.jobs order by 1, 2"
    ):
        found.setdefault(name, []).append(tick)
    return found


async def test_two_workers_fire_each_tick_of_many_added_entries_once(
    table: JobTable, dsn: str
) -> None:
    names = [f"tenant {number}" for number in range(200)]
    async with AsyncRoost(dsn, registry=knowing("report")) as roost, roost.transaction() as conn:
        for name in names:
            await roost.add_cron(name, EACH_SECOND, "report", args={}, conn=conn)
    workers = [worker_of(dsn, knowing("report", "other")) for _ in range(2)]
    async with working(*workers):
        await eventually(
            lambda: (
                (found := ticks(table)).keys() == set(names)
                and all(len(found[name]) >= 3 for name in names)
            ),
            within=60,
        )
    for name, fired in ticks(table).items():
        assert Counter(fired).most_common(1)[0][1] == 1, name
        assert fired == list(range(fired[0], fired[-1] + 1)), f"{name}: each second"


async def test_an_entry_that_is_added_wakes_a_sleeping_worker(table: JobTable, dsn: str) -> None:
    async with (
        AsyncRoost(dsn, registry=HandlerRegistry()) as roost,
        working(worker_of(dsn, knowing("report"))),
    ):
        await roost.add_cron("unknown", EACH_SECOND, "no worker knows it")
        await roost.add_cron("it", EACH_SECOND, "report")
        await eventually(lambda: len(ticks(table).get("it", [])) >= 2)
        stale = {entry.name: entry.stale for entry in await roost.list_cron()}
        assert stale == {"it": False, "unknown": True}
        assert await roost.remove_cron("it")
        so_far = ticks(table)
        assert so_far.keys() == {"it"}
        await roost.add_cron("next", EACH_SECOND, "report")
        await eventually(lambda: len(ticks(table).get("next", [])) >= 2)
        assert ticks(table)["it"] == so_far["it"]


async def test_code_gets_its_entry_when_an_added_one_of_that_name_is_removed(
    table: JobTable, dsn: str
) -> None:
    async with AsyncRoost(dsn, registry=knowing("report")) as roost:
        await roost.add_cron("it", NEVER_TODAY, "report")
        async with working(worker_of(dsn, declaring())):
            assert [entry.source for entry in await roost.list_cron()] == ["database"]
            await roost.remove_cron("it")
            await eventually(lambda: table.rows("select source from roost.cron") == [("code",)])


async def test_without_run_cron_an_added_entry_is_stale(table: JobTable, dsn: str) -> None:
    idle = Worker(dsn, registry=knowing("report"), run_cron=False)
    async with AsyncRoost(dsn, registry=HandlerRegistry()) as roost, working(idle):
        await roost.add_cron("it", NEVER_TODAY, "report")
        assert [entry.stale for entry in await roost.list_cron()] == [True]
        async with working(worker_of(dsn, knowing("report"))):
            assert [entry.stale for entry in await roost.list_cron()] == [False]


async def test_an_entry_follows_the_newest_code_while_a_worker_has_it(
    table: JobTable, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    def args() -> object:
        return table.value("select args ->> 'code' from roost.cron")

    registry = HandlerRegistry()

    @job("code", registry=registry)
    async def code(code: str) -> None: ...

    def of(version: str) -> Worker:
        own = HandlerRegistry()
        cron(NEVER_TODAY, name="it", args={"code": version}, handler_registry=own)(code)
        return worker_of(dsn, own)

    async with working(of("old")):
        assert args() == "old"
        async with working(of("new")):
            assert args() == "new"
            with caplog.at_level(logging.WARNING, "roost.worker.cron"):
                async with working(of("old")):
                    assert args() == "new"
            # One line of this worker, and one of the first, unless that was logged before.
            assert 1 <= len(caplog.records) <= 2
            assert {record.__dict__["entry"] for record in caplog.records} == {"it"}
        # No worker has the newer code now.
        await eventually(lambda: args() == "old")
        async with working(of("new")):
            assert args() == "new"


async def test_an_entry_that_runs_on_start_makes_one_job_for_all_workers(
    table: JobTable, dsn: str
) -> None:
    def fired() -> int:
        return len(ticks(table).get("it", []))

    async with working(*(worker_of(dsn, declaring(run_on_start=True)) for _ in range(3))):
        await eventually(lambda: fired() == 1)
        async with working(worker_of(dsn, declaring(run_on_start=True))):
            pass
    assert fired() == 1
    async with working(worker_of(dsn, declaring(run_on_start=True))):
        await eventually(lambda: fired() == 2)


async def test_args_are_made_for_each_tick(table: JobTable, dsn: str) -> None:
    registry = HandlerRegistry()

    def made(tick: datetime) -> dict[str, Any]:
        return {"zone": str(tick.tzinfo), "second": int(tick.timestamp())}

    @cron(EACH_SECOND, name="it", args=made, timezone="Asia/Tokyo", handler_registry=registry)
    @job("report", registry=registry)
    async def report(zone: str, second: int) -> None: ...

    async with working(worker_of(dsn, registry)), AsyncRoost(dsn, registry=registry) as roost:
        await eventually(lambda: len(ticks(table).get("it", [])) >= 2)
        by_hand = await roost.run_cron_now("it")
    rows = table.rows(
        "select args ->> 'zone', (args ->> 'second')::bigint, "
        "extract(epoch from (metadata ->> 'tick')::timestamptz)::bigint from roost.jobs "
        "where metadata ? 'tick'"
    )
    assert all(zone == "Asia/Tokyo" and second == tick for zone, second, tick in rows)
    assert table.get(by_hand).args["zone"] == "Asia/Tokyo"


async def test_a_function_that_fails_stops_no_other_entry_and_is_tried_again(
    table: JobTable,
    dsn: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(cron_lane.CronLane._retry_later, "__defaults__", (0.2,))
    registry = declaring(EACH_SECOND)
    tries: list[datetime] = []

    def fails_twice(tick: datetime) -> dict[str, Any]:
        tries.append(tick)
        if len(tries) <= 2:
            raise ValueError("no args today")
        return {}

    cron(EACH_SECOND, name="fails", args=fails_twice, handler_registry=registry)(beat)
    with caplog.at_level(logging.ERROR, "roost.worker.cron"):
        async with working(worker_of(dsn, registry)):
            await eventually(
                lambda: all(len(ticks(table).get(name, [])) >= 3 for name in ("it", "fails"))
            )
    assert len(caplog.records) == 2
    assert "ValueError: no args today" in caplog.records[0].getMessage()
    for fired in ticks(table).values():
        assert fired == list(range(fired[0], fired[-1] + 1)), "no tick is lost"
