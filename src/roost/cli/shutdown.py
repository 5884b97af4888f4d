"""How the process ends: signals ask the worker to stop, and a watchdog ends what does not.

A handler may hold the process up in ways that no event loop can end: a thread that goes on, a
coroutine that swallows its cancel, or one that blocks the loop itself. So the watchdog is a thread,
and it hears of signals without the loop's help.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain, repeat
from typing import NoReturn

import anyio
import attrs

from roost._model.logs import StructuredLogger

logger = StructuredLogger("roost.cli")

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
AFTER_FIRST = 2.0
"""Seconds beyond the grace. A worker needs a fraction of them; what it could not write by then is
the farewell's to write."""
AFTER_SECOND = 2.0
"""Seconds after a second signal."""
FOR_THREADS = 0.3
"""Seconds in which threads without a job end; what is there afterwards still runs a handler."""
FOR_EXIT = 5.0
"""Seconds for the interpreter's own exit: exit handlers, and other threads that are to end."""
LAST_WORDS = 1.0
"""Seconds for logging and flushing before the process is ended."""
FAREWELL = 1.5
"""Seconds for the very last write."""


@attrs.frozen
class _Deadline:
    """Be gone at a time of the monotonic clock."""

    at: float
    code: int
    why: str | None


class Watchdog:
    """Ends the process when a deadline that was set has passed.

    :param farewell: called at the very end, from another thread; it gets `FAREWELL` seconds.
    """

    def __init__(self, farewell: Callable[[], None]) -> None:
        self._farewell = farewell
        self._ending = threading.Lock()
        self._deadlines: queue.SimpleQueue[_Deadline] = queue.SimpleQueue()
        threading.Thread(target=self._watch, name="roost watchdog", daemon=True).start()

    def exit_within(self, seconds: float, *, code: int, why: str | None = None) -> None:
        """Exit with ``code`` unless the process has ended by itself; the nearest deadline holds."""
        self._deadlines.put(_Deadline(time.monotonic() + seconds, code, why))

    def _watch(self) -> None:
        nearest: _Deadline | None = None
        while True:
            left = None if nearest is None else nearest.at - time.monotonic()
            try:
                deadline = self._deadlines.get(timeout=None if left is None else max(left, 0))
            except queue.Empty:
                assert nearest is not None  # noqa: S101  (without a deadline it waits for ever)
                self.exit_now(nearest.code, why=nearest.why)
            if nearest is None or deadline.at < nearest.at:
                nearest = deadline

    def exit_now(self, code: int, *, why: str | None = None) -> NoReturn:
        """End the process without waiting for threads; what was logged and printed gets out."""
        self._ending.acquire()  # for ever: whoever comes second waits for the end
        _within(LAST_WORDS, partial(_flush, why))
        _within(FAREWELL, self._farewell)
        os._exit(code)


def _within(seconds: float, function: Callable[[], None]) -> None:
    """Call ``function`` and stop waiting for it after ``seconds``; what it raises is shown."""
    # In a thread, for who holds the lock of a log handler or of a full pipe may be what is stuck.
    thread = threading.Thread(target=function, daemon=True)
    with suppress(RuntimeError):  # no thread can be started late in the interpreter's exit
        thread.start()
        thread.join(seconds)


def _flush(why: str | None) -> None:
    if why is not None:
        logger.critical("exiting: %(why)s", why=why)
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()


def exit_with(code: int, watchdog: Watchdog, *, at_once: bool) -> NoReturn:
    """Exit as Python does, but without waiting for threads that handlers left behind.

    :param at_once: skip also what Python does at its exit, for there is a job in such a thread.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # a late one must not change the code
    deadline = time.monotonic() + FOR_THREADS
    # On trio the interpreter's exit doesn't wait for threads; anyio's own on asyncio hold it up.
    workers = [t for t in threading.enumerate() if type(t).__module__.startswith("anyio.")]
    for thread in workers:
        thread.join(max(deadline - time.monotonic(), 0))
    if at_once or any(thread.is_alive() for thread in workers):
        watchdog.exit_now(code)
    watchdog.exit_within(FOR_EXIT, code=code)
    sys.exit(code)


def heeded_signals() -> list[signal.Signals]:
    """Return the signals that stop the worker.

    A hangup, the end of the terminal or of the ssh session, is one unless the process was started
    to survive it: nohup has it ignored.
    """
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in SIGNALS if number != signal.SIGHUP or not ignored]


async def handle_signals(stop: Callable[[], None], *, watchdog: Watchdog, grace: float) -> None:
    """Call ``stop`` at the first and at the second signal; exit at the third. Runs until cancelled.

    :param grace: seconds that ``stop`` gives to what runs.
    """
    heeded = heeded_signals()
    with anyio.open_signal_receiver(*heeded) as received, _overheard(watchdog, grace, heeded):
        async for number in received:
            logger.info("signal received: %(signal)s", signal=signal.Signals(number).name)
            stop()


@contextmanager
def _overheard(watchdog: Watchdog, grace: float, heeded: Sequence[int]) -> Iterator[None]:
    """Let a thread hear of each signal before the loop does, and pass it on to the loop.

    A Python-level signal handler will not do: it runs in the main thread, and a signal that comes
    just before that thread sleeps in C stays unheard until the sleep is over (seen in a test).
    """
    ours, for_signals = socket.socketpair()
    for_signals.setblocking(False)
    loops = signal.set_wakeup_fd(for_signals.fileno(), warn_on_full_buffer=False)
    listener = threading.Thread(
        target=_listen,
        args=(ours, loops, watchdog, grace, heeded),
        name="roost signals",
        daemon=True,
    )
    listener.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(loops)
        for_signals.close()  # which ends the thread
        listener.join(LAST_WORDS)


def _listen(
    ours: socket.socket, loops: int, watchdog: Watchdog, grace: float, heeded: Sequence[int]
) -> None:
    deadlines = chain(
        [
            (grace + AFTER_FIRST, "the stop took too long"),
            (AFTER_SECOND, "the forced stop took too long"),
        ],
        repeat((0.0, "third signal")),
    )
    with ours:
        while numbers := ours.recv(64):
            for number in numbers:
                if number in heeded:
                    seconds, why = next(deadlines)
                    watchdog.exit_within(seconds, code=1, why=why)
            if loops != -1:
                with suppress(OSError):  # full: the loop is awake anyway
                    os.write(loops, numbers)
