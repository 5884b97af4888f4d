"""Wait for jobs to end: any number of waiters share one listening connection.

There is no background task. One of the waiters receives the notifications for all; when it leaves,
another continues with the same connection. The last waiter closes the connection. Each waiter also
queries its job every ``poll_interval`` seconds, in case a notification is lost.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import anyio
import attrs

from roost._drivers.base import CLEANUP_TIMEOUT, AsyncDriver, Listener
from roost._drivers.shield import shielded
from roost._model.info import JobOutcome
from roost._model.logs import StructuredLogger
from roost.exceptions import DatabaseUnavailableError

logger = StructuredLogger("roost.client.waiting")

CHANNEL = "roost_finished"

FIRST_QUERY_TIMEOUT = 1.0
"""Seconds that the first query may take even if the caller's timeout is shorter."""


@attrs.define(eq=False)
class _Waiter:
    """One call that waits.

    :ivar needs_query: a notification says that the job has ended.
    :ivar answered: a query has succeeded at least once.
    :ivar failure: the last error of a query.
    :ivar wakeup: set when ``needs_query`` or the receiver has changed.
    """

    job_id: int
    needs_query: bool = False
    answered: bool = False
    failure: DatabaseUnavailableError | None = None
    wakeup: anyio.Event = attrs.field(factory=anyio.Event)


class Waiting:
    """The waiters of one client."""

    def __init__(self, driver: AsyncDriver) -> None:
        self._driver = driver
        self._waiters: dict[_Waiter, None] = {}
        self._listener: Listener | None = None
        self._listener_exit: AsyncExitStack | None = None
        self._connecting = anyio.Lock()
        self._receiver: _Waiter | None = None

    async def wait(
        self,
        job_id: int,
        query: Callable[[], Awaitable[JobOutcome | None]],
        *,
        timeout: float,
        poll_interval: float,
    ) -> JobOutcome | None:
        """Return the job's outcome, or ``None`` after ``timeout``; a cancel leaves nothing behind.

        :param query: returns the outcome, or ``None`` if the job has not ended.
        :param timeout: seconds, or ``math.inf``. The first query may take ``FIRST_QUERY_TIMEOUT``
            seconds even if this is shorter.
        :param poll_interval: seconds between two queries without a notification.
        :raises DatabaseUnavailableError: no query succeeded in this time.
        """
        waiter = _Waiter(job_id)
        deadline = anyio.current_time() + timeout
        self._waiters[waiter] = None
        try:
            with anyio.CancelScope(
                deadline=max(deadline, anyio.current_time() + FIRST_QUERY_TIMEOUT)
            ):
                if (outcome := await self._query(waiter, query)) is not None:
                    return outcome
            with anyio.CancelScope(deadline=deadline):
                while True:
                    waiter.needs_query = False
                    # Listen first, then query, so that no end in between is missed.
                    if (outcome := await self._query(waiter, query, self._listen)) is not None:
                        return outcome
                    with anyio.move_on_after(poll_interval):
                        await self._wait_for_wakeup(waiter)
        finally:
            del self._waiters[waiter]
            if self._receiver is None:
                # It may have been woken to receive, and leaves instead.
                self._wake_another(waiter)
            if not self._waiters:
                with shielded(CLEANUP_TIMEOUT):
                    await self._stop_listening()
        if not waiter.answered:
            message = f"the database did not answer within {timeout:g} s"
            raise waiter.failure or DatabaseUnavailableError(message)
        return None

    async def _query(
        self,
        waiter: _Waiter,
        query: Callable[[], Awaitable[JobOutcome | None]],
        prepare: Callable[[], Awaitable[None]] | None = None,
    ) -> JobOutcome | None:
        """Return the outcome; ``None``: the job has not ended, or the database is unavailable."""
        try:
            if prepare is not None:
                await prepare()
            outcome = await query()
        except DatabaseUnavailableError as error:
            logger.warning(
                "can't query job %(job_id)d now: %(error)s",
                job_id=waiter.job_id,
                error=str(error),
            )
            waiter.failure = error
            return None
        waiter.answered = True
        return outcome

    async def _wait_for_wakeup(self, waiter: _Waiter) -> None:
        """Return when the waiter's job has ended; receive for all if no other waiter does."""
        while not waiter.needs_query:
            if self._receiver is None and self._listener is not None:
                self._receiver = waiter
                try:
                    await self._receive(self._listener)
                finally:
                    self._receiver = None
                    self._wake_another(waiter)
            else:
                await waiter.wakeup.wait()
                waiter.wakeup = anyio.Event()

    async def _receive(self, listener: Listener) -> None:
        """Receive one batch of notifications and wake the waiters that it concerns."""
        try:
            received = await listener.receive()
        except DatabaseUnavailableError as error:
            logger.warning(
                "no listening connection, polling instead: %(error)s",
                error=str(error),
            )
            if self._listener is listener:
                await self._stop_listening()
            return
        ended = {notification.payload for notification in received}
        for waiter in self._waiters:
            if str(waiter.job_id) in ended:
                waiter.needs_query = True
                waiter.wakeup.set()

    def _wake_another(self, leaving: _Waiter) -> None:
        """Wake one waiter, which becomes the receiver."""
        for waiter in self._waiters:
            if waiter is not leaving and not waiter.needs_query:
                waiter.wakeup.set()
                return

    async def _listen(self) -> None:
        async with self._connecting:
            if self._listener is not None:
                return
            async with AsyncExitStack() as stack:
                self._listener = await stack.enter_async_context(
                    self._driver.listener([CHANNEL], application_name="roost wait")
                )
                self._listener_exit = stack.pop_all()

    async def _stop_listening(self) -> None:
        stack, self._listener, self._listener_exit = self._listener_exit, None, None
        if stack is not None:
            await stack.aclose()
