"""Every documented error exists, with its code and its bases, and survives pickling."""

from __future__ import annotations

import inspect
import math
import pickle
from datetime import timedelta

import pytest

import roost
from roost import exceptions
from roost.exceptions import RoostError

DOCUMENTED = {
    "RoostError": "roost.error",
    "DuplicateUniqueJobError": "roost.duplicate-unique-job",
    "JobFailed": "roost.job-failed",
    "JobNotFoundError": "roost.job-not-found",
    "JobTimeoutError": "roost.job-timeout",
    "SnoozeJob": "roost.snooze-job",
    "UnknownTaskError": "roost.unknown-task",
    "WorkerShutdown": "roost.worker-shutdown",
}
"""The API page's classes and codes."""

ALL = [
    kind
    for kind in vars(exceptions).values()
    if inspect.isclass(kind) and issubclass(kind, RoostError)
]


@pytest.mark.parametrize(("name", "code"), DOCUMENTED.items())
def test_the_documented_errors_have_their_codes(name: str, code: str) -> None:
    kind = getattr(roost, name)
    assert kind.code == code
    assert issubclass(kind, RoostError)


def test_codes_are_unique_and_of_one_form() -> None:
    codes = [kind.code for kind in ALL]
    assert len(codes) == len(set(codes))
    assert all(code.startswith("roost.") and code == code.lower() for code in codes)


def test_every_error_is_public_and_documented() -> None:
    for kind in ALL:
        assert getattr(roost, kind.__name__) is kind
        assert kind.__name__ in roost.__all__
        assert inspect.getdoc(kind)


def test_errors_can_be_caught_by_their_built_in_bases() -> None:
    assert issubclass(roost.JobFailed, RuntimeError)
    assert issubclass(roost.JobTimeoutError, TimeoutError)
    assert issubclass(roost.InvalidJobError, ValueError)
    assert issubclass(roost.InvalidSettingError, ValueError)
    assert issubclass(roost.DatabaseUnavailableError, roost.DatabaseError)


INSTANCES = [
    roost.DuplicateUniqueJobError(unique_key="key", existing_id=7),
    roost.JobFailed(7, "discarded", [{"error": "ValueError: no"}]),
    roost.JobFailed(7, "cancelled"),
    roost.SnoozeJob(1.5),
    roost.CancelJob("not wanted"),
    roost.CancelJob(),
    roost.DiscardJob("no image"),
    roost.RetryJob("busy", in_=1.5),
    roost.RetryJob(),
    roost.DatabaseError("no", sqlstate="42P01"),
    roost.DatabaseUnavailableError("away"),
]


@pytest.mark.parametrize("error", INSTANCES, ids=repr)
def test_errors_with_fields_survive_pickling(error: RoostError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_error_survives_pickling(kind: type[RoostError]) -> None:
    samples: dict[str, tuple[object, ...]] = {
        "JobFailed": (1, "discarded"),
        "SnoozeJob": (1,),
    }
    error = kind(*samples.get(kind.__name__, ("text",)))
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (str(again), vars(again)) == (str(error), vars(error))


def test_the_messages_say_what_happened() -> None:
    assert "7" in str(INSTANCES[0])
    assert "'key'" in str(INSTANCES[0])
    assert str(INSTANCES[1]) == "job 7 was discarded: ValueError: no"
    assert str(INSTANCES[2]) == "job 7 was cancelled"
    failed = roost.JobFailed(7, "cancelled")
    assert (failed.job_id, failed.state, failed.errors) == (7, "cancelled", [])


@pytest.mark.parametrize("kind", [roost.CancelJob, roost.DiscardJob, roost.RetryJob])
def test_a_reason_that_is_no_text_is_refused(kind: type[RoostError]) -> None:
    with pytest.raises(TypeError, match="reason must be text, not None"):
        kind(None)


@pytest.mark.parametrize("kind", [roost.CancelJob, roost.DiscardJob, roost.RetryJob])
def test_a_reason_may_be_the_exception_that_was_caught(kind: type[roost.DiscardJob]) -> None:
    for caught, reason in (
        (ValueError("no image"), "ValueError: no image"),
        (KeyError(), "KeyError"),
    ):
        error = kind(caught)
        assert (error.reason, str(error)) == (reason, reason)
        assert vars(pickle.loads(pickle.dumps(error))) == vars(error)


def test_a_wait_is_seconds_or_a_timedelta() -> None:
    assert roost.RetryJob(in_=timedelta(minutes=2)).in_ == 120
    assert roost.RetryJob(in_=0).in_ == 0
    assert roost.RetryJob().in_ is None
    for wait in (-1, math.inf, math.nan, timedelta(seconds=-1)):
        with pytest.raises(ValueError, match="in_ must be finite and ≥ 0"):
            roost.RetryJob(in_=wait)
    for wrong in ("5", True):
        with pytest.raises(TypeError, match="in_ must be seconds or a timedelta"):
            roost.RetryJob(in_=wrong)  # type: ignore[arg-type]  # the mistake under test
        with pytest.raises(TypeError, match="seconds must be seconds or a timedelta"):
            roost.SnoozeJob(wrong)  # type: ignore[arg-type]  # the mistake under test
    assert roost.SnoozeJob(timedelta(minutes=2)).seconds == 120
    for first in (60, 1.5, timedelta(seconds=1)):
        with pytest.raises(TypeError, match=r"pass a wait as in_="):
            roost.RetryJob(first)  # type: ignore[arg-type]  # the mistake under test
