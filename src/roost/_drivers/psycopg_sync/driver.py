"""The blocking driver: makes pools and listeners from a DSN."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

import psycopg
from psycopg import sql

from roost._drivers.base import CALL_TIMEOUT, CLEANUP_TIMEOUT, Notification
from roost._drivers.listening import lock_shared_query
from roost._drivers.psycopg_common.errors import translate
from roost._drivers.psycopg_common.parameters import connection_parameters
from roost._drivers.psycopg_sync.adapter import SyncConnection, connect
from roost._drivers.psycopg_sync.pool import PsycopgSyncPool


class PsycopgSyncDriver:
    """psycopg for threads.

    :param dsn: see ``connection_parameters``; what it does not set gets Roost's defaults.
    :raises InvalidSettingError: the DSN can't be read.
    """

    def __init__(self, dsn: str) -> None:
        connection_parameters(dsn, application_name="roost")
        self._dsn = dsn

    def __repr__(self) -> str:
        return "PsycopgSyncDriver(…)"

    def pool(self, *, max_size: int, application_name: str = "roost") -> PsycopgSyncPool:
        """Return a pool that has opened no connection yet."""
        return PsycopgSyncPool(self._dsn, max_size=max_size, application_name=application_name)

    def listener(
        self,
        channels: Sequence[str],
        *,
        application_name: str = "roost",
        timeout: float = CALL_TIMEOUT,
    ) -> PsycopgSyncListener:
        """Connect and LISTEN on ``channels`` within ``timeout`` seconds.

        :raises DatabaseUnavailableError: the server can't be reached.
        """
        deadline = monotonic() + timeout
        connection = connect(self._dsn, application_name=application_name, timeout=timeout)
        try:
            connection.set_deadline(max(deadline - monotonic(), 0.0))
            for channel in channels:
                connection.raw.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
        except psycopg.Error as error:
            connection.close()
            raise translate(error) from error
        return PsycopgSyncListener(connection)


class PsycopgSyncListener:
    """Receives the notifications of its channels."""

    def __init__(self, connection: SyncConnection) -> None:
        self._connection = connection

    def receive(self, *, timeout: float) -> Sequence[Notification]:
        """Wait up to ``timeout`` seconds for notifications and return those that have arrived.

        :raises DatabaseUnavailableError: the connection is gone.
        """
        self._connection.set_deadline(timeout + CLEANUP_TIMEOUT)
        try:
            # Ends after the first read from the server, which may bring several notifications.
            arrived = list(self._connection.raw.notifies(timeout=timeout, stop_after=1))
        except (psycopg.Error, UnicodeError) as error:
            raise translate(error) from error
        return [Notification(notify.channel, notify.payload) for notify in arrived]

    def lock_shared(self, name: str) -> None:
        """Wait for the advisory lock of this name, which is held until the connection ends."""
        self._connection.set_deadline(CALL_TIMEOUT)
        self._connection.fetch(lock_shared_query(name))

    def close(self) -> None:
        """Close; safe to call twice."""
        self._connection.close()
