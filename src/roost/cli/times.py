"""Durations and times as a command takes them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import typer

from roost._model.durations import duration

UNITS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}
"""Seconds of each unit."""
_PART = r"(\d+(?:\.\d+)?)([smhdw])"


def parse_duration(text: str) -> timedelta:
    """Read ``90`` (seconds), ``5m``, ``1h30m`` or ``2d``.

    :raises typer.BadParameter: it is none of these.
    """
    word = text.strip().lower()
    if not word.isascii():
        word = ""  # \d also matches the digits of other scripts
    try:
        if re.fullmatch(r"\d+(\.\d+)?", word):
            return timedelta(seconds=float(word))
        if re.fullmatch(f"(?:{_PART})+", word):
            parts = re.findall(_PART, word)
            return timedelta(seconds=sum(float(number) * UNITS[unit] for number, unit in parts))
    except OverflowError:
        pass
    raise typer.BadParameter(f"{text!r} is no duration: write 90 (seconds), 5m, 1h30m or 2d")


def shown_duration(seconds: float | None) -> str | None:
    """Return seconds as a cell of a table shows them; ``None``: there are none."""
    return None if seconds is None else duration(seconds)


def parse_time(text: str) -> datetime:
    """Read an ISO 8601 time, such as ``2026-06-01T12:00Z``. Without a zone it is in UTC.

    :raises typer.BadParameter: it is none.
    """
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no time: write it as 2026-06-01T12:00Z") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def parse_past(text: str) -> datetime | timedelta:
    """Read a time, or a duration before now.

    :raises typer.BadParameter: it is neither.
    """
    try:
        return parse_duration(text)
    except typer.BadParameter:
        pass
    try:
        return parse_time(text)
    except typer.BadParameter:
        raise typer.BadParameter(
            f"{text!r} is neither a time nor a duration: write 2026-06-01T12:00Z, or 1h for an "
            "hour ago"
        ) from None
