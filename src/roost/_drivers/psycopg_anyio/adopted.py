"""A psycopg AsyncConnection that belongs to the caller, used without changing anything about it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

import psycopg
from psycopg import pq
from psycopg.rows import tuple_row

from roost._drivers.psycopg_errors import translate
from roost._drivers.psycopg_setup import DONT_NOTIFY, is_two_phase
from roost._ops.query import Query, Row
from roost.exceptions import NotInTransactionError


class AdoptedConnection:
    """Runs queries in the caller's transaction.

    Its own cursor: the caller's row factory and cursor class don't matter.

    :raises NotInTransactionError: it is in autocommit mode and in no transaction.
    """

    def __init__(self, raw: psycopg.AsyncConnection[Any], *, transactional: bool = True) -> None:
        idle = raw.info.transaction_status == pq.TransactionStatus.IDLE
        if transactional and raw.autocommit and idle:
            raise NotInTransactionError(
                "conn is in autocommit mode and in no transaction: the job would be there at once, "
                "whatever happens next; use `async with conn.transaction():` or transactional=False"
            )
        self.raw = raw
        self._cursor = psycopg.AsyncRawCursor(raw, row_factory=tuple_row)

    async def fetch(self, query: Query) -> Sequence[Row]:
        """Run one query and return its rows; what a cancel leaves is the connection's own way."""
        statement = query.statement
        try:
            if statement.script:
                await self._cursor.execute(statement.text, prepare=False)
                return []
            if is_two_phase(self.raw):
                await self._cursor.execute(DONT_NOTIFY)
            await self._cursor.execute(statement.text, query.params)
            if self._cursor.pgresult is None:
                return await self._fetch_in_pipeline()
            result = self._cursor.pgresult
            if result is None or result.status != pq.ExecStatus.TUPLES_OK:
                return []
            return await self._cursor.fetchall()
        except (psycopg.Error, UnicodeError) as error:
            raise translate(error, statement=statement.name) from error

    async def _fetch_in_pipeline(self) -> Sequence[Row]:
        """Wait for the answer, which an execute in the caller's pipeline has not done."""
        try:
            return await self._cursor.fetchall()
        except psycopg.ProgrammingError:
            result = self._cursor.pgresult
            if result is not None and result.status == pq.ExecStatus.COMMAND_OK:
                return []
            raise

    def transaction(self) -> AbstractAsyncContextManager[None]:
        """Do nothing: all is in the caller's transaction already."""
        return nullcontext()
