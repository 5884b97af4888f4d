"""What the migrations and functions create, read from their texts.

For a comparison with what a database has: no list of it is kept by hand. A test compares it with a
new database.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cache

import attrs

from roost._sql import functions, migrations

_COMMENT = re.compile(r"--[^\n]*")
_TABLE = re.compile(r"create table roost\.(?P<name>\w+) \((?P<body>.*?)\n\)", re.DOTALL)
_INDEX = re.compile(r"create (?:unique )?index (?P<name>\w+)\s+on roost\.\w+.*?;", re.DOTALL)
_DROPPED = re.compile(r"drop (?:index|table) (?:if exists )?roost\.(?P<name>\w+)")
_BODY = re.compile(r"as \$(?P<tag>\w*)\$(?P<body>.*?)\$(?P=tag)\$", re.DOTALL)
_LEDGER = "migrations"
"""The table of the migrations themselves."""


@attrs.frozen
class ExpectedSchema:
    """What a database has whose schema is as new as this code.

    :param indexes: by name, the statement that creates each; ``""``: its table creates it.
    :param functions: by name, the md5 of its body.
    """

    tables: frozenset[str]
    indexes: Mapping[str, str]
    functions: Mapping[str, str]


@cache
def expected_schema() -> ExpectedSchema:
    """Return what all migrations together create."""
    tables = {_LEDGER}
    indexes = {f"{_LEDGER}_pkey": ""}
    for migration in migrations():
        text = _COMMENT.sub("", migration.up.text)
        for dropped in _DROPPED.finditer(text):
            tables.discard(dropped["name"])
            indexes.pop(dropped["name"], None)
            indexes.pop(f"{dropped['name']}_pkey", None)
        for table in _TABLE.finditer(text):
            tables.add(table["name"])
            if "primary key" in table["body"]:
                indexes[f"{table['name']}_pkey"] = ""
        for index in _INDEX.finditer(text):
            indexes[index["name"]] = " ".join(index[0].split())
    bodies = {
        function.name.removeprefix("functions."): _BODY.search(function.text)
        for function in functions()
    }
    return ExpectedSchema(
        tables=frozenset(tables),
        indexes=indexes,
        functions={
            name: hashlib.md5(body["body"].encode(), usedforsecurity=False).hexdigest()
            for name, body in bodies.items()
            if body is not None
        },
    )
