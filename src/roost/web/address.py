"""The address that an HTTP server listens on, as text: ``HOST:PORT``."""

from __future__ import annotations

import attrs

from roost.exceptions import InvalidSettingError

MAX_PORT = 65_535


@attrs.frozen
class Address:
    """Where to listen.

    :param host: a name or an IP address, without brackets; empty: on all interfaces.
    :param port: 0: the system chooses one.
    """

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read ``HOST:PORT``, ``:PORT``, ``[::1]:PORT`` or ``PORT``.

    :raises InvalidSettingError: it is none of these.
    """
    host, colon, port = text.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    plain = host[1:-1] if bracketed else host
    is_wrong = (
        not (port.isascii() and port.isdigit() and int(port) <= MAX_PORT)
        or bracketed != (":" in plain)
        or any(sign in plain for sign in "[]/@ ")
        or (not colon and bool(host))
    )
    if is_wrong:
        raise InvalidSettingError(
            f"the address to serve HTTP on must be HOST:PORT, such as 127.0.0.1:8080, [::1]:8080 "
            f"or :8080 for all interfaces, with a port of 0 … {MAX_PORT}; not {text!r}"
        )
    return Address(plain, int(port))
