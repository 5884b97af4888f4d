"""Check whether a server on a unix socket accepts connections, without a driver."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

STARTUP = b"user\0postgres\0database\0postgres\0application_name\0roost-probe\0\0"
PROTOCOL_3 = 196608
CANNOT_CONNECT_NOW = b"C57P03\0"


def is_ready(socket_path: Path, *, timeout: float) -> bool:
    """Return whether a server accepts connections at a socket, as libpq's ``PQping`` does.

    False if there is no server, or if it is starting, recovering or shutting down. True if it has
    no free connection: it is running.

    :param timeout: seconds for each step of the exchange.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(str(socket_path))
            connection.sendall(struct.pack("!ii", len(STARTUP) + 8, PROTOCOL_3) + STARTUP)
            answer = connection.recv(4096)
            if answer.startswith(b"R"):
                connection.sendall(b"X" + struct.pack("!i", 4))
        except OSError:
            return False
        return answer.startswith((b"R", b"E")) and CANNOT_CONNECT_NOW not in answer
