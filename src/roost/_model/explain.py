"""Why a job does not run: a decision over facts. Pure."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from roost._model.durations import duration
from roost._model.explain_facts import Facts, WorkerFacts
from roost._model.explain_words import (
    as_json,
    because,
    by_set_limit,
    clock,
    count,
    every,
    jobs_in_front,
    limited_task,
    on_worker,
    seconds_until,
    worker_name,
)
from roost._model.explanation import Explanation, ExplanationReason
from roost._model.liveness import is_silent
from roost._model.states import TERMINAL, JobState

RESCUE_INTERVAL = 30.0
"""Seconds between two looks of a worker for jobs of dead workers, by default."""
DEFAULT_POLL_INTERVAL = 1.0
"""Seconds, for a worker that has not told its own."""
LATE = 10.0
"""Seconds after which a job that nothing holds back should have started."""


def explain(facts: Facts) -> Explanation:
    """Return why the job does not run: the first reason that applies, with the others."""
    if facts.job.state in TERMINAL:
        return _ended(facts)
    if facts.job.state == JobState.EXECUTING:
        checks, otherwise = _EXECUTING, _running
    else:
        checks, otherwise = _WAITING, _starts_soon
    found = [reason for reason in (check(facts) for check in checks) if reason is not None]
    first, *others = found or [otherwise(facts)]
    first.also.extend(others)
    return first


def _explanation(
    facts: Facts,
    reason: ExplanationReason,
    message: str,
    *,
    expected_at: datetime | None = None,
    **data: object,
) -> Explanation:
    return Explanation(
        job_id=facts.job.id,
        state=facts.job.state,
        reason=reason,
        message=message,
        data={name: as_json(value) for name, value in data.items()},
        expected_at=expected_at,
    )


def _ended(facts: Facts) -> Explanation:
    job = facts.job
    how = {
        JobState.COMPLETED: "It completed",
        JobState.DISCARDED: f"It failed for good with attempt {job.attempt} of {job.max_attempts}",
        JobState.CANCELLED: "It was cancelled",
    }[JobState(job.state)]
    when = "" if job.ended_at is None else f" at {clock(job.ended_at)}"
    where = ", and is archived" if job.archived else ""
    error = None if job.state == JobState.COMPLETED else job.last_error
    return _explanation(
        facts,
        ExplanationReason.ENDED,
        f"{how}{when}{where}{because(error)}.",
        ended_at=job.ended_at,
        archived=job.archived,
        error=error,
    )


# Executing jobs


def _worker_dead(facts: Facts) -> Explanation | None:
    job, holder = facts.job, facts.worker
    if holder is not None and holder.expires_at > facts.now:
        return None
    if holder is None:
        which = f"Its worker (id {job.worker_id}) is gone without ending it"
    else:
        silence = duration((facts.now - holder.heartbeat_at).total_seconds())
        which = f"Its worker {worker_name(holder)} is dead: it has sent no heartbeat for {silence}"
    rescued_at = _rescued_at(facts) if facts.living_workers else None
    if rescued_at is None:
        then = "no worker is alive that could rescue the job: start one"
    else:
        then = (
            f"another worker rescues the job by about {clock(rescued_at)}, if workers look every "
            f"{duration(RESCUE_INTERVAL)}, as by default"
        )
    return _explanation(
        facts,
        ExplanationReason.WORKER_DEAD,
        f"{which}; {then}.",
        expected_at=rescued_at,
        worker_id=job.worker_id,
        worker=None if holder is None else holder.name,
        heartbeat_at=None if holder is None else holder.heartbeat_at,
        living_workers=facts.living_workers,
    )


def _rescued_at(facts: Facts) -> datetime:
    """Return when a living worker has looked for the jobs of dead ones, at the latest."""
    interval = timedelta(seconds=RESCUE_INTERVAL)
    if facts.worker is not None and facts.worker.expires_at + interval > facts.now:
        return facts.worker.expires_at + interval
    return facts.now + interval


def _worker_silent(facts: Facts) -> Explanation | None:
    holder = facts.worker
    if holder is None or holder.expires_at <= facts.now:
        return None
    silence = facts.now - holder.heartbeat_at
    if not is_silent(silence, holder.expires_at - holder.heartbeat_at, holder.heartbeat_interval):
        return None
    if facts.living_workers > 1:  # one of them is this one
        then = f"other workers rescue the job from {clock(holder.expires_at)} on"
    else:
        then = (
            f"it is considered dead from {clock(holder.expires_at)} on, and no other worker is "
            "alive that could rescue the job: start one"
        )
    return _explanation(
        facts,
        ExplanationReason.WORKER_SILENT,
        f"Its worker {worker_name(holder)} has sent no heartbeat for "
        f"{duration(silence.total_seconds())}; if it sends none, {then}.",
        expected_at=holder.expires_at,
        worker_id=holder.id,
        worker=holder.name,
        heartbeat_at=holder.heartbeat_at,
        expires_at=holder.expires_at,
    )


def _cancel_requested(facts: Facts) -> Explanation | None:
    if not facts.job.cancel_requested:
        return None
    return _explanation(
        facts,
        ExplanationReason.CANCEL_REQUESTED,
        f"Its cancel was requested, and its handler has not ended yet{on_worker(facts)}.",
        worker_id=facts.job.worker_id,
        attempted_at=facts.job.attempted_at,
    )


def _prefetched(facts: Facts) -> Explanation | None:
    holder = facts.worker
    if holder is None or not holder.unstarted:
        return None
    return _explanation(
        facts,
        ExplanationReason.PREFETCHED,
        f"Worker {worker_name(holder)} has claimed it, and it waits there for a free slot.",
        worker_id=holder.id,
        worker=holder.name,
        claimed_at=facts.job.attempted_at,
    )


def _running(facts: Facts) -> Explanation:
    job, holder = facts.job, facts.worker
    since, heartbeat = "", ""
    if job.attempted_at is not None:
        span = duration((facts.now - job.attempted_at).total_seconds())
        since = f" since {clock(job.attempted_at)}, for {span}"
    if holder is not None:
        age = duration((facts.now - holder.heartbeat_at).total_seconds())
        heartbeat = f"; the worker's last heartbeat was {age} ago"
        if holder.stopping:
            heartbeat += ", and it is being stopped"
    return _explanation(
        facts,
        ExplanationReason.RUNNING,
        f"It has been running{on_worker(facts)}{since}, attempt {job.attempt} of "
        f"{job.max_attempts}{heartbeat}.",
        worker_id=job.worker_id,
        worker=None if holder is None else holder.name,
        attempted_at=job.attempted_at,
        heartbeat_at=None if holder is None else holder.heartbeat_at,
    )


_EXECUTING: Sequence[Callable[[Facts], Explanation | None]] = (
    _worker_dead,
    _worker_silent,
    _cancel_requested,
    _prefetched,
)


# Waiting jobs


def _blocked(facts: Facts) -> Explanation | None:
    waits_for = facts.job.pending_parents
    if not waits_for:
        return None
    named = [f"{job_id} ({state})" for job_id, state in facts.parents.items()]
    more = ["…"] if waits_for > len(named) else []
    jobs = "1 job that it depends on" if waits_for == 1 else f"{waits_for} jobs that it depends on"
    return _explanation(
        facts,
        ExplanationReason.BLOCKED,
        f"It waits for {jobs}: {', '.join([*named, *more])}.",
        pending_parents=waits_for,
        parents=[{"id": job_id, "state": state} for job_id, state in facts.parents.items()],
    )


def _due_later(facts: Facts) -> Explanation | None:
    job = facts.job
    if job.scheduled_at <= facts.now:
        return None
    due = f"due at {clock(job.scheduled_at)}, in {duration(seconds_until(facts, job.scheduled_at))}"
    if job.state == JobState.RETRYABLE:
        return _explanation(
            facts,
            ExplanationReason.RETRY_SCHEDULED,
            f"Attempt {job.attempt} of {job.max_attempts} failed{because(job.last_error)}; the "
            f"next one is {due}.",
            expected_at=job.scheduled_at,
            scheduled_at=job.scheduled_at,
            attempt=job.attempt,
            max_attempts=job.max_attempts,
            error=job.last_error,
        )
    return _explanation(
        facts,
        ExplanationReason.SCHEDULED,
        f"It is {due}.",
        expected_at=job.scheduled_at,
        scheduled_at=job.scheduled_at,
    )


def _queue_paused(facts: Facts) -> Explanation | None:
    if facts.paused_at is None:
        return None
    unconfirmed = [worker.id for worker in facts.workers if not worker.has_paused]
    workers = count(len(unconfirmed), "worker")
    but = f"; {workers} of it may not have noticed" if unconfirmed else ""
    return _explanation(
        facts,
        ExplanationReason.QUEUE_PAUSED,
        f"Queue {facts.job.queue!r} has been paused since {clock(facts.paused_at)}{but}.",
        queue=facts.job.queue,
        paused_at=facts.paused_at,
        unconfirmed_workers=unconfirmed,
    )


def _no_worker(facts: Facts) -> Explanation | None:
    if facts.workers:
        return None
    if facts.living_workers:
        queues = ", ".join(repr(queue) for queue in facts.served_queues)
        others = f"the living workers serve {queues}" if queues else "the living workers serve none"
    else:
        others = "no worker is alive"
    return _explanation(
        facts,
        ExplanationReason.NO_WORKER,
        f"No living worker serves queue {facts.job.queue!r}: {others}.",
        queue=facts.job.queue,
        living_workers=facts.living_workers,
        served_queues=list(facts.served_queues),
    )


def _unknown_task(facts: Facts) -> Explanation | None:
    if not facts.workers or any(worker.knows for worker in facts.workers):
        return None
    if len(facts.workers) == 1:
        none = f"The only living worker of queue {facts.job.queue!r} has no handler"
    else:
        workers = f"{len(facts.workers)} living workers of queue {facts.job.queue!r}"
        none = f"None of the {workers} has a handler"
    return _explanation(
        facts,
        ExplanationReason.UNKNOWN_TASK,
        f"{none} for task {facts.job.task!r}.",
        queue=facts.job.queue,
        task=facts.job.task,
        workers=[worker.id for worker in facts.workers],
    )


def _workers_stopping(facts: Facts) -> Explanation | None:
    stopping = [worker for worker in facts.workers if worker.knows]
    if not stopping or _able(facts):
        return None
    one = len(stopping) == 1
    return _explanation(
        facts,
        ExplanationReason.WORKERS_STOPPING,
        f"{every(len(stopping), 'worker')} that could run it {'is' if one else 'are'} being "
        f"stopped, and {'starts' if one else 'start'} no more jobs.",
        queue=facts.job.queue,
        task=facts.job.task,
        workers=[worker.id for worker in stopping],
    )


def _concurrency_limit(facts: Facts) -> Explanation | None:
    limit = facts.limit
    if not _could_start(facts) or limit is None or limit.max_concurrency is None:
        return None
    if limit.executing < limit.max_concurrency:
        return None
    ids = list(limit.executing_ids)
    more = ", …" if limit.executing > len(ids) else ""
    return _explanation(
        facts,
        ExplanationReason.CONCURRENCY_LIMIT,
        f"{limited_task(facts)} may run {count(limit.max_concurrency, 'job')} at once"
        f"{by_set_limit(limit.set_max_concurrency)}, and {limit.executing} run now: "
        f"{', '.join(map(str, ids))}{more}.",
        task=facts.job.task,
        limit_key=facts.job.limit_key,
        max_concurrency=limit.max_concurrency,
        executing=limit.executing,
        executing_ids=ids,
        in_front=facts.task_in_front,
    )


def _rate_limit(facts: Facts) -> Explanation | None:
    limit = facts.limit
    if not _could_start(facts) or limit is None or limit.rate_per_minute is None:
        return None
    if limit.started < limit.rate_per_minute:
        return None
    room = "" if limit.room_at is None else f"; there is room again at {clock(limit.room_at)}"
    return _explanation(
        facts,
        ExplanationReason.RATE_LIMIT,
        f"{limited_task(facts)} may start {count(limit.rate_per_minute, 'job')} a minute"
        f"{by_set_limit(limit.set_rate_per_minute)}, and has started {limit.started}{room}.",
        expected_at=limit.room_at,
        task=facts.job.task,
        limit_key=facts.job.limit_key,
        rate_per_minute=limit.rate_per_minute,
        started=limit.started,
        room_at=limit.room_at,
        in_front=facts.task_in_front,
    )


def _slots_taken(facts: Facts) -> Explanation | None:
    able = _able(facts)
    if not _could_start(facts) or not able or any(worker.free_slots for worker in able):
        return None
    slots = sum(worker.slots for worker in able)
    in_front = facts.in_front + facts.task_in_front
    return _explanation(
        facts,
        ExplanationReason.SLOTS_TAKEN,
        f"{every(slots, 'slot')} of the {count(len(able), 'worker')} that could run it "
        f"{'is' if slots == 1 else 'are'} taken, and {jobs_in_front(in_front)}.",
        queue=facts.job.queue,
        slots=slots,
        in_front=in_front,
        workers=[worker.id for worker in able],
    )


def _starts_soon(facts: Facts) -> Explanation:
    in_front = facts.in_front + facts.task_in_front
    due_for = (facts.now - facts.job.scheduled_at).total_seconds()
    free = next((worker for worker in _able(facts) if worker.free_slots), None)
    polls = [worker.poll_interval for worker in _able(facts) if worker.poll_interval]
    where = "" if free is None else f": worker {worker_name(free)} has a free slot"
    if due_for > LATE and not in_front:
        message = (
            f"It should run{where}, but it has been due for {duration(due_for)}: another "
            "transaction may have locked its row, or the "
            "worker has no working connection; see its log."
        )
    else:
        latest = (
            f"; without notifications workers look every {duration(min(polls))}" if polls else ""
        )
        message = f"It should start at once{where}, and {jobs_in_front(in_front)}{latest}."
    return _explanation(
        facts,
        ExplanationReason.STARTS_SOON,
        message,
        expected_at=facts.now + timedelta(seconds=min(polls, default=DEFAULT_POLL_INTERVAL)),
        due_seconds=due_for,
        in_front=in_front,
        worker_id=None if free is None else free.id,
    )


_WAITING: Sequence[Callable[[Facts], Explanation | None]] = (
    _blocked,
    _due_later,
    _queue_paused,
    _no_worker,
    _unknown_task,
    _workers_stopping,
    _concurrency_limit,
    _rate_limit,
    _slots_taken,
)


def _could_start(facts: Facts) -> bool:
    """Return whether limits and slots matter now: they change until a later job is due."""
    return not facts.job.pending_parents and facts.job.scheduled_at <= facts.now


def _able(facts: Facts) -> list[WorkerFacts]:
    return [worker for worker in facts.workers if worker.knows and not worker.stopping]
