"""A small pool of blocking connections, for threads. No background thread, nothing to start."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from psycopg import pq

from roost._drivers.psycopg_sync import SyncConnection, connect
from roost.exceptions import ClosedError, DatabaseUnavailableError


class PsycopgSyncPool:
    """Up to ``max_size`` connections, opened when needed, the last one used first.

    A process that was forked from one that used the pool starts with none: the parent's connections
    stay the parent's.
    """

    def __init__(self, dsn: str, *, max_size: int, application_name: str = "roost") -> None:
        self._dsn = dsn
        self._max_size = max_size
        self._application_name = application_name
        self._begin()
        self._ended = False

    @contextmanager
    def acquire(self, *, timeout: float = 30.0) -> Iterator[SyncConnection]:
        """Borrow a connection; wait up to ``timeout`` seconds for a free one.

        :raises DatabaseUnavailableError: none was free in time, or the server can't be reached.
        :raises ClosedError: the pool was closed.
        """
        if self._pid != os.getpid():
            self._begin()
        if self._ended:
            raise ClosedError("this client was closed")
        free = self._free
        if not free.acquire(timeout=timeout):
            raise DatabaseUnavailableError(f"no connection was free within {timeout:g} s")
        try:
            connection = self._idle_connection() or connect(
                self._dsn, application_name=self._application_name
            )
            try:
                yield connection
            finally:
                self._give_back(connection)
        finally:
            free.release()

    def close(self) -> None:
        """Close every idle connection now and each borrowed one when it comes back."""
        self._ended = True
        while self._idle:
            self._idle.pop().close()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._free = threading.BoundedSemaphore(self._max_size)
        self._idle: deque[SyncConnection] = deque()

    def _idle_connection(self) -> SyncConnection | None:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return None
            if connection.is_quiet():
                return connection
            connection.close()

    def _give_back(self, connection: SyncConnection) -> None:
        idle = connection.raw.info.transaction_status == pq.TransactionStatus.IDLE
        if idle and not self._ended and not connection.raw.closed:
            self._idle.append(connection)
        else:
            connection.close()
