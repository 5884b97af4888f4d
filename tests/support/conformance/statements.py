"""Tests of one ``AsyncConnection``: values, errors, transactions."""

from __future__ import annotations

import pytest
from tests.support.conformance.base import AsyncConformance, terminate
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

from roost._drivers.base import AsyncConnection, AsyncDriver, Connection
from roost.exceptions import DatabaseError, DatabaseUnavailableError


class StatementConformance(AsyncConformance):
    """The connections come from a pool, as in production."""

    @pytest.fixture
    def table(self, observer: Connection) -> None:
        """Make a table ``t`` with a unique column ``n``."""
        observer.fetch(sql("create table t (n int primary key)"))

    @pytest.mark.parametrize(("text", "params", "expected"), VALUES)
    async def test_a_value_comes_back_unchanged(
        self, driver: AsyncDriver, app: str, text: str, params: tuple[object, ...], expected: object
    ) -> None:
        async with self.pool_of(driver, app, size=1) as pool, pool.acquire() as connection:
            # Enough repetitions for a driver that prepares statements after a few executions.
            for _ in range(8):
                assert list(await connection.fetch(sql(text, *params))) == [(expected,)]

    async def test_megabytes_are_sent_and_received(self, driver: AsyncDriver, app: str) -> None:
        big = "🐓x" * 2_000_000
        async with self.pool_of(driver, app, size=1) as pool, pool.acquire() as connection:
            [[answer]] = await connection.fetch(sql("select $1::text", big))
            assert answer == big

    async def test_rows_are_tuples_in_order(self, driver: AsyncDriver, app: str) -> None:
        async with self.pool_of(driver, app, size=1) as pool, pool.acquire() as connection:
            rows = await connection.fetch(sql("select n, n * 2 from generate_series(1, 3) n"))
            assert list(rows) == [(1, 2), (2, 4), (3, 6)]

    @pytest.mark.usefixtures("table")
    async def test_a_statement_without_rows_returns_none(
        self, driver: AsyncDriver, app: str
    ) -> None:
        async with self.pool_of(driver, app, size=1) as pool, pool.acquire() as connection:
            assert list(await connection.fetch(sql("insert into t values (1)"))) == []
            assert list(await connection.fetch(sql("select n from t where n = 2"))) == []

    async def test_a_script_runs_all_its_commands(
        self, driver: AsyncDriver, app: str, observer: Connection
    ) -> None:
        async with self.pool_of(driver, app, size=1) as pool, pool.acquire() as connection:
            text = "create table s (n int); insert into s values (5)"
            assert list(await connection.fetch(script(text))) == []
        assert value(observer, "select n from s") == 5

    @pytest.mark.parametrize(("text", "params", "state"), REFUSED)
    async def test_a_refusal_carries_its_state_and_leaves_the_connection_usable(
        self, driver: AsyncDriver, app: str, text: str, params: tuple[object, ...], state: str
    ) -> None:
        async with self.pool_of(driver, app, size=1) as pool, pool.acquire() as connection:
            for _ in range(8):
                with pytest.raises(DatabaseError) as refusal:
                    await connection.fetch(sql(text, *params))
                assert refusal.value.sqlstate == state
                assert not isinstance(refusal.value, DatabaseUnavailableError)
            assert list(await connection.fetch(sql("select 1"))) == [(1,)]

    async def test_temporary_and_permanent_errors_are_told_apart(
        self, driver: AsyncDriver, app: str
    ) -> None:
        async with self.pool_of(driver, app, size=1) as pool, pool.acquire() as connection:
            for state in TEMPORARY + PERMANENT:
                with pytest.raises(DatabaseError) as refusal:
                    await connection.fetch(failing_with(state))
                assert refusal.value.sqlstate == state
                assert isinstance(refusal.value, DatabaseUnavailableError) == (state in TEMPORARY)

    async def test_a_statement_timeout_is_temporary(self, driver: AsyncDriver, app: str) -> None:
        async with self.pool_of(driver, app, size=1) as pool, pool.acquire() as connection:
            async with connection.transaction():
                await connection.fetch(sql("set local statement_timeout = 20"))
                with pytest.raises(DatabaseUnavailableError) as refusal:
                    await connection.fetch(sql("select pg_sleep(30)"))
            assert refusal.value.sqlstate == "57014"
            assert list(await connection.fetch(sql("select 1"))) == [(1,)]

    @pytest.mark.usefixtures("table")
    async def test_a_transaction_commits_at_its_end(
        self, driver: AsyncDriver, app: str, observer: Connection
    ) -> None:
        async with self.pool_of(driver, app, size=1) as pool, pool.acquire() as connection:
            async with connection.transaction():
                await connection.fetch(sql("insert into t values (1)"))
                assert value(observer, "select count(*) from t") == 0
            assert value(observer, "select count(*) from t") == 1

    @pytest.mark.usefixtures("table")
    async def test_an_error_rolls_the_transaction_back(
        self, driver: AsyncDriver, app: str, observer: Connection
    ) -> None:
        async with self.pool_of(driver, app, size=1) as pool, pool.acquire() as connection:
            with pytest.raises(ZeroDivisionError):
                await _insert_and_fail(connection)
            assert list(await connection.fetch(sql("select 1"))) == [(1,)]
        assert value(observer, "select count(*) from t") == 0

    @pytest.mark.usefixtures("table")
    async def test_a_nested_transaction_rolls_back_alone(
        self, driver: AsyncDriver, app: str, observer: Connection
    ) -> None:
        async with (
            self.pool_of(driver, app, size=1) as pool,
            pool.acquire() as connection,
            connection.transaction(),
        ):
            await connection.fetch(sql("insert into t values (1)"))
            with pytest.raises(DatabaseError):
                async with connection.transaction():
                    await connection.fetch(sql("insert into t values (2), (1)"))
            await connection.fetch(sql("insert into t values (3)"))
        assert list(observer.fetch(sql("select n from t order by n"))) == [(1,), (3,)]

    async def test_an_error_at_commit_is_translated(
        self, driver: AsyncDriver, app: str, observer: Connection
    ) -> None:
        observer.fetch(sql("create table d (n int unique deferrable initially deferred)"))
        async with self.pool_of(driver, app, size=1) as pool, pool.acquire() as connection:
            with pytest.raises(DatabaseError) as refusal:
                async with connection.transaction():
                    await connection.fetch(sql("insert into d values (1), (1)"))
            assert refusal.value.sqlstate == "23505"
            assert list(await connection.fetch(sql("select count(*) from d"))) == [(0,)]

    async def test_a_connection_killed_in_a_statement_is_unavailable(
        self, driver: AsyncDriver, app: str
    ) -> None:
        async with self.pool_of(driver, app, size=1) as pool, pool.acquire() as connection:
            with pytest.raises(DatabaseUnavailableError):
                await connection.fetch(sql("select pg_terminate_backend(pg_backend_pid())"))
            with pytest.raises(DatabaseUnavailableError):
                await connection.fetch(sql("select 1"))

    async def test_a_connection_killed_in_a_transaction_is_unavailable(
        self, driver: AsyncDriver, app: str, observer: Connection
    ) -> None:
        async with self.pool_of(driver, app, size=1) as pool, pool.acquire() as connection:
            transaction = connection.transaction()
            await transaction.__aenter__()
            assert terminate(observer, app) == 1
            with pytest.raises(DatabaseUnavailableError):
                await transaction.__aexit__(None, None, None)


async def _insert_and_fail(connection: AsyncConnection) -> None:
    async with connection.transaction():
        await connection.fetch(sql("insert into t values (1)"))
        raise ZeroDivisionError
