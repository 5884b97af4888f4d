"""psycopg's blocking Connection with waits that end: at a deadline, and when interrupted.

psycopg's protocol is generators that do no waiting; everything that a connection does reaches the
socket through ``wait``, which is replaced here.
"""

from __future__ import annotations

import math
import select
import threading
from collections.abc import Generator
from time import monotonic
from typing import Any, TypeVar

import psycopg
from psycopg import pq
from psycopg.rows import Row

from roost._drivers.process import current_process

T = TypeVar("T")

READ = 1
WRITE = 2

CANCEL_TIMEOUT = 1.0
"""Seconds that a cancel request may take before the connection is closed without it."""


class DeadlineExceeded(psycopg.OperationalError):
    """The server did not answer in time."""


class BlockingConnection(psycopg.Connection[Row]):
    """A psycopg connection for one thread at a time.

    A statement that is interrupted, by ``deadline`` or by an exception that a signal handler
    raises, is cancelled on the server and the connection is closed. In a forked process every use
    raises, and closing it leaves the parent's connection as it is.
    """

    def __init__(self, pgconn: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(pgconn, *args, **kwargs)
        self._process = current_process()
        self._limit = math.inf
        self._deadline = math.inf

    def __del__(self, *_: object) -> None:
        """Say nothing: libpq closes what this process opened, and nothing else."""

    def set_deadline(self, timeout: float) -> None:
        """Let every wait end ``timeout`` seconds from now."""
        self._limit = timeout
        self._deadline = monotonic() + timeout

    def wait(
        self,
        gen: Generator[int, Any, T],
        interval: float = 0.0,  # noqa: ARG002  (psycopg passes it; nothing here polls)
        timeout: float | None = None,
    ) -> T:
        """Run one of psycopg's generators to its end.

        :param timeout: seconds; zero still looks once at what has arrived.
        :raises DeadlineExceeded: the deadline came first.
        """
        if self._process != current_process():
            raise psycopg.OperationalError("the connection belongs to the process that was forked")
        end = math.inf if timeout is None else monotonic() + timeout
        try:
            return run_until(gen, self.pgconn.socket, min(end, self._deadline))
        except TimeoutError:
            if end < self._deadline:
                raise psycopg.errors._WaitTimeout("wait timeout expired") from None  # noqa: SLF001
            self._abandon_statement()
            raise DeadlineExceeded(
                f"the database did not answer within {self._limit:g} s"
            ) from None
        except BaseException:
            self._abandon_statement()
            raise

    def close(self) -> None:
        """Close; safe to call twice. In a forked process it leaves the connection alone."""
        if self._process == current_process():
            super().close()

    def _abandon_statement(self) -> None:
        """Cancel the statement in flight, if there is one, and close the connection."""
        if self.pgconn.transaction_status != pq.TransactionStatus.ACTIVE:
            return
        try:
            request_cancel(self.pgconn)
        finally:
            self.pgconn.finish()


def run_until(gen: Generator[int, Any, T], fd: int, deadline: float) -> T:
    """Run a generator of psycopg's that waits for ``fd`` to its end.

    :param deadline: by ``time.monotonic``.
    :raises TimeoutError: the deadline came first; the generator can be run on.
    """
    try:
        return _run(gen, next(gen), fd, deadline)
    except StopIteration as stop:
        value: T = stop.value
        return value


def run_on(gen: Generator[int, Any, T], fd: int, deadline: float) -> T:
    """Go on with a generator that waits for something to read; else as `run_until`."""
    try:
        return _run(gen, READ, fd, deadline)
    except StopIteration as stop:
        value: T = stop.value
        return value


def _run(gen: Generator[int, Any, T], wanted: int, fd: int, deadline: float) -> T:
    while True:
        ready = ready_by(fd, wanted, deadline)
        if not ready:
            raise TimeoutError
        wanted = gen.send(ready)


def ready_by(fd: int, wanted: int, deadline: float) -> int:
    """Wait until ``fd`` is readable or writable as wanted; return which, or 0 at the deadline.

    An error or a hang-up counts as both.
    """
    left = max(deadline - monotonic(), 0.0)
    if not hasattr(select, "poll"):  # Windows
        reads, writes, _ = select.select(
            [fd] if wanted & READ else [],
            [fd] if wanted & WRITE else [],
            [],
            None if left == math.inf else left,
        )
        return (READ if reads else 0) | (WRITE if writes else 0)
    poll = select.poll()
    poll.register(
        fd, (select.POLLIN if wanted & READ else 0) | (select.POLLOUT if wanted & WRITE else 0)
    )
    ready = 0
    # Rounded up, or the last millisecond would be a busy loop; poll takes a C int.
    milliseconds = None if left == math.inf else min(math.ceil(left * 1000), 2**31 - 1)
    for _, events in poll.poll(milliseconds):
        if events & ~(select.POLLIN | select.POLLOUT):
            return wanted
        ready |= (READ if events & select.POLLIN else 0) | (WRITE if events & select.POLLOUT else 0)
    return ready


def request_cancel(pgconn: Any) -> None:
    """Ask the server to cancel the statement in flight; give up after ``CANCEL_TIMEOUT``."""
    deadline = monotonic() + CANCEL_TIMEOUT
    try:
        if not psycopg.capabilities.has_cancel_safe():  # libpq < 17 can't do it without blocking
            request = threading.Thread(target=pgconn.get_cancel().cancel, daemon=True)
            request.start()
            request.join(CANCEL_TIMEOUT)
            return
        cancel = pgconn.cancel_conn()
        try:
            cancel.start()
            while (status := cancel.poll()) != pq.PollingStatus.OK:
                reading = status == pq.PollingStatus.READING
                if status == pq.PollingStatus.FAILED or not ready_by(
                    cancel.socket, READ if reading else WRITE, deadline
                ):
                    return
        finally:
            cancel.finish()
    except psycopg.Error:
        return  # what interrupted the statement is what gets reported
