"""Check the limits that a task declares for all workers together, and make the keys of its jobs."""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from roost._model.codec import EncodingError, encode
from roost._model.validate import MAX_INT, check_name
from roost.exceptions import InvalidJobError, InvalidSettingError

LimitBy: TypeAlias = str | Callable[[dict[str, Any]], object]
"""A field of args, or a function of args, by whose values limits apply."""

BY_FUNCTION = "()"
"""What the database stores as ``limit_by`` for a function."""
MAX_LIMIT_KEY = 200
"""Characters of a key; a longer value is replaced by its hash. The SQL has the same number."""


def check_limits(rate_per_minute: int | None, max_concurrency: int | None) -> None:
    """Refuse limits that are out of their range.

    :raises InvalidSettingError: one is not a whole number ≥ 1, or more than the database can store.
    """
    for name, value in (("rate_per_minute", rate_per_minute), ("max_concurrency", max_concurrency)):
        if value is not None and (type(value) is not int or not 1 <= value <= MAX_INT):
            raise InvalidSettingError(
                f"{name} must be a whole number ≥ 1 and ≤ {MAX_INT}, not {value!r}"
            )


def check_limit_by(limit_by: object) -> None:
    """Refuse what is neither a field of args nor a function.

    :raises InvalidSettingError: it is neither, or a coroutine function.
    """
    if inspect.iscoroutinefunction(limit_by):
        raise InvalidSettingError(
            f"limit_by must be a plain function, since blocking clients call it too, not the "
            f"coroutine function {limit_by.__qualname__}"
        )
    if limit_by is None or callable(limit_by):
        return
    if not isinstance(limit_by, str):
        raise InvalidSettingError(
            f"limit_by must be the name of a field of args, or a function of args, not {limit_by!r}"
        )
    check_name("limit_by", limit_by, InvalidSettingError)
    if limit_by == BY_FUNCTION or not all(limit_by.split(".")):
        raise InvalidSettingError(
            f"limit_by must name a field of args, with dots for nested ones, not {limit_by!r}"
        )


def check_limit_field(
    task: str,
    limit_by: object,
    accepted: frozenset[str] | None,
    *,
    has_model: bool,
) -> None:
    """Refuse a field that the handler has no parameter for: no job could have it.

    :param accepted: the handler's parameters; ``None``: any keyword.
    :param has_model: whether a model reads the args; its fields may have other names in args.
    :raises InvalidSettingError: the handler has no such parameter.
    """
    if not isinstance(limit_by, str) or accepted is None or has_model:
        return
    field = limit_by.partition(".")[0]
    if field not in accepted:
        raise InvalidSettingError(
            f"limit_by of task {task!r} is {limit_by!r}, but its handler has no parameter {field!r}"
        )


def stored_limit_by(limit_by: LimitBy | None) -> str | None:
    """Return what the database stores."""
    return BY_FUNCTION if callable(limit_by) else limit_by


def limit_key_of(task: str, limit_by: Callable[[Any], object], args: Mapping[str, Any]) -> str:
    """Return the limit key that a task's function gives a job.

    :param args: what the function is given, a copy: the job's args as a dict.
    :raises InvalidJobError: the function failed, or its value can't be stored.
    """
    try:
        value = limit_by(copy.deepcopy(dict(args)))
        if inspect.isawaitable(value):
            if inspect.iscoroutine(value):
                value.close()
            raise TypeError("it returned an awaitable, not a value")
    except Exception as error:
        raise InvalidJobError(f"limit_by of task {task!r} failed: {error!r}") from error
    if value is None:
        return ""
    key = value if isinstance(value, str) else str(value)
    try:
        encode(key)
    except EncodingError as error:
        raise InvalidJobError(f"limit_by of task {task!r} can't be stored: {error}") from error
    if len(key) > MAX_LIMIT_KEY:
        # As in SQL.
        return hashlib.md5(key.encode(), usedforsecurity=False).hexdigest()
    return key
