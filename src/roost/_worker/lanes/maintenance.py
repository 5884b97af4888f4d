"""Maintenance: rescue, archive, limits, unknown tasks. Every worker does it; there is no leader.

Each lane reads and writes in bounded batches that commit one by one, so several workers may do the
same at once.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from time import monotonic

import anyio
from anyio.abc import TaskStatus

from roost._model.logs import StructuredLogger
from roost._model.states import JobState
from roost._ops.archive import (
    EndedBatch,
    archive_jobs,
    delete_archived_jobs,
    delete_jobs,
    forget_results,
    forget_unique_holds,
)
from roost._ops.dependencies import LOCK_NOT_AVAILABLE
from roost._ops.limits import (
    KeyPlace,
    limited_tasks,
    mark_limited_jobs,
    publish_limits,
    revisit_keys,
)
from roost._ops.query import Op
from roost._ops.rescue import Rescued, expire_workers, rescue_jobs
from roost._ops.rollups import delete_rollups, merge_hours, merge_minutes
from roost._ops.unknown_tasks import MAX_COUNTED, find_unknown_tasks
from roost._worker.database import Database
from roost._worker.lane import every
from roost._worker.state import WorkerState
from roost.exceptions import DatabaseUnavailableError

rescue_logger = StructuredLogger("roost.worker.rescue")
archive_logger = StructuredLogger("roost.worker.archive")
limits_logger = StructuredLogger("roost.worker.limits")
unknown_tasks_logger = StructuredLogger("roost.worker.unknown_tasks")

RESCUE_BATCH = 500
MAX_NAMES = 100
"""Dead workers whose names are remembered for the error records of their jobs."""
ARCHIVE_BATCH = 1_000
ROLLUPS_BATCH = 20_000
"""Roll-ups that one call merges or deletes at most. To merge 20,000 takes 0.5 s (November 2026)."""
KEYS_REVISITED = 500
"""Limit keys that one call has claims look at again, in case that a request was lost."""
UNKNOWN_TASKS_INTERVAL = 10.0
"""Seconds between two reads."""
START_TIMEOUT = 2.0
"""Seconds that the start of the worker waits for the first read of unknown tasks."""
WARN_INTERVAL = 60.0
"""Seconds between two warnings of the same task in the same queue."""


class RescueLane:
    """Takes back the jobs of workers whose leases have expired."""

    name = "rescue"

    def __init__(self, state: WorkerState, database: Database) -> None:
        self._state = state
        self._database = database
        self._dead: dict[int, str] = {}

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Rescue now and every ``orphan_reaper_interval`` seconds until cancelled."""
        task_status.started()
        await every(self._state.settings.orphan_reaper_interval, self.once, logger=rescue_logger)

    async def once(self) -> int:
        """Rescue all jobs of dead workers and return their number.

        Each batch commits by itself; a cancel between two leaves the rest to the next call.
        """
        for name in await self._database.call_for_maintenance(
            expire_workers(self._dead), in_transaction=True
        ):
            rescue_logger.warning(
                "worker is dead, its jobs are taken back: %(worker)s", worker=name
            )
        total, limit = 0, RESCUE_BATCH
        tried: list[int] = []
        while True:
            tried_before = len(tried)
            try:
                rescued = await self._database.call_for_maintenance(
                    rescue_jobs(
                        limit=limit,
                        error_cap=self._state.settings.error_cap,
                        tried=tried,
                        names=self._dead,
                    ),
                    in_transaction=True,
                )
            except DatabaseUnavailableError as error:
                if error.sqlstate != LOCK_NOT_AVAILABLE or len(tried) == tried_before:
                    raise
                # A child of one of them is locked: that job is left to the next call.
                if limit > 1:
                    limit = 1
                    del tried[tried_before:]
                continue
            self._state.statistics.record_rescued(rescued)
            if self._state.events is not None:
                self._state.events.rescued(rescued)
            for job in rescued:
                _report_rescued(job)
            total += len(rescued)
            if len(rescued) < limit:
                for forgotten in list(self._dead)[:-MAX_NAMES]:
                    del self._dead[forgotten]
                return total

    async def stop(self) -> None:
        """Nothing to do before the cancel."""


class ArchiveLane:
    """Moves ended jobs to the archive or deletes them, and drops old results: off by default.

    Always drops the records of a ``unique_for`` that is over, merges the roll-ups of past hours and
    deletes old ones.
    """

    name = "archive"

    def __init__(self, state: WorkerState, database: Database) -> None:
        self._state = state
        self._database = database

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Archive and delete every ``archive_interval`` seconds until cancelled."""
        task_status.started()
        await every(self._state.settings.archive_interval, self.once, logger=archive_logger)

    async def once(self) -> None:
        """Delete and archive old jobs, and drop old results, records of unique keys and roll-ups.

        A cancel leaves the rest to the next call.
        """
        await self._repeat(lambda: forget_unique_holds(limit=ARCHIVE_BATCH))
        await self._thin_rollups()
        settings = self._state.settings
        if settings.result_ttl_seconds is not None:
            ttl = settings.result_ttl_seconds
            forgotten = await self._repeat(lambda: forget_results(after=ttl, limit=ARCHIVE_BATCH))
            if forgotten:
                archive_logger.info("dropped the results of %(jobs)d jobs", jobs=forgotten)
        deleted = archived = 0
        # First, so that no job is archived only to be deleted.
        for state, age in settings.delete_after_seconds.items():
            deleted += await self._all(delete_jobs, state, age)
            deleted += await self._all(delete_archived_jobs, state, age)
        for state, age in settings.archive_after_seconds.items():
            if age < settings.delete_after_seconds.get(state, math.inf):
                archived += await self._all(archive_jobs, state, age)
        if deleted:
            archive_logger.info("deleted %(jobs)d jobs", jobs=deleted)
        if archived:
            archive_logger.info("archived %(jobs)d jobs", jobs=archived)

    async def stop(self) -> None:
        """Nothing to do before the cancel."""

    async def _thin_rollups(self) -> None:
        while await self._database.call_for_maintenance(merge_minutes(), in_transaction=True):
            pass
        while await self._database.call_for_maintenance(
            merge_hours(limit=ROLLUPS_BATCH), in_transaction=True
        ):
            pass
        while (
            await self._database.call_for_maintenance(delete_rollups(limit=ROLLUPS_BATCH))
            == ROLLUPS_BATCH
        ):
            pass

    async def _repeat(self, batch: Callable[[], Op[int]]) -> int:
        total = 0
        while True:
            done = await self._database.call_for_maintenance(batch(), in_transaction=True)
            total += done
            if done < ARCHIVE_BATCH:
                return total

    async def _all(
        self, batch: Callable[..., Op[EndedBatch]], state: JobState, after: float
    ) -> int:
        total, since = 0, None
        while True:
            done = await self._database.call_for_maintenance(
                batch(state, after=after, limit=ARCHIVE_BATCH, since=since), in_transaction=True
            )
            total, since = total + done.jobs, done.last
            if done.jobs < ARCHIVE_BATCH:
                return total


class LimitsLane:
    """Publishes the limits that the registry declares, then follows those in the database."""

    name = "limits"

    def __init__(self, state: WorkerState, database: Database) -> None:
        self._state = state
        self._database = database
        self._place = KeyPlace()

    async def publish(self) -> None:
        """Write this worker's declared limits for all workers, before anything is claimed."""
        registry = self._state.registry
        await self._database.call_for_maintenance(
            publish_limits({task: registry.handler_of(task).defaults for task in registry})
        )
        await self.once()

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Read every ``orphan_reaper_interval`` seconds, and at a change, until cancelled."""
        task_status.started()
        interval = self._state.settings.orphan_reaper_interval
        await every(interval, self.once, logger=limits_logger, wake=self._state.limits_wake)

    async def once(self) -> None:
        """Read the limits, and mark jobs that were enqueued before their task had one."""
        state = self._state
        names = await self._database.call_for_maintenance(limited_tasks())
        if any(task in state.registry for task in names - state.limited.names):
            # Prefetched jobs of a newly limited task were claimed without its limit.
            state.release(state.slots.drain_prefetched())
            state.wake_fetch()
        state.limited.names = names
        if names:
            marked = await self._database.call_for_maintenance(mark_limited_jobs())
            if marked:
                limits_logger.info("marked %(jobs)d jobs of newly limited tasks", jobs=marked)
                self._state.wake_fetch()
            self._place = await self._database.call_for_maintenance(
                revisit_keys(self._place, limit=KEYS_REVISITED)
            )

    async def stop(self) -> None:
        """Nothing to do before the cancel."""


class UnknownTasksLane:
    """Warns of due jobs that no living worker has a handler for.

    Such jobs are left to workers that know their task, which a rolling deployment needs, so they
    may wait forever. One worker of each queue reads them: the one that has run longest.
    """

    name = "unknown tasks"

    def __init__(self, state: WorkerState, database: Database) -> None:
        self._state = state
        self._database = database
        self._warned_at: dict[tuple[str, str], float] = {}

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Read now and every `UNKNOWN_TASKS_INTERVAL` seconds until cancelled.

        Ready after the first read, so that a drain which finds nothing to run logs why. The first
        read is given up after `START_TIMEOUT`, or when the database is away.
        """
        with anyio.move_on_after(START_TIMEOUT), contextlib.suppress(DatabaseUnavailableError):
            await self.once()
        task_status.started()
        await anyio.sleep(UNKNOWN_TASKS_INTERVAL)
        await every(UNKNOWN_TASKS_INTERVAL, self.once, logger=unknown_tasks_logger)

    async def once(self) -> None:
        """Read once, and warn of each task at most once in `WARN_INTERVAL`."""
        state = self._state
        found = await self._database.call_for_maintenance(
            find_unknown_tasks(state.worker_id, queues=state.queues)
        )
        now = monotonic()
        warned = {key: at for key, at in self._warned_at.items() if now < at + WARN_INTERVAL}
        for unknown in found:
            if (unknown.queue, unknown.task) in warned:
                continue
            warned[unknown.queue, unknown.task] = now
            unknown_tasks_logger.warning(
                "no living worker knows the task %(task)s: %(jobs)d%(or_more)s due jobs of it wait "
                "in queue %(queue)s, the oldest for %(seconds).0f s",
                task=unknown.task,
                jobs=unknown.jobs,
                or_more=" or more" if unknown.jobs >= MAX_COUNTED else "",
                queue=unknown.queue,
                seconds=unknown.oldest_seconds,
            )
        self._warned_at = warned

    async def stop(self) -> None:
        """Nothing to do before the cancel."""


def _report_rescued(job: Rescued) -> None:
    """Log one rescued attempt: an error when it was the last one of its job."""
    report = rescue_logger.error if job.state is JobState.DISCARDED else rescue_logger.warning
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
