"""The objects that commands print as JSON, for docs/reference/json.md."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Sequence
from datetime import datetime
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import attrs

from roost import (
    CronEntry,
    CronInfo,
    Explanation,
    Finding,
    Job,
    LimitInfo,
    Overview,
    Percentiles,
    QueueInfo,
    TaskInfo,
    Throughput,
    Windows,
    WorkerInfo,
)
from roost._ops.schema import Step
from roost.cli.top.snapshot import Snapshot

COLUMNS = Path(__file__).parents[2] / "docs" / "reference" / "sql.md"
COLUMN = re.compile(r"^\| `(\w+)` \| [^|]+ \| (.*) \|$", re.MULTILINE)

OBJECTS: dict[str, type] = {
    "Job": Job,
    "Explanation": Explanation,
    "Queue": QueueInfo,
    "Limit": LimitInfo,
    "Worker": WorkerInfo,
    "Task": TaskInfo,
    "Cron entry": CronInfo,
    "Finding": Finding,
    "Overview": Overview,
    "Windows": Windows,
    "Throughput": Throughput,
    "Percentiles": Percentiles,
    "Reading of roost top": Snapshot,
    "Migration": Step,
}
"""The headings of the page, and the class of each object."""

STEP = {
    "version": "its number",
    "name": "its name",
    "applied": "whether the database has it",
    "known": "whether this version of Roost brings it; if not, a newer one applied it",
}
PERCENTILES = {
    "p50": "the median, in seconds; `null`: no attempt has ended",
    "p95": "95 % of the times are not longer",
    "p99": "99 % of the times are not longer",
}


def json_objects() -> str:
    """Return a section with a table of the fields for each object."""
    return "\n".join(f"### {heading}\n\n{_table(kind)}" for heading, kind in OBJECTS.items())


def field_names(kind: type) -> list[str]:
    """Return the fields of an object, in the order in which they are printed."""
    if hasattr(kind, "model_fields"):
        return list(kind.model_fields)
    if attrs.has(kind):
        return [field.name for field in attrs.fields(kind)]
    return [field.name for field in dataclasses.fields(kind)]


def _table(kind: type) -> str:
    hints = get_type_hints(kind)
    meanings = _meanings(kind)
    rows = [f"| `{name}` | {_kind(hints[name])} | {meanings[name]} |" for name in field_names(kind)]
    return "\n".join(["| field | value | meaning |", "|---|---|---|", *rows]) + "\n"


def _meanings(kind: type) -> dict[str, str]:
    if kind is Job:
        of_columns = COLUMN.findall(COLUMNS.read_text(encoding="utf-8").split("\n## ")[1])
        found = {name: text.replace("(#", "(sql.md#") for name, text in of_columns}
        return {name: text.replace("null: none", "empty: none") for name, text in found.items()} | {
            "tags": "words to find it by"
        }
    if kind in _HERE:
        return _HERE[kind]
    found = _params(CronEntry) if kind is CronInfo else {}
    found |= _params(kind)
    return {name: found.get(name, "") for name in field_names(kind)}


_HERE: dict[type, dict[str, str]] = {Step: STEP, Percentiles: PERCENTILES}
"""The meanings of objects whose class has no ``:param``."""


def _params(kind: type) -> dict[str, str]:
    """Return the text of each ``:param`` of a docstring, in Markdown."""
    doc = inspect.cleandoc(kind.__doc__ or "")
    said = re.findall(r":param (\w+): (.*?)(?=\n:|\n\n|\Z)", doc, re.DOTALL)
    texts = {name: re.sub(r"`{1,2}", "`", " ".join(text.split())) for name, text in said}
    return {name: text.rstrip(".").replace("`None`", "`null`") for name, text in texts.items()}


def _kind(hint: Any) -> str:
    """Return what JSON has for a type."""
    if get_origin(hint) in (Union, UnionType):
        parts = [_kind(part) for part in get_args(hint) if part is not NoneType]
        null = [" or null"] if NoneType in get_args(hint) else []
        return "".join([" or ".join(dict.fromkeys(parts)), *null])
    origin = get_origin(hint) or hint
    for kinds, name in _KINDS:
        if isinstance(origin, type) and issubclass(origin, kinds):
            return name
    if dataclasses.is_dataclass(origin):
        return "object"
    return "text" if "Literal" in str(hint) else "any value"


_KINDS: list[tuple[Any, str]] = [
    (bool, "true or false"),
    ((int, float), "number"),
    ((str, Enum), "text"),
    (datetime, "time"),
    (dict, "object"),
    (Sequence, "array"),
]
