"""Starts: write into the worker's row how far its prefetched jobs may have started, before they do.

If the worker is killed, what it had prefetched and not started is given back without using an
attempt, and what may have started uses one: see ``give_back_unstarted.sql``. A prefetched job does
not start before the mark has passed it. In a stream of short jobs the mark is written some
milliseconds ahead, so that no start waits for it; for a job on its last attempt it never is.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

import anyio
from anyio.abc import TaskStatus

from roost._model.logs import StructuredLogger
from roost._ops.claim import ClaimedJob
from roost._ops.workers import mark_started
from roost._worker.lane import backoff
from roost._worker.runtime import Runtime
from roost.exceptions import DatabaseUnavailableError

logger = StructuredLogger("roost.worker.starts")

CALL_TIMEOUT = 5.0
"""Seconds for one write. It shares the heartbeat's connection, which no job's lock delays."""
WINDOW = 0.1
"""Seconds over which the rate of starts is measured, at least."""
FAST = 500.0
"""Starts a second below which nothing is written ahead."""
AHEAD = 0.03
"""Seconds of starts that the mark is written ahead in a fast stream: that many jobs may use an
attempt in vain when the worker is killed. A write costs as much as some five jobs."""


class StartsLane:
    """Moves the mark on when `Running` asks for it."""

    name = "starts"

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        # When, and after how many starts, the window and the one before it began.
        self._windows = [(monotonic(), 0)] * 2

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Write until cancelled. While the database is away, prefetched jobs don't start."""
        task_status.started()
        running = self._runtime.running
        failures = 0
        while True:
            await running.cover_wake.wait()
            ahead = self._ahead()
            jobs = running.to_cover(ahead=ahead)
            if not jobs:
                continue
            try:
                await self.once(jobs, ahead=ahead)
            except DatabaseUnavailableError as error:
                failures += 1
                logger.warning("prefetched jobs can't start yet: %(error)s", error=str(error))
                await anyio.sleep(backoff(failures))
                running.cover_wake.set()
            else:
                failures = 0

    async def once(self, jobs: Sequence[ClaimedJob], *, ahead: int) -> None:
        """Write that these may have started, then let them start.

        :raises DatabaseUnavailableError: not written, or not known; they have not started.
        """
        runtime, last = self._runtime, jobs[-1]
        is_last_attempt = any(job.attempt >= job.max_attempts for job in jobs)
        alive = await runtime.call_for_heartbeat(
            mark_started(last.lease.worker_id, last.place, flush=is_last_attempt),
            timeout=CALL_TIMEOUT,
        )
        if alive:
            runtime.running.cover(last, ahead=ahead)
            runtime.start_waiting()
        else:
            runtime.heartbeat_wake.set()  # it finds that the leases are gone, and empties the line

    def _ahead(self) -> int:
        """Return how many starts to write ahead, by the rate of late."""
        now, started = monotonic(), self._runtime.running.prefetched_started
        if now - self._windows[1][0] > WINDOW:
            self._windows = [self._windows[1], (now, started)]
        since, before = self._windows[0]
        rate = (started - before) / max(now - since, WINDOW)
        return int(rate * AHEAD) if rate >= FAST else 0

    async def stop(self) -> None:
        """Nothing to do before the cancel."""
