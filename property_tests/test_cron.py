"""Each tick of a cron entry fires once, while workers start and die and the clock is set."""

from __future__ import annotations

import psycopg
import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from property_tests.machines.cron import Cron
from property_tests.oracle.cron import MOST
from tests.support.cron_table import CLOCK

from roost._ops import cron


@pytest.fixture
def cron_dsn(dsn: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(cron, "MAX_CATCH_UP", MOST)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(CLOCK)
    return dsn


def test_every_tick_is_fired_as_the_model_says(cron_dsn: str) -> None:
    class CronHere(Cron):
        def __init__(self) -> None:
            super().__init__(cron_dsn)

    run_state_machine_as_test(
        CronHere,
        settings=settings(stateful_step_count=30, max_examples=settings().max_examples // 3),
    )
