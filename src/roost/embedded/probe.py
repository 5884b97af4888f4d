"""Ask a server on a unix socket whether it takes connections, without a driver."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

STARTUP = b"user\0postgres\0database\0postgres\0application_name\0roost-probe\0\0"
PROTOCOL_3 = 196608


def is_ready(socket_path: Path, *, timeout: float) -> bool:
    """Say whether the server lets us in, as libpq's ``PQping`` does.

    A server that is starting, recovering or shutting down answers with an error, and one that is
    gone does not answer; both are False.

    :param timeout: seconds for each step of the exchange.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(str(socket_path))
            connection.sendall(struct.pack("!ii", len(STARTUP) + 8, PROTOCOL_3) + STARTUP)
            admitted = connection.recv(1) == b"R"
            if admitted:
                connection.sendall(b"X" + struct.pack("!i", 4))
        except OSError:
            return False
        return admitted
