"""The options of unique keys: what they may be, and how a record names them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast, get_args

from roost._model.backoff import MAX_DELAY
from roost.exceptions import InvalidJobError

if TYPE_CHECKING:
    from roost._model.job import JobInsert

OnConflict: TypeAlias = Literal["raise", "return", "replace"]
"""What `AsyncRoost.enqueue` does if another job has the unique key."""
BulkOnConflict: TypeAlias = Literal["skip", "raise", "return", "replace"]
"""The same for `AsyncRoost.enqueue_many` and `AsyncRoost.enqueue_all`."""
UniqueWhile: TypeAlias = Literal["active", "waiting"]
"""Until when a job keeps its unique key: its end, or its first start."""
UniqueBy: TypeAlias = str | Sequence[str]
"""What a unique key is made of: ``"args"``, ``"args.<field>"``, ``"queue"``, ``"task"``."""
Seconds: TypeAlias = timedelta | float
"""A duration, as a timedelta or in seconds."""

_PARTS: Final = ("args", "queue", "task")
_FIELD: Final = "args."


def has_unique_options(job: JobInsert) -> bool:
    """Return whether an insert needs more of this job's unique key than that it is free."""
    return job.unique_by is not None or job.unique_for is not None or job.unique_while != "active"


def check_on_conflict(
    on_conflict: str, jobs: Sequence[JobInsert], *, bulk: bool, default: str
) -> None:
    """Refuse an unknown word, and one that can't apply to these jobs.

    :param bulk: whether ``"skip"`` is accepted, too.
    :param default: the word of a call that passes none; accepted without a key.
    :raises InvalidJobError: the message says what is accepted.
    """
    known = get_args(BulkOnConflict if bulk else OnConflict)
    if on_conflict not in known:
        words = ", ".join(repr(word) for word in known)
        raise InvalidJobError(f"on_conflict must be one of {words}, not {on_conflict!r}")
    if on_conflict == default or not jobs:
        return
    if all(job.unique_key is None and job.unique_by is None for job in jobs):
        raise InvalidJobError(f"on_conflict={on_conflict!r} needs a unique_key or unique_by")
    if on_conflict == "replace" and any(job.depends_on for job in jobs):
        raise InvalidJobError(
            "on_conflict='replace' does not go with depends_on: the parents of a job can't be "
            "replaced"
        )


def unique_options(job: JobInsert, args: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of an encoded job for its options of unique keys.

    :param args: the job's args as a dict.
    :raises InvalidJobError: an option is unknown, out of its range, or without a key.
    """
    found: dict[str, Any] = {}
    if job.unique_while not in get_args(UniqueWhile):
        raise InvalidJobError(
            f"unique_while must be 'active' or 'waiting', not {job.unique_while!r}"
        )
    if job.unique_while == "waiting":
        found["unique_while"] = "waiting"
    if job.unique_for is not None:
        seconds = as_seconds("unique_for", job.unique_for)
        if not seconds:
            raise InvalidJobError("unique_for must be more than 0 seconds")
        found["unique_for"] = seconds
    if job.unique_by is not None:
        if job.unique_key is not None:
            raise InvalidJobError("unique_key and unique_by exclude each other")
        found["unique_by"] = _checked_parts(job.unique_by, args)
    elif job.unique_key is None:
        # The signature's default is of a class of its own; see `job.is_default`.
        named = [*found] or (["unique_while"] if type(job.unique_while) is str else [])
        if named:
            raise InvalidJobError(f"{' and '.join(named)} must have a unique_key or unique_by")
    return found


def _checked_parts(unique_by: object, args: dict[str, Any]) -> list[str]:
    parts = [unique_by] if isinstance(unique_by, str) else unique_by
    if not isinstance(parts, Sequence) or not parts or isinstance(parts, (bytes, bytearray)):
        raise InvalidJobError(f"unique_by must be a str or a list of str, not {unique_by!r}")
    for part in parts:
        field = part.removeprefix(_FIELD) if isinstance(part, str) else None
        if part in _PARTS:
            continue
        if field is None or field == part:
            raise InvalidJobError(
                "unique_by takes 'args', 'args.<field>', 'queue' and 'task', not " + repr(part)
            )
        if field not in args:
            raise InvalidJobError(f"unique_by names {part!r}, and args have no field {field!r}")
    return list(cast("Sequence[str]", parts))


def as_seconds(what: str, value: object) -> float:
    """Return a duration in seconds.

    :raises InvalidJobError: it is negative, longer than 100 years, or no duration.
    """
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(min(value, 2 * MAX_DELAY))
    else:
        raise InvalidJobError(f"{what} must be seconds or a timedelta, not {value!r}")
    if math.isnan(seconds) or not 0 <= seconds <= MAX_DELAY:
        raise InvalidJobError(f"{what} must be from 0 seconds to 100 years, not {value!r}")
    return seconds
