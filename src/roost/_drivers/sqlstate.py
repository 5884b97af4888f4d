"""What Postgres's error codes mean to Roost, the same for every driver.

A code is judged in one of two places: in answer to a statement, or while a connection is made.
Poolers and proxies use the codes of a login (28P01, 3D000, ...) in answer to statements while they
can't log in to the server themselves, and the classes XX, 58 and 08 for their own troubles.
"""

from __future__ import annotations

from roost.exceptions import DatabaseError, DatabaseUnavailableError

_TEMPORARY_CLASSES = (
    "08",  # connection exceptions
    "53",  # insufficient resources: connections, memory, disk
    "57P",  # operator intervention: shutdown, crash, cannot_connect_now, idle_session_timeout
    "58",  # system errors: disks, and poolers' own
)
_TEMPORARY_STATES = frozenset(
    {
        "25006",  # read_only_sql_transaction: a standby, or a primary that was made read-only
        "25P03",  # idle_in_transaction_session_timeout: the server closed the connection
        "25P04",  # transaction_timeout: the same
        "26000",  # invalid_sql_statement_name: a pooler dropped our prepared statement
        "40001",  # serialization_failure
        "40P01",  # deadlock_detected
        "42P05",  # duplicate_prepared_statement: a pooler gave us another client's connection
        "55P03",  # lock_not_available
        "57014",  # query_canceled: a statement_timeout or an administrator, since it was not us
        "XX000",  # internal_error: poolers use it for all that they can't say otherwise
    }
)
_OF_A_LOGIN = frozenset({"28000", "28P01", "3D000"})

SERIALIZATION_FAILURE = "40001"
"""A statement met another's write, in a transaction that is repeatable read or serializable."""

BAD_TEXT = "22021"
"""What the server says of NUL and lone surrogates; drivers may refuse them before it does."""

UNKNOWN_STATEMENT = "26000"
"""A prepared statement that the server does not know."""

DUPLICATE_STATEMENT = "42P05"
"""The server has a prepared statement of that name, of another client of a pooler."""

READ_ONLY = "25006"
"""The server takes no writes: the next connection may reach one that does."""

_STATEMENT_POOLING = "statement pooling mode"
"""Part of what PgBouncer says of a BEGIN then. It ends the connection, with no code of its own."""

ENDING_SEVERITIES = frozenset({"FATAL", "PANIC"})
"""After these the server closes the connection, whatever the code is."""


def is_temporary(sqlstate: str) -> bool:
    """Say whether a statement that was answered with ``sqlstate`` may succeed later."""
    return sqlstate in _OF_A_LOGIN or is_temporary_refusal(sqlstate)


def is_temporary_refusal(sqlstate: str) -> bool:
    """Say whether a connection that was refused with ``sqlstate`` may be made later."""
    return sqlstate.startswith(_TEMPORARY_CLASSES) or sqlstate in _TEMPORARY_STATES


def error_for(sqlstate: str | None, message: str) -> DatabaseError:
    """Return the error for what Postgres reported in answer to a statement."""
    temporary = sqlstate is not None and is_temporary(sqlstate)
    return new_error(message, sqlstate, temporary=temporary)


def new_error(message: str, sqlstate: str | None, *, temporary: bool) -> DatabaseError:
    """Return the error of the kind that is asked for."""
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
    """Whether a DSN ever led to a database: then every refusal of a connection is temporary.

    A wrong password is an error of the first connection. Later it is a failover, a password that is
    being changed, or a pooler that can't log in for some seconds, and a worker waits for its end.
    """

    def __init__(self) -> None:
        self._reached = False

    def reached(self) -> None:
        """Note that a connection was made."""
        self._reached = True

    def judge(self, error: DatabaseError) -> DatabaseError:
        """Return the error to raise for a refused connection."""
        if not self._reached or isinstance(error, DatabaseUnavailableError):
            return error
        return DatabaseUnavailableError(str(error), sqlstate=error.sqlstate)
