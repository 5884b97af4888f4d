"""Cron entries are added and removed by both clients, in the caller's transaction."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any

import anyio
import psycopg
import pytest
from pydantic import BaseModel

from roost import (
    AsyncRoost,
    CronEntry,
    HandlerRegistry,
    InvalidJobError,
    InvalidSettingError,
    Roost,
    RoostError,
    UnknownTaskError,
    cron,
    job,
)

pytestmark = pytest.mark.anyio


class Args(BaseModel):
    tenant: int


@pytest.fixture
def registry(registry: HandlerRegistry) -> HandlerRegistry:
    @job(
        "report",
        queue="reports",
        priority=3,
        max_attempts=2,
        tags=["night"],
        timeout_seconds=60,
        registry=registry,
    )
    async def report(tenant: int) -> None: ...

    return registry


async def test_an_entry_belongs_to_the_callers_transaction(client: AsyncRoost) -> None:
    with suppress(psycopg.Rollback):
        async with client.transaction() as conn:
            await client.add_cron("it", "@daily", "report", args={"tenant": 7}, conn=conn)
            raise psycopg.Rollback
    assert await client.list_cron() == []
    async with client.transaction() as conn:
        await client.add_cron("it", "@daily", "report", args={"tenant": 7}, conn=conn)
        assert await client.list_cron() == []
    with suppress(psycopg.Rollback):
        async with client.transaction() as conn:
            assert await client.remove_cron("it", conn=conn)
            raise psycopg.Rollback
    assert [entry.name for entry in await client.list_cron()] == ["it"]
    assert await client.remove_cron("it")
    assert not await client.remove_cron("it")


async def test_the_defaults_of_the_task_apply_to_what_is_not_passed(client: AsyncRoost) -> None:
    await client.add_cron("it", "@daily", "report", args=Args(tenant=7), timezone="Asia/Tokyo")
    [entry] = await client.list_cron()
    assert (entry.queue, entry.priority, entry.max_attempts) == ("reports", 3, 2)
    assert (entry.args, entry.timezone_name, entry.source) == (
        {"tenant": 7},
        "Asia/Tokyo",
        "database",
    )
    made = await client.get(await client.run_cron_now("it"))
    assert (made.tags, made.timeout_seconds, made.queue) == (["night"], 60, "reports")
    await client.add_cron("it", "@daily", "report", args={"tenant": 7}, queue="default", tags=["x"])
    made = await client.get(await client.run_cron_now("it"))
    assert (made.tags, made.queue, made.priority) == (["x"], "default", 3)
    await client.add_cron("it", "@daily", "unknown here")
    [entry] = await client.list_cron()
    assert (entry.queue, entry.priority, entry.max_attempts) == ("default", 0, 20)


async def test_an_entry_object_is_accepted_alone(client: AsyncRoost) -> None:
    await client.add_cron(CronEntry("it", "@hourly", "report", {"tenant": 7}, misfire="all"))
    [entry] = await client.list_cron()
    assert (entry.misfire, entry.queue, entry.description) == ("all", "reports", "Every hour")


BAD: dict[str, tuple[dict[str, Any], type[RoostError]]] = {
    "expression": ({"expression": "61 * * * *"}, InvalidSettingError),
    "no expression": ({"expression": None}, InvalidSettingError),
    "zone": ({"timezone": "Mars/Olympus"}, InvalidSettingError),
    "name": ({"name": ""}, InvalidSettingError),
    "task": ({"task": ""}, InvalidSettingError),
    "function": ({"task": len}, UnknownTaskError),
    "args": ({"args": {"tenant": object()}}, InvalidJobError),
    "no dict": ({"args": [1]}, InvalidJobError),
    "missing args": ({"args": {}}, InvalidSettingError),
    "queue": ({"queue": ""}, InvalidSettingError),
    "tags": ({"tags": "night"}, InvalidJobError),
    "timeout": ({"timeout_seconds": 0}, InvalidJobError),
    "misfire": ({"misfire": "none"}, InvalidSettingError),
    "jitter": ({"jitter": -1}, InvalidSettingError),
    "entry and more": (
        {"name": CronEntry("it", "@daily", "report", {"tenant": 1})},
        InvalidSettingError,
    ),
}


@pytest.mark.parametrize("case", BAD)
async def test_a_bad_value_is_refused_before_anything_is_touched(
    client: AsyncRoost, case: str
) -> None:
    change, error = BAD[case]
    call = {"name": "it", "expression": "@daily", "task": "report", "args": {"tenant": 7}, **change}
    async with client.transaction() as conn:
        with pytest.raises(error):
            await client.add_cron(**call, conn=conn)
        await client.add_cron("good", "@daily", "report", args={"tenant": 7}, conn=conn)
    assert [entry.name for entry in await client.list_cron()] == ["good"]


@pytest.mark.parametrize(
    "extra",
    [{"queue": "default"}, {"timezone": "Asia/Tokyo"}, {"misfire": "all"}, {"jitter": 3}],
    ids=str,
)
async def test_an_entry_object_is_refused_with_fields_beside_it(
    client: AsyncRoost, extra: dict[str, Any]
) -> None:
    entry = CronEntry("it", "@hourly", "report", {"tenant": 7})
    with pytest.raises(InvalidSettingError, match=f"pass it without {next(iter(extra))}"):
        await client.add_cron(entry, **extra)
    # An entry has no field for these.
    await client.add_cron(entry, tags=["x"], timeout_seconds=5)
    made = await client.get(await client.run_cron_now("it"))
    assert (made.tags, made.timeout_seconds) == (["x"], 5)


async def test_only_code_has_functions_and_starts(client: AsyncRoost) -> None:
    def made(tick: datetime) -> dict[str, Any]:
        return {}

    refused: list[Callable[[], CronEntry]] = [
        lambda: CronEntry("it", "@daily", "report", made),
        lambda: CronEntry("it", "@daily", "report", {"tenant": 1}, run_on_start=True),
    ]
    for entry in refused:
        with pytest.raises(InvalidSettingError, match="only an entry of the code"):
            await client.add_cron(entry())


def test_the_blocking_client_has_the_same_verbs(dsn: str, registry: HandlerRegistry) -> None:
    with Roost(dsn, registry=registry) as client, psycopg.connect(dsn) as conn:
        client.add_cron("it", "@daily", "report", args={"tenant": 7}, conn=conn)
        assert client.list_cron() == []
        conn.commit()
        [entry] = client.list_cron()
        assert (entry.queue, entry.description) == ("reports", "At 00:00")
        assert client.remove_cron("it", conn=conn)
        conn.rollback()
        assert client.remove_cron("it")
        with pytest.raises(InvalidSettingError):
            client.add_cron("it", "61 * * * *", "report")


async def test_a_process_without_the_code_can_not_make_the_args(
    client: AsyncRoost, registry: HandlerRegistry, dsn: str
) -> None:
    def made(tick: datetime) -> dict[str, Any]:
        return {"tenant": tick.year}

    own = HandlerRegistry()

    @cron("@daily", name="it", args=made, handler_registry=own)
    async def yearly(tenant: int) -> None: ...

    async with AsyncRoost(dsn, registry=own) as roost:
        worker = roost.worker()
        async with anyio.create_task_group() as group:
            await group.start(worker.run)
            worker.request_stop()
        job_id = await roost.run_cron_now("it")
    assert (await client.get(job_id)).args["tenant"] >= 2026
    with pytest.raises(InvalidSettingError, match="a process that has imported that code"):
        await client.run_cron_now("it")
