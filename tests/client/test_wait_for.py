"""`wait_for` returns at once, on one shared connection, and survives failures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import anyio.to_thread
import pytest
from tests.support.conformance.cases import eventually, until
from tests.support.job_table import JobTable

from roost import (
    AsyncRoost,
    DatabaseUnavailableError,
    HandlerRegistry,
    InvalidSettingError,
    JobFailed,
    JobNotFoundError,
    JobOutcome,
    JobTimeoutError,
    Roost,
    job,
)

pytestmark = pytest.mark.anyio

SOON = 5.0
"""Seconds within which a notification must be effective; polls are SELDOM seconds apart."""
SELDOM = 60.0

LISTENING = """
select pid from pg_stat_activity
where datname = current_database() and application_name = 'roost wait'
    and state = 'idle' and query ilike 'listen%'
"""

PIDS = """
select pid from pg_stat_activity
where datname = current_database() and application_name = 'roost wait'
"""
TERMINATE = f"select count(pg_terminate_backend(pid, 5000)) from ({PIDS}) as waiting"
END = "update roost.jobs set state = 'completed', completed_at = now(), result = '7' where id = "


def end(table: JobTable, job_id: int) -> None:
    """End a job without a worker, as the last statement of an attempt does."""
    table.script(f"begin; {END}{job_id}; select pg_notify('roost_finished', '{job_id}'); commit")


def awaited(table: JobTable, *ids: int) -> Callable[[], bool]:
    """Return whether a notification has been requested for each of the jobs."""
    return lambda: all(table.column(job_id, "awaited") for job_id in ids)


class Waits:
    """Running calls of `wait_for`, and their results."""

    def __init__(self, client: AsyncRoost, group: Any) -> None:
        self.client = client
        self.group = group
        self.outcomes: dict[int, JobOutcome] = {}
        self.scopes: dict[int, anyio.CancelScope] = {}

    def start(self, *ids: int) -> None:
        for job_id in ids:
            self.group.start_soon(self._wait, job_id)

    async def _wait(self, job_id: int) -> None:
        with anyio.CancelScope() as self.scopes[job_id]:
            self.outcomes[job_id] = await self.client.wait_for(
                job_id, timeout=None, poll_interval=SELDOM
            )


async def test_a_result_is_returned_at_once(
    client: AsyncRoost, table: JobTable, registry: HandlerRegistry
) -> None:
    ended: list[float] = []
    begin = anyio.Event()

    @job("work", registry=registry)
    async def work() -> dict[str, int]:
        await begin.wait()
        ended.append(anyio.current_time())
        return {"n": 7}

    late = []
    async with anyio.create_task_group() as group:
        worker = client.worker()
        await group.start(worker.run)
        for _ in range(5):
            begin = anyio.Event()
            job_id = await client.enqueue(work)
            waits = Waits(client, group)
            waits.start(job_id)
            await eventually(awaited(table, job_id))
            begin.set()
            with anyio.fail_after(SOON):
                while job_id not in waits.outcomes:
                    await anyio.sleep(0.002)
            late.append(anyio.current_time() - ended[-1])
            assert waits.outcomes[job_id] == JobOutcome(job_id, "completed", {"n": 7}, [])
        worker.request_stop()
    # The best of five: other processes of the machine may delay some.
    assert min(late) < 0.1


async def test_two_hundred_waiters_share_one_listening_connection(
    client: AsyncRoost, table: JobTable
) -> None:
    ids = [table.add() for _ in range(200)]
    async with anyio.create_task_group() as group:
        waits = Waits(client, group)
        waits.start(*ids)
        await eventually(awaited(table, *ids))
        assert table.connections("roost wait") == 1
        assert table.connections("roost") <= 10
        # The one that listens for all is among those that end early.
        for job_id in (*ids[:3], *ids[-3:]):
            end(table, job_id)
        await eventually(lambda: len(waits.outcomes) == 6)
        table.script(
            "begin; update roost.jobs set state = 'completed', completed_at = now(); "
            "select pg_notify('roost_finished', id::text) from roost.jobs; commit"
        )
        with anyio.fail_after(SOON):
            while len(waits.outcomes) < 200:
                await anyio.sleep(0.005)
    await eventually(lambda: table.connections("roost wait") == 0)


async def test_a_job_that_has_ended_is_answered_at_once(
    client: AsyncRoost, table: JobTable
) -> None:
    job_id = table.add()
    end(table, job_id)
    with anyio.fail_after(SOON):
        assert (await client.wait_for(job_id, timeout=0.5, poll_interval=SELDOM)).result == 7


async def test_an_archived_job_is_answered(client: AsyncRoost, table: JobTable) -> None:
    job_id = table.add()
    end(table, job_id)
    columns = {row[0] for row in table.rows(COLUMNS, "jobs_archive")}
    names = ", ".join(row[0] for row in table.rows(COLUMNS, "jobs") if row[0] in columns)
    table.script(
        f"insert into roost.jobs_archive ({names}) select {names} from roost.jobs; "
        "delete from roost.jobs"
    )
    assert (await client.wait_for(job_id)).result == 7


COLUMNS = """
select column_name::text from information_schema.columns
where table_schema = 'roost' and table_name = $1::text
"""


async def test_an_unknown_job_is_a_typed_error(client: AsyncRoost, table: JobTable) -> None:
    with pytest.raises(JobNotFoundError, match="987654"):
        await client.wait_for(987654)
    await eventually(lambda: table.connections("roost wait") == 0)


async def test_a_failed_job_raises_with_its_error(
    client: AsyncRoost, table: JobTable, registry: HandlerRegistry
) -> None:
    @job("fail", max_attempts=1, registry=registry)
    async def fail() -> None:
        raise ValueError("no luck")

    job_id = await client.enqueue(fail)
    await client.worker().run_once()
    with pytest.raises(JobFailed, match="no luck") as caught:
        await client.wait_for(job_id)
    assert (caught.value.job_id, caught.value.state) == (job_id, "discarded")
    outcome = await client.wait_for(job_id, raise_on_failure=False)
    assert (outcome.state, len(outcome.errors)) == ("discarded", 1)
    other = await client.enqueue("work")
    await client.cancel(other)
    with pytest.raises(JobFailed, match="cancelled"):
        await client.wait_for(other)


async def test_a_waiter_is_notified_of_a_cancel(client: AsyncRoost, table: JobTable) -> None:
    job_id = table.add()
    async with anyio.create_task_group() as group:
        group.start_soon(cancel_when_awaited, client, table, job_id)
        with anyio.fail_after(SOON):
            outcome = await client.wait_for(
                job_id, timeout=None, poll_interval=SELDOM, raise_on_failure=False
            )
    assert outcome.state == "cancelled"


async def cancel_when_awaited(client: AsyncRoost, table: JobTable, job_id: int) -> None:
    await eventually(awaited(table, job_id))
    await client.cancel(job_id)


async def test_it_gives_up_after_its_timeout(client: AsyncRoost, table: JobTable) -> None:
    job_id = table.add()
    began = anyio.current_time()
    with pytest.raises(JobTimeoutError, match=f"job {job_id} has not ended within 0.2 s"):
        await client.wait_for(job_id, timeout=0.2, poll_interval=SELDOM)
    # uvloop's clock has whole milliseconds.
    assert 0.198 < anyio.current_time() - began < SOON
    await eventually(lambda: table.connections("roost wait") == 0)
    assert table.get(job_id).state == "available"


@pytest.mark.parametrize(
    "wrong",
    [{"timeout": -1}, {"timeout": float("nan")}, {"poll_interval": 0}, {"poll_interval": -1}],
)
async def test_seconds_out_of_range_are_refused(client: AsyncRoost, dsn: str, wrong: Any) -> None:
    with pytest.raises(InvalidSettingError):
        await client.wait_for(1, **wrong)
    with Roost(dsn) as blocking, pytest.raises(InvalidSettingError):
        blocking.wait_for(1, **wrong)


async def test_another_waiter_listens_when_the_listening_one_is_cancelled(
    client: AsyncRoost, table: JobTable
) -> None:
    ids = [table.add() for _ in range(4)]
    async with anyio.create_task_group() as group:
        waits = Waits(client, group)
        waits.start(*ids)
        await eventually(awaited(table, *ids))
        await eventually(lambda: len(table.rows(LISTENING)) == 1)
        await anyio.wait_all_tasks_blocked()
        [listening] = table.rows(PIDS)
        for job_id in ids[:3]:
            waits.scopes[job_id].cancel()
            await anyio.wait_all_tasks_blocked()
        assert table.rows(PIDS) == [listening]
        end(table, ids[3])
        with anyio.fail_after(SOON):
            while ids[3] not in waits.outcomes:
                await anyio.sleep(0.002)
    assert list(waits.outcomes) == ids[3:]


async def test_a_cancelled_waiter_leaves_no_connection(client: AsyncRoost, table: JobTable) -> None:
    job_id = table.add()
    for milliseconds in range(0, 30, 3):
        with anyio.move_on_after(milliseconds / 1_000):
            await client.wait_for(job_id, timeout=None)
    await eventually(lambda: table.connections("roost wait") == 0)
    await eventually(lambda: table.connections("roost") <= 10)
    end(table, job_id)
    assert (await client.wait_for(job_id)).result == 7


async def test_a_lost_notification_costs_a_poll_interval(
    client: AsyncRoost, table: JobTable
) -> None:
    job_id = table.add()

    async def end_silently() -> None:
        await eventually(awaited(table, job_id))
        table.script(f"{END}{job_id}")

    async with anyio.create_task_group() as group:
        group.start_soon(end_silently)
        with anyio.fail_after(SOON):
            assert (await client.wait_for(job_id, timeout=None, poll_interval=0.1)).result == 7


async def test_the_listening_connection_may_be_killed(client: AsyncRoost, table: JobTable) -> None:
    ids = [table.add() for _ in range(3)]
    outcomes: list[JobOutcome] = []

    async def wait(job_id: int) -> None:
        outcomes.append(await client.wait_for(job_id, timeout=None, poll_interval=0.2))

    async with anyio.create_task_group() as group:
        for job_id in ids:
            group.start_soon(wait, job_id)
        await eventually(awaited(table, *ids))
        await eventually(lambda: len(table.rows(LISTENING)) == 1)
        await anyio.wait_all_tasks_blocked()
        [listening] = table.rows(PIDS)
        assert table.value(TERMINATE) == 1
        await eventually(lambda: len(table.rows(PIDS)) == 1 and table.rows(PIDS) != [listening])
        for job_id in ids:
            end(table, job_id)
        with anyio.fail_after(SOON):
            while len(outcomes) < 3:
                await anyio.sleep(0.005)


async def test_a_wait_survives_a_restart_of_the_server(restartable_server: Any) -> None:
    outcomes: list[JobOutcome] = []
    async with AsyncRoost(restartable_server.dsn) as client:
        job_id = await client.enqueue("work")

        async def wait() -> None:
            outcomes.append(await client.wait_for(job_id, timeout=60, poll_interval=0.1))

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            with JobTable(restartable_server.dsn) as table:
                await eventually(awaited(table, job_id))
            await anyio.to_thread.run_sync(restartable_server.restart, "immediate")
            assert outcomes == []
            with JobTable(restartable_server.dsn) as table:
                end(table, job_id)
        assert outcomes[0].result == 7


# The blocking client.


@pytest.fixture
def blocking(dsn: str) -> Iterator[Roost]:
    with Roost(dsn) as blocking:
        yield blocking


def test_a_thread_gets_its_result_at_once(blocking: Roost, table: JobTable) -> None:
    late = []
    for _ in range(5):
        job_id = table.add()
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(blocking.wait_for, job_id, timeout=60, poll_interval=SELDOM)
            until(awaited(table, job_id))
            end(table, job_id)
            ended = time.monotonic()
            assert waiting.result(timeout=SOON).result == 7
            late.append(time.monotonic() - ended)
    assert min(late) < 0.1


def test_forty_threads_share_one_listening_connection(blocking: Roost, table: JobTable) -> None:
    ids = [table.add() for _ in range(40)]
    with ThreadPoolExecutor(40) as threads:
        waiting = [
            threads.submit(blocking.wait_for, job_id, timeout=60, poll_interval=SELDOM)
            for job_id in ids
        ]
        until(awaited(table, *ids))
        assert table.connections("roost wait") == 1
        assert table.connections("roost") <= 10
        for job_id in ids:
            end(table, job_id)
        began = time.monotonic()
        assert [each.result(timeout=20).id for each in waiting] == ids
        assert time.monotonic() - began < SOON
    until(lambda: table.connections("roost wait") == 0)


def test_a_thread_gets_timeouts_failures_and_unknown_jobs(blocking: Roost, table: JobTable) -> None:
    job_id = table.add()
    with pytest.raises(JobTimeoutError):
        blocking.wait_for(job_id, timeout=0.1, poll_interval=SELDOM)
    with pytest.raises(JobTimeoutError):
        blocking.wait_for(job_id, timeout=0)
    blocking.cancel(job_id)
    with pytest.raises(JobFailed):
        blocking.wait_for(job_id)
    assert blocking.wait_for(job_id, raise_on_failure=False).state == "cancelled"
    with pytest.raises(JobNotFoundError):
        blocking.wait_for(987654)
    until(lambda: table.connections("roost wait") == 0)


def test_a_thread_does_not_report_a_query_that_its_own_timeout_ends(
    blocking: Roost, caplog: pytest.LogCaptureFixture
) -> None:
    answers = [None, DatabaseUnavailableError("did not answer within 0.05 s")]

    def query(left: float) -> None:
        answer = answers.pop(0)
        if answer is not None:
            time.sleep(left)  # sleeps: as the database that answers later
            raise answer

    deadline = time.monotonic() + 0.2
    assert blocking._waiting.wait(1, query, deadline=deadline, poll_interval=0.1) is None
    assert not answers
    assert caplog.messages == []


def test_a_thread_survives_a_killed_connection(blocking: Roost, table: JobTable) -> None:
    job_id = table.add()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(blocking.wait_for, job_id, timeout=60, poll_interval=0.2)
        until(lambda: len(table.rows(PIDS)) == 1)
        [listening] = table.rows(PIDS)
        table.value(TERMINATE)
        until(lambda: len(table.rows(PIDS)) == 1 and table.rows(PIDS) != [listening])
        end(table, job_id)
        assert waiting.result(timeout=SOON).result == 7


def test_a_thread_survives_a_restart_of_the_server(restartable_server: Any) -> None:
    with Roost(restartable_server.dsn) as blocking, ThreadPoolExecutor(1) as threads:
        job_id = blocking.enqueue("work")
        waiting = threads.submit(blocking.wait_for, job_id, timeout=60, poll_interval=0.1)
        with JobTable(restartable_server.dsn) as table:
            until(awaited(table, job_id))
        restartable_server.restart("immediate")
        assert not waiting.done()
        with JobTable(restartable_server.dsn) as table:
            end(table, job_id)
        assert waiting.result(timeout=20).result == 7
