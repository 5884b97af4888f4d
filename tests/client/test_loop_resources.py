"""One `AsyncRoost` in several event loops: one after the other, in threads, after a fork."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from tests.support.conformance.cases import until
from tests.support.job_table import JobTable

from roost import (
    AsyncRoost,
    ClosedError,
    DatabaseUnavailableError,
    JobNotFoundError,
    JobTimeoutError,
    RoostError,
)

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

LOOPS = [
    pytest.param("psycopg", "asyncio", {}, id="psycopg-asyncio"),
    pytest.param("psycopg", "asyncio", {"use_uvloop": True}, id="psycopg-uvloop"),
    pytest.param("psycopg", "trio", {}, id="psycopg-trio"),
    pytest.param("asyncpg", "asyncio", {}, id="asyncpg-asyncio"),
    pytest.param("asyncpg", "asyncio", {"use_uvloop": True}, id="asyncpg-uvloop"),
]


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Yield the DSN of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"postgresql://postgres@127.0.0.1:{server.getsockname()[1]}/none"


@pytest.mark.parametrize(("driver", "backend", "options"), LOOPS)
def test_a_client_works_in_the_next_loop_and_leaves_nothing_in_the_last(
    dsn: str, table: JobTable, driver: str, backend: str, options: dict[str, object]
) -> None:
    client = AsyncRoost(dsn, driver=driver)
    ids: list[int] = []

    async def use() -> None:
        ids.append(await client.enqueue("work", args={"n": len(ids)}))
        ids.extend([i for i in await client.enqueue_all(["work", "work"]) if i])
        with pytest.raises(JobTimeoutError):
            await client.wait_for(ids[0], timeout=0.05)

    for _ in range(4):
        anyio.run(use, backend=backend, backend_options=options)
        until(lambda: table.connections("roost") + table.connections("roost wait") == 0)
    assert len(set(ids)) == 12
    assert table.states() == {"available": 12}


def test_one_client_works_on_asyncio_and_trio_loops(dsn: str, table: JobTable) -> None:
    client = AsyncRoost(dsn)
    for backend in ("asyncio", "trio", "asyncio", "trio"):
        anyio.run(client.enqueue, "work", backend=backend)
    assert table.states() == {"available": 4}


JUST_CLOSED = """
    import asyncio, sys
    import roost
    client = roost.AsyncRoost(sys.argv[1], driver=sys.argv[2])
    for _ in range(30):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(client.enqueue("work"))
        loop.close()  # without loop.shutdown_asyncgens()
    print(input(), flush=True)
    asyncio.run(client.enqueue("work"))
    print(input(), flush=True)
"""


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_the_connections_of_a_loop_closed_abruptly_are_dropped_on_the_next_use(
    dsn: str, table: JobTable, tmp_path: Path, driver: str
) -> None:
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(JUST_CLOSED))
    command = [sys.executable, str(path), dsn, driver]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        until(lambda: table.states() == {"available": 30}, within=60)
        until(lambda: table.connections("roost") == 1)
        program.stdin.write("go on\n")
        program.stdin.flush()
        assert program.stdout.readline() == "go on\n"
        until(lambda: table.connections("roost") == 0)
        program.communicate("end\n", timeout=60)
    assert program.returncode == 0
    assert table.states() == {"available": 31}


@pytest.mark.parametrize(("driver", "backend", "options"), LOOPS)
def test_sixteen_threads_with_loops_of_their_own_work_at_once(
    dsn: str, table: JobTable, driver: str, backend: str, options: dict[str, object]
) -> None:
    client = AsyncRoost(dsn, driver=driver)
    together = threading.Barrier(16)
    got: list[tuple[int, int]] = []

    def view(number: int) -> None:
        together.wait(60)
        for n in range(3):
            job_id = anyio.run(enqueue, 100 * number + n, backend=backend, backend_options=options)
            got.append((job_id, 100 * number + n))

    async def enqueue(n: int) -> int:
        return await client.enqueue("work", args={"n": n})

    threads = [threading.Thread(target=view, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(got) == 48
    rows: dict[int, int] = dict(table.rows("select id, (args ->> 'n')::int from roost.jobs"))
    assert rows == dict(got)


@pytest.mark.parametrize(("driver", "backend", "options"), LOOPS)
def test_a_client_that_was_closed_in_one_loop_is_closed_in_all(
    dsn: str, table: JobTable, driver: str, backend: str, options: dict[str, object]
) -> None:
    client = AsyncRoost(dsn, driver=driver)
    in_use, closed = threading.Event(), threading.Event()

    async def use() -> None:
        await client.enqueue("work")
        in_use.set()
        await anyio.to_thread.run_sync(closed.wait, 60)
        with pytest.raises(ClosedError):
            await client.enqueue("work")

    thread = threading.Thread(
        target=lambda: anyio.run(use, backend=backend, backend_options=options)
    )
    thread.start()
    assert in_use.wait(60)
    anyio.run(client.close, backend=backend, backend_options=options)
    closed.set()
    thread.join(60)
    until(lambda: table.connections("roost") == 0)
    assert table.states() == {"available": 1}


FORKING = """
    import os, sys, anyio
    import roost
    dsn, driver, backend = sys.argv[1:]
    client = roost.AsyncRoost(dsn, driver=driver)

    async def use(who):
        for number in range(20):
            args = {"who": who, "number": number}
            job = await client.get(await client.enqueue("t", args=args))
            assert job.args == args, (job.args, args)
        try:
            await client.wait_for(job.id, timeout=0.2)
        except roost.JobTimeoutError:
            pass

    anyio.run(use, 0, backend=backend)
    children = []
    for who in (1, 2, 3):
        pid = os.fork()
        if not pid:
            anyio.run(use, who, backend=backend)
            anyio.run(client.close, backend=backend)
            os._exit(0)
        children.append(pid)
    anyio.run(use, 4, backend=backend)
    codes = [os.waitpid(pid, 0)[1] for pid in children]
    anyio.run(use, 5, backend=backend)
    assert codes == [0, 0, 0], codes
"""

FORKING_INSIDE = """
    import asyncio, os, sys
    import roost
    dsn, driver = sys.argv[1:3]
    client = roost.AsyncRoost(dsn, driver=driver)

    async def use(who):
        for number in range(20):
            args = {"who": who, "number": number}
            job = await client.get(await client.enqueue("t", args=args))
            assert job.args == args, (job.args, args)

    async def main():
        await use(0)
        async with client.transaction() as conn:
            pid = os.fork()
            if not pid:
                try:
                    asyncio.run(use(1))
                    os._exit(0)
                finally:
                    os._exit(1)
            await use(2)
            await client.enqueue("t", conn=conn)
        assert os.waitpid(pid, 0)[1] == 0
        await use(3)

    asyncio.run(main())
"""


def run(program: str, *args: str, folder: Path) -> None:
    path = folder / "program.py"
    path.write_text(textwrap.dedent(program))
    command = [sys.executable, "-W", "error", str(path), *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@needs_fork
@pytest.mark.parametrize(
    ("driver", "backend"), [("psycopg", "asyncio"), ("psycopg", "trio"), ("asyncpg", "asyncio")]
)
def test_a_forked_process_has_connections_of_its_own(
    dsn: str, table: JobTable, tmp_path: Path, driver: str, backend: str
) -> None:
    run(FORKING, dsn, driver, backend, folder=tmp_path)
    assert table.states() == {"available": 120}


@needs_fork
@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_a_process_may_be_forked_in_a_running_loop(
    dsn: str, table: JobTable, tmp_path: Path, driver: str
) -> None:
    run(FORKING_INSIDE, dsn, driver, folder=tmp_path)
    assert table.states() == {"available": 81}


@pytest.mark.parametrize(("driver", "backend", "options"), LOOPS)
def test_a_wait_with_timeout_zero_queries_once(
    dsn: str, table: JobTable, driver: str, backend: str, options: dict[str, object]
) -> None:
    async def use() -> None:
        async with AsyncRoost(dsn, driver=driver) as client:
            job_id = table.add()
            with pytest.raises(JobTimeoutError):
                await client.wait_for(job_id, timeout=0)
            await client.cancel(job_id)
            outcome = await client.wait_for(job_id, timeout=0, raise_on_failure=False)
            assert outcome.state == "cancelled"
            with pytest.raises(JobNotFoundError):
                await client.wait_for(987654, timeout=0)

    anyio.run(use, backend=backend, backend_options=options)


@pytest.mark.parametrize(("driver", "backend", "options"), LOOPS)
@pytest.mark.parametrize("timeout", [0, 1])
def test_a_wait_for_a_silent_server_ends_in_time(
    silent_server: str, driver: str, backend: str, options: dict[str, object], timeout: float
) -> None:
    took: list[float] = []

    async def wait(client: AsyncRoost) -> None:
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailableError):
            await client.wait_for(1, timeout=timeout, poll_interval=0.2)
        took.append(time.monotonic() - began)

    async def use() -> None:
        client = AsyncRoost(silent_server, driver=driver)
        async with client, anyio.create_task_group() as group:
            for _ in range(12):
                group.start_soon(wait, client)

    anyio.run(use, backend=backend, backend_options=options)
    assert len(took) == 12
    assert max(took) < 5, took


def test_asyncpg_on_trio_is_a_typed_error(dsn: str) -> None:
    client = AsyncRoost(dsn, driver="asyncpg")
    asyncio.run(client.enqueue("work"))
    with pytest.raises(RoostError, match="asyncio only"):
        anyio.run(client.enqueue, "work", backend="trio")
