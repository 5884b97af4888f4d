"""The rows of the model: one class for each table, one field for each column."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import attrs


@attrs.define(kw_only=True)
class JobRow:
    """A row of ``roost.jobs``; the fields are its columns."""

    id: int
    scheduled_at: datetime
    inserted_at: datetime
    attempted_at: datetime | None = None
    completed_at: datetime | None = None
    cancelled_at: datetime | None = None
    discarded_at: datetime | None = None
    worker_id: int | None = None
    lease_no: int = 0
    priority: int
    attempt: int = 0
    max_attempts: int
    timeout_seconds: int | None
    prefetch_no: int | None = None
    pending_parents: int = 0
    cancel_requested: bool = False
    state: str = "available"
    queue: str
    task: str
    unique_key: str | None
    limit_key: str | None = None
    args: dict[str, Any]
    metadata: dict[str, Any] | None
    tags: list[str] | None
    depends_on: list[int] | None = None
    errors: list[dict[str, Any]] | None = None
    result: Any = None
    has_children: bool = False
    limited: bool = False
    awaited: bool = False
    unique_waiting: bool = False


@attrs.define(kw_only=True)
class WorkerRow:
    """A row of ``roost.workers``; the fields are its columns."""

    id: int
    name: str
    queues: list[str]
    concurrency: int
    started_at: datetime
    heartbeat_at: datetime
    expires_at: datetime
    wants_notify: bool = True
    credit: int | None = None
    credit_queues: list[str] | None = None
    dispatched_job_id: int | None = None
    channel: str | None = None
    tasks: list[str] = attrs.field(factory=list)
    known_tasks: list[str] = attrs.field(factory=list)
    fires_cron: bool = True
    version: str | None = None
    driver: str | None = None
    event_loop: str | None = None
    host: str | None = None
    pid: int | None = None
    slots: str | None = None
    poll_interval: float | None = None
    heartbeat_interval: float | None = None
    stopping: bool = False
    running: int = 0
    waiting: int = 0
    loop_lag: float = 0.0
    scraped_at: datetime | None = None
    paused: list[str] = attrs.field(factory=list)
    prefetch_started: list[int] | None = None


@attrs.define(kw_only=True)
class ArchivedRow(JobRow):
    """A row of ``roost.jobs_archive``."""

    archived_at: datetime


@attrs.define(kw_only=True)
class QueueRow:
    """A row of ``roost.queues``: a queue that was ever paused."""

    name: str
    paused_at: datetime | None


@attrs.define(kw_only=True)
class HoldRow:
    """A row of ``roost.unique_holds``: a key of jobs with ``unique_for``."""

    unique_key: str
    holder_id: int | None
    expires_at: datetime
