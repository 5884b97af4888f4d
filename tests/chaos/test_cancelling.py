"""A cancel takes effect in every state of a job, also if its worker gets no notification."""

from __future__ import annotations

import signal
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from roost._ops import control

if TYPE_CHECKING:
    from tests.chaos.conftest import Chaos

BOTH = pytest.mark.parametrize("backend", ["asyncio", "trio"])
AT_ONCE = 150


def test_a_waiting_job_is_cancelled_and_never_runs(chaos: Chaos) -> None:
    waiting = chaos.table.add("note")
    after = chaos.table.add("note", priority=1)
    assert chaos.cancel(waiting) == "cancelled"
    chaos.start_ready("asyncio")
    chaos.reached(after, "completed")
    assert chaos.table.get(waiting).state == "cancelled"
    assert [entry.job_id for entry in chaos.journal()] == [after]


@BOTH
def test_a_running_job_is_cancelled_within_a_second_and_again_after_a_retry(
    chaos: Chaos, backend: str
) -> None:
    chaos.start_ready(backend, poll_interval=30)
    job_id = chaos.hold()
    tooks = []
    for times in (1, 2):
        chaos.started(job_id, times=times)
        cancelled_at = time.monotonic()
        assert chaos.cancel(job_id) == "executing"
        took = chaos.reached(job_id, "cancelled") - cancelled_at
        chaos.measure(f"cancel to cancelled, {times}.", took)
        tooks.append(took)
        assert len(chaos.journal(job_id, "interrupted")) == times
        if times == 1:
            assert chaos.table.run(control.retry_job(job_id))
    # The better of two: a loaded machine may delay one.
    assert min(tooks) < 1
    assert chaos.table.get(job_id).errors == []


@BOTH
def test_a_cancel_at_the_instant_of_the_claim_takes_effect(chaos: Chaos, backend: str) -> None:
    chaos.start_ready(backend, concurrency=20, poll_interval=0.1)
    left_in: dict[int, str] = {}
    for number in range(AT_ONCE):
        job_id = chaos.hold(gate="never")
        time.sleep(number % 15 * 0.001)  # from long before the claim until the handler runs
        left_in[job_id] = chaos.cancel(job_id)
    chaos.ends(list(left_in), "cancelled")

    # Some cancels came before the claim and some after it.
    assert set(left_in.values()) == {"cancelled", "executing"}
    chaos.measured.update(Counter(left_in.values()))
    started = Counter(entry.job_id for entry in chaos.journal(event="started"))
    interrupted = Counter(entry.job_id for entry in chaos.journal(event="interrupted"))
    assert all(started[job_id] == 0 for job_id, state in left_in.items() if state == "cancelled")
    assert set(started.values()) == {1}
    assert interrupted == started


@BOTH
def test_a_running_job_is_cancelled_while_its_worker_does_not_listen(
    chaos: Chaos, backend: str
) -> None:
    [worker] = chaos.start_ready(backend, poll_interval=30, listen_reconnect_delay=600)
    job_id = chaos.hold()
    chaos.started(job_id)
    killed = chaos.table.rows(
        "select pg_terminate_backend(pid) from pg_stat_activity "
        "where application_name like 'roost listen%' and datname = current_database()"
    )
    assert killed == [(True,)]
    worker.logged("not listening, polling only")
    cancelled_at = time.monotonic()
    chaos.cancel(job_id)
    took = chaos.reached(job_id, "cancelled") - cancelled_at
    chaos.measure("cancel to cancelled without a listener", took)
    assert took < 5


@BOTH
def test_a_running_job_is_cancelled_while_its_worker_drains(chaos: Chaos, backend: str) -> None:
    [worker] = chaos.start_ready(backend, shutdown_timeout=60)
    job_id = chaos.hold()
    chaos.started(job_id)
    worker.send(signal.SIGTERM)
    worker.logged("worker is stopping")
    cancelled_at = time.monotonic()
    assert chaos.cancel(job_id) == "executing"
    code, ended_at = worker.ended()
    assert code == 0
    assert ended_at - cancelled_at < 10
    assert chaos.table.get(job_id).state == "cancelled"


def test_an_orphan_whose_cancel_was_requested_is_never_run_again(chaos: Chaos) -> None:
    quick = {"heartbeat_interval": 0.3, "orphan_stale_after": 1.5, "orphan_reaper_interval": 0.2}
    chaos.start_ready("asyncio", "trio", **quick)
    job_id = chaos.hold()
    chaos.worker(chaos.started(job_id).pid).kill()
    assert chaos.cancel(job_id) == "executing"
    chaos.reached(job_id, "cancelled")
    # Every worker that could run it has polled since.
    after = chaos.table.add("note")
    chaos.reached(after, "completed")
    assert len(chaos.starts(job_id)) == 1
    assert chaos.table.get(job_id).state == "cancelled"
