"""Archive: move ended jobs out of the live table, and drop old results. Off unless asked for."""

from __future__ import annotations

from collections.abc import Callable

from anyio.abc import TaskStatus

from roost._model.logs import StructuredLogger
from roost._ops.archive import archive_jobs, forget_results
from roost._ops.query import Op
from roost._worker.lane import every
from roost._worker.runtime import Runtime

logger = StructuredLogger("roost.worker.archive")

BATCH = 1_000


class ArchiveLane:
    """Works in bounded batches that commit one by one; several workers may do it side by side."""

    name = "archive"

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Look every ``archive_interval`` seconds until cancelled."""
        task_status.started()
        await every(self._runtime.settings.archive_interval, self.once, logger=logger)

    async def once(self) -> None:
        """Archive and forget all that is old enough; a cancel leaves the rest to the next look."""
        settings = self._runtime.settings
        if settings.result_ttl_seconds is not None:
            ttl = settings.result_ttl_seconds
            forgotten = await self._all(lambda: forget_results(after=ttl, limit=BATCH))
            if forgotten:
                logger.info("dropped the results of %(jobs)d jobs", jobs=forgotten)
        if settings.archive_after_seconds is not None:
            age = settings.archive_after_seconds
            archived = await self._all(lambda: archive_jobs(after=age, limit=BATCH))
            if archived:
                logger.info("archived %(jobs)d jobs", jobs=archived)

    async def stop(self) -> None:
        """Nothing to do before the cancel."""

    async def _all(self, batch: Callable[[], Op[int]]) -> int:
        total = 0
        while True:
            done = await self._runtime.call_in_background(batch(), in_transaction=True)
            total += done
            if done < BATCH:
                return total
