"""A duration is shown in one way everywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost._model.durations import duration
from roost.cli.times import parse_duration, shown_duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0ms"),
        (0, "0ms"),
        (0.00043, "0.43ms"),
        (0.00994, "9.9ms"),
        (0.012, "12ms"),
        (0.15, "150ms"),
        (0.9994, "999ms"),
        (0.9999, "1s"),
        (2.5, "2.5s"),
        (9.94, "9.9s"),
        (9.96, "10s"),
        (42, "42s"),
        (59.9, "1m"),
        (60, "1m"),
        (89, "1m29s"),
        (3_599, "59m59s"),
        (3_600, "1h"),
        (5_430, "1h30m"),
        (90_061, "1d1h"),
        (86_400, "1d"),
    ],
)
def test_a_duration_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(st.floats(1, 10**9))
def test_a_command_takes_what_is_shown(seconds: float) -> None:
    read = parse_duration(duration(seconds)).total_seconds()
    assert abs(read - seconds) <= max(0.06, seconds / 20)


def test_no_duration_is_no_text() -> None:
    assert (shown_duration(None), shown_duration(90)) == (None, "1m30s")
