"""Serve an ASGI application with hypercorn beside a worker, on asyncio and on trio.

Hypercorn runs in a task of the caller's and handles no signals. It is stopped by an event: on
asyncio, a cancel would leave its tasks behind. A request that breaks it must not end the worker, so
it gets a copy of the listening socket and is started again.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING, Any

import anyio

from roost._drivers.shield import shielded
from roost._model.logs import StructuredLogger
from roost._worker.lanes.heartbeat import event_loop
from roost._worker.worker import Worker
from roost.web.address import Address, parse_address
from roost.web.extra import require_http
from roost.web.probes import probes

if TYPE_CHECKING:
    from hypercorn.config import Config

logger = StructuredLogger("roost.web")

STOP_TIMEOUT = 2.0
"""Seconds after the end of the block until the server is cancelled."""
GRACEFUL_TIMEOUT = 1.0
"""Seconds of it in which requests may end."""
IDLE_TIMEOUT = 5
"""Seconds after which a connection that sends no request is closed."""
REQUEST_TIMEOUT = 10.0
"""Seconds for one request."""
SEND_TIMEOUT = 3.0
"""Seconds after which the system ends a connection whose client does not read. Hypercorn shields
its writes on trio without a deadline."""
RESTART_DELAY = 0.1
"""Seconds before hypercorn is started again."""
SHIELD = 3600.0
"""Seconds of the shield around the server, which is extended while the event loop runs."""
BACKLOG = 100

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


@asynccontextmanager
async def serving(worker: Worker, address: str) -> AsyncIterator[Address]:
    """Serve ``/livez``, ``/readyz`` and ``/metrics`` of ``worker`` during a block.

    For example:

        async with serving(worker, "127.0.0.1:8080"):
            await worker.run()

    The routes are those of `probes`. While the worker starts and stops, ``/readyz`` says so. The
    server ends after the block, within some seconds, also if the block is cancelled.

    :param address: ``HOST:PORT``; ``:8080`` listens on all interfaces, and port 0 on a free one.
    :returns: the address that it listens on.
    :raises InvalidSettingError: the address can't be read, or the extra ``http`` is not installed.
    :raises OSError: it can't listen there; another program may use the port.
    """
    require_http()
    listening = bind(parse_address(address))
    async with serving_on(listening, probes(worker)):
        yield address_of(listening)


def bind(address: Address) -> socket.socket:
    """Return a socket that listens on ``address``.

    :raises OSError: it can't listen there.
    """
    if not address.host:
        listening = _bind_all(address.port)
    else:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        # A name such as localhost has addresses of both families; probes use the older one.
        family, *_, place = min(found, key=lambda each: each[0] != socket.AF_INET)
        listening = socket.create_server(place[:2], family=family, backlog=BACKLOG)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # The connections inherit it.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * SEND_TIMEOUT))
    return listening


def _bind_all(port: int) -> socket.socket:
    """Listen on all interfaces, with IPv6 where the system has it."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(
            ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG
        )
    return socket.create_server(("", port), backlog=BACKLOG)


def address_of(listening: socket.socket) -> Address:
    """Return the address that a socket listens on."""
    host, port = listening.getsockname()[:2]
    return Address(host, port)


@asynccontextmanager
async def serving_on(listening: socket.socket, app: App) -> AsyncIterator[None]:
    """Serve ``app`` on a socket during a block, and close the socket."""
    stop = anyio.Event()
    shield = shielded(SHIELD)
    failure: Exception | None = None
    with closing(listening):
        async with anyio.create_task_group() as group:
            group.start_soon(_serve, listening, app, shield, stop)
            logger.info("serving HTTP on http://%(address)s", address=str(address_of(listening)))
            try:
                yield
            except Exception as error:  # noqa: BLE001  (raised below, without the group around it)
                failure = error
            finally:
                stop.set()
                shield.deadline = anyio.current_time() + STOP_TIMEOUT
    if failure is not None:
        raise failure


async def _serve(
    listening: socket.socket, app: App, shield: anyio.CancelScope, stop: anyio.Event
) -> None:
    """Serve until ``stop`` is set; a cancel from outside does not reach the server before."""
    with shield:
        async with anyio.create_task_group() as group:
            group.start_soon(_extend, shield, stop)
            while not stop.is_set():
                try:
                    with closing(listening.dup()) as copy:
                        await _serve_once(copy, app, stop)
                except Exception as error:
                    logger.error("the HTTP server failed and is started again", exc_info=error)
                    await anyio.sleep(RESTART_DELAY)
            group.cancel_scope.cancel()


async def _extend(shield: anyio.CancelScope, stop: anyio.Event) -> None:
    while not stop.is_set():
        shield.deadline = anyio.current_time() + SHIELD
        with anyio.move_on_after(SHIELD / 2):
            await stop.wait()


async def _serve_once(listening: socket.socket, app: App, stop: anyio.Event) -> None:
    """Run hypercorn until ``stop`` is set. It closes the socket."""
    config = _config(listening)
    if event_loop() == "trio":
        from hypercorn.trio import serve
    else:
        from hypercorn.asyncio import serve  # type: ignore[assignment]  # it has no task_status
    await serve(_Guarded(app), config, shutdown_trigger=stop.wait, mode="asgi")  # type: ignore[arg-type]  # its own types of messages


def _config(listening: socket.socket) -> Config:
    from hypercorn.config import Config, Sockets

    class OwnSocket(Config):
        def create_sockets(self) -> Sockets:
            return Sockets([], [listening], [])

    config = OwnSocket()
    config.errorlog = None  # it would set up a logger of its own
    config.graceful_timeout = GRACEFUL_TIMEOUT
    config.keep_alive_timeout = IDLE_TIMEOUT
    config.read_timeout = IDLE_TIMEOUT
    config.include_server_header = False
    return config


class _Guarded:
    """Bounds each request of an application, and logs its errors."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        else:
            with anyio.move_on_after(REQUEST_TIMEOUT):
                try:
                    await self._app(scope, receive, send)
                except Exception as error:
                    logger.error(
                        "the request for %(path)s failed", exc_info=error, path=scope["path"]
                    )


async def _lifespan(receive: Receive, send: Send) -> None:
    """Answer the server's start and stop. The worker has a lifespan of its own."""
    event = ""
    while event != "lifespan.shutdown":
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})
