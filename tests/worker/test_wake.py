"""A wake that is set between a check and a wait is not lost."""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint

from roost._worker.lane import Wake

pytestmark = pytest.mark.anyio


async def test_a_wake_set_before_the_wait_ends_it() -> None:
    wake = Wake()
    wake.set()
    wake.set()
    with anyio.fail_after(1):
        await wake.wait()
    with anyio.move_on_after(0.01) as second:
        await wake.wait()
    assert second.cancelled_caught


async def test_a_wake_set_during_the_wait_ends_it() -> None:
    wake = Wake()
    async with anyio.create_task_group() as group:
        group.start_soon(wake.wait)
        await anyio.wait_all_tasks_blocked()
        wake.set()
    with anyio.move_on_after(0.01) as second:
        await wake.wait()
    assert second.cancelled_caught


async def test_a_cancelled_wait_leaves_it_set() -> None:
    wake = Wake()
    wake.set()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await wake.wait()
    with anyio.fail_after(1):
        await wake.wait()


async def test_a_wake_set_between_two_waits_is_not_lost() -> None:
    wake = Wake()
    pending = 0
    seen = 0

    async def produce() -> None:
        nonlocal pending
        for _ in range(500):
            pending += 1
            wake.set()
            await checkpoint()

    async with anyio.create_task_group() as group:
        group.start_soon(produce)
        with anyio.fail_after(5):
            while seen < 500:
                await wake.wait()
                seen += pending
                pending = 0
    assert seen == 500
