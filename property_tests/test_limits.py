"""Limits hold over claims, ends and time, and leave no room unused."""

from __future__ import annotations

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from property_tests.machines.limits import Limits


def test_limits_hold_and_leave_no_room_unused(dsn: str) -> None:
    class LimitsHere(Limits):
        def __init__(self) -> None:
            super().__init__(dsn)

    run_state_machine_as_test(
        LimitsHere,
        settings=settings(stateful_step_count=30, max_examples=settings().max_examples // 3),
    )
