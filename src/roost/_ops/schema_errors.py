"""Explain errors of Postgres about a missing schema, a foreign one, or missing rights."""

from __future__ import annotations

import re

from roost._sql import Statement
from roost.exceptions import DatabaseError, SchemaError

_NO_RIGHT = "42501"
_NOT_THERE = frozenset(
    {
        "3F000",  # invalid_schema_name
        "42P01",  # undefined_table
        "42703",  # undefined_column
        "42704",  # undefined_object
        "42804",  # datatype_mismatch
        "42809",  # wrong_object_type
        "42846",  # cannot_coerce
        "42883",  # undefined_function
        "42P10",  # invalid_column_reference: an index that "on conflict" needs
    }
)
_IN_THE_WAY = frozenset(
    {
        "42701",  # duplicate_column
        "42710",  # duplicate_object
        "42723",  # duplicate_function
        "42P06",  # duplicate_schema
        "42P07",  # duplicate_table
    }
)
_DENIED = re.compile(r"permission denied for (?P<kind>\w+) (?P<name>\w+)")
_VERBS = {
    "INSERT": r"\binsert into roost\.{name}\b",
    "UPDATE": r"\bupdate roost\.{name}\b|\bfor (?:no key )?update\b|\bdo update\b",
    "DELETE": r"\bdelete from roost\.{name}\b",
    "SELECT": r"\b(?:from|join|using) roost\.{name}\b(?<!delete from roost\.{name})|\breturning\b",
}
_RIGHTS = {"schema": "USAGE", "function": "EXECUTE", "sequence": "USAGE", "type": "USAGE"}


def schema_error(
    error: DatabaseError, statement: Statement, *, role: str | None
) -> SchemaError | None:
    """Return an error that says how to mend the schema; ``None``: the cause is another one.

    :param statement: Roost's statement that Postgres refused.
    :param role: the role that the connection logged in as, if it is known.
    """
    state = error.sqlstate
    if state == _NO_RIGHT:
        return SchemaError(_no_right(str(error), statement, role), sqlstate=state)
    making = statement.script or statement.name.startswith("schema.")
    if state in _NOT_THERE and not making:
        return SchemaError(
            "the database has no Roost schema, or the schema roost in it is not of this version "
            f"of Roost; run `roost init` or setup_schema(). Postgres says: {error}",
            sqlstate=state,
        )
    if state in _IN_THE_WAY or (state in _NOT_THERE and making):
        return SchemaError(
            "the database has a schema roost that is not Roost's, or only a part of it: move it "
            f"away (alter schema roost rename to ...). Nothing was changed. Postgres says: {error}",
            sqlstate=state,
        )
    return None


def _no_right(message: str, statement: Statement, role: str | None) -> str:
    who = f"the role {role!r}" if role else "the role that connects"
    denied = _DENIED.search(message)
    if denied is None:
        return f"{who} lacks a right in the database. Postgres says: {message}"
    kind, name = denied["kind"], denied["name"]
    if kind in ("table", "view"):
        found = [
            verb
            for verb, pattern in _VERBS.items()
            if re.search(pattern.replace("{name}", name), statement.text)
        ]
        right = " and ".join(found or ["a right"])
        return _grant(who, right, f"roost.{name}", message)
    right = "CREATE" if kind == "database" else _RIGHTS.get(kind, "a right")
    named = name if kind in ("schema", "database") else f"roost.{name}"
    return _grant(who, right, f"{kind} {named}", message)


def _grant(who: str, right: str, what: str, message: str) -> str:
    return (
        f"{who} lacks {right} on {what}; grant it, or use another role (the rights of each are in "
        f"Roost's documentation, under Deploy and upgrade: Roles). Postgres says: {message}"
    )
