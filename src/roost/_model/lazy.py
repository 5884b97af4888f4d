"""Refuse handlers and results that are work not yet done: generators, coroutines, futures."""

from __future__ import annotations

import concurrent.futures
import functools
import inspect
from collections.abc import Callable
from types import AsyncGeneratorType, GeneratorType
from typing import Any

from roost.exceptions import InvalidSettingError

PLAIN_RESULTS = frozenset((type(None), bool, int, float, str, bytes, list, tuple, dict))
"""Types of results that need no further check."""
MAX_AWAITS = 100
"""How often in a row an awaited result may be another awaitable."""

_LAZY = (GeneratorType, AsyncGeneratorType, map, filter)


def check_not_generator(name: str, func: Callable[..., Any]) -> None:
    """Refuse a generator function, since a call of it runs nothing.

    :raises InvalidSettingError: ``func``, or its ``__call__``, is one.
    """
    while isinstance(func, functools.partial):
        func = func.func
    # The __call__ of a class is for its instances, not for the class.
    called = None if isinstance(func, type) else getattr(type(func), "__call__", None)  # noqa: B004
    for candidate in (func, getattr(func, "__func__", None), called):
        if inspect.isgeneratorfunction(candidate) or inspect.isasyncgenfunction(candidate):
            raise InvalidSettingError(
                f"the handler of {name!r} is a generator function, and a call does not run its "
                "body: remove the yield, and return the result"
            )


def needs_await(value: object) -> bool:
    """Return whether ``value`` is a coroutine, a future, a task, or another awaitable."""
    return inspect.isawaitable(value) or isinstance(value, concurrent.futures.Future)


def refuse_lazy(value: object) -> None:
    """Refuse a result that is lazy.

    :raises TypeError: it is a generator, an async generator, ``map`` or ``filter``.
    """
    if isinstance(value, _LAZY):
        raise TypeError(
            f"the handler returned a {type(value).__name__}, which has not run: loop over it, or "
            "return a list"
        )


def refuse_unawaited(value: object) -> None:
    """Refuse a result that is lazy or an awaitable, where no event loop can await it.

    :raises TypeError: see above.
    """
    refuse_lazy(value)
    if inspect.iscoroutine(value):
        value.close()
    if needs_await(value):
        raise TypeError(
            f"the handler returned a {type(value).__name__}, which can't be awaited in another "
            'process: register it without run_in="process"'
        )
