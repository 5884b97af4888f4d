"""Task options: publish what `@job` declares, for clients that have not imported the task.

And the JSON Schema of each task's args, for people and tools.
"""

from __future__ import annotations

import contextlib

import anyio
import anyio.lowlevel
from anyio.abc import TaskStatus

from roost._model.args_schema import args_schema
from roost._model.logs import StructuredLogger
from roost._model.registry import Handler, published_options
from roost._ops.tasks import publish_tasks
from roost._worker.database import Database
from roost._worker.lane import every
from roost._worker.state import WorkerState
from roost.exceptions import DatabaseUnavailableError

logger = StructuredLogger("roost.worker.task_options")

START_TIMEOUT = 2.0
"""Seconds that the start of the worker waits for the first publication."""


class TaskOptionsLane:
    """Publishes the options and the args' schemas of this worker's tasks."""

    name = "task options"

    def __init__(self, state: WorkerState, database: Database) -> None:
        self._state = state
        self._database = database
        self._schemas: dict[str, tuple[Handler, str | None]] = {}

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
        registry = self._state.registry
        for task in registry:
            handler = registry.handler_of(task)
            if self._schemas.get(task, (None, None))[0] is not handler:
                self._schemas[task] = handler, args_schema(handler)
                await anyio.lowlevel.checkpoint()  # a model takes a millisecond
        await self._database.call_for_maintenance(
            publish_tasks(
                self._state.worker_id,
                published_options(registry),
                {task: schema for task, (_, schema) in self._schemas.items()},
            )
        )

    async def stop(self) -> None:
        """Nothing to do before the cancel."""
