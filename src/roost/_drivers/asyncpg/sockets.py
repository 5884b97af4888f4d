"""The socket under an asyncpg connection, which asyncpg keeps to itself.

``Connection._transport`` is the one private name that this driver uses; without it a connection
only lacks what is here.
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
    """Return the connection's socket, if there is one to be had."""
    transport = getattr(raw, "_transport", None)
    return None if transport is None else transport.get_extra_info("socket")


def set_options(raw: asyncpg.Connection, options: Iterable[tuple[int, int, int]]) -> None:
    """Set options of a TCP socket: level, name and value."""
    connected = socket_of(raw)
    if connected is None or connected.family not in (socket.AF_INET, socket.AF_INET6):
        return
    for level, name, value in options:
        connected.setsockopt(level, name, value)


def is_closing_or_unread(raw: asyncpg.Connection) -> bool:
    """Say whether the socket is being closed, or holds what the event loop has not read yet."""
    transport = getattr(raw, "_transport", None)
    if transport is not None and transport.is_closing():
        return True
    connected = socket_of(raw)
    if connected is None:
        return False
    return bool(ready_now(connected.fileno(), READ))


def shut_down(raw: asyncpg.Connection) -> None:
    """End the connection by the operating system: the server reads that nothing more comes."""
    connected = socket_of(raw)
    if connected is None or connected.fileno() < 0:
        return
    with suppress(OSError), socket.socket(fileno=os.dup(connected.fileno())) as own:
        own.shutdown(socket.SHUT_RDWR)
