"""Events: send what happens to this worker's jobs, while a client listens."""

from __future__ import annotations

import contextlib
from time import monotonic

import anyio
from anyio.abc import TaskStatus

from roost._drivers.shield import shielded
from roost._model.logs import StructuredLogger
from roost._ops.events import is_watched, send_events
from roost._worker.database import Database
from roost._worker.event_log import EventLog
from roost._worker.lane import backoff
from roost._worker.state import WorkerState
from roost.exceptions import DatabaseError, DatabaseUnavailableError

logger = StructuredLogger("roost.worker.events")

MIN_INTERVAL = 0.02
"""Seconds between two statements at least. The commit of a notification takes a lock that all such
commits of the server share."""
START_TIMEOUT = 2.0
"""Seconds that the start of the worker waits until it knows whether a client listens."""
LAST_SEND_TIMEOUT = 1.0
"""Seconds for the events that are left when the worker stops."""


class EventsLane:
    """Sends the events of `WorkerState.events`, and creates it while a client listens."""

    name = "events"

    def __init__(self, state: WorkerState, database: Database) -> None:
        self._state = state
        self._database = database
        self._check_at = 0.0
        self._sending = anyio.Lock()

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Check and send until cancelled. Ready when it knows whether a client listens."""
        with anyio.move_on_after(START_TIMEOUT), contextlib.suppress(DatabaseUnavailableError):
            await self._check()
        task_status.started()
        failures = 0
        while True:
            with anyio.move_on_after(max(self._check_at - monotonic(), 0.0)):
                await self._state.events_wake.wait()
            try:
                await self.once()
            except DatabaseError as error:
                failures += 1
                logger.warning("events are not sent: %(error)s", error=str(error))
                await anyio.sleep(backoff(failures))
            else:
                failures = 0
                await anyio.sleep(MIN_INTERVAL)

    async def once(self) -> None:
        """Check whether a client listens, if it is time, and send what there is.

        :raises DatabaseError: not checked or not sent; the events are counted as dropped.
        """
        if self._state.watch_announced or monotonic() >= self._check_at:
            await self._check()
        async with self._sending:
            await self._send()

    async def _check(self) -> None:
        """Begin or end the recording of events."""
        state = self._state
        state.watch_announced = False
        self._check_at = 0.0  # at once, if this check is cut off or fails
        watched = await self._database.call_for_maintenance(is_watched())
        self._check_at = monotonic() + state.settings.heartbeat_interval
        if not watched:
            state.events = None
        elif state.events is not None:
            state.events.greets = True
            state.events_wake.set()
        else:
            unknown = {verdict.lease for verdict in state.verdicts}
            state.events = EventLog(state.events_wake, unknown)
            state.events_wake.set()

    async def _send(self) -> None:
        events = self._state.events
        if events is None or not events.has_payloads():
            return
        number = len(events)
        payloads = events.take_payloads(self._state.worker_id)
        try:
            watched = await self._database.call_for_maintenance(send_events(payloads))
        except DatabaseError:
            events.record_unsent(number)
            raise
        if not watched and not self._state.watch_announced:
            self._state.events = None

    async def stop(self) -> None:
        """Send what is left, also what is on its way: all verdicts are written by now."""
        with shielded(LAST_SEND_TIMEOUT), contextlib.suppress(DatabaseError):
            async with self._sending:
                await self._send()
