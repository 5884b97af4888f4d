"""Durations and times of the command line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
import typer

from roost.cli.times import parse_duration, parse_past, parse_time


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("90", 90),
        ("0", 0),
        ("1.5", 1.5),
        ("5m", 300),
        ("1h30m", 5400),
        (" 2D ", 172_800),
        ("1w", 604_800),
        ("0.5h", 1800),
        ("1m1m", 120),
    ],
)
def test_a_duration_is_seconds_or_numbers_with_units(text: str, duration: float) -> None:
    assert parse_duration(text) == timedelta(seconds=duration)


@pytest.mark.parametrize("text", ["", "m", "5 m", "5x", "-5", "1e9", "1h30", "٣m", "9" * 30 + "w"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is no duration: write 90"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-06-01T12:00Z", datetime(2026, 6, 1, 12, tzinfo=UTC)),
        ("2026-06-01 12:00:30", datetime(2026, 6, 1, 12, 0, 30, tzinfo=UTC)),
        ("2026-06-01", datetime(2026, 6, 1, tzinfo=UTC)),
        ("2026-06-01T12:00+02:00", datetime(2026, 6, 1, 12, tzinfo=timezone(timedelta(hours=2)))),
    ],
)
def test_a_time_is_in_utc_unless_it_says_otherwise(text: str, moment: datetime) -> None:
    assert parse_time(text) == moment


def test_what_is_neither_a_time_nor_a_duration_is_refused() -> None:
    assert parse_past("1h") == timedelta(hours=1)
    assert parse_past("2026-06-01") == datetime(2026, 6, 1, tzinfo=UTC)
    with pytest.raises(typer.BadParameter, match="neither a time nor a duration"):
        parse_past("yesterday")
