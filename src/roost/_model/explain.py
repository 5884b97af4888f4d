"""Why a job does not run: a decision over facts. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from roost._model.explain_facts import Facts, HolderFacts, WorkerFacts
from roost._model.states import TERMINAL, JobState

RESCUE_INTERVAL = 30.0
"""Seconds between two looks of a worker for jobs of dead workers, by default."""
DEFAULT_POLL_INTERVAL = 1.0
"""Seconds, for a worker that has not told its own."""
LATE = 10.0
"""Seconds after which a job that nothing holds back should have started."""
MOST_IN_FRONT = 1_000
"""Jobs in front are counted up to this number."""


class ExplanationReason(StrEnum):
    """What keeps a job from running, or what it does instead.

    - ``ended``: it has completed, failed for good, or was cancelled.
    - ``running``: a worker runs it.
    - ``prefetched``: a worker has claimed it, and it waits there for a slot.
    - ``cancel_requested``: it still runs, although its cancel was requested.
    - ``worker_silent``: the worker that holds it has missed its heartbeats.
    - ``worker_dead``: the worker that holds it is dead; other workers will rescue it.
    - ``blocked``: it waits for jobs that it depends on.
    - ``scheduled``: it is due later.
    - ``retry_scheduled``: it has failed, and its next attempt is due later.
    - ``queue_paused``: its queue is paused.
    - ``no_worker``: no living worker serves its queue.
    - ``unknown_task``: none of the workers that serve its queue has a handler for its task.
    - ``workers_stopping``: all workers that could run it are being stopped, and start no more jobs.
    - ``concurrency_limit``: as many jobs of its task run as its limit allows.
    - ``rate_limit``: as many jobs of its task have started in the last minute as its limit allows.
    - ``slots_taken``: all slots of the workers that could run it are taken.
    - ``starts_soon``: nothing keeps it from starting.
    """

    ENDED = "ended"
    RUNNING = "running"
    PREFETCHED = "prefetched"
    CANCEL_REQUESTED = "cancel_requested"
    WORKER_SILENT = "worker_silent"
    WORKER_DEAD = "worker_dead"
    BLOCKED = "blocked"
    SCHEDULED = "scheduled"
    RETRY_SCHEDULED = "retry_scheduled"
    QUEUE_PAUSED = "queue_paused"
    NO_WORKER = "no_worker"
    UNKNOWN_TASK = "unknown_task"
    WORKERS_STOPPING = "workers_stopping"
    CONCURRENCY_LIMIT = "concurrency_limit"
    RATE_LIMIT = "rate_limit"
    SLOTS_TAKEN = "slots_taken"
    STARTS_SOON = "starts_soon"


# A dataclass of the standard library, since pydantic and FastAPI can dump it.
@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """Why a job does not run, or what it does instead.

    :param job_id: the job's id.
    :param state: its state.
    :param reason: what keeps it from running.
    :param message: the same as a sentence with names, numbers and times.
    :param data: the facts behind it, as JSON values; times are ISO 8601 texts in UTC.
    :param expected_at: when this reason ends; ``None``: nothing says when.
    :param also: other reasons that keep the job from running, too, in their order.
    """

    job_id: int
    state: str
    reason: ExplanationReason
    message: str
    data: dict[str, Any]
    expected_at: datetime | None = None
    also: list["Explanation"] = field(default_factory=list)


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
        data={name: _as_json(value) for name, value in data.items()},
        expected_at=expected_at,
    )


def _ended(facts: Facts) -> Explanation:
    job = facts.job
    how = {
        JobState.COMPLETED: "It completed",
        JobState.DISCARDED: f"It failed for good with attempt {job.attempt} of {job.max_attempts}",
        JobState.CANCELLED: "It was cancelled",
    }[JobState(job.state)]
    when = "" if job.ended_at is None else f" at {_clock(job.ended_at)}"
    where = ", and is archived" if job.archived else ""
    error = None if job.state == JobState.COMPLETED else job.last_error
    return _explanation(
        facts,
        ExplanationReason.ENDED,
        f"{how}{when}{where}{_because(error)}.",
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
        silence = _span((facts.now - holder.heartbeat_at).total_seconds())
        which = f"Its worker {_worker(holder)} is dead: it has sent no heartbeat for {silence}"
    rescued_at = facts.now + timedelta(seconds=RESCUE_INTERVAL) if facts.living_workers else None
    if rescued_at is None:
        then = "no worker is alive that could rescue the job: start one"
    else:
        then = (
            f"another worker rescues the job by about {_clock(rescued_at)}, if workers look every "
            f"{RESCUE_INTERVAL:g} s, as by default"
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


def _worker_silent(facts: Facts) -> Explanation | None:
    holder = facts.worker
    if holder is None or holder.expires_at <= facts.now:
        return None
    silence = facts.now - holder.heartbeat_at
    # A worker sends at least two heartbeats in the time after which it counts as dead.
    if silence <= (holder.expires_at - holder.heartbeat_at) / 2:
        return None
    return _explanation(
        facts,
        ExplanationReason.WORKER_SILENT,
        f"Its worker {_worker(holder)} has sent no heartbeat for {_span(silence.total_seconds())}; "
        f"if it sends none, other workers rescue the job from {_clock(holder.expires_at)} on.",
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
        f"Its cancel was requested, and its handler has not ended yet{_on_worker(facts)}.",
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
        f"Worker {_worker(holder)} has claimed it, and it waits there for a free slot.",
        worker_id=holder.id,
        worker=holder.name,
        claimed_at=facts.job.attempted_at,
    )


def _running(facts: Facts) -> Explanation:
    job, holder = facts.job, facts.worker
    since, heartbeat = "", ""
    if job.attempted_at is not None:
        span = _span((facts.now - job.attempted_at).total_seconds())
        since = f" since {_clock(job.attempted_at)}, for {span}"
    if holder is not None:
        age = _span((facts.now - holder.heartbeat_at).total_seconds())
        heartbeat = f"; the worker's last heartbeat was {age} ago"
        if holder.stopping:
            heartbeat += ", and it is being stopped"
    return _explanation(
        facts,
        ExplanationReason.RUNNING,
        f"It has been running{_on_worker(facts)}{since}, attempt {job.attempt} of "
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
    due = f"due at {_clock(job.scheduled_at)}, in {_span(_seconds_until(facts, job.scheduled_at))}"
    if job.state == JobState.RETRYABLE:
        return _explanation(
            facts,
            ExplanationReason.RETRY_SCHEDULED,
            f"Attempt {job.attempt} of {job.max_attempts} failed{_because(job.last_error)}; the "
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
    workers = _count(len(unconfirmed), "worker")
    but = f"; {workers} of it may not have noticed" if unconfirmed else ""
    return _explanation(
        facts,
        ExplanationReason.QUEUE_PAUSED,
        f"Queue {facts.job.queue!r} has been paused since {_clock(facts.paused_at)}{but}.",
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
        count = len(facts.workers)
        none = f"None of the {count} living workers of queue {facts.job.queue!r} has a handler"
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
        f"{_every(len(stopping), 'worker')} that could run it {'is' if one else 'are'} being "
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
        f"{_limited(facts)} may run {_count(limit.max_concurrency, 'job')} at once"
        f"{_set(limit.set_max_concurrency)}, and {limit.executing} run now: "
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
    room = "" if limit.room_at is None else f"; there is room again at {_clock(limit.room_at)}"
    return _explanation(
        facts,
        ExplanationReason.RATE_LIMIT,
        f"{_limited(facts)} may start {_count(limit.rate_per_minute, 'job')} a minute"
        f"{_set(limit.set_rate_per_minute)}, and has started {limit.started}{room}.",
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
        f"{_every(slots, 'slot')} of the {_count(len(able), 'worker')} that could run it "
        f"{'is' if slots == 1 else 'are'} taken, and {_in_front(in_front)}.",
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
    where = "" if free is None else f": worker {_worker(free)} has a free slot"
    if due_for > LATE and not in_front:
        message = (
            f"It should run{where}, but it has been due for {_span(due_for)}: another transaction "
            "may have locked its row, or the worker has no working connection; see its log."
        )
    else:
        latest = f"; without notifications workers look every {min(polls):g} s" if polls else ""
        message = f"It should start at once{where}, and {_in_front(in_front)}{latest}."
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


# Words


def _limited(facts: Facts) -> str:
    task, key = facts.job.task, facts.job.limit_key
    if facts.limit is None or facts.limit.limit_by is None or key is None:
        return f"Task {task!r}"
    return f"Task {task!r} with limit key {key!r}"


def _set(value: int | None) -> str:
    return "" if value is None else " (by set_limit)"


def _worker(worker: HolderFacts | WorkerFacts) -> str:
    return f"{worker.name} (id {worker.id})"


def _on_worker(facts: Facts) -> str:
    return "" if facts.worker is None else f" on worker {_worker(facts.worker)}"


def _because(error: str | None) -> str:
    if not error:
        return ""
    line = error.splitlines()[0]
    return f": {line if len(line) <= 200 else line[:199] + '…'}".rstrip(".")


def _in_front(jobs: int) -> str:
    if not jobs:
        return "no due job of its queue is in front of it"
    if jobs == 1:
        return "1 due job of its queue is in front of it"
    more = " or more" if jobs >= MOST_IN_FRONT else ""
    return f"{jobs}{more} due jobs of its queue are in front of it"


def _every(number: int, noun: str) -> str:
    return f"The only {noun}" if number == 1 else f"All {number} {noun}s"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _seconds_until(facts: Facts, moment: datetime) -> float:
    return (moment - facts.now).total_seconds()


def _clock(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _span(seconds: float) -> str:
    """Return a duration in its two largest units."""
    whole = max(round(seconds), 0)
    days, hours, minutes = whole // 86_400, whole // 3_600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    if minutes:
        return f"{minutes} min {whole % 60} s"
    return f"{whole} s"


def _as_json(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else value
