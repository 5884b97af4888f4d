"""Time that is set, for the event loop, for the worker's own timers and for the database.

Nothing here waits for real: when every task waits, the loop's clock goes on to the next deadline.
The database reads the time from a file, which costs no round trip.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from unittest import mock

import attrs
import psycopg
from property_tests.oracle.tables import START
from property_tests.real import prepare
from trio.testing import MockClock

FUNCTIONS = """
create or replace function clock.statement_timestamp() returns timestamptz stable language sql
    as $$ select pg_catalog.pg_read_file('{path}')::timestamptz $$;
create or replace function clock.now() returns timestamptz stable language sql
    as $$
        select coalesce(
            nullif(current_setting('clock.began', true), '')::timestamptz,
            pg_catalog.pg_read_file('{path}')::timestamptz
        )
    $$;
"""


def prepare_database(dsn: str, path: Path) -> None:
    """Give an empty database Roost's schema and the clock in the file ``path``.

    In a transaction that has set ``clock.began``, ``now()`` stays where that says and
    ``statement_timestamp()`` goes on.
    """
    path.write_text(START.isoformat())
    path.chmod(0o644)
    prepare(dsn)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(FUNCTIONS.format(path=path).encode())


def database_time(now: float) -> datetime:
    """Return what the database's clock says when the loop's clock says ``now``."""
    return START + timedelta(seconds=now)


@attrs.define(eq=False)
class DatabaseClock:
    """Keeps the database's clock by the loop's."""

    path: Path
    clock: MockClock
    _at: float = -1.0

    def set(self) -> None:
        """Tell the database what time it is. Call it before each statement."""
        now = self.clock.current_time()
        if now != self._at:
            self._at = now
            self.path.write_text(database_time(now).isoformat())


@contextmanager
def worker_timers(clock: MockClock) -> Iterator[None]:
    """Let the worker's modules read ``clock`` where they read ``time.monotonic``."""
    with ExitStack() as stack:
        for name, module in list(sys.modules.items()):
            if name.startswith("roost._worker") and (
                getattr(module, "monotonic", None) is time.monotonic
            ):
                stack.enter_context(mock.patch.object(module, "monotonic", clock.current_time))
        yield
