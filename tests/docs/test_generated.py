"""The generated parts of the reference pages agree with the code.

Run as a program, this writes the generated parts anew: ``python -m tests.docs.test_generated``.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import attrs
import pytest
from tests.docs.json_objects import json_objects
from tests.support.job_table import JobTable

import roost
from roost import RoostError, Worker, WorkerSettings
from roost._model.states import MOVES, TERMINAL
from roost._sql import migrations
from roost._sql.roles import roles_script
from roost.cli.settings_model import settings_model
from roost.contrib.metrics import METRICS

PAGES = Path(__file__).parents[2] / "docs"
PART = re.compile(
    r"(?P<begin><!-- generated: (?P<name>\w+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL
)
COLUMN = re.compile(r"^\| `(?P<name>\w+)` \| (?P<type>[\w\[\] ]+?) \|", re.MULTILINE)


def settings() -> str:
    """Return the table of the worker's settings."""
    parameters = re.findall(
        r":param (\w+): (.*?)(?=\n *:(?:param|raises)|\Z)", Worker.__doc__ or "", re.DOTALL
    )
    meanings = {name: " ".join(text.split()).replace("``", "`") for name, text in parameters}
    rows = [
        f"| `{field.name}` | `{kind(field.name)}` | `{field.default!r}` | {meanings[field.name]} |"
        for field in attrs.fields(WorkerSettings)
    ]
    return as_table("setting | type | default | meaning", rows)


def kind(name: str) -> str:
    """Return a setting's type, its bars escaped for a table."""
    annotation: str = inspect.signature(Worker).parameters[name].annotation
    return annotation.replace("|", "\\|")


def errors() -> str:
    """Return the table of the public exceptions."""
    rows = []
    for name in roost.__all__:
        value = getattr(roost, name)
        if inspect.isclass(value) and issubclass(value, RoostError):
            bases = ", ".join(f"`{base.__name__}`" for base in value.__bases__)
            rows.append(f"| `{name}` | `{value.code}` | {bases} | {summary(value)} |")
    return as_table("error | code | bases | raised when", rows)


def diagram() -> str:
    """Return the diagram of the states. Moves between the same two states share an arrow."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for move in MOVES:
        source = move.source.value if move.source else "[*]"
        arrows.setdefault((source, move.target.value), []).append(move.event)
    lines = [
        f"    {source} --> {target} : {', '.join(dict.fromkeys(events)).replace(':', '')}"
        for (source, target), events in arrows.items()
    ]
    lines += [f"    {state} --> [*]" for state in sorted(state.value for state in TERMINAL)]
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```"]) + "\n"


def moves() -> str:
    """Return the table of the moves."""
    rows = [
        f"| {move.source.value if move.source else ''} | {move.event} | {move.target.value} |"
        f" {format(move.attempt, '+d') if move.attempt else ''} |"
        for move in MOVES
    ]
    return as_table("from | event | to | attempt", rows)


def as_table(heading: str, rows: list[str]) -> str:
    columns = heading.count("|") + 1
    return "\n".join([f"| {heading} |", "|---" * columns + "|", *rows]) + "\n"


def summary(value: type) -> str:
    """Return the first paragraph of a docstring, in Markdown."""
    paragraph = inspect.cleandoc(value.__doc__ or "").split("\n\n")[0]
    return re.sub(r"`{1,2}", "`", " ".join(paragraph.split()))


def schema_versions() -> str:
    """Return the table of the migrations."""
    rows = []
    for step in migrations():
        older = step.oldest_code < step.version
        compatible = f"yes, from version {step.oldest_code} on" if older else "no"
        rows.append(f"| {step.version} | `{step.version:04}_{step.name}` | {compatible} |")
    return as_table("schema version | migration | older code may run beside it", rows)


def command_settings() -> str:
    """Return the table of the command line's settings."""
    options = {"modules": "-m", "queues": "-q"}
    rows = [
        f"| `{name}` | `ROOST_{name.upper()}` "
        f"| `{options.get(name, '--' + name.replace('_', '-'))}` |"
        for name in settings_model().model_fields
    ]
    return as_table("key | variable | option", rows)


def roles() -> str:
    """Return the grants of the documented roles."""
    return f"```sql\n{roles_script()}```\n"


def metrics() -> str:
    """Return the table of the metrics."""
    rows = []
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        rows.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.meaning} |")
    return as_table("metric | kind | labels | meaning", rows)


GENERATED = {
    "json_objects": json_objects,
    "metrics": metrics,
    "settings": settings,
    "command_settings": command_settings,
    "errors": errors,
    "diagram": diagram,
    "moves": moves,
    "migrations": schema_versions,
    "roles": roles,
}


def renewed(text: str) -> str:
    """Return a page's text with its parts generated again."""
    return PART.sub(lambda part: part["begin"] + GENERATED[part["name"]]() + part["end"], text)


@pytest.mark.parametrize(
    "page",
    [
        "reference/settings.md",
        "reference/command-settings.md",
        "reference/json.md",
        "reference/errors.md",
        "reference/metrics.md",
        "reference/states.md",
        "how-to/deploy-and-upgrade.md",
    ],
)
def test_the_generated_parts_are_what_the_code_says(page: str) -> None:
    text = (PAGES / page).read_text(encoding="utf-8")
    assert PART.search(text)
    assert text == renewed(text), "run: python -m tests.docs.test_generated"


def test_every_public_name_has_an_entry_and_every_entry_a_name() -> None:
    text = (PAGES / "reference/api.md").read_text(encoding="utf-8")
    entries = re.findall(r"^::: roost\.(\w+)$", text, re.MULTILINE)
    assert set(roost.__all__) - set(entries) == set(), "add `::: roost.<name>` to the page"
    assert sorted(entries) == sorted(roost.__all__)


def test_the_tables_have_the_columns_of_the_page(table: JobTable) -> None:
    text = (PAGES / "reference/sql.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## roost\.(\w+)\n(.*?)(?=^## )", text, re.DOTALL | re.MULTILINE))
    shown = {name: dict(COLUMN.findall(section)) for name, section in sections.items()}
    shown["jobs_archive"] |= shown["jobs"]
    on_page = {f"{name}.{column} {kind}" for name in shown for column, kind in shown[name].items()}
    there = set()
    for relation, column, type_name in table.rows(
        """
        select
            c.relname::text, a.attname::text,
            -- A column of a domain is listed with its base type: readers get values of that type.
            format_type(coalesce(nullif(t.typbasetype, 0), t.oid), a.atttypmod)
        from pg_attribute as a
        join pg_type as t on t.oid = a.atttypid
        join pg_class as c on c.oid = a.attrelid and c.relkind = 'r'
        where c.relnamespace = 'roost'::regnamespace and a.attnum > 0 and not a.attisdropped
        """
    ):
        short = type_name.replace("timestamp with time zone", "timestamptz")
        there.add(f"{relation}.{column} {short}")
    assert sorted(on_page ^ there) == []


if __name__ == "__main__":
    for file in PAGES.rglob("*.md"):
        file.write_text(renewed(file.read_text(encoding="utf-8")), encoding="utf-8")
