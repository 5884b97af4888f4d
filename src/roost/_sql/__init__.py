"""All that the database is told: named statements from ``*.sql`` files, and the migrations.

A file holds statements, each under a ``-- name: <name>`` line. Placeholders are Postgres's own
``$1::type``, so that one text serves every driver unchanged.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

import attrs

_HEADING = re.compile(r"^-- name: (?P<name>[a-z_]+)\n", re.MULTILINE)
STAGES = ("enqueue", "claim", "settle", "control", "upkeep", "inspect", "schema")


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
