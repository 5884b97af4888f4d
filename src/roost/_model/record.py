"""From a `JobInsert` to the record that an enqueue sends: every value checked, all of it JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from roost._model.codec import EncodingError, encode
from roost._model.job import JobInsert
from roost._model.validate import (
    MAX_INT,
    MAX_KEY,
    check_ids,
    check_int,
    check_name,
    check_scheduled_at,
    check_tags,
)
from roost.exceptions import InvalidJobError


def encode_jobs(jobs: Sequence[JobInsert]) -> str:
    """Return the jobs as one JSON array, for one statement.

    :raises InvalidJobError: a value can't be stored; the message names it, and its place when
        there are several jobs.
    """
    records = []
    for index, job in enumerate(jobs):
        try:
            records.append(_record(job))
        except InvalidJobError as error:
            raise (_in_batch(error, index) if len(jobs) > 1 else error) from error.__cause__
    try:
        return encode(records)
    except EncodingError:
        # Which job it was is asked only now, so that good batches are encoded in one call.
        for index, (job, record) in enumerate(zip(jobs, records, strict=True)):
            refused = _why_refused(job, record)
            if refused is not None:
                raise (
                    _in_batch(refused, index) if len(jobs) > 1 else refused
                ) from refused.__cause__
        raise


def _record(job: JobInsert) -> dict[str, Any]:
    check_name("task", job.task)
    check_name("queue", job.queue)
    check_int("priority", job.priority, least=-MAX_INT)
    check_int("max_attempts", job.max_attempts, least=1)
    check_scheduled_at(job.scheduled_at)
    check_tags(job.tags)
    if job.unique_key is not None:
        check_name("unique_key", job.unique_key, most=MAX_KEY)
    if job.timeout_seconds is not None:
        check_int("timeout_seconds", job.timeout_seconds, least=1)
    check_ids("depends_on", job.depends_on)
    if job.args is not None and not isinstance(job.args, (dict, BaseModel)):
        raise InvalidJobError(
            f"args must be a dict or a pydantic model, not {type(job.args).__name__}"
        )
    if job.metadata is not None and not isinstance(job.metadata, dict):
        raise InvalidJobError(f"metadata must be a dict, not {type(job.metadata).__name__}")
    record: dict[str, Any] = {
        "task": job.task,
        "queue": job.queue,
        "args": _dumped(job.task, job.args),
        "priority": job.priority,
        "max_attempts": job.max_attempts,
    }
    # What is left out is null in the row.
    if job.scheduled_at is not None:
        record["scheduled_at"] = job.scheduled_at
    if job.unique_key is not None:
        record["unique_key"] = job.unique_key
    if job.tags:
        record["tags"] = job.tags
    if job.timeout_seconds is not None:
        record["timeout_seconds"] = job.timeout_seconds
    if job.metadata:
        record["metadata"] = job.metadata
    if job.depends_on:
        record["depends_on"] = job.depends_on
    return record


def _dumped(task: str, args: dict[str, Any] | BaseModel | None) -> dict[str, Any]:
    """Return the args as a dict; a model's NaN stays one, and is refused later."""
    if args is None:
        return {}
    if isinstance(args, dict):
        return args
    try:
        dumped = args.model_dump(mode="json")
    except Exception as error:  # users' serializers run here
        raise InvalidJobError(f"args of task {task!r} can't be stored: {error}") from error
    if not isinstance(dumped, dict):
        raise InvalidJobError(
            f"args must have named fields, and {type(args).__name__} is dumped as {dumped!r}"
        )
    return dumped


def _why_refused(job: JobInsert, record: dict[str, Any]) -> InvalidJobError | None:
    for what in ("args", "metadata"):
        try:
            encode(record.get(what))
        except EncodingError as error:
            refused = InvalidJobError(f"{what} of task {job.task!r} can't be stored: {error}")
            refused.__cause__ = error
            return refused
    return None


def _in_batch(error: InvalidJobError, index: int) -> InvalidJobError:
    return InvalidJobError(f"job {index} of the batch: {error}")
