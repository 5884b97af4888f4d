"""The events of `AsyncRoost.events`: a listening connection, and a bounded buffer behind it."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import anyio
import attrs
from anyio.abc import TaskGroup

from roost._client.calls import DatabaseCall
from roost._drivers.base import ListeningDriver, OwnedListener
from roost._drivers.process import current_process
from roost._model.events import EventBuffer, EventFilter, JobEvent, Received, decode_payload
from roost._model.logs import StructuredLogger
from roost._ops.events import CHANNEL, error_lines, probe_events, watch
from roost.exceptions import ClosedError, DatabaseError, DatabaseUnavailableError

logger = StructuredLogger("roost.client.events")

GREETING_TIMEOUT = 2.0
"""Seconds to wait until all workers know that a client listens. A dead worker never answers."""
PROBE_TIMEOUT = 10.0
MAX_DELAY = 5.0
"""Seconds between two tries to connect again, at most."""

CLIENT_CLOSED = "this client was closed"
ENDED = "these events have ended: call events() again"
NOT_ENTERED = (
    "receive() needs a listener: enter the events in a `with` or `async with` block, or loop over "
    "them"
)
NOT_NOTIFIED = (
    "notifications don't arrive: events need a direct connection to Postgres, not a pooler in "
    "transaction mode"
)


@attrs.frozen
class EventCalls:
    """What a listener needs of its client.

    :ivar register: have the client call `AsyncEvents.end` when it is closed.
    :ivar probe, watch, error_lines: the database calls.
    """

    register: Callable[[AsyncEvents], Awaitable[None]]
    probe: Callable[[str], Awaitable[None]]
    watch: Callable[[], Awaitable[dict[int, str]]]
    error_lines: Callable[[list[tuple[int, int]]], Awaitable[dict[tuple[int, int], str]]]


def probe_call(token: str) -> DatabaseCall[None]:
    """Send a listener's probe to itself."""
    return DatabaseCall(probe_events(token), timeout=PROBE_TIMEOUT)


def watch_call() -> DatabaseCall[dict[int, str]]:
    """Tell the workers that a client listens."""
    return DatabaseCall(watch(), timeout=PROBE_TIMEOUT)


def error_lines_call(attempts: list[tuple[int, int]]) -> DatabaseCall[dict[tuple[int, int], str]]:
    """Read the errors of failed attempts."""
    return DatabaseCall(error_lines(attempts), timeout=PROBE_TIMEOUT)


def wanted_events(received: Received, wants: EventFilter) -> list[JobEvent]:
    """Return the events of a payload that pass the filter."""
    return [event for event in received.events if wants.wants(event)]


def failed_attempts(events: list[JobEvent]) -> list[tuple[int, int]]:
    """Return job id and attempt of the events that have an error."""
    return [
        (event.job_id, event.attempt) for event in events if event.kind in ("failed", "discarded")
    ]


def with_errors(events: list[JobEvent], errors: dict[tuple[int, int], str]) -> list[JobEvent]:
    """Return the events with their errors."""
    return [
        dataclasses.replace(event, error=errors.get((event.job_id, event.attempt)))
        if event.kind in ("failed", "discarded")
        else event
        for event in events
    ]


def unconfirmed(missing: dict[int, str]) -> None:
    """Log the workers that have not confirmed that they send events."""
    logger.warning(
        "these workers have not answered, their first events may be missing: %(workers)s",
        workers=sorted(missing.values()),
    )


class AsyncEvents:
    """Events of jobs, for one consumer. See `AsyncRoost.events`.

    In ``async with`` a background task receives, so that a slow consumer delays nothing. Enter and
    leave it in the same task. A plain ``async for`` receives only while it waits for an event; it
    closes its connection when it is cancelled, and when the iterator is deleted.
    """

    def __init__(
        self, driver: ListeningDriver, calls: EventCalls, wants: EventFilter, *, buffer: int
    ) -> None:
        self._listener: OwnedListener | None = None
        self._process = current_process()
        self._driver = driver
        self._calls = calls
        self._wants = wants
        self._buffer = EventBuffer(buffer)
        self._group: TaskGroup | None = None
        self._changed = anyio.Event()
        self._awaited: dict[int, str] = {}
        self._failures = 0
        self._receiving: anyio.CancelScope | None = None
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

    async def __aenter__(self) -> Self:
        """Listen. All events that happen after this call are seen.

        :raises DatabaseUnavailableError: the database can't be reached, or notifications don't
            arrive.
        :raises ClosedError: the block was entered before.
        """
        if self._ended or self._group is not None:
            raise ClosedError(ENDED)
        await self._open()
        group = anyio.create_task_group()
        await group.__aenter__()
        self._group = group
        try:
            group.start_soon(self._receive_all)
            with anyio.move_on_after(GREETING_TIMEOUT):
                while self._awaited:
                    await self._wait()
            if self._awaited:
                unconfirmed(self._awaited)
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        self._ended = True
        group, self._group = self._group, None
        if group is not None:
            group.cancel_scope.cancel()
            try:
                await group.__aexit__(None, None, None)
            finally:
                self._terminate()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> JobEvent:
        """Wait for the next event; a cancel loses none of those that are in the buffer.

        :raises ClosedError: the client was closed.
        """
        while not self._buffer:
            if self._fatal is not None:
                raise self._fatal
            if self._ended:
                raise StopAsyncIteration
            if self._group is not None:
                await self._wait()
                continue
            with anyio.CancelScope() as self._receiving:
                try:
                    if self._listener is None and not self._buffer.gaps:
                        await self._open()
                    await self._receive()
                except BaseException:
                    if self._listener is not None:
                        self._buffer.record_gap()
                    self._terminate()
                    raise
        return self._buffer.take()

    async def receive(self, *, timeout: float | None = None) -> JobEvent | None:
        """Wait for the next event; ``None``: there was none, or the block has ended.

        :param timeout: seconds to wait; ``None``: no limit.
        :raises ClosedError: no ``async with`` block was entered, so events between two calls would
            be lost; or the client was closed.
        """
        if self._group is None and not self._ended:
            raise ClosedError(NOT_ENTERED)
        with anyio.move_on_after(timeout):
            try:
                return await self.__anext__()
            except StopAsyncIteration:
                return None
        return None

    def end(self) -> None:
        """Stop listening, since the client is closed. Call it in the consumer's event loop."""
        self._fatal = ClosedError(CLIENT_CLOSED)
        self._changed.set()
        if self._receiving is not None:
            self._receiving.cancel()

    def __del__(self) -> None:
        # A child process must not end its parent's connection.
        if self._listener is not None and self._process == current_process():
            with contextlib.suppress(Exception):  # the event loop may have ended
                self._terminate()

    async def _wait(self) -> None:
        await self._changed.wait()
        self._changed = anyio.Event()

    async def _receive_all(self) -> None:
        try:
            with anyio.CancelScope() as self._receiving:
                while True:
                    await self._receive()
        except Exception as error:  # noqa: BLE001  (the consumer gets it)
            self._fatal = error
            self._changed.set()
        self._terminate()

    async def _receive(self) -> None:
        """Receive one batch of notifications, or connect again after the connection was lost."""
        try:
            if self._listener is None:
                await self._open()
                logger.info("listening for events again")
                self._failures = 0
            received = await self._listener_now().receive()
        except DatabaseError as error:
            self._terminate()
            if not self._failures:
                self._buffer.record_gap()
                logger.warning("not listening for events: %(error)s", error=str(error))
            self._failures += 1
            await anyio.sleep(min(0.05 * 2.0 ** min(self._failures, 10), MAX_DELAY))
            return
        for notification in received:
            if (decoded := decode_payload(notification.payload)) is not None:
                await self._put(decoded)

    async def _put(self, received: Received) -> None:
        events = wanted_events(received, self._wants)
        if attempts := failed_attempts(events):
            try:
                events = with_errors(events, await self._calls.error_lines(attempts))
            except DatabaseError as error:
                logger.warning("the errors of events can't be read: %(error)s", error=str(error))
        self._buffer.put(events, dropped=received.dropped)
        if received.greets is not None:
            self._awaited.pop(received.greets, None)
        self._changed.set()

    async def _open(self) -> None:
        """Connect, check that notifications arrive, and tell the workers."""
        await self._calls.register(self)
        listener = await self._driver.open_listener([CHANNEL], application_name="roost events")
        try:
            await self._check(listener)
            # After the check: a pooler's connection would keep the lock.
            await listener.lock_shared(CHANNEL)
            self._listener = listener
            self._awaited = await self._calls.watch()
        except BaseException:
            self._listener = None
            listener.terminate()
            raise

    async def _check(self, listener: OwnedListener) -> None:
        token = f"probe {secrets.token_hex(8)}"
        await self._calls.probe(token)
        with anyio.move_on_after(PROBE_TIMEOUT):
            while True:
                for notification in await listener.receive():
                    if notification.payload == token:
                        return
        raise DatabaseUnavailableError(NOT_NOTIFIED)

    def _listener_now(self) -> OwnedListener:
        assert self._listener is not None, "opened before"  # noqa: S101
        return self._listener

    def _terminate(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.terminate()
