"""Which jobs a verb means: a filter of keywords, checked, as the parameters of the SQL fragment
`matches`.
"""

import operator
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import Any, Self, TypedDict, TypeGuard

import attrs

from roost._model.states import ACTIVE, TERMINAL, JobState
from roost._model.validate import (
    MAX_ID,
    MAX_KEY,
    as_utc,
    check_ids,
    check_int,
    check_name,
    check_text,
    check_time,
)
from roost.exceptions import InvalidJobError

MAX_TEXT = 1_000
"""Most characters of ``error_contains``."""


class JobFilter(TypedDict, total=False):
    """The keywords that say which jobs a verb means, such as `AsyncRoost.cancel_jobs`.

    A job is meant if it fits all keywords that are passed. It fits a list if it fits one of its
    values; an empty list fits no job.

    For example:

        {"queues": ["mail"], "states": ["discarded"], "error_contains": "timed out"}

    - ``ids``: job ids.
    - ``states``: names of states, or `JobState` values.
    - ``queues``: names of queues.
    - ``tasks``: names of tasks.
    - ``tags``: the job has one of them.
    - ``unique_key``: the key that it was enqueued with.
    - ``worker_id``: the worker that runs it or ran its last attempt, as in `Job`'s error records.
    - ``error_contains``: a text in the ``error`` of one of its error records, upper or lower case.
    - ``inserted_after``, ``inserted_before``: it was enqueued at or after, and before, that time
      (aware).
    - ``finished_after``, ``finished_before``: it ended at or after, and before, that time (aware).
    """

    ids: Collection[int] | None
    states: Collection[str] | None
    queues: Collection[str] | None
    tasks: Collection[str] | None
    tags: Collection[str] | None
    unique_key: str | None
    worker_id: int | None
    error_contains: str | None
    inserted_after: datetime | None
    inserted_before: datetime | None
    finished_after: datetime | None
    finished_before: datetime | None


@attrs.frozen(kw_only=True)
class CheckedFilter:
    """A filter whose values are checked. The fields are the fragment's parameters, in order."""

    ids: list[int] | None = None
    states: list[str] = attrs.field(factory=lambda: sorted(state.value for state in JobState))
    queues: list[str] | None = None
    tasks: list[str] | None = None
    tags: list[str] | None = None
    unique_key: str | None = None
    worker_id: int | None = None
    error_contains: str | None = None
    inserted_after: datetime | None = None
    inserted_before: datetime | None = None
    finished_after: datetime | None = None
    finished_before: datetime | None = None

    def among(self, states: Collection[JobState]) -> Self:
        """Return the filter for jobs in these states only."""
        if self.names_an_end:
            states = TERMINAL.intersection(states)
        names = {state.value for state in states}
        return attrs.evolve(self, states=[state for state in self.states if state in names])

    @property
    def names_an_end(self) -> bool:
        """Whether only jobs that have ended can fit."""
        return self.finished_after is not None or self.finished_before is not None

    def includes(self, states: Collection[JobState]) -> bool:
        """Return whether a job in one of these states may fit."""
        return any(state in states for state in self.states)

    @property
    def params(self) -> tuple[object, ...]:
        """The parameters of the fragment `matches`."""
        return _values(self)


_values: Callable[[CheckedFilter], tuple[object, ...]] = operator.attrgetter(
    *(field.name for field in attrs.fields(CheckedFilter))
)


def check_filter(given: Mapping[str, Any], *, everything: bool = False) -> CheckedFilter:
    """Return the filter of a call's keywords; ``None`` is as if not passed.

    :param everything: whether the caller means all jobs; then, and only then, there is no keyword.
    :raises InvalidJobError: a value is out of its range, or see above.
    :raises TypeError: a keyword is unknown.
    """
    unknown = given.keys() - _CHECKS.keys()
    if unknown:
        raise TypeError(f"unknown filter {sorted(unknown)}: use {sorted(_CHECKS)}")
    passed = {name: value for name, value in given.items() if value is not None}
    if not passed and not everything:
        raise InvalidJobError("no filter is given: pass everything=True if you mean all jobs")
    if passed and everything:
        raise InvalidJobError(f"everything=True and a filter ({sorted(passed)}) exclude each other")
    return CheckedFilter(**{name: _CHECKS[name](name, value) for name, value in passed.items()})


def check_limit(limit: int | None) -> None:
    """Refuse a ``limit`` that is neither ``None`` nor a whole number ≥ 0.

    :raises InvalidJobError: see above.
    """
    if limit is not None:
        check_int("limit", limit, minimum=0, maximum=MAX_ID)


def _ids(what: str, value: Collection[int]) -> list[int]:
    if not _is_list(value):
        raise InvalidJobError(f"{what} must be a list of job ids, not {value!r}")
    found = set(value)
    check_ids(what, found)
    return sorted(found)


def _states(what: str, value: object) -> list[str]:
    known = {state.value for state in JobState}
    for state in _as_list(what, value):
        if not isinstance(state, str) or state not in known:
            raise InvalidJobError(f"{what} must be some of {sorted(known)}, not {state!r}")
    return sorted(JobState(state).value for state in _as_list(what, value))


def _names(what: str, value: object) -> list[str]:
    for name in _as_list(what, value):
        check_name(f"each of {what}", name)
    return [str(name) for name in _as_list(what, value)]


def _as_list(what: str, value: object) -> list[object]:
    if isinstance(value, str):
        raise InvalidJobError(f"{what} must be a list, such as [{str.__str__(value)!r}]")
    if not _is_list(value):
        raise InvalidJobError(f"{what} must be a list, not {value!r}")
    return list(value)


def _is_list(value: object) -> TypeGuard[Collection[object]]:
    return isinstance(value, Collection) and not isinstance(value, (str, bytes, Mapping))


def _key(what: str, value: object) -> object:
    check_name(what, value, maximum=MAX_KEY)
    return value


def _worker(what: str, value: object) -> object:
    check_int(what, value, minimum=1, maximum=MAX_ID)
    return value


def _text(what: str, value: object) -> object:
    return check_text(what, value, InvalidJobError, maximum=MAX_TEXT)


def _time(what: str, value: datetime) -> datetime:
    check_time(what, value)
    return as_utc(value, what=what)


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "ids": _ids,
    "states": _states,
    "queues": _names,
    "tasks": _names,
    "tags": _names,
    "unique_key": _key,
    "worker_id": _worker,
    "error_contains": _text,
    "inserted_after": _time,
    "inserted_before": _time,
    "finished_after": _time,
    "finished_before": _time,
}

WAITING = ACTIVE - {JobState.EXECUTING}
"""The states of jobs that have not started, or wait for their next attempt."""
