"""A proxy on 127.0.0.1 that answers statements and connections with an error.

It implements as much of Postgres's protocol as a pooler needs that can't reach its server. It runs
in threads, so it works with every event loop and with blocking clients.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import attrs

_SSL_REQUEST, _GSS_REQUEST = 80877103, 80877104
_LAST_OF_SERIES = (b"Q", b"S", b"X", b"p")
_READY = b"Z\0\0\0\x05I"


@attrs.frozen
class Refusal:
    """The error to answer with.

    :param severity: ``ERROR``, or ``FATAL``, which also closes the connection.
    """

    sqlstate: str
    message: str
    severity: str = "FATAL"

    def encode(self) -> bytes:
        """Return the protocol's ErrorResponse message."""
        fields = (("S", self.severity), ("V", self.severity), ("C", self.sqlstate))
        body = "".join(f"{key}{text}\0" for key, text in (*fields, ("M", self.message))) + "\0"
        return b"E" + struct.pack("!i", len(body.encode()) + 4) + body.encode()


class RefusingProxy:
    """A proxy to a Postgres server. Make it with `refusing_proxy_to`.

    ``port`` is its port on 127.0.0.1; ``refused`` counts the errors that it sent.
    """

    def __init__(self, target: str, port: int) -> None:
        self.refused = 0
        self._target = target
        self._server_port = port
        self._refusal: Refusal | None = None
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def refuse(self, sqlstate: str, message: str, *, severity: str = "FATAL") -> None:
        """Answer every statement with an error, and every new connection with a fatal one."""
        self._refusal = Refusal(sqlstate, message, severity)

    def forward(self) -> None:
        """Forward everything again."""
        self._refusal = None

    def close(self) -> None:
        """Close the port and all connections."""
        for each in (self._listener, *list(self._open)):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError, EOFError), client, self._connect() as server:
            self._open |= {client, server}
            startup = _read_startup(client)
            if self._refusal is not None:
                self._answer(client, attrs.evolve(self._refusal, severity="FATAL"))
                return
            server.sendall(startup)
            answers = _Answers(server, client)
            threading.Thread(target=answers.copy, daemon=True).start()
            try:
                while self._serve_series(client, server, answers):
                    pass
            finally:
                # Ends the thread of the other direction.
                for each in (client, server):
                    with suppress(OSError):
                        each.shutdown(socket.SHUT_RDWR)

    def _serve_series(
        self, client: socket.socket, server: socket.socket, answers: _Answers
    ) -> bool:
        """Forward or refuse messages up to a query or Sync; return whether the connection is open.

        A series is forwarded whole or not at all: the server would commit its first half together
        with the next series.
        """
        kind, message = _read_message(client)
        refusal = self._refusal
        if refusal is None or kind in (b"X", b"p"):  # Terminate, password
            server.sendall(message)
            while kind not in _LAST_OF_SERIES:
                kind, message = _read_message(client)
                server.sendall(message)
            return True
        self._answer(client, refusal)
        if refusal.severity == "FATAL" or answers.in_transaction:
            # The server still has the transaction, in which the client's next statements would be.
            return False
        # A server skips all messages after an error, until the client's Sync.
        while kind not in _LAST_OF_SERIES:
            kind, _ = _read_message(client)
        client.sendall(_READY)
        return True

    def _answer(self, client: socket.socket, refusal: Refusal) -> None:
        self.refused += 1
        client.sendall(refusal.encode())

    def _connect(self) -> socket.socket:
        if not self._target.startswith("/"):
            return socket.create_connection((self._target, self._server_port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{self._target}/.s.PGSQL.{self._server_port}")
        return server


def _read_startup(client: socket.socket) -> bytes:
    while True:
        head = _exactly(client, 8)
        length, code = struct.unpack("!ii", head)
        rest = _exactly(client, length - 8)
        if code not in (_SSL_REQUEST, _GSS_REQUEST):
            return head + rest
        client.sendall(b"N")


def _read_message(client: socket.socket) -> tuple[bytes, bytes]:
    head = _exactly(client, 5)
    kind, length = struct.unpack("!ci", head)
    return kind, head + _exactly(client, length - 4)


def _exactly(source: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = source.recv(count - len(data))
        if not chunk:
            raise EOFError
        data += chunk
    return data


class _Answers:
    """What the server of one connection answers, copied to the client."""

    def __init__(self, server: socket.socket, client: socket.socket) -> None:
        self.in_transaction = False
        self._server = server
        self._client = client

    def copy(self) -> None:
        """Copy message by message until one side is closed."""
        with suppress(OSError, EOFError):
            while True:
                kind, message = _read_message(self._server)
                if kind == b"Z":  # ReadyForQuery
                    self.in_transaction = message[5:] != b"I"
                self._client.sendall(message)
        with suppress(OSError):
            self._client.shutdown(socket.SHUT_RDWR)


@contextmanager
def refusing_proxy_to(host: str, port: int) -> Iterator[RefusingProxy]:
    """Forward a port of 127.0.0.1 to a Postgres server, until `RefusingProxy.refuse`.

    :param host: a host, or the folder of a unix socket.
    """
    proxy = RefusingProxy(host, port)
    try:
        yield proxy
    finally:
        proxy.close()
