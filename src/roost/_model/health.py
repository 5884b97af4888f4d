"""Decide from facts whether a worker is alive, and whether it is ready for jobs. Reads nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator

import attrs

from roost._model.info import WorkerHealth, WorkerPhase

MAX_LOOP_AGE = 30.0
"""Seconds since the last turn of the event loop after which the worker is not alive."""
MAX_CLAIM_WAIT = 10.0
"""Seconds without an answer to a claim in flight after which the worker is not ready."""
MAX_CLAIM_AGE = 90.0
"""Seconds without a claim after which a worker with free slots is not ready. It polls every 30 s at
least, also when notifications arrive."""
MAX_LISTEN_AGE = 90.0
"""Seconds without a notification or a check of the listening connection after which the worker is
not ready. The connection is checked after 30 s of silence; that takes 20 s at most."""
MISSED_HEARTBEATS = 3.0
"""Heartbeats that are missing, as a multiple of their interval, when the worker is not ready."""
HEARTBEAT_MARGIN = 30.0
"""Seconds that a try to write the heartbeat may come late, because of delays between tries."""


@attrs.frozen(kw_only=True)
class HealthFacts:
    """What a worker knows of itself. Ages are in seconds; infinity: it has not happened yet.

    :param loop_age: since the event loop ran the worker's own timer.
    :param registered: whether it has a row in ``roost.workers``.
    :param holds_leases: whether its jobs can't have been taken by another worker.
    :param heartbeat_interval: seconds between two heartbeats.
    :param heartbeat_age: since the last heartbeat that was written.
    :param heartbeat_try_age: since the last try to write one.
    :param claim_age: since the last answer to a claim.
    :param claim_wait: for which a claim in flight has had no answer; 0: none is in flight.
    :param claim_failed: whether the last claim failed.
    :param listening: whether notifications arrive.
    :param polls_only: whether the server can be reached and delivers no notifications.
    :param listen_age: since the last notification or check of the listening connection.
    :param free_slots: jobs that could start at once.
    :param unwritten: results that are not written yet.
    :param max_unwritten: from which number on nothing is claimed.
    """

    phase: WorkerPhase
    worker_id: int | None = None
    loop_age: float = 0.0
    registered: bool = False
    holds_leases: bool = True
    heartbeat_interval: float = 15.0
    heartbeat_age: float = math.inf
    heartbeat_try_age: float = math.inf
    claim_age: float = math.inf
    claim_wait: float = 0.0
    claim_failed: bool = False
    listening: bool = False
    polls_only: bool = False
    listen_age: float = math.inf
    running: int = 0
    slots: int = 0
    free_slots: int = 0
    prefetched: int = 0
    unwritten: int = 0
    max_unwritten: int = 1


def assess(facts: HealthFacts) -> WorkerHealth:
    """Return whether the worker is alive and ready, and why not."""
    dead, unready = list(_not_live(facts)), list(_not_ready(facts))
    return WorkerHealth(
        live=not dead,
        ready=not (dead or unready),
        phase=facts.phase,
        reasons=[*dead, *unready],
        warnings=[NOT_NOTIFIED] if facts.polls_only else [],
        worker_id=facts.worker_id,
        running=facts.running,
        slots=facts.slots,
        prefetched=facts.prefetched,
        unwritten=facts.unwritten,
        listening=facts.listening,
        heartbeat_age_seconds=_seconds(facts.heartbeat_age),
        claim_age_seconds=_seconds(facts.claim_age),
        loop_age_seconds=_seconds(facts.loop_age),
    )


NOT_NOTIFIED = (
    "notifications don't arrive, so jobs are found by polling: is there a pooler in transaction "
    "mode in front of Postgres?"
)


def _not_live(facts: HealthFacts) -> Iterator[str]:
    """Yield why a restart of the process would help.

    A database that is away is no such reason: all workers would be restarted, and none would work.
    """
    if facts.phase == "crashed":
        yield "the worker has crashed"
    if facts.phase not in ("starting", "running", "stopping"):
        return
    if facts.loop_age > MAX_LOOP_AGE:
        yield f"the event loop has been blocked for {facts.loop_age:.0f} s"
    elif facts.registered and facts.heartbeat_try_age > _longest_heartbeat(facts):
        yield f"no heartbeat was tried for {facts.heartbeat_try_age:.0f} s"


def _not_ready(facts: HealthFacts) -> Iterator[str]:
    """Yield why the worker would start no job, or only late."""
    if facts.phase != "running":
        if facts.phase != "crashed":
            yield _PHASES[facts.phase]
        return
    if not facts.holds_leases:
        yield (
            f"cut off from the database: no heartbeat was written for {facts.heartbeat_age:.0f} s, "
            "and the worker has stopped its jobs"
        )
    elif facts.heartbeat_age > MISSED_HEARTBEATS * facts.heartbeat_interval:
        yield f"no heartbeat was written for {facts.heartbeat_age:.0f} s"
    if facts.claim_wait > MAX_CLAIM_WAIT:
        yield f"a claim has had no answer for {facts.claim_wait:.0f} s"
    elif facts.free_slots > 0 and facts.holds_leases:
        yield from _late_claims(facts)
    if not facts.listening and not facts.polls_only:
        yield "the listening connection is lost, so jobs are found by polling"
    elif facts.listening and facts.listen_age > MAX_LISTEN_AGE:
        yield f"the listening connection was not checked for {facts.listen_age:.0f} s"
    if facts.unwritten >= facts.max_unwritten:
        yield f"{facts.unwritten} results are not written yet, so no job is claimed"


def _late_claims(facts: HealthFacts) -> Iterator[str]:
    """Yield what is wrong with the claims of a worker that has free slots."""
    if facts.claim_failed:
        yield "the last claim of jobs failed"
    elif facts.claim_age == math.inf:
        yield "no claim of jobs was answered yet"
    elif facts.claim_age > MAX_CLAIM_AGE:
        yield f"no claim of jobs was answered for {facts.claim_age:.0f} s"


_PHASES: dict[WorkerPhase, str] = {
    "not started": "the worker was not started yet",
    "starting": "the worker is starting: it waits for the database or for its lifespan",
    "stopping": "the worker is stopping",
    "ended": "the worker has ended",
}


def _longest_heartbeat(facts: HealthFacts) -> float:
    return MISSED_HEARTBEATS * facts.heartbeat_interval + HEARTBEAT_MARGIN


def _seconds(age: float) -> float | None:
    return round(age, 3) if math.isfinite(age) else None
