"""Prefetch mark: write into the worker's row how far its prefetched jobs may have started.

A prefetched job starts only after the mark has passed it. If the worker is killed, its jobs behind
the mark are released without using an attempt, and those before it use one: see
``release_unstarted.sql``. In a stream of short jobs the mark is written some milliseconds ahead, so
no start waits for it. For a job on its last attempt it is never written ahead.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

import anyio
from anyio.abc import TaskStatus

from roost._model.logs import StructuredLogger
from roost._ops.claim import ClaimedJob
from roost._ops.workers import mark_started
from roost._worker.database import Database
from roost._worker.lane import backoff
from roost._worker.state import WorkerState
from roost.exceptions import DatabaseUnavailableError

logger = StructuredLogger("roost.worker.prefetch_mark")

CALL_TIMEOUT = 5.0
"""Seconds for one write. It shares the heartbeat's connection, which no job's lock delays."""
WINDOW = 0.1
"""Seconds over which the rate of starts is measured, at least."""
FAST = 500.0
"""Starts a second below which nothing is written ahead."""
AHEAD = 0.03
"""Seconds of starts that the mark is written ahead in a fast stream: jobs that start
in that time may use an attempt without having run when the worker is killed. A write costs as much
as about five jobs."""


class PrefetchMarkLane:
    """Moves the mark when `Slots` asks for it."""

    name = "prefetch mark"

    def __init__(self, state: WorkerState, database: Database) -> None:
        self._state = state
        self._database = database
        # When, and after how many starts, the window and the one before it began.
        self._windows = [(monotonic(), 0)] * 2

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Write until cancelled. While the database is away, prefetched jobs don't start."""
        task_status.started()
        slots = self._state.slots
        failures = 0
        while True:
            await slots.mark_wake.wait()
            ahead = self._ahead()
            jobs = slots.to_mark(ahead=ahead)
            if not jobs:
                continue
            try:
                await self.once(jobs, ahead=ahead)
            except DatabaseUnavailableError as error:
                failures += 1
                logger.warning("prefetched jobs can't start yet: %(error)s", error=str(error))
                await anyio.sleep(backoff(failures))
                slots.mark_wake.set()
            else:
                failures = 0

    async def once(self, jobs: Sequence[ClaimedJob], *, ahead: int) -> None:
        """Write that ``jobs`` may have started, then let them start.

        :raises DatabaseUnavailableError: not written, or not known; they have not started.
        """
        state = self._state
        worker_id = jobs[0].lease.worker_id
        is_last_attempt = any(job.attempt >= job.max_attempts for job in jobs)
        alive = await self._database.call_for_heartbeat(
            mark_started(worker_id, state.slots.marks(jobs), flush=is_last_attempt),
            timeout=CALL_TIMEOUT,
        )
        if alive:
            state.slots.mark(jobs, ahead=ahead)
            state.start_wake.set()
        else:
            state.heartbeat_wake.set()  # it finds that the leases are lost

    def _ahead(self) -> int:
        """Return how many starts to write ahead, by the recent rate."""
        now, started = monotonic(), self._state.slots.prefetched_started
        if now - self._windows[1][0] > WINDOW:
            self._windows = [self._windows[1], (now, started)]
        since, before = self._windows[0]
        rate = (started - before) / max(now - since, WINDOW)
        return int(rate * AHEAD) if rate >= FAST else 0

    async def stop(self) -> None:
        """Nothing to do before the cancel."""
