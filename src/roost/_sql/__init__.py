"""All that the database is told: named statements, migrations and functions, from ``*.sql`` files.

A file holds statements, each under a ``-- name: <name>`` line. Placeholders are Postgres's own
``$1::type``, so that one text serves every driver unchanged.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

import attrs

_HEADING = re.compile(r"^-- name: (?P<name>[a-z_]+)\n", re.MULTILINE)
STAGES = (
    *("enqueue", "claim", "dispatch", "limits", "settle", "dependencies"),
    *("control", "cron", "workers", "rescue", "archive", "read", "unknown_tasks", "schema"),
)


@attrs.frozen
class Statement:
    """One named SQL text with ``$n::type`` placeholders.

    ``script`` marks a text of several commands without parameters, such as a migration.
    """

    name: str
    text: str
    script: bool = False


@cache
def statements(stage: str) -> dict[str, Statement]:
    """Return the statements of ``<stage>.sql`` by name."""
    text = files(__name__).joinpath(f"{stage}.sql").read_text(encoding="utf-8")
    parts = _HEADING.split(text)
    return {
        name: Statement(f"{stage}.{name}", body.strip())
        for name, body in zip(parts[1::2], parts[2::2], strict=True)
    }


@attrs.frozen
class Migration:
    """One step of the schema.

    :param oldest_code: the lowest schema version whose code may run beside it.
    """

    version: int
    name: str
    up: Statement
    down: Statement
    oldest_code: int


_OLDEST_CODE = re.compile(r"^-- oldest code: (?P<version>\d+)$", re.MULTILINE)


@cache
def migrations() -> tuple[Migration, ...]:
    """Return all migrations, oldest first: ``migrations/NNNN_<name>.up.sql`` and ``.down.sql``.

    A line ``-- oldest code: N`` in the up file says that code of schema version N may go on running
    while and after it is applied; without it only the code that brings it may.
    """
    folder = files(__name__).joinpath("migrations")
    found = []
    for up in folder.iterdir():
        if not up.name.endswith(".up.sql"):
            continue
        stem = up.name.removesuffix(".up.sql")
        number, _, name = stem.partition("_")
        text = up.read_text(encoding="utf-8")
        oldest = _OLDEST_CODE.search(text)
        found.append(
            Migration(
                version=int(number),
                name=name,
                up=Statement(f"migrations.{stem}.up", text, script=True),
                down=Statement(
                    f"migrations.{stem}.down",
                    folder.joinpath(f"{stem}.down.sql").read_text(encoding="utf-8"),
                    script=True,
                ),
                oldest_code=int(oldest["version"]) if oldest else int(number),
            )
        )
    return tuple(sorted(found, key=lambda migration: migration.version))


@cache
def functions() -> tuple[Statement, ...]:
    """Return the scripts of ``functions/<name>.sql``, which create or replace one function each.

    A migration that changes a function's parameters or its result drops it first.
    """
    folder = files(__name__).joinpath("functions")
    found = sorted(folder.iterdir(), key=lambda file: file.name)
    return tuple(
        Statement(
            f"functions.{file.name.removesuffix('.sql')}",
            file.read_text(encoding="utf-8"),
            script=True,
        )
        for file in found
        if file.name.endswith(".sql")
    )
