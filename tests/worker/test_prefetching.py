"""Prefetched jobs wait for a slot, and are released when the slots are stuck."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import HandlerRegistry, JobInsert, Worker, job
from roost._worker import prefetch as prefetch_module
from roost._worker.lanes import fetch
from roost._worker.prefetch import PrefetchController

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]


@pytest.fixture(autouse=True)
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch_module, "MAX_PREFETCH_WAIT", 0.1)


async def test_jobs_prefetched_behind_stuck_slots_are_released_once(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    go_on = anyio.Event()

    @job("stuck", registry=registry)
    async def stuck() -> None:
        await go_on.wait()

    @job("work", registry=registry)
    async def work() -> None: ...

    table.add("stuck", priority=-1)
    table.add_all([JobInsert("work")] * 5)
    worker = make_worker(concurrency=1, prefetch=5, poll_interval=0.02)
    async with working(worker):
        await eventually(lambda: table.states() == {"executing": 6})
        await eventually(lambda: table.states() == {"executing": 1, "available": 5})
        assert table.value("select max(attempt) from roost.jobs where task = 'work'") == 0
        table.add("work")  # wakes the fetch lane
        await anyio.sleep(0.4)  # sleeps: four times as long as a prefetched job may wait
        assert table.states() == {"executing": 1, "available": 6}
        assert table.value("select max(lease_no) from roost.jobs") == 1
        go_on.set()
        await eventually(lambda: table.states() == {"completed": 7})


async def test_a_released_job_is_run_by_another_worker(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    go_on = anyio.Event()

    @job("stuck", registry=registry)
    async def stuck() -> None:
        await go_on.wait()

    @job("work", registry=registry)
    async def work() -> None: ...

    table.add("stuck", priority=-1)
    table.add_all([JobInsert("work")] * 5)
    async with working(make_worker(concurrency=1, prefetch=5, poll_interval=30)):
        await eventually(lambda: table.states() == {"executing": 6})
        async with working(make_worker(concurrency=1, poll_interval=30)):
            await eventually(lambda: table.states() == {"executing": 1, "completed": 5})
            go_on.set()
            await eventually(lambda: table.states() == {"completed": 6})


async def test_prefetch_zero_claims_only_for_free_slots(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    go_on = anyio.Event()
    started = 0

    @job("stuck", registry=registry)
    async def stuck() -> None:
        nonlocal started
        started += 1
        await go_on.wait()

    table.add_all([JobInsert("stuck")] * 10)
    async with working(make_worker(concurrency=3, prefetch=0, poll_interval=0.01)):
        await eventually(lambda: started == 3)
        await anyio.sleep(0.05)
        assert table.states() == {"executing": 3, "available": 7}
        go_on.set()
        await eventually(lambda: table.states() == {"completed": 10})


async def test_prefetched_short_jobs_are_released_when_jobs_become_long(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    short, ended = 3_000, 0

    @job("work", registry=registry)
    async def work() -> None:
        nonlocal ended
        if ended > short:
            await anyio.sleep(0.09)  # sleeps: shorter than a prefetched job may wait, so jobs move
        ended += 1

    def released() -> int:
        count: int = table.value(
            "select count(*) from roost.jobs where state = 'available' and lease_no = 1"
        )
        return count

    table.add_all([JobInsert("work")] * (short + 1_000))
    async with working(make_worker(concurrency=2, poll_interval=30)):
        await eventually(lambda: ended > short + 2, within=30)
        await eventually(lambda: released() > 0)
        table.rows("delete from roost.jobs where state = 'available'")


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list that grows with each turn of the fetch lane's loop."""
    rounds: list[float] = []
    act_at = fetch.FetchLane._act_at

    def counted(lane: fetch.FetchLane, *, now: float) -> float:
        rounds.append(act_at(lane, now=now))
        return rounds[-1]

    monkeypatch.setattr(fetch.FetchLane, "_act_at", counted)
    return rounds


@pytest.mark.parametrize("prefetch", [20, None], ids=["fixed", "adaptive"])
async def test_the_fetch_lane_waits_while_less_than_half_of_the_prefetch_is_free(
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
    rounds: list[float],
    monkeypatch: pytest.MonkeyPatch,
    prefetch: int | None,
) -> None:
    monkeypatch.setattr(prefetch_module, "MAX_PREFETCH_WAIT", 60.0)
    if prefetch is None:
        # As after many short jobs.
        monkeypatch.setattr(PrefetchController, "size", property(lambda _: 20))
    started = 0
    go_on = anyio.Event()

    @job("work", registry=registry)
    async def work(ends: bool) -> None:
        nonlocal started
        started += 1
        if not ends:
            await go_on.wait()

    # Five complete, two run, and 15 wait: room for five, less than half of 20.
    table.add_all([JobInsert("work", {"ends": True})] * 5)
    table.add_all([JobInsert("work", {"ends": False})] * 17)
    async with working(make_worker(concurrency=2, prefetch=prefetch, poll_interval=0.05)):
        await eventually(lambda: table.states() == {"completed": 5, "executing": 17})
        await eventually(lambda: started == 7)
        rounds.clear()
        table.add("work", args={"ends": True})  # wakes the fetch lane
        await anyio.sleep(0.5)  # sleeps: ten times as long as a poll
        assert len(rounds) < 50
        go_on.set()
        await eventually(lambda: table.states() == {"completed": 23})
