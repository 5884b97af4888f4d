"""Changes of a job are checked as an enqueue checks its columns."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from roost import HandlerRegistry, InvalidJobError, JobInsert, job
from roost._model.encoding import encode_jobs
from roost._model.job_changes import EncodedChanges, encode_changes

SOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


def encoded(**changes: Any) -> tuple[Any, list[str]]:
    found: EncodedChanges = encode_changes(changes, HandlerRegistry())
    return json.loads(found.text), found.cleared


@pytest.mark.parametrize(
    ("changes", "values"),
    [
        ({"queue": "bulk", "priority": -3}, {"queue": "bulk", "priority": -3}),
        ({"args": {"a": [1]}}, {"args": {"a": [1]}}),
        ({"args": None}, {"args": {}}),
        ({"max_attempts": 1}, {"max_attempts": 1}),
        ({"tags": ["x"], "timeout_seconds": 5}, {"tags": ["x"], "timeout_seconds": 5}),
        ({"metadata": {"m": None}}, {"metadata": {"m": None}}),
        ({"scheduled_at": SOON}, {"scheduled_at": "2026-11-01T12:00:00Z"}),
        ({"schedule_in": timedelta(minutes=2)}, {"schedule_in": 120.0}),
        ({"schedule_in": 0}, {"schedule_in": 0.0}),
        ({"priority": 0}, {"priority": 0}),
    ],
)
def test_what_is_passed_is_encoded_and_nothing_else(changes: Any, values: Any) -> None:
    assert encoded(**changes) == (values, [])


def test_nothing_clears_a_column_that_may_be_null() -> None:
    changes = {"tags": None, "timeout_seconds": None, "metadata": None}
    assert encoded(**changes) == ({}, ["tags", "timeout_seconds", "metadata"])
    assert encoded(tags=[], metadata={}) == ({}, ["tags", "metadata"])


BAD: dict[str, list[Any]] = {
    "queue": ["", None, 7, "a\nb"],
    "priority": [None, "1", 2**31, True],
    "args": [[1], "x", {"a": math.nan}, {"a": object()}, {"a": "\0"}],
    "max_attempts": [0, None, "1"],
    "tags": ["x", [""], [7]],
    "timeout_seconds": [0, 0.5, "1"],
    "metadata": [[1], {"a": math.inf}],
    "scheduled_at": [None, SOON.replace(tzinfo=None), "now"],
    "schedule_in": [None, -1, math.nan, math.inf, "1", True, timedelta(seconds=-1)],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD.items() for value in values]
)
def test_a_value_that_an_enqueue_refuses_is_refused(name: str, value: Any) -> None:
    with pytest.raises(InvalidJobError, match=name.rstrip("s")):
        encoded(**{name: value})
    if name != "schedule_in" and value is not None:
        with pytest.raises(InvalidJobError):
            encode_jobs([JobInsert("work", **{name: value})])


def test_no_change_and_two_times_are_refused() -> None:
    with pytest.raises(InvalidJobError, match="no change"):
        encoded()
    with pytest.raises(InvalidJobError, match="exclude each other"):
        encoded(scheduled_at=SOON, schedule_in=1)
    with pytest.raises(TypeError, match="unique_key"):
        encoded(unique_key="k")


@pytest.mark.parametrize("changes", [None, "queue", [("queue", "bulk")]])
def test_changes_that_are_no_dict_are_refused(changes: Any) -> None:
    with pytest.raises(InvalidJobError, match="must be a dict"):
        encode_changes(changes, HandlerRegistry())


def test_args_larger_than_the_registry_allows_are_refused() -> None:
    registry = HandlerRegistry(max_args_bytes=100)
    encode_changes({"args": {"a": "x" * 40}}, registry)
    with pytest.raises(InvalidJobError, match="max_args_bytes"):
        encode_changes({"args": {"a": "x" * 100}}, registry)
    with pytest.raises(InvalidJobError, match="max_args_bytes"):
        encode_changes({"args": {"a": "x" * 50}, "metadata": {"b": "x" * 50}}, registry)


class Sent(BaseModel):
    size: int = 1


class Read(BaseModel, extra="forbid"):
    length: int = 1


def test_a_model_must_be_read_back_by_the_handler_s_model() -> None:
    registry = HandlerRegistry()

    @job("work", args_model=Read, registry=registry)
    def work(length: int) -> None: ...

    assert json.loads(encode_changes({"args": Sent(size=2)}, registry).text) == {
        "args": {"size": 2}
    }
    with pytest.raises(InvalidJobError, match="work"):
        encode_changes({"args": Sent(size=2)}, registry, task="work")
    assert encode_changes({"args": Read(length=2)}, registry, task="work").text
