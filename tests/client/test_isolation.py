"""A database whose transactions are repeatable read or serializable by default."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import anyio
import psycopg
import pytest
from tests.support.job_table import JobTable

from roost import AsyncRoost, DuplicateUniqueJobError, Roost

KEYS = 3


@pytest.fixture(params=["repeatable read", "serializable"])
def strict_dsn(request: pytest.FixtureRequest, dsn: str) -> str:
    """Return the DSN of a database with this default, in which other sessions change jobs."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(
            f"alter database {name} set default_transaction_isolation = '{request.param}'"
        )
    return dsn


@pytest.mark.anyio
@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
async def test_an_enqueue_of_its_own_never_fails_by_serialization(
    anyio_backend: tuple[str, object], strict_dsn: str, table: JobTable, driver: str
) -> None:
    if anyio_backend[0] == "trio" and driver == "asyncpg":
        pytest.skip("asyncpg runs on asyncio only")
    ended = 0

    async def one(number: int) -> None:
        nonlocal ended
        try:
            keyed = await client.enqueue("work", unique_key=f"k{number % KEYS}")
        except DuplicateUniqueJobError as error:
            keyed = error.existing_id
        parent = await client.enqueue("work")
        await client.enqueue("work", depends_on=[parent])
        await client.cancel(keyed)
        with suppress(DuplicateUniqueJobError):
            await client.retry(keyed)
        ended += 1

    client = AsyncRoost(strict_dsn, driver=driver)
    async with client, anyio.create_task_group() as group:
        for number in range(60):
            group.start_soon(one, number)
    assert ended == 60


def test_an_enqueue_of_the_blocking_client_never_fails_by_serialization(strict_dsn: str) -> None:
    with Roost(strict_dsn) as client, ThreadPoolExecutor(10) as threads:

        def one(number: int) -> int:
            try:
                keyed = client.enqueue("work", unique_key=f"k{number % KEYS}")
            except DuplicateUniqueJobError as error:
                keyed = error.existing_id
            client.enqueue("work", depends_on=[client.enqueue("work")])
            client.cancel(keyed)
            return number

        assert list(threads.map(one, range(60))) == list(range(60))
