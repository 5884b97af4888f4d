"""Postgres can prepare every statement, and every fragment is in use."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.support.job_table import JobTable

import roost._sql
from roost._sql import STAGES, Statement, fragments, functions, statements

FOLDER = Path(roost._sql.__file__).parent
FILES = sorted(file for file in FOLDER.glob("*.sql") if file.stem not in {"fragments", "roles"})
STATEMENTS = [statement for stage in STAGES for statement in statements(stage).values()]

SCRIPTS = {"schema.create_ledger", "schema.drop_ledger"}
"""Several commands in one text, sent without parameters: these can't be prepared."""

UTILITY = re.compile(r"\A\s*(savepoint|rollback|release|set transaction)\b")
"""Commands that Postgres runs but does not prepare."""


def body(statement: Statement) -> str:
    """Return the text without its leading comments."""
    return re.sub(r"\A(\s*--[^\n]*\n)+", "", statement.text)


def test_every_file_is_a_stage() -> None:
    assert {file.stem for file in FILES} == set(STAGES)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_statement_of_a_file_is_overlooked(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    names = re.findall(r"^--\s*name:\s*(.*)$", text, flags=re.MULTILINE)
    assert names == list(statements(file.stem))
    assert len(names) == len(set(names))
    # Text before the first name would be ignored.
    assert text.startswith("-- name: ")


def test_every_inclusion_is_replaced_by_its_fragment() -> None:
    for text in (*(each.text for each in (*STATEMENTS, *functions())), *fragments().values()):
        assert "{{" not in text


def test_each_fragment_stands_for_a_text_that_is_used_twice_or_more() -> None:
    files = [file.read_text(encoding="utf-8") for file in FOLDER.rglob("*.sql")]
    uses = {name: sum(text.count(f"{{{{{name}}}}}") for text in files) for name in fragments()}
    assert {name: count for name, count in uses.items() if count < 2} == {}


def test_names_are_unique() -> None:
    names = [statement.name for statement in STATEMENTS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "statement",
    [
        statement
        for statement in STATEMENTS
        if statement.name not in SCRIPTS and not UTILITY.match(body(statement))
    ],
    ids=lambda statement: statement.name,
)
def test_every_statement_can_be_prepared(table: JobTable, statement: Statement) -> None:
    result = table.connection.raw.pgconn.prepare(b"each", statement.text.encode())
    assert not result.error_message, result.error_message
    described = table.connection.raw.pgconn.describe_prepared(b"each")
    numbers = {int(number) for number in re.findall(r"\$(\d+)", body(statement))}
    assert numbers == set(range(1, described.nparams + 1))


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda statement: statement.name)
def test_every_name_is_qualified(statement: Statement) -> None:
    """Whatever the search_path of the caller's connection is."""
    code = re.sub(r"--[^\n]*", "", statement.text)
    # Everything else that a FROM or JOIN names is a CTE, a function or an alias of its own.
    tables = r"jobs|jobs_archive|workers|limits|starts|queues|dependencies|migrations"
    bare = re.findall(rf"\b(?:from|join|update|into|table)\s+(?:{tables})\b", code)
    assert bare == []
    literal = r"'(?:[^']|'')*'"
    assert not re.search(r"\bset\s+(local|session)\b", re.sub(literal, "''", code))
