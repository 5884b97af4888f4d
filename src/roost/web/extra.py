"""Check that the extra ``http`` is installed, before it is imported."""

from __future__ import annotations

from importlib.util import find_spec

from roost.exceptions import InvalidSettingError


def require_http() -> None:
    """Check that the extra ``http`` is installed.

    :raises InvalidSettingError: it is not.
    """
    if any(find_spec(package) is None for package in ("hypercorn", "starlette")):
        raise InvalidSettingError(
            "hypercorn and starlette are not installed: pip install 'anyroost[http]'"
        )
