"""What Roost needs of a driver, and the two runners for operations.

Every driver translates its own errors into `roost.exceptions.DatabaseError` (or the subclass
`DatabaseUnavailableError`, when trying again later may help) inside these calls, so nothing above
this layer catches a driver's exception. The contract is checked by `tests.support.conformance`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

import anyio
import attrs

from roost._ops.query import Op, Query, Row
from roost._ops.schema_errors import schema_error
from roost.exceptions import DatabaseError, DatabaseUnavailableError

T = TypeVar("T")

CALL_TIMEOUT = 30.0
"""Seconds that one operation may take unless its caller knows better."""

CLEANUP_TIMEOUT = 5.0
"""Seconds that a shielded clean-up (a rollback, a cancel request, a check-in) may take."""

cleanup_bound: ContextVar[float] = ContextVar("roost_cleanup_bound", default=CLEANUP_TIMEOUT)
"""Seconds that one such clean-up may take in this context, where they are fewer.

A worker whose leases have run out has a tenth of ``orphan_stale_after`` to end its jobs. With short
leases that is less than `CLEANUP_TIMEOUT`, and a handler that is in a transaction must not wait
longer for a database that doesn't answer.
"""


def cleanup_timeout() -> float:
    """Return the seconds that one clean-up may take in this context."""
    return min(CLEANUP_TIMEOUT, cleanup_bound.get())


MAX_LIFETIME = 3600.0
"""Seconds after which a pooled connection is replaced, less up to a tenth, so that not all go at
once."""


class Connection(Protocol):
    """A blocking connection. Outside ``transaction()`` every statement commits by itself.

    A ``fetch`` that an exception of a signal handler interrupts stops the statement on the server;
    whether it took effect is unknown, and the connection is closed.
    """

    def set_deadline(self, timeout: float) -> None:
        """Give up what is in flight ``timeout`` seconds from now, then and at every later wait.

        What is given up is cancelled on the server and raises `DatabaseUnavailableError`. A
        connection of the caller's may not be able to, and then does nothing here.

        :param timeout: ``math.inf``: never.
        """
        ...

    def fetch(self, query: Query) -> Sequence[Row]:
        """Run one query and return its rows, empty where it returns none."""
        ...

    def transaction(self) -> AbstractContextManager[None]:
        """Commit on a clean exit, roll back on an error; nested, it is a savepoint."""
        ...

    def close(self) -> None:
        """Close; safe to call twice."""
        ...


class SyncPool(Protocol):
    """A bounded set of blocking connections for threads, opened when first needed."""

    def acquire(self, *, timeout: float = CALL_TIMEOUT) -> AbstractContextManager[Connection]:
        """Borrow a connection; wait up to ``timeout`` seconds for a free one.

        :raises DatabaseUnavailableError: none was free in time, or the server can't be reached.
        :raises ClosedError: the pool was closed.
        """
        ...

    def close(self) -> None:
        """Close every idle connection now and each borrowed one when it comes back."""
        ...


class SyncListener(Protocol):
    """A dedicated blocking connection that listens. One thread uses it at a time."""

    def receive(self, *, timeout: float) -> Sequence[Notification]:
        """Wait up to ``timeout`` seconds for something to arrive and return all that has.

        :raises DatabaseUnavailableError: the connection is gone.
        """
        ...

    def close(self) -> None:
        """Close; safe to call twice."""
        ...


class SyncDriver(Protocol):
    """A way to reach one database with blocking calls, not yet connected."""

    def pool(self, *, max_size: int, application_name: str) -> SyncPool:
        """Return an unopened pool; touches nothing."""
        ...

    def listener(
        self, channels: Sequence[str], *, application_name: str, timeout: float = CALL_TIMEOUT
    ) -> SyncListener:
        """Connect and LISTEN on ``channels`` within ``timeout`` seconds."""
        ...


class AsyncConnection(Protocol):
    """A connection for one task at a time.

    A ``fetch`` that is cancelled stops the statement on the server and leaves the connection either
    usable or closed, never in between; whether the statement took effect is unknown.
    """

    @property
    def raw(self) -> Any:
        """The driver's own connection, for users' SQL."""
        ...

    async def fetch(self, query: Query) -> Sequence[Row]:
        """Run one query and return its rows, empty where it returns none."""
        ...

    def transaction(self) -> AbstractAsyncContextManager[None]:
        """Commit on a clean exit, roll back on an error or a cancel; nested, it is a savepoint."""
        ...


class AsyncPool(Protocol):
    """A bounded set of connections, opened when first needed, without a background task."""

    def acquire(
        self, *, timeout: float = CALL_TIMEOUT
    ) -> AbstractAsyncContextManager[AsyncConnection]:
        """Borrow a connection; wait up to ``timeout`` seconds for one to be free and connected.

        :raises DatabaseUnavailableError: none was free in time, or the server can't be reached.
        :raises ClosedError: the pool was closed.
        """
        ...

    async def aclose(self) -> None:
        """Close every idle connection now and each borrowed one when it comes back."""
        ...

    def mark_closed(self) -> None:
        """Refuse new users; each connection is closed when it comes back. For another loop."""
        ...

    def terminate_idle(self) -> None:
        """Close every idle connection, in the loop that opened them."""
        ...

    def abandon_idle(self) -> None:
        """Let go of every idle connection after its loop was closed."""
        ...


@attrs.frozen
class Notification:
    """One NOTIFY as it arrived."""

    channel: str
    payload: str


class Listener(Protocol):
    """A dedicated connection that listens. One task owns it."""

    async def receive(self) -> Sequence[Notification]:
        """Wait until something arrives and return all that has; safe to cancel, nothing is lost.

        :raises DatabaseUnavailableError: the connection is gone.
        """
        ...

    async def probe(self) -> None:
        """Do one round trip; what arrives meanwhile is kept for the next ``receive``."""
        ...

    async def lock(self, name: str) -> None:
        """Hold the advisory lock ``hashtextextended(name, 0)`` as long as the connection lives.

        What arrives meanwhile is kept for the next ``receive``.
        """
        ...


class AsyncDriver(Protocol):
    """A way to reach one database, not yet connected."""

    @property
    def name(self) -> str:
        """The driver's name, for messages."""
        ...

    def pool(
        self, *, max_size: int, application_name: str, max_lifetime: float = MAX_LIFETIME
    ) -> AsyncPool:
        """Return an unopened pool; touches nothing.

        :param max_lifetime: seconds after which a connection is replaced; infinity: never.
        """
        ...

    def listener(
        self, channels: Sequence[str], *, application_name: str
    ) -> AbstractAsyncContextManager[Listener]:
        """Connect, LISTEN on ``channels``, and close on exit."""
        ...


async def run(connection: AsyncConnection, operation: Op[T], *, timeout: float = CALL_TIMEOUT) -> T:
    """Run an operation on ``connection`` and return its value.

    A cancel is delivered at the statement in flight; see `AsyncConnection` for what it leaves.

    :param timeout: seconds for the whole operation.
    :raises DatabaseUnavailableError: it took longer.
    """
    with anyio.move_on_after(timeout):
        return await _drive(connection, operation)
    raise DatabaseUnavailableError(f"the database did not answer within {timeout:g} s")


async def _drive(connection: AsyncConnection, operation: Op[T]) -> T:
    try:
        query = next(operation)
        while True:
            try:
                rows = await connection.fetch(query)
            except Exception as error:  # noqa: BLE001  (the operation decides; unhandled, it comes out)
                query = _throw(operation, error, query=query, connection=connection)
            else:
                query = operation.send(rows)
    except StopIteration as stop:
        value: T = stop.value
        return value
    finally:
        operation.close()


def _throw(operation: Op[T], error: Exception, *, query: Query, connection: object) -> Query:
    """Let the operation have a statement's error; say what is wrong with the schema if it is that.

    Only here, when a statement of Roost's own has failed, so that no call asks beforehand.
    """
    try:
        return operation.throw(error)
    except DatabaseError as unhandled:
        explained = schema_error(unhandled, query.statement, role=_role_of(connection))
        if unhandled is not error or explained is None:
            raise
        raise explained from unhandled


def _role_of(connection: object) -> str | None:
    """Return the name that a connection logged in with, which the server reports; no round trip."""
    raw: Any = getattr(connection, "raw", None)
    with contextlib.suppress(Exception):  # a library's own connection, which may be anything
        if hasattr(raw, "info"):
            found = raw.info.parameter_status("session_authorization")
        else:
            found = raw.get_settings().session_authorization
        return found if isinstance(found, str) else None
    return None


def run_sync(connection: Connection, operation: Op[T], *, timeout: float = CALL_TIMEOUT) -> T:
    """Run an operation on a blocking connection and return its value.

    :param timeout: seconds for the whole operation.
    :raises DatabaseUnavailableError: it took longer.
    """
    connection.set_deadline(timeout)
    try:
        query = next(operation)
        while True:
            try:
                rows = connection.fetch(query)
            except Exception as error:  # noqa: BLE001  (the operation decides; unhandled, it comes out)
                query = _throw(operation, error, query=query, connection=connection)
            else:
                query = operation.send(rows)
    except StopIteration as stop:
        value: T = stop.value
        return value
    finally:
        connection.set_deadline(math.inf)
        operation.close()
