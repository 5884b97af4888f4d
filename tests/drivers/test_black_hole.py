"""A network that swallows bytes without a reset: every wait ends, and the pool heals."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from roost._drivers import base
from roost._drivers.psycopg_anyio import PsycopgDriver, connection
from roost._ops.query import Op
from roost.exceptions import DatabaseUnavailableError
from roost.testing.conformance.cases import sql
from roost.testing.proxy import Proxy, proxy_to

pytestmark = pytest.mark.anyio

CLEANUP = 0.3  # seconds, in place of CLEANUP_TIMEOUT
BOUND = 3.0  # seconds; far above the deadlines, far below tcp_user_timeout


@asynccontextmanager
async def proxied(dsn: str) -> AsyncIterator[tuple[Proxy, str]]:
    """Yield a proxy to the server of ``dsn``, and the DSN that leads through it."""
    given = conninfo_to_dict(dsn)
    host, port = str(given.get("host") or "127.0.0.1"), int(given.get("port") or 5432)
    async with proxy_to(host, port) as proxy:
        yield proxy, make_conninfo(dsn, host="127.0.0.1", port=proxy.port, sslmode="disable")


@pytest.fixture(autouse=True)
def short_cleanup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CLEANUP_TIMEOUT", CLEANUP)


async def test_a_statement_ends_at_its_deadline_and_the_pool_gives_a_fresh_connection(
    empty_dsn: str,
) -> None:
    async with proxied(empty_dsn) as (proxy, dsn):
        pool = PsycopgDriver(dsn).pool(max_size=1)
        async with pool.acquire() as lost:
            await lost.fetch(sql("select 1"))
            proxy.swallow()
            with anyio.fail_after(BOUND), anyio.move_on_after(0.1) as scope:
                await lost.fetch(sql("select 1"))
            assert scope.cancelled_caught
            assert lost.raw.closed
        proxy.forward()
        async with pool.acquire(timeout=BOUND) as fresh:
            assert fresh is not lost
            assert list(await fresh.fetch(sql("select 1"))) == [(1,)]
        await pool.aclose()


async def test_a_commit_ends_at_its_deadline_and_closes_the_connection(empty_dsn: str) -> None:
    async with proxied(empty_dsn) as (proxy, dsn):
        pool = PsycopgDriver(dsn).pool(max_size=1)
        with anyio.fail_after(BOUND), anyio.move_on_after(0.2) as scope:
            async with pool.acquire() as lost, lost.transaction():
                await lost.fetch(sql("select 1"))
                proxy.swallow()
        assert scope.cancelled_caught
        assert lost.raw.closed
        assert pool.size == 0
        await pool.aclose()


async def test_a_rollback_after_a_cancel_ends_in_bounded_time(empty_dsn: str) -> None:
    async with proxied(empty_dsn) as (proxy, dsn):
        pool = PsycopgDriver(dsn).pool(max_size=1)
        with anyio.fail_after(BOUND), anyio.move_on_after(0.2):
            async with pool.acquire() as lost, lost.transaction():
                await lost.fetch(sql("select 1"))
                proxy.swallow()
                await anyio.sleep_forever()
        assert lost.raw.closed
        assert pool.size == 0
        await pool.aclose()


async def test_connecting_ends_at_the_timeout(empty_dsn: str) -> None:
    async with proxied(empty_dsn) as (proxy, dsn):
        proxy.swallow()
        pool = PsycopgDriver(dsn).pool(max_size=1)
        with anyio.fail_after(BOUND), pytest.raises(DatabaseUnavailableError):
            async with pool.acquire(timeout=0.1):
                pass
        proxy.forward()
        async with pool.acquire(timeout=BOUND) as fresh:
            assert list(await fresh.fetch(sql("select 1"))) == [(1,)]
        await pool.aclose()


async def test_a_probe_under_a_deadline_finds_a_dead_listener(empty_dsn: str) -> None:
    async with (
        proxied(empty_dsn) as (proxy, dsn),
        PsycopgDriver(dsn).listener(["c"]) as listener,
    ):
        await listener.probe()
        proxy.swallow()
        with anyio.fail_after(BOUND), anyio.move_on_after(0.1) as scope:
            await listener.probe()
        assert scope.cancelled_caught
        with pytest.raises(DatabaseUnavailableError):
            await listener.receive()


async def test_the_runner_reports_a_silent_database(empty_dsn: str) -> None:
    def operation() -> Op[None]:
        yield sql("select 1")

    async with proxied(empty_dsn) as (proxy, dsn):
        pool = PsycopgDriver(dsn).pool(max_size=1)
        async with pool.acquire() as lost:
            proxy.swallow()
            with anyio.fail_after(BOUND), pytest.raises(DatabaseUnavailableError):
                await base.run(lost, operation(), timeout=0.1)
        await pool.aclose()
