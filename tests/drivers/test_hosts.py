"""Of several hosts the first usable one is found, also if another one does not answer."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import anyio
import pytest
from psycopg.conninfo import conninfo_to_dict
from tests.support.conformance.cases import sql
from tests.support.refusing import RefusingProxy, refusing_proxy_to

from roost._drivers.asyncpg import AsyncpgDriver
from roost._drivers.psycopg_anyio import PsycopgDriver
from roost.exceptions import DatabaseUnavailableError

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[PsycopgDriver, AsyncpgDriver])
def make_driver(
    request: pytest.FixtureRequest, anyio_backend_name: str
) -> type[PsycopgDriver | AsyncpgDriver]:
    if request.param is AsyncpgDriver and anyio_backend_name == "trio":
        pytest.skip("asyncpg is asyncio's only")
    kind: type[PsycopgDriver | AsyncpgDriver] = request.param
    return kind


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """Yield a listening socket whose connections are never answered."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        yield silent


@pytest.fixture
def proxy(empty_dsn: str) -> Iterator[RefusingProxy]:
    given = conninfo_to_dict(empty_dsn)
    host, port = str(given.get("host") or "127.0.0.1"), int(given.get("port") or 5432)
    with refusing_proxy_to(host, port) as proxy:
        yield proxy


def port_of(listening: socket.socket) -> int:
    port: int = listening.getsockname()[1]
    return port


def with_hosts(dsn: str, *ports: int, more: str = "") -> str:
    given = conninfo_to_dict(dsn)
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    user = given.get("user", "postgres")
    return f"postgresql://{user}@{hosts}/{given['dbname']}?sslmode=disable{more}"


async def test_the_second_host_is_reached_when_the_first_is_silent(
    empty_dsn: str,
    make_driver: type[PsycopgDriver | AsyncpgDriver],
    silent: socket.socket,
    proxy: RefusingProxy,
) -> None:
    driver = make_driver(
        with_hosts(empty_dsn, port_of(silent), proxy.port, more="&connect_timeout=2")
    )
    with anyio.fail_after(20):
        connection = await driver.connect()
        assert list(await connection.fetch(sql("select 1"))) == [(1,)]
        connection.terminate()


async def test_a_caller_with_little_time_reaches_it_at_the_second_try(
    empty_dsn: str,
    make_driver: type[PsycopgDriver | AsyncpgDriver],
    silent: socket.socket,
    proxy: RefusingProxy,
) -> None:
    driver = make_driver(
        with_hosts(empty_dsn, port_of(silent), proxy.port, more="&connect_timeout=60")
    )
    async with anyio.create_task_group() as group:
        group.start_soon(driver.connect)
        await anyio.wait_readable(silent)  # the first host is being tried
        group.cancel_scope.cancel()
    with anyio.fail_after(20):
        (await driver.connect()).terminate()


async def test_a_host_that_takes_no_writes_is_skipped(
    dsn: str, make_driver: type[PsycopgDriver | AsyncpgDriver], proxy: RefusingProxy
) -> None:
    """Both ports lead to one server, which is read-only for the first new sessions only."""
    driver = make_driver(with_hosts(dsn, proxy.port, proxy.port))
    writing = await make_driver(dsn).connect()
    name = conninfo_to_dict(dsn)["dbname"]
    await writing.fetch(sql(f'alter database "{name}" set default_transaction_read_only = on'))
    with pytest.raises(DatabaseUnavailableError), anyio.fail_after(20):
        await driver.connect()
    await writing.fetch(sql(f'alter database "{name}" set default_transaction_read_only = off'))
    with anyio.fail_after(20):
        connection = await driver.connect()
    await connection.fetch(sql("create table t ()"))
    connection.terminate()
    writing.terminate()
