"""When the network drops bytes without a reset, every wait ends and the pool recovers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from tests.support.conformance.cases import sql
from tests.support.proxy import Proxy, proxy_to

from roost._drivers import base
from roost._drivers.asyncpg import AsyncpgDriver
from roost._drivers.psycopg_anyio import PsycopgDriver
from roost._ops.query import Op
from roost.exceptions import DatabaseUnavailableError

pytestmark = pytest.mark.anyio

MakeDriver = Callable[[str], PsycopgDriver | AsyncpgDriver]

CLEANUP = 0.3  # seconds, in place of CLEANUP_TIMEOUT
BOUND = 10.0  # seconds; much more than the deadlines, much less than tcp_user_timeout


@asynccontextmanager
async def proxied(dsn: str) -> AsyncIterator[tuple[Proxy, str]]:
    """Yield a proxy to the server of ``dsn``, and the DSN that leads through it."""
    given = conninfo_to_dict(dsn)
    host, port = str(given.get("host") or "127.0.0.1"), int(given.get("port") or 5432)
    async with proxy_to(host, port) as proxy:
        yield proxy, make_conninfo(dsn, host="127.0.0.1", port=proxy.port, sslmode="disable")


@pytest.fixture(autouse=True)
def short_cleanup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "CLEANUP_TIMEOUT", CLEANUP)


@pytest.fixture(params=[PsycopgDriver, AsyncpgDriver])
def make_driver(request: pytest.FixtureRequest, anyio_backend_name: str) -> MakeDriver:
    if request.param is AsyncpgDriver and anyio_backend_name == "trio":
        pytest.skip("asyncpg is asyncio's only")
    driver: MakeDriver = request.param
    return driver


async def test_a_statement_ends_at_its_deadline_and_the_pool_gives_a_fresh_connection(
    empty_dsn: str, make_driver: MakeDriver
) -> None:
    async with proxied(empty_dsn) as (proxy, dsn):
        pool = make_driver(dsn).pool(max_size=1)
        async with pool.acquire() as lost:
            await lost.fetch(sql("select 1"))
            proxy.swallow()
            with anyio.fail_after(BOUND), anyio.move_on_after(0.1) as scope:
                await lost.fetch(sql("select 1"))
            assert scope.cancelled_caught
            assert not lost.is_idle()
        proxy.forward()
        async with pool.acquire(timeout=BOUND) as fresh:
            assert fresh is not lost
            assert list(await fresh.fetch(sql("select 1"))) == [(1,)]
        await pool.aclose()


async def test_a_commit_ends_at_its_deadline_and_closes_the_connection(
    empty_dsn: str, make_driver: MakeDriver
) -> None:
    async with proxied(empty_dsn) as (proxy, dsn):
        pool = make_driver(dsn).pool(max_size=1)
        with anyio.fail_after(BOUND), anyio.CancelScope() as scope:
            async with pool.acquire() as lost, lost.transaction():
                await lost.fetch(sql("select 1"))
                proxy.swallow()
                scope.deadline = anyio.current_time() + 0.1
        assert scope.cancelled_caught
        assert not lost.is_idle()
        assert pool.size == 0
        await pool.aclose()


async def test_a_rollback_after_a_cancel_ends_within_the_cleanup_timeout(
    empty_dsn: str, make_driver: MakeDriver
) -> None:
    async with proxied(empty_dsn) as (proxy, dsn):
        pool = make_driver(dsn).pool(max_size=1)
        with anyio.fail_after(BOUND), anyio.CancelScope() as scope:
            async with pool.acquire() as lost, lost.transaction():
                await lost.fetch(sql("select 1"))
                proxy.swallow()
                scope.cancel()
                await anyio.sleep_forever()
        assert not lost.is_idle()
        assert pool.size == 0
        await pool.aclose()


async def test_connecting_ends_at_the_timeout(empty_dsn: str, make_driver: MakeDriver) -> None:
    async with proxied(empty_dsn) as (proxy, dsn):
        proxy.swallow()
        pool = make_driver(dsn).pool(max_size=1)
        with anyio.fail_after(BOUND), pytest.raises(DatabaseUnavailableError):
            async with pool.acquire(timeout=0.1):
                pass
        proxy.forward()
        async with pool.acquire(timeout=BOUND) as fresh:
            assert list(await fresh.fetch(sql("select 1"))) == [(1,)]
        await pool.aclose()


async def test_a_probe_under_a_deadline_finds_a_dead_listener(
    empty_dsn: str, make_driver: MakeDriver
) -> None:
    async with (
        proxied(empty_dsn) as (proxy, dsn),
        make_driver(dsn).listener(["c"]) as listener,
    ):
        await listener.probe()
        proxy.swallow()
        with anyio.fail_after(BOUND), anyio.move_on_after(0.1) as scope:
            await listener.probe()
        assert scope.cancelled_caught
        with pytest.raises(DatabaseUnavailableError):
            await listener.receive()


async def test_the_runner_reports_a_silent_database(
    empty_dsn: str, make_driver: MakeDriver
) -> None:
    def operation() -> Op[None]:
        yield sql("select 1")

    async with proxied(empty_dsn) as (proxy, dsn):
        pool = make_driver(dsn).pool(max_size=1)
        async with pool.acquire() as lost:
            proxy.swallow()
            with anyio.fail_after(BOUND), pytest.raises(DatabaseUnavailableError):
                await base.run(lost, operation(), timeout=0.1)
        await pool.aclose()
