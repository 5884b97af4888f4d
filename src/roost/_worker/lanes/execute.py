"""Execute: start the jobs in the slots, call their handlers, and decide how each attempt ended.

Only this lane starts jobs. Other lanes put them into the slots and set ``start_wake``.
"""

from __future__ import annotations

import decimal
from collections.abc import Awaitable
from contextvars import copy_context
from time import monotonic
from typing import Any

import anyio
from anyio.abc import TaskGroup, TaskStatus

from roost._model import telemetry
from roost._model.failures import NO_RULES
from roost._model.hooks import Hooks
from roost._model.interrupts import is_ctrl_c
from roost._model.job_metadata import metadata_writer
from roost._model.logs import StructuredLogger
from roost._model.registry import Handler
from roost._model.states import Event
from roost._model.tally import Sample
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
from roost._worker.database import Database
from roost._worker.handlers.arguments import keyword_arguments
from roost._worker.handlers.attempt_log import log_lease_lost, log_unsuccessful
from roost._worker.handlers.call import call_handler, call_in_loop
from roost._worker.handlers.current import current, handler_state
from roost._worker.handlers.hooks import HOOK_TIMEOUT, MAX_HANGING, HookCalls, HookThreads
from roost._worker.handlers.job_metadata import WorkerMetadataWriter, write_rest
from roost._worker.handlers.process import HandlerProcesses
from roost._worker.handlers.task_guard import TaskGuard, guard_for_this_loop
from roost._worker.handlers.trace import (
    begin_trace,
    end_settled_trace,
    end_trace,
    with_traceparent,
)
from roost._worker.running_job import UNINTERRUPTIBLE_GRACE, Reason, RunningJob
from roost._worker.state import WorkerState
from roost.exceptions import DatabaseUnavailableError, InvalidArgsError

logger = StructuredLogger("roost.worker.execute")

MAX_START_DELAY = 1.0
"""Seconds at most between the start that a rate limit counts and the call of the handler. The claim
of limited jobs (``limits.sql``) counts each start for a minute and this time."""
MAX_UNSTARTED = 32
"""Tasks that are created and have not begun, at most. Each that begins creates the next. So few
tasks of short jobs exist at a time, and they fit into a processor's cache."""

_INTERRUPTED = Interrupted()
_DECIMAL = "decimal_context"
"""The name of the context variable that holds the standard library's decimal context."""


class ExecuteLane:
    """Owns the task group that every job is a child of."""

    name = "execute"

    def __init__(self, state: WorkerState, database: Database) -> None:
        self._state = state
        self._database = database
        self._group: TaskGroup | None = None
        self._unstarted = 0
        self._start_deferred = False
        # The stop sets the deadlines of both scopes.
        self._grace = anyio.CancelScope()
        self._final_wait = anyio.CancelScope()
        # No job waits for a thread: there are as many as slots.
        self._threads = anyio.CapacityLimiter(state.slots.concurrency)
        self._processes = HandlerProcesses(state)
        self._context = copy_context()
        self._hook_threads = HookThreads(min(MAX_HANGING, state.slots.concurrency))
        self._decimal: decimal.Context | None = None
        self._guard: TaskGuard
        self._default_timeout = state.settings.timeout_seconds

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Start jobs until cancelled. A cancel interrupts the jobs that still run."""
        self._guard = guard_for_this_loop()
        handler_state.set(self._state.handler_state)
        self._context = copy_context()
        self._context.run(metadata_writer.set, WorkerMetadataWriter(self._state))
        if any(variable.name == _DECIMAL for variable in self._context):
            # The decimal context is mutable: each job gets a copy.
            self._decimal = decimal.getcontext().copy()
        try:
            async with anyio.create_task_group() as self._group:
                task_status.started()
                with self._grace:
                    while True:
                        await self._state.start_wake.wait()
                        self._start()
                        self._state.fetch_wake.set()
                for running in self._state.slots:
                    running.cancel(Reason.SHUTDOWN)
                await anyio.sleep_forever()
        finally:
            self._group = None
            await self._processes.aclose()

    def allow_threads(self, slots: int) -> None:
        """Let a thread run for each slot. No fewer than before: jobs may run in them."""
        self._threads.total_tokens = max(self._threads.total_tokens, slots)

    def _start(self) -> None:
        """Start prefetched jobs while slots are free."""
        group, state = self._group, self._state
        if group is None or group.cancel_scope.cancel_called or state.stopping:
            return
        now = monotonic()
        while self._unstarted < MAX_UNSTARTED:
            running = state.slots.start_next(now=now)
            if running is None:
                self._start_deferred = False
                return
            self._unstarted += 1
            # Not in the context of the calling task, which may be another job's. In a copy, since a
            # context can't be entered twice and an eager task begins here. Not by start_soon, which
            # is slower because it derives a name.
            running.task = self._context.copy().run(
                group.create_task, self.once(running), name=running.claimed.task
            )
        self._start_deferred = True

    async def once(self, running: RunningJob) -> None:
        """Run one job and pass its verdict to the settle lane. The slot is freed in any case."""
        state = self._state
        self._unstarted -= 1
        if self._start_deferred:
            self._start()
        if self._decimal is not None:
            decimal.setcontext(self._decimal.copy())
        ending: Ending = _INTERRUPTED
        try:
            ending = self._refuse(running) or await self._attempt(running)
        except BaseException as error:  # noqa: BLE001  (the task ends here)
            if not isinstance(error, anyio.get_cancelled_exc_class()):
                ending = self._failure(error)
        if running.metadata is not None:
            await self._write_metadata(running)
        # No await from here on: the slot is freed and the verdict queued in one step, also during a
        # cancel of this task. Nothing is raised: an error of this task, and on asyncio a cancel
        # that is not anyio's, would cancel all jobs.
        sample = running.sample()
        state.slots.finish(running)
        if state.events is not None:
            state.events.ended(running)
        try:
            if type(ending) is Returned and ending.value is None and running.ran_undisturbed:
                # Most jobs end like this. It is the verdict that `judge` would return.
                state.settle(
                    Verdict(running.claimed.lease, Event.COMPLETE, None, None, None, False, sample)
                )
                if running.trace is not None:
                    running.trace.ended("completed", None)
            else:
                self._finish_unusual(running, apply_cancel_reason(running, ending), sample)
        except BaseException as error:  # noqa: BLE001  (an application's log handlers may raise)
            self._failure(error)
        if not self._start_deferred:
            self._start()
        state.fetch_wake.set()

    async def _write_metadata(self, running: RunningJob) -> None:
        """Write what the handler has changed in the metadata, before the verdict ends the lease."""
        try:
            await write_rest(running, self._state)
        except BaseException as error:  # noqa: BLE001  (as in `once`: the slot must be freed)
            self._failure(error)

    def _failure(self, error: BaseException) -> Ending:
        """Return the ending of an attempt that raised ``error``. Ctrl-C also stops the worker."""
        if is_ctrl_c(error):
            # Raised here, it would end asyncio's loop at once. `Worker.run` raises it after the
            # ordered stop.
            self._state.stop.fail(error)
            return _INTERRUPTED
        return Raised(error)

    def _not_called(self, error: BaseException) -> Ending:
        """Return the ending of an attempt whose handler can't be called with the job's args."""
        if isinstance(error, InvalidArgsError):
            return Raised(error, permanent=not self._state.settings.retry_invalid_args)
        return self._failure(error)

    def _finish_unusual(self, running: RunningJob, ending: Ending, sample: Sample | None) -> None:
        """Settle an attempt that did not just return ``None``, and log how it ended.

        An attempt that has lost its lease, or whose thread still runs, is not settled.
        """
        state, claimed = self._state, running.claimed
        if running.reason is Reason.LEASE_LOST:
            log_lease_lost(running)  # the worker that has the lease now settles the job
            if sample is not None:
                state.statistics.count(sample, "lost")
            end_trace(running, "lost")
        elif running.abandoned:
            state.abandoned.add(claimed.lease)
            logger.error(
                "thread of job %(job_id)d (%(task)s) is abandoned: it does not end",
                **claimed.log_fields(),
            )
            end_trace(running, "abandoned")
        else:
            try:
                verdict = self._judge(claimed, ending)
            except BaseException as error:  # noqa: BLE001  (the error's own code may raise)
                ending = self._replacement(ending, error)
                verdict = self._judge(claimed, ending)
            verdict = running.with_start(with_traceparent(verdict, running))
            state.settle(verdict._replace(completed=running.completed, sample=sample))
            if verdict.event is not Event.COMPLETE:
                state.slots.failed += verdict.event in (Event.RETRY, Event.DISCARD)
                log_unsuccessful(running, ending, verdict)
            end_settled_trace(running, ending, verdict)

    def _replacement(self, ending: Ending, error: BaseException) -> Ending:
        """Return the ending to use if reading the original one raised ``error``."""
        self._failure(error)
        if isinstance(ending, Returned):
            return Returned(None)  # by Ctrl-C; `judge` handles other errors of a result
        return Raised(RuntimeError(f"the error of this attempt raised {type(error).__name__}"))

    def _judge(self, claimed: ClaimedJob, ending: Ending) -> Verdict:
        settings = self._state.settings
        handler = self._state.registry.get(claimed.task)
        return judge(
            ending,
            lease=claimed.lease,
            attempt=claimed.attempt,
            max_attempts=claimed.max_attempts,
            retry=(handler and handler.retry_strategy) or settings.retry,
            rules=NO_RULES if handler is None else handler.rules,
            max_result=settings.max_result_bytes,
        )

    async def stop(self) -> None:
        """Release jobs that have not started, and wait ``shutdown_timeout`` seconds for the others.

        Jobs that still run then are interrupted and released without using their attempt.
        """
        state = self._state
        state.release(state.slots.drain_prefetched() + state.slots.drain_parked())
        self.end_by(anyio.current_time() + state.settings.shutdown_timeout)
        with self._final_wait:
            await state.slots.wait_until_none_runs()
        for stuck in state.slots:
            logger.error(
                "handler of job %(job_id)d (%(task)s) does not end",
                **stuck.claimed.log_fields(),
            )

    def end_by(self, deadline: float) -> None:
        """Interrupt every job at ``deadline``, in the event loop's time.

        A deadline later than an earlier call's is ignored.
        """
        self._grace.deadline = deadline = min(deadline, self._grace.deadline)
        self._final_wait.deadline = deadline + UNINTERRUPTIBLE_GRACE
        for running in self._state.slots:
            running.end_by(deadline)

    def _refuse(self, running: RunningJob) -> Ending | None:
        """Return the ending of a job that must not be called now; ``None``: call its handler."""
        claimed = running.claimed
        state = self._state
        # A claim may be answered after its incarnation has ended.
        if not state.holds_leases() or claimed.lease.worker_id != state.worker_id:
            running.cancel(Reason.LEASE_LOST)
            return _INTERRUPTED
        if claimed.cancel_requested or state.was_cancelled(claimed.lease):
            return CancelRequested()
        if claimed.queue in state.refused and state.is_refused(claimed):
            return _INTERRUPTED
        return None

    def _attempt(self, running: RunningJob) -> Awaitable[Ending]:
        """Call the handler, with hooks if there are any, and return the ending."""
        current.set(running)  # in the context of the job's own task, which ends with it
        claimed = running.claimed
        series = self._state.statistics.series_of(claimed.queue, claimed.task)
        series.started += 1
        running.series = series
        if self._state.events is not None:
            self._state.events.started(claimed)
        if telemetry.active is not None:
            running.trace = begin_trace(running, telemetry.active)
        hooks = self._state.settings.hooks
        return self._call(running) if hooks is None else self._call_with_hooks(running, hooks)

    async def _call_with_hooks(self, running: RunningJob, hooks: Hooks) -> Ending:
        """Call the handler between the hooks. No hook changes the ending."""
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
            running.handler_ended = True
            stopping = running.is_stopping
            timeout = UNINTERRUPTIBLE_GRACE if stopping else HOOK_TIMEOUT
            await calls.after(apply_cancel_reason(running, ending), timeout=timeout)
        return ending

    async def _call(self, running: RunningJob) -> Ending:
        """Call the handler; its timeout begins here."""
        claimed = running.claimed
        try:
            handler = self._state.registry.handler_of(claimed.task)
            args = keyword_arguments(handler, claimed, self._state.handler_state)
        except BaseException as error:  # noqa: BLE001  (bad args fail only this job)
            return self._not_called(error)
        if claimed.queue in self._state.refused and self._state.is_refused(claimed):
            return _INTERRUPTED  # paused during the hook
        if claimed.task in self._state.limited.names and not await self._is_counted(running):
            return _INTERRUPTED
        limit = claimed.timeout_seconds or self._default_timeout
        if limit is None:
            return await self._call_handler(handler, args, running)
        running.time_limit = limit
        with running.time_out_after(limit):
            return await self._call_handler(handler, args, running)
        return _INTERRUPTED

    async def _is_counted(self, running: RunningJob) -> bool:
        """Say whether the rate limit has counted this start; ``False``: release the job.

        The claim has counted it. After a slow hook or a slow answer to the claim, the handler would
        start much later than that, so the start is counted again.
        """
        if monotonic() <= running.counted_from + MAX_START_DELAY:
            return True
        counted_from = monotonic()
        try:
            counted = await self._database.call(count_start_now(running.claimed.lease))
        except DatabaseUnavailableError as error:
            logger.warning(
                "job %(job_id)d (%(task)s) is released, its start could not be counted: %(error)s",
                **running.claimed.log_fields(),
                error=str(error),
            )
            return False
        return counted and monotonic() <= counted_from + MAX_START_DELAY

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
    """Return the ending with the reason of a cancel applied to it."""
    if (reason := running.reason) is None:
        return ending
    match reason:
        case Reason.TIMEOUT:
            # Also if the handler suppressed the cancel.
            return TimedOut(limit=float(running.time_limit))
        case Reason.USER:
            return CancelRequested()
        case _:
            # A handler that finished despite the cancel keeps its result.
            return ending if isinstance(ending, Returned) else _INTERRUPTED
