"""Call a handler, in the event loop, a thread or a process, and say how that ended."""

from __future__ import annotations

import concurrent.futures
import contextlib
import math
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread

from roost._model.interrupts import is_ctrl_c
from roost._model.lazy import MAX_AWAITS, PLAIN_RESULTS, needs_await, refuse_lazy
from roost._model.logs import StructuredLogger
from roost._model.registry import Handler
from roost._model.verdict import Ending, Raised, Returned
from roost._worker.handlers.process import HandlerProcesses
from roost._worker.handlers.task_guard import TaskGuard
from roost._worker.slots import RunningJob

logger = StructuredLogger("roost.worker.execute")


def call_handler(
    handler: Handler,
    args: dict[str, Any],
    *,
    running: RunningJob,
    threads: anyio.CapacityLimiter,
    processes: HandlerProcesses,
    guard: TaskGuard,
) -> Awaitable[Ending]:
    """Run the handler and return its ending.

    A cancel that came from outside the handler is raised on; one that the handler made up itself
    (an ``asyncio.CancelledError`` of some future it awaited) is its failure. So is a
    ``KeyboardInterrupt``, unless a user's Ctrl-C made it: that is raised on, too.

    :param guard: puts right what the handler leaves open in the task.
    """
    if handler.is_async:
        return call_in_loop(handler.func, args, running, guard)
    return _call_elsewhere(
        handler, args, running=running, threads=threads, processes=processes, guard=guard
    )


async def _call_elsewhere(
    handler: Handler,
    args: dict[str, Any],
    *,
    running: RunningJob,
    threads: anyio.CapacityLimiter,
    processes: HandlerProcesses,
    guard: TaskGuard,
) -> Ending:
    if handler.run_in == "process":
        return await processes.call(handler.func, args, running=running)
    ending = await _call_in_thread(handler.func, args, running=running, threads=threads)
    if isinstance(ending, Returned) and type(value := ending.value) not in PLAIN_RESULTS:
        # A plain function may wrap an async one: then the work is still to be done.
        return await call_in_loop(partial(_finish, value), {}, running, guard)
    if not guard.is_clean(running.scope):
        # On trio the loop's part of a thread's calls runs in this task.
        await close_what_is_open(running.scope, guard, running.claimed.lease.job_id)
    return ending


async def call_in_loop(
    func: Callable[..., Awaitable[Any]],
    args: dict[str, Any],
    running: RunningJob,
    guard: TaskGuard,
) -> Ending:
    """Do what `call_handler` does, for an async handler."""
    ending: Ending
    try:
        value = await func(**args)
        if value is not None and type(value) not in PLAIN_RESULTS:
            value = await _finish(value)
        ending = Returned(value)
    except BaseException as error:  # noqa: BLE001  (SystemExit and the like end the job, not the worker)
        ending = Raised(error)
    if not guard.is_clean(running.scope):
        await close_what_is_open(running.scope, guard, running.claimed.lease.job_id)
    if isinstance(ending, Raised) and comes_from_outside(ending.error, guard):
        raise ending.error
    return ending


async def _finish(value: Any) -> Any:
    """Await what a handler returned until it is a result.

    :raises TypeError: it is work that was not done, such as a generator.
    """
    for _ in range(MAX_AWAITS):
        if not needs_await(value):
            refuse_lazy(value)
            return value
        if isinstance(value, concurrent.futures.Future):
            value = await anyio.to_thread.run_sync(
                value.result, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1)
            )
        else:
            value = await value
    raise TypeError(f"what the handler returned was awaited {MAX_AWAITS} times and has no end")


async def close_what_is_open(scope: object, guard: TaskGuard, job_id: int) -> None:
    """Close what users' code left open in the task, inside ``scope``, and say so."""
    found = await guard.clean(scope)
    logger.warning(
        "the code of job %(job_id)d returned with %(found)s left: closed by the worker",
        job_id=job_id,
        found=found,
    )


def comes_from_outside(error: BaseException, guard: TaskGuard) -> bool:
    """Say whether users' code raised ``error`` because it was cancelled, or by Ctrl-C."""
    if isinstance(error, Exception):
        return False
    if isinstance(error, anyio.get_cancelled_exc_class()):
        return anyio.current_effective_deadline() == -math.inf or guard.ends_with_its_loop()
    return is_ctrl_c(error)


async def _call_in_thread(
    func: Callable[..., Any],
    args: dict[str, Any],
    *,
    running: RunningJob,
    threads: anyio.CapacityLimiter,
) -> Ending:
    """Run a sync handler in a worker thread and stay until the thread has ended.

    A cancel can't stop a thread, so slot and lease are held until it ends by itself; the handler
    may ask ``anyio.from_thread.check_cancelled()``. Its ending after a cancel is returned as well.
    When the worker stops, the thread gets `UNINTERRUPTIBLE_GRACE` and is then abandoned.
    """
    ended = anyio.Event()
    token = anyio.lowlevel.current_token()
    decided = threading.Lock()  # the first to take it decides whether the handler runs
    ending: Ending | None = None

    def call() -> None:
        nonlocal ending
        if not decided.acquire(blocking=False):
            return
        # Nothing may leave the thread as an exception: StopIteration, for one, can't be set on a
        # future.
        try:
            ending = Returned(func(**args))
        except BaseException as error:  # noqa: BLE001  (see above)
            ending = Raised(error)
        finally:
            # The loop may have ended before this thread.
            with contextlib.suppress(RuntimeError):
                anyio.from_thread.run_sync(ended.set, token=token)

    try:
        await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=threads)
    except anyio.get_cancelled_exc_class():
        if decided.acquire(blocking=False):
            raise
        await running.wait_uninterrupted(ended.wait)
        if not ended.is_set():
            running.abandoned = True
            raise
        # Not raised again: the scope knows of the cancel, and the result must not be lost.
    assert ending is not None  # noqa: S101  (set before the event)
    return ending
