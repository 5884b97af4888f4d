"""The cron lane: any worker fires ticks, without a leader, and sleeps until the next tick."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from datetime import timedelta
from types import GeneratorType
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup
from tests.support.conformance.cases import eventually
from tests.support.cron_table import declaration, declare
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import AsyncRoost, CronEntry, CronNotFoundError, HandlerRegistry, Worker, cron, job
from roost._ops import cron as cron_ops
from roost._ops.query import Op
from roost._worker.database import Database
from roost._worker.lanes.cron import CronLane
from roost.exceptions import DatabaseUnavailableError

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]
EACH_SECOND = "* * * * * *"
on_one_backend = pytest.mark.parametrize("anyio_backend", ["trio"])
"""For behavior that does not depend on the backend: each of these tests waits whole seconds."""
NEVER_TODAY = "0 0 29 2 *"


async def beat() -> None: ...


def seconds(table: JobTable, name: str) -> list[int]:
    """Return the fired ticks of an entry, in seconds since 1970."""
    rows = table.rows(
        "select extract(epoch from (metadata ->> 'tick')::timestamptz)::bigint from roost.jobs "
        "where metadata ->> 'cron' = $1::text order by 1",
        name,
    )
    return [second for (second,) in rows]


def gaps(ticks: list[int]) -> set[int]:
    return {after - before for before, after in itertools.pairwise(ticks)}


def registry_with(*names: str, expression: str = EACH_SECOND, **options: Any) -> HandlerRegistry:
    registry = HandlerRegistry()
    for name in names:
        cron(expression, name=name, handler_registry=registry, **options)(beat)
    return registry


async def test_workers_of_different_modules_fire_every_tick_once_and_in_time(
    table: JobTable, dsn: str
) -> None:
    first = Worker(dsn, registry=registry_with("one", "both"), poll_interval=30)
    second = Worker(dsn, registry=registry_with("both", "two"), poll_interval=30)
    async with working(second):
        async with working(first):
            await eventually(
                lambda: all(len(seconds(table, name)) >= 2 for name in ("one", "both", "two")),
            )
        # One worker has ended, the other continues.
        so_far = len(seconds(table, "both"))
        await eventually(lambda: len(seconds(table, "both")) > so_far)
        await eventually(lambda: table.states().keys() == {"completed"})
    for name in ("one", "both", "two"):
        assert gaps(seconds(table, name)) == {1}, "each second, none twice"
    late = table.rows(
        "select extract(epoch from inserted_at - (metadata ->> 'tick')::timestamptz)::float8, "
        "extract(epoch from attempted_at - (metadata ->> 'tick')::timestamptz)::float8 "
        "from roost.jobs"
    )
    fired, started = zip(*late, strict=True)
    print(f"measured: fired {max(fired) * 1000:.0f} ms late at most, started {max(started):.3f} s")
    assert 0 <= min(fired) < 0.5
    assert max(started) < 5


async def test_the_handler_runs_with_the_arguments_of_the_entry(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    seen: list[int] = []

    @cron(EACH_SECOND, args={"day": 7}, handler_registry=registry)
    @job("daily", queue="reports", max_attempts=3, tags=["night"], registry=registry)
    async def daily(day: int) -> None:
        seen.append(day)

    async with working(make_worker(queues=["reports"], poll_interval=30)):
        await eventually(lambda: bool(seen))
    assert seen[0] == 7
    [made, *_] = table.rows("select queue, task, max_attempts, tags from roost.jobs order by id")
    assert made == ("reports", "daily", 3, ["night"])


async def test_an_idle_lane_reads_the_entries_at_most_every_30_seconds(
    table: JobTable, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[float] = []
    once = CronLane.once

    async def counted(self: CronLane, group: TaskGroup) -> float:
        wait = await once(self, group)
        reads.append(wait)
        return wait

    monkeypatch.setattr(CronLane, "once", counted)
    async with working(Worker(dsn, registry=registry_with("leap day", expression=NEVER_TODAY))):
        # At the start, and again when the listener is there and the declaration is announced.
        await eventually(lambda: len(reads) >= 2)
        await anyio.sleep(0.3)  # sleeps: time in which a busy lane would read again
        assert len(reads) <= 3
        assert set(reads) == {30.0}, "sleeps for its longest interval"
    reads.clear()
    async with working(Worker(dsn, registry=registry_with("beat"))):
        await eventually(lambda: len(seconds(table, "beat")) >= 2)
    # One read a tick, and one more when it woke a little early.
    assert len(reads) <= 3 + 2 * len(seconds(table, "beat"))


@on_one_backend
async def test_without_run_cron_nothing_is_declared_or_fired(table: JobTable, dsn: str) -> None:
    firing = Worker(dsn, registry=registry_with("seen"), queues=["other"])
    silent = Worker(dsn, registry=registry_with("unseen"), run_cron=False)
    async with working(silent, firing), AsyncRoost(dsn) as roost:
        await eventually(lambda: len(seconds(table, "seen")) >= 1)
        assert [entry.name for entry in await roost.list_cron()] == ["seen"]
    assert seconds(table, "unseen") == []


@on_one_backend
async def test_run_once_fires_nothing(table: JobTable, dsn: str) -> None:
    assert await Worker(dsn, registry=registry_with("beat")).run_once() == 0
    assert table.rows("select 1 from roost.cron") == []


async def test_entries_are_paused_resumed_and_run_from_anywhere(table: JobTable, dsn: str) -> None:
    async with (
        working(Worker(dsn, registry=registry_with("beat", "leap day"), poll_interval=30)),
        AsyncRoost(dsn) as roost,
    ):
        # Declared before the worker says that it is ready.
        assert [entry.name for entry in await roost.list_cron()] == ["beat", "leap day"]
        await roost.pause_cron("leap day")
        await roost.pause_cron("beat")
        assert all(entry.paused_at for entry in await roost.list_cron())
        paused_with = seconds(table, "beat")
        # Both paused: the lane sleeps its longest.
        job_id = await roost.run_cron_now("beat")
        await eventually(lambda: table.get(job_id).state == "completed")
        assert len(seconds(table, "beat")) == len(paused_with) + 1
        await roost.resume_cron("beat")
        [beat_now, _] = await roost.list_cron()
        next_tick = beat_now.next_tick_at.timestamp()
        await eventually(lambda: next_tick in seconds(table, "beat"))
        for verb in (roost.pause_cron, roost.resume_cron, roost.run_cron_now):
            with pytest.raises(CronNotFoundError):
                await verb("unknown")


async def test_a_sleeping_worker_is_notified_of_a_nearer_tick(table: JobTable, dsn: str) -> None:
    sleeper = Worker(dsn, registry=registry_with("it", expression=NEVER_TODAY), poll_interval=30)
    async with working(sleeper):
        # As a worker with newer code that is killed before it fires.
        newer = declaration(CronEntry("it", EACH_SECOND, "it"))
        table.run(declare([newer], worker="killed"))
        await eventually(lambda: len(seconds(table, "it")) >= 1)


async def test_a_locked_entry_is_fired_soon_after_its_lock_is_released(
    table: JobTable, dsn: str
) -> None:
    async with working(Worker(dsn, registry=registry_with("beat"), queues=["other"])):
        await eventually(lambda: bool(seconds(table, "beat")))
        with table.connection.transaction():
            table.rows("select 1 from roost.cron for update")
            held = table.value("select extract(epoch from clock_timestamp())::float8")
            with JobTable(dsn) as other:
                await eventually(
                    lambda: (
                        other.value("select extract(epoch from clock_timestamp())::float8")
                        > held + 1.1
                    ),
                )
                before = len(seconds(other, "beat"))
        await eventually(lambda: len(seconds(table, "beat")) > before)
    assert gaps(seconds(table, "beat")) == {1}


@on_one_backend
async def test_an_entry_that_is_not_understood_stops_no_other(
    table: JobTable, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "roost.worker.cron"):
        async with working(Worker(dsn, registry=registry_with("beat", "odd"), queues=["other"])):
            table.rows("update roost.cron set expression = 'whenever' where name = 'odd'")
            so_far = len(seconds(table, "beat"))
            await eventually(lambda: len(seconds(table, "beat")) >= so_far + 2)
    logged = [record for record in caplog.records if record.name == "roost.worker.cron"]
    assert [(record.msg.split(":")[0], record.__dict__["names"]) for record in logged] == [
        ("cron entries not understood", ["odd"])
    ]


@on_one_backend
async def test_after_an_outage_the_misfire_policy_decides_which_ticks_fire(
    table: JobTable, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cron_ops, "ON_TIME", timedelta(seconds=0.9))
    monkeypatch.setattr("roost._worker.lanes.cron.backoff", lambda failures: 0.1)
    registry = HandlerRegistry()
    for misfire in ("skip", "last", "all"):
        cron(EACH_SECOND, name=misfire, misfire=misfire, handler_registry=registry)(beat)
    away = False
    call = Database.call

    async def maybe(self: Database, operation: Op[Any], **options: Any) -> Any:
        if away and named(operation) in ("next_in", "read_due", "fire"):
            operation.close()
            raise DatabaseUnavailableError("away")
        return await call(self, operation, **options)

    monkeypatch.setattr(Database, "call", maybe)
    async with working(Worker(dsn, registry=registry, queues=["other"])):
        await eventually(lambda: bool(seconds(table, "all")))
        away = True
        left_at = seconds(table, "all")[-1]
        await anyio.sleep(2)  # sleeps: two ticks are missed meanwhile
        away = False
        await eventually(lambda: seconds(table, "all")[-1] >= left_at + 3)
    every = seconds(table, "all")
    assert gaps(every) == {1}
    for misfire in ("skip", "last"):
        fired = seconds(table, misfire)
        assert len(fired) == len(set(fired))
        assert set(fired) < set(every), "some missed ticks are not fired"
    assert set(seconds(table, "skip")) <= set(seconds(table, "last"))


async def test_a_cancelled_firing_loses_and_repeats_no_tick(
    table: JobTable, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roost._worker.lanes.cron.backoff", lambda failures: 0.01)
    cuts = 0
    call = Database.call

    async def cut_off(self: Database, operation: Op[Any], **options: Any) -> Any:
        nonlocal cuts
        if named(operation) != "fire" or cuts == 15:
            return await call(self, operation, **options)
        cuts += 1
        # A little later each time: before, between and after the statements, and the commit.
        with anyio.move_on_after(0.001 * cuts):
            return await call(self, operation, **options)
        raise DatabaseUnavailableError("cut off")

    monkeypatch.setattr(Database, "call", cut_off)
    async with working(Worker(dsn, registry=registry_with("beat"), queues=["other"])):
        await eventually(lambda: cuts == 15 or len(seconds(table, "beat")) >= 2)
        so_far = len(seconds(table, "beat"))
        await eventually(lambda: len(seconds(table, "beat")) > so_far)
    assert gaps(seconds(table, "beat")) <= {1}


def named(operation: Op[Any]) -> str:
    assert isinstance(operation, GeneratorType)
    return operation.__name__
