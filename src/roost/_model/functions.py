"""What a user's function is: read once, when it is registered."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

from roost.exceptions import InvalidSettingError

RunIn: TypeAlias = Literal["thread", "process"]


def identity(func: Callable[..., Any]) -> tuple[int, int]:
    """Return what stays the same each time that a function, or a bound method, is looked up."""
    return id(getattr(func, "__self__", None)), id(getattr(func, "__func__", func))


def is_async(func: Callable[..., Any]) -> bool:
    """Say whether a call of ``func`` has to be awaited."""
    while isinstance(func, functools.partial):
        func = func.func
    return inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(
        getattr(func, "__call__", None)  # noqa: B004  (asks what a call would return, not whether)
    )


def check_run_in(name: str, func: Callable[..., Any], run_in: object, *, awaited: bool) -> None:
    """Refuse a place to run in that ``func`` can't run in.

    :raises InvalidSettingError: it is async, or can't be found from another process.
    """
    if run_in not in ("thread", "process"):
        raise InvalidSettingError(f'run_in must be "thread" or "process", not {run_in!r}')
    if run_in == "thread":
        return
    if awaited:
        raise InvalidSettingError(f"task {name!r} is async: it can't run in a process")
    qualname = getattr(func, "__qualname__", "<")
    if "<" in qualname:
        raise InvalidSettingError(
            f"task {name!r} can't run in a process: only a function at the top of a module can be "
            "found from there"
        )


def accepted_keywords(func: Callable[..., Any]) -> frozenset[str] | None:
    """Return the names of the keywords that ``func`` takes; ``None``: any, or it can't be told."""
    try:
        parameters = inspect.signature(func).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return frozenset(parameter.name for parameter in parameters if parameter.kind in by_name)


def origin(func: Callable[..., Any]) -> tuple[str, str]:
    """Where a function was written: the same for both copies of a module that is imported twice."""
    while isinstance(func, functools.partial):
        func = func.func
    code = getattr(inspect.unwrap(func), "__code__", None)
    name = getattr(func, "__qualname__", repr(func))
    return (code.co_filename if code else repr(func)), name
