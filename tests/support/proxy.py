"""A TCP proxy on 127.0.0.1 that can drop all bytes while its connections stay open."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream, SocketAttribute, SocketStream


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
        async with client, await self._connect() as server, anyio.create_task_group() as group:
            lost = [False]
            group.start_soon(self._pump, client, server, lost)
            group.start_soon(self._pump, server, client, lost)

    async def _connect(self) -> SocketStream:
        if self._target.startswith("/"):
            return await anyio.connect_unix(f"{self._target}/.s.PGSQL.{self._server_port}")
        return await anyio.connect_tcp(self._target, self._server_port)

    async def _pump(
        self, source: ByteReceiveStream, sink: ByteSendStream, lost: list[bool]
    ) -> None:
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
