"""The loop that periodic lanes share, and the order in which lanes start and stop."""

from __future__ import annotations

import asyncio

import anyio
import pytest
from anyio.abc import TaskStatus

from roost import DatabaseUnavailableError, WorkerCrashedError
from roost._model.logs import StructuredLogger
from roost._worker.lane import MAX_BACKOFF, Lanes, backoff, every

pytestmark = pytest.mark.anyio

LOGGER = StructuredLogger("roost.test")


async def test_every_calls_at_once_and_then_at_the_interval() -> None:
    calls = 0

    async def once() -> None:
        nonlocal calls
        calls += 1

    with anyio.move_on_after(0.1):
        await every(100, once, logger=LOGGER)
    assert calls == 1
    with anyio.move_on_after(1):
        await every(0.001, once, logger=LOGGER)
    assert calls > 20


async def test_every_continues_while_the_database_is_unavailable() -> None:
    calls = 0
    healed = anyio.Event()

    async def once() -> None:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise DatabaseUnavailableError("away")
        healed.set()

    async with anyio.create_task_group() as group:
        # Sooner than the interval.
        group.start_soon(lambda: every(1000, once, logger=LOGGER))
        with anyio.fail_after(10):
            await healed.wait()
        group.cancel_scope.cancel()
    assert calls == 3


async def test_every_raises_other_errors() -> None:
    async def once() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        await every(0.01, once, logger=LOGGER)


def test_the_backoff_grows_and_is_bounded() -> None:
    assert all(0.1 <= backoff(1) <= 0.2 for _ in range(100))
    assert all(backoff(n) <= MAX_BACKOFF for n in range(1, 5_000, 100))
    assert backoff(5_000) >= MAX_BACKOFF / 2


class NotingLane:
    def __init__(self, name: str, notes: list[str], *, crash_on: str = "") -> None:
        self.name = name
        self.notes = notes
        self.crash_on = crash_on

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        self.notes.append(f"{self.name} runs")
        if self.crash_on == "start":
            raise LookupError(self.name)
        task_status.started()
        if self.crash_on == "run":
            raise LookupError(self.name)
        if self.crash_on == "exit":
            raise SystemExit(3)
        if self.crash_on == "return":
            return
        if self.crash_on == "native cancel":
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().call_soon(task.cancel)
        try:
            await anyio.sleep_forever()
        finally:
            self.notes.append(f"{self.name} ends")

    async def stop(self) -> None:
        self.notes.append(f"{self.name} stops")


async def test_lanes_start_from_the_outside_and_stop_from_the_inside() -> None:
    notes: list[str] = []
    crashes: list[BaseException] = []
    async with anyio.create_task_group() as group:
        lanes = Lanes(group, on_crash=crashes.append)
        async with (
            lanes.running(NotingLane("outer", notes)),
            lanes.running(NotingLane("inner", notes)),
        ):
            notes.append("ready")
    assert notes == [
        "outer runs",
        "inner runs",
        "ready",
        "inner stops",
        "inner ends",
        "outer stops",
        "outer ends",
    ]
    assert crashes == []


CRASHES = {
    "start": LookupError,
    "run": LookupError,
    "exit": SystemExit,
    "return": WorkerCrashedError,
    "native cancel": WorkerCrashedError,
}


@pytest.mark.parametrize("crash_on", CRASHES)
async def test_a_crash_of_a_lane_is_reported_and_blocks_no_other(
    crash_on: str, anyio_backend_name: str
) -> None:
    if crash_on == "native cancel" and anyio_backend_name == "trio":
        pytest.skip("tasks of trio have no cancel of their own")
    notes: list[str] = []
    crashes: list[BaseException] = []
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            lanes = Lanes(group, on_crash=crashes.append)
            async with (
                lanes.running(NotingLane("outer", notes)),
                lanes.running(NotingLane("inner", notes, crash_on=crash_on)),
            ):
                while not crashes:
                    await anyio.lowlevel.checkpoint()
    assert [type(crash) for crash in crashes] == [CRASHES[crash_on]]
    assert notes[-2:] == ["outer stops", "outer ends"]
