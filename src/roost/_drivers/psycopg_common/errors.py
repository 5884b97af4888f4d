"""Translate psycopg's errors into Roost's, for the async and the blocking driver.

An answer to a statement has an error code (sqlstate), which decides. An error while a connection is
made has none: libpq returns only its text. (libpq has no function for the code, and psycopg does
not wrap ``PQsetErrorVerbosity``, which would put the code into the text.) So these texts are
compared with the server's English messages. If the server uses another language, a wrong password
looks temporary. The bounded retries then end with the server's own message.
"""

from __future__ import annotations

import re

import psycopg

from roost._drivers.sqlstate import (
    BAD_TEXT,
    ENDING_SEVERITIES,
    READ_ONLY,
    is_temporary,
    new_error,
)
from roost.exceptions import DatabaseError, DatabaseUnavailableError

# With several hosts, or a name with several addresses, the text has one line for each attempt. If
# one of them is temporary, the whole error is.
_TEMPORARY = (
    ("57P03", re.compile(r"the database system is (starting up|shutting down|in recovery|not )")),
    ("53300", re.compile(r"too many (clients|connections)|connection slots are reserved")),
    ("57P01", re.compile(r"terminating connection due to administrator command")),
)
_PERMANENT = (
    ("28P01", re.compile(r"password authentication failed|no password supplied")),
    ("28000", re.compile(r"pg_hba\.conf|authentication failed for user|no such user")),
    ("28000", re.compile(r'role ".*" (does not exist|is not permitted to log in)')),
    ("3D000", re.compile(r'database ".*" does not exist|no such database')),
    ("42501", re.compile(r"permission denied for database")),
)


def translate(error: Exception, *, statement: str | None = None) -> DatabaseError:
    """Return Roost's error for one of psycopg's, or for an ``OSError`` or ``UnicodeError``.

    :param statement: the name of the statement in flight, for the message.
    """
    where = f" (in {statement})" if statement else ""
    if isinstance(error, OSError):
        return DatabaseUnavailableError(f"{error}{where}")
    if not isinstance(error, psycopg.Error):
        return DatabaseError(f"{error}{where}", sqlstate=BAD_TEXT)
    message = error.diag.message_primary or str(error) or type(error).__name__
    temporary, state = _judge(error, message)
    return new_error(message + where, state, temporary=temporary)


def needs_new_connection(error: psycopg.Error) -> bool:
    """Say whether the statement can succeed only on another connection."""
    return error.sqlstate == READ_ONLY or is_stale_plan(error)


def is_stale_plan(error: psycopg.Error) -> bool:
    """Say whether a prepared statement no longer fits the table: its columns have changed."""
    # The message is "cached plan must not change result type", in the server's language. The
    # name of the C function is the same in every language.
    return error.sqlstate == "0A000" and error.diag.source_function == "RevalidateCachedQuery"


def _judge(error: psycopg.Error, message: str) -> tuple[bool, str | None]:
    """Return whether the error is temporary, and its sqlstate."""
    state = error.sqlstate
    if state is not None:
        ended = error.diag.severity_nonlocalized in ENDING_SEVERITIES
        return ended or is_temporary(state) or is_stale_plan(error), state
    if isinstance(error, psycopg.OperationalError):
        return _judge_connection_failure(message)
    if isinstance(error, psycopg.DataError) and "NUL (0x00)" in message:
        return False, BAD_TEXT
    return isinstance(error, psycopg.InterfaceError) and "connection" in message, None


def _judge_connection_failure(message: str) -> tuple[bool, str | None]:
    for state, pattern in _TEMPORARY:
        if pattern.search(message):
            return True, state
    for state, pattern in _PERMANENT:
        if pattern.search(message):
            return False, state
    return True, None
