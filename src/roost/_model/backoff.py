"""How long a failed job waits before its next attempt."""

from __future__ import annotations

import math
import random
from typing import Protocol, runtime_checkable

from roost._model.interrupts import is_ctrl_c
from roost._model.logs import StructuredLogger
from roost.exceptions import InvalidSettingError

logger = StructuredLogger("roost.backoff")

DAY = 86_400.0
MAX_DELAY = 36_525 * DAY
"""The longest wait that is written, a century: Postgres's calendar ends somewhere."""


@runtime_checkable
class BackoffStrategy(Protocol):
    """Maps an attempt number (1-indexed) to seconds-until-next-attempt."""

    def __call__(self, attempt: int, /) -> float:
        """Return the seconds to wait after ``attempt`` failed."""
        ...


def exponential(base: float = 2.0, *, jitter: bool = True, cap: float = DAY) -> BackoffStrategy:
    """Wait ``base ** attempt`` seconds, optionally jittered, capped at ``cap``.

    With the defaults: 2, 4, 8, 16, … s, at most a day, as Oban does. Jitter takes away up to a
    tenth, so that the cap holds and jobs that failed together don't come back together.

    :param base: the factor between two waits, > 0.
    :param jitter: draw each wait from the last tenth below its value.
    :param cap: the longest wait in seconds, ≥ 0.
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
    """
    _require("step", step)
    _require("cap", cap)

    def wait(attempt: int, /) -> float:
        seconds = min(step * attempt, cap)
        return _jittered(seconds) if jitter else seconds

    return wait


def fixed(seconds: float, *, jitter: bool = False) -> BackoffStrategy:
    """Wait the same ``seconds`` (≥ 0) after every attempt."""
    _require("seconds", seconds)

    def wait(attempt: int, /) -> float:  # noqa: ARG001  (the protocol's parameter)
        return _jittered(seconds) if jitter else seconds

    return wait


def delay_after(attempt: int, strategy: BackoffStrategy) -> float:
    """Ask ``strategy`` and make sure of a sane answer: finite, ≥ 0, at most a century.

    A strategy that raises, or answers with anything else, is logged and replaced by the default
    one: whatever it does, the job leaves ``executing``.
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
            "retry strategy gave an unusable wait after attempt %(attempt)d: %(seconds)s s",
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
