"""An asyncpg connection that only listens. One task owns it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import anyio
import anyio.lowlevel

from roost._drivers.asyncpg.connection import AsyncpgConnection
from roost._drivers.asyncpg.errors import ERRORS, translate
from roost._drivers.base import Notification
from roost._drivers.listening import PROBE, check_channel, lock_query, lock_shared_query
from roost.exceptions import DatabaseUnavailableError


class AsyncpgListener:
    """Receives the notifications of its channels.

    asyncpg reads the socket by itself and calls back in the order of what it reads. So every
    notification is received before the end of the connection.
    """

    def __init__(self, connection: AsyncpgConnection) -> None:
        self._connection = connection
        connection.forbid_reopening()
        self._arrived: deque[Notification] = deque()
        self._changed = anyio.Event()
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
        """Wait for notifications and return those that have arrived. A cancel loses none.

        :raises DatabaseUnavailableError: the connection is gone.
        """
        await anyio.lowlevel.checkpoint()
        while not self._arrived:
            if self._ended:
                raise DatabaseUnavailableError("the listening connection was closed")
            self._changed = anyio.Event()
            await self._changed.wait()
        arrived = list(self._arrived)
        self._arrived.clear()
        return arrived

    async def probe(self) -> None:
        """Do one round trip. Notifications that arrive meanwhile are kept for ``receive``."""
        await self._connection.fetch(PROBE)

    async def lock(self, name: str) -> None:
        """Wait for the advisory lock of this name, which is held until the connection ends."""
        await self._connection.fetch(lock_query(name))

    async def lock_shared(self, name: str) -> None:
        """Do what ``lock`` does with a lock that several sessions may hold at once."""
        await self._connection.fetch(lock_shared_query(name))

    def terminate(self) -> None:
        """Close now, without a wait; safe to call twice."""
        self._connection.terminate()

    def _keep(self, _connection: Any, _pid: int, channel: str, payload: str) -> None:
        self._arrived.append(Notification(channel, payload))
        self._changed.set()

    def _end(self, _connection: Any) -> None:
        self._ended = True
        self._changed.set()
