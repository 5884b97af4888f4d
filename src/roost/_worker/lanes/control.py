"""Control: follow what users ask of running jobs and of queues, from the database's rows.

Only the rows decide. The listen lane wakes these lanes when a cancel or a pause is announced. Any
role that may connect can send a notification, so it is a reason to read and nothing more. Without
notifications the lanes read with every heartbeat, and often while the worker does not listen.
"""

from __future__ import annotations

import anyio
from anyio.abc import TaskStatus

from roost._model.logs import StructuredLogger
from roost._ops.control import cancel_requests, confirm_pauses, paused_queues
from roost._worker.database import Database
from roost._worker.lane import backoff
from roost._worker.state import WorkerState
from roost.exceptions import DatabaseUnavailableError

logger = StructuredLogger("roost.worker.control")

NOT_LISTENING_INTERVAL = 0.5
"""Seconds between two reads while the listening connection is down."""
MIN_INTERVAL = 0.02
"""Seconds between two reads at least, however many requests are announced."""
RELEASE_TIMEOUT = 1.0
"""Seconds that the confirmation of a pause waits until the released jobs are written."""
PAUSE_TIMEOUT = 5.0
"""Seconds for each call of `PauseLane`. They use the heartbeat's connection, which no job's lock
delays."""


class CancelLane:
    """Cancels this worker's jobs whose rows request it."""

    name = "cancels"

    def __init__(self, state: WorkerState, database: Database) -> None:
        self._state = state
        self._database = database

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Read until cancelled: with every heartbeat, after a reconnect, and twice a second while
        the worker does not listen.
        """
        task_status.started()
        failures = 0
        while True:
            state = self._state
            interval = (
                state.settings.heartbeat_interval if state.listening else NOT_LISTENING_INTERVAL
            )
            with anyio.move_on_after(interval if not failures else backoff(failures)):
                await state.cancel_wake.wait()
            try:
                await self.once()
            except DatabaseUnavailableError as error:
                failures += 1
                logger.warning("cancel requests unknown: %(error)s", error=str(error))
            else:
                failures = 0
                await anyio.sleep(MIN_INTERVAL)

    async def once(self) -> None:
        """Read once. A worker that holds no job reads nothing.

        :raises DatabaseUnavailableError: no answer.
        """
        if self._state.slots.leases:
            # Not a maintenance call: those may wait for locks.
            self._state.cancel(await self._database.call(cancel_requests(self._state.worker_id)))

    async def stop(self) -> None:
        """Nothing to do before the cancel."""


class PauseLane:
    """Starts no job of a paused queue, and confirms that in the worker's row.

    A claim finds nothing in a paused queue. Jobs that were claimed or dispatched before stop here:
    after this lane has read that a queue is paused, `ExecuteLane` calls no handler of its jobs, and
    the prefetched ones are released. Then the row says so, and ``pause_queue`` returns. This lane
    ends after the last job.
    """

    name = "pauses"

    def __init__(self, state: WorkerState, database: Database) -> None:
        self._state = state
        self._database = database
        self._confirmed: tuple[int, frozenset[str]] = (0, frozenset())

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Read until cancelled: with every heartbeat, when announced, and twice a second while the
        worker does not listen.
        """
        task_status.started()
        failures = 0
        while True:
            try:
                await self.once()
            except DatabaseUnavailableError as error:
                failures += 1
                logger.warning("paused queues unknown: %(error)s", error=str(error))
            else:
                failures = 0
                await anyio.sleep(MIN_INTERVAL)
            state = self._state
            interval = (
                state.settings.heartbeat_interval if state.listening else NOT_LISTENING_INTERVAL
            )
            with anyio.move_on_after(interval if not failures else backoff(failures)):
                await state.pause_wake.wait()

    async def once(self) -> None:
        """Read once, and confirm what has changed.

        :raises DatabaseUnavailableError: not read, or not confirmed. Queues that were read as
            paused are paused.
        """
        state = self._state
        worker_id = state.worker_id
        paused = await self._database.call_for_heartbeat(
            paused_queues(state.queues), timeout=PAUSE_TIMEOUT
        )
        # A queue stays paused until the row says otherwise: it may be paused a second time.
        state.set_paused(state.paused | paused)
        await self._release()
        if paused != self._confirmed_by(worker_id):
            if not await self._database.call_for_heartbeat(
                confirm_pauses(worker_id, paused), timeout=PAUSE_TIMEOUT
            ):
                state.heartbeat_wake.set()
                return
            logger.info("paused queues: %(queues)s", queues=", ".join(sorted(paused)) or "none")
        self._confirmed = worker_id, paused
        if state.paused != paused:
            state.set_paused(paused)
            state.wake_fetch()

    def _confirmed_by(self, worker_id: int) -> frozenset[str]:
        """Return the pauses that the row of this incarnation confirms; a new row confirms none."""
        known_worker, known = self._confirmed
        return known if known_worker == worker_id else frozenset()

    async def _release(self) -> None:
        """Release the prefetched jobs, and wait up to `RELEASE_TIMEOUT` until that is written."""
        state = self._state
        leases = {job.lease for job in state.release_refused()}
        with anyio.move_on_after(RELEASE_TIMEOUT):
            # Rare: not worth an event that every settle would have to set.
            while not leases.isdisjoint(  # noqa: ASYNC110
                verdict.lease for verdict in state.verdicts
            ):
                await anyio.sleep(0.005)

    async def stop(self) -> None:
        """Nothing to do before the cancel."""
