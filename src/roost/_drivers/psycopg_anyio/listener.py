"""A psycopg connection that only listens. It needs no lock, since one task owns it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import anyio
import anyio.lowlevel
import psycopg
from psycopg.pq.misc import PGnotify

from roost._drivers.base import Notification
from roost._drivers.listening import PROBE, check_channel, lock_query, lock_shared_query
from roost._drivers.polling import READ
from roost._drivers.psycopg_anyio.adapter import PsycopgConnection
from roost._drivers.psycopg_anyio.waiting import until_ready
from roost._drivers.psycopg_common.errors import translate
from roost._ops.query import Query
from roost._sql import Statement


class PsycopgListener:
    """Receives the notifications of its channels."""

    def __init__(self, connection: PsycopgConnection) -> None:
        self._connection = connection
        self._arrived: deque[Notification] = deque()
        # Called for notifications that arrive during a statement. psycopg's own handlers would
        # decode the payload, and fail if it is not UTF-8.
        connection.raw.pgconn.notify_handler = self._keep

    async def listen(self, channels: Sequence[str]) -> None:
        """LISTEN on each of the channels, in one round trip."""
        text = ";".join(f"listen {_quoted(channel)}" for channel in channels)
        await self._connection.fetch(Query(Statement("listener.listen", text, script=True)))

    async def receive(self) -> Sequence[Notification]:
        """Wait for notifications and return those that have arrived. A cancel loses none.

        :raises DatabaseUnavailableError: the connection is gone.
        """
        await anyio.lowlevel.checkpoint()
        pgconn = self._connection.raw.pgconn
        try:
            while not self._arrived:
                await until_ready(pgconn.socket, READ)
                # No await from here on, so that a cancel can't lose what was taken from libpq.
                # libpq reads 16 kB at a time, and never data and the end of the stream together. So
                # every notification is received before the error at the end.
                pgconn.consume_input()
                self._drain()
        except psycopg.Error as error:
            raise translate(error) from error
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

    def _drain(self) -> None:
        pgconn = self._connection.raw.pgconn
        while (raw_notify := pgconn.notifies()) is not None:
            self._keep(raw_notify)

    def _keep(self, raw_notify: PGnotify) -> None:
        try:
            channel, payload = raw_notify.relname.decode(), raw_notify.extra.decode()
        except UnicodeDecodeError:
            return  # not Roost's; only a server with the encoding SQL_ASCII sends such bytes
        self._arrived.append(Notification(channel, payload))


def _quoted(channel: str) -> str:
    check_channel(channel)
    return '"' + channel.replace('"', '""') + '"'
