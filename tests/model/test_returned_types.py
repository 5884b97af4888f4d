"""Returned objects work with pydantic and FastAPI, and tests can create them."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter

from roost import (
    CronInfo,
    DuplicateUniqueJobError,
    Explanation,
    ExplanationReason,
    HandlerRegistry,
    Job,
    JobOutcome,
    JobState,
    LimitInfo,
    Overview,
    Percentiles,
    QueueInfo,
    TaskInfo,
    Throughput,
    Windows,
    WorkerHealth,
    WorkerInfo,
)

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)

TIMES = Percentiles(p50=0.1, p95=0.5, p99=None)
ENDED = Throughput(
    seconds=60.0, attempts=3, by_outcome={"completed": 2, "retried": 1}, failures=1,
    per_second=0.05, wait=TIMES, run=TIMES,
)  # fmt: skip
WINDOWS = Windows(minute=ENDED, hour=ENDED, day=ENDED)
OTHER = Explanation(
    job_id=1, state="available", reason=ExplanationReason.NO_WORKER, message="No.", data={"n": 1},
)  # fmt: skip
VALUES: dict[type, Any] = {
    Overview: Overview(
        at=NOW, until=NOW, queues=[], workers=[], total=WINDOWS, by_queue={"q": WINDOWS},
        by_task={"t": WINDOWS},
    ),
    Explanation: Explanation(
        job_id=1, state="available", reason=ExplanationReason.SCHEDULED, message="Later.",
        data={}, expected_at=NOW, also=[OTHER],
    ),
    QueueInfo: QueueInfo(
        name="default", paused_at=None, available=1, scheduled=2, retryable=3, blocked=4,
        executing=5, prefetched=7, discarded=6, oldest_due_seconds=0.5, capped=False,
    ),
    LimitInfo: LimitInfo(
        task="t", max_concurrency=1, rate_per_minute=2, declared_max_concurrency=None,
        declared_rate_per_minute=2, set_max_concurrency=1, set_rate_per_minute=None, limit_by="a",
        executing=3, started=4,
    ),
    WorkerInfo: WorkerInfo(
        id=1, name="host", queues=["default"], concurrency=4, started_at=NOW, heartbeat_at=NOW,
        heartbeat_interval=15.0, expires_at=NOW, executing=0, prefetched=0, tasks=["t"],
        version="1", driver=None,
        event_loop=None, host="host", pid=1, running=2, waiting=3, loop_lag=0.1,
        slots={"default": 4},
    ),
    TaskInfo: TaskInfo(
        name="t", options={"queue": "q"}, args_schema={"type": "object"}, max_concurrency=1,
        rate_per_minute=None, limit_by=None, workers=2, queues=["q"],
    ),
    WorkerHealth: WorkerHealth(
        live=True, ready=False, phase="running", reasons=["no"], warnings=[], worker_id=1,
        running=1, slots=2, prefetched=0, unwritten=0, listening=True, heartbeat_age_seconds=1.5,
        claim_age_seconds=None, loop_age_seconds=0.1,
    ),
    CronInfo: CronInfo(
        name="daily", source="code", expression="@daily", description="At 00:00",
        timezone_name=None, task="t", queue="q", args={"n": 1}, priority=0, max_attempts=20,
        misfire="last", overlap="allow", jitter=0.0, run_on_start=False, args_from_code=False,
        next_tick_at=NOW, last_tick_at=None, last_job_id=None, paused_at=None, stale=False,
    ),
    JobOutcome: JobOutcome(1, "completed", {"n": 1}, []),
    Job: Job(id=1, task="t", result=[1], scheduled_at=NOW),
}  # fmt: skip


@pytest.mark.parametrize("kind", VALUES, ids=lambda kind: kind.__name__)
def test_a_returned_type_is_dumped_described_and_read_again(kind: type) -> None:
    value = VALUES[kind]
    adapter = TypeAdapter(list[kind])  # type: ignore[valid-type]  # as a response model of FastAPI
    dumped = adapter.dump_json([value])
    assert set(json.loads(dumped)[0]) == set(
        adapter.json_schema()["$defs"][kind.__name__]["properties"]
    )
    assert adapter.validate_json(dumped) == [value]
    [name, *_] = json.loads(dumped)[0]
    with pytest.raises((dataclasses.FrozenInstanceError, ValueError)):
        setattr(value, name, "changed")


def test_an_outcome_with_a_result_type_is_described_with_it() -> None:
    class Report(BaseModel):
        rows: int

    adapter = TypeAdapter(JobOutcome[Report])
    outcome = adapter.validate_python(JobOutcome(1, "completed", {"rows": 3}, []).__dict__)
    assert outcome.result == Report(rows=3)
    assert "Report" in json.dumps(adapter.json_schema())


def test_a_job_for_a_test_needs_an_id_and_a_task() -> None:
    job = Job(id=1, task="send")
    assert (job.queue, job.state, job.args, job.attempt) == ("default", "available", {}, 0)
    assert job.scheduled_at.tzinfo is not None


def test_the_states_are_those_of_the_api_page() -> None:
    state: str = JobState.AVAILABLE
    assert state == "available"
    assert isinstance(JobState.AVAILABLE, str)
    assert str(JobState.AVAILABLE) == f"{JobState.AVAILABLE}" == "JobState.AVAILABLE"
    assert JobState.AVAILABLE.value == "available"
    assert json.dumps(JobState.AVAILABLE) == '"available"'


def test_a_conflict_for_a_test_needs_only_a_message() -> None:
    assert str(DuplicateUniqueJobError("busy")) == "busy"
    assert DuplicateUniqueJobError().existing_id == 0


def test_a_registry_lists_its_tasks(registry: HandlerRegistry) -> None:
    registry.register("one", lambda: None)
    assert registry.names() == ("one",)
    assert registry.get("two") is None
    handler = registry.get("one")
    assert handler is not None
    assert handler.name == "one"
