"""Where the demo's jobs live: a fresh database that is dropped, or a queue in the user's own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from roost._drivers import psycopg_sync
from roost._ops.query import Query
from roost._sql import Statement


@contextmanager
def fresh_database(server_dsn: str, name: str) -> Iterator[None]:
    """Create a database, and drop it at the end whatever happened."""
    _execute(server_dsn, f'create database "{name}"')
    try:
        yield
    finally:
        _execute(server_dsn, f'drop database "{name}" with (force)')


@contextmanager
def own_queue(dsn: str, queue: str) -> Iterator[None]:
    """Take the jobs of a queue out of the user's database at the end."""
    try:
        yield
    finally:
        # The name is made by `unique_name`; a script takes no parameters.
        _execute(
            dsn,
            f"""
            do $$ begin
                if to_regclass('roost.jobs') is not null then
                    delete from roost.jobs where queue = '{queue}';
                end if;
            end $$
            """,  # noqa: S608
        )


def unique_name() -> str:
    """Return a name that nobody else uses, for a database or a queue."""
    return f"roost_demo_{uuid.uuid4().hex[:12]}"


def _execute(dsn: str, text: str) -> None:
    with psycopg_sync.connect(dsn, application_name="roost demo") as connection:
        connection.fetch(Query(Statement("demo", text, script=True)))
