"""Jobs in Postgres go through the states that the model says, for any order of events."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from property_tests.machines.life import Life
from property_tests.real import Real, prepare
from property_tests.words import (
    Call,
    Cancel,
    CancelItself,
    DiscardItself,
    End,
    Ending,
    Fail,
    NewJob,
    Release,
    RetryItself,
    Snooze,
    Succeed,
    TimeOut,
)


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


@pytest.mark.parametrize(
    "ending",
    [
        Succeed("late"),
        Fail("no", 5),
        TimeOut(3, 5),
        Snooze(5),
        CancelItself("late"),
        DiscardItself("late"),
        RetryItself("late", 5),
        Release(),
        Cancel(),
    ],
    ids=lambda ending: type(ending).__name__,
)
def test_a_late_settle_of_a_job_that_the_same_worker_runs_again_changes_nothing(
    real: Real, ending: Ending
) -> None:
    life = Life(real)

    def say(verb: str, **parameters: Any) -> Any:
        answer = life.both(Call(verb, parameters))
        life.tables_equal_the_model()
        return answer

    # The machine finds this too, but not in every run, and everything rests on it.
    say("enqueue", job=NewJob(task="send", queue="mail"))
    worker = say("register", name="worker", queues=["mail"], stale_after=60)
    claim = {"worker_id": worker, "queues": ["mail"], "tasks": ["send"], "limit": 1}
    [late] = say("claim", **claim).grants
    assert say("release_unheld", worker_id=worker, held=[]) == [late.lease.job_id]
    [current] = say("claim", **claim).grants

    assert say("settle", ends=[End(late, ending)], error_cap=3).lost == {late.lease}
    assert life.model.held() == [current]
