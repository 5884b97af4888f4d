"""Tests of an ``AsyncPool``: its size, replaced connections, closing, no leaks."""

from __future__ import annotations

import random

import anyio
import pytest
from tests.support.conformance.base import AsyncConformance, backends, terminate, until_gone
from tests.support.conformance.cases import sql

from roost._drivers.base import AsyncDriver, AsyncPool, Connection
from roost.exceptions import ClosedError, DatabaseUnavailableError


class PoolConformance(AsyncConformance):
    """A pool opens connections as needed, up to its size, and closes all of them."""

    async def test_an_unused_pool_opens_nothing(
        self, driver: AsyncDriver, app: str, observer: Connection
    ) -> None:
        async with self.pool_of(driver, app, size=3):
            assert backends(observer, app) == 0

    async def test_twenty_concurrent_first_users_open_no_more_than_its_size(
        self, driver: AsyncDriver, app: str, observer: Connection
    ) -> None:
        seen: list[object] = []

        async def use() -> None:
            async with pool.acquire() as connection:
                [[pid]] = await connection.fetch(
                    sql("select pg_backend_pid() from pg_sleep(0.005)")
                )
                seen.append(pid)
                assert backends(observer, app) <= 3

        async with self.pool_of(driver, app, size=3) as pool, anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(use)
        assert len(seen) == 20
        assert len(set(seen)) <= 3

    async def test_a_returned_connection_is_used_again(self, driver: AsyncDriver, app: str) -> None:
        pids: list[object] = []
        async with self.pool_of(driver, app, size=3) as pool:
            for _ in range(5):
                async with pool.acquire() as connection:
                    pids += await connection.fetch(sql("select pg_backend_pid()"))
        assert len(set(pids)) == 1

    async def test_waiting_for_a_free_connection_ends_at_the_timeout(
        self, driver: AsyncDriver, app: str
    ) -> None:
        async with self.pool_of(driver, app, size=1) as pool:
            async with pool.acquire():
                with pytest.raises(DatabaseUnavailableError), anyio.fail_after(5):
                    async with pool.acquire(timeout=0.02):
                        pytest.fail("two connections from a pool of one")
            async with pool.acquire(timeout=5) as connection:
                assert list(await connection.fetch(sql("select 1"))) == [(1,)]

    async def test_an_error_of_its_user_passes_through(self, driver: AsyncDriver, app: str) -> None:
        async with self.pool_of(driver, app, size=1) as pool:
            with pytest.raises(KeyError):
                async with pool.acquire():
                    raise KeyError
            async with pool.acquire(timeout=5):
                pass

    async def test_it_replaces_connections_that_were_killed_while_idle(
        self, driver: AsyncDriver, app: str, observer: Connection
    ) -> None:
        async with self.pool_of(driver, app, size=2) as pool:
            async with pool.acquire(), pool.acquire():
                pass
            assert terminate(observer, app) == 2
            await until_gone(observer, app)
            async with pool.acquire() as one, pool.acquire() as two:
                assert list(await one.fetch(sql("select 1"))) == [(1,)]
                assert list(await two.fetch(sql("select 2"))) == [(2,)]

    async def test_it_replaces_a_connection_that_was_killed_in_use(
        self, driver: AsyncDriver, app: str
    ) -> None:
        async with self.pool_of(driver, app, size=1) as pool:
            async with pool.acquire() as connection:
                with pytest.raises(DatabaseUnavailableError):
                    await connection.fetch(sql("select pg_terminate_backend(pg_backend_pid())"))
            async with pool.acquire(timeout=5) as connection:
                assert list(await connection.fetch(sql("select 1"))) == [(1,)]

    async def test_a_storm_of_cancelled_users_leaks_nothing(
        self, driver: AsyncDriver, app: str, observer: Connection
    ) -> None:
        chance = random.Random(11)
        # The first user does not wait at all, and the last one waits for as long as it takes.
        patiences = [0.0, *(chance.random() * 0.04 for _ in range(48)), 60.0]
        answered = 0

        async def use(number: int, patience: float) -> None:
            nonlocal answered
            with anyio.move_on_after(patience):
                async with pool.acquire() as connection, connection.transaction():
                    rows = await connection.fetch(sql("select $1::int", number))
                    assert list(rows) == [(number,)]
                    answered += 1

        async with self.pool_of(driver, app, size=3) as pool:
            with anyio.fail_after(60):
                for _ in range(6):
                    async with anyio.create_task_group() as group:
                        for number, patience in enumerate(patiences):
                            group.start_soon(use, number, patience)
            assert 0 < answered < 6 * len(patiences)
            assert backends(observer, app) <= 3
            # Every slot is back, and each connection is idle.
            async with pool.acquire(timeout=5), pool.acquire(timeout=5), pool.acquire(timeout=5):
                assert backends(observer, app, state="idle") == 3
        await until_gone(observer, app)

    async def test_a_closed_pool_leaves_no_connection(
        self, driver: AsyncDriver, app: str, observer: Connection
    ) -> None:
        async with self.pool_of(driver, app, size=2) as pool:
            async with pool.acquire():
                async with pool.acquire():
                    pass
                await pool.aclose()
            await until_gone(observer, app)
            await pool.aclose()

    async def test_a_closed_pool_refuses_new_users_and_those_who_wait(
        self, driver: AsyncDriver, app: str
    ) -> None:
        refused = 0

        async def wait(pool: AsyncPool) -> None:
            nonlocal refused
            with pytest.raises(ClosedError):
                async with pool.acquire(timeout=60):
                    pass
            refused += 1

        async with self.pool_of(driver, app, size=1) as pool:
            with anyio.fail_after(10):
                async with pool.acquire(), anyio.create_task_group() as group:
                    for _ in range(3):
                        group.start_soon(wait, pool)
                    await anyio.wait_all_tasks_blocked()
                    await pool.aclose()
            assert refused == 3
            with pytest.raises(ClosedError):
                async with pool.acquire():
                    pass
