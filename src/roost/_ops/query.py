"""The types of operations.

An operation is a generator that yields a `Query`, is sent its rows, and returns a value. It does
no I/O, so that sync and async drivers share it: ``_drivers.base`` has the two runners, one that
awaits and one that blocks. psycopg is built the same way (``generators.py`` yields, ``waiting.py``
waits).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, TypeAlias, TypeVar

import attrs

from roost._sql import Statement

T = TypeVar("T")

Row: TypeAlias = tuple[Any, ...]
"""A row as a driver returns it. Statements select ``jsonb`` as ``::text``."""

Op: TypeAlias = Generator["Query", Sequence[Row], T]


@attrs.frozen
class Query:
    """A statement and its parameters, in the order of its placeholders."""

    statement: Statement
    params: tuple[object, ...] = ()
