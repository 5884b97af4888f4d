"""Verbs of several database calls: written once, run by the async and the blocking client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeAlias, TypeVar

from roost._client.calls import DatabaseCall

T = TypeVar("T")

Steps: TypeAlias = Generator[DatabaseCall[Any], Any, T]
"""Yields a call, is sent its answer or thrown its error, and returns the verb's value."""


async def run_steps(steps: Steps[T], run: Callable[[DatabaseCall[Any]], Awaitable[Any]]) -> T:
    """Make the calls one after the other. A cancel between two leaves what was committed."""
    try:
        call = next(steps)
        while True:
            try:
                answer = await run(call)
            except Exception as error:  # noqa: BLE001  (the verb may handle it; if not, it is raised)
                call = steps.throw(error)
            else:
                call = steps.send(answer)
    except StopIteration as stop:
        value: T = stop.value
        return value
    finally:
        steps.close()


def run_steps_sync(steps: Steps[T], run: Callable[[DatabaseCall[Any]], Any]) -> T:
    """Do what `run_steps` does, blocking."""
    try:
        call = next(steps)
        while True:
            try:
                answer = run(call)
            except Exception as error:  # noqa: BLE001  (as above)
                call = steps.throw(error)
            else:
                call = steps.send(answer)
    except StopIteration as stop:
        value: T = stop.value
        return value
    finally:
        steps.close()
