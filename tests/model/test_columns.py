"""The places that list the columns of a job agree."""

from __future__ import annotations

import inspect
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest

from roost import AsyncRoost, CronEntry, JobInsert, TaskDefaults, cron, job
from roost._model.encoding import encode_batch
from roost._model.job import _CHECKS, CallOptions, Job

INSERTED = {field.name: field.default for field in attrs.fields(JobInsert)}

OTHER: dict[str, Any] = {
    "task": "other",
    "queue": "other",
    "priority": 7,
    "max_attempts": 7,
    "scheduled_at": datetime(2030, 1, 1, tzinfo=UTC),
    "tags": ["other"],
    "timeout_seconds": 7,
    "depends_on": [7],
    "metadata": {"other": 7},
    "schedule_in": 7,
    "unique_by": "args",
    "unique_while": "waiting",
    "unique_for": 7,
}
"""A value other than the default, for each field that homogeneous jobs share."""

OPTIONS = {"schedule_in", "unique_by", "unique_while", "unique_for"}
"""The fields of a job to enqueue that are no columns of its row."""


def test_each_inserted_column_is_read_checked_and_an_option() -> None:
    assert INSERTED.keys() - OPTIONS <= Job.model_fields.keys()
    assert INSERTED.keys() - OPTIONS - {"args"} == _CHECKS.keys()
    assert INSERTED.keys() - {"task", "args"} == CallOptions.__annotations__.keys()


def test_enqueue_has_each_column_with_its_default() -> None:
    shown = {
        name: parameter.default
        for name, parameter in inspect.signature(AsyncRoost.enqueue).parameters.items()
        if name not in ("self", "task", "on_conflict", "conn", "transactional")
    }
    assert shown == {name: INSERTED[name] for name in INSERTED if name != "task"}


def test_job_and_cron_have_a_parameter_for_each_default() -> None:
    declared = inspect.signature(job).parameters.keys()
    assert {field.name for field in attrs.fields(TaskDefaults)} <= declared
    entry = {field.name for field in attrs.fields(CronEntry)} & INSERTED.keys()
    assert entry - {"task"} <= inspect.signature(cron).parameters.keys()


@pytest.mark.parametrize("column", OTHER)
def test_jobs_that_differ_in_a_column_are_not_homogeneous(column: str) -> None:
    assert OTHER.keys() == INSERTED.keys() - {"args", "unique_key"}
    same = JobInsert("work", {"n": 1})
    assert encode_batch([same, JobInsert("work", {"n": 2})]).homogeneous
    # Some need a key.
    key = None if column == "unique_by" else "key"
    other = attrs.evolve(same, unique_key=key, **{column: OTHER[column]})
    assert not encode_batch([same, other]).homogeneous
    if column.startswith("unique_"):
        assert not encode_batch([other, other]).homogeneous
