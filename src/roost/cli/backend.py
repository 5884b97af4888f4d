"""Run an async function on the event loop that an option names."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from typing import TypeVar

import anyio

from roost.cli.options import Backend, Driver
from roost.exceptions import InvalidSettingError

T = TypeVar("T")


def check_backend(backend: Backend, *, uvloop: bool = False, driver: Driver | None = None) -> None:
    """Check that the event loop is installed and fits the other options.

    :raises InvalidSettingError: its package is missing, or uvloop or asyncpg is to run on trio.
    """
    if driver is Driver.ASYNCPG and backend is not Backend.ASYNCIO:
        raise InvalidSettingError(
            f"--driver asyncpg runs on asyncio and can't be used on {backend}"
        )
    if uvloop and backend is not Backend.ASYNCIO:
        raise InvalidSettingError(f"--uvloop is a loop of asyncio and can't be used on {backend}")
    needed = "uvloop" if uvloop else backend.value
    if find_spec(needed) is None:
        raise InvalidSettingError(f"{needed} is not installed: pip install 'anyroost[{needed}]'")


def run_on(backend: Backend, function: Callable[[], Awaitable[T]], *, uvloop: bool = False) -> T:
    """Run ``function`` on an event loop and return its result.

    If it fails with exception groups that hold a single error, that error is raised without them.
    """
    options = {"use_uvloop": True} if uvloop else {}
    try:
        return anyio.run(function, backend=backend.value, backend_options=options)
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        raise error from None
