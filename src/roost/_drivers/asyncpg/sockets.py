"""The socket of an asyncpg connection, which asyncpg has no public name for.

``Connection._transport`` is the only private name of asyncpg in use. If it disappears, these
functions do nothing and the rest of the driver works on.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import asyncpg

from roost._drivers.polling import READ, ready_now


def socket_of(raw: asyncpg.Connection) -> Any | None:
    """Return the connection's socket, ``None`` if it can't be found."""
    transport = getattr(raw, "_transport", None)
    return None if transport is None else transport.get_extra_info("socket")


def set_options(raw: asyncpg.Connection, options: Iterable[tuple[int, int, int]]) -> None:
    """Set options (level, name, value) of a TCP socket. On a Unix socket do nothing."""
    connected = socket_of(raw)
    if connected is None or connected.family not in (socket.AF_INET, socket.AF_INET6):
        return
    for level, name, value in options:
        connected.setsockopt(level, name, value)


def is_closing_or_unread(raw: asyncpg.Connection) -> bool:
    """Say whether the socket is being closed, or has data that the event loop has not read."""
    transport = getattr(raw, "_transport", None)
    if transport is not None and transport.is_closing():
        return True
    connected = socket_of(raw)
    if connected is None:
        return False
    return bool(ready_now(connected.fileno(), READ))


def shut_down(raw: asyncpg.Connection) -> None:
    """Shut the socket down without the event loop. The server then ends the session."""
    connected = socket_of(raw)
    if connected is None or connected.fileno() < 0:
        return
    with suppress(OSError), socket.socket(fileno=os.dup(connected.fileno())) as own:
        own.shutdown(socket.SHUT_RDWR)
