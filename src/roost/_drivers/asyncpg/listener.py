"""A dedicated asyncpg connection that listens. One task owns it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import anyio
import anyio.lowlevel

from roost._drivers.asyncpg.connection import AsyncpgConnection
from roost._drivers.asyncpg.errors import ERRORS, translate
from roost._drivers.base import Notification
from roost._drivers.listening import PROBE, check_channel, lock_query
from roost.exceptions import DatabaseUnavailableError


class AsyncpgListener:
    """Receives what is sent to its channels.

    asyncpg reads by itself and calls back; its calls come in the order of what was read, so the end
    comes after the last notification.
    """

    def __init__(self, connection: AsyncpgConnection) -> None:
        self._connection = connection
        connection.stay()
        self._arrived: deque[Notification] = deque()
        self._news = anyio.Event()
        self._ended = False
        connection.raw.add_termination_listener(self._end)

    async def listen(self, channels: Sequence[str]) -> None:
        """LISTEN on each of the channels.

        :raises InvalidSettingError: Postgres would change a channel's name.
        """
        for channel in channels:
            check_channel(channel)
            try:
                await self._connection.raw.add_listener(channel, self._keep)
            except ERRORS as error:
                raise translate(error, closed=self._connection.raw.is_closed()) from error

    async def receive(self) -> Sequence[Notification]:
        """Wait until something arrives and return all that has; safe to cancel, nothing is lost.

        :raises DatabaseUnavailableError: the connection is gone.
        """
        await anyio.lowlevel.checkpoint()
        while not self._arrived:
            if self._ended:
                raise DatabaseUnavailableError("the listening connection was closed")
            self._news = anyio.Event()
            await self._news.wait()
        arrived = list(self._arrived)
        self._arrived.clear()
        return arrived

    async def probe(self) -> None:
        """Do one round trip; what arrives meanwhile is kept for the next ``receive``."""
        await self._connection.fetch(PROBE)

    async def lock(self, name: str) -> None:
        """Hold the advisory lock ``hashtextextended(name, 0)`` as long as the connection lives."""
        await self._connection.fetch(lock_query(name))

    def _keep(self, _connection: Any, _pid: int, channel: str, payload: str) -> None:
        self._arrived.append(Notification(channel, payload))
        self._news.set()

    def _end(self, _connection: Any) -> None:
        self._ended = True
        self._news.set()
