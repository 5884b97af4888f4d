"""A verdict depends on how an attempt ended and how many attempts are left."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest

from roost import CancelJob, DiscardJob, JobState, RetryJob, SnoozeJob, fixed
from roost._model.backoff import MAX_DELAY
from roost._model.codec import decode, encode
from roost._model.failures import NO_RULES, FailureRules
from roost._model.states import Event
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
    error_record,
    judge,
    sanitize,
    settle_record,
)

LEASE = Lease(1, 2, 3)


def judged(
    ending: Ending, *, attempt: int = 1, max_attempts: int = 3, rules: FailureRules = NO_RULES
) -> Verdict:
    return judge(
        ending,
        lease=LEASE,
        attempt=attempt,
        max_attempts=max_attempts,
        retry=fixed(9),
        rules=rules,
    )


FAILURES = [Raised(ValueError("no")), TimedOut(limit=2)]


@pytest.mark.parametrize(
    ("ending", "event", "state", "attempt", "delay"),
    [
        (Returned(None), Event.COMPLETE, "completed", 0, None),
        (FAILURES[0], Event.RETRY, "retryable", 0, 9),
        (FAILURES[1], Event.RETRY, "retryable", 0, 9),
        (Raised(SnoozeJob(5)), Event.SNOOZE, "available", -1, 5),
        (Raised(RetryJob("busy", in_=4)), Event.RETRY, "retryable", 0, 4),
        (Raised(RetryJob("busy", in_=timedelta(hours=1))), Event.RETRY, "retryable", 0, 3600),
        (Raised(RetryJob("busy")), Event.RETRY, "retryable", 0, 9),
        (Raised(DiscardJob("no image")), Event.DISCARD, "discarded", 0, None),
        (Raised(CancelJob("not wanted")), Event.CANCEL, "cancelled", 0, None),
        (Raised(ValueError("no"), permanent=True), Event.DISCARD, "discarded", 0, None),
        (Raised(ValueError("no"), permanent=False), Event.RETRY, "retryable", 0, 9),
        (Interrupted(), Event.RELEASE, "available", -1, None),
        (CancelRequested(), Event.CANCEL, "cancelled", 0, None),
    ],
)
def test_each_ending_has_its_move(
    ending: Ending, event: Event, state: str, attempt: int, delay: float | None
) -> None:
    verdict = judged(ending)
    assert (verdict.lease, verdict.event) == (LEASE, event)
    assert (verdict.state, verdict.attempt, verdict.delay) == (state, attempt, delay)
    assert (verdict.error is not None) == isinstance(ending, (Raised, TimedOut)) - (
        event is Event.SNOOZE
    )


@pytest.mark.parametrize("ending", [*FAILURES, Raised(RetryJob(in_=0))])
@pytest.mark.parametrize(
    ("attempt", "max_attempts", "state"),
    [(1, 1, "discarded"), (2, 3, "retryable"), (3, 3, "discarded"), (4, 3, "discarded")],
)
def test_the_last_attempt_discards(
    ending: Ending, attempt: int, max_attempts: int, state: str
) -> None:
    verdict = judged(ending, attempt=attempt, max_attempts=max_attempts)
    assert verdict.state == state
    assert (verdict.delay is None) == (state == "discarded")
    assert verdict.error is not None


@pytest.mark.parametrize(
    "ending", [Returned(1), Raised(SnoozeJob(5)), Interrupted(), CancelRequested()]
)
def test_other_endings_do_not_depend_on_the_attempts_left(ending: Ending) -> None:
    assert judged(ending, attempt=9, max_attempts=1).state is not JobState.DISCARDED


@pytest.mark.parametrize(
    "error", [SnoozeJob(5), CancelJob("why"), DiscardJob("why"), RetryJob("why", in_=4)]
)
def test_a_decision_counts_also_alone_in_groups_but_not_beside_an_error(error: Exception) -> None:
    alone = ExceptionGroup("outer", [ExceptionGroup("inner", [error])])
    beside = ExceptionGroup("several", [error, ValueError("no")])
    verdict = judged(Raised(alone))
    assert verdict[1:4] == judged(Raised(error))[1:4]
    assert (verdict.error is None) is isinstance(error, SnoozeJob)
    assert judged(Raised(beside)).event is Event.RETRY


def test_a_reason_is_in_the_error_record() -> None:
    for error in (CancelJob("gone"), DiscardJob("gone"), RetryJob("gone")):
        record = judged(Raised(error)).error
        assert record is not None
        assert record["error"] == f"{type(error).__name__}: gone"
    record = judged(Raised(CancelJob())).error
    assert record is not None
    assert record["error"] == "CancelJob"


RETRIED = FailureRules((ConnectionError, LookupError), (KeyError,))
DISCARDED = FailureRules(None, (OSError,))


@pytest.mark.parametrize(
    ("rules", "error", "retried"),
    [
        (RETRIED, ConnectionResetError(), True),
        (RETRIED, ValueError(), False),
        (RETRIED, KeyError(), False),
        (RETRIED, IndexError(), True),
        (RETRIED, RetryJob(), True),
        (RETRIED, ExceptionGroup("both", [KeyError(), IndexError()]), True),
        (RETRIED, ExceptionGroup("both", [KeyError(), ExceptionGroup("in", [KeyError()])]), False),
        (RETRIED, ExceptionGroup("both", [DiscardJob(), CancelJob()]), False),
        (RETRIED, ExceptionGroup("both", [KeyError(), SnoozeJob(1)]), True),
        (DISCARDED, ConnectionError(), False),
        (DISCARDED, ValueError(), True),
        (DISCARDED, SystemExit(3), True),
        (FailureRules((Exception,), ()), SystemExit(3), False),
    ],
)
def test_the_rules_of_a_task_say_what_is_retried(
    rules: FailureRules, error: BaseException, retried: bool
) -> None:
    verdict = judged(Raised(error), rules=rules)
    assert verdict.event is (Event.RETRY if retried else Event.DISCARD)


@pytest.mark.parametrize(
    ("rules", "retried"),
    [
        (FailureRules((TimeoutError,), (OSError,)), True),
        (FailureRules((ValueError,), ()), False),
        (FailureRules(None, (TimeoutError,)), False),
        (FailureRules(None, (ConnectionError,)), True),
    ],
)
def test_a_timeout_counts_as_a_timeout_error(rules: FailureRules, retried: bool) -> None:
    verdict = judged(TimedOut(limit=2), rules=rules)
    assert verdict.event is (Event.RETRY if retried else Event.DISCARD)


@pytest.mark.parametrize("seconds", ["soon", math.nan, -1])
def test_a_retry_with_an_invalid_wait_waits_as_the_strategy_says(seconds: object) -> None:
    error = RetryJob()
    error.in_ = seconds  # type: ignore[assignment]  # the mistake under test
    assert judged(Raised(error)).delay == 9


def test_a_timeout_names_its_limit() -> None:
    error = judged(TimedOut(limit=2)).error
    assert error is not None
    assert error["error"] == "JobTimeoutError: timed out after 2 s"


def test_a_snooze_is_bounded() -> None:
    assert judged(Raised(SnoozeJob(0))).delay == 0
    assert judged(Raised(SnoozeJob(1e300))).delay == MAX_DELAY


@pytest.mark.parametrize("seconds", ["soon", None, math.nan, -1])
def test_a_snooze_with_an_invalid_length_is_a_failure(seconds: object) -> None:
    snooze = SnoozeJob(1)
    snooze.seconds = seconds  # type: ignore[assignment]  # the mistake under test
    assert judged(Raised(snooze)).event is Event.RETRY


@pytest.mark.parametrize("seconds", [-1, -0.001, math.nan, math.inf])
def test_a_snooze_of_an_invalid_length_is_a_value_error(seconds: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        SnoozeJob(seconds)


def test_results_are_json_texts() -> None:
    assert judged(Returned(None)).result is None
    assert judged(Returned({"a": [1]})).result == '{"a":[1]}'
    assert judged(Returned(False)).result == "false"


@pytest.mark.parametrize(
    "value", [math.nan, "a\0", {1: 2}, object(), b"\xff", 10**200_000], ids="nxkobd"
)
def test_a_result_that_can_not_be_stored_is_replaced_by_a_note(value: object) -> None:
    verdict = judged(Returned(value))
    assert verdict.event is Event.COMPLETE
    assert verdict.result is not None
    note = decode(verdict.result)
    assert list(note) == ["roost.unserializable"]
    assert note["roost.unserializable"].startswith(f"{type(value).__qualname__}: ")


class Silent(Exception):  # noqa: N818
    pass


class BadText(Exception):  # noqa: N818
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("a"), "ValueError: a"),
        (Silent(), "Silent"),
        (BadText(), "BadText: <its __str__ failed>"),
        (ValueError("a\0b"), "ValueError: a\N{REPLACEMENT CHARACTER}b"),
        (ValueError("a\ud800b"), "ValueError: a?b"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (ExceptionGroup("many", [ValueError()]), "ExceptionGroup: many (1 sub-exception)"),
    ],
)
def test_an_error_record_is_storable(error: BaseException, text: str) -> None:
    record = error_record(error)
    assert record["error"] == text
    assert set(record) == {"error", "trace"}
    encode(record)


def test_an_error_record_is_bounded_and_keeps_the_end_of_the_trace() -> None:
    def sink(depth: int) -> None:
        if depth:
            sink(depth - 1)
        raise ValueError("x" * 3_000_000)

    with pytest.raises(ValueError, match="x") as caught:
        sink(50)
    record = error_record(caught.value)
    assert len(record["error"]) == MAX_ERROR_CHARS
    assert len(record["trace"]) == MAX_TRACE_CHARS
    assert record["error"].endswith("…")
    assert record["trace"].startswith("…")


def test_sanitizing_leaves_valid_text_unchanged() -> None:
    assert sanitize("grüß \N{HATCHING CHICK}\n", 100) == "grüß \N{HATCHING CHICK}\n"
    assert sanitize("abcdef", 4) == "abc…"
    assert sanitize("abcdef", 4, keep_end=True) == "…def"
    assert sanitize("abcd", 4) == "abcd"


def test_a_verdict_is_described_for_the_statement() -> None:
    assert settle_record(judged(Raised(SnoozeJob(5)))) == {
        "id": 1,
        "worker_id": 2,
        "lease_no": 3,
        "state": "available",
        "attempt": -1,
        "delay": 5,
        "error": None,
    }
