"""The blocking psycopg driver passes the tests of every blocking driver."""

from __future__ import annotations

import pytest
from tests.support.conformance import DriverConformance

from roost._drivers.base import Connection
from roost._drivers.psycopg_sync import connect


class TestPsycopgSync(DriverConformance):
    @pytest.fixture
    def dsn(self, empty_dsn: str) -> str:
        return empty_dsn

    def make_connection(self, dsn: str, *, application_name: str) -> Connection:
        return connect(dsn, application_name=application_name)


def test_a_connection_is_closed_at_the_end_of_a_with(server_dsn: str) -> None:
    with connect(server_dsn) as connection:
        raw = connection.raw
    assert raw.closed
