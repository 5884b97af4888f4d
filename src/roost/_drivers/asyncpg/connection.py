"""An asyncpg connection as Roost's ``AsyncConnection``: queries in, rows out, errors translated.

asyncpg's own ``Transaction`` is not used: interrupted in its BEGIN, it makes later ones savepoints
of a transaction that does not exist. It cancels a statement by a request that it sends once, from a
task of its own; the next use of the connection waits for the answer, and is made here at once.
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
from roost._drivers.asyncpg.parameters import Parameters
from roost._drivers.asyncpg.sockets import is_closing_or_unread, set_options, shut_down
from roost._drivers.base import cleanup_timeout
from roost._drivers.hosts import order_hosts, record_attempt
from roost._drivers.prepared import PreparedStatements
from roost._drivers.shield import shielded
from roost._drivers.sqlstate import SERIALIZATION_FAILURE
from roost._ops.query import Query, Row
from roost.exceptions import DatabaseError, DatabaseUnavailableError, InvalidSettingError

BEGIN = "begin isolation level read committed"
"""A database may have another default. `fetch` takes care of single statements."""


class AsyncpgConnection:
    """One connection; one task uses it at a time.

    Cancellation: a statement in flight is cancelled on the server and its answer awaited, for at
    most ``CLEANUP_TIMEOUT`` seconds, after which the connection is closed; so it is when a second
    native cancel (``Task.cancel``) ignores anyio's shield. BEGIN, COMMIT and savepoints are not
    cancelled but awaited, with the same limit.
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
        """Connect. Cancelled, it leaves nothing open.

        :param prepared: what other connections of this DSN have learnt.
        :raises DatabaseUnavailableError: the server can't be reached.
        :raises DatabaseError: it refuses, for instance the password.
        :raises InvalidSettingError: this is no asyncio, or the DSN can't be read.
        """
        _check_loop()
        prepared = prepared or PreparedStatements(allowed=parameters.statement_cache_size > 0)
        connect = partial(
            _connect, parameters, application_name=application_name, prepared=prepared
        )
        raw = await connect()
        try:
            if prepared.allowed and await _is_pooled(raw):
                prepared.disable("the server's process is not the one that it was connected to")
                raw.terminate()
                raw = await connect()
        except BaseException:
            raw.terminate()
            raise
        return cls(raw, prepared=prepared, reopen=connect)

    async def fetch(self, query: Query) -> Sequence[Row]:
        """Run one query and return its rows; see ``AsyncConnection`` for what a cancel leaves."""
        try:
            return await self._fetch(query)
        except DatabaseError as error:
            if error.sqlstate != SERIALIZATION_FAILURE or not self.is_idle():
                raise
        # Only where the database's default is repeatable read or serializable: nothing was written,
        # and in a transaction of its own the statement can't fail so.
        async with self.transaction():
            return await self._fetch(query)

    async def _fetch(self, query: Query) -> Sequence[Row]:
        await anyio.lowlevel.checkpoint_if_cancelled()
        statement = query.statement
        try:
            if statement.script:
                # Without parameters: only so may it hold several commands.
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
            await self._finish("select 1")
            raise
        # It was not executed. On a connection that prepares nothing it can be.
        self.raw.terminate()
        self._prepares = False
        self.raw = await self._reopen()
        return await self._fetch(query)

    async def _rows(self, query: Query) -> Sequence[Row]:
        text, params = query.statement.text, query.params
        return [tuple(record) for record in await self.raw.fetch(text, *params)]

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Commit on a clean exit, roll back on an error or a cancel; nested, it is a savepoint."""
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
                await self._to_the_end(begin)
                yield
            except BaseException:
                await self._undo(undo)
                raise
            else:
                await self._to_the_end(commit)
        finally:
            self._depth -= 1

    def stay(self) -> None:
        """Never replace the server connection: it listens."""
        self._reopen = None

    def is_alive(self) -> bool:
        """Say whether the idle connection is alive, without a round trip.

        The event loop reads the server's farewell, but it may not have come to it yet.
        """
        if self._prepares and not self._prepared_statements.allowed:
            return False
        return not self.raw.is_closed() and not is_closing_or_unread(self.raw)

    def is_idle(self) -> bool:
        """Say whether it is open, in no transaction and without a statement in flight."""
        return not self.raw.is_closed() and not self._in_transaction()

    async def reset(self) -> None:
        """Roll back what its user left open, within ``CLEANUP_TIMEOUT`` seconds, or close."""
        await self._undo("rollback")

    def terminate(self) -> None:
        """Close at once; safe to call twice."""
        self.raw.terminate()

    def abandon(self) -> None:
        """Tell the server of the end without the event loop, which was closed."""
        shut_down(self.raw)
        with suppress(RuntimeError):  # the loop is closed
            self.raw.terminate()

    async def _to_the_end(self, command: str) -> None:
        """Run a command of a transaction, and wait for its answer also when cancelled."""
        execution = asyncio.ensure_future(self.raw.execute(command))
        try:
            await asyncio.shield(execution)
        except ERRORS as error:
            raise self._translated(error, command) from error
        except BaseException:
            execution.add_done_callback(_forget)
            try:
                with shielded(cleanup_timeout()):
                    await asyncio.wait([execution])
            finally:
                if not execution.done():
                    self.raw.terminate()  # which also ends the execution
            raise

    async def _undo(self, command: str) -> None:
        if self._in_transaction():
            await self._finish(command)

    def _in_transaction(self) -> bool:
        # A closed connection has forgotten it.
        return not self.raw.is_closed() and bool(self.raw.is_in_transaction())

    async def _finish(self, command: str) -> None:
        """Wait for what is being cancelled, run ``command``, or close the connection.

        A refusal is an answer too: a cancel may have come late, and hit the command.
        """
        answered = False
        try:
            with shielded(cleanup_timeout()):
                with suppress(asyncpg.PostgresError):
                    await self.raw.execute(command)
                answered = True
        except ERRORS:
            pass  # the interruption, or the error that it is called for, is what gets reported
        finally:
            if not answered:
                self.raw.terminate()

    def _translated(self, error: Exception, name: str) -> DatabaseError:
        if isinstance(error, asyncpg.InternalClientError):
            self.raw.terminate()  # whatever it was, the connection can't be trusted
        if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
            self.raw.terminate()  # the next one may reach a server that takes writes
        return translate(error, statement=name, closed=self.raw.is_closed())


def _forget(execution: asyncio.Future[object]) -> None:
    """Look at what became of it, so that asyncio doesn't report that nobody did."""
    if not execution.cancelled():
        execution.exception()


async def _connect(
    parameters: Parameters, *, application_name: str, prepared: PreparedStatements
) -> asyncpg.Connection:
    """Connect to the first host that can be worked on."""
    if len(parameters.dsns) == 1:
        return await _connect_to(parameters.dsns[0], parameters, application_name, prepared)
    failures: list[DatabaseUnavailableError] = []
    for dsn in order_hosts(parameters.dsns, key=str):
        try:
            with record_attempt(dsn):
                return await _connect_to(dsn, parameters, application_name, prepared)
        except DatabaseUnavailableError as error:
            failures.append(error)
    raise DatabaseUnavailableError(
        "none of the hosts can be used: " + "; ".join(map(str, failures)),
        sqlstate=failures[-1].sqlstate,
    ) from failures[-1].__cause__


async def _connect_to(
    dsn: str, parameters: Parameters, application_name: str, prepared: PreparedStatements
) -> asyncpg.Connection:
    try:
        raw = await asyncpg.connect(
            dsn,
            timeout=parameters.timeout,
            statement_cache_size=parameters.statement_cache_size if prepared.allowed else 0,
            server_settings={"application_name": parameters.application_name or application_name},
        )
    except asyncpg.ClientConfigurationError as error:
        raise InvalidSettingError(f"the DSN can't be used: {error}") from None
    except ERRORS as error:
        raise translate(error, connecting=True) from error
    except ValueError:  # quotes what it could not read, which may be the password
        raise InvalidSettingError("the DSN can't be read: it is malformed") from None
    set_options(raw, parameters.socket_options)
    return raw


async def _is_pooled(raw: asyncpg.Connection) -> bool:
    """Say whether a pooler stands between: it invents the process id that a cancel names.

    The answer is an error, for asyncpg gets rows of prepared statements only.
    """
    try:
        await raw.execute(f"select 1 / (pg_backend_pid() = {int(raw.get_server_pid())})::integer")
    except asyncpg.DivisionByZeroError:
        return True
    except ERRORS as error:
        raise translate(error, connecting=True) from error
    return False


def _check_loop() -> None:
    """Refuse to run where asyncpg can't.

    :raises InvalidSettingError: the caller is no task of asyncio's.
    """
    try:
        # Not the running loop: in trio's guest mode there is one.
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    if task is None:
        raise InvalidSettingError(
            "the asyncpg driver runs on asyncio only; under trio use driver='psycopg'"
        )
