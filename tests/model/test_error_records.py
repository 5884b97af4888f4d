"""Error records: times in UTC, and everything else as it was written."""

from __future__ import annotations

import json

import pytest

from roost._model.error_records import decode_errors


def test_times_are_in_utc() -> None:
    record = {
        "at": "2026-11-30T19:30:00.123+05:30",
        "started_at": "2026-11-30T13:59:59+00:00",
        "attempt": 1,
    }
    assert decode_errors(json.dumps([record])) == [
        {
            "at": "2026-11-30T14:00:00.123000+00:00",
            "started_at": "2026-11-30T13:59:59+00:00",
            "attempt": 1,
        }
    ]


@pytest.mark.parametrize("value", ["", "today", "2026-11-30", 7, None, "0001-01-01T00:00:00+14:00"])
def test_what_is_no_time_stays(value: object) -> None:
    assert decode_errors(json.dumps([{"at": value}])) == [{"at": value}]


def test_without_records_there_is_an_empty_list() -> None:
    assert decode_errors(None) == []
