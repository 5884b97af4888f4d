"""The async psycopg driver: makes pools, connections and listeners from a DSN."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from roost._drivers.base import MAX_LIFETIME
from roost._drivers.pool import Pool
from roost._drivers.prepared import PreparedStatements
from roost._drivers.psycopg_anyio.adapter import PsycopgConnection
from roost._drivers.psycopg_anyio.listener import PsycopgListener
from roost._drivers.psycopg_common.parameters import connection_parameters
from roost._drivers.psycopg_common.private_names import check
from roost._drivers.sqlstate import Reachability
from roost.exceptions import DatabaseError


class PsycopgDriver:
    """psycopg on anyio, for asyncio, uvloop and trio.

    :param dsn: see ``connection_parameters``; what it does not set gets Roost's defaults.
    :param prepare_threshold: prepare a statement on its n-th use. ``None``: never, which PgBouncer
        before 1.21 needs.
    :raises InvalidSettingError: the DSN can't be read.
    :raises RoostError: this version of psycopg lacks a name that the driver needs.
    """

    name = "psycopg"

    def __init__(self, dsn: str, *, prepare_threshold: int | None = 5) -> None:
        check()
        connection_parameters(dsn, application_name="roost")
        self._dsn = dsn
        self._prepare_threshold = prepare_threshold
        self._prepared_statements = PreparedStatements(allowed=prepare_threshold is not None)
        self._reachability = Reachability()

    def __repr__(self) -> str:
        return "PsycopgDriver(…)"

    def pool(
        self,
        *,
        max_size: int,
        application_name: str = "roost",
        max_lifetime: float = MAX_LIFETIME,
    ) -> Pool[PsycopgConnection]:
        """Return a pool that has opened no connection yet. ``max_lifetime`` is in seconds."""
        connect = partial(self.connect, application_name)
        return Pool(connect, max_size=max_size, max_lifetime=max_lifetime)

    async def connect(self, application_name: str = "roost") -> PsycopgConnection:
        """Open one connection. The caller closes it with ``connection.terminate()``."""
        try:
            connection = await PsycopgConnection.open(
                connection_parameters(self._dsn, application_name=application_name),
                prepare_threshold=self._prepare_threshold,
                prepared=self._prepared_statements,
            )
        except DatabaseError as error:
            raise self._reachability.judge(error) from error.__cause__
        self._reachability.record_connected()
        return connection

    @asynccontextmanager
    async def listener(
        self, channels: Sequence[str], *, application_name: str = "roost"
    ) -> AsyncIterator[PsycopgListener]:
        """Connect and LISTEN on ``channels``; close at the end of the ``async with``."""
        listener = await self.open_listener(channels, application_name=application_name)
        try:
            yield listener
        finally:
            listener.terminate()

    async def open_listener(
        self, channels: Sequence[str], *, application_name: str = "roost"
    ) -> PsycopgListener:
        """Connect and LISTEN on ``channels``. The caller ends it with ``listener.terminate()``."""
        connection = await self.connect(application_name)
        try:
            listener = PsycopgListener(connection)
            await listener.listen(channels)
        except BaseException:
            connection.terminate()
            raise
        return listener
