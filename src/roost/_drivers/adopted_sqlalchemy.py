"""SQLAlchemy connections and sessions that belong to the caller, whatever driver is below them.

Statements go through SQLAlchemy, never through the driver's connection behind it: its asyncpg
dialect begins a transaction only with its own first statement, so a job that went past it would be
committed at once (measured: after a rollback it was still there).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from typing import Any

from roost._drivers.placeholders import to_format
from roost._drivers.sqlstate import error_for
from roost._ops.query import Query, Row
from roost.exceptions import NotInTransactionError

_DONT_NOTIFY = "select set_config('roost.notify', 'off', true)"
"""For a transaction that is to be prepared: Postgres refuses it when it has notified."""


class AdoptedSqlalchemy:
    """A ``Connection``, ``Session`` or ``scoped_session``.

    :raises NotInTransactionError: its isolation level is AUTOCOMMIT.
    """

    def __init__(self, raw: Any, *, transactional: bool = True) -> None:
        self.raw = raw
        self._transactional = transactional

    def set_deadline(self, timeout: float) -> None:
        """Do nothing: how long a statement may take is for the caller's own settings to say."""

    def fetch(self, query: Query) -> Sequence[Row]:
        """Run one query and return its rows, empty where it returns none."""
        connection = _connection_of(self.raw)
        if self._transactional:
            _refuse_autocommit(connection)
        try:
            if _is_two_phase(connection):
                connection.exec_driver_sql(_DONT_NOTIFY)
            result = connection.exec_driver_sql(*_native(connection, query))
            return [tuple(row) for row in result.fetchall()] if result.returns_rows else []
        except Exception as error:
            raise _translated(error, query) from error

    def transaction(self) -> AbstractContextManager[None]:
        """Do nothing: all is in the caller's transaction already."""
        return nullcontext()

    def close(self) -> None:
        """Do nothing: the connection is the caller's."""


class AdoptedAsyncSqlalchemy:
    """An ``AsyncConnection``, ``AsyncSession`` or ``async_scoped_session``.

    :raises NotInTransactionError: its isolation level is AUTOCOMMIT.
    """

    def __init__(self, raw: Any, *, transactional: bool = True) -> None:
        self.raw = raw
        self._transactional = transactional

    async def fetch(self, query: Query) -> Sequence[Row]:
        """Run one query and return its rows; what a cancel leaves is SQLAlchemy's own way."""
        connection = self.raw
        if not hasattr(connection, "exec_driver_sql"):
            connection = await connection.connection()
        if self._transactional:
            _refuse_autocommit(connection.sync_connection)
        try:
            if _is_two_phase(connection.sync_connection):
                await connection.exec_driver_sql(_DONT_NOTIFY)
            result = await connection.exec_driver_sql(*_native(connection, query))
            return [tuple(row) for row in result.fetchall()] if result.returns_rows else []
        except Exception as error:
            raise _translated(error, query) from error

    def transaction(self) -> AbstractAsyncContextManager[None]:
        """Do nothing: all is in the caller's transaction already."""
        return nullcontext()


def _connection_of(raw: Any) -> Any:
    return raw if hasattr(raw, "exec_driver_sql") else raw.connection()


def _is_two_phase(connection: Any) -> bool:
    return type(connection.get_transaction()).__name__ == "TwoPhaseTransaction"


def _native(connection: Any, query: Query) -> tuple[str, tuple[object, ...] | None]:
    """Return text and parameters for ``exec_driver_sql``, which passes them on as they are."""
    text, parameters = query.statement.text, query.params
    if query.statement.script or not parameters:
        # Without parameters the driver looks for no placeholders.
        return text, None
    if connection.dialect.paramstyle == "numeric_dollar":
        return text, parameters
    return to_format(text, parameters)


def _refuse_autocommit(connection: Any) -> None:
    options = connection.get_execution_options()
    # Of the driver's connection too: the engine may have been told by `connect_args`.
    below = getattr(connection.connection.dbapi_connection, "autocommit", False)
    if below is True or str(options.get("isolation_level")).upper() == "AUTOCOMMIT":
        raise NotInTransactionError(
            "conn has the isolation level AUTOCOMMIT: the job would be there at once, whatever "
            "happens next; use another level or transactional=False"
        )


def _translated(error: Exception, query: Query) -> Exception:
    original = getattr(error, "orig", None)
    if original is None:
        return error
    sqlstate = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
    return error_for(sqlstate, f"{original} (in {query.statement.name})")
