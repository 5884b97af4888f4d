"""The events of `Roost.events`: a thread receives, and a bounded buffer keeps what it receives."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from threading import Condition, Thread
from time import monotonic
from types import TracebackType
from typing import Self

import attrs

from roost._client.events import (
    CLIENT_CLOSED,
    ENDED,
    GREETING_TIMEOUT,
    MAX_DELAY,
    NOT_ENTERED,
    NOT_NOTIFIED,
    PROBE_TIMEOUT,
    failed_attempts,
    unconfirmed,
    wanted_events,
    with_errors,
)
from roost._drivers.base import SyncDriver, SyncListener
from roost._model.events import EventBuffer, EventFilter, JobEvent, Received, decode_payload
from roost._model.logs import StructuredLogger
from roost._ops.events import CHANNEL
from roost.exceptions import ClosedError, DatabaseError, DatabaseUnavailableError

logger = StructuredLogger("roost.client.events")

TURN = 0.2
"""Seconds of one wait of the thread, after which it checks whether it is to end."""


@attrs.frozen
class SyncEventCalls:
    """What a listener needs of its client: whether it is closed, and the database calls."""

    is_closed: Callable[[], bool]
    probe: Callable[[str], None]
    watch: Callable[[], dict[int, str]]
    error_lines: Callable[[list[tuple[int, int]]], dict[tuple[int, int], str]]


class Events:
    """Events of jobs, for one consumer. See `Roost.events`.

    A thread receives them while the ``with`` block, or the ``for`` loop, runs.
    """

    def __init__(
        self, driver: SyncDriver, calls: SyncEventCalls, wants: EventFilter, *, buffer: int
    ) -> None:
        self._driver = driver
        self._calls = calls
        self._wants = wants
        self._buffer = EventBuffer(buffer)
        self._changed = Condition()
        self._awaited: dict[int, str] = {}
        self._thread: Thread | None = None
        self._ended = False
        self._fatal: Exception | None = None

    @property
    def missed(self) -> int:
        """How many events are known to be lost so far; see `JobEvent.missed`."""
        return self._buffer.missed

    @property
    def gaps(self) -> int:
        """How often the connection was lost so far; what happened meanwhile was not seen."""
        return self._buffer.gaps

    def __enter__(self) -> Self:
        """Listen. All events that happen after this call are seen.

        :raises DatabaseUnavailableError: the database can't be reached, or notifications don't
            arrive.
        :raises ClosedError: the block was entered before.
        """
        if self._ended or self._thread is not None:
            raise ClosedError(ENDED)
        listener = self._open()
        self._thread = Thread(
            target=self._receive_all, args=(listener,), name="roost events", daemon=True
        )
        self._thread.start()
        try:
            with self._changed:
                self._changed.wait_for(lambda: not self._awaited, timeout=GREETING_TIMEOUT)
                if self._awaited:
                    unconfirmed(self._awaited)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(PROBE_TIMEOUT)

    def __iter__(self) -> Iterator[JobEvent]:
        """Yield events; outside a ``with`` block, listen as long as the loop runs."""
        if self._thread is None and not self._ended:
            with self:
                yield from self
            return
        while (event := self.receive()) is not None:
            yield event

    def receive(self, *, timeout: float | None = None) -> JobEvent | None:
        """Wait for the next event; ``None``: there was none, or the block has ended.

        :param timeout: seconds to wait; ``None``: no limit.
        :raises ClosedError: no ``with`` block was entered, so nothing listens; or the client was
            closed.
        """
        if self._thread is None and not self._ended:
            raise ClosedError(NOT_ENTERED)
        with self._changed:
            self._changed.wait_for(
                lambda: self._buffer or self._ended or self._fatal, timeout=timeout
            )
            if self._buffer:
                return self._buffer.take()
            if self._fatal is not None:
                raise self._fatal
            return None

    def _receive_all(self, listener: SyncListener | None) -> None:
        """Receive until the block ends; connect again after the connection was lost."""
        failures = 0
        try:
            while not self._ended:
                if self._calls.is_closed():
                    raise ClosedError(CLIENT_CLOSED)
                try:
                    if listener is None:
                        listener = self._open()
                        logger.info("listening for events again")
                        failures = 0
                    received = listener.receive(timeout=TURN)
                except DatabaseError as error:
                    if listener is not None:
                        listener.close()
                        listener = None
                    with self._changed:
                        if not failures:
                            self._buffer.record_gap()
                            logger.warning("not listening for events: %(error)s", error=str(error))
                        failures += 1
                        delay = min(0.05 * 2.0 ** min(failures, 10), MAX_DELAY)
                        self._changed.wait_for(lambda: self._ended, timeout=delay)
                    continue
                for notification in received:
                    if (decoded := decode_payload(notification.payload)) is not None:
                        self._put(decoded)
        except Exception as error:  # noqa: BLE001  (the consumer gets it)
            with self._changed:
                self._fatal = error
                self._changed.notify_all()
        finally:
            if listener is not None:
                listener.close()

    def _put(self, received: Received) -> None:
        events = wanted_events(received, self._wants)
        if attempts := failed_attempts(events):
            try:
                events = with_errors(events, self._calls.error_lines(attempts))
            except DatabaseError as error:
                logger.warning("the errors of events can't be read: %(error)s", error=str(error))
        with self._changed:
            self._buffer.put(events, dropped=received.dropped)
            if received.greets is not None:
                self._awaited.pop(received.greets, None)
            self._changed.notify_all()

    def _open(self) -> SyncListener:
        """Connect, check that notifications arrive, and tell the workers."""
        listener = self._driver.listener([CHANNEL], application_name="roost events")
        try:
            self._check(listener)
            # After the check: a pooler's connection would keep the lock.
            listener.lock_shared(CHANNEL)
            workers = self._calls.watch()
        except BaseException:
            listener.close()
            raise
        with self._changed:
            self._awaited = workers
        return listener

    def _check(self, listener: SyncListener) -> None:
        token = f"probe {secrets.token_hex(8)}"
        self._calls.probe(token)
        end = monotonic() + PROBE_TIMEOUT
        while (left := end - monotonic()) > 0:
            for notification in listener.receive(timeout=left):
                if notification.payload == token:
                    return
        raise DatabaseUnavailableError(NOT_NOTIFIED)
