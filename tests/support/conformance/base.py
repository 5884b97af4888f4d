"""Fixtures and functions of the tests of asynchronous drivers."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from tests.support.conformance.cases import eventually, value

from roost._drivers.base import AsyncDriver, AsyncPool, Connection
from roost._drivers.psycopg_sync import connect


class AsyncConformance:
    """The fixtures of these tests. A subclass defines ``dsn`` and ``make_driver``."""

    pytestmark = pytest.mark.anyio

    def make_driver(self, dsn: str) -> AsyncDriver:
        """Return the driver under test."""
        raise NotImplementedError

    @pytest.fixture
    def driver(self, dsn: str) -> AsyncDriver:
        """Return the driver for the test's database."""
        return self.make_driver(dsn)

    @pytest.fixture
    def observer(self, dsn: str) -> Iterator[Connection]:
        """Yield a blocking connection, to observe the server."""
        with connect(dsn, application_name="observer") as connection:
            yield connection

    @pytest.fixture
    def app(self) -> str:
        """Return the application_name of this test's connections."""
        return f"conformance-{uuid.uuid4().hex[:12]}"

    @asynccontextmanager
    async def pool_of(
        self, driver: AsyncDriver, app: str, *, size: int
    ) -> AsyncIterator[AsyncPool]:
        """Yield a new pool, and close it at the end."""
        pool = driver.pool(max_size=size, application_name=app)
        try:
            yield pool
        finally:
            await pool.aclose()


def backends(observer: Connection, app: str, *, state: str = "%") -> int:
    """Return the number of sessions of ``app`` in this database whose state is like ``state``."""
    count = value(
        observer,
        "select count(*) from pg_stat_activity where datname = current_database() "
        "and application_name = $1::text and coalesce(state, '') like $2::text",
        app,
        state,
    )
    assert isinstance(count, int)
    return count


def terminate(observer: Connection, app: str) -> int:
    """Terminate the sessions of ``app``, wait for their end, and return their number.

    A server process leaves ``pg_stat_activity`` before it closes its socket. This waits for both.
    """
    ended = value(
        observer,
        "select count(*) filter (where pg_terminate_backend(pid, 5000)) from pg_stat_activity "
        "where datname = current_database() and application_name = $1::text",
        app,
    )
    assert isinstance(ended, int)
    return ended


async def until_gone(observer: Connection, app: str) -> None:
    """Wait until ``app`` has no session."""
    await eventually(lambda: backends(observer, app) == 0)
