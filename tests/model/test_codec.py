"""JSON: accepted values are read back equal, and a refusal says where and why."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta, timezone
from typing import Any

import pytest
from pydantic import BaseModel, SecretBytes, SecretStr

from roost._model.codec import MAX_DEPTH, MAX_DIGITS, EncodingError, decode, encode, encode_result

SAME: list[Any] = [
    None,
    True,
    0,
    -1,
    2**63,
    10**300,
    1.5,
    1e308,
    "",
    'text with " and \\ and \n and \x7f and \N{HATCHING CHICK}',
    "NaN",
    "-Infinity",
    "\\u0000",
    [],
    {},
    {"": [{"a": None}]},
    [[[]]],
    {"NaN": "Infinity"},
]


@pytest.mark.parametrize("value", SAME, ids=lambda value: repr(value)[:30])
def test_accepted_values_are_read_back_equal(value: Any) -> None:
    assert decode(encode(value)) == value
    assert json.loads(encode(value)) == value


def nested(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


def cyclic() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


class Hostile(dict[str, int]):
    def items(self) -> Any:
        raise LookupError("not today")


ODD = timezone(timedelta(hours=1, seconds=30))


class Login(BaseModel):
    key: SecretStr


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "NaN": (lambda: math.nan, "NaN"),
    "infinity": (lambda: {"a": [math.inf]}, "Infinity"),
    "negative infinity": (lambda: -math.inf, "-Infinity"),
    "NUL": (lambda: ["a\0b"], "NUL"),
    "NUL in a key": (lambda: {"\0": 1}, "NUL"),
    "surrogate": (lambda: "\ud800", "surrogate"),
    "int key": (lambda: {"a": [{"b": {3: 4}}]}, r"key 3 at a\[0\]\.b is not a string"),
    "None key": (lambda: {None: 4}, "key None is not a string"),
    "object": (object, "object"),
    "bytes": (lambda: {"a": [b"text"]}, r"bytes at a\[0\] have no JSON form"),
    "bytearray": (lambda: bytearray(b"text"), "bytes have no JSON form"),
    "secret": (lambda: {"a": SecretStr("hush")}, "a secret at a is masked"),
    "secret bytes": (lambda: SecretBytes(b"hush"), "a secret is masked"),
    "secret in a model": (
        lambda: {"a": Login(key=SecretStr("hush"))},
        r"a secret at a\.key",
    ),
    "offset with seconds": (lambda: [datetime(2026, 1, 1, tzinfo=ODD)], "has seconds"),
    "offset of a time": (lambda: time(1, tzinfo=ODD), "has seconds"),
    "depth": (lambda: nested(MAX_DEPTH + 5), "nested deeper"),
    "cycle": (cyclic, "nested deeper"),
    "digits": (lambda: [10**MAX_DIGITS], "digits"),
    "negative digits": (lambda: -(10**MAX_DIGITS), "digits"),
    "hostile": (lambda: {"a": Hostile(a=1)}, "not today"),
}


@pytest.mark.parametrize(("make", "why"), REFUSED.values(), ids=REFUSED)
def test_a_refusal_says_why(make: Callable[[], Any], why: str) -> None:
    with pytest.raises(EncodingError, match=why):
        encode(make())


def test_values_just_within_the_limits_are_accepted() -> None:
    number = 10 ** (MAX_DIGITS - 1)
    assert decode(encode([number])) == [number]
    assert decode(encode(nested(MAX_DEPTH))) == nested(MAX_DEPTH)
    digits = "9" * (MAX_DIGITS * 2)
    assert decode(encode({digits: digits})) == {digits: digits}


def test_a_result_is_encoded_as_pydantic_does() -> None:
    assert decode(encode_result({"a": b"text", "b": SecretStr("hush")})) == {
        "a": "text",
        "b": "**********",
    }
    with pytest.raises(EncodingError, match="utf"):
        encode_result(b"\xff")
    with pytest.raises(EncodingError, match="has seconds"):
        encode_result([datetime(2026, 1, 1, tzinfo=ODD)])
    assert decode(encode_result([datetime(2026, 1, 1, tzinfo=UTC)])) == ["2026-01-01T00:00:00Z"]
