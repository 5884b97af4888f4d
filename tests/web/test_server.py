"""The HTTP server beside a worker: whatever its clients do, the worker works and ends in time."""

from __future__ import annotations

import logging
import os
import random
import signal
import socket
from collections.abc import Callable
from contextlib import closing
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

import anyio
import pytest
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import HandlerRegistry, Worker, job
from roost.web import Address, serving
from roost.web.server import SEND_TIMEOUT, STOP_TIMEOUT, bind, serving_on

if TYPE_CHECKING:
    from tests.web.conftest import Get

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]
HOST = "127.0.0.1:0"
REQUEST = b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n"
GARBAGE: list[bytes] = [
    b"\r\n\r\n",
    b"\0" * 100,
    b"GET\r\n\r\n",
    b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /%ff%00 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /livez HTTP/9.9\r\nHost: a\r\n\r\n",
    b"GET /livez HTTP/1.1\r\n\r\n",
    b"POST /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\nshort",
    b"POST /livez HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /livez HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    b"GET / HTTP/1.1\nHost: a\nUpgrade: h2c\nConnection: upgrade\nHTTP2-Settings: !\n\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 50,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    REQUEST * 50,
]


async def send_and_leave(address: Address, data: bytes, *, rudely: bool) -> None:
    async with await anyio.connect_tcp(address.host, address.port) as stream:
        try:
            await stream.send(data)
            if not rudely:
                with anyio.move_on_after(0.05):
                    await stream.receive()
        except (anyio.BrokenResourceError, anyio.EndOfStream):
            pass
        if rudely:
            raw = stream.extra(anyio.abc.SocketAttribute.raw_socket)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


async def test_garbage_disturbs_neither_the_worker_nor_other_requests(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, get: Get
) -> None:
    @job("quick", registry=registry)
    async def quick() -> None:
        pass

    dice = random.Random(1)
    noise = [dice.randbytes(dice.randrange(1, 400)) for _ in range(20)]
    cut = [REQUEST[: dice.randrange(1, len(REQUEST))] for _ in range(10)]
    worker = make_worker()
    async with serving(worker, HOST) as address, working(worker):
        async with anyio.create_task_group() as group:
            for data in GARBAGE + noise + cut:
                for rudely in (False, True):
                    group.start_soon(partial(send_and_leave, address, data, rudely=rudely))
        job_id = table.add("quick")
        await eventually(lambda: table.get(job_id).state == "completed")
        assert (await get(address, "/readyz")).status_code == 200


async def test_many_requests_at_once_are_answered(make_worker: MakeWorker, get: Get) -> None:
    worker = make_worker()
    codes: list[int] = []

    async def ask(path: str) -> None:
        codes.append((await get(address, path)).status_code)

    async with serving(worker, HOST) as address, working(worker):
        await eventually(lambda: worker.health().ready)
        async with anyio.create_task_group() as group:
            for number in range(200):
                group.start_soon(ask, ("/readyz", "/livez")[number % 2])
    assert codes == [200] * 200


def stuck_client(address: Address) -> socket.socket:
    """Return a connection that sends requests until nothing goes through, and reads no answer."""
    client = socket.create_connection((address.host, address.port))
    client.setblocking(False)
    try:
        while True:
            client.send(REQUEST * 100)
    except BlockingIOError:
        return client


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_client_that_does_not_read_does_not_hold_up_the_end(
    make_worker: MakeWorker, get: Get
) -> None:
    worker = make_worker()
    with anyio.fail_after(60):
        async with serving(worker, HOST) as address, working(worker):
            idle = socket.create_connection((address.host, address.port))
            begun = socket.create_connection((address.host, address.port))
            begun.send(REQUEST[:10])
            with closing(idle), closing(begun):
                stuck = await anyio.to_thread.run_sync(stuck_client, address)
                await eventually(lambda: worker.health().ready)
                assert (await get(address, "/readyz")).status_code == 200
                began = monotonic()
        with closing(stuck):
            assert monotonic() - began < SEND_TIMEOUT + STOP_TIMEOUT + 10


async def test_a_cancelled_block_ends_the_server(make_worker: MakeWorker, get: Get) -> None:
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group, serving(make_worker(), HOST) as address:
            assert (await get(address, "/livez")).status_code == 200
            group.cancel_scope.cancel()
            await anyio.sleep_forever()
    with pytest.raises(OSError, match=r"refused|failed"):
        await anyio.connect_tcp(address.host, address.port)


async def test_an_error_of_the_block_is_raised_as_it_is(make_worker: MakeWorker) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with serving(make_worker(), HOST):
            raise KeyError("mine")


async def test_the_port_is_free_after_the_block(make_worker: MakeWorker, get: Get) -> None:
    worker = make_worker()
    async with serving(worker, HOST) as address:
        await get(address, "/livez")
    async with serving(worker, str(address)) as again:
        assert again == address
        assert (await get(again, "/livez")).status_code == 200


async def test_a_port_in_use_is_an_error_before_the_block(make_worker: MakeWorker) -> None:
    async with serving(make_worker(), HOST) as address:
        with pytest.raises(OSError, match="in use"):
            async with serving(make_worker(), str(address)):
                pytest.fail("it was entered")


async def test_an_ipv6_address_can_be_served(make_worker: MakeWorker, get: Get) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 on this machine")
    async with serving(make_worker(), "[::1]:0") as address:
        assert str(address).startswith("[::1]:")
        assert (await get(address, "/livez")).status_code == 200


async def test_the_server_handles_no_signal(make_worker: MakeWorker, get: Get) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    async with serving(make_worker(), HOST) as address:
        await get(address, "/livez")
        assert [signal.getsignal(number) for number in numbers] == before


async def test_a_server_that_fails_is_started_again(
    get: Get, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from roost.web import server

    serve_once, failures = server._serve_once, [OSError("broken"), ValueError("broken")]

    async def fails(listening: socket.socket, app: server.App, stop: anyio.Event) -> None:
        if failures:
            raise failures.pop()
        await serve_once(listening, app, stop)

    monkeypatch.setattr(server, "_serve_once", fails)
    listening = bind(Address("127.0.0.1", 0))
    address = server.address_of(listening)

    async def app(scope: server.Message, receive: server.Receive, send: server.Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"here"})

    async with serving_on(listening, app):
        assert (await get(address, "/")).text == "here"
    assert caplog.messages.count("the HTTP server failed and is started again") == 2


async def test_an_error_of_the_application_is_logged_and_answered(
    get: Get, caplog: pytest.LogCaptureFixture
) -> None:
    from roost.web import server

    async def app(scope: server.Message, receive: server.Receive, send: server.Send) -> None:
        raise ValueError("no")

    listening = bind(Address("127.0.0.1", 0))
    address = server.address_of(listening)
    async with serving_on(listening, app):
        assert (await get(address, "/some")).status_code == 500
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage() == "the request for /some failed"


async def test_programs_that_handlers_start_do_not_inherit_the_socket(
    make_worker: MakeWorker, get: Get
) -> None:
    async with serving(make_worker(), HOST) as address:
        await get(address, "/livez")
        held = [
            fd for fd in range(1_024) if is_listening(fd, address.port) and os.get_inheritable(fd)
        ]
    assert held == []


def is_listening(fd: int, port: int) -> bool:
    try:
        found = socket.socket(fileno=os.dup(fd))
    except OSError:
        return False
    with found:
        try:
            return bool(found.getsockname()[1] == port) and bool(
                found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            )
        except (OSError, IndexError):
            return False
