"""Lanes: the siblings of the worker's task group, and the one loop that periodic ones share."""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NoReturn, Protocol

import anyio
from anyio.abc import TaskGroup, TaskStatus

from roost._model.logs import StructuredLogger
from roost.exceptions import DatabaseError, DatabaseUnavailableError, WorkerCrashedError

MAX_BACKOFF = 15.0
"""Seconds between two tries while the database is away."""


class Lane(Protocol):
    """One background task of the worker: a name for logs, a loop, and an ordered stop."""

    name: str

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Work until cancelled; call ``task_status.started()`` when ready."""
        ...

    async def stop(self) -> None:
        """Finish the work that must not be cancelled, in a bounded time; the cancel comes next."""
        ...


class Lanes:
    """Starts lanes in one task group and stops each when its ``running`` block is left.

    Nested blocks make the order of the stop: the innermost lane ends first.
    """

    def __init__(self, group: TaskGroup, *, on_crash: Callable[[BaseException], None]) -> None:
        self._group = group
        self._on_crash = on_crash

    @asynccontextmanager
    async def running(self, lane: Lane) -> AsyncIterator[None]:
        """Start ``lane``, wait until it is ready, and stop it on exit."""
        scope = anyio.CancelScope()
        ended = anyio.Event()
        await self._group.start(self._run, lane, scope, ended)
        try:
            yield
        finally:
            try:
                # Also after a crash: its jobs are still to be released.
                await lane.stop()
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:  # noqa: BLE001  (kept, like a crash of its loop)
                self._on_crash(error)
            finally:
                scope.cancel()
                await ended.wait()

    async def _run(
        self,
        lane: Lane,
        scope: anyio.CancelScope,
        ended: anyio.Event,
        *,
        task_status: TaskStatus[None],
    ) -> None:
        ready = StartedOnce(task_status)
        try:
            with scope:
                await lane.run(task_status=ready)
            if not scope.cancel_called:
                raise WorkerCrashedError(f"the lane {lane.name!r} ended by itself")
        except anyio.get_cancelled_exc_class():
            if scope.cancel_called or anyio.current_effective_deadline() == -math.inf:
                raise
            # A cancel of asyncio's own. Raised on, it would cut off the ordered stop.
            self._on_crash(WorkerCrashedError(f"the task of the lane {lane.name!r} was cancelled"))
        except BaseException as error:  # noqa: BLE001  (also a SystemExit, which ends asyncio's loop)
            self._on_crash(error)  # kept, and raised again when all is stopped
        finally:
            ended.set()
            # A lane that ended before it was ready must not keep its starter waiting.
            ready.started()


class StartedOnce:
    """A task status on which ``started`` may be called twice."""

    def __init__(self, status: TaskStatus[None]) -> None:
        self._status = status
        self._started = False

    def started(self, value: None = None) -> None:  # noqa: ARG002  (the protocol's)
        """Report the start, the first time."""
        if not self._started:
            self._started = True
            self._status.started()


async def every(
    interval: float,
    once: Callable[[], Awaitable[object]],
    *,
    logger: StructuredLogger,
    wake: Wake | None = None,
) -> NoReturn:
    """Call ``once`` now and then every ``interval`` seconds, sooner when ``wake`` is set.

    While the database is unavailable, try again after growing delays with jitter, but never later
    than after ``interval``. If the database refuses the call, log the error and call again after
    ``interval``: the jobs do not depend on it. Any other error is raised.
    """
    failures = 0
    while True:
        try:
            await once()
        except DatabaseUnavailableError as error:
            failures += 1
            logger.warning(
                "database unavailable, %(failures)d times in a row: %(error)s",
                failures=failures,
                error=str(error),
            )
            await anyio.sleep(min(backoff(failures), interval))
        except DatabaseError as error:
            logger.error(
                "refused by the database, tried again in %(interval).0f s: %(error)s",
                interval=interval,
                error=str(error),
            )
            await anyio.sleep(interval)
        else:
            if failures:
                logger.info(
                    "database available again after %(failures)d failures", failures=failures
                )
            failures = 0
            if wake is None:
                await anyio.sleep(interval)
            else:
                with anyio.move_on_after(interval):
                    await wake.wait()


def backoff(failures: int) -> float:
    """Return the seconds to wait after ``failures`` in a row: 0.1, doubling, capped, jittered."""
    longest = min(0.1 * 2.0 ** min(failures, 10), MAX_BACKOFF)
    return random.uniform(0.5, 1.0) * longest  # noqa: S311  (spreads load, guards nothing)


class Wake:
    """Wakes one waiter; any number of callers may set it.

    A `set` before or during a wait is never lost: the waiter returns once more. Several of them
    before it returns count as one.

    :ivar is_set: whether the waiter has not returned since the last `set`.
    """

    def __init__(self) -> None:
        self._event = anyio.Event()
        self.is_set = False

    def set(self) -> None:
        """Make the waiter return."""
        # Each job sets two, which mostly are set already: a flag is cheaper to ask than an event.
        if not self.is_set:
            self.is_set = True
            self._event.set()

    async def wait(self) -> None:
        """Return when set since the last return; a cancel leaves it set."""
        await self._event.wait()
        # No await between the wait and this line: nothing can be set into the old event unseen.
        self._event = anyio.Event()
        self.is_set = False
