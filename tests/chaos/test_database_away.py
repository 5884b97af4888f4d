"""A database restarts, is unavailable or does not answer: work resumes, and none is done twice."""

from __future__ import annotations

import signal
import socket
import time
from typing import TYPE_CHECKING, Any, Literal

import pytest

if TYPE_CHECKING:
    from tests.chaos.conftest import Chaos, Wire

JOBS = 8
AWAY = 3.0


def listening(chaos: Chaos) -> int:
    """Return how many workers hold a listening connection."""
    return chaos.table.connections("roost listen %")


@pytest.mark.parametrize("how", ["fast", "immediate", "away"])
def test_jobs_that_end_while_postgres_restarts_are_written_once(
    restartable_chaos: Chaos, restartable_server: Any, how: Literal["fast", "immediate", "away"]
) -> None:
    chaos = restartable_chaos
    workers = chaos.start_ready("asyncio", "trio", poll_interval=30)
    jobs = [chaos.hold() for _ in range(JOBS)]
    for job_id in jobs:
        chaos.started(job_id)

    restartable_server.stop("fast" if how == "away" else how)
    chaos.open("gate")
    chaos.until(lambda: len(chaos.journal(event="ended")) == JOBS)
    if how == "away":
        time.sleep(AWAY)  # sleeps: the length of the outage
    restartable_server.start()
    back_at = time.monotonic()
    chaos.reconnect()

    chaos.ends(jobs, "completed")
    chaos.measure("back to all written", time.monotonic() - back_at)
    assert len(chaos.journal(event="started")) == JOBS
    assert all(chaos.table.get(job_id).attempt == 1 for job_id in jobs)
    assert all(chaos.table.get(job_id).errors == [] for job_id in jobs)

    chaos.until(lambda: listening(chaos) == len(workers))
    chaos.measure("back to listening", time.monotonic() - back_at)
    # No worker polls that often: it was a notification.
    enqueued_at = time.monotonic()
    job_id = chaos.hold(gate="never")
    assert chaos.started(job_id).at - enqueued_at < 5
    chaos.cancel(job_id)
    assert chaos.reached(job_id, "cancelled") - enqueued_at < 10


KILL_ONCE = """
create sequence killed;
create function kill_once() returns trigger language plpgsql as $$
begin
    -- A sequence, because it keeps its step when the killed transaction goes.
    if nextval('killed') = 1 then
        perform pg_terminate_backend(pg_backend_pid());
    end if;
    return new;
end $$;
create trigger kill_once before update on roost.jobs
for each row when (new.state = 'completed') execute function kill_once();
"""

WAIT = """
create function wait_for_test() returns trigger language plpgsql as $$
begin
    perform pg_advisory_xact_lock(7);
    return new;
end $$;
create trigger wait_for_test before update on roost.jobs
for each row when (new.state = 'completed') execute function wait_for_test();
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_connection_killed_during_the_write_of_a_result_causes_no_second_run(
    chaos: Chaos, backend: str
) -> None:
    chaos.table.script(KILL_ONCE)
    [worker] = chaos.start_ready(backend)
    job_id = chaos.table.add("note")
    chaos.reached(job_id, "completed")
    assert chaos.table.value("select last_value from killed") == 2
    assert "verdicts not written yet" in worker.log
    assert len(chaos.starts(job_id)) == 1
    assert (chaos.table.get(job_id).attempt, chaos.table.get(job_id).errors) == (1, [])


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_lost_answer_to_the_write_of_a_result_causes_no_second_run(
    chaos: Chaos, wire: Wire, backend: str
) -> None:
    chaos.table.script(WAIT)
    chaos.table.rows("select pg_advisory_lock(7)")
    [worker] = chaos.start_ready(backend, dsn=wire.dsn)
    job_id = chaos.table.add("note")
    chaos.until(
        lambda: chaos.table.value(
            "select exists (select from pg_locks where locktype = 'advisory' and not granted and "
            "database = (select oid from pg_database where datname = current_database()))"
        )
    )
    wire.swallow()
    chaos.table.rows("select pg_advisory_unlock(7)")
    chaos.reached(job_id, "completed")
    finished = chaos.table.value("select j::text from roost.jobs as j")
    assert "verdicts not written yet" not in worker.log
    wire.cut()
    wire.forward()
    worker.logged("was written before, or the lease was lost")
    worker.send(signal.SIGTERM)
    assert worker.ended()[0] == 0
    assert len(chaos.starts(job_id)) == 1
    assert chaos.table.value("select j::text from roost.jobs as j") == finished


# As short as a test needs them. With the real ones a batch in flight is given up after 30 s and 5 s
# more for its cancel request, and the stop below takes the watchdog's 7 s (measured: 8.1 s in all).
SHORT = {
    "roost._drivers.base:CLEANUP_TIMEOUT": 0.5,
    "roost._worker.lanes.settle:SETTLE_TIMEOUT": 1.0,
    "roost._worker.database:CLAIM_TIMEOUT": 1.0,
    "roost._worker.lanes.listen:PROBE_INTERVAL": 0.5,
    "roost._worker.lanes.listen:PROBE_TIMEOUT": 0.5,
}


def test_work_resumes_after_lost_packets_and_a_stop_during_them_ends_in_time(
    chaos: Chaos, wire: Wire
) -> None:
    workers = chaos.start_ready(
        "asyncio",
        "trio",
        dsn=wire.dsn,
        constants=SHORT,
        heartbeat_interval=0.5,
        poll_interval=1,  # with less, a probe on a loaded machine may find the listener broken
        shutdown_timeout=1,
    )
    jobs = [chaos.hold() for _ in range(JOBS)]
    for job_id in jobs:
        chaos.started(job_id)

    wire.swallow()
    chaos.open("gate")
    for worker in workers:
        worker.logged("verdicts not written yet")
        worker.logged("heartbeat failed")
        worker.logged("not listening, polling only")
    assert chaos.table.states() == {"executing": JOBS}
    wire.forward()
    back_at = time.monotonic()
    chaos.ends(jobs, "completed")
    chaos.measure("forward to all written", time.monotonic() - back_at)
    assert len(chaos.journal(event="started")) == JOBS
    assert all(chaos.table.get(job_id).attempt == 1 for job_id in jobs)
    chaos.until(lambda: listening(chaos) >= 2)
    more = [chaos.hold(gate="never") for _ in range(JOBS)]
    for job_id in more:
        chaos.started(job_id)

    wire.swallow()
    stopped_at = [worker.send(signal.SIGTERM) for worker in workers]
    for worker, since in zip(workers, stopped_at, strict=True):
        code, ended_at = worker.ended()
        chaos.measure(
            f"SIGTERM to exit in a black hole, grace 1 s ({worker.pid})", ended_at - since
        )
        assert code in (0, 1)  # 1: the watchdog's
        assert ended_at - since < 1 + 9
    assert len(chaos.journal(event="interrupted")) == JOBS


def test_a_disconnected_worker_stops_its_job_before_another_starts_it(
    chaos: Chaos, wire: Wire
) -> None:
    quick: dict[str, Any] = {
        "heartbeat_interval": 0.5,
        "orphan_stale_after": 3.0,
        "orphan_reaper_interval": 0.05,
    }
    victims = chaos.start_ready("asyncio", "trio", dsn=wire.dsn, concurrency=1, prefetch=0, **quick)
    jobs = [chaos.hold(), chaos.hold()]
    for job_id in jobs:
        chaos.started(job_id)
    [other] = chaos.start_ready("asyncio", **quick)
    wire.swallow()
    cut_at = time.monotonic()
    again = [chaos.started(job_id, times=2) for job_id in jobs]
    chaos.until(lambda: len(chaos.journal(event="interrupted")) == 2)
    stopped = [chaos.journal(job_id, "interrupted")[0] for job_id in jobs]
    for stop, start in zip(stopped, again, strict=True):
        chaos.measure(f"cut off to the stop of job {stop.job_id}", stop.at - cut_at)
        chaos.measure(f"cut off to the re-run of job {stop.job_id}", start.at - cut_at)
        assert stop.at <= start.at
    assert {start.pid for start in again} == {other.pid}
    assert {stop.pid for stop in stopped} == {victim.pid for victim in victims}


def test_workers_start_when_postgres_becomes_available(
    restartable_chaos: Chaos, restartable_server: Any
) -> None:
    chaos = restartable_chaos
    job_id = chaos.table.add("note")
    restartable_server.stop("fast")
    workers = [chaos.start(backend, startup_retry_delay=0.3) for backend in ("asyncio", "trio")]
    chaos.until(
        lambda: all(worker.log.count("database unavailable at start") >= 5 for worker in workers)
    )
    restartable_server.start()
    back_at = time.monotonic()
    chaos.reconnect()
    for worker in workers:
        worker.logged("worker is ready")
    chaos.measure("Postgres up to worker ready", time.monotonic() - back_at)
    chaos.reached(job_id, "completed")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_wrong_address_is_an_error_after_startup_max_retries(
    chaos: Chaos, backend: str, unused_port: int
) -> None:
    worker = chaos.start(
        backend,
        dsn=f"postgresql://nobody@127.0.0.1:{unused_port}/nothing",
        startup_max_retries=2,
        startup_retry_delay=0.1,
    )
    assert worker.ended()[0] == 1
    assert worker.log.count("database unavailable at start") == 2
    _, _, error = worker.log.rpartition("roost: the worker crashed: ")
    assert error.startswith("DatabaseUnavailableError: ")
    assert "refused" in error


def test_a_database_that_does_not_exist_is_not_retried(chaos: Chaos) -> None:
    worker = chaos.start(dsn=chaos.dsn.replace("/roost_", "/no_roost_"))
    assert worker.ended()[0] == 1
    assert "database unavailable at start" not in worker.log
    assert "does not exist" in worker.log.splitlines()[-1]


@pytest.fixture
def unused_port() -> int:
    """Return a port of 127.0.0.1 on which no process listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
