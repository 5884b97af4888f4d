"""Makes a BlockingConnection a `Connection`: runs queries and translates errors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from types import TracebackType
from typing import Self

import psycopg
from psycopg import pq

from roost._drivers.base import CALL_TIMEOUT
from roost._drivers.polling import READ, ready_now
from roost._drivers.prepared import PREPARED_STATEMENT_ERRORS, PreparedStatements
from roost._drivers.process import current_process
from roost._drivers.psycopg_common.errors import needs_new_connection, translate
from roost._drivers.psycopg_common.parameters import connection_parameters
from roost._drivers.psycopg_common.session import (
    BACKEND_PID,
    RECEIVE_BYTES,
    adapt_values,
    is_behind_pooler,
    is_sql_ascii,
)
from roost._drivers.psycopg_sync.connection import BlockingConnection
from roost._drivers.psycopg_sync.opening import connect_by
from roost._drivers.sqlstate import SERIALIZATION_FAILURE
from roost._ops.query import Query, Row
from roost.exceptions import DatabaseError


def connect(
    dsn: str,
    *,
    application_name: str = "roost",
    prepare_threshold: int | None = 5,
    timeout: float = math.inf,
    prepared: PreparedStatements | None = None,
) -> SyncConnection:
    """Open a blocking autocommit connection.

    :param dsn: see ``connection_parameters``; what it does not set gets Roost's defaults.
    :param prepare_threshold: prepare a statement on its n-th use. ``None``: never.
    :param timeout: seconds for all addresses together.
    :param prepared: shared with the other connections of this DSN.
    :raises InvalidSettingError: the DSN can't be read.
    :raises DatabaseUnavailableError: the server can't be reached.
    :raises DatabaseError: it refuses, for instance the password.
    """
    parameters = connection_parameters(dsn, application_name=application_name)
    prepare_threshold = parameters.pop("prepare_threshold", prepare_threshold)
    prepared = prepared or PreparedStatements()
    deadline = monotonic() + timeout
    try:
        raw: BlockingConnection[Row] = BlockingConnection(connect_by(parameters, deadline))
        raw.autocommit = True
        raw.prepare_threshold = prepare_threshold
        try:
            raw.set_deadline(deadline - monotonic())
            pooled = _look_for_pooler(raw, prepared)
            if is_sql_ascii(raw):
                raw.execute(RECEIVE_BYTES)
            raw.set_deadline(math.inf)
        except BaseException:
            raw.close()
            raise
    except (psycopg.Error, OSError, UnicodeError) as error:
        raise translate(error) from error
    # This is for BEGIN: the database's default may differ. `fetch` handles single statements.
    raw.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    adapt_values(raw)
    return SyncConnection(raw, prepared=prepared, pooled=pooled)


def _look_for_pooler(raw: psycopg.Connection[Row], prepared: PreparedStatements) -> bool:
    if raw.prepare_threshold is None or not prepared.allowed:
        return False  # it makes no difference without prepared statements
    with psycopg.RawCursor(raw) as cursor:
        cursor.execute(BACKEND_PID, prepare=False)
        row = cursor.fetchone()
    return row is not None and is_behind_pooler(raw, row[0])


class SyncConnection:
    """An autocommit connection for one thread at a time. A ``with`` closes it at its end."""

    def __init__(
        self,
        raw: BlockingConnection[Row],
        *,
        prepared: PreparedStatements | None = None,
        pooled: bool = False,
    ) -> None:
        self.raw = raw
        self.process = current_process()
        self._prepared_statements = prepared or PreparedStatements()
        self._pooled = pooled
        self._cursor = psycopg.RawCursor(raw)

    def set_deadline(self, timeout: float) -> None:
        """Let every wait end ``timeout`` seconds from now at the latest.

        A statement that is in flight then is cancelled on the server, and the connection is closed.

        :param timeout: ``math.inf`` removes the deadline.
        """
        self.raw.set_deadline(timeout)

    def fetch(self, query: Query) -> Sequence[Row]:
        """Run one query and return its rows, an empty list if it returns none."""
        try:
            return self._fetch(query)
        except DatabaseError as error:
            if error.sqlstate != SERIALIZATION_FAILURE or not self.is_idle():
                raise
        # This happens only if the database's default is repeatable read or serializable. Nothing
        # was written. Under read committed, which `transaction` sets, it can't happen.
        with self.transaction():
            return self._fetch(query)

    def _fetch(self, query: Query) -> Sequence[Row]:
        statement = query.statement
        cursor = self._cursor
        try:
            if statement.script:
                # Only without parameters and unprepared may a text hold several commands.
                cursor.execute(statement.text, prepare=False)
                return []
            self._execute(statement.text, query.params)
            result = cursor.pgresult
            if result is None or result.status != pq.ExecStatus.TUPLES_OK:
                return []
            return cursor.fetchall()
        except psycopg.Error as error:
            if needs_new_connection(error):
                self.close()
            raise translate(error, statement=statement.name) from error
        except UnicodeError as error:
            raise translate(error, statement=statement.name) from error

    def _execute(self, text: str, params: tuple[object, ...]) -> None:
        # Answers are binary because the text form of a time depends on the server's DateStyle.
        if not self._prepared_statements.allowed or (self._pooled and not self.is_idle()):
            # In a transaction the statement could not be repeated after an error.
            self._cursor.execute(text, params, prepare=False, binary=True)
            return
        try:
            self._cursor.execute(text, params, binary=True)
        except psycopg.Error as error:
            if error.sqlstate not in PREPARED_STATEMENT_ERRORS:
                raise
            self._prepared_statements.disable(str(error))
            if not self.is_idle():
                raise
            self._cursor.execute(text, params, prepare=False, binary=True)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit on a clean exit, roll back on an error. Nested: a savepoint.

        BEGIN, COMMIT and ROLLBACK may take ``CALL_TIMEOUT`` seconds each.
        """
        raw = self.raw
        raw.set_deadline(CALL_TIMEOUT)
        try:
            with raw.transaction():
                raw.set_deadline(math.inf)
                try:
                    yield
                finally:
                    raw.set_deadline(CALL_TIMEOUT)
        except psycopg.Error as error:
            raise translate(error) from error
        finally:
            raw.set_deadline(math.inf)

    def is_alive(self) -> bool:
        """Say whether the idle connection is still usable, without a round trip.

        An idle server sends nothing. If there is something to read, it is the server's last error
        or the end of the stream.
        """
        if self.raw.closed:
            return False
        return not ready_now(self.raw.fileno(), READ)

    def is_idle(self) -> bool:
        """Say whether it is open, in no transaction, and has no statement in flight."""
        return bool(self.raw.pgconn.transaction_status == pq.TransactionStatus.IDLE)

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
