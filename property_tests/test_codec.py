"""Encoded values are accepted by a real ``jsonb`` and come back equal; others are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from property_tests.values import Box, Mute, Traps, Unprintable, hostiles, jsons, nested

from roost._model.codec import EncodingError, decode, encode


@pytest.fixture(scope="module")
def postgres(server_dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        yield connection


@given(value=jsons())
@example(value=-0.0)
@example(value=5e-324)
@example(value=1.7976931348623157e308)
@example(value=nested(150))
def test_json_comes_back_from_postgres_equal(postgres: psycopg.Connection, value: object) -> None:
    back = decode(through_jsonb(postgres, encode(value)))
    assert back == as_jsonb_has_it(value)


@given(box=hostiles())
@example(box=Box([iter([nested(199)])]))
@example(box=Box(float("nan")))
@example(box=Box([-float("inf")]))
@example(box=Box(Traps()))
@example(box=Box(Unprintable.model_construct(held=[Traps()])))
@example(box=Box({Mute: 1}))
def test_postgres_accepts_every_value_that_is_not_refused(
    postgres: psycopg.Connection, box: Box
) -> None:
    try:
        text = encode(box.value)
    except EncodingError:
        return
    decode(through_jsonb(postgres, text))


@given(
    key=st.integers() | st.none() | st.floats() | st.binary() | st.booleans() | st.uuids(),
    around=st.sampled_from([lambda it: it, lambda it: [it], lambda it: {"deep": (1, it)}]),
)
def test_a_key_that_is_not_a_string_is_refused(
    key: object, around: Callable[[object], object]
) -> None:
    with pytest.raises(EncodingError, match="not a string"):
        encode(around({key: 1}))


def through_jsonb(connection: psycopg.Connection, text: str) -> str:
    """Return the text that Postgres gives back for a JSON text."""
    row = connection.execute("select %s::text::jsonb::text", (text,)).fetchone()
    assert row is not None
    back: str = row[0]
    return back


def as_jsonb_has_it(value: Any) -> Any:
    """Return ``value`` as jsonb gives it back: whole floats become ints, so 1e23 is 10**23."""
    match value:
        case float():
            exact = Decimal(repr(value))
            return int(exact) if exact == exact.to_integral_value() else value
        case list():
            return [as_jsonb_has_it(item) for item in value]
        case dict():
            return {key: as_jsonb_has_it(item) for key, item in value.items()}
    return value
