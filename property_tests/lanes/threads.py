"""Worker threads that run only while the event loop waits for them.

A plain handler runs in a real thread. At a `Gate` the thread stops, and the loop goes on. When the
gate is opened, the loop stands still until the thread has ended. So real time decides nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any, TypeVar
from unittest import mock

import anyio
import anyio.from_thread
import anyio.to_thread
import trio

T = TypeVar("T")

_local = threading.local()
REAL_TIMEOUT = 20.0
"""Real seconds after which a thread that neither ends nor stops is an error."""


class Gate:
    """Where a thread stops until it is opened."""

    def __init__(self) -> None:
        self._opened = threading.Event()
        self._thread: _Thread | None = None

    def wait(self) -> None:
        """Stop here. In the thread."""
        if self._opened.is_set():
            return
        self._thread = thread = _local.thread
        thread.stopped.set()
        assert self._opened.wait(REAL_TIMEOUT), "nothing opened the gate"

    def open(self) -> None:
        """Let the thread go on, and return when it has ended. In the loop."""
        if self._opened.is_set():
            return
        thread = self._thread
        if thread is not None:
            thread.stopped.clear()
        self._opened.set()
        if thread is not None:
            thread.run_until_it_stops()


class _Thread:
    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = copy_context().run
        self._function = call
        self.stopped = threading.Event()
        self.ended = trio.Event()
        self.calls: list[Callable[[], object]] = []
        self.value: Any = None
        self.error: BaseException | None = None
        self._over = False
        self._real = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._real.start()
        self.run_until_it_stops()

    def _run(self) -> None:
        _local.thread = self
        try:
            self.value = self._call(self._function)
        except BaseException as error:  # noqa: BLE001  (raised in the loop)
            self.error = error
        self._over = True
        self.stopped.set()

    def run_until_it_stops(self) -> None:
        assert self.stopped.wait(REAL_TIMEOUT), "the thread does not end"
        calls, self.calls = self.calls, []
        for call in calls:
            call()
        if self._over:
            self.ended.set()


async def _run_in_thread(
    func: Callable[..., T],
    *args: Any,
    abandon_on_cancel: bool = False,
    cancellable: bool | None = None,
    limiter: anyio.CapacityLimiter | None = None,
) -> T:
    """Do what ``anyio.to_thread.run_sync`` does."""
    await anyio.lowlevel.checkpoint()
    thread = _Thread(lambda: func(*args))
    if limiter is not None:
        await limiter.acquire_on_behalf_of(thread)
    trio.lowlevel.spawn_system_task(_release, thread, limiter)
    thread.start()
    with anyio.CancelScope(shield=not abandon_on_cancel):
        await thread.ended.wait()
    if thread.error is not None:
        raise thread.error
    value: T = thread.value
    return value


async def _release(thread: _Thread, limiter: anyio.CapacityLimiter | None) -> None:
    await thread.ended.wait()
    if limiter is not None:
        limiter.release_on_behalf_of(thread)


def _run_in_loop(func: Callable[..., object], *args: Any, token: object = None) -> None:
    """Do what ``anyio.from_thread.run_sync`` does, for calls whose value is not used."""
    _local.thread.calls.append(lambda: func(*args))


@contextmanager
def steered_threads() -> Iterator[None]:
    """Replace anyio's calls to and from threads."""
    with (
        mock.patch.object(anyio.to_thread, "run_sync", _run_in_thread),
        mock.patch.object(anyio.from_thread, "run_sync", _run_in_loop),
    ):
        yield
