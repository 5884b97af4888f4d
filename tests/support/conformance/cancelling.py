"""Tests of cancellation: it leaves no running statement, open transaction or open connection."""

from __future__ import annotations

import itertools
import random
from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel
import pytest
from tests.support.conformance.base import AsyncConformance, backends, until_gone
from tests.support.conformance.cases import eventually, script, sql, value

from roost._drivers.base import AsyncDriver, AsyncPool, Connection
from roost.exceptions import DatabaseUnavailableError

ENOUGH_STEPS = 10
"""Turns of the event loop to try at least. A fast server may answer before the second turn."""
_SHORT = 30
"""Upper limit of the delay of a random cancel, in units of 0.1 ms."""


class CancelConformance(AsyncConformance):
    """After a cancel the connection is usable or closed, and its statement has stopped."""

    async def test_a_cancelled_statement_stops_on_the_server(
        self, driver: AsyncDriver, app: str, observer: Connection
    ) -> None:
        async with self.pool_of(driver, app, size=1) as pool:
            async with pool.acquire() as connection:
                await _cancel_when(
                    lambda: backends(observer, app, state="active") == 1,
                    lambda: connection.fetch(sql("select pg_sleep(600)")),
                )
            # Not "eventually": the cancel waits for the server.
            assert backends(observer, app, state="active") == 0
            async with pool.acquire() as connection:
                assert list(await connection.fetch(sql("select 1"))) == [(1,)]

    async def test_a_statement_in_a_cancelled_scope_is_not_sent(
        self, driver: AsyncDriver, app: str, observer: Connection
    ) -> None:
        observer.fetch(sql("create sequence s"))
        async with self.pool_of(driver, app, size=1) as pool, pool.acquire() as connection:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await connection.fetch(sql("select nextval('s')"))
        assert value(observer, "select is_called from s") is False

    async def test_a_cancelled_transaction_is_rolled_back(
        self, driver: AsyncDriver, app: str, observer: Connection
    ) -> None:
        observer.fetch(sql("create table t (n int)"))
        async with self.pool_of(driver, app, size=1) as pool, pool.acquire() as connection:

            async def work() -> None:
                async with connection.transaction():
                    await connection.fetch(sql("insert into t values (1)"))
                    await connection.fetch(sql("select pg_sleep(600)"))

            await _cancel_when(lambda: backends(observer, app, state="active") == 1, work)
            assert backends(observer, app, state="idle") == backends(observer, app)
        assert value(observer, "select count(*) from t") == 0

    async def test_a_cancel_inside_a_transaction_while_nothing_is_in_flight_rolls_back(
        self, driver: AsyncDriver, app: str, observer: Connection
    ) -> None:
        observer.fetch(sql("create table t (n int)"))
        async with self.pool_of(driver, app, size=1) as pool, pool.acquire() as connection:

            async def work() -> None:
                async with connection.transaction(), connection.transaction():
                    await connection.fetch(sql("insert into t values (1)"))
                    await anyio.sleep_forever()

            await _cancel_when(
                lambda: backends(observer, app, state="idle in transaction") == 1, work
            )
            assert list(await connection.fetch(sql("select count(*) from t"))) == [(0,)]

    async def test_after_a_cancel_at_any_step_the_next_statement_gets_its_own_answer(
        self, driver: AsyncDriver, app: str
    ) -> None:
        async with self.pool_of(driver, app, size=1) as pool:
            for number in itertools.count(1):

                async def work(number: int = number) -> None:
                    async with pool.acquire() as connection:
                        await connection.fetch(sql("select $1::int, pg_sleep(0.001)", -number))

                done = await _cancel_after_steps(number, work)
                async with pool.acquire() as connection:
                    assert list(await connection.fetch(sql("select $1::int", number))) == [
                        (number,)
                    ]
                if done and number >= ENOUGH_STEPS:
                    break

    async def test_a_cancel_at_every_step_of_a_transaction_leaves_all_or_nothing(
        self, driver: AsyncDriver, app: str, observer: Connection
    ) -> None:
        observer.fetch(sql("create table t (n int)"))
        async with self.pool_of(driver, app, size=1) as pool:
            for number in itertools.count(1):

                async def work(number: int = number) -> None:
                    async with pool.acquire() as connection, connection.transaction():
                        await connection.fetch(sql("insert into t values ($1::int)", number))
                        await connection.fetch(sql("insert into t values ($1::int)", number))

                done = await _cancel_after_steps(number, work)
                async with pool.acquire() as connection:
                    rows = await connection.fetch(
                        sql("select count(*) from t where n = $1::int", number)
                    )
                assert list(rows) in ([(0,)], [(2,)])
                assert backends(observer, app, state="idle in transaction%") == 0
                if done:
                    assert list(rows) == [(2,)]
                if done and number >= ENOUGH_STEPS:
                    break

    async def test_a_cancel_at_every_step_of_connecting_leaves_nothing_open(
        self, driver: AsyncDriver, app: str, observer: Connection
    ) -> None:
        for number in itertools.count(1):
            pool = driver.pool(max_size=1, application_name=app)

            async def work(pool: AsyncPool = pool) -> None:
                while True:
                    try:
                        async with pool.acquire():
                            return
                    except DatabaseUnavailableError:
                        # The server's backlog is full of cancelled connections.
                        await anyio.sleep(0.02)

            done = await _cancel_after_steps(number, work)
            await pool.aclose()
            if done and number >= ENOUGH_STEPS:
                break
        await until_gone(observer, app)

    async def test_random_cancels_never_mix_up_answers(
        self, driver: AsyncDriver, app: str, observer: Connection
    ) -> None:
        chance = random.Random(7)
        async with self.pool_of(driver, app, size=2) as pool:
            for number in range(150):
                with anyio.move_on_after(chance.randrange(_SHORT) / 10_000):
                    async with pool.acquire() as connection, connection.transaction():
                        rows = await connection.fetch(sql("select $1::int", number))
                        assert list(rows) == [(number,)]
                        await connection.fetch(sql("select pg_sleep(0.001)"))
            # A connection that was cancelled while opening may still have a server process.
            await eventually(lambda: backends(observer, app) <= 2)
            await eventually(
                lambda: backends(observer, app, state="idle") == backends(observer, app)
            )

    async def test_a_cancelled_megabyte_statement_leaves_the_pool_usable(
        self, driver: AsyncDriver, app: str
    ) -> None:
        big = "x" * 30_000_000
        async with self.pool_of(driver, app, size=1) as pool:
            for pause in (0.0, 0.001, 0.01, 0.03):
                with anyio.move_on_after(pause):
                    async with pool.acquire() as connection:
                        await connection.fetch(sql("select $1::text", big))
                async with pool.acquire() as connection:
                    assert list(await connection.fetch(sql("select 1"))) == [(1,)]

    @pytest.mark.parametrize("statement", ["commit", "rollback"])
    async def test_a_transaction_that_its_user_left_open_is_not_lent_on(
        self, driver: AsyncDriver, app: str, observer: Connection, statement: str
    ) -> None:
        observer.fetch(sql("create table t (n int)"))
        async with self.pool_of(driver, app, size=1) as pool:
            async with pool.acquire() as connection:
                await connection.fetch(script("begin; insert into t values (1)"))
            async with pool.acquire() as connection:
                await connection.fetch(script(statement))
        assert value(observer, "select count(*) from t") == 0

    async def test_a_deadline_of_the_caller_is_not_mistaken_for_a_database_error(
        self, driver: AsyncDriver, app: str
    ) -> None:
        async with self.pool_of(driver, app, size=1) as pool, pool.acquire() as connection:
            with anyio.move_on_after(0.05) as scope:
                await connection.fetch(sql("select pg_sleep(600)"))
            assert scope.cancelled_caught


async def _cancel_when(
    condition: Callable[[], bool], work: Callable[[], Awaitable[object]]
) -> None:
    """Run ``work``, and cancel it as soon as ``condition`` holds. It must not end before."""

    async def watch() -> None:
        await eventually(condition)
        scope.cancel()

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            with anyio.CancelScope() as scope:
                group.start_soon(watch)
                await work()
    assert scope.cancelled_caught


async def _cancel_after_steps(steps: int, work: Callable[[], Awaitable[None]]) -> bool:
    """Run ``work``, cancel it after ``steps`` turns of the event loop; return whether it ended."""
    done = False

    async def count() -> None:
        for _ in range(steps):
            await anyio.lowlevel.checkpoint()
        scope.cancel()

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            with anyio.CancelScope() as scope:
                group.start_soon(count)
                await work()
                done = True
            group.cancel_scope.cancel()
    return done
