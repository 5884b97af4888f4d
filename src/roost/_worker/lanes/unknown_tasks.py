"""Unknown tasks: warn of due jobs that no living worker has a handler for.

Such jobs are left to workers that know them, as a rolling deploy needs it, and so they may wait for
ever. Of the workers of a queue one looks: the one that has lived longest.
"""

from __future__ import annotations

import contextlib
from time import monotonic

import anyio
from anyio.abc import TaskStatus

from roost._model.logs import StructuredLogger
from roost._ops.unknown_tasks import MOST_COUNTED, find_unknown_tasks
from roost._worker.lane import every
from roost._worker.runtime import Runtime
from roost.exceptions import DatabaseUnavailableError

logger = StructuredLogger("roost.worker.unknown_tasks")

INTERVAL = 10.0
"""Seconds between two looks."""
START_TIMEOUT = 2.0
"""Seconds that the start of the worker waits for the first look."""
WARN_INTERVAL = 60.0
"""Seconds between two warnings of the same task in the same queue."""


class UnknownTasksLane:
    """Looks for due jobs of tasks that no living worker knows, and logs their number."""

    name = "unknown tasks"

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._warned_at: dict[tuple[str, str], float] = {}

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Look now and every `INTERVAL` seconds until cancelled; ready after the first look.

        So a drain that finds nothing to run does not end without a word. The first look is given up
        after `START_TIMEOUT`, or when the database is away.
        """
        with anyio.move_on_after(START_TIMEOUT), contextlib.suppress(DatabaseUnavailableError):
            await self.once()
        task_status.started()
        await anyio.sleep(INTERVAL)
        await every(INTERVAL, self.once, logger=logger)

    async def once(self) -> None:
        """Look once, and warn of each task at most once in `WARN_INTERVAL`."""
        runtime = self._runtime
        found = await runtime.call_in_background(
            find_unknown_tasks(runtime.worker_id, queues=runtime.settings.queues)
        )
        now = monotonic()
        warned = {key: at for key, at in self._warned_at.items() if now < at + WARN_INTERVAL}
        for unknown in found:
            if (unknown.queue, unknown.task) in warned:
                continue
            warned[unknown.queue, unknown.task] = now
            logger.warning(
                "no living worker knows the task %(task)s: %(jobs)d%(or_more)s due jobs of it wait "
                "in queue %(queue)s, the oldest for %(seconds).0f s",
                task=unknown.task,
                jobs=unknown.jobs,
                or_more=" or more" if unknown.jobs >= MOST_COUNTED else "",
                queue=unknown.queue,
                seconds=unknown.oldest_seconds,
            )
        self._warned_at = warned

    async def stop(self) -> None:
        """Nothing to do before the cancel."""
