"""Read the error records of a job."""

from datetime import UTC, datetime
from typing import Any

from roost._model.codec import decode
from roost._model.verdict import STARTED_AT

_TIMES = (STARTED_AT, "at")


def decode_errors(text: str | None) -> list[dict[str, Any]]:
    """Return the error records of a job, with their times in UTC.

    The database writes times in the time zone of the session, and a worker in UTC.

    :param text: the column ``errors``; ``None``: there is no record.
    """
    if not text:
        return []
    records: list[dict[str, Any]] = decode(text)
    for record in records:
        for name in _TIMES:
            if name in record:
                record[name] = _in_utc(record[name])
    return records


def _in_utc(value: object) -> object:
    """Return a time in UTC; what is no time stays as it is, since SQL may write anything."""
    if not isinstance(value, str) or value.endswith("+00:00"):
        return value
    try:
        moment = datetime.fromisoformat(value)
        return moment.astimezone(UTC).isoformat() if moment.tzinfo else value
    except (ValueError, OverflowError):
        return value
