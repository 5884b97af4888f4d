"""Errors say what is wrong with the schema, or which privilege is missing, and what to do."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from tests.support.job_table import JobTable

from roost import AsyncRoost, DatabaseError, JobInsert, Roost, SchemaError

pytestmark = pytest.mark.anyio

VERBS: dict[str, Callable[[Any], Any]] = {
    "enqueue": lambda roost: roost.enqueue("work"),
    "enqueue with a key": lambda roost: roost.enqueue("work", unique_key="k"),
    "enqueue with a parent": lambda roost: roost.enqueue("work", depends_on=[1]),
    "enqueue_many": lambda roost: roost.enqueue_many([JobInsert("work")] * 2),
    "enqueue_many of several kinds": lambda roost: roost.enqueue_many(
        [JobInsert("work"), JobInsert("other")]
    ),
    "enqueue_all": lambda roost: roost.enqueue_all([JobInsert("work")]),
    "wait_for": lambda roost: roost.wait_for(1, timeout=5),
    "get": lambda roost: roost.get(1),
    "status": lambda roost: roost.status(1),
    "cancel": lambda roost: roost.cancel(1),
    "retry": lambda roost: roost.retry(1),
    "requeue_discarded": lambda roost: roost.requeue_discarded(),
    "pause_queue": lambda roost: roost.pause_queue("q"),
    "resume_queue": lambda roost: roost.resume_queue("q"),
    "list_queues": lambda roost: roost.list_queues(),
    "list_workers": lambda roost: roost.list_workers(),
    "list_tasks": lambda roost: roost.list_tasks(),
    "overview": lambda roost: roost.overview(),
    "list_cron": lambda roost: roost.list_cron(),
    "pause_cron": lambda roost: roost.pause_cron("x"),
    "resume_cron": lambda roost: roost.resume_cron("x"),
    "run_cron_now": lambda roost: roost.run_cron_now("x"),
}
FOREIGN = {
    "empty": "create schema roost",
    "other tables": "create schema roost; create table roost.jobs (id text, name text)",
    "other migrations": "create schema roost; create table roost.migrations (id text)",
    "views": "create schema roost; create view roost.jobs as select 1 as id; "
    "create view roost.workers as select 1 as id",
}
NO_RIGHT = "42501"


def drivers(backend: str) -> list[str]:
    return ["psycopg", "asyncpg"] if backend == "asyncio" else ["psycopg"]


@pytest.fixture
async def clients(anyio_backend_name: str, empty_dsn: str) -> AsyncIterator[list[AsyncRoost]]:
    """Yield a client of each driver on a database without a schema."""
    made = [AsyncRoost(empty_dsn, driver=driver) for driver in drivers(anyio_backend_name)]
    yield made
    for client in made:
        await client.close()


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
async def test_a_call_before_the_schema_exists_says_how_to_create_it(
    clients: list[AsyncRoost], verb: Callable[[Any], Any]
) -> None:
    for client in clients:
        with pytest.raises(SchemaError, match="run `roost init` or setup_schema"):
            await verb(client)


@pytest.mark.parametrize("foreign", FOREIGN.values(), ids=FOREIGN)
async def test_a_foreign_schema_is_reported_as_such(
    clients: list[AsyncRoost], empty_dsn: str, foreign: str
) -> None:
    execute(empty_dsn, foreign)
    for client in clients:
        for verb in ("enqueue", "get", "list_queues", "cancel", "wait_for"):
            with pytest.raises(SchemaError):
                await VERBS[verb](client)
        with pytest.raises(SchemaError):
            await client.worker().run_once()
        with pytest.raises(SchemaError):
            await client.worker().run()


async def test_the_schema_is_not_created_over_foreign_tables(
    clients: list[AsyncRoost], empty_dsn: str
) -> None:
    for foreign in ("other tables", "other migrations"):
        execute(empty_dsn, FOREIGN[foreign])
        for client in clients:
            with pytest.raises(SchemaError, match="move it away"):
                await client.setup_schema()
        execute(empty_dsn, "drop schema roost cascade")


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_the_blocking_client_says_the_same(empty_dsn: str, verb: Callable[[Any], Any]) -> None:
    with Roost(empty_dsn) as roost:
        with pytest.raises(SchemaError, match="run `roost init` or setup_schema"):
            verb(roost)
        roost.setup_schema()
        assert roost.enqueue("work") > 0


async def test_a_worker_without_a_schema_logs_no_traceback(
    clients: list[AsyncRoost], caplog: pytest.LogCaptureFixture
) -> None:
    for client in clients:
        for run in (client.worker().run, client.worker().run_once):
            with pytest.raises(SchemaError, match="run `roost init`"):
                await run()
    assert any("SchemaError" in record.getMessage() for record in caplog.records)
    assert all(record.exc_info is None for record in caplog.records)


async def test_a_callers_transaction_says_the_same(
    clients: list[AsyncRoost], empty_dsn: str
) -> None:
    with psycopg.connect(empty_dsn) as conn, pytest.raises(SchemaError), Roost(empty_dsn) as roost:
        roost.enqueue("work", conn=conn)
    for client in clients:
        with pytest.raises(SchemaError):
            async with client.transaction() as conn:
                await client.enqueue("work", conn=conn)


@pytest.fixture
def role(dsn: str) -> Iterator[str]:
    """Yield a role without any privilege."""
    name = f"stranger_{uuid.uuid4().hex[:12]}"
    execute(dsn, f"create role {name} login password 'secret'")
    yield name
    execute(dsn, f"drop owned by {name}; drop role {name}")


def as_role(dsn: str, name: str) -> str:
    parts = urlsplit(dsn)
    query = f"?{parts.query}" if parts.query else ""
    return f"postgresql://{name}:secret@{parts.netloc.rpartition('@')[2]}{parts.path}{query}"


async def test_a_missing_privilege_names_the_role_the_privilege_and_the_object(
    anyio_backend_name: str, dsn: str, role: str, table: JobTable
) -> None:
    job_id = table.add()
    stranger = as_role(dsn, role)
    for driver in drivers(anyio_backend_name):
        async with AsyncRoost(stranger, driver=driver) as client:
            with pytest.raises(SchemaError, match=f"'{role}' lacks USAGE on schema roost") as no:
                await client.enqueue("work")
            assert no.value.sqlstate == NO_RIGHT
            assert isinstance(no.value, DatabaseError)
            with pytest.raises(SchemaError, match=f"'{role}' lacks USAGE on schema roost"):
                await client.worker().run_once()
            execute(dsn, f"grant usage on schema roost to {role}")
            with pytest.raises(SchemaError, match=rf"'{role}' lacks .*SELECT.* on roost\.\w+;"):
                await client.get(job_id)
            with pytest.raises(SchemaError, match=rf"'{role}' lacks .* on .*roost\.\w+;"):
                await client.enqueue("work")
            execute(dsn, f"revoke usage on schema roost from {role}")
    lacks = f"'{role}' lacks USAGE on schema roost"
    with Roost(stranger) as blocking, pytest.raises(SchemaError, match=lacks):
        blocking.enqueue("work")


async def test_creating_the_schema_names_the_privilege_that_it_needs(
    anyio_backend_name: str, empty_dsn: str, role: str
) -> None:
    for driver in drivers(anyio_backend_name):
        async with AsyncRoost(as_role(empty_dsn, role), driver=driver) as client:
            with pytest.raises(SchemaError, match=f"'{role}' lacks CREATE on database"):
                await client.setup_schema()


def execute(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement.encode())
