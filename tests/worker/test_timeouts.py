"""An attempt that exceeds its timeout is recorded as timed out, even if it ignores the cancel."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import HandlerRegistry, Worker, job
from roost._worker.running_job import RunningJob

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Divide ``timeout_seconds`` by 10."""
    original = RunningJob.time_out_after
    monkeypatch.setattr(
        RunningJob, "time_out_after", lambda job, seconds: original(job, seconds / 10)
    )


async def drain(worker: Worker) -> None:
    """Run the due jobs. A handler that no timeout ends fails the test."""
    with anyio.fail_after(20):
        await worker.run_once()


def timed_out(table: JobTable, job_id: int) -> dict[str, Any]:
    row = table.get(job_id)
    assert (row.state, row.attempt) == ("discarded", 1)
    [error] = row.errors
    return error


async def test_an_async_handler_is_interrupted_at_its_limit(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, short: None
) -> None:
    unwound = False

    @job("slow", registry=registry)
    async def slow() -> None:
        nonlocal unwound
        try:
            await anyio.sleep_forever()
        finally:
            unwound = True

    job_id = table.add("slow", timeout_seconds=1, max_attempts=1)
    await drain(make_worker())
    assert unwound
    error = timed_out(table, job_id)
    assert error["error"] == "JobTimeoutError: timed out after 1 s"
    assert error["attempt"] == 1


async def test_a_handler_that_swallows_the_cancel_is_recorded_as_timed_out(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, short: None
) -> None:
    @job("stubborn", registry=registry)
    async def stubborn() -> str:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            pass
        return "done all the same"

    job_id = table.add("stubborn", timeout_seconds=1, max_attempts=1)
    await drain(make_worker())
    assert "timed out after 1 s" in timed_out(table, job_id)["error"]
    assert table.get(job_id).result is None


async def test_a_handler_that_turns_the_cancel_into_an_error_is_recorded_as_timed_out(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, short: None
) -> None:
    @job("converter", registry=registry)
    async def converter() -> None:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            raise ValueError("of its own") from None

    job_id = table.add("converter", timeout_seconds=1, max_attempts=1)
    await drain(make_worker())
    assert "timed out after 1 s" in timed_out(table, job_id)["error"]


async def test_a_timeout_error_of_the_handler_is_a_failure_and_not_a_job_timeout(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("own", registry=registry)
    async def own() -> None:
        with anyio.fail_after(0.01):
            await anyio.sleep_forever()

    job_id = table.add("own", timeout_seconds=100, max_attempts=1)
    await drain(make_worker())
    assert timed_out(table, job_id)["error"] == "TimeoutError"


async def test_a_sync_handler_keeps_its_slot_until_its_thread_has_ended(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, short: None
) -> None:
    go_on = threading.Event()
    running: list[str] = []

    @job("blocking", registry=registry)
    def blocking(name: str) -> None:
        running.append(name)
        go_on.wait(timeout=10)
        running.remove(name)

    @job("next", registry=registry)
    def following() -> list[str]:
        return list(running)

    first = table.add("blocking", args={"name": "first"}, timeout_seconds=1, max_attempts=2)
    second = table.add("next", priority=1)
    async with working(make_worker(concurrency=1, prefetch=0)):
        await eventually(lambda: running == ["first"])
        await anyio.sleep(0.3)  # sleeps: longer than its timeout
        assert table.get(first).state == "executing"
        assert table.get(second).state == "available"
        go_on.set()
        await eventually(lambda: table.get(second).state == "completed")
    assert table.get(second).result == []
    assert "timed out after 1 s" in table.get(first).errors[0]["error"]


async def test_the_timeout_does_not_count_the_wait_for_a_slot(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, short: None
) -> None:
    @job("hold", registry=registry)
    def hold() -> None:
        threading.Event().wait(0.5)

    @job("work", registry=registry)
    def work() -> None: ...

    table.add("hold")
    jobs = [table.add("work", timeout_seconds=3, max_attempts=1) for _ in range(3)]
    await make_worker(concurrency=1, prefetch=10).run_once()
    assert {table.get(job_id).state for job_id in jobs} == {"completed"}
