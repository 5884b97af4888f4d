"""The page of the JSON output lists every command that has it, and the fields that they print."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.docs.json_objects import OBJECTS, field_names
from tests.support.cron_table import declaration, declare
from tests.support.job_table import JobTable
from typer.core import TyperGroup
from typer.main import get_command

from roost import CronEntry
from roost._ops.tasks import publish_tasks
from roost.cli.app import app

if TYPE_CHECKING:
    from tests.cli.conftest import RunsCommand

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "json.md"
TEXT = PAGE.read_text(encoding="utf-8")


def commands_with_json(group: TyperGroup, path: str) -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands_with_json(command, f"{path} {name}")
        elif any("--json" in parameter.opts for parameter in command.params):
            yield f"{path} {name}"


def test_the_page_lists_every_command_that_prints_json() -> None:
    root = get_command(app)
    assert isinstance(root, TyperGroup)
    listed = re.findall(r"^\| `(roost [a-z ]+)` \|", TEXT, re.MULTILINE)
    assert sorted(listed) == sorted(commands_with_json(root, "roost"))


def on_page(heading: str) -> list[str]:
    [section] = re.findall(
        rf"^### {heading}\n(.*?)(?=^###? |^<!--)", TEXT, re.DOTALL | re.MULTILINE
    )
    return re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "heading"),
    [
        ("jobs list", "Job"),
        ("jobs show 1", "Job"),
        ("jobs why 1", "Explanation"),
        ("queue list", "Queue"),
        ("workers", "Worker"),
        ("limit list", "Limit"),
        ("tasks list", "Task"),
        ("cron list", "Cron entry"),
        ("doctor", "Finding"),
        ("status", "Overview"),
        ("top", "Reading of roost top"),
        ("migrate status", "Migration"),
    ],
)
def test_a_command_prints_the_fields_of_the_page(
    arguments: str, heading: str, dsn: str, table: JobTable, run_command: RunsCommand
) -> None:
    table.add("send")
    table.run(publish_tasks(table.add_worker(), {"send": {}}))
    run_command("limit", "set", "send", "--max-concurrency", 3, "--dsn", dsn)
    table.run(declare([declaration(CronEntry("nightly", "@daily", "send"))]))
    found: Any = run_command(*arguments.split(), "--json", "--dsn", dsn).json
    first = found[0] if isinstance(found, list) else found
    assert list(first) == on_page(heading)


def test_every_object_of_the_page_has_a_class_and_all_meanings() -> None:
    for heading, kind in OBJECTS.items():
        assert on_page(heading) == field_names(kind)
    assert re.findall(r"^\| `\w+` \| [^|]+ \|  \|$", TEXT, re.MULTILINE) == []
