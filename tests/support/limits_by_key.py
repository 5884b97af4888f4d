"""Declare limits by key, and claim and end jobs of one task with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tests.support.job_table import JobTable

from roost import JobInsert, TaskDefaults
from roost._model.states import Event
from roost._model.verdict import Verdict
from roost._ops.claim import Claimed, ClaimedJob, claim_limited_jobs
from roost._ops.limits import mark_limited_jobs, publish_limits
from roost._ops.settle import settle


def publish(session: JobTable, task: str = "work", *, by: Any = "tenant", **limits: int) -> None:
    session.run(publish_limits({task: TaskDefaults(limit_by=by, **limits)}))  # type: ignore[arg-type]  # only whole numbers
    session.run(mark_limited_jobs())


def of(tenant: object, **columns: Any) -> JobInsert:
    return JobInsert("work", {"tenant": tenant}, **columns)


def claim(
    session: JobTable,
    worker: int,
    *,
    limit: int = 100,
    tasks: Sequence[str] = ("work",),
    queues: Sequence[str] = ("default",),
) -> Claimed:
    with session.connection.transaction():
        return session.run(
            claim_limited_jobs(
                worker_id=worker, queues=queues, limited=list(tasks), tasks=tasks, limit=limit
            )
        )


def end(session: JobTable, *jobs: ClaimedJob, event: Event = Event.COMPLETE) -> None:
    delay = 0.0 if event in (Event.SNOOZE, Event.RETRY) else None
    verdicts = [Verdict(job.lease, event, delay=delay) for job in jobs]
    assert not session.run(settle(verdicts, error_cap=20)).lost


def tenants(jobs: Iterable[ClaimedJob]) -> list[Any]:
    return [job.args()["tenant"] for job in jobs]


def ids_of(claimed: Claimed) -> list[int]:
    return [job.lease.job_id for job in claimed.jobs]
