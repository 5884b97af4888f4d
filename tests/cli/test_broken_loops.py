"""If its event loop breaks, a worker releases its jobs and exits with an error."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.job_table import JobTable

if TYPE_CHECKING:
    from tests.cli.conftest import StartsRoost

TASKS = """
import asyncio, sys
import anyio, roost

@roost.job("neighbor")
async def neighbor():
    print("job has started", flush=True)
    await anyio.sleep_forever()

@roost.job("stops_the_loop")
async def stops_the_loop():
    asyncio.get_running_loop().stop()
    await anyio.sleep_forever()

@roost.job("cancels_all_tasks")
async def cancels_all_tasks():
    for task in asyncio.all_tasks():
        task.cancel()
    await anyio.sleep_forever()

@roost.job("crashes_trio")
async def crashes_trio():
    import trio

    async def crash():
        raise ValueError("in a system task")

    trio.lowlevel.spawn_system_task(crash)
    await anyio.sleep_forever()

@roost.job("breaks_trio")
async def breaks_trio():
    import trio

    trio.lowlevel.current_task()._schedule_points = None
    await anyio.sleep_forever()
"""

FOR_EVER = "600"
"""A grace that is longer than any test."""
CASES = [
    ("asyncio", "stops_the_loop", FOR_EVER),
    ("asyncio --uvloop", "stops_the_loop", FOR_EVER),
    ("asyncio", "cancels_all_tasks", FOR_EVER),
    ("asyncio --uvloop", "cancels_all_tasks", FOR_EVER),
    # Here the loop still runs the other handlers.
    ("trio", "crashes_trio", "0.2"),
    ("trio", "breaks_trio", FOR_EVER),
]


@pytest.mark.parametrize(("backend", "task", "grace"), CASES)
def test_the_jobs_are_released_and_the_exit_code_is_1(
    dsn: str,
    table: JobTable,
    tmp_path: Path,
    roost_command: StartsRoost,
    backend: str,
    task: str,
    grace: str,
) -> None:
    (tmp_path / "tasks.py").write_text(TASKS)
    neighbor = table.add("neighbor")
    options = ("-m", "tasks", "--backend", *backend.split(), "--shutdown-timeout", grace)
    run = roost_command("run", *options, ROOST_DSN=dsn)
    run.wait_for("job has started")
    breaking = table.add(task, max_attempts=1)
    assert run.ends() == 1
    row = table.get(neighbor)
    assert (row.state, row.attempt, row.errors) == ("available", 0, []), run.output
    assert table.get(breaking).state != "executing"
    assert table.workers() == []
