"""``conn=`` accepts Django's connections, inside ``transaction.atomic()``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import django
import pytest
from django.conf import settings
from django.db import DatabaseError as DjangoDatabaseError
from django.db import connection, connections, transaction
from django.db.transaction import TransactionManagementError
from tests.support.borrowing import BorrowingConformance, ConnectionKind
from tests.support.job_table import JobTable

from roost import AsyncRoost, DatabaseError, JobInsert, NotInTransactionError, Roost

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Run once: nothing here depends on the loop."""
    return "asyncio"


if not settings.configured:
    settings.configure(
        DATABASES={
            "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
            "other": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
        },
        USE_TZ=True,
        LOGGING_CONFIG=None,
    )
    django.setup()


@pytest.fixture(autouse=True)
def django_database(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set Django's aliases to the test's database, and ``lite`` to SQLite."""
    # Django forbids blocking calls while an event loop runs, which these tests do.
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
    parts = urlsplit(dsn)
    query = {key: values[0] for key, values in parse_qs(parts.query).items()}
    place = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path[1:]),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": query.pop("host", parts.hostname or ""),
        "PORT": query.pop("port", str(parts.port or "")),
        "OPTIONS": query,
    }
    lite = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    raw: dict[str, Any] = {"default": place, "other": dict(place), "lite": lite}
    fresh = connections.configure_settings(raw)
    before = dict(connections.settings)
    connections.settings.clear()
    connections.settings.update(fresh)
    for alias in raw:
        if hasattr(connections._connections, alias):
            del connections[alias]
    yield
    connections.close_all()
    for alias in raw:
        if hasattr(connections._connections, alias):
            del connections[alias]
    connections.settings.clear()
    connections.settings.update(before)


def execute(conn: Any, statement: str) -> None:
    with conn.cursor() as cursor:
        cursor.execute(statement)


@contextmanager
def default(_dsn: str) -> Iterator[Any]:
    try:
        with transaction.atomic():
            yield connection
    finally:
        connections.close_all()


@contextmanager
def other(_dsn: str) -> Iterator[Any]:
    try:
        with transaction.atomic(using="other"):
            yield connections["other"]
    finally:
        connections.close_all()


DOORS = {
    "django.db.connection": ConnectionKind(default, execute, blocking=True),
    "connections[alias]": ConnectionKind(other, execute, blocking=True),
}


class TestBorrowed(BorrowingConformance):
    @pytest.fixture(params=DOORS)
    def kind(self, request: pytest.FixtureRequest) -> ConnectionKind:
        return DOORS[request.param]


def test_autocommit_is_refused_outside_an_atomic_block(dsn: str, table: JobTable) -> None:
    with Roost(dsn) as client:
        for conn in (connection, connections["other"]):
            with pytest.raises(NotInTransactionError, match=r"transaction\.atomic"):
                client.enqueue("work", conn=conn)
            with pytest.raises(NotInTransactionError):
                client.enqueue_many([JobInsert("work")], conn=conn)
        assert table.states() == {}
        client.enqueue("work", conn=connection, transactional=False)
    assert table.states() == {"available": 1}


def test_without_autocommit_no_block_is_needed(dsn: str, table: JobTable) -> None:
    with Roost(dsn) as client:
        transaction.set_autocommit(False)
        client.enqueue("work", conn=connection)
        transaction.rollback()
        assert table.states() == {}
        client.enqueue("work", conn=connection)
        transaction.commit()
    assert table.states() == {"available": 1}


def test_an_inner_block_that_is_rolled_back_takes_its_jobs_with_it(
    dsn: str, table: JobTable
) -> None:
    with Roost(dsn) as client, transaction.atomic():
        kept = client.enqueue("work", conn=connection)
        with transaction.atomic():
            client.enqueue("work", conn=connection)
            transaction.set_rollback(True)
    assert [row[0] for row in table.rows("select id from roost.jobs")] == [kept]


def test_django_refuses_in_a_broken_block(dsn: str, table: JobTable) -> None:
    with Roost(dsn) as client:
        with transaction.atomic():
            transaction.set_rollback(True)
            with pytest.raises(TransactionManagementError):
                client.enqueue("work", conn=connection)
        with transaction.atomic():
            with pytest.raises(DjangoDatabaseError):
                execute(connection, "select nonsense")
            with pytest.raises(DatabaseError) as caught:
                client.enqueue("work", conn=connection)
            transaction.set_rollback(True)
        assert caught.value.sqlstate == "25P02"
    assert table.states() == {}


def test_another_database_is_refused(dsn: str) -> None:
    with Roost(dsn) as client, pytest.raises(TypeError, match="to Postgres, not to sqlite"):
        client.enqueue("work", conn=connections["lite"])


async def test_the_async_client_refuses_a_blocking_connection(dsn: str) -> None:
    async with AsyncRoost(dsn) as client:
        with pytest.raises(TypeError, match="ConnectionProxy blocks"):
            await client.enqueue("work", conn=connection)
