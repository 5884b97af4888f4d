"""Wait for jobs to end, any number of threads on one listening connection.

The blocking form of `roost._client.waiting`: one of the waiting threads listens for all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import attrs

from roost._drivers.base import SyncDriver, SyncListener
from roost._model.job import JobOutcome
from roost._model.logs import StructuredLogger
from roost.exceptions import DatabaseUnavailableError

logger = StructuredLogger("roost.client.waiting")

CHANNEL = "roost_finished"
TURN = 0.5
"""Seconds that a thread listens before it lets another one have its turn."""


@attrs.define(eq=False)
class _Waiter:
    job_id: int
    told: bool = False


class SyncWaiting:
    """The waiting threads of one client."""

    def __init__(self, driver: SyncDriver) -> None:
        self._driver = driver
        self._state = threading.Condition()
        self._waiters: list[_Waiter] = []
        self._listener: SyncListener | None = None
        self._listening = False

    def wait(
        self,
        job_id: int,
        look: Callable[[], JobOutcome | None],
        *,
        timeout: float | None,
        poll_interval: float,
    ) -> JobOutcome | None:
        """Return the outcome when ``look`` has one; ``None`` after ``timeout`` seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        waiter = _Waiter(job_id)
        with self._state:
            self._waiters.append(waiter)
        try:
            while True:
                waiter.told = False
                try:
                    # Listen first, then look: what ends in between is heard.
                    self._ensure_listener()
                    outcome = look()
                except DatabaseUnavailableError as error:
                    logger.warning(
                        "can't look for job %(job_id)d now: %(error)s",
                        job_id=job_id,
                        error=str(error),
                    )
                    outcome = None
                left = poll_interval if end is None else min(poll_interval, end - time.monotonic())
                if outcome is not None or left <= 0:
                    return outcome
                self._hear(waiter, until=time.monotonic() + left)
        finally:
            self._leave(waiter)

    def _hear(self, waiter: _Waiter, *, until: float) -> None:
        """Return when the waiter's job has ended, or at ``until``; listen if nobody does."""
        while (left := until - time.monotonic()) > 0:
            with self._state:
                if waiter.told:
                    return
                listener = self._listener
                if self._listening or listener is None:
                    self._state.wait(left)
                    continue
                self._listening = True
            try:
                self._receive(listener, min(left, TURN))
            finally:
                with self._state:
                    self._listening = False
                    self._state.notify_all()

    def _receive(self, listener: SyncListener, timeout: float) -> None:
        try:
            heard = listener.receive(timeout=timeout)
        except DatabaseUnavailableError as error:
            logger.warning("not listening, looking only: %(error)s", error=str(error))
            with self._state:
                listener.close()
                self._listener = None
            return
        ended = {notification.payload for notification in heard}
        with self._state:
            for waiter in self._waiters:
                waiter.told = waiter.told or str(waiter.job_id) in ended

    def _ensure_listener(self) -> None:
        with self._state:
            if self._listener is None:
                self._listener = self._driver.listener([CHANNEL], application_name="roost wait")

    def _leave(self, waiter: _Waiter) -> None:
        with self._state:
            self._waiters.remove(waiter)
            self._state.notify_all()
            if not self._waiters and self._listener is not None:
                self._listener.close()
                self._listener = None
