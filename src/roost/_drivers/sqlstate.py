"""What Postgres's error codes mean to Roost, the same for every driver."""

from __future__ import annotations

from roost.exceptions import DatabaseError, DatabaseUnavailableError

_TEMPORARY_CLASSES = ("08", "53")
_TEMPORARY_STATES = frozenset(
    {
        "40001",  # serialization_failure
        "40P01",  # deadlock_detected
        "55P03",  # lock_not_available
        "57014",  # query_canceled: a statement_timeout or an administrator, since it was not us
        "57P01",  # admin_shutdown
        "57P02",  # crash_shutdown
        "57P03",  # cannot_connect_now
        "57P05",  # idle_session_timeout
        "25P03",  # idle_in_transaction_session_timeout: the server closed the connection
        "26000",  # invalid_sql_statement_name: a pooler dropped our prepared statement
    }
)

SERIALIZATION_FAILURE = "40001"
"""A statement met another's write, in a transaction that is repeatable read or serializable."""

BAD_TEXT = "22021"
"""What the server says of NUL and lone surrogates; drivers may refuse them before it does."""

NO_STATEMENT = "26000"
"""A prepared statement that the server does not know: only a new connection helps."""


def is_temporary(sqlstate: str) -> bool:
    """Say whether the same call may succeed later."""
    return sqlstate[:2] in _TEMPORARY_CLASSES or sqlstate in _TEMPORARY_STATES


def error_for(sqlstate: str | None, message: str) -> DatabaseError:
    """Return the error for what Postgres reported."""
    temporary = sqlstate is not None and is_temporary(sqlstate)
    kind = DatabaseUnavailableError if temporary else DatabaseError
    return kind(message, sqlstate=sqlstate)
