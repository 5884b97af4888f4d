"""psycopg's blocking connection as Roost's ``Connection``."""

from __future__ import annotations

import select
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import psycopg
from psycopg import pq

from roost._drivers.psycopg_errors import is_stale_plan, translate
from roost._drivers.psycopg_setup import adapt_values, connection_parameters
from roost._ops.query import Query, Row


def connect(
    dsn: str, *, application_name: str = "roost", prepare_threshold: int | None = 5
) -> SyncConnection:
    """Open a blocking autocommit connection.

    :param dsn: see ``connection_parameters``; what it does not set gets Roost's defaults.
    :param prepare_threshold: prepare a statement on its n-th use; ``None`` never.
    :raises InvalidSettingError: the DSN can't be read.
    :raises DatabaseUnavailableError: the server can't be reached.
    :raises DatabaseError: it refuses, for instance the password.
    """
    parameters = connection_parameters(dsn, application_name=application_name)
    try:
        raw = psycopg.connect(
            autocommit=True, **{"prepare_threshold": prepare_threshold, **parameters}
        )
    except (psycopg.Error, OSError, UnicodeError) as error:
        raise translate(error) from error
    adapt_values(raw)
    return SyncConnection(raw)


class SyncConnection:
    """One autocommit connection; one thread uses it at a time. Closes at the end of a ``with``."""

    def __init__(self, raw: psycopg.Connection[Row]) -> None:
        self.raw = raw
        self._cursor = psycopg.RawCursor(raw)

    def fetch(self, query: Query) -> Sequence[Row]:
        """Run one query and return its rows, empty where it returns none."""
        statement = query.statement
        cursor = self._cursor
        try:
            if statement.script:
                # Without parameters and unprepared: only so may it hold several commands.
                cursor.execute(statement.text, prepare=False)
                return []
            cursor.execute(statement.text, query.params)
            result = cursor.pgresult
            if result is None or result.status != pq.ExecStatus.TUPLES_OK:
                return []
            return cursor.fetchall()
        except psycopg.Error as error:
            if is_stale_plan(error):
                self.close()
            raise translate(error, statement=statement.name) from error
        except UnicodeError as error:
            raise translate(error, statement=statement.name) from error

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit on a clean exit, roll back on an error; nested, it is a savepoint."""
        try:
            with self.raw.transaction():
                yield
        except psycopg.Error as error:
            raise translate(error) from error

    def is_quiet(self) -> bool:
        """Say, without a round trip, whether the idle connection still stands.

        An idle server says nothing; what can be read is its farewell.
        """
        if self.raw.closed:
            return False
        poll = select.poll()
        poll.register(self.raw.fileno(), select.POLLIN | select.POLLPRI)
        return not poll.poll(0)

    def close(self) -> None:
        """Close; safe to call twice."""
        self.raw.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()
