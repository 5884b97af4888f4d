"""A duration in words, the same in every message and table."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Return seconds in at most two units: ``12ms``, ``1.5s``, ``2m30s``, ``1h``, ``2d3h``.

    From one second on, it is how commands take a duration. Less than 0 is shown as ``0ms``.
    """
    milliseconds = max(seconds, 0.0) * 1000
    if milliseconds < 9.95:
        return f"{milliseconds:.2g}ms"
    if milliseconds < 999.5:
        return f"{milliseconds:.0f}ms"
    if seconds < 9.95:
        return f"{seconds:.2g}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "m"), (rest, "s")]
    first = next(index for index, (number, _) in enumerate(parts) if number)  # at least 10 s
    return "".join(f"{number}{unit}" for number, unit in parts[first : first + 2] if number)
