"""What `update_job` changes of a job: checked as an enqueue checks it, and encoded."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, TypedDict

import attrs
from pydantic import BaseModel

from roost._model.codec import EncodingError, encode
from roost._model.encoding import dumped_args, limit_function
from roost._model.job import JobInsert, check_column
from roost._model.limits import limit_key_of
from roost._model.registry import HandlerRegistry
from roost._model.unique import Seconds, as_seconds
from roost._model.validate import as_utc
from roost.exceptions import InvalidJobError


class JobChanges(TypedDict, total=False):
    """The keywords of `AsyncRoost.update_job`: what they leave out stays as it is.

    For example:

        {"queue": "bulk", "priority": 10, "timeout_seconds": None}

    - ``queue``, ``priority``, ``args``: as for `AsyncRoost.enqueue`.
    - ``max_attempts``: at least one more than the attempts that the job has used.
    - ``tags``, ``metadata``: ``None`` removes them.
    - ``timeout_seconds``: ``None``: no limit.
    - ``scheduled_at``: time before which the job does not run (aware).
    - ``schedule_in``: the same as seconds from now, or a timedelta.
    """

    queue: str
    priority: int
    args: dict[str, Any] | BaseModel | None
    max_attempts: int
    tags: list[str] | None
    timeout_seconds: int | None
    metadata: dict[str, Any] | None
    scheduled_at: datetime
    schedule_in: Seconds


@attrs.frozen
class EncodedChanges:
    """Changes for one statement.

    :param text: a JSON object of the new values by column.
    :param cleared: columns that become null.
    """

    text: str
    cleared: list[str]


_CLEARABLE = ("tags", "timeout_seconds", "metadata")


def encode_changes(
    changes: Mapping[str, Any],
    registry: HandlerRegistry,
    *,
    task: str | None = None,
    tasks: Iterable[str] = (),
) -> EncodedChanges:
    """Return the changes for one statement.

    :param task: the job's task: a model that is passed as args must be read back equal by the
        handler's model. ``None``: not known.
    :param tasks: tasks that the jobs may have. Where a function gives their jobs limit keys, it is
        called with the new args.
    :raises InvalidJobError: a value can't be stored, nothing is changed, or ``changes`` is no dict.
    :raises TypeError: a keyword is unknown.
    """
    if not isinstance(changes, Mapping):
        raise InvalidJobError(
            f"changes must be a dict, such as {{'queue': 'bulk'}}, not {changes!r}"
        )
    unknown = changes.keys() - JobChanges.__annotations__.keys()
    if unknown:
        raise TypeError(f"unknown change {sorted(unknown)}: use {list(JobChanges.__annotations__)}")
    if not changes:
        raise InvalidJobError("no change is given: pass queue, priority, args or another one")
    if "scheduled_at" in changes and "schedule_in" in changes:
        raise InvalidJobError("scheduled_at and schedule_in exclude each other")
    values: dict[str, Any] = {}
    cleared = []
    for name, value in changes.items():
        if name in _CLEARABLE and value is None:
            cleared.append(name)
            continue
        if name == "args":
            values[name] = _args(value, registry, task)
        elif name == "schedule_in":
            values[name] = as_seconds(name, value)
        else:
            check_column(name, value)
            values[name] = as_utc(value) if name == "scheduled_at" else value
        # As an enqueue: empty ones are stored as null.
        if name in _CLEARABLE and not values[name]:
            del values[name]
            cleared.append(name)
    if "args" in values:
        functions = {name: limit_function(name, registry) for name in tasks}
        keys = {
            name: limit_key_of(name, function, values["args"])
            for name, function in functions.items()
            if function is not None
        }
        if keys:
            values["limit_keys"] = keys
    return EncodedChanges(_encoded(values, registry.max_args_bytes), cleared)


def _args(value: object, registry: HandlerRegistry, task: str | None) -> dict[str, Any]:
    insert = JobInsert("" if task is None else task, value)  # type: ignore[arg-type]  # checked next
    return dumped_args(insert, None if task is None else registry)


def _encoded(values: dict[str, Any], maximum: int) -> str:
    size = 0
    for name in values.keys() & {"args", "metadata"}:
        try:
            size += len(encode(values[name]).encode())
        except EncodingError as error:
            raise InvalidJobError(f"{name} can't be stored: {error}") from error
    if size > maximum:
        raise InvalidJobError(
            f"args and metadata are {size:,} bytes of JSON, more than max_args_bytes of the "
            f"registry ({maximum:,}): store the data elsewhere and pass its key, or raise the limit"
        )
    return encode(values)
