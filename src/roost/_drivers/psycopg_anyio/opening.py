"""Open a libpq connection without blocking. Each address is tried with a time limit."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.to_thread
import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_attempts, make_conninfo, timeout_from_conninfo

from roost._drivers.hosts import order_hosts, record_attempt
from roost._drivers.polling import READ, WRITE
from roost._drivers.psycopg_anyio.waiting import until_ready


async def connect(parameters: dict[str, Any]) -> Any:
    """Return a connected ``PGconn``.

    A cancel leaves nothing open, but a name look-up may continue in its thread.

    :param parameters: libpq's; ``connect_timeout`` is the seconds for each address.
    :raises psycopg.OperationalError: no address could be reached. The message names all attempts.
    """
    limit = timeout_from_conninfo(parameters)
    # In a thread, because it looks up host names.
    attempts = await anyio.to_thread.run_sync(conninfo_attempts, parameters, abandon_on_cancel=True)
    failures: list[tuple[dict[str, Any], psycopg.Error]] = []
    for attempt in order_hosts(attempts, key=_host_of) if len(attempts) > 1 else attempts:
        try:
            with record_attempt(_host_of(attempt)):
                return await _connect_within(limit, make_conninfo("", **attempt))
        except psycopg.Error as error:
            failures.append((attempt, error))
    last = failures[-1][1]
    if len(failures) == 1:
        raise last
    lines = [str(last), "Multiple connection attempts failed. All failures were:"]
    for attempt, failure in failures:
        host, port, address = (attempt.get(key) for key in ("host", "port", "hostaddr"))
        lines.append(f"- host: {host!r}, port: {port!r}, hostaddr: {address!r}: {failure}")
    raise type(last)("\n".join(lines)) from None


def _host_of(attempt: dict[str, Any]) -> str:
    return ":".join(str(attempt.get(key)) for key in ("host", "hostaddr", "port"))


async def _connect_within(limit: float, conninfo: str) -> Any:
    with anyio.move_on_after(limit):
        return await _poll_until_connected(pq.PGconn.connect_start(conninfo.encode()))
    raise psycopg.errors.ConnectionTimeout("connection timeout expired")


async def _poll_until_connected(pgconn: Any) -> Any:
    connected = False
    try:
        # Read the descriptor after each poll: it may have changed.
        while (status := pgconn.connect_poll()) != pq.PollingStatus.OK:
            if status == pq.PollingStatus.FAILED:
                raise psycopg.OperationalError(f"connection failed: {pgconn.get_error_message()}")
            reading = status == pq.PollingStatus.READING
            await until_ready(pgconn.socket, READ if reading else WRITE)
        pgconn.nonblocking = 1
        connected = True
    finally:
        if not connected:
            pgconn.finish()
    return pgconn
