"""Judge the workers, the queues and the cron entries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from shlex import quote

from roost._model.cron import CronInfo
from roost._model.doctor.facts import (
    ConnectionFacts,
    Orphans,
    UnknownTaskFacts,
    WorkerFacts,
)
from roost._model.doctor.finding import Finding, FindingLevel, plural
from roost._model.durations import duration
from roost._model.info import QueueInfo
from roost._model.version import roost_version

RESCUE_LATE = 120.0
"""Seconds after which living workers should have rescued a dead one's jobs: they look every
``orphan_reaper_interval``, 30 s by default."""
READY_NOTE, READY_TROUBLE = 60.0, 600.0
"""Seconds that a job is due and does not start."""
LOOP_LAG = 1.0
"""Seconds by which an event loop is late."""
LONG_PAUSE = 86_400.0
"""Seconds."""
CRON_LATE = 60.0
"""Seconds after a tick; workers fire it within two."""


def judge_workers(workers: Sequence[WorkerFacts], queues: Sequence[QueueInfo]) -> Iterable[Finding]:
    """Say how many workers live, and which are late or of another version."""
    living = [worker for worker in workers if worker.living]
    if not living:
        waiting = any(_has_waiting(queue) for queue in queues)
        yield Finding(
            check="workers",
            level=FindingLevel.TROUBLE if waiting else FindingLevel.NOTE,
            seen="no worker is running" + (", and jobs are waiting" if waiting else ""),
            advice="start one: roost run -m your_module",
            data={"living": 0},
        )
        return
    late = [
        worker
        for worker in living
        if worker.heartbeat_seconds > -worker.expired_seconds
        and worker.heartbeat_seconds > READY_NOTE
    ]
    for worker in late:
        yield Finding(
            check="workers",
            level=FindingLevel.NOTE,
            subject=worker.name,
            seen=f"the last heartbeat of {worker.name} is {duration(worker.heartbeat_seconds)} "
            f"old; it counts as dead in {duration(-worker.expired_seconds)}",
            advice="look at that process: its event loop is blocked, or it can't reach the "
            "database",
            data={"id": worker.id, "heartbeat_seconds": worker.heartbeat_seconds},
        )
    blocked = [worker for worker in living if worker.loop_lag >= LOOP_LAG]
    for worker in blocked:
        yield Finding(
            check="workers",
            level=FindingLevel.NOTE,
            subject=worker.name,
            seen=f"the event loop of {worker.name} was late by {duration(worker.loop_lag)}",
            advice="a handler blocks it, and the log names its job; make that handler a sync one",
            data={"id": worker.id, "loop_lag": worker.loop_lag},
        )
    ours = roost_version()
    others = sorted({worker.version for worker in living if worker.version} - {ours})
    if others:
        yield Finding(
            check="workers",
            level=FindingLevel.NOTE,
            subject="version",
            seen=f"workers run Roost {', '.join(others)}; this is {ours}",
            advice="finish the deploy",
            data={"versions": others, "here": ours},
        )
    if not late and not blocked and not others:
        yield Finding(
            check="workers",
            level=FindingLevel.OK,
            seen=f"{plural(len(living), 'worker')} running",
            data={"living": len(living)},
        )


def judge_dead_workers(workers: Sequence[WorkerFacts], orphans: Orphans) -> Iterable[Finding]:
    """Find workers that expired, and jobs whose worker is gone."""
    alive = any(worker.living for worker in workers)
    expired = [worker for worker in workers if not worker.living]
    advice = (
        "wait: a living worker rescues its jobs within its orphan_reaper_interval"
        if alive
        else "start a worker: it rescues the jobs"
    )
    for worker in expired:
        late = worker.expired_seconds > RESCUE_LATE
        yield Finding(
            check="dead_workers",
            level=FindingLevel.TROUBLE if late or not alive else FindingLevel.NOTE,
            subject=worker.name,
            seen=f"worker {worker.id} ({worker.name}) is dead since "
            f"{duration(worker.expired_seconds)}, and {plural(worker.executing, 'job')} of it "
            "not rescued",
            advice="look into the logs of the living workers: none rescues jobs"
            if late and alive
            else advice,
            data={
                "id": worker.id,
                "seconds": worker.expired_seconds,
                "executing": worker.executing,
            },
        )
    if orphans.jobs:
        yield Finding(
            check="dead_workers",
            level=FindingLevel.NOTE if alive else FindingLevel.TROUBLE,
            seen=f"{plural(orphans.jobs, 'running job')} of workers that are gone",
            advice=advice,
            data={"executing": orphans.jobs, "oldest_seconds": orphans.oldest_seconds},
        )
    if not expired and not orphans.jobs:
        yield Finding(
            check="dead_workers",
            level=FindingLevel.OK,
            seen="no dead worker holds a job",
        )


def _served(workers: Sequence[WorkerFacts]) -> set[str]:
    return {queue for worker in workers if worker.living for queue in worker.queues}


def judge_oldest(queues: Sequence[QueueInfo], workers: Sequence[WorkerFacts]) -> Iterable[Finding]:
    """Judge how long the oldest job waits that can start, in queues that are served."""
    served = _served(workers)
    ages = {
        queue.name: queue.oldest_due_seconds
        for queue in queues
        if queue.oldest_due_seconds is not None and queue.paused_at is None and queue.name in served
    }
    late = {name: age for name, age in ages.items() if age > READY_NOTE}
    for name, age in sorted(late.items()):
        yield Finding(
            check="oldest_ready",
            level=FindingLevel.TROUBLE if age > READY_TROUBLE else FindingLevel.NOTE,
            subject=name,
            seen=f"the oldest job of queue {name} that can start waits for {duration(age)}",
            advice="start more workers or raise --concurrency; if slots are free, a limit or a "
            "task that no worker knows holds it back",
            data={"seconds": age},
        )
    if not late:
        oldest = max(ages.values(), default=None)
        seen = "no job that can start waits"
        if oldest is not None:
            seen = f"the oldest job that can start waits for {duration(max(oldest, 0.0))}"
        yield Finding(
            check="oldest_ready", level=FindingLevel.OK, seen=seen, data={"seconds": oldest}
        )


def judge_unserved(
    queues: Sequence[QueueInfo], workers: Sequence[WorkerFacts]
) -> Iterable[Finding]:
    """Find queues with jobs and without a living worker."""
    served = _served(workers)
    unserved = [queue for queue in queues if queue.name not in served and _has_waiting(queue)]
    for queue in unserved:
        due = queue.oldest_due_seconds is not None
        yield Finding(
            check="unserved_queues",
            level=FindingLevel.TROUBLE if due else FindingLevel.NOTE,
            subject=queue.name,
            seen=f"no living worker serves queue {queue.name}, where "
            f"{_waiting(queue)} wait{'s' if _count(queue) == 1 else ''}",
            advice=f"start a worker with it: roost run -m your_module -q {quote(queue.name)}",
            data={"waiting": _count(queue), "oldest_due_seconds": queue.oldest_due_seconds},
        )
    if not unserved:
        yield Finding(
            check="unserved_queues",
            level=FindingLevel.OK,
            seen="a living worker serves each queue that has jobs",
        )


def judge_pauses(
    queues: Sequence[QueueInfo], workers: Sequence[WorkerFacts], connection: ConnectionFacts
) -> Iterable[Finding]:
    """Find pauses that last, and pauses that a worker has not confirmed."""
    paused = [queue for queue in queues if queue.paused_at is not None]
    for queue in paused:
        assert queue.paused_at is not None, "chosen above"  # noqa: S101
        seconds = max((connection.now - queue.paused_at).total_seconds(), 0.0)
        deaf = [
            worker.name
            for worker in workers
            if worker.living and queue.name in worker.queues and queue.name not in worker.paused
        ]
        stuck = bool(deaf) and seconds > READY_NOTE
        long = seconds > LONG_PAUSE and _has_waiting(queue)
        seen = f"queue {queue.name} is paused since {duration(seconds)}; {_waiting(queue)} there"
        advice = f"roost queue resume {quote(queue.name)}"
        if stuck:
            seen += f"; not confirmed by {', '.join(deaf)}"
            advice = "look at those workers: they may still start its jobs"
        yield Finding(
            check="pauses",
            level=FindingLevel.TROUBLE if stuck or long else FindingLevel.NOTE,
            subject=queue.name,
            seen=seen,
            advice=advice,
            data={"seconds": seconds, "waiting": _count(queue), "unconfirmed": deaf},
        )
    if not paused:
        yield Finding(check="pauses", level=FindingLevel.OK, seen="no queue is paused")


def judge_unknown_tasks(unknown: Sequence[UnknownTaskFacts]) -> Iterable[Finding]:
    """Find due jobs that no worker of their queue can run."""
    for each in unknown:
        yield Finding(
            check="unknown_tasks",
            level=FindingLevel.TROUBLE,
            subject=each.task,
            seen=f"no living worker of queue {each.queue} knows the task {each.task}: "
            f"{plural(each.jobs, 'due job')}, the oldest for {duration(each.oldest_seconds)}",
            advice="deploy code that has the task, add its module (roost run -m), or cancel the "
            "jobs",
            data={
                "queue": each.queue,
                "jobs": each.jobs,
                "oldest_seconds": each.oldest_seconds,
            },
        )
    if not unknown:
        yield Finding(
            check="unknown_tasks",
            level=FindingLevel.OK,
            seen="workers know the task of each due job of the queues that they serve",
        )


def judge_cron(
    entries: Sequence[CronInfo], workers: Sequence[WorkerFacts], connection: ConnectionFacts
) -> Iterable[Finding]:
    """Find cron entries that do not fire."""
    active = [entry for entry in entries if entry.paused_at is None]
    if active and not any(worker.living and worker.fires_cron for worker in workers):
        yield Finding(
            check="cron",
            level=FindingLevel.TROUBLE,
            seen=f"no living worker fires cron entries, and there are {len(active)}",
            advice="start a worker with run_cron=True, the default",
            data={"entries": len(active)},
        )
        return
    found = [finding for entry in active for finding in _judge_entry(entry, connection.now)]
    yield from found
    if not found:
        yield Finding(
            check="cron",
            level=FindingLevel.OK,
            seen=f"{len(active)} cron entries fire in time, {len(entries) - len(active)} are "
            "paused",
            data={"entries": len(entries)},
        )


def _judge_entry(entry: CronInfo, now: datetime) -> Iterable[Finding]:
    late = (now - entry.next_tick_at).total_seconds()
    data = {"next_tick_at": entry.next_tick_at.isoformat(), "stale": entry.stale}
    if entry.stale:
        declared = "declares it any more" if entry.source == "code" else "knows its task"
        yield Finding(
            check="cron",
            level=FindingLevel.NOTE,
            subject=entry.name,
            seen=f"cron entry {entry.name} does not fire: no running worker {declared}",
            advice=f"start a worker that has it, or: roost cron remove {quote(entry.name)}",
            data=data,
        )
    elif late > CRON_LATE:
        yield Finding(
            check="cron",
            level=FindingLevel.TROUBLE,
            subject=entry.name,
            seen=f"cron entry {entry.name} is overdue for {duration(late)}",
            advice="look into the workers' logs (roost.worker.cron)",
            data=data,
        )


def _count(queue: QueueInfo) -> int:
    return queue.available + queue.scheduled + queue.retryable + queue.blocked


def _has_waiting(queue: QueueInfo) -> bool:
    return _count(queue) > 0


def _waiting(queue: QueueInfo) -> str:
    more = "at least " if queue.capped else ""
    return f"{more}{plural(_count(queue), 'job')}"
