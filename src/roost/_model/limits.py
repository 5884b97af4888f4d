"""Check the limits that a task declares for all workers together."""

from __future__ import annotations

from roost._model.validate import MAX_INT
from roost.exceptions import InvalidSettingError


def check_limits(rate_per_minute: int | None, max_concurrency: int | None) -> None:
    """Refuse limits that are out of their range.

    :raises InvalidSettingError: one is not a whole number ≥ 1, or more than the database can store.
    """
    for name, value in (("rate_per_minute", rate_per_minute), ("max_concurrency", max_concurrency)):
        if value is not None and (type(value) is not int or not 1 <= value <= MAX_INT):
            raise InvalidSettingError(
                f"{name} must be a whole number ≥ 1 and ≤ {MAX_INT}, not {value!r}"
            )
