"""Signals stop a worker process: with a grace, or by the watchdog if a handler can't be stopped."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.job_table import JobTable

if TYPE_CHECKING:
    from tests.cli.conftest import Roost, StartsRoost

pytestmark = pytest.mark.parametrize("backend", ["asyncio", "asyncio --uvloop", "trio"])

FOR_EVER = "600"
"""A grace that is longer than any test."""


@pytest.fixture
def with_job(
    backend: str, dsn: str, table: JobTable, tasks: Path, roost_command: StartsRoost
) -> WithJob:
    """Return a function that starts a worker and returns when it runs a job of the task."""

    def start(task: str, *, grace: str, once: bool = False) -> tuple[Roost, int]:
        job_id = table.add(task)
        run = roost_command(
            "run",
            *("-m", "tasks", "--backend", *backend.split(), "--shutdown-timeout", grace),
            *(["--once"] if once else []),
            ROOST_DSN=dsn,
        )
        run.wait_for("job has started")
        return run, job_id

    return start


if TYPE_CHECKING:
    from typing import Protocol

    class WithJob(Protocol):
        def __call__(self, task: str, *, grace: str, once: bool = False) -> tuple[Roost, int]: ...


def test_a_job_may_end_within_the_grace(with_job: WithJob, tasks: Path, table: JobTable) -> None:
    run, job_id = with_job("waits_for_file", grace=FOR_EVER)
    run.signal()
    run.wait_for("worker is stopping")
    late = table.add("quick")
    (tasks / "go").touch()

    assert run.ends() == 0
    assert table.get(job_id).state == "completed"
    assert table.get(late).state == "available"


@pytest.mark.parametrize("once", [False, True], ids=["run", "once"])
def test_after_the_grace_a_job_is_released_with_its_attempt(
    once: bool, with_job: WithJob, table: JobTable
) -> None:
    run, job_id = with_job("for_ever", grace="0.2", once=once)
    run.signal()

    assert run.ends() == 0
    job = table.get(job_id)
    assert (job.state, job.attempt, job.errors) == ("available", 0, [])
    assert table.workers() == []


def test_a_hangup_is_an_ordered_stop(with_job: WithJob, table: JobTable) -> None:
    run, job_id = with_job("for_ever", grace="0.2")
    run.signal(signal.SIGHUP)

    assert run.ends() == 0
    assert "signal received: SIGHUP" in run.output
    job = table.get(job_id)
    assert (job.state, job.attempt) == ("available", 0)


def test_under_nohup_a_hangup_does_not_stop_it(with_job: WithJob, table: JobTable) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does for its command
    try:
        run, _ = with_job("for_ever", grace="0.2")
    finally:
        signal.signal(signal.SIGHUP, before)
    run.signal(signal.SIGHUP)
    served = table.add("quick")
    deadline = time.monotonic() + 20
    while table.get(served).state != "completed":
        assert time.monotonic() < deadline, run.output
        time.sleep(0.02)
    run.signal(signal.SIGTERM)

    assert run.ends() == 0
    assert "SIGHUP" not in run.output


def test_a_second_signal_ends_the_grace(with_job: WithJob, table: JobTable) -> None:
    run, job_id = with_job("for_ever", grace=FOR_EVER)
    run.signal()
    run.wait_for("worker is stopping")
    run.signal()

    assert run.ends() == 0
    job = table.get(job_id)
    assert (job.state, job.attempt) == ("available", 0)


def test_a_third_signal_ends_the_process(with_job: WithJob, table: JobTable) -> None:
    run, job_id = with_job("ignores_cancel", grace=FOR_EVER)
    for count in range(1, 3):
        run.signal()
        run.wait_for("signal received", times=count)
    run.signal()

    assert run.ends() == 1
    assert "third signal" in run.output
    job = table.get(job_id)
    assert (job.state, job.attempt, job.errors) == ("available", 0, [])
    assert table.workers() == []


HANGS_AT_ITS_END = """
import anyio
import roost

@roost.job("quick")
def quick(): ...

async def hangs(worker):
    print("hook has started", flush=True)
    while True:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            pass

settings = roost.WorkerSettings(on_shutdown=hangs)
"""


def test_a_third_signal_removes_the_row_of_a_worker_that_runs_no_job(
    backend: str, dsn: str, tmp_path: Path, table: JobTable, roost_command: StartsRoost
) -> None:
    (tmp_path / "hanging.py").write_text(HANGS_AT_ITS_END)
    options = ("--backend", *backend.split(), "--shutdown-timeout", FOR_EVER)
    run = roost_command("run", "-m", "hanging:settings", *options, ROOST_DSN=dsn)
    run.wait_for("worker is ready")
    run.signal()
    run.wait_for("hook has started")
    run.signal()
    run.wait_for("signal received", times=2)
    run.signal()

    assert run.ends() == 1
    assert table.workers() == []


def test_a_handler_that_swallows_its_cancel_is_ended_by_the_watchdog(
    with_job: WithJob, table: JobTable
) -> None:
    run, job_id = with_job("ignores_cancel", grace=FOR_EVER)
    run.signal()
    run.wait_for("signal received")
    run.signal()

    assert run.ends() == 1
    assert "the forced stop took too long" in run.output
    job = table.get(job_id)
    assert (job.state, job.attempt, job.errors) == ("available", 0, [])
    assert table.workers() == []


def test_a_thread_that_goes_on_does_not_hold_the_process(
    with_job: WithJob, table: JobTable
) -> None:
    run, job_id = with_job("stuck_thread", grace="0.2")
    run.signal()

    assert run.ends() == 0
    assert "is abandoned: it does not end" in run.output
    job = table.get(job_id)
    assert (job.state, job.attempt, job.errors) == ("available", 0, [])
    assert table.workers() == []


def test_a_handler_that_blocks_the_loop_is_ended_by_the_watchdog(
    with_job: WithJob, table: JobTable
) -> None:
    run, job_id = with_job("blocks_the_loop", grace=FOR_EVER)
    run.signal(signal.SIGTERM)
    run.signal(signal.SIGINT)

    assert run.ends() == 1
    assert "the forced stop took too long" in run.output
    job = table.get(job_id)
    assert (job.state, job.attempt, job.errors) == ("available", 0, [])
    assert table.workers() == []


def test_the_watchdog_waits_for_the_grace(with_job: WithJob, table: JobTable) -> None:
    run, job_id = with_job("blocks_the_loop", grace="0")
    run.signal()

    assert run.ends() == 1
    assert "the stop took too long" in run.output
    job = table.get(job_id)
    assert (job.state, job.attempt, job.errors) == ("available", 0, [])
    assert table.workers() == []


def test_a_stop_while_the_database_is_away_is_in_order(
    backend: str, tasks: Path, roost_command: StartsRoost
) -> None:
    run = roost_command(
        "run",
        *("-m", "tasks", "--backend", *backend.split()),
        *("--dsn", "postgresql://me@127.0.0.1:1/none"),
        *("--startup-retry-delay", FOR_EVER),
    )
    run.wait_for("database unavailable at start")
    run.signal()
    assert run.ends() == 0
