"""A worker writes once a minute what it has counted, and once more when it stops."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import anyio
import pytest
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import AsyncRoost, HandlerRegistry, Roost, Worker, job
from roost._worker import session
from roost._worker.database import Database
from roost._worker.lanes import rollups as lane
from roost._worker.state import WorkerState

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]


@pytest.fixture(autouse=True)
def quick(registry: HandlerRegistry) -> None:
    """Register a task that completes, and one that fails."""

    @job("quick", registry=registry)
    async def quick() -> None:
        await anyio.lowlevel.checkpoint()

    @job("fail", registry=registry, max_attempts=1)
    async def fail() -> None:
        raise ValueError("no")


def written(table: JobTable) -> dict[tuple[str, str], int]:
    """Return the number of attempts by task and outcome."""
    rows = table.rows("select task, outcome, sum(count)::bigint from roost.rollups group by 1, 2")
    return {(task, outcome): count for task, outcome, count in rows}


def has_written(table: JobTable, completed: int) -> bool:
    return written(table) == {("quick", "completed"): completed}


def heartbeat_after(table: JobTable, before: object) -> bool:
    return bool(table.value("select heartbeat_at > $1::timestamptz from roost.workers", before))


async def test_a_worker_that_stops_writes_what_it_has_counted(
    table: JobTable, make_worker: MakeWorker
) -> None:
    for task in ("quick", "quick", "fail"):
        table.add(task)
    assert await make_worker().run_once() == 3
    assert written(table) == {("quick", "completed"): 2, ("fail", "retried"): 1}
    assert table.workers() == []
    [(minutes,)] = table.rows("select count(*) from roost.rollups where worker_id is not null")
    assert minutes == 2


async def test_a_worker_that_has_counted_nothing_writes_nothing(
    table: JobTable, make_worker: MakeWorker
) -> None:
    await make_worker().run_once()
    assert written(table) == {}


async def test_a_running_worker_writes_again_and_again(
    table: JobTable, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "INTERVAL", 0.05)
    monkeypatch.setattr(lane, "AFTER_THE_MINUTE", 0.05)
    async with working(make_worker()):
        for number in (1, 2, 3):
            table.add("quick")
            await eventually(partial(has_written, table, number))


@pytest.mark.parametrize("jobs", [0, 1])
async def test_each_write_falls_shortly_after_the_end_of_a_minute(
    table: JobTable,
    make_worker: MakeWorker,
    monkeypatch: pytest.MonkeyPatch,
    jobs: int,
) -> None:
    lanes: list[lane.RollupsLane] = []

    def make_lane(state: WorkerState, database: Database) -> lane.RollupsLane:
        lanes.append(lane.RollupsLane(state, database))
        for _ in range(jobs):
            state.statistics.count((state.statistics.series_of("q", "t"), 0.1, 0.1), "completed")
        return lanes[0]

    monkeypatch.setattr(session, "RollupsLane", make_lane)
    async with working(make_worker()):
        [rollups] = lanes
        for _ in range(2):  # first after the start, then after a write, or a minute without counts
            second = table.value("select date_part('second', clock_timestamp())")
            away = (second + rollups._delay() - lane.AFTER_THE_MINUTE) % 60
            assert min(away, 60 - away) < 5
            await rollups.once()


async def test_what_could_not_be_written_is_kept_and_the_worker_goes_on(
    table: JobTable, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "INTERVAL", 0.05)
    monkeypatch.setattr(lane, "AFTER_THE_MINUTE", 0.05)
    table.rows("alter table roost.rollups rename to away")
    job_id = table.add("quick")
    async with working(make_worker(heartbeat_interval=0.05)):
        await eventually(lambda: table.get(job_id).state == "completed")
        before = table.value("select heartbeat_at from roost.workers")
        await eventually(partial(heartbeat_after, table, before))
        await anyio.sleep(0.2)  # sleeps: for some tries that are refused
        again = table.add("quick")
        await eventually(lambda: table.get(again).state == "completed")
        table.rows("alter table roost.away rename to rollups")
    assert written(table) == {("quick", "completed"): 2}


async def test_a_write_that_hangs_holds_up_neither_heartbeat_nor_stop(
    table: JobTable, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch, dsn: str
) -> None:
    monkeypatch.setattr(lane, "INTERVAL", 0.05)
    monkeypatch.setattr(lane, "AFTER_THE_MINUTE", 0.05)
    monkeypatch.setattr(lane, "STOP_TIMEOUT", 0.1)
    with JobTable(dsn, application_name="blocks") as blocking:
        job_id = table.add("quick")
        with anyio.fail_after(20):
            async with working(make_worker(heartbeat_interval=0.05)):
                blocking.rows("begin")
                blocking.rows("lock table roost.rollups in access exclusive mode")
                await eventually(lambda: table.get(job_id).state == "completed")
                for _ in range(3):
                    before = table.value("select heartbeat_at from roost.workers")
                    await eventually(partial(heartbeat_after, table, before))
        assert table.workers() == []
        blocking.rows("rollback")


async def test_both_clients_return_an_overview(
    table: JobTable, make_worker: MakeWorker, client: AsyncRoost, dsn: str
) -> None:
    table.add("quick")
    await make_worker().run_once()
    seen = await client.overview()
    assert seen.total.hour.by_outcome == {"completed": 1}
    assert seen.by_task["quick"].hour.run.p99 is not None
    with Roost(dsn) as blocking:
        assert blocking.overview().total.hour.run == seen.total.hour.run


async def test_the_archive_lane_merges_past_hours_and_deletes_old_ones(
    table: JobTable, make_worker: MakeWorker
) -> None:
    for _ in range(2):
        table.add("quick")
        await make_worker().run_once()
    table.rows("update roost.rollups set minute = now() - interval '5 hours'")
    table.add("fail")
    await make_worker().run_once()
    table.rows("update roost.rollups set minute = now() - interval '15 days' where task = 'fail'")
    async with working(make_worker()):
        await eventually(lambda: written(table) == {("quick", "completed"): 2})
        await eventually(
            lambda: table.rows("select count(*), count(worker_id) from roost.rollups") == [(1, 0)]
        )
