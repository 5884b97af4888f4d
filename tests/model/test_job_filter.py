"""A filter's keywords are checked before the database is used."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from roost import InvalidJobError, JobFilter, JobState
from roost._model.job_filter import WAITING, CheckedFilter, check_filter, check_limit
from roost._model.states import ACTIVE, TERMINAL
from roost._sql import fragments

MOMENT = datetime(2026, 11, 1, 12, tzinfo=timezone(timedelta(hours=2)))
ALL = sorted(state.value for state in JobState)

ACCEPTED: dict[str, tuple[Any, Any]] = {
    "ids": ([3, 1, 3], [1, 3]),
    "states": (["discarded", JobState.COMPLETED], ["completed", "discarded"]),
    "queues": (("mail", "web"), ["mail", "web"]),
    "tasks": (["send"], ["send"]),
    "tags": ([], []),
    "unique_key": ("k" * 500, "k" * 500),
    "worker_id": (7, 7),
    "error_contains": ("timed out:\n\t5 s", "timed out:\n\t5 s"),
    "inserted_after": (MOMENT, datetime(2026, 11, 1, 10, tzinfo=UTC)),
    "inserted_before": (MOMENT, datetime(2026, 11, 1, 10, tzinfo=UTC)),
    "finished_after": (MOMENT, datetime(2026, 11, 1, 10, tzinfo=UTC)),
    "finished_before": (MOMENT, datetime(2026, 11, 1, 10, tzinfo=UTC)),
}
REFUSED: dict[str, list[Any]] = {
    "ids": [3, "3", b"3", {3: 3}, [0], ["3"], [True], [2**63]],
    "states": ["discarded", ["done"], [None], [["completed"]]],
    "queues": ["mail", [""], [7], {"mail": 1}],
    "tasks": ["send", ["two\nlines"]],
    "tags": ["tag", [" "]],
    "unique_key": ["", "k" * 501, 7],
    "worker_id": ["7", 0, True, 2**63],
    "error_contains": ["", "a\0", 7],
    "inserted_after": [datetime(2026, 1, 1), "2026-01-01", 7],  # noqa: DTZ001  (naive)
    "inserted_before": [datetime.max.replace(tzinfo=UTC)],
    "finished_after": [datetime(2026, 1, 1)],  # noqa: DTZ001  (naive)
    "finished_before": ["now"],
}


def test_the_public_keywords_are_the_parameters_of_the_fragment_in_order() -> None:
    names = list(JobFilter.__annotations__)
    assert names == list(ACCEPTED) == list(REFUSED)
    assert names == [field.name for field in CheckedFilter.__attrs_attrs__]
    text = fragments()["matches"]
    places = [text.index(f"${n + 1}::") for n in range(len(names))]
    assert places == sorted(places)


@pytest.mark.parametrize("name", ACCEPTED)
def test_each_keyword_is_accepted(name: str) -> None:
    given, checked = ACCEPTED[name]
    found = check_filter({name: given})
    assert getattr(found, name) == checked
    others = [ALL if other == "states" else None for other in ACCEPTED if other != name]
    assert [value for value in found.params if value != checked] == [
        value for value in others if value != checked
    ]


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in REFUSED.items() for value in values]
)
def test_each_value_out_of_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidJobError, match=name):
        check_filter({name: value})


@pytest.mark.parametrize("state", ["discarded", JobState.DISCARDED])
def test_one_value_in_place_of_a_list_is_refused_with_the_right_call(state: str) -> None:
    with pytest.raises(InvalidJobError, match=r"states must be a list, such as \['discarded'\]"):
        check_filter({"states": state})


def test_a_generator_is_refused_as_what_it_is() -> None:
    with pytest.raises(InvalidJobError, match="queues must be a list, not <generator"):
        check_filter({"queues": (queue for queue in ["mail"])})


def test_no_filter_must_be_meant() -> None:
    for given in ({}, {"queues": None, "ids": None}):
        with pytest.raises(InvalidJobError, match="everything=True"):
            check_filter(given)
        assert check_filter(given, everything=True) == CheckedFilter()
    with pytest.raises(InvalidJobError, match="exclude each other"):
        check_filter({"queues": []}, everything=True)


def test_any_collection_is_a_list() -> None:
    assert check_filter({"ids": range(1, 4)}).ids == [1, 2, 3]
    assert check_filter({"queues": {"mail": 1}.keys()}).queues == ["mail"]


def test_an_empty_list_is_a_filter() -> None:
    assert check_filter({"ids": []}).ids == []
    assert check_filter({"states": []}).states == []


def test_an_unknown_keyword_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="queue"):
        check_filter({"queue": "mail"})


def test_a_verb_narrows_the_states() -> None:
    found = check_filter({"states": ["completed", "retryable"]})
    assert found.among(WAITING).states == ["retryable"]
    assert found.among(TERMINAL).states == ["completed"]
    assert found.includes(WAITING)
    assert not found.among(TERMINAL).includes(ACTIVE)


def test_only_ended_jobs_have_an_end() -> None:
    found = check_filter({"finished_after": MOMENT})
    assert found.among(frozenset(JobState)).states == ["cancelled", "completed", "discarded"]
    assert found.among(WAITING).states == []


@pytest.mark.parametrize("limit", [-1, 1.0, "1", True])
def test_a_limit_that_is_no_number_of_jobs_is_refused(limit: Any) -> None:
    with pytest.raises(InvalidJobError, match="limit"):
        check_limit(limit)
    check_limit(0)
    check_limit(None)
