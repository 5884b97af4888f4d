"""A worker's health follows from what it knows of itself."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest

from roost._model.health import MAX_CLAIM_AGE, MAX_CLAIM_WAIT, HealthFacts, assess
from roost._model.info import WorkerPhase

GOOD = HealthFacts(
    phase="running",
    worker_id=7,
    loop_age=0.4,
    registered=True,
    heartbeat_interval=15.0,
    heartbeat_age=14.0,
    heartbeat_try_age=14.0,
    claim_age=29.0,
    listening=True,
    listen_age=29.0,
    running=3,
    slots=10,
    free_slots=7,
)


def test_a_worker_that_works_is_live_and_ready() -> None:
    health = assess(GOOD)

    assert (health.live, health.ready, health.reasons, health.warnings) == (True, True, [], [])
    assert (health.worker_id, health.running, health.slots) == (7, 3, 10)
    assert health.heartbeat_age_seconds == 14.0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"phase": "starting"}, "the worker is starting: it waits for the database or for its"),
        ({"phase": "stopping"}, "the worker is stopping"),
        ({"phase": "ended"}, "the worker has ended"),
        ({"phase": "not started"}, "the worker was not started yet"),
        ({"heartbeat_age": 46.0}, "no heartbeat was written for 46 s"),
        (
            {"holds_leases": False, "heartbeat_age": 271.0},
            "cut off from the database: no heartbeat was written for 271 s",
        ),
        ({"claim_failed": True}, "the last claim of jobs failed"),
        ({"claim_age": math.inf}, "no claim of jobs was answered yet"),
        ({"claim_age": MAX_CLAIM_AGE + 1}, "no claim of jobs was answered for 91 s"),
        ({"claim_wait": MAX_CLAIM_WAIT + 1}, "a claim has had no answer for 11 s"),
        ({"listening": False}, "the listening connection is lost"),
        ({"listen_age": 100.0}, "the listening connection was not checked for 100 s"),
        ({"unwritten": 10_000, "max_unwritten": 10_000}, "10000 results are not written yet"),
    ],
)
def test_a_worker_that_would_start_no_job_is_live_and_not_ready(
    change: dict[str, Any], reason: str
) -> None:
    health = assess(attrs.evolve(GOOD, **change))

    assert health.live
    assert not health.ready
    assert len(health.reasons) == 1
    assert health.reasons[0].startswith(reason)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"phase": "crashed"}, "the worker has crashed"),
        ({"loop_age": 31.0}, "the event loop has been blocked for 31 s"),
        ({"heartbeat_try_age": 76.0}, "no heartbeat was tried for 76 s"),
    ],
)
def test_a_worker_that_only_a_restart_helps_is_not_live(
    change: dict[str, Any], reason: str
) -> None:
    health = assess(attrs.evolve(GOOD, **change))

    assert (health.live, health.ready, health.reasons) == (False, False, [reason])


def test_a_worker_without_its_database_is_live() -> None:
    """A restart would not help, and all workers would be restarted at once."""
    away = attrs.evolve(
        GOOD,
        holds_leases=False,
        heartbeat_age=9_000.0,
        heartbeat_try_age=20.0,
        claim_failed=True,
        listening=False,
    )
    assert assess(away).live


def test_a_full_worker_claims_nothing_and_is_ready() -> None:
    full = attrs.evolve(GOOD, free_slots=0, claim_age=9_000.0, running=10)

    assert assess(full).ready


def test_a_worker_that_can_only_poll_is_ready_with_a_warning() -> None:
    health = assess(attrs.evolve(GOOD, listening=False, polls_only=True, listen_age=math.inf))

    assert health.ready
    assert health.warnings
    assert health.warnings[0].startswith("notifications don't arrive")


@pytest.mark.parametrize("phase", ["not started", "ended"])
def test_a_worker_that_does_not_run_has_no_ages(phase: WorkerPhase) -> None:
    health = assess(HealthFacts(phase=phase))

    assert health.live
    assert health.heartbeat_age_seconds is None
    assert health.claim_age_seconds is None
