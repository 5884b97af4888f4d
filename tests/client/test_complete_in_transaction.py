"""`complete_current_job`: a handler's effects and its job's completion commit together."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import anyio
import psycopg
import pytest
from tests.support.job_table import JobTable

from roost import (
    AsyncRoost,
    HandlerRegistry,
    LeaseLostError,
    NoCurrentJobError,
    NotInTransactionError,
    Roost,
    current_job,
    fixed,
    job,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def effects(table: JobTable) -> None:
    table.script("create table effects (job_id bigint)")


def seen(table: JobTable) -> list[int]:
    return [row[0] for row in table.rows("select job_id from effects")]


INSERT = "insert into effects values (%s)"


async def test_effects_and_completion_are_committed_together(
    client: AsyncRoost, table: JobTable, registry: HandlerRegistry
) -> None:
    states = []

    @job("work", registry=registry)
    async def work() -> str:
        job_id = current_job().id
        async with client.transaction() as conn:
            await conn.execute(INSERT, [job_id])
            await client.complete_current_job(conn, result={"n": 7})
            states.append((seen(table), table.get(job_id).state))
        states.append((seen(table), table.get(job_id).state))
        return "not stored"

    job_id = await client.enqueue(work)
    assert await client.worker().run_once() == 1
    assert states == [([], "executing"), ([job_id], "completed")]
    row = table.get(job_id)
    assert (row.state, row.result, row.attempt, row.errors) == ("completed", {"n": 7}, 1, [])


async def test_a_rollback_undoes_both_and_the_job_is_retried(
    client: AsyncRoost, table: JobTable, registry: HandlerRegistry
) -> None:
    @job("work", registry=registry)
    async def work() -> None:
        async with client.transaction() as conn:
            await conn.execute(INSERT, [current_job().id])
            await client.complete_current_job(conn, result="done")
            if current_job().attempt == 1:
                raise ValueError("after the completion")

    job_id = await client.enqueue(work)
    worker = client.worker(retry_strategy=fixed(0))
    with anyio.fail_after(20):
        while table.get(job_id).state != "completed":
            await worker.run_once()
            if table.get(job_id).attempt == 1:
                assert seen(table) == []
                assert table.get(job_id).state in ("available", "retryable")
                assert table.get(job_id).result is None
    row = table.get(job_id)
    assert (row.attempt, row.result, seen(table)) == (2, "done", [job_id])
    assert "after the completion" in row.errors[0]["error"]


async def test_a_handler_that_survives_its_rollback_is_completed_by_the_worker(
    client: AsyncRoost, table: JobTable, registry: HandlerRegistry
) -> None:
    @job("work", registry=registry)
    async def work() -> str:
        with suppress(ValueError):
            async with client.transaction() as conn:
                await conn.execute(INSERT, [current_job().id])
                await client.complete_current_job(conn, result="rolled back")
                raise ValueError
        return "by the worker"

    job_id = await client.enqueue(work)
    await client.worker().run_once()
    row = table.get(job_id)
    assert (row.state, row.result, seen(table)) == ("completed", "by the worker", [])


async def test_an_error_after_the_commit_changes_nothing(
    client: AsyncRoost, table: JobTable, registry: HandlerRegistry
) -> None:
    @job("work", registry=registry)
    async def work() -> None:
        async with client.transaction() as conn:
            await conn.execute(INSERT, [current_job().id])
            await client.complete_current_job(conn)
        raise ValueError("too late")

    job_id = await client.enqueue(work)
    await client.worker().run_once()
    row = table.get(job_id)
    assert (row.state, row.attempt, row.errors, seen(table)) == ("completed", 1, [], [job_id])


async def test_a_lost_lease_raises_and_nothing_is_committed(
    client: AsyncRoost, table: JobTable, registry: HandlerRegistry
) -> None:
    raised = []

    @job("work", registry=registry)
    async def work() -> None:
        job_id = current_job().id
        # A rescue considered the worker dead, and another worker has the job.
        table.change(job_id, "lease_no = lease_no + 1")
        try:
            async with client.transaction() as conn:
                await conn.execute(INSERT, [job_id])
                await client.complete_current_job(conn)
        except LeaseLostError as error:
            raised.append(error)
            raise

    job_id = await client.enqueue(work)
    with anyio.move_on_after(10):
        await client.worker().run_once()
    assert len(raised) == 1
    assert seen(table) == []
    assert table.get(job_id).state == "executing"


async def test_children_are_released(
    client: AsyncRoost, table: JobTable, registry: HandlerRegistry
) -> None:
    ran = []

    @job("parent", registry=registry)
    async def parent() -> None:
        async with client.transaction() as conn:
            ids.append(await client.enqueue("child", depends_on=[ids[0]], conn=conn))
            await client.complete_current_job(conn)

    @job("child", registry=registry)
    async def child() -> None:
        ran.append(current_job().id)

    ids = [await client.enqueue(parent)]
    ids.append(await client.enqueue(child, depends_on=ids))
    worker = client.worker()
    with anyio.fail_after(20):
        while len(ran) < 2:
            await worker.run_once()
    assert sorted(ran) == ids[1:]
    assert table.states() == {"completed": 3}


async def test_waiters_are_notified(
    client: AsyncRoost, registry: HandlerRegistry, dsn: str
) -> None:
    @job("work", registry=registry)
    async def work() -> None:
        async with client.transaction() as conn:
            await client.complete_current_job(conn, result=7)

    async with anyio.create_task_group() as group:
        worker = client.worker()
        await group.start(worker.run)
        job_id = await client.enqueue(work)
        outcome = await client.wait_for(job_id, timeout=20, poll_interval=30)
        worker.request_stop()
    assert outcome.result == 7


async def test_a_blocking_handler_does_the_same(
    client: AsyncRoost, table: JobTable, registry: HandlerRegistry, dsn: str
) -> None:
    blocking = Roost(dsn, registry=registry)

    @job("work", registry=registry)
    def work() -> None:
        with psycopg.connect(dsn) as conn:
            conn.execute(INSERT, [current_job().id])
            blocking.complete_current_job(conn, result=[1])

    job_id = await client.enqueue(work)
    await client.worker().run_once()
    assert (table.get(job_id).state, table.get(job_id).result) == ("completed", [1])
    assert seen(table) == [job_id]
    blocking.close()


async def test_outside_a_job_it_is_a_typed_error(client: AsyncRoost, dsn: str) -> None:
    async with client.transaction() as conn:
        with pytest.raises(NoCurrentJobError):
            await client.complete_current_job(conn)
    with Roost(dsn) as blocking, psycopg.connect(dsn) as own, pytest.raises(NoCurrentJobError):
        blocking.complete_current_job(own)


async def test_a_connection_that_commits_by_itself_is_refused(
    client: AsyncRoost, table: JobTable, registry: HandlerRegistry, dsn: str
) -> None:
    refused: list[Any] = []

    @job("work", registry=registry)
    def work() -> str:
        with Roost(dsn) as blocking, psycopg.connect(dsn, autocommit=True) as conn:
            try:
                blocking.complete_current_job(conn)
            except NotInTransactionError as error:
                refused.append(error)
        return "by the worker"

    job_id = await client.enqueue(work)
    await client.worker().run_once()
    assert len(refused) == 1
    assert table.get(job_id).result == "by the worker"
