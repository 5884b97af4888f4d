"""Tests of a ``Listener``: it loses no notification, and notices a dead connection."""

from __future__ import annotations

import random
from collections.abc import Sequence

import anyio
import pytest
from tests.support.conformance.base import AsyncConformance, backends, terminate, until_gone
from tests.support.conformance.cases import value

from roost._drivers.base import (
    AsyncDriver,
    Connection,
    Listener,
    ListeningDriver,
    Notification,
)
from roost.exceptions import DatabaseUnavailableError


def _notify(observer: Connection, channel: str, payload: str) -> None:
    value(observer, "select 1 from pg_notify($1::text, $2::text)", channel, payload)


async def _receive(listener: Listener, count: int) -> list[Notification]:
    received: list[Notification] = []
    with anyio.fail_after(10):
        while len(received) < count:
            batch: Sequence[Notification] = await listener.receive()
            assert batch
            received += batch
    return received


class ListenConformance(AsyncConformance):
    """A listener is one dedicated connection, owned by one task."""

    async def test_it_receives_from_its_channels_and_no_others(
        self, driver: AsyncDriver, app: str, observer: Connection
    ) -> None:
        channels = ["plain", 'Mixed "Case"; drop', "ü"]
        async with driver.listener(channels, application_name=app) as listener:
            _notify(observer, "other", "no")
            for channel in channels:
                _notify(observer, channel, f"grüße {channel}")
            received = await _receive(listener, 3)
        assert received == [Notification(channel, f"grüße {channel}") for channel in channels]

    async def test_it_waits_without_a_transaction_and_is_gone_at_the_end(
        self, driver: AsyncDriver, app: str, observer: Connection
    ) -> None:
        async with driver.listener(["c"], application_name=app):
            assert backends(observer, app, state="idle") == 1
        await until_gone(observer, app)

    async def test_it_wakes_up_for_what_comes_while_it_waits(
        self, driver: AsyncDriver, app: str, observer: Connection
    ) -> None:
        async with (
            driver.listener(["c"], application_name=app) as listener,
            anyio.create_task_group() as group,
        ):
            group.start_soon(_receive, listener, 1)
            await anyio.wait_all_tasks_blocked()
            _notify(observer, "c", "now")

    async def test_a_cancelled_receive_loses_nothing(
        self, driver: AsyncDriver, app: str, observer: Connection
    ) -> None:
        chance = random.Random(3)
        received: list[Notification] = []
        async with driver.listener(["c"], application_name=app) as listener:
            for number in range(200):
                _notify(observer, "c", str(number))
                with anyio.move_on_after(chance.random() * 0.002):
                    received += await listener.receive()
            received += await _receive(listener, 200 - len(received))
        assert [each.payload for each in received] == [str(number) for number in range(200)]

    async def test_a_probe_keeps_what_arrives_meanwhile(
        self, driver: AsyncDriver, app: str, observer: Connection
    ) -> None:
        async with driver.listener(["c"], application_name=app) as listener:
            for number in range(5):
                _notify(observer, "c", str(number))
                await listener.probe()
            received = await _receive(listener, 5)
        assert [each.payload for each in received] == list("01234")

    async def test_a_lock_is_held_until_the_connection_ends(
        self, driver: AsyncDriver, app: str, observer: Connection
    ) -> None:
        held = "select not pg_try_advisory_lock_shared(hashtextextended('grüße', 0))"
        async with driver.listener(["c"], application_name=app) as listener:
            _notify(observer, "c", "before")
            await listener.lock("grüße")
            assert value(observer, held)
            assert await _receive(listener, 1) == [Notification("c", "before")]
        await until_gone(observer, app)
        assert not value(observer, held)

    async def test_several_listeners_share_a_lock_until_they_are_terminated(
        self, driver: ListeningDriver, app: str, observer: Connection
    ) -> None:
        free = "select pg_try_advisory_lock(hashtextextended('events', 0))"
        one = await driver.open_listener(["c"], application_name=app)
        two = await driver.open_listener(["c"], application_name=app)
        await one.lock_shared("events")
        await two.lock_shared("events")
        one.terminate()
        one.terminate()
        assert not value(observer, free)
        two.terminate()
        await until_gone(observer, app)
        assert value(observer, free)

    async def test_a_dead_listener_is_noticed_while_it_waits(
        self, driver: AsyncDriver, app: str, observer: Connection
    ) -> None:
        async def wait(listener: Listener) -> None:
            with pytest.raises(DatabaseUnavailableError):
                await listener.receive()

        async with driver.listener(["c"], application_name=app) as listener:
            with anyio.fail_after(10):
                async with anyio.create_task_group() as group:
                    group.start_soon(wait, listener)
                    await anyio.wait_all_tasks_blocked()
                    terminate(observer, app)
            with pytest.raises(DatabaseUnavailableError):
                await listener.receive()

    async def test_a_dead_listener_is_noticed_by_a_probe(
        self, driver: AsyncDriver, app: str, observer: Connection
    ) -> None:
        async with driver.listener(["c"], application_name=app) as listener:
            terminate(observer, app)
            with pytest.raises(DatabaseUnavailableError):
                await listener.probe()

    async def test_notifications_before_the_death_are_still_delivered(
        self, driver: AsyncDriver, app: str, observer: Connection
    ) -> None:
        async with driver.listener(["c"], application_name=app) as listener:
            _notify(observer, "c", "last words")
            # A terminated server process does not send pending notifications: wait for them.
            await listener.probe()
            terminate(observer, app)
            await until_gone(observer, app)
            assert await _receive(listener, 1) == [Notification("c", "last words")]
            with pytest.raises(DatabaseUnavailableError):
                await listener.receive()

    async def test_a_cancelled_opening_leaves_nothing_open(
        self, driver: AsyncDriver, app: str, observer: Connection
    ) -> None:
        for milliseconds in range(10):
            with anyio.move_on_after(milliseconds / 1000):
                async with driver.listener(["c"], application_name=app):
                    pass
        await until_gone(observer, app)
