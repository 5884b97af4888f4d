"""When a worker has missed heartbeats."""

from __future__ import annotations

from datetime import timedelta

import pytest

from roost._model.liveness import is_silent

LEASE = timedelta(minutes=5)


@pytest.mark.parametrize(
    ("seconds", "interval", "silent"),
    [
        (45, 15.0, False),
        (46, 15.0, True),
        (150, 150.0, False),
        (151, 150.0, True),  # the half of the lease
        (150, None, False),
        (151, None, True),
        (-5, 15.0, False),  # a clock was set
    ],
)
def test_three_heartbeats_may_be_missed(
    seconds: float, interval: float | None, silent: bool
) -> None:
    assert is_silent(timedelta(seconds=seconds), LEASE, interval) is silent
