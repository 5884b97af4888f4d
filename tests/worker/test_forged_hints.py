"""Any role that may connect can send notifications. A forged one only makes a worker read."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import AsyncRoost, HandlerRegistry, Worker, job
from roost._ops.claim import Claimed
from roost._worker.claimer import Claimer
from roost._worker.lanes.control import CancelLane

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]
NEVER = 300.0
"""A poll that no test waits for."""
GARBAGE = (
    *("", ":", "1", "1:", ":1", "x:y", "1:2:3", "-1:1", "1e3:1", "null", "[]", "{}", "NaN"),
    *("9" * 30 + ":1", "9" * 5_000, "1:" + "9" * 5_000, "[" * 7_000, "٣:1", "²:1", "1 : 1", "\n"),
    *("[[1],1]", '["1",1]', "[1e999,1]", "[1,[]]", '[1,"x"]', "x" * 7_999),
)
CHANNELS = (
    *("roost_jobs", "roost_cancel", "roost_cron", "roost_limits", "roost_probe"),
    "roost_finished",
)


@pytest.fixture
def gate(registry: HandlerRegistry) -> anyio.Event:
    """Register ``tick``, which does nothing, and ``hold``, and return the event it waits for."""
    gate = anyio.Event()

    @job("hold", registry=registry)
    async def hold() -> None:
        await gate.wait()

    @job("tick", registry=registry)
    async def tick() -> None: ...

    return gate


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the reads of cancel requests."""
    reads: Counter[str] = Counter()
    once = CancelLane.once

    async def counted(lane: CancelLane) -> None:
        await once(lane)
        reads["cancels"] += 1

    monkeypatch.setattr(CancelLane, "once", counted)
    return reads


def send(table: JobTable, channel: str, payload: str) -> None:
    """Send a notification that no client of Roost has sent."""
    table.rows("select pg_notify($1::text, $2::text)", channel, payload)


async def reached(table: JobTable, job_id: int, state: str) -> None:
    """Wait until the job is in ``state``."""
    await eventually(lambda: table.get(job_id).state == state)


async def test_a_forged_cancel_stops_no_running_job(
    table: JobTable, gate: anyio.Event, make_worker: MakeWorker, reads: Counter[str]
) -> None:
    job_id = table.add("hold")
    async with working(make_worker(poll_interval=NEVER)):
        await eventually(lambda: table.states() == {"executing": 1})
        before = reads["cancels"]
        for lease_no in range(4):
            send(table, "roost_cancel", f"{job_id}:{lease_no}")
        await eventually(lambda: reads["cancels"] > before)
        assert table.states() == {"executing": 1}
        gate.set()
        await eventually(lambda: table.states() == {"completed": 1})


async def test_a_forged_cancel_does_not_cancel_a_later_job(
    table: JobTable, client: AsyncRoost, gate: anyio.Event, make_worker: MakeWorker
) -> None:
    gate.set()
    last = table.add("tick")
    async with working(make_worker(poll_interval=NEVER)):
        await eventually(lambda: table.states() == {"completed": 1})
        for ahead in range(1, 30):
            send(table, "roost_cancel", f"{last + ahead}:1")
        ids = [await client.enqueue("hold", queue="default") for _ in range(10)]
        table.add("hold")
        await eventually(lambda: table.states() == {"completed": len(ids) + 2})


async def test_a_flood_of_forged_cancels_causes_few_reads(
    table: JobTable, gate: anyio.Event, make_worker: MakeWorker, reads: Counter[str]
) -> None:
    job_id = table.add("hold")
    async with working(make_worker(poll_interval=NEVER)):
        await eventually(lambda: table.states() == {"executing": 1})
        before = reads["cancels"]
        began = anyio.current_time()
        for _ in range(20):
            table.rows(
                "select pg_notify('roost_cancel', $1::bigint || ':' || n) "
                "from generate_series(1, 500) as n",
                job_id,
            )
            await anyio.lowlevel.checkpoint()
        gate.set()
        await eventually(lambda: table.states() == {"completed": 1})
        # One at the beginning, one at the end, and one each 20 ms.
        assert reads["cancels"] - before <= 2 + (anyio.current_time() - began) / 0.02


async def test_garbage_notifications_are_ignored_without_a_log_line(
    table: JobTable,
    client: AsyncRoost,
    gate: anyio.Event,
    make_worker: MakeWorker,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    held = table.add("hold")
    async with working(make_worker(poll_interval=NEVER)):
        await eventually(lambda: table.get(held).state == "executing")
        await eventually(lambda: table.value("select channel from roost.workers") is not None)
        for channel in (*CHANNELS, table.value("select channel from roost.workers")):
            for payload in GARBAGE:
                send(table, channel, payload)
        send(table, "roost_cancel", f"{held}:x")
        other = await client.enqueue("tick")
        await eventually(lambda: table.get(other).state == "completed")
        assert table.get(held).state == "executing"
        assert await client.cancel(held)
        await eventually(lambda: table.get(held).state == "cancelled")
    assert caplog.messages == []


@pytest.mark.parametrize("enqueue", ["claimed", "dispatched"])
async def test_a_cancel_takes_effect_within_a_tenth_of_a_second(
    table: JobTable,
    client: AsyncRoost,
    gate: anyio.Event,
    make_worker: MakeWorker,
    enqueue: str,
) -> None:
    tooks = []
    async with working(make_worker(poll_interval=NEVER)):
        for _ in range(5):
            await eventually(lambda: table.value("select credit from roost.workers") is not None)
            job_id = table.add("hold") if enqueue == "claimed" else await client.enqueue("hold")
            await reached(table, job_id, "executing")
            cancelled_at = anyio.current_time()
            assert await client.cancel(job_id)
            await reached(table, job_id, "cancelled")
            tooks.append(anyio.current_time() - cancelled_at)
    # The best of five: a loaded machine may delay some.
    assert min(tooks) < 0.1


async def test_a_cancel_announced_before_the_claim_is_answered_takes_effect(
    table: JobTable,
    client: AsyncRoost,
    gate: anyio.Event,
    make_worker: MakeWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = make_worker(poll_interval=NEVER)
    async with working(worker):
        await eventually(lambda: table.value("select credit from roost.workers") is not None)
        assert worker._session is not None
        state = worker._session.state
        claim = Claimer.claim

        async def late(claims: Claimer, limit: int, **options: Any) -> Claimed:
            answer = await claim(claims, limit, **options)
            for claimed in answer.jobs:
                # The claim is committed, and its answer has not arrived.
                assert await client.cancel(claimed.lease.job_id)
                await eventually(lambda: state.cancel_announced)
            return answer

        monkeypatch.setattr(Claimer, "claim", late)
        job_id = table.add("hold")
        await eventually(lambda: table.get(job_id).state == "cancelled")
