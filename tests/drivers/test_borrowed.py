"""``conn=`` accepts connections of psycopg and asyncpg, and of classes that users register."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import asyncpg
import attrs
import psycopg
import pytest
from psycopg.rows import dict_row
from tests.support.borrowing import BorrowingConformance, ConnectionKind
from tests.support.job_table import JobTable

from roost import (
    AsyncRoost,
    InvalidJobError,
    JobInsert,
    NotInTransactionError,
    Roost,
    register_connection_adapter,
)
from roost._drivers.borrowed import custom

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Run on asyncio only: the other libraries support no other loop."""
    return "asyncio"


class ShoutingCursor(psycopg.Cursor[Any]):
    """A cursor that returns other rows than the database's tuples."""

    def fetchall(self) -> Any:
        return ["HELLO"]


class ShoutingAsyncCursor(psycopg.AsyncCursor[Any]):
    """The same for async connections."""

    async def fetchall(self) -> Any:
        return ["HELLO"]


class OwnConnection(psycopg.Connection[Any]):
    """A user's own connection class, which sets the cursor class and the row factory."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cursor_factory = ShoutingCursor
        self.row_factory = dict_row


class OwnAsyncConnection(psycopg.AsyncConnection[Any]):
    """The same for async connections."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cursor_factory = ShoutingAsyncCursor
        self.row_factory = dict_row


def psycopg_sync(
    kind: type[psycopg.Connection[Any]] = psycopg.Connection,
    *,
    pipeline: bool = False,
    **options: Any,
) -> ConnectionKind:
    @contextmanager
    def opened(dsn: str) -> Iterator[Any]:
        with kind.connect(dsn, **options) as conn:
            if pipeline:
                with conn.pipeline():
                    yield conn
            elif conn.autocommit:
                with conn.transaction():
                    yield conn
            else:
                yield conn

    return ConnectionKind(opened, lambda conn, statement: conn.execute(statement), blocking=True)


def psycopg_async(
    kind: type[psycopg.AsyncConnection[Any]] = psycopg.AsyncConnection,
    *,
    pipeline: bool = False,
    **options: Any,
) -> ConnectionKind:
    @asynccontextmanager
    async def opened(dsn: str) -> AsyncIterator[Any]:
        async with await kind.connect(dsn, **options) as conn:
            if pipeline:
                async with conn.pipeline():
                    yield conn
            elif conn.autocommit:
                async with conn.transaction():
                    yield conn
            else:
                yield conn

    return ConnectionKind(opened, lambda conn, statement: conn.execute(statement))


@asynccontextmanager
async def asyncpg_plain(dsn: str) -> AsyncIterator[Any]:
    conn = await asyncpg.connect(dsn)
    try:
        async with conn.transaction():
            yield conn
    finally:
        await conn.close()


async def with_codecs(conn: Any) -> None:
    """Set the codecs that many applications set on the connections of their pool."""
    for name in ("json", "jsonb"):
        await conn.set_type_codec(name, encoder=json.dumps, decoder=json.loads, schema="pg_catalog")


@asynccontextmanager
async def asyncpg_pool(dsn: str) -> AsyncIterator[Any]:
    async with (
        asyncpg.create_pool(dsn, min_size=1, max_size=1, init=with_codecs) as pool,
        pool.acquire() as conn,
        conn.transaction(),
    ):
        assert type(conn).__name__ == "PoolConnectionProxy"
        yield conn


@asynccontextmanager
async def asyncpg_dict_records(dsn: str) -> AsyncIterator[Any]:
    class Dotted(asyncpg.Record):  # type: ignore[misc]  # asyncpg has no types
        def __getattr__(self, name: str) -> Any:
            return self[name]

    conn = await asyncpg.connect(dsn, record_class=Dotted, statement_cache_size=0)
    await with_codecs(conn)
    try:
        async with conn.transaction():
            yield conn
    finally:
        await conn.close()


def execute(conn: Any, statement: str) -> Any:
    return conn.execute(statement)


DOORS = {
    "psycopg": psycopg_sync(),
    "psycopg with a class of one's own, in a block": psycopg_sync(OwnConnection, autocommit=True),
    "psycopg with client cursors": psycopg_sync(cursor_factory=psycopg.ClientCursor),
    "psycopg in a pipeline": psycopg_sync(pipeline=True),
    "psycopg async with dict rows": psycopg_async(row_factory=dict_row),
    "psycopg async with a class of one's own": psycopg_async(OwnAsyncConnection, autocommit=True),
    "psycopg async in a pipeline": psycopg_async(pipeline=True),
    "asyncpg": ConnectionKind(asyncpg_plain, execute),
    "asyncpg from a pool with codecs": ConnectionKind(asyncpg_pool, execute),
    "asyncpg with records of one's own": ConnectionKind(asyncpg_dict_records, execute),
}


class TestBorrowed(BorrowingConformance):
    @pytest.fixture(params=DOORS)
    def kind(self, request: pytest.FixtureRequest) -> ConnectionKind:
        return DOORS[request.param]


async def test_asyncpg_outside_a_transaction_is_refused_unless_told_otherwise(
    dsn: str, table: JobTable
) -> None:
    conn = await asyncpg.connect(dsn)
    async with AsyncRoost(dsn) as client:
        with pytest.raises(NotInTransactionError, match=r"conn\.transaction"):
            await client.enqueue("work", conn=conn)
        with pytest.raises(NotInTransactionError):
            await client.enqueue_many([JobInsert("work")], conn=conn)
        with pytest.raises(NotInTransactionError):
            await client.enqueue_all([JobInsert("work")], conn=conn)
        assert table.states() == {}
        await client.enqueue("work", conn=conn, transactional=False)
        await client.enqueue_many([JobInsert("work")], conn=conn, transactional=False)
    await conn.close()
    assert table.states() == {"available": 2}


def test_psycopg_in_autocommit_is_refused_unless_told_otherwise(dsn: str, table: JobTable) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn, Roost(dsn) as client:
        with pytest.raises(NotInTransactionError, match=r"conn\.transaction"):
            client.enqueue("work", conn=conn)
        with pytest.raises(NotInTransactionError):
            client.enqueue_all([JobInsert("work")], conn=conn)
        with pytest.raises(NotInTransactionError, match=r"this call .* for an enqueue$"):
            client.run_now(1, conn=conn)
        assert table.states() == {}
        client.enqueue("work", conn=conn, transactional=False)
    assert table.states() == {"available": 1}


class Untouchable:
    """Raises at every use."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was asked for")


async def test_bad_input_is_refused_before_the_connection_is_used(dsn: str) -> None:
    conn = Untouchable()
    async with AsyncRoost(dsn) as client:
        with pytest.raises(InvalidJobError):
            await client.enqueue("work", args={"a": float("nan")}, conn=conn)
    with Roost(dsn) as blocking, pytest.raises(InvalidJobError):
        blocking.enqueue_many([JobInsert("work", timeout_seconds=0)], conn=conn)


AWAITED = (
    "psycopg.AsyncConnection",
    "asyncpg.Connection",
    "asyncpg.PoolConnectionProxy",
    "sqlalchemy.AsyncConnection",
    "sqlalchemy.AsyncSession",
    "sqlalchemy.async_scoped_session",
)
BLOCKING = (
    "psycopg.Connection",
    "sqlalchemy.Connection",
    "sqlalchemy.Session",
    "sqlalchemy.scoped_session",
    "django.ConnectionProxy",
)


async def test_the_refusal_of_a_connection_names_the_accepted_kinds(
    dsn: str, table: JobTable
) -> None:
    asynchronous = await asyncpg.connect(dsn)
    with psycopg.connect(dsn) as blocking, sqlite3.connect(":memory:") as unknown:
        async with AsyncRoost(dsn) as client:
            for conn, why in (
                (blocking, "Connection blocks"),
                (unknown, "Connection is not known"),
            ):
                with pytest.raises(TypeError, match=why) as caught:
                    await client.enqueue("work", conn=conn)
                assert all(kind in str(caught.value) for kind in AWAITED)
        with Roost(dsn) as roost:
            refused = [
                (asynchronous, "has to be awaited"),
                (unknown, "not known"),
                ("postgresql://", "builtins.str is not known"),
            ]
            for conn, why in refused:
                with pytest.raises(TypeError, match=why) as caught:
                    roost.enqueue("work", conn=conn)
                assert all(kind in str(caught.value) for kind in BLOCKING)
    unknown.close()
    await asynchronous.close()
    assert table.states() == {}


@attrs.frozen
class Wrapped:
    """A connection of a kind that Roost doesn't know."""

    inner: Any


@pytest.fixture
def registering(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return ``register_connection_adapter``, and undo its registrations after the test."""
    monkeypatch.setattr(custom, "_blocking", {})
    monkeypatch.setattr(custom, "_async", {})
    return register_connection_adapter


class Special(Wrapped):
    """A subclass."""


async def test_both_clients_accept_a_registered_class_and_its_subclasses(
    dsn: str, table: JobTable, registering: Callable[..., None]
) -> None:
    def run(conn: Wrapped, sql: str, parameters: tuple[object, ...]) -> list[Any]:
        cursor = psycopg.RawCursor(conn.inner)
        cursor.execute(sql, parameters)
        return list(cursor.fetchall()) if cursor.description else []

    async def arun(conn: Wrapped, sql: str, parameters: tuple[object, ...]) -> list[Any]:
        return list(await conn.inner.fetch(sql, *parameters))

    registering(Wrapped, run)
    registering(Wrapped, arun)
    with psycopg.connect(dsn) as inner, Roost(dsn) as roost:
        for conn in (Wrapped(inner), Special(inner)):
            parent = roost.enqueue("work", conn=conn)
            roost.enqueue("work", depends_on=[parent], conn=conn)
        inner.rollback()
        assert table.states() == {}
        roost.enqueue("work", conn=Special(inner))
    async with AsyncRoost(dsn) as client, asyncpg_plain(dsn) as inner:
        await client.enqueue("work", conn=Wrapped(inner))
        assert await client.enqueue_many([JobInsert("work")] * 2, conn=Special(inner)) == 2
    assert table.states() == {"available": 4}


def test_only_a_class_can_be_registered(registering: Callable[..., None]) -> None:
    with pytest.raises(TypeError, match="kind must be a class"):
        registering("psycopg.Connection", lambda *_: [])
