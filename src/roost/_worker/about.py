"""What a worker says of itself, in the log and in its row."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version

import anyio.lowlevel


@cache
def roost_version() -> str | None:
    """Return the installed version; ``None``: it runs from a folder that was not installed."""
    try:
        return version("anyroost")
    except PackageNotFoundError:
        return None


def event_loop() -> str:
    """Return the package whose event loop runs: ``asyncio``, ``uvloop`` or ``trio``."""
    native = anyio.lowlevel.current_token().native_token
    return type(native).__module__.partition(".")[0]
