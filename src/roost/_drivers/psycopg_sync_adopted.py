"""A blocking psycopg Connection that is the caller's, used without changing anything about it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import psycopg
from psycopg import pq
from psycopg.rows import tuple_row

from roost._drivers.psycopg_errors import translate
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
        self._cursor = psycopg.RawCursor(raw, row_factory=tuple_row)

    def fetch(self, query: Query) -> Sequence[Row]:
        """Run one query and return its rows, empty where it returns none."""
        statement = query.statement
        try:
            if statement.script:
                self._cursor.execute(statement.text, prepare=False)
                return []
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
