"""A blocking psycopg Connection that is the caller's, used without changing anything about it."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from time import monotonic
from typing import Any, Self

import psycopg
from psycopg import pq
from psycopg.rows import tuple_row

from roost._drivers.psycopg_errors import translate
from roost._drivers.psycopg_setup import DONT_NOTIFY, is_two_phase
from roost._drivers.psycopg_sync_raw import (
    CANCEL_TIMEOUT,
    DeadlineExceeded,
    request_cancel,
    run_on,
    run_until,
)
from roost._ops.query import Query, Row
from roost.exceptions import NotInTransactionError


class AdoptedSyncConnection:
    """Runs queries in the caller's transaction, with a cursor of its own.

    :raises NotInTransactionError: it is in autocommit mode and in no transaction.
    """

    def __init__(self, raw: psycopg.Connection[Any], *, transactional: bool = True) -> None:
        idle = raw.info.transaction_status == pq.TransactionStatus.IDLE
        if transactional and raw.autocommit and idle:
            raise NotInTransactionError(
                "conn is in autocommit mode and in no transaction: the job would be there at once, "
                "whatever happens next; use `with conn.transaction():` or transactional=False"
            )
        self.raw = raw
        self._cursor = _Cursor(raw, row_factory=tuple_row)

    def set_deadline(self, timeout: float) -> None:
        """Give up what is in flight ``timeout`` seconds from now: the transaction is broken then.

        A statement that does not end when it is cancelled closes the connection.
        """
        self._cursor.limit = timeout
        self._cursor.deadline = monotonic() + timeout

    def fetch(self, query: Query) -> Sequence[Row]:
        """Run one query and return its rows, empty where it returns none."""
        statement = query.statement
        try:
            if statement.script:
                self._cursor.execute(statement.text, prepare=False)
                return []
            if is_two_phase(self.raw):
                self._cursor.execute(DONT_NOTIFY)
            self._cursor.execute(statement.text, query.params)
            if self._cursor.pgresult is None:
                return self._fetch_in_pipeline()
            result = self._cursor.pgresult
            if result is None or result.status != pq.ExecStatus.TUPLES_OK:
                return []
            return self._cursor.fetchall()
        except (psycopg.Error, UnicodeError) as error:
            raise translate(error, statement=statement.name) from error

    def _fetch_in_pipeline(self) -> Sequence[Row]:
        """Wait for the answer, which an execute in the caller's pipeline has not done."""
        try:
            return self._cursor.fetchall()
        except psycopg.ProgrammingError:
            result = self._cursor.pgresult
            if result is not None and result.status == pq.ExecStatus.COMMAND_OK:
                return []
            raise

    def transaction(self) -> AbstractContextManager[None]:
        """Do nothing: all is in the caller's transaction already."""
        return nullcontext()

    def close(self) -> None:
        """Do nothing: the connection is the caller's."""


class _Cursor(psycopg.RawCursor[Any]):
    """A cursor whose statements end at a deadline, on a connection that is used as it is.

    Beyond psycopg's documentation it uses ``_execute_gen``, of which ``execute`` is made.
    """

    limit = math.inf
    deadline = math.inf

    def execute(self, query: Any, params: Any = None, *, prepare: bool | None = None) -> Self:  # type: ignore[override]  # psycopg's has an overload and one more parameter
        """Run a statement; interrupted, cancel it and wait for its end, or close the connection."""
        connection = self.connection
        with connection.lock:
            statement = self._execute_gen(query, params, prepare=prepare)
            try:
                run_until(statement, connection.pgconn.socket, self.deadline)
            except TimeoutError:
                self._cancel(statement)
                raise DeadlineExceeded(
                    f"the database did not answer within {self.limit:g} s"
                ) from None
            except psycopg.Error:
                raise
            except BaseException:
                self._cancel(statement)
                raise
        return self

    def _cancel(self, statement: Generator[Any, Any, None]) -> None:
        pgconn = self.connection.pgconn
        if pgconn.transaction_status != pq.TransactionStatus.ACTIVE:
            return
        ended = False
        try:
            request_cancel(pgconn)
            run_on(statement, pgconn.socket, monotonic() + CANCEL_TIMEOUT)
            ended = True
        except psycopg.Error:
            ended = pgconn.transaction_status != pq.TransactionStatus.ACTIVE
        except TimeoutError:
            pass
        finally:
            if not ended:
                pgconn.finish()
