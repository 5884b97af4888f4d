"""SIGTERM: running jobs are released without using an attempt, and the process ends in time.

Each test stops one worker of each backend at the same time.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.chaos.conftest import Chaos, WorkerProcess

GRACE = 1.0
AFTER_GRACE = 2.0
"""Seconds that the exit may take after the grace, for every kind of handler."""


WATCHDOG = 3.0
"""Seconds after a second signal until the watchdog ends the process."""


def one_job_each(chaos: Chaos, *tasks: str, **options: Any) -> dict[int, WorkerProcess]:
    """Start a worker on each backend with one running job each; return them by job id.

    One attempt is all that the jobs have: if it counted, they would be discarded.
    """
    chaos.start_ready("asyncio", "trio", concurrency=1, prefetch=0, **options)
    assert len(tasks) == 2
    jobs = [chaos.hold(task, gate="never", max_attempts=1) for task in tasks]
    return {job_id: chaos.worker(chaos.started(job_id).pid) for job_id in jobs}


def was_released(chaos: Chaos, job_id: int) -> bool:
    """Say whether a job is as it was before its claim."""
    job = chaos.table.get(job_id)
    return (job.state, job.attempt, job.errors) == ("available", 0, [])


def send_all(workers: Iterable[WorkerProcess], number: signal.Signals) -> float:
    """Send each of the workers a signal; return when the first got it."""
    return min([worker.send(number) for worker in workers])


def exits(chaos: Chaos, workers: list[WorkerProcess], *, since: float, within: float) -> list[int]:
    """Wait until all have ended, and return their codes."""
    codes = []
    for worker in workers:
        code, ended_at = worker.ended()
        chaos.measure(f"signal to exit, {worker.log_file.stem}", ended_at - since)
        assert ended_at - since < within
        codes.append(code)
    return codes


@pytest.mark.parametrize("task", ["hold", "hold_thread"])
def test_a_job_that_exceeds_the_grace_is_released_and_the_process_exits(
    chaos: Chaos, task: str
) -> None:
    running = one_job_each(chaos, task, task, shutdown_timeout=GRACE)
    workers = list(running.values())
    stopped_at = send_all(workers, signal.SIGTERM)
    assert exits(chaos, workers, since=stopped_at, within=GRACE + AFTER_GRACE) == [0, 0]
    assert all(was_released(chaos, job_id) for job_id in running)
    assert chaos.table.workers() == []
    assert len(chaos.journal(event="interrupted")) == (2 if task == "hold" else 0)


def test_an_uninterruptible_job_is_released_by_the_watchdog(chaos: Chaos) -> None:
    running = one_job_each(chaos, "hold_shielded", "block", shutdown_timeout=60)
    workers = list(running.values())
    send_all(workers, signal.SIGTERM)
    forced_at = send_all(workers, signal.SIGINT)
    assert exits(chaos, workers, since=forced_at, within=WATCHDOG + AFTER_GRACE) == [1, 1]
    assert all(was_released(chaos, job_id) for job_id in running)
    assert chaos.table.workers() == []


def test_heartbeats_continue_while_a_worker_drains(chaos: Chaos) -> None:
    running = one_job_each(chaos, "hold", "hold", shutdown_timeout=60, heartbeat_interval=0.1)
    for worker in running.values():
        worker.send(signal.SIGTERM)
        worker.logged("worker is stopping")
    chaos.table.script("create table stopped as select now() as at")
    chaos.until(
        lambda: chaos.table.value(
            "select count(*) = 2 from roost.workers, stopped "
            "where heartbeat_at > stopped.at + interval '0.5 seconds'"
        )
    )
    assert [worker.process.poll() for worker in running.values()] == [None, None]
    (chaos.folder / "never").touch()
    assert [worker.ended()[0] for worker in running.values()] == [0, 0]
    assert chaos.table.states() == {"completed": 2}


def test_a_second_signal_ends_the_grace(chaos: Chaos) -> None:
    running = one_job_each(chaos, "hold", "hold_thread", shutdown_timeout=60)
    for worker in running.values():
        worker.send(signal.SIGTERM)
        worker.logged("worker is stopping")
    forced_at = send_all(running.values(), signal.SIGINT)
    exits(chaos, list(running.values()), since=forced_at, within=AFTER_GRACE)
    assert all(was_released(chaos, job_id) for job_id in running)


def test_a_worker_that_can_not_reach_its_database_stops_at_once(chaos: Chaos) -> None:
    workers = [
        chaos.start(backend, dsn="postgresql://nobody@127.0.0.1:1/nothing")
        for backend in ("asyncio", "trio")
    ]
    for worker in workers:
        worker.logged("database unavailable at start")
    stopped_at = send_all(workers, signal.SIGTERM)
    assert exits(chaos, workers, since=stopped_at, within=AFTER_GRACE) == [0, 0]


def test_a_run_once_is_stopped_like_any_worker(chaos: Chaos) -> None:
    jobs = [chaos.hold(gate="never", max_attempts=1) for _ in range(2)]
    workers = [
        chaos.start(backend, "--once", concurrency=1, prefetch=0, shutdown_timeout=GRACE)
        for backend in ("asyncio", "trio")
    ]
    for job_id in jobs:
        chaos.started(job_id)
    stopped_at = send_all(workers, signal.SIGTERM)
    assert exits(chaos, workers, since=stopped_at, within=GRACE + AFTER_GRACE) == [0, 0]
    assert all(was_released(chaos, job_id) for job_id in jobs)
