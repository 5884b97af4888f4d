"""Values, errors and functions that the tests of blocking and asynchronous drivers share."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

import anyio

from roost._drivers.base import Connection
from roost._ops.query import Query
from roost._sql import Statement

T = TypeVar("T")

NOON = datetime(2026, 11, 23, 12, 30, 15, 123456, tzinfo=UTC)

VALUES: list[tuple[str, tuple[object, ...], object]] = [
    ("select 7", (), 7),
    ("select $1::int", (-7,), -7),
    ("select $1::bigint", (2**62,), 2**62),
    ("select $1::float8", (1.5,), 1.5),
    ("select $1::bool", (True,), True),
    ("select $1::text", ("grüß 🐓 'quoted' \\ %s $1",), "grüß 🐓 'quoted' \\ %s $1"),
    ("select $1::text", ("",), ""),
    ("select $1::text", (None,), None),
    ("select $1::timestamptz", (NOON,), NOON),
    ("select $1::text[]", (["a", None, "", "{,}"],), ["a", None, "", "{,}"]),
    ("select $1::text[]", ([],), []),
    ("select $1::bigint[]", ([1, None, 2**40],), [1, None, 2**40]),
    ("select $1::int[]", ([],), []),
    ("select $1::timestamptz[]", ([NOON, None],), [NOON, None]),
    ("select $1::text::jsonb::text", ('{"a": [1, null]}',), '{"a": [1, null]}'),
    ("select count(*) from unnest($1::bigint[]) x", (list(range(5000)),), 5000),
]
"""A statement, its parameters, and the one value that it returns."""

REFUSED: list[tuple[str, tuple[object, ...], str]] = [
    ("selec 1", (), "42601"),
    ("select * from nowhere", (), "42P01"),
    ("select $1::int / 0", (1,), "22012"),
    ("select $1::text", ("a\0b",), "22021"),
    ("select $1::text[]", (["a\0b"],), "22021"),
    ("select $1::text", ("a\ud800b",), "22021"),
    ("select $1::text::jsonb", ("{",), "22P02"),
]
"""A statement, its parameters, and the sqlstate of the ``DatabaseError``."""

TEMPORARY = ["08006", "25P03", "40001", "40P01", "53100", "53200", "53300", "53400", "55P03"]
TEMPORARY += ["57014", "57P01", "57P02", "57P03", "57P05", "25P04", "58000", "58030"]
TEMPORARY += ["08P01", "28000", "28P01", "3D000", "XX000"]  # poolers' answers to statements
"""SQLSTATEs of errors after which another attempt may succeed."""

PERMANENT = ["22003", "23502", "23505", "42501", "42703", "3F000", "P0001", "XX001"]
"""SQLSTATEs of errors that another attempt would meet again."""


def sql(text: str, *params: object) -> Query:
    """Return a query of one statement."""
    return Query(Statement("conformance", text), params)


def script(text: str) -> Query:
    """Return a query of several commands."""
    return Query(Statement("conformance", text, script=True))


def failing_with(state: str) -> Query:
    """Return a query that fails with the given sqlstate."""
    return sql(f"do $do$ begin raise sqlstate '{state}' using message = 'on purpose'; end $do$")


def value(connection: Connection, text: str, *params: object) -> object:
    """Return the one value of the one row."""
    [[only]] = connection.fetch(sql(text, *params))
    return only


async def eventually(condition: Callable[[], bool], *, within: float = 20.0) -> None:
    """Wait until ``condition`` holds, for at most ``within`` seconds.

    :raises TimeoutError: it did not hold in time.
    """
    with anyio.fail_after(within):
        while not condition():
            await anyio.sleep(0.005)


def until(condition: Callable[[], T], *, within: float = 20.0) -> T:
    """Wait, blocking, until ``condition`` returns a true value, and return that value.

    :param within: seconds to wait at most.
    :raises TimeoutError: it returned none in time.
    """
    give_up_at = time.monotonic() + within
    while not (seen := condition()):
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"not within {within:g} s: {condition}")
        time.sleep(0.005)
    return seen
