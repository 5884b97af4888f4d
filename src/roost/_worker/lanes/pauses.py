"""Pauses: start nothing of a paused queue, and confirm that in the worker's row.

A claim finds nothing in a paused queue. What had been claimed before, is on its way here, or is
handed over by an enqueue that began before, is stopped here: from the moment at which this lane has
read that a queue is paused, no handler of its jobs is called (`ExecuteLane` asks
`Runtime.paused`), and what waits is handed back. Then the row says so, and `pause_queue` returns.

Only ``roost.queues`` decides. The listen lane wakes this one when a pause is announced; it also
looks from time to time, and often while the worker does not listen. It ends after the last job.
"""

from __future__ import annotations

import anyio
from anyio.abc import TaskStatus

from roost._model.logs import StructuredLogger
from roost._ops.control import confirm_pauses, paused_queues
from roost._worker.lane import backoff
from roost._worker.runtime import Runtime
from roost.exceptions import DatabaseUnavailableError

logger = StructuredLogger("roost.worker.pauses")

DEAF_INTERVAL = 0.5
"""Seconds between two looks while the listening connection is down."""
MIN_INTERVAL = 0.02
"""Seconds between two looks at least, however many pauses are announced."""
HAND_BACK_TIMEOUT = 1.0
"""Seconds that a confirmation waits for the jobs which are handed back to be written."""
CALL_TIMEOUT = 5.0
"""Seconds for each call. They share the heartbeat's connection, which no job's lock delays."""


class PausesLane:
    """Follows which of the worker's queues are paused."""

    name = "pauses"

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._confirmed: tuple[int, frozenset[str]] = (0, frozenset())

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Look until cancelled: with every heartbeat, when told, twice a second if deaf."""
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
            runtime = self._runtime
            interval = runtime.settings.heartbeat_interval if runtime.listening else DEAF_INTERVAL
            with anyio.move_on_after(interval if not failures else backoff(failures)):
                await runtime.pauses_wake.wait()

    async def once(self) -> None:
        """Look once, and confirm what has changed.

        :raises DatabaseUnavailableError: not read, or not confirmed; what is read to be paused is.
        """
        runtime = self._runtime
        worker_id = runtime.worker_id
        paused = await runtime.call_for_heartbeat(
            paused_queues(runtime.settings.queues), timeout=CALL_TIMEOUT
        )
        # What was paused stays so until the row says that it is not: a second pause may come.
        runtime.paused |= paused
        await self._hand_back()
        if paused != self._confirmed_by(worker_id):
            if not await runtime.call_for_heartbeat(
                confirm_pauses(worker_id, paused), timeout=CALL_TIMEOUT
            ):
                runtime.heartbeat_wake.set()
                return
            logger.info("paused queues: %(queues)s", queues=", ".join(sorted(paused)) or "none")
        self._confirmed = worker_id, paused
        if runtime.paused != paused:
            runtime.paused = paused
            runtime.look_again()

    def _confirmed_by(self, worker_id: int) -> frozenset[str]:
        """Return what the row of this incarnation says; a new row says nothing."""
        known_worker, known = self._confirmed
        return known if known_worker == worker_id else frozenset()

    async def _hand_back(self) -> None:
        """Hand back what waits, and wait a moment until that is written."""
        runtime = self._runtime
        leases = {job.lease for job in runtime.hand_back_paused()}
        with anyio.move_on_after(HAND_BACK_TIMEOUT):
            # Rare: not worth an event that every settle would have to set.
            while not leases.isdisjoint(  # noqa: ASYNC110
                verdict.lease for verdict in runtime.settling
            ):
                await anyio.sleep(0.005)

    async def stop(self) -> None:
        """Nothing to do before the cancel."""
