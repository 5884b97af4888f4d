"""Makes an AnyioConnection an `AsyncConnection`: runs queries and translates errors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import anyio.lowlevel
import psycopg
from psycopg import pq

from roost._drivers.base import cleanup_timeout
from roost._drivers.polling import READ, ready_now
from roost._drivers.prepared import PREPARED_STATEMENT_ERRORS, PreparedStatements
from roost._drivers.psycopg_anyio.connection import AnyioConnection
from roost._drivers.psycopg_common.errors import needs_new_connection, translate
from roost._drivers.psycopg_common.session import (
    BACKEND_PID,
    RECEIVE_BYTES,
    adapt_values,
    is_behind_pooler,
    is_sql_ascii,
)
from roost._drivers.shield import shielded
from roost._drivers.sqlstate import SERIALIZATION_FAILURE
from roost._ops.query import Query, Row
from roost.exceptions import DatabaseError


class PsycopgConnection:
    """An autocommit connection for one task at a time."""

    def __init__(
        self,
        raw: AnyioConnection[Row],
        *,
        prepared: PreparedStatements | None = None,
        pooled: bool = False,
    ) -> None:
        self.raw = raw
        self._prepared_statements = prepared or PreparedStatements()
        self._pooled = pooled
        # One cursor for all queries: a new cursor for each query takes 3 µs of CPU more with one
        # parameter, 24 µs more with four of which two are arrays (November 2026, process_time,
        # best of 12).
        self._cursor = psycopg.AsyncRawCursor(raw)

    @classmethod
    async def open(
        cls,
        parameters: Mapping[str, Any],
        *,
        prepare_threshold: int | None = 5,
        prepared: PreparedStatements | None = None,
    ) -> PsycopgConnection:
        """Connect. A cancel leaves nothing open.

        :param prepared: shared with the other connections of this DSN.
        :raises DatabaseUnavailableError: the server can't be reached.
        :raises DatabaseError: it refuses, for instance the password.
        """
        options = {"prepare_threshold": prepare_threshold, **parameters}
        prepared = prepared or PreparedStatements()
        try:
            raw = await AnyioConnection.connect(autocommit=True, **options)
            try:
                pooled = await cls._look_for_pooler(raw, prepared)
                if is_sql_ascii(raw):
                    await raw.execute(RECEIVE_BYTES)
            except BaseException:
                raw.terminate()
                raise
        except (psycopg.Error, OSError, UnicodeError) as error:
            raise translate(error) from error
        # This is for BEGIN: the database's default may differ. `fetch` handles single statements.
        await raw.set_isolation_level(psycopg.IsolationLevel.READ_COMMITTED)
        adapt_values(raw)
        return cls(raw, prepared=prepared, pooled=pooled)

    @staticmethod
    async def _look_for_pooler(raw: AnyioConnection[Row], prepared: PreparedStatements) -> bool:
        if raw.prepare_threshold is None or not prepared.allowed:
            return False  # it makes no difference without prepared statements
        async with psycopg.AsyncRawCursor(raw) as cursor:
            await cursor.execute(BACKEND_PID, prepare=False)
            row = await cursor.fetchone()
        return row is not None and is_behind_pooler(raw, row[0])

    async def fetch(self, query: Query) -> Sequence[Row]:
        """Run one query and return its rows. A cancel leaves what `AsyncConnection` says."""
        try:
            return await self._fetch(query)
        except DatabaseError as error:
            if error.sqlstate != SERIALIZATION_FAILURE or not self.is_idle():
                raise
        # This happens only if the database's default is repeatable read or serializable. Nothing
        # was written. Under read committed, which `transaction` sets, it can't happen.
        async with self.transaction():
            return await self._fetch(query)

    async def _fetch(self, query: Query) -> Sequence[Row]:
        await anyio.lowlevel.checkpoint_if_cancelled()
        statement = query.statement
        cursor = self._cursor
        try:
            if statement.script:
                # Only without parameters and unprepared may a text hold several commands.
                await cursor.execute(statement.text, prepare=False)
                return []
            await self._execute(statement.text, query.params)
            result = cursor.pgresult
            if result is None or result.status != pq.ExecStatus.TUPLES_OK:
                return []
            return await cursor.fetchall()
        except psycopg.Error as error:
            if needs_new_connection(error):
                self.raw.terminate()
            raise translate(error, statement=statement.name) from error
        except UnicodeError as error:
            raise translate(error, statement=statement.name) from error

    async def _execute(self, text: str, params: tuple[object, ...]) -> None:
        # Answers are binary because the text form of a time depends on the server's DateStyle.
        if not self._prepared_statements.allowed or (self._pooled and not self.is_idle()):
            # In a transaction the statement could not be repeated after an error.
            await self._cursor.execute(text, params, prepare=False, binary=True)
            return
        try:
            await self._cursor.execute(text, params, binary=True)
        except psycopg.Error as error:
            if error.sqlstate not in PREPARED_STATEMENT_ERRORS:
                raise
            self._prepared_statements.disable(str(error))
            if not self.is_idle():
                raise
            await self._cursor.execute(text, params, prepare=False, binary=True)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Commit on a clean exit, roll back on an error or a cancel. Nested: a savepoint."""
        try:
            async with self.raw.transaction():
                yield
        except psycopg.Error as error:
            raise translate(error) from error

    def is_alive(self) -> bool:
        """Say whether the idle connection is still usable, without a round trip.

        An idle server sends nothing. If there is something to read, it is the server's last error
        or the end of the stream.
        """
        return not self.raw.closed and not ready_now(self.raw.pgconn.socket, READ)

    def is_idle(self) -> bool:
        """Say whether it is open, in no transaction, and has no statement in flight."""
        return self.raw.pgconn.transaction_status == pq.TransactionStatus.IDLE

    async def reset(self) -> None:
        """Roll back a transaction that was left open, within ``cleanup_timeout()`` seconds.

        If it fails, ``is_idle`` is false afterwards.
        """
        if self.raw.pgconn.transaction_status in _IN_TRANSACTION:
            with shielded(cleanup_timeout()), suppress(psycopg.Error):
                await self.raw.rollback()

    def terminate(self) -> None:
        """Close without waiting for the server; safe to call twice."""
        self.raw.terminate()

    def abandon(self) -> None:
        """Close without the event loop, which was closed before."""
        self.raw.pgconn.finish()


_IN_TRANSACTION = (pq.TransactionStatus.INTRANS, pq.TransactionStatus.INERROR)
