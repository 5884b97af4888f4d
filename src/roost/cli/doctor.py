"""``roost doctor``: examine the database, the workers and the queues, and say what to do."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Annotated

import typer

from roost import DatabaseError, Finding, FindingLevel
from roost._model.doctor.diagnose import CHECKS
from roost.cli.client import CommandClient
from roost.cli.options import Dsn
from roost.cli.output import AsJson, examples, print_json, terminal_width
from roost.exceptions import InvalidSettingError

CONNECTION = "connection"
"""The check that fails when the database can't be reached."""
TOO_MANY_CONNECTIONS = "53300"
ADVICE_ON_SLOTS = (
    "all connections are in use: end sessions that hold them (pg_stat_activity), raise the limit "
    "(max_connections, or connection limit of the database or role), or run fewer processes"
)
ORDER = (FindingLevel.TROUBLE, FindingLevel.NOTE, FindingLevel.OK)


EPILOG = examples(
    "roost doctor",
    "roost doctor --ignore oldest_ready --json",
)


def doctor(
    *,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            help="Leave out a check, such as oldest_ready. Repeat it for more.",
            show_default=False,
        ),
    ] = None,
    show_all: Annotated[bool, typer.Option("--all", help="Print also what is in order.")] = False,
    as_json: AsJson = False,
    dsn: Dsn = None,
) -> None:
    """Examine the database, the workers and the queues. Exit with 1 if there is trouble.

    Each finding says what was seen and what to do. The command reads little and changes nothing. A
    role that may only read is enough: what it can't see is said.
    """
    left_out = set(ignore or ())
    unknown = sorted(left_out - {*CHECKS, CONNECTION})
    if unknown:
        raise InvalidSettingError(
            f"no check is named {unknown[0]!r}; there are: {', '.join(sorted(CHECKS))}"
        )
    found = [finding for finding in _examine(dsn) if finding.check not in left_out]
    found.sort(key=lambda finding: ORDER.index(finding.level))
    if as_json:
        print_json(found)
    else:
        _print(found, show_all=show_all)
    if any(finding.level is FindingLevel.TROUBLE for finding in found):
        raise typer.Exit(1)


def _examine(dsn: str | None) -> list[Finding]:
    try:
        with CommandClient(dsn, "doctor") as client:
            return client.doctor()
    except DatabaseError as error:
        return [
            Finding(
                check=CONNECTION,
                level=FindingLevel.TROUBLE,
                seen=f"the database can't be reached: {str(error).strip()}",
                advice=ADVICE_ON_SLOTS
                if error.sqlstate == TOO_MANY_CONNECTIONS
                else "check the DSN (--dsn, ROOST_DSN, DATABASE_URL), the network and the "
                "server's log",
            )
        ]


def _print(found: Sequence[Finding], *, show_all: bool) -> None:
    shown = [each for each in found if show_all or each.level is not FindingLevel.OK]
    level_width = max(len(level.value) for level in FindingLevel)
    width = max((len(each.check) for each in shown), default=0)
    indent = " " * (level_width + width + 4)
    for each in shown:
        head = f"{each.level.value.ljust(level_width)}  {each.check.ljust(width)}  "
        typer.echo(_wrapped(head + each.seen, indent))
        if each.advice is not None:
            typer.echo(_wrapped(f"{indent}-> {each.advice}", f"{indent}   "))
    numbers = {level: sum(each.level is level for each in found) for level in ORDER}
    typer.echo(
        f"{numbers[FindingLevel.TROUBLE]} trouble, {numbers[FindingLevel.NOTE]} to note, "
        f"{numbers[FindingLevel.OK]} ok"
    )


def _wrapped(text: str, indent: str) -> str:
    """Break a text at the terminal's width; a text for a file or a program stays one line."""
    width = terminal_width()
    clean = "".join(c if c.isprintable() else " " for c in text)
    if width is None:
        return clean
    return textwrap.fill(
        clean,
        max(width, 40),
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
    )
