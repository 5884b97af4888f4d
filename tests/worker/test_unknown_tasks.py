"""A worker publishes its tasks, and warns of due jobs whose task no worker knows."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from itertools import pairwise

import anyio
import pytest
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import AsyncRoost, HandlerRegistry, Worker, fixed, job
from roost._worker.lanes import maintenance

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]


@pytest.fixture(autouse=True)
def known(registry: HandlerRegistry) -> None:
    """Register one task that completes and one that fails."""

    @job("work", registry=registry)
    async def work() -> None:
        pass

    @job("fail", registry=registry)
    async def fail() -> None:
        raise ValueError("no luck")


@pytest.mark.parametrize("way", ["run", "run_once"])
async def test_due_jobs_of_unknown_tasks_are_logged_with_their_count(
    table: JobTable, make_worker: MakeWorker, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    for _ in range(3):
        table.add("gone")
    if way == "run_once":
        await make_worker().run_once()
    else:
        async with working(make_worker()):
            pass
    [logged] = [record for record in caplog.records if record.name == "roost.worker.unknown_tasks"]
    assert logged.levelname == "WARNING"
    assert logged.message.startswith(
        "no living worker knows the task gone: 3 due jobs of it wait in queue default, the oldest "
    )
    assert (logged.__dict__["task"], logged.__dict__["jobs"]) == ("gone", 3)


async def test_the_warning_comes_once_a_minute(
    table: JobTable,
    make_worker: MakeWorker,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reads = 0
    once = maintenance.UnknownTasksLane.once

    async def counted(self: maintenance.UnknownTasksLane) -> None:
        nonlocal reads
        await once(self)
        reads += 1

    monkeypatch.setattr(maintenance, "UNKNOWN_TASKS_INTERVAL", 0.01)
    monkeypatch.setattr(maintenance.UnknownTasksLane, "once", counted)
    table.add("gone")
    async with working(make_worker()):
        await eventually(lambda: reads >= 5)
        monkeypatch.setattr(maintenance, "WARN_INTERVAL", 0.0)
        before = caplog.text.count("no living worker knows the task gone")
        await eventually(lambda: caplog.text.count("no living worker knows the task gone") > 1)
    assert before == 1


async def test_the_tasks_of_a_worker_are_published(
    table: JobTable,
    make_worker: MakeWorker,
    dsn: str,
    anyio_backend_name: str,
) -> None:
    async with AsyncRoost(dsn) as client, working(make_worker()):
        [info] = await client.list_workers()
        assert info.tasks == ["fail", "work"]
        assert info.driver == "psycopg"
        assert info.event_loop in ("asyncio", "uvloop", "trio")
        assert (info.event_loop == "trio") == (anyio_backend_name == "trio")
        # Also by the next incarnation after the worker has lost its row.
        table.rows("delete from roost.workers")
        async with working(make_worker(heartbeat_interval=0.1)):
            table.rows("delete from roost.workers")
            await eventually(
                lambda: table.rows("select known_tasks from roost.workers") == [(["fail", "work"],)]
            )


async def test_an_error_record_says_when_and_where_the_attempt_ran(
    table: JobTable, make_worker: MakeWorker, dsn: str
) -> None:
    job_id = table.add("fail")
    async with AsyncRoost(dsn) as client, working(make_worker(retry_strategy=fixed(1000))):
        [info] = await client.list_workers()
        await eventually(lambda: table.get(job_id).state == "retryable")
    row = table.get(job_id)
    [record] = row.errors
    assert (record["worker_id"], record["worker"]) == (info.id, info.name)
    assert row.attempted_at is not None
    assert record["started_at"][:19] == row.attempted_at.isoformat()[:19]
    assert record["started_at"] <= record["at"]


async def test_an_error_record_says_when_a_prefetched_job_started(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("slow", registry=registry)
    async def slow() -> None:
        await anyio.sleep(0.3)  # sleeps: the next job waits for the slot meanwhile
        raise ValueError("no")

    ids = [table.add("slow") for _ in range(4)]
    async with working(make_worker(concurrency=1, prefetch=3, retry_strategy=fixed(1000))):
        await eventually(lambda: all(table.get(one).state == "retryable" for one in ids))
    assert len({table.get(one).attempted_at for one in ids}) < len(ids)  # some were prefetched
    times = [
        (datetime.fromisoformat(record["started_at"]), datetime.fromisoformat(record["at"]))
        for one in ids
        for record in table.get(one).errors
    ]
    assert all(started <= ended for started, ended in times)
    # One slot: each has started when the one before had ended.
    between = [(b - a).total_seconds() for (a, _), (b, _) in pairwise(times)]
    assert min(between) > 0.25, between


async def test_the_error_of_a_rescued_job_names_its_dead_worker(
    table: JobTable, make_worker: MakeWorker
) -> None:
    dead = table.add_worker("web-1:4711")
    job_id = table.add("work", max_attempts=1)
    table.claim(dead)
    table.rows("update roost.workers set expires_at = now() - interval '1 s'")
    async with working(make_worker()):
        await eventually(lambda: table.get(job_id).state == "discarded")
    row = table.get(job_id)
    [record] = row.errors
    assert (record["worker_id"], record["worker"]) == (dead, "web-1:4711")
    assert record["error"].startswith(f"WorkerCrash: worker {dead} ")
