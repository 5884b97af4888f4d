"""Give one function the parameters of another: for type checkers, editors and `help`.

A list of parameters stands once, on the function that documents it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


def with_parameters_of(
    source: Callable[Concatenate[Any, P], Any],
) -> Callable[[Callable[Concatenate[S, ...], R]], Callable[Concatenate[S, P], R]]:
    """Return a decorator that shows a method with the parameters of ``source``.

    Only the shown signature changes. The method is called as its own ``def`` says, and keeps its
    return type and docstring.

    :param source: a method, taken from its class; its first parameter, ``self``, is not copied.
    """
    _, *parameters = inspect.signature(source).parameters.values()

    def decorate(method: Callable[Concatenate[S, ...], R]) -> Callable[Concatenate[S, P], R]:
        own = inspect.signature(method)
        first = next(iter(own.parameters.values()))
        shown = own.replace(parameters=[first, *parameters])
        method.__signature__ = shown  # type: ignore[attr-defined]  # inspect's own hook
        return method

    return decorate
