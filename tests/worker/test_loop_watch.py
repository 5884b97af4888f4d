"""A job that blocks the event loop is logged during the block, and its duration afterwards."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import anyio
import pytest
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import HandlerRegistry, RetryJob, Worker, current_job, job
from roost._worker import loop_watch

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]


DEFAULTS = {name: getattr(loop_watch, name) for name in ("INTERVAL", "MAX_BLOCKED")}


def logged(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "roost.worker.loop"]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_watch, "INTERVAL", 0.05)
    monkeypatch.setattr(loop_watch, "MAX_BLOCKED", 0.3)


async def test_a_blocking_job_is_logged_once_with_its_stack_and_duration(
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
    caplog: pytest.LogCaptureFixture,
) -> None:
    @job("blocks", registry=registry)
    async def blocks() -> None:
        for _ in range(2):
            time.sleep(1)  # sleeps: blocks the loop
            await anyio.sleep(0.2)  # sleeps: the loop turns again
        if current_job().attempt == 1:
            raise RetryJob("once more", in_=0)

    table.add("other")
    job_id = table.add("blocks")
    async with working(make_worker()):
        await eventually(lambda: table.get(job_id).state == "completed")
    assert table.get(job_id).attempt == 2
    first, end = logged(caplog)
    assert f"by job {job_id} (blocks), which holds up" in first.message
    assert first.levelname == "WARNING"
    assert 0.3 <= first.__dict__["seconds"] < 1
    assert first.exc_text is not None
    assert first.exc_text.count("sleep(1)") == 1
    assert "execute.py" not in first.exc_text
    assert "event loop was blocked for " in end.message
    assert f" s by job {job_id} (blocks)" in end.message
    assert end.__dict__["seconds"] >= 0.7
    for record in (first, end):
        shown = [record.__dict__[name] for name in ("job_id", "task", "queue", "attempt")]
        assert shown == [job_id, "blocks", "default", 1]


async def test_each_job_that_blocks_for_more_than_a_second_is_named(
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in DEFAULTS.items():
        monkeypatch.setattr(loop_watch, name, value)

    @job("blocks", registry=registry)
    async def blocks() -> None:
        await anyio.sleep(0.37)  # sleeps: so that the blocks begin at different times of a check
        time.sleep(1.4)  # sleeps: blocks the loop

    ids = [table.add("blocks") for _ in range(3)]
    async with working(make_worker(concurrency=1)):
        await eventually(lambda: all(table.get(one).state == "completed" for one in ids), within=60)
    named = [record.__dict__["job_id"] for record in logged(caplog) if record.exc_text]
    assert sorted(named) == ids


async def test_code_that_keeps_the_interpreter_lock_is_reported(
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
    caplog: pytest.LogCaptureFixture,
) -> None:
    @job("computes", registry=registry)
    async def computes() -> None:
        began = time.monotonic()
        while time.monotonic() < began + 1.5:
            sum(range(50_000_000))

    job_id = table.add("computes")
    async with working(make_worker()):
        await eventually(lambda: table.get(job_id).state == "completed", within=60)
    assert any(f"by job {job_id} (computes)" in record.message for record in logged(caplog))


async def test_a_block_by_a_task_that_a_job_started_is_logged_with_all_running_jobs(
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def child() -> None:
        time.sleep(1)  # sleeps: blocks the loop

    @job("starts", registry=registry)
    async def starts() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(child)

    job_id = table.add("starts")
    async with working(make_worker()):
        await eventually(lambda: table.get(job_id).state == "completed")
    first = logged(caplog)[0]
    assert f"not by a job's own task; jobs that run: {job_id}" in first.message
    assert first.exc_text is not None
    assert "sleep(1)" in first.exc_text


async def test_a_slow_thread_is_not_reported_as_a_blocked_loop(
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
    caplog: pytest.LogCaptureFixture,
) -> None:
    @job("sync", registry=registry)
    def sync() -> None:
        time.sleep(1)  # sleeps: longer than the loop may stand still

    job_id = table.add("sync")
    async with working(make_worker()):
        await eventually(lambda: table.get(job_id).state == "completed")
    assert logged(caplog) == []


async def test_a_suspended_process_is_not_reported_as_a_blocked_loop(
    table: JobTable, make_worker: MakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    waker = (
        "import os, signal, sys, time; "
        "time.sleep(1); "  # sleeps: as long as the process is stopped
        "os.kill(int(sys.argv[1]), signal.SIGCONT)"
    )
    async with working(make_worker()):
        with subprocess.Popen([sys.executable, "-c", waker, str(os.getpid())]):
            os.kill(os.getpid(), signal.SIGSTOP)
        await anyio.sleep(0.3)  # sleeps: several checks
    assert logged(caplog) == []


async def test_the_watching_thread_ends_with_the_worker(
    make_worker: MakeWorker, table: JobTable
) -> None:
    async with working(make_worker()):
        assert "roost loop watch" in {thread.name for thread in threading.enumerate()}
    await eventually(
        lambda: "roost loop watch" not in {thread.name for thread in threading.enumerate()}
    )
