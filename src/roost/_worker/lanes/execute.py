"""Execute: run the handlers of claimed jobs, one task a job, and judge how each ended."""

from __future__ import annotations

import decimal
import math
from collections.abc import Awaitable
from contextvars import copy_context
from time import monotonic
from typing import Any

import anyio
from anyio.abc import TaskGroup, TaskStatus

from roost._model.arguments import handler_arguments, read_model
from roost._model.hooks import Hooks
from roost._model.interrupts import is_ctrl_c
from roost._model.logs import StructuredLogger
from roost._model.registry import Handler
from roost._model.states import Event
from roost._model.verdict import (
    CancelRequested,
    Ending,
    Interrupted,
    Raised,
    Returned,
    TimedOut,
    Verdict,
    judge,
)
from roost._ops.claim import ClaimedJob
from roost._ops.limits import count_start_now
from roost._worker.attempt_log import log_lease_lost, log_unsuccessful
from roost._worker.current import current
from roost._worker.handler import call_handler, call_in_loop
from roost._worker.hooks import HOOK_TIMEOUT, MOST_HANGING, HookCalls, HookThreads
from roost._worker.process import HandlerProcesses
from roost._worker.running import LINGER, Reason, RunningJob
from roost._worker.runtime import Runtime
from roost._worker.task_guard import TaskGuard, guard_for_this_loop
from roost.exceptions import DatabaseUnavailableError

logger = StructuredLogger("roost.worker.execute")

MAX_START_DELAY = 1.0
"""Seconds between the start that a rate counts and the call of the handler; for this long beyond a
minute the claim of limited jobs (``limits.sql``) counts a start."""
MAX_BEGINNING = 32
"""Tasks that have been made and not begun yet; each that begins makes the next. Of jobs that end at
once no more are alive then, and a processor's cache holds them."""

_INTERRUPTED = Interrupted()
_DECIMAL = "decimal_context"
"""The name of the variable in which the standard library keeps the arithmetic of decimals."""


class ExecuteLane:
    """Owns the task group that every job is a child of."""

    name = "execute"

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._group: TaskGroup | None = None
        self._beginning = 0
        self._held_back = False
        # The stop sets the deadlines of both.
        self._grace = anyio.CancelScope()
        self._last_wait = anyio.CancelScope()
        # Never the reason to wait, for there are as many slots.
        self._threads = anyio.CapacityLimiter(runtime.settings.concurrency)
        self._processes = HandlerProcesses(lease_until=lambda: runtime.lease_until)
        self._context = copy_context()
        self._hook_threads = HookThreads(min(MOST_HANGING, runtime.settings.concurrency))
        self._decimal: decimal.Context | None = None
        self._guard: TaskGuard
        runtime.start_waiting = self.start_waiting

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Keep the group open until cancelled; what still runs then is interrupted."""
        self._guard = guard_for_this_loop()
        self._context = copy_context()
        if any(variable.name == _DECIMAL for variable in self._context):
            # The value is an object that jobs may change: each gets its own.
            self._decimal = decimal.getcontext().copy()
        try:
            async with anyio.create_task_group() as self._group:
                task_status.started()
                with self._grace:
                    await anyio.sleep_forever()
                for running in self._runtime.running:
                    running.cancel(Reason.SHUTDOWN)
                await anyio.sleep_forever()
        finally:
            self._group = None
            await self._processes.aclose()

    def start_waiting(self) -> None:
        """Start waiting jobs while there are free slots."""
        group, runtime = self._group, self._runtime
        if group is None or group.cancel_scope.cancel_called or runtime.stopping:
            return
        now = monotonic()
        while self._beginning < MAX_BEGINNING:
            running = runtime.running.start_next(now=now)
            if running is None:
                self._held_back = False
                return
            self._beginning += 1
            # This may be called in a job's task, whose context variables are not for the next job.
            # A copy, since a context can't be entered twice and the task may begin in here. Not
            # start_soon, which takes longer to find a name.
            running.task = self._context.copy().run(
                group.create_task, self.once(running), name=running.claimed.task
            )
        self._held_back = True

    async def once(self, running: RunningJob) -> None:
        """Run one job and hand its verdict to settle; frees the slot whatever happens."""
        runtime = self._runtime
        self._beginning -= 1
        if self._held_back:
            self.start_waiting()
        if self._decimal is not None:
            decimal.setcontext(self._decimal.copy())
        ending: Ending = _INTERRUPTED
        try:
            ending = self._refuse(running) or await self._attempt(running)
        except BaseException as error:  # noqa: BLE001  (nothing follows in this task but its end)
            if not isinstance(error, anyio.get_cancelled_exc_class()):
                ending = self._failure(error)
        # No await from here to the end: the slot is freed and the verdict handed over in one step,
        # also when this task is being cancelled. Nothing is raised either: an error of this task,
        # and on asyncio a cancel that is not anyio's, would cancel all jobs.
        runtime.running.finish(running)
        try:
            if type(ending) is Returned and ending.value is None and running.ran_undisturbed:
                # What most jobs come to, and what `judge` says of it.
                runtime.settle(Verdict(running.claimed.lease, Event.COMPLETE))
            else:
                self._conclude(running, apply_cancel_reason(running, ending))
        except BaseException as error:  # noqa: BLE001  (an application's log handlers may raise)
            self._failure(error)
        if not self._held_back:
            self.start_waiting()
        runtime.look.set()

    def _failure(self, error: BaseException) -> Ending:
        """Return the ending of an attempt that broke off with ``error``."""
        if is_ctrl_c(error):
            # Raised on in here it would end asyncio's loop on the spot; `Worker.run` raises it
            # after the ordered stop.
            self._runtime.crashed(error)
            return _INTERRUPTED
        return Raised(error)

    def _conclude(self, running: RunningJob, ending: Ending) -> None:
        """Hand the verdict to settle and log it, unless others say how the attempt ends."""
        runtime, claimed = self._runtime, running.claimed
        if running.reason is Reason.LEASE_LOST:
            log_lease_lost(running)  # the worker that has it now says how it ends
        elif running.abandoned:
            runtime.abandoned.add(claimed.lease)
            logger.error(
                "thread left behind by job %(job_id)d (%(task)s)",
                job_id=claimed.lease.job_id,
                task=claimed.task,
            )
        else:
            try:
                verdict = self._judge(claimed, ending)
            except BaseException as error:  # noqa: BLE001  (whatever the error's own code raises)
                ending = self._replacement(ending, error)
                verdict = self._judge(claimed, ending)
            runtime.settle(verdict._replace(completed=True) if running.completed else verdict)
            if verdict.event is not Event.COMPLETE:
                runtime.running.failed += verdict.event in (Event.RETRY, Event.DISCARD)
                log_unsuccessful(running, ending, verdict)

    def _replacement(self, ending: Ending, error: BaseException) -> Ending:
        """Return what stands for an ending whose own code raised ``error`` when it was read."""
        self._failure(error)
        if isinstance(ending, Returned):
            return Returned(None)  # by Ctrl-C: what else a result raises is noted in its place
        return Raised(RuntimeError(f"the error of this attempt raised {type(error).__name__}"))

    def _judge(self, claimed: ClaimedJob, ending: Ending) -> Verdict:
        return judge(
            ending,
            lease=claimed.lease,
            attempt=claimed.attempt,
            max_attempts=claimed.max_attempts,
            retry=self._runtime.settings.retry,
            max_result=self._runtime.settings.max_result_bytes,
        )

    async def stop(self) -> None:
        """Hand back what hasn't started, and give what runs ``shutdown_timeout`` to end.

        What is still running then is interrupted and handed back without using its attempt.
        """
        runtime = self._runtime
        runtime.release(runtime.running.give_up_waiting() + runtime.running.give_up_parked())
        self.end_by(anyio.current_time() + runtime.settings.shutdown_timeout)
        with self._last_wait:
            await runtime.running.wait_until_none_runs()
        for stuck in runtime.running:
            logger.error(
                "handler of job %(job_id)d (%(task)s) does not end",
                job_id=stuck.claimed.lease.job_id,
                task=stuck.claimed.task,
            )

    def end_by(self, deadline: float) -> None:
        """Interrupt every job at ``deadline``, by the loop's clock; a later one changes nothing."""
        self._grace.deadline = deadline = min(deadline, self._grace.deadline)
        self._last_wait.deadline = deadline + LINGER
        for running in self._runtime.running:
            running.end_by(deadline)

    def _refuse(self, running: RunningJob) -> Ending | None:
        """Say how the attempt ends if its handler must not be called."""
        claimed = running.claimed
        runtime = self._runtime
        # A claim's answer may come when its incarnation is already over.
        if not runtime.holds_leases() or claimed.lease.worker_id != runtime.worker_id:
            running.cancel(Reason.LEASE_LOST)
            return _INTERRUPTED
        if claimed.cancel_requested or runtime.was_cancelled(claimed.lease):
            return CancelRequested()
        if claimed.queue in runtime.paused and runtime.is_paused(claimed):
            return _INTERRUPTED
        return None

    def _attempt(self, running: RunningJob) -> Awaitable[Ending]:
        """Call the handler and say how the attempt ended."""
        current.set(running)  # in the context of the job's own task, which ends with it
        hooks = self._runtime.settings.hooks
        return self._call(running) if hooks is None else self._call_with_hooks(running, hooks)

    async def _call_with_hooks(self, running: RunningJob, hooks: Hooks) -> Ending:
        """Do the same between the hooks; none of them changes the ending."""
        try:
            job = running.claimed.job()
        except Exception as error:  # noqa: BLE001  (a row that can't be read is its job's failure)
            return Raised(error)
        calls = HookCalls(hooks, job, guard=self._guard, threads=self._hook_threads)
        ending: Ending = _INTERRUPTED
        try:
            await calls.before()
            ending = await self._call(running)
        finally:
            running.ended = True
            stopping = running.linger_until < math.inf
            await calls.after(
                apply_cancel_reason(running, ending), timeout=LINGER if stopping else HOOK_TIMEOUT
            )
        return ending

    async def _call(self, running: RunningJob) -> Ending:
        """Call the handler; its time begins here."""
        claimed = running.claimed
        try:
            handler = self._runtime.registry.handler_of(claimed.task)
            args = _arguments(handler, claimed)
        except BaseException as error:  # noqa: BLE001  (bad args are this job's failure alone)
            return self._failure(error)
        if claimed.queue in self._runtime.paused and self._runtime.is_paused(claimed):
            return _INTERRUPTED  # since the hook was called
        if claimed.task in self._runtime.limited_tasks and not await self._is_counted(running):
            return _INTERRUPTED
        if claimed.timeout_seconds is None:
            return await self._call_handler(handler, args, running)
        with running.limited_to(claimed.timeout_seconds):
            return await self._call_handler(handler, args, running)
        return _INTERRUPTED

    async def _is_counted(self, running: RunningJob) -> bool:
        """Make sure that the start which the rate counts is this one; ``False``: hand back the job.

        It was counted by the claim. After a slow hook, or a claim whose answer took long, the
        handler would start in another minute than the counted start.
        """
        if monotonic() <= running.counted_from + MAX_START_DELAY:
            return True
        running.counted_from = monotonic()
        try:
            counted = await self._runtime.call(count_start_now(running.claimed.lease))
        except DatabaseUnavailableError as error:
            logger.warning(
                "job %(job_id)d (%(task)s) is handed back, its start could not be counted: "
                "%(error)s",
                job_id=running.claimed.lease.job_id,
                task=running.claimed.task,
                error=str(error),
            )
            return False
        return counted and monotonic() <= running.counted_from + MAX_START_DELAY

    def _call_handler(
        self, handler: Handler, args: dict[str, Any], running: RunningJob
    ) -> Awaitable[Ending]:
        if handler.is_async:
            return call_in_loop(handler.func, args, running, self._guard)
        return call_handler(
            handler,
            args,
            running=running,
            threads=self._threads,
            processes=self._processes,
            guard=self._guard,
        )


def apply_cancel_reason(running: RunningJob, ending: Ending) -> Ending:
    """Let the reason of a cancel overrule what the handler made of it."""
    if (reason := running.reason) is None:
        return ending
    match reason:
        case Reason.TIMEOUT:
            # Also when the handler swallowed the cancel: it took too long.
            return TimedOut(limit=float(running.claimed.timeout_seconds or 0))
        case Reason.USER:
            return CancelRequested()
        case _:
            # Work that was finished all the same is not thrown away.
            return ending if isinstance(ending, Returned) else _INTERRUPTED


def _arguments(handler: Handler, claimed: ClaimedJob) -> dict[str, Any]:
    """Return the handler's keywords: the args, or the fields of their model, and the job."""
    if handler.args_model is None:
        args = {} if claimed.args_text == "{}" else claimed.args()
    elif claimed.is_oversized:
        raise claimed.oversized()
    else:
        model = read_model(handler.args_model, claimed.args_text)
        args = handler_arguments(model, accepted=handler.accepted)
    if handler.job_parameter is not None:
        args[handler.job_parameter] = claimed.job()
    return args
