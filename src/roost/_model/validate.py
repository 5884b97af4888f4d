"""Check the values of a job before the database is used."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime

from roost.exceptions import InvalidJobError, RoostError

MAX_INT = 2**31 - 1
MAX_ID = 2**63 - 1
EARLIEST = datetime(2, 1, 1, tzinfo=UTC)
LATEST = datetime(9998, 12, 31, tzinfo=UTC)
"""A time that is read from the database must be a datetime in every time zone."""
MAX_NAME = 200
"""Most characters of a queue, task or tag, so that it fits an index entry and a NOTIFY payload."""
DEFAULT_MAX_ARGS_BYTES = 16 << 20
"""Default of a registry's ``max_args_bytes``. Brokers allow 256 KiB to 10 MB. Larger data belongs
in a store, with its key in the args."""
MAX_KEY = 500
"""Most characters of a unique key, so that an index entry has room for four bytes of each."""


def check_name(
    what: str, value: object, error: type[RoostError] = InvalidJobError, *, maximum: int = MAX_NAME
) -> None:
    """Refuse a name that is blank, too long, has several lines, or can't be stored as text.

    Control characters are refused too: they are invisible, and a log line must stay one line. The
    SQL function ``roost.enqueue`` refuses the same.
    """
    value = check_text(what, value, error, maximum=maximum)
    # isprintable() accepts nearly all names; some others are valid too, such as those with emoji.
    if not value.isprintable() and _UNSEEN.search(value):
        raise error(f"{what} must be one line without control characters, not {value!r}")
    if value.isspace():
        raise error(f"{what} must not be blank: {value!r}")


_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def check_text(what: str, value: object, error: type[RoostError], *, maximum: int) -> str:
    """Return a text; refuse one that is empty, too long, or can't be stored."""
    if not isinstance(value, str):
        raise error(f"{what} must be a str, not {type(value).__name__}")
    if not value or len(value) > maximum:
        raise error(f"{what} must have 1 to {maximum} characters, not {len(value)}")
    if "\0" in value or not (value.isascii() or _is_utf8(value)):
        raise error(f"{what} has a character that Postgres can't store: {value!r}")
    return value


def check_int(
    what: str,
    value: object,
    error: type[RoostError] = InvalidJobError,
    *,
    minimum: int,
    maximum: int = MAX_INT,
) -> None:
    """Refuse a value that is not an int from ``minimum`` to ``maximum``; a bool is none."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise error(f"{what} must be an int, not {value!r}")
    if not minimum <= value <= maximum:
        raise error(f"{what} must be from {minimum} to {maximum}, not {value}")


def check_tags(what: str, tags: object, error: type[RoostError] = InvalidJobError) -> None:
    """Refuse tags that aren't a list of names."""
    if isinstance(tags, str) or not isinstance(tags, Sequence):
        raise error(f"{what} must be a list of str, not {tags!r}")
    for tag in tags:
        check_name("a tag", tag, error)


def check_ids(what: str, ids: object, error: type[RoostError] = InvalidJobError) -> None:
    """Refuse a value that is not a list, tuple or set of job ids."""
    if not isinstance(ids, (list, tuple, set, frozenset)):
        raise error(f"{what} must be a list of job ids, not {ids!r}")
    for job_id in ids:
        check_int(f"an id in {what}", job_id, minimum=1, maximum=MAX_ID, error=error)


def check_dict(what: str, value: object, error: type[RoostError] = InvalidJobError) -> None:
    """Refuse a value that is not a dict; its content is checked when it is encoded."""
    if not isinstance(value, dict):
        raise error(f"{what} must be a dict, not {type(value).__name__}")


def check_time(what: str, value: object, error: type[RoostError] = InvalidJobError) -> None:
    """Refuse a value that is not a datetime; `as_utc` refuses datetimes that can't be stored."""
    if not isinstance(value, datetime):
        raise error(f"{what} must be a datetime, not {type(value).__name__}")


def as_utc(value: datetime, *, what: str = "scheduled_at") -> datetime:
    """Return the same instant as a plain datetime in UTC, exact to the microsecond.

    JSON can't express an offset with seconds, and a subclass may not be a time at all, such as
    ``pandas.NaT``.

    :raises InvalidJobError: ``value`` is naive, too early, too late, or not a time.
    """
    try:
        offset = value.utcoffset()
    except Exception as error:  # a user-defined time zone runs here
        raise InvalidJobError(
            f"{what} can't be read: its time zone raised {type(error).__name__}: {error}"
        ) from error
    if offset is None:
        raise InvalidJobError(
            f"{what} must have a time zone, and {value.isoformat()} has none: write "
            "datetime.now(UTC) + timedelta(...), or value.astimezone() if it is local time"
        )
    try:
        naive = datetime(  # noqa: DTZ001  (its offset is subtracted)
            value.year,
            value.month,
            value.day,
            value.hour,
            value.minute,
            value.second,
            value.microsecond,
        )
        moment = (naive - offset).replace(tzinfo=UTC)
    except OverflowError:
        moment = None
    except (TypeError, ValueError) as error:
        raise InvalidJobError(f"{what} must be a time, not {value!r}") from error
    if moment is None or not EARLIEST <= moment <= LATEST:
        raise InvalidJobError(f"{what} must be in the years 2 to 9998, not {value}")
    return moment


def _is_utf8(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
