"""Jobs that are dispatched to a killed, disconnected or suspended worker are not lost."""

from __future__ import annotations

import signal
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from roost import Roost

if TYPE_CHECKING:
    from tests.chaos.conftest import Chaos, Wire

QUICK: dict[str, Any] = {
    "heartbeat_interval": 0.3,
    "orphan_stale_after": 1.5,
    "orphan_reaper_interval": 0.2,
}


def wait_for_credit(chaos: Chaos, count: int) -> None:
    """Wait until ``count`` workers have an outstanding credit."""
    query = "select count(*) from roost.workers where credit is not null"
    chaos.until(lambda: chaos.table.value(query) == count)


def starts(chaos: Chaos) -> Counter[int]:
    """Return how often each job was started."""
    return Counter(entry.job_id for entry in chaos.journal(event="started"))


def test_no_job_is_dispatched_to_a_killed_worker(chaos: Chaos) -> None:
    # Its row stays for minutes.
    victim, *_ = chaos.start_ready("asyncio", "trio", poll_interval=20)
    wait_for_credit(chaos, 2)
    killed_at = victim.kill()
    with Roost(chaos.dsn) as client:
        jobs = [client.enqueue("note") for _ in range(20)]
    chaos.ends(jobs, "completed")
    assert starts(chaos) == dict.fromkeys(jobs, 1)
    assert all(chaos.table.get(job_id).attempt == 1 for job_id in jobs)
    last = max(entry.at for entry in chaos.journal(event="started"))
    chaos.measure("kill -9 to the last start of 20 jobs", last - killed_at)


def test_a_suspended_worker_keeps_one_dispatched_job_until_it_expires(chaos: Chaos) -> None:
    [victim] = chaos.start_ready("asyncio", **QUICK)
    wait_for_credit(chaos, 1)
    victim.send(signal.SIGSTOP)
    with Roost(chaos.dsn) as client:
        jobs = [client.enqueue("note") for _ in range(5)]
    assert chaos.table.states() == {"executing": 1, "available": 4}
    chaos.start_ready("trio", **QUICK)
    chaos.ends(jobs, "completed")
    assert starts(chaos) == dict.fromkeys(jobs, 1)
    # A job that was not accepted was not started, and used no attempt.
    assert all(chaos.table.get(job_id).attempt == 1 for job_id in jobs)
    victim.send(signal.SIGCONT)
    # It is notified of the job now, whose lease has ended with its incarnation.
    victim.logged("was considered dead")
    wait_for_credit(chaos, 2)
    assert starts(chaos) == dict.fromkeys(jobs, 1)


def test_a_job_dispatched_to_a_suspended_worker_is_run_by_an_idle_one(chaos: Chaos) -> None:
    victim, *_ = chaos.start_ready("asyncio", "trio", poll_interval=20)
    wait_for_credit(chaos, 2)
    victim.send(signal.SIGSTOP)
    with Roost(chaos.dsn) as client:
        enqueued_at = time.monotonic()
        # One of them is dispatched to the suspended worker.
        jobs = [client.enqueue("note") for _ in range(5)]
        chaos.ends(jobs, "completed")
    last = max(entry.at for entry in chaos.journal(event="started"))
    chaos.measure("enqueue to the last start with a suspended worker", last - enqueued_at)
    assert last - enqueued_at < 5
    victim.send(signal.SIGCONT)
    wait_for_credit(chaos, 2)
    assert starts(chaos) == dict.fromkeys(jobs, 1)
    assert all(chaos.table.get(job_id).attempt == 1 for job_id in jobs)


def test_a_dispatched_job_is_found_when_the_listener_has_reconnected(
    chaos: Chaos, wire: Wire
) -> None:
    chaos.start_ready("asyncio", dsn=wire.dsn, poll_interval=0.3)
    wait_for_credit(chaos, 1)
    wire.swallow()
    with Roost(chaos.dsn) as client:
        jobs = [client.enqueue("note") for _ in range(3)]
    assert chaos.table.states() == {"executing": 1, "available": 2}
    wire.cut()
    wire.forward()
    chaos.ends(jobs, "completed")
    assert starts(chaos) == dict.fromkeys(jobs, 1)
    assert all(chaos.table.get(job_id).attempt == 1 for job_id in jobs)


def test_workers_killed_during_enqueues_lose_no_job(chaos: Chaos) -> None:
    chaos.start_ready("asyncio", "trio", **QUICK)
    jobs: list[int] = []
    with Roost(chaos.dsn) as client:
        for backend in ("asyncio", "trio", "asyncio"):
            jobs += [client.enqueue("note") for _ in range(50)]
            chaos.others(chaos.workers[-1])[0].kill()
            jobs += [client.enqueue("note") for _ in range(50)]
            chaos.start(backend, **QUICK)
    chaos.ends(jobs, "completed")
    # A job runs again only if its worker was killed before it had written the verdict.
    for job_id, times in starts(chaos).items():
        assert times <= chaos.table.get(job_id).attempt
    assert starts(chaos).keys() == set(jobs)
