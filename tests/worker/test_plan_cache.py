"""When a worker discards the plans that its connections have cached."""

from __future__ import annotations

import pytest

from roost._drivers.base import AsyncConnection
from roost._worker.database import PLAN_TRUST, SLOW_CALL, PlanCache


class _Connection:
    """Stands for a connection: the plan cache uses only its identity."""


@pytest.fixture
def connection() -> AsyncConnection:
    return _Connection()  # type: ignore[return-value]  # nothing is called


def test_a_quick_call_discards_no_plans(connection: AsyncConnection) -> None:
    plans = PlanCache()
    assert not plans.should_discard(connection, began=0.0, now=SLOW_CALL)


def test_plans_are_discarded_after_a_slow_call_and_then_kept_for_a_while(
    connection: AsyncConnection,
) -> None:
    plans, slow = PlanCache(), 2 * SLOW_CALL
    assert plans.should_discard(connection, began=10.0, now=10.0 + slow)
    assert not plans.should_discard(connection, began=10.1, now=10.1 + slow)
    assert not plans.should_discard(
        connection, began=10.0 + PLAN_TRUST, now=9.99 + slow + PLAN_TRUST
    )
    assert plans.should_discard(connection, began=10.0 + PLAN_TRUST, now=10.01 + slow + PLAN_TRUST)


def test_each_connection_has_plans_of_its_own(connection: AsyncConnection) -> None:
    plans, other = PlanCache(), _Connection()
    assert plans.should_discard(connection, began=0.0, now=1.0)
    assert plans.should_discard(other, began=0.0, now=1.0)  # type: ignore[arg-type]  # nothing is called
