"""``conn=``: the job exists if and only if the caller's transaction commits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import anyio
import psycopg
import pytest
from psycopg.rows import dict_row
from tests.support.job_table import JobTable

from roost import (
    AsyncRoost,
    DatabaseError,
    DuplicateUniqueJobError,
    InvalidJobError,
    JobInsert,
    NotInTransactionError,
)
from roost._drivers.psycopg_anyio.connection import AnyioConnection

pytestmark = pytest.mark.anyio


class ShoutingCursor(psycopg.AsyncCursor[Any]):
    """A cursor that returns other rows than tuples."""

    async def fetchall(self) -> Any:
        return ["HELLO"]

    async def fetchone(self) -> Any:
        return "HELLO"


class ShoutingConnection(psycopg.AsyncConnection[Any]):
    """A connection with cursor and row factories of its class."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cursor_factory = ShoutingCursor
        self.row_factory = dict_row


class ShoutingAnyioConnection(AnyioConnection[Any]):
    """The same for every event loop."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cursor_factory = ShoutingCursor
        self.row_factory = dict_row


Opening = Callable[[AsyncRoost, str], AbstractAsyncContextManager[Any]]


@asynccontextmanager
async def in_roosts_transaction(client: AsyncRoost, dsn: str) -> AsyncIterator[Any]:
    async with client.transaction() as conn:
        yield conn


def opened(kind: type[psycopg.AsyncConnection[Any]], **options: Any) -> Opening:
    @asynccontextmanager
    async def open_it(client: AsyncRoost, dsn: str) -> AsyncIterator[Any]:
        async with await kind.connect(dsn, **options) as conn:
            if conn.autocommit:
                async with conn.transaction():
                    yield conn
            else:
                yield conn

    return open_it


PLAIN: dict[str, Opening] = {
    "psycopg": opened(psycopg.AsyncConnection),
    "psycopg with dict rows": opened(psycopg.AsyncConnection, row_factory=dict_row),
    "psycopg with a cursor class": opened(ShoutingConnection),
    "psycopg in a block": opened(psycopg.AsyncConnection, autocommit=True),
    "psycopg with raw cursors": opened(
        psycopg.AsyncConnection, cursor_factory=psycopg.AsyncRawCursor
    ),
}
ANYWHERE: dict[str, Opening] = {
    "roost.transaction()": in_roosts_transaction,
    "on anyio": opened(AnyioConnection),
    "on anyio with a cursor class": opened(ShoutingAnyioConnection),
    "on anyio in a block": opened(AnyioConnection, autocommit=True),
}


@pytest.fixture(params=[*PLAIN, *ANYWHERE])
def transaction(
    request: pytest.FixtureRequest, anyio_backend_name: str, client: AsyncRoost, dsn: str
) -> Callable[[], AbstractAsyncContextManager[Any]]:
    """Return functions that open a transaction, one for each kind of connection."""
    name: str = request.param
    if name in PLAIN and anyio_backend_name != "asyncio":
        pytest.skip("psycopg's own AsyncConnection is for asyncio")
    opening = {**PLAIN, **ANYWHERE}[name]
    return lambda: opening(client, dsn)


Transaction = Callable[[], AbstractAsyncContextManager[Any]]


class Undo(Exception):  # noqa: N818
    pass


@asynccontextmanager
async def undone(block: AbstractAsyncContextManager[Any]) -> AsyncIterator[Any]:
    """Leave ``block`` with an error, so that it rolls back."""
    with suppress(Undo):
        async with block as conn:
            yield conn
            raise Undo


async def test_a_commit_leaves_the_jobs(
    client: AsyncRoost, table: JobTable, transaction: Transaction
) -> None:
    async with transaction() as conn:
        one = await client.enqueue("work", args={"n": 1}, conn=conn)
        assert await client.enqueue_many([JobInsert("work")] * 3, conn=conn) == 3
        child = await client.enqueue("work", depends_on=[one], conn=conn)
        assert table.states() == {}
    assert table.states() == {"available": 5}
    assert table.get(one).args == {"n": 1}
    assert table.get(child).depends_on == [one]


async def test_a_rollback_leaves_none(
    client: AsyncRoost, table: JobTable, transaction: Transaction
) -> None:
    async with undone(transaction()) as conn:
        one = await client.enqueue("work", conn=conn)
        await client.enqueue("work", depends_on=[one], conn=conn)
        await client.enqueue_many([JobInsert("work")] * 3, conn=conn)
    assert table.states() == {}
    assert table.value("select count(*) from roost.dependencies") == 0


async def test_the_callers_own_changes_are_committed_or_rolled_back_too(
    client: AsyncRoost, table: JobTable, transaction: Transaction
) -> None:
    table.script("create table orders (id int)")
    async with undone(transaction()) as conn:
        await conn.execute("insert into orders values (1)")
        await client.enqueue("work", conn=conn)
    assert table.value("select count(*) from orders") == 0
    async with transaction() as conn:
        await client.enqueue("work", conn=conn)
        await conn.execute("insert into orders values (2)")
    assert table.value("select id from orders") == 2
    assert table.states() == {"available": 1}


async def test_the_callers_connection_is_not_changed(
    client: AsyncRoost, table: JobTable, transaction: Transaction
) -> None:
    async with transaction() as conn:
        before = (conn.row_factory, conn.cursor_factory, conn.autocommit, conn.prepare_threshold)
        await client.enqueue("work", conn=conn)
        after = (conn.row_factory, conn.cursor_factory, conn.autocommit, conn.prepare_threshold)
    assert before == after


async def test_bad_input_does_not_touch_the_transaction(
    client: AsyncRoost, table: JobTable, transaction: Transaction
) -> None:
    bad: list[dict[str, Any]] = [
        {"args": {"a": float("nan")}},
        {"args": {"a": "\0"}},
        {"args": {1: 2}},
        {"args": {"a": object()}},
        {"priority": 2**40},
        {"queue": ""},
        {"timeout_seconds": -1},
        {"unique_key": ""},
        {"tags": [None]},
    ]
    async with transaction() as conn:
        good = await client.enqueue("work", conn=conn)
        for fields in bad:
            with pytest.raises(InvalidJobError):
                await client.enqueue("work", **fields, conn=conn)
            jobs = [JobInsert("work"), JobInsert("work", **fields)]
            with pytest.raises(InvalidJobError, match="job 1 of the batch"):
                await client.enqueue_many(jobs, conn=conn)
    assert [row[0] for row in table.rows("select id from roost.jobs")] == [good]


async def test_a_duplicate_does_not_abort_the_transaction(
    client: AsyncRoost, table: JobTable, transaction: Transaction
) -> None:
    async with transaction() as conn:
        first = await client.enqueue("work", unique_key="key", conn=conn)
        with pytest.raises(DuplicateUniqueJobError) as caught:
            await client.enqueue("work", unique_key="key", conn=conn)
        assert caught.value.existing_id == first
        await client.enqueue("work", conn=conn)
    assert table.states() == {"available": 2}


async def test_a_savepoint_that_is_rolled_back_takes_its_jobs_with_it(
    client: AsyncRoost, table: JobTable, transaction: Transaction
) -> None:
    async with transaction() as conn:
        kept = await client.enqueue("work", conn=conn)
        async with undone(conn.transaction()):
            await client.enqueue("work", conn=conn)
    assert table.get(kept).state == "available"
    assert table.states() == {"available": 1}


async def test_a_transaction_that_has_failed_says_so(
    client: AsyncRoost, table: JobTable, transaction: Transaction
) -> None:
    async with undone(transaction()) as conn:
        with pytest.raises(psycopg.Error):
            await conn.execute("select nonsense")
        with pytest.raises(DatabaseError) as caught:
            await client.enqueue("work", conn=conn)
        assert caught.value.sqlstate == "25P02"
    assert table.states() == {}


async def test_autocommit_is_refused_outside_a_block(
    client: AsyncRoost, dsn: str, table: JobTable
) -> None:
    async with await AnyioConnection.connect(dsn, autocommit=True) as conn:
        with pytest.raises(NotInTransactionError, match=r"async with conn\.transaction"):
            await client.enqueue("work", conn=conn)
        with pytest.raises(NotInTransactionError):
            await client.enqueue_many([JobInsert("work")], conn=conn)
        with pytest.raises(NotInTransactionError):
            await client.setup_schema(conn)
        async with conn.transaction():
            await client.enqueue("work", conn=conn)
    assert table.states() == {"available": 1}


async def test_jobs_of_a_pipeline_are_inserted(
    client: AsyncRoost, dsn: str, table: JobTable
) -> None:
    async with await AnyioConnection.connect(dsn) as conn, conn.pipeline():
        job_id = await client.enqueue("work", conn=conn)
        assert await client.enqueue_many([JobInsert("work")] * 2, conn=conn) == 2
    assert table.get(job_id).state == "available"
    assert table.states() == {"available": 3}


async def test_the_wrong_kind_of_connection_is_a_type_error(
    client: AsyncRoost, dsn: str, table: JobTable
) -> None:
    with psycopg.connect(dsn) as blocking:
        with pytest.raises(
            TypeError, match=r"psycopg\.Connection blocks.*psycopg\.AsyncConnection"
        ):
            await client.enqueue("work", conn=blocking)
        for wrong in (object(), "postgresql://", table, client, 5, False):
            with pytest.raises(TypeError, match="AsyncConnection"):
                await client.enqueue("work", conn=wrong)
    assert table.states() == {}


async def test_an_error_or_a_cancel_rolls_roosts_own_transaction_back(
    client: AsyncRoost, table: JobTable
) -> None:
    with anyio.move_on_after(0.1) as scope:
        async with client.transaction() as conn:
            await client.enqueue("work", conn=conn)
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert table.states() == {}
    assert await client.enqueue("work") > 0
