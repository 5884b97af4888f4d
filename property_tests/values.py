"""Values that users pass and return: JSON-like ones, and ones as hostile as Python allows."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any

import attrs
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

SURROGATES = "\ud800\udfff"


def texts() -> st.SearchStrategy[str]:
    """Return texts that Postgres can store."""
    return st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


def jsons() -> st.SearchStrategy[Any]:
    """Return values that JSON can express and that Postgres stores."""
    leaves = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(-(10**300), 10**300),
        st.floats(allow_nan=False, allow_infinity=False),
        texts(),
        st.sampled_from(["NaN", "-Infinity", "\\u0000", '"', "\\", "\x7f", "\U0001f413"]),
    )
    return st.recursive(
        leaves, lambda inner: st.lists(inner) | st.dictionaries(texts(), inner), max_leaves=12
    )


class Hostile(Exception):  # noqa: N818  (a name for the list below)
    """Raises when it is printed."""

    def __str__(self) -> str:
        raise ZeroDivisionError("no words")

    __repr__ = __str__


class Traps(Mapping[str, object]):
    """A mapping whose reading raises an error that can't be printed."""

    def __getitem__(self, key: str) -> object:
        raise Hostile

    def __iter__(self) -> Iterator[str]:
        raise Hostile

    def __len__(self) -> int:
        return 1


class Mute:
    """Has no JSON form and no text."""

    __repr__ = Hostile.__str__


class Unprintable(BaseModel):
    """A pydantic model whose field may hold anything."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    held: Any


@attrs.define
class Plain:
    """A class that is no pydantic model."""

    held: object


def nested(depth: int) -> object:
    """Return lists in lists, ``depth`` of them."""
    value: object = []
    for _ in range(depth):
        value = [value]
    return value


def circular() -> object:
    """Return a list that holds itself."""
    value: list[object] = []
    value.append(value)
    return value


@attrs.frozen(repr=False)
class Box:
    """Wraps a value that may raise when printed, so that a failure can be reported."""

    value: Any

    def __repr__(self) -> str:
        try:
            return f"Box({self.value!r})"
        except Exception as error:  # noqa: BLE001  (hostile on purpose)
            return f"Box(a {type(self.value).__name__} whose repr raises {type(error).__name__})"


def hostiles() -> st.SearchStrategy[Box]:
    """Return values that may have no JSON form, alone or deep inside others."""
    leaves = st.one_of(
        st.text(),
        st.sampled_from([SURROGATES, "\0", "a\0b", "\\u0000"]),
        st.floats(),
        st.decimals(),
        st.sampled_from([3_999, 4_000, 4_299, 4_300, 5_000]).map(lambda digits: 10**digits),
        st.binary(max_size=5),
        st.uuids(),
        st.datetimes() | st.dates() | st.times() | st.timedeltas(),
        st.complex_numbers(),
        st.sampled_from([Mute, Traps, object, Hostile]).map(lambda kind: kind()),
        st.sampled_from([Mute, print, ..., type]),
        st.sampled_from([199, 200, 201, 300, 5_000]).map(nested),
        st.builds(circular),
        st.sampled_from([PurePosixPath("a"), range(3), timedelta.max, date.min, uuid.UUID(int=0)]),
        st.sampled_from([datetime.max.replace(tzinfo=UTC), Decimal("sNaN"), Decimal("1e400")]),
    )

    def around(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        keys = st.text(max_size=2) | st.integers() | st.none() | st.floats() | st.binary()
        return st.one_of(
            st.lists(inner, max_size=3),
            st.tuples(inner, inner),
            st.dictionaries(keys, inner, max_size=3),
            st.builds(lambda held: Unprintable.model_construct(held=held), inner),
            st.builds(Plain, inner),
            st.builds(iter, st.lists(inner, max_size=2)),
        )

    sets = st.sets(st.integers() | st.text()) | st.frozensets(st.floats())
    return st.recursive(leaves | sets, around, max_leaves=6).map(Box)
