"""Several sessions on one database, for interleavings that a test drives step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import TypeVar

import psycopg
import pytest
from tests.support.conformance.cases import until
from tests.support.cron_table import CLOCK, CronTable
from tests.support.job_table import JobTable

T = TypeVar("T")


class Sessions:
    """Opens sessions, and makes calls in threads that may wait for each other's locks.

    :param dsn: a database with Roost's schema.
    """

    def __init__(self, dsn: str, stack: ExitStack, threads: ThreadPoolExecutor) -> None:
        self._dsn = dsn
        self._stack = stack
        self._threads = threads
        self._watch = self.open()

    def open(self) -> JobTable:
        """Return a session on a connection of its own, which is closed after the test."""
        return self._stack.enter_context(JobTable(self._dsn, application_name="sessions"))

    def in_thread(self, call: Callable[[], T]) -> Future[T]:
        """Make a call in another thread."""
        return self._threads.submit(call)

    def until_waiting(self, count: int = 1) -> None:
        """Return when ``count`` calls wait for locks."""
        until(lambda: self._waiting() == count)

    def _waiting(self) -> int:
        count: int = self._watch.value(
            "select count(*) from pg_stat_activity "
            "where datname = current_database() and wait_event_type = 'Lock'"
        )
        return count


@pytest.fixture
def sessions(dsn: str) -> Iterator[Sessions]:
    """Yield sessions on the test's database."""
    with ExitStack() as stack:
        # The connections are closed first, which ends their transactions; then the threads can end.
        threads = ThreadPoolExecutor(16)
        stack.callback(threads.shutdown)
        yield Sessions(dsn, stack, threads)


@pytest.fixture
def open_cron_table(dsn: str) -> Iterator[Callable[[], CronTable]]:
    """Yield a function that opens sessions whose clock the test sets."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(CLOCK)
    with ExitStack() as tables:
        yield lambda: tables.enter_context(CronTable(dsn))


@pytest.fixture
def crons(open_cron_table: Callable[[], CronTable]) -> CronTable:
    """Return such a session."""
    return open_cron_table()


@pytest.fixture
def rival(open_cron_table: Callable[[], CronTable]) -> CronTable:
    """Return a second such session."""
    return open_cron_table()
