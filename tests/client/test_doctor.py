"""The doctor on both event loops: it finds what the blocking client finds, and leaves nothing."""

from __future__ import annotations

import anyio
import psycopg
import pytest
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable

from roost import AsyncRoost, Finding, Roost

pytestmark = pytest.mark.anyio


def outline(found: list[Finding]) -> list[tuple[str, str, str | None]]:
    return [(finding.check, finding.level.value, finding.subject) for finding in found]


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
async def test_all_clients_find_the_same(
    dsn: str, table: JobTable, driver: str, anyio_backend_name: str
) -> None:
    if driver == "asyncpg" and anyio_backend_name == "trio":
        pytest.skip("asyncpg is for asyncio")
    table.add()
    with Roost(dsn) as blocking:
        expected = outline(blocking.doctor())
    async with AsyncRoost(dsn, driver=driver) as client:
        found = await client.doctor()
    assert outline(found) == expected
    assert ("workers", "trouble", None) in expected
    [pooler] = [finding for finding in found if finding.check == "pooler"]
    assert pooler.data["pooler"] is False


async def test_a_cancel_leaves_a_usable_client_and_no_connection_behind(
    dsn: str, table: JobTable, client: AsyncRoost
) -> None:
    with psycopg.connect(dsn) as migration:
        migration.execute("lock table roost.workers in access exclusive mode")
        with anyio.move_on_after(0.2) as scope:
            await client.doctor()
        assert scope.cancelled_caught
    others = """
        select count(*) from pg_stat_activity
        where datname = current_database() and application_name = 'roost' and state <> 'idle'
        """
    await eventually(lambda: table.value(others) == 0)
    assert [finding for finding in await client.doctor() if finding.check == "workers"]
