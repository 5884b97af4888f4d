"""Fixtures for jobs, tasks and connections, for all tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from tests.support.job_table import JobTable
from tests.support.proxy import Proxy, proxy_to

from roost import HandlerRegistry


@pytest.fixture
def table(dsn: str) -> Iterator[JobTable]:
    """Yield the jobs of the test's database."""
    with JobTable(dsn) as table:
        yield table


@pytest.fixture
def registry() -> HandlerRegistry:
    """Return an empty registry for this test alone."""
    return HandlerRegistry()


@pytest.fixture
def proxied(dsn: str) -> Callable[[], AbstractAsyncContextManager[tuple[Proxy, str]]]:
    """Return a context manager that yields a proxy to the test's database, and a DSN through it."""

    @asynccontextmanager
    async def proxied() -> AsyncIterator[tuple[Proxy, str]]:
        given = conninfo_to_dict(dsn)
        host, port = str(given.get("host") or "127.0.0.1"), int(given.get("port") or 5432)
        async with proxy_to(host, port) as proxy:
            yield proxy, make_conninfo(dsn, host="127.0.0.1", port=proxy.port, sslmode="disable")

    return proxied
