"""What ``roost top`` shows, as one reading of the database."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import attrs

from roost import Job, JobState, Overview, Roost, WorkerInfo

MOST_JOBS = 100
"""Running jobs, and failed ones, that are shown at most."""
MOST_RUNNING = 1_000
"""Running jobs that are read at most: the newest ids. The one that runs for hours is not new."""
RECENT = timedelta(hours=1)
"""How long ago a job was discarded at most to be shown."""


@attrs.frozen(kw_only=True)
class Snapshot:
    """One reading.

    :param overview: as `roost status` prints it.
    :param clock_ahead: by how many seconds the database's clock is ahead of this machine's.
    :param running: at most 100; those that began first come first.
    :param failed: at most 100 jobs whose last attempt failed; the newest failure comes first.
    """

    overview: Overview
    clock_ahead: float
    running: Sequence[Job]
    failed: Sequence[Job]

    @property
    def workers(self) -> list[WorkerInfo]:
        """The living workers."""
        at = self.overview.at
        return [worker for worker in self.overview.workers if worker.expires_at > at]


def read_snapshot(client: Roost) -> Snapshot:
    """Read all that one frame shows."""
    overview = client.overview()
    clock_ahead = (overview.at - datetime.now(UTC)).total_seconds()
    running = client.list_jobs(states=[JobState.EXECUTING], limit=MOST_RUNNING)
    since = overview.at - RECENT
    failed = [
        *client.list_jobs(states=[JobState.DISCARDED], finished_after=since, limit=MOST_JOBS),
        *client.list_jobs(states=[JobState.RETRYABLE], limit=MOST_JOBS),
    ]
    newest = sorted((job for job in failed if job.errors), key=failed_at, reverse=True)
    return Snapshot(
        overview=overview,
        clock_ahead=clock_ahead,
        running=sorted(running, key=began_at)[:MOST_JOBS],
        failed=newest[:MOST_JOBS],
    )


def began_at(job: Job) -> datetime:
    """Return when the job's running attempt began."""
    return job.attempted_at or job.inserted_at


def failed_at(job: Job) -> datetime:
    """Return when the job's last attempt failed."""
    return datetime.fromisoformat(job.errors[-1]["at"]).astimezone(UTC)
