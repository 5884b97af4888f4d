"""What a command prints: a table for people, or one JSON document for programs.

Text goes to stdout, errors to stderr as one line. Every command that prints uses these functions.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Annotated, Any, NoReturn, TypeAlias, TypeVar

import attrs
import typer
from rich.cells import cell_len, set_cell_size

from roost.exceptions import InvalidSettingError

T = TypeVar("T")

AsJson = Annotated[
    bool,
    typer.Option("--json/--no-json", help="Print one JSON document instead of text, for programs."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]

Columns: TypeAlias = Mapping[str, Callable[[T], object]]
"""The columns of a table: the heading, and what the cell of a row shows."""

MIN_WIDTH = 8
"""Characters that a shortened column keeps at least."""
GAP = "  "
"""Between two columns, so that a cell may hold single spaces."""


def show(rows: Sequence[T], columns: Columns[T], *, as_json: bool, empty: str) -> None:
    """Print rows as a table, or all of their fields as a JSON array.

    :param rows: dataclasses, attrs objects, pydantic models or mappings.
    :param columns: what the table shows. Cells are text, numbers, times, lists or ``None``.
    :param empty: the sentence to print if there is no row.
    """
    if as_json:
        print_json(rows)
    elif rows:
        cells = [[get(row) for get in columns.values()] for row in rows]
        typer.echo(table(list(columns), cells, width=terminal_width()))
    else:
        typer.echo(empty)


def show_fields(fields: Mapping[str, object], *, value: object, as_json: bool) -> None:
    """Print one thing: its fields, each on a line of its own, or ``value`` as a JSON object.

    A text of several lines is printed below its name, indented.
    """
    if as_json:
        print_json(value)
        return
    width = max(map(len, fields), default=0)
    for name, field in fields.items():
        if isinstance(field, str) and "\n" in field:
            lines = [_printable(line) for line in field.splitlines()]
            typer.echo("\n    ".join([name, *lines]))
        else:
            typer.echo(f"{name.ljust(width)}{GAP}{cell(field)}")


def show_done(message: str, *, as_json: bool, **facts: object) -> None:
    """Print what a command has done: a sentence, or its facts as a JSON object."""
    if as_json:
        print_json(facts)
    else:
        typer.echo(_printable(message))


def fail(message: str) -> NoReturn:
    """Print an error and exit with 1: the call was right, and could not be done."""
    print_error(message)
    raise typer.Exit(1)


def print_error(message: str) -> None:
    """Print an error to stderr. It says what is wrong and what to do."""
    typer.echo(f"roost: {message}", err=True)


def print_note(message: str) -> None:
    """Print a hint to stderr, if a person reads the output."""
    if sys.stdout.isatty():
        typer.echo(f"({message})", err=True)


def print_warning(message: str) -> None:
    """Print a warning to stderr."""
    print_error(f"warning: {message}")


def confirm(question: str, *, yes: bool) -> None:
    """Ask on the terminal; return if the answer is yes, or ``--yes`` was passed.

    Without a terminal, a line of the standard input is the answer.

    :raises typer.Abort: the answer is no.
    :raises InvalidSettingError: the standard input has no line.
    """
    if yes:
        return
    if sys.stdin.isatty():
        typer.confirm(question, abort=True, err=True)
        return
    answer = sys.stdin.readline()
    if not answer:
        raise InvalidSettingError(f"{question} No terminal can answer: pass --yes")
    if answer.strip().lower() not in ("y", "yes"):
        raise typer.Abort


def print_json(value: object) -> None:
    """Print one JSON document, as `as_plain` describes."""
    typer.echo(json.dumps(as_plain(value), indent=2))


def as_plain(value: Any) -> Any:
    """Return a value as JSON has it.

    Objects become objects with the names of their fields, times ISO 8601 in UTC with a ``Z``,
    durations seconds, and collections arrays.
    """
    match value:
        case Enum():
            plain = as_plain(value.value)
        case None | str() | int() | float():
            plain = value
        case datetime():
            plain = value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case timedelta():
            plain = value.total_seconds()
        case Mapping():
            plain = {str(as_plain(key)): as_plain(item) for key, item in value.items()}
        case Collection():
            ordered = sorted(value) if isinstance(value, (set, frozenset)) else value
            plain = [as_plain(item) for item in ordered]
        case _:
            plain = {name: as_plain(getattr(value, name)) for name in _field_names(value)}
    return plain


def _field_names(value: Any) -> list[str]:
    if hasattr(type(value), "model_fields"):  # a pydantic model
        return list(type(value).model_fields)
    if attrs.has(type(value)):
        return [field.name for field in attrs.fields(type(value))]
    return [field.name for field in dataclasses.fields(value)]


def table(headings: Sequence[str], rows: Sequence[Sequence[object]], *, width: int | None) -> str:
    """Return lines of aligned columns. Numbers are aligned to the right.

    :param width: characters of a line. Columns of text are shortened until the lines fit; numbers
        and times are not. ``None``: nothing is shortened.
    """
    texts = [[cell(value) for value in row] for row in rows]
    columns = list(zip(headings, *texts, strict=True))
    widths = [max(map(cell_len, column)) for column in columns]
    kinds = list(zip(*rows, strict=True)) or [() for _ in headings]
    numbers = [all(map(_is_number, kind)) and any(v is not None for v in kind) for kind in kinds]
    if width is not None:
        text = [any(isinstance(value, (str, list, tuple)) for value in kind) for kind in kinds]
        _shrink(widths, width - len(GAP) * (len(widths) - 1), may=text)
    lines = []
    for line in zip(*columns, strict=True):
        padded = [
            text.rjust(room) if number else _fit(text, room)
            for text, room, number in zip(line, widths, numbers, strict=True)
        ]
        lines.append(GAP.join(padded).rstrip())
    return "\n".join(lines)


def _shrink(widths: list[int], room: int, *, may: Sequence[bool]) -> None:
    """Shorten the widest of the columns that may be shortened, until all columns fit."""
    shrinking = [index for index, allowed in enumerate(may) if allowed]
    while shrinking and sum(widths) > room:
        widest = max(shrinking, key=widths.__getitem__)
        if widths[widest] <= MIN_WIDTH:
            return
        widths[widest] -= 1


def _fit(text: str, room: int) -> str:
    if cell_len(text) <= room:
        return set_cell_size(text, room)
    return set_cell_size(text, room - 1) + "…"


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def cell(value: object) -> str:
    """Return a value as text on one line, with no control characters. Nothing is a hyphen."""
    match value:
        case Enum():
            text = cell(value.value)
        case bool():
            text = "yes" if value else "no"
        case None:
            text = ""
        case datetime():
            text = f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
        case str():
            text = value
        case Mapping():
            text = json.dumps(as_plain(value), ensure_ascii=False)
        case Collection():
            text = ",".join(map(cell, value))
        case _:
            text = str(value)
    return _printable(text) or "-"


def _printable(text: str) -> str:
    """Escape what a terminal may take for a command, and what would break a line."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def terminal_width() -> int | None:
    """Return the characters of a line on the terminal; ``None``: stdout is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def examples(*commands: str) -> str:
    """Return the end of a command's help: examples of its use."""
    return "\n\n".join(["Examples:", *(f"- `{command}`" for command in commands)])
