"""Several hands on one database, for interleavings that are driven step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import TypeVar

import pytest
from tests.support.conformance.cases import until
from tests.support.job_table import JobTable

T = TypeVar("T")


class Crew:
    """Opens connections, and calls that may have to wait for each other.

    :param dsn: a database with Roost's schema.
    """

    def __init__(self, dsn: str, stack: ExitStack, threads: ThreadPoolExecutor) -> None:
        self._dsn = dsn
        self._stack = stack
        self._threads = threads
        self._watch = self.hand()

    def hand(self) -> JobTable:
        """Return a hand on a connection of its own; closed after the test."""
        return self._stack.enter_context(JobTable(self._dsn, application_name="crew"))

    def aside(self, call: Callable[[], T]) -> Future[T]:
        """Make a call in another thread."""
        return self._threads.submit(call)

    def until_waiting(self, count: int = 1) -> None:
        """Return when ``count`` calls wait for locks of others."""
        until(lambda: self._waiting() == count)

    def _waiting(self) -> int:
        count: int = self._watch.value(
            "select count(*) from pg_stat_activity "
            "where datname = current_database() and wait_event_type = 'Lock'"
        )
        return count


@pytest.fixture
def crew(dsn: str) -> Iterator[Crew]:
    """Yield a crew on the test's database."""
    with ExitStack() as stack:
        # Left first: the connections, and with them their transactions, end before the threads do.
        threads = ThreadPoolExecutor(16)
        stack.callback(threads.shutdown)
        yield Crew(dsn, stack, threads)
