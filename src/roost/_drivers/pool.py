"""A bounded pool without a background task, for the connections of any driver.

The borrower itself connects, so nothing is handed from task to task and a cancel has nothing to
lose. A semaphore is the waiting queue. What changes the pool's state is synchronous; the awaits are
round it (the shape of httpcore's pool). Idle connections are reused last in, first out, so that
those not needed grow old and are closed.
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
"""Seconds after which a connection that nobody needed is closed, at the pool's next use."""


class Poolable(AsyncConnection, Protocol):
    """A connection that a `Pool` can lend."""

    def is_alive(self) -> bool:
        """Say whether the idle connection is alive, without a round trip."""
        ...

    def is_idle(self) -> bool:
        """Say whether it is open, in no transaction and without a statement in flight."""
        ...

    async def reset(self) -> None:
        """Roll back what its user left open, also when cancelled, for ``CLEANUP_TIMEOUT`` seconds.

        Failed, it is not idle afterwards.
        """
        ...

    def terminate(self) -> None:
        """Close at once, without waiting; safe to call twice."""
        ...

    def abandon(self) -> None:
        """Tell the server of the end without the event loop, which was closed."""
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
        """How many connections are lent, being opened or idle."""
        return self._lent + len(self._idle)

    def acquire(self, *, timeout: float = CALL_TIMEOUT) -> AbstractAsyncContextManager[C]:
        """Borrow a connection; wait up to ``timeout`` seconds for one to be free and connected.

        What comes back in a transaction is rolled back, for ``CLEANUP_TIMEOUT`` seconds, or closed.

        :raises DatabaseUnavailableError: none was free in time, or the server can't be reached.
        :raises ClosedError: the pool was closed.
        """
        return _Loan(self, timeout)

    async def aclose(self) -> None:
        """Close every idle connection now and each borrowed one when it comes back."""
        if not self._closed:
            self._closed = True
            self.terminate_idle()
            # Wakes the first who waits; each passes the slot on as it finds the pool closed.
            self._slots.release()

    def mark_closed(self) -> None:
        """Refuse new users; each connection is closed when it comes back. For another loop."""
        self._closed = True

    def terminate_idle(self) -> None:
        """Close every idle connection, in the loop that opened them."""
        while self._idle:
            self._idle.pop().connection.terminate()

    def abandon_idle(self) -> None:
        """Let go of every idle connection after its loop was closed."""
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
            f"no connection within {timeout:g} s: {self._lent} of {self._max_size} are in use"
        )

    def _check_out_now(self) -> _Member[C] | None:
        """Take a slot and an idle connection if both are there: the usual case, without a timer."""
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
        """Take the youngest idle connection that is alive, closing what is not."""
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
        self._member = await self._pool._check_out(self._timeout)  # noqa: SLF001  (a part of it)
        return self._member.connection

    async def __aexit__(self, *_: object) -> None:
        try:
            await self._member.connection.reset()
        finally:
            self._pool._take_back(self._member)  # noqa: SLF001
