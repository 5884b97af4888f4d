"""End the worker's process: signals ask for a stop, and a watchdog exits if that takes too long.

An event loop can't end every handler: a thread goes on, a coroutine swallows its cancellation, or
it blocks the loop itself. So the watchdog is a thread, and receives signals without the loop.
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
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import chain, repeat
from typing import NoReturn

import anyio
import attrs

from roost._model.logs import StructuredLogger
from roost.cli.supervised import SupervisorLink

logger = StructuredLogger("roost.cli")

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
ORDER = 128
"""Added to the number of a supervisor's order, so that it is no signal's number."""
STOP_MARGIN = 2.0
"""Seconds after the grace until the watchdog exits. A worker needs a fraction of them."""
FORCED_STOP_TIMEOUT = 2.0
"""Seconds from the second signal until the watchdog exits."""
THREADS_TIMEOUT = 0.3
"""Seconds for idle threads to end. A thread that is alive after them still runs a handler."""
EXIT_TIMEOUT = 5.0
"""Seconds for the interpreter's own exit: its exit handlers and the threads that it waits for."""
FLUSH_TIMEOUT = 1.0
"""Seconds for logging and flushing before `os._exit`."""
FINAL_WRITE_TIMEOUT = 1.5
"""Seconds for the last write to the database before `os._exit`."""


@attrs.frozen
class _Deadline:
    """When to exit, by the monotonic clock; with which exit code, and the reason to log."""

    at: float
    code: int
    why: str | None


class Watchdog:
    """A thread that exits the process when a deadline has passed.

    :param final_write: called from another thread immediately before the process exits. It gets
        `FINAL_WRITE_TIMEOUT` seconds.
    """

    def __init__(self, final_write: Callable[[], None]) -> None:
        self._final_write = final_write
        self._exiting = threading.Lock()
        self._deadlines: queue.SimpleQueue[_Deadline] = queue.SimpleQueue()
        threading.Thread(target=self._watch, name="roost watchdog", daemon=True).start()

    def exit_within(self, seconds: float, *, code: int, why: str | None = None) -> None:
        """Exit with ``code`` after ``seconds``. The earliest of several deadlines counts."""
        self._deadlines.put(_Deadline(time.monotonic() + seconds, code, why))

    def _watch(self) -> None:
        nearest: _Deadline | None = None
        while True:
            left = None if nearest is None else nearest.at - time.monotonic()
            try:
                deadline = self._deadlines.get(timeout=None if left is None else max(left, 0))
            except queue.Empty:
                assert nearest is not None  # noqa: S101  (without a deadline, get() has no timeout)
                self.exit_now(nearest.code, why=nearest.why)
            if nearest is None or deadline.at < nearest.at:
                nearest = deadline

    def exit_now(self, code: int, *, why: str | None = None) -> NoReturn:
        """Flush logs and output, make the final write, and exit without waiting for threads.

        :param why: the reason, logged as an error.
        """
        self._exiting.acquire()  # never released: a second caller waits until the process is gone
        _within(FLUSH_TIMEOUT, partial(_flush, why))
        _within(FINAL_WRITE_TIMEOUT, self._final_write)
        os._exit(code)


def _within(seconds: float, function: Callable[[], None]) -> None:
    """Call ``function`` in a thread, and wait for it at most ``seconds``.

    It may hang: a stuck handler may hold the lock of a log handler or of a full pipe.
    """
    thread = threading.Thread(target=function, daemon=True)
    with suppress(RuntimeError):  # late in the interpreter's exit no thread can start
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
    """Exit like Python, but don't wait for threads in which handlers still run.

    :param at_once: also skip Python's exit handlers. Set it if a job still runs in such a thread.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # a late signal must not change the exit code
    deadline = time.monotonic() + THREADS_TIMEOUT
    # The interpreter's exit waits for anyio's threads on asyncio, and not on trio.
    workers = [t for t in threading.enumerate() if type(t).__module__.startswith("anyio.")]
    for thread in workers:
        thread.join(max(deadline - time.monotonic(), 0))
    if at_once or any(thread.is_alive() for thread in workers):
        watchdog.exit_now(code)
    watchdog.exit_within(EXIT_TIMEOUT, code=code)
    sys.exit(code)


def stop_signals() -> list[signal.Signals]:
    """Return the signals that stop the worker.

    SIGHUP, the end of the terminal or of the ssh session, stops it unless the process was started
    with SIGHUP ignored, as nohup does.
    """
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in SIGNALS if number != signal.SIGHUP or not ignored]


async def handle_signals(
    stop: Callable[[], None],
    *,
    watchdog: Watchdog,
    grace: float,
    supervisor: SupervisorLink | None = None,
) -> None:
    """Call ``stop`` at each request to stop, and exit at the third. Runs until it is cancelled.

    A request is a signal or an order of the supervisor. A signal to the process group reaches the
    supervisor too, which then sends an order. So the larger number counts, not the sum.

    :param stop: stops the worker at its first call, and ends the grace at its second.
    :param watchdog: exits the process if a stop takes too long, and at the third request.
    :param grace: seconds that running jobs get after the first request.
    """
    numbers = stop_signals()
    with (
        anyio.open_signal_receiver(*numbers) as received,
        _watched(watchdog, grace, numbers, supervisor) as requests,
    ):
        async with anyio.create_task_group() as group:
            group.start_soon(_stop_at_each, requests, stop)
            async for number in received:
                logger.info("signal received: %(signal)s", signal=signal.Signals(number).name)


async def _stop_at_each(requests: socket.socket, stop: Callable[[], None]) -> None:
    while True:
        await anyio.wait_readable(requests)
        for _ in requests.recv(64):
            stop()


@contextmanager
def _watched(
    watchdog: Watchdog, grace: float, stops: Sequence[int], supervisor: SupervisorLink | None
) -> Iterator[socket.socket]:
    """Receive signals and orders in a thread, set the watchdog, and pass them on to the loop.

    A Python signal handler can't do this: it runs in the main thread. If that thread begins to
    sleep in C just after a signal, the handler runs only after the sleep (seen in a test).

    :returns: a socket that gets one byte for each request to stop.
    """
    ours, for_signals = socket.socketpair()
    requests, for_requests = socket.socketpair()
    for_signals.setblocking(False)
    loop_fd = signal.set_wakeup_fd(for_signals.fileno(), warn_on_full_buffer=False)
    listener = threading.Thread(
        target=_listen,
        args=(ours, for_requests, loop_fd, watchdog),
        kwargs={"grace": grace, "stops": stops},
        name="roost signals",
        daemon=True,
    )
    listener.start()
    with requests, ExitStack() as linked:
        if supervisor is not None:
            linked.enter_context(
                supervisor.orders_to(lambda order: for_signals.send(bytes([ORDER + order])))
            )
        try:
            yield requests
        finally:
            signal.set_wakeup_fd(loop_fd)
            linked.close()
            for_signals.close()  # ends the thread
            listener.join(FLUSH_TIMEOUT)


def _listen(
    ours: socket.socket,
    for_requests: socket.socket,
    loop_fd: int,
    watchdog: Watchdog,
    *,
    grace: float,
    stops: Sequence[int],
) -> None:
    deadlines = chain(
        [
            (grace + STOP_MARGIN, "the stop took too long"),
            (FORCED_STOP_TIMEOUT, "the forced stop took too long"),
        ],
        repeat((0.0, "third signal")),
    )
    signals = orders = requests = 0
    with ours, for_requests:
        while received := ours.recv(64):
            for number in received:
                signals += number in stops
                orders = max(orders, number - ORDER)
            for _ in range(requests, max(signals, orders)):
                seconds, why = next(deadlines)
                watchdog.exit_within(seconds, code=1, why=why)
                with suppress(OSError):  # the worker has ended
                    for_requests.send(b"s")
            requests = max(signals, orders)
            numbers = bytes(number for number in received if number < ORDER)
            if loop_fd != -1 and numbers:
                with suppress(OSError):  # the buffer is full: the loop has a reason to wake already
                    os.write(loop_fd, numbers)
