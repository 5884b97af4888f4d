"""The installed version of Roost."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Final

NOT_INSTALLED: Final = "0+unknown"
"""The version of a folder that was not installed, as packaging tools spell it."""


@cache
def roost_version() -> str:
    """Return the version of the installed package, or `NOT_INSTALLED`."""
    try:
        return version("anyroost")
    except PackageNotFoundError:
        return NOT_INSTALLED
