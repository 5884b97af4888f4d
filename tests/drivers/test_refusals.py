"""If a server or pooler worked before, its refusals are temporary errors.

A proxy that speaks the protocol refuses with the codes of each case.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

import anyio
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from tests.support.conformance.cases import eventually, sql
from tests.support.job_table import JobTable
from tests.support.refusing import RefusingProxy, refusing_proxy_to
from tests.support.working import working

from roost import AsyncRoost, DatabaseUnavailableError, HandlerRegistry, Worker, job
from roost._drivers.asyncpg import AsyncpgDriver
from roost._drivers.psycopg_anyio import PsycopgDriver
from roost.exceptions import DatabaseError

pytestmark = pytest.mark.anyio

LOGIN = [
    ("28P01", 'password authentication failed for user "app"'),
    ("28000", 'no pg_hba.conf entry for host "10.0.0.1", user "app", database "d"'),
    ("3D000", 'database "d" does not exist'),
]
POOLERS = [
    ("XX000", "Tenant or user not found"),
    ("58000", "server conn crashed?"),
    ("08P01", "server login failed: FATAL the database system is shutting down"),
    ("08006", "connection lost"),
    ("53300", "sorry, too many clients already"),
    ("57P03", "the database system is starting up"),
]
OF_STATEMENTS = [
    ("25006", "cannot execute UPDATE in a read-only transaction"),
    ("25P03", "terminating connection due to idle-in-transaction timeout"),
    ("25P04", "terminating connection due to transaction timeout"),
    ("53100", "could not extend file: No space left on device"),
    ("53200", "out of memory"),
    ("40P01", "deadlock detected"),
    ("26000", 'prepared statement "s" does not exist'),
    ("42P05", 'prepared statement "s" already exists'),
    # The severity says that the server closed the connection, whatever the code is.
    ("42501", "permission denied, said the firewall"),
]
OUTLIVED = [LOGIN[0], POOLERS[0], POOLERS[2], OF_STATEMENTS[0], OF_STATEMENTS[2]]


@pytest.fixture(params=["psycopg", "asyncpg"])
def driver(request: pytest.FixtureRequest, anyio_backend_name: str) -> str:
    if request.param == "asyncpg" and anyio_backend_name == "trio":
        pytest.skip("asyncpg is for asyncio")
    return str(request.param)


@contextlib.contextmanager
def refusing(dsn: str) -> Iterator[tuple[RefusingProxy, str]]:
    """Yield a proxy to the server of ``dsn``, and the DSN that leads through it."""
    given = conninfo_to_dict(dsn)
    host, port = str(given.get("host") or "127.0.0.1"), int(given.get("port") or 5432)
    with refusing_proxy_to(host, port) as proxy:
        user, name = given.get("user", "postgres"), given["dbname"]
        yield proxy, f"postgresql://{user}@127.0.0.1:{proxy.port}/{name}?sslmode=disable"


def make_driver(name: str, dsn: str) -> PsycopgDriver | AsyncpgDriver:
    return PsycopgDriver(dsn) if name == "psycopg" else AsyncpgDriver(dsn)


@pytest.mark.parametrize(("state", "message"), LOGIN, ids=[state for state, _ in LOGIN])
async def test_a_refused_login_is_final_at_first_and_temporary_later(
    dsn: str, driver: str, state: str, message: str
) -> None:
    with refusing(dsn) as (proxy, through):
        made = make_driver(driver, through)
        proxy.refuse(state, message)
        with pytest.raises(DatabaseError) as first:
            await made.connect()
        assert not isinstance(first.value, DatabaseUnavailableError)
        proxy.forward()
        (await made.connect()).terminate()
        proxy.refuse(state, message)
        with pytest.raises(DatabaseUnavailableError, match=message.replace("(", ".")) as later:
            await made.connect()
        assert first.value.sqlstate == later.value.sqlstate == state


@pytest.mark.parametrize(("state", "message"), POOLERS, ids=[state for state, _ in POOLERS])
async def test_a_failure_of_the_pooler_is_temporary_from_the_first_connection(
    dsn: str, driver: str, state: str, message: str
) -> None:
    with refusing(dsn) as (proxy, through):
        proxy.refuse(state, message)
        with pytest.raises(DatabaseUnavailableError):
            await make_driver(driver, through).connect()


@pytest.mark.parametrize("severity", ["ERROR", "FATAL"])
async def test_a_refusal_in_answer_to_a_statement_is_temporary(
    dsn: str, driver: str, severity: str
) -> None:
    with refusing(dsn) as (proxy, through):
        for state, message in [*LOGIN, *POOLERS, *OF_STATEMENTS]:
            if state == "42501" and severity == "ERROR":
                continue
            connection = await make_driver(driver, through).connect()
            proxy.refuse(state, message, severity=severity)
            with pytest.raises(DatabaseUnavailableError), anyio.fail_after(10):
                await connection.fetch(sql("select 1"))
            connection.terminate()
            proxy.forward()


@pytest.mark.parametrize(("state", "message"), OUTLIVED, ids=[state for state, _ in OUTLIVED])
@pytest.mark.parametrize("severity", ["ERROR", "FATAL"])
async def test_a_worker_survives_refusals_and_repeats_no_job(
    dsn: str,
    table: JobTable,
    registry: HandlerRegistry,
    driver: str,
    state: str,
    message: str,
    severity: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    started, may_end, runs = anyio.Event(), anyio.Event(), [0]

    @job("work", registry=registry)
    async def work() -> str:
        runs[0] += 1
        started.set()
        await may_end.wait()
        return "done"

    job_id = table.add("work")
    caplog.set_level(logging.WARNING)
    with refusing(dsn) as (proxy, through):
        worker = Worker(
            through,
            registry=registry,
            driver=driver,
            poll_interval=0.05,
            heartbeat_interval=0.2,
            orphan_stale_after=60,
            listen_reconnect_delay=0.05,
        )
        async with working(worker):
            await started.wait()
            proxy.refuse(state, message, severity=severity)
            may_end.set()
            await eventually(lambda: proxy.refused > 5, within=30)
            assert table.get(job_id).state == "executing"
            proxy.forward()
            await eventually(lambda: table.get(job_id).state == "completed", within=30)
            second = table.add("work")
            await eventually(lambda: table.get(second).state == "completed", within=30)
    assert runs == [2]
    assert table.get(job_id).attempt == 1
    assert table.get(job_id).errors == []
    assert message in caplog.text


@pytest.fixture
def set_read_only(dsn: str, table: JobTable) -> Iterator[Callable[[str], None]]:
    """Yield a function that makes the test's database read-only or not, and ends its sessions."""
    name = conninfo_to_dict(dsn)["dbname"]
    own = table.value("select pg_backend_pid()")
    with psycopg.connect(make_conninfo(dsn, dbname="postgres"), autocommit=True) as admin:

        def switch(value: str) -> None:
            admin.execute(f'alter database "{name}" set default_transaction_read_only = {value}')
            # A session keeps the setting it began with. A failover ends the sessions.
            admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = %s and pid <> %s",
                [name, own],
            )

        yield switch
        switch("off")


async def test_a_read_only_server_is_a_temporary_error(
    dsn: str,
    table: JobTable,
    registry: HandlerRegistry,
    driver: str,
    set_read_only: Callable[[str], None],
) -> None:
    started, may_end, runs = anyio.Event(), anyio.Event(), [0]

    @job("work", registry=registry)
    async def work() -> None:
        runs[0] += 1
        started.set()
        await may_end.wait()

    job_id = table.add("work")
    client = AsyncRoost(dsn, registry=registry, driver=driver)
    worker = client.worker(poll_interval=0.05, heartbeat_interval=0.2, orphan_stale_after=60)
    async with client, working(worker):
        await started.wait()
        set_read_only("on")
        may_end.set()
        refusal = await _refusal_of_enqueue(client, work)
        assert refusal.sqlstate == "25006"
        assert "read-only" in str(refusal)
        assert await client.status(job_id) == "executing"
        set_read_only("off")
        await eventually(lambda: table.get(job_id).state == "completed", within=30)
    assert runs == [1]
    assert table.get(job_id).attempt == 1


async def _refusal_of_enqueue(client: AsyncRoost, task: object) -> DatabaseUnavailableError:
    for _ in range(100):
        try:
            await client.enqueue(task)  # type: ignore[arg-type]
        except DatabaseUnavailableError as error:
            # The first attempt may find only that its connection was ended.
            if error.sqlstate == "25006":
                return error
    raise AssertionError("the server was never read-only")


async def test_a_connection_to_a_server_that_takes_no_writes_is_dropped(
    dsn: str, driver: str
) -> None:
    pool = make_driver(driver, dsn).pool(max_size=1)
    async with pool.acquire() as standby:
        await standby.fetch(sql("set default_transaction_read_only = on"))
        with pytest.raises(DatabaseUnavailableError, match="read-only"):
            await standby.fetch(sql("create table t ()"))
        assert not standby.is_idle()
    async with pool.acquire() as primary:
        await primary.fetch(sql("create table t ()"))
    await pool.aclose()
