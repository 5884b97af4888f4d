"""`shielded` protects from cancels until its deadline, which must be finite."""

from __future__ import annotations

import math

import anyio
import pytest

from roost._drivers.shield import shielded

pytestmark = pytest.mark.anyio


async def test_a_cancel_from_outside_is_delivered_after_the_scope() -> None:
    steps = []
    with anyio.CancelScope() as outer:
        outer.cancel()
        with shielded(60):
            await anyio.sleep(0)
            steps.append("inside")
        await anyio.sleep(0)
        steps.append("after")
    assert steps == ["inside"]


async def test_the_deadline_ends_the_scope() -> None:
    with anyio.CancelScope() as outer:
        outer.cancel()
        with shielded(0.01) as scope:
            await anyio.sleep_forever()
        assert scope.cancelled_caught


async def test_the_deadline_can_be_moved() -> None:
    with shielded(60) as scope:
        scope.deadline = anyio.current_time()
        await anyio.sleep_forever()
    assert scope.cancelled_caught


@pytest.mark.parametrize("seconds", [0, -1])
async def test_without_time_the_first_wait_is_cancelled(seconds: float) -> None:
    with shielded(seconds) as scope:
        await anyio.sleep(0)
    assert scope.cancelled_caught


@pytest.mark.parametrize("seconds", [math.inf, -math.inf, math.nan])
async def test_a_time_that_is_not_finite_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="finite number of seconds"):
        shielded(seconds)
