"""Call users' hooks. A hook's error, result or delay does not change its job."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread

from roost._drivers.shield import shielded
from roost._model.hooks import Hooks
from roost._model.job import Job
from roost._model.logs import StructuredLogger
from roost._model.verdict import (
    CancelRequested,
    Ending,
    Interrupted,
    Raised,
    Returned,
    TimedOut,
    error_record,
)
from roost._worker.handlers.call import close_what_is_open, comes_from_outside
from roost._worker.handlers.current import log_fields
from roost._worker.handlers.task_guard import TaskGuard
from roost.exceptions import JobFailed, JobTimeoutError, WorkerShutdown

logger = StructuredLogger("roost.worker.hooks")

HOOK_TIMEOUT = 5.0
"""Seconds that one hook may take."""
MAX_HANGING = 8
"""Threads of plain hooks that may still run after their timeout, before no more are started."""


class HookCalls:
    """The hooks of one attempt, with their shared ``ctx``."""

    def __init__(self, hooks: Hooks, job: Job, *, guard: TaskGuard, threads: HookThreads) -> None:
        self._hooks = hooks
        self._guard = guard
        self._threads = threads
        self._job = job
        self._ctx: dict[str, Any] = {}

    async def before(self) -> None:
        """Call ``before_job``."""
        if (hook := self._hooks.before_job) is not None:
            with anyio.move_on_after(HOOK_TIMEOUT) as bound:
                await self._call(hook, "before_job", bound, ctx=self._ctx)
            self._report(bound, "before_job")

    async def after(self, ending: Ending, *, timeout: float) -> None:
        """Call ``after_job``, also for an attempt that was cancelled; ``timeout`` is in seconds."""
        if (hook := self._hooks.after_job) is not None:
            result = ending.value if isinstance(ending, Returned) else None
            error = _error_of(ending, self._job)
            with shielded(min(timeout, HOOK_TIMEOUT)) as bound:
                await self._call(
                    hook, "after_job", bound, result=result, error=error, ctx=self._ctx
                )
            self._report(bound, "after_job")

    async def _call(
        self,
        hook: Callable[..., Any],
        name: str,
        bound: anyio.CancelScope,
        **keywords: Any,
    ) -> None:
        failure: BaseException | None = None
        try:
            if inspect.iscoroutinefunction(hook):
                await hook(self._job, **keywords)
            else:
                await self._threads.call(functools.partial(hook, self._job, **keywords))
        except BaseException as error:  # noqa: BLE001  (nothing that a hook raises may change the job)
            failure = error
        if not self._guard.is_clean(bound):
            await close_what_is_open(bound, self._guard, self._job)
        if failure is None:
            return
        if comes_from_outside(failure, self._guard):
            raise failure
        self._report_failure(name, failure)

    def _report_failure(self, name: str, error: BaseException) -> None:
        logger.error(
            "hook %(hook)s of job %(job_id)d failed: %(error)s",
            exc_info=error,
            hook=name,
            **log_fields(self._job),
            error=error_record(error)["error"],
        )

    def _report(self, bound: anyio.CancelScope, name: str) -> None:
        if bound.cancelled_caught:
            logger.error(
                "hook %(hook)s of job %(job_id)d took too long and was cancelled",
                hook=name,
                **log_fields(self._job),
            )


class HookThreads:
    """Calls plain functions as hooks, each in a thread that is abandoned after its timeout.

    A thread can't be stopped. While ``most`` abandoned threads still run, hooks are skipped instead
    of started.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._hanging = 0
        self._skipping = False
        self._changing = threading.Lock()

    async def call(self, hook: Callable[[], Any]) -> None:
        """Call ``hook``, and await its result if it is awaitable. A cancel abandons the thread."""
        if self._hanging >= self._most:
            self._report(skipping=True)
            return
        self._report(skipping=False)
        ended = abandoned = False

        def call() -> Any:
            nonlocal ended
            try:
                return hook()
            finally:
                with self._changing:
                    ended = True
                    if abandoned:
                        self._hanging -= 1

        try:
            returned = await anyio.to_thread.run_sync(
                call, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1)
            )
        except anyio.get_cancelled_exc_class():
            with self._changing:
                if not ended:
                    abandoned = True
                    self._hanging += 1
            raise
        if inspect.isawaitable(returned):
            await returned

    def _report(self, *, skipping: bool) -> None:
        """Log the first hook that is skipped, and the first that is called again."""
        if skipping == self._skipping:
            return
        self._skipping = skipping
        if skipping:
            logger.error(
                "hooks that are plain functions are skipped: %(threads)d threads of them do not "
                "end; async hooks can be interrupted",
                threads=self._hanging,
            )
        else:
            logger.warning("hooks that are plain functions are called again")


def _error_of(ending: Ending, job: Job) -> BaseException | None:
    match ending:
        case Raised(error=error):
            return error
        case TimedOut(limit=limit):
            return JobTimeoutError(f"timed out after {limit:g} s")
        case CancelRequested():
            return JobFailed(job.id, "cancelled")
        case Interrupted():
            return WorkerShutdown("the worker stopped")
        case Returned():
            return None
