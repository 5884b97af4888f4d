"""A TCP proxy on 127.0.0.1 that can drop all bytes while its connections stay open."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Protocol

import anyio
import anyio.lowlevel
from anyio.abc import SocketAttribute, SocketStream


class Stream(Protocol):
    """What the proxy needs of a connection."""

    async def receive(self) -> bytes: ...

    async def send(self, data: bytes, /) -> None: ...

    async def aclose(self) -> None: ...


class UnixStream:
    """A connection to a unix socket.

    With anyio's own on asyncio, bytes that arrive while a receive is cancelled set the result of a
    future that is done, and the loop reports an `InvalidStateError` (anyio 4.16).
    """

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(path)
            self._socket.setblocking(False)
        except BaseException:
            self._socket.close()
            raise

    async def receive(self) -> bytes:
        """Return the next bytes."""
        while True:
            try:
                chunk = self._socket.recv(65536)
            except BlockingIOError:
                await anyio.wait_readable(self._socket)
            except OSError as error:
                raise anyio.BrokenResourceError from error
            else:
                await anyio.lowlevel.checkpoint()
                if not chunk:
                    raise anyio.EndOfStream
                return chunk

    async def send(self, data: bytes, /) -> None:
        """Send all of the bytes."""
        left = memoryview(data)
        while left:
            try:
                left = left[self._socket.send(left) :]
            except BlockingIOError:
                await anyio.wait_writable(self._socket)
            except OSError as error:
                raise anyio.BrokenResourceError from error
        await anyio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Close the connection. A waiting `receive` or `send` fails."""
        if self._socket.fileno() >= 0:
            anyio.notify_closing(self._socket)
            self._socket.close()


class Proxy:
    """A proxy to a Postgres server. Make it with `proxy_to`.

    ``port`` is its port on 127.0.0.1.
    """

    def __init__(self, target: str, port: int) -> None:
        self.port = 0
        self._target = target
        self._server_port = port
        self._swallowing = False
        self._connections: set[anyio.CancelScope] = set()

    def swallow(self) -> None:
        """Drop all bytes from now on, in both directions. Connections stay open."""
        self._swallowing = True

    def forward(self) -> None:
        """Forward bytes again, except on connections that lost some."""
        self._swallowing = False

    def cut(self) -> None:
        """Close all open connections."""
        for scope in self._connections:
            scope.cancel()

    async def handle(self, client: SocketStream) -> None:
        """Forward one connection until either side closes it, or `cut` does."""
        with anyio.CancelScope() as scope:
            self._connections.add(scope)
            try:
                await self._forward(client)
            finally:
                self._connections.discard(scope)

    async def _forward(self, client: SocketStream) -> None:
        async with client, aclosing(await self._connect()) as server:
            lost = [False]
            async with anyio.create_task_group() as group:
                group.start_soon(self._pump, client, server, lost)
                group.start_soon(self._pump, server, client, lost)

    async def _connect(self) -> Stream:
        if self._target.startswith("/"):
            return UnixStream(f"{self._target}/.s.PGSQL.{self._server_port}")
        return await anyio.connect_tcp(self._target, self._server_port)

    async def _pump(self, source: Stream, sink: Stream, lost: list[bool]) -> None:
        while True:
            try:
                chunk = await source.receive()
                if self._swallowing or lost[0]:
                    lost[0] = True
                    continue
                await sink.send(chunk)
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                if not lost[0]:
                    await sink.aclose()
                return


@asynccontextmanager
async def proxy_to(host: str, port: int) -> AsyncIterator[Proxy]:
    """Forward a port of 127.0.0.1 to a Postgres server.

    :param host: a host, or the folder of a unix socket.
    """
    proxy = Proxy(host, port)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    proxy.port = listener.extra(SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, proxy.handle)
        yield proxy
        group.cancel_scope.cancel()
