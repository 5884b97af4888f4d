"""Expressions of every form that Roost accepts are explained in English."""

from __future__ import annotations

import pytest

from roost import CronEntry
from roost._model.cron_words import describe

WORDS = {
    "* * * * *": "Every minute",
    "*/5 * * * *": "Every 5 minutes",
    "0 6 * * mon-fri": "At 06:00, Monday through Friday",
    "0 6 * * MON,WED": "At 06:00, only on Monday and Wednesday",
    "30 2 1,15 * *": "At 02:30, on day 1 and 15 of the month",
    "0 0 13 * 5": "At 00:00, on day 13 of the month, or on Friday",
    "0 0 */13 * 5": "At 00:00, every 13 days, and only on Friday",
    "0 0 L * *": "At 00:00, on the last day of the month",
    "0 0 * * 5#2": "At 00:00, on the second Friday of the month",
    "0 0 * * L5": "At 00:00, on the last Friday of the month",
    "0 0 ? * 7": "At 00:00, only on Sunday",
    "0 0 * jan-mar sun": "At 00:00, only on Sunday, January through March",
    "0 0 * * sat-mon": "At 00:00, Saturday through Monday",
    "0 22-3/2 * * *": "Every 2 hours, between 22:00 and 03:59",
    "5,10,15 1-3 * * *": "At 5, 10, and 15 minutes past the hour, between 01:00 and 03:59",
    "0 0 29 2 *": "At 00:00, on day 29 of the month, only in February",
    # Seconds are last.
    "* * * * * *": "Every second",
    "* * * * * */10": "Every 10 seconds",
    "30 6 * * 1 15": "At 06:30:15, only on Monday",
    "*/5 * * * * 0,30": "At 0 and 30 seconds past the minute, every 5 minutes",
    "@hourly": "Every hour",
    "@daily": "At 00:00",
    "@midnight": "At 00:00",
    "@weekly": "At 00:00, only on Sunday",
    "@monthly": "At 00:00, on day 1 of the month",
    "@yearly": "At 00:00, on day 1 of the month, only in January",
    "@annually": "At 00:00, on day 1 of the month, only in January",
}


@pytest.mark.parametrize("expression", WORDS)
def test_an_expression_is_explained(expression: str) -> None:
    CronEntry("it", expression, "work")  # it is one that Roost accepts
    assert describe(expression) == WORDS[expression]


def test_the_language_is_always_english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    describe.cache_clear()
    assert describe("0 6 * * mon-fri") == "At 06:00, Monday through Friday"


def test_what_is_not_understood_has_no_words() -> None:
    assert describe("whenever it rains") == ""
    assert describe("") == ""
