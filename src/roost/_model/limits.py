"""Throttling a task over the fleet: what is allowed to be declared."""

from __future__ import annotations

from roost.exceptions import InvalidSettingError


def check_limits(rate_per_minute: int | None, max_concurrency: int | None) -> None:
    """Refuse limits that can't be meant.

    :raises InvalidSettingError: one is not a whole number ≥ 1.
    """
    for name, value in (("rate_per_minute", rate_per_minute), ("max_concurrency", max_concurrency)):
        if value is not None and (type(value) is not int or value < 1):
            raise InvalidSettingError(f"{name} must be a whole number ≥ 1, not {value!r}")
