"""What the kinds of borrowed connections share."""

from __future__ import annotations

import re
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

DONT_NOTIFY = "select set_config('roost.notify', 'off', true)"
"""Run this first in a transaction that will be prepared (two-phase commit).

Postgres refuses to prepare a transaction that has sent a notification.
"""

_NUMBERED = re.compile(r"\$(\d+)")
_COMMENT = re.compile(r"--[^\n]*")


class Borrowed:
    """A blocking connection that belongs to the caller, and that can't enforce a deadline."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw

    def set_deadline(self, timeout: float) -> None:
        """Do nothing: the caller's own settings limit how long a statement takes."""

    def transaction(self) -> AbstractContextManager[None]:
        """Do nothing: every statement already runs in the caller's transaction."""
        return nullcontext()

    def close(self) -> None:
        """Do nothing: the connection belongs to the caller."""


class BorrowedAsync:
    """An async connection that belongs to the caller."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw

    def transaction(self) -> AbstractAsyncContextManager[None]:
        """Do nothing: every statement already runs in the caller's transaction."""
        return nullcontext()


def sqlstate_of(error: object) -> str | None:
    """Return the error code in a psycopg, psycopg2 or asyncpg error, ``None`` if it has none."""
    return getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)


def to_percent_placeholders(
    text: str, parameters: tuple[object, ...]
) -> tuple[str, tuple[object, ...]]:
    """Return the text with ``%s`` for each ``$n``, and the parameters in that order."""
    converted, order = _converted(text)
    return converted, tuple(parameters[number - 1] for number in order)


@lru_cache(maxsize=128)
def _converted(text: str) -> tuple[str, tuple[int, ...]]:
    # Comments are removed because they mention parameters too.
    bare = _COMMENT.sub("", text)
    order = tuple(int(match[1]) for match in _NUMBERED.finditer(bare))
    return _NUMBERED.sub("%s", bare.replace("%", "%%")), order
