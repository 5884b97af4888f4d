"""Control: read which of this worker's jobs are to be cancelled.

Only the rows say it. The listen lane wakes this one when a cancel is announced: anybody who may
connect can send that, so it is a reason to look and nothing more. Without it this lane looks from
time to time, and often while the worker does not listen.
"""

from __future__ import annotations

import anyio
from anyio.abc import TaskStatus

from roost._model.logs import StructuredLogger
from roost._ops.control import cancel_requests
from roost._worker.lane import backoff
from roost._worker.runtime import Runtime
from roost.exceptions import DatabaseUnavailableError

logger = StructuredLogger("roost.worker.control")

DEAF_INTERVAL = 0.5
"""Seconds between two looks while the listening connection is down."""
MIN_INTERVAL = 0.02
"""Seconds between two looks at least, however many cancels are announced."""


class ControlLane:
    """Asks which of this worker's jobs somebody wants cancelled."""

    name = "control"

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Ask until cancelled: with every heartbeat, after a reconnect, twice a second if deaf."""
        task_status.started()
        failures = 0
        while True:
            runtime = self._runtime
            interval = runtime.settings.heartbeat_interval if runtime.listening else DEAF_INTERVAL
            with anyio.move_on_after(interval if not failures else backoff(failures)):
                await runtime.control_wake.wait()
            try:
                await self.once()
            except DatabaseUnavailableError as error:
                failures += 1
                logger.warning("cancel requests unknown: %(error)s", error=str(error))
            else:
                failures = 0
                await anyio.sleep(MIN_INTERVAL)

    async def once(self) -> None:
        """Ask once; nothing is asked when nothing is held.

        :raises DatabaseUnavailableError: no answer.
        """
        if self._runtime.running.leases:
            # Not behind upkeep, which may wait for a lock.
            self._runtime.cancel(await self._runtime.call(cancel_requests(self._runtime.worker_id)))

    async def stop(self) -> None:
        """Nothing to do before the cancel."""
