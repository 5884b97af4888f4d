"""Jobs are stored, run and read under any settings of the server, the database and the role."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.resources import files
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import AsyncRoost, DatabaseError, HandlerRegistry, Roost, SchemaError, job
from roost._ops import schema
from roost._ops.query import Query

SETTINGS = {
    "array_nulls": "off",
    "bytea_output": "escape",
    "client_encoding": "LATIN1",
    "datestyle": "German, DMY",
    "default_transaction_deferrable": "on",
    "default_transaction_isolation": "repeatable read",
    "enable_seqscan": "off",
    "escape_string_warning": "off",
    "extra_float_digits": "-15",
    "intervalstyle": "iso_8601",
    "jit_above_cost": "0",
    "lc_messages": "C",
    "lock_timeout": "20s",
    "plan_cache_mode": "force_custom_plan",
    "quote_all_identifiers": "on",
    "row_security": "off",
    "search_path": "nowhere",
    "standard_conforming_strings": "off",
    "statement_timeout": "30s",
    "timezone": "Asia/Kathmandu",
    "transform_null_equals": "on",
}


@pytest.fixture(params=["psycopg", "asyncpg"])
def driver(request: pytest.FixtureRequest, anyio_backend_name: str) -> str:
    if request.param == "asyncpg" and anyio_backend_name == "trio":
        pytest.skip("asyncpg is for asyncio")
    return str(request.param)


@pytest.fixture
def make_database(server_dsn: str) -> Iterator[Callable[..., str]]:
    """Yield a function that makes a database, and returns its DSN."""
    made: list[str] = []
    with psycopg.connect(make_conninfo(server_dsn, dbname="postgres"), autocommit=True) as admin:

        def make(encoding: str = "UTF8", **settings: str) -> str:
            name = f"roost_any_{uuid.uuid4().hex[:10]}"
            libc = "locale_provider libc" if admin.info.server_version >= 150_000 else ""
            admin.execute(
                f"create database {name} template template0 encoding '{encoding}' "
                f"{libc} lc_collate 'C' lc_ctype 'C'"
            )
            made.append(name)
            for key, value in settings.items():
                # A setting that is a list is written as two elements, the others as a string.
                shown = value if key in ("datestyle", "search_path") else f"'{value}'"
                admin.execute(f"alter database {name} set {key} = {shown}")
            given = conninfo_to_dict(server_dsn)
            host, port = given.get("host", "127.0.0.1"), given.get("port", "5432")
            user = given.get("user", "postgres")
            return f"postgresql://{user}@/{name}?host={host}&port={port}"

        yield make
        for name in made:
            admin.execute(f"drop database {name} with (force)")


async def run_some(dsn: str, driver: str, **options: Any) -> list[Any]:
    """Enqueue and run jobs; return the results of those that completed."""
    registry = HandlerRegistry()

    @job("echo", registry=registry, max_attempts=1)
    async def echo(text: str) -> str:
        return text

    @job("limited", registry=registry, rate_per_minute=600, max_concurrency=2)
    async def limited() -> str:
        return "limited"

    @job("answers_emoji", registry=registry, max_attempts=1)
    async def answers_emoji() -> str:
        return "\N{GRINNING FACE}"

    @job("raises_emoji", registry=registry, max_attempts=1)
    async def raises_emoji() -> None:
        raise ValueError("\N{GRINNING FACE}")

    async with AsyncRoost(dsn, registry=registry, driver=driver) as client:
        await client.setup_schema()
        ids = [await client.enqueue(echo, args={"text": text}) for text in ("a", "b")]
        ids.append(await client.enqueue(echo, args={"text": "c"}, depends_on=ids, tags=["t"]))
        ids.append(await client.enqueue(limited))
        ends = [await client.enqueue(answers_emoji), await client.enqueue(raises_emoji)]
        async with working(client.worker(poll_interval=0.1, **options)):
            outcomes = [await client.wait_for(job_id, timeout=30) for job_id in ids]
            with anyio.fail_after(30):
                while [await client.status(end) for end in ends] != ["completed", "discarded"]:
                    await anyio.sleep(0.05)
            stored = await client.get(ids[0])
            assert stored.scheduled_at.utcoffset() is not None
            assert abs((stored.inserted_at - stored.scheduled_at).total_seconds()) < 1
            assert {queue.name for queue in await client.list_queues()} == {"default"}
            [worker] = await client.list_workers()
            assert worker.started_at <= worker.expires_at
            assert await client.list_cron() == []
    return [outcome.result for outcome in outcomes]


@pytest.mark.anyio
async def test_settings_of_the_database_change_nothing(
    make_database: Callable[..., str], driver: str
) -> None:
    dsn = make_database(**SETTINGS)
    assert await run_some(dsn, driver) == ["a", "b", "c", "limited"]


@pytest.mark.anyio
@pytest.mark.parametrize("style", ["SQL, DMY", "Postgres, MDY", "German"])
async def test_the_date_style_of_the_environment_changes_nothing(
    make_database: Callable[..., str], driver: str, style: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGDATESTYLE", style)
    monkeypatch.setenv("PGTZ", "America/St_Johns")
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    assert await run_some(make_database(), driver) == ["a", "b", "c", "limited"]


@pytest.mark.anyio
@pytest.mark.parametrize("encoding", ["LATIN1", "WIN1252", "EUC_JP", "SQL_ASCII"])
async def test_databases_of_other_encodings_work(
    make_database: Callable[..., str], driver: str, encoding: str
) -> None:
    dsn = make_database(encoding)
    assert await run_some(dsn, driver) == ["a", "b", "c", "limited"]


def test_a_text_that_the_database_cannot_store_fails_only_its_own_call(
    make_database: Callable[..., str],
) -> None:
    with Roost(make_database("LATIN1")) as client:
        client.setup_schema()
        with pytest.raises(DatabaseError) as refusal:
            client.enqueue("work", args={"text": "\N{GRINNING FACE}"})
        assert refusal.value.sqlstate == "22P05"
        job_id = client.enqueue("work", args={"text": "caf\xe9"})
        assert client.get(job_id).args == {"text": "caf\xe9"}


@pytest.mark.anyio
async def test_bytes_that_are_no_utf8_fail_their_job_only(
    make_database: Callable[..., str], registry: HandlerRegistry
) -> None:
    @job("echo", registry=registry, max_attempts=1)
    async def echo(text: str) -> str:
        return text

    dsn = make_database("SQL_ASCII")
    async with AsyncRoost(dsn, registry=registry) as client:
        await client.setup_schema()
        good = [await client.enqueue(echo, args={"text": "caf\xe9"})]
        with psycopg.connect(dsn, autocommit=True) as raw:
            raw.execute("set client_encoding = 'SQL_ASCII'")
            bad = [
                raw.execute(
                    b"insert into roost.jobs (task, max_attempts, args, tags, unique_key) "
                    b"values ('echo', 1, " + columns + b") returning id"
                ).fetchone()
                for columns in (
                    b'\'{"text": "\xff"}\', null, null',
                    b"'{\"text\": \"ok\"}', null, '\xfe'",
                )
            ]
            good.append(await client.enqueue(echo, args={"text": "after"}))
            async with working(client.worker(poll_interval=0.1)):
                raw.execute(b"select pg_notify('roost_jobs', '\xff')")
                outcomes = [await client.wait_for(job_id, timeout=30) for job_id in good]
                assert bad[0] is not None
                [bad_id] = bad[0]
                await eventually(
                    lambda: (
                        raw.execute(
                            "select state from roost.jobs where id = %s", [bad_id]
                        ).fetchone()
                        in ((b"discarded",), ("discarded",))
                    )
                )
        assert [outcome.result for outcome in outcomes] == ["caf\xe9", "after"]


def test_the_sql_is_pure_ascii() -> None:
    """With another encoding the database may refuse a non-ASCII character, even in a comment."""
    folder = Path(str(files("roost._sql")))
    found = list(folder.rglob("*.sql"))
    assert len(found) > 10
    for path in found:
        assert path.read_text(encoding="utf-8").isascii(), path


def test_every_table_can_be_published(table: JobTable) -> None:
    without = table.rows(
        """
        select relname::text
        from pg_class
        where relnamespace = 'roost'::regnamespace
            and relkind = 'r'
            and relreplident = 'd'
            and not exists (
                select from pg_index where indrelid = pg_class.oid and indisprimary
            )
        """
    )
    assert without == []


@pytest.fixture
def role(make_database: Callable[..., str]) -> Iterator[tuple[str, str]]:
    """Yield a superuser's DSN, and the name of a role without rights."""
    dsn, name = make_database(), f"roost_role_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(f"create role {name} login")
        yield dsn, name
        admin.execute(f"drop owned by {name} cascade")
        admin.execute(f"drop role {name}")


def as_role(dsn: str, role: str) -> str:
    return dsn.replace(f"://{conninfo_to_dict(dsn)['user']}@", f"://{role}@")


@pytest.mark.parametrize("owns", [True, False])
def test_a_schema_that_another_role_made_is_enough(role: tuple[str, str], owns: bool) -> None:
    dsn, name = role
    with psycopg.connect(dsn, autocommit=True) as admin:
        if owns:
            admin.execute(f"create schema roost authorization {name}")
        else:
            admin.execute("create schema roost")
            admin.execute(f"grant usage, create on schema roost to {name}")
    with Roost(as_role(dsn, name)) as client:
        client.setup_schema()
        assert client.status(client.enqueue("work")) == "available"
    with JobTable(as_role(dsn, name)) as table, table.connection.transaction():
        table.run(schema.revert(to=0))
    with psycopg.connect(dsn) as admin:
        left = admin.execute("select to_regnamespace('roost') is not null").fetchone()
    assert left == (not owns,)


def test_a_set_up_of_a_current_schema_needs_no_rights(role: tuple[str, str]) -> None:
    dsn, name = role
    with Roost(dsn) as owner:
        owner.setup_schema()
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(f"grant usage on schema roost to {name}")
        admin.execute(f"grant select on all tables in schema roost to {name}")
    with Roost(as_role(dsn, name)) as client:
        client.setup_schema()


@pytest.mark.parametrize(("version", "refused"), [(120_022, True), (130_000, False)])
def test_a_server_that_is_too_old_is_refused(version: int, *, refused: bool) -> None:
    check = schema.check_server()
    query = next(check)
    assert isinstance(query, Query)
    if refused:
        with pytest.raises(SchemaError, match=r"needs Postgres 13 or newer, and .* Postgres 12"):
            check.send([(version,)])
    else:
        with pytest.raises(StopIteration):
            check.send([(version,)])


def test_an_enqueue_in_a_two_phase_transaction_can_be_prepared(dsn: str, table: JobTable) -> None:
    """The test server allows no prepared transactions, so the test checks that none notified."""
    table.script(
        "insert into roost.workers (name, queues, concurrency, expires_at) "
        "values ('sleeps', array['default'], 1, now() + interval '1 hour')"
    )
    with (
        Roost(dsn) as client,
        psycopg.connect(dsn, autocommit=True) as listener,
        closing(psycopg.connect(dsn)) as raw,
    ):
        listener.execute("listen roost_jobs")
        raw.tpc_begin(raw.xid(1, "roost", "test"))
        client.enqueue("work", conn=raw)
        raw.execute("commit")
        assert table.states() == {"available": 1}
        assert list(listener.notifies(timeout=0.2)) == []
        client.enqueue("work")
        assert [notify.payload for notify in listener.notifies(timeout=10, stop_after=1)] == [
            "default"
        ]


def test_a_setting_stops_the_notifications_of_a_transaction(dsn: str, table: JobTable) -> None:
    with psycopg.connect(dsn) as raw, psycopg.connect(dsn, autocommit=True) as listener:
        listener.execute("listen roost_jobs")
        raw.execute("set local transaction isolation level repeatable read")
        raw.execute(sql.SQL("set local roost.notify = off"))
        with Roost(dsn) as client:
            client.enqueue("work", conn=raw)
        raw.commit()
        assert list(listener.notifies(timeout=0.2)) == []
    assert table.states() == {"available": 1}
