"""Tell results from work that was never done: a generator, a coroutine, a future."""

from __future__ import annotations

import concurrent.futures
import functools
import inspect
from collections.abc import Callable
from types import AsyncGeneratorType, GeneratorType
from typing import Any

from roost.exceptions import InvalidSettingError

PLAIN_RESULTS = frozenset((type(None), bool, int, float, str, bytes, list, tuple, dict))
"""Types of results that need not be looked at closely."""
MAX_AWAITS = 100
"""How often what was awaited may give something that is to be awaited, too."""

_LAZY = (GeneratorType, AsyncGeneratorType, map, filter)


def check_not_generator(name: str, func: Callable[..., Any]) -> None:
    """Refuse a generator function: a call of it does nothing.

    :raises InvalidSettingError: ``func`` is one, or an object whose ``__call__`` is one.
    """
    while isinstance(func, functools.partial):
        func = func.func
    # A class is called by its metaclass: its own __call__ is that of its instances.
    called = None if isinstance(func, type) else getattr(type(func), "__call__", None)  # noqa: B004
    for candidate in (func, getattr(func, "__func__", None), called):
        if inspect.isgeneratorfunction(candidate) or inspect.isasyncgenfunction(candidate):
            raise InvalidSettingError(
                f"the handler of {name!r} is a generator function, whose body a call does not run: "
                "take the yield out, and return the result"
            )


def needs_await(value: object) -> bool:
    """Say whether ``value`` is a coroutine, a future, a task, or another awaitable."""
    return inspect.isawaitable(value) or isinstance(value, concurrent.futures.Future)


def refuse_lazy(value: object) -> None:
    """Refuse what a handler returned if it is work that nothing has done.

    :raises TypeError: it is a generator, an async generator, ``map`` or ``filter``.
    """
    if isinstance(value, _LAZY):
        raise TypeError(
            f"the handler returned a {type(value).__name__}, and nothing has run it: run it in a "
            "loop, or return a list"
        )


def refuse_unawaited(value: object) -> None:
    """Refuse the same, and what is to be awaited, where there is no event loop to do it.

    :raises TypeError: see there.
    """
    refuse_lazy(value)
    if inspect.iscoroutine(value):
        value.close()
    if needs_await(value):
        raise TypeError(
            f"the handler returned a {type(value).__name__}, which can't be awaited in a process "
            'of its own: register it without run_in="process"'
        )
