"""Each wait is finite, ≥ 0 and bounded, for any attempt, parameters and strategy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from roost import BackoffStrategy, InvalidSettingError, exponential, fixed, linear
from roost._model.backoff import DAY, MAX_DELAY, delay_after


def test_exponential_doubles_up_to_a_day() -> None:
    wait = exponential(jitter=False)
    assert [wait(attempt) for attempt in (1, 2, 3, 10)] == [2, 4, 8, 1024]
    assert wait(17) == wait(5_000) == wait(10**9) == DAY


@pytest.mark.parametrize("cap", [0.0, 1.5, 86_400.0])
def test_jitter_never_exceeds_the_cap(cap: float) -> None:
    for make in (exponential, linear):
        wait = make(cap=cap)
        for attempt in (1, 2, 10, 5_000):
            for _ in range(50):
                assert 0 <= wait(attempt) <= cap


def test_jitter_spreads_over_the_last_tenth() -> None:
    waits = {exponential()(10) for _ in range(200)}
    assert len(waits) > 100
    assert 0.9 * 1024 <= min(waits) < max(waits) <= 1024


def test_linear_and_fixed() -> None:
    assert [linear(10, jitter=False)(attempt) for attempt in (1, 2, 3)] == [10, 20, 30]
    assert linear(jitter=False)(10**9) == DAY
    assert [fixed(7)(attempt) for attempt in (1, 5_000)] == [7, 7]
    assert 6.3 <= fixed(7, jitter=True)(1) <= 7


@pytest.mark.parametrize(
    "make",
    [
        lambda: exponential(0),
        lambda: exponential(-2),
        lambda: exponential(math.nan),
        lambda: exponential(math.inf),
        lambda: exponential(cap=-1),
        lambda: exponential(cap=math.inf),
        lambda: linear(-1),
        lambda: linear(cap=math.nan),
        lambda: fixed(-1),
        lambda: fixed(math.inf),
    ],
)
def test_parameters_out_of_range_are_refused(make: Callable[[], BackoffStrategy]) -> None:
    with pytest.raises(InvalidSettingError, match="must be finite"):
        make()


NONSENSE: list[Any] = [math.inf, -math.inf, math.nan, -1, "soon", None, []]


def raising(_: int) -> float:
    raise RuntimeError("no idea")


def answering(answer: Any) -> BackoffStrategy:
    return lambda _: answer


@pytest.mark.parametrize(
    "strategy",
    [
        raising,
        *map(answering, NONSENSE),
    ],
)
@pytest.mark.parametrize("attempt", [1, 3, 5_000])
def test_a_broken_strategy_is_replaced_by_the_default(
    strategy: BackoffStrategy, attempt: int
) -> None:
    assert min(0.9 * 2.0 ** min(attempt, 16), 0.9 * DAY) <= delay_after(attempt, strategy) <= DAY


def test_a_wait_is_limited_to_a_century() -> None:
    assert delay_after(1, fixed(0)) == 0
    assert delay_after(1, answering("1.5")) == 1.5
    assert delay_after(1, answering(1e300)) == MAX_DELAY
    assert delay_after(1, answering(10**400)) <= MAX_DELAY


def test_a_function_satisfies_the_protocol() -> None:
    assert isinstance(exponential(), BackoffStrategy)
    assert isinstance(lambda attempt: 1.0, BackoffStrategy)
    assert not isinstance(5, BackoffStrategy)
