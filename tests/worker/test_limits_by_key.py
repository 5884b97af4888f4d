"""Several workers keep the limits of each key, and start a job as soon as its key has room."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack

import anyio
import pytest
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import AsyncRoost, HandlerRegistry, JobInsert, RetryJob, SnoozeJob, Worker, job

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]
Declare = Callable[..., None]

SOON = 10.0
"""Seconds. It takes milliseconds, and longer on a loaded machine; the poll comes after 30 s."""

MOST_AT_ONCE = """
select max(together)
from (
    select (
        select count(*)
        from runs as other
        where other.tenant = run.tenant
            and other.began <= run.began
            and other.ended > run.began
    ) as together
    from runs as run
) as counted
"""
"""The most runs of one key that overlapped, by the database's clock."""


@pytest.fixture
def declare(runs: JobTable, registry: HandlerRegistry) -> Declare:
    """Return a function that registers the task ``work``; each run of it adds a row to ``runs``."""
    runs.script(
        "create table runs (id bigint generated always as identity primary key, "
        "tenant integer, n integer, began timestamptz default clock_timestamp(), ended timestamptz)"
    )

    async def work(tenant: int, n: int, seconds: float = 0.0, end: str = "") -> None:
        run = runs.value(
            "insert into runs (tenant, n) values ($1::integer, $2::integer) returning id", tenant, n
        )
        try:
            await anyio.sleep(seconds)  # sleeps: as the handler's work
            if end:
                first = runs.value("select count(*) from runs where n = $1::integer", n) == 1
                if first and end == "snoozes":
                    raise SnoozeJob(0.01)
                if first and end == "retries":
                    raise RetryJob(in_=0.01)
                if end == "fails":
                    raise ValueError(end)
        finally:
            runs.rows(
                "update runs set ended = clock_timestamp() where id = $1::bigint returning id", run
            )

    def declare(most: int | None = None, rate: int | None = None) -> None:
        job(
            "work", max_concurrency=most, rate_per_minute=rate, limit_by="tenant", max_attempts=3,
            registry=registry,
        )(work)  # fmt: skip

    return declare


@pytest.fixture
def runs(table: JobTable) -> JobTable:
    """Return a session of the test's database."""
    return table


@pytest.mark.parametrize("most", [1, 2])
async def test_three_workers_never_run_more_of_a_key_at_once(
    runs: JobTable, declare: Declare, make_worker: MakeWorker, most: int
) -> None:
    declare(most=most)
    ends = ["", "", "snoozes", "retries"]
    runs.add_all(
        [
            JobInsert(
                "work",
                {"tenant": n % 5, "n": n, "seconds": 0.002 * (n % 3), "end": ends[n % 4]},
                queue=f"q{n % 2}",
            )
            for n in range(120)
        ]
    )
    queues = [("q0", "q1"), ("q0",), ("q1",)]
    async with AsyncExitStack() as workers:
        for served in queues:
            made = make_worker(queues=served, concurrency=6, poll_interval=30)
            await workers.enter_async_context(working(made))
        await eventually(lambda: runs.states() == {"completed": 120}, within=60)
    assert runs.value(MOST_AT_ONCE) == most
    assert runs.value("select count(distinct worker_id) from roost.jobs") > 1


async def test_three_workers_never_start_more_of_a_key_in_a_minute(
    runs: JobTable, declare: Declare, make_worker: MakeWorker
) -> None:
    declare(rate=4)
    runs.add_all([JobInsert("work", {"tenant": n % 3, "n": n}) for n in range(30)])
    async with AsyncExitStack() as workers:
        for _ in range(3):
            await workers.enter_async_context(working(make_worker(concurrency=4)))
        await eventually(lambda: runs.states() == {"completed": 12, "available": 18})
        await anyio.sleep(0.5)  # sleeps: several claims that find no room
    counts = "select tenant, count(*) from runs group by 1 order by 1"
    assert runs.rows(counts) == [(0, 4), (1, 4), (2, 4)]


async def test_the_jobs_of_a_key_run_one_by_one_in_order(
    runs: JobTable, declare: Declare, make_worker: MakeWorker
) -> None:
    declare(most=1)
    jobs = [JobInsert("work", {"tenant": n % 4, "n": n}, priority=-n % 3) for n in range(60)]
    runs.add_all(jobs)
    async with (
        working(make_worker(concurrency=8, poll_interval=30)),
        working(make_worker(concurrency=8, poll_interval=30)),
    ):
        await eventually(lambda: runs.states() == {"completed": 60}, within=30)
    for tenant in range(4):
        order = sorted(range(tenant, 60, 4), key=lambda n: (-n % 3, n))
        ran = runs.rows("select n from runs where tenant = $1::integer order by began", tenant)
        assert [n for (n,) in ran] == order
    assert runs.value(MOST_AT_ONCE) == 1


async def test_a_backlog_of_one_key_delays_no_other(
    runs: JobTable, declare: Declare, make_worker: MakeWorker
) -> None:
    declare(most=1)
    runs.add_all([JobInsert("work", {"tenant": 0, "n": n, "seconds": 0.05}) for n in range(500)])
    async with working(make_worker(concurrency=4, poll_interval=30)):
        await eventually(lambda: runs.value("select count(*) from runs") > 1)
        runs.add_all([JobInsert("work", {"tenant": n, "n": n}) for n in range(1, 21)])
        others = "select count(*) from runs where tenant > 0"
        await eventually(lambda: runs.value(others) == 20, within=SOON)
        assert runs.value("select count(*) from runs where tenant = 0") < 250


@pytest.mark.parametrize("end", ["completes", "fails", "is cancelled", "snoozes"])
async def test_the_end_of_a_job_starts_the_next_of_its_key_by_another_worker(
    runs: JobTable, declare: Declare, make_worker: MakeWorker, dsn: str, end: str
) -> None:
    declare(most=1)
    async with (
        AsyncRoost(dsn) as roost,
        working(make_worker(queues=("a",), poll_interval=30)),
        working(make_worker(queues=("b",), poll_interval=30)),
    ):
        args = {"tenant": 1, "n": 1, "seconds": 60.0 if end == "is cancelled" else 0.5, "end": end}
        first = await roost.enqueue("work", args=args, queue="a", max_attempts=1)
        await eventually(lambda: runs.get(first).state == "executing")
        second = await roost.enqueue("work", args={"tenant": 1, "n": 2}, queue="b")
        if end == "is cancelled":
            await anyio.sleep(0.2)  # sleeps: until the second worker has claimed in vain
            await roost.cancel(first)
        await eventually(lambda: runs.get(second).state == "completed", within=SOON)
    assert runs.value(MOST_AT_ONCE) == 1


async def test_a_dead_worker_gives_the_room_of_its_keys_back(
    runs: JobTable, declare: Declare, make_worker: MakeWorker
) -> None:
    declare(most=1)
    async with working(make_worker(poll_interval=30, orphan_reaper_interval=0.1)):
        dead = runs.add_worker()
        first = runs.add("work", args={"tenant": 1, "n": 1}, queue="elsewhere")
        runs.change(
            first,
            f"state = 'executing', attempt = 1, lease_no = 1, worker_id = {dead}, "
            "attempted_at = now()",
        )
        second = runs.add("work", args={"tenant": 1, "n": 2})
        await anyio.sleep(0.3)  # sleeps: until the worker has claimed in vain
        assert runs.get(second).state == "available"
        runs.rows("update roost.workers set expires_at = now() where id = $1::bigint", dead)
        await eventually(lambda: runs.get(second).state == "completed", within=SOON)


async def test_a_paused_queue_starts_nothing_until_it_is_resumed(
    runs: JobTable, declare: Declare, make_worker: MakeWorker, dsn: str
) -> None:
    declare(most=1)
    async with (
        AsyncRoost(dsn) as roost,
        working(make_worker(queues=("a", "b"), poll_interval=30)),
    ):
        await roost.pause_queue("a")
        paused = await roost.enqueue("work", args={"tenant": 1, "n": 1}, queue="a")
        other = await roost.enqueue("work", args={"tenant": 1, "n": 2}, queue="b")
        await eventually(lambda: runs.get(other).state == "completed", within=SOON)
        assert runs.get(paused).state == "available"
        await roost.resume_queue("a")
        await eventually(lambda: runs.get(paused).state == "completed", within=SOON)


async def test_run_once_drains_all_keys(
    runs: JobTable, declare: Declare, make_worker: MakeWorker
) -> None:
    declare(most=1)
    runs.add_all([JobInsert("work", {"tenant": n % 9, "n": n}) for n in range(60)])
    assert await make_worker(concurrency=3).run_once() == 60
    assert runs.value(MOST_AT_ONCE) == 1


async def test_a_scheduled_job_of_a_key_starts_when_it_is_due(
    runs: JobTable, declare: Declare, make_worker: MakeWorker
) -> None:
    declare(most=1)
    async with working(make_worker(poll_interval=30)):
        job_id = runs.add("work", args={"tenant": 1, "n": 1})
        await eventually(lambda: runs.get(job_id).state == "completed", within=SOON)
        later = runs.value(
            "select roost.enqueue('work', '{\"tenant\": 1, \"n\": 2}', "
            "scheduled_at => now() + interval '1 second')"
        )
        await eventually(lambda: runs.get(later).state == "completed", within=SOON)
    late = "select attempted_at - scheduled_at < interval '5 seconds' from roost.jobs where id = $1"
    assert runs.value(late + "::bigint", later) is True
