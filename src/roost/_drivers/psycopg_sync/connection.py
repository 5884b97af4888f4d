"""psycopg's blocking Connection, with waits that end at a deadline or when interrupted.

psycopg's protocol is generators that do no waiting. Everything that a connection does reaches the
socket through ``wait``, which is replaced here.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Generator
from time import monotonic
from typing import Any, TypeVar

import psycopg
from psycopg import pq
from psycopg.rows import Row

from roost._drivers.polling import READ, WRITE, ready_within
from roost._drivers.process import current_process
from roost._drivers.psycopg_sync.waiting import run_until

T = TypeVar("T")

CANCEL_TIMEOUT = 1.0
"""Seconds that a cancel request may take. After that the connection is closed without it."""


class DeadlineExceeded(psycopg.OperationalError):
    """The server did not answer in time."""


class BlockingConnection(psycopg.Connection[Row]):
    """A psycopg connection for one thread at a time.

    A statement can be interrupted by the deadline or by an exception that a signal handler raises.
    Then it is cancelled on the server, and the connection is closed.

    In a forked process every use raises, and closing it leaves the parent's connection alone.
    """

    def __init__(self, pgconn: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(pgconn, *args, **kwargs)
        self._process = current_process()
        self._limit = math.inf
        self._deadline = math.inf

    def __del__(self, *_: object) -> None:
        """Don't warn, as psycopg does: libpq closes what this process opened, and nothing else."""

    def set_deadline(self, timeout: float) -> None:
        """End every wait ``timeout`` seconds from now at the latest."""
        self._limit = timeout
        self._deadline = monotonic() + timeout

    def wait(
        self,
        gen: Generator[int, Any, T],
        interval: float = 0.0,  # noqa: ARG002  (psycopg passes it; nothing here polls)
        timeout: float | None = None,
    ) -> T:
        """Run one of psycopg's generators to its end.

        :param timeout: seconds; with zero it still reads once what has arrived.
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
            self._cancel_and_close()
            raise DeadlineExceeded(
                f"the database did not answer within {self._limit:g} s"
            ) from None
        except BaseException:
            self._cancel_and_close()
            raise

    def close(self) -> None:
        """Close; safe to call twice. In a forked process it leaves the connection alone."""
        if self._process == current_process():
            super().close()

    def _cancel_and_close(self) -> None:
        """Cancel the statement in flight and close the connection; without one, do nothing."""
        if self.pgconn.transaction_status != pq.TransactionStatus.ACTIVE:
            return
        try:
            request_cancel(self.pgconn)
        finally:
            self.pgconn.finish()


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
                wanted = READ if status == pq.PollingStatus.READING else WRITE
                if status == pq.PollingStatus.FAILED or not ready_within(
                    cancel.socket, wanted, deadline - monotonic()
                ):
                    return
        finally:
            cancel.finish()
    except psycopg.Error:
        return  # the error that interrupted the statement is reported, not this one
