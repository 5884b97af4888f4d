"""Rescue: take back the jobs of dead workers. Every worker does it; none leads."""

from __future__ import annotations

from anyio.abc import TaskStatus

from roost._model.logs import StructuredLogger
from roost._model.states import JobState
from roost._ops.dependencies import LOCK_NOT_AVAILABLE
from roost._ops.rescue import Rescued, expire_workers, rescue_jobs
from roost._worker.lane import every
from roost._worker.runtime import Runtime
from roost.exceptions import DatabaseUnavailableError

logger = StructuredLogger("roost.worker.rescue")

BATCH = 500
MOST_NAMES = 100
"""Dead workers whose names are remembered for the records of their jobs."""


class RescueLane:
    """Looks for workers whose expiry has passed, and for jobs that nobody holds."""

    name = "rescue"

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._dead: dict[int, str] = {}

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Look now and every ``orphan_reaper_interval`` seconds until cancelled."""
        task_status.started()
        await every(self._runtime.settings.orphan_reaper_interval, self.once, logger=logger)

    async def once(self) -> int:
        """Rescue every orphan and return how many there were.

        Each batch commits by itself; a cancel between two leaves the rest to the next look.
        """
        for name in await self._runtime.call_in_background(
            expire_workers(self._dead), in_transaction=True
        ):
            logger.warning("worker is dead, its jobs are taken back: %(worker)s", worker=name)
        total, limit = 0, BATCH
        tried: list[int] = []
        while True:
            looked_at = len(tried)
            try:
                rescued = await self._runtime.call_in_background(
                    rescue_jobs(
                        limit=limit,
                        error_cap=self._runtime.settings.error_cap,
                        tried=tried,
                        names=self._dead,
                    ),
                    in_transaction=True,
                )
            except DatabaseUnavailableError as error:
                if error.sqlstate != LOCK_NOT_AVAILABLE or len(tried) == looked_at:
                    raise
                # Somebody holds a child of one of them: that one is left to the next look.
                if limit > 1:
                    limit = 1
                    del tried[looked_at:]
                continue
            for job in rescued:
                _report(job)
            total += len(rescued)
            if len(rescued) < limit:
                for forgotten in list(self._dead)[:-MOST_NAMES]:
                    del self._dead[forgotten]
                return total

    async def stop(self) -> None:
        """Nothing to do before the cancel."""


def _report(job: Rescued) -> None:
    """Log one rescued attempt: an error when it was the last one of its job."""
    report = logger.error if job.state is JobState.DISCARDED else logger.warning
    report(
        "job %(job_id)d (%(task)s) was left by worker %(worker_id)d, which is dead, and is now "
        "%(state)s; queue %(queue)s, attempt %(attempt)d of %(max_attempts)d",
        job_id=job.job_id,
        task=job.task,
        worker_id=job.worker_id,
        state=job.state.value,
        queue=job.queue,
        attempt=job.attempt,
        max_attempts=job.max_attempts,
    )
