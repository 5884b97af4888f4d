"""What a user's function is: read once, when it is registered."""

from __future__ import annotations

import functools
import inspect
import sys
import types
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
    code = _code(func)
    inner = _inner(func)
    name = getattr(inner, "__qualname__", repr(inner))
    return (code.co_filename if code else repr(inner)), name


Run: TypeAlias = tuple[object, object]
"""One run of a module: its names, and its spec, which a reload replaces."""


def run_of_module(func: Callable[..., Any]) -> Run:
    """Return the run of its module that is defining ``func``; ask while it does."""
    names = getattr(inspect.unwrap(_inner(func)), "__globals__", {})
    return names, names.get("__spec__")


def is_same(known: Callable[..., Any], func: Callable[..., Any], *, run: Run) -> bool:
    """Say whether ``func`` is what ``known`` is: itself, or its copy by a further import.

    A module that is reloaded, or imported under a second name, runs its functions' definitions once
    more: they stand in the same file under the same name. Within one run of a module that is not
    enough: two lambdas, or two functions of one name, are told apart by their code. A closure that
    is made several times is one function.

    :param run: the run of its module that defined ``known``.
    """
    if known is func:
        return True
    if origin(known) != origin(func):
        return False
    if _inner(known) is _inner(func):  # two partials of one function
        return _bound(known) == _bound(func)
    names, spec = run_of_module(func)
    if names is not run[0] or spec is not run[1] or _is_interactive(func):
        return True
    return _code(known) == _code(func)


def location(func: Callable[..., Any]) -> str:
    """Return what a function is called and where it was written, for messages."""
    where = place(func)
    name = getattr(_inner(func), "__qualname__", None) or repr(_inner(func))
    return f"{name} ({where})" if where else name


def place(func: Callable[..., Any]) -> str:
    """Return file and line of a function; empty for what was not written in Python."""
    code = _code(func)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else ""


def _inner(func: Callable[..., Any]) -> Callable[..., Any]:
    while isinstance(func, functools.partial):
        func = func.func
    return func


def _bound(func: Callable[..., Any]) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []
    while isinstance(func, functools.partial):
        found.append((func.args, func.keywords))
        func = func.func
    return found


def _code(func: Callable[..., Any]) -> types.CodeType | None:
    found = getattr(inspect.unwrap(_inner(func)), "__code__", None)
    return found if isinstance(found, types.CodeType) else None


def _is_interactive(func: Callable[..., Any]) -> bool:
    """Say whether a function was typed in at a prompt, where it may be defined again."""
    return hasattr(sys, "ps1") and getattr(func, "__module__", None) == "__main__"
