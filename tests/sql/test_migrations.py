"""Migrations go up, down and up again, in any transaction, also beside other processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest
from tests.support.job_table import JobTable

from roost import AsyncRoost, DatabaseError, SchemaError
from roost._ops import schema
from roost._ops.query import Op, Row
from roost._sql import Migration, migrations


@pytest.fixture
def empty(empty_dsn: str) -> Iterator[JobTable]:
    with JobTable(empty_dsn) as empty:
        yield empty


def apply(table: JobTable) -> list[Migration]:
    with table.connection.transaction():
        return table.run(schema.apply())


def revert(table: JobTable, *, to: int) -> list[Migration]:
    with table.connection.transaction():
        return table.run(schema.revert(to=to))


CATALOG = """
select 'relation', c.oid::regclass::text, c.relkind::text, array_to_string(c.reloptions, ',')
from pg_class c
where c.relnamespace = to_regnamespace('roost')
union all
select 'column', attrelid::regclass::text, attname::text,
    concat_ws(' ', format_type(atttypid, atttypmod), attnotnull, attidentity,
        pg_get_expr(adbin, adrelid))
from pg_attribute
join pg_class c on c.oid = attrelid
left join pg_attrdef on adrelid = attrelid and adnum = attnum
where c.relnamespace = to_regnamespace('roost') and attnum > 0 and not attisdropped
union all
select 'constraint', conrelid::regclass::text, conname::text, pg_get_constraintdef(oid)
from pg_constraint
where connamespace = to_regnamespace('roost')
union all
select 'index', tablename::text, indexname::text, indexdef
from pg_indexes
where schemaname = 'roost'
union all
select 'function', proname::text, pg_get_function_identity_arguments(oid), prosrc
from pg_proc
where pronamespace = to_regnamespace('roost')
union all
select 'trigger', tgrelid::regclass::text, tgname::text, pg_get_triggerdef(t.oid)
from pg_trigger t
join pg_class c on c.oid = tgrelid
where c.relnamespace = to_regnamespace('roost') and not tgisinternal
order by 1, 2, 3, 4
"""


def catalog(table: JobTable) -> Sequence[Row]:
    """Return all that there is in the schema, without the order of columns."""
    return table.rows(CATALOG)


def test_up_down_up_is_the_same_as_up(empty: JobTable) -> None:
    before = empty.value("select count(*) from pg_class where relnamespace <> 0")
    assert [migration.version for migration in apply(empty)] == [m.version for m in migrations()]
    fresh = catalog(empty)
    assert fresh
    undone = revert(empty, to=0)
    assert [migration.version for migration in undone] == [m.version for m in migrations()][::-1]
    assert empty.value("select to_regnamespace('roost') is null")
    assert empty.value("select count(*) from pg_class where relnamespace <> 0") == before
    apply(empty)
    assert catalog(empty) == fresh


@pytest.mark.parametrize("version", [migration.version for migration in migrations()])
def test_each_step_can_be_undone_and_done_again(empty: JobTable, version: int) -> None:
    apply(empty)
    fresh = catalog(empty)
    revert(empty, to=version - 1)
    if version > 1:
        assert catalog(empty) != fresh
        assert empty.value("select max(version) from roost.migrations") == version - 1
    apply(empty)
    assert catalog(empty) == fresh


def test_a_second_call_is_a_no_op(empty: JobTable) -> None:
    apply(empty)
    before = (catalog(empty), empty.rows("select * from roost.migrations"))
    assert apply(empty) == []
    assert (catalog(empty), empty.rows("select * from roost.migrations")) == before


def test_to_revert_an_empty_database_does_nothing(empty: JobTable) -> None:
    assert revert(empty, to=0) == []


def test_eight_threads_at_once_all_succeed(empty_dsn: str) -> None:
    def set_up(_: int) -> int:
        with JobTable(empty_dsn) as own:
            return len(apply(own))

    with ThreadPoolExecutor(8) as threads:
        counts = list(threads.map(set_up, range(8)))
    assert sorted(counts) == [0] * 7 + [len(migrations())]


@pytest.mark.anyio
async def test_eight_clients_at_once_all_succeed(empty_dsn: str) -> None:
    async def set_up() -> None:
        async with AsyncRoost(empty_dsn) as roost:
            await roost.setup_schema()

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(set_up)
    with JobTable(empty_dsn) as table:
        assert table.value("select count(*) from roost.migrations") == len(migrations())


@pytest.mark.anyio
@pytest.mark.parametrize("ending", ["commit", "rollback"])
async def test_the_callers_transaction_decides(empty_dsn: str, ending: str) -> None:
    async with AsyncRoost(empty_dsn) as roost:
        with JobTable(empty_dsn) as eye:
            try:
                async with roost.transaction() as conn:
                    await roost.setup_schema(conn)
                    await roost.enqueue("work", conn=conn)
                    assert eye.value("select to_regnamespace('roost') is null")
                    if ending == "rollback":
                        raise LookupError
            except LookupError:
                pass
            committed = eye.value("select to_regnamespace('roost') is not null")
            assert committed == (ending == "commit")
            if committed:
                assert eye.states() == {"available": 1}


def make_newer(table: JobTable, *, oldest_code: int) -> None:
    table.rows(
        "insert into roost.migrations (version, name, oldest_code) "
        "values ($1::int, 'from the future', $2::int)",
        schema.newest() + 1,
        oldest_code,
    )


def test_a_newer_schema_is_refused(table: JobTable) -> None:
    make_newer(table, oldest_code=schema.newest() + 1)
    for operation in (schema.apply(), schema.check()):
        with pytest.raises(SchemaError, match="upgrade Roost"), table.connection.transaction():
            table.run(operation)
    with pytest.raises(SchemaError, match="can't undo"), table.connection.transaction():
        table.run(schema.revert(to=0))


def test_a_newer_schema_that_allows_it_is_used(table: JobTable) -> None:
    make_newer(table, oldest_code=schema.newest())
    table.run(schema.check())
    assert apply(table) == []


@pytest.mark.anyio
async def test_neither_client_nor_worker_touches_a_newer_schema(dsn: str, table: JobTable) -> None:
    make_newer(table, oldest_code=schema.newest() + 1)
    async with AsyncRoost(dsn) as roost:
        with pytest.raises(SchemaError):
            await roost.setup_schema()
        with anyio.fail_after(10), pytest.raises(SchemaError):
            await roost.worker().run()
        with anyio.fail_after(10), pytest.raises(SchemaError):
            await roost.worker().run_once()


def test_a_missing_schema_is_reported(empty: JobTable) -> None:
    with pytest.raises(SchemaError, match="no Roost schema"):
        empty.run(schema.check())


def test_a_schema_that_is_behind_is_reported(table: JobTable) -> None:
    table.rows("delete from roost.migrations where version = $1::int", schema.newest())
    with pytest.raises(SchemaError, match="not applied yet"):
        table.run(schema.check())


def test_a_failed_migration_leaves_nothing(empty: JobTable) -> None:
    empty.script("create schema roost; create table roost.workers (mine text)")
    with pytest.raises(DatabaseError, match="workers"):
        apply(empty)
    assert empty.rows(
        "select relname from pg_class where relnamespace = 'roost'::regnamespace"
    ) == [("workers",)]


def test_versions_are_numbered_without_gaps() -> None:
    assert [migration.version for migration in migrations()] == list(range(1, schema.newest() + 1))
    for migration in migrations():
        assert 1 <= migration.oldest_code <= migration.version


def refused_twice(operation: Op[list[Migration]]) -> Op[list[Migration]]:
    """Run an operation; refuse the schema as existing twice, although it is not there."""
    refusals, query = 0, next(operation)
    try:
        while True:
            if query.statement.name == "schema.create_ledger" and refusals < 2:
                refusals += 1
                query = operation.throw(DatabaseError("schema exists", sqlstate="23505"))
            else:
                query = operation.send((yield query))
    except StopIteration as ended:
        return list(ended.value) if refusals == 2 else []


def test_a_schema_that_another_process_has_made_and_that_is_not_seen_yet_is_tried_again(
    empty: JobTable,
) -> None:
    with empty.connection.transaction():
        applied = empty.run(refused_twice(schema.apply()))
    assert len(applied) == len(migrations())
    assert empty.value("select to_regclass('roost.jobs') is not null")
