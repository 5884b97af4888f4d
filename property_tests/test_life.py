"""Jobs live in Postgres as the model says, whatever happens in whatever order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from property_tests.machines.life import Life
from property_tests.real import Real, prepare


@pytest.fixture
def real(empty_dsn: str) -> Iterator[Real]:
    prepare(empty_dsn)
    with closing(Real(empty_dsn)) as real:
        yield real


def test_every_life_is_as_the_model_says(real: Real) -> None:
    class LifeHere(Life):
        def __init__(self) -> None:
            super().__init__(real)

    run_state_machine_as_test(LifeHere, settings=settings(stateful_step_count=40))
