"""The blocking client survives raising signal handlers, forks, locks and dead servers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
from tests.support.conformance.cases import until
from tests.support.job_table import JobTable

from roost import DatabaseUnavailableError, JobNotFoundError, JobTimeoutError, Roost, RoostError
from roost._client import calls, reading_calls
from roost._drivers.base import run_sync
from roost._drivers.psycopg_sync import PsycopgSyncDriver

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@pytest.fixture
def client(dsn: str) -> Iterator[Roost]:
    with Roost(dsn) as client:
        yield client


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Yield the DSN of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"postgresql://postgres@127.0.0.1:{server.getsockname()[1]}/none"


def run(program: str, *args: str, folder: Path, seconds: float = 60) -> str:
    """Run a program in another process and return its output."""
    path = folder / "program.py"
    path.write_text(textwrap.dedent(program))
    command = [sys.executable, "-W", "error", str(path), *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Deadlines.


def test_a_statement_that_is_not_answered_in_time_is_cancelled_on_the_server(
    dsn: str, table: JobTable
) -> None:
    pool = PsycopgSyncDriver(dsn).pool(max_size=1)
    with psycopg.connect(dsn) as blocker:
        blocker.execute("lock table roost.jobs in access exclusive mode")
        with pool.acquire() as connection:
            began = time.monotonic()
            with pytest.raises(DatabaseUnavailableError, match=r"did not answer within 0\.2 s"):
                run_sync(connection, reading_calls.get(1).operation, timeout=0.2)
            assert 0.2 <= time.monotonic() - began < 5
        until(lambda: table.connections("roost") == 0)
    with pool.acquire(timeout=5) as connection, pytest.raises(JobNotFoundError):
        run_sync(connection, reading_calls.get(1).operation)
    pool.close()


@pytest.mark.parametrize("verb", ["enqueue", "unique", "get", "cancel", "depends_on", "wait_for"])
def test_every_call_ends_behind_a_locked_table(
    client: Roost, dsn: str, brief: None, verb: str
) -> None:
    job_id = client.enqueue("work")
    with psycopg.connect(dsn) as blocker:
        blocker.execute("lock table roost.jobs in access exclusive mode")
        verbs: dict[str, Callable[[], object]] = {
            "enqueue": lambda: client.enqueue("work"),
            "unique": lambda: client.enqueue("work", unique_key="k"),
            "get": lambda: client.get(job_id),
            "cancel": lambda: client.cancel(job_id),
            "depends_on": lambda: client.enqueue("work", depends_on=[job_id]),
            "wait_for": lambda: client.wait_for(job_id, timeout=0.5),
        }
        began = time.monotonic()
        with pytest.raises((DatabaseUnavailableError, JobTimeoutError)):
            verbs[verb]()
        assert time.monotonic() - began < 10
    assert client.get(job_id).state == "available"


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each call half a second instead of thirty."""
    construct: Callable[..., None] = cast(Any, calls.DatabaseCall).__init__

    def construct_brief(*args: object, **kwargs: object) -> None:
        construct(*args, **{**kwargs, "timeout": 0.5})

    monkeypatch.setattr(calls.DatabaseCall, "__init__", construct_brief)


def test_an_enqueue_in_the_callers_transaction_ends_too(
    client: Roost, dsn: str, brief: None
) -> None:
    with psycopg.connect(dsn) as blocker, psycopg.connect(dsn) as conn:
        blocker.execute("lock table roost.jobs in access exclusive mode")
        with pytest.raises(DatabaseUnavailableError, match=r"did not answer within 0\.5 s"):
            client.enqueue("work", conn=conn)
        conn.rollback()
        assert conn.execute("select 1").fetchone() == (1,)


def test_threads_that_wait_for_a_silent_server_end_in_time(
    silent_server: str,
) -> None:
    took: list[float] = []

    def wait() -> None:
        began = time.monotonic()
        with pytest.raises(RoostError):
            roost.wait_for(1, timeout=1, poll_interval=0.2)
        took.append(time.monotonic() - began)

    with Roost(silent_server) as roost:
        threads = [threading.Thread(target=wait) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(took) == 12
    assert max(took) < 5, took


def test_a_wait_with_timeout_zero_queries_once(client: Roost, table: JobTable) -> None:
    job_id = table.add()
    with pytest.raises(JobTimeoutError):
        client.wait_for(job_id, timeout=0)
    client.cancel(job_id)
    assert client.wait_for(job_id, timeout=0, raise_on_failure=False).state == "cancelled"
    with pytest.raises(JobNotFoundError):
        client.wait_for(987654, timeout=0)
    assert table.connections("roost wait") == 0


# Exceptions of signal handlers.


INTERRUPTED = """
    import json, random, signal, sys, time
    from roost import *

    class Soft(Exception):
        pass

    error = {"Soft": Soft, "KeyboardInterrupt": KeyboardInterrupt}[sys.argv[2]]

    def late(*_):
        raise error("late")

    signal.signal(signal.SIGALRM, late)
    client, got, kept, number = Roost(sys.argv[1]), [], [], 0
    waited = client.enqueue("waited")
    end = time.monotonic() + float(sys.argv[3])
    while time.monotonic() < end:
        number += 1
        try:
            signal.setitimer(signal.ITIMER_REAL, random.choice([random.uniform(0.0001, 0.01), 0.2]))
            try:
                if number % 4:
                    got.append([client.enqueue("x", args={"n": number}), number])
                elif number % 8:
                    client.enqueue("child", depends_on=[waited])
                else:
                    client.wait_for(waited, timeout=0.05)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except BaseException:
            pass
    signal.setitimer(signal.ITIMER_REAL, 0)
    began = time.monotonic()
    for _ in range(20):
        client.enqueue("last")
    assert time.monotonic() - began < 20
    client.cancel(waited)
    assert client.wait_for(waited, timeout=10, raise_on_failure=False).state == "cancelled"
    client.close()
    print(json.dumps([number, got]))
"""


@pytest.mark.parametrize("error", ["Soft", "KeyboardInterrupt"])
def test_thousands_of_interrupted_calls_leave_the_client_usable(
    dsn: str, table: JobTable, tmp_path: Path, error: str
) -> None:
    number, got = json.loads(run(INTERRUPTED, dsn, error, "6", folder=tmp_path))
    assert number > 20
    rows: dict[int, int] = dict(
        table.rows("select id, (args ->> 'n')::int from roost.jobs where task = 'x'")
    )
    assert got
    assert [rows[job_id] for job_id, _ in got] == [n for _, n in got]
    until(lambda: table.connections("roost") == 0)


def test_an_interrupted_connection_is_not_used_again(dsn: str, table: JobTable) -> None:
    pool = PsycopgSyncDriver(dsn).pool(max_size=1)
    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error), pool.acquire(timeout=5):
            raise error
        until(lambda: table.connections("roost") == 0)
    pool.close()


def test_a_pool_slot_of_an_interrupted_caller_is_freed(dsn: str) -> None:
    """As after an exception between ``__enter__`` and the body of a ``with``."""
    pool = PsycopgSyncDriver(dsn).pool(max_size=1)
    for _ in range(3):
        pool.acquire(timeout=5).__enter__()
    with pool.acquire(timeout=5):
        pass
    pool.close()


# Forks.


WAITING_FORK = """
    import os, sys, threading, time, warnings
    import roost
    warnings.simplefilter("ignore")  # about forking with threads, which is tested here
    dsn, moment = sys.argv[1:3]
    client = roost.Roost(dsn)
    first, second = client.enqueue("t"), client.enqueue("t")

    def wait():
        try:
            client.wait_for(first, timeout=8, poll_interval=5, raise_on_failure=False)
        except roost.JobTimeoutError:
            print("parent timed out", flush=True)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(float(moment))  # sleeps: the moment of the fork is varied
    children = []
    for number in range(3):
        pid = os.fork()
        if not pid:
            began = time.monotonic()
            try:
                client.wait_for(second, timeout=1, poll_interval=0.3)
            except roost.JobTimeoutError:
                pass
            assert client.get(second).id == second
            client.close()
            os._exit(0 if time.monotonic() - began < 10 else 1)
        children.append(pid)
    codes = [os.waitpid(pid, 0)[1] for pid in children]
    with roost.Roost(dsn) as other:
        other.cancel(first)
    thread.join(10)
    assert not thread.is_alive() and codes == [0, 0, 0], codes
"""


@needs_fork
@pytest.mark.parametrize("moment", [0.0, 0.003, 0.01, 0.3])
def test_a_forked_process_waits_on_a_connection_of_its_own(
    dsn: str, tmp_path: Path, moment: float
) -> None:
    assert "timed out" not in run(WAITING_FORK, dsn, str(moment), folder=tmp_path)


FORK_IN_USE = """
    import os, sys, threading
    from roost._drivers.psycopg_sync import PsycopgSyncDriver
    from roost._ops.query import Query
    from roost._sql import Statement
    from roost.exceptions import DatabaseUnavailableError
    pool = PsycopgSyncDriver(sys.argv[1]).pool(max_size=2)
    pid_of = Query(Statement("t", "select pg_backend_pid()"))
    with pool.acquire() as idle:
        parents = idle.fetch(pid_of)
    with pool.acquire() as connection, connection.transaction():
        connection.fetch(pid_of)
        if not os.fork():
            try:
                connection.fetch(pid_of)
            except DatabaseUnavailableError:
                connection.close()
                seen = []

                def use():
                    with pool.acquire(timeout=10) as own:
                        seen.append(own.fetch(pid_of))

                threads = [threading.Thread(target=use) for _ in range(4)]
                for thread in threads: thread.start()
                for thread in threads: thread.join()
                assert len(seen) == 4 and parents not in seen, seen
                os._exit(7)
        _, status = os.wait()
        assert os.waitstatus_to_exitcode(status) == 7, status
        assert connection.fetch(pid_of) == parents
    with pool.acquire() as connection:
        assert connection.fetch(pid_of) == parents
"""


@needs_fork
def test_a_child_never_touches_a_connection_of_its_parent(dsn: str, tmp_path: Path) -> None:
    run(FORK_IN_USE, dsn, folder=tmp_path)


PREFORK = """
    import multiprocessing, sys
    import roost
    client = roost.Roost(sys.argv[1])

    def work(number):
        return [client.enqueue("x", args={"n": number}) for _ in range(5)]

    if __name__ == "__main__":
        client.enqueue("parent")
        with multiprocessing.get_context("fork").Pool(3) as workers:
            ids = [job_id for ids in workers.map(work, range(12)) for job_id in ids]
        assert len(set(ids)) == 60
        client.enqueue("parent")
"""


@needs_fork
def test_forked_workers_of_multiprocessing_share_the_parents_client(
    dsn: str, table: JobTable, tmp_path: Path
) -> None:
    run(PREFORK, dsn, folder=tmp_path)
    assert table.states() == {"available": 62}
