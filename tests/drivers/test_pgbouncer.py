"""Behind PgBouncer in transaction mode clients enqueue, and workers find jobs by polling.

Debian's PgBouncer is older than 1.21 and does not support prepared statements. The DSN may say so,
or Roost detects it.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
import pytest
from tests.support.conformance.cases import eventually, until
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import (
    AsyncRoost,
    DatabaseError,
    DatabaseUnavailableError,
    HandlerRegistry,
    JobInsert,
    Roost,
    Worker,
    job,
)
from roost._drivers.psycopg_common.parameters import connection_parameters
from roost._worker.lanes import listen

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")

CONFIG = """
[databases]
* = host={host} port={port} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen_port}
unix_socket_dir =
auth_type = any
pool_mode = {pool_mode}
default_pool_size = 3
ignore_startup_parameters = extra_float_digits
logfile = {log}
pidfile =
"""


@pytest.fixture(params=["?statement_cache_size=0", ""], ids=["cache off", "cache on"])
def pooled_dsn(dsn: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """Yield a DSN that leads through PgBouncer to the test's database."""
    with pgbouncer(dsn, "transaction") as through:
        yield f"{through}{request.param}"


@contextmanager
def pgbouncer(dsn: str, pool_mode: str) -> Iterator[str]:
    if PROGRAM is None:
        pytest.skip("pgbouncer is not installed (Debian: apt-get install pgbouncer)")
    parts = urlsplit(dsn)
    query = parse_qs(parts.query)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        listen_port = free.getsockname()[1]
    # PgBouncer refuses to run as root. So it runs as the owner of the server's socket, who must be
    # able to read its files.
    own = Path(os.environ.get("TMPDIR", "/tmp")) / f"roost-pgbouncer-{os.getpid()}-{listen_port}"
    own.mkdir(mode=0o777)
    own.chmod(0o777)
    config = own / "pgbouncer.ini"
    host = query.get("host", [parts.hostname or "127.0.0.1"])[0]
    port = query.get("port", [str(parts.port or 5432)])[0]
    config.write_text(
        CONFIG.format(
            host=host,
            port=port,
            user=parts.username or "postgres",
            listen_port=listen_port,
            log=own / "log",
            pool_mode=pool_mode,
        )
    )
    run_as: dict[str, Any] = {}
    if os.geteuid() == 0:
        owner = Path(host).stat().st_uid if host.startswith("/") else 0
        run_as = {"user": owner or "nobody", "extra_groups": []}
    with subprocess.Popen(
        [PROGRAM, str(config)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **run_as,
    ) as process:
        try:
            wait_for_port(listen_port, process)
            yield (
                f"postgresql://{parts.username or 'postgres'}@127.0.0.1:{listen_port}{parts.path}"
            )
        finally:
            process.terminate()
            process.wait(10)
            shutil.rmtree(own)


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    def is_open() -> bool:
        assert process.poll() is None, "pgbouncer has ended"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return False
        return True

    until(is_open)


def test_the_blocking_client_enqueues_from_many_threads(pooled_dsn: str, table: JobTable) -> None:
    with Roost(pooled_dsn) as client, ThreadPoolExecutor(8) as threads:
        ids = list(threads.map(lambda n: client.enqueue("work", args={"n": n}), range(80)))
        assert client.enqueue("child", depends_on=ids[:2]) > 0
        assert client.get(ids[0]).args == {"n": 0}
    assert table.states() == {"available": 81}


@pytest.mark.anyio
@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
async def test_the_async_client_enqueues_and_a_worker_finds_the_jobs(
    pooled_dsn: str,
    table: JobTable,
    registry: HandlerRegistry,
    driver: str,
    anyio_backend_name: str,
) -> None:
    if driver == "asyncpg" and anyio_backend_name == "trio":
        pytest.skip("asyncpg is for asyncio")

    @job("work", registry=registry)
    async def work(n: int) -> int:
        return n + 1

    client = AsyncRoost(pooled_dsn, registry=registry, driver=driver)
    async with client, working(client.worker(poll_interval=0.1, concurrency=10)):
        async with anyio.create_task_group() as group:
            for number in range(30):
                group.start_soon(partial(client.enqueue, work, args={"n": number}))
        async with client.transaction() as conn:
            await client.enqueue_many([JobInsert("work", {"n": n}) for n in range(20)], conn=conn)
            job_id = await client.enqueue(work, args={"n": 6}, conn=conn)
        outcome = await client.wait_for(job_id, timeout=20, poll_interval=0.1)
        assert outcome.result == 7
        assert (await client.explain(job_id)).reason == "ended"
        assert len(await client.list_jobs()) == 50
        await eventually(lambda: table.states() == {"completed": 51})


@pytest.mark.anyio
async def test_a_worker_detects_that_no_notifications_arrive_and_polls(
    pooled_dsn: str,
    table: JobTable,
    registry: HandlerRegistry,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(listen, "PROBE_TIMEOUT", 0.5)
    started = anyio.Event()

    @job("long", registry=registry)
    async def long() -> None:
        started.set()
        await anyio.sleep_forever()

    client = AsyncRoost(pooled_dsn, registry=registry)
    worker = client.worker(poll_interval=0.1, heartbeat_interval=100)
    with anyio.fail_after(20):
        async with client, working(worker):
            job_id = await client.enqueue(long)
            await started.wait()
            await eventually(lambda: "notifications don't arrive" in caplog.text)
            # Waiting for the next heartbeat would take 100 s.
            assert await client.cancel(job_id)
            await eventually(lambda: table.get(job_id).state == "cancelled")


@pytest.mark.anyio
@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
async def test_many_clients_share_few_connections_and_none_fails(
    pooled_dsn: str, table: JobTable, driver: str, anyio_backend_name: str
) -> None:
    if driver == "asyncpg" and anyio_backend_name == "trio":
        pytest.skip("asyncpg is for asyncio")

    async def enqueue_some() -> None:
        async with AsyncRoost(pooled_dsn, driver=driver) as client:
            for number in range(12):
                parent = await client.enqueue("work", args={"n": number})
                await client.enqueue("work", depends_on=[parent])
                await client.enqueue_many([JobInsert("work", {"n": n}) for n in range(3)])
                assert (await client.get(parent)).args == {"n": number}

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(enqueue_some)
    assert table.states() == {"available": 5 * 12 * 5}


@pytest.mark.anyio
@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
async def test_statement_pooling_is_refused_at_once(
    dsn: str, registry: HandlerRegistry, driver: str, anyio_backend_name: str
) -> None:
    if driver == "asyncpg" and anyio_backend_name == "trio":
        pytest.skip("asyncpg is for asyncio")
    with pgbouncer(dsn, "statement") as through, anyio.fail_after(20):
        with pytest.raises(DatabaseError, match="Roost needs transactions") as refusal:
            await Worker(through, registry=registry, driver=driver).run()
        assert not isinstance(refusal.value, DatabaseUnavailableError)
        async with AsyncRoost(through, driver=driver) as client:
            with pytest.raises(DatabaseError, match="Roost needs transactions"):
                await client.setup_schema()


@pytest.mark.parametrize(
    ("dsn", "prepared"),
    [
        ("postgresql://h/d?statement_cache_size=0", False),
        ("postgresql://h/d?statement_cache_size=0&connect_timeout=3", False),
        ("postgresql://h/d?connect_timeout=3&statement_cache_size=0", False),
        ("postgresql://h/d?connect_timeout=3&statement_cache_size=100", True),
        ("host=h statement_cache_size=0 dbname=d connect_timeout=3", False),
        ("host=h dbname=d connect_timeout=3", True),
    ],
)
def test_a_dsn_says_whether_statements_are_prepared(dsn: str, *, prepared: bool) -> None:
    parameters = connection_parameters(dsn, application_name="test")
    assert ("prepare_threshold" not in parameters) is prepared
    assert (parameters["host"], parameters["dbname"]) == ("h", "d")
    assert parameters["connect_timeout"] == ("3" if "timeout" in dsn else "10")


@pytest.mark.parametrize(("pool_mode", "notified"), [("transaction", "note"), ("session", "ok")])
def test_the_doctor_sees_the_pooler(dsn: str, pool_mode: str, notified: str) -> None:
    with Roost(dsn) as client:
        direct = {finding.check: finding for finding in client.doctor()}
    with pgbouncer(dsn, pool_mode) as through, Roost(through) as client:
        found = {finding.check: finding for finding in client.doctor()}
    assert (direct["pooler"].level, found["pooler"].level) == ("ok", "note")
    assert (direct["notifications"].level, found["notifications"].level) == ("ok", notified)
    assert set(found) == set(direct)
    assert not any(finding.data.get("unseen") for finding in found.values())
