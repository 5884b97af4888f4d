"""``conn=`` accepts SQLAlchemy's connections and sessions on every driver."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from psycopg.types.json import set_json_loads
from sqlalchemy import create_engine, event, pool, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import (
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from tests.support.borrowing import BorrowingConformance, ConnectionKind
from tests.support.job_table import JobTable

from roost import AsyncRoost, DatabaseError, JobInsert, NotInTransactionError, Roost

pytestmark = pytest.mark.anyio

ISOLATED = {"poolclass": pool.NullPool}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Run on asyncio only: SQLAlchemy supports no other loop."""
    return "asyncio"


def url(dsn: str, driver: str) -> str:
    return dsn.replace("postgresql://", f"postgresql+{driver}://", 1)


def execute(conn: Any, statement: str) -> Any:
    return conn.execute(text(statement))


@contextmanager
def engine_on(dsn: str, driver: str, **options: Any) -> Iterator[Any]:
    engine = create_engine(url(dsn, driver), **ISOLATED, **options)
    try:
        yield engine
    finally:
        engine.dispose()


@asynccontextmanager
async def async_engine_on(dsn: str, driver: str, **options: Any) -> AsyncIterator[Any]:
    engine = create_async_engine(url(dsn, driver), **ISOLATED, **options)
    try:
        yield engine
    finally:
        await engine.dispose()


def connection(driver: str) -> ConnectionKind:
    @contextmanager
    def opened(dsn: str) -> Iterator[Any]:
        with engine_on(dsn, driver) as engine, engine.begin() as conn:
            yield conn

    return ConnectionKind(opened, execute, blocking=True)


def session(driver: str) -> ConnectionKind:
    @contextmanager
    def opened(dsn: str) -> Iterator[Any]:
        with engine_on(dsn, driver) as engine, Session(engine) as conn, conn.begin():
            yield conn

    return ConnectionKind(opened, execute, blocking=True)


def thread_session(driver: str) -> ConnectionKind:
    @contextmanager
    def opened(dsn: str) -> Iterator[Any]:
        with engine_on(dsn, driver) as engine:
            scoped = scoped_session(sessionmaker(engine))
            try:
                yield scoped
                scoped.commit()
            finally:
                scoped.remove()

    return ConnectionKind(opened, execute, blocking=True)


def async_connection(driver: str) -> ConnectionKind:
    @asynccontextmanager
    async def opened(dsn: str) -> AsyncIterator[Any]:
        async with async_engine_on(dsn, driver) as engine, engine.begin() as conn:
            yield conn

    return ConnectionKind(opened, execute)


def async_session(driver: str) -> ConnectionKind:
    @asynccontextmanager
    async def opened(dsn: str) -> AsyncIterator[Any]:
        async with (
            async_engine_on(dsn, driver) as engine,
            AsyncSession(engine) as conn,
            conn.begin(),
        ):
            yield conn

    return ConnectionKind(opened, execute)


def async_task_session(driver: str) -> ConnectionKind:
    @asynccontextmanager
    async def opened(dsn: str) -> AsyncIterator[Any]:
        async with async_engine_on(dsn, driver) as engine:
            scoped = async_scoped_session(async_sessionmaker(engine), scopefunc=lambda: 1)
            try:
                yield scoped
                await scoped.commit()
            finally:
                await scoped.remove()

    return ConnectionKind(opened, execute)


DOORS = {
    "Connection, psycopg": connection("psycopg"),
    "Session, psycopg": session("psycopg"),
    "scoped_session, psycopg": thread_session("psycopg"),
    "Connection, psycopg2": connection("psycopg2"),
    "Session, psycopg2": session("psycopg2"),
    "AsyncConnection, asyncpg": async_connection("asyncpg"),
    "AsyncSession, asyncpg": async_session("asyncpg"),
    "async_scoped_session, asyncpg": async_task_session("asyncpg"),
    "AsyncSession, psycopg": async_session("psycopg"),
}


class TestBorrowed(BorrowingConformance):
    @pytest.fixture(params=DOORS)
    def kind(self, request: pytest.FixtureRequest) -> ConnectionKind:
        name: str = request.param
        if "psycopg2" in name and importlib.util.find_spec("psycopg2") is None:
            pytest.skip("psycopg2 is not installed")
        return DOORS[name]


Change = Callable[[Any], Any]

# The ways to make an engine commit each statement.
AUTOCOMMIT: dict[str, tuple[dict[str, Any], Change]] = {
    "of the engine": ({"isolation_level": "AUTOCOMMIT"}, lambda engine: engine),
    "of the engine's options": ({}, lambda e: e.execution_options(isolation_level="AUTOCOMMIT")),
    "of the driver": ({"connect_args": {"autocommit": True}}, lambda engine: engine),
}


@pytest.mark.parametrize("way", AUTOCOMMIT)
def test_autocommit_is_refused_unless_told_otherwise(dsn: str, table: JobTable, way: str) -> None:
    options, change = AUTOCOMMIT[way]
    with Roost(dsn) as client, engine_on(dsn, "psycopg", **options) as bare:
        engine = change(bare)
        with engine.connect() as conn, pytest.raises(NotInTransactionError, match="AUTOCOMMIT"):
            client.enqueue("work", conn=conn)
        with Session(engine) as conn, pytest.raises(NotInTransactionError, match="AUTOCOMMIT"):
            client.enqueue_many([JobInsert("work")], conn=conn)
        assert table.states() == {}
        with engine.connect() as conn:
            client.enqueue("work", conn=conn, transactional=False)
    assert table.states() == {"available": 1}


def test_the_autocommit_of_one_connection_is_refused(dsn: str, table: JobTable) -> None:
    with Roost(dsn) as client, engine_on(dsn, "psycopg2") as engine, engine.connect() as conn:
        own = conn.execution_options(isolation_level="AUTOCOMMIT")
        with pytest.raises(NotInTransactionError, match="AUTOCOMMIT"):
            client.enqueue("work", conn=own)
    assert table.states() == {}


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
@pytest.mark.parametrize("way", ["of the engine", "of the engine's options"])
async def test_autocommit_of_async_engines_is_refused_unless_told_otherwise(
    dsn: str, table: JobTable, driver: str, way: str
) -> None:
    options, change = AUTOCOMMIT[way]
    async with AsyncRoost(dsn) as client, async_engine_on(dsn, driver, **options) as bare:
        engine = change(bare)
        async with engine.connect() as conn:
            with pytest.raises(NotInTransactionError, match="AUTOCOMMIT"):
                await client.enqueue("work", conn=conn)
        async with AsyncSession(engine) as conn:
            with pytest.raises(NotInTransactionError, match="AUTOCOMMIT"):
                await client.enqueue("work", conn=conn)
        assert table.states() == {}
        async with engine.connect() as conn:
            await client.enqueue("work", conn=conn, transactional=False)
    assert table.states() == {"available": 1}


@pytest.mark.parametrize("level", ["SERIALIZABLE", "READ COMMITTED"])
def test_other_isolation_levels_are_accepted(dsn: str, table: JobTable, level: str) -> None:
    with Roost(dsn) as client, engine_on(dsn, "psycopg", isolation_level=level) as engine:
        with engine.begin() as conn:
            client.enqueue("work", conn=conn)
        with engine.connect() as conn:  # without a commit
            client.enqueue("work", conn=conn)
    assert table.states() == {"available": 1}


def test_a_savepoint_that_is_rolled_back_takes_its_jobs_with_it(dsn: str, table: JobTable) -> None:
    with (
        Roost(dsn) as client,
        engine_on(dsn, "psycopg") as engine,
        Session(engine) as conn,
        conn.begin(),
    ):
        kept = client.enqueue("work", conn=conn)
        nested = conn.begin_nested()
        client.enqueue("work", conn=conn)
        nested.rollback()
    assert [row[0] for row in table.rows("select id from roost.jobs")] == [kept]


def test_the_row_factory_of_the_driver_does_not_matter(dsn: str, table: JobTable) -> None:
    with Roost(dsn) as client, engine_on(dsn, "psycopg") as engine:

        @event.listens_for(engine, "connect")
        def with_json(raw: Any, _record: Any) -> None:
            set_json_loads(lambda _: "HELLO", raw)

        with engine.begin() as conn:
            job_id = client.enqueue("work", args={"n": 1}, conn=conn)
    assert table.get(job_id).args == {"n": 1}


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_a_transaction_that_has_failed_says_so(dsn: str, table: JobTable, driver: str) -> None:
    with Roost(dsn) as client, engine_on(dsn, driver) as engine, engine.connect() as conn:
        with pytest.raises(DBAPIError):
            conn.execute(text("select nonsense"))
        with pytest.raises(DatabaseError) as caught:
            client.enqueue("work", conn=conn)
        assert caught.value.sqlstate == "25P02"
    assert table.states() == {}


async def test_a_failed_transaction_on_asyncpg_says_so(dsn: str, table: JobTable) -> None:
    async with (
        AsyncRoost(dsn) as client,
        async_engine_on(dsn, "asyncpg") as engine,
        engine.connect() as conn,
    ):
        with pytest.raises(DBAPIError):
            await conn.execute(text("select nonsense"))
        with pytest.raises(DatabaseError) as caught:
            await client.enqueue("work", conn=conn)
        assert caught.value.sqlstate == "25P02"
    assert table.states() == {}


def test_a_closed_connection_is_sqlalchemys_own_error(dsn: str, table: JobTable) -> None:
    with Roost(dsn) as client, engine_on(dsn, "psycopg") as engine:
        conn = engine.connect()
        conn.close()
        with pytest.raises(SQLAlchemyError, match="closed"):
            client.enqueue("work", conn=conn)
    assert table.states() == {}


async def test_a_connection_for_the_other_client_is_a_type_error(dsn: str) -> None:
    with engine_on(dsn, "psycopg") as engine, Session(engine) as conn:
        async with AsyncRoost(dsn) as client:
            with pytest.raises(TypeError, match=r"Session blocks.*sqlalchemy\.AsyncSession"):
                await client.enqueue("work", conn=conn)
    async with async_engine_on(dsn, "asyncpg") as aengine, AsyncSession(aengine) as aconn:
        with Roost(dsn) as roost:
            with pytest.raises(TypeError, match=r"AsyncSession has to be awaited"):
                roost.enqueue("work", conn=aconn)
            with pytest.raises(TypeError, match="Engine is not known"):
                roost.enqueue("work", conn=engine)
