"""Measure on a queue of its own, whose jobs are removed afterwards, also after a cancel."""

from __future__ import annotations

import os
import platform
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import anyio
import attrs

from roost import AsyncRoost, HandlerRegistry, JobInsert, JobTimeoutError, Worker, job
from roost._drivers.base import AsyncPool, run
from roost._drivers.factory import driver_for
from roost._drivers.shield import shielded
from roost._model.durations import duration
from roost._model.version import roost_version
from roost._ops import bench, control, doctor
from roost._ops.query import Op, T

PREFIX = "roost-bench-"
LEFTOVER_AGE = 1_200.0
"""Seconds after which a job is left over: a measurement takes half of that at most."""
"""How the names of the queues begin."""
TASK, LATENCY_TASK = "roost.bench", "roost.bench.latency"
BATCH = 1_000
"""Jobs of one bulk enqueue."""
MOST_JOBS = 100_000
"""Jobs that are enqueued at most."""
PAUSE = 0.02
"""Seconds between two jobs whose start is awaited: the worker is idle in between."""
START_TIMEOUT = 5.0
"""Seconds to wait for a job's start."""
CLEANUP_TIMEOUT = 30.0
"""Seconds to remove the jobs, also after a cancel."""
SHARES = {"enqueue": 0.2, "bulk": 0.15, "drain": 0.4, "latency": 0.25}
"""The part of the time that each measurement gets at most."""

Report = Callable[[str], None]
Clear = Callable[[], Awaitable[None]]


@attrs.frozen(kw_only=True)
class Plan:
    """What to measure, and for about how many seconds altogether."""

    dsn: str
    driver: str | None
    backend: str
    concurrency: int
    seconds: float


@attrs.frozen(kw_only=True)
class Rate:
    """Jobs in a time."""

    jobs: int
    seconds: float
    jobs_per_second: float


@attrs.frozen(kw_only=True)
class Latency:
    """Seconds from the call of enqueue to the start of the handler, of jobs one after the other."""

    jobs: int
    p50_seconds: float
    p95_seconds: float
    p99_seconds: float


@attrs.frozen(kw_only=True)
class Surroundings:
    """What the figures depend on, as the database and the machine say."""

    postgres: str
    synchronous_commit: str | None
    fsync: str | None
    round_trip_seconds: float
    roost: str
    python: str
    cores: int
    backend: str
    driver: str
    concurrency: int


@attrs.frozen(kw_only=True)
class Figures:
    """The figures of one run."""

    surroundings: Surroundings
    enqueue: Rate
    bulk_enqueue: Rate
    drain: Rate
    latency: Latency


async def measure(plan: Plan, report: Report) -> Figures:
    """Measure one thing after the other, and remove the jobs.

    A cancel ends the measurement; the jobs are removed then, too.

    :param report: called with a line as soon as something is measured.
    :raises DatabaseError: the database can't be used, or the role lacks a right.
    :raises JobTimeoutError: a job did not start.
    """
    driver = driver_for(plan.dsn, plan.driver)
    pool = driver.pool(max_size=1, application_name="roost bench")
    queue = PREFIX + secrets.token_hex(4)
    try:
        around = await _look_around(pool, plan, driver.name)
        _report_surroundings(report, around)
        async with AsyncRoost(plan.dsn, registry=HandlerRegistry(), driver=plan.driver) as client:
            await _remove_leftovers(client, now=await _ask(pool, control.database_time()))
            async with _removed_afterwards(pool, queue) as clear:
                return await _Measurement(plan, client, queue, report, clear).run(around)
    finally:
        with shielded(CLEANUP_TIMEOUT):
            await pool.aclose()


async def _ask(pool: AsyncPool, operation: Op[T]) -> T:
    async with pool.acquire() as connection:
        return await run(connection, operation)


async def _look_around(pool: AsyncPool, plan: Plan, driver: str) -> Surroundings:
    connection = await _ask(pool, doctor.read_connection(None, time.time))
    server = await _ask(pool, doctor.read_server())
    settings = await _ask(pool, doctor.read_settings())
    return Surroundings(
        postgres=server.version,
        synchronous_commit=settings.get("synchronous_commit"),
        fsync=settings.get("fsync"),
        round_trip_seconds=connection.round_trip,
        roost=roost_version(),
        python=platform.python_version(),
        cores=os.cpu_count() or 1,
        backend=plan.backend,
        driver=driver,
        concurrency=plan.concurrency,
    )


@asynccontextmanager
async def _removed_afterwards(pool: AsyncPool, queue: str) -> AsyncIterator[Clear]:
    """Remove the queue's jobs, and what its worker has published, at the end of the block.

    Yields a function that removes the jobs before.
    """
    newest = await _ask(pool, bench.newest_id())

    async def clear() -> None:
        await _ask(pool, bench.remove_jobs(queue, above=newest))

    try:
        yield clear
    finally:
        with shielded(CLEANUP_TIMEOUT):
            await _ask(pool, bench.remove_workers(queue))
            await clear()
            await _ask(pool, bench.remove_rollups(queue))
            await _ask(pool, bench.remove_tasks([TASK, LATENCY_TASK]))


async def _remove_leftovers(client: AsyncRoost, *, now: datetime) -> None:
    """Remove the jobs of measurements that were killed.

    Another one may run now, with jobs that no worker serves yet.
    """
    before = now - timedelta(seconds=LEFTOVER_AGE)
    for queue in await client.list_queues():
        if queue.name.startswith(PREFIX):
            await client.delete_jobs(queues=[queue.name], inserted_before=before)


class _Measurement:
    def __init__(
        self, plan: Plan, client: AsyncRoost, queue: str, report: Report, clear: Clear
    ) -> None:
        self._clear = clear
        self._plan = plan
        self._client = client
        self._queue = queue
        self._report = report
        self._ended = 0
        self._started_at: dict[int, float] = {}
        self._started = anyio.Event()
        self._registry = HandlerRegistry()
        job(TASK, registry=self._registry)(self._handle)
        job(LATENCY_TASK, registry=self._registry)(self._handle_timed)

    async def _handle(self) -> None:
        self._ended += 1

    async def _handle_timed(self, number: int) -> None:
        self._started_at[number] = anyio.current_time()
        self._started.set()

    def _worker(self) -> Worker:
        return Worker(
            self._plan.dsn,
            queues=[self._queue],
            concurrency=self._plan.concurrency,
            registry=self._registry,
            driver=self._plan.driver,
            run_cron=False,
        )

    def _seconds(self, name: str) -> float:
        return SHARES[name] * self._plan.seconds

    async def run(self, around: Surroundings) -> Figures:
        enqueued = await self._enqueue_one_by_one()
        self._report_rate("enqueue, one by one", enqueued)
        bulk = await self._enqueue_in_bulk()
        self._report_rate(f"enqueue, {BATCH:,} at once", bulk)
        drained = await self._drain()
        self._report_rate(f"run, {self._plan.concurrency} at once", drained)
        latency = await self._time_starts()
        self._report(
            f"from enqueue to start: p50 {duration(latency.p50_seconds)}, "
            f"p95 {duration(latency.p95_seconds)}, p99 {duration(latency.p99_seconds)} "
            f"({latency.jobs} jobs)"
        )
        return Figures(
            surroundings=around,
            enqueue=enqueued,
            bulk_enqueue=bulk,
            drain=drained,
            latency=latency,
        )

    def _report_rate(self, what: str, rate: Rate) -> None:
        self._report(
            f"{what + ':':24} {rate.jobs_per_second:>9,.0f} jobs/s "
            f"({rate.jobs:,} jobs in {rate.seconds:.1f} s)"
        )

    async def _enqueue_one_by_one(self) -> Rate:
        began = anyio.current_time()
        end = began + self._seconds("enqueue")
        jobs = 0
        while anyio.current_time() < end and jobs < MOST_JOBS:
            await self._client.enqueue(TASK, queue=self._queue)
            jobs += 1
        return _rate(jobs, began)

    async def _enqueue_in_bulk(self) -> Rate:
        batch = [JobInsert(TASK, queue=self._queue)] * BATCH
        began = anyio.current_time()
        end = began + self._seconds("bulk")
        jobs = 0
        while not jobs or (anyio.current_time() < end and jobs < MOST_JOBS):
            await self._client.enqueue_many(batch)
            jobs += BATCH
        return _rate(jobs, began)

    async def _drain(self) -> Rate:
        worker = self._worker()
        began = anyio.current_time()
        async with anyio.create_task_group() as group:

            async def drain() -> None:
                await worker.run_once()
                group.cancel_scope.cancel()

            group.start_soon(drain)
            await anyio.sleep(self._seconds("drain"))
            worker.request_stop()  # not a cancel: what has started is finished and counted
            await anyio.sleep_forever()
        return _rate(self._ended, began)

    async def _time_starts(self) -> Latency:
        """Start a worker that is idle, and enqueue jobs one by one."""
        await self._clear()  # what the drain had no time for
        waits: list[float] = []
        async with anyio.create_task_group() as group:
            worker = self._worker()
            await group.start(worker.run)
            end = anyio.current_time() + self._seconds("latency")
            while not waits or anyio.current_time() < end:
                await anyio.sleep(PAUSE)
                waits.append(await self._time_start(len(waits)))
            worker.request_stop()
        waits.sort()
        return Latency(
            jobs=len(waits),
            p50_seconds=_quantile(waits, 0.5),
            p95_seconds=_quantile(waits, 0.95),
            p99_seconds=_quantile(waits, 0.99),
        )

    async def _time_start(self, number: int) -> float:
        self._started = anyio.Event()
        began = anyio.current_time()
        await self._client.enqueue(LATENCY_TASK, args={"number": number}, queue=self._queue)
        with anyio.move_on_after(START_TIMEOUT):
            await self._started.wait()
            return self._started_at[number] - began
        raise JobTimeoutError(f"a job did not start within {START_TIMEOUT:g} s: see `roost doctor`")


def _rate(jobs: int, began: float) -> Rate:
    seconds = anyio.current_time() - began
    return Rate(jobs=jobs, seconds=seconds, jobs_per_second=jobs / seconds)


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def _report_surroundings(report: Report, around: Surroundings) -> None:
    report(
        f"Postgres {around.postgres}, synchronous_commit {around.synchronous_commit}, "
        f"fsync {around.fsync}, round trip {duration(around.round_trip_seconds)}"
    )
    report(
        f"Roost {around.roost}, Python {around.python}, {around.backend}, {around.driver}, "
        f"{around.cores} cores"
    )
