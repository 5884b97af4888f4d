"""Inspect a user's function when it is registered."""

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
    """Return a key that is the same each time a function, or a bound method, is looked up."""
    return id(getattr(func, "__self__", None)), id(getattr(func, "__func__", func))


def is_async(func: Callable[..., Any]) -> bool:
    """Return whether a call of ``func`` must be awaited."""
    while isinstance(func, functools.partial):
        func = func.func
    return inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(
        getattr(func, "__call__", None)  # noqa: B004  (asks what a call would return, not whether)
    )


def check_run_in(
    name: str,
    func: Callable[..., Any],
    run_in: object,
    *,
    awaited: bool,
    state_parameter: str | None,
) -> None:
    """Refuse a ``run_in`` that is unknown, or a process for a function that can't run in one.

    :raises InvalidSettingError: see above. An async function, one that gets the worker's state, or
        one that is not at the top of a module, can't run in a process.
    """
    if run_in not in ("thread", "process"):
        raise InvalidSettingError(f'run_in must be "thread" or "process", not {run_in!r}')
    if run_in == "thread":
        return
    if awaited:
        raise InvalidSettingError(f"task {name!r} is async: it can't run in a process")
    if state_parameter is not None:
        raise InvalidSettingError(
            f"task {name!r} can't run in a process: its parameter {state_parameter!r} gets the "
            "worker's state, which does not leave the worker's process"
        )
    qualname = getattr(func, "__qualname__", "<")
    if "<" in qualname:
        raise InvalidSettingError(
            f"task {name!r} can't run in a process: another process finds functions at the top of "
            "a module only"
        )


def accepted_keywords(func: Callable[..., Any]) -> frozenset[str] | None:
    """Return the keywords that ``func`` accepts; ``None``: any, or they can't be read."""
    try:
        parameters = inspect.signature(func).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return frozenset(parameter.name for parameter in parameters if parameter.kind in _BY_NAME)


def call_keywords(
    func: Callable[..., Any], *, given: frozenset[str]
) -> tuple[frozenset[str], frozenset[str] | None]:
    """Return the keywords that a call of ``func`` must pass, and those that it may pass.

    ``None`` for the second: any. A decorated function is called with what its decorator accepts,
    and the decorator may add arguments. So ``__wrapped__`` and ``__signature__`` are ignored here:
    they describe another function.

    :param given: the parameters that the worker always passes.
    """
    inner = _inner(func)
    if hasattr(getattr(inner, "__func__", inner), "__signature__"):
        return frozenset(), None
    try:
        found = inspect.signature(func, follow_wrapped=False).parameters.values()
    except (TypeError, ValueError):
        return frozenset(), None
    by_name = [each for each in found if each.kind in _BY_NAME]
    required = frozenset(each.name for each in by_name if each.default is each.empty)
    takes_any = any(each.kind is each.VAR_KEYWORD for each in found)
    return required - given, None if takes_any else frozenset(each.name for each in by_name)


def takes(function: Callable[..., Any], arguments: int) -> bool:
    """Return whether a function can be called with that number of positional arguments."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return True  # no signature can be read, so it may accept anything
    try:
        signature.bind(*[None] * arguments)
    except TypeError:
        return False
    return True


_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def origin(func: Callable[..., Any]) -> tuple[str, str]:
    """Return file and qualified name, the same for all imports of a module."""
    code = _code(func)
    inner = _inner(func)
    name = getattr(inner, "__qualname__", repr(inner))
    return (code.co_filename if code else repr(inner)), name


Run: TypeAlias = tuple[object, object]
"""One execution of a module: its globals, and its spec, which a reload replaces."""


def run_of_module(func: Callable[..., Any]) -> Run:
    """Return the execution of the module that defines ``func``; valid only during it."""
    names = getattr(inspect.unwrap(_inner(func)), "__globals__", {})
    return names, names.get("__spec__")


def is_same(known: Callable[..., Any], func: Callable[..., Any], *, run: Run) -> bool:
    """Return whether ``func`` is ``known``, or a copy of it made by another import.

    A module that is reloaded, or imported under a second name, defines its functions again, with
    the same file and qualified name. Within one execution of a module their code must be the same,
    too: that tells apart two lambdas, or two functions of one name. Closures of one definition
    count as one function.

    :param run: the execution of the module that defined ``known``.
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
    """Return a function's name, file and line, for messages."""
    where = place(func)
    name = getattr(_inner(func), "__qualname__", None) or repr(_inner(func))
    return f"{name} ({where})" if where else name


def place(func: Callable[..., Any]) -> str:
    """Return file and line of a function; empty if it is not written in Python."""
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
    """Return whether a function was typed at a prompt, where users define functions again."""
    return hasattr(sys, "ps1") and getattr(func, "__module__", None) == "__main__"
