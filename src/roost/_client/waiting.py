"""Wait for jobs to end, any number of waiters on one listening connection.

There is no background task: one of the waiters listens for all, and when it leaves another goes on
with the same connection. The last to leave closes it. A waiter also looks by itself from time to
time, so that a notification that gets lost costs a ``poll_interval`` and no more.
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

LOOK_TIMEOUT = 1.0
"""Seconds that the first look at the job may take at least, however short the caller's timeout."""


@attrs.define(eq=False)
class _Waiter:
    """One call that waits. ``told``: the job has ended. ``called``: look at what changed.

    ``answered``: the database has said at least once that the job has not ended.
    """

    job_id: int
    told: bool = False
    answered: bool = False
    failure: DatabaseUnavailableError | None = None
    called: anyio.Event = attrs.field(factory=anyio.Event)


class Waiting:
    """The waiters of one client."""

    def __init__(self, driver: AsyncDriver) -> None:
        self._driver = driver
        self._waiters: dict[_Waiter, None] = {}
        self._listener: Listener | None = None
        self._listener_exit: AsyncExitStack | None = None
        self._connecting = anyio.Lock()
        self._pump: _Waiter | None = None

    async def wait(
        self,
        job_id: int,
        look: Callable[[], Awaitable[JobOutcome | None]],
        *,
        timeout: float,
        poll_interval: float,
    ) -> JobOutcome | None:
        """Return the outcome when ``look`` has one; a cancel leaves nothing behind.

        :param timeout: seconds, or ``math.inf``. Then ``None`` is returned; the first look may take
            ``LOOK_TIMEOUT`` seconds even if this is shorter.
        :raises DatabaseUnavailableError: no look had an answer in this time.
        """
        waiter = _Waiter(job_id)
        deadline = anyio.current_time() + timeout
        self._waiters[waiter] = None
        try:
            with anyio.CancelScope(deadline=max(deadline, anyio.current_time() + LOOK_TIMEOUT)):
                if (outcome := await self._look(waiter, look)) is not None:
                    return outcome
            with anyio.CancelScope(deadline=deadline):
                while True:
                    waiter.told = False
                    # Listen first, then look: what ends in between is heard.
                    if (outcome := await self._look(waiter, look, self._listen)) is not None:
                        return outcome
                    with anyio.move_on_after(poll_interval):
                        await self._hear(waiter)
        finally:
            del self._waiters[waiter]
            if self._pump is None:
                # It may have been called to listen, and leaves instead.
                self._call_another(waiter)
            if not self._waiters:
                with shielded(CLEANUP_TIMEOUT):
                    await self._stop_listening()
        if not waiter.answered:
            message = f"the database did not answer within {timeout:g} s"
            raise waiter.failure or DatabaseUnavailableError(message)
        return None

    async def _look(
        self,
        waiter: _Waiter,
        look: Callable[[], Awaitable[JobOutcome | None]],
        prepare: Callable[[], Awaitable[None]] | None = None,
    ) -> JobOutcome | None:
        """Look at the job; ``None``: it has not ended, or the database is away."""
        try:
            if prepare is not None:
                await prepare()
            outcome = await look()
        except DatabaseUnavailableError as error:
            logger.warning(
                "can't look for job %(job_id)d now: %(error)s",
                job_id=waiter.job_id,
                error=str(error),
            )
            waiter.failure = error
            return None
        waiter.answered = True
        return outcome

    async def _hear(self, waiter: _Waiter) -> None:
        """Return when the waiter's job has ended; listen for all if nobody does."""
        while not waiter.told:
            if self._pump is None and self._listener is not None:
                self._pump = waiter
                try:
                    await self._receive(self._listener)
                finally:
                    self._pump = None
                    self._call_another(waiter)
            else:
                await waiter.called.wait()
                waiter.called = anyio.Event()

    async def _receive(self, listener: Listener) -> None:
        """Pass on what arrives once."""
        try:
            heard = await listener.receive()
        except DatabaseUnavailableError as error:
            logger.warning("not listening, looking only: %(error)s", error=str(error))
            if self._listener is listener:
                await self._stop_listening()
            return
        ended = {notification.payload for notification in heard}
        for waiter in self._waiters:
            if str(waiter.job_id) in ended:
                waiter.told = True
                waiter.called.set()

    def _call_another(self, leaving: _Waiter) -> None:
        """Wake one waiter that goes on listening."""
        for waiter in self._waiters:
            if waiter is not leaving and not waiter.told:
                waiter.called.set()
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
