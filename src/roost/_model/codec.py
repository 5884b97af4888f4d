"""Encode values as JSON text that ``jsonb`` accepts, and decode it.

pydantic serializes UUID, datetime, Decimal, dataclasses and models. It also writes values that
``jsonb`` refuses or that would be read back changed. This module refuses them before the database
is used: NaN and infinities, NUL and lone surrogates, keys that are not strings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, time, timedelta
from typing import Any, NoReturn, TypeAlias

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, from_json, to_json

MAX_DEPTH = 200
"""Levels of nesting that are accepted; Postgres's parser accepts about 6,000."""
MAX_DIGITS = 4_000
"""Digits of a whole number that are accepted; Python reads 4,300 and Postgres 131,072."""
_MANY_DIGITS = re.compile(rf"\d{{{MAX_DIGITS + 1}}}")


class EncodingError(ValueError):
    """A value has no JSON form that ``jsonb`` accepts; the message says where and why."""


def encode(value: object) -> str:
    """Return args or metadata as JSON text.

    :raises EncodingError: the value can't be stored, or would be read back as another.
    """
    return _encode(value, _check_sent)


def encode_result(value: object) -> str:
    """Return a handler's result as JSON text; bytes and secrets are written as pydantic does.

    :raises EncodingError: the value can't be stored.
    """
    return _encode(value, _check_offset)


_Check: TypeAlias = Callable[[object, str], None]


def _encode(value: object, check: _Check) -> str:
    try:
        if not _is_plain(value, 0):
            _check_keys(value, "", 0, check)
        text = to_json(value, by_alias=False).decode("utf-8")
    except EncodingError:
        raise
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        raise EncodingError(str(error)) from error
    except Exception as error:
        # User-defined mappings, properties and serializers run here.
        kind = type(error).__name__
        raise EncodingError(f"reading it raised {kind}: {_message(error)}") from error
    # Only a text that has one of these rare markers is parsed and checked.
    if (
        "NaN" in text
        or "Infinity" in text
        or "\\u0000" in text
        or (len(text) > MAX_DIGITS and _MANY_DIGITS.search(text))
    ):
        _check_text(text)
    return text


def _message(error: Exception) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001  (a user's __str__ may raise anything)
        return "<its __str__ failed>"


def decode(text: str) -> Any:
    """Return the value of a JSON text."""
    try:
        return from_json(text)
    except TypeError:
        raise ValueError("the stored text is not UTF-8") from None
    except ValueError:
        # pydantic's parser accepts 200 levels. An iterator or a user's serializer, which
        # `_check_keys` can't inspect, is written up to 255 levels deep.
        return json.loads(text)


def _is_plain(value: object, depth: int) -> bool:
    """Return whether it consists of dicts with text keys, lists and scalars, and is not too deep.

    Most values do, and this takes a third of the time of `_check_keys`.
    """
    if depth > MAX_DEPTH:
        return False
    items: Iterable[object]
    if type(value) is dict:
        for key in value:
            if type(key) is not str:
                return False
        items = value.values()
    elif type(value) is list:
        items = value
    else:
        return False
    for item in items:
        # The exact type first: that test is cheaper.
        if type(item) in _PLAIN or isinstance(item, _LEAVES):
            continue
        if not _is_plain(item, depth + 1):
            return False
    return True


def _check_keys(value: object, path: str, depth: int, check: _Check) -> None:
    if depth > MAX_DEPTH:
        raise EncodingError(f"nested deeper than {MAX_DEPTH} levels")
    # The exact type first: the test for the abstract class costs more than all the rest.
    if type(value) is dict or isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise EncodingError(f"key {key!r}{_at(path)} is not a string")
            if not isinstance(item, _LEAVES):
                _check_keys(item, f"{path}.{key}" if path else key, depth + 1, check)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            if not isinstance(item, _LEAVES):
                _check_keys(item, f"{path}[{index}]", depth + 1, check)
    elif isinstance(value, BaseModel):
        # A model's serializers may write bytes.
        inside = _check_in_model if check is _check_sent else check
        for name, item in value:
            if not isinstance(item, _LEAVES):
                _check_keys(item, f"{path}.{name}" if path else name, depth + 1, inside)
    else:
        check(value, path)


def _check_sent(value: object, path: str) -> None:
    """Refuse values that pydantic would silently write as another."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        raise EncodingError(
            f"bytes{_at(path)} have no JSON form: pass text (value.decode(), base64), or a model "
            "with a field for them"
        )
    _check_in_model(value, path)


def _check_in_model(value: object, path: str) -> None:
    if hasattr(type(value), "get_secret_value"):
        raise EncodingError(
            f"a secret{_at(path)} is masked in JSON: store it elsewhere and pass its key"
        )
    _check_offset(value, path)


def _check_offset(value: object, path: str) -> None:
    if not isinstance(value, (datetime, time)):
        return
    offset = value.utcoffset()
    if offset is not None and offset % _MINUTE:
        raise EncodingError(
            f"the UTC offset {offset}{_at(path)} has seconds, which JSON can't express; "
            "pass value.astimezone(UTC)"
        )


_MINUTE = timedelta(minutes=1)
_LEAVES = (str, int, float, bool, type(None))
_PLAIN = frozenset(_LEAVES)


def _check_text(text: str) -> None:
    def refuse(constant: str) -> NoReturn:
        raise EncodingError(f"{constant} has no JSON form")

    def parse_int(digits: str) -> int:
        if len(digits) > MAX_DIGITS:
            raise EncodingError(f"a number has more than {MAX_DIGITS} digits")
        return int(digits)

    _check_strings(json.loads(text, parse_constant=refuse, parse_int=parse_int))


def _check_strings(value: object) -> None:
    if isinstance(value, str):
        if "\0" in value:
            raise EncodingError("Postgres can't store the character NUL in jsonb")
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_strings(key)
            _check_strings(item)
    elif isinstance(value, list):
        for item in value:
            _check_strings(item)


def _at(path: str) -> str:
    return f" at {path}" if path else ""
