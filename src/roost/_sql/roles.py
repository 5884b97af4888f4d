"""The rights of the documented roles, from ``roles.sql``, which the page on deployment shows."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from importlib.resources import files

import attrs

_GRANT = re.compile(
    r"grant (?P<rights>[a-z, ]+?)\s+on (?P<kind>function\s+|all tables in schema |schema )?"
    r"(?P<objects>[\w., \n]+?)\s+to roost_(?P<role>\w+);"
)
_OPTIONAL = "-- Only for "


@attrs.frozen(order=True)
class Right:
    """What a role may do with one object of the schema ``roost``.

    :param verb: ``select``, ``insert``, ``update``, ``delete``, ``execute`` or ``usage``.
    :param object: the name of a table or function; ``"*"``: all tables; ``"roost"``: the schema.
    """

    verb: str
    object: str


@attrs.frozen
class Role:
    """A documented role.

    :param required: what it needs for all that it is for.
    :param optional: what it needs for some tasks only.
    """

    name: str
    required: frozenset[Right]
    optional: frozenset[Right]


def roles_script() -> str:
    """Return the SQL that grants the roles their rights."""
    return files("roost._sql").joinpath("roles.sql").read_text(encoding="utf-8")


@cache
def documented_roles() -> tuple[Role, ...]:
    """Return the roles in the order of the script. Rights after "Only for" are optional."""
    required: dict[str, set[Right]] = {}
    optional: dict[str, set[Right]] = {}
    for block in roles_script().split("\n\n"):
        needed, _, extra = block.partition(_OPTIONAL)
        for text, found in ((needed, required), (extra, optional)):
            for grant in _GRANT.finditer(text):
                found.setdefault(grant["role"], set()).update(_rights(grant))
    return tuple(
        Role(name, frozenset(rights), frozenset(optional.get(name, set()) - rights))
        for name, rights in required.items()
    )


def _rights(grant: re.Match[str]) -> Iterable[Right]:
    every = "all tables" in (grant["kind"] or "")
    objects = ["*"] if every else [part.strip() for part in grant["objects"].split(",")]
    for verb in grant["rights"].split(","):
        for name in objects:
            yield Right(verb.strip(), name.removeprefix("roost."))
