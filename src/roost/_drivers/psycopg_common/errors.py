"""Translate psycopg's errors into Roost's, in this one place, for both colours.

What Postgres reports in answer to a statement carries an sqlstate and is judged by it. What it
reports while a connection is being made does not: libpq keeps the code to itself and hands out
text only (no accessor exists, and psycopg does not wrap ``PQsetErrorVerbosity``, which would put
the code into the text). So those texts are matched against the server's English messages. A server
that speaks another language makes a wrong password look temporary; bounded retries then end with
the server's own message.
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

# A server that answers "not now" outranks one that answers "never": with several hosts, or with a
# name that has several addresses, the text holds one line for each attempt.
_NOT_NOW = (
    ("57P03", re.compile(r"the database system is (starting up|shutting down|in recovery|not )")),
    ("53300", re.compile(r"too many (clients|connections)|connection slots are reserved")),
    ("57P01", re.compile(r"terminating connection due to administrator command")),
)
_NEVER = (
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
    """Say whether the same statement can only succeed on another connection."""
    return error.sqlstate == READ_ONLY or is_stale_plan(error)


def is_stale_plan(error: psycopg.Error) -> bool:
    """Say whether a prepared statement no longer fits."""
    # "cached plan must not change result type"; the function's name is never translated.
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
    for state, pattern in _NOT_NOW:
        if pattern.search(message):
            return True, state
    for state, pattern in _NEVER:
        if pattern.search(message):
            return False, state
    return True, None
