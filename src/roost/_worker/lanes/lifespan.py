"""Lifespan: makes the worker's state before its first job starts, and ends it after the last one.

The user's context manager is entered and left in one task, so it may hold task groups and cancel
scopes of its own.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import anyio
from anyio.abc import TaskStatus

from roost._model.lifespan import State, call_with_worker
from roost._model.logs import StructuredLogger
from roost._worker.state import WorkerState
from roost.exceptions import InvalidSettingError, WorkerCrashedError

logger = StructuredLogger("roost.worker")

SHUTDOWN_TIMEOUT = 1.0
"""Seconds at least that a lifespan has to end; the rest of the worker's grace, if that is more."""


class LifespanLane:
    """Runs the settings ``lifespan``, ``on_startup`` and ``on_shutdown``.

    :param worker: what these functions are called with.
    """

    name = "lifespan"

    def __init__(self, state: WorkerState, worker: object) -> None:
        self._state = state
        self._worker = worker
        self._scope = anyio.CancelScope()
        self._ready = False
        self._stopping = anyio.Event()
        self._ended = anyio.Event()
        self._shutdown = anyio.CancelScope()
        self._grace_ends = math.inf

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Make the state, keep it until `stop`, and end it.

        A stop that is requested before the state is complete cancels its making.

        :raises WorkerCrashedError: the lifespan ended before the worker.
        """
        async with anyio.create_task_group() as group:
            group.start_soon(self._cancel_start_on_stop)
            try:
                with self._scope:
                    await self._serve(task_status)
            finally:
                self._ended.set()
            if not (self._stopping.is_set() or self._state.stopping):
                raise WorkerCrashedError("the worker's lifespan ended while the worker was running")
            task_status.started()  # also if a stop has cancelled the start
            await anyio.sleep_forever()

    async def _serve(self, task_status: TaskStatus[None]) -> None:
        settings, worker = self._state.settings, self._worker
        async with AsyncExitStack() as entered:
            if settings.lifespan is not None:
                context = call_with_worker(settings.lifespan, worker)
                if not hasattr(context, "__aenter__"):
                    raise InvalidSettingError(
                        f"lifespan must return an async context manager, not {context!r}"
                    )
                values = await entered.enter_async_context(context)
                if not (values is None or self._put(values)):
                    raise InvalidSettingError(
                        f"a worker's lifespan yields a dict, a roost.State or None, not {values!r}"
                    )
            if settings.on_startup is not None:
                # Another result means nothing, as with other queues.
                self._put(await _call(settings.on_startup, worker))
            if settings.on_shutdown is not None:
                entered.push_async_callback(_call, settings.on_shutdown, worker)
            self._ready = True
            task_status.started()
            await self._stopping.wait()

    def _put(self, values: object) -> bool:
        """Keep what the user's function made: a new `State`, or attributes for the present one.

        :returns: whether it is one of these.
        """
        if isinstance(values, State):
            self._state.handler_state = values
        elif isinstance(values, Mapping):
            vars(self._state.handler_state).update(values)
        else:
            return False
        return True

    async def _cancel_start_on_stop(self) -> None:
        await self._state.stop.requested.wait()
        if not self._ready:
            self._scope.cancel()

    async def stop(self) -> None:
        """Wait until the lifespan has ended, for `SHUTDOWN_TIMEOUT` or the rest of the grace."""
        self._stopping.set()
        self._bound_the_end()
        with self._shutdown:
            await self._ended.wait()
        if not self._ended.is_set():
            logger.error("the worker's lifespan does not end: it is cancelled")

    def end_by(self, grace_ends: float) -> None:
        """Say when the grace ends, by the loop's clock; a later time changes nothing."""
        self._grace_ends = min(self._grace_ends, grace_ends)
        if self._stopping.is_set():
            self._bound_the_end()

    def _bound_the_end(self) -> None:
        soonest = anyio.current_time() + SHUTDOWN_TIMEOUT
        grace_ends = self._grace_ends if self._grace_ends < math.inf else soonest
        self._shutdown.deadline = min(max(grace_ends, soonest), self._shutdown.deadline)


async def _call(function: Callable[..., Any], worker: object) -> Any:
    value = call_with_worker(function, worker)
    return await value if inspect.isawaitable(value) else value
