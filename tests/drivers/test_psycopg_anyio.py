"""The async psycopg driver passes the tests of every driver, and those of its own behavior."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from time import monotonic

import anyio
import anyio.lowlevel
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from tests.support.conformance import AsyncDriverConformance
from tests.support.conformance.base import backends, until_gone
from tests.support.conformance.cases import sql, value
from tests.support.conformance.statements import StatementConformance

from roost._drivers import base, pool
from roost._drivers.base import AsyncDriver
from roost._drivers.psycopg_anyio import PsycopgDriver, connection, waiting
from roost._drivers.psycopg_sync import connect
from roost.exceptions import ClosedError, DatabaseError, DatabaseUnavailableError

pytestmark = pytest.mark.anyio


class TestPsycopgAnyio(AsyncDriverConformance):
    @pytest.fixture
    def dsn(self, empty_dsn: str) -> str:
        return empty_dsn

    def make_driver(self, dsn: str) -> AsyncDriver:
        return PsycopgDriver(dsn)


class TestPsycopgAnyioWithoutPreparing(StatementConformance):
    @pytest.fixture
    def dsn(self, empty_dsn: str) -> str:
        return empty_dsn

    def make_driver(self, dsn: str) -> AsyncDriver:
        return PsycopgDriver(dsn, prepare_threshold=None)


class CancelAtWait:
    """Cancels a scope at the n-th wait of the connection, before or after it became ready."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, before: bool) -> None:
        self.scope = anyio.CancelScope()
        self.left = 0
        self._before = before
        self._original = waiting.until_ready
        monkeypatch.setattr(connection, "until_ready", self._until_ready)
        monkeypatch.setattr(waiting, "until_ready", self._until_ready)

    async def _until_ready(self, fd: int, wanted: int) -> int:
        self.left -= 1
        if self.left == 0 and self._before:
            self.scope.cancel()
        ready = await self._original(fd, wanted)
        if self.left == 0 and not self._before:
            self.scope.cancel()
            await anyio.lowlevel.checkpoint()
        return ready


@pytest.mark.parametrize("before", [True, False])
async def test_a_cancel_at_every_wait_leaves_all_or_nothing(
    empty_dsn: str, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    canceller = CancelAtWait(monkeypatch, before=before)
    lent = PsycopgDriver(empty_dsn).pool(max_size=1, application_name="each-wait")
    with connect(empty_dsn) as observer:
        observer.fetch(sql("create table t (n int)"))
        async with lent.acquire():
            pass  # another test checks a cancel while it connects
        for number in itertools.count(1):
            done = False
            with anyio.CancelScope() as scope:
                canceller.scope, canceller.left = scope, number
                async with lent.acquire() as one, one.transaction():
                    await one.fetch(sql("insert into t values ($1::int)", number))
                    async with one.transaction():
                        await one.fetch(sql("insert into t values ($1::int)", number))
                done = canceller.left > 0
            canceller.left = 0
            assert value(observer, "select count(*) from t where n = $1::int", number) in (0, 2)
            assert backends(observer, "each-wait", state="idle") == 1
            if done:
                break
        # BEGIN, insert, SAVEPOINT, insert, RELEASE, COMMIT: one wait each at least.
        assert number > 6
    await lent.aclose()


async def test_cancelled_connections_are_kept(empty_dsn: str) -> None:
    pids: list[object] = []
    lent = PsycopgDriver(empty_dsn).pool(max_size=1)
    for _ in range(3):
        async with lent.acquire() as one:
            pids += await one.fetch(sql("select pg_backend_pid()"))
            with anyio.move_on_after(0.02):
                await one.fetch(sql("select pg_sleep(60)"))
    await lent.aclose()
    assert len(set(pids)) == 1


async def test_a_cancel_request_that_arrives_before_its_statement_is_repeated(
    empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = 0
    original = connection.AnyioConnection._request_cancel

    async def lose_the_first(self: connection.AnyioConnection[object]) -> None:
        nonlocal sent
        sent += 1
        if sent > 1:
            await original(self)

    monkeypatch.setattr(connection.AnyioConnection, "_request_cancel", lose_the_first)
    lent = PsycopgDriver(empty_dsn).pool(max_size=1)
    async with lent.acquire() as one:
        with anyio.move_on_after(0.02):
            await one.fetch(sql("select pg_sleep(60)"))
        assert list(await one.fetch(sql("select 1"))) == [(1,)]
    assert sent == 2
    await lent.aclose()


async def test_a_failing_cancel_request_closes_the_connection(
    empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(self: connection.AnyioConnection[object]) -> None:
        raise psycopg.OperationalError("no route")

    monkeypatch.setattr(connection.AnyioConnection, "_request_cancel", fail)
    lent = PsycopgDriver(empty_dsn).pool(max_size=1)
    async with lent.acquire() as one:
        with anyio.move_on_after(0.02) as scope:
            await one.fetch(sql("select pg_sleep(1)"))
        assert scope.cancelled_caught
        assert one.raw.closed
    assert lent.size == 0
    await lent.aclose()


async def test_without_libpq_17_the_cancel_goes_through_a_thread(
    empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psycopg.capabilities, "has_cancel_safe", lambda: False)
    lent = PsycopgDriver(empty_dsn).pool(max_size=1)
    async with lent.acquire() as one:
        with anyio.move_on_after(0.02):
            await one.fetch(sql("select pg_sleep(60)"))
        assert list(await one.fetch(sql("select 1"))) == [(1,)]
    await lent.aclose()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_native_cancels_leave_the_connection_usable_or_closed(empty_dsn: str) -> None:
    lent = PsycopgDriver(empty_dsn).pool(max_size=1, application_name="native")

    async def use() -> None:
        async with lent.acquire() as one, one.transaction():
            await one.fetch(sql("select pg_sleep(60)"))

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


async def test_a_connection_past_its_lifetime_is_replaced(
    empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = shift_clock(monkeypatch)
    lent = PsycopgDriver(empty_dsn).pool(max_size=1)
    async with lent.acquire() as first:
        pass
    now(base.MAX_LIFETIME * 0.89)
    async with lent.acquire() as second:
        now(base.MAX_LIFETIME)
    assert lent.size == 0
    async with lent.acquire() as third:
        pass
    assert first is second
    assert third is not second
    await lent.aclose()


async def test_idle_connections_are_closed_at_the_next_use(
    empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = shift_clock(monkeypatch)
    lent = PsycopgDriver(empty_dsn).pool(max_size=3)
    async with lent.acquire(), lent.acquire(), lent.acquire():
        pass
    assert lent.size == 3
    now(pool.MAX_IDLE + 1)
    async with lent.acquire():
        pass
    assert lent.size == 1
    await lent.aclose()


async def test_a_pool_marked_closed_refuses_every_later_user_at_once(empty_dsn: str) -> None:
    lent = PsycopgDriver(empty_dsn).pool(max_size=1)
    async with lent.acquire():
        pass
    lent.mark_closed()
    for _ in range(2):  # a refusal must not keep the slot, or the second user would wait
        with pytest.raises(ClosedError):
            async with lent.acquire(timeout=5):
                pass
    lent.terminate_idle()
    assert lent.size == 0


def shift_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a function that sets the pool's clock ahead by a number of seconds."""
    ahead = 0.0

    def set_ahead(seconds: float) -> None:
        nonlocal ahead
        ahead = seconds

    monkeypatch.setattr(pool, "monotonic", lambda: monotonic() + ahead)
    return set_ahead


async def test_a_stale_prepared_statement_costs_one_connection(empty_dsn: str) -> None:
    lent = PsycopgDriver(empty_dsn, prepare_threshold=0).pool(max_size=1)
    with connect(empty_dsn) as other:
        other.fetch(sql("create table t (n int)"))
        async with lent.acquire() as one:
            await one.fetch(sql("select * from t"))
            other.fetch(sql("alter table t add m text"))
            with pytest.raises(DatabaseUnavailableError) as refusal:
                await one.fetch(sql("select * from t"))
            assert refusal.value.sqlstate == "0A000"
        async with lent.acquire() as one:
            assert list(await one.fetch(sql("select * from t"))) == []
    await lent.aclose()


async def test_the_connection_parameters_are_set(empty_dsn: str) -> None:
    async with PsycopgDriver(empty_dsn).pool(max_size=1, application_name="worker").acquire() as c:
        [row] = await c.fetch(
            sql("select current_setting('application_name'), current_setting('client_encoding')")
        )
        assert row == ("worker", "UTF8")
        c.raw.terminate()


@pytest.mark.parametrize(
    ("change", "sqlstate"),
    [({"dbname": "nowhere"}, "3D000"), ({"user": "nobody", "password": "hush"}, "28000")],
)
async def test_a_refused_login_is_permanent(
    empty_dsn: str, change: dict[str, str], sqlstate: str
) -> None:
    dsn = make_conninfo(empty_dsn, **change)
    with pytest.raises(DatabaseError) as refusal:
        async with PsycopgDriver(dsn).pool(max_size=1).acquire():
            pass
    assert not isinstance(refusal.value, DatabaseUnavailableError)
    assert refusal.value.sqlstate == sqlstate
    assert "hush" not in repr(refusal.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1,127.0.0.1", "/nowhere"])
async def test_an_unreachable_server_is_temporary(host: str) -> None:
    lent = PsycopgDriver(f"host={host} port=1 user=u password=hush dbname=d").pool(max_size=1)
    for _ in range(2):
        with pytest.raises(DatabaseUnavailableError) as refusal:
            async with lent.acquire(timeout=5):
                pass
        assert "hush" not in str(refusal.value)
    assert lent.size == 0
    await lent.aclose()


async def test_it_finds_the_host_that_answers_among_several(empty_dsn: str) -> None:
    given = conninfo_to_dict(empty_dsn)
    host, port = given.get("host") or "127.0.0.1", given.get("port") or "5432"
    dsn = make_conninfo(empty_dsn, host=f"/nowhere,{host}", port=f"1,{port}")
    async with PsycopgDriver(dsn).pool(max_size=1).acquire() as one:
        assert list(await one.fetch(sql("select 1"))) == [(1,)]
        one.raw.terminate()
