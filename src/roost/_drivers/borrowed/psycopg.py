"""The caller's psycopg connection, blocking or async, used without changing anything about it.

Both classes use a cursor of their own, so the caller's row factory and cursor class make no
difference.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from time import monotonic
from typing import Any, Self

import psycopg
from psycopg import pq
from psycopg.rows import tuple_row

from roost._drivers.borrowed.common import DONT_NOTIFY, Borrowed, BorrowedAsync
from roost._drivers.psycopg_common.errors import translate
from roost._drivers.psycopg_sync.connection import (
    CANCEL_TIMEOUT,
    DeadlineExceeded,
    request_cancel,
)
from roost._drivers.psycopg_sync.waiting import resume_until, run_until
from roost._ops.query import Query, Row
from roost.exceptions import NotInTransactionError


class BorrowedPsycopg(Borrowed):
    """Runs queries in the caller's transaction, each with a deadline.

    :raises NotInTransactionError: it is in autocommit mode and in no transaction.
    """

    def __init__(self, raw: psycopg.Connection[Any], *, transactional: bool = True) -> None:
        if transactional:
            _refuse_autocommit(raw, "with conn.transaction():")
        super().__init__(raw)
        self._cursor = _Cursor(raw, row_factory=tuple_row)

    def set_deadline(self, timeout: float) -> None:
        """Cancel a statement that runs ``timeout`` seconds from now; it aborts the transaction.

        If the statement does not end after the cancel, the connection is closed.
        """
        self._cursor.limit = timeout
        self._cursor.deadline = monotonic() + timeout

    def fetch(self, query: Query) -> Sequence[Row]:
        """Run one query and return its rows, an empty list if it returns none."""
        statement, cursor = query.statement, self._cursor
        try:
            if statement.script:
                cursor.execute(statement.text, prepare=False)
                return []
            if _is_two_phase(self.raw):
                cursor.execute(DONT_NOTIFY)
            cursor.execute(statement.text, query.params)
            if _has_no_rows(cursor):
                return []
            try:
                # In the caller's pipeline it is this call that waits for the answer.
                return cursor.fetchall()
            except psycopg.ProgrammingError:
                if _has_no_rows(cursor):
                    return []
                raise
        except (psycopg.Error, UnicodeError) as error:
            raise translate(error, statement=statement.name) from error


class BorrowedAsyncPsycopg(BorrowedAsync):
    """Runs queries in the caller's transaction.

    :raises NotInTransactionError: it is in autocommit mode and in no transaction.
    """

    def __init__(self, raw: psycopg.AsyncConnection[Any], *, transactional: bool = True) -> None:
        if transactional:
            _refuse_autocommit(raw, "async with conn.transaction():")
        super().__init__(raw)
        self._cursor = psycopg.AsyncRawCursor(raw, row_factory=tuple_row)

    async def fetch(self, query: Query) -> Sequence[Row]:
        """Run one query and return its rows. A cancel leaves the connection as its class does."""
        statement, cursor = query.statement, self._cursor
        try:
            if statement.script:
                await cursor.execute(statement.text, prepare=False)
                return []
            if _is_two_phase(self.raw):
                await cursor.execute(DONT_NOTIFY)
            await cursor.execute(statement.text, query.params)
            if _has_no_rows(cursor):
                return []
            try:
                # In the caller's pipeline it is this call that waits for the answer.
                return await cursor.fetchall()
            except psycopg.ProgrammingError:
                if _has_no_rows(cursor):
                    return []
                raise
        except (psycopg.Error, UnicodeError) as error:
            raise translate(error, statement=statement.name) from error


AnyConnection = psycopg.Connection[Any] | psycopg.AsyncConnection[Any]


def _refuse_autocommit(raw: AnyConnection, block: str) -> None:
    if raw.autocommit and raw.info.transaction_status == pq.TransactionStatus.IDLE:
        raise NotInTransactionError(
            "conn is in autocommit mode and in no transaction: this call would be committed at "
            f"once, even if your work fails later; use `{block}`, or transactional=False for an "
            "enqueue"
        )


def _is_two_phase(raw: AnyConnection) -> bool:
    """Say whether the caller has begun a two-phase transaction with ``tpc_begin``.

    Only a private name of psycopg tells. If psycopg removes it, the answer is always no.
    """
    return getattr(raw, "_tpc", None) is not None


def _has_no_rows(cursor: psycopg.RawCursor[Any] | psycopg.AsyncRawCursor[Any]) -> bool:
    """Say whether the answer has arrived and is one without rows."""
    result = cursor.pgresult
    return result is not None and result.status == pq.ExecStatus.COMMAND_OK


class _Cursor(psycopg.RawCursor[Any]):
    """A cursor whose statements end at a deadline, whatever the class of their connection.

    Beyond psycopg's documentation it uses ``_execute_gen``, which ``execute`` is made of.
    """

    limit = math.inf
    deadline = math.inf

    def execute(self, query: Any, params: Any = None, *, prepare: bool | None = None) -> Self:  # type: ignore[override]  # psycopg's has an overload and one more parameter
        """Run a statement. Interrupted, cancel it and wait for its end, or close the connection."""
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
            resume_until(statement, pgconn.socket, monotonic() + CANCEL_TIMEOUT)
            ended = True
        except psycopg.Error:
            ended = pgconn.transaction_status != pq.TransactionStatus.ACTIVE
        except TimeoutError:
            pass
        finally:
            if not ended:
                pgconn.finish()
