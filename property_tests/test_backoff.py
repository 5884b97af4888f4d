"""Waits between attempts are finite, never negative and never above their cap."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from roost import BackoffStrategy, exponential, fixed, linear
from roost._model.backoff import MAX_DELAY, delay_after
from roost.exceptions import InvalidSettingError

ATTEMPTS = st.integers(1, 10**6)
CAPS = st.floats(0, 1e9)


@given(base=st.floats(0.001, 1e308), jitter=st.booleans(), cap=CAPS, attempt=ATTEMPTS)
@example(base=2.0, jitter=True, cap=86_400.0, attempt=10**6)
def test_exponential_is_never_above_its_cap(
    base: float, jitter: bool, cap: float, attempt: int
) -> None:
    assert 0 <= exponential(base, jitter=jitter, cap=cap)(attempt) <= cap


@given(attempt=st.integers(1, 16))
def test_exponential_doubles_by_default_minus_at_most_a_tenth(attempt: int) -> None:
    assert exponential(jitter=False)(attempt) == 2**attempt
    assert 0.9 * 2**attempt <= exponential()(attempt) <= 2**attempt


@given(step=st.floats(0, 1e308), jitter=st.booleans(), cap=CAPS, attempt=ATTEMPTS)
def test_linear_grows_by_its_step_up_to_its_cap(
    step: float, jitter: bool, cap: float, attempt: int
) -> None:
    most = min(step * attempt, cap)
    wait = linear(step, jitter=jitter, cap=cap)(attempt)
    assert 0.9 * most <= wait <= most if jitter else wait == most


@given(seconds=st.floats(0, 1e308), jitter=st.booleans(), attempt=ATTEMPTS)
def test_fixed_is_the_same_after_every_attempt(seconds: float, jitter: bool, attempt: int) -> None:
    wait = fixed(seconds, jitter=jitter)(attempt)
    assert 0.9 * seconds <= wait <= seconds if jitter else wait == seconds


@pytest.mark.parametrize("make", [exponential, linear, fixed])
@given(value=st.sampled_from([-1.0, -0.001, math.nan, math.inf, -math.inf]))
def test_an_impossible_wait_is_refused_at_once(
    make: Callable[[float], BackoffStrategy], value: float
) -> None:
    with pytest.raises(InvalidSettingError):
        make(value)


class Unreal:
    """Has `__float__`, which raises."""

    def __float__(self) -> float:
        raise ZeroDivisionError("hostile")


ANSWERS: st.SearchStrategy[object] = st.one_of(
    st.floats(),
    st.integers(-(10**400), 10**400),
    st.sampled_from([None, "", "soon", "nan", b"1", [], {}, 1j, Unreal(), True]),
    st.sampled_from([ValueError("no"), ZeroDivisionError(), StopIteration(), RecursionError()]),
)


@given(answer=ANSWERS, attempt=ATTEMPTS)
def test_a_delay_is_finite_and_bounded_for_any_answer_of_a_strategy(
    answer: object, attempt: int
) -> None:
    def strategy(_attempt: int, /) -> float:
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[return-value]  # hostile on purpose

    delay = delay_after(attempt, strategy)
    assert type(delay) is float
    assert 0 <= delay <= MAX_DELAY
    if isinstance(answer, float) and 0 <= answer <= MAX_DELAY:
        assert delay == answer
