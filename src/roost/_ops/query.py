"""The vocabulary of operations: what they yield and what they are sent.

An operation is a generator that yields a `Query`, is sent its rows, and returns a value. It knows
no driver and no colour: ``_drivers.base`` has the two runners, one that awaits and one that blocks.
The idea is psycopg's own (its ``generators.py`` yields, its ``waiting.py`` waits).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, TypeAlias, TypeVar

import attrs

from roost._sql import Statement

T = TypeVar("T")

Row: TypeAlias = tuple[Any, ...]
"""A row as a driver returns it. ``jsonb`` is always selected as ``::text``."""

Op: TypeAlias = Generator["Query", Sequence[Row], T]


@attrs.frozen
class Query:
    """A statement and its parameters, in the order of its placeholders."""

    statement: Statement
    params: tuple[object, ...] = ()
