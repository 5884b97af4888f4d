"""The asyncpg driver passes the tests of every driver, and those of its own behavior."""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
import asyncpg
import pytest
from asyncpg import connect_utils
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from tests.support.conformance import AsyncDriverConformance
from tests.support.conformance.base import backends, until_gone
from tests.support.conformance.cases import sql
from tests.support.conformance.statements import StatementConformance
from tests.support.proxy import proxy_to

from roost._drivers import base, factory
from roost._drivers.asyncpg import AsyncpgDriver
from roost._drivers.asyncpg.connection import AsyncpgConnection
from roost._drivers.asyncpg.parameters import read_dsn
from roost._drivers.asyncpg.sockets import socket_of
from roost._drivers.base import AsyncDriver
from roost._drivers.factory import driver_for
from roost._drivers.psycopg_sync import connect
from roost._sql import STAGES, Statement, statements
from roost.exceptions import DatabaseError, DatabaseUnavailableError, InvalidSettingError

pytestmark = pytest.mark.anyio


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="asyncio+uvloop"),
        pytest.param(("trio", {}), id="trio", marks=pytest.mark.skip("asyncpg is asyncio's only")),
    ],
)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    """Run each test on the loops of asyncio."""
    backend: tuple[str, dict[str, object]] = request.param
    return backend


class TestAsyncpg(AsyncDriverConformance):
    @pytest.fixture
    def dsn(self, empty_dsn: str) -> str:
        return empty_dsn

    def make_driver(self, dsn: str) -> AsyncDriver:
        return AsyncpgDriver(dsn)


class TestAsyncpgWithoutPreparing(StatementConformance):
    @pytest.fixture
    def dsn(self, empty_dsn: str) -> str:
        return empty_dsn

    def make_driver(self, dsn: str) -> AsyncDriver:
        return AsyncpgDriver(f"{dsn}{'&' if '?' in dsn else '?'}statement_cache_size=0")


EVERY_STATEMENT = [
    each
    for stage in STAGES
    for each in statements(stage).values()
    if not each.name.endswith("_ledger")  # scripts
]


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[AsyncpgConnection]:
    one = await AsyncpgDriver(dsn).connect("worker")
    try:
        yield one
    finally:
        one.terminate()


@pytest.mark.parametrize("statement", EVERY_STATEMENT, ids=lambda statement: statement.name)
async def test_no_statement_returns_a_type_that_asyncpg_decodes_differently(
    dsn: str, statement: Statement
) -> None:
    async with connected(dsn) as one:
        prepared = await one.raw.prepare(statement.text)
        returned = {attribute.type.name for attribute in prepared.get_attributes()}
        taken = {parameter.name for parameter in prepared.get_parameters()}
    assert not (returned | taken) & {"json", "jsonb", "interval", "numeric", "uuid", "record"}


async def test_native_cancels_leave_the_connection_usable_or_closed(empty_dsn: str) -> None:
    lent = AsyncpgDriver(empty_dsn).pool(max_size=1, application_name="native")

    async def use() -> None:
        async with lent.acquire() as one, one.transaction():
            # A second cancel ends the wait for the answer, so the statement runs on in the server.
            await one.fetch(sql("select pg_sleep(2)"))

    with connect(empty_dsn) as observer:
        for cancels in (1, 2, 3):
            task = asyncio.ensure_future(use())
            while not backends(observer, "native", state="active"):
                await asyncio.sleep(0.005)
            for _ in range(cancels):
                task.cancel()
                await asyncio.sleep(0)
            with pytest.raises(asyncio.CancelledError):
                await task
            async with lent.acquire(timeout=5) as one:
                assert list(await one.fetch(sql("select 1"))) == [(1,)]
        await lent.aclose()
        await until_gone(observer, "native")


async def test_a_cancel_request_that_never_arrives_closes_the_connection(
    empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lose(**_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncpg.connect_utils, "_cancel", lose)
    monkeypatch.setattr(base, "CLEANUP_TIMEOUT", 0.1)
    lent = AsyncpgDriver(empty_dsn).pool(max_size=1)
    async with lent.acquire() as one:
        with anyio.fail_after(5), anyio.move_on_after(0.02) as scope:
            await one.fetch(sql("select pg_sleep(1)"))
        assert scope.cancelled_caught
        assert not one.is_idle()
        with pytest.raises(DatabaseUnavailableError):
            await one.fetch(sql("select 1"))
        with pytest.raises(DatabaseUnavailableError):
            async with one.transaction():
                pytest.fail("a transaction on a closed connection")
    assert lent.size == 0
    await lent.aclose()


async def test_in_a_transaction_begun_in_sql_a_transaction_is_a_savepoint(empty_dsn: str) -> None:
    async with connected(empty_dsn) as one:
        await one.fetch(sql("create table t (n int)"))
        await one.raw.execute("begin; insert into t values (1)")
        with pytest.raises(DatabaseError):
            async with one.transaction():
                await one.fetch(sql("insert into t values (2), (1 / (select 0))"))
        await one.raw.execute("commit")
        assert list(await one.fetch(sql("select n from t"))) == [(1,)]


async def test_a_changed_table_is_a_temporary_error_only_in_a_transaction(
    empty_dsn: str,
) -> None:
    query = sql("select * from t")
    with connect(empty_dsn) as other:
        other.fetch(sql("create table t (n int)"))
        async with connected(empty_dsn) as one:
            await one.fetch(query)
            other.fetch(sql("alter table t add a text"))
            assert list(await one.fetch(query)) == []
            other.fetch(sql("alter table t add b text"))
            with pytest.raises(DatabaseUnavailableError) as refusal:
                async with one.transaction():
                    await one.fetch(query)
            assert refusal.value.sqlstate == "0A000"
            async with one.transaction():
                assert list(await one.fetch(query)) == []


async def test_a_value_that_asyncpg_refuses_to_send_is_a_permanent_error(empty_dsn: str) -> None:
    async with connected(empty_dsn) as one:
        for params, state in (((2**70,), "22003"), (("x",), "22000"), ((), None)):
            with pytest.raises(DatabaseError) as refusal:
                await one.fetch(sql("select $1::bigint", *params))
            assert not isinstance(refusal.value, DatabaseUnavailableError)
            assert refusal.value.sqlstate == state
        assert one.is_idle()


@pytest.mark.parametrize(
    ("change", "sqlstate"), [({"dbname": "nowhere"}, "3D000"), ({"user": "nobody"}, "28000")]
)
async def test_a_refused_login_is_permanent(
    empty_dsn: str, change: dict[str, str], sqlstate: str
) -> None:
    dsn = make_conninfo(empty_dsn, password="hush", **change)
    with pytest.raises(DatabaseError) as refusal:
        await AsyncpgDriver(dsn).connect()
    assert not isinstance(refusal.value, DatabaseUnavailableError)
    assert refusal.value.sqlstate == sqlstate
    assert "hush" not in repr(refusal.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1,127.0.0.1", "/nowhere"])
async def test_an_unreachable_server_is_temporary(host: str) -> None:
    lent = AsyncpgDriver(f"host={host} port=1 user=u password=hush dbname=d").pool(max_size=1)
    for _ in range(2):
        with pytest.raises(DatabaseUnavailableError) as refusal:
            async with lent.acquire(timeout=5):
                pass
        assert "hush" not in str(refusal.value)
    assert lent.size == 0
    await lent.aclose()


async def test_a_server_of_the_wrong_kind_is_temporary(empty_dsn: str) -> None:
    with pytest.raises(DatabaseUnavailableError):
        await AsyncpgDriver(make_conninfo(empty_dsn, target_session_attrs="standby")).connect()


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 64, "ü" * 32])
async def test_a_channel_that_postgres_would_change_is_refused(empty_dsn: str, name: str) -> None:
    with pytest.raises(InvalidSettingError):
        async with AsyncpgDriver(empty_dsn).listener([name]):
            pass


async def test_a_tcp_connection_is_kept_alive_by_the_system(empty_dsn: str) -> None:
    given = conninfo_to_dict(empty_dsn)
    host, port = str(given.get("host") or "127.0.0.1"), int(given.get("port") or 5432)
    async with proxy_to(host, port) as proxy:
        dsn = make_conninfo(empty_dsn, host="127.0.0.1", port=proxy.port, keepalives_idle=77)
        async with connected(dsn) as one:
            # The socket is found through a private name of asyncpg.
            found = socket_of(one.raw)
            assert found is not None
            assert found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert found.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 77
            assert found.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
            [[name]] = await one.fetch(sql("select current_setting('application_name')"))
            assert name == "worker"


async def test_without_its_socket_a_connection_works(
    empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roost._drivers.asyncpg.sockets.socket_of", lambda raw: None)
    lent = AsyncpgDriver(empty_dsn).pool(max_size=1)
    for _ in range(2):
        async with lent.acquire() as one:
            assert list(await one.fetch(sql("select 1"))) == [(1,)]
    assert lent.size == 1
    await lent.aclose()


def parsed_by_asyncpg(dsn: str) -> Any:
    """Return the addresses and parameters that asyncpg would connect with."""
    nothing = inspect.signature(connect_utils._parse_connect_dsn_and_args).parameters
    return connect_utils._parse_connect_dsn_and_args(**{**dict.fromkeys(nothing), "dsn": dsn})


class TestDsn:
    """Reading a DSN opens no connection."""

    @pytest.mark.parametrize(
        ("dsn", "driver", "name"),
        [
            ("postgresql://h/d", "asyncpg", "asyncpg"),
            ("postgresql+asyncpg://h/d", None, "asyncpg"),
            ("PostgreSQL+AsyncPG://h/d", None, "asyncpg"),
            ("host=h", "asyncpg", "asyncpg"),
            ("", "asyncpg", "asyncpg"),
            ("postgresql+asyncpg://h/d", "psycopg", "psycopg"),
            ("postgresql+psycopg://h/d", "asyncpg", "asyncpg"),
        ],
    )
    def test_the_driver_argument_overrides_the_dsn(
        self, dsn: str, driver: str | None, name: str
    ) -> None:
        assert driver_for(dsn, driver).name == name

    def test_an_unknown_driver_is_refused(self) -> None:
        with pytest.raises(InvalidSettingError, match="'psycopg' or 'asyncpg', not 'pg8000'"):
            driver_for("postgresql://h/d", "pg8000")

    def test_a_missing_package_is_named_with_its_extra(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(factory, "find_spec", lambda name: None)
        with pytest.raises(InvalidSettingError, match=r"pip install 'anyroost\[asyncpg\]'"):
            driver_for("postgresql+asyncpg://h/d")

    @pytest.mark.parametrize(
        "dsn",
        [
            "postgresql://u:hush@h:x/d",
            "postgresql://u:hush@[::1/d",
            "postgresql://u:hush@h1,,h2/d",
            "postgresql://u:hush/y@h/d",
            "postgresql://u:hush?y@h/d",
            "postgresql://u:hush#y@h/d",
            "postgresql://u:hush@y@h/d",
            "postgresql://u:hush@h/d?connect_timeout=soon",
            "postgresql://u:hush@h/d?channel_binding=require",
            "postgresql://u:hush@h/d?hostaddr=127.0.0.1",
            "postgresql://u:hush@h/d?sslmode",
            "host=h user=u hush",
            "host=h user=u password='hush",
        ],
    )
    def test_an_unusable_dsn_is_refused_without_showing_the_password(self, dsn: str) -> None:
        with pytest.raises(InvalidSettingError) as refusal:
            driver_for(dsn, "asyncpg")
        assert "hush" not in str(refusal.value)
        assert refusal.value.__cause__ is None

    def test_libpqs_parameters_do_not_become_settings_of_the_server(self) -> None:
        libpqs = "connect_timeout=3&keepalives_idle=5&tcp_user_timeout=1&gssencmode=disable"
        read = read_dsn(f"postgresql+asyncpg://u:p%40@h1:1,[::1]:2/d?{libpqs}&ssl=require&jit=off")
        assert read.timeout == 3.0
        assert (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5) in read.socket_options
        assert read.dsns[0].startswith("postgresql://u:p%40@/d?")
        assert parse_qs(urlsplit(read.dsns[0]).query) == {
            "jit": ["off"],
            "host": ["h1:1"],
            "sslmode": ["require"],
            "target_session_attrs": ["read-write"],
        }
        assert read_dsn("postgresql://h?keepalives=0").socket_options == ()

    @pytest.mark.parametrize(
        ("dsn", "hosts", "password"),
        [
            ("postgresql://u:p@h1:1,[::1]:2/d", [("h1", 1), ("::1", 2)], "p"),
            ("postgresql://u:p@[::1]:1,[::2]:2/d", [("::1", 1), ("::2", 2)], "p"),
            ("postgresql://u:p@h1,h2/d?port=6543", [("h1", 6543), ("h2", 6543)], "p"),
            ("postgresql://u:p@h1,h2/d?port=1,2", [("h1", 1), ("h2", 2)], "p"),
            ("postgresql://u:p@[::1]:1/d", [("::1", 1)], "p"),
            ("postgresql://u:p[x]@h:1/d", [("h", 1)], "p[x]"),
            ("postgresql://u:a%2Fb%25:c@h:1,[::1]:2/d", [("h", 1), ("::1", 2)], "a/b%:c"),
        ],
    )
    def test_asyncpg_reads_the_hosts_that_the_dsn_names_on_every_python(
        self, dsn: str, hosts: list[tuple[str, int]], password: str
    ) -> None:
        several = [parsed_by_asyncpg(one) for one in read_dsn(dsn).dsns]
        assert [addresses for addresses, *_ in several] == [[host] for host in hosts]
        for read in several:
            assert (read[1].user, read[1].password) == ("u", password)

    def test_key_value_pairs_become_a_url(self) -> None:
        read = read_dsn(r"host=/run port = 5 user='a b' password='it\'s' application_name=mine")
        assert read.application_name == "mine"
        assert urlsplit(read.dsns[0]).scheme == "postgresql"
        assert "password=it%27s" in read.dsns[0]
        assert "user=a+b" in read.dsns[0]

    def test_nothing_shows_the_password(self) -> None:
        driver = driver_for("postgresql://u:hush@h/d", "asyncpg")
        assert isinstance(driver, AsyncpgDriver)
        assert "hush" not in repr(driver)
        assert "hush" not in repr(driver._parameters)
        assert "hush" not in repr(driver.pool(max_size=1))
