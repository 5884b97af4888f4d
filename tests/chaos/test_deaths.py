"""Jobs of workers that are killed, suspended or considered dead are run again, once each."""

from __future__ import annotations

import itertools
import signal
from typing import TYPE_CHECKING, Any

from roost._ops import control

if TYPE_CHECKING:
    from tests.chaos.conftest import Chaos, WorkerProcess

QUICK: dict[str, Any] = {
    "heartbeat_interval": 0.3,
    "orphan_stale_after": 1.5,
    "orphan_reaper_interval": 0.2,
}
STALE = 1.5


def crashes(chaos: Chaos, job_id: int) -> list[tuple[int, str]]:
    """Return attempt and kind of each error record."""
    errors = chaos.table.get(job_id).errors
    return [(error["attempt"], error["error"].split(":")[0]) for error in errors]


def test_the_job_of_a_killed_worker_runs_once_more_on_another(chaos: Chaos) -> None:
    chaos.start_ready("asyncio", "trio", **QUICK)
    job_id = chaos.hold()
    victim = chaos.worker(chaos.started(job_id).pid)
    killed_at = victim.kill()

    again = chaos.started(job_id, times=2)
    chaos.measure("kill -9 to re-run, stale after 1.5 s", again.at - killed_at)
    chaos.open("gate")
    chaos.reached(job_id, "completed")

    assert again.pid != victim.pid
    assert again.attempt == 2
    assert again.at - killed_at < STALE + 2
    assert len(chaos.starts(job_id)) == 2
    assert chaos.table.get(job_id).attempt == 2
    assert crashes(chaos, job_id) == [(1, "WorkerCrash")]


def test_a_long_job_of_a_live_worker_is_not_rescued_by_another(chaos: Chaos) -> None:
    workers = chaos.start_ready("asyncio", "trio", concurrency=1, prefetch=0, **QUICK)
    jobs = [chaos.hold(), chaos.hold()]
    assert {chaos.started(job_id).pid for job_id in jobs} == {worker.pid for worker in workers}
    # Both have renewed their rows long after both jobs would be stale by their age.
    chaos.until(
        lambda: chaos.table.value(
            "select min(heartbeat_at) > now() - interval '1 second' "
            "and min(heartbeat_at) > max(attempted_at) + interval '3 seconds' "
            "from roost.workers, roost.jobs where state = 'executing'"
        )
    )
    chaos.open("gate")
    chaos.ends(jobs, "completed")
    for job_id in jobs:
        assert len(chaos.starts(job_id)) == 1
        assert (chaos.table.get(job_id).attempt, chaos.table.get(job_id).errors) == (1, [])


def test_a_suspended_worker_can_not_settle_a_job_that_was_rescued(
    chaos: Chaos,
) -> None:
    victims = chaos.start_ready("asyncio", "trio", concurrency=1, prefetch=0, **QUICK)
    jobs = [chaos.hold("hold"), chaos.hold("hold")]
    for job_id in jobs:
        chaos.started(job_id)
    before = chaos.table.workers()
    for victim in victims:
        victim.send(signal.SIGSTOP)
    [rescuer] = chaos.start_ready("asyncio", **QUICK)
    for job_id in jobs:
        assert chaos.started(job_id, times=2).pid == rescuer.pid
    chaos.open("gate")
    chaos.ends(jobs, "completed")
    rescuer.send(signal.SIGTERM)
    assert rescuer.ended()[0] == 0

    def rows() -> Any:
        return list(chaos.table.rows("select j::text from roost.jobs as j order by id"))

    finished = rows()
    for victim in victims:
        victim.send(signal.SIGCONT)
    for victim in victims:
        victim.logged("was considered dead")
    # Each continues as a new incarnation.
    chaos.until(lambda: len(chaos.table.workers()) == 2)
    assert min(chaos.table.workers()) > max(before)
    more = [chaos.hold(gate="later"), chaos.hold(gate="later")]
    assert {chaos.started(job_id).pid for job_id in more} == {victim.pid for victim in victims}
    assert rows()[:2] == finished
    chaos.open("later")
    chaos.ends(more, "completed")
    assert all(chaos.table.get(job_id).attempt == 1 for job_id in more)
    for job_id in jobs:
        assert len(chaos.starts(job_id)) == 2
        assert crashes(chaos, job_id) == [(1, "WorkerCrash")]


def test_a_verdict_after_a_rescue_changes_nothing(chaos: Chaos) -> None:
    # By their own clocks the victims still have their leases when they write.
    victims = chaos.start_ready("asyncio", "trio", concurrency=1, prefetch=0, poll_interval=0.2)
    jobs = [chaos.hold("hold"), chaos.hold("hold_thread")]
    for job_id in jobs:
        chaos.started(job_id)
    for victim in victims:
        victim.send(signal.SIGSTOP)
    chaos.table.rows("update roost.workers set expires_at = now()")
    [rescuer] = chaos.start_ready("asyncio", **QUICK)
    for job_id in jobs:
        chaos.started(job_id, times=2)
    chaos.open("gate")
    chaos.ends(jobs, "completed")
    rescuer.send(signal.SIGTERM)
    assert rescuer.ended()[0] == 0

    finished = list(chaos.table.rows("select j::text from roost.jobs as j order by id"))
    for victim in victims:
        victim.send(signal.SIGCONT)
    for victim in victims:
        victim.logged("lease lost")
        victim.logged("was considered dead")
    assert len(chaos.journal(event="ended")) == 4
    assert list(chaos.table.rows("select j::text from roost.jobs as j order by id")) == finished


def death(chaos: Chaos, worker: WorkerProcess, job_id: int) -> int | None:
    """Wait until the process has died, and return its exit code, or until the job has ended."""
    exited = worker.process.poll
    chaos.until(lambda: exited() is not None or chaos.table.get(job_id).state == "discarded")
    return exited()


def test_a_job_that_kills_its_process_is_discarded_after_its_last_attempt(chaos: Chaos) -> None:
    job_id = chaos.table.add("die", max_attempts=3)
    backends = itertools.cycle(["asyncio", "trio"])
    deaths: list[int | None] = []
    # A supervisor: each worker that dies is replaced.
    while chaos.table.get(job_id).state != "discarded":
        assert len(deaths) < 4
        worker = chaos.start(next(backends), **QUICK)
        deaths.append(death(chaos, worker, job_id))
    assert deaths == [9, 9, 9, None]
    assert [entry.attempt for entry in chaos.starts(job_id)] == [1, 2, 3]
    assert crashes(chaos, job_id) == [(n, "WorkerCrash") for n in (1, 2, 3)]
    assert chaos.table.get(job_id).attempt == 3


def test_a_pause_or_limit_delays_no_rescue_and_no_cancel(chaos: Chaos) -> None:
    chaos.start_ready("asyncio", "trio", **QUICK)
    job_id = chaos.hold("serial_hold")
    victim = chaos.worker(chaos.started(job_id).pid)
    pause(chaos)
    waiting = chaos.hold("serial_hold")
    victim.kill()
    chaos.reached(job_id, "retryable")
    assert crashes(chaos, job_id) == [(1, "WorkerCrash")]
    assert chaos.cancel(waiting) == "cancelled"

    resume(chaos)
    chaos.started(job_id, times=2)  # the rescue has returned the limit's slot
    pause(chaos)
    assert chaos.cancel(job_id) == "executing"
    chaos.reached(job_id, "cancelled")
    assert len(chaos.starts(job_id)) == 2
    assert chaos.starts(waiting) == []


def pause(chaos: Chaos) -> None:
    chaos.table.run(control.pause_queue("default"))


def resume(chaos: Chaos) -> None:
    chaos.table.run(control.resume_queue("default"))
