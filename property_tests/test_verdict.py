"""Everything that a handler returns or raises gets a verdict, and Postgres can store it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta

import psycopg
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from property_tests.test_codec import through_jsonb
from property_tests.values import SURROGATES, Box, Hostile, Traps, hostiles

from roost import CancelJob, DiscardJob, RetryJob, SnoozeJob, fixed
from roost._model.backoff import MAX_DELAY
from roost._model.codec import encode
from roost._model.failures import NO_RULES, FailureRules
from roost._model.states import Event, JobState
from roost._model.verdict import (
    MAX_ERROR_CHARS,
    MAX_TRACE_CHARS,
    CancelRequested,
    Ending,
    Interrupted,
    Lease,
    Raised,
    Returned,
    TimedOut,
    Verdict,
    judge,
    settle_record,
)

LEASE = Lease(job_id=1, worker_id=2, lease_no=3)


@pytest.fixture(scope="module")
def postgres(server_dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        yield connection


class Strange(BaseException):
    """A BaseException with surrogates and NUL in its name and text."""

    __qualname__ = "Strange" + SURROGATES

    def __str__(self) -> str:
        return "\0" + SURROGATES


class Silent(Exception):  # noqa: N818
    """Its ``__str__`` returns no text."""

    __str__ = lambda self: None  # type: ignore[assignment, return-value]  # noqa: E731  (hostile on purpose)


class Exits(Exception):  # noqa: N818
    """Raises SystemExit when it is printed."""

    def __str__(self) -> str:
        raise SystemExit(3)


def exceptions() -> st.SearchStrategy[BaseException]:
    """Return exceptions of many kinds, with causes, notes and in groups."""
    messages = st.text() | st.sampled_from(["", SURROGATES, "\0", "\u2028\r\n"])
    messages |= (st.integers(980, 1_000) | st.just(50_000)).map(lambda length: "é" * length)
    leaves = st.one_of(
        st.builds(ValueError, messages),
        st.builds(KeyError, messages, st.binary()),
        st.builds(
            UnicodeDecodeError, st.just("utf-8"), st.binary(), *[st.integers(0, 9)] * 2, messages
        ),
        st.sampled_from([Hostile, Silent, Strange, Exits, Exception]).map(lambda kind: kind()),
        st.sampled_from([StopIteration, StopAsyncIteration, GeneratorExit]).map(
            lambda kind: kind()
        ),
        st.builds(SystemExit, st.integers()),
        st.builds(SyntaxError, messages, st.just(("file", 1, 2, "text\ud800", 1, 9))),
    )
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.builds(_caused, inner, inner),
            st.builds(_noted, inner, st.text() | st.none() | st.builds(Hostile)),
            st.builds(BaseExceptionGroup, st.just("many"), st.lists(inner, min_size=1, max_size=3)),
        ),
        max_leaves=5,
    )


def _noted(error: BaseException, note: object) -> BaseException:
    error.__notes__ = [note, "\0", SURROGATES]  # type: ignore[list-item]  # hostile on purpose
    return error


def _caused(error: BaseException, cause: BaseException) -> BaseException:
    try:
        raise error from cause
    except BaseException as raised:  # noqa: BLE001  (GeneratorExit among them)
        return raised


def endings() -> st.SearchStrategy[Ending]:
    """Return endings of an attempt, of every kind."""
    return st.one_of(
        st.builds(lambda box: Returned(box.value), hostiles()),
        st.builds(Raised, exceptions() | decisions() | decisions().map(_alone_in_groups)),
        st.builds(TimedOut, st.floats(0, 1e9)),
        st.just(Interrupted()),
        st.just(CancelRequested()),
    )


def decisions() -> st.SearchStrategy[Exception]:
    """Return what handlers raise to decide about their job."""
    reasons = st.text() | st.sampled_from(["", SURROGATES, "\0", "é" * 50_000])
    waits = st.floats(0, allow_infinity=False)
    return st.one_of(
        st.builds(SnoozeJob, waits),
        st.builds(CancelJob, reasons),
        st.builds(DiscardJob, reasons),
        st.builds(RetryJob, reasons, in_=st.none() | waits | st.timedeltas(timedelta(0))),
    )


def _alone_in_groups(error: Exception) -> Exception:
    return ExceptionGroup("outer", [ExceptionGroup("inner", [error])])


CLASSES = [Exception, LookupError, KeyError, IndexError, OSError, TimeoutError, ValueError]


def rules() -> st.SearchStrategy[FailureRules]:
    """Return the rules of tasks. No class is in both lists, which the declaration refuses."""
    chosen = st.lists(st.sampled_from(CLASSES), unique=True)
    return st.builds(
        lambda retry, discard: FailureRules(
            None if retry is None else tuple(retry),
            tuple(kind for kind in discard if kind not in (retry or ())),
        ),
        st.none() | chosen,
        chosen,
    )


@given(ending=endings().map(Box), attempt=st.integers(1, 5), max_attempts=st.integers(1, 5))
@example(ending=Box(Returned(Traps())), attempt=1, max_attempts=1)
@example(ending=Box(Raised(Exits())), attempt=1, max_attempts=1)
@example(ending=Box(Raised(Strange())), attempt=1, max_attempts=1)
@example(ending=Box(Raised(ValueError("\0" * 50_000))), attempt=1, max_attempts=1)
@example(ending=Box(Raised(ValueError("é" * 989))), attempt=1, max_attempts=1)
def test_every_ending_has_a_verdict_that_postgres_can_store(
    postgres: psycopg.Connection, ending: Box, attempt: int, max_attempts: int
) -> None:
    verdict = reach(ending, attempt, max_attempts)

    assert verdict.lease == LEASE
    assert verdict.delay is None or 0 <= verdict.delay <= MAX_DELAY
    if verdict.result is not None:
        through_jsonb(postgres, verdict.result)
    record = json.loads(through_jsonb(postgres, encode(settle_record(verdict))))
    assert record["error"] == verdict.error
    if verdict.error is not None:
        assert verdict.error.keys() == {"error", "trace"}
        assert 0 < len(verdict.error["error"]) <= MAX_ERROR_CHARS
        assert len(verdict.error["trace"]) <= MAX_TRACE_CHARS


@given(ending=endings().map(Box), attempt=st.integers(1, 5), max_attempts=st.integers(1, 5))
def test_only_failures_count_and_the_last_of_them_discards(
    ending: Box, attempt: int, max_attempts: int
) -> None:
    verdict = reach(ending, attempt, max_attempts)

    match ending.value:
        case Returned():
            assert verdict.event is Event.COMPLETE
        case Interrupted():
            assert verdict.event is Event.RELEASE
        case CancelRequested():
            assert (verdict.event, verdict.error) == (Event.CANCEL, None)
        case Raised(error=error):
            _check_decision(_innermost(error), verdict, attempt, max_attempts)
        case _:
            _check_failure(verdict, attempt, max_attempts)
    assert verdict.attempt == (-1 if verdict.state is JobState.AVAILABLE else 0)


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _check_decision(
    error: BaseException, verdict: Verdict, attempt: int, max_attempts: int
) -> None:
    match error:
        case SnoozeJob():
            assert (verdict.event, verdict.error) == (Event.SNOOZE, None)
        case CancelJob():
            assert verdict.event is Event.CANCEL
            assert verdict.error
        case DiscardJob():
            assert verdict.event is Event.DISCARD
            assert verdict.error
        case RetryJob(in_=seconds):
            _check_failure(verdict, attempt, max_attempts)
            if verdict.delay is not None:
                assert verdict.delay == (1.0 if seconds is None else min(seconds, MAX_DELAY))
        case _:
            _check_failure(verdict, attempt, max_attempts)


def _check_failure(verdict: Verdict, attempt: int, max_attempts: int) -> None:
    last = attempt >= max_attempts
    assert verdict.state is (JobState.DISCARDED if last else JobState.RETRYABLE)
    assert (verdict.delay is None) is last
    assert verdict.error


@given(
    rules=rules(),
    errors=st.lists(st.sampled_from(CLASSES[1:]).map(lambda kind: kind()), min_size=1, max_size=3),
)
def test_the_nearest_class_decides_and_a_group_is_retried_if_one_of_it_is(
    rules: FailureRules, errors: list[Exception]
) -> None:
    def is_retried(error: Exception) -> bool:
        said = {
            **dict.fromkeys(rules.retry_on or (), True),
            **dict.fromkeys(rules.discard_on, False),
        }
        near = [said[kind] for kind in type(error).__mro__ if kind in said]
        return near[0] if near else rules.retry_on is None

    expected = any(map(is_retried, errors))
    one = errors[0] if len(errors) == 1 else ExceptionGroup("several", errors)
    for error in (one, ExceptionGroup("alone", [one])):
        verdict = reach(Box(Raised(error)), 1, 5, rules)
        assert verdict.event is (Event.RETRY if expected else Event.DISCARD)
        assert verdict.error
        assert reach(Box(Raised(error)), 5, 5, rules).event is Event.DISCARD


@given(rules=rules(), error=decisions())
def test_what_the_handler_decides_goes_before_its_tasks_rules(
    rules: FailureRules, error: Exception
) -> None:
    ending = Box(Raised(error))
    assert reach(ending, 1, 5, rules) == reach(ending, 1, 5)


@given(seconds=st.floats(max_value=-1e-9) | st.just(float("nan")) | st.just(float("inf")))
def test_an_impossible_snooze_is_a_value_error_in_the_handler(seconds: float) -> None:
    with pytest.raises(ValueError, match="seconds"):
        SnoozeJob(seconds)


@given(seconds=st.one_of(st.floats(), st.text(), st.none(), st.integers(max_value=10**400)))
def test_a_changed_snooze_is_a_failure_or_within_bounds(seconds: object) -> None:
    error = SnoozeJob(0)
    error.seconds = seconds  # type: ignore[assignment]  # hostile on purpose
    verdict = reach(Box(Raised(error)), 1, 2)

    assume(verdict.event is not Event.RETRY)
    assert verdict.event is Event.SNOOZE
    assert verdict.delay is not None
    assert 0 <= verdict.delay <= MAX_DELAY


def reach(ending: Box, attempt: int, max_attempts: int, rules: FailureRules = NO_RULES) -> Verdict:
    """Return the verdict on an ending."""
    return judge(
        ending.value,
        lease=LEASE,
        attempt=attempt,
        max_attempts=max_attempts,
        retry=fixed(1.0),
        rules=rules,
    )
