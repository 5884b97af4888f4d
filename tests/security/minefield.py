"""Functions and operators that a role plants in ``public`` to have others run them.

A call without a schema takes the candidate whose parameters fit exactly, wherever it stands in the
search path. Where Postgres's own needs a conversion, or is polymorphic or variadic, a planted one
wins.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from itertools import product

import psycopg

TYPES = (
    *("smallint", "integer", "bigint", "numeric", "double precision", "boolean", "interval"),
    *("text", "varchar", "name", "jsonb", "json", "timestamp", "timestamptz", "xid", "xid8"),
    *("text[]", "integer[]", "bigint[]", "timestamptz[]", "double precision[]", "oid", "record"),
)
OPERATORS = ("=", "<>", "<", "<=", ">", ">=", "+", "-", "*", "/", "||", "->", "->>", "&&", "@>")
BOMB = "planted code was run"


def names_of_functions() -> set[str]:
    """Return all names that stand before a parenthesis in Roost's SQL."""
    texts = [
        file.read_text(encoding="utf-8")
        for folder in ("", "functions", "migrations")
        for file in files("roost._sql").joinpath(folder).iterdir()
        if file.name.endswith(".sql")
    ]
    return set(re.findall(r"(?<![.\w])([a-z_]+) ?\(", "\n".join(texts)))


def plant(connection: psycopg.Connection) -> None:
    """Plant a candidate for every operator and function that fits other types than Postgres's."""
    script = [*_operators(connection), *_functions(connection)]
    for number in range(0, len(script), 500):
        connection.execute(";\n".join(script[number : number + 500]).encode())


def _operators(connection: psycopg.Connection) -> Iterator[str]:
    known = set(
        connection.execute(
            "select oprname::text, format_type(oprleft, null), format_type(oprright, null) "
            "from pg_operator"
        )
    )
    aliases = {"timestamptz": "timestamp with time zone", "varchar": "character varying"}
    aliases |= {"timestamp": "timestamp without time zone"}
    aliases |= {f"{name}[]": f"{full}[]" for name, full in aliases.items()}
    concrete = [name for name in TYPES if name != "record"]
    for left, right in product(concrete, concrete):
        yield (
            f"create function public.mine({left}, {right}) returns boolean language plpgsql "
            f"as $$ begin raise exception '{BOMB}'; end $$"
        )
        for operator in OPERATORS:
            if (operator, aliases.get(left, left), aliases.get(right, right)) not in known:
                yield (
                    f"create operator public.{operator} "
                    f"(leftarg = {left}, rightarg = {right}, function = public.mine)"
                )


def _functions(connection: psycopg.Connection) -> Iterator[str]:
    rows = connection.execute(
        """
        select proname::text, array(
            select format_type(argument, null) from unnest(proargtypes) as argument
        )
        from pg_proc
        where pronamespace = 'pg_catalog'::regnamespace
            and pronargs between 1 and 4
            and proname::text = any (%s)
        """,
        (sorted(names_of_functions()),),
    ).fetchall()
    known = {(name, tuple(types)) for name, types in rows}
    planted = set()
    concrete = [name for name in TYPES if name != "record"]
    for name, types in sorted(known):
        polymorphic = [
            place for place, type_ in enumerate(types) if type_.strip('"').startswith("any")
        ]
        places = [polymorphic] if polymorphic else [[place] for place in range(len(types))]
        for chosen, type_ in product(places, concrete):
            signature = tuple(
                type_ if place in chosen else given for place, given in enumerate(types)
            )
            if any(
                given.strip('"') in {"internal", "cstring", "any", "anyelement"}
                for given in signature
            ):
                continue
            planted.add((name, signature))
    for name, signature in sorted(planted - known):
        yield (
            f"create or replace function public.{name}({', '.join(signature)}) returns text "
            f"language plpgsql as $$ begin raise exception '{BOMB}'; end $$"
        )
