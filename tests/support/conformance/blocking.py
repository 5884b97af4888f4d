"""Tests of a blocking ``Connection``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support.conformance.cases import (
    PERMANENT,
    REFUSED,
    TEMPORARY,
    VALUES,
    failing_with,
    script,
    sql,
    value,
)

from roost._drivers.base import Connection
from roost.exceptions import DatabaseError, DatabaseUnavailableError


class DriverConformance:
    """The tests. A subclass defines ``dsn`` and ``make_connection``."""

    def make_connection(self, dsn: str, *, application_name: str) -> Connection:
        """Connect with the driver under test."""
        raise NotImplementedError

    @pytest.fixture
    def connection(self, dsn: str) -> Iterator[Connection]:
        """Return a connection to the test's database."""
        connection = self.make_connection(dsn, application_name="conformance")
        yield connection
        connection.close()

    @pytest.fixture
    def table(self, connection: Connection) -> None:
        """Make a table ``t`` with a unique column ``n``."""
        connection.fetch(sql("create table t (n int primary key)"))

    @pytest.mark.parametrize(("text", "params", "expected"), VALUES)
    def test_a_value_comes_back_as_it_went(
        self, connection: Connection, text: str, params: tuple[object, ...], expected: object
    ) -> None:
        # Often enough that a driver which prepares by itself goes through all its stages.
        for _ in range(8):
            assert value(connection, text, *params) == expected

    def test_rows_are_tuples_in_order(self, connection: Connection) -> None:
        rows = connection.fetch(sql("select n, n * 2 from generate_series(1, 3) n"))
        assert list(rows) == [(1, 2), (2, 4), (3, 6)]

    @pytest.mark.usefixtures("table")
    def test_a_statement_without_rows_returns_none(self, connection: Connection) -> None:
        assert list(connection.fetch(sql("insert into t values (1)"))) == []
        assert list(connection.fetch(sql("select n from t where n = 2"))) == []

    def test_a_script_runs_all_its_commands(self, connection: Connection) -> None:
        assert (
            list(connection.fetch(script("create table s (n int); insert into s values (5)"))) == []
        )
        assert value(connection, "select n from s") == 5

    @pytest.mark.parametrize(("text", "params", "state"), REFUSED)
    def test_a_refusal_carries_its_state_and_leaves_the_connection_usable(
        self, connection: Connection, text: str, params: tuple[object, ...], state: str
    ) -> None:
        for _ in range(8):
            with pytest.raises(DatabaseError) as refusal:
                connection.fetch(sql(text, *params))
            assert refusal.value.sqlstate == state
            assert not isinstance(refusal.value, DatabaseUnavailableError)
        assert value(connection, "select 1") == 1

    @pytest.mark.parametrize("state", TEMPORARY)
    def test_a_temporary_error_is_told_apart(self, connection: Connection, state: str) -> None:
        with pytest.raises(DatabaseUnavailableError) as refusal:
            connection.fetch(failing_with(state))
        assert refusal.value.sqlstate == state

    @pytest.mark.parametrize("state", PERMANENT)
    def test_a_permanent_error_is_told_apart(self, connection: Connection, state: str) -> None:
        with pytest.raises(DatabaseError) as refusal:
            connection.fetch(failing_with(state))
        assert refusal.value.sqlstate == state
        assert not isinstance(refusal.value, DatabaseUnavailableError)

    @pytest.mark.usefixtures("table")
    def test_each_statement_commits_by_itself(self, connection: Connection, dsn: str) -> None:
        connection.fetch(sql("insert into t values (1)"))
        assert self._seen_by_others(dsn) == 1

    @pytest.mark.usefixtures("table")
    def test_a_transaction_commits_at_its_end(self, connection: Connection, dsn: str) -> None:
        with connection.transaction():
            connection.fetch(sql("insert into t values (1)"))
            assert self._seen_by_others(dsn) == 0
        assert self._seen_by_others(dsn) == 1

    @pytest.mark.usefixtures("table")
    def test_an_error_rolls_the_transaction_back(self, connection: Connection) -> None:
        with pytest.raises(ZeroDivisionError), connection.transaction():
            self._insert_and_fail(connection)
        assert value(connection, "select count(*) from t") == 0

    @pytest.mark.usefixtures("table")
    def test_a_nested_transaction_rolls_back_alone(self, connection: Connection) -> None:
        with connection.transaction():
            connection.fetch(sql("insert into t values (1)"))
            with pytest.raises(DatabaseError), connection.transaction():
                connection.fetch(sql("insert into t values (2), (1)"))
            connection.fetch(sql("insert into t values (3)"))
        assert list(connection.fetch(sql("select n from t order by n"))) == [(1,), (3,)]

    def test_an_error_at_commit_is_translated(self, connection: Connection) -> None:
        connection.fetch(sql("create table d (n int unique deferrable initially deferred)"))
        with pytest.raises(DatabaseError) as refusal, connection.transaction():
            connection.fetch(sql("insert into d values (1), (1)"))
        assert refusal.value.sqlstate == "23505"
        assert value(connection, "select count(*) from d") == 0

    def test_a_killed_connection_is_unavailable_and_stays_so(
        self, connection: Connection, dsn: str
    ) -> None:
        pid = value(connection, "select pg_backend_pid()")
        other = self.make_connection(dsn, application_name="killer")
        try:
            value(other, "select pg_terminate_backend($1::int, 5000)", pid)
        finally:
            other.close()
        for _ in range(2):
            with pytest.raises(DatabaseUnavailableError):
                connection.fetch(sql("select 1"))

    def test_a_connection_killed_in_a_transaction_is_unavailable(
        self, connection: Connection
    ) -> None:
        with pytest.raises(DatabaseUnavailableError), connection.transaction():
            connection.fetch(sql("select pg_terminate_backend(pg_backend_pid())"))

    def test_closing_twice_is_harmless(self, connection: Connection) -> None:
        connection.close()
        connection.close()
        with pytest.raises(DatabaseUnavailableError):
            connection.fetch(sql("select 1"))

    def _insert_and_fail(self, connection: Connection) -> None:
        connection.fetch(sql("insert into t values (1)"))
        raise ZeroDivisionError

    def _seen_by_others(self, dsn: str) -> object:
        other = self.make_connection(dsn, application_name="other")
        try:
            return value(other, "select count(*) from t")
        finally:
            other.close()
