"""Verdicts are written soon, even if one of them waits, and before the worker removes its row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import AsyncRoost, HandlerRegistry, JobInsert, Worker, job
from roost._drivers.base import run_sync
from roost._model.encoding import encode_jobs
from roost._model.states import Event
from roost._model.verdict import Lease, Verdict
from roost._ops.enqueue import insert_job
from roost._ops.rescue import rescue_jobs
from roost._ops.settle import settle
from roost._worker.forced_exit import AbandonedWork, hand_back
from roost._worker.lanes import listen
from roost._worker.lanes import settle as settle_lane
from roost._worker.verdicts import PostponedVerdict

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]

SLOW_END = """
    create or replace function roost.cancel_descendants(failed bigint[])
    returns void language plpgsql as 'begin perform pg_sleep(4); end'
"""


class Gated:
    """A handler that waits for a gate; ``runs`` counts its calls."""

    def __init__(self) -> None:
        self.runs = 0
        self.gate = anyio.Event()

    async def __call__(self) -> str:
        self.runs += 1
        await self.gate.wait()
        return "done"


@pytest.fixture
def gated(registry: HandlerRegistry) -> Gated:
    handler = Gated()
    registry.register("gated", handler)
    return handler


@pytest.fixture(autouse=True)
def quick(registry: HandlerRegistry) -> None:
    @job("quick", registry=registry)
    async def quick() -> str:
        return "done"


def add_child(table: JobTable, parent: int, task: str = "work") -> int:
    """Enqueue a job that waits for another one."""
    content = encode_jobs([JobInsert(task, depends_on=[parent])])
    with table.connection.transaction():
        return table.run(insert_job(content, unique_key=None, has_parents=True))


@contextmanager
def locked(dsn: str, job_id: int) -> Iterator[None]:
    """Lock a job's row, as an enqueue of a child does until its transaction ends."""
    with JobTable(dsn) as holder, holder.connection.transaction():
        lock(holder, job_id)
        yield


def lock(holder: JobTable, job_id: int) -> None:
    holder.rows("select id from roost.jobs where id = $1::bigint for share", job_id)


async def test_the_end_of_a_job_with_many_children_delays_no_other_job(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("fail", registry=registry)
    async def fail() -> None:
        raise ValueError

    table.script(SLOW_END)
    later = datetime.now(UTC) + timedelta(hours=1)
    head = table.add("fail", max_attempts=1, scheduled_at=later)
    add_child(table, head)
    async with working(make_worker(poll_interval=0.05)):
        table.change(head, "scheduled_at = now()")
        await eventually(lambda: cascading(table))
        other = table.add("quick")
        await eventually(lambda: table.get(other).state == "completed")
        assert cascading(table)
        await eventually(lambda: table.get(head).state == "discarded")


def cascading(table: JobTable) -> bool:
    """Say whether the worker is in its call of `SLOW_END`."""
    runs: bool = table.value(
        "select exists (select from pg_stat_activity where datname = current_database()"
        " and state = 'active' and pid <> pg_backend_pid()"
        " and query like '%roost.cancel_descendants(%')"
    )
    return runs


def test_a_failure_cancels_the_rest_of_a_chain(table: JobTable) -> None:
    jobs = [table.add(max_attempts=1)]
    for _ in range(50):
        jobs.append(add_child(table, jobs[-1]))
    table.claim(table.add_worker())
    table.rows("delete from roost.workers")
    with table.connection.transaction():
        table.run(rescue_jobs(limit=10, error_cap=20))
    assert table.states() == {"discarded": 1, "cancelled": 50}
    [error] = table.get(jobs[-1]).errors
    assert error["error"] == f"ParentFailed: job {jobs[-2]} was cancelled"
    assert table.value("select count(*) from roost.dependencies") == 0


async def test_a_verdict_whose_row_is_locked_is_retried_at_growing_intervals(
    dsn: str,
    table: JobTable,
    gated: Gated,
    make_worker: MakeWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[int] = []

    def counted(verdicts: Any, **options: Any) -> Any:
        sent.extend(verdict.lease.job_id for verdict in verdicts)
        return settle(verdicts, **options)

    monkeypatch.setattr(settle_lane, "settle", counted)
    job_id = table.add("gated")
    async with working(make_worker()):
        await eventually(lambda: gated.runs == 1)
        with locked(dsn, job_id):
            gated.gate.set()
            await eventually(lambda: job_id in sent)
            await anyio.sleep(4)  # sleeps: it was tried 50 times a second
            other = table.add("quick")
            await eventually(lambda: table.get(other).state == "completed")
            assert sent.count(job_id) < 20
        await eventually(lambda: table.get(job_id).state == "completed")


def test_postponed_verdicts_become_due_together() -> None:
    """A hundred verdicts that wait for one lock are then written by one statement."""
    one, other = (PostponedVerdict(Verdict(Lease(n, 1, 1), Event.COMPLETE)) for n in (1, 2))
    for now in (0.0, 0.02, 0.07, 0.2, 0.4, 1.0, 2.0, 3.0):
        one.postpone(now=now)
        other.postpone(now=now + 0.004)
    assert one.due_at == other.due_at
    assert 0.5 < one.due_at - 3.0 <= 1.0


async def test_a_stop_waits_for_a_lock_until_its_grace_ends(
    dsn: str, table: JobTable, gated: Gated, make_worker: MakeWorker
) -> None:
    job_id = table.add("gated")
    worker = make_worker(shutdown_timeout=60)
    async with anyio.create_task_group() as group:
        await group.start(worker.run)
        await eventually(lambda: gated.runs == 1)
        with locked(dsn, job_id):
            gated.gate.set()
            worker.request_stop()
            await anyio.sleep(3)  # sleeps: it gave up after 1.5 s
            assert table.workers() != []
    done = table.get(job_id)
    assert (done.state, done.result) == ("completed", "done")
    assert table.workers() == []


@pytest.mark.parametrize("how", ["its grace ends", "a second stop is requested"])
async def test_a_job_without_a_written_verdict_keeps_its_lease_at_the_end(
    dsn: str, table: JobTable, gated: Gated, make_worker: MakeWorker, how: str
) -> None:
    job_id = table.add("gated")
    worker = make_worker(shutdown_timeout=0.5 if how == "its grace ends" else 600)
    with JobTable(dsn) as holder, holder.connection.transaction():
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                await group.start(worker.run)
                await eventually(lambda: gated.runs == 1)
                lock(holder, job_id)
                gated.gate.set()
                worker.request_stop()
                if how != "its grace ends":
                    worker.request_stop()
        assert len(table.workers()) == 1
    async with working(make_worker(orphan_reaper_interval=0.05)):
        other = table.add("quick")
        await eventually(lambda: table.get(other).state == "completed")
    assert (table.get(job_id).state, gated.runs) == ("executing", 1)
    # A forced exit can still write it.
    work = worker.abandoned_work()
    assert work is not None
    with table.connection.transaction():
        run_sync(table.connection, hand_back(work))
    assert (table.get(job_id).state, table.workers()) == ("completed", [])


def test_the_final_write_keeps_the_lease_of_a_verdict_that_it_can_not_write(
    dsn: str, table: JobTable
) -> None:
    worker = table.add_worker()
    parent, other, unheard_of = table.add(), table.add(), table.add()
    child = add_child(table, parent)
    [*claimed] = table.claim(worker).jobs
    leases = {one.lease.job_id: one.lease for one in claimed}
    verdicts = [Verdict(leases[number], Event.CANCEL) for number in (parent, other)]
    with locked(dsn, child), table.connection.transaction():
        released = table.run(hand_back(AbandonedWork(worker, verdicts, error_cap=20)))
    assert released == [unheard_of]
    states = [table.get(number).state for number in (parent, other, unheard_of, child)]
    assert states == ["executing", "cancelled", "available", "available"]
    assert table.workers() == [worker]


async def test_maintenance_that_waits_for_a_lock_delays_no_other_lane(
    dsn: str,
    table: JobTable,
    gated: Gated,
    make_worker: MakeWorker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(listen, "PROBE_INTERVAL", 0.5)
    worker = make_worker(
        archive_after_seconds=0,
        archive_interval=0.05,
        orphan_reaper_interval=0.1,
        poll_interval=60,
        heartbeat_interval=60,
        orphan_stale_after=300,
    )
    running = table.add("gated")
    with JobTable(dsn) as holder, holder.connection.transaction():
        holder.rows("lock table roost.jobs_archive in share mode")  # as `create index` does
        async with working(worker), AsyncRoost(dsn) as roost:
            await eventually(lambda: gated.runs == 1)
            for _ in range(3):
                orphan = table.add("unknown")
                table.change(orphan, "state = 'executing', attempt = 1, worker_id = 0")
                await reaches(table, orphan, "retryable")
                await reaches(table, table.add("quick"), "completed")
            await anyio.sleep(2)  # sleeps: several probes
            await roost.cancel(running)
            await reaches(table, running, "cancelled")
    assert "notifications don't arrive" not in caplog.text
    assert "not listening" not in caplog.text


async def reaches(table: JobTable, job_id: int, state: str) -> None:
    """Wait until the job is in ``state``, within half a poll interval."""
    await eventually(lambda: table.get(job_id).state == state, within=15)
