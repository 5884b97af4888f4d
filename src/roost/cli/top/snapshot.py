"""What ``roost top`` shows, as one reading of the database."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import attrs

from roost import Job, JobState, QueueInfo, Roost, WorkerInfo

MOST_JOBS = 100
"""Running jobs, and failed ones, that are read at most."""
RECENT = timedelta(hours=1)
"""How long ago a job was discarded at most to be shown."""


@attrs.frozen(kw_only=True)
class Snapshot:
    """One reading.

    :param at: when it was read, by this machine's clock.
    :param running: those that began first come first.
    :param failed: jobs whose last attempt failed; the newest failure comes first.
    """

    at: datetime
    queues: Sequence[QueueInfo]
    workers: Sequence[WorkerInfo]
    running: Sequence[Job]
    failed: Sequence[Job]


def read_snapshot(client: Roost) -> Snapshot:
    """Read all that one frame shows."""
    at = datetime.now(UTC)
    running = client.list_jobs(states=[JobState.EXECUTING], limit=MOST_JOBS)
    failed = [
        *client.list_jobs(states=[JobState.DISCARDED], finished_after=at - RECENT, limit=MOST_JOBS),
        *client.list_jobs(states=[JobState.RETRYABLE], limit=MOST_JOBS),
    ]
    return Snapshot(
        at=at,
        queues=client.list_queues(),
        workers=[worker for worker in client.list_workers() if worker.expires_at > at],
        running=sorted(running, key=began_at),
        failed=sorted((job for job in failed if job.errors), key=failed_at, reverse=True)[
            :MOST_JOBS
        ],
    )


def began_at(job: Job) -> datetime:
    """Return when the job's running attempt began."""
    return job.attempted_at or job.inserted_at


def failed_at(job: Job) -> datetime:
    """Return when the job's last attempt failed."""
    return datetime.fromisoformat(job.errors[-1]["at"]).astimezone(UTC)
