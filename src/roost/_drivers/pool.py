"""A pool for the connections of any async driver. It has no background task.

The task that needs a connection opens it itself. So no connection passes from task to task, and a
cancel can't lose one. A semaphore is the waiting queue. The functions that change the pool's state
contain no ``await`` (as in httpcore's pool). The idle connection that was returned last is lent
first, so that connections which are not needed stay idle and are closed.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from time import monotonic
from typing import Generic, Protocol, TypeVar

import anyio
import attrs

from roost._drivers.base import CALL_TIMEOUT, MAX_LIFETIME, AsyncConnection
from roost.exceptions import ClosedError, DatabaseUnavailableError

MAX_IDLE = 600.0
"""Seconds after which an idle connection is closed, when the next connection is returned."""


class Poolable(AsyncConnection, Protocol):
    """A connection that a `Pool` can lend."""

    def is_alive(self) -> bool:
        """Say whether the idle connection is still usable, without a round trip."""
        ...

    def is_idle(self) -> bool:
        """Say whether it is open, in no transaction, and has no statement in flight."""
        ...

    async def reset(self) -> None:
        """Roll back a transaction that was left open, within ``cleanup_timeout()`` seconds.

        A cancel does not interrupt it. If it fails, ``is_idle`` is false afterwards.
        """
        ...

    def terminate(self) -> None:
        """Close without waiting for the server; safe to call twice."""
        ...

    def abandon(self) -> None:
        """Close without the event loop, which was closed before."""
        ...


C = TypeVar("C", bound=Poolable)


@attrs.define(eq=False)
class _Member(Generic[C]):
    connection: C
    expires_at: float
    idle_since: float = 0.0


class Pool(Generic[C]):
    """Lends at most ``max_size`` connections at once, opened when first needed.

    :param connect: opens one connection.
    :param max_lifetime: seconds; see ``MAX_LIFETIME``.
    :param max_idle: seconds; see ``MAX_IDLE``.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[C]],
        *,
        max_size: int,
        max_lifetime: float = MAX_LIFETIME,
        max_idle: float = MAX_IDLE,
    ) -> None:
        self._connect = connect
        self._max_size = max_size
        self._max_lifetime = max_lifetime
        self._max_idle = max_idle
        self._slots = anyio.Semaphore(max_size, fast_acquire=True)
        self._idle: deque[_Member[C]] = deque()
        self._lent = 0
        self._closed = False

    @property
    def size(self) -> int:
        """The number of connections that are lent, being opened or idle."""
        return self._lent + len(self._idle)

    @property
    def lent(self) -> int:
        """The number of connections that are lent or being opened."""
        return self._lent

    def acquire(self, *, timeout: float = CALL_TIMEOUT) -> AbstractAsyncContextManager[C]:
        """Lend a connection for one ``async with``.

        A connection that is returned in a transaction is rolled back, or closed if that fails.

        :param timeout: seconds to wait until a connection is free and open.
        :raises DatabaseUnavailableError: none was free in time, or the server can't be reached.
        :raises ClosedError: the pool was closed.
        """
        return _Loan(self, timeout)

    async def aclose(self) -> None:
        """Close every idle connection now, and each lent one when it is returned."""
        if not self._closed:
            self._closed = True
            self.terminate_idle()
            # Wakes the first waiting task. It finds the pool closed and releases the slot, which
            # wakes the next.
            self._slots.release()

    def mark_closed(self) -> None:
        """Lend no more connections, and close each lent one when it is returned.

        Unlike ``aclose`` it may be called from another event loop. Idle connections stay open.
        """
        self._closed = True

    def terminate_idle(self) -> None:
        """Close every idle connection. Call it in the event loop that opened them."""
        while self._idle:
            self._idle.pop().connection.terminate()

    def abandon_idle(self) -> None:
        """Close every idle connection after the event loop that opened them was closed."""
        while self._idle:
            self._idle.pop().connection.abandon()

    async def _check_out(self, timeout: float) -> _Member[C]:
        if (member := self._check_out_now()) is not None:
            return member
        with anyio.move_on_after(timeout):
            await self._slots.acquire()
            self._lent += 1
            try:
                return self._reuse() or await self._open()
            except BaseException:
                self._lent -= 1
                self._slots.release()
                raise
        raise DatabaseUnavailableError(
            f"no connection was free and open within {timeout:g} s: "
            f"{self._lent} of {self._max_size} are in use"
        )

    def _check_out_now(self) -> _Member[C] | None:
        """Return an idle connection if a slot is free too: the usual case, without a timer."""
        self._refuse_if_closed()  # before a slot is taken
        if not self._idle:
            return None
        try:
            self._slots.acquire_nowait()
        except anyio.WouldBlock:
            return None
        self._lent += 1
        member = self._reuse()
        if member is None:
            self._lent -= 1
            self._slots.release()
        return member

    def _reuse(self) -> _Member[C] | None:
        """Return the idle connection that was used last; close those that are not usable."""
        self._refuse_if_closed()
        now = monotonic()
        while self._idle:
            member = self._idle.pop()
            if member.expires_at > now and member.connection.is_alive():
                return member
            member.connection.terminate()
        return None

    async def _open(self) -> _Member[C]:
        connection = await self._connect()
        if self._closed:
            connection.terminate()
            self._refuse_if_closed()
        lifetime = self._max_lifetime * random.uniform(0.9, 1.0)  # noqa: S311  (no secret)
        return _Member(connection, expires_at=monotonic() + lifetime)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise ClosedError("the connection pool is closed")

    def _take_back(self, member: _Member[C]) -> None:
        now = monotonic()
        self._lent -= 1
        self._slots.release()
        if member.connection.is_idle() and not self._closed and member.expires_at > now:
            member.idle_since = now
            self._idle.append(member)
        else:
            member.connection.terminate()
        while self._idle and self._idle[0].idle_since < now - self._max_idle:
            self._idle.popleft().connection.terminate()


class _Loan(AbstractAsyncContextManager[C]):
    """A connection lent for one ``async with``."""

    def __init__(self, pool: Pool[C], timeout: float) -> None:
        self._pool = pool
        self._timeout = timeout
        self._member: _Member[C]

    async def __aenter__(self) -> C:
        self._member = await self._pool._check_out(self._timeout)  # noqa: SLF001  (a part of the pool)
        return self._member.connection

    async def __aexit__(self, *_: object) -> None:
        try:
            await self._member.connection.reset()
        finally:
            self._pool._take_back(self._member)  # noqa: SLF001
