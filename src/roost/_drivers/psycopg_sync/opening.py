"""Open a blocking libpq connection by a deadline. The addresses are tried one by one."""

from __future__ import annotations

import ipaddress
import os
import threading
from time import monotonic
from typing import Any

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_attempts, make_conninfo, timeout_from_conninfo

from roost._drivers.polling import READ, WRITE, ready_within
from roost._drivers.psycopg_sync.connection import DeadlineExceeded


def connect_by(parameters: dict[str, Any], deadline: float) -> Any:
    """Return a connected ``PGconn``. An exception of a signal handler leaves nothing open.

    :param parameters: libpq's; ``connect_timeout`` is the seconds for each address.
    :param deadline: by ``time.monotonic``, for all addresses and the name look-up together.
    :raises psycopg.OperationalError: no address could be reached. The message names all attempts.
    """
    limit = timeout_from_conninfo(parameters)
    failures: list[tuple[dict[str, Any], psycopg.Error]] = []
    for attempt in _addresses(parameters, deadline):
        try:
            return _connect(make_conninfo("", **attempt), min(monotonic() + limit, deadline))
        except psycopg.Error as error:
            failures.append((attempt, error))
        if monotonic() >= deadline:
            break
    last = failures[-1][1]
    if len(failures) == 1:
        raise last
    lines = [str(last), "Multiple connection attempts failed. All failures were:"]
    for attempt, failure in failures:
        host, port, address = (attempt.get(key) for key in ("host", "port", "hostaddr"))
        lines.append(f"- host: {host!r}, port: {port!r}, hostaddr: {address!r}: {failure}")
    raise type(last)("\n".join(lines)) from None


def _connect(conninfo: str, deadline: float) -> Any:
    pgconn = pq.PGconn.connect_start(conninfo.encode())
    connected = False
    try:
        # Read the descriptor after each poll: it may have changed.
        while (status := pgconn.connect_poll()) != pq.PollingStatus.OK:
            if status == pq.PollingStatus.FAILED:
                raise psycopg.OperationalError(f"connection failed: {pgconn.get_error_message()}")
            reading = status == pq.PollingStatus.READING
            if not ready_within(pgconn.socket, READ if reading else WRITE, deadline - monotonic()):
                raise psycopg.errors.ConnectionTimeout("connection timeout expired")
        pgconn.nonblocking = 1
        connected = True
    finally:
        if not connected:
            pgconn.finish()
    return pgconn


def _addresses(parameters: dict[str, Any], deadline: float) -> list[dict[str, Any]]:
    """Return the parameters of each attempt. A name look-up ends at the deadline."""
    if not _has_names(parameters):
        return list(conninfo_attempts(parameters))
    found: list[dict[str, Any]] = []
    failed: list[BaseException] = []

    def look_up() -> None:
        try:
            found.extend(conninfo_attempts(parameters))
        except BaseException as error:  # noqa: BLE001  (raised again below)
            failed.append(error)

    # The system's look-up has no time limit, so it runs in a thread that is left alone.
    thread = threading.Thread(target=look_up, name="roost name look-up", daemon=True)
    thread.start()
    thread.join(max(deadline - monotonic(), 0.0))
    if failed:
        raise failed[0]
    if thread.is_alive() or not found:
        raise DeadlineExceeded(
            f"the name {parameters.get('host')!r} could not be looked up in time"
        )
    return found


def _has_names(parameters: dict[str, Any]) -> bool:
    if parameters.get("hostaddr") or os.environ.get("PGHOSTADDR"):
        return False
    hosts = str(parameters.get("host") or os.environ.get("PGHOST") or "")
    return not all(_is_address(host) for host in hosts.split(","))


def _is_address(host: str) -> bool:
    if not host or host[0] in "/@\\":  # a socket
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
