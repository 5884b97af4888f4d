"""Translate asyncpg's errors into Roost's.

Unlike libpq, asyncpg also has the error code (sqlstate) of a refused connection.
"""

from __future__ import annotations

from collections.abc import Callable

import asyncpg

from roost._drivers.sqlstate import (
    BAD_TEXT,
    ENDING_SEVERITIES,
    is_temporary,
    is_temporary_refusal,
    new_error,
)
from roost.exceptions import DatabaseError

ERRORS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,  # and with it TimeoutError
    UnicodeError,
)
"""The errors that a call of asyncpg raises, apart from a cancel."""

_OUT_OF_RANGE = "22003"


def translate(
    error: Exception,
    *,
    statement: str | None = None,
    closed: bool = False,
    connecting: bool = False,
) -> DatabaseError:
    """Return Roost's error for one of `ERRORS`.

    :param statement: the name of the statement in flight, for the message.
    :param closed: whether the connection is closed now. Then the error is temporary, since a mere
        refusal of a statement does not close the connection.
    :param connecting: whether the error is the answer to a new connection.
    """
    temporary, state = _judge(error, _may_connect if connecting else _may_succeed)
    message = str(error.args[0]) if error.args and state else str(error)
    where = f" (in {statement})" if statement else ""
    return new_error(
        (message or type(error).__name__) + where, state, temporary=temporary or closed
    )


def _judge(
    error: Exception, judge: Callable[[asyncpg.PostgresError], bool]
) -> tuple[bool, str | None]:
    """Return whether the error is temporary, and its sqlstate."""
    cause = error.__cause__
    if isinstance(error, asyncpg.InvalidCachedStatementError):
        return True, error.sqlstate  # asyncpg prepares the statement anew next time
    if isinstance(error, UnicodeError) or isinstance(cause, UnicodeError):
        return False, BAD_TEXT  # asyncpg refused it, and the next case too, not the server
    if isinstance(cause, OverflowError):
        return False, _OUT_OF_RANGE
    if isinstance(error, asyncpg.PostgresError):
        # If the connection was closed during the statement, the cause is the server's last error.
        last = cause if isinstance(cause, asyncpg.PostgresError) else error
        if last.sqlstate is None:
            return False, None
        return judge(last), last.sqlstate
    return isinstance(error, (OSError, asyncpg.TargetServerAttributeNotMatched)), None


def _may_connect(error: asyncpg.PostgresError) -> bool:
    return is_temporary_refusal(str(error.sqlstate))


def _may_succeed(error: asyncpg.PostgresError) -> bool:
    ended = getattr(error, "severity_en", None) in ENDING_SEVERITIES
    return ended or is_temporary(str(error.sqlstate))
