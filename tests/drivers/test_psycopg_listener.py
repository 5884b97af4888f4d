"""The psycopg listener reads libpq's buffer, and wakes when its connection is closed."""

from __future__ import annotations

import array
import fcntl
import select
import termios
from functools import partial

import anyio
import pytest
from tests.support.conformance.base import terminate
from tests.support.conformance.cases import eventually, sql

from roost._drivers.base import Notification
from roost._drivers.psycopg_anyio import PsycopgDriver, connection, waiting
from roost._drivers.psycopg_anyio.listener import PsycopgListener
from roost._drivers.psycopg_sync import connect
from roost.exceptions import DatabaseUnavailableError, InvalidSettingError

pytestmark = pytest.mark.anyio


def socket_of(listener: PsycopgListener) -> int:
    return listener._connection.raw.pgconn.socket


def unread(fd: int) -> int:
    count = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, count)
    return count[0]


def at_its_end(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLRDHUP)
    return bool(poll.poll(0))


async def test_a_notification_that_came_with_a_probe_is_received_at_once(
    empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = waiting.until_ready

    async def answer_and_notification_together(fd: int, wanted: int) -> int:
        ready = await original(fd, wanted)
        answer = unread(fd)
        observer.fetch(sql("select 1 from pg_notify('c', 'close behind')"))
        await eventually(lambda: unread(fd) > answer)
        return ready

    with connect(empty_dsn) as observer:
        async with PsycopgDriver(empty_dsn).listener(["c"]) as listener:
            monkeypatch.setattr(connection, "until_ready", answer_and_notification_together)
            await listener.probe()
            with anyio.fail_after(5):
                assert await listener.receive() == [Notification("c", "close behind")]


async def test_notifications_before_the_end_of_the_stream_are_received(empty_dsn: str) -> None:
    with connect(empty_dsn) as observer:
        async with PsycopgDriver(empty_dsn).listener(["c"], application_name="dying") as listener:
            words = [f"{number}{'x' * 7000}" for number in range(10)]
            for word in words:
                observer.fetch(sql("select 1 from pg_notify('c', $1::text)", word))
            await eventually(lambda: unread(socket_of(listener)) > 70_000)
            assert terminate(observer, "dying") == 1
            await eventually(lambda: at_its_end(socket_of(listener)))
            received: list[str] = []
            while len(received) < len(words):
                received += [each.payload for each in await listener.receive()]
            assert received == words
            with pytest.raises(DatabaseUnavailableError):
                await listener.receive()


@pytest.mark.parametrize("use", ["receive", "fetch"])
async def test_closing_wakes_a_waiting_task(empty_dsn: str, use: str) -> None:
    async with PsycopgDriver(empty_dsn).listener(["c"]) as listener:

        async def wait() -> None:
            fetch = partial(listener._connection.fetch, sql("select pg_sleep(60)"))
            call = listener.receive if use == "receive" else fetch
            with pytest.raises(DatabaseUnavailableError):
                await call()

        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                group.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                listener._connection.raw.terminate()


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 64, "ü" * 32])
async def test_a_name_that_postgres_would_change_is_refused(empty_dsn: str, name: str) -> None:
    with pytest.raises(InvalidSettingError):
        async with PsycopgDriver(empty_dsn).listener([name]):
            pass
