"""Call a handler, in the event loop, a thread or a process, and say how that ended."""

from __future__ import annotations

import contextlib
import inspect
import math
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread

from roost._model.registry import Handler
from roost._model.verdict import Ending, Raised, Returned
from roost._worker.process import HandlerProcesses
from roost._worker.running import RunningJob


def call_handler(
    handler: Handler,
    args: dict[str, Any],
    *,
    running: RunningJob,
    threads: anyio.CapacityLimiter,
    processes: HandlerProcesses,
) -> Awaitable[Ending]:
    """Run the handler and return its ending.

    A cancel that came from outside the handler is raised on; one that the handler made up itself
    (an ``asyncio.CancelledError`` of some future it awaited) is its failure.
    """
    if handler.is_async:
        return _call_in_loop(handler.func, args)
    return _call_elsewhere(handler, args, running=running, threads=threads, processes=processes)


async def _call_elsewhere(
    handler: Handler,
    args: dict[str, Any],
    *,
    running: RunningJob,
    threads: anyio.CapacityLimiter,
    processes: HandlerProcesses,
) -> Ending:
    if handler.run_in == "process":
        return await processes.call(handler.func, args, running=running)
    ending = await _call_in_thread(handler.func, args, running=running, threads=threads)
    if isinstance(ending, Returned) and inspect.iscoroutine(coroutine := ending.value):
        # A plain function that wraps an async one: the work is still to be done.
        return await _call_in_loop(lambda: coroutine, {})
    return ending


async def _call_in_loop(func: Callable[..., Awaitable[Any]], args: dict[str, Any]) -> Ending:
    try:
        return Returned(await func(**args))
    except anyio.get_cancelled_exc_class() as error:
        if anyio.current_effective_deadline() == -math.inf:
            raise
        return Raised(error)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  (SystemExit and the like end the job, not the worker)
        return Raised(error)


async def _call_in_thread(
    func: Callable[..., Any],
    args: dict[str, Any],
    *,
    running: RunningJob,
    threads: anyio.CapacityLimiter,
) -> Ending:
    """Run a sync handler in a worker thread and stay until the thread has ended.

    A cancel can't stop a thread, so slot and lease are held until it ends by itself; the handler
    may ask ``anyio.from_thread.check_cancelled()``. What it comes to after a cancel is returned all
    the same. When the worker stops, ``running.linger`` gets a deadline, after which the thread is
    left behind.
    """
    ended = anyio.Event()
    token = anyio.lowlevel.current_token()
    decided = threading.Lock()  # whoever takes it first decides whether the handler runs
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
        with running.lingering():
            await ended.wait()
        if not ended.is_set():
            running.abandoned = True
            raise
        # Not raised again: the cancel is known to the scope, and what was done must not be lost.
    assert ending is not None  # noqa: S101  (set before the event)
    return ending
