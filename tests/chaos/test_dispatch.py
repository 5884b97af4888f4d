"""Jobs that are handed to a worker that is gone, cut off or frozen: none is lost."""

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


def all_offer(chaos: Chaos, count: int) -> None:
    """Wait until so many workers have offered to run a job."""
    query = "select count(*) from roost.workers where credit is not null"
    chaos.until(lambda: chaos.table.value(query) == count)


def starts(chaos: Chaos) -> Counter[int]:
    """Return how often each job was started."""
    return Counter(entry.job_id for entry in chaos.journal(event="started"))


def test_a_killed_worker_is_handed_nothing(chaos: Chaos) -> None:
    # Its row stays for minutes.
    victim, *_ = chaos.start_ready("asyncio", "trio", poll_interval=20)
    all_offer(chaos, 2)
    killed_at = victim.kill()
    with Roost(chaos.dsn) as client:
        jobs = [client.enqueue("note") for _ in range(20)]
    chaos.ends(jobs, "completed")
    assert starts(chaos) == dict.fromkeys(jobs, 1)
    assert all(chaos.table.get(job_id).attempt == 1 for job_id in jobs)
    last = max(entry.at for entry in chaos.journal(event="started"))
    chaos.measure("kill -9 to the last start of 20 jobs", last - killed_at)


def test_a_frozen_worker_keeps_one_job_until_it_is_taken_for_dead(chaos: Chaos) -> None:
    [victim] = chaos.start_ready("asyncio", **QUICK)
    all_offer(chaos, 1)
    victim.send(signal.SIGSTOP)
    with Roost(chaos.dsn) as client:
        jobs = [client.enqueue("note") for _ in range(5)]
    assert chaos.table.states() == {"executing": 1, "available": 4}
    chaos.start_ready("trio", **QUICK)
    chaos.ends(jobs, "completed")
    assert starts(chaos) == dict.fromkeys(jobs, 1)
    # What was not accepted was not started, and used no attempt.
    assert all(chaos.table.get(job_id).attempt == 1 for job_id in jobs)
    victim.send(signal.SIGCONT)
    # It hears of the job now, whose lease is gone with its incarnation.
    victim.logged("was considered dead")
    all_offer(chaos, 2)
    assert starts(chaos) == dict.fromkeys(jobs, 1)


def test_a_job_that_a_frozen_worker_was_handed_is_taken_over_by_an_idle_one(chaos: Chaos) -> None:
    victim, *_ = chaos.start_ready("asyncio", "trio", poll_interval=20)
    all_offer(chaos, 2)
    victim.send(signal.SIGSTOP)
    with Roost(chaos.dsn) as client:
        enqueued_at = time.monotonic()
        # The frozen one gets one of them.
        jobs = [client.enqueue("note") for _ in range(5)]
        chaos.ends(jobs, "completed")
    last = max(entry.at for entry in chaos.journal(event="started"))
    chaos.measure("enqueue to the last start beside a frozen worker", last - enqueued_at)
    assert last - enqueued_at < 5
    victim.send(signal.SIGCONT)
    all_offer(chaos, 2)
    assert starts(chaos) == dict.fromkeys(jobs, 1)
    assert all(chaos.table.get(job_id).attempt == 1 for job_id in jobs)


def test_a_worker_that_hears_nothing_for_a_while_finds_what_it_was_handed(
    chaos: Chaos, wire: Wire
) -> None:
    chaos.start_ready("asyncio", dsn=wire.dsn, poll_interval=0.3)
    all_offer(chaos, 1)
    wire.swallow()
    with Roost(chaos.dsn) as client:
        jobs = [client.enqueue("note") for _ in range(3)]
    assert chaos.table.states() == {"executing": 1, "available": 2}
    wire.cut()
    wire.forward()
    chaos.ends(jobs, "completed")
    assert starts(chaos) == dict.fromkeys(jobs, 1)
    assert all(chaos.table.get(job_id).attempt == 1 for job_id in jobs)


def test_workers_that_are_killed_beside_enqueues_lose_no_job(chaos: Chaos) -> None:
    chaos.start_ready("asyncio", "trio", **QUICK)
    jobs: list[int] = []
    with Roost(chaos.dsn) as client:
        for backend in ("asyncio", "trio", "asyncio"):
            jobs += [client.enqueue("note") for _ in range(50)]
            chaos.others(chaos.workers[-1])[0].kill()
            jobs += [client.enqueue("note") for _ in range(50)]
            chaos.start(backend, **QUICK)
    chaos.ends(jobs, "completed")
    # A job runs again only where its worker was killed before it could say how it ended.
    for job_id, times in starts(chaos).items():
        assert times <= chaos.table.get(job_id).attempt
    assert starts(chaos).keys() == set(jobs)
