"""An error while connecting is judged by libpq's text, since libpq does not give its sqlstate."""

from __future__ import annotations

import psycopg
import pytest

from roost._drivers.psycopg_common.errors import translate
from roost.exceptions import DatabaseError, DatabaseUnavailableError

LOGIN = 'connection to server at "127.0.0.1", port 5432 failed: FATAL:  '


@pytest.mark.parametrize(
    ("text", "sqlstate"),
    [
        (LOGIN + 'password authentication failed for user "u"', "28P01"),
        ("connection to server failed: fe_sendauth: no password supplied", "28P01"),
        (LOGIN + 'no pg_hba.conf entry for host "1.2.3.4", user "u"', "28000"),
        (LOGIN + 'Peer authentication failed for user "u"', "28000"),
        (LOGIN + 'role "u" does not exist', "28000"),
        (LOGIN + 'role "u" is not permitted to log in', "28000"),
        (LOGIN + 'database "d" does not exist', "3D000"),
        (LOGIN + 'permission denied for database "d"', "42501"),
    ],
)
def test_a_permanent_refusal_is_recognized(text: str, sqlstate: str) -> None:
    error = translate(psycopg.OperationalError(text))
    assert not isinstance(error, DatabaseUnavailableError)
    assert error.sqlstate == sqlstate


@pytest.mark.parametrize(
    ("text", "sqlstate"),
    [
        (LOGIN + "the database system is starting up", "57P03"),
        (LOGIN + "the database system is shutting down", "57P03"),
        (LOGIN + "the database system is in recovery mode", "57P03"),
        (LOGIN + "the database system is not yet accepting connections", "57P03"),
        (LOGIN + "sorry, too many clients already", "53300"),
        (LOGIN + 'too many connections for role "u"', "53300"),
        (LOGIN + "remaining connection slots are reserved for roles with SUPERUSER", "53300"),
        ("connection failed: Connection refused", None),
        ("connection timeout expired", None),
        ("the connection is closed", None),
        # One host is starting up, the other does not know the user.
        (f'{LOGIN}the database system is starting up\n{LOGIN}role "u" does not exist', "57P03"),
    ],
)
def test_a_temporary_refusal_is_recognized(text: str, sqlstate: str | None) -> None:
    error = translate(psycopg.OperationalError(text))
    assert isinstance(error, DatabaseUnavailableError)
    assert error.sqlstate == sqlstate


@pytest.mark.parametrize(
    ("error", "temporary"),
    [
        (OSError("no route"), True),
        (psycopg.InterfaceError("the connection is closed"), True),
        (psycopg.InterfaceError("the cursor is closed"), False),
        (psycopg.ProgrammingError("cannot adapt"), False),
        (psycopg.errors.UniqueViolation("twice"), False),
        (psycopg.errors.DeadlockDetected("locked"), True),
    ],
)
def test_errors_that_are_no_answer_of_a_server(error: Exception, temporary: bool) -> None:
    translated = translate(error, statement="claim.pick")
    assert isinstance(translated, DatabaseError)
    assert isinstance(translated, DatabaseUnavailableError) == temporary
    assert str(translated) == f"{error} (in claim.pick)"
