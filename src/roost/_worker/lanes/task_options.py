"""Task options: publish what `@job` declares, for clients that have not imported the task."""

from __future__ import annotations

import contextlib

import anyio
from anyio.abc import TaskStatus

from roost._model.logs import StructuredLogger
from roost._model.registry import published_options
from roost._ops.tasks import publish_options
from roost._worker.database import Database
from roost._worker.lane import every
from roost._worker.state import WorkerState
from roost.exceptions import DatabaseUnavailableError

logger = StructuredLogger("roost.worker.task_options")

START_TIMEOUT = 2.0
"""Seconds that the start of the worker waits for the first publication."""


class TaskOptionsLane:
    """Publishes the options of this worker's tasks."""

    name = "task options"

    def __init__(self, state: WorkerState, database: Database) -> None:
        self._state = state
        self._database = database

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Publish now and every ``orphan_reaper_interval`` seconds until cancelled.

        Again and again, because options of older code count when the newer workers have ended.
        """
        with anyio.move_on_after(START_TIMEOUT), contextlib.suppress(DatabaseUnavailableError):
            await self.once()
        task_status.started()
        interval = self._state.settings.orphan_reaper_interval
        await anyio.sleep(interval)
        await every(interval, self.once, logger=logger)

    async def once(self) -> None:
        """Publish once; a cancel leaves all options or none written."""
        await self._database.call_for_maintenance(
            publish_options(self._state.worker_id, published_options(self._state.registry))
        )

    async def stop(self) -> None:
        """Nothing to do before the cancel."""
