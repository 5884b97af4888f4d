"""Explain a cron expression in English words, with the library cron-descriptor."""

from __future__ import annotations

import functools

from roost._model.schedule import fields_of


@functools.lru_cache(maxsize=1024)
def describe(expression: str) -> str:
    """Return an expression in words, such as "At 06:00, Monday through Friday".

    Returns an empty text for an expression that the library can't explain.
    """
    from cron_descriptor import (  # type: ignore[import-untyped]  # it comes without types
        Options,
        get_description,
    )

    options = Options()
    options.locale_code = "en_US"
    options.use_24hour_time_format = True
    options.day_of_week_start_index_zero = True
    try:
        fields = fields_of(expression)
        # Roost's seconds are last, and the library's first.
        text = " ".join(fields[5:] + fields[:5]).upper()  # it reads L and W in capitals only
        words: str = get_description(text, options=options)
    except Exception:  # noqa: BLE001  (a text for people; the entry may be written by hand)
        return ""
    day, weekday = fields[2], fields[4]
    if "*" in (day[:1], weekday[:1]):
        # Two day fields of which one begins with * restrict together; the library says "or".
        words = words.replace(", or on ", ", and only on ")
    return " ".join(words.split())
