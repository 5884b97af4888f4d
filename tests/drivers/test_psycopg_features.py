"""psycopg's features, which use ``lock`` and ``wait``, work on every event loop."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import anyio
import psycopg
import pytest
from psycopg.rows import dict_row

from roost._drivers.psycopg_anyio.connection import AnyioConnection

pytestmark = pytest.mark.anyio


@contextlib.asynccontextmanager
async def connected(dsn: str, **options: Any) -> AsyncIterator[AnyioConnection[Any]]:
    connection = await AnyioConnection.connect(dsn, **options)
    try:
        yield connection
    finally:
        await connection.close()
        await connection.close()


async def numbers(connection: AnyioConnection[Any]) -> list[int]:
    cursor = await connection.execute("select n from t order by n")
    return [row[0] for row in await cursor.fetchall()]


async def test_options_reach_the_connection(empty_dsn: str) -> None:
    async with connected(empty_dsn) as other:
        other.adapters.register_loader("int4", psycopg.types.string.TextLoader)
        async with connected(
            empty_dsn,
            row_factory=dict_row,
            cursor_factory=psycopg.AsyncRawCursor,
            prepare_threshold=0,
            context=other,
        ) as connection:
            cursor = await connection.execute("select $1::int as n", (1,))
            assert await cursor.fetchone() == {"n": "1"}
            assert connection.prepare_threshold == 0
            assert not connection.autocommit


async def test_commit_and_rollback(empty_dsn: str) -> None:
    async with connected(empty_dsn) as connection:
        await connection.execute("create table t (n int)")
        await connection.commit()
        await connection.execute("insert into t values (1)")
        await connection.rollback()
        assert await numbers(connection) == []


async def test_a_commit_that_is_cancelled_is_awaited(empty_dsn: str) -> None:
    async with connected(empty_dsn) as connection:
        await connection.execute("create table t (n int)")
        await connection.execute("insert into t values (1)")
        with anyio.CancelScope() as scope:
            scope.cancel()
            await connection.commit()
        # It is committed, also if the cancel came before the answer.
        await connection.rollback()
        assert await numbers(connection) == [1]


async def test_executemany_copy_and_pipelines(empty_dsn: str) -> None:
    async with connected(empty_dsn, autocommit=True) as connection:
        await connection.execute("create table t (n int)")
        cursor = connection.cursor()
        await cursor.executemany("insert into t values (%s)", [(n,) for n in range(3)])
        async with cursor.copy("copy t from stdin") as copy:
            for n in range(3, 6):
                await copy.write_row((n,))
        async with connection.pipeline(), connection.transaction():
            await connection.execute("insert into t values (6)")
            await connection.execute("insert into t values (7)")
        assert await numbers(connection) == list(range(8))


async def test_large_texts_in_a_pipeline_are_sent_and_received_at_once(empty_dsn: str) -> None:
    big = "x" * 3_000_000
    async with connected(empty_dsn, autocommit=True) as connection, connection.pipeline():
        cursors = [await connection.execute("select %s::text", (big,)) for _ in range(4)]
        for cursor in cursors:
            row = await cursor.fetchone()
            assert row is not None
            assert len(row[0]) == len(big)


async def test_a_server_side_cursor(empty_dsn: str) -> None:
    async with connected(empty_dsn) as connection, connection.cursor("named") as cursor:
        cursor.itersize = 10
        await cursor.execute("select generate_series(1, 25)")
        assert [row[0] async for row in cursor] == list(range(1, 26))


async def test_notifies_end_at_their_timeout(empty_dsn: str) -> None:
    async with connected(empty_dsn, autocommit=True) as connection:
        await connection.execute("listen c")
        await connection.execute("notify c, 'one'")
        for timeout in (0.0, 0.05):
            with anyio.fail_after(5):
                payloads = [each.payload async for each in connection.notifies(timeout=timeout)]
            assert payloads == (["one"] if timeout == 0.0 else [])


async def test_a_cancel_from_another_task(empty_dsn: str) -> None:
    async with connected(empty_dsn, autocommit=True) as connection:

        async def wait() -> None:
            with pytest.raises(psycopg.errors.QueryCanceled):
                await connection.execute("select pg_sleep(60)")

        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                group.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                # The server ignores a request that comes too early.
                while connection.info.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
                    await connection.cancel_safe()
                    await anyio.sleep(0.01)
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


async def test_two_tasks_take_turns(empty_dsn: str) -> None:
    answers: list[int] = []

    async def ask(number: int) -> None:
        cursor = await connection.execute("select %s::int, pg_sleep(0.001)", (number,))
        row = await cursor.fetchone()
        assert row is not None
        answers.append(row[0])

    async with (
        connected(empty_dsn, autocommit=True) as connection,
        anyio.create_task_group() as group,
    ):
        for number in range(10):
            group.start_soon(ask, number)
    assert sorted(answers) == list(range(10))
