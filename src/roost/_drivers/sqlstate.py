"""Decide by Postgres's error code whether an error is temporary, for every driver.

An answer to a statement and the refusal of a new connection are judged by different rules. While a
pooler or proxy can't log in to the server itself, it answers statements with the codes of a failed
login (28P01, 3D000, …). For other failures of its own it uses the classes XX, 58 and 08.
"""

from __future__ import annotations

from roost.exceptions import DatabaseError, DatabaseUnavailableError

_TEMPORARY_CLASSES = (
    "08",  # connection exceptions
    "53",  # insufficient resources: connections, memory, disk
    "57P",  # operator intervention: shutdown, crash, cannot_connect_now, idle_session_timeout
    "58",  # system errors: of disks, and of poolers
)
_TEMPORARY_STATES = frozenset(
    {
        "25006",  # read_only_sql_transaction: a standby, or a primary that was made read-only
        "25P03",  # idle_in_transaction_session_timeout: the server closed the connection
        "25P04",  # transaction_timeout: the same
        "26000",  # invalid_sql_statement_name: a pooler dropped the prepared statement
        "40001",  # serialization_failure
        "40P01",  # deadlock_detected
        "42P05",  # duplicate_prepared_statement: a pooler passed on another client's connection
        "55P03",  # lock_not_available
        "57014",  # query_canceled: by statement_timeout or an administrator
        "XX000",  # internal_error: poolers use it for errors that have no code of their own
    }
)
_LOGIN_STATES = frozenset({"28000", "28P01", "3D000"})

SERIALIZATION_FAILURE = "40001"
"""Another transaction wrote the same row; only under repeatable read or serializable."""

BAD_TEXT = "22021"
"""The server's answer to NUL and lone surrogates. Some drivers refuse them themselves."""

UNKNOWN_STATEMENT = "26000"
"""The server does not know the prepared statement."""

DUPLICATE_STATEMENT = "42P05"
"""The server already has a prepared statement of that name, from another client of a pooler."""

READ_ONLY = "25006"
"""The server takes no writes. The next connection may reach a server that does."""

_STATEMENT_POOLING = "statement pooling mode"
"""Part of PgBouncer's answer to a BEGIN in that mode. It has no error code of its own."""

ENDING_SEVERITIES = frozenset({"FATAL", "PANIC"})
"""The server closes the connection after an error of these severities, whatever its code."""


def is_temporary(sqlstate: str) -> bool:
    """Say whether a statement may succeed later after the answer ``sqlstate``."""
    return sqlstate in _LOGIN_STATES or is_temporary_refusal(sqlstate)


def is_temporary_refusal(sqlstate: str) -> bool:
    """Say whether a connection may be made later after the refusal ``sqlstate``."""
    return sqlstate.startswith(_TEMPORARY_CLASSES) or sqlstate in _TEMPORARY_STATES


def error_for(sqlstate: str | None, message: str) -> DatabaseError:
    """Return Roost's error for Postgres's answer to a statement."""
    temporary = sqlstate is not None and is_temporary(sqlstate)
    return new_error(message, sqlstate, temporary=temporary)


def new_error(message: str, sqlstate: str | None, *, temporary: bool) -> DatabaseError:
    """Return Roost's error, with advice in its message where there is some.

    :param temporary: whether a later attempt may succeed (`DatabaseUnavailableError`).
    """
    if _STATEMENT_POOLING in message:
        message += (
            "; Roost needs transactions: set pool_mode to transaction or session, "
            "or connect to Postgres itself"
        )
        temporary = False
    if sqlstate == READ_ONLY:
        message += "; the server takes no writes now: it is a standby, or was made read-only"
    kind = DatabaseUnavailableError if temporary else DatabaseError
    return kind(message, sqlstate=sqlstate)


class Reachability:
    """Remembers whether a DSN ever worked. If it did, every refused connection is temporary.

    A wrong password is an error when it is the answer to the first connection. Later the reason is
    a failover, a password that is being changed, or a pooler that can't log in for some seconds. A
    worker waits until that is over.
    """

    def __init__(self) -> None:
        self._reached = False

    def record_connected(self) -> None:
        """Record that a connection was made."""
        self._reached = True

    def judge(self, error: DatabaseError) -> DatabaseError:
        """Return the error to raise for a refused connection."""
        if not self._reached or isinstance(error, DatabaseUnavailableError):
            return error
        return DatabaseUnavailableError(str(error), sqlstate=error.sqlstate)
