"""Makes an asyncpg connection an `AsyncConnection`: runs queries and translates errors.

asyncpg's ``Transaction`` is not used. If its BEGIN is interrupted, later ones become savepoints of
a transaction that does not exist.

When a call is cancelled, asyncpg sends one cancel request to the server from a task of its own. The
next call waits until the server has answered it. So such a call is made here at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import asyncpg

from roost._drivers.asyncpg.errors import ERRORS, translate
from roost._drivers.asyncpg.opening import check_loop, connect, is_behind_pooler
from roost._drivers.asyncpg.parameters import Parameters
from roost._drivers.asyncpg.sockets import is_closing_or_unread, shut_down
from roost._drivers.base import cleanup_timeout
from roost._drivers.prepared import PreparedStatements
from roost._drivers.shield import shielded
from roost._drivers.sqlstate import SERIALIZATION_FAILURE
from roost._ops.query import Query, Row
from roost.exceptions import DatabaseError

BEGIN = "begin isolation level read committed"
"""The database's default may differ. `fetch` handles single statements."""


class AsyncpgConnection:
    """A connection for one task at a time.

    A cancel cancels the statement in flight on the server and waits for its answer, for at most
    ``cleanup_timeout()`` seconds; then the connection is closed. BEGIN, COMMIT and savepoints are
    not cancelled on the server, only awaited, with the same limit. A second native cancel
    (``Task.cancel``) ignores the shield, and closes the connection.
    """

    def __init__(
        self,
        raw: asyncpg.Connection,
        *,
        prepared: PreparedStatements | None = None,
        reopen: Callable[[], Awaitable[asyncpg.Connection]] | None = None,
    ) -> None:
        self.raw: Any = raw
        self._prepared_statements = prepared or PreparedStatements()
        self._prepares = self._prepared_statements.allowed
        self._reopen = reopen
        self._depth = 0

    @classmethod
    async def open(
        cls,
        parameters: Parameters,
        *,
        application_name: str,
        prepared: PreparedStatements | None = None,
    ) -> AsyncpgConnection:
        """Connect. A cancel leaves nothing open.

        :param prepared: shared with the other connections of this DSN.
        :raises DatabaseUnavailableError: the server can't be reached.
        :raises DatabaseError: it refuses, for instance the password.
        :raises InvalidSettingError: the caller does not run on asyncio, or the DSN can't be read.
        """
        check_loop()
        prepared = prepared or PreparedStatements(allowed=parameters.statement_cache_size > 0)
        reopen = partial(connect, parameters, application_name=application_name, prepared=prepared)
        raw = await reopen()
        try:
            if prepared.allowed and await is_behind_pooler(raw):
                prepared.disable("the server process that answers is another one than at the login")
                raw.terminate()
                raw = await reopen()
        except BaseException:
            raw.terminate()
            raise
        return cls(raw, prepared=prepared, reopen=reopen)

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
        try:
            if statement.script:
                # Only without parameters may a text hold several commands.
                await self.raw.execute(statement.text)
                return []
            return await self._rows(query)
        except (
            asyncpg.DuplicatePreparedStatementError,
            asyncpg.InvalidSQLStatementNameError,
        ) as error:
            self._prepared_statements.disable(str(error))
            if not self._prepares or self._in_transaction() or self._reopen is None:
                self.raw.terminate()
                raise self._translated(error, statement.name) from error
        except ERRORS as error:
            raise self._translated(error, statement.name) from error
        except BaseException:
            await self._run_after_cancel("select 1")
            raise
        # The statement was not executed. Repeat it on a new connection, which prepares nothing.
        self.raw.terminate()
        self._prepares = False
        self.raw = await self._reopen()
        return await self._fetch(query)

    async def _rows(self, query: Query) -> Sequence[Row]:
        text, params = query.statement.text, query.params
        return [tuple(record) for record in await self.raw.fetch(text, *params)]

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Commit on a clean exit, roll back on an error or a cancel. Nested: a savepoint."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        name = f"roost_{self._depth}"
        if self._in_transaction():
            begin, commit = f"savepoint {name}", f"release savepoint {name}"
            undo = f"rollback to savepoint {name}; release savepoint {name}"
        else:
            begin, commit, undo = BEGIN, "commit", "rollback"
        self._depth += 1
        try:
            try:
                await self._run_to_the_end(begin)
                yield
            except BaseException:
                await self._undo(undo)
                raise
            else:
                await self._run_to_the_end(commit)
        finally:
            self._depth -= 1

    def forbid_reopening(self) -> None:
        """Never replace the server connection, because it listens."""
        self._reopen = None

    def is_alive(self) -> bool:
        """Say whether the idle connection is still usable, without a round trip.

        If the server has closed it, the event loop may not have read that yet. So look at the
        socket.
        """
        if self._prepares and not self._prepared_statements.allowed:
            return False
        return not self.raw.is_closed() and not is_closing_or_unread(self.raw)

    def is_idle(self) -> bool:
        """Say whether it is open, in no transaction, and has no statement in flight."""
        return not self.raw.is_closed() and not self._in_transaction()

    async def reset(self) -> None:
        """Roll back a transaction that was left open, or close after ``cleanup_timeout()`` seconds.

        A cancel does not interrupt it.
        """
        await self._undo("rollback")

    def terminate(self) -> None:
        """Close without waiting for the server; safe to call twice."""
        self.raw.terminate()

    def abandon(self) -> None:
        """Close without the event loop, which was closed before."""
        shut_down(self.raw)
        with suppress(RuntimeError):  # the loop is closed
            self.raw.terminate()

    async def _run_to_the_end(self, command: str) -> None:
        """Run BEGIN, COMMIT or a savepoint. A cancel waits for its answer first."""
        execution = asyncio.ensure_future(self.raw.execute(command))
        try:
            await asyncio.shield(execution)
        except ERRORS as error:
            raise self._translated(error, command) from error
        except BaseException:
            execution.add_done_callback(_ignore_error)
            try:
                with shielded(cleanup_timeout()):
                    await asyncio.wait([execution])
            finally:
                if not execution.done():
                    self.raw.terminate()  # which also ends the execution
            raise

    async def _undo(self, command: str) -> None:
        if self._in_transaction():
            await self._run_after_cancel(command)

    def _in_transaction(self) -> bool:
        # asyncpg's answer for a closed connection is not reliable.
        return not self.raw.is_closed() and bool(self.raw.is_in_transaction())

    async def _run_after_cancel(self, command: str) -> None:
        """Wait for the end of a cancelled call, then run ``command``; else close the connection.

        An error of the server is an answer too: the cancel request may arrive late and cancel
        ``command`` instead.
        """
        answered = False
        try:
            with shielded(cleanup_timeout()):
                with suppress(asyncpg.PostgresError):
                    await self.raw.execute(command)
                answered = True
        except ERRORS:
            pass  # the cancel or error before this is reported
        finally:
            if not answered:
                self.raw.terminate()

    def _translated(self, error: Exception, name: str) -> DatabaseError:
        if isinstance(error, asyncpg.InternalClientError):
            self.raw.terminate()  # asyncpg's state is unknown
        if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
            self.raw.terminate()  # the next connection may reach a server that takes writes
        return translate(error, statement=name, closed=self.raw.is_closed())


def _ignore_error(execution: asyncio.Future[object]) -> None:
    """Retrieve the error, so that asyncio does not report one that was never retrieved."""
    if not execution.cancelled():
        execution.exception()
