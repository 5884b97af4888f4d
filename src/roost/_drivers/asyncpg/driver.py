"""The asyncpg driver: makes pools, connections and listeners from a DSN."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from roost._drivers.asyncpg.connection import AsyncpgConnection
from roost._drivers.asyncpg.listener import AsyncpgListener
from roost._drivers.asyncpg.parameters import read_dsn
from roost._drivers.base import MAX_LIFETIME
from roost._drivers.pool import Pool
from roost._drivers.prepared import PreparedStatements
from roost._drivers.sqlstate import Reachability
from roost.exceptions import DatabaseError


class AsyncpgDriver:
    """asyncpg: asyncio and uvloop. Under trio the first use raises `InvalidSettingError`.

    :param dsn: see ``read_dsn``; what it does not set gets Roost's defaults.
    :raises InvalidSettingError: the DSN can't be read.
    """

    name = "asyncpg"

    def __init__(self, dsn: str) -> None:
        self._parameters = read_dsn(dsn)
        self._prepared_statements = PreparedStatements(
            allowed=self._parameters.statement_cache_size > 0
        )
        self._reachability = Reachability()

    def __repr__(self) -> str:
        return "AsyncpgDriver(…)"

    def pool(
        self,
        *,
        max_size: int,
        application_name: str = "roost",
        max_lifetime: float = MAX_LIFETIME,
    ) -> Pool[AsyncpgConnection]:
        """Return a pool that has opened no connection yet. ``max_lifetime`` is in seconds."""
        connect = partial(self.connect, application_name)
        return Pool(connect, max_size=max_size, max_lifetime=max_lifetime)

    async def connect(self, application_name: str = "roost") -> AsyncpgConnection:
        """Open one connection. The caller closes it with ``connection.terminate()``."""
        try:
            connection = await AsyncpgConnection.open(
                self._parameters,
                application_name=application_name,
                prepared=self._prepared_statements,
            )
        except DatabaseError as error:
            raise self._reachability.judge(error) from error.__cause__
        self._reachability.record_connected()
        return connection

    @asynccontextmanager
    async def listener(
        self, channels: Sequence[str], *, application_name: str = "roost"
    ) -> AsyncIterator[AsyncpgListener]:
        """Connect and LISTEN on ``channels``; close at the end of the ``async with``."""
        listener = await self.open_listener(channels, application_name=application_name)
        try:
            yield listener
        finally:
            listener.terminate()

    async def open_listener(
        self, channels: Sequence[str], *, application_name: str = "roost"
    ) -> AsyncpgListener:
        """Connect and LISTEN on ``channels``. The caller ends it with ``listener.terminate()``."""
        connection = await self.connect(application_name)
        try:
            listener = AsyncpgListener(connection)
            await listener.listen(channels)
        except BaseException:
            connection.terminate()
            raise
        return listener
