"""Run users' hooks so that nothing they do changes a job."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.to_thread

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
from roost.exceptions import JobFailed, JobTimeoutError, WorkerShutdown

logger = StructuredLogger("roost.worker.hooks")

HOOK_TIMEOUT = 5.0
"""Seconds that one hook may take."""


class HookCalls:
    """The hooks of one attempt, with their shared ``ctx``."""

    def __init__(self, hooks: Hooks, job: Job) -> None:
        self._hooks = hooks
        self._job = job
        self._ctx: dict[str, Any] = {}

    async def before(self) -> None:
        """Call ``before_job``."""
        if (hook := self._hooks.before_job) is not None:
            with anyio.move_on_after(HOOK_TIMEOUT) as bound:
                await self._call(lambda: _called(hook, self._job, ctx=self._ctx), "before_job")
            self._report(bound, "before_job")

    async def after(self, ending: Ending, *, timeout: float) -> None:
        """Call ``after_job``, also for an attempt that was cancelled; ``timeout`` is in seconds."""
        if (hook := self._hooks.after_job) is not None:
            result = ending.value if isinstance(ending, Returned) else None
            error = _error_of(ending, self._job)
            with anyio.move_on_after(min(timeout, HOOK_TIMEOUT), shield=True) as bound:
                await self._call(
                    lambda: _called(hook, self._job, result=result, error=error, ctx=self._ctx),
                    "after_job",
                )
            self._report(bound, "after_job")

    async def _call(self, hook: Callable[[], Awaitable[None]], name: str) -> None:
        try:
            await hook()
        except anyio.get_cancelled_exc_class() as error:
            if anyio.current_effective_deadline() == -math.inf:
                raise
            # Of some future that the hook awaited: nobody cancelled us.
            self._report_failure(name, error)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  (nothing that a hook raises may change the job)
            self._report_failure(name, error)

    def _report_failure(self, name: str, error: BaseException) -> None:
        logger.error(
            "hook %(hook)s of job %(job_id)d failed: %(error)s",
            exc_info=error,
            hook=name,
            job_id=self._job.id,
            error=error_record(error)["error"],
        )

    def _report(self, bound: anyio.CancelScope, name: str) -> None:
        if bound.cancelled_caught:
            logger.error(
                "hook %(hook)s of job %(job_id)d took too long and was cancelled",
                hook=name,
                job_id=self._job.id,
            )


async def _called(hook: Callable[..., Any], job: Job, **keywords: Any) -> None:
    if inspect.iscoroutinefunction(hook):
        await hook(job, **keywords)
        return
    # A plain function may block: not the loop, and not for longer than its time. One that only
    # returns a coroutine is none the worse.
    returned = await anyio.to_thread.run_sync(
        functools.partial(hook, job, **keywords),
        abandon_on_cancel=True,
        limiter=anyio.CapacityLimiter(1),
    )
    if inspect.isawaitable(returned):
        await returned


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
