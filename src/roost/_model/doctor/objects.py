"""Judge the schema: its version, its tables, indexes and functions, and the rights on them."""

from __future__ import annotations

from collections.abc import Iterable

from roost._model.doctor.facts import (
    ExpectedObjects,
    RightsFacts,
    RoleRights,
    SchemaFacts,
    SchemaObjects,
)
from roost._model.doctor.finding import Finding, FindingLevel

RIGHTS_PAGE = "the documentation's page Deploy and upgrade has the grants (Roles)"


def judge_schema(schema: SchemaFacts) -> Iterable[Finding]:
    """Compare the schema's version with the code's."""
    data = {"version": schema.version, "newest": schema.newest}
    if schema.error is not None:
        seen, _, advice = schema.error.partition("; ")
        yield Finding(
            check="schema",
            level=FindingLevel.TROUBLE,
            seen=seen,
            advice=advice or "run `roost migrate status`",
            data=data,
        )
    elif schema.version is not None and schema.version > schema.newest:
        yield Finding(
            check="schema",
            level=FindingLevel.NOTE,
            seen=f"the schema has version {schema.version}, this code brings {schema.newest}; "
            "they work together",
            advice="upgrade Roost here when the deploy is through",
            data=data,
        )
    else:
        yield Finding(
            check="schema",
            level=FindingLevel.OK,
            seen=f"the schema has version {schema.version}, the newest",
            data=data,
        )


def judge_tables(objects: SchemaObjects, expected: ExpectedObjects) -> Iterable[Finding]:
    """Say which tables are missing."""
    tables = {relation.name for relation in objects.relations if relation.kind == "r"}
    missing = sorted(expected.tables - tables)
    if missing:
        yield Finding(
            check="tables",
            level=FindingLevel.TROUBLE,
            seen=f"missing: {', '.join(missing)}",
            advice="restore them from a backup; `roost migrate sql` prints how they are made",
            data={"missing": missing},
        )
    else:
        seen = f"all {len(expected.tables)} tables are there"
        yield Finding(check="tables", level=FindingLevel.OK, seen=seen)


def judge_indexes(objects: SchemaObjects, expected: ExpectedObjects) -> Iterable[Finding]:
    """Say which indexes are missing or invalid, and how to make them."""
    there = {relation.name: relation for relation in objects.relations if relation.kind == "i"}
    bad = 0
    for name, statement in sorted(expected.indexes.items()):
        if name not in there:
            bad += 1
            concurrently = statement.replace("index ", "index concurrently ", 1)
            make = concurrently or f"add the primary key {name} again (`roost migrate sql`)"
            yield Finding(
                check="indexes",
                level=FindingLevel.TROUBLE,
                subject=name,
                seen=f"the index roost.{name} is missing: statements that need it read the table",
                advice=f"as the schema's owner: {make}" if statement else make,
                data={"missing": True},
            )
        elif not there[name].valid:
            bad += 1
            yield Finding(
                check="indexes",
                level=FindingLevel.TROUBLE,
                subject=name,
                seen=f"the index roost.{name} is invalid, and not used",
                advice=f"as the schema's owner: reindex index concurrently roost.{name};",
                data={"missing": False},
            )
    if not bad:
        seen = f"all {len(expected.indexes)} indexes are there and valid"
        yield Finding(check="indexes", level=FindingLevel.OK, seen=seen)


def judge_functions(objects: SchemaObjects, expected: ExpectedObjects) -> Iterable[Finding]:
    """Say which functions are missing, or not as this code makes them."""
    wrong = sorted(
        name for name, body in expected.functions.items() if objects.functions.get(name) != body
    )
    if not wrong:
        seen = f"all {len(expected.functions)} functions are there and unchanged"
        yield Finding(check="functions", level=FindingLevel.OK, seen=seen)
        return
    missing = [name for name in wrong if name not in objects.functions]
    changed = [name for name in wrong if name in objects.functions]
    parts = [("missing", missing), ("not as this version of Roost makes them", changed)]
    yield Finding(
        check="functions",
        level=FindingLevel.TROUBLE,
        seen="; ".join(f"{what}: {', '.join(names)}" for what, names in parts if names),
        advice="as the schema's owner, create them again: `roost migrate sql` prints them",
        data={"missing": missing, "changed": changed},
    )


def judge_rights(rights: RightsFacts) -> Iterable[Finding]:
    """Say which documented roles this role has, and what it lacks of one that it has in part.

    A right that no complete role explains belongs to a role that was granted in part.
    """
    if rights.owns_schema:
        seen = "the role owns the schema, so it may do everything"
        yield Finding(check="rights", level=FindingLevel.OK, seen=seen, data={"roles": ["owner"]})
        return
    complete = [role for role in rights.roles if role.required <= rights.held]
    explained = frozenset[tuple[str, str]]().union(
        *(role.required | role.optional for role in complete)
    )
    left = rights.held - explained
    candidates = [role for role in rights.roles if role not in complete and role.required & left]
    partial = _nearest(candidates, left)
    names = [role.name for role in complete]
    if partial is None and complete:
        seen = f"the role has the rights of: {', '.join(names)}"
        yield Finding(check="rights", level=FindingLevel.OK, seen=seen, data={"roles": names})
        return
    if partial is None:
        yield Finding(
            check="rights",
            level=FindingLevel.TROUBLE,
            seen="the role has no right on the schema roost",
            advice=f"grant it a role: {RIGHTS_PAGE}",
            data={"roles": []},
        )
        return
    missing = [f"{verb} on {name}" for verb, name in sorted(partial.required - rights.held)]
    yield Finding(
        check="rights",
        level=FindingLevel.TROUBLE,
        seen=f"the role has a part of the rights of a {partial.name} and lacks: "
        + ", ".join(missing),
        advice=f"grant them again, as after each migration: {RIGHTS_PAGE}",
        data={"roles": names, "partial": partial.name, "missing": missing},
    )


def _nearest(roles: list[RoleRights], left: frozenset[tuple[str, str]]) -> RoleRights | None:
    """Return the role that explains most of what is left; of equals the one that lacks least."""
    return max(
        roles,
        key=lambda role: (len(left & (role.required | role.optional)), -len(role.required - left)),
        default=None,
    )
