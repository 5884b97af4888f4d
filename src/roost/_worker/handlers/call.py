"""Call a handler in the event loop, a thread or a process, and return how the call ended."""

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
from roost._model.job import Job
from roost._model.lazy import MAX_AWAITS, PLAIN_RESULTS, needs_await, refuse_lazy
from roost._model.logs import StructuredLogger
from roost._model.registry import Handler
from roost._model.verdict import Ending, Raised, Returned
from roost._worker.handlers.current import log_fields
from roost._worker.handlers.process import HandlerProcesses
from roost._worker.handlers.task_guard import TaskGuard
from roost._worker.running_job import RunningJob

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

    A cancelled error that the handler caused itself, such as the ``asyncio.CancelledError`` of a
    future that it awaited, is a failure of the attempt. So is a ``KeyboardInterrupt`` that no
    Ctrl-C caused.

    A cancel of this call interrupts an async handler and kills a process. It waits for a thread.

    :param guard: closes the scopes and task groups that the handler leaves open in the task.
    :raises BaseException: a cancel from outside the handler, or the KeyboardInterrupt of a Ctrl-C.
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
        return await processes.call(handler, args, running=running)
    ending = await _call_in_thread(handler.func, args, running=running, threads=threads)
    if isinstance(ending, Returned) and type(value := ending.value) not in PLAIN_RESULTS:
        # A plain function may wrap an async one: its result is then still to be awaited.
        return await call_in_loop(partial(_finish, value), {}, running, guard)
    if not guard.is_clean(running.scope):
        # On trio the calls that a thread makes into the loop run in this task.
        await close_what_is_open(running.scope, guard, running)
    return ending


async def call_in_loop(
    func: Callable[..., Awaitable[Any]],
    args: dict[str, Any],
    running: RunningJob,
    guard: TaskGuard,
) -> Ending:
    """Run an async handler and return its ending, as `call_handler` does."""
    ending: Ending
    try:
        value = await func(**args)
        if value is not None and type(value) not in PLAIN_RESULTS:
            value = await _finish(value)
        ending = Returned(value)
    except BaseException as error:  # noqa: BLE001  (SystemExit and the like end the job, not the worker)
        ending = Raised(error)
    if not guard.is_clean(running.scope):
        await close_what_is_open(running.scope, guard, running)
    if isinstance(ending, Raised) and comes_from_outside(ending.error, guard):
        raise ending.error
    return ending


async def _finish(value: Any) -> Any:
    """Return the result of a handler, awaiting the value that it returned if needed.

    :raises TypeError: the value is work that was not done, such as a generator.
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


async def close_what_is_open(scope: object, guard: TaskGuard, job: RunningJob | Job) -> None:
    """Close the scopes that users' code left open inside ``scope``, and log a warning."""
    found = await guard.clean(scope)
    logger.warning(
        "the code of job %(job_id)d returned with %(found)s left: closed by the worker",
        **log_fields(job),
        found=found,
    )


def comes_from_outside(error: BaseException, guard: TaskGuard) -> bool:
    """Say whether ``error`` in users' code comes from a cancel of the task or from Ctrl-C."""
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
    """Run a sync handler in a worker thread, and wait until the thread has ended.

    A cancel can't stop a thread, so the slot and the lease are held until the thread ends. The
    handler may call ``anyio.from_thread.check_cancelled()``. Its ending after a cancel is returned
    as well. When the worker stops, the thread gets `UNINTERRUPTIBLE_GRACE` and is then abandoned.
    """
    ended = anyio.Event()
    token = anyio.lowlevel.current_token()
    decided = threading.Lock()  # taken by the thread: the handler runs; by a cancel: it does not
    ending: Ending | None = None

    def call() -> None:
        nonlocal ending
        if not decided.acquire(blocking=False):
            return
        # No exception may leave the thread: StopIteration, for one, can't be set on a future.
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
