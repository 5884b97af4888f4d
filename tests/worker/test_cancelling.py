"""A worker that is cancelled at any instant leaves no executing job and no connection."""

from __future__ import annotations

import random
from collections.abc import Callable

import anyio
import pytest
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable

from roost import HandlerRegistry, JobInsert, Worker, job

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]

ROUNDS = 60


async def test_a_cancel_at_any_instant_loses_nothing(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    runs: dict[int, int] = {}

    @job("async", registry=registry)
    async def asynchronous(n: int) -> None:
        await anyio.sleep(0.002)
        runs[n] = runs.get(n, 0) + 1

    @job("sync", registry=registry)
    def sync(n: int) -> None:
        runs[n] = runs.get(n, 0) + 1

    dice = random.Random(7)
    added = 0
    for _ in range(ROUNDS):
        batch = [
            JobInsert(dice.choice(["async", "sync"]), args={"n": n})
            for n in range(added, added + 10)
        ]
        table.add_all(batch)
        added += 10
        # Up to twice the time that a start takes.
        with anyio.move_on_after(dice.uniform(0, 0.12)):
            worker = make_worker(concurrency=3, shutdown_timeout=dice.choice([0, 0.001, 0.01]))
            await (worker.run() if dice.random() < 0.7 else worker.run_once())
        assert table.states().get("executing", 0) == 0
        await eventually(lambda: table.connections("roost worker %") == 0)
        await eventually(lambda: table.connections("roost listen %") == 0)
    await make_worker(concurrency=20).run_once()
    assert table.states() == {"completed": added}
    # A completed run is never repeated.
    assert runs == dict.fromkeys(range(added), 1)
    assert table.value("select count(*) from roost.jobs where attempt <> 1") == 0
    assert table.value("select count(*) from roost.jobs where errors is not null") == 0


async def test_two_workers_of_which_one_keeps_being_cancelled_run_each_job_once(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    runs: dict[int, int] = {}

    @job("work", registry=registry)
    async def work(n: int) -> None:
        await anyio.sleep(0.001)
        runs[n] = runs.get(n, 0) + 1

    dice = random.Random(11)
    table.add_all([JobInsert("work", args={"n": n}) for n in range(2_000)])
    async with anyio.create_task_group() as group:
        steady = make_worker(concurrency=2)
        group.start_soon(steady.run)
        while table.states() != {"completed": 2_000}:
            with anyio.move_on_after(dice.uniform(0.02, 0.1)):
                await make_worker(concurrency=5, shutdown_timeout=0).run()
        steady.request_stop()
    assert runs == dict.fromkeys(range(2_000), 1)
    assert table.value("select count(*) from roost.jobs where attempt <> 1") == 0
