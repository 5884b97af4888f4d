"""Retry strategies: how long a failed job waits before its next attempt."""

from __future__ import annotations

import inspect
import math
import random
from typing import Protocol, runtime_checkable

from roost._model.functions import is_async, location
from roost._model.interrupts import is_ctrl_c
from roost._model.logs import StructuredLogger
from roost.exceptions import InvalidSettingError

logger = StructuredLogger("roost.backoff")

DAY = 86_400.0
MAX_DELAY = 36_525 * DAY
"""Seconds; the longest wait that is stored, a century. Postgres's calendar is finite."""


@runtime_checkable
class BackoffStrategy(Protocol):
    """Maps an attempt number (1-indexed) to seconds-until-next-attempt."""

    def __call__(self, attempt: int, /) -> float:
        """Return the seconds to wait after ``attempt`` failed."""
        ...


def exponential(base: float = 2.0, *, jitter: bool = True, cap: float = DAY) -> BackoffStrategy:
    """Wait ``base ** attempt`` seconds, optionally jittered, capped at ``cap``.

    With the defaults: 2, 4, 8, 16, … s, at most a day, as Oban does.

    :param base: the factor between two waits, > 0.
    :param jitter: whether to shorten each wait by a random share of up to a tenth, so that jobs
        that failed together are not retried together.
    :param cap: the longest wait in seconds, ≥ 0.
    :raises InvalidSettingError: a parameter is out of its range.
    """
    _require("base", base, above=0.0)
    _require("cap", cap)

    def wait(attempt: int, /) -> float:
        try:
            seconds = min(base**attempt, cap)
        except OverflowError:
            seconds = cap
        return _jittered(seconds) if jitter else seconds

    return wait


def linear(step: float = 15.0, *, jitter: bool = True, cap: float = DAY) -> BackoffStrategy:
    """Wait ``step * attempt`` seconds, optionally jittered, capped at ``cap``.

    :param step: seconds that each further attempt adds, ≥ 0.
    :param jitter: as for `exponential`.
    :param cap: the longest wait in seconds, ≥ 0.
    :raises InvalidSettingError: a parameter is out of its range.
    """
    _require("step", step)
    _require("cap", cap)

    def wait(attempt: int, /) -> float:
        seconds = min(step * attempt, cap)
        return _jittered(seconds) if jitter else seconds

    return wait


def fixed(seconds: float, *, jitter: bool = False) -> BackoffStrategy:
    """Wait the same ``seconds`` after every attempt.

    :param seconds: the wait, ≥ 0.
    :param jitter: as for `exponential`; off by default.
    :raises InvalidSettingError: ``seconds`` is out of its range.
    """
    _require("seconds", seconds)

    def wait(attempt: int, /) -> float:  # noqa: ARG001  (the protocol's parameter)
        return _jittered(seconds) if jitter else seconds

    return wait


def check_strategy(what: str, value: object) -> None:
    """Refuse a retry strategy that can't be called with the attempt; ``None`` is accepted.

    :param what: the parameter's name.
    :raises InvalidSettingError: see above.
    """
    if value is None:
        return
    if value in (exponential, fixed, linear):
        name = getattr(value, "__name__", "")
        raise InvalidSettingError(f"{what} must be the result of {name}(...): call it")
    if not callable(value) or isinstance(value, type) or is_async(value):
        raise InvalidSettingError(f"{what} must be a function of the attempt, not {value!r}")
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return  # no signature can be read, so it may accept anything
    try:
        signature.bind(1)
    except TypeError as error:
        raise InvalidSettingError(
            f"{what} is called with the attempt, and {location(value)} can't be: {error}"
        ) from None


def delay_after(attempt: int, strategy: BackoffStrategy) -> float:
    """Return the seconds to wait that ``strategy`` says: finite, ≥ 0, at most a century.

    If the strategy raises, or returns something else, that is logged and the default strategy
    decides, so that the job leaves ``executing`` in any case.
    """
    try:
        seconds = float(strategy(attempt))
    except BaseException as error:
        if is_ctrl_c(error):
            raise
        logger.error(
            "retry strategy failed after attempt %(attempt)d", exc_info=error, attempt=attempt
        )
        return _FALLBACK(attempt)
    if not math.isfinite(seconds) or seconds < 0:
        logger.error(
            "retry strategy returned an unusable wait after attempt %(attempt)d: %(seconds)s s",
            attempt=attempt,
            seconds=seconds,
        )
        return _FALLBACK(attempt)
    return min(seconds, MAX_DELAY)


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(0.9, 1.0)  # noqa: S311  (spreads load, guards nothing)


def _require(name: str, value: float, *, above: float | None = None) -> None:
    if not math.isfinite(value) or value < 0 or (above is not None and value <= above):
        bound = "≥ 0" if above is None else f"> {above:g}"
        raise InvalidSettingError(f"{name} must be finite and {bound}, not {value!r}")


_FALLBACK = exponential()
