"""`Roost`: its verbs, many threads, forks, and lost connections."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest
from tests.support.conformance.cases import until
from tests.support.job_table import JobTable

from roost import (
    AsyncRoost,
    ClosedError,
    CronNotFoundError,
    DatabaseUnavailableError,
    DuplicateUniqueJobError,
    HandlerRegistry,
    InvalidJobError,
    InvalidSettingError,
    JobInsert,
    JobNotFoundError,
    JobState,
    Roost,
    UnknownParentError,
    call,
    cron,
    job,
)


@pytest.fixture
def client(dsn: str, registry: HandlerRegistry) -> Iterator[Roost]:
    """Yield a blocking client."""
    with Roost(dsn, registry=registry) as client:
        yield client


@pytest.fixture
def declared(registry: HandlerRegistry) -> Callable[..., Any]:
    @job("declared", queue="slow", priority=7, max_attempts=3, registry=registry)
    def declared(n: int = 0) -> int:
        return n

    return declared


def work_off(dsn: str, registry: HandlerRegistry, *queues: str) -> int:
    """Run the available jobs."""

    async def run() -> int:
        async with AsyncRoost(dsn, registry=registry) as client:
            return await client.worker(queues=queues or ("default",)).run_once()

    return anyio.run(run)


def test_the_schema_is_applied_once(empty_dsn: str) -> None:
    with Roost(empty_dsn) as client:
        client.setup_schema()
        client.setup_schema()
        assert client.enqueue("work") == 1


def test_the_schema_can_be_part_of_a_transaction(empty_dsn: str) -> None:
    with Roost(empty_dsn) as client, psycopg.connect(empty_dsn) as conn:
        client.setup_schema(conn)
        client.enqueue("work", conn=conn)
        conn.rollback()
        assert conn.execute("select to_regnamespace('roost')").fetchone() == (None,)


def test_enqueue_fills_in_the_tasks_defaults(client: Roost, declared: Callable[..., Any]) -> None:
    for task in (declared, "declared", call(declared, n=1)):
        row = client.get(client.enqueue(task))
        assert (row.task, row.queue, row.priority, row.max_attempts) == ("declared", "slow", 7, 3)
    row = client.get(client.enqueue(declared, queue="default", priority=0, tags=["a"]))
    assert (row.queue, row.priority, row.max_attempts, row.tags) == ("default", 0, 3, ["a"])


def test_several_jobs_at_once(client: Roost, table: JobTable) -> None:
    jobs = [JobInsert("work", unique_key=key) for key in ("a", "b", "a")]
    first, second, third = client.enqueue_all(jobs)
    assert first is not None
    assert second is not None
    assert third is None
    assert client.enqueue_many(jobs) == 3
    assert client.enqueue_many([]) == 0
    assert client.enqueue_all([]) == []
    assert table.states() == {"available": 2}


def test_its_errors_are_those_of_the_async_client(client: Roost) -> None:
    client.enqueue("work", unique_key="key")
    with pytest.raises(DuplicateUniqueJobError):
        client.enqueue("work", unique_key="key")
    with pytest.raises(UnknownParentError):
        client.enqueue("work", depends_on=[987654])
    with pytest.raises(InvalidJobError):
        client.enqueue("work", args={"a": float("nan")})
    for verb in (client.get, client.status, client.cancel, client.retry):
        with pytest.raises(JobNotFoundError):
            verb(987654)
    for by_name in (client.pause_cron, client.resume_cron, client.run_cron_now):
        with pytest.raises(CronNotFoundError):
            by_name("none")


def test_jobs_are_cancelled_retried_and_read(client: Roost) -> None:
    job_id = client.enqueue("work")
    assert client.status(job_id) is JobState.AVAILABLE
    assert client.cancel(job_id)
    assert not client.cancel(job_id)
    assert client.status(job_id) is JobState.CANCELLED
    assert client.retry(job_id)
    assert client.get(job_id).state == "available"


def test_discarded_jobs_are_requeued(client: Roost, dsn: str, registry: HandlerRegistry) -> None:
    @job("fail", max_attempts=1, registry=registry)
    def fail() -> None:
        raise ValueError("no")

    ids = [client.enqueue(fail) for _ in range(3)]
    assert work_off(dsn, registry) == 3
    assert client.requeue_discarded(task="other") == 0
    assert client.requeue_discarded(queue="default", task="fail", limit=2) == 2
    assert sorted(client.status(job_id) for job_id in ids) == [
        "available",
        "available",
        "discarded",
    ]


def test_queues_are_paused_and_listed(
    client: Roost, dsn: str, registry: HandlerRegistry, declared: Callable[..., Any]
) -> None:
    job_id = client.enqueue(declared)
    client.pause_queue("slow")
    [queue] = client.list_queues()
    assert (queue.name, queue.available) == ("slow", 1)
    assert queue.paused_at is not None
    assert work_off(dsn, registry, "slow") == 0
    client.resume_queue("slow")
    assert work_off(dsn, registry, "slow") == 1
    assert client.status(job_id) is JobState.COMPLETED
    assert client.list_workers() == []


def test_cron_entries_are_listed_paused_and_run(
    client: Roost, dsn: str, registry: HandlerRegistry
) -> None:
    @cron("0 0 1 1 *", name="new year", handler_registry=registry)
    def new_year() -> None: ...

    async def declare() -> None:
        async with AsyncRoost(dsn, registry=registry) as other, anyio.create_task_group() as group:
            worker = other.worker()
            await group.start(worker.run)
            with anyio.fail_after(20):
                while not await other.list_cron():
                    await anyio.sleep(0.02)
            worker.request_stop()

    anyio.run(declare)
    client.pause_cron("new year")
    [entry] = client.list_cron()
    assert (entry.name, entry.paused_at is not None) == ("new year", True)
    client.resume_cron("new year")
    [entry] = client.list_cron()
    assert entry.paused_at is None
    assert client.get(client.run_cron_now("new year")).state == "available"


def test_twenty_threads_share_ten_connections(client: Roost, table: JobTable) -> None:
    most = []

    def enqueue(number: int) -> list[int]:
        ids = [client.enqueue("work", args={"n": number}) for _ in range(5)]
        most.append(client.get(ids[-1]).args["n"])
        return ids

    with ThreadPoolExecutor(20) as threads:
        ids = [job_id for ids in threads.map(enqueue, range(20)) for job_id in ids]
    assert len(set(ids)) == 100
    assert sorted(most) == list(range(20))
    assert table.states() == {"available": 100}
    assert 1 <= table.connections("roost") <= 10


def test_the_eleventh_caller_waits_for_a_connection(client: Roost, table: JobTable) -> None:
    """Ten threads wait for a locked table; the eleventh finishes after the lock is released."""
    with psycopg.connect(client_dsn(table)) as blocker:
        blocker.execute("lock table roost.jobs in exclusive mode")
        with ThreadPoolExecutor(11) as threads:
            calls = [threads.submit(client.enqueue, "work") for _ in range(11)]
            until(lambda: table.value(WAITING) == 10)
            assert table.connections("roost") == 10
            blocker.rollback()
            assert len({call.result(timeout=20) for call in calls}) == 11


WAITING = """
select count(*) from pg_stat_activity
where datname = current_database() and application_name = 'roost' and wait_event_type = 'Lock'
"""


def client_dsn(table: JobTable) -> str:
    return str(table.connection.raw.info.dsn)


def test_nothing_is_connected_before_the_first_call(dsn: str, table: JobTable) -> None:
    with Roost(dsn):
        assert table.connections("roost") == 0


def test_a_closed_client_has_no_connections_and_refuses_every_call(
    client: Roost, table: JobTable
) -> None:
    client.enqueue("work")
    assert table.connections("roost") == 1
    client.close()
    client.close()
    until(lambda: table.connections("roost") == 0)
    for refused in (
        lambda: client.enqueue("work"),
        lambda: client.enqueue_many([JobInsert("work")]),
        lambda: client.get(1),
        lambda: client.wait_for(1, timeout=5),
        client.setup_schema,
    ):
        with pytest.raises(ClosedError):
            refused()


def test_with_closes_the_client_also_after_an_error(dsn: str, table: JobTable) -> None:
    with pytest.raises(JobNotFoundError), Roost(dsn) as client:
        client.get(987654)
    until(lambda: table.connections("roost") == 0)


FORKING = """
import os, sys
from roost import Roost
client = Roost(sys.argv[1])
client.enqueue("parent")
children = []
for number in range(3):
    pid = os.fork()
    if not pid:
        for _ in range(5):
            client.enqueue("child", args={"n": number})
        client.close()
        os._exit(0)
    children.append(pid)
for _ in range(5):
    client.enqueue("parent")
codes = [os.waitpid(pid, 0)[1] for pid in children]
client.enqueue("parent")
assert codes == [0, 0, 0], codes
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_has_connections_of_its_own(
    dsn: str, table: JobTable, tmp_path: Path
) -> None:
    program = tmp_path / "forking.py"
    program.write_text(FORKING)
    command = [sys.executable, "-W", "error", str(program), dsn]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    rows: dict[str, int] = dict(table.rows("select task, count(*) from roost.jobs group by task"))
    assert rows == {"parent": 7, "child": 15}


TERMINATE = """
select pg_terminate_backend(pid, 5000) from pg_stat_activity
where datname = current_database() and application_name like $1::text
"""


def test_connections_that_were_killed_are_replaced(client: Roost, table: JobTable) -> None:
    for _ in range(3):
        client.enqueue("work")
        assert table.rows(TERMINATE, "roost") == [(True,)]
    client.enqueue("work")
    assert table.states() == {"available": 4}


def test_the_client_reconnects_to_a_restarted_server(restartable_server: Any) -> None:
    with Roost(restartable_server.dsn) as client:
        first = client.enqueue("work")
        restartable_server.restart("fast")
        second = client.enqueue("work")
        restartable_server.stop("immediate")
        with pytest.raises(DatabaseUnavailableError):
            client.enqueue("work")
        restartable_server.start()
        assert [client.status(first), client.status(second)] == ["available"] * 2


def test_an_unreachable_server_is_a_typed_error() -> None:
    client = Roost("postgresql://127.0.0.1:1/none?connect_timeout=2")
    with client, pytest.raises(DatabaseUnavailableError):
        client.enqueue("work")


@pytest.mark.parametrize("scheme", ["postgresql+psycopg", "postgresql+asyncpg", "postgres"])
def test_the_dsn_of_an_async_application_is_accepted(
    dsn: str, table: JobTable, scheme: str
) -> None:
    with Roost(dsn.replace("postgresql://", f"{scheme}://", 1)) as client:
        client.enqueue("work")
    assert table.states() == {"available": 1}


def test_a_dsn_that_can_not_be_read_is_refused_without_its_password() -> None:
    with pytest.raises(InvalidSettingError) as caught:
        Roost("postgresql://user:secret@host/db?nonsense=1").enqueue("work")
    assert "secret" not in str(caught.value)


def test_threads_end_with_the_client(client: Roost) -> None:
    before = set(threading.enumerate())
    client.enqueue("work")
    client.wait_for(client_cancelled(client), raise_on_failure=False)
    assert set(threading.enumerate()) <= before


def client_cancelled(client: Roost) -> int:
    job_id = client.enqueue("work")
    client.cancel(job_id)
    return job_id
