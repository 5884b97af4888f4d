"""What a role plants in ``public`` is never run by another role."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Protocol

import psycopg
import pytest
from tests.security.minefield import plant

from roost._drivers import listening
from roost._sql import STAGES, Statement, statements

STATEMENTS = [
    *(statement for stage in STAGES for statement in statements(stage).values()),
    listening.LOCK,
]
NO_QUERIES = re.compile(
    r"\s*(?:--[^\n]*\n\s*)*(create|set|do|drop|lock|discard|savepoint|rollback|release)\b"
)


class Databases(Protocol):
    """What the project's conftest yields."""

    def fresh(self, template: str) -> Any: ...

    def dsn_for(self, database: str) -> str: ...


@pytest.fixture(scope="module")
def mined(databases: Databases, template: str) -> Iterator[psycopg.Connection]:
    """Return a connection to a database with the schema and the mines."""
    with (
        databases.fresh(template) as name,
        psycopg.connect(databases.dsn_for(name), autocommit=True) as connection,
    ):
        if connection.info.server_version < 140_000:
            pytest.skip("before 14 no function remembers what it was resolved to")
        plant(connection)
        yield connection


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda statement: statement.name)
def test_no_statement_takes_what_was_planted(
    mined: psycopg.Connection, statement: Statement
) -> None:
    if NO_QUERIES.match(statement.text):
        pytest.skip("names nothing that could be planted")
    assert resolved_to(mined, statement.text) == []


def test_no_statement_calls_a_variadic_function_without_its_schema(
    mined: psycopg.Connection,
) -> None:
    # A planted one that takes just these parameters fits better.
    variadic = {
        name
        for (name,) in mined.execute(
            "select proname::text from pg_proc "
            "where provariadic <> 0::oid and pronamespace = 'pg_catalog'::regnamespace"
        ).fetchall()
    }
    assert "jsonb_build_object" in variadic
    for statement in STATEMENTS:
        called = set(re.findall(r"(?<![.\w])([a-z_]+)\(", statement.text))
        assert not called & variadic, statement.name


def test_no_other_role_can_make_operators_for_the_types_of_the_columns(
    mined: psycopg.Connection,
) -> None:
    rows = mined.execute(
        "select typname::text, has_type_privilege('pg_monitor', oid, 'usage') from pg_type "
        "where typnamespace = 'roost'::regnamespace and typtype = 'd'"
    ).fetchall()
    assert len(rows) > 5
    assert [name for name, usable in rows if usable] == []


def resolved_to(connection: psycopg.Connection, text: str) -> list[str]:
    """Return what a statement takes from ``public``: a function with that body remembers it."""
    types = dict(re.findall(r"\$(\d+)::((?:double precision|[a-z]+)(?:\[\])?)", text))
    parameters = ", ".join(types[str(number + 1)].strip() for number in range(len(types)))
    body = text.rstrip().rstrip(";")
    connection.execute("begin")
    try:
        connection.execute(
            f"create procedure public.probe({parameters}) language sql "
            f"begin atomic {body}; end".encode()
        )
        rows = connection.execute(
            "select pg_describe_object(refclassid, refobjid, refobjsubid) from pg_depend "
            "where classid = 'pg_proc'::regclass and objid = 'public.probe'::regproc "
            "and refclassid in ('pg_proc'::regclass, 'pg_operator'::regclass)"
        ).fetchall()
    finally:
        connection.execute("rollback")
    return sorted(what for (what,) in rows if not re.match(r"function (roost|pg_catalog)\.", what))


def test_every_function_sets_its_search_path(mined: psycopg.Connection) -> None:
    inner = (
        *("consume_credit", "lock_parents", "insert_unique_each", "insert_unique_one"),
        "limit_key",
    )
    rows = mined.execute(
        "select proname::text, coalesce(proconfig::text, '') from pg_proc "
        "where pronamespace = 'roost'::regnamespace"
    ).fetchall()
    assert len(rows) > 10
    for name, settings in rows:
        if name not in inner:  # which are called by the others only
            assert "search_path=pg_catalog, pg_temp" in settings, name


def test_a_function_that_is_inlined_takes_nothing_that_was_planted(
    mined: psycopg.Connection,
) -> None:
    # It has no search_path of its own, which would prevent the inlining.
    row = mined.execute(
        "select prosrc::text from pg_proc where oid = 'roost.limit_key'::regproc"
    ).fetchone()
    assert row is not None
    text = row[0]
    for parameter, type_ in (
        ("limit_by", "$1::text"),
        ("args", "$2::jsonb"),
        ("passed", "$3::text"),
    ):
        text = text.replace(f"p_{parameter}", f"{type_}")
    assert "p_" not in text
    assert resolved_to(mined, text) == []
