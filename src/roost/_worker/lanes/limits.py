"""Limits: keep this worker's picture of the fleet's limits, and mark the jobs that they concern."""

from __future__ import annotations

from anyio.abc import TaskStatus

from roost._model.logs import StructuredLogger
from roost._ops.limits import limited_tasks, mark_limited_jobs, publish_limits
from roost._worker.lane import every
from roost._worker.runtime import Runtime

logger = StructuredLogger("roost.worker.limits")


class LimitsLane:
    """Publishes what the registry declares, then follows what the database says."""

    name = "limits"

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def publish(self) -> None:
        """Make this worker's declarations the fleet's, before anything is claimed."""
        registry = self._runtime.registry
        await self._runtime.call_in_background(
            publish_limits({task: registry.handler_of(task).defaults for task in registry})
        )
        await self.once()

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Look every ``orphan_reaper_interval`` seconds until cancelled."""
        task_status.started()
        await every(self._runtime.settings.orphan_reaper_interval, self.once, logger=logger)

    async def once(self) -> None:
        """Read the limits, and mark jobs that were enqueued before theirs was known."""
        self._runtime.limited_tasks = await self._runtime.call_in_background(limited_tasks())
        if self._runtime.limited_tasks:
            marked = await self._runtime.call_in_background(mark_limited_jobs())
            if marked:
                logger.info("marked %(jobs)d jobs of newly limited tasks", jobs=marked)
                self._runtime.look_again()

    async def stop(self) -> None:
        """Nothing to do before the cancel."""
