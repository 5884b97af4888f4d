"""Read all SQL of Roost from ``*.sql`` files: statements, fragments, functions and migrations.

``<stage>.sql`` holds statements, each under a ``-- name: <name>`` line. Placeholders are Postgres's
own ``$1::type``, so that every driver is sent the same text.

``fragments.sql`` holds what several of them share, such as lists of columns, each under a
``-- fragment: <name>`` line. ``{{name}}`` in a statement or a function stands for the fragment. A
fragment names rows by fixed aliases, for example ``job`` for a row of ``roost.jobs``. Migrations
use no fragments: what a migration does must never change.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

import attrs

_HEADING = re.compile(r"^-- (?:name|fragment): (?P<name>[a-z_]+)\n", re.MULTILINE)
_INCLUSION = re.compile(
    r"^(?P<indent> *)(?P<before>[^{\n]*)\{\{(?P<name>[a-z_]+)\}\}", re.MULTILINE
)
_LEADING_COMMENT = re.compile(r"\A(--[^\n]*\n)+")
STAGES = (
    *(
        "enqueue",
        "claim",
        "dispatch",
        "limits",
        "limits_by_key",
        "settle",
        "metadata",
        "dependencies",
    ),
    *("control", "steer", "cron", "workers", "rescue", "archive", "read", "tasks", "unknown_tasks"),
    *("rollups", "list_jobs", "explain", "events", "schema", "doctor", "metrics", "bench"),
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
    return {
        name: Statement(f"{stage}.{name}", _expanded(body, fragments()))
        for name, body in _sections(f"{stage}.sql")
    }


@cache
def fragments() -> dict[str, str]:
    """Return the fragments by name, without their comments; one may include those above it."""
    found: dict[str, str] = {}
    for name, body in _sections("fragments.sql"):
        found[name] = _expanded(_LEADING_COMMENT.sub("", body), found)
    return found


def _sections(file: str) -> list[tuple[str, str]]:
    parts = _HEADING.split(files(__name__).joinpath(file).read_text(encoding="utf-8"))
    return [(name, body.strip()) for name, body in zip(parts[1::2], parts[2::2], strict=True)]


def _expanded(text: str, known: Mapping[str, str]) -> str:
    """Replace each ``{{name}}`` by its fragment, indented as the line in which it stands.

    :raises KeyError: there is no such fragment.
    """

    def include(found: re.Match[str]) -> str:
        fragment = known[found["name"]].replace("\n", "\n" + found["indent"])
        return found["indent"] + found["before"] + fragment

    return _INCLUSION.sub(include, text)


@attrs.frozen
class Migration:
    """One step of the schema.

    :param oldest_code: the lowest schema version whose code may run with this migration applied.
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

    A line ``-- oldest code: N`` in the up file means that code of schema version N may keep running
    during and after the migration; without it only the code that brings the migration may run.
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
    """Return the scripts of ``functions/<name>.sql``. Each creates or replaces one function.

    A migration that changes the parameters or the result of a function must drop it first.
    """
    folder = files(__name__).joinpath("functions")
    found = sorted(folder.iterdir(), key=lambda file: file.name)
    return tuple(
        Statement(
            f"functions.{file.name.removesuffix('.sql')}",
            _expanded(file.read_text(encoding="utf-8"), fragments()),
            script=True,
        )
        for file in found
        if file.name.endswith(".sql")
    )
