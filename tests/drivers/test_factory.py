"""A DSN selects its driver, and is never printed with its password."""

from __future__ import annotations

import pytest

from roost._drivers.factory import driver_for, sync_driver_for
from roost._drivers.psycopg_anyio import PsycopgDriver
from roost._drivers.psycopg_common.parameters import connection_parameters
from roost._drivers.psycopg_sync import connect
from roost._drivers.redact import redact
from roost.exceptions import InvalidSettingError

SECRET = "hush"


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://u@h/d",
        "postgres://u@h/d",
        "postgresql+psycopg://u@h/d",
        "postgresql+psycopg_async://u@h/d",
        "host=h dbname=d user=u",
        "",
    ],
)
def test_psycopg_is_the_driver(dsn: str) -> None:
    driver = driver_for(dsn)
    assert isinstance(driver, PsycopgDriver)
    assert driver.name == "psycopg"


@pytest.mark.parametrize(
    ("dsn", "word"),
    [
        ("postgresql+psycopg2://u:hush@h/d", "psycopg2"),
        ("mysql://u:hush@h/d", "mysql"),
        ("postgresql://u:hush word@h/d", "can't be read"),
        ("postgresql://u:hush@[::1/d", "can't be read"),
        ("host=h user=u hush", "can't be read"),
        ("hush", "write it as postgresql://"),
        ("host=h user=u password='hush", "can't be read"),
        ("host=h pasword=hush", "can't be read"),
        ("postgresql://u:x@hush@h/d", "%40"),
        ("postgresql://u:x@hush@h:5,h2:6/d?sslmode=require", "%40"),
        ("postgresql://u:x/hush@h/d", "%2F"),
        ("postgresql://u:12/hush@h/d", "%2F"),
        ("postgresql://u:x@y/hush@h/d", "%2F"),
        ("postgresql://u:hush%zz@h/d", "%25"),
        ("postgresql://u:hush%00@h/d", "can't be read"),
        ("postgresql://u:p@h:hush/d", "can't be read"),
        ("postgresql://h/d?user=u&password=a&hush", "can't be read"),
    ],
)
def test_an_unusable_dsn_is_refused_without_showing_the_password(dsn: str, word: str) -> None:
    for choose in (driver_for, sync_driver_for):
        if choose is sync_driver_for and word == "psycopg2":
            continue
        with pytest.raises(InvalidSettingError, match=word) as refusal:
            choose(dsn)
        assert SECRET not in str(refusal.value)
        assert refusal.value.__cause__ is None


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://u:a?b#c:d@h/d",
        "postgresql://u:p%40%2F%25@h:5432,h2:5433/d",
        "postgresql://h/d?user=a@b",
        "postgresql://u@/d?host=@abstract",
        "postgresql://u:p@/d?host=%2Frun%2Fpg&port=5432",
        "host=@abstract password=a@b/c",
    ],
)
def test_every_form_that_libpq_reads_is_accepted(dsn: str) -> None:
    driver_for(dsn)
    sync_driver_for(dsn)


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        ("postgresql://u:hush@h:5432/d", "postgresql://u:***@h:5432/d"),
        ("postgresql+psycopg://u:hush@h/d?x=1", "postgresql+psycopg://u:***@h/d?x=1"),
        ("postgresql://u:hush%40x@h1:1,h2:2/d", "postgresql://u:***@h1:1,h2:2/d"),
        ("postgresql://:hush@/d?host=/run", "postgresql://:***@/d?host=/run"),
        ("postgresql://u:hu/sh@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u:hu?sh@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u:hu#sh@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u:hu@sh@h/d", "postgresql://u:***@h/d"),
        ("postgresql://h/d?user=u&password=hush&x=1", "postgresql://h/d?user=u&password=***&x=1"),
        ("postgresql://h/d?sslpassword=hush", "postgresql://h/d?sslpassword=***"),
        ("postgresql://h/d?password=hu#sh&x=1", "postgresql://h/d?password=***&x=1"),
        ("postgresql://h/d?x=1&pass%77ord=hush", "postgresql://h/d?x=1&pass%77ord=***"),
        ("host=h password=hush user=u", "host=h password=*** user=u"),
        ("host=h password = hush user=u", "host=h password = *** user=u"),
        (r"host=h password='hu \'sh' user=u", "host=h password=*** user=u"),
        (r"host=h password=hu\ sh user=u", "host=h password=*** user=u"),
        ("host=h password='hu sh", "host=h password=***"),
        ("postgresql://u@h:5432/d", "postgresql://u@h:5432/d"),
        ("host=h passfile=/p user=u", "host=h passfile=/p user=u"),
        ("", ""),
    ],
)
def test_a_redacted_dsn_has_no_password(dsn: str, shown: str) -> None:
    assert redact(dsn) == shown


def test_a_driver_and_a_pool_do_not_show_the_password() -> None:
    driver = driver_for("postgresql://u:hush@h/d")
    assert SECRET not in repr(driver)
    assert SECRET not in repr(driver.pool(max_size=1, application_name="a"))


def test_a_connection_does_not_show_the_password(server_dsn: str) -> None:
    with connect(f"{server_dsn}{'&' if '?' in server_dsn else '?'}password=hush") as connection:
        assert SECRET not in repr(connection)
        assert SECRET not in repr(connection.raw)


def test_the_dsn_overrides_the_defaults() -> None:
    defaults = connection_parameters("host=h", application_name="mine")
    assert defaults == {
        "host": "h",
        "application_name": "mine",
        "client_encoding": "UTF8",
        "connect_timeout": "10",
        "keepalives_idle": "30",
        "keepalives_interval": "10",
        "keepalives_count": "3",
        "tcp_user_timeout": "30000",
    }
    own = "postgresql+psycopg://h/d?connect_timeout=3&application_name=theirs"
    given = connection_parameters(own, application_name="mine")
    assert given["connect_timeout"] == "3"
    assert given["application_name"] == "theirs"
