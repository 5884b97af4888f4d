"""The protocols that a driver implements, and the two functions that run operations.

Each driver translates its library's errors into `roost.exceptions.DatabaseError`, or into the
subclass `DatabaseUnavailableError` if a later attempt may succeed. So no layer above catches an
exception of a database library. The tests in `tests.support.conformance` check every driver.
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
"""Seconds that one operation may take, unless its caller gives another limit."""

CLEANUP_TIMEOUT = 5.0
"""Seconds that a shielded cleanup may take: a rollback or a cancel request, for example."""

cleanup_bound: ContextVar[float] = ContextVar("roost_cleanup_bound", default=CLEANUP_TIMEOUT)
"""A shorter maximum in seconds for one such cleanup, set for the handlers of a worker.

A worker that could not renew its leases has a tenth of ``orphan_stale_after`` to end its jobs. With
short leases this is less than `CLEANUP_TIMEOUT`. A handler in a transaction must not wait longer
than that for a database that does not answer.
"""


def cleanup_timeout() -> float:
    """Return the seconds that one cleanup may take in this context."""
    return min(CLEANUP_TIMEOUT, cleanup_bound.get())


MAX_LIFETIME = 3600.0
"""Seconds after which a pooled connection is replaced.

Up to a tenth is subtracted at random, so that not all connections are replaced at once.
"""


class Connection(Protocol):
    """A blocking connection. Outside ``transaction()`` every statement commits by itself.

    If a signal handler raises during a ``fetch``, the statement is cancelled on the server and the
    connection is closed. Whether the statement took effect is unknown.
    """

    def set_deadline(self, timeout: float) -> None:
        """Let every wait end ``timeout`` seconds from now at the latest.

        A statement that is in flight then is cancelled on the server and raises
        `DatabaseUnavailableError`. Some borrowed connections have no deadline: there this call does
        nothing.

        :param timeout: seconds; ``math.inf`` removes the deadline.
        """
        ...

    def fetch(self, query: Query) -> Sequence[Row]:
        """Run one query and return its rows, an empty list if it returns none."""
        ...

    def transaction(self) -> AbstractContextManager[None]:
        """Commit on a clean exit, roll back on an error; nested, it is a savepoint."""
        ...

    def close(self) -> None:
        """Close; safe to call twice."""
        ...


class SyncPool(Protocol):
    """A pool of blocking connections for threads, opened when they are needed."""

    def acquire(self, *, timeout: float = CALL_TIMEOUT) -> AbstractContextManager[Connection]:
        """Lend a connection for one ``with``.

        :param timeout: seconds to wait until a connection is free and open.
        :raises DatabaseUnavailableError: none was free in time, or the server can't be reached.
        :raises ClosedError: the pool was closed.
        """
        ...

    def close(self) -> None:
        """Close every idle connection now, and each lent one when it is returned."""
        ...


class SyncListener(Protocol):
    """A blocking connection that only listens. One thread uses it at a time."""

    def receive(self, *, timeout: float) -> Sequence[Notification]:
        """Wait up to ``timeout`` seconds for notifications and return those that have arrived.

        :raises DatabaseUnavailableError: the connection is gone.
        """
        ...

    def lock_shared(self, name: str) -> None:
        """Wait for the advisory lock ``hashtextextended(name, 0)``, shared with other sessions.

        It is held until the connection ends.
        """
        ...

    def close(self) -> None:
        """Close; safe to call twice."""
        ...


class SyncDriver(Protocol):
    """Makes blocking connections to one database. It opens none by itself."""

    def pool(self, *, max_size: int, application_name: str) -> SyncPool:
        """Return a pool that has opened no connection yet."""
        ...

    def listener(
        self, channels: Sequence[str], *, application_name: str, timeout: float = CALL_TIMEOUT
    ) -> SyncListener:
        """Connect and LISTEN on ``channels`` within ``timeout`` seconds."""
        ...


class AsyncConnection(Protocol):
    """A connection for one task at a time. Outside ``transaction()`` every statement commits.

    A cancelled ``fetch`` cancels the statement on the server. Afterwards the connection is either
    usable or closed. Whether the statement took effect is unknown.
    """

    @property
    def raw(self) -> Any:
        """The driver's own connection, for users' SQL."""
        ...

    async def fetch(self, query: Query) -> Sequence[Row]:
        """Run one query and return its rows, an empty list if it returns none."""
        ...

    def transaction(self) -> AbstractAsyncContextManager[None]:
        """Commit on a clean exit, roll back on an error or a cancel; nested, it is a savepoint."""
        ...


class AsyncPool(Protocol):
    """A pool of connections, opened when they are needed. It has no background task."""

    @property
    def lent(self) -> int:
        """The number of connections that are lent or being opened."""
        ...

    @property
    def size(self) -> int:
        """The number of connections that are lent, being opened or idle."""
        ...

    def acquire(
        self, *, timeout: float = CALL_TIMEOUT
    ) -> AbstractAsyncContextManager[AsyncConnection]:
        """Lend a connection for one ``async with``.

        :param timeout: seconds to wait until a connection is free and open.
        :raises DatabaseUnavailableError: none was free in time, or the server can't be reached.
        :raises ClosedError: the pool was closed.
        """
        ...

    async def aclose(self) -> None:
        """Close every idle connection now, and each lent one when it is returned."""
        ...

    def mark_closed(self) -> None:
        """Lend no more connections, and close each lent one when it is returned.

        Unlike ``aclose`` it may be called from another event loop. Idle connections stay open.
        """
        ...

    def terminate_idle(self) -> None:
        """Close every idle connection. Call it in the event loop that opened them."""
        ...

    def abandon_idle(self) -> None:
        """Close every idle connection after the event loop that opened them was closed."""
        ...


@attrs.frozen
class Notification:
    """One NOTIFY as it arrived."""

    channel: str
    payload: str


class Listener(Protocol):
    """A connection that only listens. One task owns it."""

    async def receive(self) -> Sequence[Notification]:
        """Wait for notifications and return those that have arrived. A cancel loses none.

        :raises DatabaseUnavailableError: the connection is gone.
        """
        ...

    async def probe(self) -> None:
        """Do one round trip. Notifications that arrive meanwhile are kept for ``receive``."""
        ...

    async def lock(self, name: str) -> None:
        """Wait for the advisory lock ``hashtextextended(name, 0)``, held until the connection ends.

        Notifications that arrive meanwhile are kept for ``receive``.
        """
        ...


class AsyncDriver(Protocol):
    """Makes connections to one database. It opens none by itself."""

    @property
    def name(self) -> str:
        """The driver's name, for messages."""
        ...

    def pool(
        self, *, max_size: int, application_name: str, max_lifetime: float = MAX_LIFETIME
    ) -> AsyncPool:
        """Return a pool that has opened no connection yet.

        :param max_lifetime: seconds after which a connection is replaced; ``math.inf``: never.
        """
        ...

    def listener(
        self, channels: Sequence[str], *, application_name: str
    ) -> AbstractAsyncContextManager[Listener]:
        """Connect and LISTEN on ``channels``; close at the end of the ``async with``."""
        ...


class OwnedListener(Listener, Protocol):
    """A listener that its caller closes."""

    async def lock_shared(self, name: str) -> None:
        """Do what ``lock`` does with a lock that several sessions may hold at once."""
        ...

    def terminate(self) -> None:
        """Close now, without a wait; safe to call twice."""
        ...


class ListeningDriver(AsyncDriver, Protocol):
    """A driver whose listeners may be opened without an ``async with``."""

    async def open_listener(
        self, channels: Sequence[str], *, application_name: str
    ) -> OwnedListener:
        """Connect and LISTEN on ``channels``. The caller ends it with ``listener.terminate()``."""
        ...


async def run(connection: AsyncConnection, operation: Op[T], *, timeout: float = CALL_TIMEOUT) -> T:
    """Run an operation on ``connection`` and return its value.

    A cancel interrupts the statement in flight; see `AsyncConnection` for what it leaves behind.

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
            except Exception as error:  # noqa: BLE001  (the operation may handle it; if not, it is raised)
                query = _throw(operation, error, query=query, connection=connection)
            else:
                query = operation.send(rows)
    except StopIteration as stop:
        value: T = stop.value
        return value
    finally:
        operation.close()


def _throw(operation: Op[T], error: Exception, *, query: Query, connection: object) -> Query:
    """Throw a statement's error into the operation, and return its next query.

    If the operation does not handle the error and the schema is the reason, raise an error that
    says so. The schema is looked at only here, after a failure, so that no call pays for it.
    """
    try:
        return operation.throw(error)
    except DatabaseError as unhandled:
        explained = schema_error(unhandled, query.statement, role=_role_of(connection))
        if unhandled is not error or explained is None:
            raise
        raise explained from unhandled


def _role_of(connection: object) -> str | None:
    """Return the role that the connection logged in as, without a round trip."""
    raw: Any = getattr(connection, "raw", None)
    with contextlib.suppress(Exception):  # `raw` may be an object of any library
        if hasattr(raw, "info"):
            found = raw.info.parameter_status("session_authorization")
        else:
            found = raw.get_settings().session_authorization
        return found if isinstance(found, str) else None
    return None


def backend_pid(connection: object) -> int | None:
    """Return the server process that the driver was told of when it connected.

    Behind a pooler it is not the process that answers. Takes no round trip.
    """
    raw: Any = getattr(connection, "raw", None)
    with contextlib.suppress(Exception):  # as above
        found = raw.info.backend_pid if hasattr(raw, "info") else raw.get_server_pid()
        return found if isinstance(found, int) else None
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
            except Exception as error:  # noqa: BLE001  (the operation may handle it; if not, it is raised)
                query = _throw(operation, error, query=query, connection=connection)
            else:
                query = operation.send(rows)
    except StopIteration as stop:
        value: T = stop.value
        return value
    finally:
        connection.set_deadline(math.inf)
        operation.close()
