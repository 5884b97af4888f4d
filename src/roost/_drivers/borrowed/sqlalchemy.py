"""The caller's SQLAlchemy connection or session, on any driver.

Statements go through SQLAlchemy, never directly to the driver's connection. SQLAlchemy's asyncpg
dialect begins a transaction only with its own first statement, so a job inserted past it would be
committed at once (measured: the job was still there after a rollback).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from roost._drivers.borrowed.common import (
    DONT_NOTIFY,
    Borrowed,
    BorrowedAsync,
    sqlstate_of,
    to_percent_placeholders,
)
from roost._drivers.sqlstate import error_for
from roost._ops.query import Query, Row
from roost.exceptions import NotInTransactionError


class BorrowedSqlalchemy(Borrowed):
    """A ``Connection``, ``Session`` or ``scoped_session``."""

    def __init__(self, raw: Any, *, transactional: bool = True) -> None:
        super().__init__(raw)
        self._transactional = transactional

    def fetch(self, query: Query) -> Sequence[Row]:
        """Run one query and return its rows, an empty list if it returns none.

        :raises NotInTransactionError: the isolation level is AUTOCOMMIT.
        """
        connection = self.raw
        if not hasattr(connection, "exec_driver_sql"):
            connection = connection.connection()
        if self._transactional:
            _refuse_autocommit(connection)
        try:
            if _is_two_phase(connection):
                connection.exec_driver_sql(DONT_NOTIFY)
            result = connection.exec_driver_sql(*_for_driver(connection, query))
            return [tuple(row) for row in result.fetchall()] if result.returns_rows else []
        except Exception as error:
            raise _translated(error, query) from error


class BorrowedAsyncSqlalchemy(BorrowedAsync):
    """An ``AsyncConnection``, ``AsyncSession`` or ``async_scoped_session``."""

    def __init__(self, raw: Any, *, transactional: bool = True) -> None:
        super().__init__(raw)
        self._transactional = transactional

    async def fetch(self, query: Query) -> Sequence[Row]:
        """Run one query and return its rows. A cancel leaves the connection as SQLAlchemy does.

        :raises NotInTransactionError: the isolation level is AUTOCOMMIT.
        """
        connection = self.raw
        if not hasattr(connection, "exec_driver_sql"):
            connection = await connection.connection()
        if self._transactional:
            _refuse_autocommit(connection.sync_connection)
        try:
            if _is_two_phase(connection.sync_connection):
                await connection.exec_driver_sql(DONT_NOTIFY)
            result = await connection.exec_driver_sql(*_for_driver(connection, query))
            return [tuple(row) for row in result.fetchall()] if result.returns_rows else []
        except Exception as error:
            raise _translated(error, query) from error


def _is_two_phase(connection: Any) -> bool:
    return type(connection.get_transaction()).__name__ == "TwoPhaseTransaction"


def _for_driver(connection: Any, query: Query) -> tuple[str, tuple[object, ...] | None]:
    """Return text and parameters in the driver's style; ``exec_driver_sql`` converts nothing."""
    text, parameters = query.statement.text, query.params
    if query.statement.script or not parameters:
        # Without parameters the driver looks for no placeholders.
        return text, None
    if connection.dialect.paramstyle == "numeric_dollar":
        return text, parameters
    return to_percent_placeholders(text, parameters)


def _refuse_autocommit(connection: Any) -> None:
    options = connection.get_execution_options()
    # Look at the driver's connection too: the engine's `connect_args` may have set it there.
    driver_autocommit = getattr(connection.connection.dbapi_connection, "autocommit", False)
    isolation_level = str(options.get("isolation_level")).upper()
    if driver_autocommit is True or isolation_level == "AUTOCOMMIT":
        raise NotInTransactionError(
            "conn has the isolation level AUTOCOMMIT: this call would be committed at once, even "
            "if your work fails later; use another level, or transactional=False for an enqueue"
        )


def _translated(error: Exception, query: Query) -> Exception:
    original = getattr(error, "orig", None)
    if original is None:
        return error
    return error_for(sqlstate_of(original), f"{original} (in {query.statement.name})")
